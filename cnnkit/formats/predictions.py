"""Predictions: written by cnn-predict and read by cnn-eval, as a table with a header row or as JSON Lines with the same fields.

    path	rank	label	probability
    photos/cat/1.jpg	1	cat	0.9871
    photos/cat/1.jpg	2	dog	0.0129

One row for each of an image's top K classes; rank 1 is the prediction. Predictions of other programs are read too: only `path` and
`label` are required. Rows without a rank are ranked by probability, or by their order if one of the image's rows has no probability.
Files may be joined with `cat`, including their header rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
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


def save(path: str | Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions in one step, as cnn-predict prints them: TSV, probabilities with six digits."""
    rows = ([row.path, str(row.rank), row.label, _digits(row.probability)] for row in predictions)
    tsv.save(path, _COLUMNS, rows)


def _digits(probability: float | None) -> str | None:
    return None if probability is None else f"{probability:.6g}"
