"""Calibration of probabilities: reliability diagrams and the expected calibration error."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True, slots=True)
class Reliability:
    """Predictions in B bins of confidence of equal width; `accuracy` and `confidence` (B,) are NaN where `counts` (B,) is 0.

    `error` is the expected calibration error.
    """

    counts: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]
    error: float


def reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_], *, bins: int = BINS) -> Reliability | None:
    """Compare accuracy with confidence in each bin, and average the gap, weighted by the number of images in the bin.

    A bin includes its upper bound but not its lower one; 0 belongs to the first.

    Args:
        confidence: (N,), the probability of each prediction.
        correct: (N,), whether it is correct.
        bins: The number of bins.

    Returns:
        None without images, and if a confidence is NaN.

    Source:
        Guo, Pleiss, Sun, Weinberger, On calibration of modern neural networks, ICML 2017, equation 3 and figure 1.
    """
    if not len(confidence) or np.isnan(confidence).any():
        return None
    bounds = np.linspace(0.0, 1.0, bins + 1)
    place = np.searchsorted(bounds[1:-1], confidence, side="left")  # (N,) of 0 ... bins - 1
    counts = np.bincount(place, minlength=bins)
    hits, sure = (np.bincount(place, weights=values, minlength=bins) for values in (correct, confidence))
    with np.errstate(invalid="ignore"):  # 0 / 0 where a bin is empty
        return Reliability(counts, hits / counts, sure / counts, float(np.abs(hits - sure).sum() / len(confidence)))


def expected_calibration_error(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], *, bins: int = BINS
) -> float | None:
    """Average the gap between confidence and accuracy, as `reliability` does.

    Returns:
        From 0 to 1, lower is better; None as `reliability`.
    """
    found = reliability(confidence, correct, bins=bins)
    return None if found is None else found.error
