"""One image, decoded safely: the formats that are let in, its EXIF turn, and RGB out of every colour mode."""

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
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

#: TIFF's tags that say what the numbers of an image mean, and two of their values.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _SMIN, _SMAX = 258, 262, 339, 340, 341
_WHITE_IS_ZERO, _SIGNED = 0, 2

#: By so much of its range a float may lie outside of it: what arithmetic leaves behind.
_ROUNDING = 1e-4


def load(path: str | Path) -> Image.Image:
    """Read an image as RGB, turned the way up that its EXIF says.

    An alpha channel is dropped, as torchvision's loader does; grey of more than 8 bits is scaled by its bit depth; of an animation
    the first frame is taken. Images beyond Pillow's bound for decompression bombs (179 million pixels) are refused.

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
    """Turn a decoded image the way up that its EXIF says, and give it the mode RGB.

    Raises:
        BadImageError: Its values lie outside of the range that its file allows a brightness.
    """
    deep = value_range(image)  # before it is turned: what Pillow turns forgets its file's tags
    image = _upright(image)
    return _rgb(image if deep is None else _eight_bits(image, deep))


def _upright(image: Image.Image) -> Image.Image:
    # A broken EXIF block says nothing about the image that it comes with
    with contextlib.suppress(Exception):
        return ImageOps.exif_transpose(image)
    return image


@dataclass(frozen=True, slots=True)
class ValueRange:
    """What black and white are in a grey image of more than 8 bits: by its file's tags and its bit depth, never by its values."""

    black: float
    white: float
    kind: str  # for messages
    unsigned: bool = False  # Pillow keeps 32 bits without a sign as if they had one

    def used(self, image: Image.Image) -> tuple[float, str]:
        """Give the share of the range that an image uses, and a text that says so."""
        values = self.values(image)
        low, high = (float(value) for value in (values.min(), values.max()))
        of = sorted((self.black, self.white))
        return (high - low) / abs(
            self.white - self.black
        ), f"{self.kind} from {low:g} to {high:g} of {of[0]:g} to {of[1]:g}"

    def values(self, image: Image.Image) -> NDArray[np.float64]:
        """Give the values as the file has them, (H, W)."""
        values = np.asarray(image)
        return (values.view(np.uint32) if self.unsigned else values).astype(np.float64)


def value_range(image: Image.Image) -> ValueRange | None:
    """Tell the range of a grey image of more than 8 bits as it lies in its file; None for all others.

    Integers go up to the most that their bits hold, whatever the brightest one is: two images of one camera stay comparable.
    Floats go from 0 to 1, unless a TIFF names another range (SMinSampleValue, SMaxSampleValue).
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return None
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits, sample = _first(tags.get(_BITS), 16), _first(tags.get(_SAMPLE_FORMAT), 1)
    if image.mode == "F":
        low, high = _first(tags.get(_SMIN), 0.0), _first(tags.get(_SMAX), 1.0)
        black, white, kind = float(low), float(high), "floats"
        if not black < white:  # NaN too
            raise BadImageError(f"its tags name the range {low:g} to {high:g}, which is none")
    elif sample == _SIGNED:
        black, white, kind = 0.0, float(2 ** (bits - 1) - 1), f"{bits}-bit signed integers"
    else:
        black, white, kind = 0.0, float(2**bits - 1), f"{bits}-bit integers"
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        black, white = white, black
    return ValueRange(black, white, kind, unsigned=image.mode == "I" and sample != _SIGNED and bits == 32)


def _first(value: Any, default: float) -> Any:  # noqa: ANN401 - a TIFF's tag: a number, several, or none
    if isinstance(value, tuple):
        value = value[0] if value else None
    return value if isinstance(value, (int, float)) else default


def _eight_bits(image: Image.Image, found: ValueRange) -> Image.Image:
    """Scale a grey image of more than 8 bits to 0 to 255; convert("L") would clip everything above 255 to white.

    Raises:
        BadImageError: A value lies outside of the range.
    """
    values = found.values(image)
    low, high = sorted((found.black, found.white))
    slack = _ROUNDING * (high - low) if image.mode == "F" else 0.0
    if values.size and not (values.min() >= low - slack and values.max() <= high + slack):  # NaN fails both
        known = values[~np.isnan(values)]
        found_range = f"from {known.min():g} to {known.max():g}" if known.size else "that are all NaN"
        raise BadImageError(
            f"{found.kind} {found_range}{', some of them NaN' if 0 < known.size < values.size else ''}; "
            f"a brightness is expected from {low:g} to {high:g}, rescale the image"
        )
    shares = (values - found.black) / (found.white - found.black)
    return Image.fromarray(np.clip(shares * 255.0 + 0.5, 0, 255).astype(np.uint8))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns that a palette with transparency loses it
    return image if image.mode == "RGB" else image.convert("RGB")


def reason(path: str | Path, error: Exception) -> str:
    """Say in a few words why a file could not be read as an image."""
    if isinstance(error, UnidentifiedImageError):
        with contextlib.suppress(OSError):
            if Path(path).stat().st_size == 0:
                return "empty file"
            with open(path, "rb") as file:
                if file.read(4) in (b"II*\0", b"MM\0*"):
                    return "a TIFF of a kind that is not read, such as colour in floats; save it with 8 or 16 bits a channel"
        return f"no picture, or none of {' '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels, perhaps a decompression bomb"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).splitlines()[0] if str(error) else type(error).__name__
