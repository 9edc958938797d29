"""The power law of accuracy: recovered from known curves, with intervals that have the truth, and refused where it is not determined."""

import numpy as np
import pytest
from scipy.optimize import least_squares

from cnnkit.evaluation import power_law
from cnnkit.evaluation.power_law import NotDeterminedError

SIZES = np.array([125, 177, 250, 354, 500, 707, 1000, 1414, 2000], dtype=np.float64)


def simulated(limit, factor, exponent, *, seed, sizes=SIZES, val=800):
    """Simulate heads: an image is predicted correctly if its difficulty is below the accuracy, which varies from subset to subset."""
    generator = np.random.default_rng(seed)
    difficulty = generator.random(val)
    found = []
    for size in sizes:
        accuracy = limit - factor * size**-exponent
        varied = accuracy + generator.normal(0, 0.2 / np.sqrt(size), 1 if size == sizes[-1] else 5)
        found.append(difficulty + generator.normal(0, 0.003, (len(varied), val)) < varied[:, None])
    return found


def test_recovers_a_known_law_from_exact_accuracies():
    """Its parameters, and what it predicts for more images."""
    law = power_law.fit(SIZES, 0.97 - 1.5 * SIZES**-0.6, np.full(len(SIZES), 0.01))
    assert (law.limit, law.exponent) == pytest.approx((0.97, 0.6), abs=1e-4)
    assert law.gap == pytest.approx(1.5 * 2000**-0.6, abs=1e-4)
    assert law(np.array([8000.0])) == pytest.approx(0.97 - 1.5 * 8000**-0.6, abs=1e-5)


def test_fit_is_the_weighted_minimum():
    """As of scipy's least_squares in the parameters of the published form, a - b * n ** -c."""
    generator = np.random.default_rng(3)
    errors = np.geomspace(0.02, 0.004, len(SIZES))
    accuracies = 0.9 - 2 * SIZES**-0.55 + errors * generator.normal(size=len(SIZES))
    other = least_squares(lambda p: (accuracies - (p[0] - p[1] * SIZES ** -p[2])) / errors, (0.9, 1, 0.5), xtol=1e-12)
    law = power_law.fit(SIZES, accuracies, errors)
    assert law.misfit == pytest.approx(2 * other.cost, rel=1e-4)
    assert law(np.array([4000.0])) == pytest.approx(other.x[0] - other.x[1] * 4000 ** -other.x[2], abs=1e-4)


@pytest.mark.parametrize("law", [(0.93, 1.2, 0.5), (0.9, 0.9, 0.3)])
def test_intervals_have_the_accuracy_of_more_images(law):
    """For three simulated experiments each, twice and four times the images."""
    for seed in range(3):
        _, found = power_law.predict(
            SIZES, simulated(*law, seed=seed), at=[4000, 8000], generator=np.random.default_rng(0), draws=60
        )
        for each in found:
            truth = law[0] - law[1] * each.images ** -law[2]
            assert each.low - 0.01 <= truth <= each.high + 0.01
            assert each.low <= each.accuracy <= each.high
            assert each.gain_low <= each.gain + 0.005


def test_refuses_single_subsets():
    """Nothing shows how much the accuracy depends on the choice of training images, and intervals would be too narrow."""
    single = [each[:1] for each in simulated(0.95, 1.0, 0.5, seed=0)]
    with pytest.raises(NotDeterminedError, match=r"one subset of each size .* give --repeats 2 or more"):
        power_law.predict(SIZES, single, at=[4000], generator=np.random.default_rng(0))


def test_refuses_few_validation_images():
    """Of three, all predicted correctly from some size on, draws would show a gain for certain."""
    few = [each[:, :29] for each in simulated(0.95, 1.0, 0.5, seed=0)]
    with pytest.raises(NotDeterminedError, match="29 validation images are too few for intervals, which need 30"):
        power_law.predict(SIZES, few, at=[4000], generator=np.random.default_rng(0))


def test_refuses_few_points_and_accuracies_that_follow_no_law():
    """Three numbers of images; and a curve that falls by a third in its middle."""
    few = simulated(0.95, 1.0, 0.5, seed=0, sizes=SIZES[-3:])
    with pytest.raises(NotDeterminedError, match="3 numbers of images, and a power law needs 4"):
        power_law.predict(SIZES[-3:], few, at=[4000], generator=np.random.default_rng(0))
    broken = simulated(0.95, 1.0, 0.5, seed=0)
    broken[4] = broken[4] & (np.random.default_rng(0).random(broken[4].shape[1]) < 0.66)
    with pytest.raises(NotDeterminedError, match="not near any power law"):
        power_law.predict(SIZES, broken, at=[4000], generator=np.random.default_rng(0))
