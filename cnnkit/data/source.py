"""Which images: from the words of a command line to images with labels.

A folder is read like this (a name's first folder is its label, deeper folders do not matter, hidden files are ignored):

    photos/cat/1.jpg            -> label cat
    photos/cat/kittens/2.JPG    -> label cat
    photos/3.png                -> no label

and with `split="val"` the same below `photos/val/`.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import archives, manifest, tables

#: What a folder is searched for, in any case of letters.
EXTENSIONS = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".avif",
        ".ppm",
        ".pgm",
        ".pbm",
    }
)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file to be read as an image; `path` opens from the current folder."""

    path: str
    label: str | None = None
    split: str | None = None
    group: str | None = None


def find(
    sources: Iterable[str], *, split: str | None = None, stdin: BinaryIO | None = None, null: bool = False
) -> list[ImageFile] | Iterator[ImageFile]:
    """Find the images that sources name, folders in the order of their names, the rest as given.

    Args:
        sources: Images, folders, manifests (see `manifest.is_manifest`), or `-` for standard input: one path a line, or a
            manifest with its header row.
        split: Only this split of a manifest, or this subfolder of a folder. Single images belong to no split.
        stdin: Where `-` reads from.
        null: The list on standard input is separated by NUL instead.

    Returns:
        A list; with `-` among the sources an iterator, which reads no further than it is asked.

    Raises:
        UsageError: `split` with a list that has no splits, or `-` twice.
        CnnkitError: A source does not exist or holds no image.
    """
    sources = list(sources)
    if sources.count("-") > 1:
        raise UsageError("standard input (-) can be read once")
    if "-" not in sources:
        return [image for source in sources for image in _one(source, split)]
    assert stdin is not None, "a caller that takes - hands over standard input"
    return chain.from_iterable(
        _from_list(stdin, split, null=null) if source == "-" else _one(source, split) for source in sources
    )


def _one(source: str, split: str | None) -> list[ImageFile]:
    if os.path.isdir(source):
        return _folder(source, split)
    if not os.path.exists(source):
        raise CnnkitError(f"{source}: no such picture, folder or manifest (looked from {Path.cwd().name}/)")
    if manifest.is_manifest(source):
        return _manifest(source, split)
    archives.refuse(source)
    if split is not None:
        raise UsageError(
            f"{source} is a single picture and has no part {split}; --split goes with a manifest or a folder"
        )
    return [ImageFile(source)]


def _folder(folder: str, split: str | None) -> list[ImageFile]:
    root = folder
    if split is not None:
        root = os.path.join(folder, split)
        if not os.path.isdir(root):
            splits = ", ".join(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())[:8])
            raise CnnkitError(f"{folder}: no subfolder {split}; it has {splits or 'none'}")
    images = [
        ImageFile(path, _label(path, root), split)
        for path in _below(root)
        if has_image_extension(os.path.basename(path))
    ]
    if not images:
        raise CnnkitError(f"{root}: no pictures in it (looked for {' '.join(sorted(EXTENSIONS))})")
    return sorted(images, key=lambda image: name_order(image.path))


def has_image_extension(name: str) -> bool:
    """Say whether a search of folders takes a file of this name for an image."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


def _label(path: str, root: str) -> str | None:
    first, *deeper = os.path.relpath(path, root).split(os.sep)
    return first if deeper else None


def _below(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield every file below a folder, hidden folders left out; links are followed, unless they lead back up."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        listed = list(entries)
    for entry in listed:
        if entry.is_dir():
            if not entry.name.startswith("."):
                yield from _below(entry.path, (*above, real))
        elif (
            entry.is_file() or entry.is_symlink()
        ):  # pipes and sockets would be waited for; broken links are named later
            yield entry.path


def name_order(path: str) -> bytes:
    """Sort by this: the same order on every file system and in every locale, a folder's files side by side."""
    return os.fsencode(path).replace(os.fsencode(os.sep), b"\0")


def _manifest(path: str, split: str | None) -> list[ImageFile]:
    folder = os.path.dirname(path)
    rows = manifest.load(path)
    images = [
        ImageFile(os.path.join(folder, row.path), row.label, row.split, row.group)
        for row in rows
        if split is None or row.split == split
    ]
    if not images:
        splits = ", ".join(sorted({row.split for row in rows if row.split is not None})) or "none"
        raise CnnkitError(f"{path}: no rows" + (f" with split {split}; it has {splits}" if split is not None else ""))
    return images


def _from_list(stdin: BinaryIO, split: str | None, *, null: bool) -> Iterator[ImageFile]:
    lines = _null_separated(stdin) if null else iter(stdin)
    first = next(lines, None)
    if first is None:
        raise UsageError("standard input: it names no picture; name a source, or pipe a list in")
    lines = chain([first], lines)
    kind = tables.kind_of(first)
    if kind is not None:
        raise UsageError(f"standard input is {kind}, not a list of paths; write it to a file and name that")
    if not null and tables.is_header(first):
        found = False
        for row in manifest.parse(lines, name="standard input"):
            if split is None or row.split == split:
                found = True
                yield ImageFile(row.path, row.label, row.split, row.group)
        if not found:
            raise CnnkitError(f"standard input: no rows{f' with split {split}' if split is not None else ''}")
        return
    if split is not None:
        raise UsageError("--split needs a manifest or a folder; the list on standard input has no parts")
    if not null:
        tables.check_path(os.fsdecode(first.rstrip(b"\r\n")), name="standard input")
    for line in lines:
        path = os.fsdecode(line if null else line.rstrip(b"\r\n"))
        if "\0" in path:
            raise UsageError("the list on standard input is separated by NUL; give -0")
        if path:
            yield ImageFile(path)


def _null_separated(stdin: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while chunk := stdin.read1(65536) if hasattr(stdin, "read1") else stdin.read(65536):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole
    if rest:
        yield rest
