"""Loading of networks to explain: trained models, and networks by name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnkit.choices import Precision
from cnnkit.data import preprocessing
from cnnkit.engine import device as devices
from cnnkit.engine import torch_device
from cnnkit.engine.config import check_backbone_weights
from cnnkit.errors import UsageError
from cnnkit.explain.config import NetworkOptions
from cnnkit.formats import torch_model
from cnnkit.nets import catalogue, layer_graph, subgraph
from cnnkit.nets.layer_graph import GraphLayer, LayerGraph


def load_network(
    model: str, options: NetworkOptions, *, device: str = "auto", seed: int = 0
) -> tuple[LayerGraph, tuple[str, ...]]:
    """Load a network onto a device.

    Args:
        model: A `.pt`, or the name of a network.
        options: Its weights, and the size of its input.
        device: auto, cpu, cuda or cuda:N.
        seed: For random weights.

    Returns:
        The network and its classes.

    Raises:
        UsageError: There is no such network, or it does not accept that size.
        CnnkitError: The model or its weights cannot be loaded.
    """
    wanted, weights = devices.existing(device), options.weights
    if model.endswith(".pt"):
        if weights != "default":
            raise UsageError(f"{model} has its own weights; --weights is for a network given by name; drop it")
        content = torch_model.load(model)
        chosen = torch_device.choose(wanted)
        found, classes = layer_graph.of_model(content, name=model)
    else:
        check_backbone_weights(weights)
        if Path(model).is_file():
            raise UsageError(
                f"{model} is not a .pt made by cnnkit; for a state_dict give the name of its network, and --weights {model}"
            )
        name = catalogue.canonical(model)
        chosen = torch_device.choose(wanted)
        height, width = (None, None) if options.size is None else preprocessing.sides(options.size)
        size = height if height == width else None
        found, classes = layer_graph.of_name(name, weights=weights, seed=seed, size=size)
    if options.size is not None or options.fit is not None:
        found.resize(preprocessing.shown_as(found.preprocess, size=options.size, fit=options.fit))
    return found.to(chosen), classes


def differentiable(
    model: str, options: NetworkOptions, *, device: str = "auto", seed: int = 0
) -> tuple[LayerGraph, tuple[str, ...]]:
    """Load a network whose gradients are needed, as `load_network` does.

    Raises:
        UsageError: An exported network has none.
    """
    if model.endswith(".onnx"):
        raise UsageError(f"{model}: an exported network has no gradients; give the .pt it was made from")
    return load_network(model, options, device=device, seed=seed)


class TorchFeatureMaps:
    """A network whose feature maps can be computed.

    Attributes:
        preprocess: How an image is prepared for the network.
    """

    def __init__(self, network: LayerGraph) -> None:
        self.network, self.preprocess = network, network.preprocess

    @property
    def layers(self) -> list[GraphLayer]:
        """The layers that output maps, in order."""
        return self.network.layers()

    def find(self, wanted: str) -> GraphLayer:
        """Find a layer, as `LayerGraph.find`."""
        return self.network.find(wanted)

    def activations(self, image: NDArray[np.uint8], layers: Sequence[GraphLayer]) -> list[NDArray[np.float32]]:
        """Run the network on one image, (H, W, 3), and return the activations of layers, (C, h, w) each."""
        device = self.network.normalise.scale.device
        part = self.network.upto([layer.node for layer in layers], keep=True)
        strict = torch_device.multiplying_in(Precision.FLOAT32, device)
        with subgraph.mode(part, training=False), torch.no_grad(), strict:
            found: tuple[Tensor, ...] = part(self.network.normalise(torch.tensor(image[None], device=device)))
        return [
            layer_graph.as_maps(layer.node, output)[0].float().cpu().numpy()
            for layer, output in zip(layers, found, strict=True)
        ]
