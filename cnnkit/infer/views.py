"""Several views of each picture: the plain one, and augmented copies of those that are learnt from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.data import held_out
from cnnkit.data import preprocess as preparing
from cnnkit.data.augment import Augmentation
from cnnkit.data.images import Original
from cnnkit.data.source import Picture
from cnnkit.formats import manifest
from cnnkit.formats.header import Preprocess
from cnnkit.formats.manifest import Row


@dataclass(frozen=True, slots=True)
class Views:
    """Augmented copies of the prepared squares, 1 to `copies`, behind the plain one, which is 0.

    What measures (val, test) has the plain view alone. The copies are those that training with the same augmentation and seed makes of
    the same picture.
    """

    augmentation: Augmentation
    copies: int
    seed: int = 0

    def of(self, picture: Picture) -> range:
        """Count the views of a picture."""
        return range(1 if held_out.part_of(picture) else self.copies + 1)

    def __call__(self, picture: Picture, original: Original, preprocess: Preprocess) -> Sequence[NDArray[np.uint8]]:
        """Make the views of a picture, (size, size, 3) each.

        Args:
            picture: Which one.
            original: The same, decoded.
            preprocess: How it is prepared before it is augmented.
        """
        _, *copies = self.of(picture)
        square = preparing.prepare(original.image, preprocess)
        return [square, *augmented(square, self.augmentation, original.fingerprint, copies, seed=self.seed)]

    def described(self) -> dict[str, Any]:
        """Say for a Header how the views were made."""
        return {"augment": str(self.augmentation), "views": self.copies, "augment_seed": self.seed}


def augmented(
    square: NDArray[np.uint8], augmentation: Augmentation, fingerprint: str, copies: Sequence[int], *, seed: int
) -> Iterable[NDArray[np.uint8]]:
    """Make augmented copies of a prepared picture, (height, width, 3) each, by their numbers, in torch."""
    if not copies:
        return []
    # Here, since who makes no copies imports no torch
    import torch

    from cnnkit.engine import resample

    augmenter = resample.Augmenter(augmentation, seed=seed)
    squares = torch.from_numpy(np.array(square)).expand(len(copies), *square.shape)  # (K, height, width, 3)
    return augmenter(squares, [fingerprint] * len(copies), copies).numpy()


def rows_of(picture: Picture, folder: Path, views: Views | None) -> list[Row]:
    """Give a picture's rows in features that lie in a folder: one, or one for each of its views."""
    row = Row(manifest.seen_from(folder, picture.path), picture.label, picture.split, picture.group)
    return [row] if views is None else [replace(row, view=view) for view in views.of(picture)]
