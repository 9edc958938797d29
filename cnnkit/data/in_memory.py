"""Images that are in memory already, and go the same way as those in files: Pillow's, and arrays of pixels."""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit.data import decode, memory
from cnnkit.data.decode import Decoded, Enough, Original
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError, UsageError


@dataclass(frozen=True, slots=True)
class MemoryImage(ImageFile):
    """An image in memory; `path` is its name in messages. It is decoded and converted whenever it is read.

    `lock` protects a Pillow image that is listed several times: two threads must not decode it at once.
    """

    source: Image.Image | NDArray[np.uint8] | BadImageError = field(kw_only=True, compare=False, repr=False)
    lock: threading.Lock = field(kw_only=True, compare=False, repr=False, default_factory=threading.Lock)


def from_pillow(image: Image.Image, *, name: str, lock: "threading.Lock | None" = None) -> MemoryImage:
    """Take an image of Pillow, which is read as `decode.load` reads a file: turned the way up that its EXIF says, RGB.

    Args:
        image: In any mode; one that was opened from a file need not be decoded yet.
        name: Its name in messages and results.
        lock: The same one for the same image.
    """
    return MemoryImage(name, source=image, lock=lock or threading.Lock())


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
    return MemoryImage(name, source=pixels)


def detached(image: MemoryImage) -> MemoryImage:
    """Decode an image now, so that its caller may change or close it afterwards."""
    try:
        decoded = _usable(image)
    except BadImageError as error:
        return replace(image, source=error)
    return replace(image, source=decoded.copy() if decoded is image.source else decoded)


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
    if not isinstance(image, MemoryImage):
        return decode.upright_size(image.path)
    if isinstance(image.source, np.ndarray):
        return image.source.shape[1], image.source.shape[0]
    return _usable(image).size


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
    if isinstance(image.source, BadImageError):
        raise BadImageError(str(image.source))
    if isinstance(image.source, np.ndarray):
        return decode.upright_rgb(Image.fromarray(np.ascontiguousarray(image.source)))
    try:
        # Before the lock: a thread that has it never waits for the memory of one that wants it
        memory.hold(image.source.width * image.source.height * decode.bytes_a_pixel(image.source))
        with image.lock:
            image.source.load()
            return decode.upright_rgb(image.source)
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise everything
        raise BadImageError(decode.reason(image.path, error)) from error
