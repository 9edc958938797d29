"""Augmented copies of pictures as files, with the manifest that says what made each.

    DIR/cat/1~01.jpg        copies of photos/cat/1.jpg
    DIR/cat/1~02.jpg
    DIR/augment.tsv         path label split group source copy, and the numbers of each copy; written last: its presence means complete

Everything is made in a hidden folder of DIR and takes its place when all of it is there: a run that fails leaves nothing behind.
"""

import contextlib
import io
import os
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cnnkit.data import contact_sheet, copies, preprocess, reader, tree
from cnnkit.data.augment import Draw
from cnnkit.data.copies import Copy, Original, Recipe
from cnnkit.data.reader import Progress, no_progress
from cnnkit.data.source import Picture
from cnnkit.engine.resample import augment
from cnnkit.engine.runner import Skip, raise_bad
from cnnkit.engine.torch_device import threads
from cnnkit.errors import BadPicture, CnnkitError, UsageError
from cnnkit.formats import manifest, tsv

MANIFEST = "augment.tsv"
_WORKSHOP = ".augmenting"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to; `per_second` counts copies, reading and writing included."""

    folder: str
    pictures: int
    copies: int
    skipped: int
    seconds: float
    per_second: float


@dataclass(frozen=True, slots=True)
class _Made:
    """A picture's copies as files: their bytes in the order of their numbers, the original's first where it is kept."""

    format: str
    draws: list[Draw]
    files: list[bytes]


def write(
    pictures: Iterable[Picture],
    folder: str | Path,
    recipe: Recipe,
    *,
    force: bool = False,
    jobs: int | None = None,
    skip: Skip = raise_bad,
    progress: Progress = no_progress,
) -> Summary:
    """Write copies of pictures, each class in its folder, and list them in `augment.tsv`.

    A copy's bytes follow from the picture's content, the recipe and the seed alone. Memory does not grow with the number of pictures.

    Args:
        pictures: The originals.
        folder: Made where it is missing, with its parents.
        recipe: Which copies.
        force: The folder may hold something, where an earlier run's copies are replaced; and parts that measure may be augmented.
        jobs: Threads that read, augment and encode.
        skip: Called for every picture that cannot be used.
        progress: Called after every picture.

    Raises:
        UsageError: A picture belongs to a part that measures.
        CnnkitError: The folder is not empty, or holds the pictures themselves; two copies would have one name; no picture can be used.
    """
    folder, started = Path(folder), time.perf_counter()
    pictures = copies.checked(pictures, force=force)
    tree.check_free(folder, force=force)
    earlier = _earlier(folder) if force else frozenset()
    place = copies.placing(pictures)
    total, used, written, skipped = len(pictures) if isinstance(pictures, Sized) else None, 0, 0, 0
    with _workshop(folder) as workshop, threads(1):  # each of our threads computes by itself
        with (workshop / MANIFEST).open("wb") as listed:
            listed.write(tsv.render(copies.columns(recipe.augmentation), []))
            ready = reader.read(
                pictures, partial(_make, recipe=recipe), jobs=jobs, ahead=2 * (jobs or reader.usable_cores())
            )
            for done, (picture, made) in enumerate(ready, start=1):
                _check_apart(folder, picture)
                if isinstance(made, BadPicture):
                    skipped += 1
                    skip(picture.path, str(made))
                else:
                    named = copies.named(picture, made.format, made.draws, place=place, recipe=recipe)
                    for copy, content in zip(named, made.files, strict=True):
                        _put(folder, workshop, copy, content, earlier)
                        listed.write(_line(copy, recipe, folder))
                    used, written = used + 1, written + len(named)
                progress(done, total)
        if not used:
            raise CnnkitError("no picture could be used; nothing written")
        _remove(folder, earlier)
        _move_up(workshop, folder)
    seconds = time.perf_counter() - started
    return Summary(str(folder), used, written, skipped, round(seconds, 2), round(written / seconds, 1))


def sheet(
    pictures: Iterable[Picture], path: str | Path, recipe: Recipe, *, force: bool = False, skip: Skip = raise_bad
) -> Iterable[Picture]:
    """Draw a contact sheet: some of the pictures, each with its first copies behind it.

    Args:
        pictures: The originals; of a list that is still being read, the first are shown.
        path: The PNG.
        recipe: Which copies.
        force: As `write`.
        skip: Called for every picture that cannot be shown.

    Returns:
        The pictures, all of them.

    Raises:
        UsageError: As `write`, or the path does not end in .png.
        CnnkitError: No picture can be used.
    """
    if Path(path).suffix.lower() != ".png":
        raise UsageError(f"--sheet {path}: a contact sheet is written to a .png file")
    pictures = copies.checked(pictures, force=force)
    known = pictures if isinstance(pictures, Sequence) else list(islice(pictures, contact_sheet.MOST_ROWS))
    few = replace(recipe, copies=min(recipe.copies, contact_sheet.MOST_COPIES))
    rows = []
    for picture, shown in reader.read(contact_sheet.choose(known), partial(_thumbnails, recipe=few)):
        if isinstance(shown, BadPicture):
            skip(picture.path, str(shown))
        else:
            rows.append(shown)
    if not rows:
        raise CnnkitError("no picture could be used; there is nothing to show")
    contact_sheet.save(path, rows)
    return pictures if isinstance(pictures, Sequence) else chain(known, pictures)


# ---------------------------------------------------------------- one picture


def _images(original: Original, recipe: Recipe) -> Iterator[Image.Image]:
    """Give the original, prepared where that is asked for, then its copies, one by one: a large picture's need much memory."""
    image = original.image
    if recipe.square is not None:
        image = Image.fromarray(preprocess.prepare(image, recipe.square))
    yield image
    pixels = torch.from_numpy(np.array(image))[None]  # (1, H, W, 3)
    for draw in recipe.draws(original.fingerprint):
        yield Image.fromarray(augment(pixels, [draw], fill=recipe.augmentation.fill)[0].numpy())


def _make(path: str, *, recipe: Recipe) -> _Made:
    original = copies.read(path)
    saving = copies.saving(os.path.basename(path), original.format)
    first, *others = (
        original.content if number == 0 and recipe.square is None else _encoded(image, saving)
        for number, image in enumerate(_images(original, recipe))
    )
    return _Made(original.format, recipe.draws(original.fingerprint), [first, *others] if recipe.keep else others)


def _encoded(image: Image.Image, saving: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    image.save(file, **saving)
    return file.getvalue()


def _thumbnails(path: str, *, recipe: Recipe) -> list[Image.Image]:
    return [contact_sheet.thumbnail(image) for image in _images(copies.read(path), recipe)]


def _line(copy: Copy, recipe: Recipe, folder: Path) -> bytes:
    record = copies.record(copy, recipe.augmentation, source=manifest.seen_from(folder, copy.source.path))
    fields = [
        str(value).lower() if isinstance(value, bool) else None if value is None else str(value)
        for value in record.values()
    ]
    return tsv.render([], [fields]).partition(b"\n")[2]


# ---------------------------------------------------------------- the folder


@contextlib.contextmanager
def _workshop(folder: Path) -> Generator[Path]:
    """Make a hidden folder to work in, and with it the folder itself; what was made is gone again should the work not come to its end."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    workshop = folder / _WORKSHOP
    shutil.rmtree(workshop, ignore_errors=True)  # of a run that was killed
    workshop.mkdir()
    try:
        yield workshop
    except BaseException:
        shutil.rmtree(workshop, ignore_errors=True)
        for each in missing:
            with contextlib.suppress(OSError):
                each.rmdir()
        raise
    shutil.rmtree(workshop)


def _check_apart(folder: Path, picture: Picture) -> None:
    real = os.path.realpath(folder)
    below = os.path.dirname(picture.path)
    if os.path.commonpath([real, os.path.realpath(below)]) == real:
        raise CnnkitError(
            f"{folder} holds the pictures that are to be augmented ({below or os.curdir}); choose another folder"
        )


def _put(folder: Path, workshop: Path, copy: Copy, content: bytes, earlier: frozenset[str]) -> None:
    if copy.path not in earlier and os.path.lexists(folder / copy.path):
        raise CnnkitError(f"{folder / copy.path} is in the way; move it away or choose another folder")
    target = workshop / copy.path
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise CnnkitError(
            f"{copy.source.path} and another picture would both become {copy.path}; name one of them otherwise, or leave it out"
        ) from None


def _earlier(folder: Path) -> frozenset[str]:
    """Find what an earlier run left and another one may replace: copies, and originals that still lie where they were copied from."""
    listed = folder / MANIFEST
    if not listed.is_file():
        return frozenset()
    with listed.open("rb") as file:
        rows = list(tsv.parse(file, name=str(listed), required=["path", "source", "copy"]))
    return frozenset(
        row["path"]
        for row in rows
        if os.pardir
        not in row["path"].split("/")  # what lies outside of the folder is none of ours, whoever wrote that
        and not os.path.isabs(row["path"])
        and (row["copy"] != "0" or (folder / row["source"]).exists())
    )


def _remove(folder: Path, earlier: frozenset[str]) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in earlier:
        (folder / path).unlink(missing_ok=True)
    for below in sorted({above for path in earlier for above in Path(path).parents[:-1]}, reverse=True):
        with contextlib.suppress(OSError):  # something else is in it, and stays
            (folder / below).rmdir()


def _move_up(workshop: Path, folder: Path) -> None:
    """Give every file its place, the manifest last."""
    for below, _, names in os.walk(workshop):
        target = folder / Path(below).relative_to(workshop)
        target.mkdir(exist_ok=True)
        for name in names:
            if Path(below, name) != workshop / MANIFEST:
                Path(below, name).replace(target / name)
    (workshop / MANIFEST).replace(folder / MANIFEST)
