"""A reliability diagram: accuracy by confidence against the diagonal, and how many pictures stand behind each bar."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cnnkit.errors import CnnkitError
from cnnkit.evaluation import calibration
from cnnkit.evaluation.calibration import Reliability
from cnnkit.evaluation.report import Report
from cnnkit.formats import figures

_WIDTH, _HEIGHT = 4.4, 5.4  # inches, of one diagram
_ACCURACY, _TOO_SURE, _TOO_MODEST, _COUNTS = "#3f90da", "#e8a598", "#b5d6f3", "#94a4a2"
_LONGEST_COUNT = 3  # digits; longer ones would run into their neighbours, and stand upright


def save(path: str | Path, reports: Mapping[str, Report]) -> None:
    """Draw reliability diagrams side by side into a file, in one step; the same answers give the same bytes.

    Args:
        path: Its ending names the format: .png, .svg or .pdf.
        reports: What was measured, by the titles of the diagrams. Answers that were withheld are left out.

    Raises:
        CnnkitError: The predictions carry no probabilities, or every answer was withheld.
        UsageError: Another format.
        OSError: The file cannot be written.
    """
    figures.save(path, lambda: render({title: _measured(report) for title, report in reports.items()}))


def _measured(report: Report) -> Reliability:
    answers = report.answers
    given = answers.answer >= 0
    found = calibration.reliability(answers.confidence[given], (answers.answer == answers.truth)[given])
    if found is None:
        reason = "the predictions have no probability" if given.any() else "every answer was withheld"
        raise CnnkitError(f"no reliability diagram: {reason}")
    return found


def render(diagrams: Mapping[str, Reliability]) -> Figure:
    """Draw reliability diagrams side by side.

    Args:
        diagrams: By their titles; an empty title leaves no room.

    Returns:
        A figure that pyplot does not know of, so nothing is left behind.
    """
    figure = Figure(figsize=(_WIDTH * len(diagrams), _HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, len(diagrams), sharex=True, squeeze=False, height_ratios=(3, 1))
    for place, (title, found) in enumerate(diagrams.items()):
        _draw_accuracy(upper[place], found, title=title)
        _draw_counts(lower[place], found)
        lower[place].set_xlabel("confidence")
    upper[0].set_ylabel("accuracy")
    lower[0].set_ylabel("pictures")
    drawn, labels = upper[0].get_legend_handles_labels()
    figure.legend(drawn, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8.5)
    return figure


def _draw_accuracy(axes: Axes, found: Reliability, *, title: str) -> None:
    """Draw a bar of accuracy for each bin, and its gap to the mean confidence there: above the bar, or the top of it."""
    left, width = _bins(found)
    accuracy, confidence = np.nan_to_num(found.accuracy), np.nan_to_num(found.confidence)
    axes.bar(left, accuracy, width, align="edge", color=_ACCURACY, edgecolor="white", label="accuracy")
    for label, bottom, top, colour in (
        ("too sure by", accuracy, confidence, _TOO_SURE),
        ("too modest by", confidence, accuracy, _TOO_MODEST),
    ):
        height = np.maximum(top - bottom, 0)
        axes.bar(left, height, width, align="edge", bottom=bottom, color=colour, edgecolor="white", label=label)
    axes.plot([0, 1], [0, 1], color="0.3", linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.text(
        0.03,
        0.96,
        f"ECE {found.error:.4f}",
        ha="left",
        va="top",
        fontsize=10,
        bbox={"color": "white", "alpha": 0.85},
    )
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_counts(axes: Axes, found: Reliability) -> None:
    """Draw how many pictures each bin holds, with the number above it."""
    left, width = _bins(found)
    axes.bar(left, found.counts, width, align="edge", color=_COUNTS, edgecolor="white")
    upright = len(str(found.counts.max())) > _LONGEST_COUNT
    for start, count in zip(left, found.counts.tolist(), strict=True):
        if count:
            axes.annotate(
                str(count),
                (start + width / 2, count),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=6.5,
                rotation=90 if upright else 0,
            )
    axes.margins(y=0.45 if upright else 0.2)  # room for the numbers
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    axes.spines[["top", "right"]].set_visible(False)


def _bins(found: Reliability) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], float]:
    """Give where bins begin, and how wide they are."""
    count = len(found.counts)
    return np.arange(count) / count, 1 / count
