"""Side information on images as numbers: file size, sides, names, camera, columns of a manifest. No torch."""

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cnnkit import files
from cnnkit.audit.inspection import InspectedImage
from cnnkit.choices import ProbeName
from cnnkit.data import decode
from cnnkit.data.missing_extensions import MissingExtensions
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError, CnnkitError, UsageError
from cnnkit.formats import table_columns, tables

log = logging.getLogger("cnnkit")

#: Properties that may be content.
COLOURS = frozenset({ProbeName.MEAN_COLOUR, ProbeName.BORDER_COLOUR})

#: A column with more distinct words than this is not categorical.
MOST_VALUES = 100

#: The number of words that are distinguished, the most frequent ones; all others count as one.
_WORDS = 30

#: The number of numbers in a file name that are used.
_NUMBERS = 3

#: A run of eight or more hexadecimal digits is a number or a hash.
_HASH = re.compile(r"(?=[0-9a-f]*[0-9])[0-9a-f]{8,}", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]+")


def probe_columns(
    images: Sequence[ImageFile], inspected: Sequence[InspectedImage], names: Sequence[ProbeName] = tuple(ProbeName)
) -> dict[str, NDArray[np.float64]]:
    """Measure the properties of N images.

    Returns:
        For each name (N, numbers), NaN where unknown.
    """
    labels = sorted({image.label for image in images if image.label is not None})
    stems = [_stem(image, labels) for image in images]
    made: dict[ProbeName, Callable[[], NDArray[np.float64]]] = {
        ProbeName.WIDTH: lambda: _numbers([each.width] for each in inspected),
        ProbeName.HEIGHT: lambda: _numbers([each.height] for each in inspected),
        ProbeName.ASPECT: lambda: _numbers([each.width / each.height] for each in inspected),
        ProbeName.BYTES: lambda: _numbers([each.size] for each in inspected),
        ProbeName.FORMAT: lambda: _words([f"{each.format} {each.mode}" for each in inspected]),
        ProbeName.QUALITY: lambda: _numbers([each.quality] for each in inspected),
        ProbeName.MEAN_COLOUR: lambda: _numbers(each.mean for each in inspected),
        ProbeName.BORDER_COLOUR: lambda: _numbers(each.border for each in inspected),
        ProbeName.CAMERA: lambda: _words([each.exif.camera for each in inspected]),
        ProbeName.TIME: lambda: _numbers([each.exif.taken] for each in inspected),
        ProbeName.NAME: lambda: _words([_pattern(stem) for stem in stems]),
        ProbeName.ORDER: lambda: _numbers(_numbers_in(stem) for stem in stems),
    }
    wanted = set(names) | (set(ProbeName) - COLOURS if ProbeName.TOGETHER in names else set())
    known = {name: make() for name, make in made.items() if name in wanted}
    if ProbeName.TOGETHER in names:
        known[ProbeName.TOGETHER] = np.hstack([values for name, values in known.items() if name not in COLOURS])
    return {str(name): known[name] for name in names}


def _numbers(rows: Iterable[Iterable[float | None]]) -> NDArray[np.float64]:
    return np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=np.float64)


def _words(words: Sequence[str | None]) -> NDArray[np.float64]:
    """One-hot encode words: one column for each."""
    known = [word for word, _ in Counter(words).most_common(_WORDS)]
    return np.array([[word == each for each in known] for word in words], dtype=np.float64)


def _stem(image: ImageFile, labels: Sequence[str]) -> str:
    """Return the stem of a file name without the names of classes: a label in a file name is not a leak.

    All labels are removed from every name, but only as whole words: the class i is not in img_0001.
    """
    stem = os.path.splitext(os.path.basename(image.path))[0]
    for label in labels:
        before = r"(?<![^\W\d_])" if label[0].isalpha() else r"(?<!\d)" if label[0].isdigit() else ""
        after = r"(?![^\W\d_])" if label[-1].isalpha() else r"(?!\d)" if label[-1].isdigit() else ""
        stem = re.sub(before + re.escape(label) + after, "", stem, flags=re.IGNORECASE)
    return stem


def _pattern(stem: str) -> str:
    """Replace the numbers in a name: IMG_0017 and IMG_0018 are IMG_#."""
    return _DIGITS.sub("#", _HASH.sub("#", stem))


def _numbers_in(stem: str) -> list[float | None]:
    """Return the first numbers in a name: in a series they follow the order in which images were taken."""
    found: list[float | None] = [float(digits[:30]) for digits in _DIGITS.findall(stem)[:_NUMBERS]]
    return found + [None] * (_NUMBERS - len(found))


#: Properties that need no decoding: upright sides in pixels, their ratio, and the file size.
MEASURES: Mapping[str, Callable[[str], float]] = {
    "width": lambda path: decode.upright_size(path)[0],
    "height": lambda path: decode.upright_size(path)[1],
    "aspect": lambda path: _aspect(*decode.upright_size(path)),
    "bytes": files.regular_size,
}


def parse_names(text: str) -> tuple[str, ...]:
    """Parse `width,height`.

    Raises:
        UsageError: A name is empty or repeated.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UsageError(f'--with "{text}": give names separated by commas, such as width,height')
    if len(set(names)) < len(names):
        raise UsageError(f'--with "{text}": a name is repeated; give each once')
    return names


class Columns:
    """Columns of side information, from the image files or from a manifest."""

    def __init__(self, names: Sequence[str], manifest: str | Path | None) -> None:
        """Prepare to read columns.

        Args:
            names: Columns of the manifest, or names of MEASURES; the manifest has precedence.
            manifest: Its rows are found by the real paths of their files.

        Raises:
            UsageError: A name is neither, or it is the label itself.
            OSError: The manifest cannot be read.
        """
        self.names, self.manifest = tuple(names), manifest
        self._listed = {} if manifest is None else _by_image(manifest, names)
        there = next(iter(self._listed.values()), {})
        for name in names:
            if name == "label":
                raise UsageError("--with label: the label is the target; drop it")
            if name not in there and name not in MEASURES:
                known = [*MEASURES, *(column for column in there if column not in ("path", "label"))]
                more = "" if manifest is not None else "; columns of a manifest come with --columns FILE.tsv"
                raise UsageError(f"--with {name}: no such column; there are {', '.join(known)}{more}")
        if manifest is not None and not any(name in there for name in names):
            raise UsageError(
                f"--columns {manifest}: --with {','.join(names)} names none of its columns; drop --columns"
            )
        self._measured = {name: MEASURES[name] for name in names if name not in there}

    def of(self, paths: Iterable[str]) -> list[list[str | float]]:
        """Return a list for each name, with a value for each image; values of a manifest are strings.

        Raises:
            CnnkitError: An image is not in the manifest, or its file cannot be read.
        """
        known: dict[str, list[str | float]] = {}  # views of an image share its path
        rows = [known[path] if path in known else known.setdefault(path, self._row(path)) for path in paths]
        return [list(column) for column in zip(*rows, strict=True)]

    def _row(self, path: str) -> list[str | float]:
        fields = self._listed.get(os.path.realpath(path), {})
        if self._listed and not fields:
            raise CnnkitError(f"{path} is not in {self.manifest}; --columns needs a manifest of all images")
        try:
            return [self._measured[name](path) if name in self._measured else fields[name] for name in self.names]
        except (BadImageError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise CnnkitError(f"{path}: {reason}; --with {', '.join(self._measured)} reads the images") from error


def _by_image(manifest: str | Path, names: Sequence[str]) -> dict[str, dict[str, str]]:
    folder = os.path.dirname(manifest)
    aliases = {**dict.fromkeys(names, ()), "path": table_columns.PATH_ALIASES}
    rows = tables.load(manifest, required=["path"], aliases=aliases)
    extensions = MissingExtensions(str(manifest))
    found = {os.path.realpath(extensions.completed(os.path.join(folder, row["path"]))): row for row in rows}
    for line in extensions.lines():
        log.info("%s", line)
    return found


def _aspect(width: int, height: int) -> float:
    return width / height


@dataclass(frozen=True, slots=True)
class Encoding:
    """Encoding of one column, fitted on training rows: standardized numbers, or one-hot words."""

    name: str
    words: tuple[str, ...] | None = None
    mean: float = 0.0
    scale: float = 0.0  # 1 / standard deviation

    @classmethod
    def fit(cls, name: str, train: Sequence[str | float], others: Sequence[str | float]) -> Self:
        """Fit to the training values; the others only decide whether all are numbers.

        Raises:
            UsageError: There are too many different words, or numbers are mixed with empty values.
        """
        empty = sum(value == "" for value in [*train, *others])
        if empty and any(_number(value) is not None for value in train):
            raise UsageError(
                f"--with {name}: empty for {empty} of the images, a number for others; fill it in, or leave these images out"
            )
        numbers = [_number(value) for value in train]
        if any(number is None for number in numbers) or any(_number(value) is None for value in others):
            words = tuple(sorted({str(value) for value in train}))
            if len(words) > MOST_VALUES:
                raise UsageError(
                    f"--with {name}: {len(words)} different values, such as {words[0]}; "
                    f"a categorical column has at most {MOST_VALUES}"
                )
            cls._warn_of_constant(name, constant=len(words) < 2)
            return cls(name, words=words)
        known = np.array(numbers, dtype=np.float64)
        constant = bool(known.min() == known.max())
        cls._warn_of_constant(name, constant=constant)
        return cls(name, mean=float(known.mean()), scale=0.0 if constant else 1 / float(known.std()))

    @staticmethod
    def _warn_of_constant(name: str, *, constant: bool) -> None:
        if constant:
            log.warning("--with %s: the same for all training images; it has no effect", name)

    def __call__(self, values: Sequence[str | float]) -> NDArray[np.float32]:
        """Encode, (N,) -> (N, 1) or (N, words); a word that was not in the training rows is all zeros."""
        if self.words is None:
            numbers = np.array([_number(value) for value in values], dtype=np.float64)
            return ((numbers - self.mean) * self.scale)[:, None].astype(np.float32)
        encoded = np.array([[word == str(value) for word in self.words] for value in values], dtype=np.float32)
        return encoded if len(self.words) > 1 else np.zeros_like(encoded)


def _number(value: str | float) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
