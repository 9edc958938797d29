"""Which pictures to learn from, and which ones to check on: what cnn-train and cnn-finetune make of their sources.

photos/train/cat/1.jpg, photos/val/cat/2.jpg     both parts
split.tsv with a column `split`                  its rows of train and of val; test is never looked at
photos/cat/1.jpg                                 all for training, unless --val names others

photos/fold0/cat/1.jpg, photos/fold1/cat/2.jpg, or folds.tsv with a column `split`: one part validates, the others train
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cnnkit.data import held_out, relatives, source
from cnnkit.data.source import Picture
from cnnkit.errors import CnnkitError, UsageError

log = logging.getLogger("cnnkit")

TRAIN, VAL = "train", "val"


@dataclass(frozen=True, slots=True)
class TrainValImages:
    """Labelled pictures for training and, where there are any, for validation; `classes` in the order of their names."""

    train: tuple[Picture, ...]
    val: tuple[Picture, ...]
    classes: tuple[str, ...]


def find(
    sources: Sequence[str], val: Sequence[str] = (), *, hold_out: str | None = None, stdin: BinaryIO | None = None
) -> TrainValImages:
    """Find both parts.

    Args:
        sources: As `source.find` takes them.
        val: Sources for validation, in place of the part `val` of `sources`; of one that is divided, its part `val`.
        hold_out: In place of `val` the part that validates; all others train, but for one that is called test.
        stdin: Where `-` reads a manifest from.

    Raises:
        UsageError: A picture is in both parts, or both `val` and `hold_out` are given.
        CnnkitError: A picture without a label, a class without pictures, a single class, or a class in `val` alone; no part
            `hold_out`, or a picture in no part.
    """
    if hold_out is not None and val:
        raise UsageError("--val and --hold-out both say what validates; give one of them")
    train, checked = (
        _divided(sources, val, stdin=stdin) if hold_out is None else _but_for(hold_out, sources, stdin=stdin)
    )
    classes = _classes(train, TRAIN)
    if len(classes) < 2:
        raise CnnkitError(f"only one class, {classes[0]}; there is nothing to learn")
    if checked:
        _compare(classes, _classes(checked, VAL), part=hold_out or VAL)
    known = relatives.find(train, checked)
    if known.same:
        raise UsageError(
            f"{known.same[0].path} is to train and to validate; validation needs pictures that training never saw"
        )
    relatives.warn_of(known)
    return TrainValImages(tuple(train), tuple(checked), classes)


def _divided(
    sources: Sequence[str], val: Sequence[str], *, stdin: BinaryIO | None
) -> tuple[list[Picture], list[Picture]]:
    """Divide sources as their own parts say, or as they are named."""
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
    return train, checked


def _but_for(part: str, sources: Sequence[str], *, stdin: BinaryIO | None) -> tuple[list[Picture], list[Picture]]:
    """Take one part for validation, and all others that measure nothing for training."""
    found = [picture for each in sources for picture in _of_all_parts(each, stdin=stdin)]
    uses = hold_out_of([(picture.path, picture.split) for picture in found], part, name=" ".join(sources))
    train = [picture for picture, use in zip(found, uses, strict=True) if use == TRAIN]
    return train, [picture for picture, use in zip(found, uses, strict=True) if use == VAL]


def hold_out_of(rows: Sequence[tuple[str, str | None]], part: str, *, name: str) -> list[str | None]:
    """Say what becomes of each row when one part is held out.

    Args:
        rows: Path and part.
        part: It validates.
        name: Where they stand, for messages.

    Returns:
        For each row VAL, TRAIN, or None where it belongs to another part that is called test: those are not learnt from.

    Raises:
        CnnkitError: No row is in that part, or none in another, or one is in no part at all.
    """
    parts = Counter(split for _, split in rows)
    if part not in parts:
        there = ", ".join(sorted(filter(None, parts))) or "none; cnn-split --folds makes some"
        raise CnnkitError(f"{name}: no part {part} to hold out; it has {there}")
    if None in parts:
        bare = next(path for path, split in rows if split is None)
        raise CnnkitError(f"{name}: {bare} is in no part; with --hold-out every picture has to be in one")
    measuring = {each: count for each, count in parts.items() if each != part and _measures(each)}
    if len(parts) - len(measuring) < 2:
        raise CnnkitError(f"{name}: no other part than {part} to learn from; cnn-split --folds makes several")
    if measuring:
        said = ", ".join(f"{count:,} of {each}" for each, count in measuring.items())
        log.info("%s: not looked at: %s", name, said)
    return [VAL if split == part else None if split in measuring else TRAIN for _, split in rows]


def _measures(part: str | None) -> bool:
    """Tell whether a part measures in the end, by its name."""
    return (part or "").lower() in held_out.NAMES - held_out.VALIDATION_NAMES


def _of_all_parts(each: str, *, stdin: BinaryIO | None) -> list[Picture]:
    """Find the pictures of a source with their parts; the parts of a folder are the folders in it."""
    if not os.path.isdir(each):
        return list(source.find([each], stdin=stdin))
    found: list[Picture] = []
    for name in _folders(each):
        _refuse_empty(os.path.join(each, name))
        found += source.find([each], split=name)
    return found


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


def _compare(train: Sequence[str], val: Sequence[str], *, part: str) -> None:
    if strange := sorted(set(val) - set(train)):
        raise CnnkitError(f"the class {strange[0]} is in {part} alone; {TRAIN} has {', '.join(train)}")
    if missing := sorted(set(train) - set(val)):
        log.warning(
            "not in %s: %s; nothing says how well %s learnt",
            part,
            ", ".join(missing),
            "it is" if len(missing) == 1 else "they are",
        )
