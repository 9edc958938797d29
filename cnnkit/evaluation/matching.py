"""Predictions matched with the true labels, image by image; what does not match is an error."""

import logging
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cnnkit import class_names, messages
from cnnkit.errors import CnnkitError, FormatError
from cnnkit.formats import image_formats
from cnnkit.formats.predictions import WITHHELD, Prediction

log = logging.getLogger("cnnkit")

#: Probabilities are printed with six digits, so 1 minus their sum is known only up to this.
COMPLEMENT_FLOOR = 5e-7


#: Maximum deviation from 1 of the sum of the probabilities of all classes; three of 0.33 are rounded.
SUM_TOLERANCE = 0.015


class LabelledImage(Protocol):
    """An image of a manifest or a folder; `path` is relative to the current folder."""

    @property
    def path(self) -> str: ...
    @property
    def label(self) -> str | None: ...
    @property
    def split(self) -> str | None: ...
    @property
    def group(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class MatchedPredictions:
    """The predictions for N images of C classes, with their true classes.

    `paths` (N,) are as first written; `resolved` (N,) are the real paths, which identify images. `truth` and `prediction` are (N,)
    indices of `classes`; a withheld prediction is -1. `confidence` (N,) is the probability of the prediction, `probabilities` (N, C)
    those of all classes. Unknown ones are NaN.
    """

    paths: tuple[str, ...]
    resolved: tuple[str, ...]
    classes: tuple[str, ...]
    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    def of(self, rows: Sequence[int]) -> "MatchedPredictions":
        """Select images, in this order."""
        places = list(rows)
        return MatchedPredictions(
            paths=tuple(self.paths[row] for row in places),
            resolved=tuple(self.resolved[row] for row in places),
            classes=self.classes,
            truth=self.truth[places],
            prediction=self.prediction[places],
            confidence=self.confidence[places],
            probabilities=self.probabilities[places],
        )

    def and_of(self, others: Sequence["MatchedPredictions"]) -> "MatchedPredictions":
        """Append the images of others, which have the same classes."""
        every = [self, *others]
        return MatchedPredictions(
            paths=tuple(path for each in every for path in each.paths),
            resolved=tuple(path for each in every for path in each.resolved),
            classes=self.classes,
            truth=np.concatenate([each.truth for each in every]),
            prediction=np.concatenate([each.prediction for each in every]),
            confidence=np.concatenate([each.confidence for each in every]),
            probabilities=np.concatenate([each.probabilities for each in every]),
        )


@dataclass(slots=True)
class _Image:
    """The rows of one image; `path` as first written."""

    path: str
    truth: str
    ranks: dict[int, Prediction] = field(default_factory=dict)
    labels: dict[str, Prediction] = field(default_factory=dict)


class Truth:
    """The true class of each image.

    Real paths are compared, so the folder or link through which a path was written does not matter.
    """

    def __init__(self, images: Iterable[LabelledImage], *, name: str) -> None:
        """Take the labels of the images of a manifest or a folder.

        Args:
            images: One without a label is an error only if it is predicted.
            name: The manifest or folder, for messages.

        Raises:
            CnnkitError: No image has a label, or one has two.
        """
        self.name, self.verb = name, "has"
        self.images: dict[str, LabelledImage] = {}
        for image in images:
            known = self.images.setdefault(os.path.realpath(image.path), image)
            if known.label != image.label:
                raise CnnkitError(
                    f'{name}: {image.path} has two labels: "{image.label or ""}", and "{known.label or ""}" as {known.path}'
                )
        if not any(image.label for image in self.images.values()):
            raise CnnkitError(
                f"{name}: no labels; the truth is a manifest with a column label, or a folder of class folders"
            )

    @property
    def labels(self) -> set[str]:
        """All labels that occur."""
        return {image.label for image in self.images.values() if image.label}

    def resolve(self, path: str) -> str:
        """Return the real path of an image; of one written without extension, that of the only listed image of this name."""
        resolved = os.path.realpath(path)
        whole = image_formats.extension_of(path) in image_formats.EXTENSIONS
        if resolved in self.images or whole or os.path.lexists(resolved):
            return resolved
        return self._by_stem.get(resolved) or resolved

    @cached_property
    def _by_stem(self) -> dict[str, str | None]:
        """The real path of each image by its path without image extension; None if several images share that."""
        found: dict[str, str | None] = {}
        for resolved, image in self.images.items():
            if image_formats.extension_of(image.path) in image_formats.EXTENSIONS:
                folder, name = os.path.split(os.path.splitext(image.path)[0])
                for stem in {os.path.join(os.path.realpath(folder), name), os.path.splitext(resolved)[0]}:
                    found[stem] = resolved if found.get(stem, resolved) == resolved else None
        return found

    def of(self, path: str, resolved: str) -> str | None:
        """Look up the label of an image; None if it has none."""
        del path
        image = self.images.get(resolved)
        return image.label if image is not None else None

    def split_of(self, path: str, resolved: str) -> str | None:
        """Return the split of an image; None if it has none."""
        del path
        image = self.images.get(resolved)
        return image.split if image is not None else None

    def without(self, predicted: Container[str]) -> list[LabelledImage]:
        """List the images whose real path is not in `predicted`."""
        return [image for resolved, image in self.images.items() if resolved not in predicted]


class FolderTruth:
    """The truth without a manifest: the class of an image is a folder of its path.

    The predictions do not tell which folder was their source. So the classes are the folders that contain the images; or, where that
    reading names no predicted class, the folders below the deepest one that contains all images: the subfolders of a class have its
    label in all commands.
    """

    name, verb = "the folders of the images", "have"

    def __init__(self) -> None:
        self.labels: set[str] = set()
        self.images: dict[str, LabelledImage] = {}  # there is no list of images
        self._known: frozenset[str] = frozenset()
        self._class_folders: dict[str, str] = {}  # by the folder of an image, the folder of its class, both absolute

    def note(self, paths: Iterable[str], known: Iterable[str]) -> None:
        """Choose the folders that are classes, before labels are looked up.

        Args:
            paths: Of all images, as written: a link is in the folder of its class.
            known: The classes that are predicted or given, in normal form.

        Raises:
            CnnkitError: Both readings are possible.
        """
        self._known = frozenset(known)
        folders = {os.path.dirname(os.path.abspath(path)) for path in paths}
        if not folders:
            return
        above = len(os.path.commonpath(folders).split(os.sep))
        outer = {each: os.sep.join(each.split(os.sep)[: above + 1]) for each in folders}
        self._class_folders = {each: each for each in folders}
        if all(_name(each) == _name(high) for each, high in outer.items()):
            return
        inside, outside = ({_name(each) for each in some} for some in (folders, outer.values()))
        fits = [names <= self._known for names in (inside, outside)]
        shared = [bool(names & self._known) for names in (inside, outside)]
        if fits[0] == fits[1] and all(shared):
            deep = next(each for each, high in outer.items() if _name(each) != _name(high))
            raise CnnkitError(
                f'{deep}: the class may be "{_name(deep)}" or "{_name(outer[deep])}"; give the labels with --truth FOLDER|MANIFEST'
            )
        if fits[1] > fits[0] or (fits[0] == fits[1] and shared[1]):
            self._class_folders = outer

    def resolve(self, path: str) -> str:
        """Return the real path of an image."""
        return os.path.realpath(path)

    def of(self, path: str, resolved: str) -> str | None:
        """Return the class of an image by its path as written."""
        del resolved
        label = _name(self._class_folder(path))
        if label:
            self.labels.add(label)
        return label or None

    def _class_folder(self, path: str) -> str:
        folder = os.path.dirname(os.path.abspath(path))
        return self._class_folders.get(folder, folder)

    def reading(self) -> str | None:
        """Describe how the classes were read; None if every image lies directly in the folder of a known class."""
        deeper = {_name(each) for each, chosen in self._class_folders.items() if each != chosen}
        if not deeper and self.labels <= self._known:
            return None
        ignored = f"; deeper folders are ignored ({messages.shortened(sorted(deeper), 5)})" if deeper else ""
        return f"true class = folder of the image: {messages.shortened(sorted(self.labels), 8)}{ignored}; for other labels, give --truth"

    def split_of(self, path: str, resolved: str) -> str | None:
        """Return the name of the folder that contains the class folder: in photos/test/cat/1.jpg it is a split."""
        del resolved
        return os.path.basename(os.path.dirname(self._class_folder(path)))

    def without(self, predicted: Container[str]) -> list[LabelledImage]:
        """Return an empty list."""
        del predicted
        return []


def _name(folder: str) -> str:
    """Return a folder's own name, in normal form."""
    return class_names.normal(os.path.basename(folder))


def match(
    predictions: Iterable[Prediction], truth: Truth | FolderTruth, *, classes: Sequence[str] | None = None, name: str
) -> tuple[MatchedPredictions, list[LabelledImage]]:
    """Match the predictions of one file with the truth, as `match_each`.

    Returns:
        The predictions; and the images of the truth that were not predicted.
    """
    (matched,), missing = match_each([(predictions, name)], truth, classes=classes)
    return matched, missing


def match_each(
    files: Iterable[tuple[Iterable[Prediction], str]],
    truth: Truth | FolderTruth,
    *,
    classes: Sequence[str] | None = None,
) -> tuple[list[MatchedPredictions], list[LabelledImage]]:
    """Match the predictions of several files with the truth; all get the same classes.

    If all classes of an image except one have a probability, the last one gets 1 minus their sum: for two classes, the prediction alone
    is enough.

    Args:
        files: For each file its predictions, in any order, and its name, for messages.
        truth: The true labels.
        classes: The classes and their order; by default those of the truth and of the predictions, sorted: a test set may lack a class
            that the network knows. Predictions that share no class with the truth are an error.

    Returns:
        The predictions of each file, in the order in which its images were first predicted; and the images of the truth that no file
        predicts.

    Raises:
        CnnkitError: A prediction without a true label, a duplicate, an image without a prediction, or a label that is not a class.
    """
    collected = [(_collect(predictions, truth, name=name), name) for predictions, name in files]
    if isinstance(truth, FolderTruth):
        known = _predicted(collected) | {class_names.normal(each) for each in classes or ()}
        truth.note((image.path for found, _ in collected for image in found.values()), known)
    for found, name in collected:
        _look_up(found, truth, name=name)
    if isinstance(truth, FolderTruth) and (reading := truth.reading()):
        log.info("%s", reading)
    ordered = tuple(map(class_names.normal, classes)) if classes is not None else _union(collected, truth)
    for found, name in collected:
        _check_labels(found.values(), ordered, truth, name=name, given=classes is not None)
    predicted = {resolved for found, _ in collected for resolved in found}
    return [_as_arrays(found, ordered) for found, _ in collected], truth.without(predicted)


def _union(collected: Sequence[tuple[dict[str, _Image], str]], truth: Truth | FolderTruth) -> tuple[str, ...]:
    """Return the classes of the truth and of the predictions, sorted; only those of the truth if the two share none."""
    predicted = _predicted(collected)
    several = any(len(image.labels) > 1 for found, _ in collected for image in found.values())
    if predicted & truth.labels and several and (unheard := sorted(truth.labels - predicted)):
        log.warning(
            "%s %s images of %s, which no prediction lists", truth.name, truth.verb, messages.shortened(unheard, 8)
        )
    beyond = sorted(predicted - truth.labels)
    if not beyond or not predicted & truth.labels:
        return tuple(sorted(truth.labels))
    log.warning(
        "%s %s no image of %s, which the predictions list; predictions of %s count as wrong",
        truth.name,
        truth.verb,
        messages.shortened(beyond, 8),
        "it" if len(beyond) == 1 else "them",
    )
    for line in class_names.about_forms({label: (label,) for label in truth.labels | predicted}):
        log.warning("%s", line)
    return tuple(sorted(truth.labels | predicted))


def _predicted(collected: Sequence[tuple[dict[str, _Image], str]]) -> set[str]:
    """Return the classes that predictions list."""
    return {label for found, _ in collected for image in found.values() for label in image.labels} - {WITHHELD}


def _collect(predictions: Iterable[Prediction], truth: Truth | FolderTruth, *, name: str) -> dict[str, _Image]:
    """Collect the rows of each image by its real path."""
    images: dict[str, _Image] = {}
    by_written: dict[str, _Image] = {}  # resolving reads the file system: once per image, not per row
    for row in predictions:
        image = by_written.get(row.path)
        if image is None:
            resolved = truth.resolve(row.path)
            if resolved not in images:
                images[resolved] = _Image(row.path, "")
            image = by_written[row.path] = images[resolved]
        label = class_names.normal(row.label)
        _add(image, row if label == row.label else replace(row, label=label), name=name)
    for image in images.values():
        if 1 not in image.ranks:
            raise FormatError(f"{name}: {image.path} has no prediction of rank 1")
    return images


def _look_up(images: Mapping[str, _Image], truth: Truth | FolderTruth, *, name: str) -> None:
    """Set the true label of each image.

    Raises:
        CnnkitError: An image has none.
    """
    without_truth: dict[str, str] = {}
    for resolved, image in images.items():
        true = truth.of(image.path, resolved)
        if true is None:
            without_truth[image.path] = resolved
        else:
            image.truth = true
    if without_truth:
        resolved = next(iter(without_truth.values()))
        raise CnnkitError(
            f"{name}: {truth.name} {truth.verb} no label for {messages.shortened(list(without_truth), 8)} (looked for {resolved})"
        )


def _add(image: _Image, row: Prediction, *, name: str) -> None:
    """Add a row of an image; a second one of the same rank or label is an error."""
    twin = image.ranks.get(row.rank) or (None if row.label == WITHHELD else image.labels.get(row.label))
    if twin is not None:
        also = f", also as {twin.path}" if twin.path != row.path else ""
        raise FormatError(
            f'{name}: {row.path} is predicted twice{also}: "{twin.label}" at rank {twin.rank}, "{row.label}" at rank {row.rank}'
        )
    image.ranks[row.rank] = image.labels[row.label] = row


def _check_labels(
    images: Iterable[_Image], classes: Sequence[str], truth: Truth | FolderTruth, *, name: str, given: bool
) -> None:
    """Check that every label is a class; predictions of another would silently count as wrong."""
    known = {*classes, WITHHELD}
    if odd := sorted(truth.labels - known):
        raise CnnkitError(
            f'{truth.name}: the label "{odd[0]}" is not one of the classes {messages.shortened(classes, 8)}'
        )
    unknown = {label: image.path for image in images for label in image.labels if label not in known}
    if unknown:
        label, path = next(iter(unknown.items()))
        remedy = messages.proposal(label, classes, foreign={})
        if not remedy and not given:
            remedy = "; they have no class in common: do the predictions belong to this truth?"
            if isinstance(truth, FolderTruth):
                remedy = "; if these folders are not the classes, give the labels with --truth MANIFEST"
        there = f"{'the classes are' if given else f'{truth.name} {truth.verb}'} only {messages.shortened(classes, 8)}"
        raise CnnkitError(
            f'{name}: {path} is predicted as "{label}", but {there}'
            f"{f' (unknown too: {messages.shortened(list(unknown)[1:], 8)})' if len(unknown) > 1 else ''}{remedy}"
        )


def _as_arrays(found: Mapping[str, _Image], classes: tuple[str, ...]) -> MatchedPredictions:
    images = list(found.values())
    index = {label: position for position, label in enumerate(classes)}
    index.setdefault(WITHHELD, -1)
    predictions = [image.ranks[1] for image in images]
    probabilities = np.full((len(images), len(classes)), np.nan)
    for row, image in enumerate(images):
        for label, listed in image.labels.items():
            if index[label] >= 0 and listed.probability is not None:
                probabilities[row, index[label]] = listed.probability
    return MatchedPredictions(
        paths=tuple(image.path for image in images),
        resolved=tuple(found),
        classes=classes,
        truth=np.array([index[image.truth] for image in images], dtype=np.int64),
        prediction=np.array([index[prediction.label] for prediction in predictions], dtype=np.int64),
        confidence=np.array(
            [np.nan if prediction.probability is None else prediction.probability for prediction in predictions],
            dtype=np.float64,
        ),
        probabilities=_completed(probabilities),
    )


def _completed(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fill in the one missing probability of an image, 1 minus the sum of the others, unless that exceeds 1, as with sigmoids."""
    unknown, total = np.isnan(probabilities), np.nansum(probabilities, axis=1)  # (N, C), (N,)
    rows = np.flatnonzero((unknown.sum(axis=1) == 1) & (probabilities.shape[1] > 1) & (total <= 1.0 + SUM_TOLERANCE))
    left = np.clip(1.0 - total[rows], COMPLEMENT_FLOOR, 1.0)
    completed = probabilities.copy()
    completed[rows, unknown[rows].argmax(axis=1)] = left
    return completed
