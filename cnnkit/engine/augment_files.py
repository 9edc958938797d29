"""Augmented copies of images as files, with the manifest that says what made each.

    DIR/cat/1~01.jpg        copies of photos/cat/1.jpg
    DIR/cat/1~02.jpg
    DIR/augment.tsv         path label split group source copy, and the numbers of each copy; written last: its presence means complete

Everything is made in a hidden folder of DIR and takes its place when all of it is there (see data/replacing.py): a run that fails
leaves nothing behind.
"""

import errno
import io
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cnnkit.callbacks import Progress, ignore_progress
from cnnkit.data import atomic_folder, augment_plan, contact_sheet, decode, preprocessing, reader, tree
from cnnkit.data.augment import AugmentParams
from cnnkit.data.augment_plan import AugmentPlan, PlannedCopy
from cnnkit.data.decode import Original
from cnnkit.data.reader import MemoryBudget
from cnnkit.data.source import ImageFile
from cnnkit.engine.resample import augment
from cnnkit.engine.runner import Skip, raise_bad
from cnnkit.engine.torch_device import threads
from cnnkit.errors import BadImageError, CnnkitError
from cnnkit.formats import atomic, image_files, manifest, tsv

MANIFEST = atomic_folder.MANIFEST

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AugmentSummary:
    """What a run came to; `per_second` counts copies, reading and writing included."""

    folder: str
    pictures: int
    copies: int
    skipped: int
    seconds: float
    per_second: float


#: For images that are being changed: those of a telephone one or two at a time, small ones as many as there are threads.
_ROOM = MemoryBudget(700 << 20)
#: That a pixel takes on the way: three channels of float32 as it was, and as it is becoming.
_BYTES_A_PIXEL = 24


@dataclass(frozen=True, slots=True)
class _Made:
    """An image's copies as files: their bytes in the order of their numbers, the original's first where it is kept."""

    format: str
    draws: list[AugmentParams]
    files: list[bytes]


def write(
    images: Iterable[ImageFile],
    folder: str | Path,
    recipe: AugmentPlan,
    *,
    force: bool = False,
    jobs: int | None = None,
    skip: Skip = raise_bad,
    progress: Progress = ignore_progress,
) -> AugmentSummary:
    """Write copies of images, each class in its folder, and list them in `augment.tsv`.

    A copy's bytes follow from the image's content, the recipe and the seed alone. Memory does not grow with the number of images.

    Args:
        images: The originals.
        folder: Made where it is missing, with its parents.
        recipe: Which copies.
        force: The folder may hold something, where an earlier run's copies are replaced; and parts that measure may be augmented.
        jobs: Threads that read, augment and encode.
        skip: Called for every image that cannot be used.
        progress: Called after every image.

    Raises:
        UsageError: An image belongs to a part that measures.
        CnnkitError: The folder is not empty, or holds the images themselves; two copies would have one name; no image can be used.
    """
    folder, started = Path(folder), time.perf_counter()
    images = augment_plan.checked(images, force=force)
    check(images, folder, force=force)
    replaceable = atomic_folder.earlier(folder, force=force)
    place = augment_plan.placing(images)
    total, used, written, skipped = len(images) if isinstance(images, Sized) else None, 0, 0, 0
    # Each of our threads computes by itself
    with atomic.naming(folder), atomic_folder.staging_folder(folder, replaceable) as workshop, threads(1):
        with tsv.Writer(workshop / MANIFEST, augment_plan.columns(recipe.augmentation)) as listed:
            ready = reader.read(
                images, partial(_make, recipe=recipe), jobs=jobs, ahead=2 * (jobs or reader.usable_cores())
            )
            for done, (image, made) in enumerate(ready, start=1):
                tree.check_apart(folder, [image.path], to_be="augmented")
                if isinstance(made, BadImageError):
                    skipped += 1
                    skip(image.path, str(made))
                else:
                    named = augment_plan.named(image, made.format, made.draws, place=place, recipe=recipe)
                    for copy, content in zip(named, made.files, strict=True):
                        _put(folder, workshop, copy, content, replaceable)
                        listed.write(_fields(copy, recipe, folder))
                    used, written = used + 1, written + len(named)
                progress(done, total)
        if not used:
            raise CnnkitError("no picture could be used; nothing written")
    seconds = time.perf_counter() - started
    return AugmentSummary(str(folder), used, written, skipped, round(seconds, 2), round(written / seconds, 1))


def check(images: Iterable[ImageFile], folder: str | Path, *, force: bool = False) -> None:
    """Demand that copies can be written into a folder: before the work, and before anything else is drawn.

    Raises:
        CnnkitError: As `write`, of images only where they are known already.
    """
    if isinstance(images, Sequence):
        tree.check_apart(folder, (image.path for image in images), to_be="augmented")
    atomic_folder.check(folder, force=force)


def sheet(
    images: Iterable[ImageFile], path: str | Path, recipe: AugmentPlan, *, force: bool = False, skip: Skip = raise_bad
) -> Iterable[ImageFile]:
    """Draw a contact sheet: some of the images, each with its first copies behind it.

    Args:
        images: The originals; of a list that is still being read, the first are shown.
        path: The PNG.
        recipe: Which copies.
        force: As `write`.
        skip: Called for every image that cannot be shown.

    Returns:
        The images, all of them.

    Raises:
        UsageError: As `write`, or the path does not end in .png.
        CnnkitError: No image can be used.
    """
    image_files.check_png(path, option="--sheet")
    if not force:  # else `write` counts them
        images = augment_plan.checked(images)
    known = images if isinstance(images, Sequence) else list(islice(images, contact_sheet.MOST_ROWS))
    chosen = contact_sheet.choose(known)
    few = replace(recipe, copies=min(recipe.copies, contact_sheet.MOST_COPIES))
    rows = []
    for image, shown in reader.read(chosen, partial(_thumbnails, recipe=few)):
        if isinstance(shown, BadImageError):
            skip(image.path, str(shown))
        else:
            rows.append(shown)
    if not rows:
        raise CnnkitError("no picture could be used; there is nothing to show")
    contact_sheet.save(path, rows)
    if not isinstance(images, Sequence):
        _log.info("%s shows the first %d pictures", path, len(chosen))
    elif len(chosen) < len(known):
        _log.info("%s shows %d of %d pictures", path, len(chosen), len(known))
    if few.copies < recipe.copies:
        _log.info("%s shows %d of %d copies of each", path, few.copies, recipe.copies)
    return images if isinstance(images, Sequence) else chain(known, images)


# ---------------------------------------------------------------- one image


def _images(original: Original, recipe: AugmentPlan, draws: Sequence[AugmentParams]) -> Iterator[Image.Image]:
    """Give the original, prepared where that is asked for, then its copies, one by one: a large image's need much memory."""
    image = original.image
    if recipe.square is not None:
        image = Image.fromarray(preprocessing.prepare(image, recipe.square))
    yield image
    pixels = torch.from_numpy(np.array(image))[None]  # (1, H, W, 3)
    for draw in draws:
        with _ROOM.taken(_BYTES_A_PIXEL * image.width * image.height):
            changed = augment(pixels, [draw], fill=recipe.augmentation.fill)[0].numpy()
        yield Image.fromarray(changed)


def _make(path: str, *, recipe: AugmentPlan) -> _Made:
    original = decode.read(path)
    draws = recipe.draws(original.fingerprint)
    saving = augment_plan.saving(os.path.basename(path), original.format, profile=original.profile)
    kept, *others = (
        b"" if number == 0 and (not recipe.keep or recipe.square is None) else _encoded(image, saving, original)
        for number, image in enumerate(_images(original, recipe, draws))
    )
    if recipe.keep and recipe.square is None:
        kept = Path(path).read_bytes()
    return _Made(original.format, draws, [kept, *others] if recipe.keep else others)


def _encoded(image: Image.Image, saving: Mapping[str, Any], original: Original) -> bytes:
    file = io.BytesIO()
    if original.grey:  # all three channels are the same, and stay so
        image = image.convert("L")
    image.save(file, **saving)
    return file.getvalue()


def _thumbnails(path: str, *, recipe: AugmentPlan) -> list[Image.Image]:
    original = decode.read(path)
    shown = _images(original, recipe, recipe.draws(original.fingerprint))
    return [contact_sheet.thumbnail(image) for image in shown]


def _fields(copy: PlannedCopy, recipe: AugmentPlan, folder: Path) -> list[str | None]:
    record = augment_plan.record(copy, recipe.augmentation, source=manifest.seen_from(folder, copy.source.path))
    return [
        str(value).lower() if isinstance(value, bool) else None if value is None else str(value)
        for value in record.values()
    ]


# ---------------------------------------------------------------- the folder


def _put(folder: Path, workshop: Path, copy: PlannedCopy, content: bytes, replaceable: frozenset[str]) -> None:
    atomic_folder.check_place(folder, copy.path, replaceable)
    target = workshop / copy.path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        image_files.create(target, content)
    except FileExistsError:
        raise augment_plan.claimed_twice(copy) from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise CnnkitError(
            f"{copy.source.path}: the name of its copy {copy.path} is too long; give the picture a shorter one"
        ) from error
