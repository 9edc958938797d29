"""Reading of predictions, of cnn-predict and of other programs (see `predictions`), as columns: a million rows take some 100 MB."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import FormatError
from cnnkit.formats import delimited, table_columns, tables
from cnnkit.formats.box import Box
from cnnkit.formats.predictions import Prediction

#: Rounding error of a softmax in float32, allowed above 1.
_ROUNDING = 1e-5

#: The largest rank; that of any class after it.
_MOST = 2**63 - 1

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
    "box": (),
    "set_size": (),
}


@dataclass(frozen=True, slots=True)
class PredictionColumns:
    """R rows of predictions as columns.

    `paths` and `labels` are the distinct ones, in the order of their first rows; `path` and `label` (R,) are indices of them. `rank` (R,)
    counts from 1; `probability` (R,) is NaN where unknown. `boxes` (R, 4) are x, y, width and height of predicted boxes, NaN where there
    is none; None without a column `box`. `set_sizes` (R,) is the number of labels in the prediction set of the row's image, 0 where
    unknown; None without a column `set_size`.
    """

    paths: list[str]
    labels: list[str]
    path: NDArray[np.int32]
    label: NDArray[np.int32]
    rank: NDArray[np.int64]
    probability: NDArray[np.float64]
    boxes: NDArray[np.float64] | None = None
    set_sizes: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, rows: Iterable[Prediction]) -> "PredictionColumns":
        """Return rows as columns."""
        paths, labels = _Codes(), _Codes()
        codes = [
            (paths[row.path], labels[row.label], row.rank, nan if row.probability is None else row.probability)
            for row in rows
        ]
        path, label, rank, probability = zip(*codes, strict=True) if codes else ((), (), (), ())
        return cls(
            list(paths),
            list(labels),
            np.array(path, np.int32),
            np.array(label, np.int32),
            np.array(rank, np.int64),
            np.array(probability, np.float64),
        )

    def rows(self) -> Iterator[Prediction]:
        """Yield the rows."""
        columns = (column.tolist() for column in (self.path, self.label, self.rank, self.probability))
        for path, label, rank, probability in zip(*columns, strict=True):
            yield Prediction(self.paths[path], rank, self.labels[label], None if isnan(probability) else probability)


class _Codes(dict[str, int]):
    """Numbers words in the order in which they are first looked up."""

    def __missing__(self, word: str) -> int:
        self[word] = code = len(self)
        return code


def parse(lines: Iterable[bytes], *, name: str) -> Iterator[Prediction]:
    """Yield predictions from TSV, CSV or JSON Lines.

    Args, Raises as `read`.
    """
    yield from read(lines, name=name).rows()


def read(lines: Iterable[bytes], *, name: str) -> PredictionColumns:
    """Read predictions from TSV, CSV or JSON Lines.

    Args:
        lines: The lines of the file.
        name: The file, for messages.

    Returns:
        The rows, those without a rank last.

    Raises:
        FormatError: There are no predictions, a row is broken, a probability is not between 0 and 1, or the table is a manifest.
    """
    coming = iter(lines)
    first = next((line for line in coming if line.strip()), None)
    paths, labels = _Codes(), _Codes()
    found: list[tuple[NDArray[Any], ...]] = []
    if first is not None:
        blocks = tables.columns(
            chain([first], coming),
            name=name,
            required=["path", "label"],
            aliases=_ALIASES,
            check=lambda columns: _check_columns(columns, name),
        )
        for block in blocks:
            rank, probability = _numbers(block, name)
            boxes = _boxes(block["box"], block["path"], name) if "box" in block else np.empty((len(rank), 0))
            sets = _set_sizes(block, name)
            path, label = (
                np.fromiter(map(codes.__getitem__, words), np.int32, len(words))
                for codes, words in ((paths, block["path"]), (labels, block["label"]))
            )
            found.append((path, label, rank, probability, boxes, sets))
    if not found:
        raise FormatError(f"{name}: no predictions; the command that should have written them may have failed")
    path, label, rank, probability, boxes, sets = (np.concatenate(parts) for parts in zip(*found, strict=True))
    columns = PredictionColumns(list(paths), list(labels), path, label, rank, probability)
    return _ranked(replace(columns, boxes=boxes if boxes.shape[1] else None, set_sizes=sets if sets.any() else None))


def _set_sizes(block: Mapping[str, list[str]], name: str) -> NDArray[np.int64]:
    """Return the sizes of prediction sets, (R,); 0 where there is none.

    Raises:
        FormatError: One is not a number.
    """
    words = block.get("set_size") or []
    if not any(words):
        return np.zeros(len(block["path"]), np.int64)
    found = (_rank(word, f"{name}: {path}", what="set_size") for path, word in zip(block["path"], words, strict=True))
    return np.fromiter(found, np.int64, len(words))


def _boxes(words: Sequence[str], paths: Sequence[str], name: str) -> NDArray[np.float64]:
    """Read predicted boxes, (R, 4); NaN where there is none.

    Raises:
        FormatError: One is not a box.
    """
    found = np.full((len(words), 4), nan)
    for place, word in enumerate(words):
        if word:
            try:
                box = Box.parse(word)
            except FormatError as error:
                raise FormatError(f"{name}: {paths[place]}: {error}") from error
            found[place] = box.x, box.y, box.width, box.height
    return found


def _numbers(block: Mapping[str, list[str]], name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the ranks of rows, 0 where there is none, and their probabilities.

    Raises:
        FormatError: A row is broken.
    """
    paths, labels = block["path"], block["label"]
    ranks, probabilities = (block.get(column) or [""] * len(paths) for column in ("rank", "probability"))
    numbers = _at_once(ranks, probabilities) if all(paths) and all(labels) else None
    if numbers is not None:
        return numbers
    rows = []
    for path, label, rank, probability in zip(paths, labels, ranks, probabilities, strict=True):
        if not path or not label:
            raise FormatError(f"{name}: {path or 'a row'} has no {'label' if path else 'path'}")
        rows.append((_rank(rank, f"{name}: {path}"), _probability(probability, path, name)))
    return np.array([rank for rank, _ in rows], np.int64), np.array([each for _, each in rows], np.float64)


def _at_once(
    ranks: Sequence[str], probabilities: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Return the same as `_numbers` for columns that are complete or empty; None if one is not, or a value is not valid."""
    rank, probability = np.zeros(len(ranks), np.int64), np.full(len(ranks), nan)
    try:
        if any(ranks):
            rank = np.fromiter(map(int, ranks), np.int64, len(ranks))
            if rank.min() < 1:
                return None
        if any(probabilities):
            probability = np.fromiter(map(float, probabilities), np.float64, len(ranks))
            if not ((probability >= 0) & (probability <= 1 + _ROUNDING)).all():  # also NaN
                return None
    except (ValueError, OverflowError):
        return None
    return rank, np.minimum(probability, 1.0)


def _ranked(columns: PredictionColumns) -> PredictionColumns:
    """Give a rank to rows without one, and move them to the end, the rows of an image together.

    The rank is that of the probability, as other programs may list classes alphabetically, or the place among the image's rows if one
    has no probability.
    """
    bare = np.flatnonzero(columns.rank == 0)
    if not len(bare):
        return columns
    path, probability = columns.path[bare], columns.probability[bare]
    _, start = np.unique(path, return_index=True)
    first = np.zeros(len(columns.paths), np.int64)
    first[path[start]] = start
    image = first[path]  # the place of the image's first row
    unknown = np.zeros(len(bare), bool)
    unknown[image[np.isnan(probability)]] = True
    by_place = np.argsort(image, kind="stable")
    by_rank = np.lexsort((np.where(unknown[image], 0.0, -probability), image))  # stable
    rank = columns.rank.copy()
    rank[bare[by_rank]] = _places(columns.path)[bare[by_place]]
    order = np.concatenate([np.flatnonzero(columns.rank > 0), bare[by_rank]])
    codes, start = np.unique(columns.path[order], return_index=True)
    as_listed = codes[np.argsort(start)]  # paths in the order of their first rows
    place_of = np.empty(len(codes), np.int32)
    place_of[as_listed] = np.arange(len(codes))
    return replace(
        columns,
        paths=[columns.paths[code] for code in as_listed],
        path=place_of[columns.path[order]],
        label=columns.label[order],
        rank=rank[order],
        probability=columns.probability[order],
        boxes=None if columns.boxes is None else columns.boxes[order],
        set_sizes=None if columns.set_sizes is None else columns.set_sizes[order],
    )


def _places(path: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the place of each row among the rows of its image, from 1."""
    order = np.argsort(path, kind="stable")
    _, start, counts = np.unique(path[order], return_index=True, return_counts=True)
    places = np.empty(len(path), np.int64)
    places[order] = np.arange(len(path)) - np.repeat(start, counts) + 1
    return places


def _check_columns(columns: Sequence[str], name: str) -> None:
    """Raise an error for a manifest, whose labels are the true ones, and for a table with a label and a predicted class."""
    if {"rank", "threshold"} <= {*columns}:
        raise FormatError(
            f"{name}: several labels per image (column threshold), where one is needed; cnn-eval measures them, "
            "cnn-eval --baseline compares two models, and cnn-report shows mistakes"
        )
    also = [column for column in columns if column.lower() in _PREDICTED]
    if also and "label" in columns:
        raise FormatError(
            f"{name}: columns label and {also[0]} could both be the predicted class; keep that one, under the name label; "
            "true classes are read from folders or from a manifest of their own"
        )
    if {"split", "group"} & {*columns} and not {"rank", "probability", "truth"} & {*columns}:
        raise FormatError(
            f"{name}: a manifest (columns {', '.join(columns[:8])}), not predictions; make predictions with cnn-predict; "
            "a manifest has the true labels: cnn-eval --truth takes it"
        )


def _rank(value: str, where: str, *, what: str = "rank") -> int:
    """Read a rank or another count; 0 if there is none."""
    if value == "":
        return 0
    try:
        rank = int(value)
    except ValueError:
        rank = 0
    if rank < 1:
        raise FormatError(f'{where}: {what} "{value}" is not a whole number of at least 1')
    return min(rank, _MOST)


def _probability(value: str, path: str, name: str) -> float:
    """Read a probability; NaN if there is none."""
    if value == "":
        return nan
    try:
        probability = float(value)
    except ValueError:
        delimited.check_decimal_point(value, "probability", where=f"{name}: {path}", name=name)
        probability = nan
    if not 0 <= probability <= 1 + _ROUNDING:  # also NaN
        raise FormatError(f'{name}: {path}: probability "{value}" is not between 0 and 1; are these logits?')
    return min(probability, 1.0)
