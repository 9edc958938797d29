"""Power law of accuracy over the number of training images: its fit, and what it predicts for more images, with intervals.

    accuracy(n) = limit - gap * (n / N) ** -exponent

N is the largest measured number: `gap` is what accuracy lacks there to its limit, and parameters have similar sizes.

Source:
    Hestness et al., Deep learning scaling is predictable, empirically (2017); Viering and Loog, The shape of learning curves: a review,
    IEEE TPAMI 45 (2023), section 4.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import chdtrc

Floats = NDArray[np.float64]

#: Numbers of training images that a fit needs at least: one more than the law has parameters.
LEAST_POINTS = 4
#: Validation images that intervals need at least: draws of fewer hardly differ, most of all if all are predicted correctly.
LEAST_IMAGES = 30
#: Refitted laws of which intervals are quantiles.
DRAWS = 400

# Exponents of published curves are below 1; near 0, the law is a logarithm. A gap below 0 is that of a curve that falls
_BOUNDS = ((0.0, -1.0, 0.02), (1.0, 1.0, 2.0))
# A law that is so far from the measured accuracies by chance once in a thousand times is refused
_LEAST_P = 0.001
# The quantiles of an interval of 95 %
_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """A fitted law; `images` is N, and `misfit` the weighted sum of squared distances from the measured accuracies."""

    limit: float
    gap: float
    exponent: float
    images: float
    misfit: float

    def __call__(self, images: Floats) -> Floats:
        """Return the accuracies for numbers of images."""
        return _law(images / self.images, self.limit, self.gap, self.exponent)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The accuracy for a number of images, and its gain on the largest measured number, with 95 % intervals."""

    images: float
    accuracy: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float


class NotDeterminedError(Exception):
    """The measured accuracies do not determine a power law; the message says why."""


def fit(images: Floats, accuracies: Floats, errors: Floats, *, start: PowerLaw | None = None) -> PowerLaw:
    """Fit the law by weighted least squares.

    Args:
        images: (K,), ascending.
        accuracies: (K,).
        errors: (K,), standard errors of the accuracies.
        start: Where the search starts.

    Raises:
        NotDeterminedError: There are too few points, or the search does not end.
    """
    if len(images) < LEAST_POINTS:
        raise NotDeterminedError(f"{len(images)} numbers of images, and a power law needs {LEAST_POINTS}")
    shares = images / images[-1]
    gap = min(max((accuracies[-1] - accuracies[0]) / (shares[0] ** -0.5 - 1), 1e-3), 0.5)
    first = (min(accuracies[-1] + gap, 1.0), gap, 0.5) if start is None else (start.limit, start.gap, start.exponent)
    found = _searched(shares, accuracies, errors, np.clip(first, *_BOUNDS))
    residuals = (accuracies - _law(shares, *found)) / errors
    limit, gap, exponent = found.tolist()
    return PowerLaw(limit, gap, exponent, float(images[-1]), float((residuals**2).sum()))


def _searched(shares: Floats, accuracies: Floats, errors: Floats, start: Floats) -> Floats:
    """Find the parameters; the method without bounds takes a fifth of the time, and mostly ends within them."""
    low, high = _BOUNDS
    unbounded, bounded = {"maxfev": 60}, {"bounds": _BOUNDS}
    for settings in (unbounded, bounded):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", OptimizeWarning)  # of the covariance, which is not used
            try:
                found, _ = curve_fit(_law, shares, accuracies, p0=start, sigma=errors, jac=_slopes, **settings)
            except (RuntimeError, ValueError):
                continue
        if (found >= low).all() and (found <= high).all():
            return np.asarray(found)
    raise NotDeterminedError("no power law fits the accuracies")


def _law(shares: Floats, limit: float, gap: float, exponent: float) -> Floats:
    found: Floats = limit - gap * shares**-exponent
    return found


def _slopes(shares: Floats, _limit: float, gap: float, exponent: float) -> Floats:
    powers = shares**-exponent
    return np.stack([np.ones_like(shares), -powers, gap * powers * np.log(shares)], axis=1)  # (K, 3)


def predict(
    images: Floats,
    correct: Sequence[NDArray[np.bool_]],
    *,
    at: Sequence[float],
    generator: np.random.Generator,
    draws: int = DRAWS,
) -> tuple[PowerLaw, list[Prediction]]:
    """Fit the law to measured accuracies, and predict those of more images.

    Intervals are quantiles of laws that are fitted to other draws of the same images of the validation set, with normal errors of the
    accuracies for the choice of training images.

    Args:
        images: (K,), numbers of training images, ascending.
        correct: For each number, (R, V): whether the classifiers of R subsets of that size are right about V validation images.
        at: The numbers to predict.
        generator: Draws the validation images and the errors.
        draws: The number of laws.

    Returns:
        The law, and the predictions.

    Raises:
        NotDeterminedError: As `fit`; or there is one subset of each number, or too few validation images; or the measured accuracies are
            not near any power law.
    """
    if len(images) < LEAST_POINTS:
        raise NotDeterminedError(f"{len(images)} numbers of images, and a power law needs {LEAST_POINTS}")
    if max(map(len, correct)) < 2:
        raise NotDeterminedError(
            "one subset of each size does not show how much depends on the choice of images; give --repeats 2 or more"
        )
    if correct[0].shape[1] < LEAST_IMAGES:
        raise NotDeterminedError(
            f"{correct[0].shape[1]} validation images are too few for intervals, which need {LEAST_IMAGES}"
        )
    hits = np.stack([each.mean(0, dtype=np.float64) for each in correct])  # (K, V)
    choice = _errors_of_choice(images, correct)  # (K,)
    # The validation images are the same for all numbers: only differences between numbers count for the shape of the law
    differing = (hits - hits.mean(0)).var(axis=1) / hits.shape[1]
    errors = np.sqrt(choice**2 + differing)
    errors = np.maximum(errors, max(float(errors.max()) / 100, 1e-6))
    law = fit(images, hits.mean(1), errors)
    if chdtrc(max(len(images) - 3, 1), law.misfit) < _LEAST_P:
        raise NotDeterminedError("the accuracies are not near any power law")
    wanted = np.asarray([images[-1], *at], dtype=np.float64)
    count = hits.shape[1]
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=draws) @ hits.T / count  # (draws, K)
    drawn += generator.normal(size=drawn.shape) * choice
    laws = np.stack([fit(images, each, errors, start=law)(wanted) for each in drawn])  # (draws, 1 + len(at))
    return law, _intervals(law(wanted), laws, wanted)


def _intervals(predicted: Floats, drawn: Floats, images: Floats) -> list[Prediction]:
    low, high = np.quantile(drawn, _INTERVAL, axis=0)
    gains = drawn - drawn[:, :1]
    gain_low, gain_high = np.quantile(gains, _INTERVAL, axis=0)
    return [
        Prediction(
            float(images[place]),
            float(predicted[place]),
            float(min(low[place], predicted[place])),
            float(max(high[place], predicted[place])),
            float(predicted[place] - predicted[0]),
            float(gain_low[place]),
            float(gain_high[place]),
        )
        for place in range(1, len(images))
    ]


def _errors_of_choice(images: Floats, correct: Sequence[NDArray[np.bool_]]) -> Floats:
    """Estimate the standard errors of mean accuracies that come from the choice of training images, (K,).

    The variance between subsets of n of N images lacks the share n / N that all of them have in common. It is taken to fall as 1 / n, and
    the factor to be the same for all numbers. Of a mean over R subsets, the share in common remains.
    """
    shares = images / images[-1]
    factors, weights = [], []
    for share, size, each in zip(shares, images, correct, strict=True):
        if len(each) > 1 and share <= 0.75:
            factors.append(size * each.mean(1).var(ddof=1) / (1 - share))
            weights.append(len(each) - 1)
    factor = float(np.average(factors, weights=weights)) if factors else 0.0
    subsets = np.asarray([len(each) for each in correct])
    errors: Floats = np.sqrt(factor / images * (shares + (1 - shares) / subsets))
    return errors
