"""cnn-export --int8: accuracy on held-out images, layers that stay in float32, and commands that take the result."""

import ast
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from cnnkit.data import preprocessing
from cnnkit.data.source import ImageFile
from cnnkit.engine import export, export_int8
from cnnkit.errors import CnnkitError
from cnnkit.formats import onnx_model, torch_model
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import backbones
from cnnkit.nets import classifier as classifiers

TEXT = "conv 6 k3 relu, conv 8 k3 relu, conv 8 k3 relu, conv 8 k3 relu, conv 8 k3 relu"
CPU = ("--device", "cpu", "--batch", "4")
EXPORTED: dict[object, onnx.ModelProto] = {}
INT8 = ("--int8", "--calibrate", "split.tsv", *CPU)


def write(name, paths, *, outliers=()):
    """Write a classifier of red and blue images; its head is fitted by least squares.

    With `outliers`, one channel after each of these layers is a million times as large, and the weights that read it as much smaller: the
    function stays the same, but with one scale for all channels the others round to nothing.
    """
    extractor, backbone, preprocess = backbones.by_notation(TEXT, size=16, seed=1)
    head = classifiers.build_head("dense 2 softmax", (8,))
    state = {f"base.{key}": value.clone() for key, value in extractor.state_dict().items()}
    state |= {f"head.{key}": value.clone() for key, value in head.state_dict().items()}
    for key, value in state.items():  # torch's exporter drops biases of zero
        if key.startswith("base.") and key.endswith(".bias"):
            value += torch.linspace(0.01, 0.05, len(value))
    for number in outliers:
        for kind in ("weight", "bias"):
            state[f"base.conv{number}.{kind}"][0] *= 1e6
        state[f"base.conv{number + 1}.weight"][:, 0] /= 1e6
    header = Header(ArtefactKind.MODEL, ("blue", "red"), preprocess, backbone, "dense 2 softmax", {})
    pixels = np.stack([preprocessing.load(path, preprocess) for path in paths])
    network = classifiers.from_header(header, state, name=name)
    with torch.no_grad():
        features = network.features(torch.from_numpy(pixels)).double()
    wanted = torch.tensor([[-5.0, 5.0] if "red" in str(path) else [5.0, -5.0] for path in paths], dtype=torch.float64)
    solved = torch.linalg.lstsq(torch.cat([features, torch.ones(len(features), 1)], 1), wanted).solution
    weight, bias = (key for key in state if key.startswith("head."))
    state[weight], state[bias] = solved[:-1].T.float().contiguous(), solved[-1].float()
    torch_model.save(name, TorchModel(header, state))


@pytest.fixture
def here(tmp_path, monkeypatch, images):
    """A working folder with images of two splits and a model of them."""
    images(red=12, blue=12)
    monkeypatch.chdir(tmp_path)
    paths = sorted(Path("photos").rglob("*.png"))
    rows = [f"{path}\t{path.parent.name}\t{'val' if number % 2 else 'train'}\n" for number, path in enumerate(paths)]
    Path("split.tsv").write_text("path\tlabel\tsplit\n" + "".join(rows))
    write("model.pt", paths)
    return paths


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Export networks that differ only in weights once: the exporter takes seconds."""
    real = export.to_onnx

    def remembered(module, example, *, inputs, outputs, opset=None, free=export.BATCH_AXIS):
        key = (tuple(outputs), tuple(example.shape[1:]), tuple(free))
        if key not in EXPORTED:
            EXPORTED[key] = real(module, example, inputs=inputs, outputs=outputs, opset=opset, free=free)
        proto = onnx.ModelProto.FromString(EXPORTED[key].SerializeToString())
        weights = module.state_dict()
        for tensor in proto.graph.initializer:
            if tensor.name in weights:
                tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name].numpy(), tensor.name))
        return proto

    monkeypatch.setattr(export, "to_onnx", remembered)


def record(name):
    return onnx_model.load(name).header.training["int8"]


def test_commands_take_the_int8_network(run, here):
    """The rows agree with cnn-eval; inputs and outputs keep names and types; cnn-predict, -calibrate, -cam and -dims work."""
    done = run("cnn-export", "model.pt", "-o", "int8.onnx", "--cam", "--features", *INT8)
    float32, int8 = done.rows
    assert [row["network"] for row in done.rows] == ["float32", "int8"]
    assert "layers in float32: head.dense1" in done.err
    assert "accuracy is measured on only 12 images, one of which is a larger share than --max-drop 0.01" in done.err
    proto = onnx.load("int8.onnx")
    session = onnxruntime.InferenceSession("int8.onnx", providers=["CPUExecutionProvider"])
    assert [(item.name, item.type) for item in session.get_inputs()] == [("images", "tensor(uint8)")]
    assert [(item.name, item.type) for item in session.get_outputs()] == [
        (name, "tensor(float)") for name in ("probabilities", "logits", "features", "cam")
    ]
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    kinds = {name: tensor.data_type for name, tensor in weights.items() if len(tensor.dims) == 4}
    assert sum(kind == onnx.TensorProto.INT8 for kind in kinds.values()) == 5 == int(int8["int8_layers"])
    scales = [
        node.input[1] for node in proto.graph.node if node.input[0] in kinds and node.op_type == "DequantizeLinear"
    ]
    assert [list(weights[name].dims) for name in scales] == [[6], *[[8]] * 4]  # one for each output channel
    assert {item.domain for item in proto.opset_import} == {""}

    Path("predictions.tsv").write_text(
        run("cnn-predict", "-m", "int8.onnx", "split.tsv", "--split", "val", "--top", "all", *CPU).out
    )
    (report, *_) = run(
        "cnn-eval", "predictions.tsv", "--truth", "split.tsv", "--split", "val", "--json"
    ).out.splitlines()
    assert json.loads(report)["accuracy"] == float(int8["accuracy"]) == 1
    found = record("int8.onnx")
    assert (found["calibration_images"], found["images"], found["bytes"]) == (12, 12, Path("int8.onnx").stat().st_size)
    assert found["log_loss"] == pytest.approx(float(int8["log_loss"]), rel=1e-4)
    assert found["bytes_float32"] == int(float32["bytes"])
    Path("split.tsv").write_text(Path("split.tsv").read_text().replace("\tred\tval", "\tblue\tval", 1))  # one error
    truth = ("--truth", "split.tsv", "--split", "val")
    run("cnn-calibrate", "predictions.tsv", *truth, "-m", "int8.onnx", "-o", "calibrated.onnx")
    assert record("calibrated.onnx") == found
    run("cnn-cam", "-m", "int8.onnx", str(here[0]), "-o", "cams", "--device", "cpu")
    dims = {name: run("cnn-dims", name).rows for name in ("int8.onnx", "model.pt")}
    layers = {name: [row for row in rows if row["layer"].startswith("conv")] for name, rows in dims.items()}
    measured = [
        [
            (row["layer"], row["params"], row["macs"], row["receptive_field"])
            for row in layers[name]
            if int(row["params"])
        ]
        for name in dims
    ]
    assert len(measured[0]) == 5
    assert measured[0] == measured[1]

    content, (here_again,) = Path("int8.onnx").read_bytes(), [Path("split.tsv")]
    here_again.write_text(here_again.read_text().replace("photos/red/01.png\tblue", "photos/red/01.png\tred"))
    run("cnn-export", "model.pt", "-o", "int8.onnx", "--cam", "--features", *INT8)
    assert Path("int8.onnx").read_bytes() == content


def test_layers_with_large_errors_stay_in_float32(run, here):
    """Where one scale cannot represent the input of a layer, accuracy drops to chance, and that layer alone is kept."""
    write("model.pt", here, outliers=[2])
    int8 = run("cnn-export", "model.pt", "-o", "int8.onnx", *INT8).rows[1]
    assert "conv3" in record("int8.onnx")["float32_layers"]
    assert float(int8["accuracy"]) == 1
    assert 0 < int(int8["int8_layers"]) < 5
    loose = run("cnn-export", "model.pt", "-o", "loose.onnx", *INT8, "--max-drop", "1").rows[1]
    assert float(loose["accuracy"]) < 0.9
    assert record("loose.onnx")["float32_layers"] == ["head.dense1"]


def test_writes_nothing_if_accuracy_drops(run, here):
    """Exit status 1 and one line with both accuracies, if half of the layers in float32 do not suffice."""
    write("model.pt", here, outliers=[2, 3, 4])
    outcome = run("cnn-export", "model.pt", "-o", "int8.onnx", *INT8, status=1)
    assert outcome.out == ""
    assert "in int8, also with 2 of 5 layers in float32, accuracy on 12 images drops from 1 to " in outcome.err
    assert "more than --max-drop 0.01; nothing written" in outcome.err
    assert not Path("int8.onnx").exists()


def test_normalized_input_and_any_size(run, here):
    """--input float, --dynamic-size and --verify work with --int8; a broken image is skipped, and not counted."""
    here[1].write_bytes(b"no image")
    words = ("--input", "float", "--dynamic-size", "--verify", "photos")
    outcome = run("cnn-export", "model.pt", "-o", "int8.onnx", *words, *INT8, status=3)
    assert [(row["network"], row["rows"]) for row in outcome.rows] == [("float32", "11"), ("int8", "11")]
    assert f"{here[1]}: " in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--int8",), "--int8 needs --calibrate SOURCE"),
        (("--calibrate", "photos"), "--calibrate needs --int8"),
        (("--max-drop", "0.01"), "--max-drop needs --int8"),
        (("--int8", "--calibrate", "photos", "--fp16"), "--int8 and --fp16 are two precisions"),
        (("--int8", "--calibrate", "photos", "--head-only"), "--head-only exports only the head"),
        (("--int8", "--calibrate", "photos", "--device", "cuda"), "--int8 is for CPUs"),
        (("--int8", "--calibrate", "photos", "--split", "val"), "--split needs --verify SOURCE"),
    ],
)
def test_contradicting_options(run, here, words, message):
    """One line, and nothing is written."""
    outcome = run("cnn-export", "model.pt", "-o", "int8.onnx", *words, status=2)
    assert outcome.err.startswith(f"cnn-export: {message}")
    assert outcome.err.count("\n") == 1
    assert not Path("int8.onnx").exists()


def test_calibration_images_are_not_held_out(caplog):
    """Splits train and val; without splits, every other image; never one in both, and no more than the limit."""
    images = [ImageFile(f"{number}.png", "ab"[number % 2], "train" if number % 3 else "val") for number in range(900)]
    used, held_out = export_int8.divided(images, ["a", "b"], source="x")
    assert len(used) == export_int8.CALIBRATION_IMAGES
    assert {image.split for image in used} == {"train"}
    assert held_out == [image for image in images if image.split == "val"]
    assert sum(image.label == "a" for image in used) == pytest.approx(len(used) / 2, abs=2)
    caplog.set_level("INFO", logger="cnnkit")
    tested = [*images, ImageFile("900.png", "a", "test"), ImageFile("901.png", "a")]
    assert export_int8.divided(tested, ["a", "b"], source="x") == (used, held_out)
    assert "x: 2 images not in train or val left out" in caplog.text
    bare = [ImageFile(image.path, image.label) for image in images]
    used, held_out = export_int8.divided(bare, ["a", "b"], source="x")
    assert not {image.path for image in used} & {image.path for image in held_out}
    assert len(held_out) == 450
    for wrong, message in [
        ([ImageFile("1", "a", "train")], "no images of split val, only train; .* cnn-split --ratio 8,2"),
        ([ImageFile("1", "a", "val"), ImageFile("2", "a", "test")], "no images of split train, only test, val"),
        ([ImageFile("1", "a")], "only one image; --int8 measures ranges and accuracy on different images"),
        ([ImageFile("1"), ImageFile("2")], "no held-out image has a class of the model"),
        ([ImageFile("1", "a", "train"), ImageFile("1", "a", "val")], "no image is left to calibrate on"),
    ]:
        with pytest.raises(CnnkitError, match=message):
            export_int8.divided(wrong, ["a", "b"], source="x")


def test_quantizer_is_imported_only_for_int8():
    """At the top of a module, only export_int8 imports it, and no module imports that one there: the import takes a second."""
    importers = set()
    for path in sorted(Path(export.__file__).parents[1].rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body if "quantiz" in text or "export_int8" in text else ():
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = getattr(node, "module", None) or ""
            if any(word in f"{module}.{name}" for name in names for word in ("quantiz", "export_int8")):
                importers.add(path.stem)
    assert importers == {"quantize", "export_int8"}
