"""Predictions: written by cnn-predict and read by cnn-eval, as a table with a header row or as JSON Lines with the same fields.

    path	rank	label	probability
    photos/cat/1.jpg	1	cat	0.9871
    photos/cat/1.jpg	2	dog	0.0129

One row for each of an image's top K classes; rank 1 is the prediction. Predictions of other programs are read too: only `path` and
`label` are required. Rows without a rank are ranked by probability, or by their order if one of the image's rows has no probability.
Files may be joined with `cat`, including their header rows.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from cnnkit.errors import FormatError
from cnnkit.formats import table_columns, tables, tsv

#: The label of a withheld prediction, whose probability is below --min-probability.
WITHHELD = "?"

#: Rounding error of a softmax in float32, allowed above 1.
_ROUNDING = 1e-5

#: Names of the predicted class in other programs that cannot mean the true class.
_PREDICTED = (
    "prediction",
    "predicted",
    "pred",
    "y_pred",
    "predicted_label",
    "predicted_class",
    "pred_label",
    "pred_class",
)

_ALIASES = {
    "path": table_columns.PATH_ALIASES,
    "label": (*table_columns.LABEL_ALIASES, *_PREDICTED),
    "rank": (),
    "probability": ("prob", "confidence", "score"),
}
_DECIMAL_COMMA = re.compile(r"\s*[01],[0-9]+\s*")


_COLUMNS = ("path", "rank", "label", "probability")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row: a class predicted for an image. `path` is relative to the current folder, `rank` counts from 1."""

    path: str
    rank: int
    label: str
    probability: float | None = None


def parse(lines: Iterable[bytes], *, name: str) -> Iterator[Prediction]:
    """Yield predictions from TSV, CSV or JSON Lines.

    Args:
        lines: The lines of the file.
        name: The file, for messages.

    Raises:
        FormatError: There are no predictions, a row is broken, a probability is not between 0 and 1, or the table is a manifest.
    """
    coming = iter(lines)
    first = next((line for line in coming if line.strip()), None)
    rows: Iterable[Mapping[str, str]] = ()
    if first is not None:
        rows = tables.parse(
            chain([first], coming),
            name=name,
            required=["path", "label"],
            aliases=_ALIASES,
            check=lambda columns: _check_columns(columns, name),
        )
    unranked: dict[str, list[Prediction]] = {}
    standing: dict[str, int] = {}
    found = False
    for row in rows:
        found = True
        path = row["path"]
        if not path or not row["label"]:
            raise FormatError(f"{name}: {path or 'a row'} has no {'label' if path else 'path'}")
        standing[path] = standing.get(path, 0) + 1
        rank = _rank(row.get("rank"), standing[path], f"{name}: {path}")
        each = Prediction(path, rank, row["label"], _probability(row.get("probability"), f"{name}: {path}"))
        if row.get("rank"):
            yield each
        else:
            unranked.setdefault(path, []).append(each)
    if not found:
        raise FormatError(f"{name}: no predictions; the command that should have written them may have failed")
    for several in unranked.values():
        yield from _ranked(several)


def _ranked(rows: list[Prediction]) -> list[Prediction]:
    """Rank the rows of one image by probability: other programs may list classes alphabetically."""
    if any(row.probability is None for row in rows):
        return rows
    ranks = sorted(row.rank for row in rows)
    by_probability = sorted(rows, key=lambda row: -(row.probability or 0.0))
    return [replace(row, rank=rank) for row, rank in zip(by_probability, ranks, strict=True)]


def _check_columns(columns: Sequence[str], name: str) -> None:
    """Raise an error for a manifest, whose labels are the true ones, and for a table with a label and a predicted class."""
    also = [column for column in columns if column.lower() in _PREDICTED]
    if also and "label" in columns:
        raise FormatError(
            f"{name}: columns label and {also[0]} could both be the predicted class; keep that one, under the name label; "
            "cnn-eval takes true classes from folders or from --truth"
        )
    if {"split", "group"} & {*columns} and not {"rank", "probability", "truth"} & {*columns}:
        raise FormatError(
            f"{name}: a manifest (columns {', '.join(columns[:8])}), not predictions; make predictions with cnn-predict, "
            "and pass a manifest with --truth"
        )


def _rank(value: str | None, standing: int, where: str) -> int:
    if value is None or value == "":
        return standing
    try:
        rank = int(value)
    except ValueError:
        rank = 0
    if rank < 1:
        raise FormatError(f'{where}: rank "{value}" is not a whole number of at least 1')
    return rank


def _probability(value: str | None, where: str) -> float | None:
    if value is None or value == "":
        return None
    if _DECIMAL_COMMA.fullmatch(value):
        raise FormatError(
            f'{where}: probability "{value}" has a decimal comma; write {value.strip().replace(",", ".")}'
        )
    try:
        probability = float(value)
    except ValueError:
        probability = float("nan")
    if not 0 <= probability <= 1 + _ROUNDING:  # also NaN
        raise FormatError(f'{where}: probability "{value}" is not between 0 and 1; are these logits?')
    return min(probability, 1.0)


def save(path: str | Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions in one step, as cnn-predict prints them: TSV, probabilities with six digits."""
    rows = ([row.path, str(row.rank), row.label, _digits(row.probability)] for row in predictions)
    tsv.save(path, _COLUMNS, rows)


def _digits(probability: float | None) -> str | None:
    return None if probability is None else f"{probability:.6g}"
