"""Learning curve as a figure: measured accuracies with intervals, the fitted power law, and the interval of what it predicts."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from cnnkit.evaluation.learning_curve import CurvePoint, LearningCurve
from cnnkit.formats import figures, picture_style

_MEASURED, _LAW = picture_style.DISTINCT[0], picture_style.DISTINCT[2]
_WIDTH, _HEIGHT = 7.0, 4.4  # inches
# Measured numbers of images that have a label on the axis, at most
_MOST_LABELS = 5


def save(path: str | Path, curve: LearningCurve) -> None:
    """Write a drawing atomically; the same curve gives the same bytes.

    Raises:
        UsageError: The file's ending is not .png, .svg or .pdf.
        OSError: The file cannot be written.
    """
    figures.save(path, lambda: draw(curve))


def draw(curve: LearningCurve) -> Figure:
    """Draw a learning curve over a logarithmic axis.

    Returns:
        A figure outside of pyplot, so nothing has to be closed.
    """
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    measured = [point for point in curve.points if point.gain is None]
    predicted = [point for point in curve.points if point.gain is not None]
    images = [point.images for point in curve.points]
    if curve.law is not None:
        line = np.geomspace(images[0], images[-1], 200)
        inside = line <= measured[-1].images
        axes.plot(line[inside], curve.law(line[inside]), color=_LAW, linewidth=1.2, label="power law")
        axes.plot(line[~inside], curve.law(line[~inside]), color=_LAW, linewidth=1.2, linestyle="--")
    for points, colour, marker, label in (
        (measured, _MEASURED, "o", "measured, 95 % interval of the validation images"),
        (predicted, _LAW, "D", "extrapolated, 95 % interval of the bootstrap"),
    ):
        if points:
            accuracies = [point.accuracy for point in points]
            axes.errorbar(
                [point.images for point in points],
                accuracies,
                yerr=_distances(points),
                fmt=marker,
                color=colour,
                markersize=5,
                capsize=3,
                linewidth=1.2,
                label=label,
            )
    axes.set_xscale("log", base=2)
    step = -(-len(measured) // _MOST_LABELS)
    axes.set_xticks([point.images for point in (*measured[::-1][::step], *predicted)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{round(value):,}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _place: f"{100 * share:.6g} %"))
    axes.set_xlabel("training images")
    axes.set_ylabel("accuracy on the validation images")
    axes.grid(color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return figure


def _distances(points: list[CurvePoint]) -> list[list[float]]:
    """Return the distances of accuracies from the ends of their intervals, (2, N)."""
    return [[point.accuracy - point.low for point in points], [point.high - point.accuracy for point in points]]
