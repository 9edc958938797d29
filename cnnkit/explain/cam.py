"""Class activation maps in torch, for any network and layer: forward passes for the methods of `cam_methods`.

The score of a class is its logit; for a single sigmoid, z for the second class and -z for the first.
"""

import contextlib
from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnkit.choices import CamMethod
from cnnkit.engine import rows, torch_device
from cnnkit.errors import UsageError
from cnnkit.explain.cam_methods import METHODS
from cnnkit.nets import layer_graph, subgraph
from cnnkit.nets.classifier import class_probabilities
from cnnkit.nets.layer_graph import GraphLayer, LayerGraph

#: Gradients that differ by no more than this share of the largest count as equal.
_SAME = 1e-3
#: The number of random outputs of a layer on which they are compared.
_PROBES = 8


class TorchCam:
    """A network and the layer of its class activation maps.

    Attributes:
        classes: In the order of the outputs.
        layer: The layer of the maps.
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
        """Prepare a network. Hooks, gradients and train flags of its modules are not changed.

        Args:
            network: On its device.
            classes: As the attribute.
            layer: As the attribute.
            method: The method.
            contrast: Whether to map the evidence against a class instead.
            batch: The maximum number of images that a method runs at once.

        Raises:
            UsageError: The layer has no height and width, or the method does not support the network.
        """
        if not layer.is_spatial:
            raise UsageError(
                f"{layer.name} of {network.name} has output {'x'.join(map(str, layer.shape))}, without height and width; "
                f"the last layer with both is {network.last_map().name}"
            )
        if contrast and not METHODS[method].uses_gradients:
            raise UsageError(f"--contrast needs gradients, and {method} uses none; use gradcam or hirescam")
        self.network, self.classes, self.layer = network, classes, layer
        self.method, self.contrast, self.batch = METHODS[method], contrast, batch
        self._front, self._after = network.divide(layer.node)
        self._only_output = len(self._after.graph.find_nodes(op="placeholder")) == 1
        if self.method.needs_linear_head:
            self._demand_averaging()

    @property
    def _device(self) -> torch.device:
        return self.network.normalise.scale.device

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the probability of every class, (N, H, W, 3) -> (N, classes)."""
        with self.running(), torch.no_grad():
            logits = self.network.module(self.network.normalise(torch.tensor(images, device=self._device)))
            return class_probabilities(logits, multi_label=self.network.multi_label).cpu().numpy()

    def forward(self, images: NDArray[np.uint8]) -> "TorchForwardPass":
        """Run the network forward, (N, H, W, 3)."""
        with self.running():
            with torch.no_grad():
                given = self.network.normalise(torch.tensor(images, device=self._device))
            activations, *others = self._up_to_the_layer(given)
            leaf = activations.detach().requires_grad_(self.method.uses_gradients)
            with torch.enable_grad():
                # A copy, since the next layer may work in place
                logits = self._after(leaf.clone(), *others)
        probabilities = class_probabilities(logits.detach(), multi_label=self.network.multi_label).cpu().numpy()
        return TorchForwardPass(self, TorchLayerPass(self, given, leaf, logits), probabilities)

    def _up_to_the_layer(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run normalized images, (N, C, H, W), to the layer; return its output and what the layers after it need."""
        # Only the layer's output is known to have a row for each image
        if images.device.type == "cpu" and self._only_output and rows.fill_all_cores(len(images)):
            with torch_device.on_all_cores(self._front) as front:
                return front(images)
        with torch.no_grad():
            found: tuple[Tensor, ...] = self._front(images)
        return found

    def scores(self, images: Tensor) -> Tensor:
        """Compute the scores of all classes for normalized images, (N, C, H, W) -> (N, classes)."""
        with self.running(), torch.no_grad():
            return class_scores(self.network.module(images))

    @contextlib.contextmanager
    def running(self) -> Generator[None]:
        """Put the network into eval mode, and disable TF32 on a GPU."""
        # With the ten bits of mantissa of TF32, maps on a GPU would differ from those on a CPU
        with (
            subgraph.mode(self.network.module, training=False),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            yield

    def _demand_averaging(self) -> None:
        """Check that logits are a weighted sum of averages over the map of the layer: then their gradient is the same everywhere.

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
                # Means of both signs for each channel: any non-linearity in them changes the gradient between probes
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
                        f"--method cam needs one dense layer after global average pooling of {self.layer.name}, and "
                        f"{self.network.name} has other layers there; --method gradcam works for any network"
                    )


class TorchForwardPass:
    """A forward pass of a batch of images, and the maps of given classes.

    Attributes:
        probabilities: (N, classes).
        seen: The pass, for the method.
    """

    def __init__(self, network: TorchCam, seen: "TorchLayerPass", probabilities: NDArray[np.float32]) -> None:
        self.probabilities, self.seen = probabilities, seen
        self._network, self._method = network, network.method(seen)

    def maps(self, classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute the map of one class, by number, for each image, (N,) -> (N, h, w), non-negative and not scaled."""
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
        """Keep a forward pass; `leaf` is the output of the layer, `logits` that of the network."""
        self.images, self.batch = images, network.batch
        self.activations = layer_graph.as_maps(network.layer.node, leaf.detach())
        self._network, self._leaf, self._scores = network, leaf, class_scores(logits)

    def gradients(self, classes: Tensor) -> Tensor:
        """Compute the gradient of each image's class score, of its negative for a contrast, (N,) -> (N, K, h, w)."""
        # In eval mode images are independent: the gradient of the sum is that of each
        total = self._scores.gather(1, classes[:, None]).sum()
        (gradients,) = torch.autograd.grad(total, self._leaf, retain_graph=True)
        gradients = layer_graph.as_maps(self._network.layer.node, gradients)
        return -gradients if self._network.contrast else gradients

    def scores(self, images: Tensor) -> Tensor:
        """Compute the scores of all classes for normalized images, (M, C, H, W) -> (M, classes)."""
        return self._network.scores(images)


def class_scores(logits: Tensor) -> Tensor:
    """Return one score per class: the logits, or -z and z for a single sigmoid. (N, classes) or (N, 1) -> (N, classes)."""
    return torch.cat([-logits, logits], 1) if logits.shape[1] == 1 else logits
