"""A table of dimensions as text: what cnn-dims prints, and reads again from the stage before it in a pipe."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import tsv
from cnnkit.nets.dims import Row

COLUMNS = ("layer", "kind", "output", "params", "macs", "receptive_field", "stride", "activation_bytes", "dropped")


def records(rows: Iterable[Row], *, keras: Mapping[str, str] | None = None) -> Iterator[dict[str, int | str | None]]:
    """Give rows for people and for TSV: their shape in one column, "64x64x32" or "10".

    Args:
        rows: What was measured.
        keras: Keras' names for some layers, which get a column of their own.
    """
    for row in rows:
        record: dict[str, int | str | None] = {column: getattr(row, column, None) for column in COLUMNS}
        record["output"] = "x".join(map(str, row.shape))
        yield record | {"keras": keras.get(row.layer, "")} if keras else record


def read(lines: Iterable[bytes], *, name: str) -> tuple[Row, ...]:
    """Read a table that cnn-dims printed, as TSV or as JSON Lines.

    Args:
        lines: The table.
        name: Where it comes from, for messages.

    Returns:
        Its layers, without the row of totals.

    Raises:
        UsageError: It is empty.
        FormatError: It is no such table, or has no layers.
    """
    text = [line for line in lines if line.strip()]
    remedy = "give --input H,W,C, or pipe in what cnn-dims prints"
    if not text:
        raise UsageError(f"{name} is empty; {remedy}")
    try:
        records = _from_json(text) if text[0].lstrip().startswith(b"{") else _from_tsv(text, name=name)
        rows = tuple(_row(record) for record in records if record["kind"] != "total")
    except (ValueError, KeyError, TypeError, FormatError) as error:
        raise FormatError(f"{name}: no table of cnn-dims; {remedy}") from error
    if not rows:
        raise FormatError(f"{name}: a table without layers; {remedy}")
    return rows


def _from_json(lines: Sequence[bytes]) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in lines]


def _from_tsv(lines: Sequence[bytes], *, name: str) -> list[Mapping[str, Any]]:
    """Read TSV, where empty means None and the shape is one column."""
    records: list[Mapping[str, Any]] = []
    for cells in tsv.parse(lines, name=name, required=COLUMNS):
        record: dict[str, Any] = {column: cell or None for column, cell in cells.items()}
        *size, record["channels"] = cells["output"].split("x")
        record["height"], record["width"] = [*size, None, None][:2]
        records.append(record)
    return records


def _row(record: Mapping[str, Any]) -> Row:
    """Build a row, every number a number again."""
    names = [field.name for field in fields(Row)]
    values: dict[str, Any] = {name: _number(record[name]) for name in names if name not in ("layer", "kind")}
    return Row(layer=record["layer"], kind=record["kind"], **values)


def _number(value: int | str | None) -> int | str | None:
    """Read a number; of two, as in "3x5", make sure that they are two."""
    if value is None or isinstance(value, int):
        return value
    sides = [int(side) for side in value.split("x")]
    return sides[0] if len(sides) == 1 else "{}x{}".format(*sides)
