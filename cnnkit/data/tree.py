"""A split as folders, by copies, links or moves.

    photos/cat/1.jpg            ->  DIR/train/cat/1.jpg
    photos/cat/indoors/2.jpg        DIR/test/cat/indoors/2.jpg
    photos/dog/1.jpg                DIR/train/dog/1.jpg
                                    DIR/split.tsv              written last: its presence means complete

Below a class's folder names stay as they were, subfolders included, so no two pictures claim the same place. No picture is ever
written over, and none is removed that does not lie somewhere else as well.

Copies and links that fail half-way are taken back. Moves are written down in DIR/.moves.tsv before the first one is done; after an
interruption every picture is at its old place or at its new one, and `finish` does the rest.
"""

import contextlib
import errno
import hashlib
import logging
import os
import secrets
import shutil
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from cnnkit.data import source
from cnnkit.errors import CnnkitError
from cnnkit.formats import atomic, manifest, tsv
from cnnkit.formats.manifest import Row

MANIFEST = "split.tsv"
_MOVES = ".moves.tsv"
_COLUMNS = ("from", "path", "label", "split", "group")

_log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]


class Link(StrEnum):
    """How a picture comes into the tree."""

    COPY = "copy"
    SYMLINK = "symlink"  # relative, unless the picture was named absolutely: it survives where both are moved together
    HARDLINK = "hardlink"
    MOVE = "move"


def write(
    folder: str | Path,
    rows: Sequence[Row],
    *,
    digests: Mapping[str, bytes],
    link: Link = Link.COPY,
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> list[Row]:
    """Lay pictures out by part and class, and list them in `split.tsv`.

    Args:
        folder: Made where it is missing, with its parents.
        rows: Paths as seen from the current folder; every row is in a part.
        digests: For each path the sha256 of the file.
        link: How.
        force: The folder may hold something. What an earlier split left there is replaced.
        progress: Called with how many pictures are in place, and of how many.

    Returns:
        The rows of `split.tsv`, whose paths are as seen from the folder.

    Raises:
        CnnkitError: The folder is not empty, or holds the pictures themselves; a label cannot be a folder; `force` would remove
            a picture that lies nowhere else.
    """
    folder = Path(folder)
    places = _places(rows)
    _check_apart(folder, rows)
    check_free(folder, force=force)
    if force:
        _clear(folder, {row.split for row in rows if row.split}, {digest: path for path, digest in digests.items()})
    taken = next((place for place in places if os.path.lexists(folder / place)), None)
    if taken is not None:
        raise CnnkitError(f"{folder / taken} is in the way; move it away or choose another folder")
    listed = [Row(place, row.label, row.split, row.group) for place, row in zip(places, rows, strict=True)]
    moves = [(row.path, place) for row, place in zip(rows, listed, strict=True)]
    if link is Link.MOVE:
        folder.mkdir(parents=True, exist_ok=True)
        _write_moves(folder, moves)
        return finish(folder, progress=progress)
    with _taken_back() as made:
        for done, (path, row) in enumerate(moves, start=1):
            target = folder / row.path
            _make_folder(target.parent, made)
            _place(path, target, link)
            made.append(target)
            progress(done, len(moves))
        manifest.save(folder / MANIFEST, listed, columns=manifest.columns(listed))
    return listed


def check_free(folder: str | Path, *, force: bool) -> None:
    """Demand that a folder can be written to: before hours of work, and again before the first picture.

    Raises:
        CnnkitError: It is not empty, or moves into it were interrupted.
    """
    folder = Path(folder)
    if unfinished(folder):
        raise CnnkitError(f"{folder}: pictures were being moved into it; finish that with --link move")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise CnnkitError(f"{folder} is not empty; choose another folder, or write into it with --force")


# ---------------------------------------------------------------- where to


def _places(rows: Sequence[Row]) -> list[str]:
    """Give each picture a place of its own below the folder: part, class, and its name as seen from what its class has in common."""
    folders: defaultdict[str | None, set[str]] = defaultdict(set)
    for row in rows:
        folders[row.label].add(os.path.dirname(os.path.abspath(row.path)))
    common = {label: os.path.commonpath(below) for label, below in folders.items()}
    for label in folders:
        if label is not None and (not label or label.startswith(".") or os.sep in label or "\0" in label):
            raise CnnkitError(
                f"class {label!r} cannot be the name of a folder; write a manifest instead, with --manifest"
            )
    places: dict[str, str] = {}
    for row in rows:
        below = os.path.relpath(os.path.abspath(row.path), common[row.label]).replace(os.sep, "/")
        place = "/".join(filter(None, (row.split, row.label, below)))
        if place in places:
            raise CnnkitError(f"{places[place]} and {row.path} would both become {place}; name one of them otherwise")
        places[place] = row.path
    return list(places)


def _check_apart(folder: Path, rows: Sequence[Row]) -> None:
    real = os.path.realpath(folder)
    for below in {os.path.dirname(row.path) for row in rows}:
        if os.path.commonpath([real, os.path.realpath(below)]) == real:
            raise CnnkitError(
                f"{folder} holds the pictures that are to be split ({below or os.curdir}); choose another folder"
            )


def _clear(folder: Path, parts: set[str], elsewhere: Mapping[bytes, str]) -> None:
    """Remove what an earlier split left, if it can be had again: links, and files that are also among the pictures to be split."""
    old = folder / MANIFEST
    rows = manifest.load(old) if old.is_file() else []
    parts = parts | {row.split for row in rows if row.split}
    found = {Path(below, name) for part in parts for below, _, names in os.walk(folder / part) for name in names}
    left = {path for path in found if source.names_picture(path.name)} | {folder / row.path for row in rows}
    left = {path for path in left if os.path.lexists(path)}
    for path in sorted(left):
        if not path.is_symlink() and not _lies_elsewhere(path, elsewhere):
            raise CnnkitError(f"{path} lies nowhere else and would be lost; move it away or choose another folder")
    old.unlink(missing_ok=True)
    for path in left:
        path.unlink()
    for part in parts:
        for below, _, _ in os.walk(folder / part, topdown=False):
            with contextlib.suppress(OSError):  # something else is in it, and stays
                os.rmdir(below)


def _lies_elsewhere(path: Path, elsewhere: Mapping[bytes, str]) -> bool:
    other = elsewhere.get(_digest(path))
    # Two names of one file, as through a mount: removing it here removes it there, unless it is a hard link
    return other is not None and (not os.path.samefile(path, other) or path.stat().st_nlink > 1)


def _digest(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


# ---------------------------------------------------------------- copies and links


@contextlib.contextmanager
def _taken_back() -> Generator[list[Path]]:
    """Remove the files and folders that were made, latest first, should the work not come to its end.

    Yields:
        A list to note them in.
    """
    made: list[Path] = []
    try:
        yield made
    except BaseException:
        for path in reversed(made):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
        raise


def _make_folder(folder: Path, made: list[Path]) -> None:
    if not folder.exists():
        _make_folder(folder.parent, made)
        folder.mkdir()
        made.append(folder)


def _place(path: str, target: Path, link: Link) -> None:
    if link is Link.SYMLINK:
        target.symlink_to(manifest.seen_from(target.parent, path))
    elif link is Link.HARDLINK:
        try:
            os.link(os.path.realpath(path), target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise CnnkitError(f"{target.parent} is on another disk than {path}; use --link copy or symlink") from error
    else:
        _copy(path, target)


def _copy(path: str | Path, target: Path, *, durable: bool = False) -> None:
    """Copy content, times and permissions; the target takes its name when it is whole."""
    beside = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        shutil.copy2(path, beside)
        if durable:
            _sync(beside)
        beside.rename(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if durable:
        _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- moves


def unfinished(folder: str | Path) -> bool:
    """Say whether pictures were being moved into this folder when something came between."""
    return (Path(folder) / _MOVES).is_file()


def finish(folder: str | Path, *, progress: Progress = lambda done, total: None) -> list[Row]:
    """Do the moves that are written down in a folder, those that are still to be done, and list the pictures in `split.tsv`.

    Returns:
        The rows of `split.tsv`.

    Raises:
        CnnkitError: A picture is neither at its old place nor at its new one, or at both and not the same.
    """
    folder = Path(folder)
    with (folder / _MOVES).open("rb") as file:
        lines = list(tsv.parse(file, name=str(folder / _MOVES), required=_COLUMNS))
    rows = [Row(line["path"], *(line[column] or None for column in _COLUMNS[2:])) for line in lines]
    moves = [(os.path.join(folder, line["from"]), folder / line["path"]) for line in lines]
    try:
        # Links to pictures go before the pictures, while there still is something to copy
        for done, (path, target) in enumerate(sorted(moves, key=lambda move: not os.path.islink(move[0])), start=1):
            _move(path, target)
            progress(done, len(moves))
        manifest.save(folder / MANIFEST, rows, columns=manifest.columns(rows))
    except BaseException:
        _log.warning("not all pictures are moved; run the command again to go on")
        raise
    (folder / _MOVES).unlink()
    return rows


def _write_moves(folder: Path, moves: Iterable[tuple[str, Row]]) -> None:
    lines = [(manifest.seen_from(folder, path), row.path, row.label, row.split, row.group) for path, row in moves]
    with atomic.writing(folder / _MOVES) as file:
        file.write(tsv.render(_COLUMNS, lines))
    _sync(folder)


def _move(path: str, target: Path) -> None:
    if not os.path.lexists(path):
        if not target.exists():
            raise CnnkitError(f"{path} is gone, and is not at {target}; put it back, or drop its line from {_MOVES}")
        return
    if os.path.lexists(target):  # interrupted between the copy and the removal
        if _digest(path) != _digest(target):
            raise CnnkitError(f"{target} is in the way of {path}; move it away")
        os.unlink(path)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.islink(path):
        try:
            os.rename(path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            return
    _copy(path, target, durable=True)
    os.unlink(path)
