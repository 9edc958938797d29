"""Cross-validation: a report of each fold, their mean and standard deviation, and the out-of-fold measures."""

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
_SINGLE = ("n", "accuracy_low", "accuracy_high")  # of single folds; their mean has no meaning


@dataclass(frozen=True, slots=True)
class Folds:
    """The report of each fold by name; `pooled` is that of all their images, None if folds share images."""

    folds: dict[str, EvaluationReport]
    pooled: EvaluationReport | None

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each fold, then `mean`, `sd` (of the sample) and, if each image is in one fold, `out_of_fold`."""
        rows = [_row(name, each.measures()) for name, each in self.folds.items()]
        rows += [_row("mean", self.means()), _row("sd", self._deviations())]
        return rows if self.pooled is None else [*rows, _row("out_of_fold", self.pooled.measures())]

    def table(self) -> list[dict[str, Any]]:
        """Return the same rows with four decimals, for a terminal."""
        return [
            {column: f"{value:.4f}" if isinstance(value, float) else value for column, value in row.items()}
            for row in self.rows()
        ]

    def means(self) -> dict[str, float | None]:
        """Average every measure over the folds; None if it is None in one of them."""
        return {name: None if values is None else fmean(values) for name, values in self._values()}

    def measures(self) -> dict[str, float | None]:
        """Return the measures that bounds apply to: the out-of-fold ones if there are any, otherwise the means."""
        return self.means() if self.pooled is None else self.pooled.measures()

    def _deviations(self) -> dict[str, float | None]:
        return {name: None if values is None else stdev(values) for name, values in self._values()}

    def _values(self) -> Iterator[tuple[str, list[float] | None]]:
        measured = [each.measures() for each in self.folds.values()]
        for name in measured[0]:
            values = [measures.get(name) for measures in measured]
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

    Each of several files is a fold. A single file is divided by the splits of the truth.

    Args:
        files: For each file its lines and its name, for messages.
        truth: The true labels and the splits.
        config: The classes and their order, and whether every image of the truth must be predicted.
        names: The names of the files if there are several.

    Raises:
        UsageError: A single file and a truth without splits, or a file given twice.
        CnnkitError: A single fold, an image without a split, and as `report.read`.
    """
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{twice}: given twice; give each fold once")
    predictions = reports.read(files, truth, classes=config.classes(), complete=config.complete)
    by_name = _by_split(predictions[0], truth) if len(predictions) == 1 else dict(zip(names, predictions, strict=True))
    if len(by_name) < 2:
        raise CnnkitError(f"there is only one fold, {next(iter(by_name))}; --folds needs two or more")
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
    """Divide predictions by the splits of the truth; fold10 comes after fold9."""
    rows: dict[str, list[int]] = {}
    for row, resolved in enumerate(predictions.resolved):
        known = truth.images.get(resolved)
        rows.setdefault((known.split if known is not None else None) or "", []).append(row)
    if set(rows) == {""}:
        raise UsageError(
            "--folds needs the fold of each image: give a manifest with a column split (--truth folds.tsv), or one file of "
            "predictions for each fold"
        )
    if "" in rows:
        raise CnnkitError(f"{truth.name}: {predictions.paths[rows[''][0]]} has no fold: its column split is empty")
    return {name: predictions.of(rows[name]) for name in sorted(rows, key=_by_number)}


def _by_number(name: str) -> list[str | int]:
    return [int(piece) if place % 2 else piece for place, piece in enumerate(re.split(r"(\d+)", name))]


def _about_shared(folds: Mapping[str, MatchedPredictions]) -> str | None:
    """Report that images in several folds rule out the out-of-fold measures; None if there are none."""
    sets = [set(each.resolved) for each in folds.values()]
    if len(sets) > 1 and all(each == sets[0] for each in sets):
        return f"every file predicts the same {len(sets[0])} images: no out-of-fold measures; mean and sd are over models, not folds"
    seen: dict[str, str] = {}
    for name, each in folds.items():
        for resolved, path in zip(each.resolved, each.paths, strict=True):
            if (other := seen.setdefault(resolved, name)) != name:
                return f"{other} and {name} both predict {path}: no out-of-fold measures"
    return None


def _explain(folds: Folds) -> None:
    """Report once why measures are unknown, of all images together first."""
    explained: set[str] = set()
    pooled = [] if folds.pooled is None else [("", folds.pooled)]
    for name, each in pooled or folds.folds.items():
        if (about := reports.about_sums(each.predictions)) is not None:
            _log_of_fold(name, about)
            break
    for name, each in (*pooled, *folds.folds.items()):
        unknown = reports.unknown(each)
        if not explained.issuperset(unknown):
            explained.update(unknown)
            for notice in reports.about_unknown(each):
                _log_of_fold(name, notice)


def _log_of_fold(name: str, notice: str) -> None:
    """Log a notice with the name of its fold; without a name it is about all of them together."""
    log.info("%s", f"{name}: {notice}" if name else notice)
