"""One image, decoded safely: the formats that are let in, its EXIF turn, and RGB out of every colour mode."""

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

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

#: EXIF's words for images that lie on their side.
_TURNED = frozenset({5, 6, 7, 8})


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
        image.load()
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
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadImageError("not a regular file")
            with opened(path, file) as image:
                image.load()
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


def _without_waiting(path: str, flags: int) -> int:
    # Who opens a pipe that nobody writes to would wait for ever
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@contextlib.contextmanager
def opened(path: str | Path, content: BinaryIO | bytes | None = None) -> Generator[Image.Image]:
    """Open an image without decoding it; whatever goes wrong with it inside the `with` comes out as BadImageError.

    Args:
        path: The file, also for messages.
        content: Its bytes, or the file itself, should the caller have read or opened it already; it stays open.

    Yields:
        Pillow's image as it lies in the file: its own mode, not turned.
    """
    try:
        source = path if content is None else io.BytesIO(content) if isinstance(content, bytes) else content
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
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else exif_transpose would copy it
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
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels, perhaps a decompression bomb"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).splitlines()[0] if str(error) else type(error).__name__
