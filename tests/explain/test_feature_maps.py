"""Feature maps: scaling, checks before files are written, and layers of an exported graph."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnkit.choices import Fit, MapScale
from cnnkit.errors import FormatError, UsageError
from cnnkit.explain import config, feature_maps
from cnnkit.explain.feature_maps import OnnxFeatureMaps
from cnnkit.formats import onnx_model
from cnnkit.formats.header import ArtefactKind, Header, Preprocess


def test_scaling_worked_example():
    """By channel, each channel spans 0 to 1; by layer, the layer does; constant channels are 0."""
    values = np.array([[[-1, 0], [1, 3]], [[2, 2], [2, 2]], [[7, 3], [5, 4]]], dtype=np.float32)
    own = feature_maps.scaled(values, MapScale.CHANNEL)
    np.testing.assert_allclose(own[0], [[0, 0.25], [0.5, 1]])
    np.testing.assert_allclose(own[1], 0)
    np.testing.assert_allclose(own[2], [[1, 0], [0.5, 0.25]])
    np.testing.assert_allclose(feature_maps.scaled(values, MapScale.LAYER), (values + 1) / 8)
    assert own.dtype == np.float32
    np.testing.assert_array_equal(feature_maps.scaled(np.full((2, 3, 3), 5, np.float32), MapScale.LAYER), 0)


class Two:
    """A network of two layers, one with maps and one with a vector."""

    preprocess = Preprocess(fit=Fit.SQUASH, resize=8, size=8, mean=(0.5,) * 3, std=(0.5,) * 3)

    def __init__(self, **outputs):
        self.given = outputs
        self.layers = [type("Layer", (), {"name": name})() for name in outputs]

    def find(self, wanted):
        return next(layer for layer in self.layers if layer.name == wanted)

    def activations(self, image, layers):
        assert image.shape == (8, 8, 3)
        return [self.given[layer.name] for layer in layers]


def test_rejects_layers_and_channels_before_writing(images, tmp_path):
    """A layer with a vector, or a channel that a layer does not have, before the first image is written."""
    image = images(red=1) / "red" / "00.png"
    network = Two(a=np.ones((4, 3, 3), np.float32), b=np.ones((2, 3, 3), np.float32), v=np.ones(5, np.float32))
    for layers, message in ((["a", "v"], "v outputs a vector of 5 values"), (["a", "b"], "--channels 3: b has 2")):
        options = config.FeatureMapOptions(output=tmp_path / "out", layers=layers, channels="3")
        with pytest.raises(UsageError, match=message):
            feature_maps.explain(network, image, options=options)
    assert not (tmp_path / "out").exists()


def test_silent_channels_and_file_names(images, tmp_path):
    """Silent is below a millionth of the largest absolute value; slashes in names are replaced; 1000 channels have four digits."""
    values = np.zeros((1001, 2, 2), np.float32)
    values[0], values[1], values[2], values[3, 0, 0] = -9, 1e-7, 1e-4, 2
    network = Two(**{"block/conv": values})
    options = config.FeatureMapOptions(output=tmp_path / "out", channels="0,1000")
    (record,) = feature_maps.explain(network, images(red=1) / "red" / "00.png", options=options)
    assert record.silent == pytest.approx(998 / 1001)
    assert record.zeros == pytest.approx(1 - 9 / 4004)
    assert (record.maximum, record.most_active) == (2, 3)
    assert record.mosaic == str(tmp_path / "out" / "block_conv.png")
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    assert names == ["block_conv", "block_conv.png", "block_conv/0000.png", "block_conv/1000.png"]


# ---------------------------------------------------------------- exported networks

PREPROCESS = Preprocess(fit=Fit.SQUASH, resize=4, size=4, mean=(0.5,) * 3, std=(0.5,) * 3)


def write(path, *, batch="N", header=True, body=True):
    """Write a network of conv1 and relu, parallel conv2, their sum and relu, and the mean; or only the mean. Convolutions are 1x1."""
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
    told = Header(ArtefactKind.ONNX, ("a", "b"), PREPROCESS, None, "dense 2 softmax", {"command": "cnn-export"})
    path.write_bytes(onnx_model.finished(proto, told) if header else proto.SerializeToString())
    return str(path)


@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_activations_equal_a_worked_example(tmp_path, batch):
    """A layer is a convolution or a sum with its activation; layers may be in any order and repeated, with any batch size."""
    network = OnnxFeatureMaps(write(tmp_path / "m.onnx", batch=batch), device="cpu")
    assert [layer.name for layer in network.layers] == ["conv1", "conv2", "node_add"]
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    shares = (image / 255 - 0.5) / 0.5
    first = np.maximum([shares[..., 0], -shares[..., 1]], 0)
    asked = [network.find(wanted) for wanted in ("-1", "conv1", "1", "maps", "0")]
    assert [layer.name for layer in asked] == ["node_add", "conv1", "conv2", "node_add", "conv1"]
    found = network.activations(image, asked)
    for output, factor in zip(found, (3, 1, 2, 3, 1), strict=True):
        assert output.dtype == np.float32
        np.testing.assert_allclose(output, factor * first, atol=1e-5)


def test_rejects_networks_and_layers_without_maps(tmp_path):
    """A network without a header, one without maps, and an unknown layer."""
    with pytest.raises(FormatError, match=r"none\.onnx: no preprocessing in its header"):
        OnnxFeatureMaps(write(tmp_path / "none.onnx", header=False), device="cpu")
    with pytest.raises(FormatError, match=r"flat\.onnx: no layer outputs maps"):
        OnnxFeatureMaps(write(tmp_path / "flat.onnx", body=False), device="cpu")
    network = OnnxFeatureMaps(write(tmp_path / "m.onnx"), device="cpu")
    for wanted in ("3", "-4", "node_flatten"):
        with pytest.raises(UsageError, match=f'm.onnx has no layer "{wanted}" that outputs maps; it has conv1, conv2'):
            network.find(wanted)
