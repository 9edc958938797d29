"""Predictions matched with the true labels, image by image; what does not match is an error."""

import logging
import os
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnkit import class_names, files, messages
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import box, image_formats
from cnnkit.formats.box import Box
from cnnkit.formats.prediction_columns import PredictionColumns
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
    @property
    def labels(self) -> tuple[str, ...] | None: ...


@dataclass(frozen=True, slots=True)
class MatchedPredictions:
    """The predictions for N images of C classes, with their true classes.

    `paths` (N,) are as first written; `resolved` (N,) are the real paths, which identify images. `truth` and `prediction` are (N,)
    indices of `classes`; a withheld prediction is -1. `confidence` (N,) is the probability of the prediction, `probabilities` (N, C)
    those of all classes. Unknown ones are NaN. `boxes` (N, 4) and `true_boxes` (N, 4) are x, y, width and height, NaN where there is none;
    None if there are none in the predictions or in the truth. `set_sizes` (N,) are the numbers of labels in the prediction sets, and
    `covered` (N,) whether these have the true class; None if the predictions have no sets.
    """

    paths: tuple[str, ...]
    resolved: tuple[str, ...]
    classes: tuple[str, ...]
    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    boxes: NDArray[np.float64] | None = None
    true_boxes: NDArray[np.float64] | None = None
    set_sizes: NDArray[np.int64] | None = None
    covered: NDArray[np.bool_] | None = None

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
            boxes=None if self.boxes is None else self.boxes[places],
            true_boxes=None if self.true_boxes is None else self.true_boxes[places],
            set_sizes=None if self.set_sizes is None else self.set_sizes[places],
            covered=None if self.covered is None else self.covered[places],
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
            boxes=_joined([each.boxes for each in every]),
            true_boxes=_joined([each.true_boxes for each in every]),
            set_sizes=_joined([each.set_sizes for each in every]),
            covered=_joined([each.covered for each in every]),
        )


def _joined(columns: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    known = [each for each in columns if each is not None]
    return np.concatenate(known) if len(known) == len(columns) else None


@dataclass(slots=True)
class _Collected:
    """The R rows of one file by image: `paths` as first written, and the real paths.

    `image` and `label` (R,) are indices of `paths` and `labels`, the rest as in `PredictionColumns`; `truth` has the true labels.
    """

    paths: list[str]
    resolved: list[str]
    labels: list[str]
    image: NDArray[np.int32]
    label: NDArray[np.int32]
    rank: NDArray[np.int64]
    probability: NDArray[np.float64]
    truth: list[str] = field(default_factory=list)
    boxes: NDArray[np.float64] | None = None  # (images, 4), those of rank 1
    true_boxes: NDArray[np.float64] | None = None
    set_sizes: NDArray[np.int64] | None = None  # (images,)

    @property
    def given(self) -> NDArray[np.bool_]:
        """Whether each row is a prediction that was not withheld, (R,)."""
        if WITHHELD not in self.labels:
            return np.ones(len(self.label), bool)
        return np.not_equal(self.label, self.labels.index(WITHHELD))

    def lists_several(self) -> bool:
        """Return whether an image has several labels; any number of withheld predictions are one."""
        given, images = self.given, len(self.paths)
        withheld = np.bincount(self.image[~given], minlength=images) > 0
        return bool((np.bincount(self.image[given], minlength=images) + withheld).max(initial=0) > 1)


class Truth:
    """The true class of each image.

    Real paths are compared, so the folder or link through which a path was written does not matter.
    """

    def __init__(
        self,
        images: Iterable[LabelledImage],
        *,
        name: str,
        widened: bool = False,
        all_splits: Callable[[], Iterable[LabelledImage]] | None = None,
    ) -> None:
        """Take the labels of the images of a manifest or a folder.

        Args:
            images: One without a label is an error only if it is predicted.
            name: The manifest or folder, for messages.
            widened: The boxes of crops are wider than in the manifest.
            all_splits: Where `images` are those of one split, reads those of all splits, for a message.

        Raises:
            CnnkitError: No image has a label, or one has two.
        """
        self.name, self.verb, self._widened, self._all_splits = name, "has", widened, all_splits
        self.images: dict[str, LabelledImage] = {}
        self._real = files.RealPaths()
        self._paths: dict[str, str] = {}  # the paths in `images`, for predictions to share their memory
        self._boxes: dict[str, Box] = {}  # once they are compared, by the path of the whole image
        for image in images:
            self._add(image, image.path)
        if not any(image.label or image.labels for image in self.images.values()):
            raise CnnkitError(
                f"{name}: no labels; the truth is a manifest with a column label (or labels), or a folder of class folders"
            )

    def _add(self, image: LabelledImage, path: str) -> str:
        """Add an image under a path, and return the real path."""
        resolved = self._real.of(path)
        known = self.images.setdefault(self._paths.setdefault(resolved, resolved), image)
        if known is image:
            return resolved
        if known.label != image.label or {*(known.labels or ())} != {*(image.labels or ())}:
            one, other = (";".join(each.labels or ()) or each.label or "" for each in (image, known))
            raise CnnkitError(f'{self.name}: {path} has two labels: "{one}", and "{other}" as {known.path}')
        return resolved

    def take_whole_images(self) -> None:
        """Take crops for whole images with a box, which is compared with the predicted one.

        Raises:
            CnnkitError: An image has two boxes or labels.
            UsageError: The boxes are widened.
        """
        if self._widened:
            raise UsageError(
                "--margin widens crops, and predicted boxes are compared with those of the manifest; drop it"
            )
        images = list(self.images.values())
        self.images, self._paths = {}, {}
        for image in images:
            path, its = box.divided(image.path)
            resolved = self._add(image, path)
            if its is not None and self._boxes.setdefault(resolved, its) != its:
                raise CnnkitError(
                    f"{self.name}: {path} has several boxes, and a prediction has one; leave one box for each image"
                )

    def boxes_of(self, resolved: Sequence[str]) -> NDArray[np.float64] | None:
        """Return the boxes of images by their real paths, (N, 4), NaN where there is none; None if there is no box at all."""
        if not self._boxes:
            return None
        found = np.full((len(resolved), 4), np.nan)
        for place, path in enumerate(resolved):
            if (its := self._boxes.get(path)) is not None:
                found[place] = its.x, its.y, its.width, its.height
        return found

    @property
    def labels(self) -> set[str]:
        """All labels that occur."""
        return {image.label for image in self.images.values() if image.label}

    def labels_of(self, resolved: str) -> tuple[str, ...] | None:
        """Look up all labels of an image, of a manifest with several or with one; None if nothing is known of it."""
        image = self.images.get(resolved)
        if image is None or image.labels is not None:
            return None if image is None else image.labels
        return None if image.label is None else (image.label,)

    def check_single(self) -> None:
        """Check that images have one label each.

        Raises:
            CnnkitError: They have lists of labels.
        """
        if not self.labels and any(image.labels for image in self.images.values()):
            raise CnnkitError(
                f"{self.name} has several labels per image (column labels), and the predictions have one; "
                "predict with a multi-label model, or give a truth with a column label"
            )

    def resolve(self, path: str) -> str:
        """Return the real path of an image; of one written without extension, that of the only listed image of this name."""
        resolved = self._real.of(path)
        if (listed := self._paths.get(resolved)) is not None:
            return listed
        if image_formats.extension_of(path) in image_formats.EXTENSIONS or os.path.lexists(resolved):
            return resolved
        return self._by_stem.get(resolved) or resolved

    def shared(self, path: str, resolved: str) -> str:
        """Return the path of an image, as the string in the list of images if that is the same."""
        image = self.images.get(resolved)
        return image.path if image is not None and image.path == path else path

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

    def about_split(self, resolved: str) -> str:
        """Return a remedy for an image, by its real path, which is in another split than the one that was selected; or nothing."""
        for image in self._all_splits() if self._all_splits is not None else ():
            if image.split is not None and self._real.of(image.path) == resolved:
                return f"; it is in the split {image.split}: give --split {image.split}, or drop --split"
        return ""

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
        self._absolute: dict[str, str] = {}  # by the folder as written
        self._real = files.RealPaths()

    def note(self, paths: Iterable[str], known: Iterable[str]) -> None:
        """Choose the folders that are classes, before labels are looked up.

        Args:
            paths: Of all images, as written: a link is in the folder of its class.
            known: The classes that are predicted or given, in normal form.

        Raises:
            CnnkitError: Both readings are possible.
        """
        self._known = frozenset(known)
        folders = set(map(self._folder, paths))
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
        return self._real.of(path)

    def shared(self, path: str, resolved: str) -> str:
        """Return the path unchanged."""
        del resolved
        return path

    def of(self, path: str, resolved: str) -> str | None:
        """Return the class of an image by its path as written."""
        del resolved
        label = _name(self._class_folder(path))
        if label:
            self.labels.add(label)
        return label or None

    def _class_folder(self, path: str) -> str:
        folder = self._folder(path)
        return self._class_folders.get(folder, folder)

    def _folder(self, path: str) -> str:
        """Return the absolute folder of an image; each folder is resolved once."""
        name = path.rpartition(os.sep)[2]
        if name in ("", os.curdir, os.pardir):
            return os.path.dirname(os.path.abspath(path))
        above = path[: -len(name)]
        if above not in self._absolute:
            self._absolute[above] = os.path.abspath(above)
        return self._absolute[above]

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


def _name(folder: str) -> str:
    """Return a folder's own name, in normal form."""
    return class_names.normal(os.path.basename(folder))


def match(
    predictions: PredictionColumns, truth: Truth | FolderTruth, *, classes: Sequence[str] | None = None, name: str
) -> tuple[MatchedPredictions, list[LabelledImage]]:
    """Match the predictions of one file with the truth, as `match_each`.

    Returns:
        The predictions; and the images of the truth that were not predicted.
    """
    (matched,), missing = match_each([(predictions, name)], truth, classes=classes)
    return matched, missing


def match_each(
    tables: Iterable[tuple[PredictionColumns, str]],
    truth: Truth | FolderTruth,
    *,
    classes: Sequence[str] | None = None,
    explain: bool = True,
) -> tuple[list[MatchedPredictions], list[LabelledImage]]:
    """Match the predictions of several files with the truth; all get the same classes.

    If all classes of an image except one have a probability, the last one gets 1 minus their sum: for two classes, the prediction alone
    is enough.

    Args:
        tables: For each file its predictions, in any order, and its name, for messages.
        truth: The true labels.
        classes: The classes and their order; by default those of the truth and of the predictions, sorted: a test set may lack a class
            that the network knows. Predictions that share no class with the truth are an error.
        explain: Log how folders were read, and classes that only predictions or truth have.

    Returns:
        The predictions of each file, in the order in which its images were first predicted; and the images of the truth that no file
        predicts.

    Raises:
        CnnkitError: A prediction without a true label, a duplicate, an image without a prediction, or a label that is not a class.
    """
    tables = list(tables)
    if isinstance(truth, Truth):
        truth.check_single()
    if isinstance(truth, Truth) and any(predictions.boxes is not None for predictions, _ in tables):
        truth.take_whole_images()
    collected = [(_collect(predictions, truth, name=name), name) for predictions, name in tables]
    if isinstance(truth, FolderTruth):
        known = _predicted(collected) | {class_names.normal(each) for each in classes or ()}
        truth.note((path for found, _ in collected for path in found.paths), known)
    for found, name in collected:
        _look_up(found, truth, name=name)
    if explain and isinstance(truth, FolderTruth) and (reading := truth.reading()):
        log.info("%s", reading)
    ordered = (
        tuple(map(class_names.normal, classes)) if classes is not None else _union(collected, truth, explain=explain)
    )
    for found, name in collected:
        _check_labels(found, ordered, truth, name=name, given=classes is not None)
    missing = []
    if isinstance(truth, Truth):
        predicted = [found.resolved for found, _ in collected]
        missing = truth.without({*chain.from_iterable(predicted)})
    return [_as_arrays(found, ordered) for found, _ in collected], missing


def _union(
    collected: Sequence[tuple[_Collected, str]], truth: Truth | FolderTruth, *, explain: bool
) -> tuple[str, ...]:
    """Return the classes of the truth and of the predictions, sorted; only those of the truth if the two share none."""
    predicted = _predicted(collected)
    several = explain and any(found.lists_several() for found, _ in collected)
    if predicted & truth.labels and several and (unheard := sorted(truth.labels - predicted)):
        log.warning(
            "%s %s images of %s, which no prediction lists", truth.name, truth.verb, messages.shortened(unheard, 8)
        )
    beyond = sorted(predicted - truth.labels)
    if not beyond or not predicted & truth.labels:
        return tuple(sorted(truth.labels))
    if not explain:
        return tuple(sorted(truth.labels | predicted))
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


def _predicted(collected: Sequence[tuple[_Collected, str]]) -> set[str]:
    """Return the classes that predictions list."""
    return {label for found, _ in collected for label in found.labels} - {WITHHELD}


def _collect(predictions: PredictionColumns, truth: Truth | FolderTruth, *, name: str) -> _Collected:
    """Collect the rows of each image by its real path.

    Raises:
        FormatError: An image has two rows with the same rank or label, or none with rank 1.
    """
    paths: list[str] = []
    resolved: dict[str, int] = {}
    image_of = np.empty(len(predictions.paths), np.int32)
    for place, path in enumerate(predictions.paths):
        real = truth.resolve(path)
        image_of[place] = image = resolved.setdefault(real, len(paths))
        if image == len(paths):
            paths.append(truth.shared(path, real))
    labels: dict[str, int] = {}
    label_of = [labels.setdefault(class_names.normal(label), len(labels)) for label in predictions.labels]
    found = _Collected(
        paths=paths,
        resolved=list(resolved),
        labels=list(labels),
        image=image_of[predictions.path],
        label=np.array(label_of, np.int32)[predictions.label],
        rank=predictions.rank,
        probability=predictions.probability,
    )
    given = found.given
    if _has_twins(found.image, found.rank) or _has_twins(found.image[given], found.label[given]):
        raise FormatError(f"{name}: {_about_twins(predictions, found)}")
    first = np.zeros(len(paths), bool)
    first[found.image[found.rank == 1]] = True
    if not first.all():
        raise FormatError(f"{name}: {paths[int(first.argmin())]} has no prediction of rank 1")
    if predictions.boxes is not None:
        found.boxes = np.full((len(paths), 4), np.nan)
        best = found.rank == 1
        found.boxes[found.image[best]] = predictions.boxes[best]
    if predictions.set_sizes is not None:
        found.set_sizes = _set_sizes(found, predictions.set_sizes, name=name)
    return found


def _set_sizes(found: _Collected, given: NDArray[np.int64], *, name: str) -> NDArray[np.int64]:
    """Return the size of each image's prediction set, (images,), as its rows give it, (R,).

    Raises:
        FormatError: The rows of an image differ, or its set is not listed completely.
    """
    sizes = np.zeros(len(found.paths), np.int64)
    sizes[found.image] = given
    differing = np.flatnonzero((given != sizes[found.image]) | (given == 0))
    if len(differing):
        raise FormatError(
            f"{name}: {found.paths[found.image[differing[0]]]} has rows with different values of set_size, or without one; "
            "predict all images with cnn-predict --sets"
        )
    listed = np.bincount(found.image[found.rank <= given], minlength=len(sizes))
    short = np.flatnonzero(listed != sizes)
    if len(short):
        place = short[0]
        raise FormatError(
            f"{name}: {found.paths[place]} has a set of {sizes[place]} labels, and {listed[place]} of them are listed; "
            "give all rows of cnn-predict --sets, or drop the column set_size"
        )
    return sizes


def _has_twins(image: NDArray[np.int32], number: NDArray[Any]) -> bool:
    """Return whether an image has a number twice."""
    order = np.lexsort((number, image))
    image, number = image[order], number[order]
    return bool(((image[1:] == image[:-1]) & (number[1:] == number[:-1])).any())


def _about_twins(predictions: PredictionColumns, found: _Collected) -> str:
    """Report the first row with the rank or the label of an earlier row of the same image."""
    ranks: dict[tuple[int, int], Prediction] = {}
    labels: dict[tuple[int, str], Prediction] = {}
    for image, label, row in zip(found.image.tolist(), found.label.tolist(), predictions.rows(), strict=True):
        row = replace(row, label=found.labels[label])
        twin = ranks.get((image, row.rank)) or (None if row.label == WITHHELD else labels.get((image, row.label)))
        if twin is not None:
            also = f", also as {twin.path}" if twin.path != row.path else ""
            return f'{row.path} is predicted twice{also}: "{twin.label}" at rank {twin.rank}, "{row.label}" at rank {row.rank}'
        ranks[image, row.rank] = labels[image, row.label] = row
    raise AssertionError("there are none")


def _look_up(found: _Collected, truth: Truth | FolderTruth, *, name: str) -> None:
    """Set the true label of each image.

    Raises:
        CnnkitError: An image has none.
    """
    labels = list(map(truth.of, found.paths, found.resolved))
    if None in labels:
        lacking = [
            (path, resolved)
            for path, resolved, label in zip(found.paths, found.resolved, labels, strict=True)
            if label is None
        ]
        remedy = ""
        if isinstance(truth, Truth):
            remedy = _about_boxes(lacking[0][1], truth) or truth.about_split(lacking[0][1])
        raise CnnkitError(
            f"{name}: {truth.name} {truth.verb} no label for {messages.shortened([path for path, _ in lacking], 8)} "
            f"(looked for {lacking[0][1]}){remedy}"
        )
    found.truth = [label for label in labels if label is not None]
    if found.boxes is not None and isinstance(truth, Truth):
        found.true_boxes = truth.boxes_of(found.resolved)


def _about_boxes(resolved: str, truth: Truth) -> str:
    """Return a remedy for an image, by its real path, whose file the truth has with other boxes, or nothing."""
    file, box_ = box.divided(resolved)
    others = [box.divided(known)[1] for known in truth.images if box.divided(known)[0] == file]
    if not others:
        return ""
    has = "without a box" if not any(others) else "only as crops" if box_ is None else "only with other boxes"
    margin = ", and the same --margin" if box_ is not None and any(others) else ""
    return f"; {truth.name} has this file {has}: give the manifest that was predicted{margin}"


def _check_labels(
    found: _Collected, classes: Sequence[str], truth: Truth | FolderTruth, *, name: str, given: bool
) -> None:
    """Check that every label is a class; predictions of another would silently count as wrong."""
    known = {*classes, WITHHELD}
    if odd := sorted(truth.labels - known):
        raise CnnkitError(
            f'{truth.name}: the label "{odd[0]}" is not one of the classes {messages.shortened(classes, 8)}'
        )
    if not known.issuperset(found.labels):
        rows = np.flatnonzero(~np.isin(found.label, [found.labels.index(label) for label in known & {*found.labels}]))
        by_image = rows[np.argsort(found.image[rows], kind="stable")].tolist()
        unknown: dict[str, str] = {}  # the first image of each
        for row in by_image:
            unknown.setdefault(found.labels[found.label[row]], found.paths[found.image[row]])
        label, path = next(iter(unknown.items()))
        near = messages.similar(label, classes, most=1)
        remedy = f'; spell "{label}" and "{near[0]}" alike' if near else ""
        if not remedy and not given:
            remedy = "; they have no class in common: do the predictions belong to this truth?"
            if isinstance(truth, FolderTruth):
                remedy = "; if these folders are not the classes, give the labels with --truth MANIFEST"
        others = f"; also unknown: {messages.shortened(list(unknown)[1:], 8)}" if len(unknown) > 1 else ""
        known_as = (
            "the classes" if given else truth.name if isinstance(truth, FolderTruth) else f"the labels in {truth.name}"
        )
        raise CnnkitError(
            f'{name} predicts the class "{label}" ({path}{others}), but {known_as} are {messages.shortened(classes, 8)}{remedy}'
        )


def _as_arrays(found: _Collected, classes: tuple[str, ...]) -> MatchedPredictions:
    index = {label: position for position, label in enumerate(classes)}
    index.setdefault(WITHHELD, -1)
    images, given = len(found.paths), found.rank == 1
    label = np.array([index[label] for label in found.labels], np.int64)[found.label]  # (R,)
    prediction, confidence = np.empty(images, np.int64), np.empty(images)
    prediction[found.image[given]] = label[given]
    confidence[found.image[given]] = found.probability[given]
    listed = label >= 0
    probabilities = np.full((images, len(classes)), np.nan)
    probabilities[found.image[listed], label[listed]] = found.probability[listed]
    _complete(probabilities)
    truth = np.fromiter(map(index.__getitem__, found.truth), np.int64, images)
    covered = None
    if found.set_sizes is not None:
        covered = np.zeros(images, bool)
        covered[found.image[(label == truth[found.image]) & (found.rank <= found.set_sizes[found.image])]] = True
    return MatchedPredictions(
        paths=tuple(found.paths),
        resolved=tuple(found.resolved),
        classes=classes,
        truth=truth,
        prediction=prediction,
        confidence=confidence,
        probabilities=probabilities,
        boxes=found.boxes,
        true_boxes=found.true_boxes,
        set_sizes=found.set_sizes,
        covered=covered,
    )


def _complete(probabilities: NDArray[np.float64]) -> None:
    """Fill in the one missing probability of an image, 1 minus the sum of the others, unless that exceeds 1, as with sigmoids."""
    unknown = np.isnan(probabilities)  # (N, C)
    rows = np.flatnonzero((unknown.sum(axis=1) == 1) & (probabilities.shape[1] > 1))
    total = np.nansum(probabilities[rows], axis=1)
    rows, total = rows[total <= 1.0 + SUM_TOLERANCE], total[total <= 1.0 + SUM_TOLERANCE]
    probabilities[rows, unknown[rows].argmax(axis=1)] = np.clip(1.0 - total, COMPLEMENT_FLOOR, 1.0)
