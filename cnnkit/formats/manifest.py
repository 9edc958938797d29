"""The manifest: a table that lists images with their label, split and group; paths are as seen from the manifest's own folder.

    path	label	split	group
    cats/1.jpg	cat	train	litter-7

Only `path` is required; further columns are kept out of the way. We write TSV, and read CSV, JSON Lines and lists of paths as well. Where
a column `truth` stands beside `label`, as in `cnn-eval --worst`, it is the label: the other one is a prediction.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cnnkit import files, messages
from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import atomic, tables, tsv

log = logging.getLogger("cnnkit")

#: How manifests are called, and lists of paths.
_MANIFESTS = frozenset({".tsv", ".tab", ".csv", ".jsonl", ".ndjson", ".json"})
_LISTS = frozenset({".txt", ".lst"})

_WORDS = ("label", "split", "group", "truth")
_ALIASES = {
    "path": tables.PATH_ALIASES,
    "label": tables.LABEL_ALIASES,
    "split": ("subset", "partition"),
    "group": (),
    "truth": (),
}
_INDEX = re.compile(r"Unnamed: [0-9]+|view|rank")  # pandas' number of a row, and what we write
_COUNTED = re.compile("[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One image of a manifest; `path` as it stands in the file.

    `view` counts the augmented views of one image in features, 0 is the plain one; None where there are none.
    """

    path: str
    label: str | None = None
    split: str | None = None
    group: str | None = None
    view: int | None = None


def parse(lines: Iterable[bytes], *, name: str, views: bool | None = None, folder: str = ".") -> Iterator[ManifestRow]:
    """Read a manifest's lines as they are asked for.

    Args:
        lines: The lines of the file, header row first.
        name: The file, for messages.
        views: It is the list of features, which is as we write it; whether its column `view` is ours, as a Header says, or somebody's own
            and passed over. By default it is any manifest.
        folder: What its paths are seen from.

    Raises:
        FormatError: A row does not fit the header row, there is no `path` column, a path is empty, a label is not UTF-8, or these are
            predictions.
    """
    if views is not None:
        yield from (_row(fields, name, views=views) for fields in tsv.parse(lines, name=name, required=["path"]))
        return
    rows = tables.parse(
        lines,
        name=name,
        required=["path"],
        aliases=_ALIASES,
        folder=folder,
        check=lambda columns: _check_columns(columns, name),
    )
    for fields in rows:
        if not all(field.isascii() for field in fields.values()):
            _check_encoding(fields, name, folder)
        if "truth" in fields:
            fields = {**fields, "label": fields["truth"]}
        yield _row(fields, name)


def _row(fields: Mapping[str, str], name: str, *, views: bool = False) -> ManifestRow:
    if not fields["path"]:
        raise FormatError(f"{name}: a row with an empty path")
    label, split, group = (fields.get(column) or None for column in ("label", "split", "group"))
    view = fields.get("view", "") if views else ""
    return ManifestRow(fields["path"], label, split, group, int(view) if _COUNTED.fullmatch(view) else None)


def _check_columns(columns: Sequence[str], name: str) -> None:
    """Refuse predictions, as their labels are not true, and name a column that may be a misspelt one of ours."""
    if ("probability" in columns or ("rank" in columns and "label" in columns)) and "truth" not in columns:
        raise FormatError(
            f"{name}: predictions (columns {', '.join(columns[:8])}), not a manifest; cnn-eval measures them, and a table of the "
            "columns path and label alone makes a manifest of what was predicted"
        )
    lacking = [column for column in ("label", "split", "group") if column not in columns]
    unread = [column for column in columns if column not in _ALIASES and not _INDEX.fullmatch(column)]
    meant = {column: messages.similar(column, lacking, most=1) for column in unread}
    if "label" in lacking and "truth" not in columns and unread and not any(meant.values()):
        log.info(
            "%s: no column label, so no image has a class; not read: %s; if one of them is the label, call it that",
            name,
            messages.excerpt(messages.shortened(unread, 8)),
        )
    for column, near in meant.items():
        if near:
            log.info(
                "%s: column %s is not read; if it is the %s, call it that", name, messages.excerpt(column), near[0]
            )


def _check_encoding(fields: Mapping[str, str], name: str, folder: str) -> None:
    """Refuse words that are not UTF-8, but for those of files that are called so."""
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
            f"as iconv -f latin1 -t utf-8 {messages.shell_word(name)} prints it"
        )


def _is_text(word: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in word)


def load(path: str | Path, *, views: bool | None = None) -> list[ManifestRow]:
    """Read a manifest whole, as `parse` does; a list of paths (`.txt`) has no header row."""
    folder = os.path.dirname(path) or "."
    with files.open_text(path) as file:
        lines = list(file)
    first = next((line for line in lines if line.strip()), b"")
    if views is None and Path(path).suffix.lower() in _LISTS and not tables.is_header(first):
        return [ManifestRow(each) for each in tables.read_paths(lines, name=str(path), folder=folder)]
    return list(parse(lines, name=str(path), views=views, folder=folder))


def is_manifest(path: str | Path) -> bool:
    """Say whether a file of this name is taken for a manifest, or for a list of paths."""
    return Path(path).suffix.lower() in _MANIFESTS | _LISTS


def render(rows: Iterable[ManifestRow], *, columns: tuple[str, ...] = ("path", "label", "split", "group")) -> bytes:
    """Write a manifest as text, with these of its columns."""
    return tsv.render(columns, ([_field(row, column) for column in columns] for row in rows))


def _field(row: ManifestRow, column: str) -> str | None:
    value = getattr(row, column)
    return None if value is None else str(value)


def save(
    path: str | Path, rows: Iterable[ManifestRow], *, columns: tuple[str, ...] = ("path", "label", "split", "group")
) -> None:
    """Write a manifest in one step."""
    with atomic.writing(path) as file:
        file.write(render(rows, columns=columns))


def check_name(path: Path, *, option: str) -> None:
    """Refuse a name for a manifest by which no command would know it.

    Raises:
        UsageError: It does not end in .tsv.
    """
    if path.suffix.lower() != ".tsv":
        raise UsageError(f"{option} {path}: give it a name that ends in .tsv, by which every command knows a manifest")


def columns(rows: Iterable[ManifestRow]) -> tuple[str, ...]:
    """Name the columns that rows need: groups have one only where there are groups."""
    grouped = any(row.group is not None for row in rows)
    return ("path", "label", "split", "group") if grouped else ("path", "label", "split")


def moved(rows: Iterable[ManifestRow], folder: str | Path) -> list[ManifestRow]:
    """Give rows, whose paths are written as from the current folder, as they stand in a manifest in another folder."""
    return [replace(row, path=seen_from(folder, row.path)) for row in rows]


def seen_from(folder: str | Path, path: str) -> str:
    """Give a path, written as from the current folder, as seen from another folder; absolute paths stay.

    Symbolic links are not followed: a manifest names what the user named. Separators are `/` everywhere.
    """
    if os.path.isabs(path):
        return path
    parts = path.split(os.sep)
    if os.pardir in parts:  # it leads out of where a link points to, not of where the link lies
        known = len(parts) - parts[::-1].index(os.pardir)
        path = os.path.join(os.path.realpath(os.sep.join(parts[:known])), *parts[known:])
    # From the real folder, so that ".." means what the operating system takes it for
    relative = os.path.relpath(os.path.join(os.path.realpath(os.curdir), path), os.path.realpath(folder))
    return relative.replace(os.sep, "/")
