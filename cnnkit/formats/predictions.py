"""Predictions: written by cnn-predict and read by cnn-eval, as a table with a header row or as JSON Lines with the same fields.

    path	rank	label	probability
    photos/cat/1.jpg	1	cat	0.9871
    photos/cat/1.jpg	2	dog	0.0129

One row for each of an image's top K classes; rank 1 is the prediction. Predictions of other programs are read too: only `path` and
`label` are required. Rows without a rank are ranked by probability, or by their order if one of the image's rows has no probability.
Files may be joined with `cat`, including their header rows.

Of networks with several labels per image there is a column `threshold`, and one row for each class whose probability is not below it; an
image without a label has one row of rank 0, whose label, probability and threshold are empty.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from cnnkit.formats import tsv

#: The label of a withheld prediction, whose probability is below --min-probability.
WITHHELD = "?"

_COLUMNS = ("path", "rank", "label", "probability")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row: a class predicted for an image. `path` is relative to the current folder, `rank` counts from 1."""

    path: str
    rank: int
    label: str
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class LabelPrediction(Prediction):
    """A label of an image; `rank` counts the image's rows from 1, by probability. An image without a label has a row of rank 0.

    `threshold` is the probability from which on the class is a label. With rank 0, `label` is empty, and probability and threshold
    are None.
    """

    threshold: float | None = None


def save(path: str | Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions in one step, as cnn-predict prints them: TSV, probabilities with six digits."""
    coming = iter(predictions)
    first = list(islice(coming, 1))
    several = any(isinstance(row, LabelPrediction) for row in first)
    rows = (
        [
            *(row.path, str(row.rank), row.label, _digits(row.probability)),
            *([_digits(row.threshold)] if isinstance(row, LabelPrediction) else []),
        ]
        for row in chain(first, coming)
    )
    tsv.save(path, (*_COLUMNS, "threshold") if several else _COLUMNS, rows)


def _digits(probability: float | None) -> str | None:
    return None if probability is None else f"{probability:.6g}"
