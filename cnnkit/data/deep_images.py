"""Grey images of more than 8 bits, or of signed values: their range, and their conversion to 8 bits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit.errors import BadImageError

#: TIFF tags of the meaning of pixel values, and two of their values.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _SMIN, _SMAX = 258, 262, 339, 340, 341
_WHITE_IS_ZERO, _SIGNED = 0, 2

#: Rounding error that is allowed for floats outside of their range, relative to the range.
_ROUNDING = 1e-4

#: Pixels of a deep grey image that are converted at once.
_PIXELS_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True)
class ValueRange:
    """Values of black and white in a deep or signed grey image: from its file's tags and its bit depth, never from its values."""

    black: float
    white: float
    kind: str  # for messages
    unsigned: bool = False  # Pillow reads unsigned 32-bit values as signed

    def used(self, image: Image.Image) -> tuple[float, str]:
        """Return the share of the range that an image uses, and a description of it."""
        stored = self._stored(image)
        low, high = float(stored.min()), float(stored.max())
        of = sorted((self.black, self.white))
        return (high - low) / abs(
            self.white - self.black
        ), f"{self.kind} from {low:g} to {high:g} of {of[0]:g} to {of[1]:g}"

    def values(self, image: Image.Image) -> NDArray[np.float64]:
        """Return the values as stored in the file, (H, W)."""
        return self._stored(image).astype(np.float64)

    def _stored(self, image: Image.Image) -> NDArray[Any]:
        values = np.asarray(image)
        if image.mode == "L":
            return values.view(np.int8)
        return values.view(np.uint32) if self.unsigned else values


def value_range(image: Image.Image) -> ValueRange | None:
    """Return the value range of a grey image of more than 8 bits, or of signed ones; None for all others.

    The white of integers is the maximum of their bit depth, not their largest value: two images of one camera stay comparable.
    Floats range from 0 to 1, unless a TIFF gives another range (SMinSampleValue, SMaxSampleValue).

    Raises:
        BadImageError: The range in a TIFF's tags is empty.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits, sample = _first(tags.get(_BITS), 16), _first(tags.get(_SAMPLE_FORMAT), 1)
    signed_bytes = image.mode == "L" and sample == _SIGNED  # Pillow reads them as unsigned
    if image.mode != "F" and not image.mode.startswith("I") and not signed_bytes:
        return None
    if image.mode == "F":
        low, high = _first(tags.get(_SMIN), 0.0), _first(tags.get(_SMAX), 1.0)
        black, white, kind = float(low), float(high), "floats"
        if not black < white:  # NaN too
            raise BadImageError(f"invalid range {low:g} to {high:g} in its tags SMinSampleValue and SMaxSampleValue")
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
    """Scale a grey image of more than 8 bits to the range 0 to 255; convert("L") would clip everything above 255 to white.

    Raises:
        BadImageError: A value is outside of its range.
    """
    values = found.values(image)
    low, high = sorted((found.black, found.white))
    slack = _ROUNDING * (high - low) if image.mode == "F" else 0.0
    if values.size and not (values.min() >= low - slack and values.max() <= high + slack):  # NaN fails both
        known = values[~np.isnan(values)]
        found_range = f"from {known.min():g} to {known.max():g}" if known.size else "that are all NaN"
        raise BadImageError(
            f"{found.kind} {found_range}{', some of them NaN' if 0 < known.size < values.size else ''}; "
            f"expected values from {low:g} to {high:g}: rescale the image"
        )
    shares = (values - found.black) / (found.white - found.black)
    return Image.fromarray(np.clip(shares * 255.0 + 0.5, 0, 255).astype(np.uint8))


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert a deep grey image strip by strip: at once, its floats would take thirty bytes per pixel."""
    rows = max(1, _PIXELS_AT_ONCE // max(image.width, 1))
    if rows >= image.height:
        return convert(image)
    whole = Image.new("L", image.size)
    for top in range(0, image.height, rows):
        whole.paste(convert(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return whole


def eight_bits(image: Image.Image, found: ValueRange) -> Image.Image:
    """Scale a grey image of more than 8 bits to the range 0 to 255.

    Raises:
        BadImageError: A value is outside of its range.
    """
    return _by_strips(image, lambda strip: _eight_bits(strip, found))
