"""Whether a probability means what it says."""

import numpy as np
from numpy.typing import NDArray

BINS = 15


def expected_calibration_error(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], *, bins: int = BINS
) -> float | None:
    """Average the gap between confidence and accuracy over bins of equal width, weighted by how many pictures each holds.

    A bin includes its upper bound and not its lower one; 0 belongs to the first.

    Args:
        confidence: (N,), the probability of each answer.
        correct: (N,), whether it was right.
        bins: How many.

    Returns:
        From 0 to 1, lower is better; None without pictures, and where a confidence is not known (NaN).

    Source:
        Guo, Pleiss, Sun, Weinberger, On calibration of modern neural networks, ICML 2017, equation 3.
    """
    if not len(confidence) or np.isnan(confidence).any():
        return None
    bounds = np.linspace(0.0, 1.0, bins + 1)
    place = np.searchsorted(bounds[1:-1], confidence, side="left")  # (N,) of 0 ... bins - 1
    gaps = np.bincount(place, weights=correct - confidence, minlength=bins)  # count * (accuracy - mean confidence)
    return float(np.abs(gaps).sum() / len(confidence))
