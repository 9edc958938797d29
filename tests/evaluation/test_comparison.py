"""Two models on the same images, against published examples, scipy and simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest

from cnnkit.evaluation import comparison
from cnnkit.evaluation.comparison import exact_interval, newcombe_interval, paired_interval
from cnnkit.evaluation.metrics import wilson_interval


def test_interval_equals_newcombes_example():
    """Newcombe 1998: 36 both, 12 only the first, 2 only the second: .0569 to .3404 by method 10."""
    assert newcombe_interval(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_interval_of_independent_samples_equals_newcombes_example():
    """Newcombe 1998, table II: 56 of 70 and 48 of 80: .0524 to .3339 by method 10."""
    assert comparison.independent_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    low, high = comparison.independent_interval(48, 80, 56, 70)
    assert (low, high) == pytest.approx((-0.3339, -0.0524), abs=5e-5)


def test_interval_of_equal_models_has_a_width():
    """If all are correct, it is Wilson's interval of one proportion to either side."""
    low, _ = wilson_interval(54, 54)
    assert newcombe_interval(54, 0, 0, 0) == pytest.approx((low - 1, 1 - low))


@pytest.mark.parametrize("counts", [(36, 12, 2, 0), (20, 3, 9, 5), (0, 7, 1, 0), (0, 0, 0, 3), (5, 0, 4, 0)])
def test_exchanging_the_models_changes_the_sign(counts):
    """The difference is inside of the interval, and the bounds within -1 and 1."""
    both, first, second, neither = counts
    low, high = newcombe_interval(both, first, second, neither)
    assert newcombe_interval(both, second, first, neither) == pytest.approx((-high, -low))
    assert -1 <= low <= (first - second) / sum(counts) <= high <= 1


@pytest.mark.parametrize("shares", [(0.8, 0.08, 0.04, 0.08), (0.93, 0.03, 0.03, 0.01), (0.5, 0.2, 0.1, 0.2)])
def test_interval_covers_95_percent(shares):
    """In about 95 % of many draws of 100 images, the interval has the true difference."""
    draws = np.random.default_rng(0).multinomial(100, shares, size=4000)
    tables, times = np.unique(draws, axis=0, return_counts=True)
    bounds = np.array([newcombe_interval(*table) for table in tables.tolist()])
    true = shares[1] - shares[2]
    inside = ((bounds[:, 0] <= true) & (true <= bounds[:, 1])) @ times / len(draws)
    assert 0.935 < inside < 0.985


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 0), (1, 0), (5, 5), (4, 9), (12, 2), (0, 40), (300, 350), (900, 990)]
)
def test_mcnemar_equals_the_binomial_test(only_a, only_b):
    """McNemar's exact p-value is that of scipy's two-sided binomial test on the images that only one predicts correctly."""
    expected = binomtest(only_b, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    assert comparison.mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("first", "second"), [(1, 0), (5, 0), (7, 1), (12, 2), (4, 9), (300, 350)])
def test_exact_interval_equals_clopper_pearson(first, second):
    """Of the share of differing images that the first one predicts correctly, by scipy."""
    share = binomtest(first, first + second).proportion_ci(method="exact")
    scale = (first + second) / 1000
    expected = ((2 * share.low - 1) * scale, (2 * share.high - 1) * scale)
    assert exact_interval(300, first, second, 700 - first - second) == pytest.approx(expected)


def test_interval_and_p_value_agree():
    """For every table of up to 14 images, the interval excludes 0 exactly if p < 0.05."""
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


def test_interval_is_the_wider_one_at_either_end():
    """Newcombe's example: .0569 to .3404 by his method; 12 of 14 differing images are .5719 to .9822 by Clopper and Pearson."""
    assert paired_interval(36, 12, 2, 0) == pytest.approx((0.28 * (2 * 0.5719 - 1), 0.3404), abs=5e-5)


def test_record_is_consistent():
    """Accuracies and their difference follow from the counts."""
    found = comparison.summarise(both=70, only_a=5, only_b=15, neither=10)
    assert (found.n, found.accuracy_a, found.accuracy_b) == (100, 0.75, 0.85)
    assert found.difference == pytest.approx(0.1)
    assert found.difference_low < 0.1 < found.difference_high
