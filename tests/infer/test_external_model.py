"""Networks from elsewhere: tiny graphs, written by hand, of every kind that a converter leaves behind."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnkit.choices import Fit, Interpolation
from cnnkit.data import preprocessing
from cnnkit.data.source import ImageFile
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats.header import Preprocess
from cnnkit.infer.config import ModelSpec, PredictConfig, parse_channels
from cnnkit.infer.predict import Predictor

SIZE, MEAN, STD = 8, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
WEIGHTS = np.array([[3.0, -2.0], [-1.0, 1.5], [0.5, -4.0]], dtype=np.float32)  # (channels, classes)


def graph(
    path,
    *,
    kind=TensorProto.FLOAT,
    shape=("N", 3, SIZE, SIZE),
    last=(),
    classes=2,
    weights=WEIGHTS,
    opset=18,
    extra_output=None,
    axes=None,
):
    """Write a network: the mean of every channel times `weights`, then the operators of `last`."""
    axes = axes or ([2, 3] if shape[1] == 3 else [1, 2])
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["value0"]),
    ]
    for index, (operator, attributes) in enumerate(last):
        nodes.append(helper.make_node(operator, [f"value{index}"], [f"value{index + 1}"], **attributes))
    end = f"value{len(last)}"
    prediction_kind = last[-1][1]["to"] if last and last[-1][0] == "Cast" else TensorProto.FLOAT
    outputs = [helper.make_tensor_value_info(end, prediction_kind, None)]
    if extra_output:
        outputs.insert(0, helper.make_tensor_value_info(extra_output, TensorProto.FLOAT, None))
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", kind, shape)],
        outputs,
        [
            numpy_helper.from_array(np.array(axes, dtype=np.int64), "axes"),
            numpy_helper.from_array(weights[:, :classes].copy(), "weights"),
        ],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("cat\ndog\n", encoding="utf-8")
    return path


@pytest.fixture
def describe(labels):
    def make(**changes):
        return ModelSpec(
            **{"size": str(SIZE), "mean": "0.4,0.5,0.6", "std": "0.2,0.25,0.3", "labels": labels, **changes}
        )

    return make


@pytest.fixture
def shown(images):
    """Five images, and their channels' means as the network should see them, (5, 3)."""
    found = [ImageFile(str(path)) for path in sorted(images(red=3, blue=2).rglob("*.png"))]

    def means(description, *, normalised=True):
        preprocess = preprocessing.with_size(
            Preprocess(interpolation=description.interpolation or Interpolation.BILINEAR, mean=MEAN, std=STD),
            size=SIZE,
            resize=description.resize,
            fit=description.fit,
        )
        pixels = np.stack([preprocessing.load(image.path, preprocess) for image in found]).astype(np.float64)
        pixels = (pixels / 255 - MEAN) / STD if normalised else pixels
        return pixels.mean(axis=(1, 2))

    return found, means


def predictions(path, description, found, **options):
    """Ask for probabilities, (N, classes), and logits where there are any."""
    predictor = Predictor([path], PredictConfig(device="cpu", batch=2, **options), spec=description)
    given = list(predictor.images(found))
    return np.stack([prediction.probabilities for prediction in given]), [prediction.logits for prediction in given]


def softmax(values):
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "shape", [("N", 3, SIZE, SIZE), ("N", 3, "H", "W"), ("N", SIZE, SIZE, 3), (None, None, None, 3)]
)
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_the_order_of_axes_is_seen_and_pixels_are_normalised(tmp_path, describe, shown, shape, kind):
    """NCHW or NHWC, in every float type: logits are means times weights, probabilities their softmax."""
    found, means = shown
    path = graph(tmp_path / "net.onnx", shape=shape, kind=kind)
    probabilities, logits = predictions(path, describe(), found, logits=True)
    expected = means(describe()) @ WEIGHTS[:, :2]
    tolerance = 5e-3 if kind == TensorProto.FLOAT16 else 1e-5
    np.testing.assert_allclose(np.stack(logits), expected, atol=tolerance)
    np.testing.assert_allclose(probabilities, softmax(expected), atol=tolerance)


@pytest.mark.parametrize(
    "last",
    [
        [("Softmax", {"axis": 1})],
        [("Softmax", {"axis": 1}), ("Identity", {})],
        [("Softmax", {"axis": 1}), ("Cast", {"to": TensorProto.FLOAT16})],
        [("Exp", {}), ("LpNormalization", {"axis": 1, "p": 1})],
    ],
    ids=["softmax", "behind an identity", "float16", "without a softmax operator"],
)
def test_probabilities_are_not_put_through_a_softmax_again(tmp_path, describe, shown, last):
    """Whether by the operator or by rows that sum up to 1, they are seen to be probabilities; logits there are none."""
    found, means = shown
    path = graph(tmp_path / "net.onnx", last=last)
    probabilities, _ = predictions(path, describe(), found)
    np.testing.assert_allclose(probabilities, softmax(means(describe()) @ WEIGHTS[:, :2]), atol=1e-3)
    with pytest.raises(UsageError, match="gives probabilities and no logits"):
        predictions(path, describe(), found, logits=True)


def test_a_single_sigmoid_is_the_second_class(tmp_path, describe, shown):
    """As Keras' networks for two classes have it, with the sigmoid inside or left out."""
    found, means = shown
    second = 1 / (1 + np.exp(-means(describe()) @ WEIGHTS[:, :1]))
    expected = np.concatenate([1 - second, second], axis=1)
    for last in ([("Sigmoid", {})], []):
        path = graph(tmp_path / "net.onnx", last=last, classes=1)
        np.testing.assert_allclose(predictions(path, describe(), found)[0], expected, atol=1e-5)


@pytest.mark.parametrize("fixed", [1, 2, 3, 7])
def test_a_fixed_batch_is_kept(tmp_path, describe, shown, fixed):
    """Five images go through a network that takes exactly N at once; what fills it up does not show."""
    found, means = shown
    path = graph(tmp_path / "net.onnx", shape=(fixed, 3, SIZE, SIZE))
    probabilities, _ = predictions(path, describe(), found)
    np.testing.assert_allclose(probabilities, softmax(means(describe()) @ WEIGHTS[:, :2]), atol=1e-5)


def test_a_network_of_bytes_gets_bytes(tmp_path, describe, shown):
    """It normalises itself: --mean and --std are not needed, and refused."""
    found, means = shown
    path = graph(tmp_path / "net.onnx", kind=TensorProto.UINT8, shape=("N", SIZE, SIZE, 3), weights=WEIGHTS / 100)
    bare = describe(mean=None, std=None)
    expected = softmax(means(bare, normalised=False) @ WEIGHTS[:, :2] / 100)
    np.testing.assert_allclose(predictions(path, bare, found)[0], expected, atol=1e-5)
    with pytest.raises(UsageError, match="normalises them itself; drop --mean and --std"):
        predictions(path, describe(), found)


@pytest.mark.parametrize(
    "changes",
    [{"fit": Fit.SQUASH}, {"fit": Fit.PAD}, {"resize": 30}, {"interpolation": Interpolation.NEAREST}],
    ids=str,
)
def test_every_part_of_the_preprocessing_can_be_told(tmp_path, describe, shown, changes):
    """What is told differs from the default, and arrives."""
    found, means = shown
    path = graph(tmp_path / "net.onnx")
    probabilities, _ = predictions(path, describe(**changes), found)
    expected = softmax(means(describe(**changes)) @ WEIGHTS[:, :2])
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert np.abs(expected - softmax(means(describe()) @ WEIGHTS[:, :2])).max() > 1e-4


def test_the_output_with_a_number_for_each_class_is_taken(tmp_path, describe, shown):
    """Of a network that gives more than one, whatever stands first."""
    found, means = shown
    path = graph(tmp_path / "net.onnx", extra_output="means")
    expected = softmax(means(describe()) @ WEIGHTS[:, :2])
    np.testing.assert_allclose(predictions(path, describe(), found)[0], expected, atol=1e-5)


@pytest.mark.parametrize("missing", [["size"], ["mean", "std"], ["labels"], ["size", "mean", "std", "labels"]])
def test_what_is_missing_is_named(tmp_path, describe, missing):
    """All of it, and nothing else."""
    path = graph(tmp_path / "net.onnx")
    with pytest.raises(UsageError) as error:
        Predictor([path], spec=describe(**dict.fromkeys(missing)))
    assert "no cnnkit header" in str(error.value)
    for option in ("size", "mean", "std", "labels"):
        assert (f"--{option}" in str(error.value)) == (option in missing)


@pytest.mark.parametrize(
    ("made", "changes", "said"),
    [
        ({}, {"size": "16"}, "takes 8 x 8 pixels, --size says 16"),
        ({}, {"size": "8x8"}, 'no cnnkit header; --size is the side of its input then, a number of pixels, not "8x8"'),
        ({}, {"size": "native"}, 'not "native"'),
        ({}, {"size": "0"}, 'not "0"'),
        ({"shape": ("N", 1, "H", "W")}, {}, "expected pictures with three channels"),
        ({"shape": ("N", 3, "H", "W", "D")}, {}, "expected pictures with three channels"),
        ({"classes": 1, "last": [("Concat3", {})]}, {}, "ONNX Runtime cannot run it"),
        ({"weights": np.ones((3, 5), dtype=np.float32), "classes": 5}, {}, r"\(5,\) for one picture, but .* 2 classes"),
        ({"kind": TensorProto.INT64}, {}, r"tensor\(int64\)"),
        ({"shape": ("N", 3, "H", "W"), "axes": [1, 2]}, {}, "does not run on 8 x 8 pixels"),
    ],
    ids=["size", "rectangle", "native", "none", "grey", "vector", "broken", "classes", "integers", "runs not"],
)
def test_what_contradicts_the_network_is_one_line(tmp_path, describe, made, changes, said):
    """Both sides of the contradiction are given."""
    path = graph(tmp_path / "net.onnx", **made)
    with pytest.raises(CnnkitError, match=said) as error:
        Predictor([path], PredictConfig(device="cpu"), spec=describe(**changes))
    assert "net.onnx" in str(error.value)


def test_networks_with_two_inputs_are_refused(tmp_path, describe):
    """An image is one input."""
    path = graph(tmp_path / "net.onnx")
    proto = onnx.load(path)
    proto.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N"]))
    proto.graph.node.append(helper.make_node("Identity", ["more"], ["also"]))
    proto.graph.output.append(helper.make_tensor_value_info("also", TensorProto.FLOAT, None))
    onnx.save(proto, path)
    with pytest.raises(CnnkitError, match=r"takes 2 inputs \(images, more\)"):
        Predictor([path], PredictConfig(device="cpu"), spec=describe())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.1,0.2,0.3", (0.1, 0.2, 0.3)), ("0.5", (0.5, 0.5, 0.5)), (None, None), ("0, 0, 1", (0, 0, 1))],
)
def test_channels_are_three_numbers_or_one(text, expected):
    """One number stands for all three."""
    assert parse_channels(text, option="--mean") == expected


@pytest.mark.parametrize("text", ["", "a", "1,2", "1,2,3,4", "nan", "inf,0,0", "0,1,1"])
def test_other_channels_are_refused(text):
    """The option and the word are named; a deviation must be above zero."""
    with pytest.raises(UsageError, match=f'--std "{text}": give three numbers above zero'):
        parse_channels(text, option="--std")
