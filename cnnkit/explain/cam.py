"""Class activation maps: where in a picture a network sees what speaks for a class. In torch, for any network and layer.

The score of a class is its logit; of a single sigmoid, z for the second class and -z for the first.
"""

import contextlib
from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cnnkit.choices import CamMethod
from cnnkit.errors import UsageError
from cnnkit.nets import cutting, layered
from cnnkit.nets.classifier import class_logits
from cnnkit.nets.layered import Layer, Layered

#: Those that take no gradient, and so say nothing that could speak against a class.
WITHOUT_GRADIENT = frozenset({CamMethod.EIGENCAM, CamMethod.SCORECAM})
#: By how much gradients may differ, as a share of the largest, to be called the same everywhere.
_SAME = 1e-3
#: How many answers of a layer are tried for that.
_PROBES = 8


class TorchCam:
    """A network whose class activation maps torch computes.

    Attributes:
        classes: In the order of its outputs.
        layer: Where the maps are taken.
    """

    def __init__(
        self,
        network: Layered,
        classes: tuple[str, ...],
        *,
        layer: Layer,
        method: CamMethod = CamMethod.GRADCAM,
        contrast: bool = False,
        batch: int = 32,
    ) -> None:
        """Make a network ready. Hooks, gradients and train flags of its modules are left as they are.

        Args:
            network: On the device where it is to run.
            classes: As the attribute, likewise layer.
            method: How maps are made.
            contrast: Maps of what speaks against a class in place of what speaks for it.
            batch: How many masked pictures go through the network at once, for Score-CAM.

        Raises:
            UsageError: The layer has no height and width, or method and network do not go together.
        """
        if not layer.is_spatial:
            raise UsageError(
                f"{layer.name} of {network.name} answers with {'x'.join(map(str, layer.shape))}, which has no height and "
                f"width; the last layer that has is {network.last_spatial().name}"
            )
        if contrast and method in WITHOUT_GRADIENT:
            raise UsageError(
                f"--method {method} has no negative part that --contrast could show; use gradcam or hirescam"
            )
        self.network, self.classes, self.layer = network, classes, layer
        self.method, self.contrast, self._batch = method, contrast, batch
        self._front, self._behind = network.divide(layer.node)
        if method is CamMethod.CAM:
            self._demand_averaging()

    @property
    def _device(self) -> torch.device:
        return self.network.normalise.scale.device

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give the probability of every class, (N, H, W, 3) -> (N, classes)."""
        with self._running(), torch.no_grad():
            logits = self.network.module(self.network.normalise(torch.tensor(images, device=self._device)))
            return class_logits(logits).softmax(1).cpu().numpy()

    def look(self, images: NDArray[np.uint8]) -> "TorchForwardPass":
        """Run the network forward, (N, H, W, 3)."""
        with self._running():
            with torch.no_grad():
                pictures = self.network.normalise(torch.tensor(images, device=self._device))
                answer, *others = self._front(pictures)
            leaf = answer.detach().requires_grad_(self.method not in WITHOUT_GRADIENT)
            with torch.enable_grad():
                # A copy goes on, since what comes first behind the layer may work in place
                logits = self._behind(leaf.clone(), *others)
        return TorchForwardPass(self, pictures, leaf, logits)

    def scores(self, pictures: Tensor) -> Tensor:
        """Give the scores of all classes for normalised pictures, (N, C, H, W) -> (N, classes)."""
        with self._running(), torch.no_grad():
            return class_scores(self.network.module(pictures))

    @contextlib.contextmanager
    def _running(self) -> Generator[None]:
        # Without TF32, whose ten bits of mantissa would make a GPU's maps others than a CPU's
        with (
            cutting.mode(self.network.module, training=False),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            yield

    def _demand_averaging(self) -> None:
        """Demand that logits are a weighted sum of averages over the layer's map: then their gradient is the same everywhere.

        Raises:
            UsageError: They are not.
        """
        preprocess = self.network.preprocess
        grey = np.full((_PROBES, preprocess.height, preprocess.width, 3), 128, dtype=np.uint8)
        generator = torch.Generator().manual_seed(0)
        with self._running():
            with torch.no_grad():
                answer, *others = self._front(self.network.normalise(torch.tensor(grey, device=self._device)))
                maps = layered.as_maps(self.layer.node, answer)
                # In the mean over places each channel is anything, of both signs: what is not linear in that bends somewhere
                means = torch.randn(*maps.shape[:2], 1, 1, generator=generator)
                probe = (means + torch.randn(maps.shape, generator=generator)).to(self._device)
                maps.copy_(probe)
            leaf = answer.detach().requires_grad_(True)
            with torch.enable_grad():
                total = class_scores(self._behind(leaf.clone(), *others))[:, : _PROBES // 2]
            for number in range(total.shape[1]):
                (gradients,) = torch.autograd.grad(total[:, number].sum(), leaf, retain_graph=True)
                gradients = layered.as_maps(self.layer.node, gradients)  # (N, C, h, w)
                largest = float(gradients.abs().max())
                if float((gradients - gradients[:1, :, :1, :1]).abs().max()) > _SAME * largest:
                    raise UsageError(
                        f"--method cam needs one dense layer behind the global average of {self.layer.name}, and "
                        f"{self.network.name} has something else there; --method gradcam goes with any network"
                    )


class TorchForwardPass:
    """What a network saw in a batch, and the maps of the classes that are asked for."""

    def __init__(self, maps: TorchCam, pictures: Tensor, leaf: Tensor, logits: Tensor) -> None:
        self._maps, self._pictures, self._leaf = maps, pictures, leaf
        self._scores = class_scores(logits)
        self._kept: list[Tensor] = []  # what does not depend on the class
        #: (N, classes)
        self.probabilities: NDArray[np.float32] = class_logits(logits.detach()).softmax(1).cpu().numpy()

    def gradients(self, chosen: Tensor) -> Tensor:
        """Give the gradient of each picture's class, `chosen` (N,), at the layer: (N, C, h, w)."""
        # The rows of a network in eval mode know nothing of each other: the gradient of the sum is that of each
        total = self._scores.gather(1, chosen[:, None]).sum()
        (gradients,) = torch.autograd.grad(total, self._leaf, retain_graph=True)
        return layered.as_maps(self._maps.layer.node, gradients)

    def maps(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute the map of a class for each picture.

        Args:
            chosen: (N,), numbers of classes.

        Returns:
            (N, h, w), nowhere negative, as the method gives them: not scaled.
        """
        method, classes = self._maps.method, torch.from_numpy(chosen).to(self._leaf.device)
        activations = layered.as_maps(self._maps.layer.node, self._leaf.detach())
        with self._maps._running():
            if method is CamMethod.EIGENCAM:
                self._kept = self._kept or [principal(activations)]
                found = self._kept[0]
            elif method is CamMethod.SCORECAM:
                self._kept = self._kept or [
                    self._masked(picture, maps) for picture, maps in zip(self._pictures, activations, strict=True)
                ]
                weights = torch.stack(
                    [each[:, number].softmax(0) for each, number in zip(self._kept, classes, strict=True)]
                )  # (N, K)
                found = (weights[:, :, None, None] * activations).sum(1)
            else:
                found = combine(method, activations, self.gradients(classes), contrast=self._maps.contrast)
        return found.relu().cpu().numpy()

    def _masked(self, picture: Tensor, activations: Tensor) -> Tensor:
        """Score a picture of which each channel in turn lets something through: (C, H, W), (K, h, w) -> (K, classes)."""
        answers = []
        for some in torch.split(activations, self._maps._batch):
            masks = functional.interpolate(some[None], picture.shape[1:], mode="bilinear", align_corners=True)[0]
            low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
            masks = (masks - low) / (high - low + 1e-8)  # (k, H, W)
            answers.append(self._maps.scores(picture[None] * masks[:, None]))
        return torch.cat(answers)


def class_scores(logits: Tensor) -> Tensor:
    """Give one score a class: the logits, or of a single sigmoid's z, -z and z. (N, classes) or (N, 1) -> (N, classes)."""
    return torch.cat([-logits, logits], 1) if logits.shape[1] == 1 else logits


def combine(method: CamMethod, activations: Tensor, gradients: Tensor, *, contrast: bool = False) -> Tensor:
    """Make maps of activations and gradients.

    Args:
        method: One that takes gradients.
        activations: (N, K, h, w).
        gradients: Of the class's score, likewise.
        contrast: Take the gradients of the negative score: what speaks against the class.

    Returns:
        (N, h, w); negative values say that a place speaks against it.

    Source: the papers in `choices.CamMethod`; the weights of Grad-CAM++ are those of its equation 19 for an exponential score.
    """
    gradients = -gradients if contrast else gradients
    match method:
        case CamMethod.GRADCAM:
            return (gradients.mean((2, 3), keepdim=True) * activations).sum(1)
        case CamMethod.CAM:
            return (gradients.sum((2, 3), keepdim=True) * activations).sum(1)  # the gradient is the weight / (h * w)
        case CamMethod.HIRESCAM:
            return (gradients * activations).sum(1)
        case CamMethod.LAYERCAM:
            return (gradients.relu() * activations).sum(1)
        case CamMethod.GRADCAM_PLUS_PLUS:
            squared = gradients.square()
            below = 2 * squared + activations.sum((2, 3), keepdim=True) * squared * gradients
            shares = torch.where(squared > 0, squared / torch.where(below == 0, 1.0, below), 0.0)
            weights = (shares * gradients.relu()).sum((2, 3), keepdim=True)  # (N, K, 1, 1)
            return (weights * activations).sum(1)
        case _:
            raise ValueError(f"{method} takes no gradients")


def principal(activations: Tensor) -> Tensor:
    """Project every place's activations on their first principal component, (N, K, h, w) -> (N, h, w).

    A component has no sign of its own: it gets the one with which it is large where activations are large.
    """
    rows = activations.flatten(2).transpose(1, 2)  # (N, h*w, K)
    rows = rows - rows.mean(1, keepdim=True)
    _, _, components = torch.linalg.svd(rows, full_matrices=False)  # (N, r, K)
    found = rows @ components[:, 0, :, None]  # (N, h*w, 1)
    strength = (rows.sum(2, keepdim=True) * found).sum(1, keepdim=True)
    return torch.where(strength < 0, -found, found).reshape(activations.shape[0], *activations.shape[2:])
