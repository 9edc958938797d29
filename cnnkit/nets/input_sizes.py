"""The sizes of images that a network takes, found by trying them: a network itself is the only one that knows.

A convolution takes any size that its kernel fits into; what fixes the size is a dense layer after `flatten`, or the positions of a
transformer, weights or biases for every position. Along each side, the sizes are a range, or every n-th number of one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cnnkit.errors import UsageError
from cnnkit.nets import dims
from cnnkit.nets.notation import Layer, LayerKind

#: Why a network does not take (height, width); None if it does.
Refusal = Callable[[int, int], str | None]

_WIDEST_STEP = 64
_UNLIMITED = 8  # a network that takes images this many times as large takes larger ones


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSizes:
    """The sizes that a network takes along one side, while the other one is that of `find`; along both, those of square images.

    `largest` is None where there is no limit, `step` the distance between two sizes, None where there is a single one. The reasons are
    those of the next smaller and the next larger size.
    """

    side: str
    smallest: int
    largest: int | None
    step: int | None
    too_small: str
    too_large: str


def find(
    refusal: Refusal, start: tuple[int, int], *, name: str, fixed: tuple[str | None, str | None] = (None, None)
) -> tuple[InputSizes, ...]:
    """Find the sizes that a network takes along each side.

    Args:
        refusal: Tries a size.
        start: Height and width that it takes.
        name: The network, for messages.
        fixed: Why height and width are fixed; None to try.

    Returns:
        For height and width, and, if `start` is a square and nothing is fixed, for both together.

    Raises:
        UsageError: The network does not take `start`.
    """
    height, width = start
    reason = refusal(height, width)
    if reason is not None:
        raise UsageError(f"{name} does not take {height}x{width} pixels ({reason}); give another --input")
    along: list[tuple[str, int, str | None, Callable[[int], str | None]]] = [
        ("height", height, fixed[0], lambda side: refusal(side, width)),
        ("width", width, fixed[1], lambda side: refusal(height, side)),
    ]
    if height == width and fixed == (None, None):
        along.append(("both", height, None, lambda side: refusal(side, side)))
    return tuple(
        _along(side, size, attempt)
        if why is None
        else InputSizes(side=side, smallest=size, largest=size, step=None, too_small=why, too_large=why)
        for side, size, why, attempt in along
    )


def of_layers(layers: Sequence[Layer], size: Sequence[int]) -> tuple[InputSizes, ...]:
    """Find the sizes that a chain takes, whose weights are made for one size.

    Args:
        layers: The chain.
        size: (height, width, channels) that it is made for.

    Raises:
        UsageError: A layer does not fit its input, or `size` is that of a vector.
    """
    if len(size) != 3:
        raise UsageError("--any-size is about images; give --input H,W,C")
    height, width, channels = size
    layers = dims.with_shortcuts(layers, dims.start(height=height, width=width, channels=channels))
    made = _fixed(layers, height, width, channels)

    def refusal(rows: int, columns: int) -> str | None:
        try:
            found = _fixed(layers, rows, columns, channels)
        except UsageError as error:
            return str(error).partition("; ")[0]
        pairs = zip(made, found, strict=True)
        return next((f"{own.what}, not {other.number}" for own, other in pairs if own.number != other.number), None)

    return find(refusal, (height, width), name="the network")


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A layer whose weights depend on the size of its input: what they are made for, as a sentence and as a number."""

    what: str
    number: str


def _fixed(layers: Sequence[Layer], height: int, width: int, channels: int) -> list[_Fixed]:
    """List the layers whose weights depend on the size of their input, those inside blocks too."""
    found = []
    for step in dims.steps(layers, dims.start(height=height, width=width, channels=channels)):
        layer, given, made = step.layer, step.given, step.made
        if layer.kind is LayerKind.local and given.size is not None:
            found.append(_Fixed(f"{layer.name} has weights for {_by(given.size)} pixels", _by(given.size)))
        elif layer.position_bias and made.size is not None:
            found.append(_Fixed(f"{layer.name} has biases for {_by(made.size)} positions", _by(made.size)))
        elif layer.kind in (LayerKind.dense, LayerKind.bn):
            found.append(_Fixed(f"{layer.name} has {given.channels} inputs", str(given.channels)))
    return found


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _along(side: str, start: int, attempt: Callable[[int], str | None]) -> InputSizes:
    """Find the sizes along one side, from one that is taken."""
    down = _step(start, attempt, sign=-1)
    up = _step(start, attempt, sign=1)
    smallest = _last(start, attempt, step=-down, most=(start - 1) // down) if down else start
    largest: int | None = start
    if up:
        enough = (_UNLIMITED - 1) * start // up + 1
        largest = _last(start, attempt, step=up, most=enough)
        largest = None if largest == start + enough * up else largest
    step = min((each for each in (down, up) if each), default=None)
    below, above = smallest - (step or 1), None if largest is None else largest + (step or 1)
    return InputSizes(
        side=side,
        smallest=smallest,
        largest=largest,
        step=step,
        too_small=(attempt(below) if below > 0 else None) or "",
        too_large=(attempt(above) if above else None) or "",
    )


def _step(start: int, attempt: Callable[[int], str | None], *, sign: int) -> int | None:
    """Find the distance from a size to the next one that is taken."""
    furthest = min(_WIDEST_STEP, start - 1) if sign < 0 else _WIDEST_STEP
    return next((step for step in range(1, furthest + 1) if attempt(start + sign * step) is None), None)


def _last(start: int, attempt: Callable[[int], str | None], *, step: int, most: int) -> int:
    """Find the last of the sizes start, start + step, ... that is taken, of at most `most` steps."""
    if attempt(start + most * step) is None:
        return start + most * step
    taken, refused = 0, most
    while refused - taken > 1:
        middle = (taken + refused) // 2
        if attempt(start + middle * step) is None:
            taken = middle
        else:
            refused = middle
    return start + taken * step


def smallest(taken: int, attempt: Callable[[int], str | None]) -> int:
    """Find the smallest size that is taken, below one that is."""
    return _last(taken, attempt, step=-1, most=taken - 1)
