"""The augmentation notation: what may become of an image, in words.

    rotate 40, shift 0.2, shear 0.2, zoom 0.2, hflip, vflip, crop 0.8,
    brightness 0.2, contrast 0.2, saturation 0.2, hue 0.05, blur 1, noise 0.02, fill nearest

Words in any order, separated by commas or new lines; `#` begins a comment; `@file` reads a file. What a copy gets is drawn evenly from

    rotate D        -D to D degrees
    shift S         -S to S of the width, and of the height
    shear S         -S to S: by how many pixels a row slides for each pixel that it lies off the centre. 0.2 leans by 11 degrees
    zoom Z          1-Z to 1+Z of the width, and of the height, are seen: below 1 things get larger, as in Keras
    hflip, vflip    mirrored, or not: one half each
    crop S          a window with sides of S to 1 of the image's, anywhere in it, is made as large as the image
    brightness B, contrast C, saturation S      factors 1-B to 1+B, as torchvision's ColorJitter has them
    hue H           -H to H of the colour circle
    blur P          a Gaussian of 0 to P pixels' deviation
    noise N         Gaussian noise of a deviation of N, where white is 1; the noise itself is drawn, not its strength
    fill MODE       what lies outside of the image: nearest aaaa|abcd|dddd, constant (black), reflect dcba|abcd|dcba, wrap abcd|abcd|abcd

as Keras' ImageDataGenerator has them; but Keras counts shear in degrees, where the usual 0.2 does nothing to be seen.
"""

import re
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from cnnkit import messages, notation_text
from cnnkit.errors import NotationError, UsageError


class Fill(StrEnum):
    """What lies outside of an image, by Keras' names."""

    NEAREST = "nearest"  # aaaa|abcd|dddd
    CONSTANT = "constant"  # 0000|abcd|0000
    REFLECT = "reflect"  # dcba|abcd|dcba
    WRAP = "wrap"  # abcd|abcd|abcd


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What may become of an image: one field for each word of the notation; `str` writes it as notation again."""

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
        """Whether every copy is the image itself."""
        return self == Augmentation(fill=self.fill)

    @property
    def needs_no_resampling(self) -> bool:
        """Whether flips and crops are all that it does; `fill` is left out of account: they never look beyond the image."""
        return self == Augmentation(hflip=self.hflip, vflip=self.vflip, crop=self.crop, fill=self.fill)


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
        text: The words, or `@` and the name of a file that holds them. Empty text leaves images alone.

    Raises:
        NotationError: A word is unknown, lacks its number, is out of range or a duplicate. Words are counted with their numbers.
    """
    return notation_text.read(text, _parse, holds="words of augmentation, one a line")


def parse_required(text: str, *, option: str = "--augment") -> Augmentation:
    """Read the notation where something has to come of it: a variable of the shell that is not set gives an empty one.

    Args:
        text: As `parse`.
        option: Where it stood, for the message.

    Raises:
        UsageError: Every copy would be the image itself; or as `parse`.
    """
    augmentation = parse(text)
    if augmentation.identity:
        raise UsageError(
            f'{option} "{text}" changes nothing; say what may become of a picture, as in {option} "rotate 40, hflip"'
        )
    return augmentation


def _parse(text: str) -> Augmentation:
    said: dict[str, Any] = {}
    items = [item.split() for item in notation_text.bare(text).split(",") if item.strip()]
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
    """Read what comes after a word."""
    if word not in _WORDS:
        near = messages.proposal(word, _WORDS, foreign=_FOREIGN)
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
        near = messages.proposal(
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
