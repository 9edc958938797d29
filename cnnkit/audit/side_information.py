"""Side information on images as numbers: file size, sides, names, camera. No torch."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cnnkit.audit.inspection import InspectedImage
from cnnkit.choices import ProbeName
from cnnkit.data.source import ImageFile

log = logging.getLogger("cnnkit")

#: Properties that may be content.
COLOURS = frozenset({ProbeName.MEAN_COLOUR, ProbeName.BORDER_COLOUR})

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
