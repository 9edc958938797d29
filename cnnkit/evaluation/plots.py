"""Plots: confusion matrices (cells show counts, coloured by the share of the true class), and reliability diagrams."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray

from cnnkit import messages
from cnnkit.errors import CnnkitError
from cnnkit.evaluation import calibration, metrics
from cnnkit.evaluation.calibration import Reliability
from cnnkit.evaluation.report import EvaluationReport
from cnnkit.formats import figures, picture_style
from cnnkit.formats.predictions import WITHHELD

# Inches: the side of a cell, within limits of the side of the whole matrix
_CELL, _SMALLEST_SIDE, _LARGEST_SIDE = 0.75, 2.6, 15.0
_POINTS_PER_INCH = 72
_SMALLEST_FONT = 4.5
_LONGEST_NAME = 40  # columns; longer names of classes are cut

# Of reliability diagrams
_WIDTH, _HEIGHT = 4.4, 5.4  # inches, of one diagram
_ACCURACY, _COUNTS = picture_style.DISTINCT[0], picture_style.DISTINCT[4]
# Gaps have a hatch besides their colour, for readers and printers that see grey
_OVERCONFIDENT, _UNDERCONFIDENT = ("#e8a598", "////"), ("#b5d6f3", "....")
_LEGEND = _BARS, _ABOVE, _BELOW, _INTERVALS = "accuracy", "overconfident by", "underconfident by", "95 % interval"
_VISIBLE = 0.002  # a smaller gap is lower than a pixel
_SHARES = (0, 0.2, 0.4, 0.6, 0.8, 1)
_LONGEST_COUNT = 3  # digits; longer counts would overlap their neighbours and are rotated


def save_confusion(path: str | Path, report: EvaluationReport) -> None:
    """Write the confusion matrix of a report atomically; the same matrix gives the same bytes.

    Args:
        path: Its extension selects the format: .png, .svg or .pdf.
        report: From `report.measure`.

    Raises:
        UsageError: Another extension.
        OSError: The file cannot be written.
    """
    support = [report.per_class[label].support for label in report.classes]
    share = f"{report.accuracy:.4f} ({report.accuracy_low:.4f} to {report.accuracy_high:.4f})"
    title = f"accuracy {share}, {messages.count_images(report.n)}"
    figures.save(path, lambda: draw_confusion(report.confusion, report.classes, support=support, title=title))


def draw_confusion(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], *, support: Sequence[int], title: str = ""
) -> Figure:
    """Draw a confusion matrix.

    Args:
        confusion: (C, C), rows are the truth.
        classes: (C,); names of more than 40 columns are cut.
        support: (C,), images of each class; greater than the sum of a row of `confusion` if predictions were withheld.
        title: A line above it.

    Returns:
        A figure outside of pyplot, so nothing has to be closed.
    """
    classes = picture_style.cut_all(list(classes), _LONGEST_NAME)
    counts, columns = _with_withheld(np.asarray(confusion), classes, np.asarray(support))
    shares = counts / np.maximum(np.asarray(support), 1)[:, None]  # (C, C or C + 1)

    cell = min(max(_CELL, _SMALLEST_SIDE / len(columns)), _LARGEST_SIDE / len(columns))
    figure = Figure(figsize=(cell * len(columns), cell * len(classes)))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))  # labels are outside of the axes; the file is cropped to what is drawn
    # Square root: the errors of a good network are a few percent, and should be visible
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), aspect="auto")

    font = float(np.clip(cell * _POINTS_PER_INCH * 0.3, _SMALLEST_FONT, 11))
    for axis, count in ((axes.xaxis, len(columns)), (axes.yaxis, len(classes))):
        axis.set_ticks(np.arange(1, count) - 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=min(0.8, cell))  # to follow a row with the eye
    _label(axes, classes, columns, cell=cell, font=font)
    _write_counts(axes, counts, shares, cell=cell)
    if title:
        axes.set_title(title, fontsize=10, loc="left", pad=10, parse_math=False)
    height = min(1.0, 3.0 / (cell * len(classes)))
    bar = figure.add_axes((1 + 0.2 / (cell * len(columns)), 1 - height, 0.15 / (cell * len(columns)), height))
    figure.colorbar(image, cax=bar, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.set_ylabel("share of the true class", fontsize=8)
    bar.tick_params(labelsize=7)
    return figure


def _with_withheld(
    confusion: NDArray[np.int64], classes: Sequence[str], support: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[str]]:
    """Add a column of withheld predictions if there are any."""
    withheld = support - confusion.sum(axis=1)
    if not withheld.any():
        return confusion, list(classes)
    return np.hstack([confusion, withheld[:, None]]), [*classes, WITHHELD]


def _label(axes: Axes, rows: Sequence[str], columns: Sequence[str], *, cell: float, font: float) -> None:
    """Label rows and columns; only every n-th if labels would overlap."""
    step = int(np.ceil(font * 1.1 / (cell * _POINTS_PER_INCH)))
    upright = (
        max(map(picture_style.columns, columns)) * font * 0.6 > cell * _POINTS_PER_INCH
    )  # a letter is about 0.6 of its height wide
    axes.set_xticks(
        range(0, len(columns), step), columns[::step], fontsize=font, rotation=90 if upright else 0, parse_math=False
    )
    axes.set_yticks(range(0, len(rows), step), rows[::step], fontsize=font, parse_math=False)
    axes.set_xlabel("predicted", fontsize=max(font, 9))
    axes.set_ylabel("true", fontsize=max(font, 9))
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], *, cell: float) -> None:
    """Write the counts other than zero into their cells, if the cells are large enough to read them."""
    digits = len(str(counts.max()))
    font = min(cell * _POINTS_PER_INCH * 0.9 / (digits * 0.65), cell * _POINTS_PER_INCH * 0.45, 11)
    if font < _SMALLEST_FONT:
        return
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.3 else "black"
        text = str(counts[row, column])
        axes.text(column, row, text, ha="center", va="center", fontsize=font, color=colour)


def save_reliability(path: str | Path, reports: Mapping[str, EvaluationReport]) -> None:
    """Write reliability diagrams side by side atomically; the same predictions give the same bytes.

    Args:
        path: Its extension selects the format: .png, .svg or .pdf.
        reports: By the titles of the diagrams. Withheld predictions are left out.

    Raises:
        CnnkitError: The predictions have no probabilities, or every prediction was withheld.
        UsageError: Another extension.
        OSError: The file cannot be written.
    """
    figures.save(path, lambda: draw_reliability({title: _measured(report) for title, report in reports.items()}))


def _measured(report: EvaluationReport) -> Reliability:
    predictions = report.predictions
    given = predictions.prediction >= 0
    found = calibration.reliability(predictions.confidence[given], (predictions.prediction == predictions.truth)[given])
    if found is None:
        reason = "the predictions have no probabilities" if given.any() else "all predictions were withheld"
        raise CnnkitError(f"no reliability diagram: {reason}")
    return found


def draw_reliability(diagrams: Mapping[str, Reliability]) -> Figure:
    """Draw reliability diagrams side by side.

    Args:
        diagrams: By title; an empty title takes no space.

    Returns:
        A figure outside of pyplot, so nothing has to be closed.
    """
    figure = Figure(figsize=(_WIDTH * len(diagrams), _HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, len(diagrams), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    for place, (title, found) in enumerate(diagrams.items()):
        _draw_accuracy(upper[place], found, title=title)
        _draw_counts(lower[place], found)
        lower[place].set_xlabel("confidence")
    upper[0].set_ylabel("accuracy")
    lower[0].set_ylabel("images")
    drawn = {name: kind for axes in upper for kind, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        [drawn[name] for name in _LEGEND if name in drawn],
        [name for name in _LEGEND if name in drawn],
        loc="outside lower center",
        ncols=2 if len(diagrams) == 1 else 4,
        frameon=False,
        fontsize=8.5,
    )
    return figure


def _draw_accuracy(axes: Axes, found: Reliability, *, title: str) -> None:
    """Draw a bar of accuracy for each bin, its gap to the mean confidence above the bar or at its top, and its interval there."""
    left, width = _bins(found)
    accuracy, confidence = np.nan_to_num(found.accuracy), np.nan_to_num(found.confidence)
    axes.bar(left, accuracy, width, align="edge", color=_ACCURACY, edgecolor="white", label=_BARS)
    for label, bottom, top, (colour, hatch) in (
        (_ABOVE, accuracy, confidence, _OVERCONFIDENT),
        (_BELOW, confidence, accuracy, _UNDERCONFIDENT),
    ):
        height = np.maximum(top - bottom, 0)
        named = label if height.max() >= _VISIBLE else None
        axes.bar(
            left, height, width, align="edge", bottom=bottom, color=colour, edgecolor="white", hatch=hatch, label=named
        )
    axes.plot([0, 1], [0, 1], color="0.3", linestyle="--", linewidth=1)
    _draw_intervals(axes, found)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.yaxis.set_major_locator(FixedLocator(_SHARES))
    # A line between title and diagram, where no bar is below it
    axes.set_title(title, fontsize=10, loc="left", pad=19 if title else 6, parse_math=False)
    axes.text(0, 1.025, _summary(found), transform=axes.transAxes, fontsize=8, color="0.3")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_intervals(axes: Axes, found: Reliability) -> None:
    """Draw the accuracy of each bin with its 95 % interval at its mean confidence."""
    known = np.flatnonzero(found.counts)
    accuracy = found.accuracy[known]
    low, high = np.array([metrics.wilson_interval(*_hits(found, place)) for place in known.tolist()]).T
    axes.errorbar(
        found.confidence[known],
        accuracy,
        yerr=np.clip([accuracy - low, high - accuracy], 0, None),  # at 0 and 1, rounding would make them negative
        fmt="o",
        markersize=4,
        color=picture_style.INK,
        markeredgecolor="white",
        markeredgewidth=0.5,
        elinewidth=1,
        capsize=2.5,
        clip_on=False,
        label=_INTERVALS,
        zorder=3,
    )


def _hits(found: Reliability, place: int) -> tuple[int, int]:
    """Return how many predictions of a bin are correct, and how many there are."""
    count = int(found.counts[place])
    return round(float(found.accuracy[place]) * count), count


def _summary(found: Reliability) -> str:
    """Write the expected calibration error, the accuracy, and the number of images."""
    pairs = [_hits(found, place) for place in np.flatnonzero(found.counts).tolist()]
    hits, count = (sum(each) for each in zip(*pairs, strict=True))
    low, high = metrics.wilson_interval(hits, count)
    return (
        f"ECE {found.error:.4f}, accuracy {hits / count:.4f} ({low:.4f} to {high:.4f}), {messages.count_images(count)}"
    )


def _draw_counts(axes: Axes, found: Reliability) -> None:
    """Draw the number of images in each bin, with the number above the bar."""
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
    """Return the lower bounds of the bins, and their width."""
    count = len(found.counts)
    return np.arange(count) / count, 1 / count
