"""Contact sheets of class activation maps, each image with its overlays and probabilities; and blocks of thumbnails."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnkit import files
from cnnkit.data import decode
from cnnkit.data.image_grid import Grid
from cnnkit.formats import fonts, image_files, picture_style
from cnnkit.formats.picture_style import BAR, EMPTY, INK, LINE_HEIGHT, PAPER, WRONG, length, shorten, write

log = logging.getLogger("cnnkit")

# ---------------------------------------------------------------- sheets of class activation maps

#: Pixels: the side of a thumbnail, between thumbnails, and between images.
SIDE, GAP, SPACE = 160, 8, 16
#: Thumbnails of an image per row.
_ACROSS = 9
#: Maximum number of thumbnails, which are kept in memory.
MOST = 1000
_BAR_HEIGHT = 6


@dataclass(frozen=True, slots=True)
class SheetCell:
    """An image and its overlays, as thumbnails; each overlay with its class and probability.

    The predicted class is written below, and the true one, `truth`, if it is known; if they differ, the image is marked.
    """

    path: str
    image: Image.Image
    overlays: list[tuple[str, float, Image.Image]]
    predicted: str = ""
    truth: str | None = None

    @property
    def notes(self) -> list[str]:
        """The lines below the name of the image."""
        lines = {"true": self.truth, "predicted": self.predicted}
        return [f"{word} {name}" for word, name in lines.items() if name]

    @property
    def wrong(self) -> bool:
        """Whether the prediction is known to be wrong."""
        return self.truth is not None and self.truth != self.predicted

    @property
    def count(self) -> int:
        """The number of thumbnails."""
        return 1 + len(self.overlays)


class SheetCells:
    """The cells of a sheet, up to its maximum size."""

    def __init__(self) -> None:
        self.left_out = 0
        self._cells: list[SheetCell] = []
        self._count = 0

    def append(self, cell: SheetCell) -> None:
        """Add a cell, unless the sheet is full."""
        if self.left_out or (self._cells and self._count + cell.count > MOST):
            self.left_out += 1
            return
        self._cells.append(cell)
        self._count += cell.count

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[SheetCell]:
        return iter(self._cells)


def thumbnail(image: Image.Image, *, side: int = SIDE) -> Image.Image:
    """Resize an image to a thumbnail of a sheet, `side` pixels long."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Small images, such as digits of 8 x 8 pixels, are enlarged with visible pixels
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def load_thumbnail(path: str | Path, *, side: int = SIDE) -> Image.Image:
    """Read an image as a thumbnail; a JPEG is decoded at twice its size, or less if it has less.

    Raises:
        BadImageError: It cannot be read.
    """

    def enough(size: tuple[int, int]) -> tuple[int, int]:
        scale = min(1.0, 2 * side / max(size))
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    (decoded,) = decode.load_reduced(path, [enough])
    return thumbnail(decoded.image, side=side)


def save(path: str | Path, cells: SheetCells, *, palette: NDArray[np.uint8] | None = None) -> None:
    """Write a sheet as PNG, atomically, with the scale of its colour map, (256, 3); nothing is written without cells."""
    if not len(cells):
        return
    sheet = render(list(cells))
    if palette is not None:
        sheet = picture_style.with_scale(sheet, palette, low="0", high="maximum of each map", margin=SPACE)
    image_files.save(path, sheet)
    fonts.report_missing(
        path, (text for each in cells for text in (each.path, *each.notes, *(name for name, *_ in each.overlays)))
    )
    if cells.left_out:
        log.info("%s shows only the first %d of %d images", path, len(cells), len(cells) + cells.left_out)


def render(cells: Sequence[SheetCell]) -> Image.Image:
    """Draw cells in a grid of about 4:3."""
    most = max(each.count for each in cells)
    lines = 1 + max(len(each.notes) for each in cells)
    below = max(2, lines) * LINE_HEIGHT + _BAR_HEIGHT + GAP  # a thumbnail, for its caption
    thumbnails = Grid(cell=(SIDE, SIDE), gap=(GAP, below))
    width, height = thumbnails.size(-(-most // _ACROSS), min(most, _ACROSS))
    height += below
    across = min(len(cells), max(1, round(math.sqrt(len(cells) * 4 / 3 * (height + SPACE) / (width + SPACE)))))
    grid = Grid(cell=(width, height), gap=(SPACE, SPACE), margin=SPACE)
    sheet = Image.new("RGB", grid.size(-(-len(cells) // across), across), PAPER)
    pen = ImageDraw.Draw(sheet)
    for index, each in enumerate(cells):
        left, top = grid.corner(index // across, index % across)
        thumbnails.place(sheet, each.image, 0, 0, origin=(left, top))
        if each.wrong:
            x, y = left + (SIDE - each.image.width) // 2, top + (SIDE - each.image.height) // 2
            picture_style.mark_mistake(sheet, (x, y, x + each.image.width, y + each.image.height))
        for line, words in enumerate((file_caption(each.path, SIDE), *(shorten(note, SIDE) for note in each.notes))):
            ink = WRONG if each.wrong and line == len(each.notes) else INK
            write(pen, (left, top + SIDE + GAP + line * LINE_HEIGHT), words, fill=ink)
        for number, (name, probability, overlay) in enumerate(each.overlays, start=1):
            row, column = number // _ACROSS, number % _ACROSS
            thumbnails.place(sheet, overlay, row, column, origin=(left, top))
            x, y = thumbnails.corner(row, column)
            _caption(pen, name, probability, left + x, top + y + SIDE + GAP)
    return sheet


def file_caption(path: str, width: int) -> str:
    """Write a file with its folder, which often is its class, in at most half of the width, and as much of the file's end as fits.

    Of a crop that does not fit, only the box and the end of the file's name.
    """
    folder, file = os.path.split(path)
    shown = file.replace(files.CROP, " ")
    before = f"{shorten(os.path.basename(folder), width // 2)}/" if folder else ""
    if shown != file and shorten(shown, width - math.ceil(length(before))) != shown:
        before = ""
    return before + shorten(shown, width - math.ceil(length(before)), keep_end=True)


def _caption(pen: ImageDraw.ImageDraw, name: str, probability: float, left: int, top: int) -> None:
    """Write a class and its probability, with a bar of that length."""
    number = f"{probability:.3f}"
    room = SIDE - round(length(number)) - 2 * GAP
    write(pen, (left, top), shorten(name, room))
    write(pen, (left + SIDE, top), number, right=True)
    bar = top + LINE_HEIGHT + GAP
    pen.rectangle((left, bar, left + SIDE - 1, bar + _BAR_HEIGHT - 1), fill=EMPTY)
    if (filled := round(probability * SIDE)) > 0:
        pen.rectangle((left, bar, left + filled - 1, bar + _BAR_HEIGHT - 1), fill=BAR)


# ---------------------------------------------------------------- blocks of thumbnails


#: Pixels between the thumbnails of a block.
_TILE_GAP = 2


@dataclass(frozen=True, slots=True)
class Block:
    """Thumbnails that belong together, with a title and a note above them."""

    title: str
    note: str
    tiles: Sequence[Image.Image]


def render_blocks(blocks: Sequence[Block], *, side: int, count: int) -> Image.Image:
    """Draw blocks of at most `count` thumbnails, each in a square, in a grid of about 4:3; missing thumbnails are grey.

    Args:
        blocks: At least one.
        side: The longer side of the thumbnails, in pixels.
        count: The number of places of a block.
    """
    columns = math.ceil(math.sqrt(count))
    inner = Grid(cell=(side, side), gap=(_TILE_GAP, _TILE_GAP))
    width, height = inner.size(-(-count // columns), columns)
    across = min(len(blocks), max(1, round(math.sqrt(len(blocks) * 4 / 3 * (height + LINE_HEIGHT) / width))))
    outer = Grid(cell=(width, height + LINE_HEIGHT), gap=(SPACE, SPACE), margin=SPACE)
    sheet = Image.new("RGB", outer.size(-(-len(blocks) // across), across), PAPER)
    pen = ImageDraw.Draw(sheet)
    empty = Image.new("RGB", (side, side), EMPTY)
    for index, block in enumerate(blocks):
        left, top = outer.corner(index // across, index % across)
        write(pen, (left + width, top), block.note, right=True)
        room = width - round(length(block.note)) - GAP
        write(pen, (left, top), shorten(block.title, room))
        for place in range(count):
            tile = block.tiles[place] if place < len(block.tiles) else empty
            inner.place(sheet, tile, place // columns, place % columns, origin=(left, top + LINE_HEIGHT))
    return sheet
