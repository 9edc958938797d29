"""From a checked set to a manifest without what is broken and what is there twice, with groups for what must stay together."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cnnkit.audit.record import FindingKind
from cnnkit.audit.report import CheckReport
from cnnkit.data import split_names
from cnnkit.data.duplicates import DisjointSets
from cnnkit.data.source import ImageFile
from cnnkit.formats.manifest import ManifestRow


@dataclass(frozen=True, slots=True)
class Fixed:
    """What is left of a set; `left_out` counts what is not, by the reason."""

    rows: list[ManifestRow]
    left_out: dict[str, int]


def fixed(report: CheckReport) -> Fixed:
    """Choose the pictures to go on with, and name what must not be parted.

    Left out are broken pictures, those without a class among others that have one, and all whose labels contradict each other: the same
    file, identical ones or such that look alike, under two classes. Of identical files one stays, the one that is held out, or the first
    by its name. Of pictures that look alike all stay, as one group; unless they stand in different parts: then those that are held out
    stay. Neighbours in feature space become a group and no more.

    Returns:
        Rows with paths as they were given, in their order.
    """
    listings: defaultdict[str, list[ImageFile]] = defaultdict(list)
    for pair in report.again:
        listings[pair.other.path].append(pair.path)
    pictures = [_most_held_out([picture, *listings[picture.path]]) for picture in report.sound]
    torn = [len({each.label for each in [picture, *listings[picture.path]]}) > 1 for picture in report.sound]
    labelled = any(picture.label is not None for picture in pictures)
    left_out = {"no picture": report.listed - len(report.again) - len(pictures), "listed twice": len(report.again)}

    kept = []
    alike = _united(report, {FindingKind.IDENTICAL, FindingKind.ALIKE})
    for members in alike.sets():
        if len({pictures[member].label for member in members}) == 1 and not any(torn[member] for member in members):
            kept += members
    left_out["contradictory labels"] = len(pictures) - len(kept)
    classless = [member for member in kept if labelled and pictures[member].label is None]
    left_out["no class"] = len(classless)

    copies: defaultdict[int, list[int]] = defaultdict(list)
    same = _united(report, {FindingKind.IDENTICAL})
    for member in sorted(set(kept) - set(classless)):
        copies[same.root(member)].append(member)
    single = [min(members, key=lambda member: (-_rank(pictures[member]), member)) for members in copies.values()]
    left_out["copies"] = sum(map(len, copies.values())) - len(single)

    sets: defaultdict[int, list[int]] = defaultdict(list)
    for member in sorted(single):
        sets[alike.root(member)].append(member)
    whole = sorted(member for members in sets.values() for member in _undivided(pictures, members))
    left_out["known to another part"] = len(single) - len(whole)
    groups = _groups(report, whole)
    rows = [
        ManifestRow(pictures[each].path, pictures[each].label, pictures[each].split, groups[each]) for each in whole
    ]
    return Fixed(rows, {reason: count for reason, count in left_out.items() if count})


def _united(report: CheckReport, kinds: set[FindingKind]) -> DisjointSets:
    place_of = {picture.path: place for place, picture in enumerate(report.sound)}
    together = DisjointSets(len(report.sound))
    for pair in report.pairs:
        if pair.kind in kinds:
            together.unite(place_of[pair.path.path], place_of[pair.other.path])
    return together


def _most_held_out(listed: Sequence[ImageFile]) -> ImageFile:
    return max(listed, key=_rank)  # the first of equals


def _rank(picture: ImageFile) -> int:
    """Say how much a part is held out: what tests before what validates, before all others."""
    part = (picture.split or "").lower()
    return 0 if part not in split_names.HELD_OUT_NAMES else 1 if part in split_names.VALIDATION_NAMES else 2


def _undivided(pictures: Sequence[ImageFile], members: Sequence[int]) -> list[int]:
    """Keep those of one part: of the one that is held out most, or the first."""
    best = min(members, key=lambda member: (-_rank(pictures[member]), member))
    return [member for member in members if pictures[member].split == pictures[best].split]


def _groups(report: CheckReport, kept: Sequence[int]) -> dict[int, str | None]:
    """Name the groups: as they were called, several that became one with both names; those that are new by number."""
    sizes = Counter(report.together[member] for member in kept)
    names: defaultdict[int, dict[str, None]] = defaultdict(dict)  # in their order
    for member in kept:
        if (group := report.sound[member].group) is not None:
            names[report.together[member]].setdefault(group)
    taken = {name for known in names.values() for name in known}
    called: dict[int, str | None] = {}
    number = 0
    for member in kept:
        root = report.together[member]
        if root in called:
            continue
        called[root] = "+".join(names[root]) or None
        if called[root] is None and sizes[root] > 1:
            number += 1
            while f"alike-{number}" in taken:
                number += 1
            called[root] = f"alike-{number}"
    return {member: called[report.together[member]] for member in kept}
