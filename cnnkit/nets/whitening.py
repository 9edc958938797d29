"""Whitening of images inside a network, as its first layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnkit.errors import UsageError
from cnnkit.formats.header import MOST_WHITENED
from cnnkit.nets.build import Network

#: Name of the layer.
NAME = "whiten"


class Whitening(nn.Module):
    """Subtract the mean image and multiply all values of an image by one matrix, (N, C, H, W) -> (N, C, H, W).

    Attributes:
        mean: (C, H, W).
        matrix: (D, D), with D = C * H * W. Neither is trained.
        shape: (C, H, W).
        dtype: Of the output; None for that of the input. It is always computed in float32.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, appendix A.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        """Leave images unchanged, until `mean` and `matrix` are set or loaded.

        Raises:
            UsageError: Images of that shape have too many values.
        """
        super().__init__()
        self.shape = tuple(shape)
        channels, height, width = self.shape
        count = channels * height * width
        if count > MOST_WHITENED:
            raise UsageError(
                f"whitening of {height}x{width} pixels with {channels} channels needs a matrix of {count:,} x {count:,}; "
                f"at most {MOST_WHITENED:,} values of an image are whitened"
            )
        self.dtype: torch.dtype | None = None
        self.register_buffer("mean", torch.zeros(self.shape))
        self.register_buffer("matrix", torch.eye(count))

    def forward(self, images: Tensor) -> Tensor:
        """Whiten scaled images.

        Raises:
            RuntimeError: They have another shape.
        """
        if tuple(images.shape[1:]) != self.shape:
            raise RuntimeError(f"whitening of {_shown(self.shape)} pixels does not fit {_shown(images.shape[1:])}")
        kind = images.device.type
        # In mixed precision, differences of nearly equal numbers would be lost
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self._whitened(images)
        return self._whitened(images)

    def _whitened(self, images: Tensor) -> Tensor:
        centred = images.to(self.matrix.dtype) - self.mean
        made = centred.reshape(-1, 1, len(self.matrix)) @ self.matrix  # (N, 1, D) @ (D, D)
        return made.reshape(-1, *self.shape).to(self.dtype or images.dtype)


def before(network: Network, shape: Sequence[int]) -> Network:
    """Return a network by notation with whitening as its first layer; it shares the modules.

    Args:
        network: A chain.
        shape: Shape of its input, (C, H, W).

    Raises:
        UsageError: As `Whitening`.
    """
    made = Network()
    made.add_module(NAME, Whitening(shape))
    for name, module in network.named_children():
        made.add_module(name, module)
    made.ends = {NAME: 0, **{name: end + 1 for name, end in network.ends.items()}}
    return made


def find(network: nn.Module) -> Whitening | None:
    """Return the whitening in a network, if there is one."""
    return next((module for module in network.modules() if isinstance(module, Whitening)), None)


def _shown(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[1:]))
