"""Stratified splits of images with any number of labels: every split gets its share of the images of each label.

Iterative stratification: the label with the fewest images that are left is dealt out first, each image to the split that lacks the most
images of that label. Then single images, or sets that stay together, are moved as long as that brings the splits nearer to their shares.

Source:
    Sechidis, Tsoumakas, Vlahavas, On the stratification of multi-label data, ECML PKDD 2011.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, islice, permutations

from cnnkit.data.allocation import SplitShares

#: Stands for no label: images without any are stratified like those of a label.
_NONE = ""

#: Rounds of moves; each looks at every unit once.
_MOST_ROUNDS = 20

#: Pairs of sets of labels that are tried for exchanges in a round.
_MOST_PAIRS = 20_000


def by_labels(units: Sequence[Sequence[int]], labels: Sequence[Sequence[str]], splits: SplitShares) -> list[int]:
    """Choose a split for each image.

    Args:
        units: Sets of images that stay together, as positions in `labels`, in random order, which decides between equals.
        labels: Of each image.
        splits: The splits and their shares.

    Returns:
        The split of each image.
    """
    labels = [own or (_NONE,) for own in labels]
    named = sorted({label for own in labels for label in own})
    place_of = {label: place for place, label in enumerate(named)}
    counted = [
        Counter(place_of[label] for member in members for label in labels[member]) + Counter({len(named): len(members)})
        for members in units
    ]  # of each label, and under one more number, of images
    demand = _Demand(counted, len(named) + 1, splits)
    chosen = _dealt(counted, len(named), demand)
    _improve(counted, chosen, demand)
    split_of = [0] * len(labels)
    for members, split in zip(units, chosen, strict=True):
        for member in members:
            split_of[member] = split
    return split_of


class _Demand:
    """The images of each label that each split lacks, in whole numbers: `scale` of them are one image."""

    def __init__(self, counted: Sequence[Counter[int]], columns: int, splits: SplitShares) -> None:
        self.scale = math.lcm(*(share.denominator for share in splits.shares))
        self.totals = [0] * columns
        for counts in counted:
            for column, count in counts.items():
                self.totals[column] += count
        self.least = 1e-9 * self.scale  # smaller gains are rounding errors
        self.lacking = [[int(share * self.scale) * total for total in self.totals] for share in splits.shares]

    def take(self, counts: Counter[int], split: int, *, sign: int = 1) -> None:
        """Note that a unit is in a split, or with `sign` -1 that it is no longer."""
        row = self.lacking[split]
        for column, count in counts.items():
            row[column] -= sign * self.scale * count

    def gain(self, counts: Counter[int], split: int, *, sign: int = 1) -> float:
        """Return by how much the squared errors, relative to the images of each label, decrease if a unit is added to a split."""
        row, gained = self.lacking[split], 0.0
        for column, count in counts.items():
            added = sign * self.scale * count
            gained += (row[column] ** 2 - (row[column] - added) ** 2) / self.totals[column]
        return gained


def _dealt(counted: Sequence[Counter[int]], images: int, demand: _Demand) -> list[int]:
    """Deal out the units, those of rare labels first, and return the split of each; `images` is the column of the number of images."""
    left: dict[int, set[int]] = {}
    for unit, counts in enumerate(counted):
        for column in counts:
            left.setdefault(column, set()).add(unit)
    everything = left.pop(images, set())
    amounts = {column: demand.totals[column] for column in left}
    chosen = [0] * len(counted)

    def deal(units: set[int], column: int) -> None:
        for unit in sorted(units, key=lambda unit: (-counted[unit][column], unit)):  # large ones while there is room
            lacking = demand.lacking
            split = max(range(len(lacking)), key=lambda split: (lacking[split][column], lacking[split][images], -split))
            chosen[unit] = split
            demand.take(counted[unit], split)
            everything.discard(unit)
            for other, count in counted[unit].items():
                if other != images:
                    left[other].discard(unit)
                    amounts[other] -= count

    while amounts:
        column = min(amounts, key=lambda column: (amounts[column], column))
        deal(set(left[column]), column)
        del amounts[column]
        amounts = {other: count for other, count in amounts.items() if count}
    deal(set(everything), images)
    return chosen


def _improve(counted: Sequence[Counter[int]], chosen: list[int], demand: _Demand) -> None:
    """Move single units, and exchange two, while that reduces the errors."""
    kinds: dict[frozenset[tuple[int, int]], list[int]] = {}
    for unit, counts in enumerate(counted):
        kinds.setdefault(frozenset(counts.items()), []).append(unit)
    for _ in range(_MOST_ROUNDS):
        moved = _move_units(counted, chosen, demand)
        if not moved and not _exchange_units(list(kinds.values()), counted, chosen, demand):
            return


def _move_units(counted: Sequence[Counter[int]], chosen: list[int], demand: _Demand) -> bool:
    """Move each unit to the split where it reduces the errors most; return whether one was moved."""
    splits, moved = range(len(demand.lacking)), False
    for unit, counts in enumerate(counted):
        before = chosen[unit]
        freed = demand.gain(counts, before, sign=-1)
        gains = [-math.inf if split == before else freed + demand.gain(counts, split) for split in splits]
        best = max(splits, key=lambda split: (gains[split], -split))
        if gains[best] > demand.least:
            demand.take(counts, before, sign=-1)
            demand.take(counts, best)
            chosen[unit], moved = best, True
    return moved


def _exchange_units(
    kinds: Sequence[Sequence[int]], counted: Sequence[Counter[int]], chosen: list[int], demand: _Demand
) -> bool:
    """Exchange units of two splits where that reduces the errors; units with the same labels are alike.

    Args:
        kinds: Units with the same labels. Only the first ones are exchanged if there are many.
        counted: Images of each label in a unit.
        chosen: The split of each unit.
        demand: What the splits lack.
    """
    exchanged, splits = False, range(len(demand.lacking))
    held: list[list[list[int]]] = [[[] for _ in splits] for _ in kinds]
    for kind, units in enumerate(kinds):
        for unit in units:
            held[kind][chosen[unit]].append(unit)
    for one, other in islice(combinations(range(len(kinds)), 2), _MOST_PAIRS):
        ours, theirs = counted[kinds[one][0]], counted[kinds[other][0]]
        change = Counter({column: ours[column] - theirs[column] for column in {*ours, *theirs}})
        for here, there in permutations(splits, 2):
            while held[one][here] and held[other][there]:
                if demand.gain(change, here, sign=-1) + demand.gain(change, there) <= demand.least:
                    break
                demand.take(change, here, sign=-1)
                demand.take(change, there)
                unit, partner = held[one][here].pop(), held[other][there].pop()
                chosen[unit], chosen[partner] = there, here
                held[one][there].append(unit)
                held[other][here].append(partner)
                exchanged = True
    return exchanged
