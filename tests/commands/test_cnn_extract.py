"""cnn-extract on the command line: all kinds of sources, features, resuming, and errors with remedies."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnkit.choices import Precision
from cnnkit.engine import half_precision, onnx_backbone, runner
from cnnkit.engine.config import BackboneSpec
from cnnkit.engine.session import Session
from cnnkit.formats import features, onnx_model, torch_model
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.torch_model import TorchModel
from cnnkit.infer import extract
from cnnkit.nets import backbones, catalogue
from cnnkit.nets.classifier import Classifier, build_head

TEXT = "conv 5 k3 s2 same relu, pool 2, conv 7 k3 bn relu"
BACKBONE = ("--layers", TEXT, "--weights", "none", "--size", "20", "--device", "cpu")
SQUEEZE = ("--backbone", "squeezenet1_1", "--weights", "none", "--size", "64", "--device", "cpu")


# ---------------------------------------------------------------- sources and files


def test_folder_to_features(run, here):
    """One row per image, in the order of names; a summary on stdout; the three files, and nothing else."""
    outcome = run("cnn-extract", "photos", "-o", "x.npy", *BACKBONE)
    (summary,) = outcome.rows
    assert summary["features"] == "x.npy"
    assert (summary["rows"], summary["shape"], summary["skipped"], summary["resumed"]) == ("12", "7", "0", "0")
    assert float(summary["per_second"]) > 0
    loaded = features.load("x.npy")
    assert loaded.values.shape == (12, 7)
    assert loaded.values.dtype == np.float32
    assert loaded.rows[0].path == "photos/blue/00.png"
    assert [row.label for row in loaded.rows] == ["blue"] * 6 + ["red"] * 6
    assert loaded.header.classes == ("blue", "red")
    assert sorted(os.listdir()) == ["photos", "x.json", "x.npy", "x.tsv"]


def test_full_disk_is_reported(run, shell, here):
    """Tested with a limit on the file size, which fails in the same way: within a write, where the error has no file name."""
    words = ("cnn-extract", "photos", "-o", "x.npy", *BACKBONE, "--pool", "flatten")
    run(*words)  # otherwise the exported backbone would be too large
    outcome = shell(f"ulimit -f 1; {shlex.join(words)}", cwd=here, status=1)
    assert outcome.err.splitlines()[-1] == "cnn-extract: x.npy: File too large"


def test_json_and_quiet(run, here):
    """The summary as JSON, and nothing on stderr with --quiet."""
    outcome = run("cnn-extract", "photos", "-o", "x.npy", *BACKBONE, "--json", "--quiet")
    record = json.loads(outcome.out)
    assert record["rows"] == 12
    assert record["shape"] == "7"
    assert outcome.err == ""


def test_all_sources_give_the_same(run, shell, here, content):
    """As arguments, listed on standard input, in a pipe, separated by NUL: the same values, and the same rows except labels."""
    run("cnn-extract", "photos", "-o", "named.npy", *BACKBONE)
    names = sorted(str(path) for path in Path("photos").rglob("*.png"))
    run("cnn-extract", "-", "-o", "dash.npy", *BACKBONE, stdin="\n".join(names) + "\n")
    run("cnn-extract", "-o", "bare.npy", *BACKBONE, stdin="\n".join(names))
    run("cnn-extract", "-0", "-o", "null.npy", *BACKBONE, stdin="\0".join(names))
    words = " ".join(f"'{word}'" for word in BACKBONE)
    with open("list.txt", "w") as file:
        file.write("\n".join(names))
    shell(f"cat list.txt | cnn-extract - -o pipe.npy {words}", cwd=here)
    expected = features.load("named.npy")
    for name in ("dash", "bare", "null", "pipe"):
        found = features.load(f"{name}.npy")
        assert content(f"{name}.npy")[".npy"] == content("named.npy")[".npy"]
        assert [row.path for row in found.rows] == [row.path for row in expected.rows]
        assert [row.label for row in found.rows] == [None] * 12
        assert found.header == expected.header.but(classes=None)


def test_manifest_and_split(run, here):
    """The rows of one split of a manifest, with their labels; the same from a pipe."""
    lines = ["path\tlabel\tsplit\tgroup"]
    lines += [f"photos/red/0{index}.png\twarm\t{'train' if index < 4 else 'val'}\tg{index}" for index in range(6)]
    Path("split.tsv").write_text("\n".join(lines) + "\n")
    run("cnn-extract", "split.tsv", "--split", "val", "-o", "val.npy", *BACKBONE)
    rows = features.load("val.npy").rows
    assert [(row.path, row.label, row.split, row.group) for row in rows] == [
        ("photos/red/04.png", "warm", "val", "g4"),
        ("photos/red/05.png", "warm", "val", "g5"),
    ]
    run("cnn-extract", "-", "--split", "val", "-o", "piped.npy", *BACKBONE, stdin=Path("split.tsv").read_bytes())
    assert features.load("piped.npy").rows == rows


def test_paths_are_relative_to_the_table(run, here):
    """Paths in the .tsv lead to the images from the folder of the .tsv."""
    Path("out").mkdir()
    run("cnn-extract", "photos", "-o", "out/x.npy", *BACKBONE)
    for row in features.load("out/x.npy").rows:
        assert (here / "out" / row.path).is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_of_any_kind(run, here, content):
    """Tabs, newlines, letters of any language and bytes that are not text: each image has its row and its name."""
    folder = here / "odd" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    names = [
        "tab\there.png",
        "line\nbreak.png",
        "Katze ☃.png",
        os.fsdecode(b"\xff\xfe.png"),
        "-dash.PNG",
        " space .png",
    ]
    for index, name in enumerate(names):
        shutil.copy(f"photos/red/0{index}.png", folder / name)
    run("cnn-extract", "odd", "-o", "x.npy", *BACKBONE)
    loaded = features.load("x.npy")
    assert {os.path.basename(row.path) for row in loaded.rows} == set(names)
    assert loaded.header.classes == (os.fsdecode(b"caf\xe9"),)
    listed = b"\0".join(os.fsencode(row.path) for row in loaded.rows)
    run("cnn-extract", "-0", "-", "-o", "y.npy", *BACKBONE, stdin=listed)
    assert content("y.npy")[".npy"] == content("x.npy")[".npy"]


def test_threads_change_no_byte(run, here, content):
    """All three files have the same bytes for one decoding thread and for many, also with another cache."""
    run("cnn-extract", "photos", "-o", "x.npy", *BACKBONE, "--jobs", "1")
    before = content("x.npy")
    run("cnn-extract", "photos", "-o", "x.npy", *BACKBONE, "--jobs", "7")
    assert content("x.npy") == before
    run("cnn-extract", "photos", "-o", "y.npy", *BACKBONE, "--batch", "12")
    assert content("y.npy") == before


# ---------------------------------------------------------------- the backbone


def read(name):
    return features.load(name)


def test_pooling_and_dtype(run, here):
    """Every pooling has its shape, and they are consistent; float16 is half the bytes of the same values."""
    for pool in ("avg", "max", "flatten", "none"):
        run("cnn-extract", "photos", "-o", f"{pool}.npy", *BACKBONE, "--pool", pool)
    maps = read("none.npy").values
    assert maps.shape == (12, 7, 3, 3)
    np.testing.assert_allclose(read("avg.npy").values, maps.mean((2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(read("max.npy").values, maps.max((2, 3)))
    np.testing.assert_array_equal(read("flatten.npy").values, maps.reshape(12, -1))
    run("cnn-extract", "photos", "-o", "half.npy", *BACKBONE, "--dtype", "float16")
    assert read("half.npy").values.dtype == np.float16
    np.testing.assert_array_equal(read("half.npy").values, read("avg.npy").values.astype(np.float16))


def test_layer_of_a_network(run, here):
    """--layer cuts a network after a module, as in torch."""
    run("cnn-extract", "photos", "-o", "x.npy", *SQUEEZE, "--layer", "features.5", "--pool", "none")
    loaded = read("x.npy")
    assert loaded.values.shape == (12, 128, 7, 7)
    assert loaded.header.backbone.layer == "features.5"
    assert loaded.header.backbone.name == "squeezenet1_1"


def test_seed_of_random_weights(run, here, content):
    """Random weights are the same for the same seed and differ for others, and so does the digest in the Header."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run("cnn-extract", "photos", "-o", f"{name}.npy", *BACKBONE, "--seed", seed)
    assert content("a.npy") == content("b.npy")
    assert "random weights, seed 0" in run("cnn-extract", "photos", "-o", "d.npy", *BACKBONE[:2], *BACKBONE[4:]).err
    assert content("d.npy") == content("a.npy")  # a notation always has random weights
    assert not np.array_equal(read("a.npy").values, read("c.npy").values)
    assert read("a.npy").header.backbone.weights_sha256 != read("c.npy").header.backbone.weights_sha256


def test_notation_from_a_file(run, here, content):
    """--layers @FILE reads the notation from a file."""
    Path("net.txt").write_text(TEXT.replace(", ", "\n") + "  # the same\n")
    run("cnn-extract", "photos", "-o", "a.npy", *BACKBONE)
    run("cnn-extract", "photos", "-o", "b.npy", "--layers", "@net.txt", *BACKBONE[2:])
    assert content("a.npy") == content("b.npy")


def test_engine_torch(run, here):
    """--engine torch gives the same features to 1e-4."""
    for words in (SQUEEZE, (*BACKBONE, "--pool", "flatten")):
        run("cnn-extract", "photos", "-o", "a.npy", *words)
        run("cnn-extract", "photos", "-o", "b.npy", *words, "--engine", "torch")
        np.testing.assert_allclose(read("a.npy").values, read("b.npy").values, atol=1e-4)


def test_weights_from_a_file(run, here, content):
    """--weights FILE takes a state_dict; the backbone differs from the random one, and the Header has the hash of the file."""
    module = catalogue.seeded(5, lambda: catalogue.network("squeezenet1_1"))[0]
    torch.save(module.state_dict(), "mine.pth")
    words = ("--backbone", "SqueezeNet1_1", "--weights", "mine.pth", "--size", "64", "--device", "cpu")
    run("cnn-extract", "photos", "-o", "x.npy", *words)
    os.rename("mine.pth", "moved.pth")
    again = run("cnn-extract", "photos", "-o", "y.npy", *words[:3], "moved.pth", *words[4:])
    assert "exporting" not in again.err  # the content counts, not the name
    assert content("x.npy")[".npy"] == content("y.npy")[".npy"]
    assert read("x.npy").header == read("y.npy").header


def model_file(path):
    extractor, backbone, preprocess = backbones.by_notation(TEXT, size=20, seed=3)
    whole = Classifier(extractor, build_head("dense 2", (7,)), preprocess=preprocess, pool=backbone.pool)
    header = Header(ArtefactKind.MODEL, ("blue", "red"), preprocess, backbone, "dense 2")
    torch_model.save(path, TorchModel(header, whole.state_dict()))


def test_exported_models_as_a_backbone(run, here):
    """A .pt and a .onnx made by cnnkit give the same as the notation with the same weights."""
    run("cnn-extract", "photos", "-o", "a.npy", *BACKBONE, "--seed", "3")
    model_file("head.pt")
    run("cnn-extract", "photos", "-o", "b.npy", "--backbone", "head.pt", "--device", "cpu")
    onnx_model.save("base.onnx", onnx_backbone.get(BackboneSpec(layers=TEXT, weights="none", size=20, seed=3)).content)
    run("cnn-extract", "photos", "-o", "c.npy", "--backbone", "base.onnx", "--device", "cpu")
    for other in ("b", "c"):
        np.testing.assert_allclose(read("a.npy").values, read(f"{other}.npy").values, atol=1e-5)
        assert read("a.npy").header.preprocess == read(f"{other}.npy").header.preprocess
        assert read("a.npy").header.backbone == read(f"{other}.npy").header.backbone


def test_backbone_is_exported_once_then_no_torch(shell, here, content):
    """The first run reports where the backbone is cached; the second does not, and imports neither torch nor timm."""
    words = " ".join(f"'{word}'" for word in BACKBONE[:-2])
    env = {"CNNKIT_CACHE": str(here / "cache")}
    first = shell(f"cnn-extract photos -o a.npy {words}", cwd=here, env=env)
    assert "exporting the backbone to ONNX, once; cached in " in first.err
    assert len(list((here / "cache" / "bases").glob("*.onnx"))) == 1
    second = shell(f"cnn-extract photos -o b.npy {words}", cwd=here, env={**env, "PYTHONPROFILEIMPORTTIME": "1"})
    imported = {
        line.rpartition("|")[2].strip().split(".")[0] for line in second.err.splitlines() if "import time:" in line
    }
    assert {"onnxruntime", "PIL"} <= imported
    assert not {"torch", "torchvision", "timm", "sklearn", "matplotlib"} & imported
    assert "exporting" not in second.err
    assert "cnn-extract: running on " in second.err
    assert content(here / "a.npy") == content(here / "b.npy")


# ---------------------------------------------------------------- bad images


def test_bad_images_are_skipped_and_named(run, here, content):
    """A cut JPEG, an empty file and a text: no rows, one line each, a list, exit status 3; the rest is as without them."""
    run("cnn-extract", "photos", "-o", "whole.npy", *BACKBONE)
    from PIL import Image

    Image.open("photos/red/00.png").resize((300, 300)).save("photos/red/01cut.jpg")
    cut = Path("photos/red/01cut.jpg")
    cut.write_bytes(cut.read_bytes()[:3000])
    Path("photos/blue/03empty.png").write_bytes(b"")
    Path("photos/blue/04text.jpeg").write_text("no image")
    outcome = run("cnn-extract", "photos", "-o", "x.npy", *BACKBONE, "--errors", "bad.tsv", status=3)
    assert (outcome.rows[0]["rows"], outcome.rows[0]["skipped"]) == ("12", "3")
    lines = [line for line in outcome.err.splitlines() if "skipped" in line]
    assert lines[0] == "cnn-extract: photos/blue/03empty.png: empty file; skipped"
    assert lines[1].startswith("cnn-extract: photos/blue/04text.jpeg: not an image")
    assert lines[2].startswith("cnn-extract: photos/red/01cut.jpg: ")
    assert lines[3] == "cnn-extract: 3 images were skipped"
    header, *rows = Path("bad.tsv").read_text().splitlines()
    assert header == "path\treason"
    assert [row.split("\t")[0] for row in rows] == [
        "photos/blue/03empty.png",
        "photos/blue/04text.jpeg",
        "photos/red/01cut.jpg",
    ]
    assert content("x.npy") == content("whole.npy")


def test_only_bad_images_fails(run, here):
    """If there is no usable image, that is an error, and nothing is written."""
    Path("none").mkdir()
    Path("none/a.png").write_text("no image")
    outcome = run("cnn-extract", "none", "-o", "x.npy", *BACKBONE, status=1)
    assert outcome.err.splitlines()[-1] == "cnn-extract: no image could be used; nothing written"
    assert outcome.out == ""
    assert not list(here.glob("x.*"))


# ---------------------------------------------------------------- several views


WORDS = "rotate 40, shift 0.2, zoom 0.2, hflip, noise 0.02"


def test_views_equal_the_copies_of_cnn_augment(run, here, content):
    """The same copies, made during extraction or as files: the same bytes."""
    augmented = ("--augment", WORDS, "--seed", "3")
    run("cnn-augment", "photos", "-o", "more", "--size", "20", "--fit", "squash", "--keep", "--copies", "2", *augmented)
    words = (*BACKBONE, "--seed", "3")
    run("cnn-extract", "more/augment.tsv", "-o", "files.npy", *words)
    Path("words").write_text(WORDS.replace(", ", "\n"))
    outcome = run("cnn-extract", "photos", "-o", "views.npy", *words, "--views", "2", "--augment", "@words")
    assert outcome.rows[0]["rows"] == "36"
    assert content("views.npy")[".npy"] == content("files.npy")[".npy"]
    lines = Path("views.tsv").read_text().splitlines()
    assert lines[0] == "path\tlabel\tsplit\tgroup\tview"
    assert lines[4] == "photos/blue/01.png\tblue\t\t\t0"
    assert features.load("views.npy").header.training["augment"] == f"{WORDS}, fill nearest"


def test_head_trains_on_views_and_predicts_images(run, here, content):
    """Training uses all views, validation none; there is one prediction per image."""
    lines = ["path\tlabel\tsplit"]
    lines += [
        f"photos/{label}/0{index}.png\t{label}\t{'val' if index > 3 else 'train'}"
        for label in ("red", "blue")
        for index in range(6)
    ]
    Path("split.tsv").write_text("\n".join(lines) + "\n")
    views = ("--views", "3", "--augment", WORDS)
    run("cnn-extract", "split.tsv", "--split", "train", "-o", "train.npy", *BACKBONE, *views)
    outcome = run("cnn-extract", "split.tsv", "--split", "val", "-o", "val.npy", *BACKBONE, *views)
    assert "4 images of val are not augmented" in outcome.err
    run("cnn-extract", "split.tsv", "--split", "val", "-o", "plain.npy", *BACKBONE)
    assert content("val.npy")[".npy"] == content("plain.npy")[".npy"]
    trained = run("cnn-train-head", "train.npy", "--val", "val.npy", "-o", "head.pt", "--solver", "lbfgs")
    assert (trained.rows[0]["train_rows"], trained.rows[0]["val_rows"], trained.rows[0]["val_accuracy"]) == (
        "32",
        "4",
        "1",
    )
    assert " are in " not in trained.err
    outcome = run("cnn-train-head", "val.npy", "--val", "train.npy", "-o", "x.pt", status=1)
    assert "train.npy has augmented views, which cannot validate" in outcome.err
    run("cnn-export", "head.pt", "-o", "head.onnx", "--head-only")
    # A folder of a split is held out like rows of that split
    shutil.copytree("photos/red", "cv/val/red")
    outcome = run("cnn-extract", "cv/val", "-o", "folder.npy", *BACKBONE, *views)
    assert outcome.rows[0]["rows"] == "6"
    assert "6 images of val are not augmented" in outcome.err
    predicted = run("cnn-predict", "-m", "head.onnx", "train.npy")
    assert [row["path"] for row in predicted.rows] == [row.path for row in features.load("train.npy").rows[::4]]
    assert run("cnn-eval", "-", "--truth", "split.tsv", "--json", stdin=predicted.out).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--views", "2"], "give both or neither"),
        (["--augment", "hflip"], "give both or neither"),
        (["--views", "2", "--augment", "hflop"], 'augmentation word 1: "hflop"'),
        (["--views", "2", "--augment", ""], '--augment "" changes nothing'),
        (["--views", "2", "--augment", "hflip", "--bench"], "--bench writes nothing"),
    ],
)
def test_views_and_augment_need_each_other(run, here, words, message):
    """Each without the other is a usage error."""
    assert message in run("cnn-extract", "photos", "-o", "x.npy", *BACKBONE, *words, status=2).err


# ---------------------------------------------------------------- interrupted, and resumed


@pytest.fixture
def many(here):
    """A manifest of 200 rows, and a backbone that takes some milliseconds per image."""
    lines = [f"photos/{'red' if index % 2 else 'blue'}/0{index % 6}.png\t{index % 2}" for index in range(200)]
    Path("many.tsv").write_text("\n".join(["path\tlabel", *lines]) + "\n")
    return [
        "many.tsv",
        "--layers",
        "conv 64 k7 relu, conv 32 k5 relu",
        *BACKBONE[2:4],
        "--size",
        "64",
        "--device",
        "cpu",
        "--batch",
        "8",
    ]


@pytest.fixture
def stop(commands, wait_for):
    """Start the command and send it a signal when some rows are on disk."""

    def start(words, output, number):
        command = [commands / "cnn-extract", *words, "-o", output]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        unfinished = Path(f"{output}.part")

        def has_rows():
            assert process.poll() is None, process.stderr.read()
            return unfinished.exists() and unfinished.stat().st_size > 32 * 4 * 50

        wait_for(has_rows, timeout=120)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert out == ""
        return process.returncode, err

    return start


def test_resume_after_kill_is_byte_identical(run, stop, many, here, content):
    """Killed in the middle, then resumed: only missing rows are computed, and every byte is as without interruption."""
    run("cnn-extract", *many, "-o", "whole.npy")
    status, _ = stop(many, "x.npy", signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert not Path("x.npy").exists()
    assert not Path("x.json").exists()
    outcome = run("cnn-extract", *many, "-o", "x.npy", "--resume")
    resumed = int(outcome.rows[0]["resumed"])
    assert 0 < resumed < 200
    assert resumed % 8 == 0
    assert f"resuming after {resumed} rows" in outcome.err
    assert content("x.npy") == content("whole.npy")
    assert not list(here.glob("*.part"))
    again = run("cnn-extract", *many, "-o", "x.npy", "--resume")
    assert (again.rows[0]["rows"], again.rows[0]["resumed"]) == ("200", "200")
    assert "x.npy is complete; nothing to do" in again.err


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_interruption_reports_what_is_kept(run, stop, many, here, number, status):
    """Ctrl-C and SIGTERM end it at once; it reports how many rows are kept and how to continue."""
    returned, err = stop(many, "x.npy", number)
    assert returned == status
    assert "rows are kept in x.npy.part; continue with --resume" in err
    assert "Traceback" not in err
    outcome = run("cnn-extract", *many, "-o", "x.npy", "--resume")
    assert int(outcome.rows[0]["resumed"]) > 0


def test_rejects_resume_with_other_settings(run, stop, many, here):
    """Another backbone, batch or dtype is refused with both values; without --resume it starts over."""
    stop(many, "x.npy", signal.SIGKILL)
    for words, message in (
        (["--batch", "16"], "started with batch 8, now 16"),
        (["--dtype", "float16"], "started with dtype float32, now float16"),
        (["--seed", "1"], "started with backbone weights_sha256"),
        (["--pool", "max"], "started with backbone pool avg, now max"),
    ):
        outcome = run("cnn-extract", *many, "-o", "x.npy", "--resume", *words, status=1)
        assert outcome.err.splitlines()[-1].startswith(f"cnn-extract: x.npy.part: {message}")
        assert "start over without --resume" in outcome.err
    run("cnn-extract", *many, "-o", "x.npy", "--seed", "1")
    assert len(read("x.npy").rows) == 200


def test_resume_without_an_earlier_run(run, here):
    """--resume is then an ordinary run: it may always be given."""
    outcome = run("cnn-extract", "photos", "-o", "x.npy", *BACKBONE, "--resume")
    assert (outcome.rows[0]["rows"], outcome.rows[0]["resumed"]) == ("12", "0")


# ---------------------------------------------------------------- invalid arguments


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["photos"], 2, "give the file to write with -o FILE.npy, or measure the speed with --bench"),
        (["photos", "-o", "x.npz"], 2, "x.npz: features are written to a .npy file, with a .tsv and a .json next to it"),
        (["photos", "-o", "nowhere/x.npy"], 1, "nowhere: no such folder to write x.npy into"),
        (["nowhere", "-o", "x.npy"], 1, "nowhere: no such image, folder or manifest"),
        (["photos", "-o", "x.npy", "--backbone", "vgg61"], 2, 'no network is called "vgg61"; did you mean vgg'),
        (["photos", "-o", "x.npy", "--backbone", "timm:resnet10x"], 2, 'timm has no network "resnet10x"; did you mean'),
        (["photos", "-o", "x.npy", "--backbone", "squeezenet1_1", "--weights", "w.pth"], 1, "w.pth: no such file; --weights takes"),
        (["photos", "-o", "x.npy", "--backbone", "squeezenet1_1"], 1, "CNNKIT_OFFLINE forbids downloading weights for squeezenet1_1; "),
        (["photos", "-o", "x.npy", "--backbone", "none.pt"], 1, "none.pt: no such model"),
        (["photos", "-o", "x.npy", "--backbone", "vgg16", "--layers", TEXT], 2, "give either --backbone or --layers"),
        (["photos", "-o", "x.npy", *SQUEEZE, "--layer", "feature.7"], 2, 'squeezenet1_1 has no layer "feature.7"; did you mean'),
        (["photos", "-o", "x.npy", *BACKBONE, "--layer", "conv9"], 2, 'no layer "conv9"; this network has conv1, pool1, conv2, bn1'),
        (["photos", "-o", "x.npy", "--layers", "cov 5 k3"], 2, 'layer 1: "cov" is not a layer; did you mean "conv"?'),
        (
            ["photos", "-o", "x.npy", "--layers", "conv 5 k99", *BACKBONE[2:4]],
            2,
            'conv1 ("conv 5 k99"): kernel 99 is larger than its input',
        ),
        (["photos", "-o", "x.npy", *BACKBONE, "--resize", "30"], 2, "--resize needs --fit crop; --fit squash resizes directly to --size"),
        (["photos", "-o", "x.npy", *SQUEEZE, "--resize", "10"], 2, "--resize 10 is smaller than the crop of 64"),
        (["photos", "-o", "x.npy", *BACKBONE[:-1], "gpu0"], 2, '--device "gpu0": give auto, cpu, cuda or cuda:N'),
        (["photos", "-o", "x.npy", *BACKBONE, "--pool", "mean"], 2, "invalid value for '--pool'"),
        (["photos", "-o", "x.npy", *BACKBONE, "--split", "val"], 1, "photos: no subfolder val; it has blue, red"),
    ],
)  # fmt: skip
def test_invalid_arguments(run, here, words, status, line):
    """Each error is one line with a remedy; nothing is written."""
    outcome = run("cnn-extract", *words, status=status)
    assert outcome.out == ""
    assert outcome.err.splitlines()[-1].startswith(f"cnn-extract: {line}")
    assert sum("cnn-extract:" in each and "running on" not in each for each in outcome.err.splitlines()) == 1
    assert sorted(os.listdir()) == ["photos"]


def test_manifest_is_not_overwritten(run, here):
    """`cnn-extract split.tsv -o split.npy` would overwrite its own input with the table of features: it refuses."""
    Path("split.tsv").write_text("path\tlabel\nphotos/red/00.png\tred\n")
    outcome = run("cnn-extract", "split.tsv", "-o", "split.npy", *BACKBONE, status=2)
    assert outcome.err.splitlines()[-1].startswith("cnn-extract: split.npy: split.tsv would be overwritten")
    assert Path("split.tsv").read_text() == "path\tlabel\nphotos/red/00.png\tred\n"


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_missing_gpu_is_an_error(run, here, monkeypatch, engine):
    """--device cuda without a GPU is an error of one line, never a run on the CPU; auto reports the CPU."""
    monkeypatch.setattr("cnnkit.engine.device.gpus", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = [*BACKBONE[:-2], "--engine", engine]
    outcome = run("cnn-extract", "photos", "-o", "x.npy", *words, "--device", "cuda", status=1)
    assert outcome.err.splitlines()[-1].startswith("cnn-extract: --device cuda: ")
    assert outcome.err.splitlines()[-1].endswith("; use cpu or auto")
    assert not list(here.glob("x.*"))
    assert "cnn-extract: running on the CPU" in run("cnn-extract", "photos", "-o", "x.npy", *words).err.splitlines()


# ---------------------------------------------------------------- rates, and the terminal


def test_bench(run, here):
    """--bench prints the rates of decoding, of the backbone and of both, in images per second, and writes nothing."""
    outcome = run("cnn-extract", "photos", *BACKBONE, "--bench", "--json")
    record = json.loads(outcome.out)
    assert list(record) == ["images", "decode", "network", "reached", "possible", "share"]
    assert record["images"] == 12
    assert "cnn-extract: the network's images per second by batch size: 8: " in outcome.err
    assert record["share"] == pytest.approx(record["reached"] / record["possible"])
    assert os.listdir() == ["photos"]


def test_progress_bar_only_on_a_terminal(run, terminal, commands, here, many):
    """On a terminal, a bar with rate and remaining time is drawn on stderr; in a pipe there is none."""
    command = commands / "cnn-extract"
    seen = terminal(command, *many, "-o", "x.npy", on=("stderr",), cwd=here)
    assert seen.status == 0
    assert "extracting" in seen.out
    assert "/200" in seen.out
    assert "/s" in seen.out
    assert seen.err.startswith("features\t")
    assert "extracting" not in run("cnn-extract", "photos", "-o", "y.npy", *BACKBONE).err
    quiet = terminal(command, *many, "-o", "x.npy", "--quiet", on=("stderr",), cwd=here)
    assert quiet.out == ""


# ---------------------------------------------------------------- statistics


def test_statistics_of_columns(run, here):
    """Instead of the summary, or of an existing file: one row per column, and a notice; the same both ways."""
    outcome = run("cnn-extract", "photos", "-o", "x.npy", *BACKBONE, "--stats")
    assert list(outcome.rows[0]) == [
        "column",
        "mean",
        "variance",
        "minimum",
        "maximum",
        "zeros",
        "dead",
        "duplicate_of",
    ]
    again = run("cnn-extract", "x.npy", "--stats", "--json")
    records = [json.loads(line) for line in again.out.splitlines()]
    values = np.load("x.npy").astype("float64")
    np.testing.assert_allclose([record["mean"] for record in records], values.mean(0), rtol=1e-9)
    assert [row["mean"] for row in outcome.rows] == [f"{record['mean']:.6g}" for record in records]
    assert records[0]["duplicate_of"] is None
    notice = f"7 columns of 12 rows: {sum(record['dead'] for record in records)} dead, "
    assert notice in outcome.err
    assert notice in again.err
    assert run("cnn-extract", "x.npy", "--stats", "--quiet").err == ""


def test_statistics_import_no_torch(run, shell, here):
    """Nor ONNX Runtime; and the files next to the array are not needed."""
    np.save("alone.npy", np.eye(3, dtype="float32"))
    program = (
        "import sys\nfrom cnnkit_tools import cnn_extract\nsys.argv = ['cnn-extract', 'alone.npy', '--stats']\n"
        "try: cnn_extract.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    outcome = shell(f"{sys.executable} -c {shlex.quote(program)}", cwd=here)
    assert len(outcome.rows) == 3
    assert not {"torch", "onnxruntime", "onnx", "PIL"} & set(outcome.err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x.npy", "-o", "y.npy"), "--stats of an existing file extracts nothing; drop -o"),
        (("x.npy", "--backbone", "vgg16"), "--stats of an existing file extracts nothing; drop --backbone"),
        (("x.npy", "y.npy"), "--stats takes one file of features; got x.npy and y.npy"),
        (("photos",), "give the file to write with -o FILE.npy"),
        (("photos", "--bench"), "--bench writes nothing; drop --stats"),
        (("x.npy", "--batch", "32"), "--stats of an existing file extracts nothing; drop --batch"),
    ],
)
def test_rejects_other_sources_of_statistics(run, here, words, message):
    """One existing file of features, or features that are extracted."""
    assert message in run("cnn-extract", *words, "--stats", status=2).err


# ---------------------------------------------------------------- options that a mode would ignore

#: Each with a value that is not its default.
EVERY_OPTION = {
    "--output": "y.npy",
    "--backbone": "vgg16",
    "--layers": "gap",
    "--weights": "none",
    "--layer": "conv1",
    "--pool": "max",
    "--size": "16",
    "--resize": "20",
    "--decoding": "full",
    "--fit": "pad",
    "--dtype": "float16",
    "--engine": "torch",
    "--views": "2",
    "--augment": "hflip",
    "--resume": None,
    "--bench": None,
    "--stats": None,
    "--join": None,
    "--shard": "1/2",
    "--update": None,
    "--skip-unchanged": None,
    "--split": "train",
    "--folders": "classes",
    "--null": None,
    "--device": "cpu",
    "--batch": "4",
    "--precision": "tf32",
    "--jobs": "2",
    "--workers": "2",
    "--seed": "3",
    "--errors": "errors.tsv",
    "--json": None,
}
#: Options that --bench uses: the backbone, the engine, and which images.
USED_BY_BENCH = {
    *(
        "--bench",
        "--json",
        "--backbone",
        "--layers",
        "--weights",
        "--layer",
        "--pool",
        "--size",
        "--resize",
        "--decoding",
        "--fit",
        "--seed",
    ),
    *("--engine", "--device", "--precision", "--batch", "--jobs", "--workers", "--split", "--folders", "--null"),
}
USED_BY_STATS = {"--stats", "--json"}


def test_every_option_is_in_the_table(run):
    """A new option belongs in the table above: the modes use it or refuse it."""
    listed = set(
        re.findall(r"(?<![\w-])--[a-z][a-z-]+(?=[ ,])", run("cnn-extract", "--help").out.partition("Examples:")[0])
    )
    ours = {
        "--help",
        "--version",
        "--quiet",
        "--max-pixels",
        "--fail-fast",
        "--margin",
        "--install-completion",
        "--show-completion",
    }
    assert listed - ours == set(EVERY_OPTION)


@pytest.mark.parametrize("option", sorted(set(EVERY_OPTION) - USED_BY_STATS))
def test_statistics_reject_every_other_option(run, here, option):
    """Exit status 2 and one line that names the option."""
    words = [word for word in (option, EVERY_OPTION[option]) if word is not None]
    outcome = run("cnn-extract", "x.npy", "--stats", *words, status=2)
    name = {"--output": "-o"}.get(option, option)
    assert outcome.err == f"cnn-extract: --stats of an existing file extracts nothing; drop {name}\n"


def test_bench_rejects_an_explicit_default(run, here):
    outcome = run("cnn-extract", "photos", "--bench", "--dtype", "float32", status=2)
    assert outcome.err == "cnn-extract: --bench writes nothing; drop --dtype\n"


@pytest.mark.parametrize("option", sorted(set(EVERY_OPTION) - USED_BY_BENCH))
def test_bench_rejects_options_of_the_output(run, here, option):
    """Exit status 2 and one line that names the option."""
    words = [word for word in (option, EVERY_OPTION[option]) if word is not None]
    outcome = run("cnn-extract", "photos", "--bench", *words, status=2)
    name = {"--output": "-o"}.get(option, option)
    assert outcome.err == f"cnn-extract: --bench writes nothing; drop {name}\n"


# ---------------------------------------------------------------- GPU, and photographs


@pytest.mark.parametrize("precision", Precision)
def test_settings_on_a_gpu(run, here, pretended_gpu, monkeypatch, precision):
    """Reduced precision is used and recorded in the Header, the default batch size is 128, and a notice names the device."""
    run("cnn-extract", "photos", "-o", "cpu.npy", *SQUEEZE)
    seen = []
    real = runner.run
    monkeypatch.setattr(extract.runner, "run", lambda *given, **more: seen.append(more) or real(*given, **more))
    monkeypatch.setattr(extract, "_batch_size", lambda batch, _images, _views: batch)
    for words, batch in (([], 128), (["--batch", "32"], 32), (["--batch", "5"], 5)):
        done = run("cnn-extract", "photos", "-o", "gpu.npy", *SQUEEZE[:-2], "--precision", precision.value, *words)
        assert "cnn-extract: running on the GPU, cuda:0" in done.err
        assert (seen[-1]["batch"], seen[-1]["in_flight"]) == (batch, 2)
        assert read("gpu.npy").header.training.get("precision", "float32") == precision.value
    content, _, options = pretended_gpu[-1]
    assert options["use_tf32"] == ("0" if precision is Precision.FLOAT32 else "1")
    assert half_precision.is_half(content) is (precision is Precision.FLOAT16)
    expected = read("cpu.npy").values
    np.testing.assert_allclose(read("gpu.npy").values, expected, atol=1e-2 * expected.max())


def test_rejects_float16_overflow(run, here, pretended_gpu, monkeypatch):
    """Infinite features would be written silently; in float32 the same network works."""
    real = Session._run_bound
    monkeypatch.setattr(Session, "_run_bound", lambda *given: [np.full_like(output, np.inf) for output in real(*given)])
    words = ("photos", "-o", "x.npy", *BACKBONE[:-2])
    done = run("cnn-extract", *words, "--precision", "float16", status=1)
    assert (
        done.err.splitlines()[-1] == "cnn-extract: the backbone has values too large for float16; use --precision tf32"
    )
    assert not Path("x.npy").exists()
    run("cnn-extract", *words, "--precision", "tf32")


@pytest.mark.gpu
def test_gpu_matches_cpu(run, here):
    """Features computed on a GPU match the CPU's within 1e-4, with both engines."""
    run("cnn-extract", "photos", "-o", "cpu.npy", *SQUEEZE)
    for engine in ("onnx", "torch"):
        outcome = run("cnn-extract", "photos", "-o", "gpu.npy", *SQUEEZE[:-1], "cuda", "--engine", engine)
        np.testing.assert_allclose(read("gpu.npy").values, read("cpu.npy").values, atol=1e-4)
        for precision in ("tf32", "float16"):
            words = [*SQUEEZE[:-1], "cuda", "--engine", engine, "--precision", precision]
            run("cnn-extract", "photos", "-o", "short.npy", *words)
            np.testing.assert_allclose(
                read("short.npy").values, read("cpu.npy").values, atol=2e-2 * read("cpu.npy").values.max()
            )
            assert read("short.npy").header.training["precision"] == precision
    assert outcome.status == 0


@pytest.mark.slow
@pytest.mark.photos
def test_photographs_of_the_readme(run, photos, here):
    """The README's command on photographs: 1,280 features each, with which a nearest centroid separates cats and dogs."""
    for label in ("cat", "dog"):
        Path("animals", label).mkdir(parents=True)
        for file in sorted((photos / "dogs-vs-cats" / label).iterdir())[:24]:
            shutil.copy(file, Path("animals", label))
    weights = photos / "weights" / "mobilenet_v2.pth"
    run("cnn-extract", "animals", "-o", "x.npy", "--backbone", "mobilenet_v2", "--weights", weights)
    loaded = read("x.npy")
    values, labels = np.array(loaded.values), np.array([row.label for row in loaded.rows])
    assert values.shape == (48, 1280)
    halves = np.arange(48) % 2 == 0
    centroids = np.stack([values[halves & (labels == label)].mean(0) for label in ("cat", "dog")])
    nearest = ((values[~halves, None] - centroids) ** 2).sum(2).argmin(1)
    assert np.mean(np.array(["cat", "dog"])[nearest] == labels[~halves]) > 0.8
