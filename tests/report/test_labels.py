"""A report on several labels per image, against scikit-learn."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as reference
from test_cnn_report import Page

from cnnkit.evaluation.label_report import MatchedLabels, measure
from cnnkit.report import label_content

CLASSES = ("cat", "dog", "indoor", "rare")
THRESHOLDS = np.array([0.5, 0.3, 0.6, 0.9])


def matched(truth, scores):
    """Random predictions, as if read from a file."""
    paths = tuple(f"photos/{number}.jpg" for number in range(len(truth)))
    thresholds = THRESHOLDS[: truth.shape[1]]
    return MatchedLabels(paths, paths, CLASSES[: truth.shape[1]], truth, scores >= thresholds, scores, thresholds)


@pytest.fixture
def drawn():
    random = np.random.default_rng(3)
    truth = random.random((50, 4)) < [0.5, 0.3, 0.4, 0.1]
    return matched(truth, np.clip(0.4 * truth + 0.7 * random.random((50, 4)), 0, 1))


def test_counts_of_labels_are_scikit_learns(drawn):
    expected = reference.multilabel_confusion_matrix(drawn.truth, drawn.predicted)  # (C, 2, 2)
    found = [
        [[row.true_negatives, row.false_positives], [row.missed, row.hits]]
        for row in label_content.label_rows(measure(drawn))
    ]
    assert found == expected.tolist()


def test_confusions_of_single_labels_are_the_confusion_matrix():
    """Of images with one true and one predicted label; with several, each pair is counted, worked out by hand."""
    random = np.random.default_rng(0)
    true, given = random.integers(0, 4, 60), random.integers(0, 4, 60)
    single = matched(np.eye(4, dtype=bool)[true], np.eye(4)[given])
    found = label_content.confusions(single, 9)
    assert np.array_equal(np.array(found.counts)[:4, :4], reference.confusion_matrix(true, given))
    assert not any(np.array(found.counts)[:4, 4])
    assert found.support == [*np.bincount(true).tolist(), int((true == given).sum())]
    # cat and dog instead of indoor; only cat missed; only dog wrong
    truth = np.array([[0, 0, 1], [1, 0, 1], [1, 0, 0]], bool)
    scores = np.array([[1.0, 1, 0], [0, 0, 1], [1, 1, 0]])
    several = matched(truth, scores)
    assert label_content.confusions(several, 9).counts == [[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]]
    assert [(each.missed, each.predicted, each.share) for each in label_content.most_confused(several, 9)] == [
        ("indoor", "cat", 0.5),
        ("indoor", "dog", 0.5),
    ]


def test_mistakes_are_the_most_confident_of_each_label_in_turn(drawn):
    """The first of each label and kind come before any second one; all of them where there is room."""
    wrong = np.argwhere(drawn.truth != drawn.predicted)
    every = label_content.chosen(drawn, 1000)
    assert len(every) == len(wrong)
    best = {}
    for image, place in wrong:
        kind = (CLASSES[place], bool(drawn.truth[image, place]))
        best[kind] = max(best.get(kind, 0), abs(drawn.probabilities[image, place] - THRESHOLDS[place]))
    first = label_content.chosen(drawn, len(best))
    assert {
        (each.label, each.missed): abs(each.probability - each.threshold) for each in first
    } == pytest.approx(best)  # fmt: skip
    assert [each.label for each in every] == sorted(each.label for each in every)


@pytest.fixture
def here(tmp_path, monkeypatch, drawn):
    """A working folder with predictions, images, and the truth."""
    monkeypatch.chdir(tmp_path)
    lines, truth = ["path\trank\tlabel\tprobability\tthreshold"], ["path\tlabels"]
    (tmp_path / "photos").mkdir()
    for path, own, scores in zip(drawn.paths, drawn.truth, drawn.probabilities, strict=True):
        Image.new("RGB", (8, 8), (0, 0, 255)).save(path)
        truth.append(f"{path}\t{';'.join(np.array(CLASSES)[own])}")
        lines += [
            f"{path}\t{rank}\t{CLASSES[place]}\t{scores[place]}\t{THRESHOLDS[place]}"
            for rank, place in enumerate(np.argsort(-scores), start=1)
        ]
    Path("test.tsv").write_text("\n".join(lines) + "\n")
    Path("truth.tsv").write_text("\n".join(truth) + "\n")
    return tmp_path


def test_page_summary_and_test_results(run, here, drawn):
    """Measures are those of cnn-eval; a missed bound on a label is a failed test of it, after everything is written."""
    measured = json.loads(run("cnn-eval", "test.tsv", "--truth", "truth.tsv", "--json").out)
    files = ("-o", "report.html", "--markdown", "summary.md", "--junit", "report.xml", "--worst", "9")
    done = run("cnn-report", "test.tsv", "--truth", "truth.tsv", *files, "--fail-under", "precision:dog=1", status=4)
    (row,) = done.rows
    for name in ("mAP", "mAP_low", "f1_micro", "f1_macro", "subset_accuracy", "hamming_loss"):
        assert float(row[name]) == pytest.approx(measured[name], rel=1e-5)
    assert int(row["wrong"]) == (drawn.truth != drawn.predicted).sum()
    page = Page("report.html")
    assert page.ids == ["bounds", "labels", "confusion", "mistakes"]
    assert [cells[0] for cells in page.rows["labels"][1:]] == list(CLASSES)
    assert len(page.images) == 9
    summary = Path("summary.md").read_text()
    assert f"**mAP {measured['mAP']:.4f} ({measured['mAP_low']:.4f} to {measured['mAP_high']:.4f})**" in summary
    assert f"| `dog` | {measured['per_class']['dog']['support']} |" in summary
    cases = ElementTree.parse("report.xml").getroot().findall(".//testcase")
    assert [case.get("name") for case in cases if case.find("failure") is not None] == ["dog"]
    assert [case.get("name") for case in cases] == list(CLASSES)


def test_a_measure_without_an_interval(run, tmp_path, monkeypatch):
    """In some resamples of two images none has a label, and mAP is undefined: nothing follows its name."""
    monkeypatch.chdir(tmp_path)
    Path("two.tsv").write_text(
        "path\trank\tlabel\tprobability\tthreshold\na.png\t1\tcat\t0.9\t0.5\nb.png\t1\tcat\t0.1\t0.5\n"
    )
    Path("truth.tsv").write_text("path\tlabels\na.png\tcat\nb.png\t\n")
    assert (
        run("cnn-report", "two.tsv", "--truth", "truth.tsv", "-o", "two.html", "--worst", "0").rows[0]["mAP_low"] == ""
    )
    assert "<small>mean average precision</small>" in Path("two.html").read_text()


def test_probabilities_of_predicted_labels_only(run, here):
    """mAP is unknown: micro F1 takes its place, and the page says why, once."""
    lines = Path("test.tsv").read_text().splitlines()
    kept = [line for line in lines[1:] if float(line.split("\t")[3]) >= float(line.split("\t")[4])]
    Path("some.tsv").write_text("\n".join([lines[0], *kept]) + "\n")
    done = run(
        "cnn-report", "some.tsv", "--truth", "truth.tsv", "-o", "some.html", "--markdown", "some.md", "--worst", "0"
    )
    assert done.rows[0]["mAP"] == ""
    assert Path("some.md").read_text().splitlines()[2].startswith("**micro F1 0.")
    assert Path("some.html").read_text().count("predict with --top all") == 1
