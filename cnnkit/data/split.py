"""Assignment of images to splits, by the shares of the splits or by the images' content.

No random numbers are drawn. The order of the images is that of a hash of the seed and the file's content, so the same images give the
same split on every machine, in every folder, under every name. Files that are not to be opened have the hash that a manifest gives, or
else their path from the class folder on in place of the content: the same split on every machine and in every folder, under the same
names.
"""

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import accumulate

from cnnkit import class_names, files, messages
from cnnkit.callbacks import Callbacks
from cnnkit.data import allocation, decode, duplicates, memory, reader, source, stratification
from cnnkit.data.allocation import SplitShares
from cnnkit.data.config import SplitConfig
from cnnkit.data.duplicates import DisjointSets, ExaminedFile, examine
from cnnkit.data.source import ImageFile, name_of
from cnnkit.errors import BadImageError, CnnkitError, UsageError
from cnnkit.formats import image_formats, label_sets
from cnnkit.formats.box import Box, any_crop, divided, is_crop, whole_path
from cnnkit.formats.manifest import ManifestRow

log = logging.getLogger("cnnkit")

#: The least number of a ratio that looks like percentages.
_LEAST_PERCENT = 5
#: Maximum number of sets of duplicates with different labels that are reported one by one
_NAMED = 20
#: Maximum number of labels that a warning names
_LABELS = 5


@dataclass(frozen=True, slots=True)
class SplitDraw:
    """Images in random order, in units that stay together."""

    images: Sequence[ImageFile]
    classes: list[str]  # every label once, sorted; "(none)" for images without a label
    numbers: list[int]  # the class of each image, as a position in `classes`
    keys: list[bytes]  # the sort key of each image
    units: list[list[int]]  # sets that stay together, as positions in `images`; in random order

    def held(self, split_of: Sequence[int], splits: int) -> list[list[int]]:
        """Count the images: one row per split, one column per class."""
        counts = Counter(zip(split_of, self.numbers, strict=True))
        return [[counts[split, number] for number in range(len(self.classes))] for split in range(splits)]


@memory.without_collection()
def draw_splits(
    images: Sequence[ImageFile], digests: Sequence[bytes], together: Iterable[Sequence[int]], *, seed: int
) -> SplitDraw:
    """Put images in random order, and unite those that must stay together.

    Args:
        images: Those of one group stay together.
        digests: Hash of each file's content.
        together: Further sets of images, as positions, that stay together, including exact duplicates.
        seed: Of the order.
    """
    classes = sorted({name_of(image.label) for image in images})
    number_of = {name: number for number, name in enumerate(classes)}
    keys = [_drawn(seed, digest) for digest in digests]
    joined = DisjointSets(len(images))
    joined.unite_equal(image.group for image in images)
    for members in together:
        for member in members[1:]:
            joined.unite(members[0], member)
    units = sorted(joined.sets(), key=lambda members: min(keys[member] for member in members))
    return SplitDraw(images, classes, [number_of[name_of(image.label)] for image in images], keys, units)


def _drawn(seed: int, content: bytes) -> bytes:
    return hashlib.sha256(f"{seed}:".encode() + content).digest()


def by_content(drawn: SplitDraw, splits: SplitShares, *, seed: int) -> list[int]:
    """Choose the split of each image by its content, or by the name of its group, independently of all other images.

    Returns:
        The split of each image.

    Raises:
        CnnkitError: Exact duplicates belong to groups of different splits, or a split lacks a class.
    """
    bounds = list(accumulate(splits.shares))[:-1]
    split_of = []
    for image, key in zip(drawn.images, drawn.keys, strict=True):
        text = key if image.group is None else _drawn(seed, os.fsencode(f"group:{image.group}"))
        place = Fraction(int.from_bytes(text), 1 << 8 * len(text))  # 0 <= place < 1
        split_of.append(sum(place >= bound for bound in bounds))
    for one, *others in drawn.units:
        for other in others:
            if split_of[other] != split_of[one]:
                raise CnnkitError(
                    f"{drawn.images[one].path} and {drawn.images[other].path} are exact duplicates, but their groups are in "
                    f"{splits.names[split_of[one]]} and {splits.names[split_of[other]]}; give them one group, remove one or drop --stable"
                )
    _check_every_class(drawn, split_of, splits, remedy="add images, try another --seed or drop --stable")
    return split_of


def by_share(drawn: SplitDraw, splits: SplitShares, *, seed: int) -> tuple[list[int], bool]:
    """Fill the splits with their shares of every class, as nearly as what stays together allows.

    Returns:
        The split of each image, and whether every split holds exactly what is due to it.

    Raises:
        CnnkitError: A class cannot be in every split.
    """
    due = allocation.due(splits, _sizes(drawn))
    equal = len(set(splits.shares)) == 1
    grouped = any(image.group for image in drawn.images)
    start = _group_folds(drawn, len(due), seed) if equal and grouped and 1 < len(due) <= len(drawn.units) else None
    split_of = _of_members(drawn, allocation.pack(_counts(drawn), due, start=start))
    _check_every_class(drawn, split_of, splits)
    return split_of, drawn.held(split_of, len(due)) == due


def by_count(drawn: SplitDraw, splits: SplitShares) -> list[int | None]:
    """Fill the splits with exactly the given number of images of every class.

    If a group or a set of duplicates is larger than the rest of a split, its other images are left out, so that they leak into no
    other split.

    Returns:
        The split of each image; None for images that are left out.

    Raises:
        CnnkitError: There are too few images, or too few without dividing groups and duplicates.
    """
    due = allocation.due(splits, _sizes(drawn))  # with a last row for images in no split
    split_of = _of_members(drawn, allocation.pack(_counts(drawn), due, spare=True))
    room = [list(row) for row in due]
    taken: list[int | None] = [None] * len(split_of)
    for member in sorted(range(len(split_of)), key=drawn.keys.__getitem__):
        split, number = split_of[member], drawn.numbers[member]
        if split < len(splits.names) and room[split][number]:
            room[split][number] -= 1
            taken[member] = split
    for split, name in enumerate(splits.names):
        for number, lacking in enumerate(room[split]):
            if lacking:
                raise CnnkitError(
                    f"class {drawn.classes[number]}: --count asks for {due[split][number]} images in {name}, but only "
                    f"{due[split][number] - lacking} fit without dividing groups or duplicates; lower it or use --ratio"
                )
    return taken


def _sizes(drawn: SplitDraw) -> list[tuple[str, int]]:
    sizes = Counter(drawn.numbers)
    return [(name, sizes[number]) for number, name in enumerate(drawn.classes)]


@memory.without_collection()
def _counts(drawn: SplitDraw) -> list[allocation.Counts]:
    single: list[allocation.Counts] = [((number, 1),) for number in range(len(drawn.classes))]
    return [
        single[drawn.numbers[members[0]]]
        if len(members) == 1
        else tuple(sorted(Counter(drawn.numbers[member] for member in members).items()))
        for members in drawn.units
    ]


def _of_members(drawn: SplitDraw, split_of_unit: Sequence[int]) -> list[int]:
    split_of = [0] * len(drawn.images)
    for members, split in zip(drawn.units, split_of_unit, strict=True):
        for member in members:
            split_of[member] = split
    return split_of


def _group_folds(drawn: SplitDraw, splits: int, seed: int) -> list[int]:
    """Assign the groups to equal splits with scikit-learn, as a start for `pack`."""
    from sklearn.model_selection import StratifiedGroupKFold  # a second to import, needed only for groups

    members = [member for unit in drawn.units for member in unit]
    unit_of = [place for place, unit in enumerate(drawn.units) for _ in unit]
    labels = [drawn.numbers[member] for member in members]
    folds = StratifiedGroupKFold(splits, shuffle=True, random_state=seed % 2**32)
    split_of = [0] * len(drawn.units)
    for split, (_, held_out) in enumerate(folds.split(labels, labels, unit_of)):
        for row in held_out:
            split_of[unit_of[row]] = split
    return split_of


def _check_every_class(
    drawn: SplitDraw,
    split_of: Sequence[int],
    splits: SplitShares,
    *,
    remedy: str = "add images, make fewer splits or try another --seed",
) -> None:
    held = drawn.held(split_of, len(splits.names))
    for number, label in enumerate(drawn.classes):
        for split, name in enumerate(splits.names):
            if not held[split][number]:
                size = sum(row[number] for row in held)
                units = sum(any(drawn.numbers[member] == number for member in members) for members in drawn.units)
                sets = "1 set that stays together" if units == 1 else f"{units} sets that stay together"
                undivided = f" in {sets}" if units < size else ""
                raise CnnkitError(
                    f"class {label} has {messages.count_images(size)}{undivided}, and none of them is in {name}; {remedy}"
                )


@dataclass(frozen=True, slots=True)
class SplitResult:
    """A finished split."""

    splits: tuple[str, ...]
    rows: list[ManifestRow]  # every image that is in a split, ordered by name; paths as given
    digests: (
        dict[str, bytes] | None
    )  # for every path of the rows, the hash of the file's content; None if it was not read
    remarks: list[str]  # notices, one line each

    def table(self) -> list[dict[str, str | int | None]]:
        """Count the images: one record per class, with one field for each split; an image with several labels counts for each."""
        held = Counter((label, row.split) for row in self.rows for label in _labels_of(row))
        sizes = Counter(label for row in self.rows for label in _labels_of(row))
        return [
            {"class": label, **{split: held[label, split] for split in self.splits}, "total": sizes[label]}
            for label in sorted(sizes, key=name_of)
        ]


def split_images(
    images: Iterable[ImageFile], config: SplitConfig, *, callbacks: Callbacks | None = None
) -> SplitResult:
    """Assign every image to a split, with the same share of every class; duplicates and groups stay together.

    Images with several labels are stratified by `stratification`: each split gets its share of every label, as nearly as possible.

    Args:
        images: Their own splits are ignored; their groups stay together, or those of `config.group` if it is given.
        config: With `stable`, the split depends only on the content (or on the name of the group), so that images added later
            move none of the old ones; the shares are then met only on average. With `no_verify` no file is opened.
        callbacks: Progress, in images read; and skipped files.

    Raises:
        UsageError: Options contradict each other, or images with several labels are counted by class.
        CnnkitError: A class cannot be in every split, or labels are missing or contradictory.
    """
    config = config.checked()
    images = list(images)
    several = any(image.labels is not None for image in images)
    if several:
        _check_several(images, config)
    splits, seed, near = config.shares(), config.seed, config.hash_distance
    listed = with_groups(once_each(images, hashes=config.no_verify), config.group_pattern())
    seen: list[ExaminedFile] = []
    copies: list[list[int]] = []
    if config.no_verify:
        kept, digests = _present(listed, callbacks=callbacks or Callbacks())
        copies = _listed_copies(kept)
    else:
        kept, seen = _examined(listed, look=near is not None, jobs=config.jobs, callbacks=callbacks or Callbacks())
        digests = [each.digest for each in seen]
        copies = duplicates.exact_duplicates(digests)
    if not several:
        _check_labels(kept)
    lookalikes = [] if near is None else duplicates.near_duplicates([each.look or b"" for each in seen], distance=near)
    of_crops, contents = _crops(kept, seen, digests)
    drawn = draw_splits(kept, contents, [*copies, *lookalikes, *of_crops], seed=seed)
    remarks = [
        *_about_own_splits(kept),
        *([] if config.no_verify else _about_names(kept, seen)),
        *_about_lost(listed, kept),
        *_about_groups(kept),
        *_about_crops(of_crops),
        *(
            _about_listed_copies(kept, digests, copies)
            if config.no_verify
            else _about_duplicates(kept, digests, copies, lookalikes, near=near)
        ),
    ]
    split_of: Sequence[int | None]
    if config.stable:
        split_of = by_content(drawn, splits, seed=seed)
        remarks.append(f"--stable: {_about_shares(split_of, splits)}")
    elif several:
        sets = [image.labels or () for image in kept]
        split_of = stratification.by_labels(drawn.units, sets, splits)
    elif splits.counts:
        split_of = by_count(drawn, splits)
        remarks += [f"{messages.count_images(rest)} left out by --count"] if (rest := split_of.count(None)) else []
    else:
        split_of, exact = by_share(drawn, splits, seed=seed)
        remarks += [] if exact else [f"groups and duplicates prevent exact shares: {_about_shares(split_of, splits)}"]
    if several:
        remarks += _about_labels([image.labels or () for image in kept], split_of, splits)
    else:
        remarks.append(_about_splits(split_of, splits, drawn.classes))
    if config.ratio is not None:
        remarks += _about_percentages(config.ratio, splits, named=config.names is not None)
    return SplitResult(
        splits=splits.names,
        rows=_rows(kept, split_of, splits.names, digests=config.no_verify),
        digests=None
        if config.no_verify
        else {kept[place].path: digests[place] for place, split in enumerate(split_of) if split is not None},
        remarks=remarks,
    )


@memory.without_collection()
def _rows(
    images: Sequence[ImageFile], split_of: Sequence[int | None], names: Sequence[str], *, digests: bool
) -> list[ManifestRow]:
    """Return the manifest's rows of the images that are in a split, with the hashes of their content if these were used."""
    return [
        ManifestRow(
            image.path, image.label, names[split], image.group, None, image.digest if digests else None, image.labels
        )
        for image, split in zip(images, split_of, strict=True)
        if split is not None
    ]


def once_each(images: Iterable[ImageFile], *, hashes: bool) -> list[ImageFile]:
    """Sort images by name, and keep a file that is listed twice only once.

    Args:
        images: In any order.
        hashes: Whether the hashes of their content will be used.

    Raises:
        CnnkitError: A file is listed twice with different labels or groups, or hashes that will be used.
    """
    once, _ = source.listed_again(images, groups=True, hashes=hashes)
    return sorted(once, key=lambda image: source.name_order(image.path))


def with_groups(images: list[ImageFile], pattern: re.Pattern[str] | None) -> list[ImageFile]:
    """Set the group of each image to the match of a regular expression in its path; None keeps the images' own groups.

    An image whose path does not match belongs to no group.

    Raises:
        UsageError: The expression matches no path.
    """
    if pattern is None:
        return images

    def group_of(path: str) -> str | None:
        found = pattern.search(path)
        return (found[1 if pattern.groups else 0] or None) if found else None

    named = [replace(each, group=group_of(each.path)) for each in images]
    if named and not any(image.group for image in named):
        raise UsageError(f"--group {pattern.pattern}: matches no path, for example not {named[0].path}")
    return named


def _crops(
    images: Sequence[ImageFile], seen: Sequence[ExaminedFile], digests: Sequence[bytes]
) -> tuple[list[list[int]], Sequence[bytes]]:
    """Find the images that are of one file, and return for each image what stands for its file's content.

    Args:
        images: The images.
        seen: What was found in each file; empty if none was opened.
        digests: What stands for the content of each image.

    Returns:
        Positions of two or more images of one file, and the contents. The order follows from them, so that crops stay together
        with --stable, too.
    """
    if not any_crop(image.path for image in images):
        return [], digests
    contents = [each.whole or each.digest for each in seen] if seen else digests
    together = DisjointSets(len(images))
    real = files.RealPaths()
    together.unite_equal(real.of(whole_path(image.path)) for image in images)
    if seen:
        together.unite_equal(contents)
    are_crops = [is_crop(image.path) for image in images]
    sets = (members for members in together.sets() if len(members) > 1)
    return [members for members in sets if any(are_crops[member] for member in members)], contents


def _examined(
    images: Sequence[ImageFile],
    *,
    look: bool,
    jobs: int | None,
    callbacks: Callbacks,
) -> tuple[list[ImageFile], list[ExaminedFile]]:
    kept, seen = [], []
    found = reader.read(images, partial(examine, look=look), jobs=jobs)
    for done, (image, outcome) in enumerate(found, start=1):
        if isinstance(outcome, BadImageError):
            callbacks.skip(image.path, str(outcome))
        else:
            kept.append(image)
            seen.append(outcome)
        callbacks.progress(done, len(images))
    if not kept:
        raise CnnkitError("none of the images can be used; there is nothing to split")
    return kept, seen


@memory.without_collection()
def _present(images: Sequence[ImageFile], *, callbacks: Callbacks) -> tuple[list[ImageFile], list[bytes]]:
    """Keep the images whose file is there and not empty, and return what stands in for their content."""
    kept, names = [], []
    below: dict[tuple[str, str | None], str] = {}
    for done, image in enumerate(images, start=1):
        try:
            reason = None if files.regular_size(image.path) else "empty file"
        except OSError as error:
            reason = decode.reason(image.path, error)
        if reason is not None:
            callbacks.skip(image.path, reason)
        else:
            kept.append(image)
            if image.digest is not None:
                names.append(image.digest)
            else:
                folder, name = os.path.split(whole_path(image.path))
                if (folder, image.label) not in below:
                    below[folder, image.label] = _below_class(folder, image.label)
                names.append(os.fsencode(below[folder, image.label] + name))
        callbacks.progress(done, len(images))
    if not kept:
        raise CnnkitError("none of the images can be used; there is nothing to split")
    return kept, names


def _listed_copies(images: Sequence[ImageFile]) -> list[list[int]]:
    """Find the exact duplicates by the hashes in the manifest, as `duplicates.exact_duplicates` does."""
    first: dict[tuple[bytes, Box | None], int] = {}
    sets: dict[int, list[int]] = {}  # by the first member
    for member, image in enumerate(images):
        if image.digest is None:
            continue
        if (one := first.setdefault((image.digest, divided(image.path)[1]), member)) != member:
            sets.setdefault(one, [one]).append(member)
    return sorted(sets.values())


def _below_class(folder: str, label: str | None) -> str:
    """Return a folder from its last folder called like the class on; the whole folder if there is none."""
    folders = [each for each in os.path.normpath(folder).split(os.sep) if each not in ("", os.curdir)]
    names = [class_names.normal(each) for each in folders]
    at = len(names) - names[::-1].index(label) if label in names else 0
    return "".join(f"{each}/" for each in [name_of(label), *folders[at:]])


def _check_labels(images: Sequence[ImageFile]) -> None:
    bare = [image.path for image in images if image.label is None]
    if bare and len(bare) == len(images):
        log.warning(
            "no image has a label, so the split is not stratified by class; give a folder of class folders, or a manifest"
        )
    elif bare:
        others = f" (and {len(bare) - 1} more)" if len(bare) > 1 else ""
        splits = sorted({image.split for image in images if image.split is not None and image.label is not None})
        apart = not {image.split for image in images if image.label is None} & {*splits, None}
        remedy = "move it to a class folder or remove it"
        if splits and apart:
            remedy = f"choose a split with classes, such as --split {splits[-1]}"
        raise CnnkitError(f"{bare[0]}{others} has no class, but other images have one; {remedy}")


def _labels_of(image: ImageFile | ManifestRow) -> Sequence[str | None]:
    """Return the labels of an image, or its class."""
    return (image.label,) if image.labels is None else image.labels or (None,)


def _label_name(image: ImageFile) -> str:
    """Return the class or the labels of an image for messages."""
    return name_of(image.label if image.labels is None else label_sets.joined(sorted(image.labels)) or None)


def _check_several(images: Sequence[ImageFile], config: SplitConfig) -> None:
    """Check that all images have lists of labels, and that the splits are given by shares.

    Raises:
        UsageError: --count is given.
        CnnkitError: An image has no list of labels.
    """
    bare = next((image.path for image in images if image.labels is None), None)
    if bare is not None:
        raise CnnkitError(
            f"{bare} has no list of labels, but other images have one (column labels); split them separately"
        )
    if config.count is not None:
        raise UsageError(
            f"--count {config.count} is a number of images of every class, and these images have several labels; use --ratio"
        )


def _about_labels(sets: Sequence[Sequence[str]], split_of: Sequence[int | None], splits: SplitShares) -> list[str]:
    """Count the images of the splits, and warn of labels that are not in all of them."""
    held = Counter(split_of)
    counts = Counter((label, split) for labels, split in zip(sets, split_of, strict=True) for label in labels)
    totals = Counter(label for labels in sets for label in labels)
    numbers = range(len(splits.names))
    lacking = [
        f"{label} ({messages.count_images(totals[label])}) in {' and '.join(splits.names[split] for split in absent)}"
        for label in sorted(totals)
        if (absent := [split for split in numbers if not counts[label, split]])
    ]
    if lacking:
        log.warning("no image of %s; too few images, or groups and duplicates", messages.shortened(lacking, _LABELS))
    sizes = ", ".join(f"{name} {held[split]:,}" for split, name in enumerate(splits.names))
    bare = sum(not labels for labels in sets)
    worst = max(
        (
            (abs(float(counts[label, split] - share * totals[label])), label, split)
            for label in sorted(totals)
            for split, share in enumerate(splits.shares)
        ),
        default=None,
    )
    found = [f"{sizes} images with {'1 label' if len(totals) == 1 else f'{len(totals):,} labels'}"]
    if bare:
        found[0] += f", {messages.count_images(bare)} without any"
    if worst is not None and worst[0] >= 1:
        off, label, split = worst
        found.append(f"shares of labels are exact to {off:.3g} images ({label} in {splits.names[split]})")
    return found


def _about_own_splits(images: Sequence[ImageFile]) -> list[str]:
    """Return a notice if the images were split already; their splits are ignored."""
    counts = Counter(image.split for image in images if image.split is not None)
    if len(counts) < 2:
        return []  # a single split is divided further
    were = ", ".join(f"{split} {count:,}" for split, count in sorted(counts.items()))
    return [f"already split into {were}: all images are split again; to divide only one split, add --split NAME"]


def _about_names(images: Sequence[ImageFile], seen: Sequence[ExaminedFile]) -> list[str]:
    """Count the images with the extension of another format; those without an image extension are reported by the search."""
    odd = [
        (image.path, each.misnamed)
        for image, each in zip(images, seen, strict=True)
        if each.misnamed is not None and image_formats.extension_of(image.path) in image_formats.EXTENSIONS
    ]
    if not odd:
        return []
    path, kind = odd[0]
    return [f"{messages.count_images(len(odd))} with the extension of another format, such as {path}, {kind}"]


def _about_lost(images: Sequence[ImageFile], kept: Sequence[ImageFile]) -> list[str]:
    """Return a notice for each class of which no image can be used."""
    counts = Counter(label for image in images for label in _labels_of(image))
    lost = sorted(set(counts) - {label for image in kept for label in _labels_of(image)}, key=name_of)
    return [
        f"class {name_of(label)} is lost: none of its {messages.count_images(counts[label])} can be used"
        for label in lost
    ]


def _about_groups(images: Sequence[ImageFile]) -> list[str]:
    sizes = Counter(image.group for image in images)
    alone = sizes.pop(None, 0)
    if not sizes:
        return []
    fewest, most = min(sizes.values()), max(sizes.values())
    text = f"groups: {len(sizes):,}, with {fewest:,} " + (f"to {most:,} images" if fewest < most else "images each")
    return [f"{text}; {messages.count_images(alone)} in no group" if alone else text]


def _about_crops(sets: Sequence[Sequence[int]]) -> list[str]:
    return [f"crops of one file stay in one split: {_about_sets(sets)}"] if sets else []


def _about_duplicates(
    images: Sequence[ImageFile],
    digests: Sequence[bytes],
    copies: Sequence[Sequence[int]],
    lookalikes: Sequence[Sequence[int]],
    *,
    near: int | None,
) -> list[str]:
    # Exact duplicates are near duplicates, too: report only the sets with more than one content
    resembling = [members for members in lookalikes if len({digests[member] for member in members}) > 1]
    _warn_of_labels(images, copies, "are exact duplicates")
    _warn_of_labels(images, resembling, "are near duplicates")
    remarks = [f"exact duplicates: {_about_sets(copies)}" if copies else "no exact duplicates"]
    if near is None:
        return remarks
    bits = f"up to {near} bits of 256"
    return [
        *remarks,
        f"near duplicates ({bits}): {_about_sets(resembling)}" if resembling else f"no near duplicates ({bits})",
    ]


def _about_listed_copies(
    images: Sequence[ImageFile], digests: Sequence[bytes], copies: Sequence[Sequence[int]]
) -> list[str]:
    """Return the notices of --no-verify."""
    known = sum(image.digest is not None for image in images)
    if not known:
        return ["--no-verify: broken files and duplicates were not looked for"]
    lacking = len(images) - known
    return [
        "--no-verify: broken files were not looked for; duplicates are those of the manifest's hashes",
        *(
            [f"{messages.count_images(lacking)} without a hash: their duplicates were not looked for"]
            if lacking
            else []
        ),
        *_about_duplicates(images, digests, copies, [], near=None),
    ]


def _about_sets(sets: Sequence[Sequence[int]]) -> str:
    largest = max(len(members) for members in sets)
    number = "1 set, which" if len(sets) == 1 else f"{len(sets):,} sets, the largest of {largest:,}; each"
    return f"{messages.count_images(sum(len(members) for members in sets))} in {number} stays in one split"


def _warn_of_labels(images: Sequence[ImageFile], sets: Sequence[Sequence[int]], relation: str) -> None:
    torn = []
    for members in sets:
        first_of = {_label_name(images[member]): images[member].path for member in reversed(members)}
        if len(first_of) > 1:
            torn.append([f"{path} ({label})" for label, path in reversed(first_of.items())])
    for named in torn[:_NAMED]:
        log.warning("%s %s, but have different labels", " and ".join(named), relation)
    if len(torn) > _NAMED:
        log.warning("and %d more sets of images that %s with different labels", len(torn) - _NAMED, relation)


def _about_splits(split_of: Sequence[int | None], splits: SplitShares, classes: Sequence[str]) -> str:
    held = Counter(split_of)
    sizes = ", ".join(f"{name} {held[split]:,}" for split, name in enumerate(splits.names))
    if [*classes] == [name_of(None)]:
        return f"{sizes} images without a class"
    return f"{sizes} images of {'1 class' if len(classes) == 1 else f'{len(classes):,} classes'}"


def _about_percentages(ratio: str, splits: SplitShares, *, named: bool) -> list[str]:
    """Return a notice if the numbers of a ratio look like percentages, but their sum is not 100."""
    words = ratio.split(",")
    numbers = [int(word) for word in words] if all(word.strip().isdecimal() for word in words) else [0]
    total = sum(numbers)
    shares = ", ".join(f"{name} {float(share):.3g}" for name, share in zip(splits.names, splits.shares, strict=True))
    rest_is_missing = not named and len(words) == 2 and 60 <= total <= 95 and min(numbers) >= _LEAST_PERCENT
    if not rest_is_missing:
        odd = 90 <= total <= 110 and total != 100 and min(numbers) >= _LEAST_PERCENT and len(set(numbers)) > 1
        return [f"--ratio {ratio} has the sum {total}, not 100; the shares are {shares}"] if odd else []
    shares = ", ".join(f"{name} {float(share):.0%}" for name, share in zip(splits.names, splits.shares, strict=True))
    return [
        f"--ratio {ratio} makes no test set ({shares}); for a test set of {100 - total}%, give --ratio {ratio},{100 - total}"
    ]


def _about_shares(split_of: Sequence[int | None], splits: SplitShares) -> str:
    held = Counter(split_of)
    shares = (
        f"{name} {held[split] / len(split_of):.3f} (requested {float(share):.3g})"
        for split, (name, share) in enumerate(zip(splits.names, splits.shares, strict=True))
    )
    return ", ".join(shares)
