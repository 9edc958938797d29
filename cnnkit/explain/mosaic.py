"""Many small pictures in one: rows and columns nearly square, enlarged by whole pixels so that they can be seen."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: About how wide a mosaic should be, in pixels, and how many lie between two tiles.
_WIDTH, _GAP = 1024, 2
#: Up to this width a single tile is enlarged.
_SIDE = 128
_PAPER = 255


def mosaic(tiles: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """Lay tiles of one size out, (h, w, 3) each, on white."""
    height, width = tiles[0].shape[:2]
    across = math.ceil(math.sqrt(len(tiles)))
    down = -(-len(tiles) // across)
    zoom = max(1, (_WIDTH // across - _GAP) // max(height, width))
    if len(tiles) == 1:
        zoom = _zoom(height, width)
    step_y, step_x = zoom * height + _GAP, zoom * width + _GAP
    drawn = np.full((down * step_y + _GAP, across * step_x + _GAP, 3), _PAPER, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        top, left = _GAP + index // across * step_y, _GAP + index % across * step_x
        drawn[top : top + zoom * height, left : left + zoom * width] = _enlarged(tile, zoom)
    return Image.fromarray(drawn)


def single(tile: NDArray[np.uint8]) -> Image.Image:
    """Give one tile by itself, small ones enlarged."""
    return Image.fromarray(_enlarged(tile, _zoom(*tile.shape[:2])))


def _zoom(height: int, width: int) -> int:
    return max(1, -(-_SIDE // max(height, width)))


def _enlarged(tile: NDArray[np.uint8], zoom: int) -> NDArray[np.uint8]:
    return tile.repeat(zoom, axis=0).repeat(zoom, axis=1)
