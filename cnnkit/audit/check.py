"""Is this set of pictures fit for training? Every file is looked at, then all of them together."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cnnkit.audit import beside, findings, neighbours, probes
from cnnkit.audit.inspection import Inspected, Unusable, inspect
from cnnkit.audit.probes import Probe
from cnnkit.audit.record import Finding, Kind, Level, Pair
from cnnkit.audit.report import Report
from cnnkit.choices import ProbeName
from cnnkit.data import duplicates, held_out, reader, source
from cnnkit.data.duplicates import Together
from cnnkit.data.reader import Progress, no_progress
from cnnkit.data.source import Picture
from cnnkit.errors import BadPicture, CnnkitError, UsageError

log = logging.getLogger("cnnkit")

#: Of features, for the question whether parts differ: principal components that are looked at.
_COMPONENTS = 10

#: Pictures with shorter sides look like each other whatever they show: 8 x 8 pixels of two digits differ by 34 bits of 256 only, where
#: `duplicates.NEAR` is measured on pictures of this size and larger.
_SEEABLE = 32


def demanded(names: str) -> tuple[ProbeName, ...]:
    """Read `width,bytes`, `all` or `none`.

    Raises:
        UsageError: There is no such probe.
    """
    if names in ("all", "none"):
        return tuple(ProbeName) if names == "all" else ()
    words = [word.strip() for word in names.split(",")]
    for word in words:
        if word not in list(ProbeName):
            raise UsageError(f'--probes: no probe "{word}"; there are {", ".join(ProbeName)}, or all, or none')
    return tuple(ProbeName(word) for word in words)


def check(
    pictures: Iterable[Picture],
    *,
    features: str | Path | None = None,
    near: int = duplicates.NEAR,
    similarity: float = neighbours.NEAR,
    names: Sequence[ProbeName] = tuple(ProbeName),
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Look at every picture of a set, and at the set.

    Args:
        pictures: With labels and parts where there are any; of a folder of parts (train/cat/1.jpg) those are found.
        features: A `.npy` of cnn-extract in which neighbours are looked for.
        near: Bits of 256 by which the perceptual hashes of two pictures that look alike may differ.
        similarity: The cosine from which on two pictures are neighbours.
        names: The leak probes.
        seed: Of the probes.
        jobs: Threads that decode.
        progress: Called as pictures are read.

    Raises:
        CnnkitError: None of the pictures can be used, or none is in the features.
    """
    listed = divided(list(pictures))
    once, twice = _once_each(listed)
    sound, inspected, found = [], [], list(twice)
    for done, (picture, outcome) in enumerate(reader.read(once, inspect, jobs=jobs), start=1):
        if isinstance(outcome, BadPicture):
            kind = outcome.kind if isinstance(outcome, Unusable) else Kind.BROKEN
            found.append(findings.of_unusable(picture.path, str(outcome), kind=kind))
        else:
            sound.append(picture)
            inspected.append(outcome)
        progress(done, len(once))
    if not sound:
        raise CnnkitError(
            f"none of {len(once):,} pictures can be used; the first is {once[0].path}: {found[-1].detail}"
        )
    seen = None if features is None else neighbours.load(features, sound)
    places = list(_pairs(sound, inspected, near=near, seen=seen, similarity=similarity))
    together = Together(len(sound))
    together.unite_equal(picture.group for picture in sound)
    for _, one, other, _ in places:
        together.unite(one, other)
    roots = [together.root(place) for place in range(len(sound))]
    pairs = [Pair(kind, sound[other], sound[one], detail) for kind, one, other, detail in places]
    known = beside.columns(sound, inspected, names)
    probed = [
        *_probed("class", sound, [picture.label for picture in sound], roots, known, seed=seed),
        *_probed(
            "part",
            sound,
            [picture.split for picture in sound],
            roots,
            known | _components(seen, len(sound)) if names else {},
            seed=seed,
        ),
    ]
    found += [
        *findings.of_pictures(sound, inspected),
        *findings.of_pairs(pairs),
        *findings.of_labels(sound),
        *findings.of_classes(sound),
        *findings.of_groups(sound),
        *findings.of_probes(probed),
    ]
    order = {level: place for place, level in enumerate(Level)}
    kinds = {kind: place for place, kind in enumerate(Kind)}
    found.sort(
        key=lambda each: (order[each.level], kinds[each.finding], source.name_order(each.path or ""), each.other or "")
    )
    return Report(len(listed), found, probed, sound, inspected, pairs, roots)


def divided(pictures: list[Picture]) -> list[Picture]:
    """Take folders of parts for what they are: of train/cat/1.jpg and test/cat/2.jpg the first folders are no classes."""
    names = held_out.TRAIN_NAMES | held_out.NAMES
    labels = {picture.label for picture in pictures}
    if len(labels) < 2 or any(picture.split for picture in pictures):
        return pictures
    if not all(label is not None and label.lower() in names for label in labels):
        return pictures
    found = []
    for picture in pictures:
        folders = os.path.dirname(picture.path).split(os.sep)
        place = len(folders) - 1 - folders[::-1].index(picture.label or "")
        label = folders[place + 1] if place + 1 < len(folders) else None
        found.append(Picture(picture.path, label, picture.label, picture.group))
    return found


def _once_each(pictures: Sequence[Picture]) -> tuple[list[Picture], list[Finding]]:
    """Take each file once, the first time that it is listed; and say which came again."""
    first: dict[str, Picture] = {}
    again = []
    for picture in pictures:
        known = first.setdefault(os.path.realpath(picture.path), picture)
        if known is not picture:
            again.append(Pair(Kind.TWICE, picture, known))
    return list(first.values()), list(findings.of_pairs(again))


def _pairs(
    pictures: Sequence[Picture],
    inspected: Sequence[Inspected],
    *,
    near: int,
    seen: neighbours.Seen | None,
    similarity: float,
) -> Iterator[tuple[Kind, int, int, str]]:
    """Find what belongs together: each picture beside the first of its like, as positions."""
    digests = [each.digest for each in inspected]
    for members in duplicates.identical(digests):
        for member in members[1:]:
            yield Kind.IDENTICAL, members[0], member, ""
    look_of_set = {}
    seeable = [place for place, each in enumerate(inspected) if min(each.width, each.height) >= _SEEABLE]
    if left := len(inspected) - len(seeable):
        log.info(
            "too small to be compared by their looks: %s of fewer than %d pixels a side",
            "1 picture" if left == 1 else f"{left:,} pictures",
            _SEEABLE,
        )
    alike = duplicates.alike([inspected[place].look for place in seeable], distance=near)
    for number, members in enumerate([seeable[member] for member in members] for members in alike):
        look_of_set.update(dict.fromkeys(members, number))
        known = {digests[members[0]]}
        for member in members[1:]:
            if digests[member] not in known:  # byte-identical pictures look alike, too
                known.add(digests[member])
                bits = duplicates.distance(inspected[members[0]].look, inspected[member].look)
                yield Kind.ALIKE, members[0], member, f"{bits} bits of 256 differ"
    for one, other, cosine in [] if seen is None else neighbours.near(seen, similarity=similarity):
        if one not in look_of_set or look_of_set[one] != look_of_set.get(other):
            yield Kind.NEIGHBOUR, one, other, f"cosine {cosine:.3f}"


def _probed(
    target: str,
    pictures: Sequence[Picture],
    values: Sequence[str | None],
    roots: Sequence[int],
    columns: dict[str, np.ndarray],
    *,
    seed: int,
) -> list[Probe]:
    """Probe the pictures that have a value; of those that belong together and have the same one, the first speaks for all."""
    first: dict[tuple[int, str], int] = {}
    for place, value in enumerate(values):
        if value is not None:
            first.setdefault((roots[place], value), place)
    chosen = sorted(first.values())
    labels = [value for place in chosen if (value := values[place]) is not None]
    return probes.probe(target, labels, {name: known[chosen] for name, known in columns.items()}, seed=seed)


def _components(seen: neighbours.Seen | None, count: int) -> dict[str, np.ndarray]:
    """Give the first principal components of features, (N, components): by their content, too, parts should not differ."""
    if seen is None:
        return {}
    centred = seen.values - seen.values.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    known = np.full((count, min(_COMPONENTS, centred.shape[1])), np.nan, dtype=np.float32)
    known[seen.positions] = centred @ directions[:, ::-1][:, : known.shape[1]]
    return {"features": known}
