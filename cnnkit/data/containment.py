"""Checks that paths read from a file stay inside their folder, with links followed."""

import os
from collections.abc import Callable, Collection
from pathlib import Path

from cnnkit.errors import CnnkitError


def inside(folder: str | Path, *, reserved: Collection[str] = ()) -> Callable[[str], bool]:
    """Return a function that returns whether a path, relative to a folder, is inside of it, so that nothing is written elsewhere.

    Args:
        folder: May itself be a link, and need not exist.
        reserved: Names directly in the folder that are not allowed, in any case of letters.
    """
    real = os.path.realpath(folder)
    taken = {name.casefold() for name in reserved}
    known: dict[str, bool] = {}  # realpath reads the disk for every step of a path

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
    """Check that a file written below a folder stays there, and is not redirected by a link.

    Args:
        folder: Folder of the file.
        place: Relative to it.
        lies_inside: From `inside`, to share it between many files.
        replaced: An existing file or link at the place is removed first, so a link there is accepted.

    Raises:
        CnnkitError: The place is a link, or a folder above it is a link that leads out of the folder.
    """
    within = (lies_inside or inside(folder))(place)
    if not within or (not replaced and (folder / place).is_symlink()):
        where = folder / place if within else (folder / place).parent
        raise CnnkitError(f"{where} is a link that leads out of {folder}; remove it or choose another folder")
