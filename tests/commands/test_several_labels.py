"""Several labels per image, through all commands: split, extract, train, export, predict and evaluate, against onnx and scikit-learn."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score

import cnnkit
from cnnkit.formats import onnx_model, torch_model

CLASSES = ("blue", "green", "red")
LAYERS = "conv 4 k5 s4 relu"


@pytest.fixture(scope="session")
def labelled(made, tmp_path_factory):
    """Bands of the colours of each image's labels, split and trained on; every eighth image has no label."""
    folder = tmp_path_factory.mktemp("labels")
    generator = np.random.default_rng(0)
    lines = ["path\tlabels"]
    for number in range(48):
        chosen = [name for place, name in enumerate(CLASSES) if number >> place & 1]
        pixels = generator.uniform(0, 90, (32, 32, 3))
        for name in chosen:
            row = 8 * int(generator.integers(4))
            pixels[row : row + 6, :, {"red": 0, "green": 1, "blue": 2}[name]] += 150
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02}.png")
        lines.append(f"{number:02}.png\t{';'.join(chosen)}")
    (folder / "all.tsv").write_text("\n".join(lines) + "\n")
    layers = ("--layers", LAYERS, "--size", "32", "--fit", "squash")
    return made(
        ("cnn-split", "all.tsv", "--ratio", "60,20,20", "--manifest", "split.tsv"),
        ("cnn-train", "split.tsv", "-o", "net.pt", *layers, "--epochs", "2", "--mixup", "0.2"),
        ("cnn-extract", "split.tsv", "--backbone", "net.pt", "-o", "features.npy"),
        ("cnn-train-head", "features.npy", "-o", "head.pt", "--solver", "lbfgs", "--weights", "net.pt"),
        ("cnn-export", "head.pt", "-o", "head.onnx"),
        ("cnn-export", "head.pt", "-o", "only.onnx", "--head-only"),
        ("cnn-export", "head.pt", "-o", "half.onnx", "--fp16", "--features"),
        folder=folder,
    )


@pytest.fixture
def inside(labelled, monkeypatch):
    monkeypatch.chdir(labelled)
    return labelled


def by_image(rows):
    found = {}
    for row in rows:
        found.setdefault(row["path"], []).append(row)
    return found


def sets(rows):
    """The set of labels of each image."""
    return {path: {row["label"] for row in each} - {""} for path, each in by_image(rows).items()}


def test_evaluation_agrees_with_scikit_learn(inside, run):
    """The labels that cnn-predict prints have scikit-learn's micro F1, and cnn-eval the same."""
    rows = run("cnn-predict", "-m", "head.onnx", "split.tsv", "--split", "test").rows
    truth = {
        fields[0]: set(filter(None, fields[1].split(";")))
        for fields in (line.split("\t") for line in (inside / "split.tsv").read_text().splitlines()[1:])
    }
    found = sets(rows)
    matrices = [
        [[name in labels[path] for name in CLASSES] for path in found] for labels in (truth, found)
    ]  # (N, classes) both
    (inside / "test-predictions.tsv").write_text(
        run("cnn-predict", "-m", "head.onnx", "split.tsv", "--split", "test", "--top", "all").out
    )
    measures = json.loads(
        run("cnn-eval", "test-predictions.tsv", "--truth", "split.tsv", "--split", "test", "--json").out
    )
    assert measures["f1_micro"] == pytest.approx(f1_score(*matrices, average="micro"))
    assert measures["f1_micro"] > 0.6
    assert measures["mAP"] is not None


def test_rows_are_the_labels_from_their_thresholds_on(inside, run):
    """One row per label, the most probable first; an image without a label has one row of rank 0."""
    header = torch_model.load("head.pt").header
    printed = by_image(run("cnn-predict", "-m", "head.onnx", "split.tsv").rows)
    every = by_image(run("cnn-predict", "-m", "head.onnx", "split.tsv", "--top", "all").rows)
    thresholds = dict(zip(header.classes, header.thresholds, strict=True))
    assert any(row["rank"] == "0" for rows in printed.values() for row in rows)
    for path, rows in every.items():
        assert [row["rank"] for row in rows] == ["1", "2", "3"]
        assert all(float(row["threshold"]) == pytest.approx(thresholds[row["label"]], rel=1e-5) for row in rows)
        above = [row for row in rows if float(row["probability"]) >= float(row["threshold"])]
        none = {"path": path, "rank": "0", "label": "", "probability": "", "threshold": ""}
        expected = [row | {"rank": str(rank)} for rank, row in enumerate(above, start=1)]
        assert printed[path] == (expected or [none])


def test_options_of_the_rows(inside, run):
    """--top K prints K classes whatever their thresholds, --min-probability replaces these, --labels-only joins the labels."""
    predict = ("cnn-predict", "-m", "head.onnx", "00.png", "03.png", "05.png")
    every = by_image(run(*predict, "--top", "all").rows)
    assert by_image(run(*predict, "--top", "1").rows) == {path: rows[:1] for path, rows in every.items()}
    strict = run(*predict, "--min-probability", "0.9").rows
    assert {row["threshold"] for row in strict} <= {"0.9", ""}
    assert sets(strict) == {
        path: {row["label"] for row in rows if float(row["probability"]) >= 0.9} for path, rows in every.items()
    }
    found = by_image(run(*predict).rows)
    lines = run(*predict, "--labels-only").out.splitlines()
    assert lines == [";".join(row["label"] for row in rows) for rows in found.values()]
    first = json.loads(run(*predict, "--top", "1", "--logits", "--json").out.splitlines()[0])
    assert list(first) == ["path", "rank", "label", "probability", "threshold", "logit"]
    assert first["probability"] == pytest.approx(1 / (1 + np.exp(-first["logit"])), abs=1e-6)


def test_novelty_of_images_with_several_labels(inside, run, tmp_path):
    """It is a column of every row, and --reject leaves one row of rank 0 with the label ?."""
    model = str(tmp_path / "novelty.onnx")
    record = run("cnn-calibrate", "-m", "head.onnx", "--novelty", "features.npy", "-o", model).rows[0]
    limit = float(record["threshold"])
    plain = run("cnn-predict", "-m", model, "all.tsv", "--logits").rows
    assert list(plain[0]) == ["path", "rank", "label", "probability", "threshold", "logit", "novelty"]
    without = run("cnn-predict", "-m", "head.onnx", "all.tsv", "--logits").rows
    assert [{name: row[name] for name in without[0]} for row in plain] == without
    novel = {row["path"] for row in plain if float(row["novelty"]) > limit}
    assert 0 < len(novel) < 48
    rejected = run("cnn-predict", "-m", model, "all.tsv", "--reject")
    (tmp_path / "p.tsv").write_text(rejected.out)
    for path, rows in by_image(rejected.rows).items():
        assert ([row["label"] for row in rows] == ["?"]) is (path in novel)
        assert path not in novel or (rows[0]["rank"], rows[0]["probability"], rows[0]["threshold"]) == ("0", "", "")
    lines = run("cnn-predict", "-m", model, "all.tsv", "--reject", "--labels-only").out.splitlines()
    assert lines.count("?") == len(novel)
    measured = run("cnn-eval", str(tmp_path / "p.tsv"), "--truth", "all.tsv")
    assert f"the labels of {len(novel)} images are withheld; counted as none" in measured.err
    assert not [row for row in measured.rows if row["measure"].endswith("?")]


def test_votes(inside, run):
    """Soft: the mean of the probabilities, and of the thresholds. Hard: the share of models and views in which a class is a label."""
    rows = [
        {(row["path"], row["label"]): row for row in run("cnn-predict", *models, "split.tsv", "--top", "all").rows}
        for models in (
            ("-m", "head.onnx"),
            ("-m", "half.onnx"),
            ("-m", "head.onnx", "-m", "half.onnx"),
            ("-m", "head.onnx", "-m", "half.onnx", "--vote", "hard"),
        )
    ]
    one, two, soft, hard = rows
    for key in one:
        both = [float(each[key]["probability"]) for each in (one, two)]
        votes = [float(each[key]["probability"]) >= float(each[key]["threshold"]) for each in (one, two)]
        assert float(soft[key]["probability"]) == pytest.approx(np.mean(both), abs=1e-5)
        assert float(hard[key]["probability"]) == np.mean(votes)
        assert hard[key]["threshold"] == "0.5"


def test_graph_has_thresholds_and_says_which_classes_are_labels(inside, run):
    """Output predicted is probabilities >= thresholds, in the whole network, in float16, and in a head for features."""
    header = torch_model.load("head.pt").header
    images = np.stack([np.asarray(Image.open(f"{number:02}.png")) for number in range(8)])
    values = np.load("features.npy")[:8]
    for name, given in (
        ("head.onnx", {"images": images}),
        ("half.onnx", {"images": images}),
        ("only.onnx", {"features": values}),
    ):
        model = onnx.load(name)
        (kept,) = [each for each in model.graph.initializer if each.name == "thresholds"]
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(kept), np.float32(header.thresholds))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        assert [each.name for each in session.get_outputs()][:3] == ["probabilities", "logits", "predicted"]
        probabilities, logits, predicted = session.run(None, given)[:3]
        np.testing.assert_allclose(probabilities, torch.from_numpy(logits).sigmoid(), atol=1e-6)
        np.testing.assert_array_equal(predicted, probabilities >= np.float32(header.thresholds))
        assert onnx_model.load(name).header.multi_label


def test_int8_is_measured_by_the_labels(inside, run, tmp_path):
    """mAP and micro F1 of both precisions are those of cnn-eval on the held-out images."""
    model = str(tmp_path / "small.onnx")
    plain, small = run(
        "cnn-export", "head.pt", "-o", model, "--int8", "--calibrate", "split.tsv", "--max-drop", "1"
    ).rows
    for row, network in ((plain, "head.onnx"), (small, model)):
        predicted = run("cnn-predict", "-m", network, "split.tsv", "--split", "val", "--top", "all").out
        measures = json.loads(run("cnn-eval", "--truth", "split.tsv", "--split", "val", "--json", stdin=predicted).out)
        found = [float(row[name]) for name in ("rows", "mAP", "f1_micro")]
        assert found == pytest.approx([measures[name] for name in ("n", "mAP", "f1_micro")], rel=1e-5)
    assert int(small["int8_layers"]) > 0
    assert onnx_model.load(model).header.training["int8"]["mAP"] == pytest.approx(float(small["mAP"]), rel=1e-5)


def test_int8_has_the_labels_of_float32(inside, run, tmp_path):
    """On the images of the calibration no other thresholds give them more often; here some are probabilities of these images."""
    lines = [line.split("\t") for line in (inside / "split.tsv").read_text().splitlines()]
    images = np.stack([np.asarray(Image.open(line[0])) for line in lines if "train" in line])
    before = onnxruntime.InferenceSession("head.onnx", providers=["CPUExecutionProvider"])
    (expected,) = before.run(["probabilities"], {"images": images})
    cuts = np.quantile(expected, 0.4, axis=0, method="nearest")
    model = torch_model.load("head.pt")
    header = model.header.but(thresholds=tuple(map(float, cuts)))
    torch_model.save(tmp_path / "head.pt", replace(model, header=header))
    small = str(tmp_path / "small.onnx")
    words = ("--int8", "--calibrate", "split.tsv", "--max-drop", "1")
    run("cnn-export", tmp_path / "head.pt", "-o", small, *words)
    after = onnxruntime.InferenceSession(small, providers=["CPUExecutionProvider"])
    labels, found = after.run(["predicted", "probabilities"], {"images": images})
    np.testing.assert_array_equal(labels, found >= np.float32(onnx_model.load(small).header.thresholds))
    for column, wanted, given in zip(found.T, (expected >= cuts).T, labels.T, strict=True):
        best = max(f1_score(wanted, column >= cut) for cut in np.unique(column))
        assert f1_score(wanted, given) == pytest.approx(best)


def test_python_interface_has_the_same_labels(inside, run):
    found = sets(run("cnn-predict", "-m", "head.onnx", "00.png", "05.png").rows)
    loaded = cnnkit.Classifier("head.onnx")
    predictions = loaded.predict(["00.png", "05.png"])
    assert {each.path: set(each.labels) for each in predictions} == found
    assert loaded.thresholds == pytest.approx(torch_model.load("head.pt").header.thresholds)
    rows = [row for each in predictions for row in each.top()]
    cnnkit.write_predictions("written.tsv", rows)
    assert (inside / "written.tsv").read_text() == run(
        "cnn-predict", "-m", "head.onnx", "00.png", "05.png", "--top", "all"
    ).out


def test_trained_on_images(inside, run):
    """cnn-train stores the thresholds in the model, --resume knows that it is complete, and cnn-finetune goes on from it."""
    header = torch_model.load("net.pt").header
    assert (header.multi_label, header.head.rpartition(", ")[2]) == (True, "dense 3 sigmoid")
    assert len(header.thresholds) == 3
    layers = ("--layers", LAYERS, "--size", "32", "--fit", "squash", "--epochs", "2", "--mixup", "0.2")
    again = run("cnn-train", "split.tsv", "-o", "net.pt", *layers, "--resume")
    assert "is complete with epoch 2" in again.err
    run("cnn-finetune", "net.pt", "split.tsv", "-o", "tuned.pt", "--epochs", "1", "--unfreeze", "all", "--lr", "0.01")
    tuned = torch_model.load("tuned.pt").header
    assert tuned.multi_label
    assert tuned.training["loss"] == "binary"


def test_maps_of_the_true_labels(inside, run):
    """--class true maps every label of an image."""
    rows = run(
        "cnn-cam", "-m", "net.pt", "split.tsv", "--split", "val", "--class", "true", "-o", "maps", status=None
    ).rows
    truth = dict(line.split("\t")[:2] for line in (inside / "split.tsv").read_text().splitlines()[1:])
    assert rows
    for path, each in by_image(rows).items():
        assert {row["class"] for row in each} == set(truth[path].split(";"))


def test_order_by_margin_is_that_of_the_differences_from_the_thresholds(inside, run):
    """The smallest one of each image, ascending; the rows of an image stay together."""
    given = ("cnn-predict", "-m", "only.onnx", "features.npy", "--top", "all")
    before = by_image(run(*given).rows)
    margin = {
        path: min(abs(float(row["probability"]) - float(row["threshold"])) for row in rows)
        for path, rows in before.items()
    }
    after = by_image(run(*given, "--by-margin").rows)
    assert after == before
    assert [margin[path] for path in after] == pytest.approx(
        sorted(margin.values()), abs=2e-6
    )  # six digits are printed
    assert list(after) != list(before)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("cnn-attack", "-m", "net.pt", "03.png", "-o", "x"), "give another model"),
        (("cnn-predict", "-m", "head.onnx", "03.png", "--sets"), "prediction sets are of one label; drop --sets"),
        (("cnn-advise", "split.tsv"), "train a head on them"),
        (("cnn-train-head", "features.npy", "--with", "width"), "drop it, and compare models of --use by cnn-eval"),
        (("cnn-train", "split.tsv", "-o", "x.pt", "--layers", LAYERS, "--loss", "categorical"), "the loss is binary"),
        (("cnn-train", "split.tsv", "-o", "x.pt", "--layers", f"{LAYERS}, dense 3 softmax"), "images with several labels need"),
        (("cnn-train", "split.tsv", "-o", "x.pt", "--layers", LAYERS, "--sample", "balanced"), "--class-weights balanced"),
        (("cnn-finetune", "net.pt", "all.tsv", "--val", "one.tsv", "-o", "x.pt"), "training needs one kind of label"),
        (("cnn-calibrate", "p.tsv", "--truth", "one.tsv", "--sets", "0.5", "-m", "only.onnx", "-o", "x.onnx"), "sets are of one; its"),
        (("cnn-compare", "--learning-curve", "features.npy"), "compare their mAP by cnn-eval"),
        (("cnn-report", "p.tsv", "--truth", "one.tsv", "-m", "head.onnx", "-o", "x.html"), "predicts several labels per image"),
    ],
)  # fmt: skip
def test_what_needs_one_label_per_image_is_refused_in_one_line(inside, run, words, remedy):
    (inside / "one.tsv").write_text("path\tlabel\n01.png\tblue\n02.png\tgreen\n")
    (inside / "p.tsv").write_text("path\trank\tlabel\tprobability\n01.png\t1\tblue\t0.9\n02.png\t1\tblue\t0.6\n")
    (inside / "several.tsv").write_text("path\trank\tlabel\tprobability\tthreshold\n01.png\t1\tblue\t0.9\t0.5\n")
    failed = run(*words, status=None)
    assert failed.status in (1, 2)
    assert remedy in failed.err
    assert failed.err.rstrip().count("\n") <= 1
