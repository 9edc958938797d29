"""Training histories, one run or several: named, smoothed, each with its best epoch. What is drawn or printed of them starts here."""

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

#: What is drawn, by panel: training, then validation.
PANELS = {"loss": ("train_loss", "val_loss"), "accuracy": ("train_accuracy", "val_accuracy")}
MEASURES = tuple(measure for pair in PANELS.values() for measure in pair)


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One history: its rows as they were written, the same rows smoothed, and the best of the former; None without validation."""

    name: str
    rows: list[HistoryRow]
    smoothed: list[HistoryRow]
    best: HistoryRow | None

    def summary(self) -> dict[str, Any]:
        """Give the measures of the best epoch, of the last one where none is known to be the best."""
        told = self.best or self.rows[-1]
        return {
            "run": self.name,
            "epochs": len(self.rows),
            "best_epoch": self.best and self.best.epoch,
            **{measure: finite(getattr(told, measure)) for measure in MEASURES},
        }


def collect(
    histories: Iterable[tuple[Iterable[bytes], str]], *, smooth: float = 0.0, monitor: Monitor = Monitor.VAL_LOSS
) -> list[TrainingRun]:
    """Read histories, and give each a name, smoothed measures and its best epoch.

    Args:
        histories: For each its lines and its path, which is where the name comes from.
        smooth: The weight of what was before, from 0 (none) to below 1.
        monitor: What the best epoch is the best by; as in training, of equal accuracies the one with the lower loss wins, of
            equal ones the first. Values that are smoothed do not decide: the weights of no epoch have them.

    Returns:
        The runs that have an epoch to show, in the order given.

    Raises:
        FormatError: One is no history.
        CnnkitError: In none of them an epoch is finished.
        UsageError: `smooth` is out of its range, or a history is given twice.
    """
    if not 0 <= smooth < 1:
        raise UsageError(f"--smooth {smooth:g} is not from 0 to below 1; 0 leaves the curves as they are")
    found: dict[str, list[HistoryRow]] = {}
    for lines, path in histories:
        if path in found:
            raise UsageError(f"{path}: given twice")
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


def points(runs: Iterable[TrainingRun]) -> Iterator[dict[str, Any]]:
    """Give every epoch of every run as a record: the measures as they are drawn, smoothed where that was asked for."""
    for run in runs:
        for row in run.smoothed:
            record = {name: finite(value) for name, value in dataclasses.asdict(row).items()}
            yield {"run": run.name, **record, "best": run.best is not None and row.epoch == run.best.epoch}


def curve(rows: Iterable[HistoryRow], measure: str) -> tuple[list[int], list[float]]:
    """Give epochs and values of one measure, both (N,); epochs without a finite value are left out."""
    known = [(row.epoch, value) for row in rows if (value := finite(getattr(row, measure))) is not None]
    return [epoch for epoch, _ in known], [value for _, value in known]


def finite(value: float | None) -> float | None:
    """Give a number, and None for what is none."""
    return value if value is not None and math.isfinite(value) else None


def smoothed(values: Sequence[float | None], weight: float) -> list[float | None]:
    """Average exponentially: every value is the mean of all up to it, each weighted `weight` times the one after it.

    The start is corrected for: the first value stays, the second is drawn to it no more than any other to the one before.
    An average that simply starts at the first value would hang on to it, for fifty epochs with a weight of 0.98.

    Args:
        values: (N,), with gaps where nothing is known.
        weight: From 0 (nothing changes) to below 1.

    Returns:
        (N,), with the same gaps.

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


def _smoothed(rows: list[HistoryRow], weight: float) -> list[HistoryRow]:
    if not weight:
        return rows
    averages = [smoothed([getattr(row, measure) for row in rows], weight) for measure in MEASURES]
    return [
        dataclasses.replace(row, **dict(zip(MEASURES, measures, strict=True)))
        for row, measures in zip(rows, zip(*averages, strict=True), strict=True)
    ]


def best(rows: Iterable[HistoryRow], monitor: Monitor) -> HistoryRow | None:
    """Choose the best epoch as training does; None where the measure was never taken."""
    measured = [row for row in rows if finite(getattr(row, monitor)) is not None]
    return max(measured, key=partial(history.rank, monitor=monitor), default=None)  # of equal ones, max gives the first
