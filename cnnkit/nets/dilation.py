"""Finer maps with the same weights: the last stride before a layer is removed, and the layers after it are dilated instead.

Every r-th row and column of the finer map equals the old map, where r is the stride that was removed.

Source: Holschneider, Kronland-Martinet, Morlet, Tchamitchian, "A real-time algorithm for signal analysis with the help of the wavelet
transform", 1989 (the algorithme à trous); Yu, Koltun, Funkhouser, "Dilated Residual Networks", CVPR 2017.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from cnnkit.errors import UsageError
from cnnkit.nets import build, subgraph
from cnnkit.nets.classifier import Pooling
from cnnkit.nets.layer_graph import GraphLayer, LayerGraph
from cnnkit.nets.layer_modules import LocalResponseNorm

_STRIDING = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
#: Modules that treat every position alike, or all positions together.
_INDIFFERENT_MODULES = (
    *(getattr(nn, name) for name in nn.modules.activation.__all__ if name != "MultiheadAttention"),
    *(nn.BatchNorm2d, nn.BatchNorm1d, nn.LayerNorm, nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten, nn.Linear),
    *(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, build.GlobalPool, Pooling, nn.LocalResponseNorm, LocalResponseNorm),
)
_INDIFFERENT_OF_TORCHVISION = ("Permute", "StochasticDepth", "SqueezeExcitation")
_INDIFFERENT_FUNCTIONS = frozenset(
    {
        *(
            "add",
            "iadd",
            "mul",
            "imul",
            "sub",
            "cat",
            "concat",
            "mean",
            "flatten",
            "permute",
            "reshape",
            "view",
            "size",
        ),
        *("getattr", "getitem", "dropout", "stochastic_depth", "adaptive_avg_pool2d", "relu", "relu_", "relu6", "silu"),
        *(
            "gelu",
            "hardswish",
            "hardsigmoid",
            "sigmoid",
            "layer_norm",
            "batch_norm",
            "squeeze",
            "unsqueeze",
            "contiguous",
        ),
    }
)


def remove_last_stride(network: LayerGraph, layer: GraphLayer) -> tuple[LayerGraph, GraphLayer]:
    """Remove the last stride before a layer.

    Args:
        network: Any network whose strides are those of convolutions and poolings.
        layer: A layer of the network.

    Returns:
        A network that shares the weights, and the layer in it, with r times the rows and columns.

    Raises:
        UsageError: There is no stride to remove, a layer after it cannot be dilated, or the head takes maps of a single size.
    """
    graph = network.module.graph
    scales = _scales(network.module)
    factors = {node: _stride(network.module, node) for node in graph.nodes}
    # Strides parallel to it as well, such as a shortcut's, whose output is added to the layer's
    last = [node for node in graph.nodes if factors[node] > 1 and scales[node] == scales[layer.node]]
    factor = {factors[node] for node in last}
    before = {layer.node, *_reached([layer.node], lambda node: node.all_input_nodes)}
    if len(factor) != 1 or before.isdisjoint(last):
        raise UsageError(
            f"{network.name} has no stride of a convolution or pooling before {layer.name} that could be removed"
        )
    (stride,) = factor
    changed = fx.GraphModule(network.module, graph)
    after = _reached(last, lambda node: node.users)
    replaced: dict[str, nn.Module] = {}
    for node in graph.nodes:
        if node in last:
            replaced[str(node.target)] = UnstridedConv(network.module.get_submodule(str(node.target)), stride)
        elif node in after and (other := _dilated(network, node, stride)) is not None:
            replaced[str(node.target)] = other
    for path, module in replaced.items():
        above, _, name = path.rpartition(".")
        setattr(changed.get_submodule(above), name, module)
    try:
        made = network.with_graph(changed)
    except RuntimeError as error:
        raise UsageError(
            f"--fine makes the maps of {network.name} larger, but its later layers take a single size "
            f"({str(error).splitlines()[0]}); it needs global pooling before the head, as with --pool avg or --pool max"
        ) from error
    position = list(graph.nodes).index(layer.node)
    return made, made.layer(list(changed.graph.nodes)[position])


class UnstridedConv(nn.Module):
    """A convolution or pooling without its stride, (N, C, H, W) -> (N, C', stride*n, stride*m), where (n, m) was its output size."""

    def __init__(self, module: nn.Module, stride: int) -> None:
        super().__init__()
        self.module, self.stride = module, stride

    def forward(self, maps: Tensor) -> Tensor:
        """Compute the positions between the old outputs, too; the lower and right edges are padded as needed."""
        module = self.module
        (above, left), (kernel_y, kernel_x), (dilation_y, dilation_x) = (
            _pair(getattr(module, name, 1)) for name in ("padding", "kernel_size", "dilation")
        )
        ceil = bool(getattr(module, "ceil_mode", False))
        rows = _padding(maps.shape[-2], kernel_y, above, dilation_y, self.stride, ceil=ceil)
        columns = _padding(maps.shape[-1], kernel_x, left, dilation_x, self.stride, ceil=ceil)
        if isinstance(module, nn.Conv2d):
            padded = functional.pad(maps, (*columns, *rows))
            return functional.conv2d(padded, module.weight, module.bias, 1, 0, module.dilation, module.groups)
        if isinstance(module, nn.MaxPool2d):
            padded = functional.pad(maps, (*columns, *rows), value=-torch.inf)
            pooled = functional.max_pool2d(padded, module.kernel_size, 1, 0, module.dilation)
        else:
            pooled = self._averaged(maps, columns, rows)
        # A window entirely beyond the map (possible with a kernel smaller than its stride) repeats the last window that is not
        down = torch.arange(pooled.shape[-2], device=maps.device).clamp(max=maps.shape[-2] + above - 1)
        across = torch.arange(pooled.shape[-1], device=maps.device).clamp(max=maps.shape[-1] + left - 1)
        return pooled[:, :, down[:, None], across]

    def _averaged(self, maps: Tensor, columns: tuple[int, int], rows: tuple[int, int]) -> Tensor:
        """Average the part of each window inside the map, or also inside torch's own padding if the module counts it."""
        module = self.module
        assert isinstance(module, nn.AvgPool2d)
        (above, left), size = _pair(module.padding), _pair(module.kernel_size)
        counted = torch.ones_like(maps[:1, :1])
        ends = (*columns, *rows)
        if module.count_include_pad:
            own = (left, min(left, columns[1]), above, min(above, rows[1]))
            counted = functional.pad(counted, own, value=1.0)
            ends = (0, columns[1] - own[1], 0, rows[1] - own[3])
        share = functional.avg_pool2d(functional.pad(counted, ends), size, 1)
        return functional.avg_pool2d(functional.pad(maps, (*columns, *rows)), size, 1) / share


class _DilatedPad(nn.Module):
    """The padding of `build.SamePad` on a finer map."""

    def __init__(self, pad: build.SamePad, factor: int) -> None:
        super().__init__()
        self.pad, self.factor = pad, factor

    def forward(self, maps: Tensor) -> Tensor:
        """Pad by the same number of old pixels as before."""
        (down, across), factor = self.pad.windows, self.factor
        pads = (*across.pads(maps.shape[-1] // factor), *down.pads(maps.shape[-2] // factor))
        return functional.pad(maps, [factor * pad for pad in pads], value=self.pad.value)


class _DilatedPool(nn.Module):
    """Dilated max pooling, with more padding than torch's own pooling allows."""

    def __init__(self, pool: nn.MaxPool2d, factor: int) -> None:
        super().__init__()
        self.pool, self.factor = pool, factor

    def forward(self, maps: Tensor) -> Tensor:
        """Pad by the same number of old pixels as before, and pool."""
        pool, factor = self.pool, self.factor
        (above, left), (down, across) = _pair(pool.padding), _pair(pool.dilation)
        pads = [factor * pad for pad in (left, left, above, above)]
        padded = functional.pad(maps, pads, value=-torch.inf)
        dilation = (factor * down, factor * across)
        return functional.max_pool2d(padded, pool.kernel_size, pool.stride, 0, dilation, pool.ceil_mode)


def _padding(size: int, kernel: int, padding: int, dilation: int, stride: int, *, ceil: bool) -> tuple[int, int]:
    """Compute the padding before and after for which stride 1 gives `stride` times as many windows as before."""
    span = dilation * (kernel - 1) + 1
    spare = size + 2 * padding - span
    count = (-(-spare // stride) if ceil else spare // stride) + 1
    if ceil and (count - 1) * stride >= size + padding:  # torch drops a window that would start beyond the map
        count -= 1
    return padding, stride * count + span - 1 - size - padding


def _pair(value: Any) -> tuple[int, int]:  # noqa: ANN401 - torch's attributes are typed for any number of axes
    """Return the values for height and width."""
    return (int(value[0]), int(value[1])) if isinstance(value, tuple) else (int(value), int(value))


def _stride(module: fx.GraphModule, node: fx.Node) -> int:
    """Return the stride of a node; 1 if it has none, or one that differs between height and width."""
    if node.op != "call_module":
        return 1
    layer = module.get_submodule(str(node.target))
    if not isinstance(layer, _STRIDING):
        return 1
    down, across = _pair(layer.stride)
    return down if down == across else 1


def _scales(module: fx.GraphModule) -> dict[fx.Node, int]:
    """Map every node to the product of the strides before it, the largest one where branches meet."""
    scales: dict[fx.Node, int] = {}
    for node in module.graph.nodes:
        scales[node] = max((scales[given] for given in node.all_input_nodes), default=1) * _stride(module, node)
    return scales


def _reached(nodes: list[fx.Node], step: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    """Return the nodes reachable from some nodes by one or more steps."""
    found, waiting = set[fx.Node](), list(nodes)
    while waiting:
        for node in step(waiting.pop()):
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found


def _dilated(network: LayerGraph, node: fx.Node, factor: int) -> nn.Module | None:
    """Return the replacement of a module for a finer map; None if the module itself works there.

    Raises:
        UsageError: The module cannot be dilated.
    """
    shape = network.shapes.get(node)
    if shape is None or len(shape) != 3 or node.op == "output":
        return None
    if node.op != "call_module":
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        if name in _INDIFFERENT_FUNCTIONS:
            return None
        raise _undilatable(network, node, name)
    module = network.module.get_submodule(str(node.target))
    if isinstance(module, _INDIFFERENT_MODULES) or subgraph.is_of_torchvision(module, *_INDIFFERENT_OF_TORCHVISION):
        return None
    if isinstance(module, build.SamePad):
        return _DilatedPad(module, factor)
    if isinstance(module, _STRIDING) and _pair(module.kernel_size) == _pair(module.stride) == (1, 1):
        return None
    padding = getattr(module, "padding", 0)
    if isinstance(module, nn.Conv2d) and not isinstance(padding, str) and module.padding_mode == "zeros":
        return _dilated_convolution(module, factor)
    if isinstance(module, nn.MaxPool2d):
        return _DilatedPool(module, factor)
    raise _undilatable(network, node, type(module).__name__)


def _dilated_convolution(module: nn.Conv2d, factor: int) -> nn.Conv2d:
    (down, across), (rows, columns) = _pair(module.padding), _pair(module.dilation)
    with torch.device("meta"):
        made = nn.Conv2d(
            module.in_channels,
            module.out_channels,
            _pair(module.kernel_size),
            _pair(module.stride),
            padding=(factor * down, factor * across),
            dilation=(factor * rows, factor * columns),
            groups=module.groups,
            bias=module.bias is not None,
        )
    made.weight, made.bias = module.weight, module.bias
    return made


def _undilatable(network: LayerGraph, node: fx.Node, what: str) -> UsageError:
    return UsageError(f"{network.name}: {what} at {node.meta['path']} cannot be dilated; drop --fine")
