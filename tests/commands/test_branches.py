"""Networks by notation with branches, transposed convolutions and unshared weights, through all commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnkit.data import preprocessing
from cnnkit.formats import torch_model
from cnnkit.nets import classifier

#: Every kind of layer that has several inputs, or weights of its own at each position.
NET = (
    "conv 6 k3 s2 p1 bn relu, lrn, residual(conv 8 k3 s2 p1 bn relu, conv 8 k3 p1 bn) relu, residual(conv 8 k3 p1 | linear),"
    "concat(conv 4 k1 relu | pool 3 s1 p1, conv 4 k3 same), deconv 6 k3 s2 same relu, local 4 k3 s2, conv 4 k1 bias position relu"
)
FAST = ("--device", "cpu", "--epochs", "2", "--batch", "8", "--lr", "0.01")


@pytest.fixture(scope="module")
def trained(made):
    """Make a folder with photos/train, photos/val, net.pt trained on them by cnn-train, and net.onnx."""
    return made(
        ("cnn-train", "photos", "-o", "net.pt", "--layers", NET, "--size", "16", *FAST),
        ("cnn-export", "net.pt", "-o", "net.onnx", "--device", "cpu"),
        photos={"train": {"red": 10, "blue": 10}, "val": {"red": 5, "blue": 5}},
    )


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """Work in a copy of that folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(name="net.pt"):
    model = torch_model.load(name)
    return classifier.from_header(model.header, model.state, name=name)


def pixels(network, folder="photos/val"):
    paths = sorted(Path(folder).rglob("*.png"))
    return paths, torch.from_numpy(np.stack([preprocessing.load(path, network.preprocess) for path in paths]))


def test_exported_network_predicts_as_torch(run, here):
    """All outputs of the ONNX file are those of the trained network, and training has changed every weight."""
    network = opened()
    paths, images = pixels(network)
    with torch.no_grad():
        shares = network(images).softmax(1).numpy()
    rows = run("cnn-predict", "-m", "net.onnx", "photos/val", "--top", "2", "--device", "cpu").rows
    found = {(row["path"], row["label"]): float(row["probability"]) for row in rows}
    for path, expected in zip(paths, shares, strict=True):
        made = [share for (name, _), share in sorted(found.items()) if name.endswith(f"{path.parent.name}/{path.name}")]
        np.testing.assert_allclose(made, expected, atol=1e-5)
    assert all(value.any() for name, value in network.named_parameters() if "bias" not in name)
    assert network.base.get_submodule("conv2").bias.shape == (4, 3, 3)
    assert bool(network.base.get_submodule("local1").weight.std(0).gt(0).any())


def test_every_command_has_the_same_names_and_counts(run, here):
    """cnn-dims prints the notation's rows for the notation and for the model; the totals of the ONNX file agree."""
    table = run("cnn-dims", "--input", "16,16,3", "--layers", NET, "--json").out.splitlines()
    rows = {row["layer"]: row for row in map(json.loads, table) if row["kind"] != "total"}
    model = {row["layer"]: row for row in map(json.loads, run("cnn-dims", "net.pt", "--json").out.splitlines())}
    for name, row in rows.items():
        if row["kind"] != "activation":
            assert model[name]["trainable"] == row["params"], name
            assert model[name] | {"trainable": None} == row, name
    assert {"residual1.projection_bn", "residual1", "concat1.conv2", "deconv1", "local1"} <= set(rows)
    graph = {row["layer"]: row for row in map(json.loads, run("cnn-dims", "net.onnx", "--json").out.splitlines())}
    assert graph["total"]["macs"] == model["total"]["macs"]
    assert graph["local1"]["macs"] == rows["local1"]["macs"]
    assert (graph["deconv1"]["kind"], graph["deconv1"]["params"]) == ("deconv", rows["deconv1"]["params"])


@pytest.mark.slow
def test_fine_tuning_begins_inside_a_block(run, here):
    """Weights before the layer keep their bits, those from it on change; the frozen part runs up to the block."""
    outcome = run("cnn-finetune", "net.pt", "photos", "-o", "tuned.pt", "--unfreeze", "residual1.conv2", *FAST)
    assert "from residual1.conv2 on" in outcome.err
    before, after = (torch_model.load(name).state for name in ("net.pt", "tuned.pt"))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {"base.conv1.weight", "base.residual1.conv1.weight", "base.residual1.bn1.running_mean"} <= same
    changed = (
        "residual1.conv2",
        "residual1.projection",
        "residual2.conv1",
        "concat1.conv1",
        "deconv1",
        "local1",
        "conv2",
    )
    assert all(f"base.{name}.weight" not in same for name in changed)
    refused = run("cnn-finetune", "net.pt", "photos", "-o", "x.pt", "--unfreeze", "residual1.conv9", *FAST, status=2)
    assert 'no layer "residual1.conv9"; did you mean residual1.conv' in refused.err


@pytest.mark.slow
def test_features_of_a_layer_in_a_branch(run, here):
    """cnn-extract cuts inside a block, and a head on these features is joined to the part of the network."""
    run(
        "cnn-extract",
        "photos",
        "-o",
        "x.npy",
        "--backbone",
        "net.pt",
        "--layer",
        "concat1.conv1",
        "--pool",
        "avg",
        "--device",
        "cpu",
    )
    network = opened()
    found, rows = np.load("x.npy"), Path("x.tsv").read_text().splitlines()[1:]
    images = np.stack([preprocessing.load(row.split("\t")[0], network.preprocess) for row in rows])
    with torch.no_grad():
        maps = network.base.upto("concat1.conv1")(network.normalise(torch.from_numpy(images)))
    np.testing.assert_allclose(found, maps.mean((2, 3)).numpy(), atol=1e-5)
    run("cnn-train-head", "x.npy", "-o", "head.pt", "--epochs", "2", "--device", "cpu")
    assert torch_model.load("head.pt").header.backbone.layer == "concat1.conv1"
    assert opened("head.pt").features(torch.from_numpy(images)).shape == (30, 4)


def test_heat_maps_of_layers_in_blocks(run, here):
    """cnn-cam takes the names of blocks and of the layers in them."""
    for layer in ("residual1", "residual1.conv1", "concat1"):
        rows = run(
            "cnn-cam", "-m", "net.pt", "photos/val/red", "-o", "cam", "--layer", layer, "--force", "--device", "cpu"
        ).rows
        assert len(rows) == 5


@pytest.mark.slow
def test_int8_of_blocks(run, here):
    """Convolutions in blocks become int8, layers with a matrix for each position stay in float32; the totals are those in float32."""
    outcome = run(
        "cnn-export",
        "net.pt",
        "-o",
        "int8.onnx",
        "--int8",
        "--calibrate",
        "photos",
        "--max-drop",
        "1",
        "--device",
        "cpu",
    )
    assert "layers in float32: local1" in outcome.err
    assert int(outcome.rows[1]["int8_layers"]) >= 6
    tables = [run("cnn-dims", name, "--json").out.splitlines()[-1] for name in ("net.onnx", "int8.onnx")]
    assert len({json.loads(total)["macs"] for total in tables}) == 1
