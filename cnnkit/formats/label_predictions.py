"""Reading of predictions of several labels for each image, as cnn-predict prints them for a multi-label model.

    path	rank	label	probability	threshold
    photos/1.jpg	1	cat	0.98	0.41
    photos/1.jpg	2	indoor	0.77	0.6
    photos/2.jpg	0

A label is predicted if its probability is at least its threshold; other labels may be listed for their probabilities. An image without
any label has one row of rank 0; its label is `?` if cnn-predict --reject withheld the labels.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import class_names, messages
from cnnkit.errors import FormatError
from cnnkit.formats import delimited, table_columns, tables, text_lines
from cnnkit.formats.predictions import WITHHELD

log = logging.getLogger("cnnkit")

#: The columns, all of which distinguish such predictions from those with one label.
COLUMNS = ("path", "rank", "label", "probability", "threshold")

#: Rounding error of a sigmoid in float32, allowed above 1.
_ROUNDING = 1e-5

_ALIASES = {"path": table_columns.PATH_ALIASES, "rank": (), "label": (), "probability": (), "threshold": ()}


@dataclass(frozen=True, slots=True)
class LabelPredictions:
    """R rows of labels as columns.

    `paths` and `labels` are the distinct ones, in the order of their first rows, labels in normal form; `path` and `label` (R,) are
    indices of them, -1 for no label. `probability` and `threshold` (R,) are NaN where unknown.
    """

    paths: list[str]
    labels: list[str]
    path: NDArray[np.int32]
    label: NDArray[np.int32]
    probability: NDArray[np.float64]
    threshold: NDArray[np.float64]

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Whether the label of each row is predicted, (R,)."""
        return (self.label >= 0) & ~(self.probability < self.threshold)


def peeked(lines: Iterable[bytes]) -> tuple[bool, Iterator[bytes]]:
    """Return whether lines are such predictions, by their header row or first object, and the same lines."""
    coming = iter(lines)
    begun: list[bytes] = []
    for line in coming:
        begun.append(line)
        if line.strip():
            break
    return bool(begun) and _has_columns(begun[-1]), chain(begun, coming)


def _has_columns(line: bytes) -> bool:
    text = text_lines.first_line(line)
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return False
        return isinstance(found, dict) and {*COLUMNS} <= {*found}
    return {*COLUMNS} <= {field.strip() for field in delimited.header_fields(text)}


def read(lines: Iterable[bytes], *, name: str) -> LabelPredictions:
    """Read predictions of several labels from TSV, CSV or JSON Lines.

    Args:
        lines: The lines of the file.
        name: The file, for messages.

    Raises:
        FormatError: There are none, or a row is broken.
    """
    paths: dict[str, int] = {}
    labels: dict[str, int] = {}
    found: list[tuple[NDArray[Any], ...]] = []
    withheld = 0
    for block in tables.columns(lines, name=name, required=COLUMNS, aliases=_ALIASES):
        if not all(block["path"]):
            raise FormatError(f"{name}: a row has no path")
        none = [word.strip() == "0" for word in block["rank"]]
        held = [bare and word == WITHHELD for bare, word in zip(none, block["label"], strict=True)]
        withheld += sum(held)
        words = ["" if out else class_names.normal(word) for word, out in zip(block["label"], held, strict=True)]
        found.append(
            (
                np.array([paths.setdefault(path, len(paths)) for path in block["path"]], np.int32),
                np.array([labels.setdefault(word, len(labels)) if word else -1 for word in words], np.int32),
                _numbers(block["probability"], "probability", block["path"], name),
                _numbers(block["threshold"], "threshold", block["path"], name),
                np.array(none, np.bool_),
            )
        )
    if not found:
        raise FormatError(f"{name}: no predictions; the command that should have written them may have failed")
    if withheld:
        log.info("%s: the labels of %s are withheld; counted as none", name, messages.count_images(withheld))
    path, label, probability, threshold, bare = (np.concatenate(parts) for parts in zip(*found, strict=True))
    read = LabelPredictions(list(paths), list(labels), path, label, probability, threshold)
    _check(read, bare, name=name)
    return read


def _check(read: LabelPredictions, none: NDArray[np.bool_], *, name: str) -> None:
    """Check that rows of rank 0 have no label, that others have one, and that an image has each label once.

    Raises:
        FormatError: One does not.
    """
    odd = np.flatnonzero(none != (read.label < 0))
    if len(odd):
        row = int(odd[0])
        raise FormatError(
            f"{name}: {read.paths[read.path[row]]}: "
            + ("a row of rank 0, for an image without labels, has a label" if none[row] else "a row has no label")
        )
    order = np.lexsort((read.label, read.path))
    path, label = read.path[order], read.label[order]
    twins = np.flatnonzero((path[1:] == path[:-1]) & ((label[1:] == label[:-1]) | (label[:-1] < 0)))
    if len(twins):
        one, other = label[twins[0]], label[twins[0] + 1]
        what = (
            "without labels, and with them"
            if one != other
            else f'with the label "{read.labels[one]}"'
            if one >= 0
            else ""
        )
        raise FormatError(f"{name}: {read.paths[path[twins[0]]]} is predicted twice{what and f', {what}'}")


def _numbers(words: Sequence[str], column: str, paths: Sequence[str], name: str) -> NDArray[np.float64]:
    """Read numbers from 0 to 1, NaN where there is none; a threshold above 1 predicts no image.

    Raises:
        FormatError: One is not.
    """
    numbers = np.full(len(words), nan)
    for row, word in enumerate(words):
        if not word:
            continue
        try:
            numbers[row] = float(word)
        except ValueError:
            delimited.check_decimal_point(word, column, where=f"{name}: {paths[row]}", name=name)
        if np.isnan(numbers[row]) or numbers[row] < 0 or (column == "probability" and numbers[row] > 1 + _ROUNDING):
            raise FormatError(f'{name}: {paths[row]}: {column} "{messages.excerpt(word)}" is not between 0 and 1')
    return np.minimum(numbers, 1.0) if column == "probability" else numbers
