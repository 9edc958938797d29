"""Images in idx files, with the labels of the file next to it, by the names that MNIST gave them:

    train-images-idx3-ubyte.gz    train-labels-idx1-ubyte.gz    split train
    t10k-images-idx3-ubyte.gz     t10k-labels-idx1-ubyte.gz     split test

Each of both may be compressed. Fashion-MNIST, KMNIST and EMNIST have the same files (`emnist-letters-test-images-idx3-ubyte.gz`).
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cnnkit import files, idx_files, messages
from cnnkit.data import split_names
from cnnkit.errors import CnnkitError, UsageError

#: The name of MNIST's test set.
_TEST = "t10k"

_ENDING = re.compile(r"idx([13])-ubyte(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class IdxSource:
    """The images of an idx file: their paths and labels in the order of the file, and their split; None for what is not known."""

    paths: list[str]
    labels: list[str | None]
    split: str | None
    remarks: list[str] = field(default_factory=list)


def read(path: str) -> IdxSource:
    """Find the images of an idx file.

    Raises:
        OSError: The file, or that of its labels, is damaged or cannot be read.
        CnnkitError: It has no image, or another number of labels than of images.
    """
    index = files.idx_index(path)
    if not index.count:
        raise CnnkitError(f"{path}: no images found")
    paths = [f"{path}/{name}" for name in index.names()]
    remarks = []
    labels: list[str | None] = [None] * len(paths)
    if (place := _labels_of(path)) is None:
        expected = os.path.basename(_labels_name(path) or "")
        remarks.append(f"{path}: no labels{f', since there is no {expected} next to it' if expected else ''}")
    else:
        with files.open_regular(place) as file:
            numbers = idx_files.read_labels(file, place)
        if len(numbers) != len(paths):
            raise CnnkitError(
                f"{place}: {len(numbers):,} labels for the {len(paths):,} images of {path}; take both files from one data set"
            )
        labels = [str(number) for number in numbers]
    return IdxSource(paths, labels, split_in_name(path), remarks)


def split_in_name(path: str) -> str | None:
    """Return the split that the name of a file gives: train for `train-images-idx3-ubyte`, test for `t10k-images-idx3-ubyte`."""
    before, found, _ = os.path.basename(path).lower().partition("images")
    word = re.split("[-_.]", before.rstrip("-_."))[-1]
    if not found:
        return None
    return "test" if word == _TEST else word if split_names.is_split(word) else None


def refuse_labels(path: str) -> None:
    """Raise an error for a file with labels, which is read together with its images.

    Raises:
        UsageError: It is one.
    """
    found = _ENDING.search(path)
    if found is not None and found[1] == "1":
        images = _renamed(path, "labels", "images", 3) or path[: found.start()] + _numbered(found[0], 3)
        raise UsageError(f"{path}: labels without images; give the file of the images, {images}")


def without_copies(paths: list[str]) -> tuple[list[str], list[str]]:
    """Leave out compressed files whose decompressed copy, as made by `gunzip -k`, is also in the list.

    Returns:
        The files that remain, and those left out.
    """
    plain = {path.lower() for path in paths if not path.lower().endswith(".gz")}
    copies = [path for path in paths if path.lower().removesuffix(".gz") in plain and path.lower().endswith(".gz")]
    return [path for path in paths if path not in copies], copies


def remarks_on_several(paths: Iterable[str]) -> Iterator[str]:
    """Yield remarks on files of the same split, which are those of several data sets, such as EMNIST's."""
    of_split: dict[str | None, list[str]] = {}
    for path in paths:
        of_split.setdefault(split_in_name(path), []).append(os.path.basename(path))
    for split, names in of_split.items():
        if len(names) > 1:
            each = "both" if len(names) == 2 else "all"
            yield (
                f"{messages.shortened(names, 3)} are {each} {split or 'without a split'}, and read as one dataset; "
                "give one of them as a source if their classes differ"
            )


def _labels_of(path: str) -> str | None:
    """Return the file with the labels of a file's images: compressed as this one is, if there are both; None if there is none."""
    place = _labels_name(path)
    if place is None:
        return None
    gz = ".GZ" if os.path.basename(place).isupper() else ".gz"
    other = place[: -len(gz)] if place.lower().endswith(".gz") else f"{place}{gz}"
    return next((each for each in (place, other) if os.path.lexists(each)), None)


def _labels_name(path: str) -> str | None:
    return _renamed(path, "images", "labels", 1)


def _renamed(path: str, old: str, new: str, dimensions: int) -> str | None:
    """Return the path of the other file of a pair, in capitals where this one is; None if its name has not the word."""
    folder, name = os.path.split(path)
    at = name.lower().rfind(old)
    if at < 0:
        return None
    end = at + len(old)
    word = new.upper() if name[at:end].isupper() else new
    return os.path.join(folder, name[:at] + word + _numbered(name[end:], dimensions))


def _numbered(name: str, dimensions: int) -> str:
    return re.sub("(idx)[13]", rf"\g<1>{dimensions}", name, flags=re.IGNORECASE)
