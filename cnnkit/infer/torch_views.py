"""Augmented copies of an image that need torch: a separate module, so that views.py does not import it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray

from cnnkit.data.augment_notation import Augmentation
from cnnkit.engine import torch_device
from cnnkit.engine.resample import Augmenter


class TorchCopies:
    """A CopyMaker that uses torch."""

    def __call__(
        self,
        square: NDArray[np.uint8],
        augmentation: Augmentation,
        fingerprint: str,
        copies: Sequence[int],
        *,
        seed: int,
    ) -> NDArray[np.uint8]:
        """Make copies of a prepared image, (K, height, width, 3); `copies` has their numbers."""
        augmenter = Augmenter(augmentation, seed=seed)
        squares = torch.from_numpy(np.array(square)).expand(len(copies), *square.shape)  # (K, height, width, 3)
        return augmenter(squares, [fingerprint] * len(copies), copies).numpy()

    def single_threaded(self) -> AbstractContextManager[None]:
        """Restrict torch to one core per thread that makes copies."""
        return torch_device.threads(1)
