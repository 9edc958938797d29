"""The learning-rate range test as a figure: the loss over the learning rate, with the suggestions."""

import logging
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cnnkit.formats import figures, picture_style
from cnnkit.train import find_lr
from cnnkit.train.find_lr import LrStep

log = logging.getLogger("cnnkit")

_LINE, _VALLEY, _STEEPEST = picture_style.DISTINCT[:3]
#: In the order of drawing: the valley stands in the larger mark of the steepest descent if both are the same step.
_MARKS = {
    "steepest": ("s", _STEEPEST, 11, "steepest descent"),
    "valley": ("o", _VALLEY, 7, "valley: suggested"),
}
#: The room above and below, as shares of the range of the smoothed loss up to its minimum: the loss diverges far above it.
_ABOVE, _BELOW = 0.4, 0.15


def conclude(steps: Sequence[LrStep], figure: Path, *, writes: bool = True) -> list[LrStep]:
    """Draw the test, and report the suggestions.

    Args:
        steps: Of `find_lr.range_test`.
        figure: A name that ends in .png, .svg or .pdf.
        writes: This process writes the file.

    Raises:
        CnnkitError: As `find_lr.with_suggestions`.
    """
    marked = find_lr.with_suggestions(steps)
    if writes:
        save(figure, marked)
    rates = {name: each.lr for each in marked for name in each.suggested.split(",") if name}
    last = marked[-1]
    log.info(
        "suggested: --lr %.2g, in the longest decline of the loss; the steepest descent is at %.2g, and %s at %.2g",
        rates["valley"],
        rates["steepest"],
        "the test ends" if len(marked) == find_lr.STEPS else "the loss diverges",
        last.lr,
    )
    return marked


def save(path: str | Path, steps: Sequence[LrStep]) -> None:
    """Write a figure atomically; the same steps give the same bytes.

    Raises:
        UsageError: The name does not end in .png, .svg or .pdf.
        OSError: The file cannot be written.
    """
    figures.save(path, lambda: render(steps))


def render(steps: Sequence[LrStep]) -> Figure:
    """Draw the loss of each step faintly, the smoothed loss, and the suggested learning rates."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    rates = [each.lr for each in steps]
    axes.plot(rates, [each.loss for each in steps], ".", color="0.75", markersize=4, label="loss of a batch")
    axes.plot(rates, [each.smoothed for each in steps], color=_LINE, linewidth=2, label="smoothed")
    suggested = {name: step for step in steps for name in step.suggested.split(",") if name}
    for name, (marker, colour, size, label) in _MARKS.items():
        step = suggested[name]
        axes.axvline(step.lr, color=colour, linewidth=1, linestyle=":")
        axes.plot(
            step.lr, step.smoothed, marker, color=colour, mec="black", markersize=size, label=f"{label}, {step.lr:.2g}"
        )
    axes.set_ylim(*_limits([each.smoothed for each in steps], [each.smoothed for each in suggested.values()]))
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.grid(color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    return figure


def _limits(losses: Sequence[float], marked: Sequence[float]) -> tuple[float, float]:
    """Return the bottom and the top of the figure: around the loss up to its minimum after the first steps, and the marks."""
    first = find_lr.SKIPPED_FIRST
    lowest = losses.index(min(losses[first:]), first)
    shown = [*losses[: lowest + 1], *marked]
    bottom, top = min(shown), max(shown)
    height = max(top - bottom, 0.05 * abs(top))
    return bottom - _BELOW * height, top + _ABOVE * height
