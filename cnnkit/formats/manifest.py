"""The manifest: a TSV that lists images with their label, split and group; paths are as seen from the manifest's own folder.

    path	label	split	group
    cats/1.jpg	cat	train	litter-7

Only `path` is required; further columns are kept out of the way. Where there is a column `truth`, as in what cnn-eval --worst lists,
it is the label, since `label` is then what a network predicted.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import atomic, tsv

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


def parse(lines: Iterable[bytes], *, name: str, views: bool = False) -> Iterator[ManifestRow]:
    """Read a manifest's lines as they are asked for.

    Args:
        lines: The lines of the file, header row first.
        name: The file, for messages.
        views: The column `view` is ours, as a Header says; else it is somebody's own, and is passed over.

    Raises:
        FormatError: A row does not fit the header row, there is no `path` column, or a path is empty.
    """
    for fields in tsv.parse(lines, name=name, required=["path"]):
        if not fields["path"]:
            raise FormatError(f"{name}: a row with an empty path")
        label, split, group = (fields.get(column) or None for column in ("label", "split", "group"))
        if "truth" in fields:  # a list of predictions: what was predicted is in `label`
            label = fields["truth"] or None
        view = fields.get("view", "") if views else ""
        yield ManifestRow(fields["path"], label, split, group, int(view) if _COUNTED.fullmatch(view) else None)


def load(path: str | Path, *, views: bool = False) -> list[ManifestRow]:
    """Read a manifest whole, as `parse` does."""
    with Path(path).open("rb") as file:
        return list(parse(file, name=str(path), views=views))


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
