"""The one way from an image to the square that a network takes: of training, extraction, prediction and maps."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit.choices import Fit, Interpolation
from cnnkit.data import decode
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
    """Resize and crop an image; scaling, mean and deviation are applied inside the network.

    `crop` gives what torchvision's `Resize(resize, antialias=True)` and `CenterCrop(size)` give on the same image, to the bit (of an
    image that is more than 16 times as long as wide, nearly to the bit).

    Args:
        image: Any size, mode RGB.
        preprocess: What to do.

    Returns:
        Shape (height, width, 3), 0 to 255, C-contiguous; both are `size` unless `across` says otherwise.
    """
    width, height, resample = preprocess.width, preprocess.height, _FILTERS[preprocess.interpolation]
    if preprocess.fit is Fit.SQUASH:
        image = image.resize((width, height), resample)
    elif preprocess.fit is Fit.PAD:
        inside = _inside(image.size, width, height)
        canvas = Image.new("RGB", (width, height), tuple(round(255 * value) for value in preprocess.mean))
        canvas.paste(image.resize(inside, resample), ((width - inside[0]) // 2, (height - inside[1]) // 2))
        image = canvas
    else:
        scaled = _covering(image.size, preprocess)
        (image,) = _cut(image, preprocess, scaled, [_centred(scaled, preprocess)])
    return np.asarray(image, dtype=np.uint8)


def window(size: tuple[int, int], preprocess: Preprocess) -> tuple[float, float, float, float]:
    """Give the part of an image that becomes what the network takes.

    Args:
        size: Of the image, (width, height).
        preprocess: What `prepare` does.

    Returns:
        left, top, right, bottom in pixels of the image; of one that is padded, the margins lie outside of it.
    """
    width, height = preprocess.width, preprocess.height
    if preprocess.fit is Fit.SQUASH:
        return 0.0, 0.0, float(size[0]), float(size[1])
    if preprocess.fit is Fit.PAD:
        scaled = _inside(size, width, height)
        left, top = -((width - scaled[0]) // 2), -((height - scaled[1]) // 2)
    else:
        scaled = _covering(size, preprocess)
        left, top = _centred(scaled, preprocess)
    return _from_scaled(size, scaled, left, top, preprocess)


def crops(image: Image.Image, preprocess: Preprocess, *, mirrored: bool = False) -> list[NDArray[np.uint8]]:
    """Resize an image as `fit crop` has it, and cut out its centre and its corners.

    Args:
        image: Any size, mode RGB.
        preprocess: What to do; its `fit` is crop.
        mirrored: Do the same with the resized image's mirroring, too.

    Returns:
        Five or ten, (height, width, 3) each: the centre, which is what `prepare` gives; top left, top right, bottom left, bottom right.
        Apart from the centre's place among them they are what torchvision's `Resize(resize, antialias=True)` and `FiveCrop(size)`, or
        `TenCrop(size)`, give on the same image.
    """
    scaled, width = _covering(image.size, preprocess), preprocess.width
    right, bottom = scaled[0] - width, scaled[1] - preprocess.height
    places = [_centred(scaled, preprocess), (0, 0), (right, 0), (0, bottom), (right, bottom)]
    turned = [(scaled[0] - width - left, top) for left, top in places] if mirrored else []
    splits = [np.asarray(split, dtype=np.uint8) for split in _cut(image, preprocess, scaled, [*places, *turned])]
    return splits[:5] + [split[:, ::-1] for split in splits[5:]]


def load(path: str | Path, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Read and prepare one file.

    Returns:
        Shape (size, size, 3), 0 to 255.

    Raises:
        BadImageError: As `decode.load`.
    """
    return prepare(decode.load(path), preprocess)


def _inside(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """Scale (width, height) to fit into a frame; one side is the frame's, the other is cut down to a whole pixel."""
    if size[0] * height >= size[1] * width:
        return width, max(1, int(width * size[1] / size[0]))
    return max(1, int(height * size[0] / size[1])), height


def _covering(size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Scale (width, height) so that it covers `resize` along the height, and in proportion along the width."""
    height = preprocess.resize
    width = round(height * preprocess.width / preprocess.height)
    if size[0] * height <= size[1] * width:
        return width, max(height, int(width * size[1] / size[0]))
    return max(width, int(height * size[0] / size[1])), height


def _centred(scaled: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Place the crop: left and top, half to even, as torchvision rounds."""
    return round((scaled[0] - preprocess.width) / 2.0), round((scaled[1] - preprocess.height) / 2.0)


def _cut(
    image: Image.Image, preprocess: Preprocess, scaled: tuple[int, int], places: Sequence[tuple[int, int]]
) -> list[Image.Image]:
    """Resize until the crops' surroundings are covered, and cut them out, each given by its left and top.

    Resizing a crop alone would save a third of the time, but Pillow keeps the bounds of a box as float32 and chooses the order of
    its two passes by the size of the outcome: every fortieth value would differ by one from what the whole image gives.
    """
    resample, width, height = _FILTERS[preprocess.interpolation], preprocess.width, preprocess.height
    if max(scaled) <= _LONGEST * preprocess.resize:
        whole = image.resize(scaled, resample)
        return [whole.crop((left, top, left + width, top + height)) for left, top in places]
    boxes = [_from_scaled(image.size, scaled, left, top, preprocess) for left, top in places]
    # The last bits of a product must not put a box outside of the image
    bounds = [(box[0], box[1], min(box[2], image.width), min(box[3], image.height)) for box in boxes]
    return [image.resize((width, height), resample, box=box) for box in bounds]


def _from_scaled(
    size: tuple[int, int], scaled: tuple[int, int], left: int, top: int, preprocess: Preprocess
) -> tuple[float, float, float, float]:
    """Say where in an image of some size a crop of its resized form comes from: left, top, right, bottom."""
    columns, rows = size[0] / scaled[0], size[1] / scaled[1]  # source pixels per resized pixel
    return left * columns, top * rows, (left + preprocess.width) * columns, (top + preprocess.height) * rows


def sides(text: str) -> tuple[int, int]:
    """Read `448` or `320x480`: (height, width).

    Raises:
        UsageError: It is neither.
    """
    words = text.lower().split("x")
    if len(words) > 2 or not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise UsageError(
            f'--size "{text}" is no size; give the side of a square, as in 448, or HEIGHTxWIDTH, as in 320x480'
        )
    return int(words[0]), int(words[-1])


def with_size(
    preprocess: Preprocess, *, size: int | None = None, resize: int | None = None, fit: Fit | None = None
) -> Preprocess:
    """Change the size, keeping the share of the image that the centre crop sees.

    Args:
        preprocess: The network's own.
        size: Pixels of the square.
        resize: Pixels of the shorter side before the crop; by default in proportion.
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


def shown_as(preprocess: Preprocess, *, size: str | None, fit: Fit | None = None) -> Preprocess:
    """Change what a network is shown, as `with_size` does; also to a rectangle.

    Args:
        preprocess: The network's own.
        size: As `sides` reads it; by default its own.
        fit: Another way to get there.

    Raises:
        UsageError: It is no size.
    """
    height, width = sides(size) if size is not None else (preprocess.height, preprocess.width)
    return replace(with_size(preprocess, size=height, fit=fit), across=None if width == height else width)


def untouched(preprocess: Preprocess, size: tuple[int, int]) -> Preprocess:
    """Say how an image of some (width, height) is shown whole, undistorted and in its own size: it is resized to what it is."""
    width, height = size
    return replace(preprocess, fit=Fit.SQUASH, size=height, resize=height, across=None if width == height else width)
