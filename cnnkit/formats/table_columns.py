"""Names of a table's columns: ours, or those of other programs, regardless of case."""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence

from cnnkit import messages
from cnnkit.errors import FormatError
from cnnkit.formats import tsv

log = logging.getLogger("cnnkit")

#: Names of our columns in other programs, in lower case.
PATH_ALIASES = ("file_name", "filename", "file", "file_path", "filepath", "image", "image_path", "img", "img_path")
LABEL_ALIASES = ("class", "class_name", "category")

#: Columns that need no notice, by the name of their file: those of Hugging Face's ImageFolder.
_KNOWN = frozenset({("metadata.jsonl", "file_name"), ("metadata.csv", "file_name")})

#: Other names of each column.
Aliases = Mapping[str, Sequence[str]]

#: Called with the columns of a table before its first row.
Check = Callable[[Sequence[str]], None]

#: Names of the splits for training, for validation, and of those that are used once, after all choices.
TRAIN_NAMES = frozenset({"train", "training"})
VALIDATION_NAMES = frozenset({"val", "valid", "validation", "dev"})
TEST_NAMES = frozenset({"test", "testing", "holdout"})
SPLIT_NAMES = TRAIN_NAMES | VALIDATION_NAMES | TEST_NAMES

_NUMERIC = re.compile(r"[0-9.]+")
#: The end of a file name.
FILE_NAME = re.compile(r"\.[A-Za-z0-9]{2,5}$")


def proposed(row: Sequence[str]) -> list[str]:
    """Guess column names for a table without a header row, from its first row."""
    names = [f"column{number}" for number in range(1, len(row) + 1)]
    path = next(place for place, field in enumerate(row) if FILE_NAME.search(field))
    names[path] = "path"
    others = [place for place in range(len(row)) if place != path]
    for place in others:
        if row[place].lower() in SPLIT_NAMES and "split" not in names:
            names[place] = "split"
    left = [place for place in others if names[place] != "split"]
    words = [place for place in left if not _NUMERIC.fullmatch(row[place])]  # a number may be a row number
    for place in (words or left)[:1]:
        names[place] = "label"
    return names


def named(header: Sequence[str], name: str, required: Sequence[str], aliases: Aliases) -> list[str]:
    """Return the header row with other programs' column names replaced by ours."""
    columns = list(header)
    for column, others in aliases.items():
        there = position(header, column, others, name=name)
        if there is None:
            continue
        if header[there].lower() != column and (os.path.basename(name), header[there]) not in _KNOWN:
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
    words = [tsv.unquoted(word) for word in first.split()]
    if len(header) == 1 and any(position(words, column, aliases[column]) is not None for column in missing):
        return "; its columns seem to be separated by spaces: save it with tabs or commas"
    if missing == ["path"] and len(header) > 1:
        return "; if one of them has the image files, rename it to path"
    return ""


def position(header: Sequence[str], column: str, others: Sequence[str], *, name: str = "") -> int | None:
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
