"""The dimensions of a chain of layers: shapes, parameters, operations, memory and receptive fields, by the arithmetic of windows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import prod
from typing import Any

from cnnkit.errors import UsageError
from cnnkit.nets.notation import Layer, LayerKind, Padding


@dataclass(frozen=True, slots=True)
class Window:
    """A kernel along one side; `padding` is Keras' `same` or `valid`, a number for both ends, or (before, after)."""

    kernel: int
    stride: int = 1
    padding: Padding | int | tuple[int, int] = Padding.valid
    dilation: int = 1

    @property
    def span(self) -> int:
        """How many neighbouring pixels the dilated kernel extends over."""
        return self.dilation * (self.kernel - 1) + 1

    def count(self, size: int) -> int:
        """Compute the number of windows, which is the size of the output.

        Source: ceil(size / stride) for `same`, ceil((size - span + 1) / stride) for `valid` (Keras);
            floor((size + 2 * padding - span) / stride) + 1 for a number (torch.nn.Conv2d).
        """
        if self.padding is Padding.same:
            # Not -(-size // stride): ONNX rounds negative numbers differently
            return (size + self.stride - 1) // self.stride
        return (size + sum(self.pads(size)) - self.span) // self.stride + 1

    def pads(self, size: int) -> tuple[int, int]:
        """Compute the pixels of padding before and after; of an odd number, the extra pixel goes after, as in Keras."""
        if self.padding is Padding.valid:
            return 0, 0
        if self.padding is Padding.same:
            both = max((self.count(size) - 1) * self.stride + self.span - size, 0)
            return both // 2, both - both // 2
        return self.padding if isinstance(self.padding, tuple) else (self.padding, self.padding)

    def unread(self, size: int, count: int | None = None) -> int:
        """Count the pixels at the end that no window reads, since the window that would read them does not fit.

        Args:
            size: Pixels along this side.
            count: The number of windows, where it is known already; libraries round differently.
        """
        before, _ = self.pads(size)
        windows = self.count(size) if count is None else count
        end_of_last = (windows - 1) * self.stride + self.span - before
        start_of_next = windows * self.stride - before
        return max(size - max(end_of_last, start_of_next), 0)


Windows = tuple[Window, Window]  # along height and width
Sides = tuple[int, int] | None  # (height, width), None where unknown or undefined


def windows(layer: Layer) -> Windows:
    """Return a layer's windows along height and width."""
    sides = zip(layer.kernel, layer.stride, layer.dilation, strict=True)
    height, width = (Window(kernel, stride, layer.padding, dilation) for kernel, stride, dilation in sides)
    return height, width


def whole_map(size: tuple[int, int]) -> Windows:
    """Return windows that cover a whole map, as in global pooling."""
    return Window(size[0], size[0]), Window(size[1], size[1])


def receptive_field(field: Sides, step: Sides, windows: Windows) -> tuple[Sides, Sides]:
    """Compute receptive field and stride of an operation's output from those of its input.

    Source: Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019, equations 1, 2.
    """
    if field is None or step is None:
        return None, None
    down, across = windows
    return (
        (field[0] + (down.span - 1) * step[0], field[1] + (across.span - 1) * step[1]),
        (step[0] * down.stride, step[1] * across.stride),
    )


def bounded(field: Sides, image: Sides) -> Sides:
    """Limit a receptive field to the image; beyond it is padding."""
    if field is None or image is None:
        return field
    return min(field[0], image[0]), min(field[1], image[1])


def unread(windows: Windows, size: tuple[int, int], made: tuple[int, int]) -> int:
    """Count the pixels of a map that no window reads because the next window does not fit.

    Args:
        windows: Along height and width.
        size: Height and width of the map.
        made: Number of windows along each side.
    """
    (height, width), (down, across) = size, windows
    return height * width - (height - down.unread(height, made[0])) * (width - across.unread(width, made[1]))


class Dtype(StrEnum):
    """Data types of activations."""

    float64 = "float64"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"
    uint8 = "uint8"

    @property
    def bytes(self) -> int:
        """Bytes of one value."""
        return {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class DimsRow:
    """Measures of one layer.

    `height` and `width` are None where the output is a vector of `channels` values. `receptive_field` and `stride` are a
    number where both sides agree, else "HxW"; None where they are undefined (no image, or a single output, which has no stride) or
    unknown. `image` is the size of the image, written in the same way; a receptive field is at most that size.

    `kernel` and `pad` are those of layers that slide a window, `pad` is None elsewhere, except where a layer only pads; see `shown_pads`.
    `trainable` is how many of the parameters were trained, None where that is unknown. `weights` is the number of weights without biases,
    `zeros` the share of them that is zero, or close to it; both are None unless they were asked for.
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
    image: int | str | None = None
    kernel: int | str | None = None
    pad: int | str | None = None
    trainable: int | None = None
    weights: int | None = None
    zeros: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The output of one image, (height, width, channels) or (units,)."""
        return tuple(side for side in (self.height, self.width, self.channels) if side is not None)


@dataclass(frozen=True, slots=True)
class Volume:
    """The output of a layer: a map or a vector, with its receptive field and stride.

    `size` is (height, width), None for a vector. `field` and `step` are receptive field and stride along (height, width), `image` is
    the size of the image, which limits the field.
    """

    size: Sides
    channels: int
    field: Sides
    step: Sides
    image: Sides = None

    def through(self, windows: Windows) -> tuple[Sides, Sides]:
        """Compute receptive field and stride after an operation with these windows."""
        field, step = receptive_field(self.field, self.step, windows)
        return bounded(field, self.image), step


def measure(
    layers: Sequence[Layer],
    *,
    height: int | None,
    width: int | None,
    channels: int,
    batch: int = 1,
    bytes_per_value: int = 4,
) -> tuple[DimsRow, ...]:
    """Measure every layer of a chain.

    Args:
        layers: The chain, from `notation.parse`.
        height: Rows of the first layer's input; None, as `width`, where that input is a vector.
        width: Columns of it.
        channels: Channels of it, or the vector's length.
        batch: Images per batch.
        bytes_per_value: Bytes of one value of a layer's output.

    Returns:
        One row for each layer.

    Raises:
        UsageError: A layer does not fit its input; the message names the layer and both numbers.
    """
    given = start(height=height, width=width, channels=channels)
    return measure_from(given, layers, bytes_per_value=batch * bytes_per_value)


def measure_from(given: Volume, layers: Sequence[Layer], *, bytes_per_value: int = 4) -> tuple[DimsRow, ...]:
    """Measure a chain with a given input; `bytes_per_value` is for one value in all images of the batch."""
    return tuple(_row(*step, bytes_per_value) for step in walk(layers, given))


def total(rows: Sequence[DimsRow]) -> DimsRow:
    """Return the row of totals: the last output, and the sums of params, macs, activation_bytes and dropped."""
    return replace(
        rows[-1],
        layer="total",
        kind="total",
        params=sum(row.params for row in rows),
        macs=sum(row.macs for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
        dropped=sum(row.dropped for row in rows),
        kernel=None,
        pad=None,
        **_totals_of_weights(rows),
    )


def _totals_of_weights(rows: Sequence[DimsRow]) -> dict[str, Any]:
    """Return the sums of what only the rows of a file have. A layer appended to them is trained, and has no weights yet."""
    sums: dict[str, Any] = {"trainable": None, "weights": None, "zeros": None}
    if any(row.trainable is not None for row in rows):
        sums["trainable"] = sum(row.params if row.trainable is None else row.trainable for row in rows)
    if any(row.weights is not None for row in rows):
        weights = sum(row.weights or 0 for row in rows)
        zeros = sum(round((row.zeros or 0.0) * (row.weights or 0)) for row in rows)
        sums |= {"weights": weights, "zeros": zeros / weights if weights else None}
    return sums


def start(*, height: int | None, width: int | None, channels: int) -> Volume:
    """Return the input of a chain: an image, or a vector where height and width are None.

    Raises:
        UsageError: A side or the number of channels is zero or less.
    """
    for name, value in (("height", height), ("width", width), ("channels", channels)):
        if value is not None and value < 1:
            raise UsageError(f"the input's {name} is {value}; give 1 or more")
    if height is None or width is None:
        return Volume(None, channels, None, None)
    return Volume((height, width), channels, (1, 1), (1, 1), (height, width))


def after(row: DimsRow) -> Volume:
    """Return the input of the layer after this one."""
    size = None if row.height is None or row.width is None else (row.height, row.width)
    return Volume(size, row.channels, _sides(row.receptive_field), _sides(row.stride), _sides(row.image))


def walk(layers: Sequence[Layer], given: Volume) -> Iterator[tuple[Layer, Volume, Volume]]:
    """Yield each layer of a chain with its input and its output."""
    for layer in layers:
        made = _made(layer, given)
        yield layer, given, made
        given = made


def shown(sides: Sides) -> int | str | None:
    """Return one number where both sides agree, else "HxW"."""
    if sides is None:
        return None
    height, width = sides
    return height if height == width else f"{height}x{width}"


def shown_pads(down: tuple[int, int], across: tuple[int, int]) -> int | str:
    """Return the padding of a window: `1` on all edges, `1x2` above and below x left and right, `0+1` before + after."""
    sides = [str(before) if before == after else f"{before}+{after}" for before, after in (down, across)]
    both = sides[0] if sides[0] == sides[1] else "x".join(sides)
    return int(both) if both.isdigit() else both


def _sides(value: int | str | None) -> Sides:
    """Undo `shown`."""
    if value is None:
        return None
    height, _, width = str(value).partition("x")
    return int(height), int(width or height)


def _row(layer: Layer, given: Volume, made: Volume, bytes_per_value: int) -> DimsRow:
    height, width = made.size or (None, None)
    return DimsRow(
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
        image=shown(made.image),
        kernel=shown(layer.kernel) if _slides(layer) else None,
        pad=_pad(layer, given),
    )


def _slides(layer: Layer) -> bool:
    return layer.kind in (LayerKind.conv, LayerKind.pool, LayerKind.avgpool) or layer.kernel != (1, 1)


def _pad(layer: Layer, given: Volume) -> int | str | None:
    if given.size is None:
        return None
    if layer.kind is LayerKind.pad:
        return int(layer.padding)
    if not _slides(layer):
        return None
    down, across = (window.pads(size) for window, size in zip(windows(layer), given.size, strict=True))
    return shown_pads(down, across)


def _made(layer: Layer, given: Volume) -> Volume:
    """Compute the output of a layer."""
    match layer.kind:
        case LayerKind.conv | LayerKind.pool | LayerKind.avgpool:
            return _slid(layer, given)
        case LayerKind.pad:
            height, width = _map(layer, given)
            both = 2 * int(layer.padding)
            return replace(given, size=(height + both, width + both))
        case LayerKind.gap | LayerKind.gmp:
            field, _ = given.through(whole_map(_map(layer, given)))
            return replace(given, size=None, field=field, step=None)
        case LayerKind.flatten if given.size:
            field, _ = given.through(whole_map(given.size))
            return Volume(None, prod(given.size) * given.channels, field, None, given.image)
        case LayerKind.dense:
            if given.size:
                shape = "x".join(str(side) for side in (*given.size, given.channels))
                raise UsageError(
                    f"{_named(layer)} needs a vector, but its input is {shape}; put flatten or gap before it"
                )
            return Volume(None, layer.filters or 0, given.field, None, given.image)
        case LayerKind.flatten | LayerKind.bn | LayerKind.dropout | LayerKind.activation:
            return given


def _slid(layer: Layer, given: Volume) -> Volume:
    """Slide a window over a map."""
    size = _map(layer, given)
    if layer.kind is LayerKind.conv:
        for what, count in (("input channels", given.channels), ("filters", layer.filters or 0)):
            if count % layer.groups:
                raise UsageError(f"{_named(layer)}: {count} {what} are not divisible by {layer.groups} groups")
    down, across = windows(layer)
    _check(layer, "height", size[0], down)
    _check(layer, "width", size[1], across)
    field, step = given.through((down, across))
    made = (down.count(size[0]), across.count(size[1]))
    return Volume(made, given.channels if layer.filters is None else layer.filters, field, step, given.image)


def _check(layer: Layer, side: str, size: int, window: Window) -> None:
    """Refuse a window larger than its input, and a pooling window that may cover only padding."""
    if not isinstance(window.padding, int):
        pixels, padded = size, ""
    else:
        pixels, padded = (
            size + 2 * window.padding,
            f" with padding {window.padding} ({size + 2 * window.padding} in all)",
        )
        if layer.kind is not LayerKind.conv and window.padding > window.kernel // 2:
            most = window.kernel // 2
            raise UsageError(
                f"{_named(layer)}: padding {window.padding} is more than half the window {window.kernel}; give {most} or less"
            )
    if window.padding is not Padding.same and window.span > pixels:
        kernel = f"kernel {window.kernel}"
        kernel += f" with dilation {window.dilation} spans {window.span} and" if window.dilation > 1 else ""
        raise UsageError(
            f"{_named(layer)}: {kernel} is larger than its input's {side} {size}{padded}; pad it, or shrink less before it"
        )


def _map(layer: Layer, given: Volume) -> tuple[int, int]:
    """Return height and width of the input; a vector is an error."""
    if given.size is None:
        raise UsageError(
            f"{_named(layer)} needs height and width, but its input is a vector of {given.channels}; an image is given by "
            "height, width and channels, as in --input 224,224,3"
        )
    return given.size


def _named(layer: Layer) -> str:
    return f'{layer.name} ("{layer.text}")'


def _params(layer: Layer, given: Volume) -> int:
    filters = layer.filters or 0
    match layer.kind:
        case LayerKind.conv:
            height, width = layer.kernel
            return filters * height * width * (given.channels // layer.groups) + filters * layer.bias
        case LayerKind.dense:
            return filters * given.channels + filters * layer.bias
        case LayerKind.bn:
            return 2 * given.channels
        case _:
            return 0


def _macs(layer: Layer, given: Volume, made: Volume) -> int:
    """Count one multiply-accumulate for each application of each weight."""
    weights = _params(replace(layer, bias=False), given)
    match layer.kind:
        case LayerKind.conv:
            height, width = made.size or (0, 0)
            return height * width * weights
        case LayerKind.dense:
            return weights
        case _:
            return 0


def _dropped(layer: Layer, given: Volume, made: Volume) -> int:
    if given.size is None or made.size is None or layer.kind not in (LayerKind.conv, LayerKind.pool, LayerKind.avgpool):
        return 0
    return unread(windows(layer), given.size, made.size)
