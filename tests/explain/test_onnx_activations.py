"""Layers inside of an exported graph: which there are, what they are called, and values that can be worked by hand."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnkit.choices import Fit
from cnnkit.errors import FormatError, UsageError
from cnnkit.explain.feature_maps import OnnxFeatureMaps
from cnnkit.formats import onnx_model
from cnnkit.formats.header import Header, Kind, Preprocess

PREPROCESS = Preprocess(fit=Fit.SQUASH, resize=4, size=4, mean=(0.5,) * 3, std=(0.5,) * 3)


def write(path, *, batch="N", header=True, body=True):
    """Write conv1 and relu, conv2 beside them, their sum and relu, the mean: all convolutions of 1x1; or the mean alone."""
    halves = np.array([[1, 0, 0], [0, -1, 0]], np.float32)[..., None, None]  # red, and what lacks green
    double = 2 * np.eye(2, dtype=np.float32)[..., None, None]
    nodes = [
        helper.make_node("Conv", ["images", "base.conv1.weight"], ["c1"], name="node_conv1"),
        helper.make_node("Relu", ["c1"], ["r1"], name="node_relu"),
        helper.make_node("Conv", ["r1", "base.conv2.weight"], ["c2"], name="node_conv2"),
        helper.make_node("Add", ["r1", "c2"], ["sum"], name="node_add"),
        helper.make_node("Relu", ["sum"], ["maps"], name="node_relu_1"),
    ]
    end = [
        helper.make_node("GlobalAveragePool", ["maps" if body else "images"], ["mean"], name="node_mean"),
        helper.make_node("Flatten", ["mean"], ["logits"], name="node_flatten"),
    ]
    values = [("images", [batch, 3, 4, 4]), ("logits", [batch, 2 if body else 3])]
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values)
    weights = {"base.conv1.weight": halves, "base.conv2.weight": double} if body else {}
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph([*(nodes if body else []), *end], "graph", [given], [made], initializers)
    if body:
        graph.output.append(helper.make_tensor_value_info("maps", TensorProto.FLOAT, [batch, 2, 4, 4]))
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    told = Header(Kind.ONNX, ("a", "b"), PREPROCESS, None, "dense 2 softmax", {"command": "cnn-export"})
    path.write_bytes(onnx_model.finished(proto, told) if header else proto.SerializeToString())
    return str(path)


@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_values_by_hand(tmp_path, batch):
    """A layer is a convolution or a sum with its activation; values are those, asked for in any order and twice, of any batch."""
    network = OnnxFeatureMaps(write(tmp_path / "m.onnx", batch=batch), device="cpu")
    assert [layer.name for layer in network.layers] == ["conv1", "conv2", "node_add"]
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    shares = (image / 255 - 0.5) / 0.5
    first = np.maximum([shares[..., 0], -shares[..., 1]], 0)
    asked = [network.find(wanted) for wanted in ("-1", "conv1", "1", "maps", "0")]
    assert [layer.name for layer in asked] == ["node_add", "conv1", "conv2", "node_add", "conv1"]
    found = network.activations(image, asked)
    for answer, factor in zip(found, (3, 1, 2, 3, 1), strict=True):
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, factor * first, atol=1e-5)


def test_what_has_no_maps(tmp_path):
    """A network without our header, one without maps, and a layer that is not there are told in one line."""
    with pytest.raises(FormatError, match=r"none\.onnx: its header does not say how pictures are prepared"):
        OnnxFeatureMaps(write(tmp_path / "none.onnx", header=False), device="cpu")
    with pytest.raises(FormatError, match=r"flat\.onnx: no layer of it answers with maps"):
        OnnxFeatureMaps(write(tmp_path / "flat.onnx", body=False), device="cpu")
    network = OnnxFeatureMaps(write(tmp_path / "m.onnx"), device="cpu")
    for wanted in ("3", "-4", "node_flatten"):
        with pytest.raises(UsageError, match=f'm.onnx has no layer "{wanted}" with maps; did you mean'):
            network.find(wanted)
