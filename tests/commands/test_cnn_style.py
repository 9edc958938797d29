"""cnn-style: the result, its losses, sizes, seeds and error messages."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnkit.explain.config import StyleOptions
from cnnkit.formats import torch_model
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import backbones
from cnnkit.nets import classifier as classifiers

CPU = ("--device", "cpu")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with an untrained network, m.pt, an image of 60x44, sky.png, and another one, paint.jpg."""
    monkeypatch.chdir(tmp_path)
    extractor, backbone, preprocess = backbones.by_notation("conv 6 k5 relu, pool 2, conv 8 k3 relu", size=24, seed=1)
    head = classifiers.build_head("dense 2 softmax", (8,))
    state = {f"base.{key}": value for key, value in extractor.state_dict().items()}
    state |= {f"head.{key}": value for key, value in head.state_dict().items()}
    header = Header(ArtefactKind.MODEL, ("a", "b"), preprocess, backbone, "dense 2 softmax", {"command": "cnn-train"})
    torch_model.save("m.pt", TorchModel(header, state))
    generator = np.random.default_rng(5)
    values = np.linspace(60, 200, 60)[None, :, None] + generator.normal(0, 8, (44, 60, 3))
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save("sky.png")
    stripes = 90 + 80 * np.sign(np.sin(np.arange(50) / 2))[:, None, None] * np.array([1, -0.5, 0.3])
    Image.fromarray(stripes.repeat(50, 1).clip(0, 255).astype(np.uint8)).save("paint.jpg")
    return tmp_path


def style(run, *words, image="sky.png"):
    """Run, and return the records."""
    outcome = run("cnn-style", image, "--style", "paint.jpg", "-m", "m.pt", "-o", "out.png", *CPU, *words, "--json")
    assert outcome.err == ""
    return [json.loads(line) for line in outcome.out.splitlines()]


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize("words", [(), ("--optimizer", "adam"), ("--start", "noise")])
def test_style_is_taken(run, here, words):
    """The style loss falls; the result has the size of the content image and hardly its pixels."""
    records = style(run, "--steps", "20", "--style-weight", "5", *words)
    assert [record["step"] for record in records] == list(range(0, 21, 2))
    assert list(records[0]) == ["step", "loss", "content", "style", "tv"]
    assert records[-1]["style"] < 0.5 * records[0]["style"]
    assert (records[0]["content"] == 0) == (words[:1] != ("--start",))
    assert pixels("out.png").shape == (44, 60, 3)
    assert np.abs(pixels("out.png").astype(int) - pixels("sky.png")).mean() > 2


def test_without_style_noise_becomes_the_content(run, here):
    """With the content loss alone, activations approach those of the content image."""
    records = style(
        run, "--steps", "60", "--start", "noise", "--style-weight", "0", "--tv-weight", "0", "--content-layer", "conv1"
    )
    assert records[-1]["content"] < 0.02 * records[0]["content"]
    found = np.corrcoef(pixels("out.png").flatten(), pixels("sky.png").flatten())[0, 1]
    assert found > 0.5


def test_size_is_the_longer_side(run, here):
    """By default that of the content image, and 512 for larger ones."""
    style(run, "--steps", "1", "--size", "30")
    assert pixels("out.png").shape == (22, 30, 3)
    Image.fromarray(pixels("sky.png")).resize((600, 440)).save("large.png")
    style(run, "--steps", "1", "--optimizer", "adam", "--style-layer", "conv1", image="large.png")
    assert pixels("out.png").shape == (375, 512, 3)


def test_same_seed_gives_same_bytes(run, here):
    """Only noise is random."""
    found = []
    for words in ((), (), ("--start", "noise"), ("--start", "noise"), ("--start", "noise", "--seed", "1")):
        records = style(run, "--steps", "3", *words)
        found.append((records, Path("out.png").read_bytes()))
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert found[3] != found[4]


def test_options_default_to_those_of_the_library(run, here):
    """Each option has the default of the field of its name."""
    usual = StyleOptions()
    names = ("content-weight", "style-weight", "tv-weight", "start", "optimizer")
    words = [word for name in names for word in (f"--{name}", getattr(usual, name.replace("-", "_")))]
    assert style(run, "--steps", "2", *words) == style(run, "--steps", "2")


def test_every_weight_matters(run, here):
    """A larger weight gives a smaller loss."""
    for name in ("content", "style", "tv"):
        low, high = (style(run, "--steps", "10", f"--{name}-weight", weight)[-1][name] for weight in ("0.1", "1000"))
        assert high < low


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (("sky.png", "-m", "m.onnx"), 2, "m.onnx: an exported network has no gradients; give the .pt it was made from"),
        (("sky.png", "-m", "m.pt", "--style-layer", "cov1"), 2, 'm.pt has no layer "cov1"'),
        (("sky.png", "-m", "m.pt", "--content-layer", "head.dense1"), 2, "head.dense1 of m.pt outputs a vector, not maps"),
        (("sky.png", "-m", "m.pt", "--size", "4"), 2, "images of 3x4 are too small for conv2; give a larger --size"),
        (("sky.png", "-m", "m.pt", "--size", "big"), 2, '--size "big": give one number, the longer side of the result'),
        (("sky.png", "-m", "m.pt", "--rate", "1"), 2, "--rate is the learning rate of adam; add --optimizer adam"),
        (("sky.png", "-m", "m.pt", "--seed", "1"), 2, "--seed has no effect without random numbers; add --start noise"),
        (("sky.png", "-m", "m.pt", "--content-weight", "0", "--style-weight", "0"), 2, "--content-weight 0 --style-weight 0"),
        (("sky.png", "-m", "m.pt", "--optimizer", "adam", "--rate", "0"), 2, "--rate 0 changes nothing; give a positive number"),
        (("sky.png", "-m", "m.pt", "--style-weight", "0", "--tv-weight", "0"), 2, "--style-weight 0 --tv-weight 0 changes nothing"),
        (("none.png", "-m", "m.pt"), 1, "none.png: no such file or directory"),
        (("sky.png", "-m", "none.pt"), 1, "none.pt: No such file or directory"),
        (("out.png", "-m", "m.pt"), 2, "-o out.png would overwrite an image; choose another name"),
    ],
)  # fmt: skip
def test_rejects_invalid_options(run, here, words, status, line):
    """Each error is one line; nothing is printed or written."""
    Image.new("RGB", (9, 9)).save("out.png")
    before = {path: Path(path).read_bytes() for path in sorted(os.listdir())}
    outcome = run("cnn-style", *words, "--style", "paint.jpg", "-o", "out.png", *CPU, status=status)
    assert outcome.err.startswith(f"cnn-style: {line}")
    assert (outcome.err.count("\n"), outcome.out) == (1, "")
    assert {path: Path(path).read_bytes() for path in sorted(os.listdir())} == before


@pytest.mark.parametrize("output", ["d.jpg", "nowhere/d.png"])
def test_rejects_output_before_loading_the_network(run, here, monkeypatch, output):
    """A name that is not .png, or in a folder that does not exist."""
    monkeypatch.setattr(
        "cnnkit.explain.load_network.load_network", lambda *_, **__: pytest.fail("the network was loaded")
    )
    outcome = run("cnn-style", "sky.png", "--style", "paint.jpg", "-m", "m.pt", "-o", output, *CPU, status=None)
    assert outcome.status in (1, 2)
    assert output.split("/")[0] in outcome.err
