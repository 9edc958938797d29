"""Which images are held out of training: those of a validation or test split, by its given name or by folders."""

import os
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from cnnkit import class_names

if TYPE_CHECKING:
    from cnnkit.data.source import ImageFile

#: What splits are called: those that are looked at during training, and those that measure something in the end.
TRAIN_NAMES = frozenset({"train", "training"})
VALIDATION_NAMES = frozenset({"val", "valid", "validation", "dev"})
HELD_OUT_NAMES = VALIDATION_NAMES | {"test", "testing", "holdout"}

#: What a folder is called that is a split.
NAMES = TRAIN_NAMES | HELD_OUT_NAMES

#: What cnn-split --folds calls its splits.
_FOLD = re.compile("fold[0-9]+")


def is_split(name: str) -> bool:
    """Say whether a folder is called like a split."""
    return name.lower() in NAMES or is_fold(name)


def is_fold(name: str) -> bool:
    """Say whether a folder is called like a fold of cnn-split."""
    return _FOLD.fullmatch(name.lower()) is not None


def meant(name: str, there: Iterable[str]) -> str | None:
    """Give the split that a name stands for, as val does for valid and VAL; None where none does, or several may."""
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
    """Tell of several splits that trainings take together, since their names mean the same: val and dev both validate.

    Splits for testing are taken one by one, by the name that `--split` gives.

    Args:
        where: The folder or manifest.
        names: Of its splits.
        mark: Stands after each name: a folder's separator.
    """
    there = sorted(set(names))
    for meanings, role, used in (
        (TRAIN_NAMES, "training", "train on"),
        (VALIDATION_NAMES, "validation", "validate with"),
    ):
        same = [name for name in there if name.lower() in meanings]
        if len({name.lower() for name in same}) < 2:  # those that differ in case alone are told of elsewhere
            continue
        named = f"{', '.join(f'{name}{mark}' for name in same[:-1])} and {same[-1]}{mark}"
        each = "both" if len(same) == 2 else "all"
        yield f"{where}: {named} are {each} taken for the {role} split, and trainings {used} {each}; if one is not, rename it"


def held_out_split(image: "ImageFile") -> str | None:
    """Name the split that holds an image out, if one does: an augmented copy of it would measure something else.

    A split that is given counts alone: a search of folders gives it where they are splits. Else it is looked for in the folders above,
    since `cv/val` can be read by itself. A class that is called test is a class:

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
