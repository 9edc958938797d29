"""Build a torch network from the layer notation; its modules have the names that cnn-dims prints."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cnnkit.choices import Initializer
from cnnkit.errors import UsageError
from cnnkit.nets import dims
from cnnkit.nets.dims import windows
from cnnkit.nets.notation import Activation, Layer, LayerKind, Padding

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    Activation.relu: nn.ReLU,
    Activation.relu6: nn.ReLU6,
    Activation.leaky_relu: nn.LeakyReLU,
    Activation.elu: nn.ELU,
    Activation.selu: nn.SELU,
    Activation.gelu: nn.GELU,
    Activation.silu: nn.SiLU,
    Activation.mish: nn.Mish,
    Activation.tanh: nn.Tanh,
    Activation.sigmoid: nn.Sigmoid,
    Activation.hardsigmoid: nn.Hardsigmoid,
    Activation.hardswish: nn.Hardswish,
    Activation.softplus: nn.Softplus,
    Activation.softsign: nn.Softsign,
    Activation.linear: nn.Identity,
}


class GlobalPool(nn.Module):
    """Mean or maximum of every channel, (N, C, H, W) -> (N, C)."""

    def __init__(self, *, largest: bool) -> None:
        super().__init__()
        self.largest = largest

    def forward(self, maps: Tensor) -> Tensor:
        """Reduce height and width."""
        return maps.amax((2, 3)) if self.largest else maps.mean((2, 3))


class SamePad(nn.Module):
    """Pad so that windows of stride S give ceil(H / S) outputs; an odd pixel goes below and to the right, as in Keras."""

    def __init__(self, layer: Layer, *, value: float = 0.0) -> None:
        super().__init__()
        self.windows = windows(layer)
        self.value = value

    def forward(self, maps: Tensor) -> Tensor:
        """Pad height and width of (N, C, H, W)."""
        down, across = self.windows
        return nn.functional.pad(maps, (*across.pads(maps.shape[-1]), *down.pads(maps.shape[-2])), value=self.value)


class SameAvgPool(nn.Module):
    """Average pooling with padding `same`; padding does not count in the mean, as in Keras."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.pad = SamePad(layer)
        self.pool = nn.AvgPool2d(layer.kernel, layer.stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Divide the average of every window, padded with zeros, by the share of the window inside the map."""
        inside = self.pool(self.pad(torch.ones_like(maps[:1, :1])))
        return self.pool(self.pad(maps)) / inside  # type: ignore[no-any-return] # modules return Any


class Network(nn.Sequential):
    """A chain of layers built from the notation; `ends` maps a layer's name to its last module, its activation if it has one."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[str, int] = {}

    def stages(self) -> list[nn.Module]:
        """Return the modules in the order in which `forward` calls them.

        In training, max pooling precedes the ReLU before it: the same values and gradients, with fewer pixels for the ReLU.
        """
        modules = list(self)
        if self.training:
            for index, (first, second) in enumerate(pairwise(self)):
                if type(first) is nn.ReLU and type(second) is nn.MaxPool2d:
                    modules[index], modules[index + 1] = second, first
        return modules

    def forward(self, input: Tensor) -> Tensor:
        """Pass a batch through all layers, (N, ...) -> (N, ...)."""
        for module in self.stages():
            input = module(input)
        return input

    def upto(self, layer: str) -> "Network":
        """Return the part of the chain that ends with a layer; it shares the modules.

        Raises:
            UsageError: There is no such layer.
        """
        if layer not in self.ends:
            raise UsageError(f'no layer "{layer}"; this network has {", ".join(self.ends)}')
        part = Network()
        for index, (name, module) in enumerate(self.named_children()):
            if index <= self.ends[layer]:
                part.add_module(name, module)
        part.ends = {name: end for name, end in self.ends.items() if end <= self.ends[layer]}
        return part


def stages(module: nn.Module) -> list[nn.Module]:
    """Return the modules that a module calls one after another: itself, if it is not a chain."""
    if isinstance(module, Network):
        return module.stages()
    return list(module) if type(module) is nn.Sequential else [module]


#: The most parameters of a network by notation: 8 GB of float32.
MOST_PARAMS = 2**31

#: Parameters that a network may have beyond the weights of its file, when it is built to load them.
SPARE_PARAMS = 2**20


def build(
    layers: Sequence[Layer],
    *,
    channels: int,
    height: int | None = None,
    width: int | None = None,
    most: int = MOST_PARAMS,
) -> Network:
    """Build the network that a notation describes.

    Args:
        layers: From `notation.parse`.
        channels: Channels of the input, or its length where it is a vector.
        height: Height of the input, in pixels; None for a vector.
        width: Width of the input, in pixels; None for a vector.
        most: The most parameters allowed; checked before memory is allocated.

    Returns:
        A chain that takes (N, channels, height, width) or (N, channels). Its weights are torch's default random values:
        call `initialise`.

    Raises:
        UsageError: A layer does not fit its input, or there are too many parameters.
    """
    given = dims.start(height=height, width=width, channels=channels)
    params = 0
    for row in dims.measure_from(given, layers):
        params += row.params
        if params > most:
            raise UsageError(f"with {row.layer} the network has {params:,} parameters, more than {most:,}")
    network = Network()
    with torch.random.fork_rng(devices=[]):  # torch's layers draw weights from the global generator
        for layer, taken, _ in dims.walk(layers, given):
            modules = _modules(layer, channels=taken.channels, spatial=taken.size is not None)
            if layer.activation is not None:
                modules.append((layer.activation if modules else "", _activation(layer.activation)))
            for suffix, module in modules:
                network.add_module(f"{layer.name}_{suffix}" if suffix else layer.name, module)
            network.ends[layer.name] = len(network) - 1
    return network


def _activation(activation: Activation) -> nn.Module:
    if activation is Activation.softmax:
        return nn.Softmax(dim=1)
    return _ACTIVATIONS[activation]()


def _modules(layer: Layer, *, channels: int, spatial: bool) -> list[tuple[str, nn.Module]]:
    """Return the modules of one layer, each with the suffix of its name; the one with the weights has none."""
    match layer.kind:
        case LayerKind.conv:
            pad, padding = _padding(layer)
            conv = nn.Conv2d(
                channels,
                layer.filters or 0,
                layer.kernel,
                layer.stride,
                padding=padding,
                dilation=layer.dilation,
                groups=layer.groups,
                bias=layer.bias,
            )
            return [*pad, ("", conv)]
        case LayerKind.pool:
            pad, padding = _padding(layer, value=float("-inf"))
            return [*pad, ("", nn.MaxPool2d(layer.kernel, layer.stride, padding=padding))]
        case LayerKind.avgpool if layer.padding is Padding.same:
            return [("", SameAvgPool(layer))]
        case LayerKind.avgpool:
            return [("", nn.AvgPool2d(layer.kernel, layer.stride, padding=_padding(layer)[1]))]
        case LayerKind.gap | LayerKind.gmp:
            return [("", GlobalPool(largest=layer.kind is LayerKind.gmp))]
        case LayerKind.pad:
            return [("", nn.ZeroPad2d(int(layer.padding)))]
        case LayerKind.flatten:
            return [("", nn.Flatten())]
        case LayerKind.dense:
            return [("", nn.Linear(channels, layer.filters or 0, bias=layer.bias))]
        case LayerKind.bn:
            return [("", nn.BatchNorm2d(channels) if spatial else nn.BatchNorm1d(channels))]
        case LayerKind.dropout:
            return [("", nn.Dropout(layer.rate))]
        case LayerKind.activation:
            return []


def _padding(layer: Layer, *, value: float = 0.0) -> tuple[list[tuple[str, nn.Module]], tuple[int, int]]:
    """Return a padding module, where torch's layer cannot pad so itself, and the padding for torch's layer."""
    if layer.padding is Padding.valid:
        return [], (0, 0)
    if layer.padding is not Padding.same:
        return [], (int(layer.padding), int(layer.padding))
    down, across = windows(layer)
    if layer.stride == (1, 1) and down.span % 2 and across.span % 2:
        return [], (down.span // 2, across.span // 2)  # the same pixels on all sides, whatever the size
    return [("pad", SamePad(layer, value=value))], (0, 0)


def initialise(module: nn.Module, initializer: Initializer, *, generator: torch.Generator) -> None:
    """Initialize the weights of every convolution and dense layer, in place, from one generator."""
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        match initializer:
            case Initializer.GLOROT:
                nn.init.xavier_uniform_(layer.weight, generator=generator)
            case Initializer.HE:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            case Initializer.NORMAL:
                nn.init.normal_(layer.weight, std=0.05, generator=generator)
            case Initializer.UNIFORM:
                nn.init.uniform_(layer.weight, -0.05, 0.05, generator=generator)
            case Initializer.ORTHOGONAL:
                nn.init.orthogonal_(layer.weight, generator=generator)
            case Initializer.ZEROS:
                nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
