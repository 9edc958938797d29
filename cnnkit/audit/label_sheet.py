"""A contact sheet of images with doubted labels: the file, its label, and the suggested one; suspects are framed."""

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from cnnkit import files
from cnnkit.audit.label_errors import DoubtedLabel
from cnnkit.callbacks import Skip, raise_skip
from cnnkit.data import reader
from cnnkit.data.image_grid import Grid
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError
from cnnkit.explain.contact_sheets import GAP, SIDE, SPACE, load_thumbnail
from cnnkit.formats import fonts, image_files
from cnnkit.formats.picture_style import INK, LINE_HEIGHT, PAPER, WRONG, length, shorten, write

log = logging.getLogger("cnnkit")

#: The most images on a sheet.
MOST = 100

#: The most that a cell is wider than a thumbnail, for long names of classes.
_WIDER = 1.5

#: The width of the frame of a suspect, in pixels, which is in the gap around the thumbnail.
_FRAME = 3


def save(path: Path, doubted: Sequence[DoubtedLabel], *, jobs: int | None = None, skip: Skip = raise_skip) -> None:
    """Draw the first images, and write the sheet as PNG; nothing is written if none can be read.

    Args:
        path: The file.
        doubted: The images, the most doubtful first.
        jobs: Threads that decode.
        skip: Called for an image that cannot be read.
    """
    shown = doubted[:MOST]
    cells: list[tuple[int, DoubtedLabel, Image.Image]] = []
    read = reader.read((ImageFile(each.path) for each in shown), load_thumbnail, jobs=jobs)
    for number, (each, (image, loaded)) in enumerate(zip(shown, read, strict=True), start=1):
        if isinstance(loaded, BadImageError):
            skip(image.path, str(loaded))
        else:
            cells.append((number, each, loaded))
    if not cells:
        log.info("%s is not written: there is no image to show", path)
        return
    image_files.save(path, render(cells))
    fonts.report_missing(
        path, (text for _, each, _ in cells for text in (os.path.basename(each.path), each.label, each.suggested))
    )
    if len(doubted) > MOST:
        log.info("%s shows only the first %d of %d images", path, MOST, len(doubted))


def render(cells: Sequence[tuple[int, DoubtedLabel, Image.Image]]) -> Image.Image:
    """Draw thumbnails in a grid of about 4:3, each with its row number in the table; at least one."""
    height = SIDE + GAP + 3 * LINE_HEIGHT
    written = [(label, probability) for _, each, _ in cells for label, _, probability in _lines(each)]
    needed = max(math.ceil(length(label) + length(probability)) + 2 * GAP for label, probability in written)
    width = min(max(SIDE, needed), round(_WIDER * SIDE))
    across = min(len(cells), max(1, round(math.sqrt(len(cells) * 4 / 3 * (height + SPACE) / (width + SPACE)))))
    grid = Grid(cell=(width, height), gap=(SPACE, SPACE), margin=SPACE)
    thumbnails = Grid(cell=(width, SIDE), gap=(0, 0))
    sheet = Image.new("RGB", grid.size(-(-len(cells) // across), across), PAPER)
    pen = ImageDraw.Draw(sheet)
    for index, (number, each, image) in enumerate(cells):
        left, top = grid.corner(index // across, index % across)
        if each.suspect:
            x, y = left + (width - image.width) // 2, top + (SIDE - image.height) // 2
            frame = (x - _FRAME, y - _FRAME, x + image.width + _FRAME - 1, y + image.height + _FRAME - 1)
            pen.rectangle(frame, fill=WRONG)
        thumbnails.place(sheet, image, 0, 0, origin=(left, top))
        file = os.path.basename(each.path).replace(files.CROP, " ")
        below = top + SIDE + GAP
        write(pen, (left, below), shorten(f"{number}  {file}", width))
        for line, (label, ink, probability) in enumerate(_lines(each), start=1):
            y = below + line * LINE_HEIGHT
            write(pen, (left, y), shorten(label, width - round(length(probability)) - 2 * GAP), fill=ink)
            write(pen, (left + width, y), probability, fill=ink, right=True)
    return sheet


def _lines(each: DoubtedLabel) -> list[tuple[str, str, str]]:
    """Return the lines below the file's name: a class, its colour, and its probability."""
    return [
        (f"label {each.label}", INK, f"{each.self_confidence:.2f}"),
        (f"suggested {each.suggested}", WRONG if each.suspect else INK, f"{each.confidence:.2f}"),
    ]
