"""The one way from a picture to the square that a network takes. Training, extraction, prediction and maps all go through it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit.choices import Fit, Interpolation
from cnnkit.data import images
from cnnkit.errors import UsageError
from cnnkit.formats.header import Preprocess

_FILTERS = {
    Interpolation.NEAREST: Image.Resampling.NEAREST,
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
    Interpolation.LANCZOS: Image.Resampling.LANCZOS,
}

#: A side that would become this many times as long as the other is not resized whole: a strip of a pixel's width would fill the memory.
_LONGEST = 16


def prepare(image: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Resize and crop a picture; scaling, mean and deviation are applied inside the network.

    `crop` gives what torchvision's `Resize(resize, antialias=True)` and `CenterCrop(size)` give on the same image, to the bit (of a
    picture that is more than 16 times as long as wide, nearly to the bit).

    Args:
        image: Any size, mode RGB.
        preprocess: What to do.

    Returns:
        Shape (size, size, 3), 0 to 255, C-contiguous.
    """
    size, resample = preprocess.size, _FILTERS[preprocess.interpolation]
    if preprocess.fit is Fit.SQUASH:
        image = image.resize((size, size), resample)
    elif preprocess.fit is Fit.PAD:
        width, height = _scaled(image.size, max(image.size), size)
        canvas = Image.new("RGB", (size, size), tuple(round(255 * value) for value in preprocess.mean))
        canvas.paste(image.resize((width, height), resample), ((size - width) // 2, (size - height) // 2))
        image = canvas
    else:
        image = _resized_centre(image, preprocess.resize, size, resample)
    return np.asarray(image, dtype=np.uint8)


def load(path: str | Path, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Read and prepare one file.

    Returns:
        Shape (size, size, 3), 0 to 255.

    Raises:
        BadPicture: As `images.load`.
    """
    return prepare(images.load(path), preprocess)


def _scaled(size: tuple[int, int], side: int, target: int) -> tuple[int, int]:
    """Scale (width, height) so that `side`, one of the two, becomes `target`; the other is cut down to a whole pixel."""
    width, height = size
    return (
        target if width == side else max(1, int(target * width / side)),
        target if height == side else max(1, int(target * height / side)),
    )


def _resized_centre(image: Image.Image, resize: int, size: int, resample: Image.Resampling) -> Image.Image:
    """Resize the shorter side and cut the centre out.

    Resizing the centre alone would save a third of the time, but Pillow keeps the bounds of a box as float32 and chooses the order of
    its two passes by the size of the outcome: every fortieth value would differ by one from what the whole picture gives.
    """
    width, height = _scaled(image.size, min(image.size), resize)
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)  # half to even, as torchvision rounds
    if max(width, height) <= _LONGEST * resize:
        return image.resize((width, height), resample).crop((left, top, left + size, top + size))
    columns, rows = image.width / width, image.height / height  # source pixels per resized pixel
    box = (left * columns, top * rows, (left + size) * columns, (top + size) * rows)
    # The last bits of a product must not put the box outside of the picture
    return image.resize(
        (size, size), resample, box=(box[0], box[1], min(box[2], image.width), min(box[3], image.height))
    )


def with_size(
    preprocess: Preprocess, *, size: int | None = None, resize: int | None = None, fit: Fit | None = None
) -> Preprocess:
    """Change the size, keeping the share of the picture that the centre crop sees.

    Args:
        preprocess: The network's own.
        size: Pixels of the square.
        resize: Pixels of the shorter side before the crop; in proportion unless said.
        fit: Another way to make a square.

    Raises:
        UsageError: The crop would be larger than what it is cut from.
    """
    new_fit = fit or preprocess.fit
    if resize is not None and new_fit is not Fit.CROP:
        raise UsageError(f"--resize goes with --fit crop; {new_fit} scales to --size at once")
    new_size = size or preprocess.size
    new_resize = resize or round(preprocess.resize * new_size / preprocess.size)
    if new_resize < new_size:
        raise UsageError(f"--resize {new_resize} is smaller than the crop of {new_size}; give at least {new_size}")
    return replace(preprocess, fit=new_fit, resize=new_resize if new_fit is Fit.CROP else new_size, size=new_size)
