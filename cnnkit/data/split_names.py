"""Names of splits, and whether an image belongs to a held-out split (validation or test), by its split or its folders."""

import os
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from cnnkit import class_names
from cnnkit.formats import table_columns

if TYPE_CHECKING:
    from cnnkit.data.source import ImageFile

#: Names of the splits for training, for validation, and of all that are held out of training.
TRAIN_NAMES = table_columns.TRAIN_NAMES
VALIDATION_NAMES = table_columns.VALIDATION_NAMES
HELD_OUT_NAMES = VALIDATION_NAMES | table_columns.TEST_NAMES

#: Names of folders that are splits.
NAMES = TRAIN_NAMES | HELD_OUT_NAMES

#: Names of the splits of cnn-split --folds.
_FOLD = re.compile("fold[0-9]+")


def is_split(name: str) -> bool:
    """Return whether a folder has the name of a split."""
    return name.lower() in NAMES or is_fold(name)


def is_fold(name: str) -> bool:
    """Return whether a folder has the name of a fold of cnn-split."""
    return _FOLD.fullmatch(name.lower()) is not None


def meant(name: str, there: Iterable[str]) -> str | None:
    """Return the one existing split that a name can mean, such as valid or VAL for val; None if none or several can."""
    there = set(there)
    if name in there:
        return name
    low = name.lower()
    of_case = [each for each in there if each.lower() == low]
    roles = (TRAIN_NAMES, VALIDATION_NAMES, HELD_OUT_NAMES - VALIDATION_NAMES)
    role: frozenset[str] = next((names for names in roles if low in names), frozenset())
    found = of_case or [each for each in there if each.lower() in role]
    return found[0] if len(found) == 1 else None


def about_synonyms(where: str, names: Iterable[str], *, mark: str = "") -> Iterator[str]:
    """Yield a notice for several splits that training commands combine, since their names are synonyms, such as val and dev.

    Test splits are not combined: `--split` selects one of them.

    Args:
        where: The folder or manifest.
        names: Of its splits.
        mark: Suffix of each name: a folder's separator.
    """
    there = sorted(set(names))
    for meanings, role, used in (
        (TRAIN_NAMES, "training", "train on"),
        (VALIDATION_NAMES, "validation", "validate with"),
    ):
        same = [name for name in there if name.lower() in meanings]
        if len({name.lower() for name in same}) < 2:  # names that differ only in case have another notice
            continue
        named = f"{', '.join(f'{name}{mark}' for name in same[:-1])} and {same[-1]}{mark}"
        each = "both" if len(same) == 2 else "all"
        yield f"{where}: {named} are {each} read as {role} splits, and training commands {used} {each}; if one is not, rename it"


def held_out_split(image: "ImageFile") -> str | None:
    """Return the validation or test split of an image; None if it belongs to none. Such images must not be augmented.

    The image's own split decides, if it has one. Otherwise the folders above it are examined, since `cv/val` can be read by itself.
    A class called test is a class:

        cv/val/cat/1.jpg    label cat       val: the folder of its class lies in it
        cv/val/1.jpg        no label        val: it lies in it
        cv/test/1.jpg       label test      none
    """
    if image.split is not None:
        return image.split if image.split.lower() in HELD_OUT_NAMES else None
    folders = os.path.dirname(os.path.abspath(image.path)).split(os.sep)
    above = [
        folders[place - 1] for place, name in enumerate(folders) if place and class_names.normal(name) == image.label
    ]
    return next((name for name in above or folders[-1:] if name.lower() in HELD_OUT_NAMES), None)
