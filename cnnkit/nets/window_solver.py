"""Windows solved backwards: which kernel, stride and padding turn an input of one size into an output of another."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from cnnkit.errors import UsageError
from cnnkit.nets import dims
from cnnkit.nets.dims import DimsRow, Volume, Window, windows
from cnnkit.nets.notation import Layer, LayerKind, Padding

#: The largest kernel that is tried, unless the output is so small that windows without gaps need a larger one.
LARGEST_KERNEL = 11
_LARGEST = 64
_MOST_PER_SIDE = 24  # of solutions that are combined where height and width need different ones

_Pair = tuple[int, int]
_Solution = tuple[int, int, Padding | int]  # kernel, stride and padding along one side


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """A layer of which some options are given, and the others are found.

    `layer` has the kind, and everything that is not sought. `kernel`, `stride` and `padding` are None where they are sought.
    """

    layer: Layer
    kernel: _Pair | None = None
    stride: _Pair | None = None
    padding: Padding | int | None = None


def solve(given: Volume, wanted: tuple[int, int], sought: Sought) -> tuple[tuple[Layer, DimsRow], ...]:
    """Find the windows that give an output of a height and width.

    Args:
        given: The input.
        wanted: Height and width of the output.
        sought: The layer.

    Returns:
        Layers, written in the notation, with their measures. First come those that use all pixels of the input, then those with gaps
        between windows, then those that drop pixels; of these, smaller kernels first. Padding of more than half a window or in front of
        dropped pixels, and gaps between windows of more than one pixel, only if nothing else gives the output.

    Raises:
        UsageError: The input is a vector, there are no such windows, or the layer does not fit.
    """
    if given.size is None:
        raise UsageError(f"--output is about maps, but the input is a vector of {given.channels}; give --input H,W,C")
    found: dict[tuple[object, ...], tuple[Layer, DimsRow]] = {}
    failure: UsageError | None = None
    for kernel, stride, padding in _candidates(given.size, wanted, sought):
        layer = replace(sought.layer, kernel=kernel, stride=stride, padding=padding)
        layer = replace(layer, text=_written(layer))
        try:
            (row,) = dims.measure_from(given, [layer])
        except UsageError as error:  # more padding than half a pooling window, or other groups than channels
            failure = error
            continue
        key = (row.kernel, stride, row.pad)
        if (row.height, row.width) == wanted and key not in found:
            found[key] = layer, row
    if not found and failure is not None:
        raise failure
    if not found:
        raise UsageError(_nothing(given.size, wanted, sought))
    ranked = sorted((_rank(layer, row, given.size), place) for place, (layer, row) in enumerate(found.values()))
    solutions = list(found.values())
    usual = [place for rank, place in ranked if not rank.is_unusual]
    return tuple(solutions[place] for place in usual or [place for _, place in ranked])


def _candidates(size: _Pair, wanted: _Pair, sought: Sought) -> Iterator[tuple[_Pair, _Pair, Padding | int]]:
    """Yield kernels, strides and paddings: where height and width shrink equally, only those that are the same for both."""
    sides = [list(_along(size[place], wanted[place], sought, place)) for place in (0, 1)]
    uneven = any(pair is not None and pair[0] != pair[1] for pair in (sought.kernel, sought.stride))
    both = [solution for solution in sides[0] if solution in sides[1]]
    yield from (((kernel, kernel), (stride, stride), padding) for kernel, stride, padding in both)
    shrinks = [-(-before // after) for before, after in zip(size, wanted, strict=True)]
    if both and not uneven and shrinks[0] == shrinks[1]:
        return
    short = [sorted(side, key=lambda each: (each[0], each[1]))[:_MOST_PER_SIDE] for side in sides]
    for down, across in itertools.product(*short):
        if down[2] == across[2]:
            yield (down[0], across[0]), (down[1], across[1]), down[2]


def _along(size: int, wanted: int, sought: Sought, place: int) -> Iterator[_Solution]:
    """Yield the solutions along one side; where two paddings are the same number of pixels, the simpler one."""
    dilation = sought.layer.dilation[place]
    kernels = [sought.kernel[place]] if sought.kernel else _kernels(size, wanted)
    for kernel in kernels:
        span = dilation * (kernel - 1) + 1
        paddings = [sought.padding] if sought.padding is not None else _paddings(sought.layer.kind, kernel, span)
        for padding in paddings:
            for stride in (
                [sought.stride[place]] if sought.stride else _strides(sought.layer.kind, size, wanted, span, padding)
            ):
                window = Window(kernel, stride, padding, dilation)
                fits = padding is Padding.same or span <= size + sum(window.pads(size))
                if fits and window.count(size) == wanted:
                    yield kernel, stride, padding


def _kernels(size: int, wanted: int) -> list[int]:
    kernels = list(range(1, min(max(LARGEST_KERNEL, -(-size // wanted) + 1), _LARGEST) + 1))
    return [*kernels, size] if wanted == 1 and size not in kernels else kernels


def _paddings(kind: LayerKind, kernel: int, span: int) -> list[Padding | int]:
    most = kernel // 2 if kind is not LayerKind.conv else span - 1
    return [Padding.valid, Padding.same, *range(1, min(most, _LARGEST) + 1)]


def _strides(kind: LayerKind, size: int, wanted: int, span: int, padding: Padding | int) -> list[int]:
    """List the strides that give the output: those without gaps, or else the smallest one; one for a single window."""
    if padding is Padding.same:
        smallest, largest = -(-size // wanted), size if wanted == 1 else (size - 1) // (wanted - 1)
    else:
        left = size - span + (0 if padding is Padding.valid else 2 * padding)
        if left < 0:
            return []
        smallest, largest = left // wanted + 1, left + 1 if wanted == 1 else left // (wanted - 1)
    if wanted == 1:
        return [largest if kind is LayerKind.conv else max(largest, span)]
    return list(range(smallest, min(largest, max(span, smallest)) + 1))


class _Rank(NamedTuple):
    """The order of solutions: first what is good, then what is small."""

    drops: bool
    has_gaps: bool
    pads_much: bool
    weights: int
    uneven: bool
    padding: int
    stride: _Pair

    @property
    def is_unusual(self) -> bool:
        """Whether a solution is only worth showing where there is no other."""
        return self.pads_much or (self.drops and self.padding > 0) or (self.has_gaps and self.weights > 1)


def _rank(layer: Layer, row: DimsRow, size: _Pair) -> _Rank:
    sides = [(window, window.pads(side)) for window, side in zip(windows(layer), size, strict=True)]
    height, width = layer.kernel
    return _Rank(
        drops=row.dropped > 0,
        has_gaps=any(window.stride > window.span for window, _ in sides),
        pads_much=any(max(pads) > window.span // 2 for window, pads in sides),
        weights=height * width,
        uneven=any(before != after for _, (before, after) in sides),
        padding=max(max(pads) for _, pads in sides),
        stride=layer.stride,
    )


def _written(layer: Layer) -> str:
    """Write a layer in the notation."""
    conv = layer.kind is LayerKind.conv
    words = [layer.kind.value, str(layer.filters) if conv else _sides(layer.kernel)]
    if conv:
        words.append(f"k{_sides(layer.kernel)}")
    if layer.stride != ((1, 1) if conv else layer.kernel):
        words.append(f"s{_sides(layer.stride)}")
    if layer.padding is not Padding.valid:
        words.append(layer.padding.value if isinstance(layer.padding, Padding) else f"p{layer.padding}")
    if layer.dilation != (1, 1):
        words.append(f"d{_sides(layer.dilation)}")
    if layer.groups != 1:
        words.append(f"g{layer.groups}")
    if not layer.bias:
        words.append("nobias")
    return " ".join(words)


def _sides(pair: _Pair) -> str:
    return str(dims.shown(pair))


def _nothing(size: _Pair, wanted: _Pair, sought: Sought) -> str:
    options = {"kernel": sought.kernel, "stride": sought.stride, "padding": sought.padding}
    given = [
        f"{name} {value if not isinstance(value, tuple) else _sides(value)}"
        for name, value in options.items()
        if value is not None
    ]
    what = f"no {sought.layer.kind} with {' and '.join(given)}" if given else f"no {sought.layer.kind}"
    remedy = (
        "give fewer of --k, --s and --pad, or another --output"
        if given
        else "give another --output, or use several layers"
    )
    growth = max(-(-after // before) for before, after in zip(size, wanted, strict=True))
    if growth > 1 and sought.layer.kind is LayerKind.conv and not given:
        remedy = f"maps grow by a transposed convolution, such as deconv {sought.layer.filters} k{growth} s{growth}"
    return f"{what} turns {_sides_of(size)} into {_sides_of(wanted)}; {remedy}"


def _sides_of(size: _Pair) -> str:
    return f"{size[0]}x{size[1]}"
