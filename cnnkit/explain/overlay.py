"""A map laid over its picture."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnkit.explain import colours
from cnnkit.explain.spreading import Box


def draw(
    image: Image.Image,
    heat: NDArray[np.float32],
    part: Box,
    *,
    palette: NDArray[np.uint8],
    alpha: float,
    box: Box | None = None,
) -> Image.Image:
    """Lay a map over the part of a picture that it belongs to; the rest stays as it is.

    Args:
        image: RGB.
        heat: The map in pixels of that part, (H, W), nowhere negative. Its largest value gets the last colour, nought the first.
        part: Where it lies.
        palette: (256, 3).
        alpha: How much the colours cover, 0 to 1.
        box: A frame to be drawn around something.

    Returns:
        A new picture of the same size. Where the map is nought everywhere it is the old one.
    """
    drawn = image.copy()
    highest = float(heat.max())
    if highest > 0:
        warm = Image.fromarray(colours.coloured(heat / highest, palette))
        drawn.paste(Image.blend(image.crop(part), warm, alpha), part)
    if box is not None:
        _frame(drawn, box)
    return drawn


def _frame(image: Image.Image, box: Box) -> None:
    """Draw a white frame with black edges, visible on any colour, inside the box's bounds."""
    pen = ImageDraw.Draw(image)
    width = max(1, round(min(image.size) / 150))
    left, top, right, bottom = box
    for number, colour in enumerate(("black", "white", "black")):
        inset = number * width
        corners = (left + inset, top + inset, right - 1 - inset, bottom - 1 - inset)
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            pen.rectangle(corners, outline=colour, width=width)
