"""From a checked set to a manifest without what is broken and what is there twice, with groups for what must stay together."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from cnnkit.audit.record import Kind
from cnnkit.audit.report import Report
from cnnkit.data import held_out
from cnnkit.data.duplicates import Together
from cnnkit.data.source import Picture
from cnnkit.formats.manifest import Row


def fixed(report: Report) -> list[Row]:
    """Choose the pictures to go on with, and name what must not be parted.

    Broken pictures, and those without a class among others that have one, are left out. Of identical files one stays, the one that
    is held out if there is one; none where their labels contradict each other. Of pictures that only resemble each other all stay, as one
    group; unless they stand in different parts: then those that are held out stay.

    Returns:
        Rows with paths as they were given, in their order.
    """
    pictures = report.sound
    labelled = any(picture.label is not None for picture in pictures)
    place_of = {picture.path: place for place, picture in enumerate(pictures)}
    copies = Together(len(pictures))
    for pair in report.pairs:
        if pair.kind is Kind.IDENTICAL:
            copies.unite(place_of[pair.path.path], place_of[pair.other.path])
    kept = []
    for members in copies.sets():
        if len({pictures[member].label for member in members}) == 1:
            kept.append(min(members, key=lambda member: (-_rank(pictures[member]), member)))
    kept = sorted(member for member in kept if pictures[member].label is not None or not labelled)

    resembling = Together(len(pictures))
    for pair in report.pairs:
        resembling.unite(place_of[pair.path.path], place_of[pair.other.path])
    sets = defaultdict(list)
    for member in kept:
        sets[resembling.root(member)].append(member)
    stays = {member for members in sets.values() for member in _undivided(pictures, members)}
    kept = [member for member in kept if member in stays]
    groups = _groups(report, kept)
    return [Row(pictures[each].path, pictures[each].label, pictures[each].split, groups[each]) for each in kept]


def _rank(picture: Picture) -> int:
    """Say how much a part is held out: what tests before what validates, before all others."""
    part = (picture.split or "").lower()
    return 0 if part not in held_out.NAMES else 1 if part in held_out.VALIDATION_NAMES else 2


def _undivided(pictures: Sequence[Picture], members: Sequence[int]) -> list[int]:
    """Keep those of one part: of the one that is held out most, or the first."""
    best = min(members, key=lambda member: (-_rank(pictures[member]), member))
    return [member for member in members if pictures[member].split == pictures[best].split]


def _groups(report: Report, kept: Sequence[int]) -> dict[int, str | None]:
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
