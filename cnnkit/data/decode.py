"""Safe decoding of one image: allowed formats only, EXIF orientation applied, every colour mode converted to RGB."""

import contextlib
import functools
import hashlib
import logging
import math
import os
import re
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TypeVar

from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from cnnkit import files
from cnnkit.data import deep_images, libtiff, memory
from cnnkit.errors import BadImageError, CnnkitError
from cnnkit.formats import image_formats
from cnnkit.formats.box import Box, divided
from cnnkit.formats.image_formats import FORMATS

D = TypeVar("D", bound="Decoded")

#: Pillow's allowed openers. It has no opener called MPO: the JPEG one detects several images in a file.
#: HEIF belongs to pillow-heif, which is registered when it is needed.
_OPENERS = tuple(name for name in FORMATS if name not in ("MPO", "HEIF"))

#: Formats whose decoder reads the whole file into memory when it is opened.
_READ_WHOLE = ("WEBP", "AVIF", "HEIF")

#: TIFF tags of the size of tiles.
_TILE_WIDTH, _TILE_LENGTH = 322, 323

#: Memory of a progressive JPEG's coefficients, in bytes per pixel: three channels of 16 bits.
_COEFFICIENTS = 6

log = logging.getLogger("cnnkit")

#: EXIF orientations that exchange width and height.
_TURNED = frozenset({5, 6, 7, 8})

#: EXIF orientations whose upright image has the last column as stored, or the last row, at its left; and at its top.
_REVERSES_ROWS, _REVERSES_COLUMNS = frozenset({2, 3, 6, 7}), frozenset({3, 4, 7, 8})

#: Maximum length of the longer side, in pixels. A longer strip takes gigabytes to resize, however few pixels it has.
LONGEST_SIDE = 1_000_000

#: Maximum number of scans of a progressive JPEG; encoders write about ten, and each takes as long as decoding the image.
MOST_SCANS = 100

#: JPEG markers, except stuffed bytes and restarts, which occur within coded pixels; markers without a length; and two by name.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_WITHOUT_LENGTH = (0x01, 0xD8)
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA

_one_thread = threading.Lock()

#: Maximum number of pixels of an image; by default Pillow's own limit for decompression bombs.
_most_pixels = 178_956_970


@contextlib.contextmanager
def at_most(pixels: int) -> Generator[None]:
    """Refuse images with more pixels, in all threads."""
    global _most_pixels
    before = _most_pixels, Image.MAX_IMAGE_PIXELS
    _most_pixels = Image.MAX_IMAGE_PIXELS = pixels  # Pillow warns above it, and refuses twice as many
    try:
        yield
    finally:
        _most_pixels, Image.MAX_IMAGE_PIXELS = before


def most_pixels() -> int:
    """Return the maximum number of pixels of an image."""
    return _most_pixels


#: From the (width, height) of an upright image to the smallest (width, height) that is enough; None if all its pixels are needed.
Enough = Callable[[tuple[int, int]], tuple[int, int] | None]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image, which may be a reduction of the image in the file."""

    image: Image.Image  # upright, RGB
    size: tuple[int, int]  # (width, height) of the upright image in the file, or of a crop of it
    factor: int = 1  # 1, 2, 4 or 8 pixels of the file, in each direction, are one of `image`
    origin: tuple[int, int] = 0, 0  # the place of `size` in `image`, in pixels of the file, less than `factor`


def load(path: str | Path) -> Image.Image:
    """Read an image as RGB, with its EXIF orientation applied.

    The alpha channel is dropped, as in torchvision's loader; grey of more than 8 bits is scaled by its bit depth; of an animation
    the first frame is read. Images above Pillow's limit for decompression bombs (179 million pixels) are refused.

    Args:
        path: The file.

    Returns:
        An image of mode RGB, completely decoded.

    Raises:
        BadImageError: It is missing, empty, broken, truncated, too large, or of another format.
    """
    with opened(path) as image:
        load_pixels(image, path)
        return cropped(upright_rgb(image), path)


def load_reduced(path: str | Path, enough: Sequence[Enough]) -> list[Decoded]:
    """Read an image as `load` does; a JPEG is decoded at a half, a quarter or an eighth of its size where that is enough.

    libjpeg leaves out the high frequencies of each block of 8 x 8 pixels, which is several times as fast.

    Args:
        path: The file.
        enough: One or more sizes that are needed; the image is decoded once per reduction.

    Returns:
        An image for each of `enough`.

    Raises:
        BadImageError: As `load`.
    """
    return _decoded_each(path, enough, lambda _, decoded: decoded)


def _decoded_each(
    path: str | Path,
    enough: Sequence[Enough],
    take: Callable[[Image.Image, Decoded], D],
    file: BinaryIO | None = None,
) -> list[D]:
    """Decode an image once per reduction, and `take` what is needed of Pillow's image and of the decoded one."""
    known: dict[int, D] = {}
    found = []
    box = box_of(path)
    for each in enough:
        with opened(path, file) as image:
            size, factor = _reduce(image, each if box is None else _of_whole(each, box))
            if factor not in known:
                load_pixels(image, path, factor=factor)
                upright = upright_rgb(image)
                decoded = Decoded(upright, upright.size if factor == 1 else size, factor)
                if box is not None or factor > 1:
                    decoded = _part(decoded, box, orientation=_orientation(image))
                known[factor] = take(image, decoded)
            found.append(known[factor])
    return found


def box_of(path: str | Path) -> Box | None:
    """Return the box in the path of a crop; None for the path of a file."""
    name = os.fspath(path)
    if files.start_of_box(name) is None or files.whole_file(name) == name:
        return None
    return divided(name)[1]


def cropped(image: Image.Image, path: str | Path) -> Image.Image:
    """Crop an upright image to the box in its path, if there is one.

    Raises:
        BadImageError: The box is outside of the image or has no area.
    """
    box = box_of(path)
    return image if box is None else image.crop(_pixels(box, image.size))


def _pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of a box in the pixels of an image of a size, clipped to it.

    Raises:
        BadImageError: It is outside of the image or has no area.
    """
    found = box.pixels(size)
    if found is None:
        why = f"is outside of the image of {size[0]:,} x {size[1]:,} pixels" if box.area else "has no area"
        raise BadImageError(f"box {box.text()} {why}; correct it")
    if box.clipped(size) != box:
        _report_clipped()
    return found


@functools.lru_cache(maxsize=1)
def _report_clipped() -> None:
    """Report once that boxes are clipped."""
    log.info("boxes that extend beyond their image are clipped to it")


def _of_whole(enough: Enough, box: Box) -> Enough:
    """Return what size of an image is enough for a crop of it."""

    def least(size: tuple[int, int]) -> tuple[int, int] | None:
        left, top, right, bottom = _pixels(box, size)
        needed = enough((right - left, bottom - top))
        if needed is None:
            return None
        return math.ceil(needed[0] * size[0] / (right - left)), math.ceil(needed[1] * size[1] / (bottom - top))

    return least


def _part(decoded: Decoded, box: Box | None, *, orientation: int) -> Decoded:
    """Crop an image, which may be reduced: then the pixels of the reduction that contain the crop, or the whole image, are kept.

    Of a reduction, the last row and column as stored can be partly outside of the image; its orientation may put them first.
    """
    left, top, right, bottom = (0, 0, *decoded.size) if box is None else _pixels(box, decoded.size)
    size, factor, image = (right - left, bottom - top), decoded.factor, decoded.image
    across = image.width * factor - decoded.size[0] if orientation in _REVERSES_ROWS else 0
    down = image.height * factor - decoded.size[1] if orientation in _REVERSES_COLUMNS else 0
    left, right, top, bottom = left + across, right + across, top + down, bottom + down
    first = left // factor, top // factor
    last = -(-right // factor), -(-bottom // factor)
    return Decoded(image.crop((*first, *last)), size, factor, (left - first[0] * factor, top - first[1] * factor))


def _reduce(image: Image.Image, enough: Enough) -> tuple[tuple[int, int], int]:
    """Let a JPEG be decoded at a reduced size, if that is enough.

    Returns:
        The size of the upright image in the file, and the factor of the reduction.
    """
    turned = _turned(image)
    size = (image.height, image.width) if turned else image.size
    least = enough(size)
    if least is None or image.format not in ("JPEG", "MPO"):
        return size, 1
    whole = image.width
    changed = image.draft(None, least[::-1] if turned else least)
    return size, 1 if changed is None else round(whole / changed[1][2])


def _describes_after_pixels(image: Image.Image) -> bool:
    """Return whether a PNG that is opened, not decoded, has chunks after its pixels which may hold an orientation; they are not read."""
    file = image.fp if isinstance(image, ImageFile.ImageFile) else None
    if file is None or "exif" in image.info:
        return False
    before = file.tell()
    try:
        file.seek(len(b"\x89PNG\r\n\x1a\n"))
        has_pixels = False
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            if has_pixels and head[4:] in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            has_pixels |= head[4:] == b"IDAT"
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)  # and the checksum
        return False
    finally:
        file.seek(before)


def _turned(image: Image.Image, exif: Callable[[Image.Image], Image.Exif] | None = None) -> bool:
    """Return whether the EXIF orientation exchanges width and height."""
    return _orientation(image, exif) in _TURNED


def _orientation(image: Image.Image, exif: Callable[[Image.Image], Image.Exif] | None = None) -> int:
    """Return the EXIF orientation, 1 if there is none; `exif` reads the EXIF block, by default as Pillow does for the format."""
    with contextlib.suppress(Exception):  # a broken EXIF block does not make the image unusable
        found = (image.getexif() if exif is None else exif(image)).get(ExifTags.Base.Orientation, 1)
        return found if isinstance(found, int) else 1
    return 1


def upright_size(path: str | Path) -> tuple[int, int]:
    """Return the width and height of the image that `load` returns; most formats are not decoded for that.

    Raises:
        BadImageError: As `load`, as far as the head of the file shows it.
    """
    with opened(path) as image:
        with contextlib.suppress(Exception):  # as in `load`
            if image.format == "PNG" and _describes_after_pixels(image):  # Pillow decodes them to read on
                load_pixels(image, path)
        # What is before the pixels of a PNG: its own method would decode them
        exif = Image.Image.getexif if image.format == "PNG" else None
        size = (image.height, image.width) if _turned(image, exif) else image.size
        if (box := box_of(path)) is None:
            return size
        left, top, right, bottom = _pixels(box, size)
        return right - left, bottom - top


def load_required(path: str | Path) -> Image.Image:
    """Read an image as `load` does, where it cannot be skipped.

    Raises:
        CnnkitError: It cannot be used; the message names the file.
    """
    with required(path):
        return load(path)


def place_of(path: str | Path) -> tuple[int, int]:
    """Return left and top of a crop in its upright file; 0, 0 for a whole image.

    Raises:
        BadImageError: As `upright_size`.
    """
    if (box := box_of(path)) is None:
        return 0, 0
    left, top, _, _ = _pixels(box, upright_size(files.whole_file(path)))
    return left, top


@contextlib.contextmanager
def required(path: str | Path) -> Generator[None]:
    """Raise a CnnkitError that names the file, where an image cannot be used and cannot be skipped."""
    try:
        yield
    except BadImageError as error:
        raise CnnkitError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Original(Decoded):
    """A decoded image with its file's fingerprint, format and colour profile."""

    fingerprint: str  # the sha256 of the file's bytes, in hexadecimal
    format: str  # of the content, one of FORMATS, but JPEG for MPO
    grey: bool  # the file is greyscale
    profile: bytes | None  # ICC profile, if its colour space is RGB, or grey for a grey image


def read(path: str | Path) -> Original:
    """Read an image as `load` does, and the fingerprint of its file from the same open file, so that both belong together.

    Raises:
        BadImageError: As `load`, or it is not a regular file.
    """
    (original,) = read_reduced(path, [_all_pixels])
    return original


def read_reduced(path: str | Path, enough: Sequence[Enough]) -> list[Original]:
    """Read an image as `load_reduced` does, and its file's fingerprint. Only a file that is an image is read to its end.

    Raises:
        BadImageError: As `read`.
    """
    try:
        with files.open_regular(path) as file:
            found = _decoded_each(path, enough, _as_original, file)
            fingerprint = digest(file, path).hex()
    except OSError as error:
        raise BadImageError(reason(path, error)) from error
    return [replace(each, fingerprint=fingerprint) for each in found]


def _all_pixels(size: tuple[int, int]) -> None:
    """Ask for all pixels of an image; see `Enough`."""


def _as_original(image: Image.Image, decoded: Decoded) -> Original:
    """Return what `read` returns of an image, without its fingerprint."""
    grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    profile = image.info.get("icc_profile") or b""
    fits = profile[16:20] == (b"GRAY" if grey else b"RGB ")  # the colour space, in the profile's head
    return Original(
        decoded.image,
        decoded.size,
        decoded.factor,
        decoded.origin,
        fingerprint="",
        format="JPEG" if image.format == "MPO" else str(image.format),
        grey=grey,
        profile=profile if fits else None,
    )


def digest(file: BufferedReader, path: str | Path = "") -> bytes:
    """Return the sha256 of a file, which is left at its end; the memory does not depend on the file's size.

    If `path` is that of a crop, it is the sha256 of the file's and of the box.

    Raises:
        OSError: It cannot be read, or is too large.
    """
    files.check_size(file)
    file.seek(0)
    whole = hashlib.file_digest(file, "sha256").digest()
    return whole if (box := box_of(path)) is None else of_crop(whole, box)


def of_crop(whole: bytes, box: Box) -> bytes:
    """Return what identifies a crop, from the digest of its file."""
    return hashlib.sha256(whole + box.text().encode()).digest()


def load_pixels(image: Image.Image, path: str | Path, *, factor: int = 1) -> None:
    """Decode an opened image, as soon as there is memory for it and for its conversion to RGB.

    Args:
        image: Opened, not decoded yet.
        path: Its file, for messages.
        factor: Of its reduction; a progressive JPEG is read completely all the same.
    """
    read = files.regular_size(path) if image.format in _READ_WHOLE else 0
    whole = _COEFFICIENTS * (factor**2 - 1) if image.info.get("progressive") else 0
    memory.hold(read + image.width * image.height * (bytes_a_pixel(image) + whole) + 64 * image.height)
    with libtiff.complaints() as complained:
        image.load()
    if complained():
        with _one_thread:  # a cache alone would let two threads in at once
            _report_damaged(path)


def check_pixels(image: Image.Image, path: str | Path) -> None:
    """Decode an opened image to its end, only to find out whether that is possible.

    A JPEG is decoded at an eighth of its size: libjpeg reads all of its data, and fails or not as at the full size.

    Args:
        image: Opened, not decoded yet; its pixels are of no use afterwards.
        path: Its file, for messages.
    """
    load_reduced_pixels(image, path, least=1)


def load_reduced_pixels(image: Image.Image, path: str | Path, *, least: int) -> None:
    """Decode an opened image; a JPEG at a half, a quarter or an eighth of its size, with at least `least` pixels on each side."""
    _, factor = _reduce(image, lambda _: (least, least))
    load_pixels(image, path, factor=factor)


@functools.lru_cache(maxsize=1024)
def _report_damaged(path: str | Path) -> None:
    """Report a damaged file once, however often it is read."""
    log.warning("%s: partly damaged; used as far as it can be decoded", path)


def bytes_a_pixel(image: Image.Image) -> int:
    """Return the maximum memory of decoding, rotating and converting, in bytes per pixel."""
    deep = image.mode == "F" or image.mode.startswith("I")
    stored = 1 if image.mode in ("1", "L", "P") else 4  # Pillow keeps three channels in four bytes
    at_once = _COEFFICIENTS if image.info.get("progressive") or image.format in ("WEBP", "AVIF", "HEIF") else 0
    return 2 * stored + 4 + at_once + (4 if deep else 0)


@contextlib.contextmanager
def opened(path: str | Path, file: BinaryIO | None = None) -> Generator[Image.Image]:
    """Open an image without decoding it; every failure inside the `with` becomes a BadImageError.

    Args:
        path: The file, also for messages.
        file: The same file, if the caller has opened it already; it stays open.

    Yields:
        Pillow's image as stored: in its own mode, EXIF orientation not applied; of a size that can be decoded and resized.
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
            raise BadImageError("not enough memory to decode it") from error


def _check_size(image: Image.Image) -> None:
    """Refuse an image that has too many pixels, or few pixels and yet takes much time or memory.

    Raises:
        BadImageError: It does.
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
    """Count a JPEG's scans, up to the limit and one more; the file's position does not change.

    Like the decoder, it goes from marker to marker: the contents of segments (a thumbnail) and data after the image's end (the film of
    a motion photo) are skipped.
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
            break  # decoders stop here
        file.seek(length - 2, os.SEEK_CUR)
    file.seek(place)
    return count


def _next_marker(file: BinaryIO) -> int | None:
    """Go past a JPEG's next marker, except those within coded pixels, and return it; None at the end of the file."""
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
    except (MemoryError, ImportError):  # not the image's fault
        raise
    except (
        Exception
    ) as error:  # decoders raise everything: OSError, SyntaxError, ValueError, struct.error, EOFError, ...
        raise BadImageError(reason(path, error)) from error


def _open(source: BinaryIO) -> Image.Image:
    """Open an image with Pillow's own decoders, HEIC with pillow-heif."""
    kind = image_formats.of_content(_head(source))
    if kind in _READ_WHOLE:
        size = source.seek(0, os.SEEK_END)
        if size > files.MOST:
            raise BadImageError(f"file too large, at most {files.MOST:,} bytes")
        memory.hold(2 * size)  # the pieces, and the bytes that they are joined to
    source.seek(0)
    try:
        return Image.open(source, formats=_OPENERS)
    except Exception:  # the AVIF reader tries a HEIC file of the brand mif1, and fails with an exception of its own
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
    """Let Pillow read HEIC with pillow-heif, which is optional.

    Raises:
        BadImageError: It is not installed, or its library does not load.
    """
    try:
        import pillow_heif  # here, since it is optional, and its library is slow to load
    except ImportError as error:
        raise BadImageError("a HEIC image; to read it, pip install pillow-heif") from error
    pillow_heif.options.DECODE_THREADS = 1  # images are decoded in cnnkit's threads
    pillow_heif.register_heif_opener(thumbnails=False)


def misnamed(path: str | Path, file_format: str) -> str | None:
    """Describe how a file's extension contradicts its content; None if it does not.

    Args:
        path: The file.
        file_format: Format of its content, a key of `FORMATS`.
    """
    extension = image_formats.extension_of(os.fspath(path))
    own = FORMATS["MPO"] if file_format == "JPEG" else FORMATS[file_format]  # an MPO file may hold a single JPEG
    if extension in own:
        return None
    return f"a {file_format} file {f'with the extension {extension}' if extension else 'without an extension'}"


def upright_rgb(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of a decoded image, and convert it to RGB.

    Raises:
        BadImageError: It has values outside of the range that its file's format defines.
    """
    deep = deep_images.value_range(image)  # before the rotation, which loses the file's tags
    image = _upright(image)
    return _rgb(image if deep is None else deep_images.eight_bits(image, deep))


def _upright(image: Image.Image) -> Image.Image:
    # A broken EXIF block does not make the image unusable
    with contextlib.suppress(Exception):
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else exif_transpose would copy it
            return ImageOps.exif_transpose(image)
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns that the palette's transparency is lost
    return image if image.mode == "RGB" else image.convert("RGB")


def reason(path: str | Path, error: Exception) -> str:
    """Describe in a few words why a file could not be read as an image."""
    if isinstance(error, UnidentifiedImageError):
        with contextlib.suppress(OSError):
            if files.regular_size(path) == 0:
                return "empty file"
            with files.open_regular(path) as file:
                if file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                    return "unsupported kind of TIFF, such as colour in floats; save it with 8 or 16 bits per channel"
        return f"not an image in a supported format ({', '.join(FORMATS)})"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        pixels = re.search(r"(\d+) pixels", str(error))  # the message has no width and height
        return _too_large(f"{int(pixels[1]):,}" if pixels else "too many")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(error).splitlines()[0] if str(error) else ""
    if "MAX_TEXT" in text:  # Pillow's limit for unpacked metadata, a constant of its own
        return "its metadata (text or colour profile) is larger than 1 MB; save it without metadata"
    return type(error).__name__ if text in ("", "[Errno None] None") else text


def _too_large(pixels: str) -> str:
    return f"too large: {pixels} pixels, at most {_most_pixels:,}; raise the limit with --max-pixels"
