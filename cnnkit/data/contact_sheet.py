"""A contact sheet: one row a picture, the original first, then its copies."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cnnkit.data.source import Picture
from cnnkit.formats import atomic

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
    """Choose the pictures that are shown: evenly from all, so that every class has its rows."""
    if len(pictures) <= MOST_ROWS:
        return list(pictures)
    return [pictures[row * (len(pictures) - 1) // (MOST_ROWS - 1)] for row in range(MOST_ROWS)]


def save(path: str | Path, rows: Sequence[Sequence[Image.Image]]) -> None:
    """Draw thumbnails in rows on white, and write them as PNG in one step."""
    across, down = max(len(row) for row in rows), len(rows)
    # The gap behind the originals is wider: they are not copies
    sheet = Image.new("RGB", (across * (SIDE + GAP) + 3 * GAP, down * (SIDE + GAP) + GAP), "white")
    for y, row in enumerate(rows):
        for x, small in enumerate(row):
            left = GAP + x * (SIDE + GAP) + (2 * GAP if x else 0)
            sheet.paste(small, (left + (SIDE - small.width) // 2, GAP + y * (SIDE + GAP) + (SIDE - small.height) // 2))
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG")
    with atomic.writing(path) as file:
        file.write(encoded.getvalue())
