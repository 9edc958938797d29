"""Receptive field and stride through any graph: what a tensor sees of the image, operation by operation.

Where branches meet, the largest receptive field and stride hold; where a map is cut into tokens, both are unknown from there
on. Shapes are those of the network: (N, C, H, W), or (N, H, W, C) where channels stand last.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cnnkit.nets.dims import Sides, Windows, receptive_field, whole_map

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """How a tensor looks at the image; `field` and `step` as in `dims.Volume`, `last` where its channels stand last."""

    field: Sides = None
    step: Sides = None
    last: bool = False

    def size(self, shape: Shape) -> tuple[int, int]:
        """Read (height, width) off the shape of a map."""
        height, width = shape[1:3] if self.last else shape[-2:]
        return height, width

    def output(self, shape: Shape) -> tuple[int | None, int | None, int]:
        """Read (height, width, channels) of one image; tokens have a length in place of height, a vector neither."""
        sides = [*shape[1:]] or [1]
        if len(shape) == 4 and not self.last:
            sides = [*sides[1:], sides[0]]
        *size, channels = sides
        height, width = [*size, None, None][:2]
        return height, width, channels


def follow(
    inputs: Sequence[tuple[Shape, ReceptiveField]],
    made: Shape,
    *,
    windows: Windows | None = None,
    order: Sequence[int] = (),
    everything: bool = False,
) -> ReceptiveField:
    """Find out how the result of an operation looks at the image.

    Args:
        inputs: Shape and look of every input that descends from the image; at least one.
        made: The shape of the result.
        windows: What the operation slides over its input, should it do so.
        order: How the operation reorders the sides of its input, should it do so.
        everything: Every value of the result follows from all of the map, as where a map is normalised by its own mean.
    """
    shape, found = max(inputs, key=lambda pair: math.prod(pair[0]))
    if windows:
        field, step = receptive_field(found.field, found.step, windows)
        return ReceptiveField(field, step if len(made) == 4 else None)
    if everything:
        field, _ = receptive_field(found.field, found.step, whole_map(found.size(shape)))
        return ReceptiveField(field, found.step, found.last)
    if len(shape) == 4 and tuple(order) in ((0, 2, 3, 1), (0, 3, 1, 2)):
        return ReceptiveField(found.field, found.step, last=tuple(order) == (0, 2, 3, 1))
    if order and tuple(order)[-2:] != (len(shape) - 2, len(shape) - 1):
        return ReceptiveField()
    # A map of one value that scales another one has been pooled: its step is no step of the result
    stepping = [other.step for other_shape, other in inputs if not _spreads(other_shape, other, shape, found)]
    merged = ReceptiveField(_largest([other.field for _, other in inputs]), _largest(stepping), found.last)
    if len(shape) == len(made) == 2:
        return merged
    if len(shape) == 4 and len(made) == 2 and math.prod(shape) == math.prod(made) and shape[0] == made[0]:
        field, _ = receptive_field(found.field, found.step, whole_map(found.size(shape)))
        return ReceptiveField(field)
    if len(shape) < 3 or len(made) < 3 or (found.last and len(shape) != len(made)):
        return ReceptiveField()
    return merged if found.size(shape) == merged.size(made) else ReceptiveField(last=found.last)


def _spreads(shape: Shape, look: ReceptiveField, largest: Shape, of_largest: ReceptiveField) -> bool:
    """Tell whether a map is smaller than the one that it meets, so that its values are spread over it."""
    return len(shape) == len(largest) == 4 and look.size(shape) != of_largest.size(largest)


def _largest(sides: Sequence[Sides]) -> Sides:
    """Take the largest of each side; unknown where one is unknown."""
    known = [side for side in sides if side is not None]
    if len(known) < len(sides):
        return None
    return max(height for height, _ in known), max(width for _, width in known)
