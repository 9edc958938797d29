"""Positions of a map's cells in the image: the centre of each cell's receptive field, followed from operation to operation.

Positions are in pixels of the network's input; 0 is the middle of the first pixel. With padding (k - 1) / 2 a strided convolution
keeps its first cell at 0, so that cell i of ResNet's last map is at 32 i; pools of even size shift it, so that cell i of VGG's last
map is at 32 i + 15.5, as if the cells tiled the image.

Source: Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019, equations 3, 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

#: Rounding errors of positions, in pixels.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Along:
    """Centres along one side of a map: cell i is at `first + step * i`.

    Attributes:
        first: The centre of the first cell.
        step: From one centre to the next.
        extent: The length of a cell's receptive field, around its centre; infinite if it is unknown. It follows convolutions and pools;
            what reaches a cell from the whole map, as in squeeze-and-excitation, is left out. Two sides with equal centres are equal.
    """

    first: float = 0.0
    step: float = 1.0
    extent: float = field(default=1.0, compare=False)

    def _widened(self, first: float, step: float, more: float = 0.0) -> "Along":
        """Return other centres, of cells whose receptive fields have `more` cells of this side than one."""
        return Along(first, step, self.extent + more * self.step)

    def windowed(self, span: int, *, stride: int = 1, before: int = 0) -> "Along":
        """Follow a convolution or a pool.

        Args:
            span: Neighbouring cells that a window extends over, dilation included.
            stride: Cells from one window to the next.
            before: Cells of padding before the first one.
        """
        return self._widened(self.first + ((span - 1) / 2 - before) * self.step, self.step * stride, span - 1)

    def transposed(self, span: int, *, stride: int = 1, before: int = 0) -> "Along":
        """Follow a transposed convolution, which removes `before` cells at the start."""
        first = self.first + (before - (span - 1) / 2) / stride * self.step
        return self._widened(first, self.step / stride, -(-span // stride) - 1)

    def resampled(self, count: int, made: int, *, align_corners: bool = False, align_starts: bool = False) -> "Along":
        """Follow interpolation or adaptive pooling from `count` to `made` cells.

        Args:
            count: Cells before.
            made: Cells after.
            align_corners: The first and the last cell keep their positions.
            align_starts: The first cell keeps its position, and cell i is at i / made of the length.
        """
        more = -(-count // made) - 1 if made <= count else 1  # windows of one size, or interpolation between two cells
        if align_starts:
            return self._widened(self.first, self.step * count / made, more)
        if align_corners:
            return self._widened(self.first, self.step * (count - 1) / (made - 1), more) if made > 1 else self
        return self._widened(self.first + (count / made - 1) / 2 * self.step, self.step * count / made, more)

    def sliced(self, start: int, step: int = 1) -> "Along":
        """Follow a slice of every `step`th cell from `start` on; padding is a start below 0."""
        return self._widened(self.first + start * self.step, self.step * step)

    def unbounded(self) -> "Along":
        """Return the same centres, of cells whose receptive fields are unknown."""
        return replace(self, extent=math.inf)

    def seen(self, cell: int, length: int) -> tuple[int, int]:
        """Return the pixels of the input in a cell's receptive field.

        Args:
            cell: The number of the cell.
            length: The length of the input.

        Returns:
            The first pixel, and the one after the last. Those below 0, or from `length` on, are padding. If the receptive field is unknown,
            the whole input.
        """
        if math.isinf(self.extent):
            return 0, length
        start = self.first + self.step * cell - (self.extent - 1) / 2
        return math.floor(start + _ROUNDING), math.ceil(start + self.extent - _ROUNDING)


def middle(sides: Sequence[Along]) -> Along:
    """Combine branches: where they differ, take the middle between the outermost, and a receptive field that covers all of theirs."""
    firsts, steps = [side.first for side in sides], [side.step for side in sides]
    first = (min(firsts) + max(firsts)) / 2
    extent = max(side.extent + 2 * abs(side.first - first) for side in sides)
    return Along(first, (min(steps) + max(steps)) / 2, extent)


@dataclass(frozen=True, slots=True)
class TracedMap:
    """Centres of the cells of a tensor that depends on the image.

    Attributes:
        rows: Centres along its height.
        columns: Centres along its width.
        axes: Axes of height and width, counted from the end: (-2, -1), or (-3, -2) with channels last.
    """

    rows: Along = Along()
    columns: Along = Along()
    axes: tuple[int, int] = (-2, -1)

    def size(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return height and width of a shape; empty if it lacks these axes."""
        return tuple(shape[axis] for axis in self.axes) if len(shape) >= -min(self.axes) else ()

    def permuted(self, order: Sequence[int]) -> "TracedMap":
        """Follow a permutation of all axes."""
        rows, columns = (list(order).index(axis + len(order)) - len(order) for axis in self.axes)
        return TracedMap(self.rows, self.columns, (rows, columns))


def merged(inputs: Sequence[tuple[Sequence[int], TracedMap]], made: Sequence[int]) -> TracedMap | None:
    """Follow an elementwise operation from inputs of these shapes to an output; inputs of another size are ignored."""
    alike = [found for shape, found in inputs if found.size(shape) and found.size(shape) == found.size(made)]
    alike = [found for found in alike if found.axes == alike[0].axes]
    if not alike:
        return None
    return TracedMap(middle([each.rows for each in alike]), middle([each.columns for each in alike]), alike[0].axes)


@dataclass(frozen=True, slots=True)
class CellCentres:
    """Centres of a map's cells, in pixels of the network's input of `size` (height, width)."""

    rows: Along
    columns: Along
    size: tuple[int, int]


def tiled(shape: tuple[int, int]) -> CellCentres:
    """Return the centres of cells that tile the image, for a map of (h, w); for maps whose centres are unknown."""
    return CellCentres(Along(), Along(), shape)
