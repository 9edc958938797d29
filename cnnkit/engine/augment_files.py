"""Augmented copies of images as files, with the manifest that says what made each.

    DIR/cat/1~01.jpg        copies of photos/cat/1.jpg
    DIR/cat/1~02.jpg
    DIR/augment.tsv         path label split group source copy, and the numbers of each copy; written last: its presence means complete

Everything is made in a hidden folder of DIR and takes its place when all of it is there (see data/atomic_folder.py): a run that fails
leaves nothing behind.
"""

import errno
import io
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from cnnkit import files
from cnnkit.callbacks import Callbacks, Skip, raise_skip
from cnnkit.data import atomic_folder, augment_plan, decode, image_grid, memory, preprocessing, reader, tree
from cnnkit.data.augment import AugmentParams
from cnnkit.data.augment_plan import AugmentPlan, PlannedCopy
from cnnkit.data.config import AugmentConfig
from cnnkit.data.decode import Original
from cnnkit.data.source import ImageFile
from cnnkit.engine.resample import augment
from cnnkit.engine.torch_device import threads
from cnnkit.errors import BadImageError, CnnkitError
from cnnkit.formats import atomic, image_files, manifest, tsv

log = logging.getLogger("cnnkit")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AugmentSummary:
    """What a run came to; `per_second` counts copies, reading and writing included."""

    folder: str
    pictures: int
    copies: int
    skipped: int
    seconds: float
    per_second: float


#: That a pixel takes on the way: three channels of float32 as it was, and as it is becoming; and both as they are encoded.
_BYTES_A_PIXEL = 24 + 8
#: The largest image that is changed in its own size: that takes 2 GB. The largest cameras have 102 million pixels.
_MOST_PIXELS = 105_000_000


@dataclass(frozen=True, slots=True)
class _Made:
    """An image's copies as files: their bytes in the order of their numbers, the original's first where it is kept."""

    format: str
    draws: list[AugmentParams]
    files: list[bytes]


def write(
    images: Iterable[ImageFile],
    folder: str | Path,
    config: AugmentConfig,
    *,
    callbacks: Callbacks | None = None,
) -> AugmentSummary:
    """Write copies of images, each class in its folder, and list them in `augment.tsv`.

    A copy's bytes follow from the image's content, the notation and the seed alone. Memory does not grow with the number of images.

    Args:
        images: The originals.
        folder: Made where it is missing, with its parents.
        config: Which copies. With `force` the folder may hold something, where an earlier run's copies are replaced; and splits that
            measure may be augmented. `jobs` threads read, augment and encode.
        callbacks: Progress, by images, and those that cannot be used.

    Raises:
        UsageError: An image belongs to a split that measures.
        CnnkitError: The folder is not empty, or holds the images themselves; two copies would have one name; no image can be used.
    """
    folder, started, callbacks = Path(folder), time.perf_counter(), callbacks or Callbacks()
    plan, jobs = AugmentPlan.of(config), config.jobs
    images = augment_plan.checked(images, force=config.force)
    check(images, folder, force=config.force)
    replaceable = atomic_folder.earlier(folder, force=config.force)
    place = augment_plan.placing(images)
    total, used, written, skipped = len(images) if isinstance(images, Sized) else None, 0, 0, 0
    # Each of our threads computes by itself
    with atomic.naming(folder), atomic_folder.staging_folder(folder, replaceable) as workshop, threads(1):
        with tsv.Writer(workshop / atomic_folder.COPIES_MANIFEST, augment_plan.columns(plan.augmentation)) as listed:
            ready = reader.read(images, partial(_make, plan=plan), jobs=jobs, ahead=2 * (jobs or reader.usable_cores()))
            for done, (image, made) in enumerate(ready, start=1):
                tree.check_apart(folder, [image.path], to_be="augmented")
                if isinstance(made, BadImageError):
                    skipped += 1
                    callbacks.skip(image.path, str(made))
                else:
                    named = augment_plan.named(image, made.format, made.draws, place=place, plan=plan)
                    for copy, content in zip(named, made.files, strict=True):
                        _put(folder, workshop, copy, content, replaceable)
                        listed.write(_fields(copy, plan, folder))
                    used, written = used + 1, written + len(named)
                callbacks.progress(done, total)
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
    images: Iterable[ImageFile], path: str | Path, config: AugmentConfig, *, skip: Skip = raise_skip
) -> Iterable[ImageFile]:
    """Draw a contact sheet: some of the images, each with its first copies after it.

    Args:
        images: The originals; of a list that is still being read, the first are shown.
        path: The PNG.
        config: Which copies; `force` as for `write`.
        skip: Called for every image that cannot be shown.

    Returns:
        The images, all of them.

    Raises:
        UsageError: As `write`, or the path does not end in .png.
        CnnkitError: No image can be used.
    """
    image_files.check_png(path, option="--sheet")
    if not config.force:  # else `write` counts them
        images = augment_plan.checked(images)
    known = images if isinstance(images, Sequence) else list(islice(images, image_grid.MOST_ROWS))
    chosen = image_grid.choose(known)
    plan = AugmentPlan.of(config)
    few = replace(plan, copies=min(plan.copies, image_grid.MOST_COPIES))
    rows = []
    for image, shown in reader.read(chosen, partial(_thumbnails, plan=few)):
        if isinstance(shown, BadImageError):
            skip(image.path, str(shown))
        else:
            rows.append(shown)
    if not rows:
        raise CnnkitError("no picture could be used; there is nothing to show")
    image_grid.save(path, rows)
    if not isinstance(images, Sequence):
        log.info("%s shows the first %d pictures", path, len(chosen))
    elif len(chosen) < len(known):
        log.info("%s shows %d of %d pictures", path, len(chosen), len(known))
    if few.copies < plan.copies:
        log.info("%s shows %d of %d copies of each", path, few.copies, plan.copies)
    return images if isinstance(images, Sequence) else chain(known, images)


# ---------------------------------------------------------------- one image


def _prepared(image: Image.Image, plan: AugmentPlan) -> Image.Image:
    return image if plan.square is None else Image.fromarray(preprocessing.prepare(image, plan.square))


def _copies(
    image: Image.Image, plan: AugmentPlan, draws: Sequence[AugmentParams], finish: Callable[[Image.Image], T]
) -> Iterator[T]:
    """Give what `finish` makes of each copy, one by one: a large image's need much memory.

    The image itself is let go of, where the caller does not keep it.
    """
    pixels = torch.from_numpy(np.array(image))[None]  # (1, H, W, 3)
    del image
    for draw in draws:
        memory.hold(_BYTES_A_PIXEL * pixels.shape[1] * pixels.shape[2])
        changed = Image.fromarray(augment(pixels, [draw], fill=plan.augmentation.fill)[0].numpy())
        yield finish(changed)
        del changed


def _read(path: str, plan: AugmentPlan) -> Original:
    """Read an image that can be changed.

    Raises:
        BadImageError: As `decode.read`, or it is too large to be changed in its own size.
    """
    if plan.square is None:
        with decode.opened(path) as image:
            width, height = image.size
        if width * height > _MOST_PIXELS:
            raise BadImageError(
                f"too large to augment: {width:,} x {height:,}, at most {_MOST_PIXELS:,} pixels; give --size, or reduce it"
            )
    return decode.read(path)


def _make(path: str, *, plan: AugmentPlan) -> _Made:
    original = _read(path, plan)
    draws, file_format = plan.draws(original.fingerprint), original.format
    saving = augment_plan.saving(os.path.basename(path), file_format, profile=original.profile)
    finish = partial(_encoded, saving=saving, grey=original.grey)
    image = _prepared(original.image, plan)
    del original
    kept = []
    if plan.keep:
        kept.append(files.read_regular(path) if plan.square is None else finish(image))
    copies = _copies(image, plan, draws, finish)
    del image
    return _Made(file_format, draws, [*kept, *copies])


def _encoded(image: Image.Image, saving: Mapping[str, Any], *, grey: bool) -> bytes:
    file = io.BytesIO()
    if grey:  # all three channels are the same, and stay so
        image = image.convert("L")
    image.save(file, **saving)
    return file.getvalue()


def _thumbnails(path: str, *, plan: AugmentPlan) -> list[Image.Image]:
    original = _read(path, plan)
    image = _prepared(original.image, plan)
    copies = _copies(image, plan, plan.draws(original.fingerprint), image_grid.thumbnail)
    return [image_grid.thumbnail(image), *copies]


def _fields(copy: PlannedCopy, plan: AugmentPlan, folder: Path) -> list[str | None]:
    record = augment_plan.record(copy, plan.augmentation, source=manifest.seen_from(folder, copy.source.path))
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
