"""The augmentation notation.

    rotate 40, shift 0.2, shear 0.2, zoom 0.2, hflip, vflip, crop 0.8,
    brightness 0.2, contrast 0.2, saturation 0.2, hue 0.05, blur 1, noise 0.02,
    randaugment 2 9, trivialaugment, erase 0.25, fill nearest

Words in any order, separated by commas or new lines; `#` begins a comment; `@file` reads a file. Each copy draws uniformly from

    rotate D        -D to D degrees
    shift S         -S to S of the width, and of the height
    shear S         -S to S pixels of horizontal shift per row of distance from the centre; 0.2 is 11 degrees
    zoom Z          1-Z to 1+Z of the width, and of the height, is visible: values below 1 enlarge, as in Keras
    hflip, vflip    mirrored, or not: one half each
    crop S          a random window with sides of S to 1 of the image's, resized to the image's size
    brightness B, contrast C, saturation S      factors 1-B to 1+B, as torchvision's ColorJitter
    hue H           -H to H of the colour circle
    blur P          a Gaussian with a standard deviation of 0 to P pixels
    noise N         Gaussian noise with a standard deviation of N, where white is 1; the noise is drawn, not its strength
    randaugment N M     N of 14 operations, at level M of 30, as torchvision's RandAugment(N, M)
    trivialaugment  one of 14 operations, at a level of 0 to 30, as torchvision's TrivialAugmentWide()
    erase P         with probability P a rectangle is black, as torchvision's RandomErasing(P)
    fill MODE       pixels outside of the image: nearest aaaa|abcd|dddd, constant (black), reflect dcba|abcd|dcba, wrap abcd|abcd|abcd

as Keras' ImageDataGenerator, except that Keras gives shear in degrees, where the usual 0.2 has no visible effect.
"""

import re
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from cnnkit import messages, notation_text
from cnnkit.data.augment_policies import MOST_LEVEL, MOST_OPERATIONS
from cnnkit.errors import NotationError, UsageError


class Fill(StrEnum):
    """Mode for pixels outside of an image, by Keras' names."""

    NEAREST = "nearest"  # aaaa|abcd|dddd
    CONSTANT = "constant"  # 0000|abcd|0000
    REFLECT = "reflect"  # dcba|abcd|dcba
    WRAP = "wrap"  # abcd|abcd|abcd


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Ranges of an augmentation, one field for each word of the notation; `str` writes the notation."""

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
    randaugment: tuple[int, int] | None = None  # number of operations, level
    trivialaugment: bool = False
    erase: float = 0.0
    fill: Fill = Fill.NEAREST

    def __str__(self) -> str:
        """Return the notation in its normal form, for a Header: equal augmentations give equal text."""
        given = [field for field in fields(self) if getattr(self, field.name) != field.default]
        words = [_word(field.name, getattr(self, field.name)) for field in given if field.name != "fill"]
        return ", ".join([*words, f"fill {self.fill}"] if given else words)

    @property
    def identity(self) -> bool:
        """Whether every copy is identical to the image."""
        return self == Augmentation(fill=self.fill)

    @property
    def needs_no_resampling(self) -> bool:
        """Whether it has only flips and crops; they need no `fill`, so that is ignored."""
        return self == Augmentation(hflip=self.hflip, vflip=self.vflip, crop=self.crop, fill=self.fill)


#: For each word with a number: its minimum and maximum, and an example. Values outside of the range are typing errors.
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
    "erase": (0, 1, "erase 0.25"),
}
#: Words without a number, and the reason.
_FLAGS = {
    "hflip": "it applies to half of the copies",
    "vflip": "it applies to half of the copies",
    "trivialaugment": "it draws the strength of its operation, too",
}
_RANDAUGMENT = "randaugment 2 9"
_WORDS = (*_NUMBERS, *_FLAGS, "randaugment", "fill")
_POLICIES = ("randaugment", "trivialaugment")

# Names of other libraries for these words; for suggestions only.
_FOREIGN = {
    **dict.fromkeys(("rotation", "rotation_range", "randomrotation"), "rotate"),
    **dict.fromkeys(("translate", "width_shift_range", "height_shift_range", "randomtranslation"), "shift"),
    **dict.fromkeys(("flip", "horizontal_flip", "randomhorizontalflip", "randomflip", "mirror", "fliplr"), "hflip"),
    **dict.fromkeys(("vertical_flip", "randomverticalflip", "flipud"), "vflip"),
    **dict.fromkeys(("scale", "zoom_range", "randomzoom"), "zoom"),
    **dict.fromkeys(("randomresizedcrop", "randomcrop"), "crop"),
    **dict.fromkeys(("randomerasing", "random_erasing", "cutout", "reprob"), "erase"),
    **dict.fromkeys(("trivialaugmentwide", "trivial_augment", "ta_wide"), "trivialaugment"),
    **dict.fromkeys(("rand_augment", "autoaugment"), "randaugment"),
    "shear_range": "shear",
    "fill_mode": "fill",
    "gaussianblur": "blur",
    "brightness_range": "brightness",
}


def parse(text: str) -> Augmentation:
    """Parse the notation.

    Args:
        text: The words, or `@` and the name of a file that holds them. Empty text is the augmentation that changes nothing.

    Raises:
        NotationError: A word is unknown, lacks its number, is out of range or a duplicate.
    """
    return notation_text.read(text, _parse, holds="augmentation words, one per line")


def parse_required(text: str, *, option: str = "--augment") -> Augmentation:
    """Parse the notation, and refuse one that changes nothing, such as that of an unset shell variable.

    Args:
        text: As `parse`.
        option: Name of the option, for the message.

    Raises:
        UsageError: Every copy would be identical to the image; or as `parse`.
    """
    augmentation = parse(text)
    if augmentation.identity:
        raise UsageError(
            f'{option} "{text}" changes nothing; give at least one augmentation, such as {option} "rotate 40, hflip"'
        )
    return augmentation


def _parse(text: str) -> Augmentation:
    given: dict[str, Any] = {}
    items = [item.split() for item in notation_text.bare(text).split(",") if item.strip()]
    for number, (word, *rest) in enumerate(items, start=1):
        try:
            value = _value(word, rest)
            if word in given:
                raise NotationError(f'"{word}" is given twice')
        except NotationError as flaw:
            raise NotationError(f"augmentation word {number}: {flaw}") from None
        given[word] = value
    if all(policy in given for policy in _POLICIES):
        raise NotationError(
            "randaugment and trivialaugment are two policies for the same operations; give one of the two"
        )
    return Augmentation(**given)


def _value(word: str, rest: list[str]) -> float | bool | tuple[int, int] | Fill:
    """Parse the value of a word."""
    if word not in _WORDS:
        near = messages.proposal(word, _WORDS, foreign=_FOREIGN)
        raise NotationError(f'"{word}" is not an augmentation{near or "; choose from " + ", ".join(_WORDS)}')
    wanted = 0 if word in _FLAGS else 2 if word == "randaugment" else 1
    stray = next((other for other in rest[wanted:] if other in _WORDS), None)
    if stray:
        raise NotationError(f'a comma is missing before "{stray}"')
    if word in _FLAGS:
        if rest:
            raise NotationError(f'"{word} {rest[0]}": {word} does not take a number; {_FLAGS[word]}')
        return True
    if word == "randaugment":
        return _randaugment(rest)
    example = "fill nearest" if word == "fill" else _NUMBERS[word][2]
    if len(rest) != 1 or rest[0] in _WORDS:
        lack = (
            f"has {len(rest)} values" if len(rest) > 1 else "lacks its mode" if word == "fill" else "lacks its number"
        )
        raise NotationError(f'"{word}" {lack}; write "{example}"')
    return _fill(rest[0]) if word == "fill" else _number(word, rest[0])


def _randaugment(rest: list[str]) -> tuple[int, int]:
    """Parse the number of operations and their level."""
    if len(rest) != 2 or any(digits in _WORDS for digits in rest):
        raise NotationError(
            f'"randaugment" takes two numbers, how many operations and their level; write "{_RANDAUGMENT}"'
        )
    numbers = [int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 4 else -1 for digits in rest]
    if not (1 <= numbers[0] <= MOST_OPERATIONS and 0 <= numbers[1] <= MOST_LEVEL):
        raise NotationError(
            f'"randaugment {" ".join(rest)}": give 1 to {MOST_OPERATIONS} operations and a level from 0 to {MOST_LEVEL}, '
            f'such as "{_RANDAUGMENT}"'
        )
    return numbers[0], numbers[1]


def _fill(mode: str) -> Fill:
    if mode not in list(Fill):
        near = messages.proposal(
            mode, list(Fill), foreign={"mirror": "reflect", "edge": "nearest", "black": "constant"}
        )
        raise NotationError(f'"fill {mode}": choose from {", ".join(Fill)}{near}')
    return Fill(mode)


def _number(word: str, digits: str) -> float:
    least, most, _ = _NUMBERS[word]
    if not re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", digits) or not least <= float(digits) <= most:
        hint = "; 0.2 is 11 degrees" if word == "shear" else ""
        raise NotationError(f'"{word} {digits}": give a number from {least:g} to {most:g}{hint}')
    return float(digits)


def _word(name: str, value: float | bool | tuple[int, int]) -> str:
    if isinstance(value, tuple):
        return " ".join([name, *map(str, value)])
    return name if value is True else f"{name} {str(value).removesuffix('.0')}"
