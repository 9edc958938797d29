"""A sheet of class activation maps: each picture, its overlays beside it, and how probable each class is."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from cnnkit.explain import lettering
from cnnkit.formats import pictures as files

log = logging.getLogger("cnnkit")

#: Pixels: the side of a thumbnail, between thumbnails, and between pictures.
SIDE, GAP, SPACE = 160, 4, 16
#: So many thumbnails of a picture stand in a line.
_ACROSS = 9
#: Thumbnails, which the memory holds until all are there.
MOST = 1000
_INK, _PAPER, _BAR, _EMPTY = "#222222", "#ffffff", "#3b6ea5", "#e4e4e4"
_BAR_HEIGHT = 6


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture and its overlays, as thumbnails; each overlay with its class and that one's probability."""

    path: str
    picture: Image.Image
    overlays: list[tuple[str, float, Image.Image]]

    @property
    def count(self) -> int:
        """How many thumbnails it has."""
        return 1 + len(self.overlays)


class Cells:
    """The cells of a sheet, as many as it holds."""

    def __init__(self) -> None:
        self.left_out = 0
        self._cells: list[Cell] = []
        self._count = 0

    def append(self, cell: Cell) -> None:
        """Add a cell, unless the sheet is full."""
        if self.left_out or (self._cells and self._count + cell.count > MOST):
            self.left_out += 1
            return
        self._cells.append(cell)
        self._count += cell.count

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[Cell]:
        return iter(self._cells)


def thumbnail(image: Image.Image) -> Image.Image:
    """Make a picture as large as a sheet shows it."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # A digit of eight pixels is looked at as well, and its pixels are what there is to see
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def save(path: str | Path, cells: Cells) -> None:
    """Draw a sheet into a PNG, in one step; of no pictures nothing is drawn."""
    if not len(cells):
        return
    files.save(path, render(list(cells)))
    if cells.left_out:
        log.info("%s shows the first %d of %d pictures", path, len(cells), len(cells) + cells.left_out)


def render(cells: Sequence[Cell]) -> Image.Image:
    """Draw cells side by side and below one another, about four wide to three high."""
    most = max(each.count for each in cells)
    line = SIDE + 2 * lettering.LINE + _BAR_HEIGHT + GAP
    width, height = min(most, _ACROSS) * (SIDE + GAP) - GAP, -(-most // _ACROSS) * line
    across = min(len(cells), max(1, round(math.sqrt(len(cells) * 4 / 3 * (height + SPACE) / (width + SPACE)))))
    down = -(-len(cells) // across)
    drawn = Image.new("RGB", (across * (width + SPACE) + SPACE, down * (height + SPACE) + SPACE), _PAPER)
    pen = ImageDraw.Draw(drawn)
    for index, each in enumerate(cells):
        left = SPACE + index % across * (width + SPACE)
        top = SPACE + index // across * (height + SPACE)
        _place(drawn, each.picture, left, top)
        text = lettering.fitted(os.path.basename(each.path), SIDE - SPACE // 2, keep_end=True)
        pen.text((left, top + SIDE + GAP), text, fill=_INK, font=lettering.font())
        for number, (name, probability, overlay) in enumerate(each.overlays, start=1):
            x, y = left + number % _ACROSS * (SIDE + GAP), top + number // _ACROSS * line
            _place(drawn, overlay, x, y)
            _caption(pen, name, probability, x, y + SIDE + GAP)
    return drawn


def _place(sheet: Image.Image, small: Image.Image, left: int, top: int) -> None:
    """Put a thumbnail into the middle of its square."""
    sheet.paste(small, (left + (SIDE - small.width) // 2, top + (SIDE - small.height) // 2))


def _caption(pen: ImageDraw.ImageDraw, name: str, probability: float, left: int, top: int) -> None:
    """Write a class and its probability, with a bar as long as that."""
    number = f"{probability:.3f}"
    room = SIDE - round(lettering.font().getlength(number)) - 2 * GAP
    pen.text((left, top), lettering.fitted(name, room), fill=_INK, font=lettering.font())
    pen.text((left + SIDE, top), number, fill=_INK, font=lettering.font(), anchor="ra")
    bar = top + lettering.LINE + GAP
    pen.rectangle((left, bar, left + SIDE - 1, bar + _BAR_HEIGHT - 1), fill=_EMPTY)
    if (length := round(probability * SIDE)) > 0:
        pen.rectangle((left, bar, left + length - 1, bar + _BAR_HEIGHT - 1), fill=_BAR)
