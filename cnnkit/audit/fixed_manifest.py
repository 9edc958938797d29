"""A manifest of a checked set without broken and duplicate images, with groups of images that must share a split."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cnnkit.audit.check_report import CheckReport
from cnnkit.audit.findings import label_text
from cnnkit.audit.record import FindingKind
from cnnkit.data import split_names
from cnnkit.data.duplicates import DisjointSets
from cnnkit.data.source import ImageFile
from cnnkit.formats.manifest import ManifestRow

#: Hexadecimal digits of a hash in the name of a group: two groups of a million have the same name with a probability of 0.2 %.
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class FixedManifest:
    """The rows that are kept; `left_out` counts the others by reason."""

    rows: list[ManifestRow]
    left_out: dict[str, int]


def fixed(report: CheckReport) -> FixedManifest:
    """Select the images to keep, and group those that must share a split.

    Left out are broken images, images without a class if others have one, and images with contradictory labels: the same file,
    identical files or near duplicates in two classes. Of identical files one is kept: the held-out one, or the first by name. Near
    duplicates are all kept, as one group; if they are in different splits, only the held-out ones. Neighbours in feature space are
    grouped.

    Returns:
        Rows with paths as given, in their order.
    """
    listings: defaultdict[str, list[ImageFile]] = defaultdict(list)
    for pair in report.again:
        listings[pair.other.path].append(pair.path)
    images = [_most_held_out([image, *listings[image.path]]) for image in report.sound]
    torn = [len({label_text(each) for each in [image, *listings[image.path]]}) > 1 for image in report.sound]
    labelled = any(image.label is not None for image in images)
    left_out = {"not an image": report.listed - len(report.again) - len(images), "listed twice": len(report.again)}

    kept = []
    alike = _united(report, {FindingKind.IDENTICAL, FindingKind.ALIKE})
    for members in alike.sets():
        if len({label_text(images[member]) for member in members}) == 1 and not any(torn[member] for member in members):
            kept += members
    left_out["contradictory labels"] = len(images) - len(kept)
    classless = [member for member in kept if labelled and images[member].label is None]
    left_out["no class"] = len(classless)

    copies: defaultdict[int, list[int]] = defaultdict(list)
    same = _united(report, {FindingKind.IDENTICAL})
    for member in sorted(set(kept) - set(classless)):
        copies[same.root(member)].append(member)
    single = [min(members, key=lambda member: (-_rank(images[member]), member)) for members in copies.values()]
    left_out["copies"] = sum(map(len, copies.values())) - len(single)

    sets: defaultdict[int, list[int]] = defaultdict(list)
    for member in sorted(single):
        sets[alike.root(member)].append(member)
    whole = sorted(member for members in sets.values() for member in _undivided(images, members))
    left_out["near duplicates in another split"] = len(single) - len(whole)
    groups = _groups(report, whole)
    rows = [
        ManifestRow(images[each].path, images[each].label, images[each].split, groups[each], labels=images[each].labels)
        for each in whole
    ]
    return FixedManifest(rows, {reason: count for reason, count in left_out.items() if count})


def _united(report: CheckReport, kinds: set[FindingKind]) -> DisjointSets:
    place_of = {image.path: place for place, image in enumerate(report.sound)}
    together = DisjointSets(len(report.sound))
    for pair in report.pairs:
        if pair.kind in kinds:
            together.unite(place_of[pair.path.path], place_of[pair.other.path])
    return together


def _most_held_out(listed: Sequence[ImageFile]) -> ImageFile:
    return max(listed, key=_rank)  # the first of equals


def _rank(image: ImageFile) -> int:
    """Rank how much a split is held out: 2 for test, 1 for validation, 0 for others."""
    split = (image.split or "").lower()
    return 0 if split not in split_names.HELD_OUT_NAMES else 1 if split in split_names.VALIDATION_NAMES else 2


def _undivided(images: Sequence[ImageFile], members: Sequence[int]) -> list[int]:
    """Keep the images of one split: of the one that is held out most, or the first."""
    best = min(members, key=lambda member: (-_rank(images[member]), member))
    return [member for member in members if images[member].split == images[best].split]


def _groups(report: CheckReport, kept: Sequence[int]) -> dict[int, str | None]:
    """Name the groups: old ones keep their names, joined ones get all of their names, new ones are named after a hash of an image.

    The name does not depend on other groups: `cnn-split --stable` selects the split by the name.
    """
    members: defaultdict[int, list[int]] = defaultdict(list)
    for member in kept:
        members[report.together[member]].append(member)
    names: defaultdict[int, dict[str, None]] = defaultdict(dict)  # in their order
    for member in kept:
        if (group := report.sound[member].group) is not None:
            names[report.together[member]].setdefault(group)
    called: dict[int, str | None] = {}
    for root, alike in members.items():
        called[root] = "+".join(names[root]) or None
        if called[root] is None and len(alike) > 1:
            digest = min(report.inspected[member].digest for member in alike)
            called[root] = f"alike-{digest.hex()[:_DIGITS]}"
    return {member: called[report.together[member]] for member in kept}
