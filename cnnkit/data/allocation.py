"""Shares of the splits (train, val, test or folds), and a stratified allocation of images to them."""

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

#: Maximum distance of the sum of rounded shares from 1: 0.33,0.33,0.33
_ROUNDING = Fraction(1, 100)

#: Columns of the table of --dry-run that are not splits
_TAKEN = ("class", "total")


@dataclass(frozen=True, slots=True)
class SplitShares:
    """Names of the splits, their shares of every class, and with --count their images per class."""

    names: tuple[str, ...]
    shares: tuple[Fraction, ...]  # they sum up to 1
    counts: tuple[int, ...] | None = None


def by_ratio(text: str, names: str | None = None) -> SplitShares:
    """Parse shares: `0.5,0.25,0.25`, or whole numbers in that proportion: `70,20,10`, `2,1,1`.

    Raises:
        UsageError: A word is not a positive number, the shares do not sum up to 1, or the number of names differs.
    """
    option = f"--ratio {text}"
    shares = [_positive(word, option) for word in text.split(",")]
    total = sum(shares, Fraction())
    if len(shares) == 1 and total != 1 and names is None:
        raise UsageError(
            f"{option} makes one split; give a number for each split, such as 80,20, or 1 for a single one"
        )
    if any(share.denominator > 1 for share in shares) and abs(total - 1) > _ROUNDING:
        raise UsageError(
            f"{option} sums up to {float(total):g}; give shares that sum up to 1, or whole numbers such as 2,1,1"
        )
    return SplitShares(_names(names, len(shares), option), tuple(share / total for share in shares))


def by_count(text: str, names: str | None = None) -> SplitShares:
    """Parse the number of images of every class in each split: `1000,500,500`.

    Raises:
        UsageError: A word is not a positive whole number, or the number of names differs.
    """
    option = f"--count {text}"
    counts = [_positive(word, option) for word in text.split(",")]
    if any(count.denominator > 1 for count in counts):
        raise UsageError(f"{option}: not whole numbers of images; use --ratio for shares")
    total = sum(counts, Fraction())
    return SplitShares(
        _names(names, len(counts), option), tuple(count / total for count in counts), tuple(map(int, counts))
    )


def by_folds(number: int) -> SplitShares:
    """Return equal splits `fold0`, `fold1`, ... for cross-validation.

    Raises:
        UsageError: Fewer than two.
    """
    if number < 2:
        raise UsageError(f"--folds {number}: at least 2 folds are needed")
    return SplitShares(tuple(f"fold{fold}" for fold in range(number)), (Fraction(1, number),) * number)


#: A number of shares or images, or a fraction below 1. Python's Fraction would read `80/20` as 4, and 1e99999999 with all its digits.
_NUMBER = re.compile(r"-?([0-9]{1,12}(\.[0-9]{0,12})?|\.[0-9]{1,12})")
_FRACTION = re.compile(r"([0-9]{1,12})/([0-9]{1,12})")


def _positive(word: str, option: str) -> Fraction:
    word = word.strip()
    if not word:
        raise UsageError(f"{option}: a number is missing; give numbers separated by commas{_proposal(option)}")
    fraction = _FRACTION.fullmatch(word)
    if not _NUMBER.fullmatch(word) and not (fraction and int(fraction[1]) < int(fraction[2])):
        raise UsageError(f"{option}: {word!r} is not a number; give numbers separated by commas{_proposal(option)}")
    value = Fraction(word)
    if value <= 0:
        raise UsageError(f"{option}: every split needs a number above 0")
    return value


def _proposal(option: str) -> str:
    """Propose the numbers of an option separated by commas, if it holds only numbers and separators."""
    name, _, text = option.partition(" ")
    apart = [word.removesuffix("%") for word in re.split(r"[,/:;+\s]+", text.strip())]
    return f", such as {name} {','.join(apart)}" if len(apart) > 1 and all(map(_NUMBER.fullmatch, apart)) else ""


def _names(text: str | None, number: int, option: str) -> tuple[str, ...]:
    if text is None:
        if number > len(DEFAULT_SPLITS):
            raise UsageError(f"{option} makes {number} splits; name them with --names")
        return DEFAULT_SPLITS[:number]
    names = tuple(name.strip() for name in text.split(","))
    if len(names) != number:
        raise UsageError(f"--names {text} has {len(names)} names, but {option} makes {number} splits")
    for name in names:
        # A split is a folder, too, and folders that begin with a dot are hidden
        if not name or name.startswith(".") or os.sep in name or "\0" in name or name in _TAKEN:
            raise UsageError(f"--names {text}: {name!r} cannot be the name of a split")
    if len(set(names)) < number:
        raise UsageError(f"--names {text}: a name is given twice")
    return names


def due(splits: SplitShares, classes: Sequence[tuple[str, int]]) -> list[list[int]]:
    """Compute the target number of images of each class in each split.

    Shares become whole images by the largest-remainder method, class by class; between equal remainders the split that earlier
    classes left furthest below its share goes first. Every split gets at least one image of every class.

    Args:
        splits: Names and shares.
        classes: For each its name and its number of images.

    Returns:
        One row per split, one column per class. With counts, a last row for the images in no split.

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
        raise CnnkitError(f"class {name} has {size} images, but --count {asked} needs {sum(counts)}; lower it")
    return [*counts, size - sum(counts)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:3])} and {len(names) - 3:,} more splits"


def _of_shares(splits: SplitShares, name: str, size: int, ahead: list[Fraction]) -> list[int]:
    if size < len(splits.names):
        images = "1 image" if size == 1 else f"{size} images"
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


#: Number of images of each class in a unit: (class number, count), by class. Most units are one image: ((class, 1),).
Counts = tuple[tuple[int, int], ...]

#: Maximum number of moves and swaps that are evaluated, about one second's work: hundreds of different units have too many to try all.
_TRIALS = 100_000

#: Maximum number of restarts with the units in another order, while the splits are not exact.
_ATTEMPTS = 1000


class _Filling:
    """Images of each class that the splits hold and should hold, and the cost of the difference.

    The cost is the sum over splits and classes of (held - due)² / due: large where a small split is off, zero for an exact allocation.
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
        """Return the change of the cost when the split receives these, or with sign -1 loses them."""
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
        """Return the cost of all splits."""
        return sum(self._cost(p, c, held) for p, row in enumerate(self.held) for c, held in enumerate(row))


def pack(
    units: Sequence[Counts],
    due: Sequence[Sequence[int]],
    *,
    spare: bool = False,
    start: Sequence[int] | None = None,
) -> list[int]:
    """Assign every unit to a split so that the splits hold their target of each class, exactly or as nearly as possible.

    Greedy: large units first, each to the split where it reduces the cost most; single images fill up the rest. If that is not
    exact, units are moved and swapped as long as it helps, from several starts. Like scikit-learn's StratifiedGroupKFold, for
    splits of any size.

    Args:
        units: In random order: among equal units the order decides.
        due: Target for each split and class; the columns sum up to what the units hold.
        spare: The last split is for images in no split: the others must get at least their target, and may get more.
        start: The split of each unit to start from; the result is at least as good.

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
    """Assign the units in this order, each to the split where it reduces the cost most."""
    filling = _Filling(due)
    split_of = [0] * len(units)
    # Of many units most are alike: what each split would gain is kept, until a split receives images of the same classes
    gains: dict[Counts, list[float]] = {}
    kinds_of: defaultdict[int, set[Counts]] = defaultdict(
        set
    )  # the kinds of units in `gains` that have images of a class
    splits = range(len(due))
    for unit in order:
        counts = units[unit]
        gain = gains.get(counts)
        if gain is None:
            gain = [filling.change(split, counts) for split in splits]
        best = gain.index(min(gain))
        split_of[unit] = best
        filling.receive(best, counts)
        for number, _ in counts:
            if kinds_of[number] != {counts}:
                for kind in kinds_of[number] - {counts}:
                    gains.pop(kind, None)
                kinds_of[number] = {counts}
        gain[best] = filling.change(best, counts)
        gains[counts] = gain
    return split_of


def polish(
    units: Sequence[Counts],
    due: Sequence[Sequence[int]],
    split_of: Sequence[int],
    *,
    spare: bool = False,
    trials: Iterator[int] | None = None,
) -> tuple[list[int], float]:
    """Move and swap units between splits as long as that reduces the cost.

    Args:
        units: As for `pack`.
        due: As for `pack`.
        split_of: Where to start from.
        spare: As for `pack`.
        trials: Evaluates as many moves and swaps as it yields.

    Returns:
        The split of each unit, and the remaining cost: 0 if the splits hold exactly their target.
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
    """Try every move and every swap of two units once, keep those that help, and return whether one did."""
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
