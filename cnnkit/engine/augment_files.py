"""Write augmented copies of images as files, with a manifest of the transforms of each copy.

    DIR/cat/1~01.jpg        copies of photos/cat/1.jpg
    DIR/cat/1~02.jpg
    DIR/augment.tsv         path label split group source copy, and each copy's parameters; written last: if it exists, the run is complete

With --per-tar the copies are in archives instead, DIR/train-000000.tar (see data/augment_archives.py).
Everything is written to a hidden folder in DIR and moved into place at the end (see data/atomic_folder.py): a failed run leaves nothing.
"""

import errno
import io
import logging
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
from cnnkit.data import (
    atomic_folder,
    augment_archives,
    augment_plan,
    decode,
    image_grid,
    memory,
    preprocessing,
    reader,
    shards,
    tree,
)
from cnnkit.data.augment import AugmentParams
from cnnkit.data.augment_plan import AugmentPlan, PlannedCopy
from cnnkit.data.config import AugmentConfig
from cnnkit.data.decode import Original
from cnnkit.data.source import ImageFile, with_label_lists
from cnnkit.engine.resample import augment
from cnnkit.engine.torch_device import threads
from cnnkit.errors import BadImageError, CnnkitError
from cnnkit.formats import atomic, image_files, manifest, tsv
from cnnkit.formats.box import file_name

log = logging.getLogger("cnnkit")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AugmentSummary:
    """Summary of a run; `per_second` counts copies, reading and writing included."""

    folder: str
    images: int
    copies: int
    skipped: int
    seconds: float
    per_second: float


#: Memory of a pixel while it is augmented: three channels of float32 before and after, and both as they are encoded.
_BYTES_A_PIXEL = 24 + 8
#: The largest image that is augmented at its own size, which takes 2 GB. The largest cameras have 102 million pixels.
_MOST_PIXELS = 105_000_000


@dataclass(frozen=True, slots=True)
class _Made:
    """An image's copies as bytes, in the order of their numbers; the original first if it is kept."""

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
    """Write copies of images, one folder per class, and list them in `augment.tsv`.

    A copy's bytes depend only on the image's content, the notation and the seed. Memory does not grow with the number of images, except
    for the names of the copies with `config.per_tar`, which writes tar archives instead of folders. With `config.shard`, only the copies
    of one share of the images are written, under the names that they have in a run for all images.

    Args:
        images: The originals.
        folder: Created with its parents if it is missing.
        config: Which copies. With `force` the folder need not be empty (an earlier run's copies are replaced), and val and test may be
            augmented. `jobs` threads read, augment and encode.
        callbacks: `progress` after each image and, in a `phase` of its own, after each copy that is in an archive; `skip` for each image
            that cannot be used.

    Raises:
        UsageError: An image belongs to val or test.
        CnnkitError: The folder is not empty, or contains the images themselves; two copies would have the same name; no image can be used.
    """
    folder, started, callbacks = Path(folder), time.perf_counter(), callbacks or Callbacks()
    plan, jobs, shard = AugmentPlan.of(config), config.jobs, shards.of(config.shard)
    images, several = with_label_lists(augment_plan.checked(images, force=config.force))
    check(images, folder, force=config.force)
    replaceable = atomic_folder.earlier(folder, force=config.force)
    place, columns = augment_plan.placing(images), augment_plan.columns(plan.augmentation, several_labels=several)
    if shard is not None:
        images = list(images)
    labels = {image.label for image in images} if isinstance(images, Sequence) else set()
    earlier: Iterable[str] = ()
    if shard is not None:
        known = list(images)
        images = shards.share(known, shard)
        if config.per_tar is not None:
            earlier = augment_plan.copies_named_alike(
                known[: shard.bounds(len(known))[0]], images, place=place, plan=plan
            )
    check_place = partial(
        atomic_folder.check_place, folder, replaceable=replaceable, lies_inside=atomic_folder.places(folder)
    )
    total, used, written, skipped = len(images) if isinstance(images, Sized) else None, 0, 0, 0
    # Images are processed in parallel, so each of them uses one core
    with atomic.naming(folder), atomic_folder.staging_folder(folder, replaceable) as workshop, threads(1):
        with (
            augment_archives.archived(
                workshop, per=config.per_tar, shard=shard, labels=labels, earlier=earlier
            ) as archived,
            tsv.Writer(workshop / atomic_folder.COPIES_MANIFEST, columns) as listed,
        ):
            ready = reader.read(images, partial(_make, plan=plan), jobs=jobs, ahead=2 * (jobs or reader.usable_cores()))
            for done, (image, made) in enumerate(ready, start=1):
                tree.check_apart(folder, [image.path], to_be="augmented")
                if isinstance(made, BadImageError):
                    skipped += 1
                    callbacks.skip(image.path, str(made))
                else:
                    named = augment_plan.named(image, made.format, made.draws, place=place, plan=plan)
                    for copy, content in zip(named, made.files, strict=True):
                        record = _record(copy, plan, folder)
                        if archived is not None:
                            archived.add(copy, record, content)
                            continue
                        check_place(copy.path)
                        _put(workshop, copy, content)
                        listed.write(_texts(record))
                    used, written = used + 1, written + len(named)
                callbacks.progress(done, total)
            if archived is not None:
                callbacks.phase("writing archives")
                for record in archived.write(workshop, check=check_place, progress=callbacks.progress):
                    listed.write(_texts(record))
        if not used and shard is None:
            raise CnnkitError("no image could be used; nothing written")
    seconds = time.perf_counter() - started
    return AugmentSummary(str(folder), used, written, skipped, round(seconds, 2), round(written / seconds, 1))


def check(images: Iterable[ImageFile], folder: str | Path, *, force: bool = False) -> None:
    """Check that copies can be written into a folder, before any other work.

    Raises:
        CnnkitError: As `write`; images are checked only if they are given as a sequence.
    """
    if isinstance(images, Sequence):
        tree.check_apart(folder, (image.path for image in images), to_be="augmented")
    atomic_folder.check(folder, force=force)


def sheet(
    images: Iterable[ImageFile], path: str | Path, config: AugmentConfig, *, skip: Skip = raise_skip
) -> Iterable[ImageFile]:
    """Draw a contact sheet: some of the images, each followed by its first copies.

    Args:
        images: The originals; the first ones are shown if the list is still being read.
        path: The PNG; not written for a shard without a usable image.
        config: Which copies, and of which shard; `force` as for `write`.
        skip: Called for every image that cannot be shown.

    Returns:
        All images.

    Raises:
        UsageError: As `write`, or the path does not end in .png.
        CnnkitError: No image can be used, except in a shard.
    """
    image_files.check_png(path, option="--sheet")
    if not config.force:  # otherwise `write` counts them
        images = augment_plan.checked(images)
    shard = shards.of(config.shard)
    if shard is not None:
        images = list(images)
        known: Sequence[ImageFile] = shard.share(images)
    else:
        known = images if isinstance(images, Sequence) else list(islice(images, image_grid.MOST_ROWS))
    chosen = image_grid.choose(known) if known else []
    plan = AugmentPlan.of(config)
    few = replace(plan, copies=min(plan.copies, image_grid.MOST_COPIES))
    rows = []
    for image, shown in reader.read(chosen, partial(_thumbnails, plan=few)):
        if isinstance(shown, BadImageError):
            skip(image.path, str(shown))
        else:
            rows.append(shown)
    if not rows and shard is not None:
        log.info("%s is not written: the shard has no image to show", path)
        return images
    if not rows:
        raise CnnkitError("no image could be used; nothing to show")
    image_grid.save(path, rows)
    if not isinstance(images, Sequence):
        log.info("%s shows the first %d images", path, len(chosen))
    elif len(chosen) < len(known):
        log.info("%s shows %d of %d images", path, len(chosen), len(known))
    if few.copies < plan.copies:
        log.info("%s shows %d of %d copies of each", path, few.copies, plan.copies)
    return images if isinstance(images, Sequence) else chain(known, images)


# ---------------------------------------------------------------- one image


def _prepared(original: Original, plan: AugmentPlan) -> Image.Image:
    return original.image if plan.square is None else Image.fromarray(preprocessing.prepare(original, plan.square))


def _copies(
    image: Image.Image, plan: AugmentPlan, draws: Sequence[AugmentParams], finish: Callable[[Image.Image], T]
) -> Iterator[T]:
    """Yield `finish(copy)` of each copy, one at a time, since copies of a large image need much memory.

    The reference to the image itself is dropped.
    """
    # Channel by channel in memory, which `augment` keeps: interleaving the channels takes as long as encoding a JPEG
    planes = np.stack([np.asarray(channel) for channel in image.split()])  # (3, H, W)
    pixels = torch.from_numpy(planes)[None].permute(0, 2, 3, 1)  # (1, H, W, 3)
    del image, planes
    for draw in draws:
        memory.hold(_BYTES_A_PIXEL * pixels.shape[1] * pixels.shape[2])
        copy = augment(pixels, [draw], fill=plan.augmentation.fill)[0].permute(2, 0, 1).numpy()
        changed = Image.merge("RGB", [Image.fromarray(channel) for channel in copy])
        del copy
        yield finish(changed)
        del changed


def _read(path: str, plan: AugmentPlan) -> Original:
    """Read an image to augment.

    Raises:
        BadImageError: As `decode.read`, or it is too large to be augmented at its own size.
    """
    if plan.square is None:
        width, height = decode.upright_size(path)
        if width * height > _MOST_PIXELS:
            raise BadImageError(
                f"too large to augment: {width:,} x {height:,}, at most {_MOST_PIXELS:,} pixels; give --size, or reduce it"
            )
        return decode.read(path)
    (original,) = decode.read_reduced(path, [preprocessing.enough(plan.square)])
    return original


def _make(path: str, *, plan: AugmentPlan) -> _Made:
    original = _read(path, plan)
    draws, file_format = plan.draws(original.fingerprint), original.format
    saving = augment_plan.saving(file_name(path), file_format, profile=original.profile)
    finish = partial(_encoded, saving=saving, grey=original.grey)
    image = _prepared(original, plan)
    del original
    kept = []
    if plan.keep:
        whole = plan.square is None and decode.box_of(path) is None
        kept.append(files.read_regular(path) if whole else finish(image))
    copies = _copies(image, plan, draws, finish)
    del image
    return _Made(file_format, draws, [*kept, *copies])


def _encoded(image: Image.Image, saving: Mapping[str, Any], *, grey: bool) -> bytes:
    file = io.BytesIO()
    if grey:  # its three channels are equal before and after
        image = image.convert("L")
    image.save(file, **saving)
    return file.getvalue()


def _thumbnails(path: str, *, plan: AugmentPlan) -> list[Image.Image]:
    original = _read(path, plan)
    image = _prepared(original, plan)
    copies = _copies(image, plan, plan.draws(original.fingerprint), image_grid.thumbnail)
    return [image_grid.thumbnail(image), *copies]


def _record(copy: PlannedCopy, plan: AugmentPlan, folder: Path) -> dict[str, Any]:
    return augment_plan.record(copy, plan.augmentation, source=manifest.seen_from(folder, copy.source.path))


def _texts(record: Mapping[str, Any]) -> list[str | None]:
    return [
        str(value).lower() if isinstance(value, bool) else None if value is None else str(value)
        for value in record.values()
    ]


# ---------------------------------------------------------------- the folder


def _put(workshop: Path, copy: PlannedCopy, content: bytes) -> None:
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
            f"{copy.source.path}: the name of its copy {copy.path} is too long; give the image a shorter one"
        ) from error
