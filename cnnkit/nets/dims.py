"""The arithmetic of layers: output shapes, parameters, multiply-accumulates, receptive fields, bytes. No torch.

What is counted:

- shapes are height, width, channels; behind `gap`, `gmp` and `flatten` there are channels alone, as Keras has it;
- `params` are what training moves: weights and biases, and two values a channel for `bn` (its running statistics are not
  trained, and torch does not count them either);
- `macs` are multiply-accumulates for one picture in convolutions and dense layers, biases left out, all else 0: as
  torchvision's tables and fvcore count them;
- `receptive_field` is how many pixels of the network's input one output value looks at along each side, those beyond the
  border included, and `stride` how many input pixels lie between neighbouring output values;
- `activation_bytes` is the layer's output for the whole batch;
- `dropped` is how many pixels of the layer's own input no window reads, because the last window does not fit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import prod

from cnnkit.errors import UsageError
from cnnkit.nets.notation import Kind, Layer, Padding
from cnnkit.nets.window import Sides, Window, look, unread, whole, windows


class Dtype(StrEnum):
    """The types that activations are kept in."""

    float64 = "float64"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"
    uint8 = "uint8"

    @property
    def bytes(self) -> int:
        """Bytes for one value."""
        return {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One layer, measured.

    `height` and `width` are None where the output is a vector of `channels` values. `receptive_field` and `stride` are a
    number where both sides agree, else "HxW"; None where there is no picture to look at, or only one output to step from.
    """

    layer: str
    kind: str
    height: int | None
    width: int | None
    channels: int
    params: int
    macs: int
    receptive_field: int | str | None
    stride: int | str | None
    activation_bytes: int
    dropped: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The output of one picture, (height, width, channels) or (units,)."""
        return tuple(side for side in (self.height, self.width, self.channels) if side is not None)


@dataclass(frozen=True, slots=True)
class Volume:
    """What stands between two layers: a map or a vector of values, and how it looks at the picture.

    `size` is (height, width), None for a vector. `field` and `step` are receptive field and stride along (height, width).
    """

    size: Sides
    channels: int
    field: Sides
    step: Sides


def measure(
    layers: Sequence[Layer],
    *,
    height: int | None,
    width: int | None,
    channels: int,
    batch: int = 1,
    bytes_per_value: int = 4,
) -> tuple[Row, ...]:
    """Measure every layer of a chain.

    Args:
        layers: The chain, from `notation.parse`.
        height: Rows of the first layer's input; None, as `width`, where that input is a vector.
        width: Columns of it.
        channels: Channels of it, or the vector's length.
        batch: Pictures at once.
        bytes_per_value: Bytes for one value of a layer's output.

    Returns:
        One row a layer.

    Raises:
        UsageError: A layer does not fit its input; the message names the layer and both numbers.
    """
    given = start(height=height, width=width, channels=channels)
    return measure_from(given, layers, bytes_per_value=batch * bytes_per_value)


def measure_from(given: Volume, layers: Sequence[Layer], *, bytes_per_value: int = 4) -> tuple[Row, ...]:
    """Measure a chain that stands behind something; `bytes_per_value` is for one value of all pictures at once."""
    return tuple(_row(*step, bytes_per_value) for step in walk(layers, given))


def total(rows: Sequence[Row]) -> Row:
    """Sum up a chain: its last output, and the sums of what can be summed."""
    return replace(
        rows[-1],
        layer="total",
        kind="total",
        params=sum(row.params for row in rows),
        macs=sum(row.macs for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
        dropped=sum(row.dropped for row in rows),
    )


def start(*, height: int | None, width: int | None, channels: int) -> Volume:
    """Say what a chain starts from: a picture, or a vector where there is neither height nor width.

    Raises:
        UsageError: A side or the number of channels is zero or less.
    """
    for name, value in (("height", height), ("width", width), ("channels", channels)):
        if value is not None and value < 1:
            raise UsageError(f"the input's {name} is {value}; give 1 or more")
    if height is None or width is None:
        return Volume(None, channels, None, None)
    return Volume((height, width), channels, (1, 1), (1, 1))


def behind(row: Row) -> Volume:
    """Say what a layer gives to the one behind it."""
    size = None if row.height is None or row.width is None else (row.height, row.width)
    return Volume(size, row.channels, _sides(row.receptive_field), _sides(row.stride))


def walk(layers: Sequence[Layer], given: Volume) -> Iterator[tuple[Layer, Volume, Volume]]:
    """Go along a chain, yielding each layer with what comes in and what goes out."""
    for layer in layers:
        made = _made(layer, given)
        yield layer, given, made
        given = made


def shown(sides: Sides) -> int | str | None:
    """Give one number where both sides agree, else "HxW"."""
    if sides is None:
        return None
    height, width = sides
    return height if height == width else f"{height}x{width}"


def _sides(value: int | str | None) -> Sides:
    """Undo `shown`."""
    if value is None:
        return None
    height, _, width = str(value).partition("x")
    return int(height), int(width or height)


def _row(layer: Layer, given: Volume, made: Volume, bytes_per_value: int) -> Row:
    height, width = made.size or (None, None)
    return Row(
        layer=layer.name,
        kind=layer.kind,
        height=height,
        width=width,
        channels=made.channels,
        params=_params(layer, given),
        macs=_macs(layer, given, made),
        receptive_field=shown(made.field),
        stride=shown(made.step),
        activation_bytes=prod(made.size or (1, 1)) * made.channels * bytes_per_value,
        dropped=_dropped(layer, given, made),
    )


def _made(layer: Layer, given: Volume) -> Volume:
    """Compute what a layer makes of what it is given."""
    match layer.kind:
        case Kind.conv | Kind.pool | Kind.avgpool:
            return _slid(layer, given)
        case Kind.pad:
            height, width = _map(layer, given)
            both = 2 * int(layer.padding)
            return replace(given, size=(height + both, width + both))
        case Kind.gap | Kind.gmp:
            field, _ = look(given.field, given.step, whole(_map(layer, given)))
            return Volume(None, given.channels, field, None)
        case Kind.flatten if given.size:
            field, _ = look(given.field, given.step, whole(given.size))
            return Volume(None, prod(given.size) * given.channels, field, None)
        case Kind.dense:
            if given.size:
                shape = "x".join(str(side) for side in (*given.size, given.channels))
                raise UsageError(f"{_named(layer)} wants a vector, its input is {shape}; put flatten or gap before it")
            return Volume(None, layer.filters or 0, given.field, None)
        case Kind.flatten | Kind.bn | Kind.dropout | Kind.activation:
            return given


def _slid(layer: Layer, given: Volume) -> Volume:
    """Slide a window over a map."""
    size = _map(layer, given)
    if layer.kind is Kind.conv:
        for what, count in (("input channels", given.channels), ("filters", layer.filters or 0)):
            if count % layer.groups:
                raise UsageError(f"{_named(layer)}: {layer.groups} groups do not divide {count} {what}")
    down, across = windows(layer)
    _check(layer, "height", size[0], down)
    _check(layer, "width", size[1], across)
    field, step = look(given.field, given.step, (down, across))
    made = (down.count(size[0]), across.count(size[1]))
    return Volume(made, given.channels if layer.filters is None else layer.filters, field, step)


def _check(layer: Layer, side: str, size: int, window: Window) -> None:
    """Refuse a window that never fits, and a pool that may see nothing but padding."""
    if not isinstance(window.padding, int):
        pixels, padded = size, ""
    else:
        pixels, padded = (
            size + 2 * window.padding,
            f" with padding {window.padding}, in all {size + 2 * window.padding}",
        )
        if layer.kind is not Kind.conv and window.padding > window.kernel // 2:
            most = window.kernel // 2
            raise UsageError(
                f"{_named(layer)}: padding {window.padding} is over half of window {window.kernel}; give {most} or less"
            )
    if window.padding is not Padding.same and window.span > pixels:
        kernel = f"kernel {window.kernel}"
        kernel += f" with dilation {window.dilation} spans {window.span} and" if window.dilation > 1 else ""
        raise UsageError(
            f"{_named(layer)}: {kernel} is larger than its input's {side} {size}{padded}; pad, or shrink less before"
        )


def _map(layer: Layer, given: Volume) -> tuple[int, int]:
    """Demand height and width."""
    if given.size is None:
        raise UsageError(f"{_named(layer)} wants height and width, its input is a vector of {given.channels}")
    return given.size


def _named(layer: Layer) -> str:
    return f'{layer.name} ("{layer.text}")'


def _params(layer: Layer, given: Volume) -> int:
    filters = layer.filters or 0
    match layer.kind:
        case Kind.conv:
            height, width = layer.kernel
            return filters * height * width * (given.channels // layer.groups) + filters * layer.bias
        case Kind.dense:
            return filters * given.channels + filters * layer.bias
        case Kind.bn:
            return 2 * given.channels
        case _:
            return 0


def _macs(layer: Layer, given: Volume, made: Volume) -> int:
    """Count one multiply-accumulate for every weight, wherever it is applied."""
    weights = _params(replace(layer, bias=False), given)
    match layer.kind:
        case Kind.conv:
            height, width = made.size or (0, 0)
            return height * width * weights
        case Kind.dense:
            return weights
        case _:
            return 0


def _dropped(layer: Layer, given: Volume, made: Volume) -> int:
    if given.size is None or made.size is None or layer.kind not in (Kind.conv, Kind.pool, Kind.avgpool):
        return 0
    return unread(windows(layer), given.size, made.size)
