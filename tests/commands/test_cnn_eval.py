"""cnn-eval, as it is typed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn import metrics as reference

from cnnkit.formats import onnx_model
from cnnkit.formats.header import ArtefactKind, Header, Preprocess

CLASSES = ("daisy", "rose", "tulip")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder: split.tsv with train, val and test, whose images do not exist."""
    monkeypatch.chdir(tmp_path)
    lines = ["path\tlabel\tsplit"]
    for split, count in (("train", 6), ("val", 3), ("test", 90)):
        for index in range(count):
            label = CLASSES[index % 3]
            lines.append(f"photos/{label}/{split}-{index}.jpg\t{label}\t{split}")
    (tmp_path / "split.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def draw(classes, *, n=90, seed=0):
    """Draw labels, and probabilities rounded to six digits, as printed."""
    generator = np.random.default_rng(seed)
    truth = np.arange(n) % len(classes)
    scores = generator.normal(size=(n, len(classes))) + 1.5 * np.eye(len(classes))[truth]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return truth, np.vectorize(lambda value: float(f"{value:.6g}"))(probabilities)


def write(truth, probabilities, classes=CLASSES, *, top=None, as_json=False):
    """Write predictions as cnn-predict does."""
    lines = [] if as_json else ["path\trank\tlabel\tprobability"]
    for index, (true, row) in enumerate(zip(truth, probabilities, strict=True)):
        path = f"photos/{classes[true]}/test-{index}.jpg"
        for rank, position in enumerate(np.argsort(-row)[:top], start=1):
            fields = {"path": path, "rank": rank, "label": classes[position], "probability": float(row[position])}
            lines.append(json.dumps(fields) if as_json else "\t".join(map(str, fields.values())))
    return "\n".join(lines) + "\n"


def test_every_measure_agrees_with_scikit_learn(run, folder):
    """One JSON object with the documented fields and the values of scikit-learn."""
    truth, probabilities = draw(CLASSES)
    outcome = run("cnn-eval", "--truth", "split.tsv", "--split", "test", "--json", stdin=write(truth, probabilities))
    (line,) = outcome.out.splitlines()
    found = json.loads(line)
    promised = (
        "n accuracy accuracy_low accuracy_high balanced_accuracy log_loss roc_auc ece classes per_class confusion"
    )
    assert list(found) == promised.split()
    prediction = probabilities.argmax(axis=1)
    assert found["n"] == 90
    assert found["classes"] == list(CLASSES)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, prediction))
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    assert found["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(truth, prediction))
    normalised = probabilities / probabilities.sum(axis=1, keepdims=True)
    assert found["log_loss"] == pytest.approx(reference.log_loss(truth, normalised), abs=1e-5)
    assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(truth, normalised, multi_class="ovr"), abs=1e-5)
    assert 0 < found["ece"] < 1
    assert found["confusion"] == reference.confusion_matrix(truth, prediction).tolist()
    expected = reference.classification_report(truth, prediction, target_names=CLASSES, output_dict=True)
    for label in CLASSES:
        for name, theirs in (
            ("precision", "precision"),
            ("recall", "recall"),
            ("f1", "f1-score"),
            ("support", "support"),
        ):
            assert found["per_class"][label][name] == pytest.approx(expected[label][theirs])
    assert outcome.err == ""


def test_tsv_and_json_lines_give_the_same_measures(run, folder):
    """From a file, `-` or a pipe."""
    truth, probabilities = draw(CLASSES)
    (folder / "p.tsv").write_text(write(truth, probabilities))
    outputs = {
        run("cnn-eval", "p.tsv").out,
        run("cnn-eval", "-", stdin=write(truth, probabilities)).out,
        run("cnn-eval", stdin=write(truth, probabilities)).out,
        run("cnn-eval", stdin=write(truth, probabilities, as_json=True)).out,
    }
    assert len(outputs) == 1


@pytest.mark.parametrize(
    ("name", "encoding", "change"),
    [
        ("truth.csv", "utf-8", lambda text: text.replace("\t", ",").replace("path,label", "File_Name,Class")),
        ("truth.csv", "utf-16", lambda text: text.replace("\t", ";").replace("\n", "\r\n")),
        (
            "truth.tsv",
            "utf-8-sig",
            lambda text: text.replace("\n", "\r").replace("photos/", '"photos/').replace(".jpg", '.jpg"'),
        ),
        ("truth.tsv", "utf-8", lambda text: text.replace("/", "\\")),
    ],
)
def test_truth_and_predictions_of_other_programs(run, folder, name, encoding, change):
    """The measures are the same."""
    truth, probabilities = draw(CLASSES)
    (folder / name).write_bytes(change((folder / "split.tsv").read_text()).encode(encoding))
    predictions = write(truth, probabilities)
    (folder / "p.csv").write_text(predictions.replace("\t", ","))
    expected = run("cnn-eval", "--truth", "split.tsv", "--split", "test", stdin=predictions).out
    assert run("cnn-eval", "p.csv", "--truth", name, "--split", "test").out == expected


def test_rejects_one_file_as_predictions_and_truth(run, folder):
    """Measured against itself, every prediction would be correct."""
    (folder / "p.tsv").write_text(write(*draw(CLASSES)))
    (folder / "bare.csv").write_text("path,label\nphotos/rose/1.jpg,rose\n")
    (folder / "alias.csv").symlink_to("bare.csv")
    outcome = run("cnn-eval", "bare.csv", "--truth", "alias.csv", status=2)
    expected = "cnn-eval: bare.csv is given both as predictions and as truth; pass a manifest with --truth\n"
    assert outcome.err == expected
    text = (folder / "p.tsv").read_text()
    for words in (("--truth", "p.tsv"), ("--truth", "copy.tsv")):
        (folder / "copy.tsv").write_text(text)
        outcome = run("cnn-eval", *words, stdin=text, status=1)
        assert f"{words[1]}: predictions (columns path, rank, label, probability), not a manifest" in outcome.err
    outcome = run("cnn-eval", stdin=(folder / "split.tsv").read_text(), status=1)
    assert "standard input: a manifest (columns path, label, split), not predictions" in outcome.err


def test_piped_output_has_a_row_per_measure(run, folder):
    """The measure in the first column and its value in the second; measures of classes as recall:cat."""
    truth, probabilities = draw(CLASSES)
    predictions = write(truth, probabilities)
    rows = {row["measure"]: row["value"] for row in run("cnn-eval", stdin=predictions).rows}
    found = json.loads(run("cnn-eval", "--json", stdin=predictions).out)
    assert float(rows["accuracy"]) == pytest.approx(found["accuracy"], abs=1e-6)
    assert float(rows["recall:rose"]) == pytest.approx(found["per_class"]["rose"]["recall"], abs=1e-6)
    scalars = [name for name, value in found.items() if not isinstance(value, list | dict)]
    assert list(rows) == scalars + [
        f"{name}:{label}" for label in CLASSES for name in ("precision", "recall", "f1", "support")
    ]


def test_one_row_per_image_is_enough_for_two_classes(run, folder):
    """Log-loss and ROC AUC are those of all rows."""
    truth, probabilities = draw(("cat", "dog"))
    first, second = (
        json.loads(run("cnn-eval", "--json", stdin=write(truth, probabilities, ("cat", "dog"), top=top)).out)
        for top in (1, 2)
    )
    for name in ("accuracy", "log_loss", "roc_auc", "ece"):
        assert first[name] == pytest.approx(second[name], abs=1e-5)


def test_measures_without_all_probabilities_are_null(run, folder):
    """Three classes with one row per image: log-loss and ROC AUC are null, with a notice and its remedy."""
    truth, probabilities = draw(CLASSES)
    outcome = run("cnn-eval", "--json", stdin=write(truth, probabilities, top=1))
    found = json.loads(outcome.out)
    assert found["log_loss"] is None
    assert found["roc_auc"] is None
    assert found["ece"] == pytest.approx(
        json.loads(run("cnn-eval", "--json", stdin=write(truth, probabilities)).out)["ece"]
    )
    assert outcome.err == (
        "cnn-eval: log_loss and roc_auc are unknown: 90 of 90 images lack a probability for some of the 3 classes; "
        "predict with --top all\n"
    )


def sigmoids():
    """Draw labels, and scores that do not sum to 1."""
    truth, probabilities = draw(CLASSES)
    scores = np.round(probabilities**0.3, 6)
    assert (np.abs(scores.sum(axis=1) - 1) > 0.05).all()
    return truth, scores


@pytest.mark.filterwarnings("ignore:The y_prob values do not sum to one")
def test_notice_of_probabilities_that_do_not_sum_to_1(run, folder):
    """Scikit-learn warns too; one notice, also with --folds; not for a rounded softmax."""
    truth, scores = sigmoids()
    words = ("cnn-eval", "--truth", "split.tsv", "--split", "test")
    outcome = run(*words, "--json", stdin=write(truth, scores))
    with pytest.warns(UserWarning, match="do not sum to one"):
        expected = reference.log_loss(truth, scores)
    assert json.loads(outcome.out)["log_loss"] == pytest.approx(expected)
    told = "cnn-eval: the probabilities of 90 of 90 images do not sum to 1 (photos/daisy/test-0.jpg: "
    assert [line.startswith(told) for line in outcome.err.splitlines() if "sum to" in line] == [True]
    (folder / "folds.tsv").write_text(
        "path\tlabel\tsplit\n"
        + "".join(f"photos/{CLASSES[i % 3]}/test-{i}.jpg\t{CLASSES[i % 3]}\tfold{i % 2}\n" for i in range(90))
    )
    assert run("cnn-eval", "--folds", "--truth", "folds.tsv", stdin=write(truth, scores)).err.count("sum to 1") == 1
    for name in ("one", "two"):  # of the same images, so that there is no notice of all together
        (folder / f"{name}.tsv").write_text(write(truth, scores))
    told = run("cnn-eval", "one.tsv", "two.tsv", "--folds", "--truth", "split.tsv", "--split", "test").err
    assert [line.partition("; are")[0][:37] for line in told.splitlines() if "sum to" in line] == [
        "cnn-eval: one: the probabilities of 9"
    ]
    _, probabilities = draw(CLASSES)
    assert "sum to" not in run(*words, stdin=write(truth, probabilities.round(2))).err


def test_missing_probability_is_not_filled_in_for_sigmoids(run, folder):
    """If two of three probabilities sum to more than 1, the third is unknown."""
    truth, scores = sigmoids()
    words = ("cnn-eval", "--truth", "split.tsv", "--split", "test")
    outcome = run(*words, "--json", stdin=write(truth, np.clip(scores, 0.6, 1), top=2))
    assert json.loads(outcome.out)["log_loss"] is None
    assert "90 of 90 images lack a probability" in outcome.err


def test_labels_without_probabilities_are_measured(run, folder):
    """Columns path and label of another program give all measures without probabilities."""
    outcome = run("cnn-eval", stdin="path\tlabel\ncat/1.jpg\tcat\ndog/2.jpg\tcat\ndog/3.jpg\tdog\n")
    rows = {row["measure"]: row["value"] for row in outcome.rows}
    assert (rows["n"], rows["accuracy"], rows["log_loss"], rows["ece"]) == ("3", "0.666667", "", "")
    assert "the predictions have no probabilities" in outcome.err


def test_withheld_predictions_are_wrong_and_counted(run, folder):
    """`?` counts as wrong; `predicted` and `accuracy_predicted` leave it out."""
    predictions = (
        "path\trank\tlabel\tprobability\ncat/1.jpg\t1\tcat\t.9\ncat/2.jpg\t1\t?\t.5\n"
        "dog/3.jpg\t1\tdog\t.9\ndog/4.jpg\t1\tcat\t.8\n"
    )
    found = json.loads(run("cnn-eval", "--json", stdin=predictions).out)
    assert (found["n"], found["predicted"]) == (4, 3)
    assert (found["accuracy"], found["accuracy_predicted"]) == (0.5, pytest.approx(2 / 3))
    assert found["confusion"] == [[1, 0], [1, 1]]
    assert found["per_class"]["cat"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}


def test_worst_are_the_most_confident_wrong_predictions(run, folder):
    """Most confident first; only the header row if all are correct."""
    predictions = (
        "path\trank\tlabel\tprobability\ncat/1.jpg\t1\tcat\t.99\ncat/2.jpg\t1\tdog\t.7\n"
        "dog/3.jpg\t1\tcat\t.9\ndog/4.jpg\t1\tcat\t.6\ndog/5.jpg\t1\tdog\t.9\n"
    )
    outcome = run("cnn-eval", "--worst", 2, stdin=predictions)
    assert outcome.out == "path\ttruth\tlabel\tprobability\ndog/3.jpg\tdog\tcat\t0.9\ncat/2.jpg\tcat\tdog\t0.7\n"
    lines = run("cnn-eval", "--worst", 20, "--json", stdin=predictions).out.splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["dog/3.jpg", "cat/2.jpg", "dog/4.jpg"]
    right = "path\tlabel\tprobability\ncat/1.jpg\tcat\t.9\n"
    assert run("cnn-eval", "--worst", 3, stdin=right).out == "path\ttruth\tlabel\tprobability\n"


def test_confusion_is_drawn_next_to_the_measures(run, folder):
    """`--confusion` writes an image; stdout is as it is without."""
    truth, probabilities = draw(CLASSES)
    predictions = write(truth, probabilities)
    assert run("cnn-eval", "--confusion", "c.png", stdin=predictions).out == run("cnn-eval", stdin=predictions).out
    with Image.open(folder / "c.png") as image:
        image.verify()


def test_missed_bounds_are_named(run, folder):
    """With the measure and the bound, after the output, exit 4; exit 0 if all are met."""
    truth, probabilities = draw(CLASSES)
    predictions = write(truth, probabilities)
    words = ["--fail-under", "accuracy=0.999", "--fail-under", "recall:rose=0.998", "--fail-over", "log_loss=0.001"]
    missed = run("cnn-eval", *words, "--fail-under", "n=90", stdin=predictions, status=4)
    assert missed.out == run("cnn-eval", stdin=predictions).out
    (line,) = missed.err.splitlines()
    for part in ("accuracy 0.", "is below 0.999; recall:rose 0.", "is below 0.998; log_loss 0.", "is above 0.001"):
        assert part in line
    run("cnn-eval", "--fail-under", "accuracy=0.1", "--fail-under", "n=90", "--fail-over", "ece=1", stdin=predictions)


def test_unknown_measure_fails_its_bound(run, folder):
    """A bound on the log-loss of labels without probabilities is missed."""
    truth, probabilities = draw(CLASSES)
    outcome = run("cnn-eval", "--fail-over", "log_loss=9", stdin=write(truth, probabilities, top=1), status=4)
    assert outcome.err.splitlines()[-1].startswith("cnn-eval: log_loss is not known")


@pytest.mark.parametrize("mode", [["--worst", "3"], ["--coverage"]], ids=lambda words: words[0])
def test_plots_and_bounds_work_with_every_mode(run, folder, mode):
    """Modes that print rows draw the same figures and check the bounds."""
    predictions = write(*draw(CLASSES))
    figures = ["--confusion", "c.png", "--reliability", "r.png"]
    run("cnn-eval", *figures, stdin=predictions)
    expected = [Path(name).read_bytes() for name in ("c.png", "r.png")]
    for name in ("c.png", "r.png"):
        Path(name).unlink()
    rows = run("cnn-eval", *mode, stdin=predictions).out
    outcome = run("cnn-eval", *mode, *figures, "--fail-under", "accuracy=0.999", stdin=predictions, status=4)
    assert outcome.out == rows
    assert [Path(name).read_bytes() for name in ("c.png", "r.png")] == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--fail-under", "acuracy=0.9"],
            'no measure "acuracy"; did you mean "accuracy"? (measures: accuracy, accuracy_low,',
        ),
        (["--fail-under", "log_loss=0.9"], "use --fail-over log_loss=0.9"),
        (["--fail-under", "recall:rsoe=0.9"], 'no measure "recall:rsoe"; did you mean "recall:rose"?'),
        (["--worst", "0"], "--worst"),
        (["--split", "test"], "pass one with --truth"),
        (["--complete"], "pass one with --truth"),
        (["--confusion", "c.bmp"], "a name that ends in .png, .svg or .pdf"),
        (["--truth", "-"], "cannot both come from standard input"),
        (["-", "-", "--folds"], "standard input (-) can be read once"),
        (
            ["a.tsv", "b.tsv"],
            "2 files of predictions: use --folds to measure each as a fold, cnn-compare to compare two models",
        ),
        (["--compare", "a.tsv", "b.tsv"], "--compare is now a separate command: cnn-compare A B\n"),
        (["--folds", "a.tsv", "b.tsv", "--confusion", "c.png"], "--confusion draws one set of predictions"),
        (["--folds", "a.tsv", "b.tsv", "--reliability", "c.png"], "--reliability draws one set of predictions"),
        (["--folds", "--worst", "3"], "--worst and --folds exclude each other"),
        (["--coverage", "--worst", "3"], "--worst and --coverage exclude each other"),
        (["--coverage", "--folds"], "--folds and --coverage exclude each other"),
        (["--folds"], "give a manifest with a column split"),
        (["--folds", "a.tsv", "a.tsv"], "given twice"),
        (["--reliability", "c.bmp"], "a name that ends in .png, .svg or .pdf"),
    ],
)
def test_rejects_contradictory_options(run, folder, words, message):
    """Exit 2, one line, nothing on stdout."""
    truth, probabilities = draw(CLASSES)
    outcome = run("cnn-eval", *words, stdin=write(truth, probabilities), status=2)
    assert outcome.out == ""
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_images_without_predictions_are_counted(run, folder):
    """Whole splits are distinguished from gaps; --split limits the truth; --complete makes a gap an error."""
    truth, probabilities = draw(CLASSES)
    whole = write(truth, probabilities)
    outcome = run("cnn-eval", "--truth", "split.tsv", stdin=whole)
    assert outcome.err == (
        "cnn-eval: 9 of 99 images in split.tsv have no prediction (train 6, val 3); test is complete: "
        "add --split test to limit the truth to it\n"
    )
    assert run("cnn-eval", "--truth", "split.tsv", "--quiet", stdin=whole).err == ""
    assert run("cnn-eval", "--truth", "split.tsv", "--split", "test", "--complete", stdin=whole).err == ""

    gap = write(truth[:-1], probabilities[:-1])
    outcome = run("cnn-eval", "--truth", "split.tsv", stdin=gap)
    assert (
        "10 of 99 images in split.tsv have no prediction (train 6, val 3, test 1); the first is photos/tulip/test-89.jpg"
        in outcome.err
    )
    outcome = run("cnn-eval", "--truth", "split.tsv", "--split", "test", stdin=gap)
    expected = "cnn-eval: 1 of 90 images in split.tsv (test) has no prediction; the first is photos/tulip/test-89.jpg\n"
    assert outcome.err == expected
    outcome = run("cnn-eval", "--truth", "split.tsv", "--split", "test", "--complete", stdin=gap, status=1)
    assert (outcome.out, outcome.err) == ("", expected)


def test_real_paths_are_compared(run, folder, monkeypatch):
    """Predictions made in another folder match the paths of the manifest, which are relative to it."""
    truth, probabilities = draw(CLASSES)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    predictions = write(truth, probabilities).replace("photos/", "../photos/")
    assert (
        run("cnn-eval", "--truth", "../split.tsv", "--split", "test", "--complete", stdin=predictions).rows[0]["value"]
        == "90"
    )


def test_the_truth_may_be_a_folder_or_standard_input(run, folder, images):
    """The class is the folder directly below; a manifest may come from a pipe."""
    images(red=1)
    (folder / "photos" / "red" / "deep").mkdir()
    (folder / "photos" / "red" / "00.png").rename(folder / "photos" / "red" / "deep" / "00.png")
    predictions = "path\tlabel\tprobability\nphotos/red/deep/00.png\tred\t.9\n"
    assert run("cnn-eval", "--truth", "photos", stdin=predictions).rows[1]["value"] == "1"
    (folder / "p.tsv").write_text(predictions)
    manifest = "path\tlabel\nphotos/red/deep/00.png\tred\n"
    assert run("cnn-eval", "p.tsv", "--truth", "-", stdin=manifest).rows[1]["value"] == "1"


def test_labels_may_name_classes_without_images(run, folder):
    """--labels defines the order of the report."""
    predictions = "path\tlabel\tprobability\ncat/1.jpg\tcat\t.9\ncat/2.jpg\tdog\t.8\n"
    plain = run("cnn-eval", "--json", stdin=predictions)
    assert json.loads(plain.out)["classes"] == ["cat", "dog"]
    assert (
        "the folders of the images have no image of dog, which the predictions list; predictions of it count as wrong"
        in plain.err
    )
    (folder / "labels.txt").write_text("dog\ncat\n")
    found = json.loads(run("cnn-eval", "--labels", "labels.txt", "--json", stdin=predictions).out)
    assert found["classes"] == ["dog", "cat"]
    assert found["confusion"] == [[0, 0], [1, 1]]
    assert found["per_class"]["dog"] == {"precision": 0.0, "recall": None, "f1": 0.0, "support": 0}
    assert found["roc_auc"] is None


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ("", "standard input: no predictions; the command that should have written them may have failed"),
        ("path\trank\tlabel\tprobability\n", "standard input: no predictions"),
        ("path\tlabel\nx/9.jpg\trose\n", "split.tsv has no label for x/9.jpg"),
        (
            "path\tlabel\nphotos/rose/test-1.jpg\trsoe\n",
            'predicts the class "rsoe" (photos/rose/test-1.jpg), but the labels in split.tsv',
        ),
        (
            "path\trank\tlabel\nphotos/rose/test-1.jpg\t1\trose\nphotos/rose/test-1.jpg\t1\ttulip\n",
            "photos/rose/test-1.jpg is predicted twice",
        ),
        ("some text\n", "the header row lacks path, label"),
    ],
)
def test_errors_name_mismatched_predictions(run, folder, predictions, message):
    """Exit 1, one line, nothing on stdout and no image."""
    outcome = run("cnn-eval", "--truth", "split.tsv", "--confusion", "c.png", stdin=predictions, status=1)
    assert outcome.out == ""
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (folder / "c.png").exists()


def test_predictions_of_another_split_name_it(run, folder):
    predictions = "path\tlabel\nphotos/rose/test-1.jpg\trose\n"
    remedy = "test-1.jpg); it is in the split test: give --split test, or drop --split\n"
    assert remedy in run("cnn-eval", "--truth", "split.tsv", "--split", "val", stdin=predictions, status=1).err
    (folder / "several.tsv").write_text((folder / "split.tsv").read_text().replace("label", "labels", 1))
    several = "path\trank\tlabel\tprobability\tthreshold\nphotos/rose/test-1.jpg\t1\trose\t0.9\t0.5\n"
    assert remedy in run("cnn-eval", "--truth", "several.tsv", "--split", "val", stdin=several, status=1).err
    unknown = predictions.replace("test-1", "other-1")
    assert "give --split" not in run("cnn-eval", "--truth", "split.tsv", "--split", "val", stdin=unknown, status=1).err


@pytest.mark.parametrize("suffix", ["", ".png"])
def test_matches_paths_without_extension(run, folder, suffix):
    """Predictions and truth name an image without its extension, or only the predictions do."""
    lines = []
    for label in ("red", "blue"):
        (folder / "photos" / label).mkdir(parents=True)
        (folder / "photos" / label / "0.png").touch()
        lines.append(f"photos/{label}/0")
    (folder / "truth.csv").write_text("path,label\n" + "".join(f"{each}{suffix},{each[7:-2]}\n" for each in lines))
    (folder / "pred.csv").write_text("path,label\n" + "".join(f"{each},red\n" for each in lines))
    outcome = run("cnn-eval", "pred.csv", "--truth", "truth.csv", "--json")
    assert (json.loads(outcome.out)["n"], json.loads(outcome.out)["accuracy"]) == (2, 0.5)
    assert "not predicted" not in outcome.err
    (folder / "photos" / "red" / "0.jpg").touch()
    (folder / "truth.csv").write_text("path,label\nphotos/red/0.png,red\nphotos/red/0.jpg,red\n")
    outcome = run("cnn-eval", "pred.csv", "--truth", "truth.csv", status=1)
    assert "truth.csv has no label for photos/red/0, photos/blue/0" in outcome.err


# ---------------------------------------------------------------- folds

FOLDS = 4


@pytest.fixture
def folded(folder):
    """Write folds.tsv, which names a fold for each of the 90 test images, and a file of predictions for each fold."""
    truth, probabilities = draw(CLASSES)
    rows = [
        f"photos/{CLASSES[true]}/test-{index}.jpg\t{CLASSES[true]}\tfold{index % FOLDS}"
        for index, true in enumerate(truth)
    ]
    (folder / "folds.tsv").write_text("path\tlabel\tsplit\n" + "\n".join(rows) + "\n")
    header, *lines = write(truth, probabilities).splitlines()
    for fold in range(FOLDS):
        chosen = [line for line in lines if int(line.split("-")[1].split(".")[0]) % FOLDS == fold]
        (folder / f"fold{fold}.tsv").write_text("\n".join([header, *chosen]) + "\n")
    return truth, probabilities


def numbers(row):
    return {name: float(value) if value else None for name, value in row.items() if name != "fold"}


def test_folds_have_mean_and_standard_deviation(run, folder, folded):
    """A row for each fold; then the mean, the standard deviation of the sample, and the out-of-fold measures."""
    truth, probabilities = folded
    rows = run("cnn-eval", "--folds", *(f"fold{fold}.tsv" for fold in range(FOLDS)), "--truth", "folds.tsv").rows
    assert [row["fold"] for row in rows] == ["fold0", "fold1", "fold2", "fold3", "mean", "sd", "out_of_fold"]
    *folds, mean, deviation, pooled = map(numbers, rows)
    for fold, row in enumerate(folds):
        alone = {each["measure"]: each["value"] for each in run("cnn-eval", f"fold{fold}.tsv", "--quiet").rows}
        assert row == {name: float(alone[name]) for name in row}
    whole = {each["measure"]: each["value"] for each in run("cnn-eval", stdin=write(truth, probabilities)).rows}
    assert pooled == {name: float(whole[name]) for name in pooled}
    for name in ("accuracy", "balanced_accuracy", "log_loss", "roc_auc", "ece"):
        values = [row[name] for row in folds]
        assert mean[name] == pytest.approx(np.mean(values), abs=1e-5)
        assert deviation[name] == pytest.approx(np.std(values, ddof=1), abs=1e-5)
    for row in (mean, deviation):
        assert row["n"] is row["accuracy_low"] is row["accuracy_high"] is None


def test_one_stream_is_divided_by_the_folds_of_the_truth(run, shell, folder, folded):
    """`cat` of all files, in any order, is the same as the files."""
    files = [f"fold{fold}.tsv" for fold in range(FOLDS)]
    named = run("cnn-eval", "--folds", *files, "--truth", "folds.tsv")
    for order in ("fold0.tsv fold1.tsv fold2.tsv fold3.tsv", "fold3.tsv fold0.tsv fold2.tsv fold1.tsv"):
        piped = shell(f"cat {order} | cnn-eval --folds --truth folds.tsv", cwd=folder)
        assert piped.rows[:4] == named.rows[:4]
        assert piped.rows[6]["n"] == "90"


def test_folds_of_the_same_images_have_no_out_of_fold_row(run, folder, folded):
    """Models of two folds on one test set; a notice has the reason."""
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    for name, seed in (("one", 0), ("two", 1)):
        (folder / name / "p.tsv").write_text(write(*draw(CLASSES, seed=seed)))
    outcome = run("cnn-eval", "--folds", "one/p.tsv", "two/p.tsv")
    assert [row["fold"] for row in outcome.rows] == ["one/p", "two/p", "mean", "sd"]
    assert "every file predicts the same 90 images: no out-of-fold measures" in outcome.err
    outcome = run("cnn-eval", "--folds", "fold0.tsv", "one/p.tsv")
    assert [row["fold"] for row in outcome.rows] == ["fold0", "p", "mean", "sd"]
    assert "fold0 and p both predict photos/daisy/test-0.jpg: no out-of-fold measures" in outcome.err


def test_bounds_apply_to_out_of_fold_measures_or_means(run, folder, folded):
    """The value in the message shows which."""
    files = [f"fold{fold}.tsv" for fold in range(FOLDS)]
    pooled = run("cnn-eval", "--folds", *files, "--fail-under", "accuracy=0.99", status=4)
    assert f"accuracy {pooled.rows[-1]['accuracy']} is below 0.99" in pooled.err
    (folder / "p.tsv").write_text(write(*folded))
    mean = run(
        "cnn-eval",
        "--folds",
        "fold0.tsv",
        "p.tsv",
        "--fail-under",
        "accuracy=0.99",
        "--fail-under",
        "accuracy_low=0",
        status=4,
    )
    assert f"accuracy {mean.rows[-2]['accuracy']} is below 0.99; accuracy_low is not known" in mean.err
    run("cnn-eval", "--folds", *files, "--fail-under", "recall:rose=0.1", "--fail-over", "log_loss=9")


def test_measure_unknown_in_one_fold_has_no_mean(run, folder):
    """A fold of a single class has no ROC AUC, so the mean has none; out of fold it is known. A single fold is an error."""
    (folder / "one.tsv").write_text("path\tlabel\tprobability\ncat/1.jpg\tcat\t.9\ncat/2.jpg\tcat\t.8\n")
    (folder / "two.tsv").write_text("path\tlabel\tprobability\ncat/3.jpg\tcat\t.9\ndog/4.jpg\tdog\t.7\n")
    outcome = run("cnn-eval", "--folds", "one.tsv", "two.tsv", "--json")
    found = {row["fold"]: row["roc_auc"] for row in map(json.loads, outcome.out.splitlines())}
    assert found == {"one": None, "two": 1, "mean": None, "sd": None, "out_of_fold": 1}
    assert outcome.err == "cnn-eval: one: roc_auc is undefined: all images have the same class\n"
    lines = "path\tlabel\tsplit\ncat/3.jpg\tcat\tval\ndog/4.jpg\tdog\tval\n"
    (folder / "folds.tsv").write_text(lines)
    outcome = run("cnn-eval", "--folds", "two.tsv", "--truth", "folds.tsv", status=1)
    assert outcome.err.startswith("cnn-eval: there is only one fold, val; --folds needs two or more")
    (folder / "folds.tsv").write_text(lines.replace("dog\tval", "dog\t"))
    outcome = run("cnn-eval", "--folds", "two.tsv", "--truth", "folds.tsv", status=1)
    assert outcome.err == "cnn-eval: folds.tsv: dog/4.jpg has no fold: its column split is empty\n"


def test_folds_are_in_numerical_order(run, folder):
    """fold10 comes after fold9."""
    truth, probabilities = draw(CLASSES, n=22)
    rows = [
        f"photos/{CLASSES[true]}/test-{index}.jpg\t{CLASSES[true]}\tfold{index % 11}"
        for index, true in enumerate(truth)
    ]
    (folder / "folds.tsv").write_text("path\tlabel\tsplit\n" + "\n".join(rows) + "\n")
    found = run("cnn-eval", "--folds", "--truth", "folds.tsv", stdin=write(truth, probabilities)).rows
    assert [row["fold"] for row in found][:11] == [f"fold{fold}" for fold in range(11)]


# ---------------------------------------------------------------- coverage, reliability


def save_classifier(path, classes):
    """Write a network that classifies by the mean colour, with moderate probabilities."""
    weights = np.random.default_rng(0).normal(scale=0.05, size=(3, len(classes))).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = {"axes": np.array([1, 2]), "weights": weights}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 24, 24, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(classes)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    header = Header(ArtefactKind.ONNX, classes, Preprocess(resize=24, size=24))
    onnx_model.save(path, onnx_model.finished(proto, header))


@pytest.mark.parametrize("words", [[], ["--json"]], ids=["six digits", "all digits"])
def test_threshold_gives_the_coverage_of_its_row(run, folder, images, words):
    """cnn-predict --min-probability with the threshold of a row has its coverage and accuracy."""
    images(red=15, blue=15, green=15)
    save_classifier(folder / "net.onnx", ("blue", "green", "red"))
    predictions = run("cnn-predict", "-m", "net.onnx", "photos", *words).out
    outcome = run("cnn-eval", "--coverage", stdin=predictions)
    assert 10 < len(outcome.rows) <= 20
    assert outcome.rows[0]["coverage"] == "1"
    for row in outcome.rows:
        answered = run("cnn-predict", "-m", "net.onnx", "photos", "--min-probability", row["min_probability"]).out
        found = json.loads(run("cnn-eval", "--json", stdin=answered).out)
        assert found.get("predicted", found["n"]) == int(row["predicted"])
        assert found.get("accuracy_predicted", found["accuracy"]) == pytest.approx(float(row["accuracy"]), abs=1e-5)
    assert outcome.err.splitlines()[-1].startswith("cnn-eval: area under the risk-coverage curve (AURC): 0.")


def test_bounds_apply_with_coverage(run, folder):
    """Rows are printed, then bounds are checked."""
    predictions = write(*draw(CLASSES))
    missed = run("cnn-eval", "--coverage", "--fail-under", "accuracy=0.999", stdin=predictions, status=4)
    assert missed.out == run("cnn-eval", "--coverage", stdin=predictions).out
    assert run("cnn-eval", "--coverage", stdin="path\tlabel\ncat/1.jpg\tcat\n", status=1).out == ""


def test_reliability_is_drawn_next_to_the_measures(run, folder):
    """`--reliability` writes an image; stdout is as it is without."""
    predictions = write(*draw(CLASSES))
    assert run("cnn-eval", "--reliability", "r.png", stdin=predictions).out == run("cnn-eval", stdin=predictions).out
    with Image.open(folder / "r.png") as image:
        image.verify()


def test_rejects_empty_input_of_a_failed_pipe(shell, folder):
    """The exit status is not 0."""
    outcome = shell("false | cnn-eval --truth split.tsv", cwd=folder, status=1)
    assert outcome.out == ""
    assert (
        outcome.err
        == "cnn-eval: standard input: no predictions; the command that should have written them may have failed\n"
    )


def test_json_holds_no_nan(run, folder):
    """One class, one image: undefined measures are null."""

    def refuse(word):
        raise AssertionError(word)

    outcome = run("cnn-eval", "--json", stdin="path\tlabel\tprobability\ncat/1.jpg\tcat\t.9\n")
    found = json.loads(outcome.out, parse_constant=refuse)
    assert found["roc_auc"] is None
    assert found["accuracy"] == 1
    assert "roc_auc is undefined: all images have the same class" in outcome.err


def test_it_loads_no_more_than_it_needs(folder):
    """Numpy, but neither torch nor scikit-learn, and matplotlib only for figures."""
    program = "import sys; from cnnkit_tools.cnn_eval import main\ntry: main()\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    predictions = b"path\tlabel\tprobability\ncat/1.jpg\tcat\t.9\n"
    done = subprocess.run([sys.executable, "-c", program], input=predictions, capture_output=True, check=True)
    loaded = set(done.stderr.decode().split())
    assert "numpy" in loaded
    assert not loaded & {"torch", "onnxruntime", "onnx", "sklearn", "scipy", "matplotlib", "PIL"}


def test_tables_on_a_terminal(terminal, folder):
    """Measures with the interval, a row per class, and the matrix if it fits; otherwise the most confused pairs."""
    (folder / "p.tsv").write_text(write(*draw(CLASSES)))
    script = Path(sys.executable).parent / "cnn-eval"
    done = terminal(script, "p.tsv", cwd=folder, env={"TERM": "dumb"})
    assert done.status == 0
    for words in ("95 % interval", "balanced accuracy", "expected calibration error", "→ daisy", "→ rose", "→ tulip"):
        assert words in done.out
    many = [f"class number {index}" for index in range(20)]
    (folder / "p.tsv").write_text(write(*draw(many, n=200), many))
    done = terminal(script, "p.tsv", cwd=folder, env={"TERM": "dumb"})
    assert "Most confused" in done.out
    assert max(map(len, done.out.splitlines())) <= 101


def test_scores_of_other_programs_are_ranked(run):
    """Rows in the order of class names: the most probable class is the prediction, not the first."""
    rows = [
        f"{true}/{number}.png,{label},{0.9 if label == true else 0.1}"
        for true in ("blue", "red")
        for number in range(3)
        for label in ("blue", "red")
    ]
    found = json.loads(run("cnn-eval", "--json", stdin="\n".join(["filename,class,score", *rows, ""])).out)
    assert (found["n"], found["accuracy"]) == (6, 1.0)


@pytest.mark.parametrize("column", ["pred", "Prediction", "y_pred"])
def test_rejects_true_labels_as_predictions(run, column):
    """A table with a column of predictions and a column label: the truth would be measured against itself."""
    table = f"path,label,{column}\nred/1.png,red,blue\nblue/1.png,blue,blue\n"
    assert f"columns label and {column} could both be the predicted class" in run("cnn-eval", stdin=table, status=1).err
    renamed = table.replace("label", "other").replace(column, "label")
    assert json.loads(run("cnn-eval", "--json", stdin=renamed).out)["accuracy"] == 0.5
    alone = table.replace("label", "other")
    assert json.loads(run("cnn-eval", "--json", stdin=alone).out)["accuracy"] == 0.5


def test_subfolders_of_a_class_have_its_label(run, folder):
    """Without --truth, the folders are the classes that fit the predictions, all at one depth; a notice says how they were read."""
    Path("names.txt").write_text("elm\noak\n")
    rows = ["path\tlabel", "photos/oak/a/1.jpg\toak", "photos/elm/b/2.jpg\toak", "photos/elm/3.jpg\telm", ""]
    outcome = run("cnn-eval", "--json", stdin="\n".join(rows))
    measured = json.loads(outcome.out)
    assert (measured["classes"], measured["confusion"]) == (["elm", "oak"], [[1, 1], [0, 1]])
    assert "true class = folder of the image: elm, oak; deeper folders are ignored (a, b)" in outcome.err
    outcome = run("cnn-eval", stdin="path\tlabel\nphotos/oak/1.jpg\toak\nphotos/elm/2.jpg\toak\n")
    assert "true class = folder of the image: elm, oak; for other labels, give --truth" in outcome.err
    assert "class = " not in run("cnn-eval", stdin="\n".join([rows[0], "oak/1.jpg\toak", "elm/2.jpg\telm", ""])).err
    same = run("cnn-eval", "--labels", "names.txt", "--json", stdin="\n".join([*rows[:3], ""])).out
    assert json.loads(same)["confusion"] == [[0, 1], [0, 1]]
    flat = run("cnn-eval", stdin="path\tlabel\nflat/1.jpg\toak\n", status=1)
    assert (
        "the folders of the images are flat; if these folders are not the classes, give the labels with --truth MANIFEST"
        in flat.err
    )


@pytest.mark.parametrize(
    ("paths", "accuracy"),
    [
        (
            ["cat/dog/1.jpg", "cat/dog/2.jpg", "cat/cat/2.jpg"],
            1 / 3,
        ),  # a folder above has the name of the predicted class
        (["/data/cat/photos/dog/1.jpg", "/data/cat/photos/cat/1.jpg"], 0.5),
        (["/home/cat/photos/dog/1.jpg", "/home/cat/photos/dog/2.jpg"], None),
        (["sets/val/cat/1.jpg", "sets/test/cat/1.jpg", "sets/test/dog/1.jpg"], 2 / 3),
    ],
)
def test_collapsed_network_is_not_measured_by_folders_above(run, paths, accuracy):
    """Without --truth, and with every image predicted to be a cat: the truth does not follow the predictions."""
    outcome = run(
        "cnn-eval", "--json", stdin="\n".join(["path\tlabel", *(f"{path}\tcat" for path in paths), ""]), status=None
    )
    if accuracy is None:
        assert outcome.status == 1
    else:
        assert json.loads(outcome.out)["accuracy"] == pytest.approx(accuracy)


def test_two_readings_of_folders_are_an_error(run):
    rows = "path\tlabel\nx/cat/dog/1.jpg\tcat\nx/dog/cat/2.jpg\tdog\n"
    message = run("cnn-eval", stdin=rows, status=1).err
    assert 'the class may be "' in message
    assert "give the labels with --truth FOLDER|MANIFEST" in message
