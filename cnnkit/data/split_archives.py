"""Splits in tar archives: which image is in which archive, and their writing."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from cnnkit import files
from cnnkit.callbacks import Progress
from cnnkit.formats import image_formats, tar_shards
from cnnkit.formats.manifest import ManifestRow


def places(rows: Sequence[ManifestRow], below: Sequence[str], *, per: int) -> list[str]:
    """Return the place of each image, such as train-000000.tar/cat/1.jpg.

    Args:
        rows: In any order, each in a split.
        below: Their places in folders, such as train/cat/1.jpg.
        per: Number of images in each archive.
    """
    names = tar_shards.MemberNames()
    packed = [names.add(place, _head(row, place)) for row, place in zip(rows, below, strict=True)]
    inside = [name.removeprefix(f"{row.split}/") for row, name in zip(rows, packed, strict=True)]
    return tar_shards.places(inside, [row.split for row in rows], per=per)


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

    def sample(image: int) -> tar_shards.Sample:
        row, name = rows[image], places[image].partition("/")[2]
        path = os.path.join(os.path.dirname(name), os.path.basename(row.path))
        fields: dict[str, object] = {"path": path, "label": row.label, "split": row.split, "group": row.group}
        if row.labels is not None:
            fields = {"labels" if name == "label" else name: value for name, value in fields.items()}
            fields["labels"] = list(row.labels)
        return tar_shards.Sample(partial(files.open_regular, row.path), fields)

    tar_shards.write(folder, places, sample, labels=[row.label for row in rows], made=made, progress=progress)
    return [replace(row, path=place) for row, place in zip(rows, places, strict=True)]
