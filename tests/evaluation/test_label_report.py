"""Measures of several labels per image against scikit-learn, through cnn-eval."""

import json

import numpy as np
import pytest
from sklearn import metrics as sklearn

from cnnkit.evaluation import label_metrics

CLASSES = ("cat", "dog", "indoor", "rare")
THRESHOLDS = (0.5, 0.25, 0.6, 0.9)


@pytest.fixture
def drawn():
    """Labels (N, C) of which the last has no image, and probabilities with ties; image 3 has no label."""
    random = np.random.default_rng(5)
    truth = random.random((60, 4)) < [0.5, 0.2, 0.4, 0]
    truth[3] = False
    scores = np.round(np.clip(0.4 * truth + random.random((60, 4)) * 0.7, 0, 1), 1)
    scores[3] = 0
    return truth, scores


def write(folder, truth, scores, *, every=True):
    """Write the truth, and predictions as cnn-predict prints them, with `--top all` or only the predicted labels."""
    lines = ["path\tlabels"]
    rows = ["path\trank\tlabel\tprobability\tthreshold"]
    for image, (labels, own) in enumerate(zip(truth, scores, strict=True)):
        lines.append(f"{image}.jpg\t{';'.join(np.array(CLASSES)[labels])}")
        order = [c for c in np.argsort(-own, kind="stable") if every or own[c] >= THRESHOLDS[c]]
        rows += [
            f"{image}.jpg\t{rank}\t{CLASSES[c]}\t{own[c]}\t{THRESHOLDS[c]}" for rank, c in enumerate(order, start=1)
        ]
        rows += [] if order else [f"{image}.jpg\t0\t\t\t"]
    (folder / "truth.tsv").write_text("\n".join(lines) + "\n")
    (folder / "predictions.tsv").write_text("\n".join(rows) + "\n")


def test_every_measure_is_scikit_learns(run, tmp_path, monkeypatch, drawn):
    monkeypatch.chdir(tmp_path)
    truth, scores = drawn
    write(tmp_path, truth, scores)
    found = json.loads(run("cnn-eval", "predictions.tsv", "--truth", "truth.tsv", "--json").out)
    predicted = scores >= THRESHOLDS
    assert found["n"] == 60
    assert found["classes"] == list(CLASSES)
    for average in ("micro", "macro"):
        for name, measure in (
            ("f1", sklearn.f1_score),
            ("precision", sklearn.precision_score),
            ("recall", sklearn.recall_score),
        ):
            expected = measure(truth, predicted, average=average, zero_division=np.nan)
            assert found[f"{name}_{average}"] == pytest.approx(expected, abs=1e-12)
    present = truth.any(axis=0)
    areas = sklearn.average_precision_score(truth[:, present], scores[:, present], average=None)
    assert found["mAP"] == pytest.approx(areas.mean(), abs=1e-12)
    assert found["subset_accuracy"] == pytest.approx(sklearn.accuracy_score(truth, predicted), abs=1e-12)
    assert found["hamming_loss"] == pytest.approx(sklearn.hamming_loss(truth, predicted), abs=1e-12)
    for place, label in enumerate(CLASSES):
        own = found["per_class"][label]
        pair = truth[:, place], predicted[:, place]
        assert (own["support"], own["predicted"], own["threshold"]) == (pair[0].sum(), pair[1].sum(), THRESHOLDS[place])
        if label == "rare":
            assert (own["average_precision"], own["recall"]) == (None, None)
            continue
        assert own["average_precision"] == pytest.approx(areas[place], abs=1e-12)
        expected = [measure(*pair) for measure in (sklearn.precision_score, sklearn.recall_score, sklearn.f1_score)]
        assert [own["precision"], own["recall"], own["f1"]] == pytest.approx(expected, abs=1e-12)


def test_intervals_are_percentiles_of_resampled_images(drawn):
    """The same resamples, measured one by one with scikit-learn."""
    truth, scores = (each[:, :3] for each in drawn)
    predicted = scores >= THRESHOLDS[:3]
    found = label_metrics.intervals(truth, predicted, scores)
    random = np.random.default_rng(0)
    drawn_rows = random.integers(60, size=(1000, 60))
    f1s, areas = [], []
    for rows in drawn_rows:
        f1s.append(2 * (truth & predicted)[rows].sum() / (truth[rows].sum() + predicted[rows].sum()))
        if len(areas) < 50:
            areas.append(sklearn.average_precision_score(truth[rows], scores[rows], average="macro"))
    assert found["f1_micro"] == pytest.approx(tuple(np.percentile(f1s, [2.5, 97.5])), abs=1e-12)
    weights = np.stack([np.bincount(rows, minlength=60) for rows in drawn_rows[:50]]).astype(float)
    assert label_metrics.weighted(truth, predicted, scores, weights).mAP == pytest.approx(np.array(areas), abs=1e-12)


def test_only_predicted_labels_leave_average_precision_empty(run, tmp_path, monkeypatch, drawn):
    monkeypatch.chdir(tmp_path)
    truth, scores = drawn
    write(tmp_path, truth, scores)
    whole = run("cnn-eval", "predictions.tsv", "--truth", "truth.tsv").rows
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    write(tmp_path, truth, scores, every=False)
    done = run("cnn-eval", "predictions.tsv", "--truth", "truth.tsv")
    some = {row["measure"]: row["value"] for row in done.rows}
    assert not any(name.endswith(":rare") for name in some)  # in neither file
    assert some["mAP"] == some["average_precision:cat"] == ""
    assert done.err.count("average precision and mAP are unknown") == 1
    assert "predict with --top all" in done.err
    same = [name for name in some if "mAP" not in name and not name.startswith(("average_precision:", "hamming"))]
    before = {row["measure"]: row["value"] for row in whole}
    assert [some[name] for name in same] == [before[name] for name in same]
    named = {
        row["measure"]
        for row in run("cnn-eval", "predictions.tsv", "--truth", "truth.tsv", "--labels", "names.txt").rows
    }
    assert "support:rare" in named


def test_worst_labels_are_farthest_from_their_thresholds(run, tmp_path, monkeypatch, drawn):
    monkeypatch.chdir(tmp_path)
    truth, scores = drawn
    write(tmp_path, truth, scores)
    rows = run("cnn-eval", "predictions.tsv", "--truth", "truth.tsv", "--worst", "1000").rows
    assert len(rows) == (truth != (scores >= THRESHOLDS)).sum()
    assert list(rows[0]) == ["path", "label", "truth", "probability", "threshold"]
    margins = [abs(float(row["probability"]) - float(row["threshold"])) for row in rows]
    assert margins == sorted(margins, reverse=True)
    for row in rows:
        image, place = int(row["path"].split(".")[0]), CLASSES.index(row["label"])
        assert int(row["truth"]) == truth[image, place] != (scores[image, place] >= THRESHOLDS[place])
    write(tmp_path, truth, scores, every=False)
    few = run("cnn-eval", "predictions.tsv", "--truth", "truth.tsv", "--worst", "1000").rows
    assert (few[-1]["probability"], few[-1]["truth"]) == ("", "1")  # missed, and its probability is not listed
    assert len(few) == len(rows)


def test_bounds_and_missing_images(run, tmp_path, monkeypatch, drawn):
    monkeypatch.chdir(tmp_path)
    truth, scores = drawn
    write(tmp_path, truth, scores)
    given = ("cnn-eval", "predictions.tsv", "--truth", "truth.tsv")
    run(*given, "--fail-under", "mAP=0.1", "--fail-under", "f1_micro=0.1", "--fail-over", "hamming_loss=0.9")
    assert "f1:cat" in run(*given, "--fail-under", "f1:cat=0.999", status=4).err
    assert 'no measure "accuracy"' in run(*given, "--fail-under", "accuracy=0.1", status=2).err
    with (tmp_path / "truth.tsv").open("a") as file:
        file.write("more.jpg\tcat\n")
    assert "1 of 61 images in truth.tsv has no prediction" in run(*given, "--complete", status=1).err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ((), 2, "give the true ones with --truth MANIFEST"),
        (("--truth", "truth.tsv", "--coverage"), 2, "--coverage needs predictions of one label per image"),
        (("--truth", "truth.tsv", "--folds"), 1, "several labels per image (column threshold)"),
        (("--truth", "other.tsv"), 1, "have no label in common"),
        (("--truth", "short.tsv"), 1, "short.tsv has no labels for 1.jpg, 2.jpg"),
    ],
)
def test_errors_name_the_remedy(run, tmp_path, monkeypatch, drawn, words, status, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, *drawn)
    (tmp_path / "other.tsv").write_text("path\tlabels\n" + "".join(f"{image}.jpg\ta;b\n" for image in range(60)))
    (tmp_path / "short.tsv").write_text("path\tlabels\n0.jpg\tcat\n")
    assert message in run("cnn-eval", "predictions.tsv", *words, status=status).err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1.jpg\t1\tcat\t0.9\t0.5\n1.jpg\t2\tcat\t0.8\t0.5", '1.jpg is predicted twice, with the label "cat"'),
        ("1.jpg\t1\tcat\t0.9\t0.5\n1.jpg\t0\t\t\t", "1.jpg is predicted twice, without labels, and with them"),
        ("1.jpg\t1\t\t0.9\t0.5", "1.jpg: a row has no label"),
        ("1.jpg\t0\tcat\t0.9\t0.5", "a row of rank 0, for an image without labels, has a label"),
        ("1.jpg\t1\tcat\t1.9\t0.5", 'probability "1.9" is not between 0 and 1'),
    ],
)
def test_broken_rows_are_refused(run, tmp_path, monkeypatch, row, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.tsv").write_text(f"path\trank\tlabel\tprobability\tthreshold\n{row}\n")
    (tmp_path / "t.tsv").write_text("path\tlabels\n1.jpg\tcat;dog\n")
    assert message in run("cnn-eval", "p.tsv", "--truth", "t.tsv", status=1).err


def test_one_label_predicted_where_the_truth_has_several(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.tsv").write_text("path\trank\tlabel\tprobability\n1.jpg\t1\tcat\t0.9\n")
    (tmp_path / "t.tsv").write_text("path\tlabels\n1.jpg\tcat;dog\n")
    assert (
        "t.tsv has several labels per image (column labels)"
        in run("cnn-eval", "p.tsv", "--truth", "t.tsv", status=1).err
    )
