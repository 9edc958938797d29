"""Evaluation of predictions of several labels for each image: matching with the truth, and every measure."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import class_names, messages
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.evaluation import label_metrics, metrics
from cnnkit.evaluation.bounds import OF_LABELS
from cnnkit.evaluation.config import EvalConfig, MatchConfig
from cnnkit.evaluation.matching import FolderTruth, Truth
from cnnkit.evaluation.report import about_missing
from cnnkit.formats import label_predictions
from cnnkit.formats.label_predictions import LabelPredictions

log = logging.getLogger("cnnkit")

_WORDS = {
    "n": "images",
    "f1_micro": "micro F1",
    "f1_macro": "macro F1",
    "precision_micro": "micro precision",
    "precision_macro": "macro precision",
    "recall_micro": "micro recall",
    "recall_macro": "macro recall",
    "subset_accuracy": "subset accuracy",
    "hamming_loss": "Hamming loss",
}


@dataclass(frozen=True, slots=True)
class LabelClass:
    """The measures of one label: `support` images have it, and it is predicted for `predicted` images."""

    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    predicted: int
    threshold: float | None


@dataclass(frozen=True, slots=True)
class WrongLabel:
    """A label that an image lacks although it is predicted, or has although it is not (`truth` 1)."""

    path: str
    label: str
    truth: int
    probability: float | None
    threshold: float | None


@dataclass(frozen=True, slots=True)
class MatchedLabels:
    """Predictions of N images and C classes, with the truth; `probabilities` (N, C) are NaN where unknown, `thresholds` (C,) too.

    `paths` are as written, `resolved` the real ones.
    """

    paths: tuple[str, ...]
    resolved: tuple[str, ...]
    classes: tuple[str, ...]
    truth: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    thresholds: NDArray[np.float64]

    def of(self, rows: Sequence[int]) -> "MatchedLabels":
        """Select images, in this order."""
        places = list(rows)
        return replace(
            self,
            paths=tuple(self.paths[row] for row in places),
            resolved=tuple(self.resolved[row] for row in places),
            truth=self.truth[places],
            predicted=self.predicted[places],
            probabilities=self.probabilities[places],
        )

    @property
    def scores(self) -> NDArray[np.float64] | None:
        """The probabilities (N, C), if all are known."""
        return None if np.isnan(self.probabilities).any() else self.probabilities

    def margins(self) -> NDArray[np.float64]:
        """Return how far each probability is from the threshold of its class, (N, C); NaN where unknown."""
        distance: NDArray[np.float64] = np.abs(self.probabilities - self.thresholds)
        return distance


@dataclass(frozen=True, slots=True)
class LabelReport:
    """The measures of predictions of several labels; those that are undefined or unknown are None.

    `overall` has the measures over all classes and their 95 % intervals, in the order of the output.
    """

    overall: dict[str, float | int | None]
    per_class: dict[str, LabelClass]
    matched: MatchedLabels

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.matched.paths)

    def measures(self) -> dict[str, float | None]:
        """Return every measure by the name that `--fail-under` takes: `mAP`, `recall:cat`."""
        found: dict[str, float | None] = dict(self.overall)
        for label, values in self.per_class.items():
            found |= {f"{name}:{label}": value for name, value in asdict(values).items()}
        return found

    def record(self) -> dict[str, Any]:
        """Return the report as one JSON object."""
        return {
            **self.overall,
            "classes": list(self.per_class),
            "per_class": {label: asdict(values) for label, values in self.per_class.items()},
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return the measures as rows of `measure` and `value`."""
        return [{"measure": name, "value": value} for name, value in self.measures().items()]

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the report as tables for a terminal, by title."""
        measures = []
        for name, value in self.overall.items():
            if name.endswith(("_low", "_high")):
                continue
            low, high = self.overall.get(f"{name}_low"), self.overall.get(f"{name}_high")
            interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
            measures.append({"measure": in_words(name), "value": _shown(value), "95 % interval": interval})
        classes = [
            {
                "class": label,
                "images": values.support,
                "predicted": values.predicted,
                "AP": _shown(values.average_precision),
                "precision": _shown(values.precision),
                "recall": _shown(values.recall),
                "F1": _shown(values.f1),
                "threshold": "" if values.threshold is None else f"{values.threshold:.4g}",
            }
            for label, values in self.per_class.items()
        ]
        return {"Measures": measures, "Labels": classes}

    def worst(self, count: int) -> list[WrongLabel]:
        """List the wrong labels whose probability is farthest from the threshold, farthest first; unknown ones are last."""
        matched = self.matched
        images, columns = np.nonzero(matched.truth != matched.predicted)
        probability, threshold = matched.probabilities[images, columns], matched.thresholds[columns]
        margin = np.nan_to_num(matched.margins()[images, columns], nan=-1.0)
        order = np.lexsort((columns, images, -margin))[:count].tolist()
        return [
            WrongLabel(
                matched.paths[images[row]],
                matched.classes[columns[row]],
                int(matched.truth[images[row], columns[row]]),
                metrics.known(float(probability[row])),
                metrics.known(float(threshold[row])),
            )
            for row in order
        ]

    def notices(self) -> Iterator[str]:
        """Explain measures that are None."""
        short = int(np.isnan(self.matched.probabilities).any(axis=1).sum())
        if short:
            yield (
                f"average precision and mAP are unknown: {short} of {len(self.matched.paths)} images lack a probability for some of the "
                f"{len(self.matched.classes)} classes; predict with --top all, and without --reject"
            )


def in_words(measure: str) -> str:
    """Return a measure as it is called in tables for people: "micro F1" for f1_micro."""
    return _WORDS.get(measure, measure)


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def peeked(
    files: Iterable[tuple[Iterable[bytes], str]],
) -> tuple[bool, Iterator[tuple[Iterable[bytes], str]]]:
    """Return whether the first file has predictions of several labels, and the same files."""
    coming = iter(files)
    for lines, name in coming:
        several, same = label_predictions.peeked(lines)
        return several, chain([(same, name)], coming)
    return False, coming


def check_options(config: EvalConfig) -> None:
    """Check that no option is given that needs one label per image.

    Raises:
        UsageError: One is.
    """
    single = {
        "--folds": config.folds,
        "--coverage": config.coverage,
        "--confusion": config.confusion is not None,
        "--reliability": config.reliability is not None,
    }
    for word, given in single.items():
        if given:
            raise UsageError(f"{word} needs predictions of one label per image, and these have several; drop {word}")


def evaluate(
    files: Iterable[tuple[Iterable[bytes], str]], truth: Truth | FolderTruth, config: MatchConfig
) -> LabelReport:
    """Measure the predictions of one file against the truth.

    Args:
        files: One, its lines and its name; see `label_predictions`.
        truth: A manifest with a column `labels`; a single label of an image is a set of one.
        config: The classes and their order; whether every image of the truth must be predicted.

    Raises:
        UsageError: There is no manifest with the truth.
        CnnkitError: Predictions and truth do not fit together.
        FormatError: The file is broken.
    """
    if isinstance(truth, FolderTruth):
        raise UsageError(
            "predictions of several labels per image: give the true ones with --truth MANIFEST, in its column labels"
        )
    ((predictions, name),) = [(label_predictions.read(lines, name=name), name) for lines, name in files]
    matched = match(predictions, truth, classes=config.classes(), name=name)
    missing = truth.without(set(map(truth.resolve, matched.paths)))
    if missing:
        message = about_missing(missing, truth)
        if config.complete:
            raise CnnkitError(message)
        log.info(message)
    return measure(matched)


def match(predictions: LabelPredictions, truth: Truth, *, classes: Sequence[str] | None, name: str) -> MatchedLabels:
    """Match predictions with the labels of the truth.

    Args:
        predictions: The rows of one file.
        truth: The true labels of each image.
        classes: The classes and their order; by default those of the truth and of the predictions, sorted.
        name: The file, for messages.

    Raises:
        CnnkitError: An image has no true labels, is predicted under two paths, or a label is not a class.
    """
    resolved = [truth.resolve(path) for path in predictions.paths]
    known = [truth.labels_of(each) for each in resolved]
    lacking = [path for path, labels in zip(predictions.paths, known, strict=True) if labels is None]
    if lacking:
        there = resolved[predictions.paths.index(lacking[0])]
        raise CnnkitError(
            f"{name}: {truth.name} has no labels for {messages.shortened(lacking, 8)} (looked for {there}){truth.about_split(there)}"
        )
    first: dict[str, str] = {}
    for path, real in zip(predictions.paths, resolved, strict=True):
        if first.setdefault(real, path) != path:
            raise CnnkitError(f"{name}: {path} is predicted twice, also as {first[real]}")
    sets = [labels for labels in known if labels is not None]
    all_true = {label for image in truth.images.values() for label in image.labels or filter(None, [image.label])}
    named = _classes(all_true, {*predictions.labels}, classes, truth=truth.name, name=name)
    places = {label: place for place, label in enumerate(named)}
    shape = (len(resolved), len(named))
    true, predicted = np.zeros(shape, bool), np.zeros(shape, bool)
    probabilities, thresholds = np.full(shape, math.nan), np.full(len(named), math.nan)
    for row, labels in enumerate(sets):
        true[row, [places[label] for label in labels]] = True
    listed = predictions.label >= 0
    column = np.array([places[label] for label in predictions.labels], np.int64)[predictions.label[listed]]
    image = predictions.path[listed]
    predicted[image, column] = predictions.predicted[listed]
    probabilities[image, column] = predictions.probability[listed]
    _note_thresholds(thresholds, column, predictions.threshold[listed])
    return MatchedLabels(tuple(predictions.paths), tuple(resolved), named, true, predicted, probabilities, thresholds)


def _classes(
    true: set[str], predicted: set[str], given: Sequence[str] | None, *, truth: str, name: str
) -> tuple[str, ...]:
    """Return the classes, and report those that only the truth or only the predictions have.

    Raises:
        CnnkitError: A label is not one of the classes given, or truth and predictions share no label.
    """
    if given is not None:
        named = tuple(map(class_names.normal, given))
        for labels, where in ((true, truth), (predicted, name)):
            if odd := sorted(labels - {*named}):
                raise CnnkitError(
                    f'{where}: the label "{odd[0]}" is not one of the classes {messages.shortened(named, 8)}'
                )
        return named
    if predicted and not predicted & true:
        raise CnnkitError(
            f"{name} and {truth} have no label in common: {messages.shortened(sorted(predicted), 5)}, and "
            f"{messages.shortened(sorted(true), 5)}; do the predictions belong to this truth?"
        )
    if beyond := sorted(predicted - true):
        log.warning("%s has no image of %s, which the predictions list", truth, messages.shortened(beyond, 8))
        for line in class_names.about_forms({label: (label,) for label in true | predicted}):
            log.warning("%s", line)
    return tuple(sorted(true | predicted))


def _note_thresholds(thresholds: NDArray[np.float64], column: NDArray[Any], given: NDArray[np.float64]) -> None:
    """Set the threshold of each class that has the same one in all its rows."""
    for place in range(len(thresholds)):
        own = given[column == place]
        if len(own) and (own == own[0]).all():
            thresholds[place] = own[0]


def measure(matched: MatchedLabels) -> LabelReport:
    """Compute every measure of predictions that were matched with the truth."""
    truth, predicted = matched.truth, matched.predicted
    scores = matched.scores
    one = np.ones((1, len(truth)))
    totals = label_metrics.weighted(truth, predicted, scores, one)
    bounds = label_metrics.intervals(truth, predicted, scores)
    exact = int((truth == predicted).all(axis=1).sum())
    bounds["subset_accuracy"] = metrics.wilson_interval(exact, len(truth))
    overall: dict[str, float | int | None] = {"n": len(truth)}
    for name in OF_LABELS:
        value = exact / len(truth) if name == "subset_accuracy" else float(getattr(totals, name)[0])
        low, high = bounds.get(name, (None, None))
        overall |= {name: metrics.known(value), f"{name}_low": low, f"{name}_high": high}
    overall["hamming_loss"] = float((truth != predicted).mean())
    hits, given, support = (each[0] for each in label_metrics.counts(truth, predicted, one))
    areas = (
        np.full(len(matched.classes), math.nan) if scores is None else label_metrics.average_precision(truth, scores)
    )
    shares = zip(
        areas,
        label_metrics.ratio(hits, given),
        label_metrics.ratio(hits, support),
        label_metrics.ratio(2 * hits, given + support),
        strict=True,
    )
    per_class = {}
    others = zip(support, given, matched.thresholds, strict=True)
    for label, own, (images, count, threshold) in zip(matched.classes, shares, others, strict=True):
        area, precision, recall, f1 = map(metrics.known, own)
        per_class[label] = LabelClass(area, precision, recall, f1, int(images), int(count), metrics.known(threshold))
    return LabelReport(overall, per_class, matched)
