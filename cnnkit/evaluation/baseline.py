"""Comparison of an evaluation with a baseline: predictions for the same images, or the measures that `cnn-eval --json` saved."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from cnnkit.errors import CnnkitError, FormatError
from cnnkit.evaluation import comparison, matching, report
from cnnkit.evaluation.config import EvalConfig
from cnnkit.evaluation.matching import FolderTruth, Truth
from cnnkit.evaluation.report import EvaluationReport
from cnnkit.formats import prediction_columns, text_file

log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True)
class BaselineComparison:
    """The difference of accuracies, now minus baseline, with its 95 % interval.

    `paired`: both predict the same `n` images, and `p_value` is that of McNemar's exact test; otherwise the `n_baseline` images of the
    baseline count as independent of them, and `p_value` is None. `measures` are those of the baseline by name.
    """

    baseline: str
    paired: bool
    n: int
    n_baseline: int
    accuracy: float
    accuracy_baseline: float
    difference: float
    difference_low: float
    difference_high: float
    p_value: float | None
    measures: Mapping[str, float | None]

    def record(self) -> dict[str, Any]:
        """Return the comparison as a JSON object."""
        shown = (
            "paired",
            "n_baseline",
            "accuracy_baseline",
            "difference",
            "difference_low",
            "difference_high",
            "p_value",
        )
        return {"baseline": self.baseline, **{name: getattr(self, name) for name in shown}}

    def rows(self, now: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Add the baseline's value and the difference to rows of measure and value; only that of accuracy has an interval."""
        rows = []
        for row in now:
            name, value, before = row["measure"], row["value"], self.measures.get(row["measure"])
            difference = None if value is None or before is None else value - before
            low, high = (self.difference_low, self.difference_high) if name == "accuracy" else (None, None)
            rows.append(
                {**row, "baseline": before, "difference": difference, "difference_low": low, "difference_high": high}
            )
        return rows

    def table(self, now: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the measures of all images, not those of classes, as a table for a terminal."""
        return [
            {
                "measure": report.in_words(row["measure"]),
                "baseline": _shown(row["baseline"]),
                "now": _shown(row["value"]),
                "difference": _signed(row["difference"]),
                "95 % interval": _interval(self) if row["measure"] == "accuracy" else "",
            }
            for row in self.rows(now)
            if ":" not in row["measure"] and not row["measure"].endswith(("_low", "_high"))
        ]

    def markdown(self) -> str:
        """Return a table of one row in GitHub's Markdown, for a pull request."""
        images = (
            f"{self.n:,} images, paired" if self.paired else f"{self.n:,} images, {self.n_baseline:,} of the baseline"
        )
        return (
            "| measure | baseline | now | difference (95 % interval) |\n"
            "|---|---:|---:|---:|\n"
            f"| accuracy ({images}) | {self.accuracy_baseline:.4f} | {self.accuracy:.4f} "
            f"| {_signed(self.difference)} ({_interval(self)}) |\n"
        )

    def save_markdown(self, path: Path) -> None:
        """Write that table in one step."""
        text_file.save(path, self.markdown())

    def bounds(self, now: str) -> dict[str, tuple[float, float]]:
        """Return the bound that fails if predictions are significantly worse than the baseline, as `comparison.bounds`."""
        return comparison.worse(self.difference, self.difference_high, self.baseline, now)


def compare(
    now: EvaluationReport,
    lines: Iterable[bytes],
    truth: Truth | FolderTruth,
    config: EvalConfig,
    *,
    name: str,
    called: str,
) -> BaselineComparison:
    """Compare an evaluation with a baseline.

    Args:
        now: The evaluation.
        lines: The lines of the baseline: predictions, or the output of cnn-eval --json.
        truth: The true labels, for predictions.
        config: The classes.
        name: The file of the baseline, for messages.
        called: That of the predictions that were evaluated.

    Raises:
        CnnkitError: The predictions of the baseline are for other images, or do not fit the truth.
        FormatError: It is neither predictions nor an evaluation.
    """
    read = list(lines)
    if read and read[0].split() == [b"measure", b"value"]:
        raise FormatError(
            f"{name}: measures as a table; a baseline is predictions for the same images, or the output of cnn-eval --json"
        )
    saved = _saved(read, name)
    found = _independent(now, saved, name=name) if saved is not None else None
    if found is None:
        columns = prediction_columns.read(read, name=name)
        (predictions,), _ = matching.match_each([(columns, name)], truth, classes=config.classes(), explain=False)
        found = _paired(now, report.measure(predictions), name=name, called=called)
    how = (
        f"McNemar's exact test p = {found.p_value:.2g}"
        if found.p_value is not None
        else "images of both as independent"
    )
    low, high = (100 * bound for bound in (found.difference_low, found.difference_high))
    verdict = "better than" if low > 0 else "worse than" if high < 0 else "not significantly different from"
    log.info(
        "%s is %s %s: accuracy %.4g, %.4g there, difference %+.1f points (95 %% interval %.1f to %.1f, %s)",
        called,
        verdict,
        name,
        found.accuracy,
        found.accuracy_baseline,
        100 * found.difference,
        low,
        high,
        how,
    )
    comparison.warn_of_groups(now.predictions, truth)
    return found


def _paired(now: EvaluationReport, before: EvaluationReport, *, name: str, called: str) -> BaselineComparison:
    """Compare predictions for the same images.

    Raises:
        CnnkitError: One has an image that the other lacks.
    """
    try:
        result = comparison.of_same_images(before.predictions, now.predictions, names=(name, called))
    except CnnkitError as error:
        raise CnnkitError(
            f"{error}, or compare with the measures that cnn-eval --json printed for {name}, which takes the images as independent"
        ) from error
    return BaselineComparison(
        baseline=name,
        paired=True,
        n=result.n,
        n_baseline=result.n,
        accuracy=result.accuracy_b,
        accuracy_baseline=result.accuracy_a,
        difference=result.difference,
        difference_low=result.difference_low,
        difference_high=result.difference_high,
        p_value=result.p_value,
        measures=before.measures(),
    )


def _independent(now: EvaluationReport, measures: Mapping[str, float | None], *, name: str) -> BaselineComparison:
    """Compare with measures of images that are taken as independent."""
    accuracy, n = measures["accuracy"], measures["n"]
    assert accuracy is not None
    assert n is not None
    low, high = comparison.independent_interval(round(now.accuracy * now.n), now.n, round(accuracy * n), int(n))
    return BaselineComparison(
        baseline=name,
        paired=False,
        n=now.n,
        n_baseline=int(n),
        accuracy=now.accuracy,
        accuracy_baseline=accuracy,
        difference=now.accuracy - accuracy,
        difference_low=low,
        difference_high=high,
        p_value=None,
        measures=measures,
    )


def _saved(lines: list[bytes], name: str) -> dict[str, float | None] | None:
    """Read the output of cnn-eval --json, with the measures of classes as recall:cat; None if it is something else.

    Raises:
        FormatError: It is one JSON object, and has no valid accuracy and number of images.
    """
    if not next(filter(None, map(bytes.strip, lines)), b"").startswith(b"{"):
        return None
    try:
        record = json.loads(b"".join(lines))
    except (ValueError, RecursionError):
        return None  # JSON Lines, or broken: the reader of predictions explains it
    if not isinstance(record, dict) or "path" in record:
        return None
    found = {name: value for name, value in record.items() if value is None or _is_number(value)}
    classes = record.get("per_class")
    for label, values in (classes if isinstance(classes, dict) else {}).items():
        for measure, value in (values if isinstance(values, dict) else {}).items():
            if value is None or _is_number(value):
                found[f"{measure}:{label}"] = value
    n, accuracy = found.get("n"), found.get("accuracy")
    if not isinstance(n, int) or n < 1 or accuracy is None or not 0 <= accuracy <= 1:
        raise FormatError(
            f"{name}: no accuracy and n in it; a baseline is predictions, or the output of cnn-eval --json"
        )
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _interval(found: BaselineComparison) -> str:
    return f"{_signed(found.difference_low)} to {_signed(found.difference_high)}"


def _signed(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:+,d}" if isinstance(value, int) else f"{value:+.4f}"


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,d}" if isinstance(value, int) else f"{value:.4f}"
