"""Accuracy against coverage: the share of images whose predictions are kept at a minimum probability."""

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import CnnkitError
from cnnkit.evaluation import metrics
from cnnkit.evaluation.matching import MatchedPredictions

_STEPS = 20  # from all images down to a twentieth

#: Thresholds are multiples of 1e-6, the precision with which probabilities are printed.
_GRID = 1_000_000
_ON_GRID = 1e-3  # a probability this close to a multiple, in units of 1e-6, may have been rounded to it


@dataclass(frozen=True, slots=True)
class CoveragePoint:
    """Coverage and accuracy of `cnn-predict --min-probability` at one threshold; the interval holds with 95 % confidence (Wilson)."""

    min_probability: float
    coverage: float
    predicted: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float


def curve(predictions: MatchedPredictions) -> list[CoveragePoint]:
    """Find the largest thresholds that keep the predictions of all images, of 95 %, of 90 % and so on.

    Images with the same probability are kept together. Printed probabilities are rounded; no threshold equals one of them, so that the
    unrounded ones fall on the same side of it.

    Args:
        predictions: Of N images. Withheld predictions stay withheld.

    Returns:
        One point for each set of images that is kept, the largest first.

    Raises:
        CnnkitError: The predictions have no probabilities, or every prediction was withheld.
    """
    confidence, correct = _given(predictions)
    surest_first = -np.sort(-confidence)
    scaled = confidence * _GRID
    taken = {int(near) for near, value in zip(np.rint(scaled), scaled, strict=True) if abs(near - value) < _ON_GRID}
    steps: dict[int, CoveragePoint] = {}
    for twentieth in range(_STEPS, 0, -1):
        needed = min(ceil(len(predictions.paths) * twentieth / _STEPS), len(confidence))
        threshold = _below(float(surest_first[needed - 1]), taken)
        kept = confidence >= threshold
        count, hits = int(kept.sum()), int(correct[kept].sum())
        low, high = metrics.wilson_interval(hits, count)
        steps.setdefault(
            count, CoveragePoint(threshold, count / len(predictions.paths), count, hits / count, low, high)
        )
    return list(steps.values())


def _below(probability: float, taken: set[int]) -> float:
    """Return the largest multiple of 1e-6 up to a probability that is not in `taken`."""
    multiple = floor(probability * _GRID + _ON_GRID)
    while multiple in taken:
        multiple -= 1
    return max(multiple, 0) / _GRID


def area(predictions: MatchedPredictions) -> float:
    """Compute the area under the risk-coverage curve: the share of wrong predictions, averaged over all coverages.

    It is low if predictions are correct, and if the wrong ones are the least confident. Predictions of equal probability are in random
    order; the expected value is returned.

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
    """Return the confidence of the predictions that were not withheld, and whether they are correct."""
    given = predictions.prediction >= 0
    if not given.any():
        raise CnnkitError("all predictions were withheld; predict without --min-probability and --reject")
    if np.isnan(predictions.confidence[given]).any():
        raise CnnkitError(
            "--coverage needs probabilities, and the predictions have none; predict without --labels-only"
        )
    return predictions.confidence[given], (predictions.prediction == predictions.truth)[given]
