"""Cutting a network at a layer: which layers there are, by whose names, and the part up to one of them."""

import difflib
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import SwinTransformer
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from cnnkit.errors import UsageError
from cnnkit.nets import build

# The first words of what stands behind the base: pooling and classifier.
_BEHIND = ("classifier", "head", "heads", "fc", "last_linear", "avgpool", "global_pool")


def cut(module: nn.Module, layer: str) -> nn.Module:
    """Give the part of a network up to a layer, with the modules that it uses and no others, under their old names.

    Args:
        module: A whole network, in eval mode. Its modules are shared, not copied.
        layer: From `find_layer`.

    Returns:
        (N, 3, H, W) -> what the layer answers, with separate graphs for training and for evaluation. Maps are (N, C, h, w), also
        those of the networks that keep channels last inside.
    """
    part = create_feature_extractor(module, {layer: "cut"}, **_tracing(module))
    for graph in (part.train_graph, part.eval_graph):
        output = next(node for node in graph.nodes if node.op == "output")
        answer = output.args[0]["cut"]
        if _has_channels_last(module, layer):
            with graph.inserting_before(output):
                answer = graph.call_function(torch.permute, (answer, (0, 3, 1, 2)))
        output.args = (answer,)  # the tensor itself, in place of {"cut": tensor}
    part.graph = part.eval_graph  # recompiles
    part.eval()
    return part  # type: ignore[no-any-return] # torchvision ships no types


def _has_channels_last(module: nn.Module, layer: str) -> bool:
    """Tell whether a layer answers (N, h, w, C): Swin transformers do, between the patches and the pooling."""
    if isinstance(module, SwinTransformer):
        return layer.split(".")[0] in ("features", "norm") and not layer.startswith("features.0.0")
    behind = ("patch_embed", "head", "global_pool", "fc")
    return getattr(module, "output_fmt", "NCHW") == "NHWC" and layer.split(".")[0] not in behind  # timm says so


def find_layer(name: str, module: nn.Module, layer: str | None, *, size: int) -> str:
    """Find the node of a network's graph that a layer's name means.

    Args:
        name: The network's name.
        module: The whole network, in eval mode.
        layer: A module's name, a node of the graph, or Keras' name of a VGG's layer. Without one, the last layer with spatial
            extent before the classifier; for a transformer, whose tokens have none, what its classifier reads.
        size: Side of the pictures, in pixels.

    Raises:
        UsageError: There is none of that name; the nearest ones are proposed.
    """
    nodes = get_graph_node_names(module, **_tracing(module))[1][1:]  # the first one is the input
    if layer is None:
        return _last_spatial(module, nodes, size)
    wanted = keras_names(name).get(layer, layer)
    if any(node == wanted or node.startswith(f"{wanted}.") for node in nodes):
        return wanted
    near = difflib.get_close_matches(layer, [*keras_names(name), *dict(module.named_modules()), *nodes], n=3)
    proposal = f"did you mean {' or '.join(near)}?" if near else f"cnn-dims {name} lists them"
    raise UsageError(f'{name} has no layer "{layer}"; {proposal}')


def keras_names(name: str) -> dict[str, str]:
    """Give Keras' names of a VGG's layers with the modules whose output they mean; nothing for other networks.

    A convolution of Keras includes its activation, so `block1_conv1` is the module of the ReLU behind the convolution.
    """
    if not name.startswith("vgg"):
        return {}
    with torch.device("meta"):
        module = torchvision.models.get_model(name, weights=None)
    names, block, conv = {}, 1, 0
    for index, part in enumerate(module.features):
        if isinstance(part, nn.ReLU):
            conv += 1
            names[f"block{block}_conv{conv}"] = f"features.{index}"
        elif isinstance(part, nn.MaxPool2d):
            names[f"block{block}_pool"] = f"features.{index}"
            block, conv = block + 1, 0
    return {**names, "fc1": "classifier.1", "fc2": "classifier.4", "predictions": "classifier.6"}


def _tracing(module: nn.Module) -> dict[str, Any]:
    """Say which modules and functions of a network must stay whole when its graph is made."""
    leaves: list[type[nn.Module]] = [build.SamePad]  # its padding depends on the size of what comes in
    functions: list[Callable[..., Any]] = []
    if type(module).__module__.startswith("timm."):
        from timm.layers import get_notrace_functions, get_notrace_modules

        leaves += get_notrace_modules()
        functions += get_notrace_functions()
    return {"tracer_kwargs": {"leaf_modules": leaves, "autowrap_functions": functions}, "suppress_diff_warning": True}


def _last_spatial(module: nn.Module, nodes: list[str], size: int) -> str:
    body = [node for node in nodes if node.split(".")[0] not in _BEHIND]
    answers = create_feature_extractor(
        module, eval_return_nodes=body, train_return_nodes=nodes[:1], **_tracing(module)
    ).eval()
    with torch.no_grad():
        seen = answers(torch.zeros(1, 3, size, size))
    shapes = [(node, tuple(seen[node].shape)) for node in body if isinstance(seen[node], Tensor)]
    spatial = [index for index, (_, shape) in enumerate(shapes) if len(shape) == 4 and min(shape[2:]) > 1]
    last = spatial[-1]
    if any(len(shape) == 3 for _, shape in shapes[last + 1 :]):  # tokens: the picture's grid was given up on the way
        last = max(index for index, (_, shape) in enumerate(shapes) if len(shape) == 2)
    return _outermost(module, body, shapes[last][0])


def _outermost(module: nn.Module, nodes: list[str], node: str) -> str:
    """Name a node by the largest module that it is the end of, plain containers aside: features.18, not features.18.2."""
    modules = dict(module.named_modules())
    parts = node.split(".")
    for length in range(1, len(parts)):
        prefix = ".".join(parts[:length])
        inside = [other for other in nodes if other.startswith(f"{prefix}.")]
        if inside[-1] == node and type(modules.get(prefix)) not in (nn.Sequential, nn.ModuleList, type(None)):
            return prefix
    return node
