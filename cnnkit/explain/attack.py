"""Adversarial images: changes of at most epsilon per pixel, along the sign of the gradient of the loss, that change the prediction.

The attack is on the pixels that the network sees, after resizing and cropping; a PNG of them is classified without a further change.

Source: fast gradient sign method (FGSM): Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", 2015; several steps
(BIM): Kurakin, Goodfellow, Bengio, "Adversarial Examples in the Physical World", 2017; random start (PGD): Madry, Makelov, Schmidt,
Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn import functional

from cnnkit.explain.config import AttackOptions
from cnnkit.explain.pixel_gradients import PixelGradients
from cnnkit.nets.classifier import class_logits
from cnnkit.nets.layer_graph import LayerGraph

#: The default change of all steps of PGD together, as a multiple of epsilon: then every image within epsilon can be reached.
_REACH = 2.5


def _ignore(_step: int) -> None:
    """Do nothing."""


class Attacker:
    """Makes adversarial images for a network, which is not changed."""

    def __init__(self, network: LayerGraph, options: AttackOptions) -> None:
        """Prepare.

        Args:
            network: On its device.
            options: Epsilon, the steps, the random start and its seed; with a target, the loss of the given classes is reduced.
        """
        self.options = options
        (logits,) = network.module.graph.output_node().args
        assert isinstance(logits, fx.Node)
        self._pixels = PixelGradients(network, [logits])

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the probability of every class, (N, H, W, 3) -> (N, classes)."""
        with torch.no_grad(), self._pixels.running():
            found: NDArray[np.float32] = self._logits(self._float(images)).softmax(1).cpu().numpy()
        return found

    def attack(
        self, images: NDArray[np.uint8], classes: NDArray[np.int64], *, tick: Callable[[int], None] = _ignore
    ) -> NDArray[np.uint8]:
        """Increase the cross-entropy of a class of each image; with a target, reduce it.

        Args:
            images: (N, H, W, 3).
            classes: (N,), numbers of the true classes, or of the target.
            tick: Called after every step with its number.

        Returns:
            Images in which no value differs by more than epsilon.
        """
        options = self.options
        whole = self._float(images)
        wanted = torch.from_numpy(classes).to(self._pixels.device)
        sign = 1.0 if options.target is None else -1.0
        low, high = (whole - options.epsilon).clamp(min=0), (whole + options.epsilon).clamp(max=255)

        def objective(pixels: Tensor) -> Tensor:
            # Images do not depend on each other: the gradient of the sum is that of each
            return sign * functional.cross_entropy(self._logits(pixels), wanted, reduction="sum")

        one_step = options.steps == 1
        size = float(options.epsilon) if one_step else options.step_size or _REACH * options.epsilon / options.steps
        moved = whole if one_step or not options.random_start else (whole + self._noise(images)).clamp(0, 255)
        for step in range(1, options.steps + 1):
            direction = self._pixels.gradient(moved, objective).nan_to_num().sign()
            moved = torch.clamp(moved + size * direction, low, high)
            tick(step)
        # The bounds are whole numbers, so rounding stays within them
        return moved.round().to(torch.uint8).cpu().numpy()

    def _logits(self, pixels: Tensor) -> Tensor:
        (logits,) = self._pixels.outputs(pixels)
        return class_logits(logits)

    def _float(self, images: NDArray[np.uint8]) -> Tensor:
        return torch.tensor(images, dtype=torch.float32, device=self._pixels.device)

    def _noise(self, images: NDArray[np.uint8]) -> Tensor:
        """Draw uniform noise from -epsilon to epsilon for each image; it depends on the seed and on the pixels of that image only."""
        draws = []
        for image in images:
            digest = hashlib.sha256(b"%d:" % self.options.seed + image.tobytes()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
            draws.append(2 * torch.rand(image.shape, generator=generator) - 1)
        return self.options.epsilon * torch.stack(draws).to(self._pixels.device)
