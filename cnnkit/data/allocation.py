"""The shares of train, val, test or folds, and the allocation of images to them so that each gets its share of every class."""

import math
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from cnnkit.errors import CnnkitError, UsageError

DEFAULT_SPLITS = ("train", "val", "test")

#: What shares may miss of 1 and still be rounded ones: 0.33,0.33,0.33
_ROUNDING = Fraction(1, 100)

#: Columns of the table that counts what came out
_TAKEN = ("class", "total")


@dataclass(frozen=True, slots=True)
class SplitShares:
    """The splits by name, with their shares of every class, and with their images per class where those are demanded."""

    names: tuple[str, ...]
    shares: tuple[Fraction, ...]  # they sum up to 1
    counts: tuple[int, ...] | None = None


def by_ratio(text: str, names: str | None = None) -> SplitShares:
    """Read shares: `0.5,0.25,0.25`, or whole numbers in that proportion: `70,20,10`, `2,1,1`.

    Raises:
        UsageError: Something is no positive number, the shares do not sum up to 1, or the names are not as many.
    """
    option = f"--ratio {text}"
    shares = [_positive(word, option) for word in text.split(",")]
    total = sum(shares, Fraction())
    if len(shares) == 1 and total != 1 and names is None:
        raise UsageError(f"{option} is one part; give a number for each, as 80,20, or 1 for all in one")
    if any(share.denominator > 1 for share in shares) and abs(total - 1) > _ROUNDING:
        raise UsageError(
            f"{option} sums up to {float(total):g}; give shares that sum up to 1, or whole numbers as 2,1,1"
        )
    return SplitShares(_names(names, len(shares), option), tuple(share / total for share in shares))


def by_count(text: str, names: str | None = None) -> SplitShares:
    """Read how many images of every class each split gets: `1000,500,500`.

    Raises:
        UsageError: Something is no positive whole number, or the names are not as many.
    """
    option = f"--count {text}"
    counts = [_positive(word, option) for word in text.split(",")]
    if any(count.denominator > 1 for count in counts):
        raise UsageError(f"{option}: pictures come whole; --ratio takes shares")
    total = sum(counts, Fraction())
    return SplitShares(
        _names(names, len(counts), option), tuple(count / total for count in counts), tuple(map(int, counts))
    )


def by_folds(number: int) -> SplitShares:
    """Make equal splits, `fold0` and so on, to leave one out at a time.

    Raises:
        UsageError: Fewer than two.
    """
    if number < 2:
        raise UsageError(f"--folds {number}: there must be at least 2")
    return SplitShares(tuple(f"fold{fold}" for fold in range(number)), (Fraction(1, number),) * number)


#: A number of shares or images, or a share as a fraction below 1: Python would take `80/20` for 4, and 1e99999999 for so many digits.
_NUMBER = re.compile(r"-?([0-9]{1,12}(\.[0-9]{0,12})?|\.[0-9]{1,12})")
_FRACTION = re.compile(r"([0-9]{1,12})/([0-9]{1,12})")


def _positive(word: str, option: str) -> Fraction:
    word = word.strip()
    fraction = _FRACTION.fullmatch(word)
    if not _NUMBER.fullmatch(word) and not (fraction and int(fraction[1]) < int(fraction[2])):
        raise UsageError(
            f"{option}: {word or 'nothing'!r} is no number; give numbers with commas between{_proposal(option)}"
        )
    value = Fraction(word)
    if value <= 0:
        raise UsageError(f"{option}: every part needs a number above 0")
    return value


def _proposal(option: str) -> str:
    """Propose the numbers in an option with commas between, where there is nothing else in it."""
    name, _, text = option.partition(" ")
    apart = [word.removesuffix("%") for word in re.split(r"[,/:;+\s]+", text.strip())]
    return f", as {name} {','.join(apart)}" if len(apart) > 1 and all(map(_NUMBER.fullmatch, apart)) else ""


def _names(text: str | None, number: int, option: str) -> tuple[str, ...]:
    if text is None:
        if number > len(DEFAULT_SPLITS):
            raise UsageError(f"{option} makes {number} parts; name them with --names")
        return DEFAULT_SPLITS[:number]
    names = tuple(name.strip() for name in text.split(","))
    if len(names) != number:
        raise UsageError(f"--names {text} has {len(names)} names, {option} makes {number} parts")
    for name in names:
        # A split is a folder, too, and folders that begin with a dot are hidden
        if not name or name.startswith(".") or os.sep in name or "\0" in name or name in _TAKEN:
            raise UsageError(f"--names {text}: {name!r} cannot name a part")
    if len(set(names)) < number:
        raise UsageError(f"--names {text}: a name stands twice")
    return names


def due(splits: SplitShares, classes: Sequence[tuple[str, int]]) -> list[list[int]]:
    """Say how many images of each class are due to each split.

    Shares become whole images by the largest remainder, class by class; between equal remainders the split goes first that earlier
    classes left furthest behind. Every split gets at least one image of every class.

    Args:
        splits: What is demanded.
        classes: For each its name and how many images it has.

    Returns:
        One row a split, one column a class. Where counts are demanded, a last row with what no split asks for.

    Raises:
        CnnkitError: A class has too few images.
    """
    columns = []
    ahead = [Fraction()] * len(splits.names)
    for name, size in classes:
        column = _of_counts(splits.counts, name, size) if splits.counts else _of_shares(splits, name, size, ahead)
        columns.append(column)
    return [list(row) for row in zip(*columns, strict=True)]


def _of_counts(counts: Sequence[int], name: str, size: int) -> list[int]:
    if size < sum(counts):
        asked = ",".join(map(str, counts))
        raise CnnkitError(f"class {name} has {size} pictures, --count {asked} takes {sum(counts)}; lower it")
    return [*counts, size - sum(counts)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:3])} and {len(names) - 3:,} more parts"


def _of_shares(splits: SplitShares, name: str, size: int, ahead: list[Fraction]) -> list[int]:
    if size < len(splits.names):
        images = "1 picture" if size == 1 else f"{size} pictures"
        raise CnnkitError(f"class {name} has {images}, too few for {_some(splits.names)}; add some or remove the class")
    quotas = [share * size for share in splits.shares]
    column = [math.floor(quota) for quota in quotas]
    order = sorted(range(len(quotas)), key=lambda split: (column[split] - quotas[split], ahead[split], split))
    for split in order[: size - sum(column)]:
        column[split] += 1
    while 0 in column:
        several = [split for split, number in enumerate(column) if number > 1]
        column[max(several, key=lambda split: column[split] - quotas[split])] -= 1
        column[column.index(0)] += 1
    for split, quota in enumerate(quotas):
        ahead[split] += column[split] - quota
    return column


#: How many images of each class a unit holds: (class number, count), by class. Most units are one image: ((class, 1),).
Counts = tuple[tuple[int, int], ...]

#: Moves and swaps that are weighed at most, about a second of them: with hundreds of units that all differ there are too many to try.
_TRIALS = 100_000

#: How often to start over, with the units in another order, while the splits are not exact.
_ATTEMPTS = 1000


class _Filling:
    """How many images of each class the splits hold, are due, and what the difference costs.

    The cost is the sum over splits and classes of (held - due)² / due: large where a small split is off, zero where all is as demanded.
    """

    def __init__(self, due: Sequence[Sequence[int]], *, forgiving: int = 0) -> None:
        self.due = due  # (splits, classes)
        self.held = [[0] * len(row) for row in due]
        self._forgiving = forgiving

    def _cost(self, split: int, number: int, held: int) -> float:
        due = self.due[split][number]
        off = held - due
        if self._forgiving and (off > 0 or split >= self._forgiving):
            return 0.0
        return off * off / max(due, 1)

    def change(self, split: int, counts: Counts, sign: int = 1) -> float:
        """Say by how much the cost grows when the split receives these, or with sign -1 gives them away."""
        growth = 0.0
        for number, count in counts:
            held = self.held[split][number]
            growth += self._cost(split, number, held + sign * count) - self._cost(split, number, held)
        return growth

    def receive(self, split: int, counts: Counts, sign: int = 1) -> None:
        """Add these to the split, or with sign -1 take them away."""
        for number, count in counts:
            self.held[split][number] += sign * count

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
    """Give every unit to a split so that the splits hold of each class what is due to them, or nearly.

    Units of several images go first, the large ones before the small ones, each to the split where it mends most; the single
    images fill up what is missing. Where that is not exact, units are moved and swapped as long as it helps, from several
    starts. What scikit-learn's StratifiedGroupKFold does for equal splits, this does for splits of any size.

    Args:
        units: In random order: among equal units the order decides.
        due: For each split and class how many images; the columns sum up to what the units hold.
        spare: The last split is what no split asks for: the others must get at least their due, more does no harm.
        start: The split of each unit that somebody else found; the outcome is no worse.

    Returns:
        The split of each unit.
    """
    trials = iter(range(_TRIALS))
    best: list[int] = []
    least = float("inf")
    order = sorted(range(len(units)), key=lambda unit: -sum(count for _, count in units[unit]))
    for attempt in range(_ATTEMPTS):
        if start is None:
            start = _deal(units, due, order)
        split_of, cost = polish(units, due, start, spare=spare, trials=trials)
        if cost < least:
            best, least = split_of, cost
        if not least or next(trials, None) is None:
            break
        start = None
        random.Random(attempt).shuffle(order)
    return best


def _deal(units: Sequence[Counts], due: Sequence[Sequence[int]], order: Sequence[int]) -> list[int]:
    """Give the units away in this order, each to the split where it mends most."""
    filling = _Filling(due)
    split_of = [0] * len(units)
    for unit in order:
        counts = units[unit]
        split_of[unit] = min(range(len(due)), key=lambda split: filling.change(split, counts))
        filling.receive(split_of[unit], counts)
    return split_of


def polish(
    units: Sequence[Counts],
    due: Sequence[Sequence[int]],
    split_of: Sequence[int],
    *,
    spare: bool = False,
    trials: Iterator[int] | None = None,
) -> tuple[list[int], float]:
    """Move and swap units between splits as long as that brings the splits nearer to their due.

    Args:
        units: As for `pack`.
        due: As for `pack`.
        split_of: Where to start from.
        spare: As for `pack`.
        trials: As many moves and swaps are weighed as it yields.

    Returns:
        The split of each unit, and what is left of the cost: 0 where the splits hold exactly their due.
    """
    trials = trials or iter(range(_TRIALS))
    filling = _Filling(due, forgiving=len(due) - 1 if spare else 0)
    alike: defaultdict[tuple[int, Counts], list[int]] = defaultdict(list)
    for unit, split in enumerate(split_of):
        filling.receive(split, units[unit])
        alike[split, units[unit]].append(unit)
    best = list(split_of)
    while filling.total() > 0 and _improve(filling, alike, best, trials):
        pass
    return best, filling.total()


def _improve(
    filling: _Filling,
    alike: defaultdict[tuple[int, Counts], list[int]],
    split_of: list[int],
    trials: Iterator[int],
) -> bool:
    """Try every move and every swap of two units once, do those that help, and say whether there was one."""
    helped = False
    nothing: Counts = ()
    splits = range(len(filling.due))
    kinds = sorted({counts for _, counts in alike})
    for (one, other), (gives, takes) in (
        (pair, exchange)
        for exchange in [*((kind, nothing) for kind in kinds), *combinations(kinds, 2)]
        for pair in ((one, other) for one in splits for other in splits if one != other)
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
            split_of[moved] = other
            if takes is not nothing:
                returned = alike[other, takes].pop()
                split_of[returned] = one
                alike[one, takes].append(returned)
            alike[other, gives].append(moved)
            helped = True
    return helped


def _difference(gives: Counts, takes: Counts) -> Counts:
    counts = dict(gives)
    for number, count in takes:
        counts[number] = counts.get(number, 0) - count
    return tuple((number, count) for number, count in sorted(counts.items()) if count)
