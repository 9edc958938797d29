"""Training and validation sets: their images, the overlap of the two, and whether a dataset is small or large."""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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
from cnnkit.files import RealPaths
from cnnkit.formats import tsv
from cnnkit.formats.box import whole_path

log = logging.getLogger("cnnkit")

#: Minimum number of training images of a large dataset: the geometric mean of the textbook's 2,000 cats and dogs, which are few, and
#: CIFAR-10's 50,000, on which networks are trained from scratch.
LARGE = 10_000

#: The names of the splits.
TRAIN, VAL = "train", "val"


class DatasetSize(StrEnum):
    """Size of a training set."""

    SMALL = "small"
    LARGE = "large"


def dataset_size(images: int) -> DatasetSize:
    """Return the size of a training set of some number of images."""
    return DatasetSize.LARGE if images >= LARGE else DatasetSize.SMALL


@dataclass(frozen=True, slots=True)
class TrainValOverlap:
    """Validation images that the training set contains in some form; each is listed once, in the first list that it belongs to."""

    same: list[ImageFile]  # the same file is in the training set
    copied: list[ImageFile]  # an augmented copy is, or the original, or another copy of the same original
    grouped: list[ImageFile]  # other images of its group are
    cropped: list[ImageFile] = field(default_factory=list)  # another crop of the same file is, or the whole file


def find_overlap(train: Sequence[ImageFile], val: Sequence[ImageFile]) -> TrainValOverlap:
    """Find the images of `val` that `train` contains in some form, which make the validation accuracy too high.

    Copies made by cnn-augment are recognized by the list in their folder.
    """
    if not val:
        return TrainValOverlap([], [], [])
    listed: dict[str, dict[str, str]] = {}
    real = RealPaths()
    files = {real.of(image.path) for image in train if not source.is_in_memory(image)}
    groups = {image.group for image in train} - {None}
    whole = {whole_path(path) for path in files}
    originals = {_original(path, listed) for path in whole}
    found = TrainValOverlap([], [], [])
    for image in val:
        path = real.of(image.path)
        if path in files:
            found.same.append(image)
            continue
        path = whole_path(path)
        if path in whole:
            found.cropped.append(image)
        elif _original(path, listed) in originals:
            found.copied.append(image)
        elif image.group in groups:
            found.grouped.append(image)
    return found


def warn_of_overlap(known: TrainValOverlap) -> None:
    """Log a warning for each kind of overlap, since the validation accuracy will be too high."""
    if known.same:
        log.warning(
            "%s also in the training set, such as %s: the validation accuracy will be too high",
            _validation_images(known.same, "is", "are"),
            known.same[0].path,
        )
    if known.cropped:
        log.warning(
            "%s of a file of the training set, such as %s: the validation accuracy will be too high; "
            "cnn-split keeps the crops of a file together",
            _validation_images(known.cropped, "is", "are"),
            known.cropped[0].path,
        )
    if known.copied:
        log.warning(
            "%s augmented copies in the training set, such as %s: the validation accuracy will be too high; "
            "augment only the training split",
            _validation_images(known.copied, "has", "have"),
            known.copied[0].path,
        )
    if known.grouped:
        log.warning(
            "%s to a group of the training set, such as %s to %s: the validation accuracy will be too high; "
            "cnn-split keeps groups together",
            _validation_images(known.grouped, "belongs", "belong"),
            known.grouped[0].path,
            known.grouped[0].group,
        )


def _validation_images(images: Sequence[ImageFile], one: str, many: str) -> str:
    return f"1 validation image {one}" if len(images) == 1 else f"{len(images):,} validation images {many}"


def _original(path: str, listed: dict[str, dict[str, str]]) -> str:
    """Return the original of a copy made by cnn-augment; for other files, the file itself.

    Args:
        path: With links resolved.
        listed: By folder, the originals according to cnn-augment's list in it or above it; filled on demand.
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
    """Read cnn-augment's list in a folder: the original of each copy; empty without a list."""
    file = Path(folder, COPIES_MANIFEST)
    with contextlib.suppress(FileNotFoundError, FormatError):  # a file of this name need not be cnn-augment's
        return {
            os.path.normpath(os.path.join(folder, row["path"])): os.path.realpath(
                os.path.join(folder, whole_path(row["source"]))
            )
            for row in tsv.load(file, required=["path", "source"])
        }
    return {}


@dataclass(frozen=True, slots=True)
class TrainValImages:
    """Labelled images for training and validation (`val` may be empty); `classes` are ordered by name."""

    train: tuple[ImageFile, ...]
    val: tuple[ImageFile, ...]
    classes: tuple[str, ...]

    @property
    def multi_label(self) -> bool:
        """Whether images have several labels."""
        return any(image.labels is not None for image in self.train)


def find(
    sources: Sequence[str],
    val: Sequence[str] = (),
    *,
    hold_out: str | None = None,
    stdin: BinaryIO | None = None,
    folders: FolderReading | None = None,
    search: SearchLog | None = None,
) -> TrainValImages:
    """Find the training and validation images.

    Args:
        sources: As in `source.find`.
        val: Sources of validation images, instead of the split `val` of `sources`; of a split dataset, its split `val`.
        hold_out: Split for validation, instead of `val`; all others are for training, except one called test.
        stdin: Standard input, for the source `-`.
        folders: As `source.find`.
        search: As `source.find`.

    Raises:
        UsageError: An image is in both sets, or both `val` and `hold_out` are given.
        CnnkitError: An image without a label, a class without images, a single class, or a class only in `val`; no split
            `hold_out`, or an image in no split.
    """
    if hold_out is not None and val:
        raise UsageError("--val and --hold-out both name a validation set; give one of them")
    collected = SearchLog() if search is None else search
    train, val_images = (
        _train_and_val(sources, val, stdin=stdin, folders=folders, search=collected)
        if hold_out is None
        else _with_held_out(hold_out, sources, stdin=stdin, search=collected)
    )
    if search is None:
        collected.say()
    classes = _classes(train, TRAIN)
    if len(classes) < 2:
        raise CnnkitError(f"only one class, {classes[0]}; training needs at least two")
    if val_images:
        _classes([*train[:1], *val_images[:1]], f"{TRAIN} and {VAL}")  # both with several labels, or both with one
        check_classes(classes, _classes(val_images, VAL), split=hold_out or VAL)
    for images in (train, val_images):
        check_listed_once(images)
    known = find_overlap(train, val_images)
    if known.same:
        raise UsageError(
            f"{known.same[0].path} is both a training and a validation image; the two sets must not overlap"
        )
    warn_of_overlap(known)
    return TrainValImages(tuple(train), tuple(val_images), classes)


def check_listed_once(images: Iterable[ImageFile], *, name: str | None = None) -> None:
    """Refuse an image of two classes, and warn of images that are listed twice.

    Args:
        images: For training, or for validation.
        name: The file that lists them, for messages.

    Raises:
        CnnkitError: As `source.listed_again`.
    """
    _, again = source.listed_again(images, name=name)
    if again:
        counted = "1 image is listed" if len(again) == 1 else f"{len(again):,} images are listed"
        where = "" if name is None else f"{name}: "
        log.warning("%s%s more than once, and counted each time; the first is %s", where, counted, again[0].path)


def _train_and_val(
    sources: Sequence[str],
    val: Sequence[str],
    *,
    stdin: BinaryIO | None,
    folders: FolderReading | None,
    search: SearchLog,
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Divide sources by their own splits, or by the option that they were given with."""
    train: list[ImageFile] = []
    val_images: list[ImageFile] = []
    search.note_sources(sources)
    for each in sources:
        for split, found in _by_split(each, stdin=stdin, folders=folders, search=search).items():
            if split != VAL:
                train += found
            elif not val:
                val_images += found
    for each in val:
        splits = _by_split(each, stdin=stdin, folders=folders, search=search)
        more = splits.get(VAL) or splits.get(None)
        if not more:
            raise no_val_split(each)
        val_images += more
    if not train:
        raise no_train_split(" ".join(sources), has_val=bool(val))
    return train, val_images


def no_train_split(name: str, *, has_val: bool) -> CnnkitError:
    """Return the error for images or features in splits of which none is called train; the same for all training commands."""
    instead = " instead of --val" if has_val else ""
    return CnnkitError(
        f"{name}: no split {TRAIN} in it; make one with cnn-split, or choose the validation split with --hold-out NAME{instead}"
    )


def no_val_split(name: str) -> CnnkitError:
    """Return the error for a validation source with splits of which none is called val."""
    return CnnkitError(f"{name}: no split {VAL} in it; give the folder or manifest of the validation images")


def _with_held_out(
    split: str, sources: Sequence[str], *, stdin: BinaryIO | None, search: SearchLog
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Take one split for validation, and all others except test splits for training."""
    found = [image for each in sources for image in _of_all_splits(each, stdin=stdin, search=search)]
    uses = hold_out_roles([(image.path, image.split) for image in found], split, name=" ".join(sources))
    train = [image for image, use in zip(found, uses, strict=True) if use == TRAIN]
    return train, [image for image, use in zip(found, uses, strict=True) if use == VAL]


def hold_out_roles(rows: Sequence[tuple[str, str | None]], held_out: str, *, name: str) -> list[str | None]:
    """Return the use of each row when one split is held out.

    Args:
        rows: Path and split.
        held_out: The split for validation.
        name: Source of the rows, for messages.

    Returns:
        For each row VAL, TRAIN, or None for another split called test, which is not used.

    Raises:
        CnnkitError: No row is in that split, or none in another, or one is in no split at all.
    """
    splits = Counter(split for _, split in rows)
    meant = split_names.meant(held_out, filter(None, splits))
    if meant is not None and meant != held_out:
        log.info("%s: --hold-out %s selects %s", name, held_out, meant)
        held_out = meant
    if held_out not in splits:
        there = ", ".join(sorted(filter(None, splits))) or "none; make some with cnn-split --folds"
        raise CnnkitError(f"{name}: no split {held_out} to hold out; it has {there}")
    if None in splits:
        bare = next(path for path, split in rows if split is None)
        raise CnnkitError(f"{name}: {bare} is in no split; --hold-out needs every image to be in one")
    tests = {each: count for each, count in splits.items() if each != held_out and _is_test_split(each)}
    if len(splits) - len(tests) < 2:
        raise CnnkitError(f"{name}: no split except {held_out} to train on; make several with cnn-split --folds")
    if tests:
        counts = ", ".join(f"{count:,} of {each}" for each, count in tests.items())
        log.info("%s: not used: %s", name, counts, extra=messages.WAITS_FOR_WORK)
    return [VAL if split == held_out else None if split in tests else TRAIN for _, split in rows]


def _is_test_split(split: str | None) -> bool:
    """Return whether a split is a test split, by its name."""
    return (split or "").lower() in split_names.HELD_OUT_NAMES - split_names.VALIDATION_NAMES


def _of_all_splits(each: str, *, stdin: BinaryIO | None, search: SearchLog) -> list[ImageFile]:
    """Return the images of a source with their splits; every folder in a folder is a split."""
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
    """Return the images of a source by split: train and val, or all under None."""
    own = SearchLog(opens=search.opens)
    found = list(source.find([each], stdin=stdin, folders=folders, search=own))
    divided = any(image.split is not None for image in found)
    _refuse_empty(own, below=each if divided else None)
    search.add(own)
    if not divided:
        return {None: found}
    unused = Counter(image.split or "no split" for image in found if not split_named(image.split or ""))
    if unused:
        counts = ", ".join(f"{count:,} of {name}" for name, count in unused.items())
        log.info("%s: not used: %s", each, counts, extra=messages.WAITS_FOR_WORK)
    return {split: [image for image in found if split_named(image.split or "") == split] for split in (TRAIN, VAL)}


def split_named(name: str) -> str | None:
    """Return TRAIN or VAL for a name of such a split, None for other names."""
    low = name.lower()
    return VAL if low in split_names.VALIDATION_NAMES else TRAIN if low in split_names.TRAIN_NAMES else None


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the classes of a training set in their order.

    Raises:
        CnnkitError: A name is not UTF-8, so that an exported network could not store it.
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
    """Refuse a class folder without images, which would silently be missing from the network's classes.

    Args:
        search: Findings of the search.
        below: A folder of splits, of which only training and validation splits are checked.
    """
    for folder, there in search.empty:
        if below is None or split_named(folder_search.first_folder(folder, below) or ""):
            raise CnnkitError(
                f"{folder}: a class without images{f' ({there})' if there else ''}; add images, or remove the folder"
            )


def _classes(images: Iterable[ImageFile], split: str) -> tuple[str, ...]:
    images = list(images)
    several = {image.labels is not None: image.path for image in images}
    if len(several) > 1:
        raise CnnkitError(
            f"{several[True]} is in a manifest with a column labels, {several[False]} is not; training needs one kind of label"
        )
    if True in several:
        named = in_order(label for image in images for label in image.labels or ())
        if not named:
            raise CnnkitError(f"no {split} image has a label; the column labels of its manifest is empty")
        return named
    labels = set()
    for image in images:
        if image.label is None:
            raise CnnkitError(
                f"{image.path}: no label, but {'training' if split == TRAIN else 'validation'} images need one; "
                "put them into class folders, or give a manifest with a column label"
            )
        labels.add(image.label)
    return in_order(labels)


def check_classes(train: Sequence[str], val: Sequence[str], *, split: str, train_name: str = TRAIN) -> None:
    """Check that every validation class is a training class, and warn of training classes without validation images.

    The same for all training commands.

    Args:
        train: Classes of the training set.
        val: Classes of the validation set.
        split: Name of the validation set, for messages.
        train_name: Name of the training set.

    Raises:
        CnnkitError: A validation class is not a training class.
    """
    if strange := sorted(set(val) - set(train)):
        raise CnnkitError(
            f"the class {strange[0]} is only in {split}; {train_name} has {messages.shortened(train, 12)}: "
            f"add images of it to {train_name}, or remove it from {split}"
        )
    if missing := sorted(set(train) - set(val)):
        these = "this class" if len(missing) == 1 else "these classes"
        names = messages.shortened(missing, 12)
        log.warning("no images of %s in %s; accuracy on %s is not measured", names, split, these)
