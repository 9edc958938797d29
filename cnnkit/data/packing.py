"""Which part each unit goes to, where a unit is a handful of pictures that must not be parted."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

#: How many pictures of each class a unit holds: (class number, count), by class. Most units are one picture: ((class, 1),).
Counts = tuple[tuple[int, int], ...]

#: Moves and swaps that are weighed at most, about a second of them: with hundreds of units that all differ there are too many to try.
_TRIALS = 100_000

#: How often to begin anew, with the units in another order, while the parts are not exact.
_ATTEMPTS = 1000


class _Filling:
    """How many pictures of each class the parts hold, are due, and what the difference costs.

    The cost is the sum over parts and classes of (held - due)² / due: large where a small part is off, zero where all is as demanded.
    """

    def __init__(self, due: Sequence[Sequence[int]], *, forgiving: int = 0) -> None:
        self.due = due  # (parts, classes)
        self.held = [[0] * len(row) for row in due]
        self._forgiving = forgiving

    def _cost(self, part: int, number: int, held: int) -> float:
        due = self.due[part][number]
        off = held - due
        if self._forgiving and (off > 0 or part >= self._forgiving):
            return 0.0
        return off * off / max(due, 1)

    def change(self, part: int, counts: Counts, sign: int = 1) -> float:
        """Say by how much the cost grows when the part receives these, or with sign -1 gives them away."""
        growth = 0.0
        for number, count in counts:
            held = self.held[part][number]
            growth += self._cost(part, number, held + sign * count) - self._cost(part, number, held)
        return growth

    def receive(self, part: int, counts: Counts, sign: int = 1) -> None:
        """Add these to the part, or with sign -1 take them away."""
        for number, count in counts:
            self.held[part][number] += sign * count

    def total(self) -> float:
        """Sum up the cost."""
        return sum(self._cost(p, c, held) for p, row in enumerate(self.held) for c, held in enumerate(row))


def pack(
    units: Sequence[Counts],
    due: Sequence[Sequence[int]],
    *,
    spare: bool = False,
    start: Sequence[int] | None = None,
) -> list[int]:
    """Give every unit to a part so that the parts hold of each class what is due to them, or nearly.

    Units of several pictures go first, the large ones before the small ones, each to the part where it mends most; the single
    pictures fill up what is missing. Where that is not exact, units are moved and swapped as long as it helps, from several
    starts. What scikit-learn's StratifiedGroupKFold does for equal parts, this does for parts of any size.

    Args:
        units: In random order: among equal units the order decides.
        due: For each part and class how many pictures; the columns sum up to what the units hold.
        spare: The last part is what nobody asked for: the others must get at least their due, more does no harm.
        start: The part of each unit that somebody else found; the outcome is no worse.

    Returns:
        The part of each unit.
    """
    trials = iter(range(_TRIALS))
    best: list[int] = []
    least = float("inf")
    order = sorted(range(len(units)), key=lambda unit: -sum(count for _, count in units[unit]))
    for attempt in range(_ATTEMPTS):
        if start is None:
            start = _deal(units, due, order)
        part_of, cost = polish(units, due, start, spare=spare, trials=trials)
        if cost < least:
            best, least = part_of, cost
        if not least or next(trials, None) is None:
            break
        start = None
        random.Random(attempt).shuffle(order)
    return best


def _deal(units: Sequence[Counts], due: Sequence[Sequence[int]], order: Sequence[int]) -> list[int]:
    """Give the units away in this order, each to the part where it mends most."""
    filling = _Filling(due)
    part_of = [0] * len(units)
    for unit in order:
        counts = units[unit]
        part_of[unit] = min(range(len(due)), key=lambda part: filling.change(part, counts))
        filling.receive(part_of[unit], counts)
    return part_of


def polish(
    units: Sequence[Counts],
    due: Sequence[Sequence[int]],
    part_of: Sequence[int],
    *,
    spare: bool = False,
    trials: Iterator[int] | None = None,
) -> tuple[list[int], float]:
    """Move and swap units between parts as long as that brings the parts nearer to their due.

    Args:
        units: As for `pack`.
        due: As for `pack`.
        part_of: Where to start from.
        spare: As for `pack`.
        trials: As many moves and swaps are weighed as it yields.

    Returns:
        The part of each unit, and what is left of the cost: 0 where the parts hold exactly their due.
    """
    trials = trials or iter(range(_TRIALS))
    filling = _Filling(due, forgiving=len(due) - 1 if spare else 0)
    alike: defaultdict[tuple[int, Counts], list[int]] = defaultdict(list)
    for unit, part in enumerate(part_of):
        filling.receive(part, units[unit])
        alike[part, units[unit]].append(unit)
    best = list(part_of)
    while filling.total() > 0 and _improve(filling, alike, best, trials):
        pass
    return best, filling.total()


def _improve(
    filling: _Filling,
    alike: defaultdict[tuple[int, Counts], list[int]],
    part_of: list[int],
    trials: Iterator[int],
) -> bool:
    """Try every move and every swap of two units once, do those that help, and say whether there was one."""
    helped = False
    nothing: Counts = ()
    parts = range(len(filling.due))
    kinds = sorted({counts for _, counts in alike})
    for (one, other), (gives, takes) in (
        (pair, exchange)
        for exchange in [*((kind, nothing) for kind in kinds), *combinations(kinds, 2)]
        for pair in ((one, other) for one in parts for other in parts if one != other)
    ):
        while alike.get((one, gives)) and (takes is nothing or alike.get((other, takes))):
            if next(trials, None) is None:
                return False
            net = _difference(gives, takes)
            if filling.change(one, net, -1) + filling.change(other, net) > -1e-9:
                break
            filling.receive(one, net, -1)
            filling.receive(other, net)
            moved = alike[one, gives].pop()
            part_of[moved] = other
            if takes is not nothing:
                returned = alike[other, takes].pop()
                part_of[returned] = one
                alike[one, takes].append(returned)
            alike[other, gives].append(moved)
            helped = True
    return helped


def _difference(gives: Counts, takes: Counts) -> Counts:
    counts = dict(gives)
    for number, count in takes:
        counts[number] = counts.get(number, 0) - count
    return tuple((number, count) for number, count in sorted(counts.items()) if count)
