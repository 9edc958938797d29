"""Fields of lines separated by tabs, commas, semicolons or bars, with the quotes of CSV or the escapes of `tsv`."""

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from cnnkit.errors import FormatError
from cnnkit.formats import table_columns, tsv
from cnnkit.formats.listed_paths import Backslashes
from cnnkit.formats.table_columns import Aliases

#: Excel's line that declares the separator.
SEPARATOR = re.compile(r"sep=(.)", re.IGNORECASE)


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
    for separator in "\t,;|":
        if separator in text:
            return _split(text, separator)
    return _split(text, "\t")


def _split(header: str, separator: str) -> list[str]:
    return [tsv.unquoted(field.strip()) for field in header.split(separator)]


#: A row: its line number, its fields, and its fields as written in the file.
Row = tuple[int, list[str], list[str]]


def tabbed(lines: Iterable[tuple[int, str]], backslashes: Backslashes) -> Iterator[Row]:
    """Yield the rows of lines whose fields are separated by tabs."""
    width = 0
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


def separated(lines: Iterable[tuple[int, str]], name: str, delimiter: str) -> Iterator[Row]:
    """Yield the rows of lines whose fields are separated by another character, as in CSV.

    Raises:
        FormatError: Quotes are wrong.
    """
    begun = 0
    first = next(iter(lines), (0, ""))

    def fed() -> Iterator[str]:
        nonlocal begun
        for number, text in chain([first], lines):
            begun = begun or number
            yield text + "\n"

    spaced = f"{delimiter} " in first[1]  # then spaces after separators are not part of the fields
    try:
        for fields in csv.reader(fed(), delimiter=delimiter, strict=True, skipinitialspace=spaced):
            if fields:
                yield begun, fields, fields
            begun = 0
    except csv.Error as error:
        reason = "an unclosed quote" if "end of data" in str(error) or "limit" in str(error) else str(error)
        raise FormatError(f"{name}:{begun}: {reason}; expected fields quoted as in CSV") from error
