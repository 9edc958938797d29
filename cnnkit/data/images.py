"""One picture, decoded safely: the formats that are let in, its EXIF turn, and RGB out of every colour mode."""

import contextlib
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
    try:
        with Image.open(path, formats=tuple(FORMATS)) as image:
            image.load()
            return _rgb(_upright(image))
    except (
        Exception
    ) as error:  # decoders raise everything: OSError, SyntaxError, ValueError, struct.error, EOFError, ...
        raise BadPicture(_reason(path, error)) from error


def format_of(path: str | Path) -> str:
    """Name the format that a file's content has, a key of `FORMATS`; nothing is decoded.

    Raises:
        BadPicture: As `load`, as far as the first bytes show it.
    """
    try:
        with Image.open(path, formats=tuple(FORMATS)) as image:
            return str(image.format)
    except Exception as error:
        raise BadPicture(_reason(path, error)) from error


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


def _reason(path: str | Path, error: Exception) -> str:
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
