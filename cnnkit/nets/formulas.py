"""The formulas behind a table of dimensions, written out with their numbers in.

Every line reads `name = expression = value`; the expression is arithmetic that a pocket calculator, or Python, agrees with.
"""

from collections.abc import Iterator, Sequence

from cnnkit.nets.dims import Row, Volume, measure_from, walk
from cnnkit.nets.notation import Kind, Layer, Padding
from cnnkit.nets.window import Window, windows


def explain(given: Volume, layers: Sequence[Layer], *, batch: int = 1, bytes_per_value: int = 4) -> Iterator[str]:
    """Write out how every number of a chain's table comes about.

    Args:
        given: What the chain starts from: `dims.start` or `dims.behind`.
        layers: The chain.
        batch: Pictures at once.
        bytes_per_value: Bytes for one value of a layer's output.

    Yields:
        For each layer a line that names it and its input, and one indented line for each number.

    Raises:
        UsageError: A layer does not fit its input.
    """
    rows = measure_from(given, layers, bytes_per_value=batch * bytes_per_value)
    for (layer, before, _), row in zip(walk(layers, given), rows, strict=True):
        yield f"{layer.name}: {layer.text}, input {_product(_shape(before), sign='x')}"
        for name, expression, value in _lines(layer, before, row, batch, bytes_per_value):
            yield _written(name, expression, value)
    if len(rows) > 1:
        yield "total"
        for name in ("params", "macs", "activation_bytes"):
            parts = [value for row in rows if (value := getattr(row, name))]
            yield _written(name, " + ".join(map(str, parts)), sum(parts))


def _written(name: str, expression: str, value: int | str | None) -> str:
    return f"  {name} = {value}" if expression in ("", str(value)) else f"  {name} = {expression} = {value}"


_Line = tuple[str, str, int | str | None]


def _lines(layer: Layer, before: Volume, row: Row, batch: int, bytes_per_value: int) -> Iterator[_Line]:
    """Give name, expression and value of every number of a row, in the table's order."""
    if before.size and row.height and row.width:
        for name, size, window, value in zip(
            ("height", "width"), before.size, windows(layer), (row.height, row.width), strict=True
        ):
            if window.dilation > 1 and (name == "height" or len(set(windows(layer))) > 1):
                yield "span", f"{window.dilation}*({window.kernel} - 1) + 1", window.span
            yield name, _side(layer, size, window), value
    yield "channels", _product(_shape(before)) if layer.kind is Kind.flatten else "", row.channels
    yield "params", _params(layer, before), row.params
    yield "macs", _macs(layer, before, row), row.macs
    yield from _receptive_field(layer, before, row)
    yield from _stride(layer, before, row)
    yield "activation_bytes", _product([batch, *row.shape, bytes_per_value]), row.activation_bytes
    if layer.kind in (Kind.conv, Kind.pool, Kind.avgpool) and before.size:
        height, width = before.size
        down, across = (window.unread(size) for window, size in zip(windows(layer), before.size, strict=True))
        expression = f"{height}*{width} - ({height} - {down})*({width} - {across})"
        yield "dropped", expression if row.dropped else "", row.dropped


def _shape(volume: Volume) -> tuple[int, ...]:
    return (*(volume.size or ()), volume.channels)


def _product(factors: Sequence[int], sign: str = "*") -> str:
    return sign.join(str(factor) for factor in factors)


def _side(layer: Layer, size: int, window: Window) -> str:
    """Write how one side of the output follows from the same side of the input."""
    if layer.kind is Kind.pad:
        return f"{size} + 2*{layer.padding}"
    if layer.kind not in (Kind.conv, Kind.pool, Kind.avgpool):
        return str(size)
    match layer.padding:
        case Padding.same:
            return f"ceil({size} / {window.stride})"
        case Padding.valid:
            return f"ceil(({size} - {window.span} + 1) / {window.stride})"
        case pixels:
            return f"floor(({size} + 2*{pixels} - {window.span}) / {window.stride}) + 1"


def _params(layer: Layer, before: Volume) -> str:
    bias = f" + {layer.filters}" if layer.bias else ""
    match layer.kind:
        case Kind.conv:
            depth = f"({before.channels}/{layer.groups})" if layer.groups > 1 else str(before.channels)
            return f"{layer.filters}*{_product(layer.kernel)}*{depth}{bias}"
        case Kind.dense:
            return f"{layer.filters}*{before.channels}{bias}"
        case Kind.bn:
            return f"2*{before.channels}"
        case _:
            return ""


def _macs(layer: Layer, before: Volume, row: Row) -> str:
    weights = _params(layer, before).partition(" + ")[0]
    match layer.kind:
        case Kind.conv:
            return f"{row.height}*{row.width}*{weights}"
        case Kind.dense:
            return weights
        case _:
            return ""


def _receptive_field(layer: Layer, before: Volume, row: Row) -> Iterator[_Line]:
    """Write field + (span - 1) * stride along each side; what pools globally or flattens looks at the whole map."""
    if before.size is None or before.field is None or before.step is None:
        yield "receptive_field", "", row.receptive_field
        return
    whole = layer.kind in (Kind.gap, Kind.gmp, Kind.flatten)
    spans = before.size if whole else [window.span for window in windows(layer)]
    sides = [
        f"{field} + ({span} - 1)*{step}" if whole or layer.kind in (Kind.conv, Kind.pool, Kind.avgpool) else str(field)
        for field, span, step in zip(before.field, spans, before.step, strict=True)
    ]
    yield from _both("receptive_field", sides, row.receptive_field)


def _stride(layer: Layer, before: Volume, row: Row) -> Iterator[_Line]:
    """Write stride so far times the layer's own; a vector has none."""
    if before.step is None or row.stride is None:
        return
    slides = layer.kind in (Kind.conv, Kind.pool, Kind.avgpool)
    sides = [f"{step}*{own}" if slides else str(step) for step, own in zip(before.step, layer.stride, strict=True)]
    yield from _both("stride", sides, row.stride)


def _both(name: str, sides: Sequence[str], value: int | str | None) -> Iterator[_Line]:
    """Give one line where both sides come to the same number, else one a side."""
    if isinstance(value, int):
        yield name, sides[0], value
        return
    values = str(value).split("x")
    for side, expression, number in zip(("height", "width"), sides, values, strict=True):
        yield f"{name} ({side})", expression, number
