"""Real commands on untrusted files: the documented exit status, one line that names the file, no traceback."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnkit.choices import Pool
from cnnkit.formats import atomic, torch_model
from cnnkit.formats.header import ArtefactKind, Backbone, Header, Preprocess
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import build, notation

_DATA = Path(os.environ.get("CNNKIT_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
CASES = _DATA.parent / "cases" / "hostile"
NET, HEAD = "conv 4 k3 relu", "gap, dense 2 softmax"
CHANGES = {
    ("training",): "x",
    ("backbone", "name"): 5,
    ("backbone", "notation"): "conv 99999999 k3 relu",
    ("backbone", "layer"): "conv9",
    ("backbone", "weights_sha256"): "../../etc/passwd",
    ("classes",): ["a"],
    ("head",): "@/etc/passwd",
    ("preprocess", "mean"): [float("nan")] * 3,
    ("preprocess", "std"): [0.0] * 3,
    ("preprocess", "size"): 10**9,
    ("made_by",): [1],
    ("cnnkit",): 2**70,
}


@pytest.fixture(scope="module")
def model():
    """The content of a model file."""
    parts = [
        build.build(notation.parse(NET), channels=3, height=8, width=8),
        build.build(notation.parse("gap, dense 2"), channels=4, height=6, width=6),
    ]
    state = {
        f"{name}.{key}": value
        for name, part in zip(("base", "head"), parts, strict=True)
        for key, value in part.state_dict().items()
    }
    backbone = Backbone("layers", "conv1", Pool.NONE, notation=NET)
    header = Header(ArtefactKind.MODEL, ("a", "b"), Preprocess(resize=8, size=8), backbone, HEAD)
    return {"header": json.loads(header.to_json()), "state": state, "history": []}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Change to a folder with an image, and features without their .json."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "cache"))
    Image.new("RGB", (8, 8)).save("p.png")
    np.save("x.npy", np.zeros((4, 8), np.float32))
    names = "abcd"
    Path("x.tsv").write_text(
        "path\tlabel\n" + "".join(f"{name}.png\t{label}\n" for name, label in zip(names, "xyxy", strict=True))
    )
    return tmp_path


def changed(header, place, value):
    record = json.loads(json.dumps(header))
    held = record
    for key in place[:-1]:
        held = held[key]
    held[place[-1]] = value
    return record


def refused(outcome, name):
    """Check that a command refused a file in one line that names it."""
    assert "Traceback" not in outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert f"{name}: " in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize("place", CHANGES, ids=".".join)
def test_rejects_models_with_a_changed_header(run, here, model, place):
    """Nothing is built from a header that does not match the weights."""
    torch.save({**model, "header": changed(model["header"], place, CHANGES[place])}, "m.pt")
    refused(run("cnn-dims", "m.pt", status=1), "m.pt")
    refused(run("cnn-cam", "-m", "m.pt", "p.png", "--device", "cpu", status=1), "m.pt")


@pytest.mark.parametrize(
    "place", [place for place in CHANGES if place not in [("classes",), ("backbone", "layer")]], ids=".".join
)
def test_rejects_features_with_a_changed_header(run, here, model, place):
    """A notation cannot be checked against the weights, which are missing."""
    header = {**model["header"], "kind": "features", "classes": None, "head": None}
    header["backbone"] = {**header["backbone"], "weights_sha256": "0" * 64}
    Path("x.json").write_text(json.dumps(changed(header, place, CHANGES[place])))
    outcome = run("cnn-train-head", "x.npy", "-o", "m.pt", "--device", "cpu", status=1)
    assert "Traceback" not in outcome.err
    if place != ("backbone", "notation"):
        refused(outcome, "x.json")
    assert not Path("m.pt").exists()


def test_damaged_model_is_not_exported(run, here, model):
    """With one flipped bit in its weights."""
    torch_model.save("m.pt", TorchModel(Header.from_record(model["header"], name=""), model["state"]))
    content = bytearray(Path("m.pt").read_bytes())
    content[content.index(model["state"]["base.conv1.weight"].numpy().tobytes()) + 3] ^= 0x40
    Path("m.pt").write_bytes(content)
    refused(run("cnn-export", "m.pt", "-o", "m.onnx", status=1), "m.pt")
    assert not Path("m.onnx").exists()


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the collected files")
@pytest.mark.parametrize(
    "file", sorted(CASES.glob("*.pt")) + sorted(CASES.glob("features-*.json")), ids=lambda file: file.name
)
def test_collected_files(run, here, file):
    """Files that once caused a traceback or were accepted."""
    if file.suffix == ".json":
        shutil.copyfile(file, "x.json")
        refused(run("cnn-train-head", "x.npy", "-o", "m.pt", "--device", "cpu", status=1), "x.json")
    elif file.name.startswith("state-") and file.name != "state-nan.pt":
        outcome = run(
            "cnn-extract", "p.png", "--layers", NET, "--weights", file, "-o", "y.npy", "--device", "cpu", status=1
        )
        refused(outcome, file)
    else:
        refused(run("cnn-dims", file, status=1), file)


def test_second_run_is_refused(run, here, model):
    """In one line, and it writes nothing."""
    torch_model.save("m.pt", TorchModel(Header.from_record(model["header"], name=""), model["state"]))
    Path("maps").mkdir()
    for words in (
        ("cnn-export", "m.pt", "-o", "m.onnx"),
        ("cnn-cam", "-m", "m.pt", "p.png", "-o", "maps", "--device", "cpu"),
    ):
        output = words[-1] if words[0] == "cnn-export" else "maps"
        before = sorted(os.listdir())
        with atomic.claimed(output):
            outcome = run(*words, status=1)
        assert (
            outcome.err == f"{words[0]}: {output}: another run is writing it; wait for that run, or give another -o\n"
        )
        assert sorted(os.listdir()) == before
