"""Vision transformers as backbones, through all commands: features, head, fine-tuning, export, prediction, maps."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cnnkit.formats import features

timm = pytest.importorskip("timm")

CPU = ("--device", "cpu")
VIT = ("--backbone", "timm:test_vit", "--size", "64")


@pytest.fixture
def weights(here):
    """Random weights in a safetensors file, below the prefix of a training script's module, at timm's own size of 160 pixels."""
    torch.manual_seed(0)
    state = timm.create_model("test_vit", pretrained=False).state_dict()
    save_file({f"model.{key}": value for key, value in state.items()}, "w.safetensors")
    return ("--weights", "w.safetensors")


def read(name):
    return features.load(name)


def test_tokens_as_features(run, here, weights):
    """Class token, mean of the patches, and both; the notices name the prefix and the interpolation."""
    for pool in ("cls", "avg", "cls+avg"):
        outcome = run(
            "cnn-extract", "photos", "-o", f"{pool}.npy", *VIT, *weights, "--pool", pool, "--engine", "torch", *CPU
        )
    assert "w.safetensors: removed the prefix model. from the names of its weights" in outcome.err
    assert "w.safetensors: position embeddings of 100 patches interpolated to 16" in outcome.err
    both = read("cls+avg.npy")
    assert both.values.shape == (12, 128)
    np.testing.assert_array_equal(both.values, np.hstack([read("cls.npy").values, read("avg.npy").values]))
    assert (both.header.backbone.layer, both.header.backbone.pool) == ("norm", "cls+avg")
    assert (both.header.preprocess.size, both.header.preprocess.resize) == (64, 67)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*VIT[:2], "--size", "100"), "give 96 or 112"),
        ((*VIT, "--pool", "none", "--layer", "blocks.2"), "the layer outputs 17x64, neither a vector nor a map; for the tokens of a"),
        (("--backbone", "squeezenet1_1", "--size", "64", "--pool", "cls"), "--pool cls needs the class token of a vision transformer"),
        (("--layers", "conv 4 k3", "--pool", "cls+avg"), "--pool cls+avg needs the class token of a vision transformer"),
    ],
)  # fmt: skip
def test_errors(run, here, words, message):
    """Each names the option, and what to give instead."""
    outcome = run("cnn-extract", "photos", "-o", "x.npy", *words, "--weights", "none", "--engine", "torch", status=2)
    assert message in outcome.err


def test_refuses_another_validation_size(run, here):
    """Positions are those of the training size; there is nothing to pool."""
    words = (*VIT, "--weights", "none", "--unfreeze", "none", "--val-size", "80", *CPU)
    outcome = run("cnn-finetune", "photos", "-o", "x.pt", *words, status=2)
    assert (
        "--val-size 80: this network does not take images of 80 pixels, only of 64; its tokens have positions; drop --val-size"
    ) in outcome.err


@pytest.mark.slow
def test_from_features_to_maps(run, here, weights):
    """The same probabilities in ONNX Runtime and torch; maps of the model; a fine-tuned last block changes nothing below it."""
    for engine in ("onnx", "torch"):
        run(
            "cnn-extract",
            "photos",
            "-o",
            f"{engine}.npy",
            *VIT,
            *weights,
            "--pool",
            "cls+avg",
            "--engine",
            engine,
            *CPU,
        )
    np.testing.assert_allclose(read("onnx.npy").values, read("torch.npy").values, atol=1e-4)
    run("cnn-train-head", "onnx.npy", "-o", "head.pt", "--epochs", "2", *CPU)
    run("cnn-export", "head.pt", "-o", "head.onnx", "--features", *CPU)
    rows = run("cnn-predict", "-m", "head.onnx", "photos", *CPU).rows
    maps = run("cnn-cam", "-m", "head.pt", "photos", *CPU)
    assert "maps of blocks.5.norm1, 4x4" in maps.err
    for row, shown in zip(rows, maps.rows, strict=True):
        assert float(row["probability"]) == pytest.approx(float(shown["probability"]), abs=1e-4)
    words = ("--unfreeze", "blocks.5", "--epochs", "1", "--lr", "0.01", *CPU)
    outcome = run("cnn-finetune", "head.pt", "photos", "-o", "tuned.pt", *words)
    assert "in torch, not in ONNX Runtime" not in outcome.err
    before, after = (torch.load(path, weights_only=True)["state"] for path in ("head.pt", "tuned.pt"))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.partition(".")[0] for key in changed} == {"base", "head"}
    assert {key[:14] for key in changed if key.startswith("base.")} == {
        "base.blocks.5.",
        "base.norm.weig",
        "base.norm.bias",
    }
    run("cnn-export", "tuned.pt", "-o", "tuned.onnx", *CPU)
    rows = [json.loads(line) for line in run("cnn-dims", "head.pt", "--json").out.splitlines()]
    assert {"blocks.5.mlp.fc2", "pool", "head.dense1"} <= {row["layer"] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pool"),
    [
        *(("timm:test_vit2", pool) for pool in (None, "cls", "avg")),  # the mean is without its register token
        ("timm:test_vit3", None),  # pooled by attention
        *(("timm:test_convnext", pool) for pool in (None, "cls", "avg")),
    ],
)
def test_networks_agree_with_torch(run, here, name, pool):
    """Export of tokens pooled by class token, mean or attention, and of a convolutional network.

    The mean is that of the first block: a whole transformer takes seconds to export, and is, with its own pooling.
    """
    words = ("--backbone", name, "--weights", "none", "--size", "64", *(() if pool is None else ("--pool", pool)), *CPU)
    if pool == "avg" and "vit" in name:
        words = (*words, "--layer", "blocks.0")
    fits = pool != "cls"  # these have no class token
    for engine in ("onnx", "torch"):
        run("cnn-extract", "photos", "-o", f"{engine}.npy", *words, "--engine", engine, status=0 if fits else 2)
    if fits:
        np.testing.assert_allclose(read("onnx.npy").values, read("torch.npy").values, atol=1e-4, rtol=1e-3)
