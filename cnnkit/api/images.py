"""The images that a caller passes in: paths, folders, manifests, Pillow images and arrays, as one list of images to read."""

import logging
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit.api.calls import of_caller
from cnnkit.api.files import find_images
from cnnkit.callbacks import Callbacks, raise_skip
from cnnkit.data import in_memory, source
from cnnkit.data.source import ImageFile
from cnnkit.errors import UsageError

log = logging.getLogger("cnnkit")

#: One image: the path of a file, an image of `find_images`, a Pillow image, or pixels as uint8 (H, W, 3) or (H, W). A path may also be that
#: of a folder or of a manifest: then it stands for all images in it.
ImageLike = str | os.PathLike[str] | ImageFile | Image.Image | NDArray[Any]

_GIVE = "give a path, a Pillow image, or an array of uint8 (H, W, 3)"

#: What to do with an image that cannot be used; a function gets its path and the reason.
Errors = Literal["raise", "skip"] | Callable[[str, str], None]


def image_files(
    images: ImageLike | Iterable[ImageLike], *, split: str | None = None
) -> list[ImageFile] | Iterator[ImageFile]:
    """Find the images to read, in order.

    Args:
        images: One; a collection, whose images are decoded when they are needed, in threads; or an iterator, whose images are taken and
            decoded one by one, so that its generator may close or change each of them afterwards.
        split: Use only this split of folders and manifests.

    Returns:
        A list; of an iterator, an iterator.

    Raises:
        UsageError: Something else than an image, or an array of another shape or type.
        CnnkitError: A path does not exist, or a folder holds no image.
    """
    found = iterate(images, split=split)
    return [*found] if _is_one(images) or isinstance(images, Collection) else found


def iterate(images: ImageLike | Iterable[ImageLike], *, split: str | None = None) -> Iterator[ImageFile]:
    """Yield images to read as they are needed, as `image_files` does."""
    if _is_one(images):
        images = [images]  # type: ignore[list-item] # an array of two or three axes is one image
    if not isinstance(images, Iterable):
        raise UsageError(f"{type(images).__name__} is not an image; {_GIVE}")
    stays = isinstance(images, Collection)
    if stays and all(isinstance(each, str | os.PathLike) for each in of_caller(images)):
        yield from find_images(images, split=split)  # type: ignore[arg-type] # together: one search, one notice
        return
    locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
    for number, image in enumerate(of_caller(images)):
        if isinstance(image, str | os.PathLike):
            yield from find_images(image, split=split)
        elif isinstance(image, ImageFile):
            yield image
        elif isinstance(image, Image.Image):
            name = str(getattr(image, "filename", "")) or source.name_in_memory(number)
            given = in_memory.from_pillow(image, name=name, lock=locks[id(image)] if stays else None)
            yield given if stays else in_memory.detached(given)
        elif isinstance(image, np.ndarray):
            given = in_memory.from_array(image, name=source.name_in_memory(number))
            yield given if stays else in_memory.detached(given)
        else:
            raise UsageError(f"{source.name_in_memory(number)}: {type(image).__name__} is not an image; {_GIVE}")


def _is_one(images: object) -> bool:
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    return isinstance(images, str | os.PathLike | ImageFile | Image.Image)


def callbacks(errors: Errors, *, progress: Callable[[int, int | None], None] | None = None) -> Callbacks:
    """Make the callbacks of a call: an image that cannot be used is an error, or logged and skipped, or passed to a function and skipped.

    Raises:
        UsageError: `errors` is none of these.
    """
    if callable(errors):
        skip = errors
    elif errors not in ("raise", "skip"):
        raise UsageError(f'errors="{errors}": give raise or skip, or a function of path and reason')
    else:
        skip = raise_skip if errors == "raise" else _log_skipped
    return Callbacks(skip=skip) if progress is None else Callbacks(skip=skip, progress=progress)


def _log_skipped(path: str, reason: str) -> None:
    log.warning("%s: %s; skipped", path, reason)
