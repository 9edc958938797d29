"""Splits in tar archives: which image is in which archive, and their writing.

Programs that read archives in sequence shuffle the images within a small buffer at most. The images of a split are therefore in an order
that has nothing to do with their classes, that of a hash of their names.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cnnkit import files, tar_archives
from cnnkit.callbacks import Progress
from cnnkit.formats import image_formats, tar_shards
from cnnkit.formats.manifest import ManifestRow


def places(rows: Sequence[ManifestRow], below: Sequence[str], *, per: int) -> list[str]:
    """Return the place of each image, such as train-000000.tar/cat/1.jpg.

    Args:
        rows: In any order, each in a split.
        below: Their places in folders, such as train/cat/1.jpg.
        per: Number of images in each archive.

    Raises:
        FormatError: Two images would be one sample of WebDataset.
    """
    packed = tar_shards.packed_names(below, map(_head, rows, below))
    by_split: defaultdict[str | None, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        by_split[row.split].append(place)
    found = list(packed)
    for split, members in by_split.items():
        inside = {member: packed[member].removeprefix(f"{split}/") for member in members}
        for order, member in enumerate(sorted(members, key=lambda member: _drawn(inside[member]))):
            found[member] = f"{tar_shards.archive_name(split, order // per)}/{inside[member]}"
    return found


def _drawn(name: str) -> bytes:
    """Return the sort key of an image in an archive."""
    return hashlib.sha256(os.fsencode(name)).digest()


def _head(row: ManifestRow, below: str) -> bytes:
    if image_formats.extension_of(below) in image_formats.EXTENSIONS:
        return b""
    with files.open_regular(row.path) as file:
        return file.read(image_formats.HEAD)


def write(
    folder: Path, rows: Sequence[ManifestRow], places: Sequence[str], *, made: list[str | Path], progress: Progress
) -> list[ManifestRow]:
    """Write the archives, in their order.

    Args:
        folder: Of the archives.
        rows: Of the images, with paths relative to the current folder.
        places: Of `places`.
        made: Takes the archives that are written.
        progress: Called with the number of images written, and the total.

    Returns:
        The rows with their paths in the archives, relative to the folder, in the order of `rows`.
    """
    archives: defaultdict[str, list[tuple[str, ManifestRow]]] = defaultdict(list)
    for row, place in zip(rows, places, strict=True):
        archive, separator, name = place.partition(f"{tar_archives.EXTENSION}/")
        archives[archive + separator.rstrip("/")].append((name, row))
    done = 0

    def counted(members: Iterable[tuple[str, ManifestRow]]) -> Iterator[tuple[str, ManifestRow, str]]:
        nonlocal done
        for name, row in members:
            original = os.path.join(os.path.dirname(name), os.path.basename(row.path))
            yield row.path, replace(row, path=name), original
            done += 1
            progress(done, len(rows))

    for archive, members in sorted(archives.items()):
        tar_shards.write(folder / archive, counted(sorted(members, key=lambda member: _drawn(member[0]))))
        made.append(folder / archive)
    return [replace(row, path=place) for row, place in zip(rows, places, strict=True)]
