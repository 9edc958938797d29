"""Accuracy against coverage, the share of images with a prediction: how confident must a network be for its prediction to count?"""

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import CnnkitError
from cnnkit.evaluation import metrics
from cnnkit.evaluation.matching import MatchedPredictions

_STEPS = 20  # from all images down to a twentieth

#: Thresholds are whole multiples of 1e-6: what a table prints, and no finer than what predictions print.
_GRID = 1_000_000
_ON_GRID = 1e-3  # a probability this close to a multiple, in units of it, may have been rounded to it


@dataclass(frozen=True, slots=True)
class CoveragePoint:
    """Coverage and accuracy of `cnn-predict --min-probability` at one threshold; the interval holds with 95 % confidence (Wilson)."""

    min_probability: float
    coverage: float
    answered: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float


def curve(predictions: MatchedPredictions) -> list[CoveragePoint]:
    """Find thresholds that keep the predictions of all images, 95 %, 90 % and so on, each the largest that keeps as many.

    Images of the same probability are kept together. A printed probability is a rounded one; thresholds keep clear of all of
    them, so that the network's own, unrounded, fall on the same side.

    Args:
        predictions: Of N images. Predictions that were withheld stay so.

    Returns:
        One step for each set of images that is kept, the largest first.

    Raises:
        CnnkitError: The predictions carry no probabilities, or every prediction was withheld.
    """
    confidence, correct = _given(predictions)
    surest_first = -np.sort(-confidence)
    scaled = confidence * _GRID
    taken = {int(near) for near, value in zip(np.rint(scaled), scaled, strict=True) if abs(near - value) < _ON_GRID}
    steps: dict[int, CoveragePoint] = {}
    for twentieth in range(_STEPS, 0, -1):
        needed = min(ceil(len(predictions.paths) * twentieth / _STEPS), len(confidence))
        threshold = _below(float(surest_first[needed - 1]), taken)
        answered = confidence >= threshold
        count, hits = int(answered.sum()), int(correct[answered].sum())
        low, high = metrics.wilson_interval(hits, count)
        steps.setdefault(
            count, CoveragePoint(threshold, count / len(predictions.paths), count, hits / count, low, high)
        )
    return list(steps.values())


def _below(probability: float, taken: set[int]) -> float:
    """Give the largest multiple of 1e-6 below a probability that may be nobody's own."""
    multiple = floor(probability * _GRID + _ON_GRID)
    while multiple in taken:
        multiple -= 1
    return max(multiple, 0) / _GRID


def area(predictions: MatchedPredictions) -> float:
    """Compute the area under the risk-coverage curve: the share of wrong predictions, averaged over all coverages.

    Low where the predictions are right, and where those that are wrong are the least sure. Among equals in probability the order is
    taken to be random, and the expected value is given.

    Returns:
        From 0 to 1, of the images with a prediction.

    Raises:
        CnnkitError: As `curve`.

    Source:
        Geifman, El-Yaniv, Selective classification for deep neural networks, NeurIPS 2017; the area as in Geifman, Uziel, El-Yaniv,
        Bias-reduced uncertainty estimation for deep neural classifiers, ICLR 2019.
    """
    confidence, correct = _given(predictions)
    _, place, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(place, weights=~correct) / counts  # (distinct,), the surest first
    risk = np.repeat(wrong, counts).cumsum() / np.arange(1, len(confidence) + 1)  # (N,)
    return float(risk.mean())


def _given(predictions: MatchedPredictions) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Take the predictions that were given: their confidence, and whether they are right."""
    given = predictions.prediction >= 0
    if not given.any():
        raise CnnkitError("every answer was withheld; predict without --min-probability")
    if np.isnan(predictions.confidence[given]).any():
        raise CnnkitError("how sure the answers are is not known: the predictions have no probability")
    return predictions.confidence[given], (predictions.prediction == predictions.truth)[given]
