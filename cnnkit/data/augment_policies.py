"""Random choice of the operations of RandAugment and TrivialAugment; no pixels, which `engine.policy_operations` changes.

A policy is a list of operations of which some are drawn for each copy. Operations, their order and the number of levels are those of
torchvision.transforms.v2.RandAugment and TrivialAugmentWide.

Source: Cubuk et al. 2020, RandAugment; Müller and Hutter 2021, TrivialAugment.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple


class Operation(StrEnum):
    """Operation of a policy, by torchvision's name."""

    IDENTITY = "Identity"
    SHEAR_X = "ShearX"
    SHEAR_Y = "ShearY"
    TRANSLATE_X = "TranslateX"
    TRANSLATE_Y = "TranslateY"
    ROTATE = "Rotate"
    BRIGHTNESS = "Brightness"
    COLOR = "Color"  # saturation
    CONTRAST = "Contrast"
    SHARPNESS = "Sharpness"
    POSTERIZE = "Posterize"  # fewer bits per value
    SOLARIZE = "Solarize"  # values above a threshold are inverted
    AUTO_CONTRAST = "AutoContrast"  # each channel is stretched to 0 to 255
    EQUALIZE = "Equalize"  # the histogram of each channel becomes flat


#: The highest level: levels are from 0 to this.
MOST_LEVEL = 30
#: Operations of RandAugment for each copy, at most.
MOST_OPERATIONS = 14

_OPERATIONS = tuple(Operation)
_WITHOUT_LEVEL = frozenset({Operation.IDENTITY, Operation.AUTO_CONTRAST, Operation.EQUALIZE})
# Their levels are negative in half of the copies: to the left instead of to the right, darker instead of brighter
_SIGNED = frozenset(_OPERATIONS) - _WITHOUT_LEVEL - {Operation.POSTERIZE, Operation.SOLARIZE}


class PolicyStep(NamedTuple):
    """One operation of a copy, with its level from 0 to MOST_LEVEL, or -MOST_LEVEL to 0 in the opposite direction."""

    operation: Operation
    level: int = 0

    def __str__(self) -> str:
        """Return torchvision's name and the level, as in a manifest."""
        return self.operation if self.operation in _WITHOUT_LEVEL else f"{self.operation} {self.level}"


def randaugment(count: int, level: int, *, shares: Sequence[float]) -> tuple[PolicyStep, ...]:
    """Choose the operations of a copy for RandAugment: each is any of all with equal probability, also several times.

    Args:
        count: How many.
        level: Level of all.
        shares: Two random numbers from 0 to 1 for each operation.
    """
    pairs = zip(shares[0 : 2 * count : 2], shares[1 : 2 * count : 2], strict=True)
    return tuple(_step(which, level, sign) for which, sign in pairs)


def trivialaugment(*, shares: Sequence[float]) -> tuple[PolicyStep, ...]:
    """Choose the operation of a copy for TrivialAugment: any of all, at any level, with equal probabilities.

    Args:
        shares: Three random numbers from 0 to 1.
    """
    which, strength, sign = shares
    return (_step(which, int(strength * (MOST_LEVEL + 1)), sign),)


def _step(which: float, level: int, sign: float) -> PolicyStep:
    operation = _OPERATIONS[int(which * len(_OPERATIONS))]
    if operation in _WITHOUT_LEVEL:
        return PolicyStep(operation)
    return PolicyStep(operation, -level if operation in _SIGNED and sign < 0.5 else level)
