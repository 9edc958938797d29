"""One image, decoded safely: the formats that are let in, its EXIF turn, and RGB out of every colour mode."""

import contextlib
import functools
import hashlib
import io
import logging
import os
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cnnkit import files
from cnnkit.data import libtiff, memory
from cnnkit.errors import BadImageError, CnnkitError

#: Pillow's decoders that a file may reach, with the extensions it may carry. The other readers are attack surface without use here.
FORMATS: dict[str, frozenset[str]] = {
    "JPEG": frozenset({".jpg", ".jpeg", ".jpe", ".jfif"}),
    "MPO": frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}),
    "PNG": frozenset({".png", ".apng"}),
    "BMP": frozenset({".bmp", ".dib"}),
    "DIB": frozenset({".bmp", ".dib"}),
    "GIF": frozenset({".gif"}),
    "TIFF": frozenset({".tif", ".tiff"}),
    "WEBP": frozenset({".webp"}),
    "AVIF": frozenset({".avif"}),
    "PPM": frozenset({".ppm", ".pgm", ".pbm", ".pnm"}),
}

#: What Pillow may open them with. It has no opener called MPO: the JPEG one finds out that there are several images in the file.
_OPENERS = tuple(name for name in FORMATS if name != "MPO")

#: TIFF's tags for the size of its tiles.
_TILE_WIDTH, _TILE_LENGTH = 322, 323

log = logging.getLogger("cnnkit")

#: EXIF's words for images that lie on their side.
_TURNED = frozenset({5, 6, 7, 8})

#: Pixels of the longer side. A strip that is longer takes gigabytes to resize, however few pixels it has.
LONGEST_SIDE = 1_000_000

#: Scans of a progressive JPEG; encoders write about ten, and each takes as long as decoding the image.
MOST_SCANS = 100


#: The bound on an image's pixels, Pillow's own by default: what it refuses as a decompression bomb.
_most_pixels = 178_956_970


@contextlib.contextmanager
def at_most(pixels: int) -> Generator[None]:
    """Refuse images of more pixels, in all threads."""
    global _most_pixels
    before = _most_pixels, Image.MAX_IMAGE_PIXELS
    _most_pixels = Image.MAX_IMAGE_PIXELS = pixels  # Pillow warns of more, and refuses twice as many
    try:
        yield
    finally:
        _most_pixels, Image.MAX_IMAGE_PIXELS = before


def load(path: str | Path) -> Image.Image:
    """Read an image as RGB, turned the way up that its EXIF says.

    An alpha channel is dropped, as torchvision's loader does; 16-bit grey is scaled, not clipped; of an animation the first
    frame is taken. Images beyond Pillow's bound for decompression bombs (179 million pixels) are refused.

    Args:
        path: The file.

    Returns:
        An image of mode RGB, wholly in memory.

    Raises:
        BadImageError: It is missing, empty, broken, cut short, too large, or in no format that is let in.
    """
    with opened(path) as image:
        load_pixels(image, path)
        return upright_rgb(image)


def upright_size(path: str | Path) -> tuple[int, int]:
    """Give the width and height that `load` would give an image, without decoding it.

    Raises:
        BadImageError: As `load`, as far as the head of the file tells.
    """
    with opened(path) as image:
        turned = False
        with contextlib.suppress(Exception):  # as `load` has it
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
        return (image.height, image.width) if turned else image.size


def load_required(path: str | Path) -> Image.Image:
    """Read the one image that there is to read, as `load` does.

    Raises:
        CnnkitError: It cannot be used; the message names it.
    """
    try:
        return load(path)
    except BadImageError as error:
        raise CnnkitError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class Original:
    """An image with what identifies its file."""

    image: Image.Image  # upright, RGB
    fingerprint: str  # the sha256 of the file's bytes, in hexadecimal
    format: str  # what the content is, one of FORMATS, but JPEG for MPO
    grey: bool  # the file has no colours
    profile: bytes | None  # what its colours mean (ICC), if that fits RGB, or grey where it is grey


def read(path: str | Path) -> Original:
    """Read an image and the fingerprint of its file through one opening of it, so that both belong together.

    Only a file that proves to be an image is read to its end.

    Raises:
        BadImageError: As `load`, or it is no file that has an end.
    """
    try:
        with files.open_regular(path) as file:
            with opened(path, file) as image:
                load_pixels(image, path)
                file_format = "JPEG" if image.format == "MPO" else str(image.format)
                grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
                profile = image.info.get("icc_profile") or b""
                upright = upright_rgb(image)
            file.seek(0)
            fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadImageError(reason(path, error)) from error
    fits = profile[16:20] == (b"GRAY" if grey else b"RGB ")  # the colour space, in the profile's head
    return Original(upright, fingerprint, file_format, grey, profile if fits else None)


def load_pixels(image: Image.Image, path: str | Path) -> None:
    """Decode an opened image, once there is memory for it and for its conversion to RGB.

    Args:
        image: Opened, not decoded yet.
        path: Its file, for messages.
    """
    memory.hold(image.width * image.height * _bytes_a_pixel(image) + 64 * image.height)
    with libtiff.complaints() as complained:
        image.load()
    if complained():
        _name_damaged(path)


@functools.lru_cache(maxsize=1024)
def _name_damaged(path: str | Path) -> None:
    """Name a file once, however often it is read."""
    log.warning("%s: damaged in places; used as far as it can be decoded", path)


def _bytes_a_pixel(image: Image.Image) -> int:
    """Say what decoding, turning and converting take of memory for each pixel, at most."""
    deep = image.mode == "F" or image.mode.startswith("I")
    stored = 1 if image.mode in ("1", "L", "P") else 4  # Pillow keeps three channels in four bytes
    at_once = 6 if image.info.get("progressive") or image.format in ("WEBP", "AVIF", "HEIF") else 0
    return 2 * stored + 4 + at_once + (32 if deep else 0)


@contextlib.contextmanager
def opened(path: str | Path, content: BinaryIO | bytes | None = None) -> Generator[Image.Image]:
    """Open an image without decoding it; whatever goes wrong with it inside the `with` comes out as BadImageError.

    Args:
        path: The file, also for messages.
        content: Its bytes, or the file itself, should the caller have read or opened it already; it stays open.

    Yields:
        Pillow's image as it lies in the file: its own mode, not turned; of a size that can be decoded and resized.
    """
    with contextlib.ExitStack() as stack:
        if content is None:
            try:
                content = stack.enter_context(files.open_regular(path))
            except OSError as error:
                raise BadImageError(reason(path, error)) from error
        try:
            image = stack.enter_context(_opened(path, content))
            _check_size(image)
            yield image
        except MemoryError as error:
            raise BadImageError("not enough memory for it") from error


def _check_size(image: Image.Image) -> None:
    """Refuse what is small in pixels and takes long or much memory all the same.

    Raises:
        BadImageError: It is.
    """
    if image.width * image.height > _most_pixels:
        raise BadImageError(_too_large(f"{image.width:,} x {image.height:,}"))
    if max(image.size) > LONGEST_SIDE:
        raise BadImageError(
            f"too long: {image.width:,} x {image.height:,} pixels, at most {LONGEST_SIDE:,} on a side; cut it into pieces"
        )
    tags = getattr(image, "tag_v2", {})
    tile = [tags.get(tag, 1) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    if all(isinstance(side, int) for side in tile) and tile[0] * tile[1] > max(4 * image.width * image.height, 1 << 22):
        raise BadImageError(f"its tiles of {tile[0]:,} x {tile[1]:,} pixels are larger than the image")
    if image.info.get("progressive") and (scans := _scans(image)) > MOST_SCANS:
        raise BadImageError(f"a progressive JPEG of {scans:,} scans, at most {MOST_SCANS}; save it again")


def _scans(image: Image.Image) -> int:
    """Count a JPEG's scans by their markers, which the coded pixels never hold; the file is left where it was."""
    file = getattr(image, "fp", None)
    if file is None:
        return 0
    place, count, last = file.tell(), 0, b""
    file.seek(0)
    while chunk := file.read(1 << 20):
        count += (last + chunk).count(b"\xff\xda")
        last = chunk[-1:]
    file.seek(place)
    return count


@contextlib.contextmanager
def _opened(path: str | Path, content: BinaryIO | bytes) -> Generator[Image.Image]:
    """Open an image of any size, as `opened` does."""
    try:
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        with Image.open(source, formats=_OPENERS) as image:
            yield image
    except BadImageError:
        raise
    except (MemoryError, ImportError):  # no fault of the image
        raise
    except (
        Exception
    ) as error:  # decoders raise everything: OSError, SyntaxError, ValueError, struct.error, EOFError, ...
        raise BadImageError(reason(path, error)) from error


def check_name(path: str | Path, file_format: str) -> None:
    """Demand that a file's extension does not claim another format than its content has.

    A name without an extension, or with one that no image has, claims nothing.

    Args:
        path: The file.
        file_format: What its content is, a key of `FORMATS`.

    Raises:
        BadImageError: The extension belongs to another format.
    """
    extension = os.path.splitext(path)[1].lower()
    if extension not in FORMATS[file_format] and any(extension in known for known in FORMATS.values()):
        raise BadImageError(f"a {file_format} file that is named {extension}; rename it or convert it")


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turn a decoded image the way up that its EXIF says, and give it the mode RGB."""
    return _rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    # A broken EXIF block says nothing about the image that it comes with
    with contextlib.suppress(Exception):
        return ImageOps.exif_transpose(image)
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):  # convert("RGB") would clip everything above 255 to white
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max(initial=0.0) > 255 else 255.0
        image = Image.fromarray(np.clip(values / top * 255.0 + 0.5, 0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns that a palette with transparency loses it
    return image if image.mode == "RGB" else image.convert("RGB")


def reason(path: str | Path, error: Exception) -> str:
    """Say in a few words why a file could not be read as an image."""
    if isinstance(error, UnidentifiedImageError):
        with contextlib.suppress(OSError):
            if Path(path).stat().st_size == 0:
                return "empty file"
        return f"no picture, or none of {' '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        pixels = re.search(r"(\d+) pixels", str(error))  # all that it says of the size
        return _too_large(f"{int(pixels[1]):,}" if pixels else "too many")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(error).splitlines()[0] if str(error) else ""
    return type(error).__name__ if text in ("", "[Errno None] None") else text


def _too_large(pixels: str) -> str:
    return f"too large: {pixels} pixels, at most {_most_pixels:,}; --max-pixels allows more"
