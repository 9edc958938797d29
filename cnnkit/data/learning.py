"""Which pictures to learn from, and which ones to check on: what cnn-train and cnn-finetune make of their sources.

photos/train/cat/1.jpg, photos/val/cat/2.jpg     both parts
split.tsv with a column `split`                  its rows of train and of val; test is never looked at
photos/cat/1.jpg                                 all for training, unless --val names others
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cnnkit.data import held_out, source
from cnnkit.data.source import Picture
from cnnkit.errors import CnnkitError, UsageError

log = logging.getLogger("cnnkit")

TRAIN, VAL = "train", "val"


@dataclass(frozen=True, slots=True)
class Material:
    """Labelled pictures for training and, where there are any, for validation; `classes` in the order of their names."""

    train: tuple[Picture, ...]
    val: tuple[Picture, ...]
    classes: tuple[str, ...]


def find(sources: Sequence[str], val: Sequence[str] = (), *, stdin: BinaryIO | None = None) -> Material:
    """Find both parts.

    Args:
        sources: As `source.find` takes them.
        val: Sources for validation, in place of the part `val` of `sources`; of one that is divided, its part `val`.
        stdin: Where `-` reads a manifest from.

    Raises:
        UsageError: A picture is in both parts.
        CnnkitError: A picture without a label, a class without pictures, a single class, or a class in `val` alone.
    """
    train: list[Picture] = []
    checked: list[Picture] = []
    for each in sources:
        for part, found in _parts(each, stdin=stdin).items():
            if part != VAL:
                train += found
            elif not val:
                checked += found
    for each in val:
        parts = _parts(each, stdin=stdin)
        more = parts.get(VAL) or parts.get(None)
        if not more:
            raise CnnkitError(f"{each}: no part {VAL} in it; name the folder or manifest that is to validate")
        checked += more
    if not train:
        raise CnnkitError(f"{' '.join(sources)}: no part {TRAIN} in it; cnn-split makes one")
    classes = _classes(train, TRAIN)
    if len(classes) < 2:
        raise CnnkitError(f"only one class, {classes[0]}; there is nothing to learn")
    if checked:
        _compare(classes, _classes(checked, VAL))
    paths = {os.path.realpath(picture.path) for picture in train}
    if shared := next((picture.path for picture in checked if os.path.realpath(picture.path) in paths), None):
        raise UsageError(f"{shared} is to train and to validate; validation needs pictures that training never saw")
    return Material(tuple(train), tuple(checked), classes)


def _parts(each: str, *, stdin: BinaryIO | None) -> dict[str | None, list[Picture]]:
    """Give the pictures of a source by part: train and val, or all under None."""
    if os.path.isdir(each):
        names = _folders_of_parts(each)
        for name in names or [""]:
            _refuse_empty(os.path.join(each, name))
        if not names:
            return {None: list(source.find([each]))}
        parts: dict[str | None, list[Picture]] = {}
        for name in names:
            parts.setdefault(_part(name), []).extend(source.find([each], split=name))
        return parts
    found = list(source.find([each], stdin=stdin))
    if not any(picture.split is not None for picture in found):
        return {None: found}
    unused = Counter(picture.split or "no part" for picture in found if not _part(picture.split or ""))
    if unused:
        log.info("%s: not looked at: %s", each, ", ".join(f"{count:,} of {name}" for name, count in unused.items()))
    return {part: [picture for picture in found if _part(picture.split or "") == part] for part in (TRAIN, VAL)}


def _folders_of_parts(folder: str) -> list[str]:
    """Find train/ and val/ in a folder, by whatever names; nothing where it is a folder of classes.

    A class that is called train, beside car and plane, has pictures in it and no folders.
    """
    below = _folders(folder)
    names = [name for name in below if _part(name)]
    others = [name for name in below if name not in names]
    divided = any(_folders(os.path.join(folder, name)) for name in names)
    if not divided and any(name.lower() not in held_out.NAMES for name in others):
        return []
    if names and others:
        log.info("%s: not looked at: %s", folder, ", ".join(f"{name}/" for name in others))
    return names


def _folders(folder: str) -> list[str]:
    """List the folders in a folder, but for hidden ones."""
    names = (name for name in sorted(os.listdir(folder)) if not name.startswith("."))
    return [name for name in names if os.path.isdir(os.path.join(folder, name))]


def _part(name: str) -> str | None:
    """Say which part a name means."""
    low = name.lower()
    return VAL if low in held_out.VALIDATION_NAMES else TRAIN if low in held_out.TRAIN_NAMES else None


def _refuse_empty(folder: str) -> None:
    """Refuse a class without a picture: its name would be no class of the network's, and nobody would know."""
    for name in _folders(folder):
        below = os.path.join(folder, name)
        if not any(source.names_picture(file) for _, _, files in os.walk(below, followlinks=True) for file in files):
            raise CnnkitError(f"{below}: a class without pictures; put some in, or remove the folder")


def _classes(pictures: Iterable[Picture], part: str) -> tuple[str, ...]:
    labels = set()
    for picture in pictures:
        if picture.label is None:
            raise CnnkitError(
                f"{picture.path}: no label to {'learn' if part == TRAIN else 'check'}; "
                "put pictures into a folder a class, or give a manifest with a column label"
            )
        labels.add(picture.label)
    return tuple(sorted(labels))


def _compare(train: Sequence[str], val: Sequence[str]) -> None:
    if strange := sorted(set(val) - set(train)):
        raise CnnkitError(f"the class {strange[0]} is in {VAL} alone; {TRAIN} has {', '.join(train)}")
    if missing := sorted(set(train) - set(val)):
        log.warning(
            "not in %s: %s; nothing says how well %s learnt",
            VAL,
            ", ".join(missing),
            "it is" if len(missing) == 1 else "they are",
        )
