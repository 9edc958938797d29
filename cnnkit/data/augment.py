"""The augmentation notation, and from it the numbers of each copy of a picture: draws and matrices, no pixels.

    rotate 40, shift 0.2, shear 0.2, zoom 0.2, hflip, vflip, crop 0.8,
    brightness 0.2, contrast 0.2, saturation 0.2, hue 0.05, blur 1, noise 0.02, fill nearest

Words in any order, separated by commas or new lines; `#` begins a comment; `@file` reads a file. What a copy gets is drawn evenly from

    rotate D        -D to D degrees
    shift S         -S to S of the width, and of the height
    shear S         -S to S: by how many pixels a row slides for each pixel that it lies off the centre. 0.2 leans by 11 degrees
    zoom Z          1-Z to 1+Z of the width, and of the height, are seen: below 1 things get larger, as in Keras
    hflip, vflip    mirrored, or not: one half each
    crop S          a window with sides of S to 1 of the picture's, anywhere in it, is made as large as the picture
    brightness B, contrast C, saturation S      factors 1-B to 1+B, as torchvision's ColorJitter has them
    hue H           -H to H of the colour circle
    blur P          a Gaussian of 0 to P pixels' deviation
    noise N         Gaussian noise of a deviation of N, where white is 1; the noise itself is drawn, not its strength
    fill MODE       what lies outside of the picture: nearest aaaa|abcd|dddd, constant (black), reflect dcba|abcd|dcba, wrap abcd|abcd|abcd

as Keras' ImageDataGenerator has them; but Keras counts shear in degrees, where the usual 0.2 does nothing to be seen.

The picture is turned, sheared, zoomed, shifted, cropped and mirrored, in this order, then blurred; then its colours are changed, and
noise comes last. All geometry is one matrix, so that pixels are interpolated once.

The random numbers of a copy derive from the seed, the picture's content and the number of the copy: not from its name, the order of
work, or what other pictures there are. Each word has a place of its own among them, so a word that is added changes none of the others.
"""

import hashlib
import math
import re
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import spelling
from cnnkit.data import images
from cnnkit.errors import BadPicture, NotationError


class Fill(StrEnum):
    """What lies outside of a picture, by Keras' names."""

    NEAREST = "nearest"  # aaaa|abcd|dddd
    CONSTANT = "constant"  # 0000|abcd|0000
    REFLECT = "reflect"  # dcba|abcd|dcba
    WRAP = "wrap"  # abcd|abcd|abcd


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What may become of a picture: one field for each word of the notation; `str` writes it as notation again."""

    rotate: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    hflip: bool = False
    vflip: bool = False
    crop: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    fill: Fill = Fill.NEAREST

    def __str__(self) -> str:
        """Write the notation out, for a Header: the same text for the same augmentation, whatever file it came from."""
        said = [field for field in fields(self) if getattr(self, field.name) != field.default]
        words = [_word(field.name, getattr(self, field.name)) for field in said if field.name != "fill"]
        return ", ".join([*words, f"fill {self.fill}"] if said else words)

    @property
    def identity(self) -> bool:
        """Whether every copy is the picture itself."""
        return self == Augmentation(fill=self.fill)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The numbers of one copy, named by the words that they are drawn for; the defaults leave the picture alone."""

    rotate: float = 0.0  # degrees, counter-clockwise
    shift_x: float = 0.0  # shares of the width, to the right
    shift_y: float = 0.0  # shares of the height, downwards
    shear: float = 0.0  # pixels to the right for each pixel above the centre
    zoom_x: float = 1.0  # shares of the width that are seen
    zoom_y: float = 1.0
    hflip: bool = False
    vflip: bool = False
    crop_x: float = 0.0  # the window's left edge, in shares of the width
    crop_y: float = 0.0
    crop_width: float = 1.0
    crop_height: float = 1.0
    brightness: float = 1.0  # factors
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0  # turns of the colour circle
    blur: float = 0.0  # deviation in pixels
    noise: float = 0.0  # deviation, where white is 1
    noise_seed: int = 0

    @property
    def resamples(self) -> bool:
        """Whether pixels come to lie between pixels; mirroring alone does not do that."""
        slid = any((self.rotate, self.shift_x, self.shift_y, self.shear))
        return slid or any(side != 1 for side in (self.zoom_x, self.zoom_y, self.crop_width, self.crop_height))


# ---------------------------------------------------------------- the notation

#: For each word with a number: the least and the most that it takes, and an example. What is beyond them is a slip of the pen.
_NUMBERS: dict[str, tuple[float, float, str]] = {
    "rotate": (0, 180, "rotate 40"),
    "shift": (0, 1, "shift 0.2"),
    "shear": (0, 2, "shear 0.2"),
    "zoom": (0, 0.95, "zoom 0.2"),
    "crop": (0.05, 1, "crop 0.8"),
    "brightness": (0, 10, "brightness 0.2"),
    "contrast": (0, 10, "contrast 0.2"),
    "saturation": (0, 10, "saturation 0.2"),
    "hue": (0, 0.5, "hue 0.05"),
    "blur": (0, 50, "blur 1"),
    "noise": (0, 1, "noise 0.02"),
}
_FLAGS = ("hflip", "vflip")
_WORDS = (*_NUMBERS, *_FLAGS, "fill")

# What other libraries call our words; for proposals only.
_FOREIGN = {
    **dict.fromkeys(("rotation", "rotation_range", "randomrotation"), "rotate"),
    **dict.fromkeys(("translate", "width_shift_range", "height_shift_range", "randomtranslation"), "shift"),
    **dict.fromkeys(("flip", "horizontal_flip", "randomhorizontalflip", "randomflip", "mirror", "fliplr"), "hflip"),
    **dict.fromkeys(("vertical_flip", "randomverticalflip", "flipud"), "vflip"),
    **dict.fromkeys(("scale", "zoom_range", "randomzoom"), "zoom"),
    **dict.fromkeys(("randomresizedcrop", "randomcrop"), "crop"),
    "shear_range": "shear",
    "fill_mode": "fill",
    "gaussianblur": "blur",
    "brightness_range": "brightness",
}


def parse(text: str) -> Augmentation:
    """Read the notation.

    Args:
        text: The words, or `@` and the name of a file that holds them. Empty text leaves pictures alone.

    Raises:
        NotationError: A word is unknown, lacks its number, is out of range or said twice. Words are counted with their numbers.
    """
    return spelling.read(text, _parse, holds="words of augmentation, one a line")


def _parse(text: str) -> Augmentation:
    said: dict[str, Any] = {}
    items = [item.split() for item in spelling.bare(text).split(",") if item.strip()]
    for number, (word, *rest) in enumerate(items, start=1):
        try:
            value = _value(word, rest)
            if word in said:
                raise NotationError(f'"{word}" is said twice')
        except NotationError as flaw:
            raise NotationError(f"augmentation word {number}: {flaw}") from None
        said[word] = value
    return Augmentation(**said)


def _value(word: str, rest: list[str]) -> float | bool | Fill:
    """Read what stands behind a word."""
    if word not in _WORDS:
        near = spelling.proposal(word, _WORDS, foreign=_FOREIGN)
        raise NotationError(f'"{word}" is no augmentation{near or "; there are " + ", ".join(_WORDS)}')
    wanted = 0 if word in _FLAGS else 1
    stray = next((other for other in rest[wanted:] if other in _WORDS), None)
    if stray:
        raise NotationError(f'a comma is missing before "{stray}"')
    if word in _FLAGS:
        if rest:
            raise NotationError(f'"{word} {rest[0]}": {word} takes no number; it happens to one half of the copies')
        return True
    example = "fill nearest" if word == "fill" else _NUMBERS[word][2]
    if len(rest) != 1 or rest[0] in _WORDS:
        lack = (
            f"has {len(rest)} numbers" if len(rest) > 1 else "lacks its mode" if word == "fill" else "lacks its number"
        )
        raise NotationError(f'"{word}" {lack}; write "{example}"')
    return _fill(rest[0]) if word == "fill" else _number(word, rest[0])


def _fill(mode: str) -> Fill:
    if mode not in list(Fill):
        near = spelling.proposal(
            mode, list(Fill), foreign={"mirror": "reflect", "edge": "nearest", "black": "constant"}
        )
        raise NotationError(f'"fill {mode}": there are {", ".join(Fill)}{near}')
    return Fill(mode)


def _number(word: str, digits: str) -> float:
    least, most, _ = _NUMBERS[word]
    if not re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", digits) or not least <= float(digits) <= most:
        hint = "; 0.2 leans by 11 degrees" if word == "shear" else ""
        raise NotationError(f'"{word} {digits}": give a number from {least:g} to {most:g}{hint}')
    return float(digits)


def _word(name: str, value: float | bool) -> str:
    return name if value is True else f"{name} {str(value).removesuffix('.0')}"


# ---------------------------------------------------------------- the numbers of a copy


def fingerprint(path: str | Path) -> str:
    """Identify a picture by its file's content, for its random numbers: names, folders and neighbours do not matter.

    Returns:
        The sha256 of the bytes, in hexadecimal.

    Raises:
        BadPicture: The file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadPicture(images.reason(path, error)) from error


#: Of the numbers of a copy: a hundredth of a pixel in a picture of a hundred.
_DECIMALS = 4

# Where each number stands among the random ones of a copy. New words take new places: then old copies stay what they are.
_PLACES = {
    name: place
    for place, name in enumerate(
        (
            *("rotate", "shift_x", "shift_y", "shear", "zoom_x", "zoom_y", "hflip", "vflip"),
            *("crop_x", "crop_y", "crop_width", "crop_height", "brightness", "contrast", "saturation", "hue"),
            *("blur", "noise_seed"),
        )
    )
}


def draw(augmentation: Augmentation, *, seed: int, picture: str, copy: int) -> Draw:
    """Draw the numbers of one copy.

    Args:
        augmentation: From which ranges.
        seed: Another number gives other copies.
        picture: Its fingerprint.
        copy: Which copy it is; in training, the epoch.

    Returns:
        Numbers of few decimals: what a table shows is what was done.
    """
    key = hashlib.blake2b(f"{seed}:{copy}:{picture}".encode("utf-8", "surrogateescape"), digest_size=16).digest()
    # The raw stream, which numpy will not change: 53 bits of each word, 0 <= share < 1
    raw = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(len(_PLACES))
    shares = dict(zip(_PLACES, ((raw >> np.uint64(11)) * 2.0**-53).tolist(), strict=True))

    def around(middle: float, spread: float, name: str, *, least: float = -math.inf) -> float:
        low, high = max(least, middle - spread), middle + spread
        return round(low + (high - low) * shares[name], _DECIMALS) if spread else middle

    crop_width, crop_height = (
        round(1 - (1 - augmentation.crop) * shares[name], _DECIMALS) for name in ("crop_width", "crop_height")
    )
    return Draw(
        rotate=around(0.0, augmentation.rotate, "rotate"),
        shift_x=around(0.0, augmentation.shift, "shift_x"),
        shift_y=around(0.0, augmentation.shift, "shift_y"),
        shear=around(0.0, augmentation.shear, "shear"),
        zoom_x=around(1.0, augmentation.zoom, "zoom_x"),
        zoom_y=around(1.0, augmentation.zoom, "zoom_y"),
        hflip=augmentation.hflip and shares["hflip"] < 0.5,
        vflip=augmentation.vflip and shares["vflip"] < 0.5,
        crop_x=round((1 - crop_width) * shares["crop_x"], _DECIMALS),
        crop_y=round((1 - crop_height) * shares["crop_y"], _DECIMALS),
        crop_width=crop_width,
        crop_height=crop_height,
        brightness=around(1.0, augmentation.brightness, "brightness", least=0.0),
        contrast=around(1.0, augmentation.contrast, "contrast", least=0.0),
        saturation=around(1.0, augmentation.saturation, "saturation", least=0.0),
        hue=around(0.0, augmentation.hue, "hue"),
        blur=round(augmentation.blur * shares["blur"], _DECIMALS),
        noise=augmentation.noise,
        noise_seed=int(shares["noise_seed"] * 2**32) if augmentation.noise else 0,
    )


def noise(draw: Draw, *, height: int, width: int) -> NDArray[np.float32]:
    """Draw the noise of a copy: normal, of deviation 1.

    Returns:
        Shape (height, width, 3).
    """
    generator = np.random.Generator(np.random.Philox(key=draw.noise_seed))
    return generator.standard_normal((height, width, 3), dtype=np.float32)


def matrix(draw: Draw, *, height: int, width: int) -> NDArray[np.float64]:
    """Compose the geometry of a copy: where in the picture each pixel of the copy comes from.

    Pixels are counted from 0, (x, y) at their centres. Read from the right, it undoes what was done to the picture from the last step back:

        (x, y, 1) in the picture = turn · shear · zoom · shift · crop · mirror · (x, y, 1) in the copy

    Returns:
        Shape (3, 3).
    """
    turn = math.radians(draw.rotate)
    cos, sin = math.cos(turn), math.sin(turn)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    # From pixels of the copy to pixels around the centre: mirrored, cropped (whose edges are half a pixel outside), shifted
    scale_x, scale_y = draw.crop_width, draw.crop_height
    start_x = (draw.crop_x - draw.shift_x) * width + (scale_x - 1) / 2 - centre_x
    start_y = (draw.crop_y - draw.shift_y) * height + (scale_y - 1) / 2 - centre_y
    if draw.hflip:
        scale_x, start_x = -scale_x, start_x + scale_x * (width - 1)
    if draw.vflip:
        scale_y, start_y = -scale_y, start_y + scale_y * (height - 1)
    placed = np.array([[scale_x, 0, start_x], [0, scale_y, start_y], [0, 0, 1]])
    # y points down: counter-clockwise as it is seen takes a pixel of the copy from (cos x - sin y, sin x + cos y)
    around = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    around = around @ np.array([[1, draw.shear, 0], [0, 1, 0], [0, 0, 1]]) @ np.diag([draw.zoom_x, draw.zoom_y, 1])
    centred = np.array([[1, 0, centre_x], [0, 1, centre_y], [0, 0, 1]])
    composed: NDArray[np.float64] = centred @ around @ placed  # (3, 3)
    return composed
