"""One image, decoded safely: the formats that are let in, its EXIF turn, and RGB out of every colour mode."""

import contextlib
import functools
import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cnnkit import files
from cnnkit.data import image_formats, libtiff, memory
from cnnkit.data.image_formats import FORMATS
from cnnkit.errors import BadImageError, CnnkitError

#: What Pillow may open them with. It has no opener called MPO: the JPEG one finds out that there are several images in the file.
#: HEIF is pillow-heif's, and asked when it is needed.
_OPENERS = tuple(name for name in FORMATS if name not in ("MPO", "HEIF"))

#: Of these the decoder takes all bytes into memory as it opens them.
_READ_WHOLE = ("WEBP", "AVIF", "HEIF")

#: TIFF's tags for the size of its tiles.
_TILE_WIDTH, _TILE_LENGTH = 322, 323

log = logging.getLogger("cnnkit")

#: EXIF's words for images that lie on their side.
_TURNED = frozenset({5, 6, 7, 8})

#: TIFF's tags that say what the numbers of an image mean, and two of their values.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _SMIN, _SMAX = 258, 262, 339, 340, 341
_WHITE_IS_ZERO, _SIGNED = 0, 2

#: By so much of its range a float may lie outside of it: what arithmetic leaves behind.
_ROUNDING = 1e-4

#: Pixels of deep grey that are converted at once.
_PIXELS_AT_ONCE = 1 << 22

#: Pixels of the longer side. A strip that is longer takes gigabytes to resize, however few pixels it has.
LONGEST_SIDE = 1_000_000

#: Scans of a progressive JPEG; encoders write about ten, and each takes as long as decoding the image.
MOST_SCANS = 100

#: A JPEG's markers, but for stuffed bytes and restarts, which stand within coded pixels; those of no length; and two that matter.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_WITHOUT_LENGTH = (0x01, 0xD8)
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA

_one_thread = threading.Lock()

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
        load_pixels(image, path)
        return upright_rgb(image)


def upright_size(path: str | Path) -> tuple[int, int]:
    """Give the width and height that `load` would give an image; most formats are not decoded for that.

    Raises:
        BadImageError: As `load`, as far as the head of the file tells.
    """
    with opened(path) as image:
        turned = False
        with contextlib.suppress(Exception):  # as `load` has it
            if image.format == "PNG" and "exif" not in image.info:  # it may stand after the pixels: Pillow decodes them
                load_pixels(image, path)
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
            fingerprint = digest(file).hex()
    except OSError as error:
        raise BadImageError(reason(path, error)) from error
    fits = profile[16:20] == (b"GRAY" if grey else b"RGB ")  # the colour space, in the profile's head
    return Original(upright, fingerprint, file_format, grey, profile if fits else None)


def digest(file: BufferedReader) -> bytes:
    """Give the sha256 of all bytes of a file, which is left at its end; memory does not grow with them.

    Raises:
        OSError: It cannot be read, or is too large.
    """
    files.check_size(file)
    file.seek(0)
    return hashlib.file_digest(file, "sha256").digest()


def load_pixels(image: Image.Image, path: str | Path) -> None:
    """Decode an opened image, once there is memory for it and for its conversion to RGB.

    Args:
        image: Opened, not decoded yet.
        path: Its file, for messages.
    """
    read = os.path.getsize(path) if image.format in _READ_WHOLE else 0
    memory.hold(read + image.width * image.height * _bytes_a_pixel(image) + 64 * image.height)
    with libtiff.complaints() as complained:
        image.load()
    if complained():
        with _one_thread:  # a cache lets two in at once
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
    return 2 * stored + 4 + at_once + (4 if deep else 0)


@contextlib.contextmanager
def opened(path: str | Path, file: BinaryIO | None = None) -> Generator[Image.Image]:
    """Open an image without decoding it; whatever goes wrong with it inside the `with` comes out as BadImageError.

    Args:
        path: The file, also for messages.
        file: The file itself, should the caller have opened it already; it stays open.

    Yields:
        Pillow's image as it lies in the file: its own mode, not turned; of a size that can be decoded and resized.
    """
    with contextlib.ExitStack() as stack:
        if file is None:
            try:
                file = stack.enter_context(files.open_regular(path))
            except OSError as error:
                raise BadImageError(reason(path, error)) from error
        try:
            image = stack.enter_context(_opened(path, file))
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
    if image.info.get("progressive") and _scans(image) > MOST_SCANS:
        raise BadImageError(f"a progressive JPEG of more than {MOST_SCANS} scans; save it again")


def _scans(image: Image.Image) -> int:
    """Count a JPEG's scans, as far as they are allowed and one more; the file is left where it was.

    As the decoder does, it goes from marker to marker: what segments hold (a thumbnail), and what comes after the image's end (the film of
    a moving photograph), is not looked at.
    """
    file = getattr(image, "fp", None)
    if file is None:
        return 0
    place, count = file.tell(), 0
    file.seek(0)
    while count <= MOST_SCANS and (marker := _next_marker(file)) not in (None, _END_OF_IMAGE):
        if marker in _WITHOUT_LENGTH:
            continue
        count += marker == _START_OF_SCAN
        length = int.from_bytes(file.read(2), "big")
        if length < 2:
            break  # no decoder goes on
        file.seek(length - 2, os.SEEK_CUR)
    file.seek(place)
    return count


def _next_marker(file: BinaryIO) -> int | None:
    """Go to the end of a JPEG's next marker that is none of those within coded pixels; None at the end of the file."""
    while chunk := file.read(1 << 16):
        if found := _MARKER.search(chunk):
            file.seek(found.end() - len(chunk), os.SEEK_CUR)
            return chunk[found.end() - 1]
        if chunk.endswith(b"\xff") and len(chunk) > 1:
            file.seek(-1, os.SEEK_CUR)  # the other half of a marker may follow
    return None


@contextlib.contextmanager
def _opened(path: str | Path, file: BinaryIO) -> Generator[Image.Image]:
    """Open an image of any size, as `opened` does."""
    try:
        with _open(file) as image:
            yield image
    except BadImageError:
        raise
    except (MemoryError, ImportError):  # no fault of the image
        raise
    except (
        Exception
    ) as error:  # decoders raise everything: OSError, SyntaxError, ValueError, struct.error, EOFError, ...
        raise BadImageError(reason(path, error)) from error


def _open(source: BinaryIO) -> Image.Image:
    """Open an image with Pillow's own decoders; HEIC, which none of them knows, with pillow-heif."""
    kind = image_formats.of_content(_head(source))
    if kind in _READ_WHOLE:
        size = source.seek(0, os.SEEK_END)
        if size > files.MOST:
            raise BadImageError(f"file too large, at most {files.MOST:,} bytes")
        memory.hold(2 * size)  # pieces, and what they are joined to
    source.seek(0)
    try:
        return Image.open(source, formats=_OPENERS)
    except Exception:  # a HEIC file of the brand mif1 is tried, and refused in its own way, by the AVIF reader
        if kind != "HEIF":
            raise
        source.seek(0)
        _register_heif()
        return Image.open(source, formats=("HEIF",))


def _head(source: BinaryIO) -> bytes:
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
    """Turn a decoded image the way up that its EXIF says, and give it the mode RGB.

    Raises:
        BadImageError: Its values lie outside of the range that its file allows a brightness.
    """
    deep = value_range(image)  # before it is turned: what Pillow turns forgets its file's tags
    image = _upright(image)
    return _rgb(image if deep is None else _by_strips(image, lambda strip: _eight_bits(strip, deep)))


def _upright(image: Image.Image) -> Image.Image:
    # A broken EXIF block says nothing about the image that it comes with
    with contextlib.suppress(Exception):
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else exif_transpose would copy it
            return ImageOps.exif_transpose(image)
    return image


@dataclass(frozen=True, slots=True)
class ValueRange:
    """What black and white are in a deep or signed grey image: by its file's tags and its bit depth, never by its values."""

    black: float
    white: float
    kind: str  # for messages
    unsigned: bool = False  # Pillow keeps 32 bits without a sign as if they had one

    def used(self, image: Image.Image) -> tuple[float, str]:
        """Give the share of the range that an image uses, and a text that says so."""
        stored = self._stored(image)
        low, high = float(stored.min()), float(stored.max())
        of = sorted((self.black, self.white))
        return (high - low) / abs(
            self.white - self.black
        ), f"{self.kind} from {low:g} to {high:g} of {of[0]:g} to {of[1]:g}"

    def values(self, image: Image.Image) -> NDArray[np.float64]:
        """Give the values as the file has them, (H, W)."""
        return self._stored(image).astype(np.float64)

    def _stored(self, image: Image.Image) -> NDArray[Any]:
        values = np.asarray(image)
        if image.mode == "L":
            return values.view(np.int8)
        return values.view(np.uint32) if self.unsigned else values


def value_range(image: Image.Image) -> ValueRange | None:
    """Tell the range of a grey image of more than 8 bits, or of signed ones, as it lies in its file; None for all others.

    Integers go up to the most that their bits hold, whatever the brightest one is: two images of one camera stay comparable.
    Floats go from 0 to 1, unless a TIFF names another range (SMinSampleValue, SMaxSampleValue).
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits, sample = _first(tags.get(_BITS), 16), _first(tags.get(_SAMPLE_FORMAT), 1)
    signed_bytes = image.mode == "L" and sample == _SIGNED  # which Pillow keeps as if they had no sign
    if image.mode != "F" and not image.mode.startswith("I") and not signed_bytes:
        return None
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


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert a deep grey image strip by strip: as floats, all of it would take thirty bytes a pixel."""
    rows = max(1, _PIXELS_AT_ONCE // max(image.width, 1))
    if rows >= image.height:
        return convert(image)
    whole = Image.new("L", image.size)
    for top in range(0, image.height, rows):
        whole.paste(convert(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return whole


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
            with files.open_regular(path) as file:
                if file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                    return "a TIFF of a kind that is not read, such as colour in floats; save it with 8 or 16 bits a channel"
        return f"no picture, or none of {' '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        pixels = re.search(r"(\d+) pixels", str(error))  # all that it says of the size
        return _too_large(f"{int(pixels[1]):,}" if pixels else "too many")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(error).splitlines()[0] if str(error) else ""
    if "MAX_TEXT" in text:  # Pillow's bound on what unpacking may give, a constant of its own
        return "its metadata (text or colour profile) is larger than 1 MB; save it without metadata"
    return type(error).__name__ if text in ("", "[Errno None] None") else text


def _too_large(pixels: str) -> str:
    return f"too large: {pixels} pixels, at most {_most_pixels:,}; --max-pixels allows more"
