"""Images that are in memory already, and go the same way as those in files: Pillow's, and arrays of pixels."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit.data import decode
from cnnkit.data.decode import Decoded, Enough, Original
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError, UsageError


@dataclass(frozen=True, slots=True)
class MemoryImage(ImageFile):
    """An image in memory; `path` is its name in messages, `image` is upright RGB or the reason why it cannot be used."""

    image: Image.Image | BadImageError = field(kw_only=True, compare=False, repr=False)


def from_pillow(image: Image.Image, *, name: str) -> MemoryImage:
    """Convert an image as `decode.load` does: turned the way up that its EXIF says, RGB.

    Args:
        image: In any mode; one that was opened from a file need not be decoded yet.
        name: Its name in messages and results.
    """
    try:
        image.load()
        return MemoryImage(name, image=decode.upright_rgb(image))
    except BadImageError as error:
        return MemoryImage(name, image=error)
    except Exception as error:  # decoders raise everything
        return MemoryImage(name, image=BadImageError(decode.reason(name, error)))


def from_array(pixels: NDArray[np.uint8], *, name: str) -> MemoryImage:
    """Take pixels for an image.

    Args:
        pixels: uint8, RGB (H, W, 3), RGBA (H, W, 4) or grey (H, W).
        name: Its name in messages and results.

    Raises:
        UsageError: Another shape or type.
    """
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise UsageError(
            f"{name}: an array of {pixels.dtype}, shape {pixels.shape}; give uint8 from 0 to 255, (H, W, 3) or (H, W)"
        )
    if not pixels.size:
        raise UsageError(f"{name}: an array of shape {pixels.shape} has no pixels")
    return from_pillow(Image.fromarray(np.ascontiguousarray(pixels)), name=name)


def load(image: ImageFile, enough: Sequence[Enough]) -> list[Decoded]:
    """Read an image as RGB, upright, as `decode.load_reduced` does; one in memory is whole.

    Raises:
        BadImageError: It cannot be used.
    """
    if isinstance(image, MemoryImage):
        whole = _usable(image)
        return [Decoded(whole, whole.size)] * len(enough)
    return decode.load_reduced(image.path, enough)


def load_whole(image: ImageFile) -> Image.Image:
    """Read an image as RGB, upright, as `decode.load` does.

    Raises:
        BadImageError: It cannot be used.
    """
    return _usable(image) if isinstance(image, MemoryImage) else decode.load(image.path)


def upright_size(image: ImageFile) -> tuple[int, int]:
    """Return the width and height of an image, as `decode.upright_size` does.

    Raises:
        BadImageError: It cannot be used.
    """
    return _usable(image).size if isinstance(image, MemoryImage) else decode.upright_size(image.path)


def read(image: ImageFile, enough: Sequence[Enough]) -> list[Original]:
    """Read an image and what identifies it, as `decode.read_reduced` does; in memory, that is its pixels.

    Raises:
        BadImageError: It cannot be used.
    """
    if not isinstance(image, MemoryImage):
        return decode.read_reduced(image.path, enough)
    usable = _usable(image)
    fingerprint = hashlib.sha256(repr(usable.size).encode() + usable.tobytes()).hexdigest()
    original = Original(usable, usable.size, fingerprint=fingerprint, format="PNG", grey=False, profile=None)
    return [original] * len(enough)


def _usable(image: MemoryImage) -> Image.Image:
    if isinstance(image.image, BadImageError):
        raise BadImageError(str(image.image))
    return image.image
