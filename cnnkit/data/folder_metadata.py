"""Metadata next to images: `metadata.jsonl` or `metadata.csv`, as the ImageFolder of Hugging Face's datasets has it.

    photos/train/0001.png
    photos/train/metadata.jsonl    {"file_name": "0001.png", "label": 0}
    photos/README.md               names of the classes 0, 1, ...: see `class_names_in`

A file of this name whose rows have `file_name`, relative to its folder, and a class, labels or a group belongs to the images in and below
its folder; of several, the nearest one above an image. Any other file of this name is not read; where images have no class, a notice
says why.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from cnnkit import files, messages
from cnnkit.errors import FormatError
from cnnkit.formats import delimited, manifest, table_columns, text_lines

#: Names of the file; of two in a folder, the first one is read.
NAMES = ("metadata.jsonl", "metadata.csv")

_USED = frozenset({"label", "labels", "group", *table_columns.LABEL_ALIASES})
#: The number of a class; with a point, as pandas writes a column in which some are missing.
_NUMBER = re.compile(r"-?[0-9]{1,9}(\.0+)?")
#: The form of it that needs another library.
_PARQUET = "metadata.parquet"
#: The longest README.md, and the longest first line, that are looked at: a row may have a long text.
_MOST_OF_CARD = 1 << 20
_MOST_OF_LINE = 1 << 26


@dataclass(frozen=True, slots=True)
class Metadata:
    """The rows of all files that belong to some images, by the path of the image in its normal form; and notices about them."""

    files: tuple[str, ...] = ()
    rows: dict[str, manifest.ManifestRow] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def found(folder: str, paths: Iterable[str]) -> dict[str, str]:
    """Return the metadata file of each folder that has one, in a folder and in all between it and some images."""
    return {each: path for each in _between(folder, paths) if (path := _in(each)) is not None}


def unread(folder: str, paths: Iterable[str]) -> Iterator[str]:
    """Yield a notice about each file of this name, in the same folders, that cannot be read."""
    for each in _between(folder, paths):
        if _in(each) is not None:
            continue
        for name in NAMES:
            path = os.path.join(each, name)
            if os.path.isfile(path):
                yield f"{path} is not read, since its first row has no {'label' if 'file_name' in _columns(path) else 'file_name'}"
        path = os.path.join(each, _PARQUET)
        if os.path.isfile(path):
            yield f"{path} is not read; write it as {NAMES[0]} (in pandas: to_json with orient='records', lines=True)"


def _between(folder: str, paths: Iterable[str]) -> list[str]:
    """Return a folder and all between it and some images, the upper ones first."""
    folders = {folder: None}
    for each in dict.fromkeys(map(os.path.dirname, paths)):
        while each not in folders and len(each) > len(folder):
            folders[each] = None
            each = os.path.dirname(each)
    return sorted(folders)


def read(folder: str, paths: Sequence[str]) -> Metadata:
    """Read the metadata of images in a folder.

    Args:
        folder: The folder that was given.
        paths: Those of the images, which begin with it.

    Raises:
        FormatError: A file is broken, lists an image twice, or has a number of a class that has no name.
    """
    by_folder = found(folder, paths)
    if not by_folder:
        return Metadata()
    rows: dict[str, manifest.ManifestRow] = {}
    remarks = []
    images = {os.path.normpath(path) for path in paths}
    for above, path in by_folder.items():  # the nearest folder last
        listed: dict[str, manifest.ManifestRow] = {}
        for row in _named(manifest.rows(path), path, folder):
            place = os.path.normpath(os.path.join(above, row.path))
            if replace(listed.setdefault(place, row), path=row.path) != row:
                raise FormatError(f"{path}: {messages.excerpt(row.path)} is listed twice, with different values")
        missing = [row.path for place, row in listed.items() if place not in images and not os.path.lexists(place)]
        if missing:
            remarks.append(_counted(missing, "image that it lists is", "images that it lists are", path, "not there"))
        rows.update((place, row) for place, row in listed.items() if place in images)
    if without := sorted(images.difference(rows)):
        remarks.append(
            _counted(without, "image is", "images are", messages.shortened(list(by_folder.values()), 3), "not in it")
        )
    return Metadata(tuple(by_folder.values()), rows, tuple(remarks))


def _counted(some: Sequence[str], one: str, several: str, path: str, what: str) -> str:
    """Describe images that a file does not fit."""
    return f"{path}: {f'1 {one}' if len(some) == 1 else f'{len(some):,} {several}'} {what}, such as {messages.excerpt(some[0])}"


def _in(folder: str) -> str | None:
    """Return the metadata file in a folder, if it has the columns."""
    for name in NAMES:
        path = os.path.join(folder, name)
        columns = _columns(path) if os.path.isfile(path) else []
        if "file_name" in columns and not _USED.isdisjoint(columns):
            return path
    return None


def _columns(path: str) -> list[str]:
    """Return the columns of a table, in lower case; none if its first line has none."""
    try:
        with files.open_text(path) as file:
            lines = iter(lambda: file.readline(_MOST_OF_LINE), b"")
            text = next((text for text in map(text_lines.first_line, lines) if text.strip()), "").lstrip()
    except OSError:
        return []
    if not text.startswith("{"):
        return [name.strip().lower() for name in delimited.header_fields(text)]
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [name.lower() for name in row] if isinstance(row, dict) else []


def _named(rows: Iterable[manifest.ManifestRow], path: str, folder: str) -> Iterator[manifest.ManifestRow]:
    """Replace numbers of classes by their names, where README.md has them; -1 is not a class."""
    names: Sequence[str] | None = None
    for row in rows:
        if row.label is None or not _NUMBER.fullmatch(row.label):
            yield row
            continue
        if names is None:
            names = next(filter(None, map(class_names_in, _above(os.path.dirname(path), folder))), ())
        number = int(float(row.label))
        if names and not -1 <= number < len(names):
            raise FormatError(
                f"{path}: label {number} of {messages.excerpt(row.path)}, but README.md names {len(names)} classes"
            )
        yield row if not names else replace(row, label=None if number < 0 else names[number])


def _above(start: str, folder: str) -> Iterator[str]:
    """Yield a folder and those above it, up to the one that was given."""
    yield start
    while start != folder and len(start) > len(folder):
        start = os.path.dirname(start)
        yield start


def class_names_in(folder: str) -> tuple[str, ...]:
    """Return the names of the feature `label` in README.md, a dataset card; none if it has no such names.

    The card begins with YAML between lines of three hyphens, as `datasets` writes it:

        dataset_info:
          features:
          - name: label
            dtype:
              class_label:
                names:
                  '0': cat
                  '1': dog
    """
    try:
        with files.open_text(os.path.join(folder, "README.md")) as file:
            lines = file.read(_MOST_OF_CARD).decode("utf-8-sig", "replace").splitlines()
    except OSError:
        return ()
    if not lines or lines[0].rstrip() != "---":
        return ()
    inside = False  # in the feature `label`
    indent = -1  # of `names:`, once there
    named: dict[int, str] = {}
    for line in lines[1:]:
        if line.rstrip() == "---":
            break
        text = line.strip()
        if indent >= 0:
            entry = re.fullmatch(r"""(?:['"]?(\d{1,6})['"]?:|-) +(.+)""", text)
            if entry is not None and len(line) - len(line.lstrip()) >= indent:
                named[len(named) if entry[1] is None else int(entry[1])] = _unquoted(entry[2])
                continue
            if named:
                break
        if text.startswith("- name:"):
            inside = _unquoted(text.removeprefix("- name:").strip()) == "label"
        elif inside and text == "names:":
            indent = len(line) - len(line.lstrip())
    return tuple(named[number] for number in range(len(named))) if sorted(named) == [*range(len(named))] else ()


def _unquoted(text: str) -> str:
    """Return a YAML scalar without its quotes."""
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(json.loads(text))
        except ValueError:
            return text[1:-1]
    return text
