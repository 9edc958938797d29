"""Comparison of an evaluation with a baseline: predictions for the same images, or the measures that `cnn-eval --json` saved.

The measures compared are accuracy, or, of several labels per image, mAP and the others that have an interval.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, isfinite
from pathlib import Path
from typing import Any

from cnnkit.errors import CnnkitError, FormatError
from cnnkit.evaluation import comparison, label_metrics, label_report, matching, report
from cnnkit.evaluation.bounds import OF_LABELS
from cnnkit.evaluation.config import EvalConfig
from cnnkit.evaluation.label_report import LabelReport
from cnnkit.evaluation.matching import FolderTruth, Truth
from cnnkit.evaluation.report import EvaluationReport
from cnnkit.formats import label_predictions, prediction_columns, text_file

log = logging.getLogger("cnnkit")

#: The measures of a table for a pull request.
_IN_MARKDOWN = ("accuracy", "mAP", "f1_micro", "f1_macro", "subset_accuracy")


@dataclass(frozen=True, slots=True)
class BaselineComparison:
    """The differences of measures, now minus baseline, with the 95 % intervals of the `intervals`, that of the main `measure` first.

    `paired`: both predict the same `n` images; otherwise the `n_baseline` images of the baseline count as independent of them. `p_value` is
    that of McNemar's exact test, for paired accuracies. `now` and `measures` are the values by name, now and of the baseline.
    """

    baseline: str
    paired: bool
    n: int
    n_baseline: int
    measure: str
    intervals: Mapping[str, tuple[float, float]]
    p_value: float | None
    now: Mapping[str, float | None]
    measures: Mapping[str, float | None]

    def difference(self, measure: str) -> float | None:
        """Return the difference of a measure; None where a value is unknown."""
        value, before = self.now.get(measure), self.measures.get(measure)
        return None if value is None or before is None else value - before

    def record(self) -> dict[str, Any]:
        """Return the comparison as a JSON object; with intervals of several measures, also one for each."""
        low, high = self.intervals.get(self.measure, (None, None))
        differences = {
            name: {"difference": self.difference(name), "difference_low": low, "difference_high": high}
            for name, (low, high) in self.intervals.items()
        }
        return {
            "baseline": self.baseline,
            "paired": self.paired,
            "n_baseline": self.n_baseline,
            f"{self.measure}_baseline": self.measures.get(self.measure),
            "difference": self.difference(self.measure),
            "difference_low": low,
            "difference_high": high,
            "p_value": self.p_value,
            **({"differences": differences} if len(differences) > 1 else {}),
        }

    def rows(self, now: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Add the baseline's value and the difference to rows of measure and value; those of `intervals` have an interval."""
        rows = []
        for row in now:
            name = row["measure"]
            low, high = self.intervals.get(name, (None, None))
            rows.append(
                {
                    **row,
                    "baseline": self.measures.get(name),
                    "difference": self.difference(name),
                    "difference_low": low,
                    "difference_high": high,
                }
            )
        return rows

    def table(self, now: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the measures of all images, not those of classes, as a table for a terminal."""
        return [
            {
                "measure": _in_words(row["measure"]),
                "baseline": _shown(row["baseline"]),
                "now": _shown(row["value"]),
                "difference": _signed(row["difference"]),
                "95 % interval": self._interval(row["measure"]),
            }
            for row in self.rows(now)
            if ":" not in row["measure"] and not row["measure"].endswith(("_low", "_high"))
        ]

    def markdown(self) -> str:
        """Return a table in GitHub's Markdown, for a pull request, with a row for each main measure that has an interval."""
        images = (
            f"{self.n:,} images, paired" if self.paired else f"{self.n:,} images, {self.n_baseline:,} of the baseline"
        )
        rows = [
            f"| {_in_words(name)}{f' ({images})' if name == self.measure else ''} | {_measure(self.measures.get(name))} "
            f"| {_measure(self.now[name])} | {_signed(self.difference(name))} ({self._interval(name)}) |\n"
            for name in dict.fromkeys([self.measure, *(each for each in _IN_MARKDOWN if each in self.intervals)])
        ]
        return f"| measure | baseline | now | difference (95 % interval) |\n|---|---:|---:|---:|\n{''.join(rows)}"

    def save_markdown(self, path: Path) -> None:
        """Write that table in one step."""
        text_file.save(path, self.markdown())

    def bounds(self, now: str) -> dict[str, tuple[float | None, float]]:
        """Return the bound that fails if predictions are significantly worse than the baseline, as `comparison.worse`.

        An interval that is unknown fails as well.
        """
        difference, interval = self.difference(self.measure), self.intervals.get(self.measure)
        if difference is None or interval is None:
            return {f"{now} cannot be compared with {self.baseline}: {self.measure}_difference_high": (None, 0.0)}
        return {**comparison.worse(difference, interval[1], self.baseline, now)}

    def report_verdict(self, called: str) -> None:
        """Report whether the predictions are better or worse, in a notice."""
        value, before, difference = (
            self.now[self.measure],
            self.measures.get(self.measure),
            self.difference(self.measure),
        )
        interval = self.intervals.get(self.measure)
        if value is None or before is None or difference is None or interval is None:
            what = "" if difference is None else "the interval of "
            log.info(
                "%s cannot be compared with %s: %s%s is unknown", called, self.baseline, what, _in_words(self.measure)
            )
            return
        low, high = (100 * bound for bound in interval)
        verdict = "better than" if low > 0 else "worse than" if high < 0 else "not significantly different from"
        how = "bootstrap of the same images" if self.paired else "images of both as independent"
        log.info(
            "%s is %s %s: %s %.4g, %.4g there, difference %+.1f points (95 %% interval %.1f to %.1f, %s)",
            called,
            verdict,
            self.baseline,
            _in_words(self.measure),
            value,
            before,
            100 * difference,
            low,
            high,
            how if self.p_value is None else f"McNemar's exact test p = {self.p_value:.2g}",
        )

    def _interval(self, measure: str) -> str:
        if measure not in self.intervals:
            return "" if measure != self.measure else "–"
        low, high = self.intervals[measure]
        return f"{_signed(low)} to {_signed(high)}"


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
    read = _lines(lines, name)
    saved = _saved(read, name, main=("accuracy",))
    found = _independent(now, saved, name=name) if saved is not None else None
    if found is None:
        columns = prediction_columns.read(read, name=name)
        (predictions,), _ = matching.match_each([(columns, name)], truth, classes=config.classes(), explain=False)
        found = _paired(now, report.measure(predictions), name=name, called=called)
    found.report_verdict(called)
    comparison.warn_of_groups(now.predictions.resolved, truth)
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
        measure="accuracy",
        intervals={"accuracy": (result.difference_low, result.difference_high)},
        p_value=result.p_value,
        now=now.measures(),
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
        measure="accuracy",
        intervals={"accuracy": (low, high)},
        p_value=None,
        now=now.measures(),
        measures=measures,
    )


# ---------------------------------------------------------------- several labels


def compare_labels(
    now: LabelReport,
    lines: Iterable[bytes],
    truth: Truth | FolderTruth,
    config: EvalConfig,
    *,
    name: str,
    called: str,
) -> BaselineComparison:
    """Compare an evaluation of several labels per image with a baseline.

    The main measure is mAP, or micro F1 where one of the two lacks probabilities. For predictions of the same images the intervals are of a
    paired bootstrap, and that of subset accuracy is as for accuracies. With saved measures, the intervals of both are combined.

    Args, Raises as `compare`; `now` is of several labels.

    Source:
        Zou, Donner, Construction of confidence limits about effect measures, Statistics in Medicine 27 (2008): limits of a difference
        of independent measures from the limits of both.
    """
    read = _lines(lines, name)
    saved = _saved(read, name, main=("mAP", "f1_micro"))
    assert isinstance(truth, Truth)  # `label_report.evaluate` refuses folders
    found = _paired_labels(now, read, truth, config, name=name, called=called) if saved is None else None
    if found is None:
        assert saved is not None
        measures, n = now.measures(), saved["n"]
        assert n is not None
        found = BaselineComparison(
            baseline=name,
            paired=False,
            n=now.n,
            n_baseline=int(n),
            measure=_main(measures, saved),
            intervals=dict(_combined(measures, saved)),
            p_value=None,
            now=measures,
            measures=saved,
        )
    found.report_verdict(called)
    comparison.warn_of_groups(now.matched.resolved, truth)
    return found


def _main(now: Mapping[str, float | None], before: Mapping[str, float | None]) -> str:
    return "f1_micro" if now["mAP"] is None or before.get("mAP") is None else "mAP"


def _paired_labels(
    now: LabelReport, lines: list[bytes], truth: Truth, config: EvalConfig, *, name: str, called: str
) -> BaselineComparison:
    """Compare predictions for the same images.

    Raises:
        CnnkitError: One has an image that the other lacks, or the baseline has one label per image.
    """
    several, same = label_predictions.peeked(lines)
    if not several:
        raise CnnkitError(
            f"{name} has one label per image, and {called} has several; give predictions of a multi-label model, or the output of "
            "cnn-eval --json for them"
        )
    other = label_report.match(label_predictions.read(same, name=name), truth, classes=config.classes(), name=name)
    one = now.matched
    comparison.check_same((other.paths, other.resolved), (one.paths, one.resolved), names=(name, called))
    places = {resolved: row for row, resolved in enumerate(other.resolved)}
    other = other.of([places[resolved] for resolved in one.resolved])
    before = label_report.measure(other)
    labelled = [(each.truth, each.predicted, each.scores) for each in (one, other)]
    found = label_metrics.paired_intervals(*labelled)
    exact = comparison.paired(*((each.truth == each.predicted).all(axis=1) for each in (other, one)))
    found["subset_accuracy"] = (exact.difference_low, exact.difference_high)
    measures, main = now.measures(), _main(now.measures(), before.measures())
    return BaselineComparison(
        baseline=name,
        paired=True,
        n=now.n,
        n_baseline=now.n,
        measure=main,
        intervals={each: found[each] for each in dict.fromkeys([main, *OF_LABELS]) if each in found},
        p_value=None,
        now=measures,
        measures=before.measures(),
    )


def _combined(
    now: Mapping[str, float | None], before: Mapping[str, float | None]
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Combine the intervals of independent measures, those of which all numbers are known."""
    for name in dict.fromkeys([_main(now, before), *OF_LABELS]):
        numbers = [each.get(f"{name}{end}") for each in (now, before) for end in ("", "_low", "_high")]
        known = [number for number in numbers if number is not None]
        if len(known) == len(numbers):
            value, low, high, other, other_low, other_high = known
            down, up = hypot(value - low, other_high - other), hypot(high - value, other - other_low)
            yield name, (value - other - down, value - other + up)


# ---------------------------------------------------------------- saved measures


def _lines(lines: Iterable[bytes], name: str) -> list[bytes]:
    """Read the lines of a baseline.

    Raises:
        FormatError: They are measures as a table.
    """
    read = list(lines)
    if read and read[0].split() == [b"measure", b"value"]:
        raise FormatError(
            f"{name}: measures as a table; a baseline is predictions for the same images, or the output of cnn-eval --json"
        )
    return read


def _saved(lines: list[bytes], name: str, *, main: Sequence[str]) -> dict[str, float | None] | None:
    """Read the output of cnn-eval --json, with the measures of classes as recall:cat; None if it is something else.

    Raises:
        FormatError: It is one JSON object, and has no valid number of images, or none of the `main` measures.
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
    n, values = found.get("n"), [value for each in main if (value := found.get(each)) is not None]
    if not isinstance(n, int) or n < 1 or not values or not all(0 <= value <= 1 for value in values):
        raise FormatError(
            f"{name}: no {main[0]} and n in it; a baseline is predictions, or the output of cnn-eval --json"
        )
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _in_words(measure: str) -> str:
    return label_report.in_words(measure) if measure in (*OF_LABELS, "hamming_loss") else report.in_words(measure)


def _signed(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:+,d}" if isinstance(value, int) else f"{value:+.4f}"


def _measure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,d}" if isinstance(value, int) else f"{value:.4f}"
