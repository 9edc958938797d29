"""Findings: records of what is wrong or unusual in a dataset."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from cnnkit import class_names, files, messages
from cnnkit.audit.inspection import InspectedImage
from cnnkit.audit.record import Finding, FindingKind, Level, Pair, Probe
from cnnkit.audit.side_information import COLOURS
from cnnkit.choices import ProbeName
from cnnkit.data.search_log import SearchLog
from cnnkit.data.source import ImageFile
from cnnkit.formats import label_sets
from cnnkit.formats.box import any_crop, whole_path
from cnnkit.formats.manifest import ManifestRow

#: A shorter side that differs from the median by more than this factor is a warning.
_ABSURD = 8
#: Minimum shorter side in pixels, and maximum number of pixels, beyond those of cameras.
_TINY = 8
_HUGE = 100_000_000
#: Aspect ratio above which a square crop shows little of an image.
_STRIP = 5
#: Ratio of the largest class to the smallest that is a warning.
_UNBALANCED = 10
#: Fewer images of a class than this are too few for training and testing.
_FEW = 10
_FOR_UNBALANCED = "use balanced accuracy, and consider --class-weights balanced"
#: Properties that a network cannot see. They show that images were taken one after the other, class by class, as most sets are: a note.
_SERIES = frozenset({ProbeName.ORDER, ProbeName.TIME})
#: What it may mean that a probe predicts a target.
_MEANINGS = {
    **dict.fromkeys(
        (ProbeName.WIDTH, ProbeName.HEIGHT, ProbeName.ASPECT), "resizing leaves traces of it in the pixels"
    ),
    **dict.fromkeys((ProbeName.FORMAT, ProbeName.QUALITY), "compression leaves traces of it in the pixels"),
    ProbeName.BYTES: "it may be content, or compression, which leaves traces in the pixels",
    **dict.fromkeys(COLOURS, "colours may be content, or light and background"),
    ProbeName.CAMERA: "cameras differ in colours, noise and sharpness, which a network may learn",
    ProbeName.NAME: "names show where images come from, and sources may differ in light, background and compression",
    **dict.fromkeys(
        _SERIES,
        "images of a series may share light, place and camera settings; cnn-split --group keeps a series together",
    ),
    ProbeName.TOGETHER: "the classes or splits may come from different sources",
}


def of_unusable(path: str, reason: str, *, kind: FindingKind) -> Finding:
    """Report a file that cannot be read as an image."""
    return Finding(Level.ERROR, kind, path, None, reason)


def of_images(images: Sequence[ImageFile], inspected: Sequence[InspectedImage]) -> Iterator[Finding]:
    """Report unusual sizes, contents, EXIF blocks and colour modes of images."""
    if not images:
        return
    side = statistics.median(min(each.width, each.height) for each in inspected)
    usual, _ = Counter(each.mode for each in inspected).most_common(1)[0]
    for image, each in zip(images, inspected, strict=True):
        for level, kind, detail in (*_about_size(each, side), *_about_content(each), *_about_exif(each)):
            yield Finding(level, kind, image.path, None, detail)
        if each.mode != usual:
            yield Finding(Level.NOTE, FindingKind.MODE, image.path, None, f"{each.mode}, where most are {usual}")


def _about_content(each: InspectedImage) -> Iterator[tuple[Level, FindingKind, str]]:
    if each.misnamed is not None:
        yield Level.WARNING, FindingKind.EXTENSION, f"{each.misnamed}; read by its content; rename it"
    if each.narrow is not None:
        detail = f"{each.narrow}: almost uniform for a network; scale the values to the bit depth"
        yield Level.WARNING, FindingKind.RANGE, detail
    elif each.plain:
        yield Level.WARNING, FindingKind.PLAIN, "all pixels have the same colour"


def _about_size(each: InspectedImage, side: float) -> Iterator[tuple[Level, FindingKind, str]]:
    shorter, longer = sorted((each.width, each.height))
    size = f"{each.width}x{each.height}"
    if shorter < max(_TINY, side / _ABSURD):
        yield Level.WARNING, FindingKind.SIZE, f"{size} is very small; the median shorter side is {side:g}"
    if shorter > side * _ABSURD or each.width * each.height > _HUGE:
        yield Level.WARNING, FindingKind.SIZE, f"{size} is very large; the median shorter side is {side:g}"
    if longer > _STRIP * shorter:
        yield Level.NOTE, FindingKind.SIZE, f"{size} is a strip; a square crop shows {shorter / longer:.0%} of it"


def _about_exif(each: InspectedImage) -> Iterator[tuple[Level, FindingKind, str]]:
    if each.exif.error is not None:
        yield Level.WARNING, FindingKind.EXIF, f"broken EXIF block, so the image is not rotated: {each.exif.error}"
    elif each.exif.orientation is not None and not 1 <= each.exif.orientation <= 8:
        yield (
            Level.WARNING,
            FindingKind.EXIF,
            f"invalid EXIF orientation {each.exif.orientation}; the image is not rotated",
        )
    elif each.exif.orientation is not None and each.exif.orientation > 1:
        yield (
            Level.NOTE,
            FindingKind.EXIF,
            f"stored rotated or mirrored (EXIF orientation {each.exif.orientation}); cnnkit corrects it",
        )


def of_pairs(pairs: Iterable[Pair]) -> Iterator[Finding]:
    """Report pairs of images that belong together, and whether their labels or splits differ."""
    for pair in pairs:
        remarks = [pair.detail] if pair.detail else []
        one, other = (label_text(image) for image in (pair.other, pair.path))
        torn = one != other
        if torn:
            remarks.append(f"labels {one or '(none)'} and {other or '(none)'}")
        if apart(pair.path, pair.other):
            remarks.append(f"in {pair.other.split} and {pair.path.split}")
        harmful = torn or apart(pair.path, pair.other)
        level = Level.NOTE if not harmful else Level.WARNING if pair.kind is FindingKind.NEIGHBOUR else Level.ERROR
        yield Finding(level, pair.kind, pair.path.path, pair.other.path, "; ".join(remarks))


def label_text(image: ImageFile) -> str:
    """Return the class of an image, or its labels in the order of their names; empty if there is none."""
    return image.label or label_sets.joined(sorted(image.labels or ()))


def labels_of(image: ImageFile | ManifestRow) -> Sequence[str]:
    """Return the class of an image as a list, or its labels."""
    return image.labels if image.labels is not None else () if image.label is None else (image.label,)


def apart(one: ImageFile, other: ImageFile) -> bool:
    """Check whether two images are in different splits."""
    return one.split is not None and other.split is not None and one.split != other.split


def of_search(search: SearchLog) -> Iterator[Finding]:
    """Report what a search of folders skipped (unread images, other files, folders without images), and unusual labels."""
    for path, reason in search.unread:
        yield Finding(Level.WARNING, FindingKind.IGNORED, path, None, f"not read; {reason}")
    if (count := search.passed_over()) is not None:
        yield _of_set(Level.NOTE, FindingKind.IGNORED, f"ignored {count}")
    for folder, there in search.empty:
        held = f" ({there})" if there else ""
        yield Finding(Level.WARNING, FindingKind.LABEL, folder, None, f"no image in it{held}")
    for line in class_names.about_forms(search.forms):
        yield _of_set(Level.WARNING, FindingKind.LABEL, line)


def of_lost_classes(images: Sequence[ImageFile], sound: Sequence[ImageFile]) -> Iterator[Finding]:
    """Report the classes of which no image can be used."""
    counts = Counter(label for image in images for label in labels_of(image))
    for label in sorted(set(counts) - {label for image in sound for label in labels_of(image)}):
        lost = messages.count_images(counts[label])
        yield _of_set(Level.ERROR, FindingKind.LABEL, f"class {label} is lost: none of its {lost} can be used")


def of_labels(images: Sequence[ImageFile]) -> Iterator[Finding]:
    """Report images without a class if others in their split, or in no split, have one; a split may have no classes at all."""
    if any(image.labels is not None for image in images):
        yield from _of_label_lists(images)
        return
    labelled = {image.split for image in images if image.label is not None}
    if images and not labelled:
        yield _of_set(Level.WARNING, FindingKind.LABEL, "no image has a class; training needs images of two classes")
    without = Counter(image.split for image in images if image.split not in labelled)
    for image in images if labelled else ():
        if image.label is None and (image.split is None or image.split in labelled):
            yield Finding(Level.ERROR, FindingKind.LABEL, image.path, None, "has no class; other images have one")
    for split, count in without.items():
        if labelled and split is not None:
            yield _of_set(Level.NOTE, FindingKind.LABEL, f"{messages.count_images(count)} in {split} without a class")


def _of_label_lists(images: Sequence[ImageFile]) -> Iterator[Finding]:
    """Report images without a list of labels, and count those that have none of the labels."""
    for image in images:
        if image.labels is None:
            yield Finding(
                Level.ERROR, FindingKind.LABEL, image.path, None, "has no list of labels; other images have one"
            )
    bare = sum(image.labels == () for image in images)
    if bare == len(images):
        yield _of_set(
            Level.WARNING, FindingKind.LABEL, "no image has a label (column labels); training needs images of two"
        )
    elif bare:
        yield _of_set(Level.NOTE, FindingKind.LABEL, f"{messages.count_images(bare)} with none of the labels")


def of_classes(images: Sequence[ImageFile]) -> Iterator[Finding]:
    """Report small, unbalanced and missing classes, as a whole and in each split."""
    counts = Counter(label for image in images for label in labels_of(image))
    several = any(image.labels is not None for image in images)
    if not counts:
        return
    if len(counts) == 1:
        (only,) = counts
        yield _of_set(Level.WARNING, FindingKind.BALANCE, f"there is only one class, {only}; training needs two")
    for label, count in sorted(counts.items()):
        if count < _FEW:
            yield _of_set(
                Level.WARNING,
                FindingKind.BALANCE,
                f"class {label} has only {messages.count_images(count)}; use at least {_FEW}",
            )
    (most, largest), (least, smallest) = counts.most_common()[0], counts.most_common()[-1]
    if largest > _UNBALANCED * smallest:
        yield _of_set(
            Level.WARNING,
            FindingKind.BALANCE,
            f"class {most} has {messages.count_images(largest)}, class {least} {smallest}; "
            + ("measure macro F1 and mAP, which count all labels equally" if several else _FOR_UNBALANCED),
        )
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for image in images:
        if image.split is not None and (own := labels_of(image)):
            splits[image.split].update(own)
    for split, labels in sorted(splits.items()):
        for label in sorted(set(counts) - labels):
            yield _of_set(Level.WARNING, FindingKind.BALANCE, f"no image of class {label} in {split}")


def of_groups(images: Sequence[ImageFile]) -> Iterator[Finding]:
    """Report groups that are in several splits."""
    splits: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for image in images:
        if image.group is not None and image.split is not None:
            splits[image.group].setdefault(image.split, image.path)
    for group, first in splits.items():
        if len(first) > 1:
            (one, path), (other, second), *_ = first.items()
            yield Finding(Level.ERROR, FindingKind.GROUP, second, path, f"group {group} is in {one} and {other}")


def of_crops(images: Sequence[ImageFile]) -> Iterator[Finding]:
    """Report files of which crops are in several splits."""
    splits: defaultdict[str, dict[str, str]] = defaultdict(dict)
    if not any_crop(image.path for image in images):
        return
    real = files.RealPaths()
    for image in images:
        if image.split is not None:
            splits[real.of(whole_path(image.path))].setdefault(image.split, image.path)
    for first in splits.values():
        if len(first) > 1:
            (one, path), (other, second), *_ = first.items()
            yield Finding(Level.ERROR, FindingKind.GROUP, second, path, f"crops of one file are in {one} and {other}")


def of_probes(probes: Sequence[Probe]) -> Iterator[Finding]:
    """Report the probes that leak; the probe of all properties together only if no single one does."""
    single = {each.target for each in probes if each.leaks and each.probe not in {ProbeName.TOGETHER, *COLOURS}}
    for each in probes:
        if each.leaks and not (each.probe == ProbeName.TOGETHER and each.target in single):
            name = ProbeName(each.probe)
            yield _of_set(
                Level.NOTE if name in _SERIES else Level.WARNING,
                FindingKind.LEAK,
                f"{_named(each.probe)} the {each.target} with a balanced accuracy of {each.accuracy:.1%} "
                f"({each.accuracy_low:.1%} to {each.accuracy_high:.1%}; chance {each.chance:.1%}, p = {each.p_value:.2g}); "
                f"{_MEANINGS[name]}",
            )


def _of_set(level: Level, kind: FindingKind, detail: str) -> Finding:
    return Finding(level, kind, None, None, detail)


def _named(probe: str) -> str:
    return "sizes, file and name together predict" if probe == ProbeName.TOGETHER else f"{probe} alone predicts"
