"""Moves of many pictures that lose none of them, whatever comes between.

They are written down in DIR/.moves.tsv before the first one is done. At every moment each picture is whole at its old place or at
its new one; what is written down is done by `finish`, as often as it takes.
"""

import errno
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from cnnkit.data.reader import Progress, no_progress
from cnnkit.errors import CnnkitError
from cnnkit.formats import manifest, tsv
from cnnkit.formats.manifest import Row

_MOVES = ".moves.tsv"
_COLUMNS = ("from", "path", "label", "split", "group")

_log = logging.getLogger(__name__)


def unfinished(folder: str | Path) -> bool:
    """Say whether pictures were being moved into this folder when something came between."""
    return (Path(folder) / _MOVES).is_file()


def finish(folder: str | Path, name: str, *, progress: Progress = no_progress) -> list[Row]:
    """Do the moves that are written down in a folder, those that are still to be done, and list the pictures in a manifest.

    Args:
        folder: Where they go.
        name: The manifest's, in that folder; it is written when all the pictures are there.
        progress: Called with how many pictures are in place, and of how many.

    Returns:
        The rows of the manifest.

    Raises:
        CnnkitError: A picture is neither at its old place nor at its new one, or at both and not the same.
    """
    folder = Path(folder)
    lines = list(tsv.load(folder / _MOVES, required=_COLUMNS))
    rows = [Row(line["path"], line["label"] or None, line["split"] or None, line["group"] or None) for line in lines]
    moves = [(os.path.join(folder, line["from"]), folder / line["path"]) for line in lines]
    try:
        # Links to pictures go before the pictures, while there still is something to copy
        for done, (path, target) in enumerate(sorted(moves, key=lambda move: not os.path.islink(move[0])), start=1):
            _move(path, target)
            progress(done, len(moves))
        manifest.save(folder / name, rows, columns=manifest.columns(rows))
    except BaseException:
        _log.warning("not all pictures are moved; run the command again to go on")
        raise
    (folder / _MOVES).unlink()
    return rows


def write_down(folder: Path, moves: Iterable[tuple[str, Row]]) -> None:
    """Note what is to be moved where, durably.

    Args:
        folder: Where it goes.
        moves: For each picture its path from the current folder, and its row of the manifest, whose path is as seen from `folder`.
    """
    lines = [(manifest.seen_from(folder, path), row.path, row.label, row.split, row.group) for path, row in moves]
    tsv.save(folder / _MOVES, _COLUMNS, lines)
    _sync(folder)


def _move(path: str, target: Path) -> None:
    if not os.path.lexists(path):
        if not target.exists():
            raise CnnkitError(f"{path} is gone, and is not at {target}; put it back, or drop its line from {_MOVES}")
        return
    if os.path.lexists(target):  # interrupted between the copy and the removal
        if digest_of(path) != digest_of(target):
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
    copy(path, target, durable=True)
    os.unlink(path)


def copy(path: str | Path, target: Path, *, durable: bool = False) -> None:
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


def digest_of(path: str | Path) -> bytes:
    """Hash the content of a file, as `examine` does."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
