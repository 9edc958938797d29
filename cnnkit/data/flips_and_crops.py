"""Copies of a picture that are mirrored or cropped and nothing else, for which numpy is enough; other words take `engine.resample`."""

import numpy as np
from numpy.typing import NDArray

from cnnkit.data import augment
from cnnkit.data.augment import Augmentation, Draw


def suffice(augmentation: Augmentation) -> bool:
    """Tell whether flips and crops are all that an augmentation does.

    Its `fill` is left out of account: a flip and a crop never look beyond the picture.
    """
    known = Augmentation(
        hflip=augmentation.hflip, vflip=augmentation.vflip, crop=augmentation.crop, fill=augmentation.fill
    )
    return augmentation == known


def copy(picture: NDArray[np.uint8], draw: Draw) -> NDArray[np.uint8]:
    """Make the copy that some numbers describe, of which those of flips and crops are heeded.

    A window is made as large as the picture by linear interpolation both ways, between the four nearest pixels: what `engine.resample`
    gives with `fill nearest`, but for the rounding of single values. Where there is no window the copy is exact.

    Args:
        picture: (height, width, 3).
        draw: The copy's numbers.

    Returns:
        (height, width, 3).
    """
    if not draw.resamples:
        return picture[:: -1 if draw.vflip else 1, :: -1 if draw.hflip else 1]
    height, width, _ = picture.shape
    matrix = augment.matrix(
        draw, height=height, width=width
    )  # rows and columns do not mix: there is no turn and no shear
    by_rows = _interpolated(picture.astype(np.float32), 0, scale=matrix[1, 1], start=matrix[1, 2])
    values = _interpolated(by_rows, 1, scale=matrix[0, 0], start=matrix[0, 2])
    return np.rint(values).astype(np.uint8)


def _interpolated(pixels: NDArray[np.float32], axis: int, *, scale: float, start: float) -> NDArray[np.float32]:
    """Take pixel number start + scale * i along an axis, for every i; at the outer edge its last one."""
    side = pixels.shape[axis]
    places = np.clip(start + scale * np.arange(side), 0, side - 1)
    before = places.astype(np.int64)
    share = (places - before).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    first: NDArray[np.float32] = pixels.take(before, axis=axis)
    second: NDArray[np.float32] = pixels.take(np.minimum(before + 1, side - 1), axis=axis)
    second -= first
    second *= share
    second += first
    return second
