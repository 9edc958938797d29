"""Accuracy against coverage: thresholds against counting, the area against its definition."""

import numpy as np
import pytest

from cnnkit.errors import CnnkitError
from cnnkit.evaluation import coverage
from cnnkit.evaluation.matching import MatchedPredictions


def predictions(confidence, correct, *, withheld=0):
    """Make predictions; the last ones are withheld."""
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=bool)
    prediction = np.where(correct, 0, 1)
    prediction[len(prediction) - withheld :] = -1
    names = tuple(map(str, range(len(prediction))))
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    return MatchedPredictions(
        names, names, ("a", "b"), np.zeros(len(prediction), dtype=np.int64), prediction, confidence, probabilities
    )


def draw(n, *, seed=0, digits=None):
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0.5, 1, n)
    correct = generator.uniform(size=n) < confidence
    return (confidence if digits is None else np.round(confidence, digits)), correct


def test_each_coverage_has_a_row():
    """In steps of 5 %; each row counts the predictions above its threshold."""
    confidence, correct = draw(200)
    steps = coverage.curve(predictions(confidence, correct))
    assert [step.predicted for step in steps] == list(range(200, 0, -10))
    for step in steps:
        taken = confidence >= step.min_probability
        assert (taken.sum(), step.coverage) == (step.predicted, step.predicted / 200)
        assert step.accuracy == pytest.approx(correct[taken].mean())
        assert step.accuracy_low < step.accuracy <= step.accuracy_high


@pytest.mark.parametrize("digits", [2, 4, 6])
def test_thresholds_are_the_largest_between_printed_probabilities(digits):
    """No printed probability equals a threshold, and a threshold larger by 1e-6 would keep fewer."""
    confidence, correct = draw(300, digits=digits)
    for step in coverage.curve(predictions(confidence, correct)):
        assert float(f"{step.min_probability:.6g}") == step.min_probability
        assert np.abs(confidence - step.min_probability).min() > 5e-7
        higher = confidence >= step.min_probability + 1.5e-6
        covered = [share for share in range(1, 21) if step.predicted >= 300 * share / 20]
        assert higher.sum() < 300 * max(covered) / 20


def test_ties_are_kept_together():
    """Two distinct probabilities make two rows."""
    steps = coverage.curve(predictions([0.9] * 7 + [0.6] * 3, [1] * 7 + [0] * 3))
    assert [(step.min_probability, step.predicted, step.accuracy) for step in steps] == [
        (0.599999, 10, 0.7),
        (0.899999, 7, 1.0),
    ]


def test_no_threshold_between_neighbours_in_the_last_digit():
    """0.700001 is rounded, so no threshold is between it and 0.700002."""
    steps = coverage.curve(predictions([0.700002, 0.700001], [1, 0]))
    assert [(step.min_probability, step.predicted) for step in steps] == [(0.7, 2)]


def test_curve_of_one_image_has_one_row():
    """The smallest curve."""
    (step,) = coverage.curve(predictions([1.0], [1]))
    assert (step.min_probability, step.coverage, step.accuracy, step.accuracy_high) == (0.999999, 1, 1, 1)


def test_withheld_predictions_stay_withheld():
    """They count as images without a prediction."""
    steps = coverage.curve(predictions([0.9, 0.8, 0.4, 0.3], [1, 0, 1, 1], withheld=2))
    assert [(step.coverage, step.predicted) for step in steps] == [(0.5, 2), (0.25, 1)]


def test_area_equals_its_definition():
    """The mean over k of the share of errors among the k most confident predictions."""
    confidence, correct = draw(100)
    wrong = ~correct[np.argsort(-confidence)]
    expected = np.mean([wrong[:count].mean() for count in range(1, 101)])
    assert coverage.area(predictions(confidence, correct)) == pytest.approx(expected)


def test_area_worked_example():
    """Confident and correct, less confident and wrong: risks 0, 1/2; in the other order 1, 1/2."""
    assert coverage.area(predictions([0.9, 0.6], [1, 0])) == pytest.approx(0.25)
    assert coverage.area(predictions([0.6, 0.9], [1, 0])) == pytest.approx(0.75)


def test_area_of_ties_is_that_of_a_random_order():
    """The mean over many random orders."""
    confidence, correct = draw(40, digits=1)
    generator = np.random.default_rng(1)
    areas = [coverage.area(predictions(confidence + generator.uniform(0, 1e-6, 40), correct)) for _ in range(2000)]
    assert coverage.area(predictions(confidence, correct)) == pytest.approx(np.mean(areas), abs=0.001)
    assert np.std(areas) > 0.005  # which order it is matters


def test_rejects_predictions_without_probabilities():
    """Also if all predictions were withheld."""
    with pytest.raises(CnnkitError, match="--coverage needs probabilities, and the predictions have none"):
        coverage.curve(predictions([np.nan, 0.5], [1, 1]))
    with pytest.raises(CnnkitError, match="predict without --min-probability"):
        coverage.area(predictions([0.5, 0.5], [1, 1], withheld=2))
