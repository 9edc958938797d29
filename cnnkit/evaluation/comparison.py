"""Paired comparison of two models: the difference of their accuracies on the same images, its interval and McNemar's test."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb, sqrt

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import CnnkitError
from cnnkit.evaluation import beta, metrics, report
from cnnkit.evaluation.config import MatchConfig
from cnnkit.evaluation.matching import FolderTruth, MatchedPredictions, Truth

log = logging.getLogger("cnnkit")

#: Images that two models predict differently, up to which the binomial distribution is summed up exactly.
_MOST_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class Comparison:
    """Models a and b on the same n images.

    `difference` is accuracy b minus accuracy a, with its 95 % interval; `both`, `only_a`, `only_b` and `neither` count the images that
    they predict correctly; `p_value` is that of McNemar's exact test. The interval excludes 0 exactly if `p_value` is below 0.05.
    """

    n: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    difference_low: float
    difference_high: float
    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float


def compare(
    files: Iterable[tuple[Iterable[bytes], str]],
    truth: Truth | FolderTruth,
    config: MatchConfig,
    *,
    names: Sequence[str],
) -> Comparison:
    """Compare two files of predictions for the same images.

    A withheld prediction counts as wrong.

    Args:
        files: For each file its lines and its name, for messages.
        truth: The true labels, and the groups of images.
        config: The classes and their order, and whether every image of the truth must be predicted.
        names: The names of the two models.

    Raises:
        CnnkitError: One has an image that the other lacks, and as `report.read`.
    """
    one, other = report.read(files, truth, classes=config.classes(), complete=config.complete)
    result = of_same_images(one, other, names=names)
    log.info("%s", _in_words(result, *names))
    warn_of_groups(one.resolved, truth)
    return result


def warn_of_groups(resolved: Sequence[str], truth: Truth | FolderTruth) -> None:
    """Warn of images, by their real paths, that are not independent, because they share a group."""
    groups = Counter(image.group for image in map(truth.images.get, resolved) if image and image.group)
    together = sum(count for count in groups.values() if count > 1)
    if together:
        log.warning(
            "%d of %d images share a group with others and are not independent: the p-value is too small and the interval too narrow",
            together,
            len(resolved),
        )


def of_same_images(one: MatchedPredictions, other: MatchedPredictions, *, names: Sequence[str]) -> Comparison:
    """Compare predictions of two models, in any order of the images.

    Raises:
        CnnkitError: One has an image that the other lacks.
    """
    check_same((one.paths, one.resolved), (other.paths, other.resolved), names=names)
    places = {resolved: row for row, resolved in enumerate(other.resolved)}
    other = other.of([places[resolved] for resolved in one.resolved])
    return paired(one.prediction == one.truth, other.prediction == other.truth)


def bounds(result: Comparison, name_a: str, name_b: str) -> dict[str, tuple[float, float]]:
    """Return the bound that fails if B is significantly worse than A; its name is the message."""
    return worse(result.difference, result.difference_high, name_a, name_b)


def worse(difference: float, difference_high: float, name_a: str, name_b: str) -> dict[str, tuple[float, float]]:
    """Return the bound that fails if the interval of the difference, B minus A, is below zero; its name is the message."""
    return {
        f"{name_b} is worse than {name_a} by {-100 * difference:.1f} points: difference_high": (difference_high, 0.0)
    }


def check_same(
    one: tuple[Sequence[str], Sequence[str]], other: tuple[Sequence[str], Sequence[str]], *, names: Sequence[str]
) -> None:
    """Check that two models predict the same images, whose paths are given as written and as resolved.

    Raises:
        CnnkitError: One has an image that the other lacks.
    """
    for here, this, there, that in ((one, names[0], other, names[1]), (other, names[1], one, names[0])):
        known = set(there[1])
        lacking = [path for path, resolved in zip(*here, strict=True) if resolved not in known]
        if lacking:
            raise CnnkitError(
                f"{that} lacks {lacking[0]}{f' and {len(lacking) - 1} more' if len(lacking) > 1 else ''}, which {this} has; "
                "predict the same images with both models"
            )


def paired(correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_]) -> Comparison:
    """Compare which predictions of two models are correct on the same images, (N,) each."""
    return summarise(
        both=int((correct_a & correct_b).sum()),
        only_a=int((correct_a & ~correct_b).sum()),
        only_b=int((~correct_a & correct_b).sum()),
        neither=int((~correct_a & ~correct_b).sum()),
    )


def summarise(*, both: int, only_a: int, only_b: int, neither: int) -> Comparison:
    """Compute the difference, its interval and the test from the numbers of correct predictions."""
    n = both + only_a + only_b + neither
    low, high = paired_interval(both, only_b, only_a, neither)
    return Comparison(
        n=n,
        accuracy_a=(both + only_a) / n,
        accuracy_b=(both + only_b) / n,
        difference=(only_b - only_a) / n,
        difference_low=low,
        difference_high=high,
        both=both,
        only_a=only_a,
        only_b=only_b,
        neither=neither,
        p_value=mcnemar(only_a, only_b),
    )


def paired_interval(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """Compute a 95 % interval of the difference of two paired proportions, first minus second, that agrees with the test.

    At either end the wider of Newcombe's interval and the exact one. For few images Newcombe's alone may exclude 0 although McNemar's
    exact test has p = 0.06; the exact one alone has width 0 if the two never differ.

    Args:
        both, only_first, only_second, neither: As `newcombe_interval`.
    """
    intervals = (
        newcombe_interval(both, only_first, only_second, neither),
        exact_interval(both, only_first, only_second, neither),
    )
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def exact_interval(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """Compute the interval that McNemar's exact test does not reject, given the number of images on which the two differ.

    The first one is correct on a share p of those m images, bounded by Clopper and Pearson; the difference is (2 p - 1) m / n.

    Args:
        both, only_first, only_second, neither: As `newcombe_interval`.

    Source:
        Clopper, Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial, Biometrika 26 (1934);
        Newcombe 1998, method 6.
    """
    differ = only_first + only_second
    # Bounds of p; p = 0.5 is a difference of 0
    low = beta.quantile(only_first, only_second + 1, 0.025) if only_first else 0.0
    high = beta.quantile(only_first + 1, only_second, 0.975) if only_second else 1.0
    scale = differ / (both + differ + neither)
    return (2 * low - 1) * scale, (2 * high - 1) * scale


def newcombe_interval(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """Compute Newcombe's 95 % interval of the difference of two paired proportions, first minus second.

    It combines Wilson's intervals of both in quadrature and corrects for their correlation. The usual interval, ± 2 standard errors,
    has width 0 if the two never differ.

    Args:
        both: The number of images on which both succeed.
        only_first: On which only the first succeeds.
        only_second: On which only the second succeeds.
        neither: On which neither succeeds.

    Source:
        Newcombe, Improved confidence intervals for the difference between binomial proportions based on paired data,
        Statistics in Medicine 17 (1998), method 10.
    """
    n = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    covariance = float(both * neither - only_first * only_second)
    if covariance > 0:
        covariance = max(covariance - n / 2, 0.0)  # the continuity correction of method 10
    variances = first * (n - first) * second * (n - second)
    correlation = covariance / sqrt(variances) if variances else 0.0

    (low_1, high_1), (low_2, high_2) = metrics.wilson_interval(first, n), metrics.wilson_interval(second, n)
    share_1, share_2 = first / n, second / n
    below_1, above_1, below_2, above_2 = share_1 - low_1, high_1 - share_1, share_2 - low_2, high_2 - share_2
    down = sqrt(below_1**2 - 2 * correlation * below_1 * above_2 + above_2**2)
    up = sqrt(above_1**2 - 2 * correlation * above_1 * below_2 + below_2**2)
    return share_1 - share_2 - down, share_1 - share_2 + up


def independent_interval(hits: int, n: int, hits_other: int, n_other: int) -> tuple[float, float]:
    """Compute Newcombe's 95 % interval of the difference of the proportions of two independent samples, first minus second.

    Source:
        Newcombe, Interval estimation for the difference between independent proportions: comparison of eleven methods, Statistics in
        Medicine 17 (1998), method 10.
    """
    (low, high), (low_other, high_other) = (
        metrics.wilson_interval(hits, n),
        metrics.wilson_interval(hits_other, n_other),
    )
    share, other = hits / n, hits_other / n_other
    down = sqrt((share - low) ** 2 + (high_other - other) ** 2)
    up = sqrt((high - share) ** 2 + (other - low_other) ** 2)
    return share - other - down, share - other + up


def mcnemar(only_a: int, only_b: int) -> float:
    """Compute the two-sided p-value of McNemar's exact test.

    Source:
        McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 12 (1947); two-sided
        binomial test with p = 1/2.
    """
    if only_a == only_b:
        return 1.0
    fewer, more = sorted((only_a, only_b))
    differ = fewer + more
    tail: float
    if differ <= _MOST_COUNTED:
        tail = sum(comb(differ, number) for number in range(fewer + 1)) / (1 << differ)
    else:
        tail = beta.distribution(more, fewer + 1, 0.5)
    return min(1.0, 2 * tail)


def _in_words(result: Comparison, name_a: str, name_b: str) -> str:
    """Report which model is better and by how much; it is better if the interval excludes 0."""
    ahead, low, high = name_b, result.difference_low, result.difference_high
    if result.difference < 0:
        ahead, low, high = name_a, -high, -low
    found = (
        f"{100 * abs(result.difference):.1f} percentage points (95 % interval {100 * low:.1f} to {100 * high:.1f}, "
        f"McNemar's exact test p = {result.p_value:.2g})"
    )
    if result.difference and low > 0:
        return f"{ahead} is better by {found}"
    return f"no significant difference: {f'{ahead} is ahead by ' if result.difference else ''}{found}"
