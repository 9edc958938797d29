"""Mosaics: tiles of one size in a nearly square grid, each below its number."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnkit.data.image_grid import Grid
from cnnkit.formats.picture_style import MUTED, PAPER, length, titled, write

#: The approximate width of a mosaic, and the gap between tiles, in pixels.
_WIDTH, GAP = 1024, 2
#: The minimum width of a single tile; smaller ones are enlarged.
_LEAST_SIDE = 128
#: The height of a number and of its line above a tile.
_NUMBER_SIZE, NUMBER_HEIGHT = 11, 13


def mosaic(tiles: Sequence[NDArray[np.uint8]], *, numbers: Sequence[int] = (), title: str = "") -> Image.Image:
    """Arrange tiles of one size, (h, w, 3) each, in a nearly square grid; small ones are enlarged by an integer factor.

    Args:
        tiles: At least one.
        numbers: Those of the tiles, written above them; by default none.
        title: A line above the mosaic.
    """
    height, width = tiles[0].shape[:2]
    across = math.ceil(math.sqrt(len(tiles)))
    zoom = max(1, (_WIDTH // across - GAP) // max(height, width))
    if len(tiles) == 1:
        zoom = _zoom(height, width)
    # In the font of Pillow: exported networks need no matplotlib
    widths = (length(str(number), size=_NUMBER_SIZE, latin=True) for number in numbers)
    widest = max(map(math.ceil, widths), default=0)
    above = NUMBER_HEIGHT if numbers else 0
    # Tiles narrower than their numbers get wider columns
    cell = (max(zoom * width, widest), zoom * height + above)
    grid = Grid(cell=cell, gap=(GAP, GAP), margin=GAP)
    sheet = Image.new("RGB", grid.size(-(-len(tiles) // across), across), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, tile in enumerate(tiles):
        left, top = grid.corner(place // across, place % across)
        if numbers:
            write(pen, (left, top), str(numbers[place]), fill=MUTED, size=_NUMBER_SIZE, latin=True)
        sheet.paste(_enlarged(tile, zoom), (left, top + above))
    return titled(sheet, title, latin=True) if title else sheet


def enlarged(tile: NDArray[np.uint8]) -> Image.Image:
    """Draw one tile, enlarged if it is small."""
    return _enlarged(tile, _zoom(*tile.shape[:2]))


def _zoom(height: int, width: int) -> int:
    return max(1, -(-_LEAST_SIDE // max(height, width)))


def _enlarged(tile: NDArray[np.uint8], zoom: int) -> Image.Image:
    return Image.fromarray(tile.repeat(zoom, axis=0).repeat(zoom, axis=1))
