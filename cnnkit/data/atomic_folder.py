"""A folder of listed files that is written whole or not at all; what an earlier list names is replaced, and nothing else.

    DIR/.augmenting     being made: a run that fails or is killed has changed nothing yet
    DIR/.augmented      complete, and being moved up: whatever comes between, the next run resumes it
    DIR/augment.tsv     the list; replaced last

New files take their places first, over earlier ones of the same name; then earlier ones that are not listed any more go.
"""

import contextlib
import logging
import os
import shutil
import stat
from collections.abc import Callable, Generator, Set
from pathlib import Path

from cnnkit.data import tree
from cnnkit.data.containment import inside
from cnnkit.errors import CnnkitError
from cnnkit.formats import atomic, tsv

COPIES_MANIFEST = "augment.tsv"
_MAKING, _READY = ".augmenting", ".augmented"
_RESERVED = (COPIES_MANIFEST, _MAKING, _READY)

log = logging.getLogger("cnnkit")


def check(folder: str | Path, *, force: bool) -> None:
    """Demand that a folder can be written to, before anything else is done.

    What a run left that was killed, or stopped while it moved files up, is no obstacle.

    Raises:
        CnnkitError: It is not empty and `force` is not given, another run is writing into it, or it lists something as a file that is
            none.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise CnnkitError(f"{folder} is no folder; choose another name")
    _check_unused(folder / _MAKING)
    held = set(os.listdir(folder)) if folder.is_dir() else set()
    if (folder / _READY).is_symlink():
        raise CnnkitError(f"{folder / _READY} is a link, which no run makes; remove it")
    tree.check_free(folder, force=force or _READY in held or held <= {_MAKING})
    if force or _READY in held:
        _listed_earlier(folder)


def earlier(folder: Path, *, force: bool) -> frozenset[str]:
    """Find what an earlier run left and another one may replace; a run that was interrupted is brought to its end before.

    Returns:
        Paths as seen from the folder: copies, and originals that still lie where they were copied from.

    Raises:
        CnnkitError: As `check`.
    """
    check(folder, force=force)
    if (folder / _READY).is_dir():
        _move_up(folder, _listed_earlier(folder))
        force = True  # it was ours alone to write, and the same command is to go on
    return _listed_earlier(folder) if force else frozenset()


def check_place(folder: Path, path: str, replaceable: Set[str]) -> None:
    """Demand that a new file can take its place.

    Args:
        folder: Of all files.
        path: As seen from it.
        replaceable: From `earlier`.

    Raises:
        CnnkitError: Something is in the way, or the place lies somewhere else.
    """
    _check_place(folder, path, replaceable, inside(folder, reserved=_RESERVED))


def _check_place(folder: Path, path: str, replaceable: Set[str], lies_inside: Callable[[str], bool]) -> None:
    place = folder / path
    for above in Path(path).parents[:-1]:
        if os.path.lexists(folder / above) and not (folder / above).is_dir():
            raise CnnkitError(f"{folder / above} is in the way of a folder; move it away or choose another folder")
    if not lies_inside(path):
        raise CnnkitError(f"{place.parent} is a link that leads out of {folder}; remove it or choose another folder")
    if path not in replaceable and os.path.lexists(place):
        raise CnnkitError(f"{place} is in the way; move it away or choose another folder")


@contextlib.contextmanager
def staging_folder(folder: Path, replaceable: Set[str]) -> Generator[Path]:
    """Make a hidden folder to work in; what is listed there in `augment.tsv` goes up into the folder at the end.

    What was made is gone again should the work not come to its end, with the folder itself where it was not there before.

    Args:
        folder: Made where it is missing, with its parents.
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
        raise CnnkitError(f"{made} is a link, which no run makes; remove it")
    if made.is_dir():
        with atomic.claimed_folder(made, _held(made.parent)):
            pass


def _held(folder: Path) -> CnnkitError:
    return CnnkitError(f"{folder}: another run is writing into it; wait, or choose another folder")


def _move_up(folder: Path, replaceable: Set[str]) -> None:
    ready = folder / _READY
    try:
        if (ready / COPIES_MANIFEST).is_file():  # else all is done but for the empty folder
            left, lies_inside = set(replaceable), inside(folder, reserved=_RESERVED)
            made_here = inside(ready)
            for row in tsv.load(ready / COPIES_MANIFEST, required=["path"]):
                if not made_here(row["path"]):
                    raise CnnkitError(f"{ready / COPIES_MANIFEST} lists {row['path']}, which is not below {ready}")
                left.discard(row["path"])
                if os.path.lexists(ready / row["path"]):
                    # Time may have passed since it was looked at
                    _check_place(folder, row["path"], replaceable, lies_inside)
                    (folder / row["path"]).parent.mkdir(parents=True, exist_ok=True)
                    (ready / row["path"]).replace(folder / row["path"])
            _remove(folder, left)
            (ready / COPIES_MANIFEST).replace(folder / COPIES_MANIFEST)
        shutil.rmtree(ready)
    except BaseException:
        log.warning("not all copies are in their places; run the command again to go on")
        raise


def _remove(folder: Path, paths: Set[str]) -> None:
    for path in paths:
        (folder / path).unlink(missing_ok=True)
    for below in sorted({above for path in paths for above in Path(path).parents[:-1]}, reverse=True):
        with contextlib.suppress(OSError):  # something else is in it, and stays
            (folder / below).rmdir()


def _listed_earlier(folder: Path) -> frozenset[str]:
    """Read the list of an earlier run; what lies outside of the folder is none of ours, whoever wrote that."""
    listed = folder / COPIES_MANIFEST
    if not listed.is_file():
        return frozenset()
    found, lies_inside = set(), inside(folder, reserved=_RESERVED)
    for row in tsv.load(listed, required=["path", "source", "copy"]):
        path = row["path"]
        if not lies_inside(path) or (row["copy"] == "0" and not (folder / row["source"]).exists()):
            continue
        place = folder / path
        if os.path.lexists(place) and not stat.S_ISREG(place.lstat().st_mode):
            raise CnnkitError(f"{listed} lists {path}, which is no file; drop its row, or choose another folder")
        found.add(path)
    return frozenset(found)
