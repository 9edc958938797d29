"""Tables of dimensions: read from a pipe, extended by more layers, printed as records, and explained by their formulas.

Every explanation reads `name = expression = value`; the expression is plain arithmetic, which Python evaluates to the value.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import tsv
from cnnkit.nets import dims, input_sizes, notation, symbolic_dims
from cnnkit.nets.dims import SLIDING, DimsRow, Step, Volume, Window, measure_from, steps, windows
from cnnkit.nets.input_sizes import InputSizes
from cnnkit.nets.notation import Layer, LayerKind, Padding
from cnnkit.nets.symbolic_dims import SymbolicRow


def explain(given: Volume, layers: Sequence[Layer], *, batch: int = 1, bytes_per_value: int = 4) -> Iterator[str]:
    """Write out the formula of every number in a chain's table.

    Args:
        given: The chain's input, from `dims.start` or `dims.after`.
        layers: The chain.
        batch: Images per batch.
        bytes_per_value: Bytes for one value of a layer's output.

    Yields:
        For each layer, a line with its name and its input, then one indented line for each number.

    Raises:
        UsageError: A layer does not fit its input.
    """
    rows = measure_from(given, layers, bytes_per_value=batch * bytes_per_value)
    for step, row in zip(steps(layers, given), rows, strict=True):
        yield _heading(step)
        written = _joined_lines if step.layer.branches else _lines
        for name, expression, value in written(step, row, batch, bytes_per_value):
            yield _written(name, expression, value)
    if len(rows) > 1:
        yield "total"
        for name in ("params", "macs", "activation_bytes"):
            parts = [value for row in rows if (value := getattr(row, name))]
            yield _written(name, " + ".join(map(str, parts)), sum(parts))


def _written(name: str, expression: str, value: int | str | None) -> str:
    return f"  {name} = {value}" if expression in ("", str(value)) else f"  {name} = {expression} = {value}"


def _heading(step: Step) -> str:
    """Return the line above a layer's numbers: its text and its input, or the outputs of its branches."""
    shapes = [_product(_shape_formula(each), sign="x") for each in step.inputs]
    match step.layer.kind:
        case LayerKind.residual:
            return f"{step.layer.name}: sum of {' and '.join(shapes)}"
        case LayerKind.concat:
            return f"{step.layer.name}: concatenation of {', '.join(shapes)}"
        case _:
            return f"{step.layer.name}: {step.layer.text}, input {shapes[0]}"


_Line = tuple[str, str, int | str | None]


def _joined_lines(step: Step, row: DimsRow, batch: int, bytes_per_value: int) -> Iterator[_Line]:
    """Yield name, expression and value of every number of a layer with branches: the largest field and stride hold."""
    if row.height and row.width:
        yield "height", "", row.height
        yield "width", "", row.width
    channels = " + ".join(str(each.channels) for each in step.inputs)
    yield "channels", channels if step.layer.kind is LayerKind.concat else "", row.channels
    yield "params", "", row.params
    yield "macs", "", row.macs
    fields, strides = [each.field for each in step.inputs], [each.step for each in step.inputs]
    for name, sides, value in (("receptive_field", fields, row.receptive_field), ("stride", strides, row.stride)):
        known = [side for side in sides if side is not None]
        if value is not None:
            yield from _both(name, [_maximum(side) for side in zip(*known, strict=True)], value)
    yield "activation_bytes", _product([batch, *row.shape, bytes_per_value]), row.activation_bytes


def _maximum(values: Sequence[int]) -> str:
    return f"max({', '.join(map(str, values))})" if len(set(values)) > 1 else str(values[0])


def _lines(step: Step, row: DimsRow, batch: int, bytes_per_value: int) -> Iterator[_Line]:
    """Yield name, expression and value of every number of a row, in the table's order."""
    layer, before = step.layer, step.given
    if before.size and row.height and row.width:
        for name, size, window, value in zip(
            ("height", "width"), before.size, windows(layer), (row.height, row.width), strict=True
        ):
            if window.dilation > 1 and (name == "height" or len(set(windows(layer))) > 1):
                yield "span", f"{window.dilation}*({window.kernel} - 1) + 1", window.span
            yield name, _side(layer, size, window), value
    yield "channels", _product(_shape_formula(before)) if layer.kind is LayerKind.flatten else "", row.channels
    yield "params", _params_formula(layer, before, row), row.params
    yield "macs", _macs_formula(layer, before, row), row.macs
    yield from _receptive_field_formula(layer, before, row)
    yield from _stride_formula(layer, before, row)
    yield "activation_bytes", _product([batch, *row.shape, bytes_per_value]), row.activation_bytes
    if layer.kind in SLIDING and before.size:
        height, width = before.size
        down, across = (window.unread(size) for window, size in zip(windows(layer), before.size, strict=True))
        expression = f"{height}*{width} - ({height} - {down})*({width} - {across})"
        yield "dropped", expression if row.dropped else "", row.dropped


def _shape_formula(volume: Volume) -> tuple[int, ...]:
    return (*(volume.size or ()), volume.channels)


def _product(factors: Sequence[int], sign: str = "*") -> str:
    return sign.join(str(factor) for factor in factors)


def _side(layer: Layer, size: int, window: Window) -> str:
    """Return the formula of one side of the output."""
    if layer.kind is LayerKind.pad:
        return f"{size} + 2*{layer.padding}"
    if layer.kind is LayerKind.deconv:
        if layer.padding is Padding.same:
            return f"{size}*{window.stride}"
        cropped = "" if layer.padding is Padding.valid else f" - 2*{layer.padding}"
        return f"({size} - 1)*{window.stride} + {window.span}{cropped}"
    if layer.kind not in SLIDING:
        return str(size)
    match layer.padding:
        case Padding.same:
            return f"ceil({size} / {window.stride})"
        case Padding.valid:
            return f"ceil(({size} - {window.span} + 1) / {window.stride})"
        case pixels:
            return f"floor(({size} + 2*{pixels} - {window.span}) / {window.stride}) + 1"


def _params_formula(layer: Layer, before: Volume, row: DimsRow) -> str:
    weights, biases = _weights_formula(layer, before, row), str(layer.filters)
    if layer.kind is LayerKind.bn or not layer.bias or not weights:
        return weights
    if layer.kind is LayerKind.local or layer.position_bias:
        biases = f"{row.height}*{row.width}*{layer.filters}"
    return f"{weights} + {biases}"


def _weights_formula(layer: Layer, before: Volume, row: DimsRow) -> str:
    depth = f"({before.channels}/{layer.groups})" if layer.groups > 1 else str(before.channels)
    match layer.kind:
        case LayerKind.conv | LayerKind.deconv:
            return f"{layer.filters}*{_product(layer.kernel)}*{depth}"
        case LayerKind.local:
            return f"{row.height}*{row.width}*{layer.filters}*{_product(layer.kernel)}*{depth}"
        case LayerKind.dense:
            return f"{layer.filters}*{before.channels}"
        case LayerKind.bn:
            return f"2*{before.channels}"
        case _:
            return ""


def _macs_formula(layer: Layer, before: Volume, row: DimsRow) -> str:
    weights = _weights_formula(layer, before, row)
    match layer.kind:
        case LayerKind.conv:
            return f"{row.height}*{row.width}*{weights}"
        case LayerKind.deconv:
            return f"{_product(before.size or ())}*{weights}"
        case LayerKind.local | LayerKind.dense:
            return weights
        case _:
            return ""


def _receptive_field_formula(layer: Layer, before: Volume, row: DimsRow) -> Iterator[_Line]:
    """Yield field + (span - 1) * stride along each side, at most the image; global pooling and flatten span the whole map.

    A field that is not known, as after a transposed convolution with a stride, yields nothing.
    """
    if row.receptive_field is None:
        return
    if before.size is None or before.field is None or before.step is None:
        yield "receptive_field", "", row.receptive_field
        return
    whole = layer.kind in (LayerKind.gap, LayerKind.gmp, LayerKind.flatten)
    spans = before.size if whole else [window.span for window in windows(layer)]
    sides = []
    for field, span, step, image in zip(before.field, spans, before.step, before.image or (None, None), strict=True):
        grows = whole or layer.kind in (*SLIDING, LayerKind.deconv)
        expression = f"{field} + ({span} - 1)*{step}" if grows else str(field)
        beyond = image is not None and grows and field + (span - 1) * step > image
        sides.append(f"min({expression}, {image})" if beyond else expression)
    yield from _both("receptive_field", sides, row.receptive_field)


def _stride_formula(layer: Layer, before: Volume, row: DimsRow) -> Iterator[_Line]:
    """Yield the stride before the layer times the layer's own; a vector has none."""
    if before.step is None or row.stride is None:
        return
    slides = layer.kind in SLIDING
    sides = [f"{step}*{own}" if slides else str(step) for step, own in zip(before.step, layer.stride, strict=True)]
    yield from _both("stride", sides, row.stride)


def _both(name: str, sides: Sequence[str], value: int | str | None) -> Iterator[_Line]:
    """Yield one line where both sides have the same value, else one for each side."""
    if isinstance(value, int):
        yield name, sides[0], value
        return
    values = str(value).split("x")
    for side, expression, number in zip(("height", "width"), sides, values, strict=True):
        yield f"{name} ({side})", expression, number


_NEEDED = ("layer", "kind", "output", "params", "macs", "receptive_field", "stride", "activation_bytes", "dropped")
COLUMNS = (*_NEEDED, "image")
# After Keras' names, so that the columns before keep their places.
_LAST = ("kernel", "pad")
# Only in tables of files, or on request.
_SPARSE = ("trainable", "weights", "zeros")


def records(
    rows: Iterable[DimsRow], *, keras: Mapping[str, str] | None = None
) -> Iterator[dict[str, int | float | str | None]]:
    """Yield records for TSV and for tables on a terminal, with the shape in one column: "64x64x32" or "10".

    Args:
        rows: The rows.
        keras: Keras' names of layers, for a column `keras`.
    """
    rows = list(rows)
    last = [*_LAST, *(column for column in _SPARSE if any(getattr(row, column) is not None for row in rows))]
    for row in rows:
        record: dict[str, int | float | str | None] = {column: getattr(row, column, None) for column in COLUMNS}
        record["output"] = "x".join(map(str, row.shape))
        if keras:
            record["keras"] = keras.get(row.layer, "")
        yield record | {column: getattr(row, column) for column in last}


def read(lines: Iterable[bytes], *, name: str) -> tuple[DimsRow, ...]:
    """Read a table that cnn-dims printed, as TSV or as JSON Lines.

    Args:
        lines: The table.
        name: Its source, for messages.

    Returns:
        Its layers, without the row of totals.

    Raises:
        UsageError: The table is empty.
        FormatError: It is not a table of cnn-dims, or has no layers.
    """
    text = [line for line in lines if line.strip()]
    remedy = "give --input H,W,C, or pipe in the output of cnn-dims"
    if not text:
        raise UsageError(f"{name} is empty; {remedy}")
    try:
        records = _from_json(text) if text[0].lstrip().startswith(b"{") else _from_tsv(text, name=name)
        rows = tuple(_row(record) for record in records if record["kind"] != "total")
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
        FormatError,
    ) as error:  # JSON of anything, nested as deeply
        raise FormatError(f"{name}: not a table of cnn-dims; {remedy}") from error
    if not rows:
        raise FormatError(f"{name}: the table has no layers; {remedy}")
    return rows


def _from_json(lines: Sequence[bytes]) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in lines]


def _from_tsv(lines: Sequence[bytes], *, name: str) -> list[Mapping[str, Any]]:
    """Read TSV, where an empty cell means None and the shape is one column."""
    records: list[Mapping[str, Any]] = []
    for cells in tsv.parse(lines, name=name, required=_NEEDED):
        record: dict[str, Any] = {column: cell or None for column, cell in cells.items()}
        *size, record["channels"] = cells["output"].split("x")
        record["height"], record["width"] = [*size, None, None][:2]
        records.append(record)
    return records


#: Columns of two numbers where the sides differ, columns that every row has, and those that older versions do not print.
_OF_SIDES = ("receptive_field", "stride", "image", "kernel")
_ALWAYS = ("channels", "params", "macs", "activation_bytes", "dropped")
_OPTIONAL = ("image", "kernel", *_SPARSE)


def _row(record: Mapping[str, Any]) -> DimsRow:
    """Build a row from a record, converting its numbers; raise ValueError, KeyError or TypeError for anything else."""
    names = [field.name for field in fields(DimsRow) if field.name not in ("layer", "kind", "pad", "zeros")]
    values: dict[str, Any] = {
        name: _number(record.get(name) if name in _OPTIONAL else record[name], sides=name in _OF_SIDES)
        for name in names
    }
    layer, kind, zeros = record["layer"], record["kind"], record.get("zeros")
    if not (isinstance(layer, str) and isinstance(kind, str)) or any(values[name] is None for name in _ALWAYS):
        raise ValueError(record)
    if (values["height"] is None) != (values["width"] is None):
        raise ValueError(record)
    share = None if zeros is None else float(zeros)
    if share is not None and not 0 <= share <= 1:
        raise ValueError(zeros)
    return DimsRow(layer=layer, kind=kind, pad=_padding(record.get("pad")), zeros=share, **values)


def _padding(value: int | str | None) -> int | str | None:
    """Read a cell of the column pad; raise ValueError or TypeError for anything else."""
    if value is None or type(value) is int:
        return value
    text = str(value)
    if not re.fullmatch(r"[0-9]+(\+[0-9]+)?(x[0-9]+(\+[0-9]+)?)?", text):
        raise ValueError(value)
    return int(text) if text.isdigit() else text


def _number(value: int | str | None, *, sides: bool) -> int | str | None:
    """Read a number of at least 0, or two of sides such as "3x5"; raise ValueError for anything else."""
    if value is None:
        return None
    if not re.fullmatch("[0-9]+(x[0-9]+)?" if sides else "[0-9]+", str(value)):
        raise ValueError(value)
    numbers = [int(side) for side in str(value).split("x")]
    return numbers[0] if len(numbers) == 1 else "{}x{}".format(*numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class DimsStage:
    """Layers, their input, and the rows of the stages before; bytes are for one value in all images of the batch."""

    layers: tuple[Layer, ...]
    start: Volume
    before: tuple[DimsRow, ...]
    bytes_per_value: int

    def rows(self) -> tuple[DimsRow, ...]:
        """Measure the layers, and return their rows after those of the stages before."""
        return (*self.before, *dims.measure_from(self.start, self.layers, bytes_per_value=self.bytes_per_value))

    def formulas(self, *, batch: int = 1) -> Iterator[str]:
        """Write out the formulas of this stage's own layers, for batches of `batch` images."""
        return explain(self.start, self.layers, batch=batch, bytes_per_value=self.bytes_per_value // batch)


def first(text: str, size: tuple[int, ...], *, bytes_per_value: int) -> DimsStage:
    """Start with layers on an input of a given size, (height, width, channels) or (units,).

    Raises:
        UsageError: The notation or the size is wrong.
    """
    return DimsStage(layers=_layers(text, ()), start=_input(size), before=(), bytes_per_value=bytes_per_value)


def later(text: str, lines: Iterable[bytes], *, name: str, bytes_per_value: int | None = None) -> DimsStage:
    """Append layers to a table.

    Args:
        text: The layers, in the notation.
        lines: The table, as an earlier stage printed it.
        name: Its source, for messages.
        bytes_per_value: For the whole table; by default the value that it was made with.

    Raises:
        UsageError: The notation is wrong, or the table is empty.
        FormatError: It is not a table of cnn-dims.
    """
    rows = read(lines, name=name)
    # A module that runs twice has twice the bytes, one that contains others has none.
    values = [(row.activation_bytes, prod(row.shape)) for row in rows]
    made_for = max(min((used // count for used, count in values if used and count), default=4), 1)
    scale = bytes_per_value or made_for
    before = tuple(replace(row, activation_bytes=row.activation_bytes * scale // made_for) for row in rows)
    return DimsStage(layers=_layers(text, before), start=dims.after(rows[-1]), before=before, bytes_per_value=scale)


def start(size: tuple[int, ...] | None, lines: Callable[[], Iterable[bytes]], *, name: str) -> Volume:
    """Return the input of a layer: of a size, (height, width, channels) or (units,), or else the output of a table.

    Args:
        size: The size; None to read the table.
        lines: Opens the table.
        name: Its source, for messages.

    Raises:
        UsageError: The size is wrong, or the table is empty.
        FormatError: It is not a table of cnn-dims.
    """
    if size is None:
        return dims.after(read(lines(), name=name)[-1])
    return _input(size)


def find_input_sizes(text: str, size: tuple[int, ...]) -> tuple[InputSizes, ...]:
    """Find the sizes of images that layers take, whose weights are made for one size.

    Raises:
        UsageError: The notation is wrong, or the layers do not fit.
    """
    return input_sizes.of_layers(_layers(text, ()), size)


def symbolic_rows(text: str, size: str, *, bytes_per_value: int) -> tuple[SymbolicRow, ...]:
    """Measure layers whose input has symbols for sizes; the last row is the total.

    Raises:
        UsageError: The notation or the size is wrong, or the layers do not fit.
    """
    return symbolic_dims.measure(_layers(text, ()), size, bytes_per_value=bytes_per_value)


def size(text: str) -> tuple[int, ...]:
    """Read a size: `128,128,3` (or `128x128x3`, as in the table), or `1280` for a vector.

    Raises:
        UsageError: It is neither.
    """
    words = re.split("[,x]", text)
    if len(words) not in (1, 3) or not all(re.fullmatch(r" *[0-9]{1,9} *", word) for word in words):
        raise UsageError(f'--input "{text}" is not a size; give H,W,C as in 128,128,3, or one number for a vector')
    return tuple(int(word) for word in words)


def _input(size: tuple[int, ...]) -> Volume:
    height, width, channels = size if len(size) == 3 else (None, None, size[0])
    return dims.start(height=height, width=width, channels=channels)


def _layers(text: str, before: Iterable[DimsRow]) -> tuple[Layer, ...]:
    layers = notation.parse(text, taken={row.layer for row in before})
    if not layers:
        raise UsageError("--layers is empty; give at least one layer")
    return layers
