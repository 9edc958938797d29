"""Hostile graphs are refused before memory is allocated, and graphs that may not end run under limits."""

import re
import resource
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnkit.engine import bounds
from cnnkit.engine.session import Session
from cnnkit.errors import CnnkitError, FormatError, MemoryFullError
from cnnkit.formats import onnx_check, onnx_model
from cnnkit.formats.header import ArtefactKind, Backbone, Header, Pool, Preprocess
from cnnkit.formats.onnx_record import NOTHING, Needs

HEADER = Header(
    ArtefactKind.ONNX,
    ("cat", "dog", "owl"),
    Preprocess(size=8, resize=8),
    Backbone("layers", "gap", Pool.AVG, "c0ffee", "gap"),
    "dense 3 softmax",
)


def node(operator, taken, given, **attributes):
    return helper.make_node(operator, taken.split(), given.split(), **attributes)


def number(name, values, kind=np.int64):
    return numpy_helper.from_array(np.array(values, dtype=kind), name)


def network(
    *nodes, initializers=(), functions=(), shape=("N", 8, 8, 3), opset=18, taken=True, given=("probabilities", "logits")
):
    """Return a network of uint8 images that outputs the mean of each channel, plus the value "more" if a node computes it."""
    added = any("more" in each.output for each in nodes)
    usual = [
        node("Cast", "images", "numbers", to=TensorProto.FLOAT),
        node("ReduceMean", "numbers axes", "means", keepdims=0),
        node("Add" if added else "Identity", "means more" if added else "means", "logits"),
        node("Softmax", "logits", "probabilities"),
    ]
    graph = helper.make_graph(
        [usual[0], *nodes, *usual[1:]],
        "net",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)] if taken else [],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in given],
        [number("axes", [1, 2]), *initializers],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10)
    model.metadata_props.add(key="cnnkit", value=HEADER.to_json())
    return model


def function(name, *nodes):
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["x"], ["y"], list(nodes), opsets)


def calls(name, times):
    """Return the nodes of a function that calls another one several times."""
    values = ["x", *(f"v{index}" for index in range(times - 1)), "y"]
    return [node(name, values[index], values[index + 1], domain="local") for index in range(times)]


def laughs():
    """Return ten functions, each calling the next one ten times: ten thousand million nodes after expansion."""
    return [function(f"f{level}", *calls(f"f{level + 1}", 10)) for level in range(10)] + [
        function("f10", node("Neg", "x", "y"))
    ]


def large(operator, taken, initializers, **attributes):
    return network(
        node(operator, taken, "big", **attributes),
        node("ReduceSum", "big", "more", keepdims=0),
        initializers=initializers,
    )


def declaring(dims, **content):
    model = network(node("ReduceSum", "w", "more", keepdims=0))
    model.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, **content))
    return model


def sparse():
    model = network(node("ReduceSum", "s", "more", keepdims=0))
    model.graph.sparse_initializer.add(
        values=number("s", [1], np.float32), indices=number("i", [0]), dims=[10**6, 10**6]
    )
    return model


def with_metadata():
    model = network()
    model.metadata_props.add(key="more", value="x" * 2**25)
    return model


def nested(depth):
    """Return nested subgraphs."""
    inner = helper.make_graph(
        [node("Constant", "", "c", value=number("", 1.0, np.float32))],
        "g",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [])],
    )
    for _ in range(depth):
        choice = helper.make_node("If", ["yes"], ["c"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([choice], "g", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [])])
    return inner


LARGE = {
    "constant": lambda: large("ConstantOfShape", "s", [number("s", [10**6, 10**6])]),
    "overflow": lambda: large("ConstantOfShape", "s", [number("s", [2**62, 2**62])]),
    "expand": lambda: large("Expand", "one s", [number("one", [1.0], np.float32), number("s", [10**5, 10**5])]),
    "tile": lambda: large("Tile", "one s", [number("one", [[1.0]], np.float32), number("s", [10**5, 10**5])]),
    "range": lambda: large(
        "Range", "a b c", [number("a", 0.0, np.float32), number("b", 1e12, np.float32), number("c", 1.0, np.float32)]
    ),
    "pad": lambda: large("Pad", "numbers p", [number("p", [0, 0, 0, 0, 0, 10**6, 10**6, 0])]),
    "resize": lambda: large(
        "Resize", "numbers r f", [number("r", [], np.float32), number("f", [1, 1e6, 1e6, 1], np.float32)]
    ),
    "copies of the batch": lambda: large("Tile", "numbers t", [number("t", [10**6, 1, 1, 1])]),
    "padding of the batch": lambda: large("Pad", "numbers p", [number("p", [10**6, 0, 0, 0, 0, 0, 0, 0])]),
    "input": lambda: network(shape=("N", 100000, 100000, 3)),
    "batch": lambda: network(shape=(2**31 - 1, 8, 8, 3)),
    "wide layer": lambda: network(
        node("Conv", "numbers w", "wide", pads=[10**5] * 4),
        initializers=[number("w", np.ones((2, 8, 1, 1)), np.float32)],
    ),
    "output": lambda: network(node("RandomNormal", "", "more", shape=[10**6, 10**6])),
}

BROKEN = {
    "no output": (lambda: network(given=()), "a network without an output"),
    "no input": (
        lambda: network(node("ConstantOfShape", "s", "images"), initializers=[number("s", [1])], taken=False),
        "without an input",
    ),
    "missing output": (
        lambda: network(given=("probabilities", "nowhere")),
        'no node computes its output "nowhere"',
    ),
    "computed twice": (lambda: network(node("Neg", "numbers", "means")), 'its value "means" is computed twice'),
    "cycle": (
        lambda: network(node("Neg", "b", "a"), node("Neg", "a", "b")),
        "some of its nodes form a cycle",
    ),
    "itself": (lambda: network(node("Neg", "a", "a")), "some of its nodes form a cycle"),
    "recursive": (lambda: network(functions=[function("f", *calls("f", 1))]), "its function f calls itself"),
    "two recursive": (
        lambda: network(functions=[function("f", *calls("g", 2)), function("g", *calls("f", 2))]),
        "calls itself",
    ),
    "billion laughs": (
        lambda: network(node("f0", "means", "other", domain="local"), functions=laughs()),
        "more than 1,000,000 nodes after its functions are expanded",
    ),
    "no weights": (lambda: declaring([10**5]), "take 400,000 bytes, the file has 0; is it truncated"),
    "few weights": (
        lambda: declaring([4], raw_data=b"12345678"),
        'the weights "w" of shape 4 take 16 bytes, the file has 8',
    ),
    "many weights": (lambda: declaring([10**6, 10**7]), "the shape 1000000x10000000, which is impossible"),
    "negative weights": (lambda: declaring([-1, 4]), "the shape -1x4, which is impossible"),
    "stride": (
        lambda: network(node("MaxPool", "numbers", "m", kernel_shape=[2, 2], strides=[0, 1])),
        "strides of its MaxPool is 0, 1, expected 1 or more",
    ),
    "heads": (  # ONNX Runtime divides by it
        lambda: network(node("Attention", "means means means", "m", q_num_heads=0, kv_num_heads=0), opset=23),
        "kv_num_heads of its Attention is 0, expected 1 or more",
    ),
    "sparse": (sparse, "the shape 1000000x1000000, which is impossible"),
    "metadata": (with_metadata, "more than 33,554,432 characters of metadata"),
    **{
        f"large {name}": (made, "more than the limit of (268,435,456|67,108,864) numbers|which is impossible")
        for name, made in LARGE.items()
        if name != "range"
    },
}


@pytest.mark.parametrize(("make", "message"), BROKEN.values(), ids=BROKEN)
def test_rejects_broken_graphs_on_reading(tmp_path, make, message):
    """In one line that names the file and the reason; ONNX Runtime is never called."""
    path = tmp_path / "net.onnx"
    path.write_bytes(make().SerializeToString())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FormatError, match=rf"net\.onnx: .*({message})") as error:
        onnx_model.load(path)
    assert "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_nested_subgraphs(tmp_path, depth):
    """As deep as protobuf can read them."""
    yes = number("yes", True, np.bool_)
    model = network(*nested(depth).node, node("Identity", "c", "more"), initializers=[yes])
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    loaded = onnx_model.load(tmp_path / "net.onnx")
    session = Session(loaded.content, device="cpu", needs=loaded.needs)
    probabilities, logits = session.run({"images": np.full((2, 8, 8, 3), 7, np.uint8)})
    np.testing.assert_allclose(logits, 8)
    np.testing.assert_allclose(probabilities, 1 / 3, rtol=1e-6)


def test_checks_20000_nodes_in_seconds():
    """Without recursion over nodes, in linear time."""
    chain = [helper.make_node("Neg", [f"v{index}" if index else "means"], [f"v{index + 1}"]) for index in range(20_000)]
    model = network(*chain)
    begun = time.process_time()
    assert onnx_check.check(model, [], name="net.onnx") == NOTHING
    assert time.process_time() - begun < 10


def test_usual_networks_need_no_limits(tmp_path):
    """If all shapes are known, or depend only on the batch."""
    assert onnx_check.check(network(), [], name="net.onnx") == NOTHING
    ones = node("Expand", "one s", "more")
    known = network(ones, initializers=[number("one", 1.0, np.float32), number("s", [1, 3])])
    assert onnx_check.check(known, [], name="net.onnx") == NOTHING
    content = network(shape=(64, 8, 8, 3))
    onnx_check.check(content, [], name="net.onnx")


def computed():
    """Return a network with a constant whose size depends on the input's values: a trillion numbers for white images."""
    return network(
        node("ReduceMax", "numbers axes", "most", keepdims=0),
        node("ReduceMax", "most", "white", keepdims=0),
        node("Mul", "white factor", "wide"),
        node("Cast", "wide", "whole", to=TensorProto.INT64),
        node("Reshape", "whole one", "s"),
        node("ConstantOfShape", "s", "big"),
        node("ReduceSum", "big", "more", keepdims=0),
        initializers=[number("factor", 4e9, np.float32), number("one", [1])],
    )


def endless():
    """Return a network with a loop of 2**62 iterations."""
    values = [
        helper.make_tensor_value_info(name, kind, [])
        for name, kind in (("i", TensorProto.INT64), ("go", TensorProto.BOOL))
    ]
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, [])
    after = helper.make_tensor_value_info("after", TensorProto.FLOAT, None)
    still = helper.make_tensor_value_info("still", TensorProto.BOOL, None)
    inner = helper.make_graph(
        [node("Identity", "go", "still"), node("Add", "state state", "after")], "body", [*values, state], [still, after]
    )
    loop = helper.make_node("Loop", ["trips", "yes", "zero"], ["more"], body=inner)
    initializers = [number("trips", 2**62), number("yes", True, np.bool_), number("zero", 0.0, np.float32)]
    return network(loop, initializers=initializers)


def test_endless_loop_is_stopped(tmp_path, run, images, monkeypatch):
    """After a time limit, in one line."""
    monkeypatch.setattr(bounds, "LONGEST", 0.5)
    path = tmp_path / "net.onnx"
    path.write_bytes(endless().SerializeToString())
    assert onnx_model.load(path).needs.time
    outcome = run("cnn-predict", "-m", path, "--device", "cpu", images(red=1), status=1)
    assert "net.onnx: stopped after 0.5 seconds in one batch: it has a loop that may never end" in outcome.err
    assert outcome.err.count("\n") == 1


def test_computed_size_does_not_exhaust_memory(tmp_path, run, images):
    """The graph does not show the size, so ONNX Runtime's memory is limited; dark images work."""
    path = tmp_path / "net.onnx"
    path.write_bytes(computed().SerializeToString())
    loaded = onnx_model.load(path)
    assert loaded.needs == Needs(memory=True)
    session = Session(loaded.content, device="cpu", needs=loaded.needs)
    np.testing.assert_allclose(session.run({"images": np.zeros((2, 8, 8, 3), np.uint8)})[0], 1 / 3, rtol=1e-6)
    with pytest.raises(MemoryFullError):
        session.run({"images": np.full((1, 8, 8, 3), 255, np.uint8)})
    outcome = run("cnn-predict", "-m", path, "--device", "cpu", images(red=1), status=1)
    assert "memory" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("name", ["cycle", "constant", "recursive", "domain", "header", "cut", "text", "none"])
@pytest.mark.parametrize("command", ["predict", "dims", "cam", "maps", "calibrate", "extract"])
def test_every_command_refuses_in_one_line(tmp_path, run, images, command, name):
    """With the documented exit status, and nothing written."""
    made = {
        "cycle": BROKEN["cycle"][0],
        "constant": LARGE["constant"],
        "recursive": BROKEN["recursive"][0],
        "domain": lambda: network(node("Evil", "numbers", "more", domain="com.evil")),
        "header": lambda: network(shape=("N", 16, 16, 3)),
    }
    path = tmp_path / "net.onnx"
    content = made.get(name, network)().SerializeToString()
    path.write_bytes({"cut": content[:-20], "text": b"no network\n" * 9, "none": b""}.get(name, content))
    image = images(red=1) / "red" / "00.png"
    words = {
        "predict": ["-m", path, "--device", "cpu", image],
        "dims": [path],
        "cam": ["-m", path, image, "-o", tmp_path / "cam"],
        "maps": ["-m", path, image],
        "calibrate": ["-m", path, tmp_path / "p.tsv", "-o", tmp_path / "c.onnx"],
        "extract": ["--backbone", path, image, "-o", tmp_path / "x.npy", "--device", "cpu"],
    }[command]
    (tmp_path / "p.tsv").write_text("path\trank\tlabel\tprobability\ncat/a.png\t1\tcat\t0.5\n", encoding="utf-8")
    if command == "dims" and name in ("domain", "header"):
        return  # cnn-dims does not run networks: see tests/nets/test_graph_dims.py
    outcome = run(f"cnn-{command}", *words, status=None)
    assert outcome.status in (1, 2), outcome
    assert "Traceback" not in outcome.err
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert not {"cam", "c.onnx", "x.npy", "x.json"} & {each.name for each in tmp_path.iterdir()}


def test_remedy_for_external_weights_works(tmp_path):
    """The message has a shell command, which is run here."""
    import shlex
    import subprocess
    import sys

    model = network(node("Mul", "w w", "more"), initializers=[number("w", [2.0, 3.0, 4.0] * 1, np.float32)])
    path = tmp_path / "it's here.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.data", size_threshold=0)
    with pytest.raises(FormatError, match="its weights are in other files, which are not read") as error:
        onnx_model.load(path)
    words = shlex.split(str(error.value).partition("save it as one file: ")[2])
    subprocess.run([sys.executable, *words[1:]], check=True)
    whole = onnx_model.load(tmp_path / "it's here-whole.onnx")
    logits = Session(whole.content, device="cpu").run({"images": np.zeros((1, 8, 8, 3), np.uint8)}, ["logits"])[0]
    np.testing.assert_allclose(logits, [[4, 9, 16]])


@pytest.mark.parametrize(
    ("last", "opset", "message"),
    [
        (
            node("Evil", "numbers", "more", domain="com.evil", name="n1"),
            17,
            "no operator Evil (domain com.evil) for the node n1",
        ),
        (
            node("Evil", "numbers", "more", domain="com.evil"),
            17,
            'no operator Evil (domain com.evil) for the node that computes "more"',
        ),
        (node("Evil", "numbers", "more", name="n1"), 17, "no operator Evil (domain ai.onnx) for the node n1"),
        (node("Gelu", "numbers", "more", name="n1"), 17, "no operator Gelu (domain ai.onnx) for the node n1"),
        (
            node("Add", "numbers numbers", "more", name="n1"),
            6,
            "no operator Add (domain ai.onnx, version 6) for the values of the node n1",
        ),
        (
            node("LRN", "numbers", "more", name="n1", size=0),
            17,
            "expected size > 0",
        ),
        (
            node("Softmax", "numbers", "more", name="n1", axis=7),
            17,
            "n1 (Softmax): 'axis' must be in [-4 , 3]. Its actual value is: 7",
        ),
        (node("Relu", "numbers", "more"), 99, "its operators are of opset 99, newer than the supported "),
    ],
)
def test_unsupported_operators_are_named(last, opset, message):
    """With domain and node, without ONNX Runtime's C++ sources."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, 8, 8)) for name in ("numbers", "more")]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.evil", 1)]
    model = helper.make_model(
        helper.make_graph([last], "net", values[:1], values[1:]), opset_imports=opsets, ir_version=8
    )
    with pytest.raises(CnnkitError) as caught:
        Session(model.SerializeToString(), device="cpu", name="net.onnx")
    assert str(caught.value).startswith(f"net.onnx: ONNX Runtime cannot run it: {message}")
    assert not re.search(r"onnxruntime|ONNXRuntimeError|Fatal error|::|\.h\b", str(caught.value))


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("predict", [node("ReduceMean", "means all", "more", keepdims=0)]),
        ("extract", [node("ReduceMean", "means all", "features", keepdims=0), node("Identity", "features", "more")]),
    ],
)
def test_rejects_an_output_without_a_row_per_image(tmp_path, run, images, command, extra):
    """The actual output is compared with the header."""
    given = ("features",) if command == "extract" else ("probabilities",)
    model = network(*extra, initializers=[number("all", [0, 1])], given=given)
    if command == "predict":
        model.graph.output[0].type.tensor_type.ClearField("shape")
        model.graph.node[-1].CopyFrom(node("Identity", "more", "probabilities"))
    else:
        model.graph.output[0].type.tensor_type.ClearField("shape")
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    words = {"predict": ["-m", path], "extract": ["--backbone", path, "-o", tmp_path / "x.npy"]}[command]
    outcome = run(f"cnn-{command}", *words, "--device", "cpu", images(red=1), status=1)
    assert f"its output {given[0]} is not a row of" in outcome.err
    assert "Traceback" not in outcome.err
