"""Centres of the cells of every map in a torch network, found by running it once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from cnnkit.nets.cell_centres import TracedMap, merged

aten = torch.ops.aten

_POOLS = (aten.max_pool2d_with_indices, aten.avg_pool2d)
_PADS = (aten.constant_pad_nd, aten.reflection_pad2d, aten.replication_pad2d)
_LINEAR = (aten.upsample_bilinear2d, aten.upsample_bicubic2d)
_RESAMPLED = (
    *(aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d, aten.upsample_nearest2d, aten._upsample_nearest_exact2d),
    *(aten.pixel_shuffle, aten.pixel_unshuffle),
    *_LINEAR,
)


class CentreTracer(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's class is untyped
    """Intercept every torch operation, and record the centres of its result's cells.

    Attributes:
        known: Centres of each tensor, as long as it exists.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's class is untyped
        self.known: Any = WeakIdKeyDictionary()
        self._latest: dict[tuple[int, ...], TracedMap] = {}  # by height and width

    def __torch_dispatch__(
        self, function: OpOverload, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> object:
        made = function(*args, **(kwargs or {}))
        inputs = [each for each in tensors_in(args) if each in self.known]
        if inputs:
            for output in tensors_in(made):
                found = self._followed(function.overloadpacket, args, inputs, output)
                if found is not None:
                    self.known[output] = found
                    self._latest[found.size(output.shape)] = found
        return made

    def regain(self, inputs: Sequence[Tensor], output: Tensor, *, channels_last: bool) -> None:
        """Find the centres of a map that was cut into tokens and reassembled.

        They are those of its inputs if the sizes agree, or else those of the last map of its size; then tokens have mixed the cells, and
        their receptive fields are unknown.

        Args:
            inputs: Inputs of a node of a network.
            output: Output of the node.
            channels_last: Whether the output is (N, h, w, C).
        """
        if output in self.known or output.ndim != 4:
            return
        axes = (-3, -2) if channels_last else (-2, -1)
        size = tuple(output.shape[axis] for axis in axes)
        found = merged([(each.shape, self.known[each]) for each in inputs if each in self.known], output.shape)
        if found is None and min(size) > 1 and size in self._latest:
            latest = self._latest[size]
            found = TracedMap(latest.rows.unbounded(), latest.columns.unbounded(), axes)
        if found is not None:
            self.known[output] = found

    def latest(self, size: tuple[int, int]) -> TracedMap | None:
        """Return the centres of the last map of a height and width, if there was one."""
        return self._latest.get(size)

    def _followed(
        self, operation: object, args: Sequence[Any], inputs: Sequence[Tensor], output: Tensor
    ) -> TracedMap | None:
        given = args[0]
        before: TracedMap | None = self.known.get(given) if isinstance(given, Tensor) else None
        if before is None or given.ndim != output.ndim:
            return merged([(each.shape, self.known[each]) for each in inputs], output.shape)
        if operation is aten.permute:
            return before.permuted([axis % given.ndim for axis in args[1]])
        if operation is aten.transpose:
            order = list(range(given.ndim))
            one, other = args[1] % given.ndim, args[2] % given.ndim
            order[one], order[other] = other, one
            return before.permuted(order)
        if operation is aten.slice:
            return _sliced(before, given, *args[1:])
        if operation in _PADS:
            return _padded(before, args[1])
        if before.axes == (-2, -1) and operation is aten.convolution:
            weight, stride, padding, dilation, turned = args[1], args[3], args[4], args[5], args[6]
            return _windowed(before, weight.shape[-2:], stride, padding, dilation, transposed=turned)
        if before.axes == (-2, -1) and operation in _POOLS:
            stride = args[2] if len(args) > 2 and args[2] else args[1]
            padding = args[3] if len(args) > 3 else [0]
            dilation = args[4] if operation is aten.max_pool2d_with_indices and len(args) > 4 else [1]
            return _windowed(before, args[1], stride, padding, dilation)
        if before.axes == (-2, -1) and operation in _RESAMPLED:
            corners = operation in _LINEAR and bool(args[2])
            sides = zip((before.rows, before.columns), given.shape[-2:], output.shape[-2:], strict=True)
            rows, columns = (side.resampled(count, made, align_corners=corners) for side, count, made in sides)
            return TracedMap(rows, columns)
        return merged([(each.shape, self.known[each]) for each in inputs], output.shape)


def _windowed(
    before: TracedMap,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *,
    transposed: bool = False,
) -> TracedMap:
    sides = []
    for number, side in enumerate((before.rows, before.columns)):
        size, step, pad, apart = (each[min(number, len(each) - 1)] for each in (kernel, stride, padding, dilation))
        follow = side.transposed if transposed else side.windowed
        sides.append(follow(apart * (size - 1) + 1, stride=step, before=pad))
    rows, columns = sides
    return TracedMap(rows, columns)


def _padded(before: TracedMap, pads: Sequence[int]) -> TracedMap:
    """Follow padding; torch lists it from the last axis to the first, two numbers each."""
    starts = [pads[2 * (-axis - 1)] if len(pads) > 2 * (-axis - 1) else 0 for axis in before.axes]
    return TracedMap(before.rows.sliced(-starts[0]), before.columns.sliced(-starts[1]), before.axes)


def _sliced(
    before: TracedMap, given: Tensor, dim: int = 0, start: int | None = None, _end: int | None = None, step: int = 1
) -> TracedMap:
    axis, start = dim % given.ndim - given.ndim, start or 0
    start = max(start + given.shape[dim], 0) if start < 0 else start
    rows, columns = (
        side.sliced(start, step) if own == axis else side
        for side, own in zip((before.rows, before.columns), before.axes, strict=True)
    )
    return TracedMap(rows, columns, before.axes)


def tensors_in(values: object) -> Iterator[Tensor]:
    """Yield the tensors in arguments or results, also inside lists and tuples."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)
