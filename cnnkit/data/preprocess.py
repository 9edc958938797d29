"""The one way from a picture to the square that a network takes: of training, extraction, prediction and maps."""

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
        image = _resized_centre(image, preprocess, resample)
    return np.asarray(image, dtype=np.uint8)


def window(size: tuple[int, int], preprocess: Preprocess) -> tuple[float, float, float, float]:
    """Say which part of a picture becomes what the network takes.

    Args:
        size: Of the picture, (width, height).
        preprocess: What `prepare` does.

    Returns:
        left, top, right, bottom in pixels of the picture; of one that is padded, the margins lie outside of it.
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
    columns, rows = size[0] / scaled[0], size[1] / scaled[1]  # source pixels per resized pixel
    return left * columns, top * rows, (left + width) * columns, (top + height) * rows


def load(path: str | Path, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Read and prepare one file.

    Returns:
        Shape (size, size, 3), 0 to 255.

    Raises:
        BadPicture: As `images.load`.
    """
    return prepare(images.load(path), preprocess)


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


def _resized_centre(image: Image.Image, preprocess: Preprocess, resample: Image.Resampling) -> Image.Image:
    """Resize until the crop's surroundings are covered, and cut the centre out.

    Resizing the centre alone would save a third of the time, but Pillow keeps the bounds of a box as float32 and chooses the order of
    its two passes by the size of the outcome: every fortieth value would differ by one from what the whole picture gives.
    """
    scaled, width, height = _covering(image.size, preprocess), preprocess.width, preprocess.height
    left, top = _centred(scaled, preprocess)
    if max(scaled) <= _LONGEST * preprocess.resize:
        return image.resize(scaled, resample).crop((left, top, left + width, top + height))
    box = window(image.size, preprocess)
    # The last bits of a product must not put the box outside of the picture
    return image.resize(
        (width, height), resample, box=(box[0], box[1], min(box[2], image.width), min(box[3], image.height))
    )


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
