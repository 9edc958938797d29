"""Fields of lines separated by tabs, commas, semicolons or bars, with the quotes of CSV or the escapes of `tsv`."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from cnnkit import messages
from cnnkit.errors import FormatError
from cnnkit.formats import table_columns, tsv
from cnnkit.formats.listed_paths import Backslashes
from cnnkit.formats.table_columns import Aliases

#: Excel's line that declares the separator.
SEPARATOR = re.compile(r"sep=(.)", re.IGNORECASE)

_DECIMAL_COMMA = re.compile(r"\s*[+-]?[0-9]+,[0-9]+(e[+-]?[0-9]+)?\s*", re.IGNORECASE)


def delimiter_of(
    first: tuple[int, str], rest: Iterator[tuple[int, str]], aliases: Aliases
) -> tuple[str, Iterator[tuple[int, str]]]:
    """Return the separator of the fields, and the lines from the header row on."""
    announced = SEPARATOR.fullmatch(first[1].strip())
    if announced is not None:
        return announced[1], rest
    return _separator(first[1], aliases), chain([first], rest)


def _separator(header: str, aliases: Aliases) -> str:
    if "\t" in header:
        return "\t"
    for separator in ",;|":
        fields = _split(header, separator)
        if len(fields) > 1 and any(
            table_columns.position(fields, column, others) is not None for column, others in aliases.items()
        ):
            return separator
    most = max(",;|", key=header.count)
    return most if header.count(most) else "\t"


def header_fields(text: str) -> list[str]:
    """Split a line that may be a header row, at the first separator that it has."""
    return _split(text, separator_of(text))


def separator_of(text: str) -> str:
    """Return the first separator that a line has, in their order of preference; a tab if it has none."""
    return next((separator for separator in "\t,;|" if separator in text), "\t")


def _split(header: str, separator: str) -> list[str]:
    return [tsv.unquoted(field.strip()) for field in header.split(separator)]


#: A row: its line number, its fields, and its fields as written in the file.
Row = tuple[int, list[str], list[str]]


def columns(lines: Sequence[bytes], delimiter: str, width: int) -> list[list[str]] | None:
    """Split lines into columns at once, much faster than row by row.

    Args:
        lines: Lines of a file in UTF-8.
        delimiter: Separator of the fields.
        width: Number of fields of each line.

    Returns:
        A list of fields for each column; None if a line has anything else than plain fields: quotes, backslashes, line ends other than
        LF or CR LF, no content, or another number of fields.
    """
    block = b"".join(lines)
    if not block.endswith(b"\n"):
        block += b"\n"
    if b"\r" in block:
        if block.count(b"\r") != len(lines) or block.count(b"\r\n") != len(lines):
            return None
        block = block.replace(b"\r\n", b"\n")
    separator = delimiter.encode()
    blank = b"\n" + separator * (width - 1) + b"\n"
    if (
        block.count(b"\n") != len(lines)
        or any(mark in block for mark in (b'"', b"\\", b"\0"))
        or {line.count(separator) for line in lines} != {width - 1}
        or block.startswith(blank[1:])
        or blank in block
    ):
        return None
    fields = block.decode("utf-8", "surrogateescape").replace("\n", delimiter).split(delimiter)
    return [fields[place:-1:width] for place in range(width)]


def tabbed(lines: Iterable[tuple[int, str]], backslashes: Backslashes, *, width: int = 0) -> Iterator[Row]:
    """Yield the rows of lines whose fields are separated by tabs.

    Args:
        lines: Numbered lines.
        backslashes: What backslashes mean in this table.
        width: Number of fields of the header row; by default, it is the first of the lines.
    """
    for number, text in lines:
        if not text:
            continue
        written = text.split("\t")
        width = width or len(written)
        if '"' in text and len(written) > width:  # a tab within quotes
            written = next(csv.reader([text], delimiter="\t"), written)
        if '"' not in text and "\\" not in text:
            yield number, written, written
            continue
        fields = []
        for field in written:
            quoted = tsv.QUOTED.fullmatch(field)
            backslashes.foreign |= quoted is not None  # cnnkit writes no quoted fields
            fields.append(quoted[1].replace('""', '"') if quoted else backslashes.field(field))
        yield number, fields, written


def is_spaced(header: str, delimiter: str) -> bool:
    """Return whether spaces after separators are not part of the fields, by the header row."""
    return f"{delimiter} " in header


def separated(
    lines: Iterable[tuple[int, str]], name: str, delimiter: str, *, spaced: bool | None = None
) -> Iterator[Row]:
    """Yield the rows of lines whose fields are separated by another character, as in CSV.

    Args:
        lines: Numbered lines.
        name: The file, for messages.
        delimiter: The separator.
        spaced: See `is_spaced`; by default, the first of the lines is the header row.

    Raises:
        FormatError: Quotes are wrong.
    """
    begun = 0
    coming = iter(lines)
    if spaced is None:
        first = next(coming, (0, ""))
        coming, spaced = chain([first], coming), is_spaced(first[1], delimiter)

    def fed() -> Iterator[str]:
        nonlocal begun
        for number, text in coming:
            begun = begun or number
            yield text + "\n"

    try:
        for fields in csv.reader(fed(), delimiter=delimiter, strict=True, skipinitialspace=spaced):
            if fields:
                yield begun, fields, fields
            begun = 0
    except csv.Error as error:
        reason = "an unclosed quote" if "end of data" in str(error) or "limit" in str(error) else str(error)
        raise FormatError(f"{name}:{begun}: {reason}; expected fields quoted as in CSV") from error


def check_decimal_point(value: str, column: str, *, where: str, name: str) -> None:
    """Raise an error if a field that should be a number has a decimal comma.

    Args:
        value: The field.
        column: Its column.
        where: The file and the row, for the message.
        name: The file.

    Raises:
        FormatError: It has one; the rest of the column will have them, too.
    """
    if _DECIMAL_COMMA.fullmatch(value):
        # A whole field, or text in quotes, that is a number; one after the other, since two share the separator
        change = r"""':a; s/((^|[;|\t"])[+-]?[0-9]+),([0-9]+([eE][+-]?[0-9]+)?([";|\t\r]|$))/\1.\3/; ta'"""
        command = f"sed -E -i {change} {messages.shell_word(name)}"
        raise FormatError(
            f'{where}: column {column} has decimal commas, as in "{value.strip()}"; change all to points: {command}'
        )


def csv_row(fields: Iterable[str]) -> str:
    """Return a row of CSV with its line end; fields with commas, quotes or line ends are quoted."""
    row = io.StringIO()
    csv.writer(row, lineterminator="\n").writerow(fields)
    return row.getvalue()
