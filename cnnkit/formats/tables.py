"""Tables of any program: TSV, CSV and JSON Lines in UTF-8 or UTF-16, with any line ends.

    path	label                       Path;Label                        {"file_name": "cats/1.jpg", "label": "cat"}
    cats/1.jpg	cat                 "cats/1.jpg";cat

The separator is found in the header row: tabs, else commas, semicolons or bars. Between tabs, a field may be escaped as `tsv` writes it,
or quoted. Blank rows, empty columns without a name, and further header rows (of files joined with `cat`) are ignored. So are columns with
the same name, unless the caller needs that name. There are no comments.
Column names are matched regardless of case, or by the names that other programs use.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from cnnkit import files, messages
from cnnkit.errors import FormatError
from cnnkit.formats import delimited, json_lines, listed_paths, table_columns, text_lines
from cnnkit.formats.listed_paths import Backslashes
from cnnkit.formats.table_columns import Aliases, Check

#: Names that are a header row by themselves, not a path.
_UNMISTAKABLE = frozenset({"path", "file_name", "filename", "file_path", "filepath", "image_path"})


def load(
    path: str | Path, *, required: Sequence[str], aliases: Aliases | None = None, check: Check | None = None
) -> Iterator[dict[str, str]]:
    """Yield the rows of a file, as `parse` does; paths are relative to its folder.

    Raises:
        FormatError: As `parse`.
        OSError: It cannot be read.
    """
    with files.open_text(path) as file:
        folder = os.path.dirname(path)
        yield from parse(
            list(file), name=str(path), required=required, aliases=aliases, folder=folder or ".", check=check
        )


def parse(
    lines: Iterable[bytes],
    *,
    name: str,
    required: Sequence[str],
    aliases: Aliases | None = None,
    folder: str = ".",
    check: Check | None = None,
) -> Iterator[dict[str, str]]:
    """Yield rows as mappings from column names to fields.

    Args:
        lines: Lines with or without their newline.
        name: The file, for messages.
        required: Columns that must exist.
        aliases: Other names of the required columns, and of further columns that the caller reads.
        folder: The folder that the column `path` is relative to.
        check: Called with the columns.

    Yields:
        One mapping per row.

    Raises:
        FormatError: It is not a table, a required column is missing or ambiguous, or a row has another number of fields.
    """
    aliases = {**dict.fromkeys(required, ()), **(aliases or {})}
    backslashes = Backslashes(name, folder)
    numbered = (
        (number, text) for number, text in enumerate(text_lines.decoded(backslashes.watching(lines), name), start=1)
    )
    first = next(((number, text) for number, text in numbered if text.strip()), None)
    if first is None:
        raise FormatError(f"{name}: empty; expected a header row with {', '.join(required)}")
    whole = chain([first], numbered)
    beginning = first[1].lstrip()
    if beginning.startswith("{"):
        yield from json_lines.rows(whole, name, required, aliases, backslashes, check)
        return
    if re.match(r'\[\s*(\{|"|$)', beginning):
        raise FormatError(
            f"{name}: a JSON array; convert it to one object per line (JSON Lines): jq -c '.[]' {messages.shell_word(name)}"
        )
    delimiter, lines_left = delimited.delimiter_of(first, numbered, aliases)
    if delimiter == "\t" and isinstance(lines, list):
        backslashes.look_ahead(lines)
    rows = (
        delimited.tabbed(lines_left, backslashes)
        if delimiter == "\t"
        else delimited.separated(lines_left, name, delimiter)
    )
    yield from _by_header(rows, name, required, aliases, backslashes, check, delimiter=delimiter)


def _by_header(
    rows: Iterator[delimited.Row],
    name: str,
    required: Sequence[str],
    aliases: Aliases,
    backslashes: Backslashes,
    check: Check | None,
    *,
    delimiter: str,
) -> Iterator[dict[str, str]]:
    _, header, written = next(rows, (0, [], []))
    header = [column.strip() for column in header]
    if len(header) == 1 and listed_paths.PATH_AND_LABEL.fullmatch(header[0]):
        raise FormatError(f"{name}: no header row: {listed_paths.about_path_and_label(header[0], name)}")
    if not any(
        table_columns.position(header, column, others) is not None for column, others in aliases.items()
    ) and any(table_columns.FILE_NAME.search(field) for field in header):
        proposed = (r"\t" if delimiter == "\t" else delimiter).join(table_columns.proposed(header))
        raise FormatError(
            f'{name}: no header row: the first line is "{messages.excerpt(delimiter.join(written))}"; '
            f"add one: sed -i '1i {proposed}' {messages.shell_word(name)}"
        )
    columns = table_columns.named(header, name, required, aliases)
    if check is not None:
        check([column for column in columns if column])
    counts = Counter(columns)
    columns = [column if counts[column] == 1 else "" for column in columns]  # ignore ambiguous columns
    path = columns.index("path") if "path" in columns else None
    first, unclosed = True, 0
    for number, fields, raw in rows:
        if not unclosed and delimiter == "\t" and raw[-1].count('"') % 2:
            unclosed = number
        if len(fields) > len(columns) and not any(fields[len(columns) :]):
            fields = fields[: len(columns)]
        if not any(fields):
            continue
        if fields[0].strip("\ufeff ") == header[0] and [field.strip("\ufeff ") for field in fields] == header:
            continue
        if len(fields) != len(columns):
            shown = messages.excerpt(delimiter.join(raw))
            reason = ""
            if first and len(fields) == len(columns) + 1:
                reason = "; if R wrote it, omit the row names (row.names = FALSE)"
            elif unclosed:
                reason = f"; line {unclosed} has an unclosed quote; in TSV, a line end in a field is written \\n"
            raise FormatError(
                f'{name}:{number}: {len(fields)} fields, but the header row has {len(columns)}; the line is "{shown}"{reason}'
            )
        first = False
        if path is not None and "\\" in raw[path]:
            fields = [*fields]
            fields[path] = backslashes.path(fields[path], written=raw[path], sure=delimiter != "\t")
        elif path is not None and fields[path] != fields[path].strip():
            fields = [*fields]
            fields[path] = backslashes.without_blanks(fields[path])
        yield {column: field for column, field in zip(columns, fields, strict=True) if column}


def is_header(line: bytes) -> bool:
    """Return whether the first line of a file is a header row or a JSON object, rather than a path in a list."""
    text = text_lines.first_line(line)
    if delimited.SEPARATOR.fullmatch(text) or _is_object(text):
        return True
    fields = delimited.header_fields(text)
    if len(fields) == 1:  # an image called "path" can be written ./path
        return fields[0].lower() in _UNMISTAKABLE
    named = table_columns.position(fields, "path", table_columns.PATH_ALIASES) is not None
    return named and not any(table_columns.FILE_NAME.search(field) for field in fields)


def _is_object(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
