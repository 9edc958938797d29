"""Digests of the images of features, in a file that `sha256sum -c` checks, with settings in a comment before them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cnnkit import files
from cnnkit.errors import UsageError
from cnnkit.formats import atomic

_COMMENT = "# cnn-extract "


def save(path: Path, settings: dict[str, str], entries: Iterable[tuple[str, str]]) -> None:
    """Write digests with the paths of their images; an empty digest is written as zeros.

    Args:
        path: The file.
        settings: What the features depend on, apart from the images.
        entries: Hexadecimal sha256 and path of each image.
    """
    lines = [_COMMENT + json.dumps(settings), *(_line(digest, image) for digest, image in entries)]
    with atomic.writing(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))


def load(path: Path) -> tuple[Any, list[str]]:
    """Read the settings and the digests.

    Raises:
        UsageError: It is a file of something else.
        ValueError: The settings are damaged.
        OSError: It cannot be read.
    """
    first, *lines = files.read_regular(path).decode("utf-8", "surrogateescape").split("\n")
    if not first.startswith(_COMMENT):
        raise UsageError(f"{path} would be overwritten, and is not from cnn-extract; choose another name")
    return json.loads(first.removeprefix(_COMMENT)), [line.removeprefix("\\")[:64] for line in lines if line]


def _line(digest: str, path: str) -> str:
    """Return a line as sha256sum writes it: a path with a newline or a backslash is escaped."""
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{digest or '0' * 64}  {path}" if escaped == path else f"\\{digest or '0' * 64}  {escaped}"
