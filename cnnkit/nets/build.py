"""Build a torch network from the layer notation; its modules have the names that cnn-dims prints."""

import functools
from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from cnnkit.choices import Initializer
from cnnkit.errors import UsageError
from cnnkit.nets import dims
from cnnkit.nets.dims import Volume, windows
from cnnkit.nets.layer_modules import (
    CroppedConvTranspose2d,
    LocallyConnected2d,
    LocalResponseNorm,
    PositionBiasConv2d,
)
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
        """Return the modules in the order in which `forward` calls them."""
        return _in_order(list(self), training=self.training)

    def forward(self, input: Tensor) -> Tensor:
        """Pass a batch through all layers, (N, ...) -> (N, ...)."""
        for module in self.stages():
            input = module(input)
        return input

    def upto(self, layer: str) -> "Network":
        """Return the part of the chain that ends with a layer; it shares the modules.

        Of a block with the layer inside, as for residual1.conv2, only the branch up to the layer remains.

        Raises:
            UsageError: There is no such layer.
        """
        if layer in self.ends:
            return self._first(self.ends[layer] + 1)
        outer, _, inner = layer.partition(".")
        block = dict(self.named_children()).get(outer)
        if not inner or not isinstance(block, Block | Network):
            raise UsageError(f'no layer "{layer}"; this network has {", ".join(self.ends)}')
        part = self._first([name for name, _ in self.named_children()].index(outer))
        part.add_module(outer, block.upto(inner))
        part.ends[layer] = len(part) - 1
        return part

    def _first(self, count: int) -> "Network":
        """Return the first modules as a chain."""
        part = Network()
        for name, module in list(self.named_children())[:count]:
            part.add_module(name, module)
        part.ends = {name: end for name, end in self.ends.items() if end < count}
        return part


class Block(nn.Module):
    """A layer with branches, which are its children one after another.

    Attributes:
        branches: The names of the modules of each branch.
        ends: As that of `Network`, for each branch.
    """

    def __init__(self, branches: Sequence[Network]) -> None:
        super().__init__()
        # Names: modules that are replaced later, as by synchronized batch norms, are found by them
        self.branches = tuple(tuple(name for name, _ in chain.named_children()) for chain in branches)
        self.ends = tuple(chain.ends for chain in branches)
        for chain in branches:
            for name, module in chain.named_children():
                self.add_module(name, module)

    def chains(self) -> list[Network]:
        """Return the branches as chains, which share the modules."""
        made = []
        for names, ends in zip(self.branches, self.ends, strict=True):
            chain = Network()
            for name in names:
                chain.add_module(name, self.get_submodule(name))
            chain.ends = dict(ends)
            made.append(chain)
        return made

    def upto(self, layer: str) -> Network:
        """Return the part of a branch that ends with a layer, as `Network.upto`.

        Raises:
            UsageError: There is no such layer.
        """
        for chain in self.chains():
            if layer.partition(".")[0] in chain.ends:
                return chain.upto(layer)
        known = ", ".join(name for ends in self.ends for name in ends)
        raise UsageError(f'no layer "{layer}" there; the layers in these branches are {known}')

    def outputs(self, input: Tensor) -> list[Tensor]:
        """Compute the output of every branch."""
        made = []
        for names in self.branches:
            output = input
            for module in _in_order([self.get_submodule(name) for name in names], training=self.training):
                output = module(output)
            made.append(output)
        return made


class Residual(Block):
    """The sum of the outputs of two branches, or of one branch and the input."""

    def forward(self, input: Tensor) -> Tensor:
        """Add, (N, ...) -> (N, ...)."""
        first, *others = self.outputs(input)
        return first + (others[0] if others else input)


class Concat(Block):
    """The outputs of all branches, joined along the channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Concatenate, (N, C, ...) -> (N, sum of the branches' channels, ...)."""
        return torch.cat(self.outputs(input), 1)


def _in_order(modules: list[nn.Module], *, training: bool) -> list[nn.Module]:
    """Return modules in the order in which they are called.

    In training, max pooling precedes the ReLU before it: the same values and gradients, with fewer pixels for the ReLU.
    """
    if training:
        modules = list(modules)
        for index, (first, second) in enumerate(list(pairwise(modules))):
            if type(first) is nn.ReLU and type(second) is nn.MaxPool2d:
                modules[index], modules[index + 1] = second, first
    return modules


def stages(module: nn.Module) -> list[nn.Module]:
    """Return the modules that a module calls one after another: itself, if it is not a chain."""
    if isinstance(module, Network):
        return module.stages()
    return list(module) if type(module) is nn.Sequential else [module]


#: The most parameters of a network by notation: 8 GB of float32.
MOST_PARAMS = 2**31

#: The most values that one layer of such a network returns for one image: 8 GB of float32.
MOST_VALUES = 2**31

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
        UsageError: A layer does not fit its input, or there are too many parameters or values.
    """
    given = dims.start(height=height, width=width, channels=channels)
    params = 0
    for row in dims.measure_from(given, layers):
        params += row.params
        if params > most:
            raise UsageError(f"with {row.layer} the network has {params:,} parameters, more than {most:,}")
        values = prod(row.shape)
        if values > MOST_VALUES:
            raise UsageError(f"{row.layer} returns {values:,} values for one image, more than {MOST_VALUES:,}")
    with torch.random.fork_rng(devices=[]):  # torch's layers draw weights from the global generator
        return _chain(layers, given)


def _chain(layers: Sequence[Layer], given: Volume) -> Network:
    """Build a chain of layers that fit; modules in a block are named within it."""
    network = Network()
    for layer, taken, made in dims.walk(layers, given):
        name = layer.name.rpartition(".")[2]
        modules = [("", _block(layer, taken))] if layer.branches else _modules(layer, taken, made)
        if layer.activation is not None:
            modules.append((layer.activation if modules else "", _activation(layer.activation)))
        for suffix, module in modules:
            network.add_module(f"{name}_{suffix}" if suffix else name, module)
        inner = network[-1] if layer.branches else None
        if isinstance(inner, Network):  # the rest of a block that the chain is cut in
            name = f"{name}.{list(inner.ends)[-1]}"
        network.ends[name] = len(network) - 1
    return network


def _block(layer: Layer, given: Volume) -> nn.Module:
    """Build a layer with branches; of `dims.upto`, the one branch that is left."""
    branches = [_chain(branch, given) for branch in layer.branches]
    if layer.kind is LayerKind.concat and len(branches) == 1:
        return branches[0]
    if layer.kind is LayerKind.concat:
        return Concat(branches)
    if len(branches) == 1:
        *_, (_, _, made) = dims.walk(layer.branches[0], given)
        shortcut = dims.projection(layer, given, made)
        branches += [_chain(shortcut, given)] if shortcut else []
    return Residual(branches)


def _activation(activation: Activation) -> nn.Module:
    if activation is Activation.softmax:
        return nn.Softmax(dim=1)
    return _ACTIVATIONS[activation]()


def _modules(layer: Layer, given: Volume, made: Volume) -> list[tuple[str, nn.Module]]:
    """Return the modules of one layer, each with the suffix of its name; the one with the weights has none."""
    match layer.kind:
        case LayerKind.conv:
            pad, padding = _padding(layer)
            return [*pad, ("", _convolution(layer, given, made, padding))]
        case LayerKind.deconv:
            return [("", _transposed(layer, given))]
        case LayerKind.local:
            return [("", _local(layer, given, made))]
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
            return [("", nn.Linear(given.channels, layer.filters or 0, bias=layer.bias))]
        case LayerKind.bn:
            norm = nn.BatchNorm1d if given.size is None else nn.BatchNorm2d
            return [("", norm(given.channels))]
        case LayerKind.lrn:
            return [("", LocalResponseNorm(layer.channels))]
        case LayerKind.dropout:
            return [("", nn.Dropout(layer.rate))]
        case LayerKind.residual | LayerKind.concat:
            raise AssertionError("a layer with branches is built by _block")
        case LayerKind.activation:
            return []


def _convolution(layer: Layer, given: Volume, made: Volume, padding: tuple[int, int]) -> nn.Conv2d:
    if layer.position_bias:
        assert made.size is not None
        return PositionBiasConv2d(
            given.channels,
            layer.filters or 0,
            layer.kernel,
            layer.stride,
            padding=padding,
            dilation=layer.dilation,
            groups=layer.groups,
            size=made.size,
        )
    return nn.Conv2d(
        given.channels,
        layer.filters or 0,
        layer.kernel,
        layer.stride,
        padding=padding,
        dilation=layer.dilation,
        groups=layer.groups,
        bias=layer.bias,
    )


def _transposed(layer: Layer, given: Volume) -> nn.ConvTranspose2d:
    """Build a transposed convolution; `same` crops as much as the padding of the convolution in the other direction."""
    beyond = [window.span - window.stride for window in windows(layer)]
    if layer.padding is Padding.same:
        padding = (max(beyond[0], 0) // 2, max(beyond[1], 0) // 2)
        missing = (max(-beyond[0], 0), max(-beyond[1], 0))
        crop = (max(beyond[0], 0) % 2, max(beyond[1], 0) % 2)
    else:
        padding, missing, crop = _padding(layer)[1], (0, 0), (0, 0)
    make = nn.ConvTranspose2d if crop == (0, 0) else functools.partial(CroppedConvTranspose2d, crop=crop)
    return make(
        given.channels,
        layer.filters or 0,
        layer.kernel,
        layer.stride,
        padding=padding,
        output_padding=missing,
        groups=layer.groups,
        bias=layer.bias,
        dilation=layer.dilation,
    )


def _local(layer: Layer, given: Volume, made: Volume) -> LocallyConnected2d:
    assert given.size is not None
    assert made.size is not None
    return LocallyConnected2d(
        given.channels, layer.filters or 0, windows(layer), given=given.size, made=made.size, bias=layer.bias
    )


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


#: Modules that multiply their input by weights, which initial values and penalties are for.
WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, LocallyConnected2d)


def initialise(module: nn.Module, initializer: Initializer, *, generator: torch.Generator) -> None:
    """Initialize the weights of every convolution and dense layer, in place, from one generator."""
    for layer in module.modules():
        if not isinstance(layer, WEIGHTED):
            continue
        # Unshared weights: at every position as those of a convolution
        for weight in layer.positions() if isinstance(layer, LocallyConnected2d) else [layer.weight]:
            match initializer:
                case Initializer.GLOROT:
                    nn.init.xavier_uniform_(weight, generator=generator)
                case Initializer.HE:
                    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
                case Initializer.NORMAL:
                    nn.init.normal_(weight, std=0.05, generator=generator)
                case Initializer.UNIFORM:
                    nn.init.uniform_(weight, -0.05, 0.05, generator=generator)
                case Initializer.ORTHOGONAL:
                    nn.init.orthogonal_(weight, generator=generator)
                case Initializer.ZEROS:
                    nn.init.zeros_(weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
