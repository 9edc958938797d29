"""Paths that were read from a file, and whether they stay inside the folder that they belong to, links followed."""

import os
from collections.abc import Callable, Collection
from pathlib import Path

from cnnkit.errors import CnnkitError


def inside(folder: str | Path, *, reserved: Collection[str] = ()) -> Callable[[str], bool]:
    """Give a function that tells whether a place, as seen from a folder, is below it: nothing written there ends up elsewhere.

    Args:
        folder: May itself be a link, and need not exist.
        reserved: Names directly in the folder that are no places for anything else, in any case of letters.
    """
    real = os.path.realpath(folder)
    taken = {name.casefold() for name in reserved}
    known: dict[str, bool] = {}  # realpath asks the disk for every step of a path

    def lies_inside(path: str) -> bool:
        parts = path.split("/")
        if "\0" in path or os.path.isabs(path) or os.pardir in parts or parts[-1] in ("", os.curdir):
            return False
        if os.path.normpath(path).casefold() in taken:
            return False
        below = os.path.dirname(path)
        if below not in known:
            known[below] = os.path.commonpath([real, os.path.realpath(os.path.join(folder, below))]) == real
        return known[below]

    return lies_inside


def check_place(
    folder: Path, place: str, lies_inside: Callable[[str], bool] | None = None, *, replaced: bool = False
) -> None:
    """Demand that a file that is written below a folder ends up there, and not behind a link.

    Args:
        folder: Of the file.
        place: As seen from it.
        lies_inside: From `inside`, where there are many files.
        replaced: What is there goes before, be it a link.

    Raises:
        CnnkitError: The place is a link, or lies behind one that leads out of the folder.
    """
    within = (lies_inside or inside(folder))(place)
    if not within or (not replaced and (folder / place).is_symlink()):
        where = folder / place if within else (folder / place).parent
        raise CnnkitError(f"{where} is a link that leads out of {folder}; remove it or choose another folder")
