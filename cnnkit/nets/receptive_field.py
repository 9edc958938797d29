"""Receptive field and stride of every tensor in a graph, followed from operation to operation.

Where branches meet, the largest receptive field and stride hold; where a map is cut into tokens, both are unknown from there
on. Shapes are those of the network: (N, C, H, W), or (N, H, W, C) with channels last.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cnnkit.nets.dims import Sides, Windows, largest, receptive_field, whole_map

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """Receptive field and stride of a tensor; `field` and `step` as in `dims.Volume`, `last` for channels last."""

    field: Sides = None
    step: Sides = None
    last: bool = False

    def size(self, shape: Shape) -> tuple[int, int]:
        """Return (height, width) of a map of this shape."""
        height, width = shape[1:3] if self.last else shape[-2:]
        return height, width

    def output(self, shape: Shape) -> tuple[int | None, int | None, int]:
        """Return (height, width, channels) for one image; tokens have (length, None, channels), a vector (None, None, units)."""
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
    """Compute receptive field and stride of the result of an operation.

    Args:
        inputs: Shape and receptive field of every input that depends on the image; at least one.
        made: The shape of the result.
        windows: The windows that the operation slides over its input, if any.
        order: The permutation of the input's axes, if any.
        everything: Every value of the result depends on the whole map, as where a map is normalized by its own mean.
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
    # A smaller map that is broadcast over another one, as in squeeze-and-excitation, does not set the stride of the result
    stepping = [other.step for other_shape, other in inputs if not _is_broadcast(other_shape, other, shape, found)]
    merged = ReceptiveField(largest([other.field for _, other in inputs]), largest(stepping), found.last)
    if len(shape) == len(made) == 2:
        return merged
    if len(shape) == 4 and len(made) == 2 and math.prod(shape) == math.prod(made) and shape[0] == made[0]:
        field, _ = receptive_field(found.field, found.step, whole_map(found.size(shape)))
        return ReceptiveField(field)
    if len(shape) < 3 or len(made) < 3 or (found.last and len(shape) != len(made)):
        return ReceptiveField()
    return merged if found.size(shape) == merged.size(made) else ReceptiveField(last=found.last)


def _is_broadcast(shape: Shape, own: ReceptiveField, biggest: Shape, of_biggest: ReceptiveField) -> bool:
    """Check whether a map has another size than the largest one, so that it is broadcast over it."""
    return len(shape) == len(biggest) == 4 and own.size(shape) != of_biggest.size(biggest)
