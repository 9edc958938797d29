"""A contact sheet: one row a picture, the original first, then its copies."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from cnnkit.data.source import Picture
from cnnkit.formats import pictures as files

T = TypeVar("T")

#: Pixels of a thumbnail's side, and between thumbnails.
SIDE, GAP = 128, 6
#: More than this is no longer looked at.
MOST_ROWS, MOST_COPIES = 12, 9


def thumbnail(image: Image.Image) -> Image.Image:
    """Shrink a picture to what the sheet shows; small ones stay as they are."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    return small


def choose(pictures: Sequence[Picture]) -> list[Picture]:
    """Choose the pictures that are shown: as many of each class as of the others, evenly from all of it.

    Of more classes than rows, some are chosen evenly, too.
    """
    classes: dict[str | None, list[Picture]] = {}
    for picture in pictures:
        classes.setdefault(picture.label, []).append(picture)
    held = _evenly(list(classes.values()), min(len(classes), MOST_ROWS))
    rows = [0] * len(held)
    for _ in range(min(MOST_ROWS, len(pictures))):  # a row to the class with the fewest that has another picture
        free = [number for number, each in enumerate(held) if rows[number] < len(each)]
        rows[min(free, key=rows.__getitem__)] += 1
    return [picture for each, count in zip(held, rows, strict=True) for picture in _evenly(each, count)]


def _evenly(items: Sequence[T], count: int) -> list[T]:
    """Choose some, the first and the last among them."""
    return [items[number * (len(items) - 1) // max(count - 1, 1)] for number in range(count)]


def save(path: str | Path, rows: Sequence[Sequence[Image.Image]]) -> None:
    """Draw thumbnails in rows on white, and write them as PNG in one step."""
    across, down = max(len(row) for row in rows), len(rows)
    # The gap behind the originals is wider: they are not copies
    sheet = Image.new("RGB", (across * (SIDE + GAP) + 3 * GAP, down * (SIDE + GAP) + GAP), "white")
    for y, row in enumerate(rows):
        for x, small in enumerate(row):
            left = GAP + x * (SIDE + GAP) + (2 * GAP if x else 0)
            sheet.paste(small, (left + (SIDE - small.width) // 2, GAP + y * (SIDE + GAP) + (SIDE - small.height) // 2))
    files.save(path, sheet)
