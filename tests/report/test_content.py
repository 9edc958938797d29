"""What a report derives from an evaluation, against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from cnnkit.evaluation import metrics
from cnnkit.evaluation.matching import MatchedPredictions
from cnnkit.evaluation.report import measure
from cnnkit.report import content
from cnnkit.report.content import Gate, ShownPaths


def evaluation(classes=4, *, n=400, seed=0, withheld=0):
    """Measure random predictions, of which some are withheld."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, n)
    scores = generator.normal(size=(n, classes)) + 1.3 * np.eye(classes)[truth]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    prediction = probabilities.argmax(axis=1)
    prediction[:withheld] = -1
    names = tuple(f"class {number:03d}" for number in range(classes))
    paths = tuple(f"photos/{number}.jpg" for number in range(n))
    confidence = probabilities.max(axis=1)
    return measure(MatchedPredictions(paths, paths, names, truth, prediction, confidence, probabilities))


def test_bins_are_those_of_scikit_learn():
    """Accuracy and mean confidence of each bin that is not empty, and Wilson's interval of the accuracy."""
    found = evaluation()
    predictions = found.predictions
    correct = predictions.prediction == predictions.truth
    accuracy, confidence = calibration_curve(correct, predictions.confidence, n_bins=15)
    bins = content.bins(found)
    assert [each.accuracy for each in bins] == pytest.approx(accuracy)
    assert [each.confidence for each in bins] == pytest.approx(confidence)
    assert sum(each.count for each in bins) == found.n
    for each in bins:
        assert each.count == ((predictions.confidence > each.low) & (predictions.confidence <= each.high)).sum()
        assert each.high - each.low == pytest.approx(1 / 15)
        assert (each.accuracy_low, each.accuracy_high) == metrics.wilson_interval(
            round(each.accuracy * each.count), each.count
        )


def test_no_bins_without_probabilities():
    found = evaluation()
    found.predictions.confidence[:] = np.nan
    assert content.bins(found) == []


def test_classes_and_confusions_are_those_of_scikit_learn():
    """The row of a class has its measures, and the column of the confusion matrix with most of its mistakes."""
    found = evaluation()
    predictions = found.predictions
    matrix = reference.confusion_matrix(predictions.truth, predictions.prediction)
    precision, recall, f1, support = reference.precision_recall_fscore_support(
        predictions.truth, predictions.prediction
    )
    np.fill_diagonal(matrix, 0)
    rows = list(content.class_rows(found))
    assert [row.precision for row in rows] == pytest.approx(precision)
    assert [row.recall for row in rows] == pytest.approx(recall)
    assert [row.f1 for row in rows] == pytest.approx(f1)
    assert [row.support for row in rows] == support.tolist()
    assert [row.taken_for for row in rows] == [found.classes[place] for place in matrix.argmax(axis=1)]
    (first, *_) = content.most_confused(found, 3)
    assert first.count == matrix.max()
    assert first.share == pytest.approx(matrix.max() / support[found.classes.index(first.truth)])


def test_a_class_without_mistakes_is_mistaken_for_none():
    """Unless some of its predictions are withheld."""
    known, paths = np.array([0, 0, 1, 1, 2]), tuple("abcde")
    predicted, confidence = np.array([0, 0, 1, -1, 1]), np.full(5, 0.5)
    matched = MatchedPredictions(paths, paths, ("x", "y", "z"), known, predicted, confidence, np.full((5, 3), np.nan))
    assert [row.taken_for for row in content.class_rows(measure(matched))] == [None, "?", "y"]


def test_chosen_classes_are_those_of_the_most_frequent_confusions():
    """Of many classes; the rest of each row is in the columns of others and of withheld predictions."""
    found = evaluation(40, n=2000, withheld=30)
    chosen = content.confusions(found, 6)
    most = content.most_confused(found, 3)
    assert {each.truth for each in most} | {each.label for each in most} <= set(chosen.classes)
    assert list(chosen.classes) == sorted(chosen.classes)
    assert (chosen.others, chosen.withheld) == (True, True)
    assert [sum(row) for row in chosen.counts] == chosen.support
    for label, row in zip(chosen.classes, chosen.counts, strict=True):
        whole = found.confusion[found.classes.index(label)]
        assert row[:6] == [whole[found.classes.index(other)] for other in chosen.classes]


def test_all_classes_of_a_small_matrix():
    found = evaluation()
    chosen = content.confusions(found, 20)
    assert chosen.counts == found.confusion
    assert (chosen.others, chosen.withheld) == (False, False)


@pytest.mark.parametrize(
    ("gate", "met"),
    [
        (Gate("accuracy", 0.95, 0.95, True), True),
        (Gate("accuracy", 0.949, 0.95, True), False),
        (Gate("ece", 0.05, 0.04, False), False),
        (Gate("ece", None, 0.04, False), False),
        (Gate("recall:a:b", None, 0.0, True), False),
    ],
)
def test_gates(gate, met):
    """An unknown measure violates its bound; a class may have a colon in its name."""
    assert gate.met is met
    assert gate.of_class == ("a:b" if gate.measure.startswith("recall") else None)


@pytest.mark.parametrize(
    ("paths", "shown"),
    [
        (["/home/me/photos/cat/1.jpg", "/home/me/photos/dog/2.jpg"], ["cat/1.jpg", "dog/2.jpg"]),
        (["/home/me/photos/cat/1.jpg", "/home/me/photos/cat/2.jpg"], ["cat/1.jpg", "cat/2.jpg"]),
        (["../../photos/cat/1.jpg", "../../photos/dog/2.jpg"], ["cat/1.jpg", "dog/2.jpg"]),
        (["/me/photos/train/cat/1.jpg", "/me/photos/val/dog/2.jpg"], ["train/cat/1.jpg", "val/dog/2.jpg"]),
        (["1.jpg", "2.jpg"], ["1.jpg", "2.jpg"]),
        (["/home/me/cat/1.jpg", "dog/2.jpg"], ["cat/1.jpg", "dog/2.jpg"]),
    ],
)
def test_shown_paths_have_no_folders_of_the_machine(paths, shown):
    """But that of the class."""
    found = ShownPaths(paths)
    assert [found.of(path) for path in paths] == shown
    assert found.of("/elsewhere/x/cat/9.jpg") == "cat/9.jpg"
