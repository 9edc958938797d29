"""A map laid over its picture."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit.explain import colours
from cnnkit.explain.spreading import Box

#: A picture whose shorter side has fewer pixels would vanish behind its frame.
_SMALL = 32


def draw(
    image: Image.Image,
    heat: NDArray[np.float32],
    part: Box,
    *,
    highest: float,
    palette: NDArray[np.uint8],
    alpha: float,
    box: Box | None = None,
) -> Image.Image:
    """Lay a map over the part of a picture that it belongs to; the rest stays as it is.

    Args:
        image: RGB.
        heat: The map in pixels of that part, (H, W), nowhere negative.
        part: Where it lies.
        highest: The value that gets the last colour; zero gets the first.
        palette: (256, 3).
        alpha: How much the colours cover, 0 to 1.
        box: A frame to be drawn around something.

    Returns:
        A new picture of the same size. Where the map is zero everywhere it is the old one.
    """
    drawn = image.copy()
    if highest > 0:
        warm = Image.fromarray(colours.coloured(heat / highest, palette))
        drawn.paste(Image.blend(image.crop(part), warm, alpha), part)
    if box is not None:
        _frame(drawn, box)
    return drawn


def _frame(image: Image.Image, box: Box) -> None:
    """Draw a white frame with black edges, visible on any colour, inside the box's bounds; none on a very small picture."""
    if min(image.size) < _SMALL:
        return
    width = max(1, round(min(image.size) / 150))
    lines = ("black", "white", "black")
    left, top, right, bottom = box
    for inset, colour in enumerate(colour for colour in lines for _ in range(width)):
        x0, y0, x1, y1 = left + inset, top + inset, right - inset, bottom - inset
        if x0 < x1 and y0 < y1:  # Pillow's own rectangles run over where they are as thin as their line
            for edge in ((x0, y0, x1, y0 + 1), (x0, y1 - 1, x1, y1), (x0, y0, x0 + 1, y1), (x1 - 1, y0, x1, y1)):
                image.paste(colour, edge)
