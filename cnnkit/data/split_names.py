"""Which images are held out of training: those of a validation or test split, by its given name or by folders."""

import os
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


def held_out_split(image: "ImageFile") -> str | None:
    """Name the split that holds an image out, if one does: an augmented copy of it would measure something else.

    A split that is given counts alone. Else it is looked for in the names of folders, since `cv/val` can be read by itself, and a
    folder of splits as one of classes:

        cv/val/cat/1.jpg    label cat       val: the folder of its class lies in it
        cv/val/1.jpg        no label        val: it lies in it
        cv/test/cat/1.jpg   label test      test
    """
    if image.split is not None:
        return image.split if image.split.lower() in HELD_OUT_NAMES else None
    folders = os.path.dirname(os.path.abspath(image.path)).split(os.sep)
    above = [
        folders[place - 1] for place, name in enumerate(folders) if place and class_names.normal(name) == image.label
    ]
    return next(
        (name for name in (image.label, *(above or folders[-1:])) if name and name.lower() in HELD_OUT_NAMES), None
    )
