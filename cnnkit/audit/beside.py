"""What stands beside a picture's content, as numbers that a probe can use: its size, its file, its colours, its camera, its name."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cnnkit.audit.inspection import Inspected
from cnnkit.choices import ProbeName
from cnnkit.data.source import Picture

#: What may be content.
COLOURS = frozenset({ProbeName.MEAN_COLOUR, ProbeName.BORDER_COLOUR})

#: Of words, so many are told apart, the most frequent ones; all others are one.
_WORDS = 30

#: How many of the numbers in a name are looked at.
_NUMBERS = 3

#: A run of hexadecimal digits this long is a number or a hash.
_HASH = re.compile(r"(?=[0-9a-f]*[0-9])[0-9a-f]{8,}", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]+")


def columns(
    pictures: Sequence[Picture], inspected: Sequence[Inspected], names: Sequence[ProbeName] = tuple(ProbeName)
) -> dict[str, NDArray[np.float64]]:
    """Measure N pictures.

    Returns:
        For each name (N, numbers), NaN where it is not known.
    """
    labels = sorted({picture.label for picture in pictures if picture.label is not None})
    stems = [_stem(picture, labels) for picture in pictures]
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
    """One column a word: 1 where a picture has it."""
    known = [word for word, _ in Counter(words).most_common(_WORDS)]
    return np.array([[word == each for each in known] for word in words], dtype=np.float64)


def _stem(picture: Picture, labels: Sequence[str]) -> str:
    """Take a file's name without its ending, and without the words that are classes: a label in a name is no leak but a label.

    Every label is taken from every name, and as a word alone: the class i is not in img_0001.
    """
    stem = os.path.splitext(os.path.basename(picture.path))[0]
    for label in labels:
        before = r"(?<![^\W\d_])" if label[0].isalpha() else r"(?<!\d)" if label[0].isdigit() else ""
        behind = r"(?![^\W\d_])" if label[-1].isalpha() else r"(?!\d)" if label[-1].isdigit() else ""
        stem = re.sub(before + re.escape(label) + behind, "", stem, flags=re.IGNORECASE)
    return stem


def _pattern(stem: str) -> str:
    """Replace the numbers in a name: IMG_0017 and IMG_0018 are IMG_#."""
    return _DIGITS.sub("#", _HASH.sub("#", stem))


def _numbers_in(stem: str) -> list[float | None]:
    """Give the first numbers in a name: pictures of one series have them in the order in which they were taken."""
    found: list[float | None] = [float(digits[:30]) for digits in _DIGITS.findall(stem)[:_NUMBERS]]
    return found + [None] * (_NUMBERS - len(found))
