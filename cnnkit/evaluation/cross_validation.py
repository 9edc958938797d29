"""Cross-validation: a report of every fold, their mean and spread, and the figure of all images together, each predicted once."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from cnnkit.errors import CnnkitError, UsageError
from cnnkit.evaluation import report as reports
from cnnkit.evaluation.config import MatchConfig
from cnnkit.evaluation.matching import FolderTruth, MatchedPredictions, Truth
from cnnkit.evaluation.report import EvaluationReport

log = logging.getLogger("cnnkit")

_COLUMNS = ("n", "accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "log_loss", "roc_auc", "ece")
_SINGLE = ("n", "accuracy_low", "accuracy_high")  # folds have these one by one; a mean of them bounds nothing


@dataclass(frozen=True, slots=True)
class Folds:
    """A report of each fold by its name; `pooled` is that of all their images, None where folds share some."""

    folds: dict[str, EvaluationReport]
    pooled: EvaluationReport | None

    def rows(self) -> list[dict[str, Any]]:
        """Give a row a fold, then `mean`, `sd` (of the sample of folds) and, where each image is in one fold, `out_of_fold`."""
        rows = [_row(name, each.measures()) for name, each in self.folds.items()]
        rows += [_row("mean", self.means()), _row("sd", self._deviations())]
        return rows if self.pooled is None else [*rows, _row("out_of_fold", self.pooled.measures())]

    def table(self) -> list[dict[str, Any]]:
        """Give the same rows to look at: four decimals are enough, and fit on a screen."""
        return [
            {column: f"{value:.4f}" if isinstance(value, float) else value for column, value in row.items()}
            for row in self.rows()
        ]

    def means(self) -> dict[str, float | None]:
        """Average every measure over the folds; what one fold does not know is None."""
        return {name: None if values is None else fmean(values) for name, values in self._values()}

    def measures(self) -> dict[str, float | None]:
        """Give what gates are held against: the out-of-fold figures where there are some, else the means."""
        return self.means() if self.pooled is None else self.pooled.measures()

    def _deviations(self) -> dict[str, float | None]:
        return {name: None if values is None else stdev(values) for name, values in self._values()}

    def _values(self) -> Iterator[tuple[str, list[float] | None]]:
        measured = [each.measures() for each in self.folds.values()]
        for name in measured[0]:
            values = [measures[name] for measures in measured]
            known = [value for value in values if value is not None]
            yield name, known if len(known) == len(values) and name not in _SINGLE else None


def _row(name: str, measures: Mapping[str, float | None]) -> dict[str, Any]:
    return {"fold": name, **{column: measures[column] for column in _COLUMNS}}


def evaluate(
    files: Iterable[tuple[Iterable[bytes], str]],
    truth: Truth | FolderTruth,
    config: MatchConfig,
    *,
    names: Sequence[str] = (),
) -> Folds:
    """Measure the folds of a cross-validation.

    Several files are a fold each. The images of a single one belong to the folds that the truth has as its splits.

    Args:
        files: For each the lines and where they come from, for messages.
        truth: Where labels, and the splits, are looked up.
        config: The classes and their order, and whether every image of the truth must be predicted.
        names: What to call the files, where there are several.

    Raises:
        UsageError: A single file, and a truth without splits; or a file that is given twice.
        CnnkitError: A single fold, an image that belongs to no split, and as `report.read`.
    """
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{twice}: given twice; a fold is counted once")
    predictions = reports.read(files, truth, classes=config.classes(), complete=config.complete)
    by_name = _by_split(predictions[0], truth) if len(predictions) == 1 else dict(zip(names, predictions, strict=True))
    if len(by_name) < 2:
        raise CnnkitError(
            f"a single fold, {next(iter(by_name))}: there is nothing to compare; --folds measures two and more"
        )
    shared = _about_shared(by_name)
    if shared is not None:
        log.info(shared)
    first, *others = by_name.values()
    folds = Folds(
        folds={name: reports.measure(each) for name, each in by_name.items()},
        pooled=reports.measure(first.and_of(others)) if shared is None else None,
    )
    _explain(folds)
    return folds


def _by_split(predictions: MatchedPredictions, truth: Truth | FolderTruth) -> dict[str, MatchedPredictions]:
    """Sort images into the splits that the truth names; fold10 comes after fold9."""
    rows: dict[str, list[int]] = {}
    for row, resolved in enumerate(predictions.resolved):
        known = truth.images.get(resolved)
        rows.setdefault((known.split if known is not None else None) or "", []).append(row)
    if set(rows) == {""}:
        raise UsageError(
            "--folds with one stream of predictions needs a manifest that names each picture's fold in its column split; give one "
            "with --truth, or a file of predictions for each fold"
        )
    if "" in rows:
        raise CnnkitError(
            f"{truth.name}: {predictions.paths[rows[''][0]]} belongs to no fold: its column split is empty"
        )
    return {name: predictions.of(rows[name]) for name in sorted(rows, key=_by_number)}


def _by_number(name: str) -> list[str | int]:
    return [int(piece) if place % 2 else piece for place, piece in enumerate(re.split(r"(\d+)", name))]


def _about_shared(folds: Mapping[str, MatchedPredictions]) -> str | None:
    """Say that there is no out-of-fold figure where an image is in two folds; None where none is."""
    sets = [set(each.resolved) for each in folds.values()]
    if len(sets) > 1 and all(each == sets[0] for each in sets):
        return (
            f"every file predicts the same {len(sets[0])} pictures, so there is no out-of-fold figure: mean and sd tell how models "
            "differ on them"
        )
    seen: dict[str, str] = {}
    for name, each in folds.items():
        for resolved, path in zip(each.resolved, each.paths, strict=True):
            if (other := seen.setdefault(resolved, name)) != name:
                return f"{other} and {name} both predict {path}, so there is no out-of-fold figure"
    return None


def _explain(folds: Folds) -> None:
    """Say why measures are not known, once, beginning with all images."""
    told: set[str] = set()
    pooled = [] if folds.pooled is None else [("", folds.pooled)]
    sums = [about for _, each in (pooled or folds.folds.items()) if (about := reports.about_sums(each.predictions))]
    if sums:
        log.info("%s", sums[0])
    for name, each in (*pooled, *folds.folds.items()):
        unknown = reports.unknown(each)
        if not told.issuperset(unknown):
            told.update(unknown)
            for notice in reports.about_unknown(each):
                log.info("%s", f"{name}: {notice}" if name else notice)
