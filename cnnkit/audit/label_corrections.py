"""Corrections of labels: the table of a check of labels, once someone has looked at its images."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cnnkit import class_names, files, messages
from cnnkit.data.source import ImageFile, refuse_several_labels
from cnnkit.errors import CnnkitError, FormatError
from cnnkit.formats import manifest, table_columns, tables

log = logging.getLogger("cnnkit")

#: What the column `suspect` may have in a row that is not a correction, as spreadsheets write it too.
_NO = frozenset({"false", "no", "0"})


def load(path: Path) -> dict[str, str | None]:
    """Read corrections: the column `suggested` of the rows whose column `suspect`, if there is one, is not false.

    Returns:
        The new labels by path from the current folder; None for an image that is to have no class.

    Raises:
        FormatError: It is not such a table, or an image has two labels in it.
        OSError: It cannot be read.
    """
    found: dict[str, str | None] = {}
    folder = files.folder_of(path)
    for row in tables.load(path, required=["path", "suggested"], aliases={"path": table_columns.PATH_ALIASES}):
        if row.get("suspect", "").strip().lower() in _NO:
            continue
        if not row["path"]:
            raise FormatError(f"{path}: a row with an empty path")
        label = class_names.normal_or_none(row["suggested"])
        place = manifest.seen_here(folder, row["path"])
        if found.setdefault(place, label) != label:
            raise FormatError(f'{path}: {row["path"]} has two labels, "{found[place] or ""}" and "{label or ""}"')
    return found


def apply(images: Iterable[ImageFile], path: Path) -> list[ImageFile]:
    """Replace the labels of images by those of a table.

    Raises:
        UsageError: The images have several labels.
        CnnkitError: As `load`; or the table has an image that is not among the images.
    """
    images = list(images)
    refuse_several_labels(images, "--corrections replaces the one label of an image; edit their manifest")
    real = files.RealPaths()
    new = {real.of(place): (place, label) for place, label in load(path).items()}
    corrected, used, changed = [], set(), 0
    for image in images:
        its = real.of(image.path)
        if its in new:
            used.add(its)
            changed += image.label != new[its][1]
            image = replace(image, label=new[its][1], written=None)
        corrected.append(image)
    if lacking := [place for its, (place, _) in new.items() if its not in used]:
        raise CnnkitError(f"{path} corrects {messages.shortened(lacking, 3)}, which SOURCE does not have")
    log.info("%s: %s with another label", path, messages.count_images(changed))
    return corrected
