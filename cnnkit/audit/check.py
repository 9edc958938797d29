"""Check of a dataset before training: each file, then the dataset as a whole."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from cnnkit import files, messages, packages
from cnnkit.audit import findings, neighbours, side_information
from cnnkit.audit.check_report import CheckReport
from cnnkit.audit.config import CheckConfig
from cnnkit.audit.inspection import InspectedImage, Unusable, inspect
from cnnkit.audit.record import Finding, FindingKind, Level, Pair, Probe
from cnnkit.callbacks import Phase, Progress, ignore_phase, ignore_progress
from cnnkit.choices import ProbeName
from cnnkit.data import duplicates, reader, shards, source
from cnnkit.data.duplicates import DisjointSets
from cnnkit.data.search_log import SearchLog
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError, CnnkitError
from cnnkit.formats.box import any_crop, whole_path

log = logging.getLogger("cnnkit")

#: Principal components of features in which splits are compared.
_COMPONENTS = 10

#: Perceptual hashes are compared only from this shorter side: below it they are alike whatever the images show (two digits of 8 x 8
#: pixels differ by only 34 bits of 256), and `NEAR_BITS` was measured on images of this size and larger.
_COMPARABLE = 32


def check(
    images: Iterable[ImageFile],
    config: CheckConfig,
    *,
    search: SearchLog | None = None,
    progress: Progress = ignore_progress,
    phase: Phase = ignore_phase,
) -> CheckReport:
    """Check every image of a set, and the set as a whole.

    With `config.shard`, check a share of the images, without findings about the set as a whole: classes, splits, groups and leaks. What a
    search of folders found is among those of the first shard.

    Args:
        images: With labels and splits if there are any.
        config: What is looked for.
        search: The log of the search of folders, or of reading the list.
        progress: Called as images are read, and after each probe.
        phase: Called with each later phase.

    Raises:
        UsageError: As `CheckConfig.checked`.
        CnnkitError: None of the images can be used, except in a shard; or none is in the features.
        MissingPackageError: Probes are named, and scikit-learn is not installed.
    """
    names, seed = _possible_probes(config.checked()), config.seed
    listed, shard = list(images), shards.of(config.shard)
    if shard is not None:
        listed, names = shards.share(listed, shard), ()
    once, again = _once_each(listed)
    sound, inspected, found = [], [], list(findings.of_pairs(again))
    first = len(found)
    for done, (image, outcome) in enumerate(reader.read(once, inspect, jobs=config.jobs), start=1):
        if isinstance(outcome, BadImageError):
            kind = outcome.kind if isinstance(outcome, Unusable) else FindingKind.BROKEN
            found.append(findings.of_unusable(image.path, str(outcome), kind=kind))
        else:
            sound.append(image)
            inspected.append(outcome)
        progress(done, len(once))
    if not sound and shard is None:
        raise CnnkitError(
            f"none of the {len(once):,} images can be used; the first is {once[0].path}: {found[first].detail}"
        )
    phase("comparing images")
    features = None if config.features is None else neighbours.load(config.features, sound)
    if features is not None and (lacking := len(sound) - len(features.positions)):
        log.info("%s of %s images have no features; no neighbours are looked for", f"{lacking:,}", f"{len(sound):,}")
    similarity = neighbours.NEAR if config.similarity is None else config.similarity
    places = list(_pairs(sound, inspected, near=config.near_bits, features=features, similarity=similarity))
    together = DisjointSets(len(sound))
    together.unite_equal(image.group for image in sound)
    if any_crop(image.path for image in sound):
        real = files.RealPaths()
        together.unite_equal(real.of(whole_path(image.path)) for image in sound)
    for _, one, other, _ in places:
        together.unite(one, other)
    roots = [together.root(place) for place in range(len(sound))]
    pairs = [Pair(kind, sound[other], sound[one], detail) for kind, one, other, detail in places]
    probed: list[Probe] = []
    if names:
        known = side_information.probe_columns(sound, inspected, names)
        if any(image.labels is not None for image in sound):
            log.info("images have several labels: leaks of the class are not looked for, only those of the split")
        else:
            phase("looking for leaks of the class")
            probed += _probed("class", [image.label for image in sound], roots, known, seed=seed, progress=progress)
        phase("looking for leaks of the split")
        known |= _components(features, sound)
        probed += _probed("split", [image.split for image in sound], roots, known, seed=seed, progress=progress)
    found += [
        *(findings.of_search(search) if search is not None and (shard is None or shard.number == 1) else ()),
        *findings.of_images(sound, inspected),
        *findings.of_pairs(pairs),
        *(_of_set(once, sound, probed) if shard is None else ()),
    ]
    order = {level: place for place, level in enumerate(Level)}
    kinds = {kind: place for place, kind in enumerate(FindingKind)}
    found.sort(
        key=lambda each: (order[each.level], kinds[each.finding], source.name_order(each.path or ""), each.other or "")
    )
    return CheckReport(len(listed), found, probed, sound, inspected, pairs, again, roots)


def _possible_probes(config: CheckConfig) -> tuple[ProbeName, ...]:
    """Return the probes to run; none, with a warning, if scikit-learn is not installed and none is asked for by name."""
    names = config.probe_names()
    if not names or config.shard is not None or packages.is_installed("sklearn"):
        return names
    if config.probes != "all":
        packages.demand("sklearn", what="--probes")
    log.warning(
        "no leaks are looked for: that needs scikit-learn, which is not installed; %s", packages.remedy("sklearn")
    )
    return ()


def _of_set(once: Sequence[ImageFile], sound: Sequence[ImageFile], probed: Sequence[Probe]) -> Iterator[Finding]:
    """Report what concerns the set as a whole."""
    yield from findings.of_lost_classes(once, sound)
    yield from findings.of_labels(sound)
    yield from findings.of_classes(sound)
    yield from findings.of_groups(sound)
    yield from findings.of_crops(sound)
    yield from findings.of_probes(probed)


def _once_each(images: Sequence[ImageFile]) -> tuple[list[ImageFile], list[Pair]]:
    """Keep the first listing of each file, and pair repeated listings with it."""
    first: dict[str, ImageFile] = {}
    again = []
    for image in images:
        real = os.path.realpath(image.path)
        known = first.setdefault(real, image)
        if known is not image:
            again.append(Pair(FindingKind.TWICE, image, known))
            if known.group is None:
                first[real] = replace(known, group=image.group)
    return list(first.values()), again


def _pairs(
    images: Sequence[ImageFile],
    inspected: Sequence[InspectedImage],
    *,
    near: int,
    features: neighbours.ImageFeatures | None,
    similarity: float,
) -> Iterator[tuple[FindingKind, int, int, str]]:
    """Find duplicates, near duplicates and neighbours, as positions: each image with the first of its set."""
    digests = [each.digest for each in inspected]
    found = DisjointSets(len(images))
    for members in duplicates.exact_duplicates(digests):
        for member in members[1:]:
            found.unite(members[0], member)
            yield FindingKind.IDENTICAL, members[0], member, ""
    large = [place for place, each in enumerate(inspected) if min(each.width, each.height) >= _COMPARABLE]
    comparable = [place for place in large if not inspected[place].plain]  # all images of one colour are alike
    if left := len(inspected) - len(large):
        log.info(
            "%s with a side below %d pixels: too small to be compared as near duplicates",
            messages.count_images(left),
            _COMPARABLE,
        )
    alike = duplicates.near_duplicates([inspected[place].look for place in comparable], distance=near)
    for members in ([comparable[member] for member in members] for members in alike):
        known = {digests[members[0]]}
        for member in members[1:]:
            found.unite(members[0], member)
            if digests[member] not in known:  # byte-identical images are alike, too
                known.add(digests[member])
                bits = duplicates.distance(inspected[members[0]].look, inspected[member].look)
                chained = ", linked by images in between" if bits > near else ""
                yield FindingKind.ALIKE, members[0], member, f"{bits} of 256 bits differ{chained}"
    having = set()
    for one, other, cosine in [] if features is None else neighbours.near(features, similarity=similarity):
        having |= {one, other}
        if found.root(one) != found.root(other):
            yield FindingKind.NEIGHBOUR, one, other, f"cosine {cosine:.3f}"
    if features is not None and len(having) > len(features.positions) / 2:
        log.warning(
            "%s of %s images have neighbours: these features hardly distinguish images; raise --similarity, or use other features",
            f"{len(having):,}",
            f"{len(features.positions):,}",
        )


def _probed(
    target: str,
    values: Sequence[str | None],
    roots: Sequence[int],
    columns: dict[str, np.ndarray],
    *,
    seed: int,
    progress: Progress,
) -> list[Probe]:
    """Probe the images that have a value; only the first of images that belong together and share the value."""
    from cnnkit.audit import probes  # here, since it imports scikit-learn: two seconds that --probes none saves

    first: dict[tuple[int, str], int] = {}
    for place, value in enumerate(values):
        if value is not None:
            first.setdefault((roots[place], value), place)
    chosen = sorted(first.values())
    labels = [value for place in chosen if (value := values[place]) is not None]
    chosen_columns = {name: known[chosen] for name, known in columns.items()}
    return probes.probe(target, labels, chosen_columns, seed=seed, progress=progress)


def _components(features: neighbours.ImageFeatures | None, images: Sequence[ImageFile]) -> dict[str, np.ndarray]:
    """Compute the first principal components of features, (N, components): splits should not differ in content either.

    Empty if there are no splits, or if some images have no features: missing ones could distinguish the splits.
    """
    if features is None or len(features.positions) < len(images) or not any(image.split for image in images):
        return {}
    from sklearn.decomposition import PCA  # here, as in `_probed`

    return {"features": PCA(min(_COMPONENTS, *features.values.shape), random_state=0).fit_transform(features.values)}
