"""Random parameters of each augmented copy, and its affine matrix; no pixels. The notation: augment_notation.py.

The image is rotated, sheared, zoomed, shifted, cropped and mirrored, in this order, then blurred; then its colours are changed, and
noise is added. All geometry is one matrix, so that pixels are interpolated once. The operations of a policy follow, one after the
other, each on rounded pixels; a rectangle is erased at the end.

The random numbers of a copy derive from the seed, the image's content and the number of the copy: not from its name, the order of
work, or the other images. Each word has a place of its own among them, so adding a word changes none of the others.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnkit.data import augment_policies
from cnnkit.data.augment_notation import Augmentation
from cnnkit.data.augment_policies import PolicyStep


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentParams:
    """Parameters of one copy, named after the words of the notation; the defaults leave the image unchanged."""

    rotate: float = 0.0  # degrees, counter-clockwise
    shift_x: float = 0.0  # to the right, relative to the width
    shift_y: float = 0.0  # downwards, relative to the height
    shear: float = 0.0  # pixels to the right for each pixel above the centre
    zoom_x: float = 1.0  # visible share of the width
    zoom_y: float = 1.0
    hflip: bool = False
    vflip: bool = False
    crop_x: float = 0.0  # left edge of the window, relative to the width
    crop_y: float = 0.0
    crop_width: float = 1.0
    crop_height: float = 1.0
    brightness: float = 1.0  # factors
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0  # rotation of the colour circle, 1 is a full turn
    blur: float = 0.0  # standard deviation in pixels
    noise: float = 0.0  # standard deviation, where white is 1
    noise_seed: int = 0
    randaugment: tuple[PolicyStep, ...] = ()
    trivialaugment: tuple[PolicyStep, ...] = ()
    erase: bool = False
    erase_seed: int = 0  # of the rectangle, which depends on the size of the image: `erased_box`

    @property
    def resamples(self) -> bool:
        """Whether pixels have to be interpolated; mirroring alone does not need that."""
        slid = any((self.rotate, self.shift_x, self.shift_y, self.shear))
        return slid or any(side != 1 for side in (self.zoom_x, self.zoom_y, self.crop_width, self.crop_height))


#: Significant digits of the parameters: the rounding is less than a hundredth of a pixel, even in the widest image.
_DIGITS = 6

# The place of each parameter in a copy's random stream. New words take new places at the end, so that old copies do not change.
_PLACES = {
    name: place
    for place, name in enumerate(
        (
            *("rotate", "shift_x", "shift_y", "shear", "zoom_x", "zoom_y", "hflip", "vflip"),
            *("crop_x", "crop_y", "crop_width", "crop_height", "brightness", "contrast", "saturation", "hue"),
            *("blur", "noise_seed", "policy", "erase", "erase_seed"),
        )
    )
}


def draw_params(augmentation: Augmentation, *, seed: int, image: str, copy: int) -> AugmentParams:
    """Draw the parameters of one copy.

    Args:
        augmentation: The ranges.
        seed: Of the random numbers.
        image: The image's fingerprint, from `decode.read`.
        copy: Number of the copy; in training, the epoch.

    Returns:
        Parameters rounded to a few digits, so that a table shows the exact values.
    """
    key = hashlib.blake2b(f"{seed}:{copy}:{image}".encode("utf-8", "surrogateescape"), digest_size=16).digest()
    shares = dict(zip(_PLACES, _shares(int.from_bytes(key, "little"), len(_PLACES)), strict=True))

    def around(middle: float, spread: float, name: str, *, least: float = -math.inf) -> float:
        low, high = max(least, middle - spread), middle + spread
        return _short(low + (high - low) * shares[name]) if spread else middle

    crop_width, crop_height = (
        _short(1 - (1 - augmentation.crop) * shares[name]) for name in ("crop_width", "crop_height")
    )
    erase = shares["erase"] < augmentation.erase
    return AugmentParams(
        rotate=around(0.0, augmentation.rotate, "rotate"),
        shift_x=around(0.0, augmentation.shift, "shift_x"),
        shift_y=around(0.0, augmentation.shift, "shift_y"),
        shear=around(0.0, augmentation.shear, "shear"),
        zoom_x=around(1.0, augmentation.zoom, "zoom_x"),
        zoom_y=around(1.0, augmentation.zoom, "zoom_y"),
        hflip=augmentation.hflip and shares["hflip"] < 0.5,
        vflip=augmentation.vflip and shares["vflip"] < 0.5,
        crop_x=_short((1 - crop_width) * shares["crop_x"]),
        crop_y=_short((1 - crop_height) * shares["crop_y"]),
        crop_width=crop_width,
        crop_height=crop_height,
        brightness=around(1.0, augmentation.brightness, "brightness", least=0.0),
        contrast=around(1.0, augmentation.contrast, "contrast", least=0.0),
        saturation=around(1.0, augmentation.saturation, "saturation", least=0.0),
        hue=around(0.0, augmentation.hue, "hue"),
        blur=_short(augmentation.blur * shares["blur"]),
        noise=augmentation.noise,
        noise_seed=int(shares["noise_seed"] * 2**32) if augmentation.noise else 0,
        randaugment=_randaugment(augmentation, seed=_seed(shares["policy"])),
        trivialaugment=_trivialaugment(augmentation, seed=_seed(shares["policy"])),
        erase=erase,
        erase_seed=int(shares["erase_seed"] * 2**32) if erase else 0,
    )


def _shares(key: int, count: int) -> list[float]:
    """Draw numbers, 0 <= share < 1, from the raw stream, which is stable across numpy versions: 53 bits of each word."""
    raw = np.random.Philox(key=key).random_raw(count)
    return ((raw >> np.uint64(11)) * 2.0**-53).tolist()  # type: ignore[no-any-return] # tolist is typed as Any


def _seed(share: float) -> int:
    """Return the seed of further numbers: they differ for any two shares."""
    return int(share * 2**53)


def _short(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")


def _randaugment(augmentation: Augmentation, *, seed: int) -> tuple[PolicyStep, ...]:
    if augmentation.randaugment is None:
        return ()
    count, level = augmentation.randaugment
    return augment_policies.randaugment(count, level, shares=_shares(seed, 2 * count))


def _trivialaugment(augmentation: Augmentation, *, seed: int) -> tuple[PolicyStep, ...]:
    return augment_policies.trivialaugment(shares=_shares(seed, 3)) if augmentation.trivialaugment else ()


#: Shares of the image's area that may be erased, and ratios of height and width, as torchvision's RandomErasing.
_ERASED_AREA, _ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
#: How often a rectangle is drawn that does not fit into the image, before nothing is erased.
_ERASE_ATTEMPTS = 10


def erased_box(draw: AugmentParams, *, height: int, width: int) -> tuple[slice, slice] | None:
    """Draw the rectangle that is erased in a copy.

    Its area is uniform from 0.02 to 0.33 of the image's, the logarithm of its ratio of height and width uniform from that of 0.3 to
    that of 3.3, and its place uniform within the image.

    Returns:
        Its rows and columns; None if the copy is not erased, or if no rectangle was drawn that is smaller than the image.

    Source: Zhong et al. 2020, Random Erasing, Algorithm 1; torchvision's RandomErasing.
    """
    if not draw.erase:
        return None
    shares = iter(_shares(draw.erase_seed, 4 * _ERASE_ATTEMPTS))
    least, most = map(math.log, _ERASED_RATIO)
    for size, ratio, down, across in zip(shares, shares, shares, shares, strict=True):
        area = height * width * (_ERASED_AREA[0] + (_ERASED_AREA[1] - _ERASED_AREA[0]) * size)
        aspect = math.exp(least + (most - least) * ratio)
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rows < height and columns < width:
            top, left = int(down * (height - rows + 1)), int(across * (width - columns + 1))
            return slice(top, top + rows), slice(left, left + columns)
    return None


def noise(
    draw: AugmentParams, *, height: int, width: int, rows: Iterable[int] | None = None
) -> Iterator[NDArray[np.float32]]:
    """Draw the noise of a copy: normal, standard deviation 1.

    Args:
        draw: Parameters of the copy.
        height: Of the image.
        width: Of the image.
        rows: Number of rows of each piece; by default one piece.

    Yields:
        Shape (rows, width, 3); concatenated, the pieces are the same noise for any `rows`.
    """
    generator = np.random.Generator(np.random.Philox(key=draw.noise_seed))
    for count in rows or [height]:
        yield generator.standard_normal((count, width, 3), dtype=np.float32)


def affine_matrix(draw: AugmentParams, *, height: int, width: int) -> NDArray[np.float64]:
    """Compose the affine matrix of a copy, from pixels of the copy to pixels of the image.

    Pixels are counted from 0, (x, y) at their centres. From right to left, the steps are undone from the last to the first:

        (x, y, 1) in the image = rotate · shear · zoom · shift · crop · mirror · (x, y, 1) in the copy

    Returns:
        Shape (3, 3).
    """
    turn = math.radians(draw.rotate)
    cos, sin = math.cos(turn), math.sin(turn)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    # From pixels of the copy to pixels relative to the centre: mirror, crop (its edges are half a pixel outside), shift
    scale_x, scale_y = draw.crop_width, draw.crop_height
    start_x = (draw.crop_x - draw.shift_x) * width + (scale_x - 1) / 2 - centre_x
    start_y = (draw.crop_y - draw.shift_y) * height + (scale_y - 1) / 2 - centre_y
    if draw.hflip:
        scale_x, start_x = -scale_x, start_x + scale_x * (width - 1)
    if draw.vflip:
        scale_y, start_y = -scale_y, start_y + scale_y * (height - 1)
    placed = np.array([[scale_x, 0, start_x], [0, scale_y, start_y], [0, 0, 1]])
    # y points down: for a counter-clockwise rotation a pixel of the copy comes from (cos x - sin y, sin x + cos y)
    around = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    around = around @ np.array([[1, draw.shear, 0], [0, 1, 0], [0, 0, 1]]) @ np.diag([draw.zoom_x, draw.zoom_y, 1])
    centred = np.array([[1, 0, centre_x], [0, 1, centre_y], [0, 0, 1]])
    composed: NDArray[np.float64] = centred @ around @ placed  # (3, 3)
    return composed


def flip_and_crop(image: NDArray[np.uint8], draw: AugmentParams) -> NDArray[np.uint8]:
    """Apply the flips and the crop of a copy; other parameters are ignored.

    A window is resized to the image's size by bilinear interpolation: the result of `engine.resample` with `fill nearest`, except for
    the rounding of single values. Without a crop the copy is exact.

    Args:
        image: (height, width, 3).
        draw: Parameters of the copy.

    Returns:
        (height, width, 3).
    """
    if not draw.resamples:
        return image[:: -1 if draw.vflip else 1, :: -1 if draw.hflip else 1]
    height, width, _ = image.shape
    matrix = affine_matrix(
        draw, height=height, width=width
    )  # rows and columns are independent: there is no rotation and no shear
    by_rows = _interpolated(image.astype(np.float32), 0, scale=matrix[1, 1], start=matrix[1, 2])
    values = _interpolated(by_rows, 1, scale=matrix[0, 0], start=matrix[0, 2])
    return np.rint(values).astype(np.uint8)


def _interpolated(pixels: NDArray[np.float32], axis: int, *, scale: float, start: float) -> NDArray[np.float32]:
    """Interpolate at start + scale * i along an axis, for every i; beyond the edge, take the last pixel."""
    side = pixels.shape[axis]
    places = np.clip(start + scale * np.arange(side), 0, side - 1)
    before = places.astype(np.int64)
    share = (places - before).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    first: NDArray[np.float32] = pixels.take(before, axis=axis)
    second: NDArray[np.float32] = pixels.take(np.minimum(before + 1, side - 1), axis=axis)
    second -= first
    second *= share
    second += first
    return second
