"""cnn-dream: activations increase, sizes, seeds and error messages."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnkit.explain.config import DreamOptions
from cnnkit.formats import torch_model
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import backbones
from cnnkit.nets import classifier as classifiers

CPU = ("--device", "cpu")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with an untrained network, m.pt, and an image of 60x44, sky.png."""
    monkeypatch.chdir(tmp_path)
    extractor, backbone, preprocess = backbones.by_notation(
        "conv 6 k5 relu, pool 2, conv 8 k3 bn relu", size=24, seed=1
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = classifiers.build_head("dense 2 softmax", (8,))
    state = {f"base.{key}": value for key, value in extractor.state_dict().items()}
    state |= {f"head.{key}": value for key, value in head.state_dict().items()}
    header = Header(ArtefactKind.MODEL, ("a", "b"), preprocess, backbone, "dense 2 softmax", {"command": "cnn-train"})
    torch_model.save("m.pt", TorchModel(header, state))
    generator = np.random.default_rng(5)
    values = np.linspace(60, 200, 60)[None, :, None] + generator.normal(0, 8, (44, 60, 3))
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save("sky.png")
    return tmp_path


def dream(run, *words, image="sky.png"):
    """Run, and return the record."""
    outcome = run("cnn-dream", "m.pt", image, "-o", "dream.png", *CPU, *words, "--json")
    assert outcome.err == ""
    (record,) = map(json.loads, outcome.out.splitlines())
    return record


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize("octaves", [1, 3])
@pytest.mark.parametrize("chosen", [None, "0,5"])
def test_activations_are_strengthened(run, here, octaves, chosen):
    """The dream has the size of the image; the mean square of the activations of the filters is as recorded, and increases."""
    words = ("--layer", "pool1", "--octaves", octaves, "--steps", "6", *(("--filters", chosen) if chosen else ()))
    record = dream(run, *words)
    assert (record["layer"], record["image"], record["size"]) == ("pool1", "sky.png", "44x60")
    assert pixels("dream.png").shape == (44, 60, 3)
    loaded = torch_model.load("m.pt")
    network = classifiers.from_header(loaded.header, loaded.state, name="m.pt").eval()
    squares = []
    for path in ("sky.png", "dream.png"):
        with torch.no_grad():
            found = network.normalise(torch.tensor(pixels(path))[None])
            for module in (network.base.conv1, network.base.conv1_relu, network.base.pool1):
                found = module(found)
        squares.append(float((found if chosen is None else found[:, [0, 5]]).square().mean()))
    assert [record["start"], record["activation"]] == pytest.approx(squares, rel=1e-2)
    assert squares[1] > 1.5 * squares[0]


def test_size_is_the_longer_side(run, here):
    """By default that of the image, and 512 for larger ones."""
    words = ("--layer", "conv1", "--octaves", "1", "--steps", "1")
    assert dream(run, *words, "--size", "30")["size"] == "22x30"
    assert pixels("dream.png").shape == (22, 30, 3)
    Image.fromarray(pixels("sky.png")).resize((600, 440)).save("large.png")
    assert dream(run, *words, image="large.png")["size"] == "375x512"


def test_same_seed_gives_same_bytes(run, here):
    """Only the jitter is random: without it, the seed has no effect."""
    words = ("--layer", "conv1", "--octaves", "2", "--steps", "3")
    contents = []
    for extra in ((), (), ("--seed", "1"), ("--jitter", "0"), ("--jitter", "0", "--seed", "1")):
        dream(run, *words, *extra)
        contents.append(Path("dream.png").read_bytes())
    assert contents[0] == contents[1] != contents[2]
    assert contents[3] == contents[4]


def test_options_default_to_those_of_the_library(run, here):
    """Each option has the default of the field of its name."""
    usual = DreamOptions()
    names = ("steps", "rate", "jitter", "blur", "octaves", "octave-scale")
    words = [word for name in names for word in (f"--{name}", getattr(usual, name.replace("-", "_")))]
    first = dream(run, "--layer", "conv1"), Path("dream.png").read_bytes()
    assert (dream(run, "--layer", "conv1", *words), Path("dream.png").read_bytes()) == first


def test_every_step_option_matters(run, here):
    """Zero rate changes nothing; rate and blur change the pixels."""
    words = ("--layer", "conv1", "--octaves", "1", "--steps", "2", "--jitter", "0")
    dream(run, *words, "--rate", "0")
    np.testing.assert_array_equal(pixels("dream.png"), pixels("sky.png"))
    found = []
    for extra in (("--rate", "2"), ("--rate", "4"), ("--rate", "2", "--blur", "1")):
        dream(run, *words, *extra)
        found.append(np.abs(np.diff(pixels("dream.png").astype(float), axis=0)).mean())
    assert found[2] < found[0] < found[1]


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (("m.onnx", "sky.png", "-o", "d.png"), 2, "m.onnx: an exported network has no gradients; give the .pt it was made from"),
        (("m.pt", "sky.png", "-o", "d.png", "--layer", "cov1"), 2, 'm.pt has no layer "cov1"'),
        (("m.pt", "sky.png", "-o", "d.png", "--layer", "bn1", "--filters", "8"), 2, "--filters 8: bn1 has 8"),
        (("m.pt", "sky.png", "-o", "d.png", "--layer", "bn1", "--octaves", "9"), 2, "images of 3x4 are too small"),
        (("m.pt", "sky.png", "-o", "d.png", "--layer", "conv1", "--blur", "50"), 2, "--blur 50"),
        (("m.pt", "sky.png", "-o", "d.png", "--size", "big"), 2, '--size "big"'),
        (("m.pt", "sky.png", "-o", "sky.png"), 2, "-o sky.png would overwrite the image"),
        (("m.pt", "sky.png", "-o", "d.jpg"), 2, "-o d.jpg"),
        (("m.pt", "none.png", "-o", "d.png"), 1, "none.png: no such file or directory"),
        (("none.pt", "sky.png", "-o", "d.png"), 1, "none.pt: No such file or directory"),
        (("-m", "none.pt", "sky.png", "-o", "d.png"), 1, "none.pt: No such file or directory"),
        (("sky.png", "-m", "m.pt", "none.png", "-o", "d.png"), 2, "two models are given, sky.png and -m m.pt; drop one"),
        (("sky.png", "-o", "d.png"), 2, "arguments are missing; give MODEL IMAGE, or -m MODEL IMAGE"),
    ],
)  # fmt: skip
def test_rejects_invalid_options(run, here, words, status, line):
    """Each error is one line; nothing is printed or written."""
    before = {path: Path(path).read_bytes() for path in sorted(os.listdir())}
    outcome = run("cnn-dream", *words, *CPU, status=status)
    assert outcome.err.startswith(f"cnn-dream: {line}")
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""
    assert {path: Path(path).read_bytes() for path in sorted(os.listdir())} == before


@pytest.mark.parametrize("output", ["d.jpg", "nowhere/d.png"])
def test_rejects_output_before_loading_the_network(run, here, monkeypatch, output):
    """A name that is not .png, or in a folder that does not exist."""
    monkeypatch.setattr(
        "cnnkit.explain.load_network.load_network", lambda *_, **__: pytest.fail("the network was loaded")
    )
    outcome = run("cnn-dream", "m.pt", "sky.png", "-o", output, *CPU, status=None)
    assert outcome.status in (1, 2)
    assert outcome.err.count("\n") == 1
    assert output.split("/")[0] in outcome.err


@pytest.mark.parametrize("size", ["32x48", "0", "-3", "ten", "1e3", "48,48"])
def test_the_size_of_a_dream_is_its_longer_side(run, tmp_path, monkeypatch, images, size):
    """Only one number of pixels."""
    photos = images(red=1)
    error = run(
        "cnn-dream",
        "alexnet",
        photos / "red/00.png",
        "--weights",
        "none",
        "-o",
        tmp_path / "d.png",
        f"--size={size}",
        status=2,
    ).err
    assert f'--size "{size}": give one number, the longer side of the dream in pixels' in error
