"""Thresholds of a network with several labels per image: the probability from which on a class is a label. No torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.formats.decimals import shortest

#: The threshold of a class for which none can be chosen.
DEFAULT = 0.5


def best(
    probabilities: NDArray[np.floating], targets: NDArray[Any], *, near: Sequence[float] | None = None
) -> tuple[float, ...]:
    """Choose the threshold of each class that maximizes its F1 score.

    The score changes only where the threshold passes the probability of an image. The threshold is that of `near` if no other one is
    better; else it is in the middle between two neighbouring probabilities, far from both, so that rounding errors of another device
    change no label. Of several cuts with the largest score it is the one nearest to that of `near`. A class that no image has keeps it.

    Args:
        probabilities: (N, classes).
        targets: (N, classes), 1 where the image has the class.
        near: The preferred threshold of each class; by default 0.5.

    Returns:
        One threshold for each class, rounded to float32.
    """
    preferred = [DEFAULT] * targets.shape[1] if near is None else near
    return tuple(
        _of_class(column.astype(np.float64), present.astype(bool), np.float32(threshold))
        for column, present, threshold in zip(probabilities.T, targets.T, preferred, strict=True)
    )


def _of_class(probabilities: NDArray[np.float64], present: NDArray[np.bool_], preferred: np.float32) -> float:
    total = int(present.sum())
    if not total:
        return shortest(preferred)
    order = np.argsort(-probabilities, kind="stable")
    values, hits = probabilities[order], np.cumsum(present[order])
    last = np.append(values[1:] != values[:-1], True)  # of equal probabilities, all are labels or none
    counts = np.arange(1, len(values) + 1)[last]
    # F1 = 2 TP / (predicted + present), for the labels of all images down to each probability
    scores = 2 * hits[last] / (counts + total)
    upper = values[last]
    lower = np.append(upper[1:], 0.0)
    largest = scores.max()
    labels = probabilities >= preferred
    if 2 * int(present[labels].sum()) / (int(labels.sum()) + total) >= largest:
        return shortest(preferred)
    upper, lower = upper[scores == largest], lower[scores == largest]
    middles = ((upper + lower) / 2).astype(np.float32)
    middles = np.where(middles > lower, middles, upper.astype(np.float32))  # neighbouring numbers have no middle
    # Of two at the same distance the first, which is the larger
    return shortest(middles[np.argmin(np.abs(middles - preferred))])
