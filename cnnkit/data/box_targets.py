"""Boxes as targets: the boxes of a training's images, and the whole images."""

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence

from cnnkit.data.source import ImageFile
from cnnkit.data.train_val import TrainValImages
from cnnkit.errors import CnnkitError
from cnnkit.formats import box
from cnnkit.formats.box import Box

log = logging.getLogger("cnnkit")


def whole_image(image: ImageFile) -> ImageFile:
    """Return the image that a crop is from; any other image as it is."""
    path, found = box.divided(image.path)
    return image if found is None else dataclasses.replace(image, path=path)


def whole_images(images: Iterable[ImageFile]) -> Iterable[ImageFile]:
    """Return the whole images of crops, for a network that was trained on them and finds the box itself; a sequence for a sequence."""
    whole = map(whole_image, images)
    return list(whole) if isinstance(images, Sequence) else whole


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
    """
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
