"""cnn-train-head on the command line: from features to a model and its history, and errors."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnnkit.engine import onnx_backbone
from cnnkit.engine.config import BackboneSpec
from cnnkit.formats import features, torch_model
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.manifest import ManifestRow

BACKBONE = ("--layers", "conv 6 k3 s2 relu, conv 8 k3 relu", "--weights", "none", "--size", "16", "--device", "cpu")
FAST = ("--device", "cpu", "--lr", "0.05", "--epochs", "6")


@pytest.fixture(scope="module")
def extracted(made):
    """Make a folder with train.npy and val.npy of small images, by cnn-extract."""
    return made(
        *(("cnn-extract", "photos", "--split", split, "-o", f"{split}.npy", *BACKBONE) for split in ("train", "val")),
        photos={"train": {"red": 10, "blue": 10}, "val": {"red": 5, "blue": 5}},
    )


@pytest.fixture
def here(extracted, tmp_path, monkeypatch):
    """Work in a copy of that folder."""
    shutil.copytree(extracted, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_writes_model_history_and_one_record(run, here, history):
    """One record on stdout with the result and the baselines, the model, and one row of history per epoch."""
    outcome = run("cnn-train-head", "train.npy", "--val", "val.npy", "-o", "head.pt", *FAST)
    (result,) = outcome.rows
    assert list(result) == [
        "model", "classes", "train_rows", "val_rows", "epochs", "best_epoch",
        "train_accuracy", "val_accuracy", "val_loss", "majority", "nearest_centroid",
    ]  # fmt: skip
    assert (result["model"], result["train_rows"], result["val_rows"], result["majority"]) == (
        "head.pt",
        "20",
        "10",
        "0.5",
    )
    rows = history("head.csv")
    assert list(rows[0]) == ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    best = rows[int(result["best_epoch"]) - 1]
    assert (best["val_loss"], best["val_accuracy"]) == (result["val_loss"], result["val_accuracy"])
    model = torch_model.load("head.pt")
    assert model.header.classes == ("blue", "red")
    assert [f"{row['val_loss']:.6g}" for row in model.history] == [row["val_loss"] for row in rows]
    assert sorted(os.listdir()) == sorted(
        [
            "photos",
            "head.pt",
            "head.csv",
            *(f"{split}.{kind}" for split in ("train", "val") for kind in ("npy", "tsv", "json")),
        ]
    )


def test_json_is_the_same_result(run, here, history):
    """Numbers are numbers; without a validation set its measures are null."""
    words = ("cnn-train-head", "train.npy", "--val", "val.npy", "-o", "head.pt", "--json", *FAST)
    result = json.loads(run(*words).out)
    assert (result["classes"], result["epochs"]) == (2, 6)
    outcome = run("cnn-train-head", "train.npy", "-o", "head.pt", "--json", *FAST)
    alone = json.loads(outcome.out)
    assert (alone["val_accuracy"], alone["majority"], alone["best_epoch"]) == (None, None, 6)
    assert "no validation set: keeping the last epoch" in outcome.err
    assert history("head.csv")[0]["val_loss"] == ""


OPTIONS = {
    "head": ("--head", "dense 5 relu, dropout 0.25"),
    "loss": ("--loss", "binary"),
    "solver": ("--solver", "lbfgs"),
    "optimizer": ("--optimizer", "rmsprop"),
    "lr": ("--lr", "0.002"),
    "epochs": ("--epochs", "2"),
    "batch": ("--batch", "5"),
    "l1": ("--l1", "0.01"),
    "l2": ("--l2", "0.03"),
    "init": ("--init", "orthogonal"),
    "class_weights": ("--class-weights", "balanced"),
    "sample": ("--sample", "balanced"),
    "standardize": ("--standardize",),
    "pca": ("--pca", "3"),
    "whiten": ("--whiten",),
    "patience": ("--patience", "2"),
    "monitor": ("--monitor", "val_accuracy"),
    "smoothing": ("--smoothing", "0.1"),
    "seed": ("--seed", "9"),
}


COMMON = ("cnn-train-head", "train.npy", "--val", "val.npy", "-o", "head.pt", "--device", "cpu")


@pytest.fixture(scope="module")
def without_options(extracted, made):
    """Return the Header's record of a training of two epochs without other options."""
    return torch_model.load(made((*COMMON, "--epochs", "2"), folder=extracted) / "head.pt").header.training


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_recorded(run, here, without_options, name):
    """The model's Header has the value of the option, and the defaults of the others."""
    plain = without_options if name != "solver" else {}
    run(*COMMON, *(() if name in ("epochs", "solver") else ("--epochs", "2")), *OPTIONS[name])
    training = torch_model.load("head.pt").header.training
    word = OPTIONS[name][1] if len(OPTIONS[name]) > 1 else "True"
    assert str(training[name]) == word
    if name != "epochs":
        assert {key for key in plain if plain[key] != training[key]} <= {name}
        assert not plain or plain.get(name) != training[name]


def test_history_is_written_after_every_epoch(run, here, monkeypatch):
    """Every epoch is on disk before the next one begins."""
    from cnnkit.formats import history as histories

    seen = []
    real = histories.HistoryWriter.write

    def write(self, record):
        real(self, record)
        seen.append(len(Path("head.csv").read_text().splitlines()))

    monkeypatch.setattr(histories.HistoryWriter, "write", write)
    run("cnn-train-head", "train.npy", "--val", "val.npy", "-o", "head.pt", *FAST)
    assert seen == [2, 3, 4, 5, 6, 7]


def test_reported_accuracy_is_that_of_prediction(run, here):
    """cnn-predict | cnn-eval on the validation images: the same accuracy, probabilities to 1e-4."""
    words = ("--head", "dense 5 relu, dropout 0.3", "--standardize", "--epochs", "4", "--lr", "0.02", "--device", "cpu")
    (result,) = run("cnn-train-head", "train.npy", "--val", "val.npy", "-o", "head.pt", *words).rows
    run("cnn-export", "head.pt", "-o", "head.onnx", "--device", "cpu")
    predicted = run("cnn-predict", "-m", "head.onnx", "photos/val", "--top", "2", "--json", "--device", "cpu").out
    report = json.loads(run("cnn-eval", "--json", stdin=predicted).out)
    assert f"{report['accuracy']:.6g}" == result["val_accuracy"]
    assert report["log_loss"] == pytest.approx(float(result["val_loss"]), abs=1e-4)

    kept, model = features.load("val.npy"), torch_model.load("head.pt")
    weights = {
        name.removeprefix("head."): tensor.numpy() for name, tensor in model.state.items() if name.startswith("head.")
    }
    hidden = np.maximum(kept.values @ weights["dense1.weight"].T + weights["dense1.bias"], 0)
    logits = hidden @ weights["dense2.weight"].T + weights["dense2.bias"]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = {
        (row.path, label): share[place]
        for row, share in zip(kept.rows, shares, strict=True)
        for place, label in enumerate(("blue", "red"))
    }
    records = [json.loads(line) for line in predicted.splitlines()]
    assert len(records) == 20
    for record in records:
        assert record["probability"] == pytest.approx(expected[record["path"], record["label"]], abs=1e-4)


def test_missing_or_wrong_files_are_one_line_before_torch_is_loaded(run, here, shell):
    """The message names the file, without waiting for torch."""
    for words, status, message in [
        (("gone.npy", "-o", "x.pt"), 1, "gone.npy: no such file; make features with cnn-extract"),
        (("train.npy", "--val", "gone.npy", "-o", "x.pt"), 1, "gone.npy: no such file; make features with cnn-extract"),
        (("train.npy", "-o", "x.onnx"), 2, "x.onnx: the model's name must end in .pt; give -o x.pt"),
        (("gone", "-o", "x.pt"), 2, "gone: not a features file; give the .npy written by cnn-extract"),
        (("train.npy", "-o", "nowhere/x.pt"), 1, "nowhere: no such folder to write x.pt into"),
        (("train.tsv", "-o", "x.pt"), 2, "train.tsv: not a features file; did you mean train.npy?"),
        (
            ("train.npy", "-o", "x.pt", "--weights", "gone.pth"),
            1,
            "gone.pth: no such file; --weights takes the state_dict",
        ),
        (("train.npy", "-o", "x.pt", "--head", "@gone.txt"), 2, "gone.txt: No such file or directory"),
        (("train.npy", "-o", "x.pt", "--head", "dense"), 2, "layer 1"),
        (("train.npy", "-o", "x.pt", "--device", "tpu"), 2, "tpu"),
    ]:
        outcome = run("cnn-train-head", *words, status=status)
        assert outcome.out == ""
        assert outcome.err.startswith("cnn-train-head: ")
        assert message in outcome.err
        assert outcome.err.count("\n") == 1
        assert not list(here.glob("x.*"))
    seen = shell("python -X importtime -m cnnkit_tools.cnn_train_head gone.npy -o x.pt", cwd=here, status=1).err
    assert "gone.npy: no such file" in seen
    modules = {line.rpartition("|")[2].strip() for line in seen.splitlines() if line.startswith("import time:")}
    assert "cnnkit.train.feature_sets" in modules
    assert modules & {"torch", "sklearn", "onnxruntime"} == set()
    started = time.perf_counter()
    shell("cnn-train-head gone.npy -o x.pt", cwd=here, status=1)
    assert time.perf_counter() - started < 5, (
        "below a second on an idle machine; several seconds if torch is loaded first"
    )


def test_rejects_splits_without_train_as_cnn_train_does(run, here):
    """Rows of several folds need a split train, with the same message as for images; rows of a single split do not."""
    listed = (here / "train.tsv").read_text().splitlines()
    (here / "train.tsv").write_text(
        "\n".join(line.replace("train\t", f"fold{number % 3}\t") for number, line in enumerate(listed)) + "\n"
    )
    network = ("--layers", "conv 4 k3, gap", "--size", "16", "--epochs", "1")
    message = "no split train in it; make one with cnn-split, or choose the validation split with --hold-out NAME"
    for command, source, others in (("cnn-train-head", "train.npy", FAST), ("cnn-train", "train.tsv", network)):
        alone = run(command, source, "-o", "x.pt", *others, status=1).err
        assert f"{command}: {source}: {message}\n" in alone
        both = run(command, source, "--val", "val" + source[5:], "-o", "x.pt", *others, status=1).err
        assert f"{source}: {message} instead of --val\n" in both
    err = run("cnn-train-head", "val.npy", "--val", "train.npy", "-o", "x.pt", *FAST, status=1).err
    assert "train.npy: no split val in it; give the folder or manifest of the validation images\n" in err
    run("cnn-train-head", "val.npy", "-o", "x.pt", *FAST)
    run("cnn-train-head", "train.npy", "--hold-out", "fold0", "-o", "x.pt", *FAST)


def test_rejects_features_of_another_width_than_the_backbones(run, here):
    """Both widths are named, before anything is trained."""
    for name in ("train", "val"):
        np.save(f"{name}.npy", np.load(f"{name}.npy")[:, :5])
    outcome = run("cnn-train-head", "train.npy", "--val", "val.npy", "-o", "x.pt", *FAST, status=1)
    assert outcome.err == (
        "cnn-train-head: train.npy: rows of 5 values, but the backbone in its header, layers, outputs 8; run cnn-extract again\n"
    )
    assert not list(here.glob("x.*"))


def test_rejects_an_image_with_two_labels(run, here):
    """In training and validation features; an image listed twice with one label is counted; augmented views are not duplicates."""
    for name, words in (("train", ()), ("val", ("train.npy", "--val"))):
        listed = here / f"{name}.tsv"
        header, first, _, *others = written = listed.read_text().splitlines()
        path, label, *_ = first.split("\t")
        other = {"red": "blue", "blue": "red"}[label]
        listed.write_text("\n".join([header, first, first.replace(f"\t{label}\t", f"\t{other}\t"), *others]) + "\n")
        err = run("cnn-train-head", *words, f"{name}.npy", "-o", "x.pt", *FAST, status=1).err
        assert err.splitlines()[-1] == (
            f"cnn-train-head: {name}.tsv: {path} is listed twice, with classes {label} and {other}; remove one of them"
        )
        listed.write_text("\n".join([header, first, first, *others]) + "\n")
        err = run("cnn-train-head", *words, f"{name}.npy", "-o", "x.pt", *FAST).err
        assert f"{name}.tsv: 1 image is listed more than once, and counted each time; the first is {path}\n" in err
        listed.write_text("\n".join(written) + "\n")
    run("cnn-extract", "photos", "--split", "train", "-o", "views.npy", *BACKBONE, "--augment", "hflip", "--views", "2")
    assert "listed twice" not in run("cnn-train-head", "views.npy", "-o", "x.pt", *FAST).err


def test_rejects_features_of_another_backbone(run, here):
    """Both files and both layers are named; exit status 1, and nothing is written."""
    run("cnn-extract", "photos", "--split", "val", "-o", "other.npy", *BACKBONE, "--layer", "conv1")
    outcome = run("cnn-train-head", "train.npy", "--val", "other.npy", "-o", "x.pt", status=1)
    assert outcome.err == (
        "cnn-train-head: train.npy has layer conv2, other.npy has conv1; extract both with the same options\n"
    )
    assert not list(here.glob("x.*"))


@pytest.mark.slow
@pytest.mark.photos
def test_mobilenet_on_photographs(run, photos, tmp_path, monkeypatch):
    """MobileNetV2 and a few dozen dogs and cats: training and cnn-predict | cnn-eval agree on the validation images."""
    monkeypatch.chdir(tmp_path)
    for split, start, count in (("train", 0, 24), ("val", 24, 12)):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            for path in sorted((photos / "dogs-vs-cats" / label).iterdir())[start : start + count]:
                (tmp_path / split / label / path.name).symlink_to(path)
        backbone = (
            "--backbone",
            "mobilenet_v2",
            "--weights",
            photos / "weights" / "mobilenet_v2.pth",
            "--device",
            "cpu",
        )
        run("cnn-extract", split, "-o", f"{split}.npy", *backbone)
    outcome = run(
        "cnn-train-head",
        "train.npy",
        "--val",
        "val.npy",
        "-o",
        "head.pt",
        "--solver",
        "lbfgs",
        "--standardize",
        "--device",
        "cpu",
    )
    (result,) = outcome.rows
    assert float(result["val_accuracy"]) >= 0.9
    assert "signal" not in outcome.err
    run("cnn-export", "head.pt", "-o", "head.onnx", "--device", "cpu", "--cam", "--batch", "4")
    predicted = run("cnn-predict", "-m", "head.onnx", "val", "--top", "2", "--device", "cpu").out
    report = json.loads(run("cnn-eval", "--json", stdin=predicted).out)
    assert f"{report['accuracy']:.6g}" == result["val_accuracy"]
    assert report["log_loss"] == pytest.approx(float(result["val_loss"]), abs=2e-4)


def test_a_row_without_a_label_is_named(run, here):
    """Features of images without labels cannot train a head."""
    model = onnx_backbone.get(BackboneSpec(layers="conv 6 k3 s2 relu, conv 8 k3 relu", weights="none", size=16)).header
    header = Header(ArtefactKind.FEATURES, None, model.preprocess, model.backbone)
    with features.FeatureWriter("bare.npy", shape=(8,), dtype="float32", header=header) as writer:
        writer.write(
            np.zeros((2, 8), dtype=np.float32),
            [ManifestRow("a.png", "cat", None, None), ManifestRow("b.png", None, None, None)],
        )
    outcome = run("cnn-train-head", "bare.npy", "-o", "x.pt", status=1)
    assert (
        outcome.err
        == "cnn-train-head: bare.npy: b.png has no label; extract from class folders or a manifest with labels\n"
    )


def test_results_do_not_depend_on_the_cache(run, here, tmp_path, monkeypatch):
    """If the cache is deleted, the backbone's weights come from the next extraction, or from a model that has them."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "own"))
    words = ["--layers", "conv 6 k3 relu, pool 2", "--weights", "none", "--size", "12", "-q"]
    run("cnn-extract", "photos/train", "-o", "own.npy", *words)
    run("cnn-train-head", "own.npy", "-o", "own.pt", "--solver", "lbfgs", "-q")
    made = Path("own.pt").read_bytes()

    shutil.rmtree(tmp_path / "own" / "weights")
    lost = run("cnn-train-head", "own.npy", "-o", "again.pt", "--solver", "lbfgs", "-q", status=1)
    assert "give them with --weights FILE" in lost.err
    run("cnn-train-head", "own.npy", "-o", "again.pt", "--solver", "lbfgs", "-q", "--weights", "own.pt")
    assert Path("again.pt").read_bytes() == made

    shutil.rmtree(tmp_path / "own" / "weights")
    run("cnn-extract", "photos/train", "-o", "own.npy", *words)  # finds its backbone in the cache, but not the weights
    run("cnn-train-head", "own.npy", "-o", "again.pt", "--solver", "lbfgs", "-q")
    assert Path("again.pt").read_bytes() == made

    shutil.rmtree(tmp_path / "own")
    run("cnn-extract", "photos/train", "-o", "from_model.npy", "--backbone", "own.pt", "-q")
    run("cnn-train-head", "from_model.npy", "-o", "third.pt", "--solver", "lbfgs", "-q")
    assert Path("from_model.npy").read_bytes() == Path("own.npy").read_bytes()


# ---------------------------------------------------------------- preparation, against scikit-learn


PREPARED = {
    "standardize": ("--standardize",),
    "pca": ("--pca", "8"),
    "whiten": ("--whiten",),
    "standardize, pca": ("--standardize", "--pca", "8"),
    "pca, whiten": ("--pca", "8", "--whiten"),
    "standardize, pca, whiten": ("--standardize", "--pca", "8", "--whiten"),
}


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory, made):
    """Make a folder with images of three classes, and their features in 12 columns by cnn-extract."""
    folder = tmp_path_factory.mktemp("three")
    generator = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 6)):
        for label, tint in (("red", 0), ("green", 1), ("blue", 2)):
            (folder / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = generator.uniform(0, 160, (20, 20, 3))
                pixels[..., tint] += generator.uniform(0, 40)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / label / f"{index:02d}.png")
    backbone = ("--layers", "conv 12 k3 s2 relu", "--weights", "none", "--size", "16", "--device", "cpu")
    return made(*(("cnn-extract", split, "-o", f"{split}.npy", *backbone) for split in ("train", "val")), folder=folder)


@pytest.mark.parametrize("words", PREPARED.values(), ids=PREPARED)
def test_probabilities_are_those_of_a_scikit_learn_pipeline(run, three_classes, tmp_path, monkeypatch, words):
    """From images through cnn-extract, cnn-train-head and cnn-export to cnn-predict: to 1e-4, on images not trained on."""
    monkeypatch.chdir(three_classes)
    model, exported, cpu = tmp_path / "m.pt", tmp_path / "m.onnx", ("--device", "cpu")
    l2 = 0.003
    run("cnn-train-head", "train.npy", "-o", model, "--solver", "lbfgs", "--l2", l2, *words, *cpu)
    run("cnn-export", model, "-o", exported, *cpu)
    predicted = run("cnn-predict", "-m", exported, "val", "--top", "3", "--json", *cpu).out
    train, val = features.load("train.npy"), features.load("val.npy")
    steps = [StandardScaler()] if "--standardize" in words else []
    if "--pca" in words or "--whiten" in words:
        components = 8 if "--pca" in words else None
        steps.append(PCA(components, whiten="--whiten" in words, svd_solver="full"))
    penalty = 1 / (2 * l2 * len(train.rows))
    pipeline = make_pipeline(*steps, LogisticRegression(C=penalty, tol=1e-10, max_iter=10_000))
    pipeline.fit(np.asarray(train.values, "float64"), [row.label for row in train.rows])
    expected = pipeline.predict_proba(np.asarray(val.values, "float64"))
    assert np.ptp(expected, axis=0).min() > 0.2, "probabilities should differ between images"
    places = {Path(row.path).resolve(): place for place, row in enumerate(val.rows)}
    records = [json.loads(line) for line in predicted.splitlines()]
    assert len(records) == 3 * len(val.rows)
    found = np.full_like(expected, np.nan)
    for record in records:
        found[places[Path(record["path"]).resolve()], list(pipeline.classes_).index(record["label"])] = record[
            "probability"
        ]
    np.testing.assert_allclose(found, expected, atol=1e-4)


# ---------------------------------------------------------------- --with: additional inputs


def noise(folder, widths, *, count, seed):
    """Draw images that differ between classes only in their width."""
    generator = np.random.default_rng(seed)
    for label, width in widths.items():
        (folder / label).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (40, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index:03d}.png")


SIDE = ("--layers", "conv 4 k3 relu", "--weights", "none", "--size", "16", "--fit", "squash", "--device", "cpu")
WITH = ("--solver", "lbfgs", "--l2", "0.001", "--device", "cpu")


@pytest.mark.parametrize("widths", [{"a": 40, "b": 44}, {"a": 40, "b": 40}], ids=["leaking", "clean"])
def test_gain_of_the_width(run, tmp_path, monkeypatch, widths):
    """Noise in two sizes is classified by its width: the gain's interval is above zero; in one size it includes zero."""
    monkeypatch.chdir(tmp_path)
    for split, seed in (("train", 0), ("val", 1)):
        noise(tmp_path / split, widths, count=40, seed=seed)
        run("cnn-extract", split, "-o", f"{split}.npy", *SIDE)
    words = ("cnn-train-head", "train.npy", "--val", "val.npy", "--with", "width,height", "--json", *WITH)
    outcome = run(*words)
    plain, both, alone = (json.loads(line) for line in outcome.out.splitlines())
    assert [each["inputs"] for each in (plain, both, alone)] == ["features", "features, width, height", "width, height"]
    assert {each["val_rows"] for each in (plain, both, alone)} == {80}
    assert (plain["gain"], plain["p_value"]) == (None, None)
    assert 0.3 < plain["val_accuracy"] < 0.7
    assert not list(tmp_path.glob("*.pt")) + list(tmp_path.glob("*.csv"))
    assert "--with height: the same for all training images" in outcome.err
    assert "always predicting a, the most frequent class, has accuracy 0.500 on these images" in outcome.err
    assert both["gain"] == pytest.approx(both["val_accuracy"] - plain["val_accuracy"])
    if widths["a"] != widths["b"]:
        assert (both["val_accuracy"], alone["val_accuracy"]) == (1, 1)
        assert both["gain_low"] > 0.2
        assert both["p_value"] < 1e-6
        (result,) = run("cnn-train-head", "train.npy", "--val", "val.npy", "-o", "m.pt", *WITH).rows
        assert result["val_accuracy"] == f"{plain['val_accuracy']:.6g}"
    else:
        assert both["gain_low"] <= 0 <= both["gain_high"]
        assert both["gain"] == 0, "constant columns have no effect"


def test_columns_of_a_manifest_with_prepared_features_of_folds(run, here):
    """A text column, paths without extension, a deep head and a held-out fold: columns that determine the class are enough."""
    run("cnn-split", "photos/train", "--folds", "2", "--manifest", "folds.tsv")
    run("cnn-extract", "folds.tsv", "-o", "x.npy", *BACKBONE)
    header, *lines = Path("folds.tsv").read_text().splitlines()
    lines = [f"{line.replace('.png', '')}\t{'sea' if 'blue/' in line else 'land'}" for line in lines]
    Path("more.tsv").write_text("\n".join([f"{header}\tplace", *lines]) + "\n")
    words = ("--with", "place,bytes", "--columns", "more.tsv", "--standardize", "--pca", "3", "--head", "dense 4 relu")
    outcome = run("cnn-train-head", "x.npy", "--hold-out", "fold1", *words, *FAST[:-1], "40")
    assert [row["val_rows"] for row in outcome.rows] == ["10"] * 3
    assert (
        "more.tsv: 20 paths have no extension; photos/train/blue/00 is read as photos/train/blue/00.png" in outcome.err
    )
    assert [row["val_accuracy"] for row in outcome.rows][1:] == ["1", "1"]
    assert outcome.rows[0]["gain"] == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--val", "val.npy", "--with", "width", "-o", "m.pt"), "--with writes no model; drop -o"),
        (("--val", "val.npy", "--with", "width", "--weights", "w.pth"), "--with writes no model; drop --weights"),
        (("--with", "width"), "--with needs a validation set; give --val or --hold-out"),
        (
            ("--val", "val.npy", "--with", "widht"),
            "--with widht: no such column; there are width, height, aspect, bytes",
        ),
        (
            ("-o", "m.pt", "--columns", "m.tsv"),
            "--columns goes with --use and --with; name the columns with --use NAME,...",
        ),
        (("--val", "val.npy"), "no output file; give the model's name with -o FILE.pt"),
        (("--val", "val.npy", "--hold-out", "fold0", "-o", "m.pt"), "--val and --hold-out both name a validation set"),
        (
            ("--val", "val.npy", "--hold-out", "fold0", "--with", "width"),
            "--val and --hold-out both name a validation set",
        ),
    ],
)
def test_rejects_contradicting_options(run, here, words, message):
    """One line, exit status 2, and nothing is written."""
    before = sorted(os.listdir())
    outcome = run("cnn-train-head", "train.npy", *words, status=2)
    assert outcome.err.splitlines()[-1].startswith(f"cnn-train-head: {message}")
    assert sorted(os.listdir()) == before


def test_with_rejects_spatial_features(run, here):
    """Columns can be appended to vectors, not to maps."""
    for split in ("train", "val"):
        run("cnn-extract", "photos", "--split", split, "-o", f"{split}.npy", *BACKBONE, "--pool", "none")
    outcome = run("cnn-train-head", "train.npy", "--val", "val.npy", "--with", "width", status=2)
    assert "--with needs vectors, and these features are maps; extract with --pool avg, max or flatten" in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr", "nan"], "--lr"),
        (["--lr", "inf"], "--lr: inf is not a finite number"),
        (["--lr", "1e400"], "--lr: inf is not a finite number"),
        (["--clip", "inf"], "--clip: inf is not a finite number"),
        (["--solver", "lbfgs", "--schedule", "constant"], "--solver lbfgs has no epochs or batches; drop --schedule"),
        (["--solver", "lbfgs", "--epochs", "50"], "--solver lbfgs has no epochs or batches; drop --epochs"),
    ],
)
def test_rejects_infinite_numbers_and_ignored_options(run, words, message):
    """Before anything is read, also if an option is given with its default value."""
    assert message in run("cnn-train-head", "none.npy", "-o", "h.pt", *words, status=2).err


def test_range_test_is_that_of_torch(run, here):
    """With all rows in a batch, its losses are those of torch's gradient steps from zeros at the same rates; only the figure is written."""
    before = {each.name for each in here.iterdir()}
    words = ("--init", "zeros", "--optimizer", "sgd", "--batch", 20, "--device", "cpu")
    outcome = run("cnn-train-head", "train.npy", *words, "--find-lr", "lr.png")
    found = features.load("train.npy")
    values = torch.from_numpy(np.array(found.values, np.float32))
    targets = torch.tensor([row.label == "red" for row in found.rows]).long()
    layer = torch.nn.Linear(values.shape[1], 2)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    for place, row in enumerate(outcome.rows):
        rate = 1e-7 * 1e8 ** (place / 100)
        loss = torch.nn.functional.cross_entropy(layer(values), targets)
        assert (float(row["lr"]), float(row["loss"])) == pytest.approx((rate, loss.item()), rel=1e-4)
        layer.zero_grad()
        loss.backward()
        with torch.no_grad():
            for each in layer.parameters():
                each -= rate * each.grad
    assert len(outcome.rows) > 50
    assert "suggested: --lr " in outcome.err
    assert "no validation set" not in outcome.err
    assert {each.name for each in here.iterdir()} == before | {"lr.png"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "head.pt"], "--find-lr has its own learning rates, validates nothing, and writes no model; drop -o"),
        (
            ["--epochs", "50"],
            "--find-lr has its own learning rates, validates nothing, and writes no model; drop --epochs",
        ),
        (["--with", "width"], "--find-lr writes no model; drop --with"),
        (["--weights", "net.pth"], "--find-lr writes no model; drop --weights"),
        (["--solver", "lbfgs"], "--solver lbfgs has no learning rate; drop --find-lr, or use --solver gradient"),
    ],
)
def test_range_test_refuses_options_without_effect(run, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    outcome = run("cnn-train-head", "train.npy", "--find-lr", "lr.png", *words, status=2)
    assert outcome.err == f"cnn-train-head: {message}\n"
