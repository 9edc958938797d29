"""What a report contains: records that the page, the summary and the test results are rendered from."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnnkit.audit.record import Finding
from cnnkit.evaluation import calibration, metrics
from cnnkit.evaluation.coverage import CoveragePoint
from cnnkit.evaluation.label_report import LabelReport
from cnnkit.evaluation.report import EvaluationReport
from cnnkit.explain.curves import TrainingRun
from cnnkit.formats.header import Header
from cnnkit.formats.predictions import WITHHELD


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound on a measure; `value` is None if the measure is not known, which violates the bound."""

    measure: str
    value: float | None
    bound: float
    is_floor: bool

    @property
    def met(self) -> bool:
        """Whether the measure is within the bound."""
        return self.value is not None and (self.value >= self.bound if self.is_floor else self.value <= self.bound)

    @property
    def condition(self) -> str:
        """The bound as text: "accuracy at least 0.95"."""
        return f"{self.measure} at {'least' if self.is_floor else 'most'} {self.bound:g}"

    @property
    def of_class(self) -> str | None:
        """The class whose measure it is; None for a measure of all images."""
        return self.measure.partition(":")[2] or None


@dataclass(frozen=True, slots=True)
class Bin:
    """The predictions whose confidence is above `low` and at most `high`; the interval of the accuracy is Wilson's, of 95 %."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded image to show, and what it shows; `small` means that its pixels are to be enlarged."""

    caption: str
    kind: str  # jpeg or png
    content: bytes
    size: tuple[int, int]
    small: bool = False


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong prediction; `missing` says why there is no image of it. The probability of the true class is None if unknown."""

    path: str
    truth: str
    label: str
    probability: float | None
    truth_probability: float | None
    pictures: Sequence[Picture] = ()
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class CheckedImages:
    """What a check of the images found.

    `leaked` of the evaluated images have a duplicate, or an image of their group, in another split; `without` is the main measure without
    them: its name, value and interval.
    """

    images: int
    findings: Sequence[Finding]
    leaked: int
    without: tuple[str, float, float, float] | None


Evaluation = TypeVar("Evaluation", EvaluationReport, LabelReport)
AnyMistake = TypeVar("AnyMistake")


@dataclass(frozen=True, slots=True)
class AnyReport(Generic[Evaluation, AnyMistake]):
    """What reports on one label and on several labels per image have in common; what is unknown or was not requested is None or empty."""

    title: str
    evaluation: Evaluation
    predictions_name: str
    truth_name: str
    gates: Sequence[Gate] = ()
    mistakes: Sequence[AnyMistake] = ()
    history: TrainingRun | None = None
    header: Header | None = None
    model_name: str | None = None
    heat_maps: bool = False
    checked: CheckedImages | None = None
    remarks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ReportContent(AnyReport[EvaluationReport, Mistake]):
    """Everything in a report on predictions of one label per image."""

    bins: Sequence[Bin] = ()
    coverage: Sequence[CoveragePoint] = ()

    @property
    def wrong(self) -> int:
        """The number of wrong predictions; withheld ones are not among them."""
        return self.evaluation.predicted - self.hits

    @property
    def hits(self) -> int:
        """The number of correct predictions."""
        return sum(self.evaluation.confusion[place][place] for place in range(len(self.evaluation.classes)))

    def summary(self) -> dict[str, object]:
        """Return the main measures as one record."""
        names = ("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "log_loss", "roc_auc", "ece")
        measures = {name: getattr(self.evaluation, name) for name in names}
        return {"title": self.title, "n": self.evaluation.n, "wrong": self.wrong, **measures}


# ---------------------------------------------------------------- derived from an evaluation


def bins(evaluation: EvaluationReport) -> list[Bin]:
    """Compare accuracy with confidence in the bins of the expected calibration error that are not empty; none without probabilities."""
    predictions = evaluation.predictions
    given = predictions.prediction >= 0
    found = calibration.reliability(predictions.confidence[given], (predictions.prediction == predictions.truth)[given])
    if found is None:
        return []
    count = len(found.counts)
    made = []
    for place in np.flatnonzero(found.counts).tolist():
        images = int(found.counts[place])
        low, high = metrics.wilson_interval(round(float(found.accuracy[place]) * images), images)
        made.append(
            Bin(
                place / count,
                (place + 1) / count,
                images,
                float(found.confidence[place]),
                float(found.accuracy[place]),
                low,
                high,
            )
        )
    return made


@dataclass(frozen=True, slots=True)
class Confusions:
    """A confusion matrix of some classes; `counts` (rows, columns) has a row for each of `classes`, and a column for each.

    Further columns are, where there are such predictions, `others` (predicted as one of the classes left out) and `withheld`.
    """

    classes: Sequence[str]
    counts: Sequence[Sequence[int]]
    support: Sequence[int]
    others: bool
    withheld: bool


def confusions(evaluation: EvaluationReport, most: int) -> Confusions:
    """Choose `most` classes, those of the most frequent confusions, and keep their order."""
    whole = np.asarray(evaluation.confusion)
    chosen = most_frequent(whole, most)
    support = np.array([evaluation.per_class[evaluation.classes[place]].support for place in chosen.tolist()])
    counts = whole[np.ix_(chosen, chosen)]
    others = whole[chosen].sum(axis=1) - counts.sum(axis=1)
    withheld = support - whole[chosen].sum(axis=1)
    further = [each[:, None] for each in (others, withheld) if each.any()]
    return Confusions(
        [evaluation.classes[place] for place in chosen.tolist()],
        np.hstack([counts, *further]).tolist(),
        support.tolist(),
        bool(others.any()),
        bool(withheld.any()),
    )


def most_frequent(confusion: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return the places of `most` classes, those of the most frequent confusions, in their order."""
    places = np.arange(len(confusion))
    if len(confusion) <= most:
        return places
    pairs = np.stack(by_frequency(confusion), axis=1).ravel()
    first = dict.fromkeys([*pairs[: most * most].tolist(), *places.tolist()])
    return np.sort(list(first)[:most])


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many images of a class are predicted as another one; `share` is that of the true class."""

    truth: str
    label: str
    count: int
    share: float


def most_confused(evaluation: EvaluationReport, most: int) -> list[Confusion]:
    """List the most frequent confusions, the most frequent first."""
    whole = np.asarray(evaluation.confusion)
    rows, columns = (places[:most] for places in by_frequency(whole))
    return [
        Confusion(
            evaluation.classes[row],
            evaluation.classes[column],
            int(whole[row, column]),
            float(whole[row, column] / evaluation.per_class[evaluation.classes[row]].support),
        )
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
    ]


def by_frequency(confusion: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the cells of confusions, rows and columns, the most frequent first."""
    errors = confusion - np.diag(confusion.diagonal())
    rows, columns = np.nonzero(errors)
    order = np.argsort(-errors[rows, columns], kind="stable")
    return rows[order], columns[order]


@dataclass(frozen=True, slots=True)
class ClassRow:
    """The measures of a class, the interval of its recall, and the class that its images are most often mistaken for."""

    name: str
    support: int
    precision: float | None
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    f1: float | None
    taken_for: str | None


class HasF1(Protocol):
    """The measures of a class or a label."""

    @property
    def support(self) -> int:
        """The number of images that have it."""

    @property
    def f1(self) -> float | None:
        """Its F1 score; None if it is undefined."""


Row = TypeVar("Row", bound=HasF1)


def lowest(rows: Sequence[Row], most: int) -> list[Row]:
    """Return the classes with the lowest F1; those that no image has are last."""
    return sorted(rows, key=lambda row: (row.support == 0, row.f1 or 0.0))[:most]


def class_rows(evaluation: EvaluationReport) -> Iterator[ClassRow]:
    """Yield the classes in their order."""
    whole = np.asarray(evaluation.confusion)
    errors = whole - np.diag(whole.diagonal())
    most = errors.argmax(axis=1)  # (C,), the first of equal ones
    for place, (name, values) in enumerate(evaluation.per_class.items()):
        hits = int(whole[place, place])
        low, high = metrics.wilson_interval(hits, values.support) if values.support else (None, None)
        withheld = values.support - int(whole[place].sum())
        taken_for = evaluation.classes[most[place]] if errors[place].any() else WITHHELD if withheld else None
        yield ClassRow(name, values.support, values.precision, values.recall, low, high, values.f1, taken_for)


# ---------------------------------------------------------------- names


class ShownPaths:
    """Paths as a report shows them: without the folders that all images share, which may be absolute."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Find the folders that all images are in."""
        folders = {os.path.dirname(os.path.normpath(path)) for path in paths}
        if len(folders) == 1:
            folders = {os.path.dirname(folder) for folder in folders}  # the folder of a class is shown
        absolute = {os.path.isabs(folder) for folder in folders}
        self._common = os.path.commonpath(folders) if folders and len(absolute) == 1 else ""

    def of(self, path: str) -> str:
        """Return an image's path below those folders; that of an image which is not in them, its name and that of its folder."""
        plain = os.path.normpath(path)
        below = os.path.relpath(plain, self._common) if self._common else plain
        if below.startswith(os.pardir) or os.path.isabs(below):
            return os.sep.join(plain.split(os.sep)[-2:])
        return below
