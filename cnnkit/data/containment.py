"""Paths that were read from a file, and whether they stay inside the folder that they belong to, links followed."""

import os
from collections.abc import Callable, Collection
from pathlib import Path


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
