"""cnn-advise on the command line: from images to one row that ends in a command, and errors."""

import json
import shlex

import pytest
import torch

from cnnkit.formats import torch_model
from cnnkit.nets import catalogue


@pytest.mark.slow
def test_advised_command_can_be_run(run, tmp_path, monkeypatch, images):
    """The record has the case and a command, which trains a model; cnn-advise itself writes nothing except -o."""
    images("some photos/train", red=6, blue=6)
    images("some photos/val", red=3, blue=3)
    monkeypatch.chdir(tmp_path)
    module, _ = catalogue.seeded(0, lambda: catalogue.network("squeezenet1_1"))
    torch.save(module.state_dict(), "base.pth")
    before = sorted(tmp_path.iterdir())
    words = ("some photos", "--backbone", "squeezenet1_1", "--weights", "base.pth", "--device", "cpu")
    outcome = run("cnn-advise", *words)
    (row,) = outcome.rows
    assert list(row) == [
        "images", "classes", "per_class", "size", "sampled", "accuracy", "gain", "gain_error", "similarity", "case", "command",
    ]  # fmt: skip
    assert (row["images"], row["case"]) == ("12", "small and similar")
    again = run("cnn-advise", *words, "-o", "found.json")
    assert again.out == ""
    found = json.loads((tmp_path / "found.json").read_text())
    (tmp_path / "found.json").unlink()
    assert f"(gain {100 * found['gain']:.1f} points, standard error {100 * found['gain_error']:.1f})" in again.err
    assert row["accuracy"] == ",".join(f"{layer}={value:.6g}" for layer, value in found["accuracy"].items())
    assert sorted(tmp_path.iterdir()) == before
    name, *advised = shlex.split(found["command"])
    (result,) = run(name, *advised, "--device", "cpu", "--epochs", "2").rows
    assert (result["model"], result["val_rows"]) == ("model.pt", "6")
    assert torch_model.load("model.pt").header.training["unfreeze"] == "none"


def test_every_mistake_is_one_line(run, tmp_path, monkeypatch, images):
    """Errors are reported before any network is built."""
    images("some photos/train", red=2, blue=2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.pth").touch()
    for wrong, status, message in (
        ([], 1, "CNNKIT_OFFLINE forbids downloading weights for mobilenet_v2"),
        (["--backbone", "squeezenet1_2", "--weights", "base.pth"], 2, "did you mean"),
        (["--backbone", "net.pt"], 2, "--backbone net.pt: cnn-advise needs the name of a pretrained network"),
        (["--weights", "none"], 2, "random weights cannot measure similarity"),
    ):
        outcome = run("cnn-advise", "some photos", *wrong, "--device", "cpu", status=status)
        (line,) = [line for line in outcome.err.splitlines() if not line.endswith("running on the CPU")]
        assert message in line
    assert not list(tmp_path.glob("*.pt"))
