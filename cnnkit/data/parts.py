"""What is demanded of a split: the names of its parts, and how many pictures of each class are due to each."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from cnnkit.errors import CnnkitError, UsageError

NAMES = ("train", "val", "test")

#: What shares may miss of 1 and still be rounded ones: 0.33,0.33,0.33
_ROUNDING = Fraction(1, 100)

#: Columns of the table that counts what came out
_TAKEN = ("class", "total")


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts by name, with their shares of every class, and with their pictures per class where those are demanded."""

    names: tuple[str, ...]
    shares: tuple[Fraction, ...]  # they sum up to 1
    counts: tuple[int, ...] | None = None


def demanded(*, ratio: str | None, count: str | None, folds: int | None, names: str | None = None) -> Parts:
    """Read the one demand that was made, as it stands on the command line.

    Raises:
        UsageError: There is none, or more than one, or it makes no sense.
    """
    made = [f"--{name}" for name, value in (("ratio", ratio), ("count", count), ("folds", folds)) if value is not None]
    if len(made) != 1:
        raise UsageError(f"give one of --ratio, --count and --folds{', not ' + ' and '.join(made) if made else ''}")
    if ratio is not None:
        return by_ratio(ratio, names)
    if count is not None:
        return by_count(count, names)
    if names is not None:
        raise UsageError("--names and --folds exclude each other; folds are called fold0, fold1 and so on")
    return by_folds(folds or 0)


def by_ratio(text: str, names: str | None = None) -> Parts:
    """Read shares: `0.5,0.25,0.25`, or whole numbers in that proportion: `70,20,10`, `2,1,1`.

    Raises:
        UsageError: Something is no positive number, the shares do not sum up to 1, or the names are not as many.
    """
    option = f"--ratio {text}"
    shares = [_positive(word, option) for word in text.split(",")]
    total = sum(shares, Fraction())
    if any(share.denominator > 1 for share in shares) and abs(total - 1) > _ROUNDING:
        raise UsageError(
            f"{option} sums up to {float(total):g}; give shares that sum up to 1, or whole numbers as 2,1,1"
        )
    return Parts(_names(names, len(shares), option), tuple(share / total for share in shares))


def by_count(text: str, names: str | None = None) -> Parts:
    """Read how many pictures of every class each part gets: `1000,500,500`.

    Raises:
        UsageError: Something is no positive whole number, or the names are not as many.
    """
    option = f"--count {text}"
    counts = [_positive(word, option) for word in text.split(",")]
    if any(count.denominator > 1 for count in counts):
        raise UsageError(f"{option}: pictures come whole; --ratio takes shares")
    total = sum(counts, Fraction())
    return Parts(_names(names, len(counts), option), tuple(count / total for count in counts), tuple(map(int, counts)))


def by_folds(number: int) -> Parts:
    """Make equal parts, `fold0` and so on, to leave one out at a time.

    Raises:
        UsageError: Fewer than two.
    """
    if number < 2:
        raise UsageError(f"--folds {number}: there must be at least 2")
    return Parts(tuple(f"fold{fold}" for fold in range(number)), (Fraction(1, number),) * number)


def _positive(word: str, option: str) -> Fraction:
    try:
        value = Fraction(word)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"{option}: {word.strip() or 'nothing'!r} is no number; give numbers with commas between"
        ) from error
    if value <= 0:
        raise UsageError(f"{option}: every part needs a number above 0")
    return value


def _names(text: str | None, number: int, option: str) -> tuple[str, ...]:
    if text is None:
        if number > len(NAMES):
            raise UsageError(f"{option} makes {number} parts; name them with --names")
        return NAMES[:number]
    names = tuple(name.strip() for name in text.split(","))
    if len(names) != number:
        raise UsageError(f"--names {text} has {len(names)} names, {option} makes {number} parts")
    for name in names:
        # A part is a folder, too, and folders that begin with a dot are hidden
        if not name or name.startswith(".") or os.sep in name or "\0" in name or name in _TAKEN:
            raise UsageError(f"--names {text}: {name!r} cannot name a part")
    if len(set(names)) < number:
        raise UsageError(f"--names {text}: a name stands twice")
    return names


def due(parts: Parts, classes: Sequence[tuple[str, int]]) -> list[list[int]]:
    """Say how many pictures of each class are due to each part.

    Shares become whole pictures by the largest remainder, class by class; between equal remainders the part goes first that earlier
    classes left furthest behind. Every part gets at least one picture of every class.

    Args:
        parts: What is demanded.
        classes: For each its name and how many pictures it has.

    Returns:
        One row a part, one column a class. Where counts are demanded, a last row with what nobody asked for.

    Raises:
        CnnkitError: A class has too few pictures.
    """
    columns = []
    ahead = [Fraction()] * len(parts.names)
    for name, size in classes:
        column = _of_counts(parts.counts, name, size) if parts.counts else _of_shares(parts, name, size, ahead)
        columns.append(column)
    return [list(row) for row in zip(*columns, strict=True)]


def _of_counts(counts: Sequence[int], name: str, size: int) -> list[int]:
    if size < sum(counts):
        asked = ",".join(map(str, counts))
        raise CnnkitError(f"class {name} has {size} pictures, --count {asked} takes {sum(counts)}; lower it")
    return [*counts, size - sum(counts)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:3])} and {len(names) - 3:,} more parts"


def _of_shares(parts: Parts, name: str, size: int, ahead: list[Fraction]) -> list[int]:
    if size < len(parts.names):
        pictures = "1 picture" if size == 1 else f"{size} pictures"
        raise CnnkitError(
            f"class {name} has {pictures}, too few for {_some(parts.names)}; add some or remove the class"
        )
    quotas = [share * size for share in parts.shares]
    column = [math.floor(quota) for quota in quotas]
    order = sorted(range(len(quotas)), key=lambda part: (column[part] - quotas[part], ahead[part], part))
    for part in order[: size - sum(column)]:
        column[part] += 1
    while 0 in column:
        several = [part for part, number in enumerate(column) if number > 1]
        column[max(several, key=lambda part: column[part] - quotas[part])] -= 1
        column[column.index(0)] += 1
    for part, quota in enumerate(quotas):
        ahead[part] += column[part] - quota
    return column
