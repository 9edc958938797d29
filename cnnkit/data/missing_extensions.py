"""Image files that a table names without their extension, as tables of ids do: `photos/7` for photos/7.jpg."""

import os
from collections import defaultdict
from collections.abc import Iterator

from cnnkit import messages
from cnnkit.data import image_formats


class MissingExtensions:
    """Completes the paths of one table, where exactly one image file can be meant.

    A path with an image's extension, or that there is, stays as it is, and so does one that nothing or several files complete.
    Folders are listed once.
    """

    def __init__(self, name: str) -> None:
        """Begin a table.

        Args:
            name: The table, for messages.
        """
        self._name = name
        self._folders: dict[
            str, defaultdict[str, list[str]]
        ] = {}  # the image files of each, by their names without extension
        self._completed: list[tuple[str, str]] = []
        self._several: list[tuple[str, list[str]]] = []

    def completed(self, path: str) -> str:
        """Give a path with its extension."""
        if image_formats.extension_of(path) in image_formats.EXTENSIONS or "\0" in path or os.path.lexists(path):
            return path
        folder, stem = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = _by_stem(folder)
        found = self._folders[folder].get(stem, [])
        if len(found) > 1:
            self._several.append((path, found))
        if len(found) != 1:
            return path
        whole = os.path.join(folder, found[0])
        self._completed.append((path, whole))
        return whole

    def lines(self) -> Iterator[str]:
        """Give the notices: what was completed, and what could be several files."""
        if self._completed:
            written, whole = self._completed[0]
            paths = "1 path lacks its" if len(self._completed) == 1 else f"{len(self._completed):,} paths lack their"
            yield f"{self._name}: {paths} extension; {messages.excerpt(written)} is read as {messages.excerpt(whole)}"
        if self._several:
            written, found = self._several[0]
            yield (
                f"{self._name}: {messages.excerpt(written)} could be {' or '.join(map(messages.excerpt, found))}; "
                "write paths with their extension"
            )


def _by_stem(folder: str) -> defaultdict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    try:
        names = sorted(os.listdir(folder or os.curdir))
    except (OSError, ValueError):  # whoever reads the image says what is wrong with it
        return found
    for name in names:
        stem, extension = os.path.splitext(name)
        if extension.lower() in image_formats.EXTENSIONS:
            found[stem].append(name)
    return found
