"""From pictures to parts without leaks: each file examined, copies and groups kept together, every class in its due shares."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from cnnkit import spelling
from cnnkit.data import assign, duplicates, reader, source
from cnnkit.data.examine import Examined, examine
from cnnkit.data.parts import Parts
from cnnkit.data.source import Picture
from cnnkit.errors import BadPicture, CnnkitError, UsageError
from cnnkit.formats.manifest import Row

_log = logging.getLogger(__name__)

#: How many sets of duplicates are named one by one when their labels differ
_NAMED = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished split."""

    parts: tuple[str, ...]
    rows: list[Row]  # every picture that is in a part, by its name; paths as they were given
    digests: dict[str, bytes]  # for every path of the rows, the hash of the file's content
    remarks: list[str]  # what people should know, a line each

    def table(self) -> list[dict[str, str | int | None]]:
        """Count the pictures: a record for each class, with one field for each part."""
        held = Counter((row.label, row.split) for row in self.rows)
        sizes = Counter(row.label for row in self.rows)
        return [
            {"class": label, **{part: held[label, part] for part in self.parts}, "total": sizes[label]}
            for label in sorted(sizes, key=assign.name_of)
        ]


def split(
    pictures: Iterable[Picture],
    parts: Parts,
    *,
    seed: int = 0,
    group: str | None = None,
    stable: bool = False,
    near: int | None = None,
    jobs: int | None = None,
    skip: Callable[[str, str], None] = lambda path, reason: None,
    progress: reader.Progress = reader.no_progress,
) -> Outcome:
    """Give every picture to a part; each class in its due shares, duplicates and groups undivided.

    Args:
        pictures: Their own parts are ignored; their groups stay together unless `group` is given.
        parts: What is demanded.
        seed: Another number gives another split.
        group: A regular expression, searched in the path: what its first parentheses match, or all of it, is the group.
        stable: The part follows from the content alone (from the group's name, where there is one), so that pictures which
            are added later move none of the old ones. The shares are then met on average only.
        near: Keep together what looks alike, too: perceptual hashes that differ by at most this many bits of 256.
        jobs: Threads that decode.
        skip: Called with path and reason for what is no whole picture, or not what its extension says.
        progress: Called with how many pictures were read, and of how many.

    Raises:
        UsageError: Demands that contradict each other.
        CnnkitError: A class cannot be in every part, or labels are missing or contradictory.
    """
    if stable and parts.counts:
        raise UsageError(
            "--stable and --count contradict each other: a count moves pictures when some are added; use --ratio"
        )
    if stable and near is not None:
        raise UsageError("--stable and --near contradict each other: a new picture may look like old ones of two parts")
    listed = with_groups(once_each(pictures), group)
    kept, seen = _examined(listed, near=near, jobs=jobs, skip=skip, progress=progress)
    _check_labels(kept)
    digests = [each.digest for each in seen]
    copies = duplicates.identical(digests)
    lookalikes = [] if near is None else duplicates.alike([each.look or b"" for each in seen], distance=near)
    drawn = assign.draw(kept, digests, [*copies, *lookalikes], seed=seed)
    remarks = [*_about_groups(kept), *_about_duplicates(kept, digests, copies, lookalikes, near=near)]
    part_of: Sequence[int | None]
    if stable:
        part_of = assign.by_content(drawn, parts, seed=seed)
        remarks.append(f"--stable: {_about_shares(part_of, parts)}")
    elif parts.counts:
        part_of = assign.by_count(drawn, parts)
        remarks += (
            [f"{spelling.pictures(rest)} left out: --count asks for no more"] if (rest := part_of.count(None)) else []
        )
    else:
        part_of, exact = assign.by_share(drawn, parts, seed=seed)
        remarks += [] if exact else [f"what stays together cannot be cut to size: {_about_shares(part_of, parts)}"]
    taken = [
        (picture, digest, part)
        for picture, digest, part in zip(kept, digests, part_of, strict=True)
        if part is not None
    ]
    remarks.append(_about_parts(part_of, parts, drawn.classes))
    return Outcome(
        parts=parts.names,
        rows=[Row(picture.path, picture.label, parts.names[part], picture.group) for picture, _, part in taken],
        digests={picture.path: digest for picture, digest, _ in taken},
        remarks=remarks,
    )


def once_each(pictures: Iterable[Picture]) -> list[Picture]:
    """Sort pictures by name, and take a file that is named twice once.

    Raises:
        CnnkitError: A file is named twice with different labels or groups.
    """
    found: dict[str, Picture] = {}
    real = {}  # folders, as they really lie
    for picture in pictures:
        folder, name = os.path.split(picture.path)
        if folder not in real:
            real[folder] = os.path.realpath(folder)
        first = found.setdefault(os.path.join(real[folder], name), picture)
        for one, other, what in ((first.label, picture.label, "classes"), (first.group, picture.group, "groups")):
            if one != other:
                raise CnnkitError(
                    f"{picture.path} is listed twice, with {what} {assign.name_of(one)} and {assign.name_of(other)}; "
                    "leave one of them out"
                )
    return sorted(found.values(), key=lambda picture: source.name_order(picture.path))


def with_groups(pictures: list[Picture], expression: str | None) -> list[Picture]:
    """Name the group of each picture by what a regular expression finds in its path; None leaves the groups that they have.

    A picture in whose path nothing is found belongs to no group.

    Raises:
        UsageError: The expression is none, or finds nothing in any path.
    """
    if expression is None:
        return pictures
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UsageError(f"--group {expression}: no regular expression ({error})") from error

    def group_of(path: str) -> str | None:
        found = pattern.search(path)
        return (found[1 if pattern.groups else 0] or None) if found else None

    named = [Picture(each.path, each.label, each.split, group_of(each.path)) for each in pictures]
    if named and not any(picture.group for picture in named):
        raise UsageError(f"--group {expression}: found in no path, for example not in {named[0].path}")
    return named


def _examined(
    pictures: Sequence[Picture],
    *,
    near: int | None,
    jobs: int | None,
    skip: Callable[[str, str], None],
    progress: Callable[[int, int | None], None],
) -> tuple[list[Picture], list[Examined]]:
    kept, seen = [], []
    found = reader.read(pictures, partial(examine, look=near is not None), jobs=jobs)
    for done, (picture, outcome) in enumerate(found, start=1):
        if isinstance(outcome, BadPicture):
            skip(picture.path, str(outcome))
        else:
            kept.append(picture)
            seen.append(outcome)
        progress(done, len(pictures))
    if not kept:
        raise CnnkitError("none of the pictures can be used; there is nothing to split")
    return kept, seen


def _check_labels(pictures: Sequence[Picture]) -> None:
    bare = [picture.path for picture in pictures if picture.label is None]
    if bare and len(bare) == len(pictures):
        _log.warning(
            "no picture has a label, so the parts know no classes; name the folder of the class folders, or a manifest"
        )
    elif bare:
        others = f" (and {len(bare) - 1} more)" if len(bare) > 1 else ""
        raise CnnkitError(
            f"{bare[0]}{others} has no class, but other pictures have; put it into a class's folder or remove it"
        )


def _about_groups(pictures: Sequence[Picture]) -> list[str]:
    sizes = Counter(picture.group for picture in pictures)
    alone = sizes.pop(None, 0)
    if not sizes:
        return []
    text = f"groups: {len(sizes):,}, of {min(sizes.values()):,} to {max(sizes.values()):,} pictures"
    return [f"{text}; {spelling.pictures(alone)} in none" if alone else text]


def _about_duplicates(
    pictures: Sequence[Picture],
    digests: Sequence[bytes],
    copies: Sequence[Sequence[int]],
    lookalikes: Sequence[Sequence[int]],
    *,
    near: int | None,
) -> list[str]:
    # Byte-identical pictures look alike, too: what is new are the sets that hold more than one file's content
    resembling = [members for members in lookalikes if len({digests[member] for member in members}) > 1]
    _warn_of_labels(pictures, copies, "are byte-identical")
    _warn_of_labels(pictures, resembling, "look alike")
    remarks = [f"byte-identical: {_about_sets(copies)}"]
    return remarks if near is None else [*remarks, f"look alike (up to {near} bits of 256): {_about_sets(resembling)}"]


def _about_sets(sets: Sequence[Sequence[int]]) -> str:
    if not sets:
        return "no pictures"
    largest = max(len(members) for members in sets)
    number = "1 set, which" if len(sets) == 1 else f"{len(sets):,} sets, the largest of {largest:,}; each"
    return f"{spelling.pictures(sum(len(members) for members in sets))} in {number} stays in one part"


def _warn_of_labels(pictures: Sequence[Picture], sets: Sequence[Sequence[int]], relation: str) -> None:
    torn = []
    for members in sets:
        first_of = {pictures[member].label: pictures[member].path for member in reversed(members)}
        if len(first_of) > 1:
            torn.append([f"{path} ({assign.name_of(label)})" for label, path in reversed(first_of.items())])
    for named in torn[:_NAMED]:
        _log.warning("%s %s, but have different labels", " and ".join(named), relation)
    if len(torn) > _NAMED:
        _log.warning("and %d more sets of pictures that %s with different labels", len(torn) - _NAMED, relation)


def _about_parts(part_of: Sequence[int | None], parts: Parts, classes: Sequence[str]) -> str:
    held = Counter(part_of)
    sizes = ", ".join(f"{name} {held[part]:,}" for part, name in enumerate(parts.names))
    return f"{sizes} pictures of {'1 class' if len(classes) == 1 else f'{len(classes):,} classes'}"


def _about_shares(part_of: Sequence[int | None], parts: Parts) -> str:
    held = Counter(part_of)
    shares = (
        f"{name} {held[part] / len(part_of):.3f} (asked {float(share):.3g})"
        for part, (name, share) in enumerate(zip(parts.names, parts.shares, strict=True))
    )
    return ", ".join(shares)
