"""Several views of each picture: the plain one, and augmented copies of those that are learnt from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.data import held_out
from cnnkit.data.augment import Augmentation
from cnnkit.data.source import Picture
from cnnkit.formats import manifest
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

    def __call__(self, picture: Picture, square: NDArray[np.uint8], *, fingerprint: str) -> Sequence[NDArray[np.uint8]]:
        """Make the views of a picture, (size, size, 3) each.

        Args:
            picture: Which one.
            square: The picture, prepared.
            fingerprint: Of its file.
        """
        _, *copies = self.of(picture)
        if not copies:
            return [square]
        # Here, since an extraction without views imports no torch
        import torch

        from cnnkit.engine import resample

        augmenter = resample.Augmenter(self.augmentation, seed=self.seed)
        squares = torch.from_numpy(np.array(square)).expand(len(copies), *square.shape)  # (K, size, size, 3)
        return [square, *augmenter(squares, [fingerprint] * len(copies), copies).numpy()]

    def described(self) -> dict[str, Any]:
        """Say for a Header how the views were made."""
        return {"augment": str(self.augmentation), "views": self.copies, "augment_seed": self.seed}


def rows_of(picture: Picture, folder: Path, views: Views | None) -> list[Row]:
    """Give a picture's rows in features that lie in a folder: one, or one for each of its views."""
    row = Row(manifest.seen_from(folder, picture.path), picture.label, picture.split, picture.group)
    return [row] if views is None else [replace(row, view=view) for view in views.of(picture)]
