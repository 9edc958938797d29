"""Accuracy against the share of pictures answered: how sure must a network be before it may answer?"""

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import CnnkitError
from cnnkit.evaluation import metrics
from cnnkit.evaluation.matching import MatchedPredictions

_STEPS = 20  # from all pictures down to a twentieth

#: Thresholds are whole multiples of 1e-6: what a table prints, and no finer than what predictions print.
_GRID = 1_000_000
_ON_GRID = 1e-3  # a probability this close to a multiple, in units of it, may have been rounded to it


@dataclass(frozen=True, slots=True)
class CoveragePoint:
    """What `cnn-predict --min-probability` answers at one threshold, and how well; the interval holds with 95 % confidence (Wilson)."""

    min_probability: float
    coverage: float
    answered: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float


def curve(answers: MatchedPredictions) -> list[CoveragePoint]:
    """Find thresholds that answer all pictures, 95 %, 90 % and so on, each the largest that answers as many.

    Pictures of the same probability are answered together. A printed probability is a rounded one; thresholds keep clear of all of
    them, so that the network's own, unrounded, fall on the same side.

    Args:
        answers: Of N pictures. Answers that were withheld stay so.

    Returns:
        One step for each set of pictures that is answered, from the most on.

    Raises:
        CnnkitError: The predictions carry no probabilities, or every answer was withheld.
    """
    confidence, correct = _given(answers)
    surest_first = -np.sort(-confidence)
    scaled = confidence * _GRID
    taken = {int(near) for near, value in zip(np.rint(scaled), scaled, strict=True) if abs(near - value) < _ON_GRID}
    steps: dict[int, CoveragePoint] = {}
    for twentieth in range(_STEPS, 0, -1):
        needed = min(ceil(len(answers.paths) * twentieth / _STEPS), len(confidence))
        threshold = _below(float(surest_first[needed - 1]), taken)
        answered = confidence >= threshold
        count, hits = int(answered.sum()), int(correct[answered].sum())
        low, high = metrics.wilson_interval(hits, count)
        steps.setdefault(count, CoveragePoint(threshold, count / len(answers.paths), count, hits / count, low, high))
    return list(steps.values())


def _below(probability: float, taken: set[int]) -> float:
    """Give the largest multiple of 1e-6 below a probability that may be nobody's own."""
    multiple = floor(probability * _GRID + _ON_GRID)
    while multiple in taken:
        multiple -= 1
    return max(multiple, 0) / _GRID


def area(answers: MatchedPredictions) -> float:
    """Compute the area under the risk-coverage curve: the share of wrong answers, averaged over all shares of pictures answered.

    Low where the answers are right, and where those that are wrong are the least sure. Among equals in probability the order is
    taken to be random, and the expected value is given.

    Returns:
        From 0 to 1, of the pictures answered.

    Raises:
        CnnkitError: As `curve`.

    Source:
        Geifman, El-Yaniv, Selective classification for deep neural networks, NeurIPS 2017; the area as in Geifman, Uziel, El-Yaniv,
        Bias-reduced uncertainty estimation for deep neural classifiers, ICLR 2019.
    """
    confidence, correct = _given(answers)
    _, place, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(place, weights=~correct) / counts  # (distinct,), the surest first
    risk = np.repeat(wrong, counts).cumsum() / np.arange(1, len(confidence) + 1)  # (N,)
    return float(risk.mean())


def _given(answers: MatchedPredictions) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Take the answers that were given: their confidence, and whether they are right."""
    given = answers.answer >= 0
    if not given.any():
        raise CnnkitError("every answer was withheld; predict without --min-probability")
    if np.isnan(answers.confidence[given]).any():
        raise CnnkitError("how sure the answers are is not known: the predictions have no probability")
    return answers.confidence[given], (answers.answer == answers.truth)[given]
