"""Where the cells of a map stand in the image: the centre of each one's receptive field, followed from operation to operation.

Places are those of the network's input, in pixels; 0 is the middle of the first pixel. With padding (k - 1) / 2 a strided convolution
keeps its first cell at 0, so that cell i of ResNet's last map stands at 32 i; pools of even size move it, and those of VGG's last
map stand at 32 i + 15.5, as if they tiled the image.

Source: Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019, equations 3, 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Along:
    """The centres along one side of a map: cell i stands at `first + step * i`."""

    first: float = 0.0
    step: float = 1.0

    def windowed(self, span: int, *, stride: int = 1, before: int = 0) -> "Along":
        """Follow a convolution or a pool.

        Args:
            span: From how many neighbouring cells a window picks its inputs, dilation included.
            stride: From one window to the next.
            before: Cells that padding adds before the first.
        """
        return Along(self.first + ((span - 1) / 2 - before) * self.step, self.step * stride)

    def transposed(self, span: int, *, stride: int = 1, before: int = 0) -> "Along":
        """Follow a transposed convolution, which takes `before` cells away."""
        return Along(self.first + (before - (span - 1) / 2) / stride * self.step, self.step / stride)

    def resampled(self, count: int, made: int, *, align_corners: bool = False, asymmetric: bool = False) -> "Along":
        """Follow what makes `made` cells of `count`: interpolation, or a pool of adaptive size.

        Args:
            count: The cells before.
            made: The cells after it.
            align_corners: The first and the last cell keep their places.
            asymmetric: The first cell keeps its place, as TensorFlow interpolates.
        """
        if align_corners:
            return Along(self.first, self.step * (count - 1) / (made - 1)) if made > 1 else self
        if asymmetric:
            return Along(self.first, self.step * count / made)
        return Along(self.first + (count / made - 1) / 2 * self.step, self.step * count / made)

    def sliced(self, start: int, step: int = 1) -> "Along":
        """Follow a choice of every `step`th cell from `start` on; padding is a start below 0."""
        return Along(self.first + start * self.step, self.step * step)


def middle(sides: Sequence[Along]) -> Along:
    """Put together what meets: where branches differ, half-way between the outermost."""
    firsts, steps = [side.first for side in sides], [side.step for side in sides]
    return Along((min(firsts) + max(firsts)) / 2, (min(steps) + max(steps)) / 2)


@dataclass(frozen=True, slots=True)
class TracedMap:
    """What is known of a tensor that descends from the image.

    Attributes:
        rows: The centres along its height.
        columns: The centres along its width.
        axes: Those of height and width, counted from the end: (-2, -1), and (-3, -2) where channels stand last.
    """

    rows: Along = Along()
    columns: Along = Along()
    axes: tuple[int, int] = (-2, -1)

    def size(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Read height and width off a shape; empty where it has no such axes."""
        return tuple(shape[axis] for axis in self.axes) if len(shape) >= -min(self.axes) else ()

    def permuted(self, order: Sequence[int]) -> "TracedMap":
        """Follow a permutation of all axes."""
        rows, columns = (list(order).index(axis + len(order)) - len(order) for axis in self.axes)
        return TracedMap(self.rows, self.columns, (rows, columns))


def merged(inputs: Sequence[tuple[Sequence[int], TracedMap]], made: Sequence[int]) -> TracedMap | None:
    """Follow an operation that works place by place, from inputs of these shapes to one; maps of another size have no say."""
    alike = [found for shape, found in inputs if found.size(shape) and found.size(shape) == found.size(made)]
    alike = [found for found in alike if found.axes == alike[0].axes]
    if not alike:
        return None
    return TracedMap(middle([each.rows for each in alike]), middle([each.columns for each in alike]), alike[0].axes)


@dataclass(frozen=True, slots=True)
class CellCentres:
    """The centres of a map's cells, in pixels of the network's input of `size` (height, width)."""

    rows: Along
    columns: Along
    size: tuple[int, int]


def tiled(shape: tuple[int, int]) -> CellCentres:
    """Give the centres of cells that tile the image, for a map of (h, w): what holds where nothing else is known."""
    return CellCentres(Along(), Along(), shape)
