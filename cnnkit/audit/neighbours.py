"""Neighbours in the feature space of a network: images of the same scene that perceptual hashes do not match."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnkit.data.source import ImageFile
from cnnkit.errors import CnnkitError, FormatError
from cnnkit.formats import features

#: Minimum cosine similarity of neighbours. Measured with the averaged last layer of MobileNetV2: of 4,000 cats and dogs, different
#: photographs have at most .871, copies at least .971; of 1,022 flowers, an edited copy has .950, a second photograph of one plant
#: .939, and two different daisies .909.
NEAR = 0.93

#: Rows per block; comparing a block with all others takes _BLOCK * N * 4 bytes.
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Features of images: row i of `values`, (N, D) of norm 1, belongs to the image at `positions[i]`."""

    positions: list[int]
    values: NDArray[np.float32]


def load(path: str | Path, images: Sequence[ImageFile]) -> ImageFeatures:
    """Find the features of images; rows of other images, and augmented views, are ignored.

    Raises:
        FormatError: They are maps, or broken.
        CnnkitError: None of the images is in them.
    """
    found = features.load(path)
    if found.values.ndim != 2:
        raise FormatError(
            f"{path}: maps of shape {found.values.shape[1:]}, but neighbours need vectors; extract with --pool avg"
        )
    folder = os.path.dirname(path)
    rows = {
        os.path.realpath(os.path.join(folder, row.path)): number
        for number, row in enumerate(found.rows)
        if not row.view
    }
    known = [
        (position, rows[real])
        for position, image in enumerate(images)
        if (real := os.path.realpath(image.path)) in rows
    ]
    if not known:
        raise CnnkitError(f"{path}: has features of none of the images; run cnn-extract on them")
    values = np.asarray(found.values[[row for _, row in known]], dtype=np.float32)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    usable = np.isfinite(length[:, 0]) & (length[:, 0] > 0)
    positions = [position for (position, _), good in zip(known, usable, strict=True) if good]
    return ImageFeatures(positions, values[usable] / length[usable])


def near(seen: ImageFeatures, *, similarity: float = NEAR) -> Iterator[tuple[int, int, float]]:
    """Find all pairs whose cosine is at least `similarity`.

    Yields:
        Positions of the earlier and of the later image, and their cosine.
    """
    for start in range(0, len(seen.values), _BLOCK):
        block = seen.values[start : start + _BLOCK]
        cosines = block @ seen.values[start:].T  # (B, D) @ (D, M) -> (B, M)
        rows, columns = np.nonzero(np.triu(cosines >= similarity, k=1))
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            yield seen.positions[start + row], seen.positions[start + column], float(cosines[row, column])
