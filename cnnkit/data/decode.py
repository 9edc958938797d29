"""One image, decoded safely: the formats that are let in, its EXIF turn, and RGB out of every colour mode."""

import contextlib
import functools
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

from cnnkit.data import image_formats
from cnnkit.data.image_formats import FORMATS
from cnnkit.errors import BadImageError, CnnkitError

#: What Pillow may open them with. It has no opener called MPO: the JPEG one finds out that there are several images in the file.
#: HEIF is pillow-heif's, and asked when it is needed.
_OPENERS = tuple(name for name in FORMATS if name not in ("MPO", "HEIF"))

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
        with _open(source) as image:
            yield image
    except BadImageError:
        raise
    except (MemoryError, ImportError):  # no fault of the image
        raise
    except (
        Exception
    ) as error:  # decoders raise everything: OSError, SyntaxError, ValueError, struct.error, EOFError, ...
        raise BadImageError(reason(path, error)) from error


def _open(source: str | Path | BinaryIO) -> Image.Image:
    """Open an image with Pillow's own decoders; HEIC, which none of them knows, with pillow-heif."""
    try:
        return Image.open(source, formats=_OPENERS)
    except Exception:  # a HEIC file of the brand mif1 is tried, and refused in its own way, by the AVIF reader
        if image_formats.of_content(_head(source)) != "HEIF":
            raise
        _register_heif()
        return Image.open(source, formats=("HEIF",))


def _head(source: str | Path | BinaryIO) -> bytes:
    if isinstance(source, (str, Path)):
        with open(source, "rb") as file:
            return file.read(image_formats.HEAD)
    source.seek(0)
    return source.read(image_formats.HEAD)


@functools.cache
def _register_heif() -> None:
    """Let Pillow read HEIC with pillow-heif, an extra of this package.

    Raises:
        BadImageError: It is not installed, or its library does not load.
    """
    try:
        import pillow_heif  # here, since it is optional, and its library takes its time to load
    except ImportError as error:
        raise BadImageError("a HEIC image; pip install 'cnnkit[heif]' makes it readable") from error
    pillow_heif.options.DECODE_THREADS = 1  # images are decoded in threads of our own
    pillow_heif.register_heif_opener(thumbnails=False)


def misnamed(path: str | Path, file_format: str) -> str | None:
    """Say how a file's extension contradicts its content, by which it is read; None where it does not.

    Args:
        path: The file.
        file_format: What its content is, a key of `FORMATS`.
    """
    extension = image_formats.extension_of(os.fspath(path))
    own = FORMATS["MPO"] if file_format == "JPEG" else FORMATS[file_format]  # one image of a pair may be left alone
    if extension in own:
        return None
    return f"a {file_format} file {f'that is named {extension}' if extension else 'without an extension'}"


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
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels, perhaps a decompression bomb"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).splitlines()[0] if str(error) else type(error).__name__
