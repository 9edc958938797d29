"""The manifest: a table that lists images with their label, split and group; paths are relative to the manifest's folder.

    path	label	split	group
    cats/1.jpg	cat	train	litter-7

Only `path` is required. Images with several labels have a column `labels` in place of `label`: see `label_sets`. A column `box` crops the
image, which then has the path of a crop: see `box`. A column `sha256`, `sha512`, `sha1` or `md5` has the hash of each file's content in
hexadecimal; further columns are ignored. Manifests are written as TSV; CSV, JSON Lines and lists of paths are also read. If there is a
column `truth` next to `label`, as in the output of `cnn-eval --worst`, it is the label: the other one is a prediction.
"""

import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

from cnnkit import files, messages
from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import atomic, box, label_sets, label_studio, listed_paths, table_columns, tables, tsv
from cnnkit.formats.box import Box

log = logging.getLogger("cnnkit")

#: File name endings of manifests, and of lists of paths.
MANIFEST_EXTENSIONS = (".tsv", ".tab", ".csv", ".jsonl", ".ndjson", ".json")
LIST_EXTENSIONS = (".txt", ".lst")

#: Names of the column that holds the split.
SPLIT_COLUMNS = ("split", "subset", "partition")

#: Columns with a hash of the file's content, and its number of bytes. Of several columns, the first one is read.
DIGEST_COLUMNS = {"sha256": 32, "sha512": 64, "sha1": 20, "md5": 16}

#: Names of the splits that are used once, after all choices.
TEST_NAMES = table_columns.TEST_NAMES

_WORDS = ("label", "labels", "split", "group", "truth")
_ALIASES = {
    "path": table_columns.PATH_ALIASES,
    "label": table_columns.LABEL_ALIASES,
    "labels": (),
    "split": SPLIT_COLUMNS[1:],
    "group": (),
    "truth": (),
    "box": (),
}
#: Columns of other programs with boxes, in lower case; they are not guessed, since some have two corners and others shares of the image.
_OTHER_BOXES = (
    ("bbox",),
    ("bounding_box",),
    ("x", "y", "width", "height"),
    ("x", "y", "w", "h"),
    ("xmin", "ymin", "xmax", "ymax"),
)
#: Columns of other programs with several labels, in lower case; they are not guessed, since their separators differ.
_TAGS = frozenset({"tags", "keywords", "attributes", "categories", "classes"})
_INDEX = re.compile(r"Unnamed: [0-9]+|view|rank")  # row numbers written by pandas, and columns written by cnnkit
_COUNTED = re.compile("[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One image of a manifest; `path` as written in the file, with the box of a crop.

    In features with several views of each image, `view` is the number of the view, 0 for the plain image; otherwise it is None.
    `digest` is a hash of the file's content, with one of DIGEST_COLUMNS, which its length tells. `labels` are those of a table with a
    column `labels` in place of `label`, an empty tuple for none of them; None in any other table.
    """

    path: str
    label: str | None = None
    split: str | None = None
    group: str | None = None
    view: int | None = None
    digest: bytes | None = None
    labels: tuple[str, ...] | None = None


def parse(
    lines: Iterable[bytes], *, name: str, views: bool | None = None, folder: str = ".", hashes: bool = False
) -> Iterator[ManifestRow]:
    """Yield the rows of a manifest.

    Args:
        lines: The lines of the file, header row first.
        name: The file, for messages.
        views: Given for the `.tsv` of features, which is in cnnkit's own format: True to read the column `view`, False to ignore it, as
            the Header says. By default the lines are any manifest.
        folder: The folder that its paths are relative to.
        hashes: Hashes of the content are used: log a notice about fields that are not hashes.

    Raises:
        FormatError: A row does not match the header row, there is no `path` column, a path is empty, a label is not UTF-8, or the table
            has predictions.
    """
    if views is not None:
        yield from (row(fields, name, views=views) for fields in tsv.parse(lines, name=name, required=["path"]))
        return
    digests = _Hashes(name)
    for fields in tables.parse(lines, **_table(name, folder)):
        if not all(field.isascii() for field in fields.values()):
            _check_encoding(fields, name, folder)
        if "truth" in fields:
            fields = {**fields, "label": fields["truth"]}
        yield row(fields, name, digests=digests)
    if hashes:
        digests.report()


def _table(name: str, folder: str) -> dict[str, Any]:
    """Return what `tables` has to know of a manifest: arguments of `parse` and `columns`."""
    return {
        "name": name,
        "required": ["path"],
        "aliases": _ALIASES,
        "folder": folder,
        "check": lambda columns: _check_columns(columns, name),
    }


def _parsed_by_column(lines: Iterable[bytes], *, name: str, folder: str, hashes: bool) -> Iterator[ManifestRow]:
    """Yield the rows of any manifest as `parse` does, but faster, and several thousand lines later; equal words are one object."""
    words: dict[str, str | None] = {"": None}
    sets: dict[str, tuple[str, ...] | None] = {}
    digests = _Hashes(name)
    for block in tables.columns(lines, **_table(name, folder)):
        if "truth" in block:
            block["label"] = block["truth"]
        if not all(block["path"]) or not all(_are_text(block.get(column, ())) for column in ("path", *_WORDS)):
            for fields in zip(*block.values(), strict=True):
                named = dict(zip(block, fields, strict=True))
                _check_encoding(named, name, folder)
                yield row(named, name, digests=digests)
            continue
        columns = (
            [words.setdefault(word, word) for word in block[column]] if column in block else repeat(None)
            for column in ("label", "split", "group")
        )
        paths: Iterable[str] = block["path"]
        if "box" in block:
            paths = map(cropped, paths, block["box"], repeat(name))
        several: Iterable[tuple[str, ...] | None] = repeat(None)
        if "labels" in block and "label" not in block:
            sets.update((word, label_sets.parse(word)) for word in {*block["labels"]}.difference(sets))
            several = map(sets.__getitem__, block["labels"])
        yield from map(ManifestRow, paths, *columns, repeat(None), digests.of_block(block), several)
    if sets and all(labels is None or len(labels) < 2 for labels in sets.values()):
        _log_single_labels(name, [word for word in sets if word.strip()])
    if hashes:
        digests.report()


def _log_single_labels(name: str, words: Sequence[str]) -> None:
    """Log that no image of a column `labels` has several labels: they may be separated otherwise, or be classes."""
    if not words:
        return
    odd = next((word for word in words if "," in word or "|" in word or " " in word.strip()), None)
    log.info(
        "%s: column labels: no image has several, as cat%sindoor%s; if each image has one class, rename the column to label",
        name,
        label_sets.SEPARATOR,
        "" if odd is None else f', and "{messages.excerpt(odd)}" is one label',
    )


class _Hashes:
    """The hashes in a table; what is not one is counted, since a mistyped hash is not a missing one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._odd, self._column, self._example = 0, "", ""

    def of_block(self, block: Mapping[str, Sequence[str]]) -> Iterable[bytes | None]:
        """Return the hash of each row, or None."""
        column = _digest_column(block)
        if column is None:
            return repeat(None)
        digests = [_digest(field, column) for field in block[column]]
        if None in digests:
            for field, path, digest in zip(block[column], block["path"], digests, strict=True):
                self._note(field, column, path, digest)
        return digests

    def of(self, field: str, column: str, path: str) -> bytes | None:
        """Return the hash in a field of the row of an image; None if it is empty or not a hash."""
        digest = _digest(field, column)
        self._note(field, column, path, digest)
        return digest

    def _note(self, field: str, column: str, path: str, digest: bytes | None) -> None:
        if digest is None and field.strip():
            self._odd += 1
            self._example = self._example or f'"{messages.excerpt(field)}" of {messages.excerpt(path)}'
            self._column = column

    def report(self) -> None:
        """Log a notice about fields that are not hashes."""
        if self._odd:
            log.info(
                "%s: %s of column %s ignored, such as %s: not a hash of %d hexadecimal digits",
                self._name,
                f"{self._odd:,} {'value' if self._odd == 1 else 'values'}",
                self._column,
                self._example,
                2 * DIGEST_COLUMNS[self._column.lower()],
            )


def _digest_column(columns: Iterable[str]) -> str | None:
    """Return the column with hashes of the content, regardless of case."""
    known = {column.lower(): column for column in columns}
    return next((known[name] for name in DIGEST_COLUMNS if name in known), None)


def _digest(field: str, column: str) -> bytes | None:
    """Return the hash in a field; None if it is not one."""
    try:
        digest = bytes.fromhex(field)
    except ValueError:
        return None
    return digest if len(digest) == DIGEST_COLUMNS[column.lower()] else None


def row(fields: Mapping[str, str], name: str, *, views: bool = False, digests: _Hashes | None = None) -> ManifestRow:
    """Return a row of a table whose columns have our names; `digests` counts what is not a hash.

    Raises:
        FormatError: Its path is empty.
    """
    if not fields["path"]:
        raise FormatError(f"{name}: a row with an empty path")
    label, split, group = (fields.get(column) or None for column in ("label", "split", "group"))
    view = fields.get("view", "") if views else ""
    column = _digest_column(fields)
    digest = None if column is None else (digests or _Hashes(name)).of(fields[column], column, fields["path"])
    path = cropped(fields["path"], fields.get("box") or "", name)
    labels = label_sets.parse(fields["labels"]) if "labels" in fields and "label" not in fields else None
    return ManifestRow(path, label, split, group, int(view) if _COUNTED.fullmatch(view) else None, digest, labels)


def cropped(path: str, written: str, name: str) -> str:
    """Return the path of a crop; of the whole image if its box is empty.

    Raises:
        FormatError: It is not a box, or the path has another one.
    """
    if not written.strip():
        return path
    if box.is_crop(path):
        raise FormatError(
            f"{name}: {messages.excerpt(path)}: a box in its path and one in the column box; keep one of them"
        )
    try:
        return box.of_path(path, Box.parse(written))
    except FormatError as error:
        raise FormatError(f"{name}: {messages.excerpt(path)}: {error}") from error


def _check_columns(columns: Sequence[str], name: str) -> None:
    """Raise an error for predictions, whose labels are not the true ones, and log columns that may be misspelt."""
    if ("probability" in columns or ("rank" in columns and "label" in columns)) and "truth" not in columns:
        raise FormatError(
            f"{name}: predictions (columns {', '.join(columns[:8])}), not a manifest; evaluate them with cnn-eval, or "
            "keep only the columns path and label to use the predictions as labels"
        )
    if "labels" in columns and ("label" in columns or "truth" in columns):
        log.info(
            "%s: column labels is not read, since column %s has the class; for several labels of an image, remove that one",
            name,
            "truth" if "truth" in columns else "label",
        )
    lacking = [column for column in ("label", "split", "group") if column not in columns]
    if "labels" in columns:
        lacking = [column for column in lacking if column != "label"]
    unread = [
        column
        for column in columns
        if column not in _ALIASES and column.lower() not in DIGEST_COLUMNS and not _INDEX.fullmatch(column)
    ]
    meant = {column: messages.similar(column, lacking, most=1) for column in unread}
    if "label" in lacking and "truth" not in columns and unread and not any(meant.values()):
        log.info(
            "%s: no column label, so images have no class; columns not read: %s; if one of them is the class, rename it to label",
            name,
            messages.excerpt(messages.shortened(unread, 8)),
        )
        if tags := next((column for column in unread if column.lower() in _TAGS), None):
            log.info(
                "%s: if column %s has several labels of each image, rename it to labels, and separate them by %s",
                name,
                tags,
                label_sets.SEPARATOR,
            )
    if "box" not in columns:
        _log_other_boxes(unread, name)
    for column, near in meant.items():
        if near:
            log.info(
                "%s: column %s is not read; if it is the %s, rename it to %s",
                name,
                messages.excerpt(column),
                near[0],
                near[0],
            )


def _log_other_boxes(unread: Sequence[str], name: str) -> None:
    """Log columns of other programs that may be boxes."""
    small = {column.lower(): column for column in unread}
    for names in _OTHER_BOXES:
        if all(column in small for column in names):
            its = ", ".join(small[column] for column in names)
            log.info(
                "%s: %s not read, and images are not cropped; %s",
                name,
                f"column {its} is" if len(names) == 1 else f"columns {its} are",
                "if it is x,y,width,height, rename it to box"
                if len(names) == 1
                else "for that, join them to a column box, x,y,width,height",
            )


def _check_encoding(fields: Mapping[str, str], name: str, folder: str) -> None:
    """Raise an error for text that is not UTF-8, except for paths of existing files with such names."""
    path = fields["path"]
    if _is_text(path):
        odd = next((fields[column] for column in _WORDS if not _is_text(fields.get(column, ""))), None)
    else:
        raw = path.encode("utf-8", "surrogateescape")
        there = os.path.lexists(os.path.join(folder, path))
        odd = None if there or not os.path.lexists(os.path.join(folder, raw.decode("latin-1"))) else path
    if odd is not None:
        raise FormatError(
            f'{name}: "{messages.excerpt(odd)}" is not UTF-8 (Latin-1?); save the file as UTF-8, '
            f"for example with iconv -f latin1 -t utf-8 {messages.shell_word(name)}"
        )


def _are_text(words: Iterable[str]) -> bool:
    try:
        "".join(words).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_text(word: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in word)


def load(path: str | Path, *, views: bool | None = None) -> list[ManifestRow]:
    """Read a whole manifest, as `parse` does, or a list of paths (`.txt`), which has no header row."""
    return list(rows(path, views=views))


def rows(
    path: str | Path, *, views: bool | None = None, hashes: bool = False, labels: bool = True
) -> Iterator[ManifestRow]:
    """Yield the rows that `load` returns; `hashes` as in `parse`, `labels` as in `exported`."""
    folder = files.folder_of(path) or "."
    with files.open_text(path) as file:
        lines = list(file)
    first = next((line for line in lines if line.strip()), b"")
    if views is None and Path(path).suffix.lower() in LIST_EXTENSIONS and not tables.is_header(first):
        yield from map(ManifestRow, listed_paths.read_paths(lines, name=str(path), folder=folder))
    elif views is None and (export := exported(lines, name=str(path), folder=folder, labels=labels)) is not None:
        yield from export
    elif views is None:
        yield from _parsed_by_column(lines, name=str(path), folder=folder, hashes=hashes)
    else:
        yield from parse(lines, name=str(path), views=views, folder=folder)


def exported(
    lines: Sequence[bytes], *, name: str, folder: str = ".", labels: bool = True
) -> Iterator[ManifestRow] | None:
    """Return the rows of an export of Label Studio, without `labels` also those of tasks without a choice; None for lines that are not one.

    Raises:
        FormatError: As `label_studio.parse`.
    """
    export = None
    if label_studio.is_export(lines):
        export = label_studio.parse(lines, name=name, folder=folder, labels=labels)
    return None if export is None else (_of_example(each, name, several=export.several) for each in export.examples)


def may_be_export(first: bytes) -> bool:
    """Return whether the first line of a file may be that of an export of Label Studio."""
    return label_studio.is_export([first])


def _of_example(each: label_studio.Example, name: str, *, several: bool) -> ManifestRow:
    path = box.of_path(each.path, each.box)
    if not several:
        return ManifestRow(path, each.labels[0] if each.labels else None)
    try:
        return ManifestRow(path, labels=label_sets.parse(label_sets.joined(each.labels or ())))
    except FormatError as error:
        raise FormatError(f"{name}: {messages.excerpt(each.path)}: {error}") from error


def further_columns(path: str | Path) -> tuple[str, ...]:
    """Return the names of the columns of a table that are none of a manifest's, nor numbers of rows.

    Raises:
        FormatError: It is not a table with a column `path`.
        OSError: It cannot be read.
    """
    row = next(iter(tables.load(path, required=["path"], aliases=_ALIASES)), {})
    known = {*_ALIASES, *DIGEST_COLUMNS}
    if "label" in row or "truth" in row:
        known.discard("labels")  # not read then
    return tuple(name for name in row if name not in known and not _INDEX.fullmatch(name))


def is_manifest(path: str | Path) -> bool:
    """Return whether a file of this name is read as a manifest or as a list of paths."""
    return Path(path).suffix.lower() in MANIFEST_EXTENSIONS + LIST_EXTENSIONS


def render(rows: Iterable[ManifestRow], *, columns: tuple[str, ...] = ("path", "label", "split", "group")) -> bytes:
    """Return a manifest as TSV, with these columns; without a column `box`, a crop keeps its path."""
    return tsv.render(columns, (fields(row, columns) for row in rows))


def fields(row: ManifestRow, columns: Sequence[str]) -> list[str | None]:
    """Return the texts of a row in columns of `columns`: the path and the box of a crop, if there is a column for it."""
    if "box" not in columns:
        return [field(row, column) for column in columns]
    path, found = box.divided(row.path)
    own = {"path": path, "box": None if found is None else found.text()}
    return [own[column] if column in own else field(row, column) for column in columns]


def field(row: ManifestRow, column: str) -> str | None:
    """Return the text of a row in one of the columns of `columns`."""
    if column in DIGEST_COLUMNS:
        known = row.digest is not None and len(row.digest) == DIGEST_COLUMNS[column]
        return row.digest.hex() if known and row.digest is not None else None
    if column == "labels":
        return None if row.labels is None else label_sets.joined(row.labels)
    value = getattr(row, column)
    return None if value is None else str(value)


def save(
    path: str | Path,
    rows: Iterable[ManifestRow],
    *,
    columns: tuple[str, ...] = ("path", "label", "split", "group"),
    more: Mapping[str, Sequence[str | None]] | None = None,
) -> None:
    """Write a manifest in one step; `more` are further columns, with a value for each row."""
    more = more or {}
    lines = ([*fields(row, columns), *(values[place] for values in more.values())] for place, row in enumerate(rows))
    with atomic.writing(path) as file:
        file.write(tsv.render((*columns, *more), lines))


def check_name(path: Path, *, option: str) -> None:
    """Check that commands will recognize the name as that of a manifest.

    Raises:
        UsageError: It does not end in .tsv.
    """
    if path.suffix.lower() != ".tsv":
        raise UsageError(f"{option} {path}: a manifest is written as TSV; give it a name that ends in .tsv")


def columns(rows: Collection[ManifestRow]) -> tuple[str, ...]:
    """Return the columns that rows need; `group`, `box`, and hashes of the content, only if a row has one.

    Rows with several labels have `labels` in place of `label`.
    """
    named = "label" if all(row.labels is None for row in rows) else "labels"
    grouped = any(row.group is not None for row in rows)
    lengths = {len(row.digest) for row in rows if row.digest is not None}
    digests = [column for column, length in DIGEST_COLUMNS.items() if length in lengths]
    crops = ["box"] if box.any_crop(row.path for row in rows) else []
    return ("path", named, "split", *(["group"] if grouped else []), *crops, *digests)


def moved(rows: Iterable[ManifestRow], folder: str | Path) -> Iterator[ManifestRow]:
    """Yield rows with paths relative to another folder, for rows with paths relative to the current folder."""
    above: dict[str, str] = {}  # images share folders

    def place(path: str) -> str:
        below, name = os.path.split(path)
        if not below or name in ("", os.curdir, os.pardir) or os.path.isabs(path):
            return seen_from(folder, path)
        if below not in above:
            there = seen_from(folder, below)
            above[below] = "" if there == os.curdir else f"{there}/"
        return above[below] + name

    for row in rows:
        yield replace(row, path=place(row.path))


def seen_here(folder: str, path: str) -> str:
    """Return a path relative to the current folder, for a path relative to another folder: `photos/1` for `../photos/1` in `lists`.

    `..` after a symbolic link stays, because it is the parent of the link's target.
    """
    while (
        path.startswith("../")
        and os.path.basename(folder) not in ("", os.curdir, os.pardir)
        and not os.path.islink(folder)
    ):
        folder, path = os.path.dirname(folder), path[len("../") :].lstrip("/")
    return os.path.join(folder, path)


def seen_from(folder: str | Path, path: str) -> str:
    """Return a path relative to another folder, for a path relative to the current folder; absolute paths stay.

    Symbolic links are not followed: a manifest has the names that the user gave. Separators are always `/`.
    """
    if os.path.isabs(path):
        return path
    parts = path.split(os.sep)
    if os.pardir in parts:  # ".." after a link is the parent of its target
        known = len(parts) - parts[::-1].index(os.pardir)
        path = os.path.join(os.path.realpath(os.sep.join(parts[:known])), *parts[known:])
    # Relative to the real folder, so that ".." means what it does to the operating system
    relative = os.path.relpath(os.path.join(os.path.realpath(os.curdir), path), os.path.realpath(folder))
    return relative.replace(os.sep, "/")
