"""What the layers of a network answer, by torch."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnkit.nets import cutting, layered
from cnnkit.nets.layered import Layer, Layered


class TorchActivations:
    """A network whose layers can be looked at.

    Attributes:
        preprocess: How a picture is prepared for it.
    """

    def __init__(self, network: Layered) -> None:
        self.network, self.preprocess = network, network.preprocess

    @property
    def layers(self) -> list[Layer]:
        """Those that answer with maps, in order."""
        return self.network.layers()

    def find(self, wanted: str) -> Layer:
        """Find one, as `Layered.find`."""
        return self.network.find(wanted)

    def answers(self, image: NDArray[np.uint8], layers: Sequence[Layer]) -> list[NDArray[np.float32]]:
        """Run the network on one picture, (H, W, 3), and give what layers answer, (C, h, w) each."""
        place = self.network.normalise.scale.device
        part = self.network.upto([layer.node for layer in layers], keep=True)
        with cutting.mode(part, training=False), torch.no_grad():
            found: tuple[Tensor, ...] = part(self.network.normalise(torch.tensor(image[None], device=place)))
        return [
            layered.as_maps(layer.node, answer)[0].float().cpu().numpy()
            for layer, answer in zip(layers, found, strict=True)
        ]
