"""Training histories of one or several runs: names, smoothed measures and best epochs, for drawing and printing."""

import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cnnkit.choices import Monitor
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import history, short_names
from cnnkit.formats.history import HistoryRow

log = logging.getLogger("cnnkit")

#: The measures of each panel: training, then validation.
PANELS = {"loss": ("train_loss", "val_loss"), "accuracy": ("train_accuracy", "val_accuracy")}
MEASURES = tuple(measure for pair in PANELS.values() for measure in pair)

#: The measure of networks that also predict a box. It has no value in training.
_IOU = "val_iou"
_IOU_PANEL = {"IoU": ("", _IOU)}


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One history: its rows as written, the rows smoothed, and the best of the former, None without validation."""

    name: str
    rows: list[HistoryRow]
    smoothed: list[HistoryRow]
    best: HistoryRow | None

    def summary(self) -> dict[str, Any]:
        """Return the measures of the best epoch, or of the last one without validation."""
        shown = self.best or self.rows[-1]
        return {
            "run": self.name,
            "epochs": self.epochs,
            "best_epoch": self.best and self.best.epoch,
            **{measure: finite(getattr(shown, measure)) for measure in (*MEASURES, *([_IOU] if self.has_iou else []))},
        }

    @property
    def epochs(self) -> int:
        """The number of epochs; the start is none."""
        return len(self.rows) - (self.start is not None)

    @property
    def start(self) -> HistoryRow | None:
        """The validation measures before training, if the history has them."""
        return self.rows[0] if _has_start(self.rows) else None

    @property
    def has_iou(self) -> bool:
        """Whether it is of a network that also predicts a box."""
        return any(row.val_iou is not None for row in self.rows)


def collect(
    histories: Iterable[tuple[Iterable[bytes], str]], *, smooth: float = 0.0, monitor: Monitor = Monitor.VAL_LOSS
) -> list[TrainingRun]:
    """Read histories, and compute names, smoothed measures and best epochs.

    Args:
        histories: For each file its lines and its path, from which the name is taken.
        smooth: The weight of earlier epochs, from 0 (off) to below 1.
        monitor: The measure that selects the best epoch. As in training, ties of accuracy are broken by the lower loss, then by the first
            epoch. The values are not smoothed: no epoch has weights with the smoothed ones.

    Returns:
        The runs with at least one epoch, in the order given.

    Raises:
        FormatError: A file is not a history.
        CnnkitError: No history has a finished epoch.
        UsageError: `smooth` is out of range, or a history is given twice.
    """
    if not 0 <= smooth < 1:
        raise UsageError(f"--smooth {smooth:g}: give a weight from 0 (off) to below 1")
    found: dict[str, list[HistoryRow]] = {}
    for lines, path in histories:
        if path in found:
            raise UsageError(f"{path}: given twice; give each history once")
        found[path] = history.parse(lines, name=path)
    begun = {path: rows for path, rows in found.items() if rows}
    if not begun:
        raise CnnkitError(f"{', '.join(found)}: no epoch is finished yet")
    for path in found.keys() - begun.keys():
        log.warning("%s: no epoch is finished yet; left out", path)
    return [
        TrainingRun(name, rows, _smoothed(rows, smooth), best(rows, monitor))
        for name, rows in zip(short_names.names(list(begun)), begun.values(), strict=True)
    ]


def panels(runs: Iterable[TrainingRun]) -> dict[str, tuple[str, str]]:
    """Return the measures of each panel: training (empty if there is none), then validation."""
    return PANELS | (_IOU_PANEL if any(run.has_iou for run in runs) else {})


def points(runs: Sequence[TrainingRun]) -> Iterator[dict[str, Any]]:
    """Yield every epoch of every run as a record, with the measures as drawn, smoothed if requested."""
    left_out = () if any(run.has_iou for run in runs) else (_IOU,)
    for run in runs:
        for row in run.smoothed:
            record = {name: finite(value) for name, value in dataclasses.asdict(row).items() if name not in left_out}
            yield {"run": run.name, **record, "best": run.best is not None and row.epoch == run.best.epoch}


def curve(rows: Iterable[HistoryRow], measure: str) -> tuple[list[int], list[float]]:
    """Return epochs and values of one measure, both (N,); epochs without a finite value are left out. Nothing for an empty name."""
    if not measure:
        return [], []
    known = [(row.epoch, value) for row in rows if (value := finite(getattr(row, measure))) is not None]
    return [epoch for epoch, _ in known], [value for _, value in known]


def finite(value: float | None) -> float | None:
    """Return a finite number unchanged, and None for any other value."""
    return value if value is not None and math.isfinite(value) else None


def smoothed(values: Sequence[float | None], weight: float) -> list[float | None]:
    """Compute a bias-corrected exponential moving average: the mean of all values so far, each weighted `weight` times the next one.

    The first value is unchanged. An average that simply starts at the first value would stay close to it, for fifty epochs with a weight
    of 0.98.

    Args:
        values: (N,), None or NaN where unknown.
        weight: From 0 (no smoothing) to below 1.

    Returns:
        (N,), None where unknown.

    Source:
        Kingma, Ba 2015, Adam, section 3; TensorBoard's smoothing is the same.
    """
    averages: list[float | None] = []
    total, weights = 0.0, 0.0
    for value in values:
        known = finite(value)
        if known is None:
            averages.append(None)
            continue
        total, weights = weight * total + known, weight * weights + 1
        averages.append(total / weights)
    return averages


def _has_start(rows: Sequence[HistoryRow]) -> bool:
    """Whether the first row is of the network before training; histories without measures on the training set tell nothing about it."""
    return rows[0].is_start and any(row.train_loss is not None for row in rows[1:])


def _smoothed(rows: list[HistoryRow], weight: float) -> list[HistoryRow]:
    if not weight:
        return rows
    if _has_start(rows):  # not an epoch of the average
        return [rows[0], *_smoothed(rows[1:], weight)]
    every = (*MEASURES, _IOU)
    averages = [smoothed([getattr(row, measure) for row in rows], weight) for measure in every]
    return [
        dataclasses.replace(row, **dict(zip(every, measures, strict=True)))
        for row, measures in zip(rows, zip(*averages, strict=True), strict=True)
    ]


def best(rows: Iterable[HistoryRow], monitor: Monitor) -> HistoryRow | None:
    """Choose the best epoch as training does; None if no epoch has the measure."""
    measured = [row for row in rows if finite(getattr(row, monitor)) is not None]
    return max(
        measured, key=partial(history.rank, monitor=monitor), default=None
    )  # max returns the first of equal ones
