"""The EXIF block of an image: whether it is intact, the camera, the time and the orientation.

Pillow silently reads what it can of a broken block; this module reports that it is broken.
"""

import contextlib
import struct
from dataclasses import dataclass
from datetime import datetime

from PIL import ExifTags, Image

#: Bytes of one value of each type. Source: TIFF 6.0, section 2; the last two are from supplements of TIFF.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}


@dataclass(frozen=True, slots=True)
class Exif:
    """The contents of the block; None if a value is missing."""

    error: str | None = None  # why the block cannot be read; then all other fields are None
    orientation: int | None = None  # valid from 1 to 8
    camera: str | None = None  # make and model
    taken: float | None = None  # seconds since 1970 by the camera's clock


def read(image: Image.Image) -> Exif:
    """Read the block of an opened image."""
    block = image.info.get("exif")
    if isinstance(block, bytes) and (error := broken(block)):
        return Exif(error)
    tags: dict[int, object] = {}
    with contextlib.suppress(Exception):  # values of a kind that Pillow does not expect
        exif = image.getexif()
        tags = {**exif.get_ifd(ExifTags.IFD.Exif), **exif}
    orientation = tags.get(ExifTags.Base.Orientation)
    return Exif(None, orientation if isinstance(orientation, int) else None, _camera(tags), _taken(tags))


def broken(block: bytes) -> str | None:
    """Check the structure of a block: its header, its directories and the offsets of values; return the first error, or None.

    Source: TIFF 6.0, section 2, for the structure; CIPA DC-008 (Exif 2.3), 4.6.3, for the directory of the photograph.
    """
    content = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(content[:4])
    if order is None or len(content) < 8:
        return "no TIFF header"
    (first,) = struct.unpack_from(f"{order}I", content, 4)
    coming, visited = [first], {first}
    while coming:
        place = coming.pop()
        if place + 2 > len(content):
            return "a directory is beyond the end"
        (count,) = struct.unpack_from(f"{order}H", content, place)
        if place + 2 + 12 * count > len(content):
            return "a directory is cut short"
        for entry in range(count):
            tag, kind, values, offset = struct.unpack_from(f"{order}HHII", content, place + 2 + 12 * entry)
            size = _SIZES.get(kind, 0) * values
            if size > 4 and offset + size > len(content):
                return f"the value of tag {tag} is beyond the end"
            if tag == ExifTags.IFD.Exif:
                if offset in visited:
                    return "a directory leads back to itself"
                visited.add(offset)
                coming.append(offset)
    return None


def _camera(tags: dict[int, object]) -> str | None:
    words = (tags.get(ExifTags.Base.Make), tags.get(ExifTags.Base.Model))
    named = " ".join(word.strip(" \0") for word in words if isinstance(word, str)).strip()
    return named or None


def _taken(tags: dict[int, object]) -> float | None:
    text = tags.get(ExifTags.Base.DateTimeOriginal) or tags.get(ExifTags.Base.DateTime)
    with contextlib.suppress(ValueError):
        if isinstance(text, str):
            # No time zone: only differences matter, and they must not depend on where this runs
            return (datetime.strptime(text.strip(" \0"), "%Y:%m:%d %H:%M:%S") - datetime(1970, 1, 1)).total_seconds()
    return None
