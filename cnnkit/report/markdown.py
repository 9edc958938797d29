"""The summary of a report in GitHub's Markdown: short enough for a pull request."""

import re
from collections.abc import Iterable, Iterator, Sequence

from cnnkit.evaluation import label_report
from cnnkit.evaluation.bounds import OF_LABELS
from cnnkit.report import content, label_content
from cnnkit.report.content import ClassRow, Gate, ReportContent
from cnnkit.report.label_content import LabelContent, LabelRow
from cnnkit.report.markup import clean
from cnnkit.report.page_parts import measure, percent

#: Classes listed, and confusions; of more classes, those with the lowest F1.
_CLASSES, _CONFUSIONS = 20, 5
#: The longest name that is written in full.
_LONGEST = 60


def render(report: ReportContent | LabelContent) -> str:
    """Render the summary."""
    return "\n".join([*_blocks(report)])


def _blocks(report: ReportContent | LabelContent) -> Iterator[str]:
    yield f"### {code(report.title, longest=120)}\n"
    yield from _of_labels(report) if isinstance(report, LabelContent) else _of_classes(report)


def _of_classes(report: ReportContent) -> Iterator[str]:
    found = report.evaluation
    interval = f"95 % interval {percent(found.accuracy_low)} to {percent(found.accuracy_high)}"
    withheld = f", {found.n - found.predicted:,} withheld" if found.predicted < found.n else ""
    yield f"**Accuracy {percent(found.accuracy)}** ({interval}), {found.n:,} images, {report.wrong:,} wrong{withheld}.\n"
    yield from _gates(report.gates)
    measures = {
        "accuracy": f"{measure(found.accuracy)} ({measure(found.accuracy_low)} to {measure(found.accuracy_high)})",
        "balanced accuracy": measure(found.balanced_accuracy),
        "log-loss": measure(found.log_loss),
        "ROC AUC": measure(found.roc_auc),
        "expected calibration error": measure(found.ece),
    }
    if found.predicted < found.n:
        measures["predicted"] = f"{found.predicted:,} of {found.n:,}"
        measures["accuracy of predictions"] = measure(found.accuracy_predicted)
    if found.coverage is not None:
        interval = f"{measure(found.coverage_low)} to {measure(found.coverage_high)}"
        measures["true class in the prediction set"] = f"{measure(found.coverage)} ({interval})"
        measures["labels in a set"] = measure(found.set_size)
    if found.boxes:
        measures["mean IoU"] = f"{measure(found.iou)} ({found.boxes:,} boxes)"
    yield table(["measure", "value"], [[key, value] for key, value in measures.items()], right=(1,))
    yield from _classes(list(content.class_rows(found)))
    pairs = content.most_confused(found, _CONFUSIONS)
    yield from _confusions([(each.truth, each.label, each.count) for each in pairs], heads=("true", "predicted"))


def _of_labels(report: LabelContent) -> Iterator[str]:
    found = report.evaluation
    yield (
        f"**{report.main_in_words()}**, {found.n:,} images, all labels right for {report.exact:,}, {report.wrong:,} wrong labels.\n"
    )
    yield from _gates(report.gates)
    measures = [[label_report.in_words(name), report.with_interval(name)] for name in (*OF_LABELS, "hamming_loss")]
    yield table(["measure", "value"], measures, right=(1,))
    rows = label_content.label_rows(found)
    if len(rows) > _CLASSES:
        yield f"The {_CLASSES} of {len(rows):,} labels with the lowest F1:\n"
        rows = content.lowest(rows, _CLASSES)
    heads = ["label", "images", "AP", "precision", "recall", "F1", "threshold", "wrongly predicted", "missed"]
    yield table(heads, map(_label, rows), right=range(1, len(heads)))
    pairs = label_content.most_confused(found.matched, _CONFUSIONS)
    yield from _confusions([(each.missed, each.predicted, each.count) for each in pairs], heads=("missed", "predicted"))


def _label(row: LabelRow) -> list[str]:
    values = row.values
    measures = (values.average_precision, values.precision, values.recall, values.f1)
    threshold = "–" if values.threshold is None else f"{values.threshold:.4g}"
    counts = (f"{row.false_positives:,}", f"{row.missed:,}")
    return [code(row.name), f"{values.support:,}", *map(measure, measures), threshold, *counts]


def _gates(gates: Sequence[Gate]) -> Iterator[str]:
    if not gates:
        return
    missed = sum(not gate.met for gate in gates)
    met = "The bound is met." if len(gates) == 1 else f"All {len(gates)} bounds are met."
    yield f"**{missed} of {len(gates)} bounds violated.**\n" if missed else f"{met}\n"
    yield table(
        ["", "bound", "value"],
        [["✅ met" if gate.met else "❌ violated", code(gate.condition), measure(gate.value)] for gate in gates],
        right=(2,),
    )


def _confusions(pairs: Sequence[tuple[str, str, int]], *, heads: tuple[str, str]) -> Iterator[str]:
    """List pairs of classes with their numbers of images."""
    if pairs:
        yield "Most frequent confusions:\n"
        rows = [[code(first), code(second), f"{count:,}"] for first, second, count in pairs]
        yield table([*heads, "images"], rows, right=(2,))


def _classes(rows: Sequence[ClassRow]) -> Iterator[str]:
    shown = rows
    if len(rows) > _CLASSES:
        shown = content.lowest(rows, _CLASSES)
        yield f"The {_CLASSES} of {len(rows):,} classes with the lowest F1:\n"
    yield table(
        ["class", "images", "precision", "recall", "F1"],
        [
            [code(row.name), f"{row.support:,}", measure(row.precision), measure(row.recall), measure(row.f1)]
            for row in shown
        ],
        right=(1, 2, 3, 4),
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Write a table; `right` are the columns that are aligned to the right."""
    rule = ["---:" if place in right else "---" for place in range(len(heads))]
    lines = [heads, rule, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(text: str, *, longest: int = _LONGEST) -> str:
    """Write a text of the user's as code, in which Markdown, HTML and mentions mean nothing; in a table, too."""
    plain = clean(text)
    if len(plain) > longest:
        plain = f"{plain[: longest - 1]}…"
    if not plain.strip():
        return f"`{plain or ' '}`"
    fence = "`" * (max(map(len, re.findall("`+", plain)), default=0) + 1)
    room = " " if plain[0] in "` " or plain[-1] in "` " else ""
    return f"{fence}{room}{plain}{room}{fence}".replace("|", "\\|")
