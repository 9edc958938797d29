"""Faithfulness of a map: the probability of the class as the hottest pixels are hidden first, or shown first.

Source: Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cnnkit.explain import upsampling
from cnnkit.nets.cell_centres import CellCentres

#: The number of equal steps in which pixels are hidden or shown.
STEPS = 20
#: Standard deviation of the blur of the image on which pixels are shown, as a share of its longer side.
_BLUR = 0.05


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Areas under the curves, 0 to 1: for a faithful map `deletion` is low and `insertion` high."""

    deletion: float
    insertion: float


def measure(
    image: NDArray[np.uint8],
    found: NDArray[np.float32],
    number: int,
    *,
    probabilities: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    hidden: tuple[int, int, int],
    centres: CellCentres | None = None,
    batch: int = 32,
) -> Faithfulness:
    """Hide and show the pixels of an image, the hottest first.

    Args:
        image: The input of the network, (H, W, 3).
        found: The map, (h, w).
        number: The number of the class.
        probabilities: Maps images (N, H, W, 3) to the probabilities of all classes (N, classes).
        hidden: The colour of hidden pixels.
        centres: The centres of the cells of the map in the image; by default they tile it.
        batch: Images per batch.
    """
    height, width = image.shape[:2]
    heat = upsampling.resize(found, (width, height), centres)
    order = np.argsort(-heat, axis=None, kind="stable")
    places = np.empty(order.size, dtype=np.int64)
    places[order] = np.arange(order.size)
    rank = places.reshape(height, width)
    grey = np.broadcast_to(np.array(hidden, dtype=np.uint8), image.shape)
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(_BLUR * max(height, width))))
    counts = [round(step * rank.size / STEPS) for step in range(STEPS + 1)]
    hottest = [(rank < count)[:, :, None] for count in counts]
    deleted = np.stack([np.where(which, grey, image) for which in hottest])
    inserted = np.stack([np.where(which, image, blurred) for which in hottest])
    return Faithfulness(*(_area(images, number, probabilities, batch) for images in (deleted, inserted)))


def _area(
    images: NDArray[np.uint8],
    number: int,
    probabilities: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    batch: int,
) -> float:
    curve = np.concatenate(
        [probabilities(images[start : start + batch])[:, number] for start in range(0, len(images), batch)]
    )
    return float((curve[1:] + curve[:-1]).mean() / 2)  # trapezoids of equal width
