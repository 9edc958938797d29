"""Boxes as targets: the boxes of a training's images, and the whole images."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

from cnnkit.data import source
from cnnkit.data.source import ImageFile
from cnnkit.data.train_val import TrainValImages
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import box
from cnnkit.formats.box import Box

log = logging.getLogger("cnnkit")


def whole_image(image: ImageFile) -> ImageFile:
    """Return the image that a crop is from; any other image as it is."""
    path, found = box.divided(image.path)
    return image if found is None else dataclasses.replace(image, path=path)


def whole_images(images: Iterable[ImageFile]) -> Iterable[ImageFile]:
    """Return whole images in place of crops, for a network that finds the box itself; an image with several crops only once.

    Returns:
        A list of a sequence; otherwise an iterator, which knows only the crops so far.

    Raises:
        UsageError: Boxes are widened, which would have no effect.
    """
    if source.margin():
        raise UsageError("--margin widens crops, and a network that predicts a box takes whole images; drop it")
    found = _each_once(images)
    return list(found) if isinstance(images, Sequence) else found


def _each_once(images: Iterable[ImageFile]) -> Iterator[ImageFile]:
    known: set[str] = set()
    for image in images:
        whole = whole_image(image)
        if whole is image:
            yield image
        elif whole.path not in known:
            known.add(whole.path)
            yield whole


def boxes_of(images: Iterable[ImageFile]) -> dict[str, Box]:
    """Return the box of each image that has one, by the path of the whole image.

    Raises:
        CnnkitError: An image has two.
    """
    found: dict[str, Box] = {}
    for image in images:
        path, its = box.divided(image.path)
        if its is not None and found.setdefault(path, its) != its:
            raise CnnkitError(
                f"{path} has the boxes {found[path].text()} and {its.text()}; a network predicts one box for each image: keep one"
            )
    return found


def divided(data: TrainValImages) -> tuple[TrainValImages, Mapping[str, Box]]:
    """Divide crops into whole images and their boxes, and log how many images have none.

    Raises:
        CnnkitError: An image has two boxes, or no training image has one.
        UsageError: Boxes are widened.
    """
    if source.margin():
        raise UsageError("--margin widens crops, and --predict-box learns the boxes as they are; drop it")
    boxes = boxes_of([*data.train, *data.val])
    train, val = (tuple(map(whole_image, images)) for images in (data.train, data.val))
    missing = [sum(image.path not in boxes for image in images) for images in (train, val)]
    if missing[0] == len(train):
        raise CnnkitError(
            "--predict-box: no training image has a box; give a manifest with the column box, x,y,width,height in pixels of the upright "
            "image"
        )
    if any(missing):
        parts = [
            f"{count:,} of {len(images):,} {name} images"
            for count, images, name in zip(missing, (train, val), ("training", "validation"), strict=True)
            if count
        ]
        log.info("%s have no box: they are used for the classes only", " and ".join(parts))
    return dataclasses.replace(data, train=train, val=val), boxes
