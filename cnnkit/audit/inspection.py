"""Inspection of one file: whether it is an intact image, and its measurable properties apart from its content."""

import statistics
from dataclasses import dataclass
from io import BufferedReader

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit import files
from cnnkit.audit import exif
from cnnkit.audit.exif import Exif
from cnnkit.audit.record import FindingKind
from cnnkit.data import decode, deep_images, duplicates
from cnnkit.errors import BadImageError

#: Width of the border, as a share of the shorter side.
_BORDER = 1 / 32

#: Values whose range is at most this count as one colour.
_NO_CONTRAST = 4

#: A share of the range below this is narrow: 12-bit values stored in 16 bits use a sixteenth.
_NARROW = 1 / 8

#: The luminance table of quality 50, which the encoder of the Independent JPEG Group, and nearly all others, scale.
#: Source: ITU-T T.81, table K.1, in the order of its rows.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


@dataclass(frozen=True, slots=True)
class InspectedImage:
    """The properties of an image file; sizes are those of the upright image, colours are from 0 to 255."""

    digest: bytes  # sha256 of the file's bytes
    look: bytes  # the perceptual hash, as `duplicates.perceptual_hash` gives it
    width: int
    height: int
    size: int  # of the file, in bytes
    format: str
    mode: str  # the mode of Pillow
    plain: bool  # whether all pixels have the same colour
    narrow: str | None  # the range used, if an image of more than 8 bits uses only a small share of it
    mean: tuple[float, ...]  # (3,): red, green, blue
    border: tuple[float, ...]  # (12,): the same for the top, bottom, left and right edge
    quality: int | None  # of a JPEG, 1 to 100
    exif: Exif
    misnamed: str | None = None  # how the extension contradicts the content


class Unusable(BadImageError):
    """A file that cannot be read as an image, and the kind of error."""

    def __init__(self, kind: FindingKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def inspect(path: str) -> InspectedImage:
    """Read a file once, decode it to the end, and measure it.

    Raises:
        Unusable: `decode.load` could not read it.
    """
    try:
        with files.open_regular(path) as file:
            if not files.size_of(file):
                raise Unusable(FindingKind.EMPTY, "empty file")
            return _inspected(path, file)
    except BadImageError as error:
        if isinstance(error, Unusable):
            raise
        unreadable = isinstance(error.__cause__, OSError) and error.__cause__.errno is not None  # decoders set none
        raise Unusable(FindingKind.UNREADABLE if unreadable else FindingKind.BROKEN, str(error)) from error
    except OSError as error:
        raise Unusable(FindingKind.UNREADABLE, decode.reason(path, error)) from error


def _inspected(path: str, file: BufferedReader) -> InspectedImage:
    with decode.opened(path, file) as image:
        file_format = str(image.format)
        decode.load_pixels(image, path)
        mode, quality = image.mode, _quality(image)
        block = exif.read(image)
        narrow = _narrow(image)
        upright = decode.cropped(decode.upright_rgb(image), path)
        counts = _counts(upright)
    digest = decode.digest(file, path)
    return InspectedImage(
        digest=digest,
        look=duplicates.perceptual_hash(upright),
        width=upright.width,
        height=upright.height,
        size=file.tell(),
        format="JPEG" if file_format == "MPO" else file_format,
        mode=mode,
        plain=all(np.ptp(np.flatnonzero(each)) <= _NO_CONTRAST for each in counts),
        narrow=narrow,
        mean=_colour(counts),
        border=tuple(value for edge in _edges(upright) for value in _colour(_counts(edge))),
        quality=quality,
        exif=block,
        misnamed=decode.misnamed(path, file_format),
    )


def _counts(image: Image.Image) -> NDArray[np.int64]:
    """Count the pixels of every value, (3, 256): enough for means and extremes, and fast even for 12 megapixels."""
    return np.array(image.histogram(), dtype=np.int64).reshape(3, 256)


def _narrow(image: Image.Image) -> str | None:
    deep = deep_images.value_range(image)
    if deep is None:
        return None
    share, text = deep.used(image)
    return text if 0 < share < _NARROW else None


def _colour(counts: NDArray[np.int64]) -> tuple[float, ...]:
    return tuple(float(value) for value in counts @ np.arange(256) / counts.sum(axis=1))


def _edges(image: Image.Image) -> tuple[Image.Image, ...]:
    """Crop the four edges: top, bottom, left, right."""
    width, height = image.size
    deep = max(1, round(min(image.size) * _BORDER))
    boxes = (
        (0, 0, width, deep),
        (0, height - deep, width, height),
        (0, 0, deep, height),
        (width - deep, 0, width, height),
    )
    return tuple(image.crop(box) for box in boxes)


def _quality(image: Image.Image) -> int | None:
    """Estimate the quality of a JPEG from the scale of its luminance table.

    Source: `jpeg_quality_scaling` in jcparam.c of the Independent JPEG Group, solved for the quality. Other tables get the quality whose
    table is about as coarse.
    """
    table: list[int] | None = getattr(image, "quantization", {}).get(0)
    if not table or len(table) != 64:
        return None
    known = [value for row in _LUMINANCE for value in row]
    # Small entries are rounded and large ones clipped at 255: the median of the ratios is robust to both
    ratios = [100 * here / base for here, base in zip(sorted(table), sorted(known), strict=True) if here < 255]
    scale = statistics.median(ratios or [5000.0])
    quality = (200 - scale) / 2 if scale <= 100 else 5000 / scale
    return max(1, min(100, round(quality)))
