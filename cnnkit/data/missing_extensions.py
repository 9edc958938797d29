"""Completion of paths without extension, as in tables of ids: `photos/7` for photos/7.jpg."""

import os
from collections import defaultdict
from collections.abc import Iterator

from cnnkit import files, messages
from cnnkit.formats import image_formats


class MissingExtensions:
    """Completes the paths of one table if exactly one image file matches.

    A path with an image extension, or of an existing file, stays as it is; so does one that no file or several files match.
    Each folder is listed once.
    """

    def __init__(self, name: str) -> None:
        """Start a table.

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
        """Return a path with its extension; in the path of a crop, that of its file is completed."""
        if files.CROP in path and (start := files.start_of_box(path)) is not None:
            return self.completed(path[:start]) + path[start:]
        if image_formats.extension_of(path) in image_formats.EXTENSIONS or "\0" in path or files.exists(path):
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
        """Yield the notices: completed paths, and paths that match several files."""
        if self._completed:
            written, whole = self._completed[0]
            paths = "1 path has no" if len(self._completed) == 1 else f"{len(self._completed):,} paths have no"
            yield f"{self._name}: {paths} extension; {messages.excerpt(written)} is read as {messages.excerpt(whole)}"
        if self._several:
            written, found = self._several[0]
            yield (
                f"{self._name}: {messages.excerpt(written)} can be {' or '.join(map(messages.excerpt, found))}; "
                "write the paths with their extension"
            )


def _by_stem(folder: str) -> defaultdict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    try:
        names = sorted(os.listdir(folder or os.curdir))
    except (OSError, ValueError):  # reported when the image is read
        return found
    for name in names:
        stem, extension = os.path.splitext(name)
        if extension.lower() in image_formats.EXTENSIONS:
            found[stem].append(name)
    return found
