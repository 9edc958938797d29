"""Tables of any program: TSV, CSV and JSON Lines in UTF-8 or UTF-16, with any line ends.

    path	label                       Path;Label                        {"file_name": "cats/1.jpg", "label": "cat"}
    cats/1.jpg	cat                 "cats/1.jpg";cat

The separator is found in the header row: tabs, else commas, semicolons or bars. Between tabs, a field may be escaped as `tsv` writes it,
or quoted. Blank rows, empty columns without a name, and further header rows (of files joined with `cat`) are ignored. So are columns with
the same name, unless the caller needs that name. There are no comments.
Column names are matched regardless of case, or by the names that other programs use.

A backslash is an escape in cnnkit's TSV and a separator in Windows paths: see `_Backslashes`.
"""

import codecs
import csv
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from cnnkit import files, messages
from cnnkit.errors import FormatError
from cnnkit.formats import tsv

log = logging.getLogger("cnnkit")

#: Names of our columns in other programs, in lower case.
PATH_ALIASES = ("file_name", "filename", "file", "file_path", "filepath", "image", "image_path", "img", "img_path")
LABEL_ALIASES = ("class", "class_name", "category")

#: Other names of each column.
Aliases = Mapping[str, Sequence[str]]

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark starts with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

#: First bytes of files that are not text.
_KINDS = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a WebP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"PK\3\4", "a zip archive or a spreadsheet"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"%PDF", "a PDF"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"version https://git-lfs", "a Git LFS pointer (fetch the file with git lfs pull)"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
)

#: Names that are a header row by themselves, not a path.
_UNMISTAKABLE = frozenset({"path", "file_name", "filename", "file_path", "filepath", "image_path"})

#: Excel's line that declares the separator.
_SEPARATOR = re.compile(r"sep=(.)", re.IGNORECASE)

#: Names of splits, to recognize their column in a table without a header row.
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})

_LINE_END = re.compile(r"\r\n|\r|\n")
_NUMERIC = re.compile(r"[0-9.]+")
_FILE_NAME = re.compile(r"\.[A-Za-z0-9]{2,5}$")
#: A line of a list without a header row, separated by spaces: cats/1.jpg 3
_PATH_AND_LABEL = re.compile(r"\S.*\.[A-Za-z][A-Za-z0-9]{2,3} +[^\s.]+")

#: A field of cnnkit's TSV: every backslash begins an escape.
_ESCAPED = re.compile(r'(\\")?([^\\]|\\[\\tnr])*')


def load(
    path: str | Path, *, required: Sequence[str], aliases: Aliases | None = None, check: "Check | None" = None
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


#: Called with the columns of a table before its first row.
Check = Callable[[Sequence[str]], None]


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
    backslashes = _Backslashes(name, folder)
    numbered = ((number, text) for number, text in enumerate(_texts(backslashes.watching(lines), name), start=1))
    first = next(((number, text) for number, text in numbered if text.strip()), None)
    if first is None:
        raise FormatError(f"{name}: empty; expected a header row with {', '.join(required)}")
    whole = chain([first], numbered)
    beginning = first[1].lstrip()
    if beginning.startswith("{"):
        yield from _json_rows(whole, name, required, aliases, backslashes, check)
        return
    if re.match(r'\[\s*(\{|"|$)', beginning):
        raise FormatError(
            f"{name}: a JSON array; convert it to one object per line (JSON Lines): jq -c '.[]' {messages.shell_word(name)}"
        )
    delimiter, lines_left = _delimiter(first, numbered, aliases)
    if delimiter == "\t" and isinstance(lines, list):
        backslashes.look_ahead(lines)
    rows = _tabbed(lines_left, backslashes) if delimiter == "\t" else _separated(lines_left, name, delimiter)
    yield from _by_header(rows, name, required, aliases, backslashes, check, delimiter=delimiter)


def is_header(line: bytes) -> bool:
    """Return whether the first line of a file is a header row or a JSON object, rather than a path in a list."""
    text = _decoded_start(line)
    if _SEPARATOR.fullmatch(text) or _is_object(text):
        return True
    fields = _header_fields(text)
    if len(fields) == 1:  # an image called "path" can be written ./path
        return fields[0].lower() in _UNMISTAKABLE
    named = _position(fields, "path", PATH_ALIASES) is not None
    return named and not any(_FILE_NAME.search(field) for field in fields)


def _is_object(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def read_paths(lines: Iterable[bytes], *, name: str, folder: str = ".") -> Iterator[str]:
    """Yield the paths of a list, one per line, without a header row; blank lines are ignored.

    Raises:
        FormatError: It is not text.
    """
    backslashes = _Backslashes(name, folder)
    checked = False
    for text in _texts(lines, name):
        if text.strip():
            if not checked:
                check_path(text, name=name, folder=folder)
                checked = True
            yield backslashes.path(text, written=text, sure=True)


def check_path(text: str, *, name: str, folder: str = ".") -> None:
    """Check that the first line of a list of paths is only a path, without a label or anything else after it.

    Raises:
        FormatError: The path without the rest exists, or the line is a file name and a label separated by spaces, as in ImageNet's lists.
    """
    path = re.split(r"[\t,;]| +(?=[^ ]+$)", text, maxsplit=1)[0]
    if path == text or _exists(folder, text):
        return
    there = _exists(folder, path)
    if there or _PATH_AND_LABEL.fullmatch(text):
        raise FormatError(f"{name}: {_about_path_and_label(text, name)}{'' if there else _about_missing(path, folder)}")


def _about_path_and_label(text: str, name: str) -> str:
    """Describe the remedy for a list that has a label, or more, after each path."""
    line = f'"{messages.excerpt(text)}" has more than a path'
    if _PATH_AND_LABEL.fullmatch(text) and not re.search(r"[\t,;]", text):
        edit = r"s/ +([^ ]+)$/\t\1/; 1i path\tlabel"
        table = messages.shell_word(
            os.path.join(os.path.dirname(name), "labels.tsv")
        )  # in the same folder, which its paths are relative to
        return f"{line}; to make a table with labels: sed -E '{edit}' {messages.shell_word(name)} > {table}"
    return f"{line}; a list has one path per line, and a table with labels starts with a header row such as path,label"


def _about_missing(path: str, folder: str) -> str:
    seen = "the current folder" if folder == "." else f"{folder}/, where the list is"
    return f"; paths are relative to {seen}, and {messages.excerpt(path)} is not there"


def _exists(folder: str, path: str) -> bool:
    try:
        return bool(path) and os.path.lexists(os.path.join(folder, path))
    except ValueError:  # a name that no file system accepts
        return False


def kind_of(beginning: bytes) -> str | None:
    """Return the kind of a file that is not text, by its first bytes, such as "a JPEG image"; otherwise None."""
    return next((kind for mark, kind in _KINDS if beginning.startswith(mark)), None)


# ---------------------------------------------------------------- bytes to lines


def _texts(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Decode lines and remove their ends; CR alone also ends a line."""
    coming = iter(lines)
    first = next(coming, b"")
    kind = kind_of(first)
    if kind is not None:
        raise FormatError(f"{name}: {kind}, not a table")
    encoding = next((encoding for mark, encoding in _BOMS if first.startswith(mark)), None)
    wide = encoding is not None and encoding != "utf-8"
    pieces = chain([first], coming)
    for text in _wide_lines(pieces, name, str(encoding)) if wide else _narrow_lines(pieces):
        if "\0" in text:
            raise FormatError(
                f"{name}: not text: it contains a NUL byte (UTF-16 without a byte order mark?); save it as UTF-8"
            )
        yield text


def _narrow_lines(lines: Iterable[bytes]) -> Iterator[str]:
    encoding = "utf-8-sig"
    for line in lines:
        text = line.decode(encoding, "surrogateescape").rstrip("\r\n")
        encoding = "utf-8"
        if "\r" in text or "\n" in text:
            yield from _LINE_END.split(text)
        else:
            yield text


def _wide_lines(pieces: Iterable[bytes], name: str, encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    rest = ""
    try:
        for piece in pieces:
            *whole, rest = re.split(r"\r\n|\r(?!$)|\n", rest + decoder.decode(piece))
            yield from (line.removeprefix("\ufeff") for line in whole)
        rest += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise FormatError(f"{name}: starts as {encoding[:6].upper()} but is not, or is truncated") from error
    yield from _LINE_END.split(rest.removeprefix("\ufeff"))


def _decoded_start(line: bytes) -> str:
    for mark, encoding in _BOMS:
        if line.startswith(mark):
            return _LINE_END.split(line.removeprefix(mark).decode(encoding, "ignore"))[0]
    return _LINE_END.split(line.decode("utf-8", "surrogateescape"))[0]


# ---------------------------------------------------------------- lines to fields


def _delimiter(
    first: tuple[int, str], rest: Iterator[tuple[int, str]], aliases: Aliases
) -> tuple[str, Iterator[tuple[int, str]]]:
    """Return the separator of the fields, and the lines from the header row on."""
    announced = _SEPARATOR.fullmatch(first[1].strip())
    if announced is not None:
        return announced[1], rest
    return _separator(first[1], aliases), chain([first], rest)


def _separator(header: str, aliases: Aliases) -> str:
    if "\t" in header:
        return "\t"
    for separator in ",;|":
        fields = _split(header, separator)
        if len(fields) > 1 and any(_position(fields, column, others) is not None for column, others in aliases.items()):
            return separator
    most = max(",;|", key=header.count)
    return most if header.count(most) else "\t"


def _header_fields(text: str) -> list[str]:
    for separator in "\t,;|":
        if separator in text:
            return _split(text, separator)
    return _split(text, "\t")


def _split(header: str, separator: str) -> list[str]:
    return [_unquoted(field.strip()) for field in header.split(separator)]


def _unquoted(field: str) -> str:
    quoted = tsv.QUOTED.fullmatch(field)
    return quoted[1].replace('""', '"') if quoted else field


#: A row: its line number, its fields, and its fields as written in the file.
_Row = tuple[int, list[str], list[str]]


def _tabbed(lines: Iterable[tuple[int, str]], backslashes: "_Backslashes") -> Iterator[_Row]:
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


def _separated(lines: Iterable[tuple[int, str]], name: str, delimiter: str) -> Iterator[_Row]:
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


# ---------------------------------------------------------------- fields to rows


def _by_header(
    rows: Iterator[_Row],
    name: str,
    required: Sequence[str],
    aliases: Aliases,
    backslashes: "_Backslashes",
    check: Check | None,
    *,
    delimiter: str,
) -> Iterator[dict[str, str]]:
    _, header, written = next(rows, (0, [], []))
    header = [column.strip() for column in header]
    if len(header) == 1 and _PATH_AND_LABEL.fullmatch(header[0]):
        raise FormatError(f"{name}: no header row: {_about_path_and_label(header[0], name)}")
    if not any(_position(header, column, others) is not None for column, others in aliases.items()) and any(
        _FILE_NAME.search(field) for field in header
    ):
        proposed = (r"\t" if delimiter == "\t" else delimiter).join(_proposed(header))
        raise FormatError(
            f'{name}: no header row: the first line is "{messages.excerpt(delimiter.join(written))}"; '
            f"add one: sed -i '1i {proposed}' {messages.shell_word(name)}"
        )
    columns = _named(header, name, required, aliases)
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
        if not any(fields) or [field.strip("\ufeff ") for field in fields] == header:
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


def _proposed(row: Sequence[str]) -> list[str]:
    """Guess column names for a table without a header row, from its first row."""
    names = [f"column{number}" for number in range(1, len(row) + 1)]
    path = next(place for place, field in enumerate(row) if _FILE_NAME.search(field))
    names[path] = "path"
    others = [place for place in range(len(row)) if place != path]
    for place in others:
        if row[place].lower() in _SPLITS and "split" not in names:
            names[place] = "split"
    left = [place for place in others if names[place] != "split"]
    words = [place for place in left if not _NUMERIC.fullmatch(row[place])]  # a number may be a row number
    for place in (words or left)[:1]:
        names[place] = "label"
    return names


def _named(header: Sequence[str], name: str, required: Sequence[str], aliases: Aliases) -> list[str]:
    """Return the header row with other programs' column names replaced by ours."""
    columns = list(header)
    for column, others in aliases.items():
        there = _position(header, column, others, name=name)
        if there is None:
            continue
        if header[there].lower() != column:
            log.info("%s: column %s is read as %s", name, header[there], column)
        columns[there] = column
    doubled = next(
        (column for place, column in enumerate(columns) if column in aliases and column in columns[:place]), None
    )
    if doubled is not None:
        raise FormatError(f"{name}: the header row has {doubled} twice")
    missing = [column for column in required if column not in columns]
    if missing:
        found = messages.excerpt(", ".join(header[:8]))
        remedy = _about_header(header, missing, aliases)
        raise FormatError(f"{name}: the header row lacks {', '.join(missing)}; found {found}{remedy}")
    return columns


def _about_header(header: Sequence[str], missing: Sequence[str], aliases: Aliases) -> str:
    """Return a remedy for a header row that lacks a required column, or nothing."""
    first = header[0] if header else ""
    if first.startswith("#"):
        return "; tables have no comments: remove the lines that start with #"
    words = [_unquoted(word) for word in first.split()]
    if len(header) == 1 and any(_position(words, column, aliases[column]) is not None for column in missing):
        return "; its columns seem to be separated by spaces: save it with tabs or commas"
    if missing == ["path"] and len(header) > 1:
        return "; if one of them has the image files, rename it to path"
    return ""


def _position(header: Sequence[str], column: str, others: Sequence[str], *, name: str = "") -> int | None:
    """Return the position of a column, by its name or other names, regardless of case; None if it is missing.

    Raises:
        FormatError: Several columns match, and the table's `name` is given.
    """
    if column in header:
        return header.index(column)
    small = [field.lower() for field in header]
    for names in ((column,), others):
        found = [place for place, field in enumerate(small) if field in names]
        if len(found) > 1 and name:
            meant = " or ".join(header[place] for place in found)
            raise FormatError(f"{name}: is {meant} the column {column}? Rename the right one to {column}")
        if found:
            return found[0]
    return None


# ---------------------------------------------------------------- JSON Lines


def _json_rows(
    lines: Iterable[tuple[int, str]],
    name: str,
    required: Sequence[str],
    aliases: Aliases,
    backslashes: "_Backslashes",
    check: Check | None,
) -> Iterator[dict[str, str]]:
    renamed: dict[tuple[str, ...], list[str]] = {}
    for number, text in lines:
        if not text.strip():
            continue
        where = f"{name}:{number}"
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise FormatError(f"{where}: {_about_json(error, text, name)}") from error
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{where}: not a JSON object; expected one per line (JSON Lines)") from error
        if not isinstance(row, dict):
            raise FormatError(f"{where}: expected an object with {' and '.join(required)}")
        keys = tuple(row)
        if keys not in renamed:
            try:
                renamed[keys] = _named(keys, name, required, aliases)
            except FormatError as error:
                if "lacks" not in str(error):
                    raise
                found = messages.excerpt(", ".join(keys[:8]))
                raise FormatError(
                    f"{where}: expected an object with {' and '.join(required)}; found {found}"
                ) from error
            if check is not None:
                check(renamed[keys])
        fields = {
            column: _word(value, f"{where}: {column}", needed=column in aliases)
            for column, value in zip(renamed[keys], row.values(), strict=True)
        }
        if "\\" in fields.get("path", ""):
            fields["path"] = backslashes.path(fields["path"], written=fields["path"])
        yield fields


def _about_json(error: json.JSONDecodeError, text: str, name: str) -> str:
    """Explain why a line is not a JSON object."""
    if error.msg == "Extra data":
        return f'"{messages.excerpt(text[error.pos :], 20)}" after the object; expected one per line (JSON Lines)'
    if text.strip() == "{" or text.rstrip().endswith((",", ": {", ": [")):
        return f"an object over several lines; convert it to one object per line (JSON Lines): jq -c . {name}"
    return "not a JSON object; expected one per line (JSON Lines)"


def _word(value: Any, where: str, *, needed: bool) -> str:  # noqa: ANN401 - any JSON value
    """Return a JSON value as a field of a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if "\0" in value or any(
            "\ud800" <= letter <= "\udfff" and not "\udc80" <= letter <= "\udcff" for letter in value
        ):
            raise FormatError(
                f'{where} "{messages.excerpt(value)}" contains characters that cannot be in a text or a file name'
            )
        return value
    if isinstance(value, list | dict):
        if needed:
            raise FormatError(f"{where} is {'a list' if isinstance(value, list) else 'an object'}; expected one word")
        return json.dumps(value)
    return str(value)


# ---------------------------------------------------------------- backslashes


class _Backslashes:
    r"""Decide what a backslash means in a table and in a path.

    cnnkit's TSV has `\\` for a backslash, `\t` for a tab, `\n` or `\r` for a line end. A field with any other backslash shows that
    another program wrote the table, whose backslashes are literal. `train\new\1.jpg` is ambiguous: it is read as whichever file exists;
    if neither does, as a Windows path if the lines end with CR LF, and otherwise as cnnkit's TSV.

    A path of another program with backslashes that does not exist is a Windows path, and is read with slashes.
    """

    def __init__(self, name: str, folder: str) -> None:
        self._name, self._folder = name, folder
        self._notified = False
        self.foreign = False
        self._leaning = False  # towards Windows paths, if nothing else decides

    def watching(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield lines unchanged, and note whether they end with CR LF."""
        for line in lines:
            self._leaning |= line.endswith(b"\r\n")
            yield line

    def look_ahead(self, lines: Iterable[bytes]) -> None:
        """Detect fields that cnnkit's TSV cannot have."""
        fields = (
            field
            for line in lines
            if b"\\" in line
            for field in line.decode("utf-8", "surrogateescape").rstrip("\r\n").split("\t")
        )
        self.foreign = not all(_ESCAPED.fullmatch(field) for field in fields)

    def field(self, written: str) -> str:
        """Read an unquoted field between tabs."""
        if not self.foreign:
            self.foreign = not _ESCAPED.fullmatch(written)
        return written if self.foreign else tsv.unescape(written)

    def path(self, read: str, *, written: str, sure: bool = False) -> str:
        """Return the path that a field means.

        Args:
            read: The field after escapes are resolved.
            written: The field as written in the table.
            sure: Another program wrote the table.
        """
        if "\\" not in written or _exists(self._folder, read):
            return read
        meant = written.replace("\\\\", "\\").replace("\\", "/").strip('"')
        if not (sure or self.foreign):
            escaped = any(letter in read for letter in "\t\n\r")
            could_be = escaped or read == written  # otherwise all are doubled, as cnnkit writes them
            if not (could_be and (_exists(self._folder, meant) or (self._leaning and escaped))):
                if escaped:
                    self._notify(
                        "%s: %s is read with tabs or line ends; if it is a Windows path, write %s", written, meant
                    )
                return read
        self._notify("%s: Windows paths: %s is read as %s", written, meant)
        return meant

    def without_blanks(self, read: str) -> str:
        """Remove spaces around a path, if only the path without them exists."""
        stripped = read.strip()
        if _exists(self._folder, read) or not _exists(self._folder, stripped):
            return read
        self._notify('%s: spaces around paths are ignored, as in "%s"%.0s', read, stripped)
        return stripped

    def _notify(self, message: str, written: str, meant: str) -> None:
        """Log a notice about the first such path."""
        if not self._notified:
            self._notified = True
            log.info(message, self._name, messages.excerpt(written), messages.excerpt(meant))
