"""Tables of any program: TSV, CSV and JSON Lines in UTF-8 or UTF-16, with any line ends.

    path	label                       Path;Label                        {"file_name": "cats/1.jpg", "label": "cat"}
    cats/1.jpg	cat                 "cats/1.jpg";cat

The separator is found in the header row: tabs, else commas, semicolons or bars. Between tabs, a field may be escaped as `tsv` writes it,
or quoted. Blank rows, empty columns without a name, and further header rows (of files joined with `cat`) are ignored. So are columns with
the same name, unless the caller needs that name. There are no comments.
Column names are matched regardless of case, or by the names that other programs use.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
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
        folder = files.folder_of(path) or "."
        yield from parse(list(file), name=str(path), required=required, aliases=aliases, folder=folder, check=check)


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
    beginning = first[1].lstrip()
    if beginning.startswith("{"):
        yield from json_lines.rows(chain([first], numbered), name, required, aliases, backslashes, check)
        return
    if beginning.rstrip() == "[]":
        raise FormatError(f"{name}: an empty JSON array; it lists no image")
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
    _, header, written = next(rows, (0, [], []))
    yield from _Table(header, written, name, required, aliases, backslashes, check, delimiter=delimiter).rows(rows)


#: Lines that are read at once.
_BLOCK = 8192


def columns(
    lines: Iterable[bytes],
    *,
    name: str,
    required: Sequence[str],
    aliases: Aliases | None = None,
    folder: str = ".",
    check: Check | None = None,
) -> Iterator[dict[str, list[str]]]:
    """Yield the rows that `parse` yields, column by column: much faster, where fields have neither quotes nor backslashes.

    Args, Raises as `parse`; the rows before an error are yielded first.

    Yields:
        The fields of each column, for some thousand rows with the same columns.
    """
    coming = iter(lines)
    head: list[bytes] = []
    for line in coming:
        head.append(line)
        if line.strip():
            break
    if not head or not _is_plain_header(head):
        whole = lines if isinstance(lines, list) else chain(head, coming)
        yield from _by_column(parse(whole, name=name, required=required, aliases=aliases, folder=folder, check=check))
        return
    aliases = {**dict.fromkeys(required, ()), **(aliases or {})}
    backslashes = Backslashes(name, folder)
    number, header = list(enumerate(text_lines.decoded(backslashes.watching(head), name), start=1))[-1]
    delimiter, first = delimited.delimiter_of((number, header), iter(()), aliases)
    if delimiter == "\t" and isinstance(lines, list):
        backslashes.look_ahead(lines)
    spaced = delimiter != "\t" and delimited.is_spaced(header, delimiter)
    rows = delimited.tabbed(first, backslashes) if delimiter == "\t" else delimited.separated(first, name, delimiter)
    _, fields, written = next(rows)
    table = _Table(fields, written, name, required, aliases, backslashes, check, delimiter=delimiter)

    def numbered(some: Iterable[bytes]) -> Iterator[tuple[int, str]]:
        nonlocal number
        for text in text_lines.more(backslashes.watching(some), name):
            number += 1
            yield number, text

    while block := list(islice(coming, _BLOCK)):
        plain = None if spaced else table.columns_of(block)
        if plain is not None:
            number += len(block)
            yield plain
        elif delimiter == "\t":
            yield from _by_column(table.rows(delimited.tabbed(numbered(block), backslashes, width=len(fields))))
        else:  # a quoted field may end in another block
            rest = numbered(chain(block, coming))
            yield from _by_column(table.rows(delimited.separated(rest, name, delimiter, spaced=spaced)))


def _is_plain_header(head: Sequence[bytes]) -> bool:
    """Return whether the first lines are blank lines and a header row in UTF-8, without quotes and CR within a line."""
    plain = not any(b"\r" in line.rstrip(b"\r\n") or b'"' in line or b"\0" in line for line in head)
    if not plain or text_lines.is_wide(head[0]):
        return False
    text = text_lines.first_line(head[-1])
    return bool(text.strip()) and not text.lstrip().startswith(("{", "[", "sep=", "SEP=", "Sep="))


def _by_column(rows: Iterable[dict[str, str]]) -> Iterator[dict[str, list[str]]]:
    """Collect rows with the same columns; those before an error are yielded before it is raised."""
    keys: tuple[str, ...] = ()
    some: list[tuple[str, ...]] = []
    try:
        for row in rows:
            if len(some) == _BLOCK or keys != (*row,):
                if some:
                    yield _transposed(keys, some)
                keys, some = (*row,), []
            some.append((*row.values(),))
    except FormatError:
        if some:
            yield _transposed(keys, some)
        raise
    if some:
        yield _transposed(keys, some)


def _transposed(keys: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    return {key: list(column) for key, column in zip(keys, zip(*rows, strict=True), strict=True)}


class _Table:
    """The columns of a table with a header row, and what its rows have shown so far."""

    def __init__(
        self,
        header: Sequence[str],
        written: Sequence[str],
        name: str,
        required: Sequence[str],
        aliases: Aliases,
        backslashes: Backslashes,
        check: Check | None,
        *,
        delimiter: str,
    ) -> None:
        """Read the header row, also as `written` in the file.

        Raises:
            FormatError: It is not a header row, or a required column is missing or ambiguous.
        """
        self._name, self._backslashes, self._delimiter = name, backslashes, delimiter
        self._header = [column.strip() for column in header]
        _check_header(self._header, written, name, aliases, delimiter=delimiter)
        columns = table_columns.named(self._header, name, required, aliases)
        if check is not None:
            check([column for column in columns if column])
        counts = Counter(columns)
        self._columns = [column if counts[column] == 1 else "" for column in columns]  # ignore ambiguous columns
        self._path = self._columns.index("path") if "path" in self._columns else None
        self._first, self._unclosed = True, 0

    def rows(self, rows: Iterable[delimited.Row]) -> Iterator[dict[str, str]]:
        """Yield rows as mappings from column names to fields.

        Raises:
            FormatError: A row has another number of fields.
        """
        columns, header, delimiter, path = self._columns, self._header, self._delimiter, self._path
        for number, fields, raw in rows:
            if not self._unclosed and delimiter == "\t" and raw[-1].count('"') % 2:
                self._unclosed = number
            if len(fields) > len(columns) and not any(fields[len(columns) :]):
                fields = fields[: len(columns)]
            if not any(fields):
                continue
            if fields[0].strip("\ufeff ") == header[0] and [field.strip("\ufeff ") for field in fields] == header:
                continue
            if len(fields) != len(columns):
                raise self._wrong_number(number, fields, raw)
            self._first = False
            if path is not None and "\\" in raw[path]:
                fields = [*fields]
                fields[path] = self._backslashes.path(fields[path], written=raw[path], sure=delimiter != "\t")
            elif path is not None and fields[path] != fields[path].strip():
                fields = [*fields]
                fields[path] = self._backslashes.without_blanks(fields[path])
            yield {column: field for column, field in zip(columns, fields, strict=True) if column}

    def _wrong_number(self, number: int, fields: Sequence[str], raw: Sequence[str]) -> FormatError:
        shown = messages.excerpt(self._delimiter.join(raw))
        reason = ""
        if self._first and len(fields) == len(self._columns) + 1:
            reason = "; if R wrote it, omit the row names (row.names = FALSE)"
        elif self._unclosed:
            reason = f"; line {self._unclosed} has an unclosed quote; in TSV, a line end in a field is written \\n"
        return FormatError(
            f"{self._name}:{number}: {len(fields)} fields, but the header row has {len(self._columns)}; "
            f'the line is "{shown}"{reason}'
        )

    def columns_of(self, lines: Sequence[bytes]) -> dict[str, list[str]] | None:
        """Return the columns of lines of plain fields; None if `rows` has to look at them one by one."""
        found = delimited.columns(lines, self._delimiter, len(self._columns))
        if found is None or any(field.strip("\ufeff ") == self._header[0] for field in found[0]):
            return None
        if self._path is not None and list(map(str.strip, found[self._path])) != found[self._path]:
            return None
        self._first = False
        self._backslashes.note_end(lines[0])
        return {column: fields for column, fields in zip(self._columns, found, strict=True) if column}


def _check_header(
    header: Sequence[str], written: Sequence[str], name: str, aliases: Aliases, *, delimiter: str
) -> None:
    """Raise an error if the first line is not a header row but the first row of a table or a list."""
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
