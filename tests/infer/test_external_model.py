"""Networks without a cnnkit header: tiny hand-written graphs of all kinds that converters produce."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnkit.choices import ChannelOrder, Fit, Interpolation, PixelRange
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
    """Five images, and their channels' means as the network should get them, (5, 3)."""
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
    """Predict; return probabilities, (N, classes), and logits if there are any."""
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
def test_layout_is_detected_and_pixels_are_normalised(tmp_path, describe, shown, shape, kind):
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
    ids=["softmax", "then an identity", "float16", "without a softmax operator"],
)
def test_no_second_softmax(tmp_path, describe, shown, last):
    """Probabilities are recognized by the operator, or by rows that sum to 1; there are no logits."""
    found, means = shown
    path = graph(tmp_path / "net.onnx", last=last)
    probabilities, _ = predictions(path, describe(), found)
    np.testing.assert_allclose(probabilities, softmax(means(describe()) @ WEIGHTS[:, :2]), atol=1e-3)
    with pytest.raises(UsageError, match="has probabilities and no logits"):
        predictions(path, describe(), found, logits=True)


def test_single_sigmoid_is_the_second_class(tmp_path, describe, shown):
    """As in Keras' networks for two classes, with or without the sigmoid in the graph."""
    found, means = shown
    second = 1 / (1 + np.exp(-means(describe()) @ WEIGHTS[:, :1]))
    expected = np.concatenate([1 - second, second], axis=1)
    for last in ([("Sigmoid", {})], []):
        path = graph(tmp_path / "net.onnx", last=last, classes=1)
        np.testing.assert_allclose(predictions(path, describe(), found)[0], expected, atol=1e-5)


@pytest.mark.parametrize("fixed", [1, 2, 3, 7])
def test_fixed_batch_size(tmp_path, describe, shown, fixed):
    """Five images go through a network with a batch size of exactly N; padding does not show."""
    found, means = shown
    path = graph(tmp_path / "net.onnx", shape=(fixed, 3, SIZE, SIZE))
    probabilities, _ = predictions(path, describe(), found)
    np.testing.assert_allclose(probabilities, softmax(means(describe()) @ WEIGHTS[:, :2]), atol=1e-5)


def test_uint8_network(tmp_path, describe, shown):
    """It normalizes its input itself: --mean and --std are not needed, and refused."""
    found, means = shown
    path = graph(tmp_path / "net.onnx", kind=TensorProto.UINT8, shape=("N", SIZE, SIZE, 3), weights=WEIGHTS / 100)
    bare = describe(mean=None, std=None)
    expected = softmax(means(bare, normalised=False) @ WEIGHTS[:, :2] / 100)
    np.testing.assert_allclose(predictions(path, bare, found)[0], expected, atol=1e-5)
    with pytest.raises(UsageError, match="normalizes it itself; drop --mean, --std"):
        predictions(path, describe(), found)


@pytest.mark.parametrize(
    "changes",
    [{"fit": Fit.SQUASH}, {"fit": Fit.PAD}, {"resize": 30}, {"interpolation": Interpolation.NEAREST}],
    ids=str,
)
def test_every_part_of_the_preprocessing_is_used(tmp_path, describe, shown, changes):
    """Each value differs from the default."""
    found, means = shown
    path = graph(tmp_path / "net.onnx")
    probabilities, _ = predictions(path, describe(**changes), found)
    expected = softmax(means(describe(**changes)) @ WEIGHTS[:, :2])
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert np.abs(expected - softmax(means(describe()) @ WEIGHTS[:, :2])).max() > 1e-4


def test_output_with_one_number_per_class_is_used(tmp_path, describe, shown):
    """If a network has several outputs, in any order."""
    found, means = shown
    path = graph(tmp_path / "net.onnx", extra_output="means")
    expected = softmax(means(describe()) @ WEIGHTS[:, :2])
    np.testing.assert_allclose(predictions(path, describe(), found)[0], expected, atol=1e-5)


LOGITS, EMBEDDING = WEIGHTS[:, :2], np.array([[-1.0, 2.0], [2.0, 0.5], [1.0, 1.0]], dtype=np.float32)


def outputs(path, **made):
    """Write a network with several outputs, `name=(operators, weights)`: the operators come after the means times the weights."""
    nodes, initializers = [helper.make_node("GlobalAveragePool", ["images"], ["pooled"])], []
    nodes.append(helper.make_node("Flatten", ["pooled"], ["means"]))
    values = []
    for name, (operators, weights) in made.items():
        last = f"{name}.in" if operators else name
        if isinstance(weights, str):
            last = weights
        else:
            nodes.append(helper.make_node("MatMul", ["means", f"{name}.w"], [last]))
            initializers.append(numpy_helper.from_array(weights, f"{name}.w"))
        for index, operator in enumerate(operators):
            after = name if index == len(operators) - 1 else f"{name}.{index}"
            attributes = {"keepdims": 0, "axis": 1} if operator == "ArgMax" else {}
            nodes.append(helper.make_node(operator, [last], [after], **attributes))
            last = after
        kind = TensorProto.INT64 if "ArgMax" in operators else TensorProto.FLOAT
        values.append(helper.make_tensor_value_info(name, kind, None))
    taken = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ("N", 3, SIZE, SIZE))]
    made_graph = helper.make_graph(nodes, "net", taken, values, initializers)
    onnx.save(helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    "made",
    [
        {"embedding": ([], EMBEDDING), "logits": ([], LOGITS)},
        {"features": (["Relu"], EMBEDDING), "output": ([], LOGITS)},
        {"last_hidden_state": ([], EMBEDDING), "aux_logits": ([], EMBEDDING), "42": ([], LOGITS)},
        {"a": ([], EMBEDDING), "b": (["Softmax"], LOGITS)},
        {"output": ([], EMBEDDING), "probabilities": (["Softmax", "Identity"], LOGITS)},
        {"pooler_output": (["Relu"], EMBEDDING), "class_scores": ([], LOGITS)},
    ],
    ids=lambda made: " ".join(made),
)
def test_output_of_class_scores_is_chosen(tmp_path, describe, shown, caplog, made):
    """By its name and operator, in any position; a notice names it, and --output chooses another."""
    found, means = shown
    path = outputs(tmp_path / "net.onnx", **made)
    taken, other = list(made)[-1], next(iter(made))
    expected = softmax(means(describe()) @ LOGITS)
    np.testing.assert_allclose(predictions(path, describe(), found)[0], expected, atol=1e-5)
    assert f"using {taken}; choose another with --output NAME" in caplog.text
    caplog.clear()
    named = predictions(path, describe(output=taken), found)[0]
    np.testing.assert_allclose(named, expected, atol=1e-5)
    assert np.abs(predictions(path, describe(output=other), found)[0] - expected).max() > 0.01
    assert "taking" not in caplog.text
    with pytest.raises(UsageError, match=f"has no output nowhere; its outputs are {', '.join(made)}"):
        predictions(path, describe(output="nowhere"), found)


@pytest.mark.parametrize("last", ["Softmax", "Sigmoid"])
def test_output_and_its_activation_belong_together(tmp_path, describe, shown, caplog, last):
    """Both are used, one as logits, the other as probabilities, without a notice."""
    found, means = shown
    path = outputs(tmp_path / "net.onnx", logits=([], LOGITS), probabilities=([last], "logits"))
    probabilities, logits = predictions(path, describe(), found, logits=True)
    expected = means(describe()) @ LOGITS
    np.testing.assert_allclose(np.stack(logits), expected, atol=1e-5)
    np.testing.assert_allclose(
        probabilities, softmax(expected) if last == "Softmax" else 1 / (1 + np.exp(-expected)), atol=1e-5
    )
    assert "taking" not in caplog.text


@pytest.mark.parametrize(
    ("operators", "independent"),
    [
        (["Sigmoid"], True),
        (["Sigmoid", "Identity", "Clip"], True),
        (["HardSigmoid"], True),
        (["Neg", "Exp", "Reciprocal", "Identity"], False),
        (["LogSoftmax"], False),
        (["Softmax", "Log"], False),
        (["Softmax", "Clip"], False),
        ([], False),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_meaning_of_outputs(tmp_path, describe, shown, caplog, operators, independent):
    """Sigmoids are kept, with a notice; logarithms of probabilities are exponentiated; others get a softmax."""
    found, means = shown
    path = outputs(tmp_path / "net.onnx", out=(operators, LOGITS))
    got = predictions(path, describe(), found)[0]
    values = means(describe()) @ LOGITS
    if independent:
        sigmoids = np.clip(values / 5 + 0.5, 0, 1) if operators == ["HardSigmoid"] else 1 / (1 + np.exp(-values))
        np.testing.assert_allclose(got, sigmoids, atol=1e-5)
        assert np.abs(got.sum(axis=1) - 1).max() > 0.01
    else:
        expected = softmax(np.exp(values) if "Reciprocal" in operators else values)
        np.testing.assert_allclose(got, expected, atol=1e-5)
    assert ("those of an image do not sum to 1" in caplog.text) == independent


def test_sigmoid_of_single_operators_is_recognised(tmp_path, describe, shown, caplog):
    """Values between 0 and 1 that do not come from a linear operator are probabilities."""
    found, means = shown
    path = outputs(tmp_path / "net.onnx", out=(["Neg", "Softplus", "Neg", "Exp"], LOGITS))  # exp(-log(1 + exp(-x)))
    np.testing.assert_allclose(
        predictions(path, describe(), found)[0], 1 / (1 + np.exp(-means(describe()) @ LOGITS)), atol=1e-5
    )
    assert "do not sum to 1" in caplog.text


def test_rejects_logarithms_of_sigmoids(tmp_path, describe):
    """They are neither logits of a softmax nor probabilities."""
    path = outputs(tmp_path / "net.onnx", out=(["Sigmoid", "Log"], LOGITS))
    with pytest.raises(CnnkitError, match="out has the logarithms of sigmoids; export the network without them"):
        Predictor([path], PredictConfig(device="cpu"), spec=describe())


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ([("Softmax", {"axis": 0})], r"value1 is a softmax over another axis than the classes: .* sum to "),
        (
            [("Softmax", {"axis": 1}), ("Neg", {})],
            "value2 is computed from probabilities by Neg, and is neither these nor",
        ),
    ],
    ids=["a softmax over the batch", "probabilities below 0"],
)
def test_values_computed_from_probabilities_are_not_logits(run, images, tmp_path, labels, last, message):
    """Their softmax would differ from the network's probabilities, and a softmax over the batch depends on the other images."""
    path = graph(tmp_path / "net.onnx", last=last)
    words = ("--size", SIZE, "--mean", 0, "--std", 1, "--labels", labels)
    outcome = run("cnn-predict", "-m", path, *words, images(red=1), "--device", "cpu", status=1)
    assert re.search(message, outcome.err), outcome.err


def test_one_minus_a_sigmoid_is_a_probability(tmp_path, describe, shown):
    """An independent one of each class, as the network gives it."""
    found, means = shown
    path = graph(tmp_path / "net.onnx", last=[("Sigmoid", {}), ("Neg", {})])
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "one"))
    model.graph.node[-1].op_type = "Sub"
    del model.graph.node[-1].input[:]
    model.graph.node[-1].input.extend(["one", "value1"])
    onnx.save(model, path)
    probabilities, _ = predictions(path, describe(), found)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(means(describe()) @ WEIGHTS[:, :2])), atol=1e-5)


def test_rejects_network_that_only_gives_the_class_number(tmp_path, describe):
    """The message has the shape of the output, the shape that is needed, and what to leave out."""
    path = outputs(tmp_path / "net.onnx", label=(["ArgMax"], LOGITS))
    with pytest.raises(
        CnnkitError,
        match=r"gives label \(int64, one number\) for one image, but .* has 2 classes: one output must have 2 floating-point "
        "numbers per image; label is only the best class, export the network without its ArgMax",
    ):
        Predictor([path], PredictConfig(device="cpu"), spec=describe())


def test_keras_mode_caffe(tmp_path, describe, shown):
    """Blue, green, red from 0 to 255 minus the means of ImageNet: keras.applications.imagenet_utils.preprocess_input."""
    found, means = shown
    caffe = {"mean": "103.939,116.779,123.68", "std": "1", "range": PixelRange.BYTE, "channels": ChannelOrder.BGR}
    path = outputs(tmp_path / "net.onnx", logits=([], LOGITS / 50))
    pixels = means(describe(**caffe), normalised=False)
    expected = (pixels[:, ::-1] - np.array([103.939, 116.779, 123.68])) @ LOGITS / 50
    probabilities, logits = predictions(path, describe(**caffe), found, logits=True)
    np.testing.assert_allclose(np.stack(logits), expected, atol=1e-4)
    np.testing.assert_allclose(probabilities, softmax(expected), atol=1e-5)
    other = predictions(path, describe(**{**caffe, "channels": None}), found, logits=True)[1]
    assert np.abs(np.stack(other) - np.stack(logits)).max() > 0.5


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8])
@pytest.mark.parametrize("shape", [("N", 3, SIZE, SIZE), ("N", SIZE, SIZE, 3)])
@pytest.mark.parametrize("channels", list(ChannelOrder))
def test_every_order_of_channels(tmp_path, describe, shown, kind, shape, channels):
    """Red first, blue first, or three times grey; in both layouts, as floats and as uint8."""
    found, means = shown
    takes_bytes = kind == TensorProto.UINT8
    spec = describe(
        channels=channels, **({"mean": None, "std": None} if takes_bytes else {"mean": "0.5", "std": "0.25"})
    )
    path = graph(tmp_path / "net.onnx", shape=shape, kind=kind, weights=WEIGHTS / (100 if takes_bytes else 1))
    pixels = means(spec, normalised=False)
    if channels is ChannelOrder.GREY:
        pixels = (pixels @ np.array([0.299, 0.587, 0.114]))[:, None].repeat(3, axis=1)
    ordered = pixels[:, ::-1] if channels is ChannelOrder.BGR else pixels
    values = ordered / 100 if takes_bytes else (ordered / 255 - 0.5) / 0.25
    np.testing.assert_allclose(
        predictions(path, spec, found)[0], softmax(values @ WEIGHTS[:, :2]), atol=1e-5 if kind == 1 else 1e-2
    )


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8])
@pytest.mark.parametrize("shape", [("N", 1, SIZE, SIZE), ("N", 1, "H", "W"), ("N", SIZE, SIZE, 1)])
def test_network_of_one_channel_gets_grey(tmp_path, describe, shown, kind, shape):
    """Grey as in cnnkit's own grey networks, for networks trained on MNIST."""
    found, means = shown
    takes_bytes = kind == TensorProto.UINT8
    weights = np.array([[3.0, -2.0]], dtype=np.float32) / (100 if takes_bytes else 1)
    path = graph(
        tmp_path / "net.onnx", shape=shape, kind=kind, weights=weights, axes=[2, 3] if shape[1] == 1 else [1, 2]
    )
    spec = describe(**({"mean": None, "std": None} if takes_bytes else {"mean": "0.1307", "std": "0.3081"}))
    luma = (means(spec, normalised=False) @ np.array([0.299, 0.587, 0.114]))[:, None]
    values = luma if takes_bytes else (luma / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(
        predictions(path, spec, found)[0], softmax(values @ weights), atol=1e-5 if kind == 1 else 1e-2
    )
    with pytest.raises(UsageError, match="takes one channel; drop --channels bgr"):
        predictions(path, describe(channels=ChannelOrder.BGR), found)
    if not takes_bytes:
        with pytest.raises(UsageError, match="takes one channel; give --mean and --std one number each"):
            predictions(path, describe(), found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": "123.68,116.779,103.939"}, 'mean "123.68,116.779,103.939": pixel values are 0 to 1; add --range 255'),
        ({"mean": "300", "range": PixelRange.BYTE}, 'mean "300": pixel values are 0 to 255; give a mean in that range'),
    ],
)
def test_rejects_mean_outside_of_the_pixel_range(describe, changes, message):
    """Means of 0 to 255 without --range would make every image black."""
    with pytest.raises(UsageError, match=message):
        describe(**changes).checked()


def test_duplicate_class_names_are_numbered(run, images, tmp_path, caplog):
    """ImageNet has two cranes: the list is usable, and they can be told apart."""
    labels = tmp_path / "labels.txt"
    labels.write_bytes("\ufeffcrane\r\ndog\rcrane 2\ncrane\n\ncrane\ndog\n".encode())
    path = graph(tmp_path / "net.onnx", weights=np.arange(18, dtype=np.float32).reshape(3, 6), classes=6)
    words = ["--size", SIZE, "--mean", 0.5, "--std", 0.5, "--labels", labels, "--top", 6]
    outcome = run("cnn-predict", "-m", path, *words, images(red=1))
    assert {row["label"] for row in outcome.rows} == {"crane", "dog", "crane 2", "crane 3", "crane 4", "dog 2"}
    assert '"crane" is the name of classes 1 and 4 and 5, and 1 other name is repeated; numbered as ' in outcome.err
    assert 'numbered as "crane" and "crane 3" and "crane 4"' in outcome.err


def test_rejects_labels_in_utf_16(describe, tmp_path):
    """Windows' "Unicode text" is not read as names with zeros between the letters."""
    (tmp_path / "labels.txt").write_text("cat\ndog\n", encoding="utf-16")
    with pytest.raises(CnnkitError, match=r"labels.txt: UTF-16; save it as UTF-8"):
        Predictor([graph(tmp_path / "net.onnx")], PredictConfig(device="cpu"), spec=describe())


def test_command_takes_channels_and_output(run, images, tmp_path, labels):
    """On the command line; a model made by cnnkit refuses them."""
    path = outputs(tmp_path / "net.onnx", embedding=([], EMBEDDING), logits=([], LOGITS))
    words = ["--size", SIZE, "--mean", 0.5, "--std", 0.5, "--labels", labels, "--range", 1]
    rows = {
        (channels, output): run(
            "cnn-predict", "-m", path, *words, "--channels", channels, "--output", output, images(red=1)
        ).out
        for channels in ("rgb", "bgr", "grey")
        for output in ("embedding", "logits")
    }
    assert len(set(rows.values())) == 6
    outcome = run("cnn-predict", "-m", path, *words, images(red=1))
    assert outcome.out == rows["rgb", "logits"]
    assert "net.onnx has the outputs embedding and logits with 2 numbers per image: using logits" in outcome.err


@pytest.mark.parametrize("missing", [["size"], ["mean", "std"], ["labels"], ["size", "mean", "std", "labels"]])
def test_missing_options_are_named(tmp_path, describe, missing):
    """All of them, and no others."""
    path = graph(tmp_path / "net.onnx")
    with pytest.raises(UsageError) as error:
        Predictor([path], spec=describe(**dict.fromkeys(missing)))
    assert "no cnnkit header" in str(error.value)
    for option in ("size", "mean", "std", "labels"):
        assert (f"--{option}" in str(error.value)) == (option in missing)


@pytest.mark.parametrize(
    ("made", "changes", "message"),
    [
        ({}, {"size": "16"}, "takes 8 x 8 pixels; --size is 16"),
        ({}, {"size": "8x8"}, 'no cnnkit header; --size must be the side of its input in pixels, not "8x8"'),
        ({}, {"size": "native"}, 'not "native"'),
        ({}, {"size": "0"}, 'not "0"'),
        ({"shape": ("N", 4, "H", "W")}, {}, "expected images with three channels or one"),
        ({"shape": ("N", 3, "H", "W", "D")}, {}, "expected images with three channels or one"),
        ({"classes": 1, "last": [("Concat3", {})]}, {}, "ONNX Runtime cannot run it"),
        (
            {"weights": np.ones((3, 5), dtype=np.float32), "classes": 5},
            {},
            r"value0 \(float32, shape \(5\)\) for one image, but .* 2 classes",
        ),
        ({"kind": TensorProto.INT64}, {}, r"tensor\(int64\)"),
        ({"shape": ("N", 3, "H", "W"), "axes": [1, 2]}, {}, "does not run on 8 x 8 pixels"),
    ],
    ids=["size", "rectangle", "native", "none", "four", "vector", "broken", "classes", "integers", "runs not"],
)
def test_options_that_contradict_the_network(tmp_path, describe, made, changes, message):
    """The error is one line with both values."""
    path = graph(tmp_path / "net.onnx", **made)
    with pytest.raises(CnnkitError, match=message) as error:
        Predictor([path], PredictConfig(device="cpu"), spec=describe(**changes))
    assert "net.onnx" in str(error.value)


def test_images_that_pooling_leaves_nothing_of_are_too_small(tmp_path, describe):
    """In its layouts of 8 or 16 channels, ONNX Runtime would divide by zero, which ends the process."""
    path = tmp_path / "net.onnx"
    nodes = [
        helper.make_node("Conv", ["images", "filters"], ["conv"], kernel_shape=[3, 3]),
        helper.make_node("MaxPool", ["conv"], ["pooled"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Conv", ["pooled", "weights"], ["maps"], kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["logits"]),
    ]
    filters = np.random.default_rng(0).normal(size=(16, 3, 3, 3)).astype(np.float32)
    arrays = [
        numpy_helper.from_array(filters, "filters"),
        numpy_helper.from_array(filters[:2, :1, :1, :1].repeat(16, 1), "weights"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, "H", "W"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])
    made = helper.make_graph(nodes, "net", [images], [logits], arrays)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    with pytest.raises(CnnkitError, match=r"net\.onnx does not run on 3 x 3 pixels"):
        Predictor([path], PredictConfig(device="cpu"), spec=describe(size="3"))
    Predictor([path], PredictConfig(device="cpu"), spec=describe(size="5"))


def test_rejects_networks_with_two_inputs(tmp_path, describe):
    """There must be one input, of images."""
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
    """One number stands for all three channels."""
    assert parse_channels(text, option="--mean") == expected


@pytest.mark.parametrize("text", ["", "a", "1,2", "1,2,3,4", "nan", "inf,0,0", "0,1,1"])
def test_rejects_other_channels(text):
    """The message has the option and its value; a standard deviation must be above zero."""
    with pytest.raises(UsageError, match=f'--std "{text}": give three numbers above zero'):
        parse_channels(text, option="--std")
