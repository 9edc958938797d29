"""Expected calibration error against worked examples."""

import numpy as np
import pytest

from cnnkit.evaluation.calibration import expected_calibration_error, reliability


def error(pairs, **words):
    confidence, correct = zip(*pairs, strict=True)
    return expected_calibration_error(np.array(confidence), np.array(correct, dtype=bool), **words)


def test_ece_worked_example():
    """Four at .95 with three correct: 4/6 * |.75 - .95|; two at .55 with one correct: 2/6 * |.5 - .55|; in total .15."""
    assert error([(0.95, 1), (0.95, 1), (0.95, 1), (0.95, 0), (0.55, 1), (0.55, 0)]) == pytest.approx(0.15)


def test_gaps_of_different_bins_do_not_cancel():
    """Overconfidence in one bin and underconfidence in another add up: (|0 - .9| + |1 - .1|) / 2."""
    assert error([(0.9, 0), (0.1, 1)]) == pytest.approx(0.9)


def test_gaps_within_a_bin_cancel():
    """.89 wrong and .91 right are one bin of accuracy .5 and confidence .9."""
    assert error([(0.89, 0), (0.91, 1)]) == pytest.approx(0.4)


def test_a_bin_holds_its_upper_bound():
    """With two bins, .5 is in the lower one: (|0 - .5| + |1 - .6|) / 2; 0 and 1 have bins of their own ends."""
    assert error([(0.5, 0), (0.6, 1)], bins=2) == pytest.approx(0.45)
    assert error([(0.0, 0), (1.0, 1)]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_ece_equals_its_definition(seed):
    """Bin by bin as the paper writes it: sum over bins of |B| / n * |accuracy(B) - confidence(B)|."""
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0, 1, 500)
    correct = generator.uniform(0, 1, 500) < confidence**2
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected)


def test_ece_without_confidences_is_none():
    """Without predictions, or if one confidence is NaN."""
    assert expected_calibration_error(np.array([]), np.array([], dtype=bool)) is None
    assert error([(0.9, 1), (np.nan, 1)]) is None


def test_reliability_bins():
    """Counts, accuracy and mean confidence of each bin; NaN for an empty one, without a warning."""
    found = reliability(np.array([0.55, 0.65, 0.95]), np.array([True, False, True]), bins=5)
    assert found.counts.tolist() == [0, 0, 1, 1, 1]
    assert np.allclose(found.accuracy, [np.nan, np.nan, 1, 0, 1], equal_nan=True)
    assert np.allclose(found.confidence, [np.nan, np.nan, 0.55, 0.65, 0.95], equal_nan=True)
    assert found.error == pytest.approx((0.45 + 0.65 + 0.05) / 3)
