"""What stands beside a picture's content, as numbers that a probe can use: its size, its file, its colours, its camera, its name."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence

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
) -> dict[str, NDArray[np.float32]]:
    """Measure N pictures.

    Returns:
        For each name (N, numbers), NaN where it is not known.
    """
    made = {
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
        ProbeName.NAME: lambda: _words([_pattern(picture) for picture in pictures]),
        ProbeName.ORDER: lambda: _numbers(_numbers_in(picture) for picture in pictures),
    }
    known = {str(name): made[name]() for name in names if name is not ProbeName.TOGETHER}
    united = [values for name, values in known.items() if name not in COLOURS]
    if ProbeName.TOGETHER in names and len(united) > 1:
        known[str(ProbeName.TOGETHER)] = np.hstack(united)
    return known


def _numbers(rows: Iterable[Iterable[float | None]]) -> NDArray[np.float32]:
    return np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=np.float32)


def _words(words: Sequence[str | None]) -> NDArray[np.float32]:
    """One column a word: 1 where a picture has it."""
    known = [word for word, _ in Counter(words).most_common(_WORDS)]
    return np.array([[word == each for each in known] for word in words], dtype=np.float32)


def _stem(picture: Picture) -> str:
    """Take a file's name without its ending, and without the class: a label in a name is no leak but a label."""
    stem = os.path.splitext(os.path.basename(picture.path))[0]
    return re.sub(re.escape(picture.label), "", stem, flags=re.IGNORECASE) if picture.label else stem


def _pattern(picture: Picture) -> str:
    """Replace the numbers in a name: IMG_0017 and IMG_0018 are IMG_#."""
    return _DIGITS.sub("#", _HASH.sub("#", _stem(picture)))


def _numbers_in(picture: Picture) -> list[float | None]:
    """Give the first numbers in a name: pictures of one series have them in the order in which they were taken."""
    found: list[float | None] = [float(digits[:30]) for digits in _DIGITS.findall(_stem(picture))[:_NUMBERS]]
    return found + [None] * (_NUMBERS - len(found))
