"""Load training and validation features, and check that they have the same backbone, preprocessing and classes. No torch."""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cnnkit import class_names
from cnnkit.choices import Loss
from cnnkit.data import split_names, train_val
from cnnkit.data.image_columns import Columns
from cnnkit.data.source import ImageFile
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import features, manifest
from cnnkit.formats.features import Features
from cnnkit.formats.header import difference
from cnnkit.train.config import check_loss

log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True)
class FeatureSets:
    """Matching training and validation features, with their names for messages, their files, and the split that is held out."""

    train: Features
    train_name: str
    train_path: str
    val: Features | None
    val_name: str | None
    val_path: str | None
    classes: tuple[str, ...]
    hold_out: str | None = None

    @property
    def multi_label(self) -> bool:
        """Whether images have several labels."""
        return self.train.multi_label


def load(
    train: str | Path, *, val: str | Path | None, hold_out: str | None, loss: Loss | None, validates: bool = True
) -> FeatureSets:
    """Read features for training and validation, and check that they match.

    Args:
        train: Features (`.npy`). If its rows have splits, those of train are the training set, and those of val the validation set.
        val: Features of the validation set, which selects the best epoch or the strength of the penalty. Nothing else selects.
        hold_out: In place of `val`, the split of `train` that is the validation set.
        loss: For two classes, or for any number.
        validates: A validation set is needed; without one there is a warning.

    Raises:
        FormatError: The two come from different backbones.
        CnnkitError: A row has no label, there is only one class, the split does not exist, a class is in the validation set only, an
            image is listed with two labels, or the rows are in several splits and none of them is train.
        UsageError: Both `val` and `hold_out` are given, or the loss is for another number of classes.
    """
    if val is not None and hold_out is not None:
        raise UsageError("--val and --hold-out both name a validation set; give one of them")
    forms: defaultdict[str, set[str]] = defaultdict(set)
    train_set, name = _loaded(train, forms), str(train)
    val_set, val_name = (None, None) if val is None else (_loaded(val, forms), str(val))
    for line in class_names.about_forms(forms):
        log.info("%s", line)
    if hold_out is None:
        if _lacks(train_set, train_val.TRAIN):
            raise train_val.no_train_split(name, has_val=val_set is not None)
        train_set, own_val = _by_split(train_set, name=name)
        if val_set is not None:
            if _lacks(val_set, train_val.VAL):
                raise train_val.no_val_split(val_name or "")
            val_set = _by_split(val_set, name=val_name or "")[1] or val_set
        elif own_val is not None:
            val_set, name, val_name = own_val, f"{train}, {train_val.TRAIN}", f"{train}, {train_val.VAL}"
    else:
        train_set, val_set = split_off(train_set, hold_out, name=name)
        name, val_name = f"{train} without {hold_out}", f"{train}, {hold_out}"
    classes = classes_of(train_set, name=name)
    if len(classes) < 2:
        raise CnnkitError(f"{name}: only one class, {classes[0]}; training needs at least two")
    if not train_set.multi_label:
        check_loss(loss, classes=len(classes))
    for each, file in ((train_set, train), (val_set, val or train)):
        if each is not None:
            _check_listed_once(each, file)
    if val_set is None:
        if validates:
            log.warning("no validation set: keeping the last epoch; use --val or --hold-out to keep the best one")
    else:
        check(train_set, val_set, train=name, val=val_name or "")
        warn_of_overlap(train_set, val_set, train=train, val=val or train)
    val_path = None if val_set is None else str(val or train)
    return FeatureSets(train_set, name, str(train), val_set, val_name, val_path, classes, hold_out)


def columns(data: FeatureSets, names: Sequence[str], manifest: Path | None) -> Columns | None:
    """Prepare to read columns of metadata on the images: from a manifest, or the `.tsv` of the features, or the image files.

    Returns:
        The columns; None if there are no names.

    Raises:
        UsageError: There is no such column.
        OSError: A table cannot be read.
    """
    if not names:
        return None
    own = dict.fromkeys(features.sibling(Path(path), ".tsv") for path in (data.train_path, data.val_path) if path)
    return Columns(names, manifest, own=tuple(own), option="--use")


# Names of the Header's fields for messages.
_FIELD_NAMES = {"name": "backbone", "weights_sha256": "weights", "fit": "--fit", "resize": "--resize", "size": "--size"}


def check(train_set: Features, val_set: Features, *, train: str, val: str) -> None:
    """Check that training and validation features match.

    Args:
        train_set: The training set.
        val_set: The validation set.
        train: The file of the training set, for messages.
        val: The file of the validation set.

    Raises:
        FormatError: They come from different backbones or are prepared differently (the message names both), or the validation set
            has augmented views.
        CnnkitError: A row has no label, or a class is in the validation set only.
    """
    if any(row.view for row in val_set.rows):
        raise FormatError(f"{val} has augmented views, which cannot validate; extract it without --views")
    for part in ("backbone", "preprocess"):
        one, other = getattr(train_set.header, part), getattr(val_set.header, part)
        if (one is None) is not (other is None):
            lacking, having = (train, val) if one is None else (val, train)
            raise FormatError(
                f"{lacking} does not record its {part}, but {having} does; extract both with the same options"
            )
    if differs := difference(train_set.header, val_set.header):
        field, ours, theirs = differs
        raise FormatError(
            f"{train} has {_FIELD_NAMES.get(field, field)} {_short(ours)}, {val} has {_short(theirs)}; "
            "extract both with the same options"
        )
    if train_set.multi_label is not val_set.multi_label:
        one, other = (train, val) if train_set.multi_label else (val, train)
        raise CnnkitError(
            f"{one} has several labels per image, {other} has one; extract both from manifests with a column labels, or both with label"
        )
    train_val.check_classes(
        classes_of(train_set, name=train), classes_of(val_set, name=val), split=val, train_name=train
    )
    if train_set.values.shape[1:] != val_set.values.shape[1:]:
        raise FormatError(
            f"{train} has rows of shape {train_set.values.shape[1:]}, {val} of {val_set.values.shape[1:]}; "
            "extract both with the same options"
        )


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."  # the first digits identify a hash


def classes_of(found: Features, *, name: str) -> tuple[str, ...]:
    """List the classes of features in order.

    Raises:
        CnnkitError: A row has no label, or there are no rows, or as `train_val.in_order`.
    """
    if found.multi_label:
        several, _ = found.label_matrix()
        if not several:
            raise CnnkitError(f"{name}: no image has a label; the column labels of its manifest is empty")
        return train_val.in_order(several)
    missing = next((row.path for row in found.rows if row.label is None), None)
    if missing is not None:
        raise CnnkitError(f"{name}: {missing} has no label; extract from class folders or a manifest with labels")
    if not found.rows:
        raise CnnkitError(f"{name}: has no rows; run cnn-extract again")
    return train_val.in_order(row.label for row in found.rows if row.label is not None)


def has_own_val(path: str | Path) -> bool:
    """Check whether features have rows of the splits train and val, without reading their values."""
    if Path(path).suffix != ".npy" or not (listed := Path(path).with_suffix(".tsv")).is_file():
        return False  # an error, which reading the features reports
    named = {train_val.split_named(row.split or "") for row in manifest.load(listed)}
    return {train_val.TRAIN, train_val.VAL} <= named


def _loaded(path: str | Path, forms: dict[str, set[str]]) -> Features:
    """Read features with normalized labels, and add the forms in which labels are written to `forms`."""
    found = features.load(path)
    shard = found.header.training.get("shard")
    if isinstance(shard, dict) and shard.get("count") != 1:
        log.warning(
            "%s: only shard %s of %s; join all with cnn-extract --join", path, shard.get("number"), shard.get("count")
        )
    for row in found.rows:
        if row.label is not None:
            forms[class_names.normal(row.label)].add(row.label)
    rows = [replace(row, label=class_names.normal_or_none(row.label)) for row in found.rows]
    return Features(found.values, rows, found.header)


def _lacks(found: Features, split: str) -> bool:
    """Check whether rows are in several splits, but not in this one; rows of a single split were extracted on purpose."""
    named = {row.split for row in found.rows}
    return len(named) > 1 and split not in {train_val.split_named(name or "") for name in named}


def _by_split(found: Features, *, name: str) -> tuple[Features, Features | None]:
    """Divide features into the splits train and, if it exists, val; return all rows and None if there is no split train."""
    splits = [train_val.split_named(row.split or "") for row in found.rows]
    if train_val.TRAIN not in splits:
        return found, None
    for line in split_names.about_synonyms(name, (row.split or "" for row in found.rows)):
        log.info("%s", line)
    unused = Counter(row.split or "no split" for row, split in zip(found.rows, splits, strict=True) if split is None)
    if unused:
        counts = ", ".join(f"{count:,} of {split}" for split, count in unused.items())
        log.info("%s: %s not used", name, counts)
    train, val = (
        [place for place, split in enumerate(splits) if split == each] for each in (train_val.TRAIN, train_val.VAL)
    )
    val = [place for place in val if not found.rows[place].view]  # augmented views would distort the validation
    return found if len(train) == len(splits) else _some(found, train), _some(found, val) if val else None


def split_off(found: Features, split: str, *, name: str) -> tuple[Features, Features]:
    """Divide features into the training set (all other splits) and the validation set (one split).

    Augmented views of held-out images are in neither: they would distort the validation, and must not be trained on.

    Raises:
        CnnkitError: As `train_val.hold_out_roles`.
    """
    uses = train_val.hold_out_roles([(row.path, row.split) for row in found.rows], split, name=name)
    trained = [index for index, use in enumerate(uses) if use == train_val.TRAIN]
    held = [index for index, use in enumerate(uses) if use == train_val.VAL and not found.rows[index].view]
    return _some(found, trained), _some(found, held)


def _some(found: Features, indices: list[int]) -> Features:
    return Features(
        found.values[np.array(indices, dtype=np.int64)], [found.rows[each] for each in indices], found.header
    )


def warn_of_overlap(train_set: Features, val_set: Features, *, train: str | Path, val: str | Path) -> None:
    """Warn if validation images are also in the training set, wherever the two files are."""
    train_val.warn_of_overlap(train_val.find_overlap(_images(train_set, train), _images(val_set, val)))


def _check_listed_once(found: Features, name: str | Path) -> None:
    """Reject an image that is listed with two classes; its augmented views have the label of the image itself."""
    plain = [image for image, row in zip(_images(found, name), found.rows, strict=True) if not row.view]
    train_val.check_listed_once(plain, name=str(features.sibling(Path(name), ".tsv")))


def _images(found: Features, name: str | Path) -> list[ImageFile]:
    return [
        ImageFile(path, row.label, row.split, row.group, labels=row.labels)
        for path, row in zip(paths(found, name), found.rows, strict=True)
    ]


def paths(found: Features, name: str | Path) -> list[str]:
    """Return the path of every row's image, relative to the current folder."""
    return [manifest.seen_here(os.path.dirname(name), row.path) for row in found.rows]
