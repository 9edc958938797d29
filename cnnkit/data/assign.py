"""Which part each picture goes to: by what is due to the parts, or by what the picture holds.

Nothing here draws random numbers. A picture's place in the draw is a hash of the seed and of what its file holds, so the same pictures
are split alike on every machine, in every folder, under every name.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

from cnnkit.data import packing
from cnnkit.data import parts as demands
from cnnkit.data.duplicates import Together
from cnnkit.data.parts import Parts
from cnnkit.data.source import Picture
from cnnkit.errors import CnnkitError


@dataclass(frozen=True, slots=True)
class Draw:
    """What there is to give away."""

    pictures: Sequence[Picture]
    classes: list[str]  # every label once, sorted; "(none)" where there are no labels
    numbers: list[int]  # the class of each picture, as a position in `classes`
    keys: list[bytes]  # the place of each picture in the draw
    units: list[list[int]]  # what must stay together, as positions in `pictures`; in the order of the draw

    def held(self, part_of: Sequence[int], parts: int) -> list[list[int]]:
        """Count the pictures: one row a part, one column a class."""
        counts = Counter(zip(part_of, self.numbers, strict=True))
        return [[counts[part, number] for number in range(len(self.classes))] for part in range(parts)]


def name_of(label: str | None) -> str:
    """Give a label a name for messages."""
    return "(none)" if label is None else label


def draw(
    pictures: Sequence[Picture], digests: Sequence[bytes], together: Iterable[Sequence[int]], *, seed: int
) -> Draw:
    """Put pictures in random order, those in one unit that must not be parted.

    Args:
        pictures: Those of one group stay together.
        digests: Hash of each file's content.
        together: Further sets of pictures, as positions, that stay together; those with the same content are among them.
        seed: Another number gives another order.
    """
    classes = sorted({name_of(picture.label) for picture in pictures})
    number_of = {name: number for number, name in enumerate(classes)}
    keys = [_drawn(seed, digest) for digest in digests]
    joined = Together(len(pictures))
    joined.unite_equal(picture.group for picture in pictures)
    for members in together:
        for member in members[1:]:
            joined.unite(members[0], member)
    units = sorted(joined.sets(), key=lambda members: min(keys[member] for member in members))
    return Draw(pictures, classes, [number_of[name_of(picture.label)] for picture in pictures], keys, units)


def _drawn(seed: int, content: bytes) -> bytes:
    return hashlib.sha256(f"{seed}:".encode() + content).digest()


def by_content(drawn: Draw, parts: Parts, *, seed: int) -> list[int]:
    """Let each picture's content, or the name of its group, say the part: whatever else there is changes nothing.

    Returns:
        The part of each picture.

    Raises:
        CnnkitError: Identical pictures belong to groups that fall into different parts, or a part lacks a class.
    """
    bounds = list(accumulate(parts.shares))[:-1]
    part_of = []
    for picture, key in zip(drawn.pictures, drawn.keys, strict=True):
        text = key if picture.group is None else _drawn(seed, os.fsencode(f"group:{picture.group}"))
        place = Fraction(int.from_bytes(text), 1 << 8 * len(text))  # 0 <= place < 1
        part_of.append(sum(place >= bound for bound in bounds))
    for one, *others in drawn.units:
        for other in others:
            if part_of[other] != part_of[one]:
                raise CnnkitError(
                    f"{drawn.pictures[one].path} and {drawn.pictures[other].path} are byte-identical, but their groups fall into "
                    f"{parts.names[part_of[one]]} and {parts.names[part_of[other]]}; give them one group, remove one or drop --stable"
                )
    _check_every_class(drawn, part_of, parts)
    return part_of


def by_share(drawn: Draw, parts: Parts, *, seed: int) -> tuple[list[int], bool]:
    """Fill the parts with their shares of every class, as nearly as what stays together allows.

    Returns:
        The part of each picture, and whether every part holds exactly what is due to it.

    Raises:
        CnnkitError: A class cannot be in every part.
    """
    due = demands.due(parts, _sizes(drawn))
    equal = len(set(parts.shares)) == 1
    grouped = any(picture.group for picture in drawn.pictures)
    start = _group_folds(drawn, len(due), seed) if equal and grouped and len(drawn.units) >= len(due) else None
    part_of = _of_members(drawn, packing.pack(_counts(drawn), due, start=start))
    _check_every_class(drawn, part_of, parts)
    return part_of, drawn.held(part_of, len(due)) == due


def by_count(drawn: Draw, parts: Parts) -> list[int | None]:
    """Fill the parts with so many pictures of every class, to the picture.

    Where a group or a set of duplicates is larger than what a part lacks, the rest of it is left out: what is in no part leaks
    into none.

    Returns:
        The part of each picture; None for what nobody asked for.

    Raises:
        CnnkitError: There are too few, or what stays together is in the way.
    """
    due = demands.due(parts, _sizes(drawn))  # with a last row for what nobody asked for
    part_of = _of_members(drawn, packing.pack(_counts(drawn), due, spare=True))
    room = [list(row) for row in due]
    taken: list[int | None] = [None] * len(part_of)
    for member in sorted(range(len(part_of)), key=drawn.keys.__getitem__):
        part, number = part_of[member], drawn.numbers[member]
        if part < len(parts.names) and room[part][number]:
            room[part][number] -= 1
            taken[member] = part
    for part, name in enumerate(parts.names):
        for number, lacking in enumerate(room[part]):
            if lacking:
                raise CnnkitError(
                    f"class {drawn.classes[number]}: --count asks for {due[part][number]} pictures in {name}, but only "
                    f"{due[part][number] - lacking} can be had without parting groups or duplicates; lower it or use --ratio"
                )
    return taken


def _sizes(drawn: Draw) -> list[tuple[str, int]]:
    sizes = Counter(drawn.numbers)
    return [(name, sizes[number]) for number, name in enumerate(drawn.classes)]


def _counts(drawn: Draw) -> list[packing.Counts]:
    return [tuple(sorted(Counter(drawn.numbers[member] for member in members).items())) for members in drawn.units]


def _of_members(drawn: Draw, part_of_unit: Sequence[int]) -> list[int]:
    part_of = [0] * len(drawn.pictures)
    for members, part in zip(drawn.units, part_of_unit, strict=True):
        for member in members:
            part_of[member] = part
    return part_of


def _group_folds(drawn: Draw, parts: int, seed: int) -> list[int]:
    """Let scikit-learn deal the groups to equal parts, for a start."""
    from sklearn.model_selection import StratifiedGroupKFold  # a second to import, for groups alone

    members = [member for unit in drawn.units for member in unit]
    unit_of = [place for place, unit in enumerate(drawn.units) for _ in unit]
    labels = [drawn.numbers[member] for member in members]
    folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed % 2**32)
    part_of = [0] * len(drawn.units)
    for part, (_, held_out) in enumerate(folds.split(labels, labels, unit_of)):
        for row in held_out:
            part_of[unit_of[row]] = part
    return part_of


def _check_every_class(drawn: Draw, part_of: Sequence[int], parts: Parts) -> None:
    held = drawn.held(part_of, len(parts.names))
    for number, label in enumerate(drawn.classes):
        for part, name in enumerate(parts.names):
            if not held[part][number]:
                size = sum(row[number] for row in held)
                units = sum(any(drawn.numbers[member] == number for member in members) for members in drawn.units)
                sets = "1 set that stays together" if units == 1 else f"{units} sets that stay together"
                undivided = f" in {sets}" if units < size else ""
                raise CnnkitError(
                    f"class {label} has {size} pictures{undivided}, and none of them is in {name}; "
                    "add some, make fewer parts or try another --seed"
                )
