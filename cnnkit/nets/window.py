"""The arithmetic of a window that slides along one side of a picture."""

from dataclasses import dataclass

from cnnkit.nets.notation import Layer, Padding


@dataclass(frozen=True, slots=True)
class Window:
    """A kernel along one side; `padding` is Keras' `same` or `valid`, a number for both ends, or (before, behind)."""

    kernel: int
    stride: int = 1
    padding: Padding | int | tuple[int, int] = Padding.valid
    dilation: int = 1

    @property
    def span(self) -> int:
        """From how many neighbouring pixels the dilated kernel picks its inputs."""
        return self.dilation * (self.kernel - 1) + 1

    def count(self, size: int) -> int:
        """Compute how many windows fit: the size of the output.

        Source: ceil(size / stride) for `same`, ceil((size - span + 1) / stride) for `valid` (Keras);
            floor((size + 2 * padding - span) / stride) + 1 for a number (torch.nn.Conv2d).
        """
        if self.padding is Padding.same:
            return -(-size // self.stride)
        return (size + sum(self.pads(size)) - self.span) // self.stride + 1

    def pads(self, size: int) -> tuple[int, int]:
        """Compute the pixels to add before and behind; of an odd number, the one more goes behind, as in Keras."""
        if self.padding is Padding.valid:
            return 0, 0
        if self.padding is Padding.same:
            both = max((self.count(size) - 1) * self.stride + self.span - size, 0)
            return both // 2, both - both // 2
        return self.padding if isinstance(self.padding, tuple) else (self.padding, self.padding)

    def unread(self, size: int, count: int | None = None) -> int:
        """Count the pixels at the end that only the first window that does not fit would have read.

        Args:
            size: Pixels along this side.
            count: How many windows there are, should somebody else have rounded up or down.
        """
        before, _ = self.pads(size)
        windows = self.count(size) if count is None else count
        end_of_last = (windows - 1) * self.stride + self.span - before
        start_of_next = windows * self.stride - before
        return max(size - max(end_of_last, start_of_next), 0)


Windows = tuple[Window, Window]  # along height and width
Sides = tuple[int, int] | None  # (height, width), None where that is unknown or means nothing


def windows(layer: Layer) -> Windows:
    """Give a layer's windows."""
    sides = zip(layer.kernel, layer.stride, layer.dilation, strict=True)
    height, width = (Window(kernel, stride, layer.padding, dilation) for kernel, stride, dilation in sides)
    return height, width


def whole(size: tuple[int, int]) -> Windows:
    """Give the windows that take in all of a map at once, as global pooling does."""
    return Window(size[0], size[0]), Window(size[1], size[1])


def look(field: Sides, step: Sides, windows: Windows) -> tuple[Sides, Sides]:
    """Compute receptive field and stride behind windows, from those before them.

    Source: Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019, equations 1, 2.
    """
    if field is None or step is None:
        return None, None
    down, across = windows
    return (
        (field[0] + (down.span - 1) * step[0], field[1] + (across.span - 1) * step[1]),
        (step[0] * down.stride, step[1] * across.stride),
    )


def unread(windows: Windows, size: tuple[int, int], made: tuple[int, int]) -> int:
    """Count the pixels of a map that no window reads because the next one does not fit.

    Args:
        windows: Along height and width.
        size: Of the map.
        made: How many windows there are along each side.
    """
    (height, width), (down, across) = size, windows
    return height * width - (height - down.unread(height, made[0])) * (width - across.unread(width, made[1]))
