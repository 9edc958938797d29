"""Reading and writing the files of the commands: manifests, predictions, features, histories and headers.

Paths in what is read open from the current folder, and are written as seen from the file that lists them. Images in memory have the name
`image N` instead, which stays as it is.
"""

from __future__ import annotations  # help() shows ImageLike, and not all that it stands for

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cnnkit import files
from cnnkit.api.calls import choice, of_caller, public
from cnnkit.choices import FolderReading
from cnnkit.data import source
from cnnkit.data.source import ImageFile
from cnnkit.errors import FormatError
from cnnkit.formats import history, manifest, predictions
from cnnkit.formats.header import Header
from cnnkit.formats.history import HistoryRow
from cnnkit.formats.manifest import ManifestRow
from cnnkit.formats.predictions import Prediction

if TYPE_CHECKING:
    from cnnkit.formats.features import Features

PathLike = str | os.PathLike[str]


@public
def find_images(
    sources: PathLike | Iterable[PathLike], *, split: str | None = None, folders: str | None = None
) -> list[ImageFile]:
    """Find images, as every command does.

    Args:
        sources: Images, folders (the label of photos/CLASS/image.jpg is CLASS) and manifests.
        split: Use only this split of a manifest, or this subfolder of a folder.
        folders: classes or splits, what the folders in a folder are; by default their names decide.

    Returns:
        Path, label (or labels, of a manifest with several), split and group of each image, folders in the order of their names.

    Raises:
        CnnkitError: A source does not exist, or holds no image.
    """
    named = [sources] if isinstance(sources, str | os.PathLike) else sources
    paths = (os.fspath(each) for each in named)
    reading = None if folders is None else choice(FolderReading, folders, "folders")
    with files.listing_again() as found_at:
        # A file called - is a file here, and not standard input
        found = list(
            source.find([f".{os.sep}-" if path == "-" else path for path in paths], split=split, folders=reading)
        )
        for image in found:
            found_at(image.path)
    return found


@public
def read_manifest(path: PathLike) -> list[ManifestRow]:
    """Read the table that cnn-split writes, or any table with a column path.

    Returns:
        One row for each image; paths open from the current folder.

    Raises:
        FormatError: It is not a manifest.
        CnnkitError: It cannot be read.
    """
    return _from_here(manifest.load(Path(path)), Path(files.folder_of(Path(path))))


@public
def write_manifest(path: PathLike, rows: Iterable[ManifestRow]) -> None:
    """Write a manifest, as cnn-split does: TSV, with a column group where a row has one.

    Args:
        path: The .tsv.
        rows: Their paths open from the current folder.

    Raises:
        UsageError: `path` does not end in .tsv, by which the commands know a manifest.
        CnnkitError: It cannot be written.
    """
    manifest.check_name(Path(path), option="path")
    moved = _seen_from(Path(path).parent, rows)
    manifest.save(Path(path), moved, columns=manifest.columns(moved))


@public
def read_predictions(path: PathLike) -> list[Prediction]:
    """Read the predictions that cnn-predict writes, or a table of another program with the columns path and label.

    Raises:
        FormatError: They are not predictions.
        CnnkitError: They cannot be read.
    """
    from cnnkit.formats import prediction_columns

    with files.open_text(Path(path)) as file:
        return list(prediction_columns.parse(file, name=os.fspath(path)))


@public
def write_predictions(path: PathLike, rows: Iterable[Prediction]) -> None:
    """Write predictions as cnn-predict prints them, for cnn-eval to read.

    Args:
        path: The .tsv.
        rows: For example from `ImagePrediction.top`.

    Raises:
        CnnkitError: It cannot be written.
    """
    predictions.save(Path(path), rows)


@public
def read_features(path: PathLike) -> Features:
    """Read the features that cnn-extract writes; their values are mapped, not read.

    Args:
        path: The .npy, with the .tsv and the .json next to it.

    Returns:
        `values` (images, D) or (images, C, H, W), and `rows` with path, label, split and group of each image; paths open from the
        current folder.

    Raises:
        FormatError: A file is missing or broken.
        CnnkitError: A file cannot be read.
    """
    from cnnkit.formats import features

    found = features.load(Path(path))
    return replace(found, rows=_from_here(found.rows, Path(path).parent))


@public
def write_features(path: PathLike, given: Features | Iterable[Features]) -> None:
    """Write features as cnn-extract does, for cnn-train-head to read.

    Args:
        path: The .npy; a .tsv and a .json are written next to it.
        given: The paths of its rows open from the current folder. Several, such as those of shards, are written one after the other; of an
            iterator, one is in memory.

    Raises:
        UsageError: `path` does not end in .npy, a manifest of the same name lies next to it, the values are not floating-point
            numbers (N, D) or (N, C, H, W), or several do not belong together.
        CnnkitError: They cannot be written.
    """
    from cnnkit.formats import features

    parts = [given] if isinstance(given, features.Features) else of_caller(given)
    folder = Path(path).parent
    features.save(Path(path), (replace(part, rows=_seen_from(folder, part.rows)) for part in parts))


@public
def read_history(path: PathLike) -> list[HistoryRow]:
    """Read the training history next to a model, one row an epoch.

    Raises:
        FormatError: It is not a history.
        CnnkitError: It cannot be read.
    """
    return history.read(Path(path))


@public
def read_header(path: PathLike) -> Header:
    """Read what a file says of itself: kind, classes, preprocessing, backbone, head and training.

    Args:
        path: A model (.pt, which loads torch; .onnx), or features (.npy or their .json).

    Raises:
        FormatError: It was not made by cnnkit.
        CnnkitError: It cannot be read.
    """
    path = Path(path)
    found: Header | None = None
    if path.suffix == ".onnx":
        from cnnkit.formats import onnx_model

        found = onnx_model.load(path).header
    elif path.suffix == ".pt":
        from cnnkit.formats import torch_model

        found = torch_model.load(path).header
    elif path.suffix in (".npy", ".json"):
        from cnnkit.formats import features

        found = features.load_header(path.with_suffix(".npy"))
    else:
        files.check_regular(path)
    if found is None:
        raise FormatError(f"{path}: no cnnkit header in it; give a .pt or .onnx made by cnnkit, or features .npy")
    return found


def _from_here(rows: Iterable[ManifestRow], folder: Path) -> list[ManifestRow]:
    """Turn the paths of a file in a folder into paths from the current folder; names of images in memory stay."""
    above = "" if folder == Path() else folder
    return [
        row if source.is_name_in_memory(row.path, folder) else replace(row, path=os.path.join(above, row.path))
        for row in rows
    ]


def _seen_from(folder: Path, rows: Iterable[ManifestRow]) -> list[ManifestRow]:
    """Turn paths from the current folder into those of a file in another folder; names of images in memory stay."""
    rows = list(rows)
    moved = manifest.moved(rows, folder)
    return [row if source.is_name_in_memory(row.path) else new for row, new in zip(rows, moved, strict=True)]
