"""One stage of a pipe of cnn-dims: layers behind an input that is given, or behind the table of the stage before."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod

from cnnkit.errors import UsageError
from cnnkit.nets import dims, formulas, notation, table
from cnnkit.nets.dims import Row, Volume
from cnnkit.nets.notation import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Layers, what they start from, and the rows of the stages before; bytes are for one value of all pictures at once."""

    layers: tuple[Layer, ...]
    start: Volume
    before: tuple[Row, ...]
    bytes_per_value: int

    def rows(self) -> tuple[Row, ...]:
        """Measure the layers, and give their rows behind those of the stages before."""
        return (*self.before, *dims.measure_from(self.start, self.layers, bytes_per_value=self.bytes_per_value))

    def formulas(self, *, batch: int = 1) -> Iterator[str]:
        """Write out the arithmetic of this stage's own layers, for so many pictures at once."""
        return formulas.explain(self.start, self.layers, batch=batch, bytes_per_value=self.bytes_per_value // batch)


def first(text: str, size: tuple[int, ...], *, bytes_per_value: int) -> Stage:
    """Put layers behind an input of a given size, (height, width, channels) or (units,).

    Raises:
        UsageError: The notation or the size is wrong.
    """
    height, width, channels = size if len(size) == 3 else (None, None, size[0])
    start = dims.start(height=height, width=width, channels=channels)
    return Stage(layers=_layers(text, ()), start=start, before=(), bytes_per_value=bytes_per_value)


def later(text: str, lines: Iterable[bytes], *, name: str, bytes_per_value: int | None = None) -> Stage:
    """Put layers behind the last of a table.

    Args:
        text: The layers, by notation.
        lines: The table that a stage before printed.
        name: Where that comes from, for messages.
        bytes_per_value: Holds for the whole table; what the table was made for unless given.

    Raises:
        UsageError: The notation is wrong, or there is no table.
        FormatError: It is no table of cnn-dims.
    """
    rows = table.read(lines, name=name)
    # A module that runs twice has twice as many bytes, one that holds others none.
    made_for = min((row.activation_bytes // prod(row.shape) for row in rows if row.activation_bytes), default=4)
    scale = bytes_per_value or made_for
    before = tuple(replace(row, activation_bytes=row.activation_bytes * scale // made_for) for row in rows)
    return Stage(layers=_layers(text, before), start=dims.behind(rows[-1]), before=before, bytes_per_value=scale)


def size(text: str) -> tuple[int, ...]:
    """Read `128,128,3`, or as the table has it `128x128x3`, and `1280` for a vector.

    Raises:
        UsageError: It is neither.
    """
    words = re.split("[,x]", text)
    if len(words) not in (1, 3) or not all(re.fullmatch(r" *[0-9]{1,9} *", word) for word in words):
        raise UsageError(f'--input "{text}" is no size; give H,W,C as in 128,128,3, or one number for a vector')
    return tuple(int(word) for word in words)


def _layers(text: str, before: Iterable[Row]) -> tuple[Layer, ...]:
    layers = notation.parse(text, taken={row.layer for row in before})
    if not layers:
        raise UsageError("no layer is given; --layers is empty")
    return layers
