"""Class activation maps by torch, of any network and layer: what the methods of `cam_methods` need to know of a forward pass.

The score of a class is its logit; of a single sigmoid, z for the second class and -z for the first.
"""

import contextlib
from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnkit.choices import CamMethod
from cnnkit.errors import UsageError
from cnnkit.explain.cam_methods import METHODS
from cnnkit.nets import layer_graph, subgraph
from cnnkit.nets.classifier import class_logits
from cnnkit.nets.layer_graph import GraphLayer, LayerGraph

#: By how much gradients may differ, as a share of the largest, to be called the same everywhere.
_SAME = 1e-3
#: How many outputs of a layer are tried for that.
_PROBES = 8


class TorchCam:
    """A network whose class activation maps torch computes.

    Attributes:
        classes: In the order of its outputs.
        layer: Where the maps are taken.
    """

    def __init__(
        self,
        network: LayerGraph,
        classes: tuple[str, ...],
        *,
        layer: GraphLayer,
        method: CamMethod = CamMethod.GRADCAM,
        contrast: bool = False,
        batch: int = 32,
    ) -> None:
        """Make a network ready. Hooks, gradients and train flags of its modules are left as they are.

        Args:
            network: On the device where it is to run.
            classes: As the attribute.
            layer: As the attribute.
            method: How maps are made.
            contrast: Maps of what speaks against a class in place of what speaks for it.
            batch: The largest number of images that a method runs at once.

        Raises:
            UsageError: The layer has no height and width, or method and network do not go together.
        """
        if not layer.is_spatial:
            raise UsageError(
                f"{layer.name} of {network.name} answers with {'x'.join(map(str, layer.shape))}, which has no height and "
                f"width; the last layer that has is {network.last_map().name}"
            )
        if contrast and not METHODS[method].uses_gradients:
            raise UsageError(
                f"--method {method} has no negative part that --contrast could show; use gradcam or hirescam"
            )
        self.network, self.classes, self.layer = network, classes, layer
        self.method, self.contrast, self.batch = METHODS[method], contrast, batch
        self._front, self._after = network.divide(layer.node)
        if self.method.needs_linear_head:
            self._demand_averaging()

    @property
    def _device(self) -> torch.device:
        return self.network.normalise.scale.device

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give the probability of every class, (N, H, W, 3) -> (N, classes)."""
        with self.running(), torch.no_grad():
            logits = self.network.module(self.network.normalise(torch.tensor(images, device=self._device)))
            return class_logits(logits).softmax(1).cpu().numpy()

    def forward(self, images: NDArray[np.uint8]) -> "TorchForwardPass":
        """Run the network forward, (N, H, W, 3)."""
        with self.running():
            with torch.no_grad():
                given = self.network.normalise(torch.tensor(images, device=self._device))
                activations, *others = self._front(given)
            leaf = activations.detach().requires_grad_(self.method.uses_gradients)
            with torch.enable_grad():
                # A copy goes on, since what comes first after the layer may work in place
                logits = self._after(leaf.clone(), *others)
        probabilities: NDArray[np.float32] = class_logits(logits.detach()).softmax(1).cpu().numpy()
        return TorchForwardPass(self, TorchLayerPass(self, given, leaf, logits), probabilities)

    def scores(self, images: Tensor) -> Tensor:
        """Give the scores of all classes for normalised images, (N, C, H, W) -> (N, classes)."""
        with self.running(), torch.no_grad():
            return class_scores(self.network.module(images))

    @contextlib.contextmanager
    def running(self) -> Generator[None]:
        """Put the network into eval mode, and let a GPU compute as exactly as a CPU."""
        # Without TF32, whose ten bits of mantissa would make a GPU's maps others than a CPU's
        with (
            subgraph.mode(self.network.module, training=False),
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
        with self.running():
            with torch.no_grad():
                output, *others = self._front(self.network.normalise(torch.tensor(grey, device=self._device)))
                maps = layer_graph.as_maps(self.layer.node, output)
                # In the mean over places each channel is anything, of both signs: what is not linear in that bends somewhere
                means = torch.randn(*maps.shape[:2], 1, 1, generator=generator)
                probe = (means + torch.randn(maps.shape, generator=generator)).to(self._device)
                maps.copy_(probe)
            leaf = output.detach().requires_grad_(True)
            with torch.enable_grad():
                total = class_scores(self._after(leaf.clone(), *others))[:, : _PROBES // 2]
            for number in range(total.shape[1]):
                (gradients,) = torch.autograd.grad(total[:, number].sum(), leaf, retain_graph=True)
                gradients = layer_graph.as_maps(self.layer.node, gradients)  # (N, C, h, w)
                largest = float(gradients.abs().max())
                if float((gradients - gradients[:1, :, :1, :1]).abs().max()) > _SAME * largest:
                    raise UsageError(
                        f"--method cam needs one dense layer behind the global average of {self.layer.name}, and "
                        f"{self.network.name} has something else there; --method gradcam goes with any network"
                    )


class TorchForwardPass:
    """What a network saw in a batch of images, and the maps of the classes that are asked for.

    Attributes:
        probabilities: (N, classes).
        seen: What the method sees.
    """

    def __init__(self, network: TorchCam, seen: "TorchLayerPass", probabilities: NDArray[np.float32]) -> None:
        self.probabilities, self.seen = probabilities, seen
        self._network, self._method = network, network.method(seen)

    def maps(self, classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute the map of a class for each image, by number, (N,) -> (N, h, w), nowhere negative and not scaled."""
        with self._network.running():
            found = self._method.maps(torch.from_numpy(classes).to(self.seen.activations.device))
        return found.relu().cpu().numpy()


class TorchLayerPass:
    """A forward pass for the methods of `cam_methods`.

    Attributes:
        images: As `LayerPass`.
        activations: As `LayerPass`.
        batch: As `LayerPass`.
    """

    def __init__(self, network: TorchCam, images: Tensor, leaf: Tensor, logits: Tensor) -> None:
        """Keep a forward pass; `leaf` is what the layer gave, and `logits` what the network made of it."""
        self.images, self.batch = images, network.batch
        self.activations = layer_graph.as_maps(network.layer.node, leaf.detach())
        self._network, self._leaf, self._scores = network, leaf, class_scores(logits)

    def gradients(self, classes: Tensor) -> Tensor:
        """Compute the gradient of each image's class score, of its negative for a contrast, (N,) -> (N, K, h, w)."""
        # The rows of a network in eval mode know nothing of each other: the gradient of the sum is that of each
        total = self._scores.gather(1, classes[:, None]).sum()
        (gradients,) = torch.autograd.grad(total, self._leaf, retain_graph=True)
        gradients = layer_graph.as_maps(self._network.layer.node, gradients)
        return -gradients if self._network.contrast else gradients

    def scores(self, images: Tensor) -> Tensor:
        """Compute the scores of all classes for normalised images, (M, C, H, W) -> (M, classes)."""
        return self._network.scores(images)


def class_scores(logits: Tensor) -> Tensor:
    """Give one score a class: the logits, or of a single sigmoid's z, -z and z. (N, classes) or (N, 1) -> (N, classes)."""
    return torch.cat([-logits, logits], 1) if logits.shape[1] == 1 else logits
