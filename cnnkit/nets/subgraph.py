"""Cut a network at a layer: names of its layers, and the part of it up to one of them."""

import contextlib
import copy
import inspect
import math
import operator
from collections.abc import Callable, Generator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnkit import messages
from cnnkit.errors import UsageError
from cnnkit.nets import build, token_grid, torchvision_modules
from cnnkit.nets.token_grid import TokenGrid

# First parts of names after the backbone: pooling and classifier.
_AFTER = ("classifier", "head", "heads", "fc", "last_linear", "avgpool", "global_pool")


def _feature_extraction() -> Any:  # noqa: ANN401 - torchvision ships no types
    """Import torchvision's functions for graphs: here, since a network by notation does without them."""
    return torchvision_modules.imported("torchvision.models.feature_extraction")


def is_of_torchvision(module: nn.Module, *names: str) -> bool:
    """Check whether a module is of one of these classes of torchvision, without importing it."""
    kinds = type(module).__mro__
    return any(kind.__name__ in names and kind.__module__.partition(".")[0] == "torchvision" for kind in kinds)


def cut(module: nn.Module, layer: str) -> nn.Module:
    """Return the part of a network up to a layer, with only the modules that it uses, under their old names.

    Args:
        module: A whole network, in eval mode. Its modules are shared, not copied.
        layer: From `find_layer`.

    Returns:
        (N, 3, H, W) -> the layer's output, with separate graphs for training and for evaluation. Maps are (N, C, h, w), also
        those of networks that keep channels last inside. A node's `meta` has "path", its own place among the modules; "layer", the
        name with which this function cuts after it; and "channels_last", whether this function permutes its output then.
    """
    # A copy, since tracing stores constants in the traced module: a second cut would give them other names
    part = _feature_extraction().create_feature_extractor(copy.copy(module), {layer: "cut"}, **_tracing(module))
    for training, graph in ((True, part.train_graph), (False, part.eval_graph)):
        names = _layer_names(module, training=training)
        for node in graph.nodes:
            if node.name in names:
                node.meta["path"], node.meta["layer"] = names[node.name]
                node.meta["channels_last"] = _has_channels_last(module, node.meta["layer"])
        output = next(node for node in graph.nodes if node.op == "output")
        output.meta["layer"] = layer
        result = output.args[0]["cut"]
        if _has_channels_last(module, layer):
            with graph.inserting_before(output):
                result = graph.call_function(torch.permute, (result, (0, 3, 1, 2)))
        output.args = (result,)  # the tensor itself, in place of {"cut": tensor}
    part.graph = part.eval_graph  # recompiles
    part.eval()
    part.token_grid = token_grid.of_network(module)  # for `token_grid.of_cut`
    return part  # type: ignore[no-any-return] # torchvision ships no types


def cut_points(graph: fx.Graph, before: int) -> dict[str, fx.Node]:
    """Find the places at which a network can be cut in two, since only one tensor is passed on there, parameters aside.

    Args:
        graph: One of the graphs of a network from `cut`.
        before: How many of its nodes to search.

    Returns:
        The nodes that return that tensor, in order, by the name with which `cut` cuts there.
    """
    nodes = list(graph.nodes)
    places = {node: index for index, node in enumerate(nodes)}
    last = {node: max((places[user] for user in node.users), default=-1) for node in nodes}
    found: dict[str, fx.Node] = {}
    alive: list[fx.Node] = []
    for index, node in enumerate(nodes[:before]):
        alive = [each for each in (*alive, node) if each.op != "get_attr" and last[each] > index]
        if alive == [node] and node.op != "placeholder" and "layer" in node.meta and not _is_several(node):
            found[node.meta["layer"]] = node
    return found


def _is_several(node: fx.Node) -> bool:
    """Check whether a node returns a tuple, from which other nodes take items."""
    return any(user.target is operator.getitem and isinstance(user.args[1], int) for user in node.users)


def extract(end: fx.Node, *, after: bool) -> fx.Graph:
    """Copy the part of a graph that ends with a node, or the part after it.

    Args:
        end: From `cut_points`. Its output is passed from one part to the other in the form that `cut` returns, (N, C, h, w).
        after: Return the part after the node.
    """
    nodes = list(end.graph.nodes)
    place = nodes.index(end) + 1
    inside = set(nodes[place:] if after else nodes[:place])
    graph, copies = fx.Graph(tracer_cls=end.graph._tracer_cls), dict[fx.Node, fx.Node]()
    if after:
        copies[end] = graph.placeholder("given")
        if end.meta["channels_last"]:
            copies[end] = graph.call_function(torch.permute, (copies[end], (0, 2, 3, 1)))
    for node in nodes:
        if any(user in inside for user in node.users) if node.op == "get_attr" else node in inside:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    if not after:
        output = copies[end]
        if end.meta["channels_last"]:
            output = graph.call_function(torch.permute, (output, (0, 3, 1, 2)))
        graph.output(output)
    return graph


def dual(backbone: nn.Module, *, train: fx.Graph, evaluation: fx.Graph) -> nn.Module:
    """Make a network with separate graphs for training and for evaluation, as `cut` does, from modules of another."""
    upper: nn.Module = _feature_extraction().DualGraphModule(backbone, train, evaluation, "Upper")
    return upper


def _layer_names(module: nn.Module, *, training: bool) -> dict[str, tuple[str, str]]:
    """Name the output of every node of a network's graph: by its own path, and by the largest module that ends with it.

    torchvision's feature extractors keep the names of nodes, which are the same in every trace, but not their modules.
    """
    ops = torchvision_modules.imported("torchvision.ops")
    classes = [each for _, each in inspect.getmembers(ops, inspect.isclass) if issubclass(each, nn.Module)]
    settings = dict(_tracing(module)["tracer_kwargs"])
    settings["leaf_modules"] = [*settings["leaf_modules"], *classes]  # as torchvision does
    tracer = _feature_extraction().NodePathTracer(autowrap_modules=(math, ops), **settings)
    with mode(module, training=training):
        tracer.trace(copy.copy(module))  # tracing stores constants in the traced module
    paths = {node.name: path for node, path in tracer.node_to_qualname.items()}
    modules, last = dict(module.named_modules()), _last_inside(list(paths.values()))
    return {name: (path, _outermost(modules, last, path)) for name, path in paths.items()}


@contextlib.contextmanager
def mode(module: nn.Module, *, training: bool) -> Generator[None]:
    """Set the mode of a network temporarily; afterwards each module is back in its own mode, also after an exception."""
    modes = [(each, each.training) for each in module.modules()]
    try:
        module.train(training)
        yield
    finally:
        for each, before in modes:
            each.training = before


def _has_channels_last(module: nn.Module, layer: str) -> bool:
    """Check whether a layer outputs (N, h, w, C), as Swin transformers do between the patches and the pooling."""
    if is_of_torchvision(module, "SwinTransformer"):
        return layer.split(".")[0] in ("features", "norm") and not layer.startswith("features.0.0")
    after = ("patch_embed", "head", "global_pool", "fc")
    return getattr(module, "output_fmt", "NCHW") == "NHWC" and layer.split(".")[0] not in after  # timm says so


#: The chain of numbered modules of VGGs, MobileNets and others in torchvision: a layer's number is its place there.
NUMBERED = "features"


def find_layer(name: str, module: nn.Module, layer: str | None, *, size: int, tokens: bool = False) -> str:
    """Find the node of a network's graph for a layer's name.

    Args:
        name: The network's name.
        module: The whole network, in eval mode.
        layer: A module's name, a node of the graph, Keras' name of a VGG's layer, or a number N for the module `features.N`. By
            default the last layer with spatial dimensions before the classifier; for a transformer, whose tokens have none, the input of
            the classifier.
        size: Side of the images, in pixels.
        tokens: By default, the last layer that outputs all tokens, if the network has tokens.

    Raises:
        UsageError: There is no such layer; the message proposes similar names.
    """
    nodes: list[str] = _feature_extraction().get_graph_node_names(module, **_tracing(module))[1][
        1:
    ]  # the first one is the input
    if layer is None:
        grid = token_grid.of_network(module) if tokens else None
        return _last_spatial(module, nodes, size) if grid is None else _last_tokens(module, nodes, size, grid)
    possible: list[str] = [keras_names(name).get(layer, layer), *([f"{NUMBERED}.{layer}"] if layer.isdecimal() else [])]
    for wanted in possible:
        if any(node == wanted or node.startswith(f"{wanted}.") for node in nodes):
            return wanted
    known = [*keras_names(name), *dict(module.named_modules()), *nodes]
    proposal = messages.nearest(layer, known) or f"cnn-dims {messages.shell_word(name)} lists them"
    raise UsageError(f'{name} has no layer "{layer}"; {proposal}')


def output_layer(module: nn.Module) -> str:
    """Return the name of a whole network's last node, for `cut`."""
    nodes: list[str] = _feature_extraction().get_graph_node_names(module, **_tracing(module))[1]
    return nodes[-1]


def keras_names(name: str) -> dict[str, str]:
    """Map Keras' names of a VGG's layers to the modules with the same output; empty for other networks.

    Keras' convolutions include their activation, so `block1_conv1` is the ReLU module after the convolution.
    """
    if not name.startswith("vgg"):
        return {}
    with torch.device("meta"):
        module = torchvision_modules.imported("torchvision.models").get_model(name, weights=None)
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
    """Return the settings for tracing a network: modules and functions that must not be traced into."""
    leaves: list[type[nn.Module]] = [build.SamePad]  # its padding depends on the size of its input
    functions: list[Callable[..., Any]] = []
    if type(module).__module__.startswith("timm."):
        from timm.layers import get_notrace_functions, get_notrace_modules

        leaves += get_notrace_modules()
        functions += get_notrace_functions()
    return {"tracer_kwargs": {"leaf_modules": leaves, "autowrap_functions": functions}, "suppress_diff_warning": True}


def _shapes(module: nn.Module, nodes: list[str], size: int) -> list[tuple[str, tuple[int, ...]]]:
    """Measure the outputs of nodes before the classifier."""
    body = [node for node in nodes if node.split(".")[0] not in _AFTER]
    outputs = (
        _feature_extraction()
        .create_feature_extractor(module, eval_return_nodes=body, train_return_nodes=nodes[:1], **_tracing(module))
        .eval()
    )
    with torch.no_grad():
        seen = outputs(torch.zeros(1, 3, size, size))
    return [(node, tuple(seen[node].shape)) for node in body if isinstance(seen[node], Tensor)]


def _last_spatial(module: nn.Module, nodes: list[str], size: int) -> str:
    shapes = _shapes(module, nodes, size)
    spatial = [index for index, (_, shape) in enumerate(shapes) if len(shape) == 4 and min(shape[2:]) > 1]
    last = max(spatial, default=-1)
    if any(len(shape) == 3 for _, shape in shapes[last + 1 :]):  # tokens: the image's grid is gone
        last = max(index for index, (_, shape) in enumerate(shapes) if len(shape) == 2)
    return _end_of_module(module, nodes, shapes[last][0])


def _last_tokens(module: nn.Module, nodes: list[str], size: int, grid: TokenGrid) -> str:
    modules, shapes = dict(module.named_modules()), _shapes(module, nodes, size)
    tokens = [node for node, shape in shapes if len(shape) == 3 and shape[1] == grid.count and _is_before_pooling(node)]
    return [name for name in (_end_of_module(module, nodes, node) for node in tokens) if name in modules][-1]


def _is_before_pooling(node: str) -> bool:
    return node.partition(".")[0] != "attn_pool"  # of timm: attention with a query of its own


def _end_of_module(module: nn.Module, nodes: list[str], node: str) -> str:
    """Name a node before the classifier by the largest module that ends with it."""
    body = [each for each in nodes if each.split(".")[0] not in _AFTER]
    return _outermost(dict(module.named_modules()), _last_inside(body), node)


def _last_inside(nodes: list[str]) -> dict[str, str]:
    """Map every module to the last node inside it; nodes are in the order in which they run."""
    return {
        ".".join(parts[:length]): node
        for node in nodes
        for parts in [node.split(".")]
        for length in range(1, len(parts))
    }


def _outermost(modules: Mapping[str, nn.Module], last: Mapping[str, str], node: str) -> str:
    """Name a node by the largest module that ends with it, plain containers aside: features.18, not features.18.2."""
    parts = node.split(".")
    for length in range(1, len(parts)):
        prefix = ".".join(parts[:length])
        if last[prefix] == node and type(modules.get(prefix)) not in (nn.Sequential, nn.ModuleList, type(None)):
            return prefix
    return node
