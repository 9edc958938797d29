"""Augmented copies of an image that numpy cannot make: the part of views.py that imports torch."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray

from cnnkit.data.augment_notation import Augmentation
from cnnkit.engine import torch_device
from cnnkit.engine.resample import Augmenter


class TorchCopies:
    """A CopyMaker."""

    def __call__(
        self,
        square: NDArray[np.uint8],
        augmentation: Augmentation,
        fingerprint: str,
        copies: Sequence[int],
        *,
        seed: int,
    ) -> NDArray[np.uint8]:
        """Make copies of a prepared image by their numbers, (K, height, width, 3)."""
        augmenter = Augmenter(augmentation, seed=seed)
        squares = torch.from_numpy(np.array(square)).expand(len(copies), *square.shape)  # (K, height, width, 3)
        return augmenter(squares, [fingerprint] * len(copies), copies).numpy()

    def single_threaded(self) -> AbstractContextManager[None]:
        """Let each of the threads that make copies compute by itself."""
        return torch_device.threads(1)
