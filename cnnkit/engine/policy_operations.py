"""The operations of RandAugment and TrivialAugment on pixels, by torchvision's functions, with the strengths of torchvision's policies.

    image, ShearX -9 of RandAugment    ->    torchvision's affine(image, shear=[-atan(0.09), 0], interpolation=nearest)

Pixels outside of an image are black, and geometry takes the nearest pixel, as by default there. An operation does not depend on the number
of threads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnkit.data.augment import AugmentParams
from cnnkit.data.augment_policies import MOST_LEVEL, Operation, PolicyStep
from cnnkit.nets import torchvision_modules

#: Images of more pixels are changed in parts, which takes less memory: channel by channel, and sharpness also by rows.
_LARGE = 1 << 20


def _functions() -> Any:  # noqa: ANN401 - torchvision ships no types
    """Import torchvision's functions: here, since no other augmentation needs them."""
    return torchvision_modules.imported("torchvision.transforms.v2.functional")


@dataclass(frozen=True, slots=True)
class _Policy:
    """The strength of each operation at the highest level."""

    shear: float  # pixels for each pixel
    translate: Callable[[int], float]  # pixels, for the length of the side
    rotate: float  # degrees
    factor: float  # of brightness, color, contrast and sharpness, is 1 minus or plus this
    bits: int  # that posterize drops


_RANDAUGMENT = _Policy(0.3, lambda side: 150.0 / 331.0 * side, 30.0, 0.9, 4)
_TRIVIALAUGMENT = _Policy(0.99, lambda side: 32.0, 135.0, 0.99, 6)


def applied(image: Tensor, draw: AugmentParams) -> Tensor:
    """Apply the operations of a copy, one after the other.

    Args:
        image: uint8, (3, H, W), on any device.
        draw: Parameters of the copy; only those of policies are used.

    Returns:
        uint8, (3, H, W), on the same device.
    """
    for policy, steps in ((_RANDAUGMENT, draw.randaugment), (_TRIVIALAUGMENT, draw.trivialaugment)):
        for step in steps:
            image = _changed(image, step, policy)
    return image


def _changed(image: Tensor, step: PolicyStep, policy: _Policy) -> Tensor:
    change = _change(step, policy, height=image.shape[1], width=image.shape[2])
    mixes_channels = step.operation in (Operation.COLOR, Operation.CONTRAST)
    if mixes_channels or image.shape[1] * image.shape[2] <= _LARGE:
        return change(image)
    if step.operation is Operation.SHARPNESS:
        return torch.cat([_by_rows(change, channel) for channel in torch.split(image, 1)])
    return torch.cat([change(channel) for channel in torch.split(image, 1)])


def _by_rows(change: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Apply a change that depends on neighbouring pixels, and keeps those at the edges, to a few rows after the other."""
    height, at_once = image.shape[1], max(2, _LARGE // image.shape[2])
    parts = []
    for start in range(0, height, at_once):
        first = max(0, start - 1)
        changed = change(image[:, first : start + at_once + 1])
        parts.append(changed[:, start - first : start - first + at_once])
    return torch.cat(parts, dim=1)


def _change(step: PolicyStep, policy: _Policy, *, height: int, width: int) -> Callable[[Tensor], Tensor]:
    """Return an operation as a function of an image, (3, H, W), or of one of its channels, (1, H, W)."""
    functions = _functions()

    def strength(most: float) -> float:
        """Return the strength of the level, in single precision as torchvision."""
        return math.copysign(float(torch.linspace(0.0, most, MOST_LEVEL + 1)[abs(step.level)]), step.level)

    def affine(**changed: Any) -> Callable[[Tensor], Tensor]:  # noqa: ANN401 - arguments of torchvision's function
        arguments = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | changed
        return lambda image: functions.affine(image, **arguments)

    def factor(name: str) -> Callable[[Tensor], Tensor]:
        amount = 1.0 + strength(policy.factor)
        return lambda image: getattr(functions, f"adjust_{name}")(image, amount)

    match step.operation:
        case Operation.IDENTITY:
            return lambda image: image
        case Operation.SHEAR_X:
            return affine(shear=[math.degrees(math.atan(strength(policy.shear))), 0.0], center=[0, 0])
        case Operation.SHEAR_Y:
            return affine(shear=[0.0, math.degrees(math.atan(strength(policy.shear)))], center=[0, 0])
        case Operation.TRANSLATE_X:
            return affine(translate=[int(strength(policy.translate(width))), 0])
        case Operation.TRANSLATE_Y:
            return affine(translate=[0, int(strength(policy.translate(height)))])
        case Operation.ROTATE:
            degrees = strength(policy.rotate)
            return lambda image: functions.rotate(image, angle=degrees)
        case Operation.BRIGHTNESS:
            return factor("brightness")
        case Operation.COLOR:
            return factor("saturation")
        case Operation.CONTRAST:
            amount = 1.0 + strength(policy.factor)
            return lambda image: _contrasted(image, amount)
        case Operation.SHARPNESS:
            return factor("sharpness")
        case Operation.POSTERIZE:
            kept = (8 - torch.arange(MOST_LEVEL + 1) / (MOST_LEVEL / policy.bits)).round().int()
            bits = int(kept[step.level])
            return lambda image: functions.posterize(image, bits=bits)
        case Operation.SOLARIZE:
            threshold = 255.0 * float(torch.linspace(1.0, 0.0, MOST_LEVEL + 1)[step.level])
            return lambda image: functions.solarize(image, threshold=threshold)
        case Operation.AUTO_CONTRAST:
            return lambda image: functions.autocontrast(image)
        case Operation.EQUALIZE:
            return lambda image: functions.equalize(image)


def _contrasted(image: Tensor, amount: float) -> Tensor:
    """Change the contrast as torchvision's adjust_contrast, whose mean of a large image depends on the number of threads."""
    grey = _functions().rgb_to_grayscale(image)  # (1, H, W), truncated to whole numbers as there
    mean = (grey.sum(dtype=torch.int64).double() / grey.numel()).float()
    levels = torch.arange(256, dtype=torch.uint8, device=image.device)
    changed = levels.mul(amount).add_(mean, alpha=1.0 - amount).clamp_(0, 255).to(torch.uint8)
    return torch.stack([changed[channel.int()] for channel in image])
