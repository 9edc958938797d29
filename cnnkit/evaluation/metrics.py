"""Measures of classification, in numpy only. Undefined measures are None, never NaN.

Throughout, N images, C classes; `truth` (N,) and `prediction` (N,) are indices of classes, a withheld prediction is -1; `probabilities`
is (N, C), NaN where unknown.
"""

from dataclasses import dataclass
from math import isnan, sqrt

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]

#: The two-sided 95 % point of the normal distribution.
Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class ClassMeasures:
    """The measures of one class; `support` is the number of its images."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


def wilson_interval(hits: int, n: int, *, z: float = Z_95) -> tuple[float, float]:
    """Compute Wilson's score interval of a proportion, which is valid for small N and near 0 and 1, unlike hits ± 2 sd.

    Args:
        hits: The number of successes.
        n: The number of trials, at least 1.
        z: The normal quantile; by default that of 95 %.

    Source:
        Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    share = hits / n
    centre = share + z * z / (2 * n)
    spread = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and N the bounds are 0 and 1 up to rounding
    low = (centre - spread) / scale if hits > 0 else 0.0
    high = (centre + spread) / scale if hits < n else 1.0
    return low, high


def box_iou(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the intersection over union of pairs of boxes, x, y, width and height, (N, 4): (N,); 0 where one is NaN or has no area."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:])
    common = (high - low).clip(min=0).prod(axis=1)
    union = boxes[:, 2:].prod(axis=1) + others[:, 2:].prod(axis=1) - common
    shares: NDArray[np.float64] = np.divide(common, union, out=np.zeros(len(common)), where=common > 0)
    return shares


def confusion_matrix(truth: Indices, prediction: Indices, classes: int) -> Indices:
    """Count how often class `row` was predicted as class `column`; withheld predictions are in no column.

    Returns:
        (C, C).
    """
    given = prediction >= 0
    counts = np.bincount(truth[given] * classes + prediction[given], minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def per_class(confusion: Indices, support: Indices) -> list[ClassMeasures]:
    """Measure each class: precision TP / predicted, recall TP / support, F1 their harmonic mean.

    Args:
        confusion: (C, C), rows are the truth.
        support: (C,), images of each class, including those whose prediction was withheld.
    """
    hits = confusion.diagonal()
    predicted = confusion.sum(axis=0)
    return [
        ClassMeasures(
            precision=_ratio(hits[index], predicted[index]),
            recall=_ratio(hits[index], support[index]),
            f1=_ratio(2 * hits[index], predicted[index] + support[index]),
            support=int(support[index]),
        )
        for index in range(len(confusion))
    ]


def _ratio(split: np.int64, whole: np.int64) -> float | None:
    return float(split / whole) if whole else None


def balanced_accuracy(classes: list[ClassMeasures]) -> float:
    """Average the recall of the classes that occur: a rare class counts as much as a frequent one."""
    return float(np.mean([each.recall for each in classes if each.recall is not None]))


def log_loss(truth: Indices, probabilities: Floats) -> float | None:
    """Average -ln of the probability of the true class; None unless it is known for every image.

    A probability of 0 counts as 2.2e-16, the float64 epsilon, as in scikit-learn.
    """
    given = probabilities[np.arange(len(truth)), truth]  # (N, C) -> (N,)
    if np.isnan(given).any():
        return None
    return float(-np.log(np.clip(given, np.finfo(np.float64).eps, 1.0)).mean())


def roc_auc(truth: Indices, probabilities: Floats) -> float | None:
    """Compute the area under the ROC curve: the chance that an image of a class gets a higher probability of it than another image.

    For more than two classes: each class against the rest, averaged over the classes that occur. None for a single class, and if a
    probability is unknown.
    """
    classes = probabilities.shape[1]
    if np.isnan(probabilities).any():
        return None
    areas = [
        _area(truth == index, probabilities[:, index])
        for index in ([1] if classes == 2 else range(classes))
        if 0 < np.count_nonzero(truth == index) < len(truth)
    ]
    return float(np.mean(areas)) if areas else None


def _area(positive: NDArray[np.bool_], score: Floats) -> float:
    """Compute the area under the curve from the Mann-Whitney U statistic; ties count one half."""
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = count.cumsum() - (count - 1) / 2  # of equal scores, from 1
    positives = np.count_nonzero(positive)
    above = mean_rank[place][positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(positive) - positives)))


def known(value: float) -> float | None:
    """Return a number as Python's own; None for NaN."""
    return None if isnan(value) else float(value)
