"""Evaluation of predictions: every measure, the confusion matrix, and the most confident wrong predictions."""

import logging
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cnnkit.errors import CnnkitError
from cnnkit.evaluation import calibration, metrics
from cnnkit.evaluation.config import MatchConfig
from cnnkit.evaluation.matching import (
    SUM_TOLERANCE,
    FolderTruth,
    LabelledImage,
    MatchedPredictions,
    Truth,
    match_each,
)
from cnnkit.formats import prediction_columns
from cnnkit.formats.predictions import WITHHELD

log = logging.getLogger("cnnkit")

_OVERALL = ("n", "accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "log_loss", "roc_auc", "ece")
_PREDICTED = ("predicted", "accuracy_predicted")  # shown only if predictions were withheld
_BOXES = ("boxes", "iou", "iou_50", "iou_50_low", "iou_50_high")  # shown only if predictions and truth have boxes
# Shown only if predictions have prediction sets
_SETS = ("coverage", "coverage_low", "coverage_high", "set_size", "single")
_WORDS = {
    "n": "images",
    "log_loss": "log-loss",
    "roc_auc": "ROC AUC",
    "ece": "expected calibration error",
    "boxes": "images with a box",
    "iou": "mean IoU",
    "iou_50": "IoU of at least 0.5",
    "coverage": "true class in the prediction set",
    "set_size": "labels in a set",
    "single": "sets of one label",
}

#: The options of cnn-predict that withhold labels, for messages.
_WITHHOLDING = "--min-probability and --reject"

#: The widest confusion matrix that fits a terminal of 80 columns; of wider ones the most frequent confusions are listed.
_TABLE_WIDTH = 78


@dataclass(frozen=True, slots=True)
class WrongPrediction:
    """An image whose prediction is not the truth."""

    path: str
    truth: str
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """The measures of a set of predictions. Measures that are undefined or unknown are None.

    `accuracy_low` and `accuracy_high` bound the accuracy with 95 % confidence (Wilson). Withheld predictions (label `?`) count as wrong;
    `predicted` and `accuracy_predicted` leave them out. `confusion[i][j]` counts images of class i predicted as class j.

    Of the `boxes` images whose truth has a box, `iou` is the mean intersection over union, and `iou_50` the share with at least 0.5, with
    its interval; None unless there are boxes in predictions and truth.

    `coverage` is the share of images whose prediction set has the true class, with its interval, `set_size` the mean number of labels in a
    set and `single` the share of sets of one label; `class_coverage` is the coverage of each class. None without sets.
    """

    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float
    log_loss: float | None
    roc_auc: float | None
    ece: float | None
    predicted: int
    accuracy_predicted: float | None
    classes: tuple[str, ...]
    per_class: dict[str, metrics.ClassMeasures]
    confusion: list[list[int]]
    predictions: MatchedPredictions
    boxes: int | None = None
    iou: float | None = None
    iou_50: float | None = None
    iou_50_low: float | None = None
    iou_50_high: float | None = None
    coverage: float | None = None
    coverage_low: float | None = None
    coverage_high: float | None = None
    set_size: float | None = None
    single: float | None = None
    class_coverage: dict[str, float | None] | None = None

    def measures(self) -> dict[str, float | None]:
        """Return every measure by the name that `--fail-under` takes: `accuracy`, `recall:cat`."""
        shown = (*_OVERALL, *_PREDICTED, *self._extra())
        found: dict[str, float | None] = {name: getattr(self, name) for name in shown}
        for label, values in self._per_class().items():
            found |= {f"{name}:{label}": value for name, value in values.items()}
        return found

    def _per_class(self) -> dict[str, dict[str, float | None]]:
        """Return the measures of each class by name."""
        return {
            label: asdict(values) | ({} if self.class_coverage is None else {"coverage": self.class_coverage[label]})
            for label, values in self.per_class.items()
        }

    def _extra(self) -> tuple[str, ...]:
        """Return the names of measures that only some predictions have."""
        return (*(_BOXES if self.boxes else ()), *(() if self.coverage is None else _SETS))

    def record(self) -> dict[str, Any]:
        """Return the report as one JSON object; measures of withheld predictions only if there are any."""
        return {
            **{name: getattr(self, name) for name in self._names()},
            "classes": list(self.classes),
            "per_class": self._per_class(),
            "confusion": self.confusion,
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return the measures as rows of `measure` and `value`."""
        hidden = set(_PREDICTED) - set(self._names())
        return [{"measure": name, "value": value} for name, value in self.measures().items() if name not in hidden]

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the report as tables for a terminal, by title."""
        intervals = {"accuracy": f"{self.accuracy_low:.4f} to {self.accuracy_high:.4f}"}
        if self.boxes:
            intervals["iou_50"] = f"{self.iou_50_low:.4f} to {self.iou_50_high:.4f}"
        if self.coverage is not None:
            intervals["coverage"] = f"{self.coverage_low:.4f} to {self.coverage_high:.4f}"
        measures = [
            {
                "measure": in_words(name),
                "value": _shown(getattr(self, name)),
                "95 % interval": intervals.get(name, ""),
            }
            for name in self._names()
            if not name.endswith(("_low", "_high"))
        ]
        classes = [
            {
                "class": label,
                "images": values.support,
                "precision": _shown(values.precision),
                "recall": _shown(values.recall),
                "F1": _shown(values.f1),
                **({} if self.class_coverage is None else {"coverage": _shown(self.class_coverage[label])}),
            }
            for label, values in self.per_class.items()
        ]
        return {"Measures": measures, "Classes": classes, **self._confusion_table()}

    def _names(self) -> tuple[str, ...]:
        return (*_OVERALL, *(() if self.predicted == self.n else _PREDICTED), *self._extra())

    def _confusion_table(self) -> dict[str, list[dict[str, Any]]]:
        predictions = [*self.classes, WITHHELD] if self.predicted < self.n else [*self.classes]
        drawn = max(map(len, self.classes)) + sum(len(f"   → {prediction}") for prediction in predictions)
        if drawn <= _TABLE_WIDTH:
            rows = []
            for label, counts in zip(self.classes, self.confusion, strict=True):
                withheld = self.per_class[label].support - sum(counts)
                columns = zip(
                    predictions, [*counts, withheld], strict=False
                )  # the last only if there is a column for it
                rows.append({"true": label, **{f"→ {prediction}": count for prediction, count in columns}})
            return {"Confusion: true → predicted": rows}
        pairs = [
            (count, truth, prediction)
            for truth, counts in zip(self.classes, self.confusion, strict=True)
            for prediction, count in zip(self.classes, counts, strict=True)
            if count and truth != prediction
        ]
        most = sorted(pairs, key=lambda pair: -pair[0])[:10]
        rows = [{"true": truth, "predicted": prediction, "images": count} for count, truth, prediction in most]
        return {"Most confused": rows} if rows else {}

    def worst(self, count: int) -> list[WrongPrediction]:
        """List the most confident wrong predictions, most confident first; withheld predictions are left out.

        Raises:
            CnnkitError: The predictions have no probabilities.
        """
        predictions = self.predictions
        wrong = np.flatnonzero((predictions.prediction >= 0) & (predictions.prediction != predictions.truth))
        if np.isnan(predictions.confidence[wrong]).any():
            raise CnnkitError(
                "--worst sorts predictions by probability, and these have none; predict without --labels-only"
            )
        order = sorted(wrong.tolist(), key=lambda row: (-predictions.confidence[row], predictions.paths[row]))
        return [
            WrongPrediction(
                predictions.paths[row],
                predictions.classes[predictions.truth[row]],
                predictions.classes[predictions.prediction[row]],
                float(predictions.confidence[row]),
            )
            for row in order[:count]
        ]


def in_words(measure: str) -> str:
    """Return a measure as it is called in tables for people: "log-loss" for log_loss."""
    return _WORDS.get(measure, measure.replace("_", " "))


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def read(
    files: Iterable[tuple[Iterable[bytes], str]],
    truth: Truth | FolderTruth,
    *,
    classes: Sequence[str] | None = None,
    complete: bool = False,
) -> list[MatchedPredictions]:
    """Read predictions and match them with the truth; report images of the truth without a prediction.

    Args:
        files: For each file its lines, TSV or JSON Lines, and its name, for messages.
        truth: The true labels.
        classes: The classes and their order; by default those of the truth and of the predictions, sorted.
        complete: Every image of the truth must be predicted.

    Returns:
        The predictions of each file.

    Raises:
        CnnkitError: Predictions and truth do not fit together, see `match_each`, or are not complete.
    """
    parsed = ((prediction_columns.read(lines, name=name), name) for lines, name in files)
    matched, missing = match_each(parsed, truth, classes=classes)
    if missing and isinstance(truth, Truth):
        message = about_missing(missing, truth)
        if complete:
            raise CnnkitError(message)
        log.info(message)
    return matched


def evaluate(
    files: Iterable[tuple[Iterable[bytes], str]],
    truth: Truth | FolderTruth,
    config: MatchConfig,
) -> EvaluationReport:
    """Measure the predictions of one file against the truth.

    Args, Raises as `read`; `config` has the classes and their order, and whether every image of the truth must be predicted.
    """
    (predictions,) = read(files, truth, classes=config.classes(), complete=config.complete)
    return measure(predictions)


def measure(predictions: MatchedPredictions) -> EvaluationReport:
    """Compute every measure of predictions that were matched with the truth."""
    classes = len(predictions.classes)
    correct = predictions.prediction == predictions.truth  # (N,)
    given = predictions.prediction >= 0
    n, hits, predicted = len(correct), int(correct.sum()), int(given.sum())
    confusion = metrics.confusion_matrix(predictions.truth, predictions.prediction, classes)
    per_class = metrics.per_class(confusion, np.bincount(predictions.truth, minlength=classes))
    low, high = metrics.wilson_interval(hits, n)
    return EvaluationReport(
        n=n,
        accuracy=hits / n,
        accuracy_low=low,
        accuracy_high=high,
        balanced_accuracy=metrics.balanced_accuracy(per_class),
        log_loss=metrics.log_loss(predictions.truth, predictions.probabilities),
        roc_auc=metrics.roc_auc(predictions.truth, predictions.probabilities),
        ece=calibration.expected_calibration_error(predictions.confidence[given], correct[given]),
        predicted=predicted,
        accuracy_predicted=hits / predicted if predicted else None,
        classes=predictions.classes,
        per_class=dict(zip(predictions.classes, per_class, strict=True)),
        confusion=confusion.tolist(),
        predictions=predictions,
        **_of_boxes(predictions),
        **_of_sets(predictions),
    )


def _of_boxes(predictions: MatchedPredictions) -> dict[str, Any]:
    """Compute the measures of boxes; nothing without boxes."""
    if predictions.boxes is None or predictions.true_boxes is None:
        return {}
    known = ~np.isnan(predictions.true_boxes[:, 0])
    if not known.any():
        return {}
    found = metrics.box_iou(predictions.boxes[known], predictions.true_boxes[known])
    hits, boxes = int((found >= 0.5).sum()), len(found)
    low, high = metrics.wilson_interval(hits, boxes)
    return {
        "boxes": boxes,
        "iou": float(found.mean()),
        "iou_50": hits / boxes,
        "iou_50_low": low,
        "iou_50_high": high,
    }


def _of_sets(predictions: MatchedPredictions) -> dict[str, Any]:
    """Compute the measures of prediction sets; nothing without sets."""
    covered, sizes = predictions.covered, predictions.set_sizes
    if covered is None or sizes is None:
        return {}
    low, high = metrics.wilson_interval(int(covered.sum()), len(covered))
    of_class = {
        label: float(covered[predictions.truth == place].mean()) if place in predictions.truth else None
        for place, label in enumerate(predictions.classes)
    }
    return {
        "coverage": float(covered.mean()),
        "coverage_low": low,
        "coverage_high": high,
        "set_size": float(sizes.mean()),
        "single": float((sizes == 1).mean()),
        "class_coverage": of_class,
    }


def about_missing(missing: Sequence[LabelledImage], truth: Truth) -> str:
    """Report how many images of the truth have no prediction, and whether whole splits were left out."""
    total = Counter(image.split for image in truth.images.values())
    gone = Counter(image.split for image in missing)
    have = f"{len(missing)} of {len(truth.images)} images in {truth.name} {'has' if len(missing) == 1 else 'have'} no prediction"
    if len(total) == 1:
        return f"{have}; the first is {missing[0].path}"
    counts = ", ".join(f"{split or 'no split'} {count}" for split, count in gone.items())
    first = next((image for image in missing if gone[image.split] < total[image.split]), None)
    covered = " and ".join(str(split) for split in total if split not in gone)
    where = f"the first is {first.path}" if first else f"{covered} is complete"
    whole = [split for split in total if split not in gone]
    if first is None and len(whole) == 1 and whole[0]:
        return f"{have} ({counts}); {where}: add --split {shlex.quote(whole[0])} to limit the truth to it"
    return f"{have} ({counts}); {where}; --split limits the truth to one split"


def unknown(report: EvaluationReport) -> list[str]:
    """Return the names of measures that are None although there are images."""
    return [name for name in ("log_loss", "roc_auc", "ece") if getattr(report, name) is None]


def about_measures(report: EvaluationReport) -> Iterator[str]:
    """Report probabilities that do not sum to 1, and explain measures that are None."""
    if report.log_loss is not None and (sums := about_sums(report.predictions)) is not None:
        yield f"{sums}; log_loss uses that of the true class unchanged, ece that of the predicted class"
    yield from about_unknown(report)


def about_sums(predictions: MatchedPredictions) -> str | None:
    """Count the images whose probabilities do not sum to 1 over all classes; None if there are none."""
    sums = predictions.probabilities.sum(axis=1)  # (N,), NaN where one is not known
    odd = np.flatnonzero(np.abs(sums - 1) > SUM_TOLERANCE)
    if not len(odd) or len(predictions.classes) < 2:
        return None
    return (
        f"the probabilities of {len(odd)} of {len(predictions.paths)} images do not sum to 1 "
        f"({predictions.paths[odd[0]]}: {sums[odd[0]]:.4g}); are they sigmoid outputs?"
    )


def about_unknown(report: EvaluationReport) -> Iterator[str]:
    """Explain the measures that are None."""
    missing = unknown(report)
    predictions = report.predictions
    if missing and np.isnan(predictions.confidence).all():
        yield f"{_and(missing)} unknown: the predictions have no probabilities"
        return
    needing = [name for name in missing if name != "ece"]
    short = about_short(predictions)
    if needing and short is not None:
        yield f"{_and(needing)} unknown: {short}"
    elif "roc_auc" in missing:
        yield "roc_auc is undefined: all images have the same class"


def about_short(predictions: MatchedPredictions) -> str | None:
    """Report how many images lack the probability of a class, and how to print it; None if none does."""
    short, classes = int(np.isnan(predictions.probabilities).any(axis=1).sum()), len(predictions.classes)
    if not short:
        return None
    without = f", without {_WITHHOLDING}" if (predictions.prediction < 0).any() else ""
    return (
        f"{short} of {len(predictions.paths)} images lack a probability for some of the {classes} classes; "
        f"predict with --top all{without}"
    )


def refuse_withheld(predictions: MatchedPredictions, *, name: str | None = None) -> None:
    """Raise an error if predictions were withheld: their classes are not known.

    Args:
        predictions: Matched with the truth.
        name: Their file, for the message.

    Raises:
        CnnkitError: Some were.
    """
    withheld = int((predictions.prediction < 0).sum())
    if withheld:
        where = "" if name is None else f"{name}: "
        raise CnnkitError(
            f"{where}{withheld} of {len(predictions.paths)} predictions were withheld; predict without {_WITHHOLDING}"
        )


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]} are" if len(names) > 1 else f"{names[0]} is"
