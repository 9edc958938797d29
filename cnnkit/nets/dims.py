"""The arithmetic of layers: output shapes, parameters, multiply-accumulates, receptive fields, bytes. No torch.

What is counted:

- shapes are height, width, channels; behind `gap`, `gmp` and `flatten` there are channels alone, as Keras has it;
- `params` are what training moves: weights and biases, and two values a channel for `bn` (its running statistics are not
  trained, and torch does not count them either);
- `macs` are multiply-accumulates for one picture in convolutions and dense layers, biases left out, all else 0: as
  torchvision's tables and fvcore count them;
- `receptive_field` is how many pixels of the network's input one output value looks at along each side, those beyond the
  border included, and `stride` how many input pixels lie between neighbouring output values (Araujo, Norris, Sim,
  "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019);
- `activation_bytes` is the layer's output for the whole batch;
- `dropped` is how many pixels of the layer's own input no window reads, because the last window does not fit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cnnkit.errors import UsageError
from cnnkit.nets.notation import Kind, Layer, Padding


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
class Place:
    """What stands between two layers: a map or a vector, and how it looks at the picture.

    `size` is (height, width), None for a vector. `field` and `step` are receptive field and stride along (height, width).
    """

    size: tuple[int, int] | None
    channels: int
    field: tuple[int, int] | None
    step: tuple[int, int] | None


def measure(
    layers: Sequence[Layer],
    *,
    height: int | None,
    width: int | None,
    channels: int,
    receptive_field: int | str | None = 1,
    stride: int | str | None = 1,
    batch: int = 1,
    bytes_per_value: int = 4,
) -> tuple[Row, ...]:
    """Measure every layer of a chain.

    Args:
        layers: The chain, from `notation.parse`.
        height: Rows of the first layer's input; None, as `width`, where that input is a vector.
        width: Columns of it.
        channels: Channels of it, or the vector's length.
        receptive_field: Of the first layer's input, where another chain stands before this one.
        stride: Likewise.
        batch: Pictures at once.
        bytes_per_value: Bytes for one value of a layer's output.

    Returns:
        One row a layer.

    Raises:
        UsageError: A layer does not fit its input; the message names the layer and both numbers.
    """
    start = place(height=height, width=width, channels=channels, receptive_field=receptive_field, stride=stride)
    return tuple(_row(*step, batch * bytes_per_value) for step in walk(layers, start))


def total(rows: Sequence[Row]) -> Row:
    """Sum up a chain: its last output, and the sums of what can be summed."""
    last = rows[-1]
    return Row(
        layer="total",
        kind="total",
        height=last.height,
        width=last.width,
        channels=last.channels,
        params=sum(row.params for row in rows),
        macs=sum(row.macs for row in rows),
        receptive_field=last.receptive_field,
        stride=last.stride,
        activation_bytes=sum(row.activation_bytes for row in rows),
        dropped=sum(row.dropped for row in rows),
    )


def place(
    *,
    height: int | None,
    width: int | None,
    channels: int,
    receptive_field: int | str | None = 1,
    stride: int | str | None = 1,
) -> Place:
    """Say what a chain starts from; the arguments are those of `measure`.

    Raises:
        UsageError: A side or the number of channels is zero or less.
    """
    for name, value in (("height", height), ("width", width), ("channels", channels)):
        if value is not None and value < 1:
            raise UsageError(f"the input's {name} is {value}; give 1 or more")
    if height is None or width is None:
        return Place(None, channels, _sides(receptive_field) if stride is None else None, None)
    return Place((height, width), channels, _sides(receptive_field), _sides(stride))


def walk(layers: Sequence[Layer], start: Place) -> Iterator[tuple[Layer, Place, Place]]:
    """Go along a chain, yielding each layer with what comes in and what goes out."""
    before = start
    for layer in layers:
        after = _after(layer, before)
        yield layer, before, after
        before = after


def output_size(size: int, *, kernel: int, stride: int, padding: Padding | int, dilation: int = 1) -> int:
    """Compute how many windows fit along one side.

    Source: Keras' `same` and `valid`; for a number, torch.nn.Conv2d.
    """
    if padding is Padding.same:
        return -(-size // stride)
    span = spanned(kernel, dilation)
    if padding is Padding.valid:
        return -(-(size - span + 1) // stride)
    return (size + 2 * padding - span) // stride + 1


def spanned(kernel: int, dilation: int) -> int:
    """Compute from how many neighbouring pixels a dilated kernel picks its inputs."""
    return dilation * (kernel - 1) + 1


def paddings(size: int, *, kernel: int, stride: int, padding: Padding | int, dilation: int = 1) -> tuple[int, int]:
    """Compute the pixels to add before and behind one side; an odd one goes behind, as in Keras."""
    if padding is Padding.valid:
        return 0, 0
    if padding is not Padding.same:
        return padding, padding
    windows = output_size(size, kernel=kernel, stride=stride, padding=padding)
    both = max((windows - 1) * stride + spanned(kernel, dilation) - size, 0)
    return both // 2, both - both // 2


def left_over(size: int, *, kernel: int, stride: int, padding: Padding | int, dilation: int = 1) -> int:
    """Count the pixels at the end of one side that only the first window that does not fit would have read."""
    before, _ = paddings(size, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    windows = output_size(size, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    read = (windows - 1) * stride + spanned(kernel, dilation) - before
    next_window = windows * stride - before
    return max(size - max(read, next_window), 0)


def shown(sides: tuple[int, int] | None) -> int | str | None:
    """Give one number where both sides agree, else "HxW"."""
    if sides is None:
        return None
    height, width = sides
    return height if height == width else f"{height}x{width}"


def _sides(value: int | str | None) -> tuple[int, int] | None:
    """Undo `shown`."""
    if value is None:
        return None
    height, _, width = str(value).partition("x")
    return int(height), int(width or height)


def _row(layer: Layer, before: Place, after: Place, bytes_per_value: int) -> Row:
    height, width = after.size or (None, None)
    values = (height or 1) * (width or 1) * after.channels
    return Row(
        layer=layer.name,
        kind=layer.kind,
        height=height,
        width=width,
        channels=after.channels,
        params=_params(layer, before),
        macs=_macs(layer, before, after),
        receptive_field=shown(after.field),
        stride=shown(after.step),
        activation_bytes=values * bytes_per_value,
        dropped=_dropped(layer, before),
    )


def _after(layer: Layer, before: Place) -> Place:
    """Compute what a layer makes of its input."""
    match layer.kind:
        case Kind.conv | Kind.pool | Kind.avgpool:
            return _windowed(layer, before)
        case Kind.pad:
            height, width = _map(layer, before)
            both = 2 * int(layer.padding)
            return Place((height + both, width + both), before.channels, before.field, before.step)
        case Kind.gap | Kind.gmp:
            _map(layer, before)
            return Place(None, before.channels, _whole(before), None)
        case Kind.flatten:
            height, width = before.size or (1, 1)
            return Place(None, height * width * before.channels, _whole(before), None)
        case Kind.dense:
            if before.size:
                shape = f"{before.size[0]}x{before.size[1]}x{before.channels}"
                raise UsageError(f"{_named(layer)} wants a vector, its input is {shape}; put flatten or gap before it")
            return Place(None, layer.filters or 0, before.field, None)
        case Kind.bn | Kind.dropout | Kind.activation:
            return before


def _windowed(layer: Layer, before: Place) -> Place:
    """Compute what a window that slides over a map makes of it."""
    size = _map(layer, before)
    if layer.kind is Kind.conv:
        for what, count in (("input channels", before.channels), ("filters", layer.filters or 0)):
            if count % layer.groups:
                raise UsageError(f"{_named(layer)}: {layer.groups} groups do not divide {count} {what}")
    for side, pixels, kernel, dilation in zip(("height", "width"), size, layer.kernel, layer.dilation, strict=True):
        _check(layer, side, pixels, kernel=kernel, dilation=dilation)
    windows = zip(size, layer.kernel, layer.stride, layer.dilation, strict=True)
    height, width = (output_size(n, kernel=k, stride=s, padding=layer.padding, dilation=d) for n, k, s, d in windows)
    field, step = before.field or (1, 1), before.step or (1, 1)
    steps = zip(field, step, layer.kernel, layer.dilation, strict=True)
    field_height, field_width = (f + (spanned(k, d) - 1) * s for f, s, k, d in steps)
    return Place(
        (height, width),
        before.channels if layer.filters is None else layer.filters,
        (field_height, field_width),
        (step[0] * layer.stride[0], step[1] * layer.stride[1]),
    )


def _check(layer: Layer, side: str, size: int, *, kernel: int, dilation: int) -> None:
    """Refuse a window that never fits, and a pool that may see nothing but padding."""
    span = spanned(kernel, dilation)
    window = f"kernel {kernel}" + (f" with dilation {dilation} spans {span} and" if dilation > 1 else "")
    if layer.padding is Padding.same:
        return
    if layer.padding is Padding.valid and span > size:
        raise UsageError(
            f"{_named(layer)}: {window} is larger than its input's {side} {size}; pad, or shrink less before"
        )
    if layer.padding is Padding.valid:
        return
    if span > size + 2 * layer.padding:
        padded = f"{side} {size} with padding {layer.padding}, which is {size + 2 * layer.padding}"
        raise UsageError(
            f"{_named(layer)}: {window} is larger than its input's {padded}; pad more, or shrink less before"
        )
    if layer.kind is not Kind.conv and layer.padding > kernel // 2:
        raise UsageError(
            f"{_named(layer)}: padding {layer.padding} is more than half of window {kernel}; give {kernel // 2} at most"
        )


def _map(layer: Layer, before: Place) -> tuple[int, int]:
    """Demand height and width."""
    if before.size is None:
        raise UsageError(
            f"{_named(layer)} wants height and width, its input is a vector of {before.channels}; put it before flatten"
        )
    return before.size


def _whole(before: Place) -> tuple[int, int] | None:
    """Compute what all of a map together looks at."""
    if before.size is None or before.field is None or before.step is None:
        return before.field
    (height, width), field, step = before.size, before.field, before.step
    return field[0] + (height - 1) * step[0], field[1] + (width - 1) * step[1]


def _named(layer: Layer) -> str:
    return f'{layer.name} ("{layer.text}")'


def _params(layer: Layer, before: Place) -> int:
    filters = layer.filters or 0
    match layer.kind:
        case Kind.conv:
            height, width = layer.kernel
            return filters * height * width * (before.channels // layer.groups) + filters * layer.bias
        case Kind.dense:
            return filters * before.channels + filters * layer.bias
        case Kind.bn:
            return 2 * before.channels
        case _:
            return 0


def _macs(layer: Layer, before: Place, after: Place) -> int:
    filters = layer.filters or 0
    if layer.kind is Kind.dense:
        return filters * before.channels
    if layer.kind is not Kind.conv or after.size is None:
        return 0
    (height, width), (kernel_height, kernel_width) = after.size, layer.kernel
    return height * width * filters * kernel_height * kernel_width * (before.channels // layer.groups)


def _dropped(layer: Layer, before: Place) -> int:
    if before.size is None or layer.kind not in (Kind.conv, Kind.pool, Kind.avgpool):
        return 0
    rows, columns = lost_sides(layer, before.size)
    height, width = before.size
    return height * width - (height - rows) * (width - columns)


def lost_sides(layer: Layer, size: tuple[int, int]) -> tuple[int, int]:
    """Count the rows and the columns of a layer's input that no window reads, because the last one does not fit."""
    windows = zip(size, layer.kernel, layer.stride, layer.dilation, strict=True)
    rows, columns = (left_over(n, kernel=k, stride=s, padding=layer.padding, dilation=d) for n, k, s, d in windows)
    return rows, columns
