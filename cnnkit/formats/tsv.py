"""Tab-separated text that can hold any file name and works with `cut` and `awk`.

Tab, newline, carriage return and backslash inside a field are written as `\\t`, `\\n`, `\\r` and `\\\\` (linear TSV); nothing is quoted.
A field that starts and ends with quotes is written as `\\"..."`, so that the quotes are not taken for those of CSV.
Names that are not UTF-8 are preserved (surrogateescape).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cnnkit import files
from cnnkit.errors import FormatError
from cnnkit.formats import atomic

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_MARKS = ("\\", "\n", "\r", '"')  # a line without them, and without tabs in its fields, has nothing to escape
_NEEDS_ESCAPE = re.compile(r"[\\\t\n\r]")
_ESCAPED = re.compile(r"\\([\\tnr])")
#: A field that is quoted in CSV.
QUOTED = re.compile(r'"((?:[^"]|"")*)"', re.DOTALL)
_PLAIN = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r"}


def escape(field: str) -> str:
    """Escape a field so that it can be written between tabs."""
    escaped = _NEEDS_ESCAPE.sub(lambda match: _ESCAPES[match[0]], field)
    return "\\" + escaped if escaped[:1] == '"' and QUOTED.fullmatch(escaped) else escaped


def unescape(field: str) -> str:
    """Undo `escape`; a backslash before any other character is kept."""
    return _ESCAPED.sub(lambda match: _PLAIN[match[1]], field.removeprefix("\\") if field[:2] == '\\"' else field)


def unquoted(field: str) -> str:
    """Return a field without the quotes of CSV, if it has any."""
    quoted = QUOTED.fullmatch(field)
    return quoted[1].replace('""', '"') if quoted else field


def render(columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> bytes:
    """Return a header row and rows as TSV; None is an empty field."""
    return _line(columns) + b"".join(map(_row, rows))


def _row(row: Sequence[str | None]) -> bytes:
    """Return the line of a row; None is an empty field."""
    fields = ["" if field is None else field for field in row]
    line = "\t".join(fields)
    if line.count("\t") >= len(fields) or any(mark in line for mark in _MARKS):
        return _line([escape(field) for field in fields])
    return (line + "\n").encode("utf-8", "surrogateescape")


def _line(fields: Sequence[str]) -> bytes:
    return ("\t".join(fields) + "\n").encode("utf-8", "surrogateescape")


def save(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> None:
    """Write a table in one step."""
    with atomic.writing(path) as file:
        file.write(render(columns, rows))


class Writer:
    """Write a table row by row, if it does not fit into memory; the file is incomplete until it is closed."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._file = path.open("wb")
        self._file.write(_line(columns))

    def __enter__(self) -> Self:
        """Return the writer; the header row is already written."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()

    def write(self, row: Sequence[str | None]) -> None:
        """Append a row; None is an empty field."""
        self._file.write(_row(row))


def load(path: str | Path, *, required: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a file, as `parse` does.

    Raises:
        FormatError: As `parse`.
        OSError: It cannot be read.
    """
    with files.open_text(path) as file:
        yield from parse(file, name=str(path), required=required)


def parse(lines: Iterable[bytes], *, name: str, required: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield rows as mappings from column names to fields.

    Args:
        lines: Lines with or without their newline; Windows line ends are accepted.
        name: The file, for messages.
        required: Columns that must exist.

    Yields:
        One mapping per row; empty lines are ignored.

    Raises:
        FormatError: There is no header row, a required column is missing, a column is duplicate, or a row has another number of fields.
    """
    columns: list[str] | None = None
    for number, line in enumerate(lines, start=1):
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape").rstrip("\r\n")
        if not text:
            continue
        fields = [unescape(field) for field in text.split("\t")]
        if columns is None:
            columns = fields
            doubled = next((column for place, column in enumerate(columns) if column in columns[:place]), None)
            if doubled is not None:
                raise FormatError(f"{name}: the header row has {doubled} twice")
            missing = [column for column in required if column not in columns]
            if missing:
                raise FormatError(f"{name}: the header row lacks {', '.join(missing)}; found {', '.join(columns[:8])}")
            continue
        if len(fields) != len(columns):
            raise FormatError(f"{name}:{number}: {len(fields)} fields, but the header row has {len(columns)}")
        yield dict(zip(columns, fields, strict=True))
    if columns is None:
        raise FormatError(f"{name}: empty; expected a header row with {', '.join(required)}")
