"""Exported networks on disk: one file, independent of the machine, that refers to no other file."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import scipy.special
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from cnnkit.choices import Pool
from cnnkit.errors import FormatError
from cnnkit.formats import onnx_model
from cnnkit.formats.header import ArtefactKind, Backbone, Header, Preprocess
from cnnkit.formats.onnx_model import OnnxModel

HEADER = Header(
    ArtefactKind.ONNX, ("cat", "dog"), Preprocess(), Backbone("mobilenet_v2", "features.18", Pool.AVG, "c0ffee")
)


def floats(name, shape=(1,)):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def network(*nodes, initializers=(), functions=()):
    nodes = nodes or (helper.make_node("Add", ["x", "w"], ["y"], name="adds"),)
    initializers = initializers or (numpy_helper.from_array(np.ones(1, np.float32), "w"),)
    graph = helper.make_graph(list(nodes), "graph", [floats("x")], [floats("y")], list(initializers))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10)


def outside(name="w"):
    """Return a tensor that refers to another file for its values."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def constant(tensor, name="w"):
    return helper.make_node("Constant", [], [name], value=tensor)


def branch(node=None, initializers=()):
    """Return a subgraph of one node, or of none with an initializer as its output."""
    return helper.make_graph([node] if node else [], "branch", [], [floats("w")], list(initializers))


def choosing(then, other=None):
    """Return a network with a node that selects one of two subgraphs."""
    inside = numpy_helper.from_array(np.ones(1, np.float32), "w")
    choice = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other or branch(constant(inside)))
    return network(choice, initializers=[numpy_helper.from_array(np.array(True), "c")])


def in_function(node):
    return helper.make_function("local", "f", [], ["w"], [node], [helper.make_opsetid("", 20)])


def sparse():
    inside = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model = network()
    model.graph.sparse_initializer.add(values=outside(), indices=inside, dims=[4])
    return model


def in_training():
    model = network()
    model.training_info.add(initialization=branch(constant(outside())))
    return model


# ---------------------------------------------------------------- round trip


def test_round_trip(tmp_path):
    """The Header is one metadata entry, and is preserved, as is the graph."""
    content = onnx_model.finished(network(), HEADER)
    onnx_model.save(tmp_path / "model.onnx", content)
    loaded = onnx_model.load(tmp_path / "model.onnx")
    assert loaded.header == HEADER
    assert loaded.content == content == (tmp_path / "model.onnx").read_bytes()
    assert [entry.key for entry in onnx.load(tmp_path / "model.onnx").metadata_props] == ["cnnkit"]
    assert os.listdir(tmp_path) == ["model.onnx"]
    onnx.checker.check_model(content)


def test_foreign_network_has_no_header(tmp_path):
    """A network that cnnkit did not make can be loaded."""
    (tmp_path / "model.onnx").write_bytes(network().SerializeToString())
    assert onnx_model.load(tmp_path / "model.onnx").header is None


def test_machine_specific_metadata_is_removed():
    """Stack traces and remarks in nodes, values, weights, functions and subgraphs; names stay."""
    secret = "/home/somebody/secret/train.py"
    inner = constant(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    model = choosing(branch(inner))
    model.functions.append(in_function(inner))
    marked = [
        model,
        model.graph,
        model.graph.node[0],
        model.graph.input[0],
        model.graph.initializer[0],
        model.graph.node[0].attribute[0].g,
        model.graph.node[0].attribute[0].g.node[0],
        model.functions[0],
        model.functions[0].node[0],
    ]
    for part in marked:
        part.doc_string = secret
        part.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=secret)
    content = onnx_model.finished(model, HEADER)
    assert secret.encode() not in content
    assert b"then_branch" in content
    assert content == onnx_model.finished(onnx.load_model_from_string(content), HEADER)


def test_same_network_gives_same_bytes():
    """Remarks that differ between runs do not matter."""
    one, two = network(), network()
    two.graph.node[0].doc_string = "another remark"
    two.metadata_props.add(key="made", value="yesterday")
    assert onnx_model.finished(one, HEADER) == onnx_model.finished(two, HEADER)


# ---------------------------------------------------------------- temperature


def classifier(kind=np.float32, *, two=True, softmax_of="logits"):
    """Return a network that outputs its input as logits, and their softmax; a single logit z is extended to (0, z)."""
    of = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    shape = ["batch", 2]
    nodes = [helper.make_node("Neg", ["x"], ["negative"]), helper.make_node("Neg", ["negative"], ["logits"])]
    if not two:
        nodes = [
            helper.make_node("Sub", ["x", "x"], ["nought"]),
            helper.make_node("Concat", ["nought", "x"], ["logits"], axis=1),
        ]
    nodes.append(helper.make_node("Softmax", [softmax_of], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", of, ["batch", 2 if two else 1])],
        [helper.make_tensor_value_info(name, of, shape) for name in ("probabilities", "logits")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return OnnxModel(onnx_model.finished(model, HEADER), HEADER)


def outputs(content, x):
    """Run a network and return probabilities and logits, in float64."""
    return [
        array.astype(np.float64)
        for array in ReferenceEvaluator(onnx.load_model_from_string(content)).run(None, {"x": x})
    ]


@pytest.mark.parametrize(("kind", "accuracy"), [(np.float32, 1e-6), (np.float16, 2e-3), (np.float64, 1e-12)])
@pytest.mark.parametrize("two", [True, False], ids=["softmax", "sigmoid"])
def test_logits_are_divided_in_the_graph(tmp_path, kind, accuracy, two):
    """Both outputs are those of logits / T, in the network's precision; the file is valid and records T."""
    x = np.random.default_rng(0).normal(scale=3, size=(50, 2 if two else 1)).astype(kind)
    model = classifier(kind, two=two)
    _, logits = outputs(model.content, x)
    content = onnx_model.tempered(model, 2.5, name="model.onnx")
    onnx.checker.check_model(content, full_check=True)
    probabilities, divided = outputs(content, x)
    assert np.allclose(divided, logits / 2.5, rtol=accuracy, atol=accuracy)
    assert np.allclose(probabilities, scipy.special.softmax(logits / 2.5, axis=1), rtol=0, atol=accuracy)
    onnx_model.save(tmp_path / "model.onnx", content)
    header = onnx_model.load(tmp_path / "model.onnx").header
    assert header == HEADER.but(training={"temperature": 2.5})


def test_second_temperature_multiplies_the_first(tmp_path):
    """In the same node; the constant and the Header have the product."""
    once = onnx_model.tempered(classifier(), 2.5, name="model.onnx")
    onnx_model.save(tmp_path / "model.onnx", once)
    twice = onnx_model.tempered(onnx_model.load(tmp_path / "model.onnx"), 0.5, name="model.onnx")
    whole = onnx_model.tempered(classifier(), 1.25, name="model.onnx")
    assert [len(onnx.load_model_from_string(content).graph.node) for content in (once, twice)] == [4, 4]
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    assert np.allclose(outputs(twice, x), outputs(whole, x), atol=1e-6)
    onnx_model.save(tmp_path / "model.onnx", twice)
    assert onnx_model.load(tmp_path / "model.onnx").header.temperature == 1.25


def test_temperature_is_deterministic():
    """And does not change its argument."""
    model = classifier()
    before = model.content
    assert onnx_model.tempered(model, 2.5, name="m") == onnx_model.tempered(model, 2.5, name="m")
    assert model.content == before


def test_rejects_a_temperature_without_logits():
    """Also for foreign networks and for probabilities that are not a softmax of the logits, with the remedy."""
    with pytest.raises(FormatError, match=r"model\.onnx: not made by cnnkit; .* cnn-export"):
        onnx_model.tempered(OnnxModel(classifier().content, None), 2.0, name="model.onnx")
    for odd in (classifier(softmax_of="negative"), OnnxModel(onnx_model.finished(network(), HEADER), HEADER)):
        with pytest.raises(FormatError, match=r"model\.onnx: its probabilities are not the softmax .* with cnn-export"):
            onnx_model.tempered(odd, 2.0, name="model.onnx")


# ---------------------------------------------------------------- refused files


@pytest.mark.parametrize(
    "model",
    [
        network(initializers=[outside()]),
        network(constant(outside()), helper.make_node("Add", ["x", "w"], ["y"])),
        choosing(branch(constant(outside()))),
        choosing(branch(initializers=[outside()])),
        choosing(branch(constant(numpy_helper.from_array(np.ones(1, np.float32), "w"))), branch(constant(outside()))),
        network(functions=[in_function(constant(outside()))]),
        network(functions=[in_function(helper.make_node("If", ["w"], ["v"], then_branch=branch(constant(outside()))))]),
        sparse(),
        in_training(),
    ],
    ids=[
        "weight",
        "constant",
        "branch",
        "branch without nodes",
        "else",
        "function",
        "branch in function",
        "sparse",
        "training",
    ],
)
def test_rejects_external_weights(tmp_path, model):
    """Wherever a model refers to another file, which could be any file of the machine."""
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match=r"model\.onnx: its weights are in other files, .*; save it as one file"):
        onnx_model.load(tmp_path / "model.onnx")


def test_rejects_external_data_written_by_onnx(tmp_path):
    """Which ONNX Runtime would read."""
    model = network(initializers=[numpy_helper.from_array(np.ones(1, np.float32), "w")])
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, size_threshold=0, location="weights.bin")
    assert (tmp_path / "weights.bin").exists()
    with pytest.raises(FormatError, match="its weights are in other files"):
        onnx_model.load(tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [b"", b"hello\n", b"PK\x03\x04", b"\x08\x0a", b"\xff" * 50, b"\x89PNG\r\n\x1a\n"])
def test_rejects_other_files(tmp_path, content):
    """The message says that the file is not an ONNX network."""
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(FormatError, match=r"model\.onnx: not an ONNX network, or"):
        onnx_model.load(tmp_path / "model.onnx")


def test_rejects_truncated_files(tmp_path):
    """At every length, unless only metadata after the graph is missing."""
    content = network().SerializeToString()
    whole, refused = onnx.load_model_from_string(content), 0
    for length in range(len(content)):
        (tmp_path / "model.onnx").write_bytes(content[:length])
        try:
            loaded = onnx_model.load(tmp_path / "model.onnx")
        except FormatError:
            refused += 1
        else:
            assert onnx.load_model_from_string(loaded.content).graph == whole.graph
    assert refused > len(content) / 2


def test_rejects_headers_of_another_kind(tmp_path):
    """And broken ones, with what was expected."""
    (tmp_path / "model.onnx").write_bytes(onnx_model.finished(network(), HEADER.but(kind=ArtefactKind.MODEL)))
    with pytest.raises(FormatError, match=r"model\.onnx: found model, expected onnx; make one with cnn-export"):
        onnx_model.load(tmp_path / "model.onnx")
    broken = network()
    broken.metadata_props.add(key="cnnkit", value="{")
    (tmp_path / "model.onnx").write_bytes(broken.SerializeToString())
    with pytest.raises(FormatError, match="no cnnkit header in it; make one with cnn-export"):
        onnx_model.load(tmp_path / "model.onnx")


def test_missing_file(tmp_path):
    """A missing file is the operating system's error, which names it."""
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        onnx_model.load(tmp_path / "none.onnx")


def test_torch_is_not_imported():
    """Reading networks needs no torch."""
    program = "import sys, cnnkit.formats.onnx_model; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
