"""Suspected wrong labels: images whose label a head disagrees with that was trained on other images."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnkit import class_names, files, messages
from cnnkit.audit import neighbours
from cnnkit.callbacks import Progress, ignore_progress
from cnnkit.data import split_names
from cnnkit.data.duplicates import DisjointSets
from cnnkit.data.source import ImageFile, refuse_several_labels
from cnnkit.errors import CnnkitError, FormatError
from cnnkit.evaluation import confident_learning, matching
from cnnkit.evaluation import report as reports
from cnnkit.formats import features, manifest, prediction_columns
from cnnkit.formats.box import any_crop, whole_path
from cnnkit.formats.features import Features
from cnnkit.formats.manifest import ManifestRow

log = logging.getLogger("cnnkit")

#: Minimum cosine similarity of copies, which are in one fold. Copies of a photograph, also compressed again, have more; two images of
#: one subject have less.
_COPIES = 0.99
#: Rows of maps that are averaged at once.
_ROWS_AT_ONCE = 1024
#: The share of suspects above which the heads, and not the labels, are probably wrong.
_MANY = 0.3
#: The most pairs of labels, and classes, named in a notice.
_NAMED = 8


@dataclass(frozen=True, slots=True)
class DoubtedLabel:
    """An image whose label is not the class predicted by a head that was not trained on it.

    Attributes:
        path: The image.
        label: Its label.
        suggested: The predicted class.
        confidence: The probability of the predicted class.
        self_confidence: The probability of the label.
        suspect: Whether it is among the estimated number of wrong labels with the lowest self-confidence.
    """

    path: str
    label: str
    suggested: str
    confidence: float
    self_confidence: float
    suspect: bool


#: The columns of the table.
COLUMNS = tuple(each.name for each in fields(DoubtedLabel))


@dataclass(frozen=True, slots=True)
class LabelCheck:
    """The result of a check of labels.

    Attributes:
        doubted: The labels that the head disagrees with, the most doubtful first.
        images: All images that were checked.
        listed: These, and those that could not be checked.
        accuracy: The share of images whose label is the predicted class.
        unchecked: Classes with images that could not be checked: no fold to train on had the class.
    """

    doubted: list[DoubtedLabel]
    images: list[ImageFile]
    listed: Sequence[ImageFile]
    accuracy: float
    unchecked: list[str]

    @property
    def suspects(self) -> list[DoubtedLabel]:
        """The labels that are probably wrong."""
        return [each for each in self.doubted if each.suspect]

    def fixed(self) -> list[ManifestRow]:
        """Return the images without the suspects: training without them is about as good as with the suggested labels, or better.

        Images that could not be checked are kept.
        """
        real = files.RealPaths()
        left_out = {real.of(each.path) for each in self.suspects}
        return [
            ManifestRow(image.path, image.label, image.split, image.group)
            for image in self.listed
            if real.of(image.path) not in left_out
        ]


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """Images with labels, and their probabilities from heads that were not trained on them.

    Attributes:
        images: N images with a label.
        listed: These, and those without a label, features or a prediction.
        classes: C classes.
        labels: The place of the class of each image, (N,).
        probabilities: (N, C); NaN for an image whose class is not in the other folds.
    """

    images: Sequence[ImageFile]
    listed: Sequence[ImageFile]
    classes: Sequence[str]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def cross_validated(
    path: Path,
    *,
    images: Iterable[ImageFile] | None = None,
    split: str | None = None,
    seed: int = 0,
    progress: Progress = ignore_progress,
) -> OutOfFold:
    """Cross-validate a head on features.

    Images of one group, crops of one file and copies are in one fold.

    Args:
        path: The `.npy`; of several views of an image, the first is used, and maps are averaged.
        images: Their labels and groups; by default those of the features.
        split: Without `images`, use only this split.
        seed: Divides the images into folds.
        progress: Called after each fold.

    Raises:
        UsageError: The images have several labels.
        CnnkitError: There are too few images or classes; or images without features only.
        FormatError: As `features.load`; or features are not finite.
        OSError: The features cannot be read.
    """
    found = features.load(path)
    given = None if images is None else list(images)
    listed, rows = _listed(found, path, split=split) if given is None else _matched(found, path, given)
    every = listed if given is None else given
    refuse_several_labels(
        listed,
        "wrong labels are looked for among images with one; cnn-eval --worst 20 lists labels that predictions contradict most",
    )
    labelled = [place for place, image in enumerate(listed) if image.label is not None]
    if lacking := len(listed) - len(labelled):
        log.info("%s without a label, not checked", messages.count_images(lacking))
    listed, rows = [listed[place] for place in labelled], [rows[place] for place in labelled]
    classes = sorted({image.label or "" for image in listed})
    if len(classes) < 2:
        there = f"only one class, {classes[0]}" if classes else "no labels"
        raise CnnkitError(f"{path}: {there}; labels are checked by the images of other classes")
    values = _values(found, rows, listed, path)
    index = {label: place for place, label in enumerate(classes)}
    labels = np.array([index[image.label or ""] for image in listed], np.int64)

    from cnnkit.audit import (
        out_of_fold,
    )  # here, since it imports scikit-learn, which a check of predictions does not need

    probabilities = out_of_fold.probabilities(
        values, labels, _groups(listed, values), classes=len(classes), seed=seed, progress=progress
    )
    return OutOfFold(listed, every, classes, labels, probabilities)


def predicted(lines: Iterable[bytes], images: Iterable[ImageFile], *, name: str, source: str) -> OutOfFold:
    """Read out-of-fold predictions.

    Args:
        lines: The predictions, with the probability of every class, from models that were not trained on the image.
        images: The labels.
        name: The file of the predictions, for messages.
        source: The file or folder of the labels, for messages.

    Raises:
        CnnkitError: As `matching.match`; or the probability of a class is missing, or a prediction was withheld.
    """
    every = list(images)
    truth = matching.Truth(every, name=source)
    matched, missing = matching.match(prediction_columns.read(lines, name=name), truth, name=name)
    reports.refuse_withheld(matched, name=name)
    lacking = np.isnan(matched.probabilities).any(axis=1)
    if lacking.any():
        raise CnnkitError(
            f"{name}: {matched.paths[int(lacking.argmax())]} has no probability of every class; predict with cnn-predict --top all"
        )
    if missing:
        log.info("%s without a prediction, not checked", messages.count_images(len(missing)))
    known = [truth.images[real] for real in matched.resolved]
    listed = [ImageFile(each.path, each.label, each.split, each.group) for each in known]
    return OutOfFold(listed, every, matched.classes, matched.truth, matched.probabilities)


def check(found: OutOfFold) -> LabelCheck:
    """Rank the labels by confident learning.

    Raises:
        CnnkitError: No image has probabilities.
    """
    images, classes = found.images, found.classes
    known = np.flatnonzero(~np.isnan(found.probabilities).any(axis=1))
    if not len(known):
        raise CnnkitError("too few images to check labels: a class needs two images that are not of one group")
    unchecked = sorted({classes[label] for label in np.delete(found.labels, known).tolist()})
    labels, probabilities = found.labels[known], found.probabilities[known]
    ranked = confident_learning.rank(labels, probabilities)
    scores = confident_learning.self_confidence(labels, probabilities)
    doubted = []
    for number, place in enumerate(ranked.order.tolist()):
        suggested = int(probabilities[place].argmax())
        doubted.append(
            DoubtedLabel(
                path=images[known[place]].path,
                label=classes[labels[place]],
                suggested=classes[suggested],
                confidence=float(probabilities[place, suggested]),
                self_confidence=float(scores[place]),
                suspect=number < ranked.wrong,
            )
        )
    return LabelCheck(doubted, list(images), found.listed, 1 - len(doubted) / len(known), unchecked)


def _listed(found: Features, path: Path, *, split: str | None) -> tuple[list[ImageFile], list[int]]:
    """Return the images of features, without their augmented views, and their rows."""
    splits = sorted({row.split for row in found.rows if row.split is not None})
    meant = None if split is None else split_names.meant(split, splits)
    rows = [
        number
        for number, row in enumerate(found.rows)
        if not row.view and (split is None or (meant is not None and row.split == meant))
    ]
    if split is not None and not rows:
        raise CnnkitError(f"{path}: no rows with split {split}; it has {', '.join(splits) or 'none'}")
    folder = os.path.dirname(path)
    images = [
        ImageFile(
            manifest.seen_here(folder, row.path),
            class_names.normal_or_none(row.label),
            row.split,
            row.group or None,
            labels=row.labels,
        )
        for row in (found.rows[number] for number in rows)
    ]
    return images, rows


def _matched(found: Features, path: Path, images: Iterable[ImageFile]) -> tuple[list[ImageFile], list[int]]:
    """Return the images that have features, each once, and their rows."""
    real = files.RealPaths()
    own, rows = _listed(found, path, split=None)
    row_of = {real.of(image.path): row for image, row in zip(own, rows, strict=True)}
    matched: dict[int, ImageFile] = {}
    lacking = 0
    for image in images:
        row = row_of.get(real.of(image.path))
        if row is None:
            lacking += 1
        elif matched.setdefault(row, image).label != image.label:
            raise CnnkitError(
                f'{image.path} is listed with two labels, "{matched[row].label or ""}" and "{image.label or ""}"; '
                "cnn-check without --labels lists such images"
            )
    if not matched:
        raise CnnkitError(f"{path}: has features of none of the images; run cnn-extract on them")
    if lacking:
        log.info("%s without features, not checked", messages.count_images(lacking))
    return list(matched.values()), list(matched)


def _values(found: Features, rows: Sequence[int], images: Sequence[ImageFile], path: Path) -> NDArray[np.float32]:
    """Read features, (N, D); the mean of maps over their places."""
    values = np.empty((len(rows), found.values.shape[1]), np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = np.asarray(found.values[rows[start : start + _ROWS_AT_ONCE]], dtype=np.float32)
        values[start : start + len(part)] = part.mean((2, 3)) if part.ndim == 4 else part
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise FormatError(
            f"{path}: the features of {images[int(finite.argmin())].path} are not finite; run cnn-extract again"
        )
    return values


def _groups(images: Sequence[ImageFile], values: NDArray[np.float32]) -> list[int]:
    """Number the images so that those of one group, crops of one file and copies have the same number."""
    together = DisjointSets(len(images))
    together.unite_equal(image.group for image in images)
    if any_crop(image.path for image in images):
        real = files.RealPaths()
        together.unite_equal(real.of(whole_path(image.path)) for image in images)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    usable = np.flatnonzero(length[:, 0] > 0)
    unit = neighbours.ImageFeatures(usable.tolist(), values[usable] / length[usable])
    copies = set()
    for one, other, _ in neighbours.near(unit, similarity=_COPIES):
        together.unite(one, other)
        copies |= {one, other}
    if copies:
        log.info(
            "%s with features nearly equal to those of others, as copies have; such images share a fold",
            messages.count_images(len(copies)),
        )
    return [together.root(place) for place in range(len(images))]


def summary(found: LabelCheck) -> Iterator[str]:
    """Yield what a check of labels found, for notices."""
    yield (
        f"{len(found.doubted):,} of {len(found.images):,} labels differ from the out-of-fold prediction "
        f"(accuracy {found.accuracy:.3f}); {len(found.suspects):,} of them {'is' if len(found.suspects) == 1 else 'are'} suspect"
    )
    pairs = Counter((each.label, each.suggested) for each in found.suspects)
    if pairs:
        most = ", ".join(f"{label} -> {suggested} {count:,}" for (label, suggested), count in pairs.most_common(_NAMED))
        yield f"suspects, label -> suggested: {most}{', ...' if len(pairs) > _NAMED else ''}"
    if len(found.suspects) > _MANY * len(found.images):
        yield (
            f"more than {100 * _MANY:.0f} % of the labels are suspect, so most may be right: the classes are hardly distinguished; "
            "use the features of another backbone or layer, or the predictions of a better model"
        )
    if found.unchecked:
        yield f"not checked, for lack of images to train on: {messages.shortened(found.unchecked, _NAMED)}"


def next_step(sources: Sequence[str]) -> str:
    """Return the notice about what to do with the table."""
    words = " ".join(messages.shell_word(word) for word in sources)
    return (
        "next: look at the suspects, set suspect to true or false in the table, then "
        f"cnn-check {words} --corrections suspects.tsv --fix corrected.tsv"
    )
