"""Damaged networks without a cnnkit header: each gives a prediction or a clear error, and takes little memory."""

import random
import resource

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from cnnkit.engine.onnx_classifier import OnnxNetwork
from cnnkit.engine.session import Session
from cnnkit.errors import CnnkitError
from cnnkit.formats import onnx_model
from cnnkit.infer import external_model
from cnnkit.infer.config import ModelSpec

SIZES = [0, -1, 1, 2, 7, 1000, 10**5, 2**31 - 1, 2**31, 2**32, 2**62, -(2**62), 10**9]
SCALES = [0, -1, 1e6, 1e9, 1e20, float("nan"), float("inf"), 1e-9]
NAMES = ["", "nowhere", "x", "logits", "w1"]


def network():
    """A small convolutional network with operators whose output sizes depend on numbers in the file."""
    generator = np.random.default_rng(0)

    def weights(name, *shape):
        return numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)

    def numbers(name, values, kind=np.int64):
        return numpy_helper.from_array(np.array(values, kind), name)

    node = helper.make_node
    nodes = [
        node("Pad", ["x", "pads"], ["p"]),
        node(
            "Conv",
            ["p", "w1", "b"],
            ["c"],
            kernel_shape=[3, 3],
            strides=[1, 1],
            pads=[1] * 4,
            dilations=[1, 1],
            group=1,
        ),
        node("BatchNormalization", ["c", "b", "b", "b", "v"], ["n"], epsilon=1e-5),
        node("MaxPool", ["n"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Resize", ["m", "roi", "scales"], ["r"], mode="nearest"),
        node("AveragePool", ["r"], ["a"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", ["a"], ["t"], perm=[0, 1, 3, 2]),
        node("GlobalAveragePool", ["t"], ["g"]),
        node("Reshape", ["g", "shape"], ["f"]),
        node("Gemm", ["f", "w2"], ["logits"], alpha=1.0, transB=0),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("probabilities", "logits")],
        [
            *(weights("w1", 4, 3, 3, 3), weights("b", 4), weights("w2", 4, 2), numbers("v", [1] * 4, np.float32)),
            *(numbers("pads", [0, 0, 1, 1, 0, 0, 1, 1]), numbers("shape", [0, -1])),
            *(numbers("roi", [], np.float32), numbers("scales", [1, 1, 2, 2], np.float32)),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def change_attribute(model, generator):
    node = generator.choice([node for node in model.graph.node if node.attribute])
    attribute = generator.choice(node.attribute)
    if attribute.type == AttributeProto.INT:
        attribute.i = generator.choice(SIZES)
    elif attribute.type == AttributeProto.INTS:
        attribute.ints[generator.randrange(len(attribute.ints))] = generator.choice(SIZES)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = generator.choice(SCALES)
    else:
        attribute.s = generator.choice([b"", b"linear", b"cubic", b"\xff\x00"])


def change_constant(model, generator):
    wanted = generator.choice(["pads", "shape", "scales"])
    tensor = next(each for each in model.graph.initializer if each.name == wanted)
    values = numpy_helper.to_array(tensor).copy()
    with np.errstate(all="ignore"):
        values[generator.randrange(len(values))] = generator.choice(SCALES if values.dtype.kind == "f" else SIZES)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def change_dimension(model, generator):
    tensor = generator.choice(model.graph.initializer)
    tensor.dims[generator.randrange(len(tensor.dims))] = generator.choice(SIZES)


def change_kind(model, generator):
    generator.choice(model.graph.initializer).data_type = generator.randrange(30)


def change_operator(model, generator):
    schemas = sorted({schema.name for schema in onnx.defs.get_all_schemas()})
    generator.choice(model.graph.node).op_type = generator.choice([*schemas, "Evil"])


def change_edge(model, generator):
    node = generator.choice(model.graph.node)
    node.input[generator.randrange(len(node.input))] = generator.choice([*NAMES, node.output[0]])


def change_input_or_output(model, generator):
    value = generator.choice([*model.graph.input, *model.graph.output])
    if generator.random() < 0.7:
        generator.choice(value.type.tensor_type.shape.dim).dim_value = generator.choice(SIZES)
    else:
        value.type.tensor_type.elem_type = generator.randrange(25)


def change_version(model, generator):
    if generator.random() < 0.5:
        model.opset_import[0].version = generator.choice([*SIZES, 5, 7, 9, 11, 13, 99])
    else:
        model.ir_version = generator.choice(SIZES)


CHANGES = [
    *(change_attribute, change_constant, change_dimension, change_kind),
    *(change_operator, change_edge, change_input_or_output, change_version),
]


def test_undamaged_network_predicts(tmp_path):
    """The network itself does not cause the errors below."""
    assert probabilities_of(network().SerializeToString(), tmp_path).shape == (2, 2)


def probabilities_of(content, folder):
    """Predict two images with a network, as cnn-predict does."""
    path, labels = folder / "net.onnx", folder / "labels.txt"
    labels.write_text("cat\ndog\n", encoding="utf-8")
    path.write_bytes(content)
    model = onnx_model.load(path)
    session = Session(model.content, device="cpu", name="net.onnx", needs=model.needs, threads=1)
    graph = onnx_model.parse(model.content, name="net.onnx").graph
    spec = ModelSpec(size="8", mean="0.5", std="0.5", labels=labels)
    return external_model.from_spec(OnnxNetwork("net.onnx", session), spec, graph)(np.zeros((2, 8, 8, 3), np.uint8))[0]


def mutated(seed):
    """Return the bytes of the network with one change or two, every third one also with flipped bits."""
    generator, model = random.Random(seed), network()
    for _ in range(generator.choice([1, 1, 2])):
        generator.choice(CHANGES)(model, generator)
    content = bytearray(model.SerializeToString())
    for _ in range(generator.choice([0, 0, 3])):
        content[generator.randrange(len(content))] = generator.randrange(256)
    return bytes(content)


@pytest.mark.parametrize(
    "seeds", [range(50), pytest.param(range(50, 600), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_damage_ends_in_a_clear_error(tmp_path, seeds):
    """Read, opened, tried and run: errors are cnnkit's own, on one line, and memory does not grow."""
    before, errors = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for seed in seeds:
        try:
            assert probabilities_of(mutated(seed), tmp_path).shape == (2, 2)
        except CnnkitError as error:
            errors.append(str(error))
    assert len(seeds) // 2 < len(errors) < len(seeds)
    assert [text for text in errors if not text.isprintable()] == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000  # KiB
