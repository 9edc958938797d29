"""A folder with a list of its files, written completely or not at all; only files that an earlier list names are replaced.

The files are images, or tar archives whose images are listed.

    DIR/.augmenting     staging folder: a run that fails or is killed has not changed DIR yet
    DIR/.augmented      complete; its files are being moved to DIR, and after an interruption the next run resumes that
    DIR/augment.tsv     the list; replaced last

New files are moved first, over earlier ones of the same name; then earlier files that are no longer listed are deleted.
"""

import contextlib
import logging
import os
import shutil
import stat
from collections.abc import Callable, Generator, Set
from pathlib import Path

from cnnkit import files
from cnnkit.data import tree
from cnnkit.data.containment import inside
from cnnkit.errors import CnnkitError
from cnnkit.formats import atomic, tar_shards, tsv

COPIES_MANIFEST = "augment.tsv"
_MAKING, _READY = ".augmenting", ".augmented"
_RESERVED = (COPIES_MANIFEST, _MAKING, _READY)

log = logging.getLogger("cnnkit")


def check(folder: str | Path, *, force: bool) -> None:
    """Check that a folder can be written to, before anything else is done.

    The remains of a run that was killed, or interrupted while it moved files, are accepted.

    Raises:
        CnnkitError: It is not empty and `force` is not given, another run is writing into it, or its list names something that is
            not a file.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise CnnkitError(f"{folder} is not a folder; choose another name")
    _check_unused(folder / _MAKING)
    held = set(os.listdir(folder)) if folder.is_dir() else set()
    if (folder / _READY).is_symlink():
        raise CnnkitError(f"{folder / _READY} is a link, not a folder made by cnnkit; remove it")
    tree.check_free(folder, force=force or _READY in held or held <= {_MAKING})
    if force or _READY in held:
        _listed_earlier(folder)


def earlier(folder: Path, *, force: bool) -> frozenset[str]:
    """Find the files of an earlier run, which may be replaced; first complete an interrupted run.

    Returns:
        Paths relative to the folder: copies, originals whose source still exists, and archives without other originals.

    Raises:
        CnnkitError: As `check`.
    """
    check(folder, force=force)
    if (folder / _READY).is_dir():
        _move_up(folder, _listed_earlier(folder))
        force = True  # the folder was this command's, and running it again must not need --force
    return _listed_earlier(folder) if force else frozenset()


def places(folder: Path) -> Callable[[str], bool]:
    """Return a function that returns whether a file may be moved to a path, relative to a folder; it reads each folder below once."""
    return inside(folder, reserved=_RESERVED)


def check_place(
    folder: Path, path: str, replaceable: Set[str], lies_inside: Callable[[str], bool] | None = None
) -> None:
    """Check that a new file can be moved to its place.

    Args:
        folder: Folder of all files.
        path: Relative to it.
        replaceable: From `earlier`.
        lies_inside: From `places`, to share it between many files.

    Raises:
        CnnkitError: Something else is there, or the place is outside of the folder.
    """
    place = folder / path
    for above in Path(path).parents[:-1]:
        if os.path.lexists(folder / above) and not (folder / above).is_dir():
            raise CnnkitError(f"{folder / above} exists and is not a folder; move it away or choose another folder")
    if not (lies_inside or places(folder))(path):
        raise CnnkitError(f"{place.parent} is a link that leads out of {folder}; remove it or choose another folder")
    if path not in replaceable and os.path.lexists(place):
        raise CnnkitError(f"{place} already exists; move it away or choose another folder")


@contextlib.contextmanager
def staging_folder(folder: Path, replaceable: Set[str]) -> Generator[Path]:
    """Make a hidden staging folder; at the end, the files listed in its `augment.tsv` are moved to the folder.

    On failure the staging folder is removed, and so is the folder itself if it did not exist before.

    Args:
        folder: Created if it is missing, with its parents.
        replaceable: From `earlier`.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / _MAKING
    _check_unused(made)
    shutil.rmtree(made, ignore_errors=True)  # of a run that was killed
    try:
        made.mkdir()
    except FileExistsError:
        raise _held(folder) from None
    try:
        with atomic.claimed_folder(made, _held(folder)):
            yield made
            made.rename(folder / _READY)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        for each in missing:
            with contextlib.suppress(OSError):
                each.rmdir()
        raise
    _move_up(folder, replaceable)


def _check_unused(made: Path) -> None:
    if made.is_symlink():
        raise CnnkitError(f"{made} is a link, not a folder made by cnnkit; remove it")
    if made.is_dir():
        with atomic.claimed_folder(made, _held(made.parent)):
            pass


def _held(folder: Path) -> CnnkitError:
    return CnnkitError(f"{folder}: another run is writing into it; wait, or choose another folder")


def _move_up(folder: Path, replaceable: Set[str]) -> None:
    ready = folder / _READY
    try:
        if (ready / COPIES_MANIFEST).is_file():  # else only the empty folder is left to be removed
            left, lies_inside = set(replaceable), places(folder)
            made_here = inside(ready)
            for row in tsv.load(ready / COPIES_MANIFEST, required=["path"]):
                if not made_here(row["path"]):
                    raise CnnkitError(f"{ready / COPIES_MANIFEST} lists {row['path']}, which is outside of {ready}")
                path = _file_of(row["path"], ready)
                left.discard(path)
                if os.path.lexists(ready / path):
                    # Time may have passed since the first check
                    check_place(folder, path, replaceable, lies_inside)
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (ready / path).replace(folder / path)
            _remove(folder, left)
            (ready / COPIES_MANIFEST).replace(folder / COPIES_MANIFEST)
        shutil.rmtree(ready)
    except BaseException:
        log.warning("%s: not all copies are in place; run the command again to resume", folder)
        raise


def _remove(folder: Path, paths: Set[str]) -> None:
    for path in paths:
        (folder / path).unlink(missing_ok=True)
    for below in sorted({above for path in paths for above in Path(path).parents[:-1]}, reverse=True):
        with contextlib.suppress(OSError):  # not empty
            (folder / below).rmdir()


def _listed_earlier(folder: Path) -> frozenset[str]:
    """Read the list of an earlier run, without paths outside of the folder: the list may have been edited."""
    listed = folder / COPIES_MANIFEST
    if not listed.is_file():
        return frozenset()
    found, kept, lies_inside = set(), set(), places(folder)
    for row in tsv.load(listed, required=["path", "source", "copy"]):
        if not lies_inside(row["path"]):
            continue
        path = _file_of(row["path"], folder)
        if row["copy"] == "0" and not files.exists(folder / row["source"]):
            kept.add(path)
            continue
        if path in found:
            continue
        place = folder / path
        if os.path.lexists(place) and not stat.S_ISREG(place.lstat().st_mode):
            raise CnnkitError(f"{listed} lists {path}, which is not a file; delete its row, or choose another folder")
        found.add(path)
    return frozenset(found - kept)


def _file_of(path: str, folder: Path) -> str:
    """Return the file of a listed image: itself, or its archive; a class folder may be called like one."""
    archive = tar_shards.archive_of(path)
    return path if archive is None or (folder / archive).is_dir() else archive
