"""One picture, decoded safely: the formats that are let in, its EXIF turn, and RGB out of every colour mode."""

import contextlib
import io
import os
from collections.abc import Generator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cnnkit.errors import BadPicture

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

#: What Pillow may open them with. It has no opener called MPO: the JPEG one finds out that there are several pictures in the file.
_OPENERS = tuple(name for name in FORMATS if name != "MPO")


def load(path: str | Path) -> Image.Image:
    """Read a picture as RGB, turned the way up that its EXIF says.

    An alpha channel is dropped, as torchvision's loader does; 16-bit grey is scaled, not clipped; of an animation the first
    frame is taken. Pictures beyond Pillow's bound for decompression bombs (179 million pixels) are refused.

    Args:
        path: The file.

    Returns:
        An image of mode RGB, wholly in memory.

    Raises:
        BadPicture: It is missing, empty, broken, cut short, too large, or in no format that is let in.
    """
    with opened(path) as image:
        image.load()
        return upright_rgb(image)


@contextlib.contextmanager
def opened(path: str | Path, content: bytes | None = None) -> Generator[Image.Image]:
    """Open a picture without decoding it; whatever goes wrong with it inside the `with` comes out as BadPicture.

    Args:
        path: The file, also for messages.
        content: Its bytes, should the caller have read them already.

    Yields:
        Pillow's image as it lies in the file: its own mode, not turned.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=_OPENERS) as image:
            yield image
    except BadPicture:
        raise
    except (MemoryError, ImportError):  # no fault of the picture
        raise
    except (
        Exception
    ) as error:  # decoders raise everything: OSError, SyntaxError, ValueError, struct.error, EOFError, ...
        raise BadPicture(reason(path, error)) from error


def check_name(path: str | Path, file_format: str) -> None:
    """Demand that a file's extension does not claim another format than its content has.

    A name without an extension, or with one that no picture has, claims nothing.

    Args:
        path: The file.
        file_format: What its content is, a key of `FORMATS`.

    Raises:
        BadPicture: The extension belongs to another format.
    """
    extension = os.path.splitext(path)[1].lower()
    if extension not in FORMATS[file_format] and any(extension in known for known in FORMATS.values()):
        raise BadPicture(f"a {file_format} file that is named {extension}; rename it or convert it")


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turn a decoded picture the way up that its EXIF says, and give it the mode RGB."""
    return _rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    # A broken EXIF block says nothing about the picture beside it
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
    """Say in a few words why a file could not be read as a picture."""
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
