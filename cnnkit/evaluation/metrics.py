"""Measures of classification, in numpy alone. What is not defined is None, never NaN.

Throughout, N images, C classes; `truth` (N,) and `prediction` (N,) hold the indices of classes, a prediction that was withheld is -1;
`probabilities` is (N, C), NaN where it is not known.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]

#: The two-sided 95 % point of the normal distribution.
Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class ClassMeasures:
    """How one class fared; `support` is the number of its images."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


def wilson_interval(hits: int, n: int, *, z: float = Z_95) -> tuple[float, float]:
    """Bound a proportion by Wilson's score interval, which holds for small N and near 0 and 1, where hits ± 2 sd does not.

    Args:
        hits: How many succeeded.
        n: Of how many, at least 1.
        z: The normal quantile; by default that of 95 %.

    Source:
        Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    share = hits / n
    centre = share + z * z / (2 * n)
    spread = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and N the bounds are 0 and 1 but for rounding
    low = (centre - spread) / scale if hits > 0 else 0.0
    high = (centre + spread) / scale if hits < n else 1.0
    return low, high


def confusion_matrix(truth: Indices, prediction: Indices, classes: int) -> Indices:
    """Count how often class `row` was predicted as class `column`; predictions withheld are in no column.

    Returns:
        (C, C).
    """
    given = prediction >= 0
    counts = np.bincount(truth[given] * classes + prediction[given], minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def per_class(confusion: Indices, support: Indices) -> list[ClassMeasures]:
    """Measure every class by itself: precision TP / predicted, recall TP / support, F1 their harmonic mean.

    Args:
        confusion: (C, C), rows are the truth.
        support: (C,), images of each class, those whose prediction was withheld included.
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
    """Average the recall of the classes that occur, so that a rare class counts as much as a frequent one."""
    return float(np.mean([each.recall for each in classes if each.recall is not None]))


def log_loss(truth: Indices, probabilities: Floats) -> float | None:
    """Average -ln of the probability that was given to the true class; None where that is not known for every image.

    A probability of 0 counts as the smallest that can be told from it, 2.2e-16, as in scikit-learn.
    """
    given = probabilities[np.arange(len(truth)), truth]  # (N, C) -> (N,)
    if np.isnan(given).any():
        return None
    return float(-np.log(np.clip(given, np.finfo(np.float64).eps, 1.0)).mean())


def roc_auc(truth: Indices, probabilities: Floats) -> float | None:
    """Measure how well probabilities rank: the chance that an image of a class gets more of it than one of another class.

    Two classes: the area under the one curve. More: each class against the rest, averaged over the classes that occur.
    None with a single class, and where a probability is not known.
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
    """Compute the area under the curve as Mann and Whitney's U; ties count one half."""
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = count.cumsum() - (count - 1) / 2  # of equal scores, from 1
    positives = np.count_nonzero(positive)
    above = mean_rank[place][positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(positive) - positives)))
