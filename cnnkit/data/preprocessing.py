"""Preprocessing from an image to the network's input, the same for training, extraction, prediction and heat maps."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit.choices import Decoding, Fit, Interpolation
from cnnkit.data import decode
from cnnkit.data.decode import Decoded, Enough
from cnnkit.errors import UsageError
from cnnkit.formats.header import Preprocess

_FILTERS = {
    Interpolation.NEAREST: Image.Resampling.NEAREST,
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
    Interpolation.LANCZOS: Image.Resampling.LANCZOS,
}

#: An image with sides in a larger ratio is not resized as a whole: a strip one pixel wide would fill the memory.
_LONGEST = 16

#: A JPEG may be reduced while it is decoded to no less than this multiple of the size to which it is resized.
_REDUCED = 2


def prepare(image: Image.Image | Decoded, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Resize and crop an image; scaling, mean and standard deviation are applied inside the network.

    The result of `crop` is bit-identical to that of torchvision's `Resize(resize, antialias=True)` and `CenterCrop(size)` (nearly
    so for an image that is more than 16 times as long as wide, or that was reduced while it was decoded).

    Args:
        image: Any size, mode RGB.
        preprocess: The network's preprocessing.

    Returns:
        Shape (height, width, 3), 0 to 255, C-contiguous; height and width are `size`, or the width is `across`.
    """
    image = _decoded(image)
    width, height = preprocess.width, preprocess.height
    if preprocess.fit is Fit.SQUASH:
        square = _resized(image, (width, height), preprocess)
    elif preprocess.fit is Fit.PAD:
        inside = _inside(image.size, width, height)
        square = Image.new("RGB", (width, height), tuple(round(255 * value) for value in preprocess.mean))
        square.paste(_resized(image, inside, preprocess), ((width - inside[0]) // 2, (height - inside[1]) // 2))
    else:
        scaled = _covering(image.size, preprocess)
        (square,) = _cut(image, preprocess, scaled, [_centred(scaled, preprocess)])
    return np.asarray(square, dtype=np.uint8)


def prepare_with_margin(image: Image.Image | Decoded, preprocess: Preprocess) -> tuple[NDArray[np.uint8], int, int]:
    """Prepare an image together with the margin that `fit crop` removes, so that `prepare` of the result gives the same pixels again.

    Args:
        image: As `prepare`.
        preprocess: As `prepare`.

    Returns:
        The pixels; and the top and left of the result of `prepare` in them. Without a margin, they are that result.
    """
    if preprocess.fit is not Fit.CROP or preprocess.resize <= preprocess.height:
        return prepare(image, preprocess), 0, 0
    image = _decoded(image)
    width, height = preprocess.width, preprocess.height
    across = round(preprocess.resize * width / height)
    around = replace(preprocess, size=preprocess.resize, across=None if across == preprocess.resize else across)
    scaled = _covering(image.size, preprocess)
    inner, outer = _centred((around.width, around.height), preprocess), _centred(scaled, preprocess)
    left, top = inner
    (cut,) = _cut(image, around, scaled, [(outer[0] - left, outer[1] - top)])
    pixels = np.array(cut, dtype=np.uint8)
    if max(scaled) > _LONGEST * preprocess.resize:  # the two crops are resized from different boxes
        pixels[top : top + height, left : left + width] = prepare(image, preprocess)
    return pixels, top, left


def enough(preprocess: Preprocess) -> Enough:
    """Return what size of an image is enough for its preprocessing: twice the size to which it is resized.

    Then a reduced image's missing frequencies are far above those that the resized image can have. With `decoding full`, and where
    single pixels are picked (nearest), nothing but the image itself is enough.
    """
    if preprocess.decoding is Decoding.FULL or preprocess.interpolation is Interpolation.NEAREST:
        return lambda size: None

    def least(size: tuple[int, int]) -> tuple[int, int]:
        if preprocess.fit is Fit.SQUASH:
            scaled = preprocess.width, preprocess.height
        elif preprocess.fit is Fit.PAD:
            scaled = _inside(size, preprocess.width, preprocess.height)
        else:
            scaled = _covering(size, preprocess)
        return _REDUCED * scaled[0], _REDUCED * scaled[1]

    return least


def window(size: tuple[int, int], preprocess: Preprocess) -> tuple[float, float, float, float]:
    """Return the region of an image that becomes the network's input.

    Args:
        size: Of the image, (width, height).
        preprocess: As `prepare`.

    Returns:
        left, top, right, bottom in pixels of the image; with padding, the margins are outside of the image.
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


def crops(image: Image.Image | Decoded, preprocess: Preprocess, *, mirrored: bool = False) -> list[NDArray[np.uint8]]:
    """Resize an image as `fit crop` does, and crop its centre and its corners.

    Args:
        image: Any size, mode RGB.
        preprocess: The network's preprocessing; its `fit` is crop.
        mirrored: Also crop the mirrored image.

    Returns:
        Five or ten crops, (height, width, 3) each: centre (the result of `prepare`), top left, top right, bottom left, bottom right.
        Except for the order they are those of torchvision's `Resize(resize, antialias=True)` and `FiveCrop(size)` or `TenCrop(size)`.
    """
    image = _decoded(image)
    scaled, width = _covering(image.size, preprocess), preprocess.width
    right, bottom = scaled[0] - width, scaled[1] - preprocess.height
    places = [_centred(scaled, preprocess), (0, 0), (right, 0), (0, bottom), (right, bottom)]
    turned = [(scaled[0] - width - left, top) for left, top in places] if mirrored else []
    found = [np.asarray(crop, dtype=np.uint8) for crop in _cut(image, preprocess, scaled, [*places, *turned])]
    return found[:5] + [crop[:, ::-1] for crop in found[5:]]


def load(path: str | Path, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Read and preprocess one file.

    Returns:
        Shape (size, size, 3), 0 to 255.

    Raises:
        BadImageError: As `decode.load`.
    """
    (image,) = decode.load_reduced(path, [enough(preprocess)])
    return prepare(image, preprocess)


def _decoded(image: Image.Image | Decoded) -> Decoded:
    return image if isinstance(image, Decoded) else Decoded(image, image.size)


def _resized(
    image: Decoded,
    size: tuple[int, int],
    preprocess: Preprocess,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Resize an image, or a box of it in pixels of the file, to a (width, height).

    A reduction's last row and column are only partly within the image: 1001 pixels are 125 and an eighth.
    """
    if box is None and image.factor > 1:
        box = 0.0, 0.0, float(image.size[0]), float(image.size[1])
    if box is not None:
        x, y = image.origin
        left, top, right, bottom = (
            (side + start) / image.factor for side, start in zip(box, (x, y, x, y), strict=True)
        )
        # Rounding errors must not put a box outside of the image
        box = left, top, min(right, image.image.width), min(bottom, image.image.height)
    return image.image.resize(size, _FILTERS[preprocess.interpolation], box=box)


def _inside(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """Scale (width, height) to fit into a frame; one side is the frame's, the other is rounded down to a whole pixel."""
    if size[0] * height >= size[1] * width:
        return width, max(1, int(width * size[1] / size[0]))
    return max(1, int(height * size[0] / size[1])), height


def _covering(size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Scale (width, height) to cover a rectangle with the height `resize` and the aspect ratio of the network's input."""
    height = preprocess.resize
    width = round(height * preprocess.width / preprocess.height)
    if size[0] * height <= size[1] * width:
        return width, max(height, int(width * size[1] / size[0]))
    return max(width, int(height * size[0] / size[1])), height


def _centred(scaled: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Return left and top of the centre crop, rounded half to even, as in torchvision."""
    return round((scaled[0] - preprocess.width) / 2.0), round((scaled[1] - preprocess.height) / 2.0)


def _cut(
    image: Decoded, preprocess: Preprocess, scaled: tuple[int, int], places: Sequence[tuple[int, int]]
) -> list[Image.Image]:
    """Resize an image to `scaled`, and return the crops at these places, each given by its left and top.

    Resizing only the region of a crop would save a third of the time, but Pillow stores the bounds of a box as float32 and chooses
    the order of its two passes by the size of the result: one value in forty would differ by one from a crop of the resized image.
    """
    width, height = preprocess.width, preprocess.height
    if max(scaled) <= _LONGEST * preprocess.resize:
        whole = _resized(image, scaled, preprocess)
        return [whole.crop((left, top, left + width, top + height)) for left, top in places]
    boxes = [_from_scaled(image.size, scaled, left, top, preprocess) for left, top in places]
    return [_resized(image, (width, height), preprocess, box) for box in boxes]


def _from_scaled(
    size: tuple[int, int], scaled: tuple[int, int], left: int, top: int, preprocess: Preprocess
) -> tuple[float, float, float, float]:
    """Map a crop of the resized image back to the original: left, top, right, bottom."""
    columns, rows = size[0] / scaled[0], size[1] / scaled[1]  # source pixels per resized pixel
    return left * columns, top * rows, (left + preprocess.width) * columns, (top + preprocess.height) * rows


def sides(text: str) -> tuple[int, int]:
    """Parse `448` or `320x480`: (height, width).

    Raises:
        UsageError: It is neither.
    """
    words = text.lower().split("x")
    if len(words) > 2 or not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise UsageError(
            f'--size "{text}" is not a size; give the side of a square, such as 448, or HEIGHTxWIDTH, such as 320x480'
        )
    return int(words[0]), int(words[-1])


def with_size(
    preprocess: Preprocess,
    *,
    size: int | None = None,
    resize: int | None = None,
    fit: Fit | None = None,
    decoding: Decoding | None = None,
) -> Preprocess:
    """Change the size, keeping the share of the image inside the centre crop.

    Args:
        preprocess: The network's own.
        size: Side of the square in pixels.
        resize: Shorter side before the crop in pixels; by default in proportion.
        fit: How the image is made square; by default the network's own.
        decoding: How large photographs are decoded; by default the network's own.

    Raises:
        UsageError: The crop would be larger than the resized image.
    """
    new_fit = fit or preprocess.fit
    if resize is not None and new_fit is not Fit.CROP:
        raise UsageError(f"--resize needs --fit crop; --fit {new_fit} resizes directly to --size")
    new_size = size or preprocess.size
    new_resize = resize or round(preprocess.resize * new_size / preprocess.size)
    if new_resize < new_size:
        raise UsageError(f"--resize {new_resize} is smaller than the crop of {new_size}; give at least {new_size}")
    return replace(
        preprocess,
        fit=new_fit,
        resize=new_resize if new_fit is Fit.CROP else new_size,
        size=new_size,
        decoding=decoding or preprocess.decoding,
    )


def shown_as(preprocess: Preprocess, *, size: str | None, fit: Fit | None = None) -> Preprocess:
    """Change the size of a network's input, as `with_size` does; also to a rectangle.

    Args:
        preprocess: The network's own.
        size: As in `sides`; by default the network's own.
        fit: As in `with_size`.

    Raises:
        UsageError: It is not a size.
    """
    height, width = sides(size) if size is not None else (preprocess.height, preprocess.width)
    return replace(with_size(preprocess, size=height, fit=fit), across=None if width == height else width)


def untouched(preprocess: Preprocess, size: tuple[int, int]) -> Preprocess:
    """Return the preprocessing that leaves an image of some (width, height) as it is: resized to its own size."""
    width, height = size
    return replace(preprocess, fit=Fit.SQUASH, size=height, resize=height, across=None if width == height else width)
