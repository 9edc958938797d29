"""Networks that whiten their images, --normalize zca and pca, through all commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA

from cnnkit.data import preprocessing
from cnnkit.formats import onnx_model, torch_model
from cnnkit.nets import classifier

NET = "conv 4 k3 same relu, pool 2, conv 6 k3 relu, conv 4 k3 p1 relu, gap"
FAST = ("--size", "8", "--device", "cpu", "--batch", "8", "--lr", "0.01", "--amp", "off")
CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def trained(made):
    """Make a folder with photos/train, photos/val, zca.pt trained on them, and zca.onnx."""
    return made(
        ("cnn-train", "photos", "-o", "zca.pt", "--layers", NET, "--normalize", "zca", "--epochs", "2", *FAST),
        ("cnn-export", "zca.pt", "-o", "zca.onnx", *CPU),
        photos={"train": {"red": 14, "blue": 13}, "val": {"red": 5, "blue": 5}},
    )


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """Work in a copy of that folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(name="zca.pt"):
    model = torch_model.load(name)
    return classifier.from_header(model.header, model.state, name=name)


def pixels(network, folder):
    paths = sorted(Path(folder).rglob("*.png"))
    return torch.from_numpy(np.stack([preprocessing.load(path, network.preprocess) for path in paths]))


def test_pca_is_fitted_on_the_training_images_as_scikit_learn_does(run, here):
    """Not on the augmented ones, nor on those for validation; the bytes depend neither on the threads nor on --cache."""
    words = ("--normalize", "pca", "--whiten-epsilon", "1e-6", "--layers", "flatten, dense 4 relu", "--epochs", "1")
    for name, jobs in (("a", ("--jobs", "1")), ("b", ("--jobs", "3", "--cache", "0"))):
        run("cnn-train", "photos", "-o", f"{name}.pt", *FAST, *words, "--augment", "rotate 20", *jobs)
    assert Path("a.pt").read_bytes() == Path("b.pt").read_bytes()
    network = opened("a.pt")
    with torch.no_grad():
        scaled = network.normalise(pixels(network, "photos/train"))
        found = network.base.upto("whiten")(scaled).flatten(1)
    fitted = PCA(whiten=True, svd_solver="full").fit(scaled.flatten(1).double())
    expected = fitted.transform(scaled.flatten(1).double())
    real = fitted.explained_variance_ > 1e-3 * fitted.explained_variance_.sum() / 192  # fewer images than components
    assert 5 < real.sum() < 27
    np.testing.assert_allclose(found[:, : len(real)][:, real], expected[:, real], atol=2e-3)
    assert opened("a.pt").preprocess.mean == (0.0, 0.0, 0.0)


def test_header_has_the_whitening(run, here):
    """In the `.pt` and in the exported file; others have no such field."""
    for header in (torch_model.load("zca.pt").header, onnx_model.load("zca.onnx").header):
        assert json.loads(header.to_json())["backbone"]["whiten"] == "zca"
        assert (header.training["normalize"], header.training["whiten_epsilon"]) == ("zca", 1.0)
    run("cnn-train", "photos", "-o", "plain.pt", "--layers", NET, "--epochs", "1", *FAST)
    plain = json.loads(torch_model.load("plain.pt").header.to_json())
    assert "whiten" not in plain["backbone"]
    assert "whiten_epsilon" not in plain["training"]


def test_exported_network_predicts_as_torch(run, here):
    """Also in float16, where whitening stays in float32, and with scaled pixels as input."""
    network = opened()
    with torch.no_grad():
        shares = classifier.class_logits(network(pixels(network, "photos/val"))).softmax(1).numpy()
    for name, words, precision in (
        ("zca.onnx", None, 1e-5),
        ("half.onnx", ("--fp16",), 5e-3),
        ("float.onnx", ("--input", "float"), 1e-5),
    ):
        if words is not None:
            run("cnn-export", "zca.pt", "-o", name, *words, *CPU)
        rows = run("cnn-predict", "-m", name, "photos/val", "--top", "2", *CPU).rows
        found = [float(row["probability"]) for row in sorted(rows, key=lambda row: (row["path"], row["label"]))]
        np.testing.assert_allclose(found, shares.ravel(), atol=precision)


def test_dims_of_a_whitening_layer(run, here):
    """Its matrix is not a parameter; every value depends on the whole image."""
    rows = {}
    for name in ("zca.pt", "zca.onnx"):
        table = {row["layer"]: row for row in map(json.loads, run("cnn-dims", name, "--json").out.splitlines())}
        row = table["whiten"]
        assert (row["kind"], row["height"], row["width"], row["channels"]) == ("whiten", 8, 8, 3)
        assert (row["params"], row["macs"], row["receptive_field"]) == (0, (8 * 8 * 3) ** 2, 8)
        rows[name] = table["total"]
    assert rows["zca.pt"]["params"] == rows["zca.pt"]["trainable"] == rows["zca.onnx"]["params"]
    assert rows["zca.pt"]["macs"] == rows["zca.onnx"]["macs"]


def test_int8_leaves_whitening_in_float32(run, here):
    """The quantized file has the matrix unchanged, and at least one convolution in int8."""
    words = ("--int8", "--calibrate", "photos", "--max-drop", "1")
    run("cnn-export", "zca.pt", "-o", "int8.onnx", *words, *CPU)
    graph = onnx_model.parse(Path("int8.onnx").read_bytes(), name="int8.onnx").graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    assert list(stored["base.whiten.matrix"].dims) == [192, 192]
    assert any(name.endswith("_quantized") for name in stored)
    assert not any("whiten" in name and name.endswith("_quantized") for name in stored)


def test_resumed_and_fine_tuned_networks_keep_the_whitening(run, here):
    """--resume gives the same bytes; cnn-finetune, also with averaged weights, does not change mean and matrix."""
    words = ("--layers", NET, "--normalize", "zca", *FAST)
    run("cnn-train", "photos", "-o", "again.pt", *words, "--epochs", "2", "--ema", "0.9")
    whitening = {name: value for name, value in torch_model.load("again.pt").state.items() if "whiten" in name}
    assert set(whitening) == {"base.whiten.mean", "base.whiten.matrix"}
    run("cnn-finetune", "again.pt", "photos", "-o", "tuned.pt", *CPU, "--epochs", "1", "--unfreeze", "conv2")
    for name in ("zca.pt", "tuned.pt"):
        state = torch_model.load(name).state
        assert all(torch.equal(state[key], value) for key, value in whitening.items())


def test_maps_and_attacks(run, here):
    """cnn-maps shows whitened images by name, also of the exported network; cnn-attack follows the gradient through the matrix."""
    path = min(Path("photos/val/red").iterdir())
    row, exported = (
        run("cnn-maps", "-m", name, path, "--layer", "whiten", *CPU).rows[0] for name in ("zca.pt", "zca.onnx")
    )
    assert float(exported["maximum"]) == pytest.approx(float(row["maximum"]), rel=1e-4)
    network = opened()
    image = torch.tensor(preprocessing.load(path, network.preprocess))[None]
    with torch.no_grad():
        white = network.base.upto("whiten")(network.normalise(image))
    assert (row["shape"], float(row["maximum"])) == ("3x8x8", pytest.approx(float(white.max()), rel=1e-4))
    assert "whiten" not in run("cnn-maps", "-m", "zca.pt", path, "-o", "others", *CPU).out
    rows = run("cnn-attack", "-m", "zca.pt", "photos/val", "--epsilon", "8", "-o", "adversarial", *CPU).rows
    labels = torch.tensor([sorted(("red", "blue")).index(row["label"]) for row in rows])
    given = np.stack([preprocessing.load(row["path"], network.preprocess) for row in rows])
    made = np.stack([np.asarray(Image.open(row["adversarial"])) for row in rows])
    floats = torch.tensor(given, dtype=torch.float32, requires_grad=True)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(network(floats), labels), floats)
    assert gradient.any()
    clear = gradient.abs().numpy() > 1e-7  # zero, up to rounding, where no filter is active
    expected = np.clip(given + 8.0 * gradient.sign().numpy(), 0, 255)
    np.testing.assert_array_equal(made[clear], expected[clear])


def test_other_sizes_are_refused(run, here):
    """The matrix is for one size: messages name it, or how to train without it."""
    (path, *_) = Path("photos/val/red").iterdir()
    train = ("cnn-train", "photos", "-o", "m.pt", "--layers", NET, "--normalize", "zca", *FAST)
    for words, message in (
        (("cnn-export", "zca.pt", "-o", "any.onnx", "--dynamic-size", *CPU), "export it without --dynamic-size"),
        (("cnn-cam", "-m", "zca.pt", path, "-o", "maps", "--size", "16", *CPU), "takes only those of 8x8 pixels"),
        ((*train, "--val-size", "12"), "only those of its training size, 8 pixels"),
    ):
        found = run(*words, status=None)
        assert found.status in (1, 2)
        assert message in found.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--size", "40", "--normalize", "zca", "--layers", NET),
            "give --size 36 or smaller, with --grey 64 or smaller",
        ),
        (("--normalize", "zca", "--layers", NET), "at 150 pixels"),
        (("--size", "8", "--normalize", "pca", "--layers", NET), 'use --normalize zca, or write "flatten"'),
        (("--size", "8", "--normalize", "zca", "--arch", "resnet18"), "goes with --layers"),
        (("--size", "8", "--layers", NET, "--whiten-epsilon", "0.1"), "goes with --normalize zca or pca"),
    ],
)
def test_contradictions(run, here, words, message):
    """Messages of one line, before images are read."""
    assert message in run("cnn-train", "photos", "-o", "m.pt", *words, status=2).err


def test_forged_header_does_not_allocate_a_large_matrix(here):
    """The size is bounded before the matrix is built."""
    model = torch_model.load("zca.pt")
    preprocess = {**json.loads(model.header.to_json())["preprocess"], "size": 400}
    header = type(model.header).from_record(
        {**json.loads(model.header.to_json()), "preprocess": preprocess}, name="forged"
    )
    with pytest.raises(classifier.FormatError, match="at most 4,096 values"):
        classifier.from_header(header, model.state, name="forged")
