"""Boxes of objects, from pixels of the upright image to the network's input and back, and through augmentations; no pixels.

A target is the box as the network learns it: the centre and the sides, (cx, cy, w, h), as shares of the input's sides.
"""

import numpy as np
from numpy.typing import NDArray

from cnnkit.data import preprocessing
from cnnkit.data.augment import AugmentParams, affine_matrix
from cnnkit.formats.box import Box
from cnnkit.formats.header import Preprocess

#: Digits of a predicted box, in pixels, after the decimal point.
_DIGITS = 2

#: The target of an image without a box, or whose box is outside of the network's input.
NONE = np.full(4, np.nan, dtype=np.float32)


def target(box: Box | None, size: tuple[int, int], preprocess: Preprocess) -> NDArray[np.float32]:
    """Return the target of a box: its part inside the network's input.

    Args:
        box: In pixels of the upright image; None for an image without one.
        size: Of the image, (width, height).
        preprocess: How the image becomes the network's input.

    Returns:
        (cx, cy, w, h) as shares of the input's sides; NaN if there is no box, or nothing of it is inside.
    """
    if box is None:
        return NONE
    left, top, right, bottom = preprocessing.window(size, preprocess)
    corners = np.array([box.x, box.y, box.x + box.width, box.y + box.height], dtype=np.float64)
    corners = (corners - [left, top, left, top]) / [right - left, bottom - top, right - left, bottom - top]
    return _centred(corners)


def augmented(boxes: NDArray[np.float32], draws: list[AugmentParams], *, side: int) -> NDArray[np.float32]:
    """Return the targets of augmented copies: the bounding boxes of the moved corners, cut off at the edges.

    Args:
        boxes: (N, 4), targets of the images.
        draws: The parameters of each copy.
        side: Of the images, in pixels.

    Returns:
        (N, 4); NaN where there is no box, or the copy does not show it.
    """
    made = np.empty_like(boxes)
    for place, (box, draw) in enumerate(zip(boxes, draws, strict=True)):
        x0, y0, x1, y1 = corners_of(box.astype(np.float64)) * side - 0.5  # pixels are counted at their centres
        outline = np.array([[x0, x1, x1, x0], [y0, y0, y1, y1], [1, 1, 1, 1]])
        across, down, _ = np.linalg.solve(affine_matrix(draw, height=side, width=side), outline)
        made[place] = _centred((np.array([across.min(), down.min(), across.max(), down.max()]) + 0.5) / side)
    return made


def in_image(output: NDArray[np.float32], size: tuple[int, int], preprocess: Preprocess) -> Box | None:
    """Return a predicted box in pixels of the upright image, cut off at its edges; None if it is outside, or not finite.

    Args:
        output: (cx, cy, w, h) as shares of the input's sides.
        size: Of the image, (width, height).
        preprocess: How the image became the network's input.
    """
    left, top, right, bottom = preprocessing.window(size, preprocess)
    x0, y0, x1, y1 = corners_of(output.astype(np.float64)) * np.tile([right - left, bottom - top], 2)
    x0, x1 = (min(max(float(x) + left, 0.0), size[0]) for x in (x0, x1))
    y0, y1 = (min(max(float(y) + top, 0.0), size[1]) for y in (y0, y1))
    x, y, width, height = (round(value, _DIGITS) for value in (x0, y0, x1 - x0, y1 - y0))
    return Box(x, y, width, height) if width > 0 and height > 0 else None  # also not for NaN


def corners_of(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert (cx, cy, w, h) to left, top, right, bottom; (..., 4)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def _centred(corners: NDArray[np.float64]) -> NDArray[np.float32]:
    """Cut a box (left, top, right, bottom) off at the edges of the input, and convert it to (cx, cy, w, h)."""
    low, high = np.clip(corners.reshape(2, 2), 0, 1)
    if not (high > low).all():
        return NONE
    return np.concatenate([(low + high) / 2, high - low]).astype(np.float32)
