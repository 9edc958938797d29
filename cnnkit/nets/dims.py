"""The dimensions of a chain of layers: shapes, parameters, operations, memory and receptive fields, by the arithmetic of windows."""

import itertools
from collections.abc import Generator, Iterator, Sequence
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

    def enlarged(self, size: int) -> int:
        """Compute the size of the output of a transposed convolution with these windows.

        Source: size * stride for `same` (Keras); (size - 1) * stride - 2 * padding + span for a number (torch.nn.ConvTranspose2d), with 0
            for `valid`.
        """
        if self.padding is Padding.same:
            return size * self.stride
        return (size - 1) * self.stride - sum(self.pads(size)) + self.span

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


#: Kinds of layers that slide windows over a map.
SLIDING = (LayerKind.conv, LayerKind.local, LayerKind.pool, LayerKind.avgpool)


def largest(sides: Sequence[Sides]) -> Sides:
    """Return the maximum along each side, as where branches meet; None if one of them is unknown."""
    known = [side for side in sides if side is not None]
    if len(known) < len(sides):
        return None
    return max(height for height, _ in known), max(width for _, width in known)


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
    return tuple(_row(step, bytes_per_value) for step in steps(layers, given))


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
    """Yield each layer of a chain with its input and its output; a layer with branches is one of them, those inside are not."""
    for layer in layers:
        *_, last = steps((layer,), given)
        yield layer, given, last.made
        given = last.made


@dataclass(frozen=True, slots=True)
class Step:
    """A layer with its inputs, one except where branches meet, and its output."""

    layer: Layer
    inputs: tuple[Volume, ...]
    made: Volume

    @property
    def given(self) -> Volume:
        """The first input."""
        return self.inputs[0]


def steps(layers: Sequence[Layer], given: Volume) -> Iterator[Step]:
    """Yield each layer of a chain, and before a layer with branches those inside it, its projection included."""
    for layer in layers:
        inputs: tuple[Volume, ...] = (given,)
        if layer.branches:
            inputs = yield from _branches(layer, given)
        made = _joined(layer, inputs) if layer.branches else _made(layer, given)
        yield Step(layer, inputs, made)
        given = made


def _branches(layer: Layer, given: Volume) -> Generator[Step, None, tuple[Volume, ...]]:
    """Yield the layers in the branches of a layer; return the outputs of its branches."""
    outputs = []
    for branch in layer.branches:
        last = given
        for step in steps(branch, given):
            yield step
            last = step.made
        outputs.append(last)
    if layer.kind is LayerKind.residual and len(outputs) == 1:
        last = given
        for step in steps(projection(layer, given, outputs[0]), given):
            yield step
            last = step.made
        outputs.append(last)
    return tuple(outputs)


def projection(layer: Layer, given: Volume, made: Volume) -> tuple[Layer, ...]:
    """Return the layers on the shortcut of a residual without a branch for it: none where both shapes agree.

    Where they differ, a convolution of 1 x 1 with the stride of the branch, or a dense layer for vectors; and a batch norm, if the
    branch ends in one.

    Args:
        layer: The residual.
        given: Its input.
        made: The output of its branch.

    Raises:
        UsageError: No such convolution has the shape of the branch.

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, equation 2 and option B.
    """
    if (given.size, given.channels) == (made.size, made.channels):
        return ()
    written = f"{_shown(given)} into {_shown(made)}"
    remedy = 'give the shortcut after "|", as in residual( ... | conv 64 k1 s2)'
    if (given.size is None) != (made.size is None):
        raise UsageError(f"{_named(layer)}: its layers turn {written}, which cannot be added to the input; {remedy}")
    ends_in_norm = layer.branches[0][-1].kind is LayerKind.bn
    bias = "" if not ends_in_norm else " nobias"
    words = f"dense {made.channels}{bias}"
    stride = (1, 1)
    if given.size and made.size:
        stride = _stride_between(layer, given, made)
        words = f"conv {made.channels} k1 s{shown(stride)}{bias}"
        size = tuple(Window(1, step).count(side) for side, step in zip(given.size, stride, strict=True))
        if size != made.size:
            raise UsageError(
                f"{_named(layer)}: its layers turn {written}, but the shortcut, {words}, makes "
                f"{'x'.join(map(str, (*size, made.channels)))}; give its layers padding same, or {remedy}"
            )
    name = f"{layer.name}.projection"
    kind = LayerKind.conv if given.size else LayerKind.dense
    made_of = Layer(kind=kind, name=name, text=words, filters=made.channels, stride=stride, bias=not ends_in_norm)
    norm = Layer(kind=LayerKind.bn, name=f"{name}_bn", text="bn")
    return (made_of, norm) if ends_in_norm else (made_of,)


def with_shortcuts(layers: Sequence[Layer], given: Volume) -> tuple[Layer, ...]:
    """Return a chain with the shortcuts that its residuals have with this input, so that they stay the same with inputs of other sizes.

    Raises:
        UsageError: A layer does not fit its input.
    """
    made: list[Layer] = []
    for layer in layers:
        *_, last = steps((layer,), given)
        if layer.branches:
            branches = [with_shortcuts(branch, given) for branch in layer.branches]
            if layer.kind is LayerKind.residual and len(branches) == 1:
                *_, end = steps(branches[0], given)
                branches.append(projection(layer, given, end.made))
            layer = replace(layer, branches=tuple(branches))
        made.append(layer)
        given = last.made
    return tuple(made)


def upto(layers: Sequence[Layer], layer: str, given: Volume) -> tuple[Layer, ...]:
    """Return the layers that a layer's output depends on; a block with the layer inside becomes a concat of one branch.

    Args:
        layers: The chain.
        layer: A name, inside a block too.
        given: Its input.

    Returns:
        The layers; none if there is no such layer.

    Raises:
        UsageError: A layer does not fit its input.
    """
    return _upto(tuple(layers), with_shortcuts(layers, given), layer)


def _upto(layers: tuple[Layer, ...], whole: tuple[Layer, ...], layer: str) -> tuple[Layer, ...]:
    """Do the same; `whole` are the layers with all shortcuts."""
    for place, (own, each) in enumerate(zip(layers, whole, strict=True)):
        if own.name == layer:
            return layers[: place + 1]
        for branch, known in itertools.zip_longest(own.branches, each.branches):
            found = _upto(known if branch is None else branch, known, layer)
            if found:
                block = replace(own, kind=LayerKind.concat, branches=(found,), activation=None)
                return (*layers[:place], block)
    return ()


def _stride_between(layer: Layer, given: Volume, made: Volume) -> tuple[int, int]:
    """Return the stride of a branch: the product of those of its layers, or by its sizes if it enlarges maps."""
    assert given.size is not None
    assert made.size is not None
    own = _stride_of(layer.branches[0])
    if own is not None:
        return own
    down, across = (max(before // after, 1) for before, after in zip(given.size, made.size, strict=True))
    return down, across


def _stride_of(layers: Sequence[Layer]) -> Sides:
    """Multiply the strides of layers; None if one of them enlarges its input."""
    down, across = 1, 1
    for layer in layers:
        own: Sides = layer.stride
        if layer.branches:
            own = largest([_stride_of(branch) for branch in layer.branches])
        if own is None or (layer.kind is LayerKind.deconv and own != (1, 1)):
            return None
        down, across = down * own[0], across * own[1]
    return down, across


def _joined(layer: Layer, inputs: Sequence[Volume]) -> Volume:
    """Compute the sum or the concatenation of the outputs of branches; the largest receptive field and stride hold."""
    first = inputs[0]
    concat = layer.kind is LayerKind.concat
    if len({each.size if concat else (each.size, each.channels) for each in inputs}) > 1:
        shapes = " and ".join(dict.fromkeys(_shown(each) for each in inputs))
        wanted = "height and width of all branches must agree" if concat else "both summands must have one shape"
        raise UsageError(
            f"{_named(layer)}: its branches return {shapes}, and {wanted}; give their windows padding same, and the same strides"
            f"{'' if concat else ' and filters'}"
        )
    channels = sum(each.channels for each in inputs) if concat else first.channels
    field = largest([each.field for each in inputs])
    return Volume(first.size, channels, field, largest([each.step for each in inputs]), first.image)


def _shown(volume: Volume) -> str:
    """Return a shape for a message."""
    return "x".join(map(str, (*volume.size, volume.channels))) if volume.size else f"a vector of {volume.channels}"


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


def _row(step: Step, bytes_per_value: int) -> DimsRow:
    layer, made = step.layer, step.made
    height, width = made.size or (None, None)
    return DimsRow(
        layer=layer.name,
        kind=layer.kind,
        height=height,
        width=width,
        channels=made.channels,
        params=_params(layer, step.given, made),
        macs=_macs(layer, step.given, made),
        receptive_field=shown(made.field),
        stride=shown(made.step),
        activation_bytes=prod(made.size or (1, 1)) * made.channels * bytes_per_value,
        dropped=_dropped(layer, step.given, made),
        image=shown(made.image),
        kernel=shown(layer.kernel) if _slides(layer) else None,
        pad=_pad(layer, step.given),
    )


def _slides(layer: Layer) -> bool:
    return layer.kind in (*SLIDING, LayerKind.deconv)


def _pad(layer: Layer, given: Volume) -> int | str | None:
    if given.size is None:
        return None
    if layer.kind is LayerKind.pad:
        return int(layer.padding)
    if not _slides(layer) or layer.kind is LayerKind.deconv:  # its padding removes rows and columns
        return None
    down, across = (window.pads(size) for window, size in zip(windows(layer), given.size, strict=True))
    return shown_pads(down, across)


def _made(layer: Layer, given: Volume) -> Volume:
    """Compute the output of a layer."""
    match layer.kind:
        case LayerKind.conv | LayerKind.local | LayerKind.pool | LayerKind.avgpool:
            return _slid(layer, given)
        case LayerKind.deconv:
            return _transposed(layer, given)
        case LayerKind.lrn:
            _map(layer, given)
            return given
        case LayerKind.residual | LayerKind.concat:
            raise AssertionError("a layer with branches has several inputs")
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
    _check_groups(layer, given)
    down, across = windows(layer)
    _check(layer, "height", size[0], down)
    _check(layer, "width", size[1], across)
    field, step = given.through((down, across))
    made = (down.count(size[0]), across.count(size[1]))
    return Volume(made, given.channels if layer.filters is None else layer.filters, field, step, given.image)


def _check_groups(layer: Layer, given: Volume) -> None:
    if layer.filters is None:
        return
    for what, count in (("input channels", given.channels), ("filters", layer.filters)):
        if count % layer.groups:
            raise UsageError(f"{_named(layer)}: {count} {what} are not divisible by {layer.groups} groups")


def _transposed(layer: Layer, given: Volume) -> Volume:
    """Enlarge a map. Receptive field and stride are unknown afterwards, except with stride 1, which is a convolution."""
    size = _map(layer, given)
    _check_groups(layer, given)
    both = windows(layer)
    made = tuple(window.enlarged(side) for side, window in zip(size, both, strict=True))
    for side, before, after in zip(("height", "width"), size, made, strict=True):
        if after < 1:
            raise UsageError(
                f"{_named(layer)}: padding {layer.padding} leaves nothing of its input's {side} {before}; give less padding"
            )
    field, step = given.through(both) if layer.stride == (1, 1) else (None, None)
    return Volume((made[0], made[1]), layer.filters or 0, field, step, given.image)


def _check(layer: Layer, side: str, size: int, window: Window) -> None:
    """Refuse a window larger than its input, and a pooling window that may cover only padding."""
    if not isinstance(window.padding, int):
        pixels, padded = size, ""
    else:
        pixels, padded = (
            size + 2 * window.padding,
            f" with padding {window.padding} ({size + 2 * window.padding} in all)",
        )
        if layer.kind in (LayerKind.pool, LayerKind.avgpool) and window.padding > window.kernel // 2:
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
    return layer.name if layer.branches else f'{layer.name} ("{layer.text}")'


def _params(layer: Layer, given: Volume, made: Volume) -> int:
    filters = layer.filters or 0
    positions = prod(made.size or (1, 1))
    match layer.kind:
        case LayerKind.conv | LayerKind.deconv:
            weights = filters * prod(layer.kernel) * (given.channels // layer.groups)
            return weights + filters * layer.bias * (positions if layer.position_bias else 1)
        case LayerKind.local:
            return positions * (filters * prod(layer.kernel) * given.channels + filters * layer.bias)
        case LayerKind.dense:
            return filters * given.channels + filters * layer.bias
        case LayerKind.bn:
            return 2 * given.channels
        case _:
            return 0


def _macs(layer: Layer, given: Volume, made: Volume) -> int:
    """Count one multiply-accumulate for each application of each weight."""
    weights = _params(replace(layer, bias=False), given, made)
    match layer.kind:
        case LayerKind.conv:
            return prod(made.size or (0, 0)) * weights
        case LayerKind.deconv:  # each weight is multiplied by every value of its input channel
            return prod(given.size or (0, 0)) * weights
        case LayerKind.local | LayerKind.dense:
            return weights
        case _:
            return 0


def _dropped(layer: Layer, given: Volume, made: Volume) -> int:
    if given.size is None or made.size is None or layer.kind not in SLIDING:
        return 0
    return unread(windows(layer), given.size, made.size)
