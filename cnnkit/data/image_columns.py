"""Columns of metadata on images: read from manifests or measured on the files, fitted on a training set, and encoded. No torch."""

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnkit import files
from cnnkit.choices import ColumnKind
from cnnkit.data import decode, source
from cnnkit.data.missing_extensions import MissingExtensions
from cnnkit.errors import BadImageError, CnnkitError, UsageError
from cnnkit.formats import table_columns, tables
from cnnkit.formats.box import is_crop, whole_path
from cnnkit.formats.header import LARGEST_VALUE, SMALLEST_DEVIATION, InputColumn
from cnnkit.formats.manifest import cropped
from cnnkit.messages import count_images, excerpt

log = logging.getLogger("cnnkit")

#: A column with more distinct words than this is not categorical.
MOST_VALUES = 100

#: The code of a value that was not in the training set.
UNSEEN = -1.0

#: Properties that need no decoding: upright sides in pixels, their ratio, and the file size.
MEASURES: Mapping[str, Callable[[str], float]] = {
    "width": lambda path: decode.upright_size(path)[0],
    "height": lambda path: decode.upright_size(path)[1],
    "aspect": lambda path: _aspect(*decode.upright_size(path)),
    "bytes": files.regular_size,
}


def _aspect(width: int, height: int) -> float:
    return width / height


class Columns:
    """Columns of metadata, from manifests or from the image files."""

    def __init__(
        self,
        names: Sequence[str],
        manifest: str | Path | None,
        *,
        own: Sequence[str | Path] = (),
        option: str = "--with",
        models: str | None = None,
    ) -> None:
        """Prepare to read columns.

        Args:
            names: Columns of the manifest, or names of MEASURES; the manifest has precedence.
            manifest: Its rows are found by the real paths of their files, and by their boxes. A crop that has no row has the values of its
                file, if that has a row, or the same values in all its boxes.
            own: Without `manifest`: tables in which the images were listed, which may have the columns or not.
            option: What names the columns, for messages.
            models: The models that take the columns, instead of an option.

        Raises:
            UsageError: A name is neither, or none of them is in the manifest.
            OSError: A table cannot be read.
        """
        self.names, self._option, self._models = tuple(names), option, models
        self._tables = [str(table) for table in (own if manifest is None else [manifest])]
        self._listed: dict[str, dict[str, str]] = {}  # by real path, of a crop with its box
        #: What the boxes of a file have in common, by its real path; None if they differ.
        self._of_boxes: dict[str, dict[str, str] | None] = {}
        self._real = files.RealPaths()
        there: dict[str, None] = {}
        for table in self._tables:
            there |= dict.fromkeys(self._read(table))
        for name in names:
            if name not in there and name not in MEASURES:
                given = [column for column in there if column not in ("path", "label")]
                if models is not None:
                    raise UsageError(self._without(name, given))
                known = [*MEASURES, *given]
                more = "" if manifest is not None else "; columns of a manifest come with --columns FILE.tsv"
                if ":" in name:
                    more = "; the kinds after a colon are number and category"
                raise UsageError(f"{option} {name}: no such column; there are {', '.join(known)}{more}")
        if manifest is not None and not any(name in there for name in names):
            raise UsageError(
                f"--columns {manifest}: {option} {','.join(names)} names none of its columns; drop --columns"
                if models is None
                else f"--columns {manifest}: {models} takes {', '.join(names)}, none of its columns; drop --columns"
            )
        self._measured = {name: MEASURES[name] for name in names if name not in there}

    def _without(self, name: str, given: Sequence[str]) -> str:
        """Explain that a table lacks a column that a model takes."""
        message = f"{self._models} takes the column {name}"
        if not self._tables:
            return f"{message}; give a manifest that has it with --columns FILE.tsv"
        has = f"which has {', '.join(given)}" if given else "which has only paths and labels"
        return f"{message}, and it is not in {', '.join(self._tables)}, {has}; give a manifest that has it with --columns FILE.tsv"

    def _read(self, table: str) -> list[str]:
        """Read the rows of a table, and return the names of its columns."""
        aliases = {**dict.fromkeys(("box", *self.names), ()), "path": table_columns.PATH_ALIASES}
        folder, found = files.folder_of(table), list[str]()
        extensions = MissingExtensions(table)
        for row in tables.load(table, required=["path"], aliases=aliases):
            found = found or list(row)
            written = cropped(row["path"], row.get("box") or "", table)
            path = self._real.of(extensions.completed(os.path.join(folder, written)))
            values = {name: row[name] for name in self.names if name in row}
            self._listed[path] = values
            if is_crop(path):
                self._listed[source.widened(path)] = values
                if self._of_boxes.setdefault(whole_path(path), values) != values:
                    self._of_boxes[whole_path(path)] = None
        for line in extensions.lines():
            log.info("%s", line)
        return found

    @property
    def measured(self) -> tuple[str, ...]:
        """The columns that are measured on the image files."""
        return tuple(self._measured)

    def of(self, paths: Iterable[str]) -> list[list[str | float]]:
        """Return a list for each name, with a value for each image; values of a manifest are strings.

        Raises:
            CnnkitError: An image is not in the manifest, or its file cannot be read.
        """
        known: dict[str, list[str | float]] = {}  # views of an image share its path
        rows = [known[path] if path in known else known.setdefault(path, self.row(path)) for path in paths]
        return [list(column) for column in zip(*rows, strict=True)]

    def row(self, path: str) -> list[str | float]:
        """Return the values of one image, as `of`."""
        real = self._real.of(path) if self._listed else path
        fields = self._fields(real) if self._listed else None
        if fields is None and len(self._measured) < len(self.names):
            listed = ", ".join(self._tables)
            if whole_path(real) in self._of_boxes:
                raise CnnkitError(
                    f"{path} is not in {listed}, and the rows of other crops of this file differ; add a row with this box"
                )
            raise CnnkitError(f"{path} is not in {listed}; --columns needs a manifest of all images")
        try:
            return [
                self._measured[name](path) if name in self._measured else (fields or {}).get(name, "")
                for name in self.names
            ]
        except (BadImageError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            measured = ", ".join(self._measured)
            why = (
                f"{self._option} {measured} reads the images"
                if self._models is None
                else f"{self._models} takes {measured}, measured on the images"
            )
            raise CnnkitError(f"{path}: {reason}; {why}") from error

    def listed(self, path: str) -> Mapping[str, str]:
        """Return the values of one image in the tables, as far as these have columns of those names; nothing is measured."""
        return self._fields(self._real.of(path)) or {}

    def _fields(self, path: str) -> dict[str, str] | None:
        """Return the row of an image by its real path, or that of the file of a crop."""
        if path in self._listed or not (self._of_boxes or is_crop(path)):
            return self._listed.get(path)
        whole = whole_path(path)
        return self._listed.get(whole, self._of_boxes.get(whole))


def fit(
    name: str,
    train: Sequence[str | float],
    *,
    kind: ColumnKind | None = None,
    others: Sequence[str | float] = (),
    option: str = "--with",
) -> InputColumn:
    """Fit a column on the values of the training images.

    Args:
        name: Its name.
        train: The training values; if all of them are numbers, the column is a number, else a category.
        kind: Its kind, independent of the values.
        others: Values that are not fitted on; one that is not a number makes the column a category.
        option: What names the columns, for messages.

    Raises:
        UsageError: There are too many different words, or numbers are mixed with empty values.
    """
    numbers = [_number(value) for value in train]
    empty = sum(value == "" for value in [*train, *others])
    if kind is not ColumnKind.CATEGORY and empty and any(number is not None for number in numbers):
        raise UsageError(
            f"{option} {name}: empty for {empty} of the images, a number for others; fill it in, or leave these images out"
        )
    if kind is None:
        words = None in numbers or any(_number(value) is None for value in others)
        kind = ColumnKind.CATEGORY if words else ColumnKind.NUMBER
    if kind is ColumnKind.CATEGORY:
        categories = tuple(sorted({str(value) for value in train}))
        if len(categories) > MOST_VALUES:
            raise UsageError(
                f"{option} {name}: {len(categories)} different values, such as {categories[0]}; "
                f"a categorical column has at most {MOST_VALUES}"
            )
        _warn_of_constant(option, name, constant=len(categories) < 2)
        return InputColumn(name, kind, categories=categories)
    odd = next((value for value, number in zip(train, numbers, strict=True) if number is None), None)
    if odd is not None:
        raise UsageError(f'{option} {name}:number: "{excerpt(str(odd))}" is not a number; give {name}:category')
    known = np.array(numbers, dtype=np.float64)
    with np.errstate(over="ignore"):  # what float32 cannot hold is an error of its image
        deviation = float(known.std())
    constant = bool(known.min() == known.max()) or deviation < SMALLEST_DEVIATION
    _warn_of_constant(option, name, constant=constant)
    return InputColumn(name, kind, mean=float(known.mean()), std=0.0 if constant else deviation)


def _warn_of_constant(option: str, name: str, *, constant: bool) -> None:
    if constant:
        log.warning("%s %s: the same for all training images; it has no effect", option, name)


def encoded(column: InputColumn, values: Sequence[str | float]) -> NDArray[np.float32]:
    """Encode, (N,) -> (N, 1) or (N, categories); a word that was not in the training rows is all zeros."""
    if column.kind is ColumnKind.NUMBER:
        numbers = np.array([_number(value) for value in values], dtype=np.float64)
        scale = 1 / column.std if column.std else 0.0
        return ((numbers - column.mean) * scale)[:, None].astype(np.float32)
    hot = np.array([[word == str(value) for word in column.categories] for value in values], dtype=np.float32)
    return hot if len(column.categories) > 1 else np.zeros_like(hot)


class ColumnCodes:
    """Values of columns as the numbers of a network's second input: a number is itself, a category its place in the list of categories."""

    def __init__(self, columns: Sequence[InputColumn]) -> None:
        self.columns = tuple(columns)
        self._places = [{word: float(place) for place, word in enumerate(each.categories)} for each in columns]
        self._unseen: list[Counter[str]] = [Counter() for _ in columns]

    def __call__(self, values: Sequence[str | float], *, path: str) -> NDArray[np.float32]:
        """Return the codes of one image, (columns,).

        Raises:
            CnnkitError: The value of a number is not a finite number.
        """
        codes = np.empty(len(self.columns), dtype=np.float32)
        for place, (column, value) in enumerate(zip(self.columns, values, strict=True)):
            if column.kind is ColumnKind.CATEGORY:
                codes[place] = self._places[place].get(str(value), UNSEEN)
                if codes[place] == UNSEEN:
                    self._unseen[place][str(value)] += 1
                continue
            number = _number(value)
            if number is None or abs(number) > LARGEST_VALUE:
                found = "empty" if value == "" else f'"{excerpt(str(value))}"'
                raise CnnkitError(
                    f"{path}: column {column.name} is {found}, and was a number for all training images; correct it, or leave "
                    "the image out"
                )
            codes[place] = number
        return codes

    def report(self) -> None:
        """Log how many values were not in the training set, one line for each column."""
        for column, unseen in zip(self.columns, self._unseen, strict=True):
            if unseen:
                example = f'"{excerpt(next(iter(unseen)))}"'
                images = count_images(unseen.total())
                log.info(
                    "column %s: %s not in the training set: encoded as zeros",
                    column.name,
                    f"the value {example} of {images} is"
                    if len(unseen) == 1
                    else f"{len(unseen):,} values of {images}, such as {example}, are",
                )
            unseen.clear()


def _number(value: str | float) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
