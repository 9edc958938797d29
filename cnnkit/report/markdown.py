"""The summary of a report in GitHub's Markdown: short enough for a pull request."""

import re
from collections.abc import Iterable, Iterator, Sequence

from cnnkit.report import content
from cnnkit.report.content import ClassRow, ReportContent
from cnnkit.report.markup import clean

#: Classes listed, and confusions; of more classes, those with the lowest F1.
_CLASSES, _CONFUSIONS = 20, 5
#: The longest name that is written in full.
_LONGEST = 60


def render(report: ReportContent) -> str:
    """Render the summary."""
    return "\n".join([*_blocks(report)])


def _blocks(report: ReportContent) -> Iterator[str]:
    found = report.evaluation
    yield f"### {code(report.title, longest=120)}\n"
    interval = f"95 % interval {_percent(found.accuracy_low)} to {_percent(found.accuracy_high)}"
    withheld = f", {found.n - found.predicted:,} withheld" if found.predicted < found.n else ""
    yield f"**Accuracy {_percent(found.accuracy)}** ({interval}), {found.n:,} images, {report.wrong:,} wrong{withheld}.\n"
    if report.gates:
        missed = sum(not gate.met for gate in report.gates)
        yield (
            f"**{missed} of {len(report.gates)} bounds violated.**\n"
            if missed
            else f"All {len(report.gates)} bounds are met.\n"
        )
        yield table(
            ["", "bound", "value"],
            [
                ["✅ met" if gate.met else "❌ violated", code(gate.condition), _measure(gate.value)]
                for gate in report.gates
            ],
            right=(2,),
        )
    measures = {
        "accuracy": f"{_measure(found.accuracy)} ({_measure(found.accuracy_low)} to {_measure(found.accuracy_high)})",
        "balanced accuracy": _measure(found.balanced_accuracy),
        "log-loss": _measure(found.log_loss),
        "ROC AUC": _measure(found.roc_auc),
        "expected calibration error": _measure(found.ece),
    }
    if found.predicted < found.n:
        measures["predicted"] = f"{found.predicted:,} of {found.n:,}"
        measures["accuracy of predictions"] = _measure(found.accuracy_predicted)
    if found.coverage is not None:
        interval = f"{_measure(found.coverage_low)} to {_measure(found.coverage_high)}"
        measures["true class in the prediction set"] = f"{_measure(found.coverage)} ({interval})"
        measures["labels in a set"] = _measure(found.set_size)
    if found.boxes:
        measures["mean IoU"] = f"{_measure(found.iou)} ({found.boxes:,} boxes)"
    yield table(["measure", "value"], [[key, value] for key, value in measures.items()], right=(1,))
    yield from _classes(list(content.class_rows(found)))
    if pairs := content.most_confused(found, _CONFUSIONS):
        yield "Most frequent confusions:\n"
        yield table(
            ["true", "predicted", "images"],
            [[code(each.truth), code(each.label), f"{each.count:,}"] for each in pairs],
            right=(2,),
        )


def _classes(rows: Sequence[ClassRow]) -> Iterator[str]:
    shown = rows
    if len(rows) > _CLASSES:
        shown = sorted(rows, key=lambda row: (row.support == 0, row.f1 if row.f1 is not None else 0.0))[:_CLASSES]
        yield f"The {_CLASSES} of {len(rows):,} classes with the lowest F1:\n"
    yield table(
        ["class", "images", "precision", "recall", "F1"],
        [
            [code(row.name), f"{row.support:,}", _measure(row.precision), _measure(row.recall), _measure(row.f1)]
            for row in shown
        ],
        right=(1, 2, 3, 4),
    )


def _measure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


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
