"""Training and validation sets: their images from the sources, the overlap of the two, and whether a set is small or large."""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from cnnkit import messages
from cnnkit.choices import FolderReading
from cnnkit.data import folder_search, source, split_names
from cnnkit.data.atomic_folder import COPIES_MANIFEST
from cnnkit.data.search_log import SearchLog
from cnnkit.data.source import ImageFile
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import tsv

log = logging.getLogger("cnnkit")

#: So many images for training are a large set: as far from the textbook's 2,000 cats and dogs, which are small, as from CIFAR-10's
#: 50,000, on which networks are trained from scratch (their geometric mean).
LARGE = 10_000

#: The names of the splits.
TRAIN, VAL = "train", "val"


class DatasetSize(StrEnum):
    """How many images there are for training."""

    SMALL = "small"
    LARGE = "large"


def dataset_size(images: int) -> DatasetSize:
    """Name the size of a set for training."""
    return DatasetSize.LARGE if images >= LARGE else DatasetSize.SMALL


@dataclass(frozen=True, slots=True)
class TrainValOverlap:
    """Images that validate, but that training knows in some form; each stands once, in the first list that it belongs to."""

    same: list[ImageFile]  # the very file is trained on
    copied: list[ImageFile]  # an augmented copy of it is, or of what it is a copy of
    grouped: list[ImageFile]  # others of its group are


def find_overlap(train: Sequence[ImageFile], val: Sequence[ImageFile]) -> TrainValOverlap:
    """Find the images of `val` that `train` knows in some form: of them the accuracy tells more than it will be on new ones.

    What cnn-augment made is known by the list that it leaves in its folder.
    """
    if not val:
        return TrainValOverlap([], [], [])
    listed: dict[str, dict[str, str]] = {}
    real = [os.path.realpath(image.path) for image in train]
    files, groups = set(real), {image.group for image in train} - {None}
    originals = {_original(path, listed) for path in real}
    found = TrainValOverlap([], [], [])
    for image in val:
        path = os.path.realpath(image.path)
        if path in files:
            found.same.append(image)
        elif _original(path, listed) in originals:
            found.copied.append(image)
        elif image.group in groups:
            found.grouped.append(image)
    return found


def warn_of_overlap(known: TrainValOverlap) -> None:
    """Say what makes an accuracy flatter that is measured all the same."""
    if known.same:
        log.warning(
            "%s trained on too, such as %s: on them the answers are known",
            _that_validate(known.same, "is", "are"),
            known.same[0].path,
        )
    if known.copied:
        log.warning(
            "%s trained on as augmented copies, such as %s: the accuracy will flatter; augment the training part alone",
            _that_validate(known.copied, "is", "are"),
            known.copied[0].path,
        )
    if known.grouped:
        log.warning(
            "%s to a group that is trained on too, such as %s to %s: the accuracy will flatter; cnn-split keeps groups together",
            _that_validate(known.grouped, "belongs", "belong"),
            known.grouped[0].path,
            known.grouped[0].group,
        )


def _that_validate(images: Sequence[ImageFile], one: str, many: str) -> str:
    return f"1 picture that validates {one}" if len(images) == 1 else f"{len(images):,} pictures that validate {many}"


def _original(path: str, listed: dict[str, dict[str, str]]) -> str:
    """Name the image that a file was made of by cnn-augment, or the file itself.

    Args:
        path: Without links.
        listed: By folder, what the list of cnn-augment in it, or above it, says of files; filled as folders are met.
    """
    folder = os.path.dirname(path)
    if folder not in listed:
        above: list[str] = []
        while folder not in listed and not os.path.exists(os.path.join(folder, COPIES_MANIFEST)):
            above.append(folder)
            if folder == os.path.dirname(folder):
                break
            folder = os.path.dirname(folder)
        if folder not in listed:
            listed[folder] = _sources_of_copies(folder)
        listed |= dict.fromkeys(above, listed[folder])
    return listed[os.path.dirname(path)].get(path, path)


def _sources_of_copies(folder: str) -> dict[str, str]:
    """Read from the list that cnn-augment leaves in a folder which file was made of which; nothing where there is none."""
    file = Path(folder, COPIES_MANIFEST)
    with contextlib.suppress(FileNotFoundError, FormatError):  # or it is somebody else's
        return {
            os.path.normpath(os.path.join(folder, row["path"])): os.path.realpath(os.path.join(folder, row["source"]))
            for row in tsv.load(file, required=["path", "source"])
        }
    return {}


@dataclass(frozen=True, slots=True)
class TrainValImages:
    """Labelled images for training and, where there are any, for validation; `classes` in the order of their names."""

    train: tuple[ImageFile, ...]
    val: tuple[ImageFile, ...]
    classes: tuple[str, ...]


def find(
    sources: Sequence[str],
    val: Sequence[str] = (),
    *,
    hold_out: str | None = None,
    stdin: BinaryIO | None = None,
    folders: FolderReading | None = None,
    search: SearchLog | None = None,
) -> TrainValImages:
    """Find both splits.

    Args:
        sources: As `source.find` takes them.
        val: Sources for validation, in place of the split `val` of `sources`; of one that is divided, its split `val`.
        hold_out: In place of `val` the split for validation; all others are for training, except one that is called test.
        stdin: Where `-` reads a manifest from.
        folders: As `source.find`.
        search: As `source.find`.

    Raises:
        UsageError: An image is in both splits, or both `val` and `hold_out` are given.
        CnnkitError: An image without a label, a class without images, a single class, or a class in `val` alone; no split
            `hold_out`, or an image in no split.
    """
    if hold_out is not None and val:
        raise UsageError("--val and --hold-out both say what validates; give one of them")
    heard = SearchLog() if search is None else search
    train, checked = (
        _train_and_val(sources, val, stdin=stdin, folders=folders, search=heard)
        if hold_out is None
        else _all_but_one_split(hold_out, sources, stdin=stdin, search=heard)
    )
    if search is None:
        heard.say()
    classes = _classes(train, TRAIN)
    if len(classes) < 2:
        raise CnnkitError(f"only one class, {classes[0]}; there is nothing to learn")
    if checked:
        check_classes(classes, _classes(checked, VAL), split=hold_out or VAL)
    for images in (train, checked):
        check_listed_once(images)
    known = find_overlap(train, checked)
    if known.same:
        raise UsageError(
            f"{known.same[0].path} is to train and to validate; validation needs pictures that training never saw"
        )
    warn_of_overlap(known)
    return TrainValImages(tuple(train), tuple(checked), classes)


def check_listed_once(images: Iterable[ImageFile], *, name: str | None = None) -> None:
    """Refuse an image of two classes, and tell of images that count twice.

    Args:
        images: For training, or for validation.
        name: The file that lists them, for messages.

    Raises:
        CnnkitError: As `source.listed_again`.
    """
    _, again = source.listed_again(images, name=name)
    if again:
        counted = "1 picture is" if len(again) == 1 else f"{len(again):,} pictures are"
        where = "" if name is None else f"{name}: "
        log.warning("%s%s listed twice, and counts as often; the first is %s", where, counted, again[0].path)


def _train_and_val(
    sources: Sequence[str],
    val: Sequence[str],
    *,
    stdin: BinaryIO | None,
    folders: FolderReading | None,
    search: SearchLog,
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Divide sources as their own splits say, or as they are named."""
    train: list[ImageFile] = []
    checked: list[ImageFile] = []
    search.note_sources(sources)
    for each in sources:
        for split, found in _by_split(each, stdin=stdin, folders=folders, search=search).items():
            if split != VAL:
                train += found
            elif not val:
                checked += found
    for each in val:
        splits = _by_split(each, stdin=stdin, folders=folders, search=search)
        more = splits.get(VAL) or splits.get(None)
        if not more:
            raise no_val_split(each)
        checked += more
    if not train:
        raise no_train_split(" ".join(sources), has_val=bool(val))
    return train, checked


def no_train_split(name: str, *, has_val: bool) -> CnnkitError:
    """Give the error of images, or features, that stand in splits of which none is called train: the one rule of all trainings."""
    instead = ", in place of --val" if has_val else ""
    return CnnkitError(
        f"{name}: no part {TRAIN} in it; cnn-split makes one, --hold-out NAME takes another for validation{instead}"
    )


def no_val_split(name: str) -> CnnkitError:
    """Give the error of what is to validate, and stands in splits of which none is called val."""
    return CnnkitError(f"{name}: no part {VAL} in it; name the folder or manifest that is to validate")


def _all_but_one_split(
    split: str, sources: Sequence[str], *, stdin: BinaryIO | None, search: SearchLog
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Take one split for validation, and all others that measure nothing for training."""
    found = [image for each in sources for image in _of_all_splits(each, stdin=stdin, search=search)]
    uses = hold_out_roles([(image.path, image.split) for image in found], split, name=" ".join(sources))
    train = [image for image, use in zip(found, uses, strict=True) if use == TRAIN]
    return train, [image for image, use in zip(found, uses, strict=True) if use == VAL]


def hold_out_roles(rows: Sequence[tuple[str, str | None]], held_out: str, *, name: str) -> list[str | None]:
    """Say what becomes of each row when one split is held out.

    Args:
        rows: Path and split.
        held_out: The split for validation.
        name: Where they stand, for messages.

    Returns:
        For each row VAL, TRAIN, or None where it belongs to another split that is called test: those are not trained on.

    Raises:
        CnnkitError: No row is in that split, or none in another, or one is in no split at all.
    """
    splits = Counter(split for _, split in rows)
    meant = split_names.meant(held_out, filter(None, splits))
    if meant is not None and meant != held_out:
        log.info("%s: --hold-out %s takes %s", name, held_out, meant)
        held_out = meant
    if held_out not in splits:
        there = ", ".join(sorted(filter(None, splits))) or "none; cnn-split --folds makes some"
        raise CnnkitError(f"{name}: no part {held_out} to hold out; it has {there}")
    if None in splits:
        bare = next(path for path, split in rows if split is None)
        raise CnnkitError(f"{name}: {bare} is in no part; with --hold-out every picture has to be in one")
    measuring = {each: count for each, count in splits.items() if each != held_out and _is_test_split(each)}
    if len(splits) - len(measuring) < 2:
        raise CnnkitError(f"{name}: no other part than {held_out} to learn from; cnn-split --folds makes several")
    if measuring:
        said = ", ".join(f"{count:,} of {each}" for each, count in measuring.items())
        log.info("%s: not looked at: %s", name, said)
    return [VAL if split == held_out else None if split in measuring else TRAIN for _, split in rows]


def _is_test_split(split: str | None) -> bool:
    """Tell whether a split measures in the end, by its name."""
    return (split or "").lower() in split_names.HELD_OUT_NAMES - split_names.VALIDATION_NAMES


def _of_all_splits(each: str, *, stdin: BinaryIO | None, search: SearchLog) -> list[ImageFile]:
    """Find the images of a source with their splits; the splits of a folder are the folders in it."""
    if not os.path.isdir(each):
        return list(source.find([each], stdin=stdin, search=search))
    own = SearchLog()
    found = [
        image for image in source.find([each], folders=FolderReading.SPLITS, search=own) if image.split is not None
    ]
    _refuse_empty(own)
    search.add(own)
    return found


def _by_split(
    each: str, *, stdin: BinaryIO | None, folders: FolderReading | None, search: SearchLog
) -> dict[str | None, list[ImageFile]]:
    """Give the images of a source by split: train and val, or all under None."""
    own = SearchLog()
    found = list(source.find([each], stdin=stdin, folders=folders, search=own))
    divided = any(image.split is not None for image in found)
    _refuse_empty(own, below=each if divided else None)
    search.add(own)
    if not divided:
        return {None: found}
    unused = Counter(image.split or "no part" for image in found if not split_named(image.split or ""))
    if unused:
        log.info("%s: not looked at: %s", each, ", ".join(f"{count:,} of {name}" for name, count in unused.items()))
    return {split: [image for image in found if split_named(image.split or "") == split] for split in (TRAIN, VAL)}


def split_named(name: str) -> str | None:
    """Say which split a name means."""
    low = name.lower()
    return VAL if low in split_names.VALIDATION_NAMES else TRAIN if low in split_names.TRAIN_NAMES else None


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Give the classes of a training in their order.

    Raises:
        CnnkitError: A name is not UTF-8: no exported network could hold it.
    """
    classes = tuple(sorted(set(labels)))
    for label in classes:
        try:
            label.encode()
        except UnicodeEncodeError as error:
            raise CnnkitError(
                f'class "{label}": the name is not UTF-8; rename its folder, or name the class in a manifest'
            ) from error
    return classes


def _refuse_empty(search: SearchLog, *, below: str | None = None) -> None:
    """Refuse a class without an image: its name would be no class of the network's, and nothing would show it.

    Args:
        search: What was found.
        below: A folder of splits, of which those for training and validation count.
    """
    for folder, there in search.empty:
        if below is None or split_named(folder_search.first_folder(folder, below) or ""):
            raise CnnkitError(
                f"{folder}: a class without images{f' ({there})' if there else ''}; put some in, or remove the folder"
            )


def _classes(images: Iterable[ImageFile], split: str) -> tuple[str, ...]:
    labels = set()
    for image in images:
        if image.label is None:
            raise CnnkitError(
                f"{image.path}: no label to {'learn' if split == TRAIN else 'check'}; "
                "put pictures into a folder a class, or give a manifest with a column label"
            )
        labels.add(image.label)
    return in_order(labels)


def check_classes(train: Sequence[str], val: Sequence[str], *, split: str, train_name: str = TRAIN) -> None:
    """Demand that validation has no class that training lacks; a class that validation lacks is reported: the one rule of all trainings.

    Args:
        train: Classes for training.
        val: Classes for validation.
        split: What validates, for messages.
        train_name: What trains.

    Raises:
        CnnkitError: There is a class that is not trained on.
    """
    if strange := sorted(set(val) - set(train)):
        raise CnnkitError(
            f"the class {strange[0]} is in {split} alone; {train_name} has {messages.shortened(train, 12)}: "
            "add images of it there, or leave it out here"
        )
    if missing := sorted(set(train) - set(val)):
        log.warning(
            "not in %s: %s; nothing shows how well %s learned",
            split,
            messages.shortened(missing, 12),
            "it is" if len(missing) == 1 else "they are",
        )
