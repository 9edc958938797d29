"""Tar archives as WebDataset reads them: each image with its label in a `.cls`, and all that is known of it in a `.json`.

    cat/1.jpg     the image
    cat/1.cls     its label, if it has one
    cat/1.json    {"path": "cat/1.jpg", "label": "cat", "split": "train", "group": null}

The same images give the same bytes: files have no time and no owner.
"""

import io
import json
import os
import re
import secrets
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from cnnkit import files
from cnnkit.errors import FormatError
from cnnkit.formats import image_formats
from cnnkit.formats.manifest import ManifestRow

#: Archives that are not complete yet, of a run that was killed.
HALF = re.compile(r"\.[0-9a-f]{16}\.tmp")


def archive_name(split: str | None, number: int) -> str:
    """Return the name of an archive, with a number of six digits as WebDataset has it: train-000000.tar."""
    return f"{'images' if split is None else split}-{number:06d}.tar"


def member_name(path: str, head: bytes) -> str:
    """Return the name of an image in an archive: its only dot is that of its extension, since WebDataset takes the rest for it.

    Args:
        path: As it would be in a folder: IMG.7.jpg.
        head: The first bytes, for the extension if the name has none of an image.
    """
    folder, separator, name = path.rpartition("/")
    stem, extension = os.path.splitext(name)
    if extension.lower() not in image_formats.EXTENSIONS:
        stem, extension = name, min(image_formats.FORMATS.get(image_formats.of_content(head) or "JPEG", {".jpg"}))
    return f"{folder}{separator}{stem.replace('.', '_')}{extension}"


def write(path: Path, images: Iterable[tuple[str, ManifestRow, str]]) -> None:
    """Write an archive, which gets its name when it is complete.

    Args:
        path: The archive.
        images: For each, the path of its file, its name in the archive with label, split and group, and its path for the `.json`.

    Raises:
        OSError: An image cannot be read, or the archive cannot be written.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with (
            temporary.open("xb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive,
        ):
            for source, row, written in images:
                with files.open_regular(source) as image:
                    _add(archive, row.path, image, files.size_of(image))
                for extension, content in _fields(row, written):
                    _add(archive, f"{os.path.splitext(row.path)[0]}.{extension}", io.BytesIO(content), len(content))
                archive.members.clear()  # type: ignore[attr-defined]  # not in typeshed; the archive would keep all of them
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _fields(row: ManifestRow, written: str) -> Sequence[tuple[str, bytes]]:
    described = {"path": written, "label": row.label, "split": row.split, "group": row.group}
    text = json.dumps(described, ensure_ascii=True).encode()
    return [*([("cls", row.label.encode("utf-8", "surrogateescape"))] if row.label is not None else []), ("json", text)]


def _add(archive: tarfile.TarFile, name: str, content: BinaryIO, size: int) -> None:
    member = tarfile.TarInfo(name)  # time and owner are 0
    member.size = size
    archive.addfile(member, content)


def packed_names(paths: Sequence[str], heads: Iterable[bytes]) -> list[str]:
    """Return the names of images in archives, by `member_name`.

    Raises:
        FormatError: Two images would have one sample, such as a.1.jpg and a_1.png.
    """
    known: dict[str, str] = {}
    names = []
    for path, head in zip(paths, heads, strict=True):
        name = member_name(path, head)
        first = known.setdefault(os.path.splitext(name)[0], path)
        if first is not path:
            raise FormatError(f"{first} and {path} would be one sample of WebDataset, {name}; rename one of them")
        names.append(name)
    return names
