"""Two models on the same images, against published examples, scipy and simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest

from cnnkit.evaluation import comparison
from cnnkit.evaluation.comparison import exact_interval, newcombe_interval, paired_interval
from cnnkit.evaluation.metrics import wilson_interval


def test_newcombes_own_example():
    """Newcombe 1998: 36 both, 12 the first alone, 2 the second alone: .0569 to .3404 by method 10."""
    assert newcombe_interval(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_models_that_never_differ():
    """The interval has a width all the same: with all right, Wilson's own of one proportion to either side."""
    low, _ = wilson_interval(54, 54)
    assert newcombe_interval(54, 0, 0, 0) == pytest.approx((low - 1, 1 - low))


@pytest.mark.parametrize("counts", [(36, 12, 2, 0), (20, 3, 9, 5), (0, 7, 1, 0), (0, 0, 0, 3), (5, 0, 4, 0)])
def test_the_other_way_round_it_is_turned(counts):
    """To exchange the two changes the signs; the difference lies inside, and no bound beyond 1."""
    both, first, second, neither = counts
    low, high = newcombe_interval(both, first, second, neither)
    assert newcombe_interval(both, second, first, neither) == pytest.approx((-high, -low))
    assert -1 <= low <= (first - second) / sum(counts) <= high <= 1


@pytest.mark.parametrize("shares", [(0.8, 0.08, 0.04, 0.08), (0.93, 0.03, 0.03, 0.01), (0.5, 0.2, 0.1, 0.2)])
def test_it_covers_what_it_promises(shares):
    """Of many draws of 100 images, about 95 in 100 have the true difference inside."""
    draws = np.random.default_rng(0).multinomial(100, shares, size=4000)
    tables, times = np.unique(draws, axis=0, return_counts=True)
    bounds = np.array([newcombe_interval(*table) for table in tables.tolist()])
    true = shares[1] - shares[2]
    inside = ((bounds[:, 0] <= true) & (true <= bounds[:, 1])) @ times / len(draws)
    assert 0.935 < inside < 0.985


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 5), (4, 9), (12, 2), (0, 40), (300, 350)])
def test_the_test_is_the_binomial_one(only_a, only_b):
    """McNemar's exact p-value is scipy's two-sided binomial test of the images on which one alone is right."""
    expected = binomtest(only_b, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    assert comparison.mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("first", "second"), [(1, 0), (5, 0), (7, 1), (12, 2), (4, 9), (300, 350)])
def test_the_exact_interval_is_clopper_and_pearsons(first, second):
    """Of the share of differing images on which the first one is right, as scipy bounds it."""
    share = binomtest(first, first + second).proportion_ci(method="exact")
    scale = (first + second) / 1000
    expected = ((2 * share.low - 1) * scale, (2 * share.high - 1) * scale)
    assert exact_interval(300, first, second, 700 - first - second) == pytest.approx(expected)


def test_interval_and_p_value_agree():
    """Of every table of up to 14 images, 0 lies outside the interval where p < 0.05, and nowhere else."""
    disagreed = 0
    for n in range(1, 15):
        for first in range(n + 1):
            for second in range(n - first + 1):
                p_value = comparison.mcnemar(second, first)
                for both in range(n - first - second + 1):
                    low, high = paired_interval(both, first, second, n - first - second - both)
                    assert (low > 0 or high < 0) == (p_value < 0.05), (both, first, second)
                    assert low <= (first - second) / n <= high
                    disagreed += newcombe_interval(both, first, second, n - first - second - both)[0] > 0 and low <= 0
    assert disagreed > 100  # Newcombe's alone, (0, 5, 0, 1) among them


def test_the_wider_one_is_taken_at_either_end():
    """Newcombe's own example: .0569 to .3404 by his method; 12 of 14 differing images are .5719 to .9822 by Clopper and Pearson's."""
    assert paired_interval(36, 12, 2, 0) == pytest.approx((0.28 * (2 * 0.5719 - 1), 0.3404), abs=5e-5)


def test_the_record_adds_up():
    """Accuracies and their difference are those of the counts."""
    found = comparison.summarise(both=70, only_a=5, only_b=15, neither=10)
    assert (found.n, found.accuracy_a, found.accuracy_b) == (100, 0.75, 0.85)
    assert found.difference == pytest.approx(0.1)
    assert found.difference_low < 0.1 < found.difference_high
