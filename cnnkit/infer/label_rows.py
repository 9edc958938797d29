"""Predictions of networks with several labels per image: rows of the labels from their thresholds on. Imports no torch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.choices import Vote
from cnnkit.formats import label_sets, tsv
from cnnkit.formats.decimals import shortest
from cnnkit.formats.predictions import WITHHELD, Prediction
from cnnkit.infer.ensemble import Ballot

#: With --vote hard, the share of votes from which on a class is a label.
MAJORITY = 0.5


def rows(
    path: str,
    classes: Sequence[str],
    row: Callable[..., Prediction],
    *,
    probabilities: NDArray[np.float32],
    ranking: NDArray[np.int64],
    thresholds: NDArray[np.float32],
    top: int | None,
    logits: NDArray[np.float32] | None = None,
    extras: Mapping[str, Any] | None = None,
    withheld: bool = False,
) -> Iterator[Prediction]:
    """Yield the rows of an image.

    Args:
        path: The image.
        classes: Names of the classes.
        row: Makes a row of the fields of `LabelPrediction`, and of `logit` and `extras` as keywords.
        probabilities: (classes,).
        ranking: The classes from best to worst.
        thresholds: (classes,).
        top: Yield the K most probable classes, whatever their thresholds; by default the classes from their thresholds on.
        logits: (classes,), if they are printed.
        extras: Further fields, equal in all rows of the image.
        withheld: Yield one row of rank 0 with the label `?` in place of all others.
    """
    extras = extras or {}
    places = ranking[probabilities[ranking] >= thresholds[ranking]] if top is None else ranking[:top]
    if withheld or not len(places):
        yield row(path, 0, WITHHELD if withheld else "", **extras)
        return
    for rank, place in enumerate(places, start=1):
        own = {} if logits is None else {"logit": shortest(logits[place])}
        found = path, rank, classes[place], shortest(probabilities[place]), shortest(thresholds[place])
        yield row(*found, **{**extras, **own})


def line(predictions: Iterable[Prediction]) -> str:
    """Return the labels of an image as one line, separated as in the column `labels` of a manifest."""
    return tsv.escape(label_sets.joined(row.label for row in predictions if row.label))


def count_votes(
    probabilities: Sequence[NDArray[np.floating]], thresholds: Sequence[NDArray[np.float32]], vote: Vote
) -> Ballot:
    """Combine several predictions of each image into one; see `ensemble.count_votes`.

    soft: the mean of the probabilities. hard: the share of predictions in which the class is a label.

    Args:
        probabilities: (N, classes) of each model and view.
        thresholds: (classes,) of each of these.
        vote: soft or hard.
    """
    stacked = np.stack(probabilities).astype(np.float64)  # (models, N, classes)
    mean = stacked.mean(axis=0)
    got = mean if vote is Vote.SOFT else (stacked >= np.stack(thresholds)[:, None]).mean(axis=0)
    ranking = np.lexsort((-mean, -got), axis=1)
    got = np.where(np.isfinite(mean).all(axis=1, keepdims=True), got, np.nan)
    return got.astype(np.float32), ranking


def voted_thresholds(thresholds: Sequence[NDArray[np.float32]], vote: Vote) -> NDArray[np.float32]:
    """Return the thresholds of what `count_votes` returns, (classes,): their mean, or one half of the votes."""
    if vote is Vote.HARD:
        return np.full_like(thresholds[0], MAJORITY)
    mean: NDArray[np.float32] = np.stack(thresholds).astype(np.float64).mean(axis=0).astype(np.float32)
    return mean
