"""Letters on pictures: one font that has Latin, Greek and Cyrillic, in sizes that can be read."""

from functools import cache
from pathlib import Path

import matplotlib as mpl
from PIL import ImageFont

#: Pixels from one line to the next.
LINE = 16


@cache
def font(size: int = 12) -> ImageFont.FreeTypeFont:
    """Give DejaVu Sans, which matplotlib brings along; `size` in pixels."""
    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def fitted(text: str, width: int, *, size: int = 12, keep_end: bool = False) -> str:
    """Shorten a text to a width in pixels; dots tell where something is left out."""
    letters = font(size)
    if letters.getlength(text) <= width:
        return text
    for count in range(len(text) - 1, 0, -1):
        shorter = f"…{text[-count:]}" if keep_end else f"{text[:count]}…"
        if letters.getlength(shorter) <= width:
            return shorter
    return ""
