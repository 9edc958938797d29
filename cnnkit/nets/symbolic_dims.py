"""Dimensions of a chain whose input has symbols for sizes: `H,W,3` in place of `224,224,3`.

Every window gives floor((n + c) / s) outputs for an input of n, with c and s from kernel, stride and padding; and
floor((floor((H + a) / b) + c) / s) = floor((H + a + b * c) / (b * s)). So each side of each layer is floor((H + a) / b).
"""

import functools
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cnnkit.errors import UsageError
from cnnkit.nets import dims, input_sizes
from cnnkit.nets.dims import Sides, Window, receptive_field, shown, shown_pads, windows
from cnnkit.nets.notation import Layer, LayerKind, Padding

log = logging.getLogger("cnnkit")

_SLIDING = (LayerKind.conv, LayerKind.pool, LayerKind.avgpool)


@dataclass(frozen=True, slots=True)
class Side:
    """floor((symbol + shift) / divisor), or the number `shift` where there is no symbol."""

    symbol: str
    shift: int = 0
    divisor: int = 1

    @classmethod
    def of(cls, text: str) -> "Side":
        """Make the side of an image from a number or a symbol."""
        return cls("", int(text)) if text.isdecimal() else cls(text)

    def __str__(self) -> str:
        """Write it as a formula, or as a number."""
        if not self.symbol:
            return str(self.shift)
        shifted = f"{self.symbol} {'+' if self.shift > 0 else '-'} {abs(self.shift)}" if self.shift else self.symbol
        if self.divisor == 1:
            return shifted
        return f"floor(({shifted})/{self.divisor})" if self.shift else f"floor({shifted}/{self.divisor})"

    def windows(self, window: Window) -> "Side":
        """Return how many windows slide over a side of this length."""
        if not self.symbol:
            return Side("", window.count(self.shift))
        same = window.padding is Padding.same
        added = window.stride - 1 if same else sum(window.pads(0)) - window.span + window.stride
        return Side(self.symbol, self.shift + self.divisor * added, self.divisor * window.stride)

    def padded(self, pixels: int) -> "Side":
        """Return the side with pixels added."""
        return Side(self.symbol, self.shift + self.divisor * pixels, self.divisor)


class Amount:
    """A sum of products of numbers and sides, such as 27*floor(H/2)*W + 10."""

    def __init__(self, terms: Mapping[tuple[Side, ...], int]) -> None:
        """Keep the numbers, by the sides that they are multiplied with."""
        self._terms = {sides: number for sides, number in terms.items() if number}

    @classmethod
    def of(cls, number: int, *sides: Side) -> "Amount":
        """Multiply a number with sides."""
        symbols = []
        for side in sides:
            if side.symbol:
                symbols.append(side)
            else:
                number *= side.shift
        return cls({tuple(symbols): number})

    def __add__(self, other: "Amount") -> "Amount":
        """Add two amounts."""
        return Amount(Counter(self._terms) + Counter(other._terms))

    def __mul__(self, number: int) -> "Amount":
        """Multiply with a number."""
        return Amount({sides: number * each for sides, each in self._terms.items()})

    def value(self) -> int | str:
        """Return the number, or the formula if there are symbols."""
        if not any(self._terms):
            return sum(self._terms.values())
        return " + ".join(_product(number, sides) for sides, number in self._terms.items())


def _product(number: int, sides: Sequence[Side]) -> str:
    factors = [f"({side})" if side.shift and side.divisor == 1 else str(side) for side in sides]
    return "*".join([str(number), *factors] if number != 1 or not factors else factors)


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolicRow:
    """Measures of one layer, as those of `DimsRow`, with formulas for numbers that depend on the size."""

    layer: str
    kind: str
    output: str
    params: int | str
    macs: int | str
    receptive_field: int | str | None
    stride: int | str | None
    activation_bytes: int | str
    kernel: int | str | None
    pad: int | str | None


def is_symbolic(text: str) -> bool:
    """Check whether a size has symbols, as in H,W,3."""
    return re.search("[a-zA-Z]", text.replace("x", ",")) is not None


def parse_size(text: str) -> tuple[Side, Side, int]:
    """Read a size such as `H,W,3`, `N,N,1` or `H,224,3`.

    Raises:
        UsageError: It is none.
    """
    words = [word.strip() for word in text.split(",")]
    if (
        len(words) != 3
        or not all(re.fullmatch("[A-Za-z][A-Za-z0-9_]{0,19}|[1-9][0-9]{0,8}", word) for word in words)
        or not words[2].isdecimal()
    ):
        raise UsageError(
            f'--input "{text}" is not a size; give H,W,C as in 128,128,3, or symbols for height and width as in H,W,3'
        )
    return Side.of(words[0]), Side.of(words[1]), int(words[2])


@dataclass(frozen=True, slots=True)
class _State:
    """The output of a layer: a map or, without sides, a vector, of `channels` values."""

    sides: tuple[Side, Side] | None
    channels: Amount
    depth: int | None  # the channels as a number; None after flatten
    field: Sides
    step: Sides


def measure(layers: Sequence[Layer], text: str, *, bytes_per_value: int = 4) -> tuple[SymbolicRow, ...]:
    """Measure every layer of a chain, and their total.

    Args:
        layers: The chain, from `notation.parse`.
        text: The size of its input, as `parse_size` reads it.
        bytes_per_value: Bytes of one value of a layer's output, in all images of the batch.

    Raises:
        UsageError: A layer does not fit its input, has a size that is no such formula, or the size is wrong.
    """
    height, width, channels = parse_size(text)
    smallest = smallest_size(layers, height, width, channels)
    state = _State((height, width), Amount.of(channels), channels, (1, 1), (1, 1))
    rows: list[SymbolicRow] = []
    params = macs = values = Amount({})
    for layer in layers:
        made = _made(layer, state)
        own = _weights(layer, state), _macs(layer, state, made), _values(made) * bytes_per_value
        rows.append(_row(layer, state, made, *own))
        params, macs, values = params + own[0], macs + own[1], values + own[2]
        state = made
    log.info(
        "the formulas hold for %s", " and ".join(f"{symbol} of {number} or more" for symbol, number in smallest.items())
    )
    total = SymbolicRow(
        layer="total",
        kind="total",
        output=rows[-1].output,
        params=params.value(),
        macs=macs.value(),
        receptive_field=rows[-1].receptive_field,
        stride=rows[-1].stride,
        activation_bytes=values.value(),
        kernel=None,
        pad=None,
    )
    return (*rows, total)


def smallest_size(layers: Sequence[Layer], height: Side, width: Side, channels: int) -> dict[str, int]:
    """Find the smallest number for each symbol, with all others large.

    Raises:
        UsageError: There is none: a layer does not fit any size.
    """
    large = 1 << 20
    found: dict[str, int] = {}

    def refusal(symbol: str, number: int) -> str | None:
        sides = [
            each.shift if not each.symbol else number if each.symbol == symbol else large for each in (height, width)
        ]
        try:
            for _ in dims.walk(layers, dims.start(height=sides[0], width=sides[1], channels=channels)):
                pass
        except UsageError as error:
            return str(error)
        return None

    for symbol in dict.fromkeys(each.symbol for each in (height, width) if each.symbol):
        reason = refusal(symbol, large)
        if reason is not None:
            raise UsageError(reason)
        found[symbol] = input_sizes.smallest(large, functools.partial(refusal, symbol))
    return found


def _made(layer: Layer, given: _State) -> _State:
    """Compute the output of a layer."""
    kind = layer.kind
    if kind in _SLIDING:
        field, step = receptive_field(given.field, given.step, windows(layer))
        depth = given.depth if layer.filters is None else layer.filters
        return _State(_slid(layer, given.sides), Amount.of(depth or 0), depth, field, step)
    if kind is LayerKind.pad and given.sides is not None:
        height, width = (side.padded(2 * int(layer.padding)) for side in given.sides)
        return _State((height, width), given.channels, given.depth, given.field, given.step)
    if kind in (LayerKind.gap, LayerKind.gmp):
        return _State(None, given.channels, given.depth, None, None)
    if kind is LayerKind.flatten and given.sides is not None:
        values = _values(given)
        number = values.value()
        return _State(None, values, number if isinstance(number, int) else None, None, None)
    if kind is LayerKind.dense:
        return _State(None, Amount.of(layer.filters or 0), layer.filters or 0, None, None)
    if kind in (LayerKind.flatten, LayerKind.bn, LayerKind.dropout, LayerKind.activation):
        return given
    raise UsageError(f'{layer.name} ("{layer.text}") has no formula for symbols; give numbers as --input')


def _slid(layer: Layer, sides: tuple[Side, Side] | None) -> tuple[Side, Side]:
    assert sides is not None  # checked with numbers before
    down, across = windows(layer)
    return sides[0].windows(down), sides[1].windows(across)


def _values(made: _State) -> Amount:
    """Count the values of an output."""
    if made.sides is None:
        return made.channels
    return Amount.of(made.depth or 0, *made.sides)


def _weights(layer: Layer, given: _State, *, bias: bool | None = None) -> Amount:
    filters = layer.filters or 0
    biases = Amount.of(filters * (layer.bias if bias is None else bias))
    match layer.kind:
        case LayerKind.conv:
            height, width = layer.kernel
            return Amount.of(filters * height * width * ((given.depth or 0) // layer.groups)) + biases
        case LayerKind.dense:
            return given.channels * filters + biases
        case LayerKind.bn:
            return given.channels * 2
        case _:
            return Amount({})


def _macs(layer: Layer, given: _State, made: _State) -> Amount:
    """Count one multiply-accumulate for each application of each weight."""
    weights = _weights(layer, given, bias=False)
    if layer.kind is LayerKind.dense:
        return weights
    if layer.kind is not LayerKind.conv or made.sides is None:
        return Amount({})
    number = weights.value()
    assert isinstance(number, int)
    return Amount.of(number, *made.sides)


def _row(layer: Layer, given: _State, made: _State, params: Amount, macs: Amount, values: Amount) -> SymbolicRow:
    slides = layer.kind in _SLIDING
    return SymbolicRow(
        layer=layer.name,
        kind=layer.kind,
        output=", ".join(map(str, (*(made.sides or ()), made.channels.value()))),
        params=params.value(),
        macs=macs.value(),
        receptive_field=shown(made.field),
        stride=shown(made.step),
        activation_bytes=values.value(),
        kernel=shown(layer.kernel) if slides else None,
        pad=_pad(layer) if slides else int(layer.padding) if layer.kind is LayerKind.pad else None,
    )


def _pad(layer: Layer) -> int | str:
    """Return the padding; that of `same` depends on the size if the stride is not 1."""
    if layer.padding is Padding.same and layer.stride != (1, 1):
        return "same"
    down, across = (window.pads(1 << 20) for window in windows(layer))
    return shown_pads(down, across)
