"""What a report on several labels per image contains in place of that on one: wrong labels, and confusions of labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnkit.evaluation import label_report, metrics
from cnnkit.evaluation.label_report import LabelClass, LabelReport, MatchedLabels
from cnnkit.report import content
from cnnkit.report.content import AnyReport, Picture


@dataclass(frozen=True, slots=True)
class LabelMistake:
    """A label that is predicted for an image without it, or `missed`: not predicted for an image with it.

    `true` and `predicted` are all labels of the image; the rest as in `content.Mistake`.
    """

    path: str
    label: str
    missed: bool
    probability: float | None
    threshold: float | None
    true: Sequence[str]
    predicted: Sequence[str]
    pictures: Sequence[Picture] = ()
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class LabelContent(AnyReport[LabelReport, LabelMistake]):
    """Everything in a report on predictions of several labels per image."""

    @property
    def wrong(self) -> int:
        """The number of wrong labels: predicted ones that the image lacks, and missed ones."""
        matched = self.evaluation.matched
        return int((matched.truth != matched.predicted).sum())

    @property
    def exact(self) -> int:
        """The number of images of which all labels are right."""
        matched = self.evaluation.matched
        return int((matched.truth == matched.predicted).all(axis=1).sum())

    @property
    def main(self) -> str:
        """The main measure: mAP, or micro F1 where probabilities are unknown."""
        return "f1_micro" if self.evaluation.overall["mAP"] is None else "mAP"

    def interval(self, measure: str) -> tuple[float, float] | None:
        """Return the interval of a measure; None if it has none."""
        low, high = (self.evaluation.overall.get(f"{measure}{end}") for end in ("_low", "_high"))
        return None if low is None or high is None else (low, high)

    def with_interval(self, measure: str) -> str:
        """Write a measure with its interval: "0.7294 (0.6849 to 0.7747)"; a dash if it is unknown."""
        value, interval = self.evaluation.overall[measure], self.interval(measure)
        words = "–" if value is None else f"{value:.4f}"
        return words if interval is None else f"{words} ({interval[0]:.4f} to {interval[1]:.4f})"

    def main_in_words(self) -> str:
        """Write the main measure: "mAP 0.7294 (0.6849 to 0.7747)"."""
        return f"{label_report.in_words(self.main)} {self.with_interval(self.main)}"

    def summary(self) -> dict[str, object]:
        """Return the main measures as one record."""
        names = ("mAP", "mAP_low", "mAP_high", "f1_micro", "f1_macro", "subset_accuracy", "hamming_loss")
        measures = {name: self.evaluation.overall[name] for name in names}
        return {"title": self.title, "n": self.evaluation.n, "wrong": self.wrong, **measures}


# ---------------------------------------------------------------- derived from an evaluation


@dataclass(frozen=True, slots=True)
class LabelRow:
    """The measures of a label, and the images with and without it for which it is predicted or not."""

    name: str
    values: LabelClass
    hits: int
    false_positives: int
    missed: int
    true_negatives: int

    @property
    def support(self) -> int:
        """The number of images that have the label."""
        return self.values.support

    @property
    def f1(self) -> float | None:
        """Its F1 score; None if it is undefined."""
        return self.values.f1


def label_rows(evaluation: LabelReport) -> list[LabelRow]:
    """Return the labels in their order."""
    truth, predicted = evaluation.matched.truth, evaluation.matched.predicted
    counted = [
        (one & other).sum(axis=0).tolist()  # (C,)
        for one, other in ((truth, predicted), (~truth, predicted), (truth, ~predicted), (~truth, ~predicted))
    ]
    return [
        LabelRow(name, values, *(counts[place] for counts in counted))
        for place, (name, values) in enumerate(evaluation.per_class.items())
    ]


@dataclass(frozen=True, slots=True)
class LabelConfusion:
    """In how many images a label is missed and another one predicted wrongly; `share` is that of the images with the missed one."""

    missed: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class LabelConfusions:
    """A confusion matrix of some classes; `counts` (K + 1, K + 1) has a row and a column for each of `classes`, and a last one for none.

    On the diagonal are the images whose label is predicted. Elsewhere they are those in which the label of the row is missed and that of
    the column predicted wrongly. In the last column no label is predicted wrongly, in the last row none is missed. With one label for each
    image, this is the usual confusion matrix. `support` (K + 1,) are the images with each label, and those without a missed one.
    """

    classes: Sequence[str]
    counts: Sequence[Sequence[int]]
    support: Sequence[int]


def confusions(matched: MatchedLabels, most: int) -> LabelConfusions:
    """Choose `most` classes, those of the most frequent confusions, and keep their order."""
    whole = _confusions(matched)
    places = content.most_frequent(whole[:-1, :-1], most)
    kept = np.append(places, len(matched.classes))
    nothing_missed = ~(matched.truth & ~matched.predicted).any(axis=1)
    support = [*matched.truth.sum(axis=0)[places].tolist(), int(nothing_missed.sum())]
    return LabelConfusions(
        [matched.classes[place] for place in places.tolist()], whole[np.ix_(kept, kept)].tolist(), support
    )


def most_confused(matched: MatchedLabels, most: int) -> list[LabelConfusion]:
    """List the pairs of a missed and a wrongly predicted label that are most frequent, the most frequent first."""
    whole = _confusions(matched)[:-1, :-1]
    support = matched.truth.sum(axis=0)
    rows, columns = (places[:most].tolist() for places in content.by_frequency(whole))
    return [
        LabelConfusion(
            matched.classes[row],
            matched.classes[column],
            int(whole[row, column]),
            float(whole[row, column] / support[row]),
        )
        for row, column in zip(rows, columns, strict=True)
    ]


def _confusions(matched: MatchedLabels) -> NDArray[np.int64]:
    """Count as in `LabelConfusions`, for all classes: (C + 1, C + 1)."""
    missed, wrong = matched.truth & ~matched.predicted, ~matched.truth & matched.predicted
    rows = np.column_stack([missed, ~missed.any(axis=1)]).astype(np.float64)  # (N, C + 1); floats are multiplied fast
    columns = np.column_stack([wrong, ~wrong.any(axis=1)]).astype(np.float64)
    counts: NDArray[np.int64] = (rows.T @ columns).astype(np.int64)  # a missed label is no wrong one: the diagonal is 0
    np.fill_diagonal(counts, [*(matched.truth & matched.predicted).sum(axis=0).tolist(), 0])
    return counts


# ---------------------------------------------------------------- mistakes


def chosen(matched: MatchedLabels, most: int) -> list[LabelMistake]:
    """Choose wrong labels, the most confident of each class in turn: one that is predicted wrongly, one that is missed, then the next ones.

    Args:
        matched: Predictions and truth.
        most: The number to choose.

    Returns:
        In the order of the classes; of each class those predicted wrongly, then missed ones, the farthest from the threshold first.
    """
    margins = np.nan_to_num(matched.margins(), nan=-1.0)
    ranked: list[tuple[int, float, int, bool, int]] = []  # the place among its kind, and the margin
    for place in range(len(matched.classes)):
        for missed in (False, True):
            kind = matched.truth[:, place] if missed else ~matched.truth[:, place]
            images = np.flatnonzero(kind & (matched.predicted[:, place] != matched.truth[:, place]))
            order = images[np.argsort(-margins[images, place], kind="stable")].tolist()
            ranked += [
                (rank, -float(margins[image, place]), place, missed, image) for rank, image in enumerate(order[:most])
            ]
    taken = sorted(ranked)[:most]
    return [
        LabelMistake(
            matched.paths[image],
            matched.classes[place],
            missed,
            metrics.known(matched.probabilities[image, place]),
            metrics.known(matched.thresholds[place]),
            [*_names(matched, matched.truth[image])],
            [*_names(matched, matched.predicted[image])],
        )
        for _, _, place, missed, image in sorted(taken, key=lambda each: (each[2], each[3], each[0]))
    ]


def _names(matched: MatchedLabels, has: NDArray[np.bool_]) -> Iterator[str]:
    return (matched.classes[place] for place in np.flatnonzero(has).tolist())
