"""Predictions: what cnn-predict writes and cnn-eval reads, as TSV with a header row or as JSON Lines of the same fields.

    path	rank	label	probability
    photos/cat/1.jpg	1	cat	0.9871
    photos/cat/1.jpg	2	dog	0.0129

One row for each of an image's top K classes, rank 1 being the prediction. Other programs' predictions are read too: only `path` and
`label` are required, and rows without a rank are ranked as they stand. Files may be joined with `cat`, header rows and all.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from cnnkit.errors import FormatError
from cnnkit.formats import tsv

#: The label of a prediction that was withheld, since its probability is below --min-probability.
WITHHELD = "?"

#: A softmax in float32 may end this far above 1.
_ROUNDING = 1e-5


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row: that this image shows this class. `path` is as seen from the current folder, `rank` counts from 1."""

    path: str
    rank: int
    label: str
    probability: float | None = None


def parse(lines: Iterable[bytes], *, name: str) -> Iterator[Prediction]:
    """Read predictions as they are asked for; TSV and JSON Lines are told apart by their first letter.

    Args:
        lines: The lines of the file.
        name: The file, for messages.

    Raises:
        FormatError: There is none, a row is broken, or a probability is not between 0 and 1.
    """
    coming = iter(lines)
    first = next((line for line in coming if line.strip()), None)
    rows: Iterable[Mapping[str, Any]] = ()
    if first is not None:
        whole = chain([first], coming)
        as_json = first.lstrip().startswith(b"{")
        rows = _json_rows(whole, name=name) if as_json else _tsv_rows(whole, name=name)
    standing: dict[str, int] = {}
    found = False
    for row in rows:
        found = True
        path = row["path"]
        standing[path] = standing.get(path, 0) + 1
        rank = _rank(row.get("rank"), standing[path], f"{name}: {path}")
        yield Prediction(path, rank, row["label"], _probability(row.get("probability"), f"{name}: {path}"))
    if not found:
        raise FormatError(f"{name}: no predictions; the command that should have written them may have failed")


def _tsv_rows(lines: Iterable[bytes], *, name: str) -> Iterator[Mapping[str, Any]]:
    for row in tsv.parse(lines, name=name, required=["path", "label"]):
        if any(field != column for column, field in row.items()):  # else it is the header row of one more file
            yield row


def _json_rows(lines: Iterable[bytes], *, name: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            raise FormatError(f"{name}:{number}: no JSON object; expected one a line") from error
        if not isinstance(row, dict) or not all(isinstance(row.get(field), str) for field in ("path", "label")):
            raise FormatError(f"{name}:{number}: expected an object with path and label")
        yield row


def _rank(value: object, standing: int, where: str) -> int:
    if value is None or value == "":
        return standing
    try:
        rank = int(str(value))
    except ValueError:
        rank = 0
    if rank < 1:
        raise FormatError(f'{where}: rank "{value}" is not a whole number from 1')
    return rank


def _probability(value: object, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        probability = float(str(value))
    except ValueError:
        probability = float("nan")
    if not 0 <= probability <= 1 + _ROUNDING:  # NaN is not, either
        raise FormatError(f'{where}: probability "{value}" is not between 0 and 1; are these logits?')
    return min(probability, 1.0)
