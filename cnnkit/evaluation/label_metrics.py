"""Measures of several labels per image, in numpy only. Undefined measures are NaN here, and None in reports.

Throughout, N images, C classes; `truth` and `predicted` are (N, C), whether an image has the label and whether it is predicted; `scores` is
(N, C), probabilities. Means over classes leave out the classes of which a measure is undefined: average precision without an image of the
class, F1 without an image and without a prediction of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Truth, predictions and scores, (N, C) each.
Labelled = tuple[NDArray[np.bool_], NDArray[np.bool_], Floats | None]

#: Resamples of the images, and the percentiles of a 95 % interval.
_RESAMPLES = 1000
_FEWEST_RESAMPLES = 200
_PERCENTILES = (2.5, 97.5)

#: Products of images, classes and resamples up to which all resamples are drawn.
_MOST_WORK = 4e9

#: Weights of images that are in memory at once.
_WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class LabelMeasures:
    """Measures over all classes, for each of R weightings of the images, whole numbers: (R,)."""

    f1_micro: Floats
    f1_macro: Floats
    precision_micro: Floats
    recall_micro: Floats
    precision_macro: Floats
    recall_macro: Floats
    mAP: Floats


_NAMES = tuple(field.name for field in fields(LabelMeasures))


def counts(truth: NDArray[np.bool_], predicted: NDArray[np.bool_], weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Count true positives, predictions and labels of each class, (R, C), for weights (R, N)."""
    hits: Floats = weights @ (truth & predicted).astype(np.float64)
    given: Floats = weights @ predicted.astype(np.float64)
    support: Floats = weights @ truth.astype(np.float64)
    return hits, given, support


def weighted(
    truth: NDArray[np.bool_], predicted: NDArray[np.bool_], scores: Floats | None, weights: Floats
) -> LabelMeasures:
    """Compute the measures for weights of the images, (R, N); mAP is NaN without scores."""
    hits, given, support = counts(truth, predicted, weights)
    areas = np.full((len(weights), truth.shape[1]), np.nan) if scores is None else _areas(truth, scores, weights)
    return LabelMeasures(
        f1_micro=ratio(2 * hits.sum(axis=1), given.sum(axis=1) + support.sum(axis=1)),
        f1_macro=mean_defined(ratio(2 * hits, given + support)),
        precision_micro=ratio(hits.sum(axis=1), given.sum(axis=1)),
        recall_micro=ratio(hits.sum(axis=1), support.sum(axis=1)),
        precision_macro=mean_defined(ratio(hits, given)),
        recall_macro=mean_defined(ratio(hits, support)),
        mAP=mean_defined(areas),
    )


def ratio(part: Floats, whole: Floats) -> Floats:
    """Divide; NaN where the whole is 0."""
    found: Floats = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
    return found


def mean_defined(values: Floats) -> Floats:
    """Average over the classes, (R, C) -> (R,), leaving out NaN; NaN where all are."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1).astype(np.float64))


def average_precision(truth: NDArray[np.bool_], scores: Floats) -> Floats:
    """Compute the average precision of each class, (C,): the sum over all thresholds of precision times the increase of recall.

    Images with the same score are above a threshold together, and nothing is interpolated, as in scikit-learn. NaN for a class without
    images.
    """
    areas: Floats = _areas(truth, scores, np.ones((1, len(truth))))[0]
    return areas


def _areas(truth: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Compute the average precision of each class for weights (R, N): (R, C)."""
    found = np.full((len(weights), truth.shape[1]), np.nan)
    whole = weights.astype(np.int32)  # numbers of images: half the memory, and exact
    for place in range(truth.shape[1]):
        order = np.argsort(-scores[:, place], kind="stable")
        ranked, own = scores[order, place], truth[order, place]
        if not own.any():
            continue
        last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # of equal scores
        positive = np.flatnonzero(own)
        group = np.searchsorted(last, positive)  # recall increases only in the groups with positives
        final = np.append(np.flatnonzero(np.diff(group)), len(group) - 1)  # the last positive of each of these
        taken = whole[:, order]
        hits = taken[:, positive].cumsum(axis=1)[:, final].astype(np.float64)
        above = taken.cumsum(axis=1)[:, last[group[final]]].astype(np.float64)
        gained = np.diff(hits, axis=1, prepend=0)
        precision = np.divide(hits, above, out=np.zeros_like(hits), where=above > 0)
        found[:, place] = ratio((gained * precision).sum(axis=1), hits[:, -1])
    return found


def intervals(
    truth: NDArray[np.bool_], predicted: NDArray[np.bool_], scores: Floats | None, *, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Compute 95 % intervals of the measures by the bootstrap: percentiles over resamples of the images, drawn with replacement.

    Args:
        truth: Labels.
        predicted: Predictions.
        scores: Probabilities, if all are known.
        seed: Of the resamples: 1,000 of them; for large sets fewer, at least 200.

    Returns:
        The interval of each measure; without those that are undefined in a resample.
    """
    return _percentiles(
        [weighted(truth, predicted, scores, weights) for weights in _resamples(*truth.shape, seed=seed)]
    )


def paired_intervals(now: Labelled, before: Labelled, *, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Compute 95 % intervals of the differences of measures, now minus before, on the same resamples of the same images.

    Args:
        now, before: Truth, predictions and scores of one model each, the images in the same order. The classes may differ.
        seed: As `intervals`.

    Returns:
        As `intervals`.
    """
    images, classes = len(now[0]), max(now[0].shape[1], before[0].shape[1])
    differences = []
    for weights in _resamples(images, 2 * classes, seed=seed):
        one, other = weighted(*now, weights), weighted(*before, weights)
        differences.append(LabelMeasures(*(getattr(one, name) - getattr(other, name) for name in _NAMES)))
    return _percentiles(differences)


def _resamples(images: int, classes: int, *, seed: int) -> Iterator[Floats]:
    """Yield weights (R, N): how often each image is in each resample."""
    resamples = int(min(_RESAMPLES, max(_FEWEST_RESAMPLES, _MOST_WORK // (images * classes))))
    random = np.random.default_rng(seed)
    step = max(1, _WEIGHTS_AT_ONCE // images)
    for start in range(0, resamples, step):
        chosen = random.integers(images, size=(min(step, resamples - start), images))
        yield np.stack([np.bincount(row, minlength=images) for row in chosen]).astype(np.float64)


def _percentiles(drawn: Sequence[LabelMeasures]) -> dict[str, tuple[float, float]]:
    """Return the interval of each measure that is defined in all resamples."""
    found = {}
    for name in _NAMES:
        values = np.concatenate([getattr(each, name) for each in drawn])
        if not np.isnan(values).any():
            low, high = np.percentile(values, _PERCENTILES)
            found[name] = (float(low), float(high))
    return found
