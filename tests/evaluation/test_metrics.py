"""Measures against scikit-learn, published values and worked examples."""

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from cnnkit.evaluation import metrics

SEEDS = range(4)


def draw(seed, *, classes, n=200):
    """Draw labels with every class, and informative probabilities with many ties."""
    generator = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), generator.integers(classes, size=n - classes)])
    scores = generator.normal(size=(n, classes)) + 1.5 * np.eye(classes)[truth]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    probabilities = np.round(probabilities, 2) + 0.001
    return truth, probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_published_values(hits, n, low, high):
    """Those of Newcombe's table (Statistics in Medicine 17, 1998, table I, method 3)."""
    assert metrics.wilson_interval(hits, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("hits", "n"), [(1, 7), (95, 100), (499, 500), (3, 3), (0, 1)])
def test_wilson_interval_inverts_the_score_test(hits, n):
    """By definition, the share is exactly z standard errors sqrt(p (1 - p) / n) away from each bound p."""
    for bound in metrics.wilson_interval(hits, n):
        assert (hits / n - bound) ** 2 == pytest.approx(metrics.Z_95**2 * bound * (1 - bound) / n, abs=1e-12)
        assert 0 <= bound <= 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_measures_of_predictions_agree_with_scikit_learn(seed, classes):
    """Confusion matrix, precision, recall, F1, support and balanced accuracy."""
    truth, probabilities = draw(seed, classes=classes)
    prediction = probabilities.argmax(axis=1)
    confusion = metrics.confusion_matrix(truth, prediction, classes)
    assert np.array_equal(confusion, reference.confusion_matrix(truth, prediction, labels=range(classes)))
    measured = metrics.per_class(confusion, np.bincount(truth, minlength=classes))
    expected = reference.precision_recall_fscore_support(truth, prediction, labels=range(classes), zero_division=np.nan)
    for index, values in enumerate(measured):
        for value, column in zip((values.precision, values.recall, values.f1, values.support), expected, strict=True):
            assert value == pytest.approx(column[index]) or (value is None and math.isnan(column[index]))
    assert metrics.balanced_accuracy(measured) == pytest.approx(reference.balanced_accuracy_score(truth, prediction))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_measures_of_probabilities_agree_with_scikit_learn(seed, classes):
    """Log-loss and ROC AUC (one-vs-rest, macro, with ties)."""
    truth, probabilities = draw(seed, classes=classes)
    assert metrics.log_loss(truth, probabilities) == pytest.approx(reference.log_loss(truth, probabilities))
    scores = probabilities[:, 1] if classes == 2 else probabilities
    expected = reference.roc_auc_score(truth, scores, multi_class="ovr", average="macro")
    assert metrics.roc_auc(truth, probabilities) == pytest.approx(expected)


def test_log_loss_of_probability_zero_is_finite():
    """A true class with probability 0 costs -ln of the float64 epsilon, as in scikit-learn."""
    truth, probabilities = np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]])
    assert metrics.log_loss(truth, probabilities) == pytest.approx(reference.log_loss(truth, probabilities))
    assert metrics.log_loss(truth, probabilities) == pytest.approx(-math.log(2.0**-52) / 2)


def test_class_without_images_is_left_out():
    """Its recall is undefined; balanced accuracy and ROC AUC average over the classes that occur."""
    truth, probabilities = draw(0, classes=3)
    wider = np.column_stack([probabilities, np.full(len(truth), 0.001)])
    measured = metrics.per_class(
        metrics.confusion_matrix(truth, wider.argmax(axis=1), 4), np.bincount(truth, minlength=4)
    )
    assert measured[3] == metrics.ClassMeasures(precision=None, recall=None, f1=None, support=0)
    assert metrics.balanced_accuracy(measured) == metrics.balanced_accuracy(measured[:3])
    assert metrics.roc_auc(truth, wider) == pytest.approx(metrics.roc_auc(truth, probabilities))


def test_class_without_predictions_has_no_precision():
    """0 / 0 is None, not 0 or NaN; the F1 of a class that is never predicted is 0."""
    measured = metrics.per_class(np.array([[2, 0], [1, 0]]), np.array([2, 1]))
    assert measured[1] == metrics.ClassMeasures(precision=None, recall=0.0, f1=0.0, support=1)


def test_withheld_predictions_lower_recall_only():
    """A withheld prediction is in no column: it lowers recall but not precision."""
    truth, prediction = np.array([0, 0, 0, 1]), np.array([0, 0, -1, 1])
    confusion = metrics.confusion_matrix(truth, prediction, 2)
    assert confusion.tolist() == [[2, 0], [0, 1]]
    first = metrics.per_class(confusion, np.array([3, 1]))[0]
    assert (first.precision, first.recall, first.f1) == pytest.approx((1, 2 / 3, 0.8))


def test_unknown_measures_are_none():
    """Log-loss needs the probability of the true class, ROC AUC all of them and two classes."""
    truth = np.array([0, 1, 1])
    unlisted = np.array([[0.9, np.nan], [np.nan, 0.8], [0.4, 0.6]])
    assert metrics.log_loss(truth, unlisted) == pytest.approx(-np.log([0.9, 0.8, 0.6]).mean())
    assert metrics.log_loss(1 - truth, unlisted) is None
    assert metrics.roc_auc(truth, unlisted) is None
    assert metrics.roc_auc(np.array([1, 1]), np.array([[0.1, 0.9], [0.2, 0.8]])) is None
