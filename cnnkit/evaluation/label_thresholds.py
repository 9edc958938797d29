"""Thresholds of a network with several labels per image: the probability from which on a class is a label. No torch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.formats.decimals import shortest

#: The threshold of a class for which none can be chosen.
DEFAULT = 0.5


def best(probabilities: NDArray[np.floating], targets: NDArray[Any]) -> tuple[float, ...]:
    """Choose the threshold of each class that maximizes its F1 score.

    The score changes only where the threshold passes the probability of an image. The threshold is 0.5 if no other one is better; else
    it is in the middle between two neighbouring probabilities, far from both, so that rounding errors of another device change no
    label. Of several cuts with the largest score it is the one nearest to 0.5. A class that no image has keeps 0.5.

    Args:
        probabilities: (N, classes).
        targets: (N, classes), 1 where the image has the class.

    Returns:
        One threshold for each class, rounded to float32.
    """
    return tuple(
        _of_class(column.astype(np.float64), present.astype(bool))
        for column, present in zip(probabilities.T, targets.T, strict=True)
    )


def _of_class(probabilities: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    total = int(present.sum())
    if not total:
        return DEFAULT
    order = np.argsort(-probabilities, kind="stable")
    values, hits = probabilities[order], np.cumsum(present[order])
    last = np.append(values[1:] != values[:-1], True)  # of equal probabilities, all are labels or none
    counts = np.arange(1, len(values) + 1)[last]
    # F1 = 2 TP / (predicted + present), for the labels of all images down to each probability
    scores = 2 * hits[last] / (counts + total)
    upper = values[last]
    lower = np.append(upper[1:], 0.0)
    largest = scores.max()
    at_default = 2 * int(present[probabilities >= DEFAULT].sum()) / (int((probabilities >= DEFAULT).sum()) + total)
    if at_default >= largest:
        return DEFAULT
    upper, lower = upper[scores == largest], lower[scores == largest]
    middles = ((upper + lower) / 2).astype(np.float32)
    middles = np.where(middles > lower, middles, upper.astype(np.float32))  # neighbouring numbers have no middle
    nearest = middles[
        np.argmin(np.abs(middles - DEFAULT))
    ]  # the first of two at the same distance, which is the larger
    return shortest(nearest)
