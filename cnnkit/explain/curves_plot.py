"""Training curves as an image: loss and accuracy side by side, one colour per run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cnnkit.choices import Monitor
from cnnkit.explain.curves import TrainingRun, curve, panels
from cnnkit.formats import figures, picture_style

_Style = Literal["--", "-"]

_STYLES: tuple[_Style, _Style] = ("--", "-")  # training, validation
_FAINT = 0.3
_WIDTH, _HEIGHT, _LEGEND_ROW = 10, 3.6, 0.21  # inches
_LONG_NAME = 30  # columns; longer names get one legend row each
_LONGEST_NAME = 90  # columns; longer names are cut
_POINTS_UP_TO = 150  # epochs; with more, measured values are drawn as a thin line
_DOTTED_UP_TO = 40  # epochs; with more, lines have no dots


def save(path: str | Path, runs: Sequence[TrainingRun], *, monitor: Monitor = Monitor.VAL_LOSS) -> None:
    """Write a drawing of runs atomically; the same histories give the same bytes.

    Args:
        path: Its extension selects the format: .png, .svg or .pdf.
        runs: From `curves.collect`.
        monitor: The measure that selects the best epochs.

    Raises:
        UsageError: Another extension.
        OSError: The file cannot be written.
    """
    figures.save(path, lambda: render(runs, monitor=monitor))


def render(runs: Sequence[TrainingRun], *, monitor: Monitor = Monitor.VAL_LOSS) -> Figure:
    """Draw runs: training dashed, validation solid, values before smoothing faint, the measured values of the best epoch as a disc.

    Returns:
        A figure outside of pyplot, so nothing has to be closed.
    """
    colours = _colours(len(runs))
    legend = _explanations(runs, colours, monitor=monitor)
    figure = Figure(figsize=(_WIDTH, _HEIGHT + _LEGEND_ROW * len(legend)), layout="constrained")
    FigureCanvasAgg(figure)
    drawn = panels(runs)
    for axes, (title, measures) in zip(figure.subplots(1, len(drawn), sharex=True), drawn.items(), strict=True):
        for run, colour in zip(runs, colours, strict=True):
            for measure, style in zip(measures, _STYLES, strict=True):
                _draw(axes, run, measure, colour=colour, style=style)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="0.9", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    _add_legend(figure, legend)
    return figure


def _draw(axes: Axes, run: TrainingRun, measure: str, *, colour: str, style: _Style) -> None:
    """Draw one measure of one run, and mark the best epoch if the measure is of validation."""
    epochs, values = curve(run.smoothed, measure)
    if run.smoothed is not run.rows:
        many = len(epochs) > _POINTS_UP_TO
        (raw,) = axes.plot(*curve(run.rows, measure), color=colour, alpha=_FAINT, linewidth=0.8, markersize=4)
        raw.set(linestyle="-" if many else "none", marker="none" if many else ".")
    marker = "." if len(epochs) <= _DOTTED_UP_TO and run.smoothed is run.rows else ""
    axes.plot(epochs, values, linestyle=style, linewidth=1.5, marker=marker or "none", markersize=4, color=colour)
    if run.start is not None and measure.startswith("val_"):
        axes.plot(*curve([run.start], measure), linestyle="none", marker="D", markersize=6, color="white", mec=colour)
    if run.best is not None and measure.startswith("val_"):
        axes.plot(*curve([run.best], measure), linestyle="none", marker="o", markersize=8, color=colour, mec="black")


def _explanations(
    runs: Sequence[TrainingRun], colours: Sequence[str], *, monitor: Monitor
) -> list[list[tuple[Line2D, str]]]:
    """Return the rows of the legend: the meaning of the lines, then the runs."""
    validated = any(curve(run.rows, measure)[0] for run in runs for _, measure in panels(runs).values())
    words = ("training", "validation") if validated else ("training",)
    meanings = [
        (Line2D([], [], color="0.3", linestyle=style), word) for style, word in zip(_STYLES, words, strict=False)
    ]
    if any(run.best for run in runs):
        disc = Line2D([], [], linestyle="none", marker="o", markersize=8, color="0.8", mec="black")
        meanings.append((disc, f"best epoch by {monitor}"))
    if any(run.start for run in runs):
        diamond = Line2D([], [], linestyle="none", marker="D", markersize=6, color="white", mec="0.3")
        meanings.append((diamond, "before training"))
    names = picture_style.cut_all([run.name for run in runs], _LONGEST_NAME)
    columns = len(meanings) if max(map(picture_style.columns, names)) < _LONG_NAME else 1
    entries = list(meanings)
    for run, name, colour in zip(runs, names, colours, strict=True):
        best = f", best epoch {run.best.epoch} of {run.rows[-1].epoch}" if run.best else ""
        entries.append((Line2D([], [], color=colour, linewidth=4), name + best))
    return [entries[start : start + columns] for start in range(0, len(entries), columns)]


def _add_legend(figure: Figure, rows: Sequence[Sequence[tuple[Line2D, str]]]) -> None:
    """Put the legend under both panels; matplotlib fills it column by column."""
    entries = [row[column] for column in range(len(rows[0])) for row in rows if column < len(row)]
    handles = [handle for handle, _ in entries]
    # Names are set afterwards: a legend leaves out those that begin with "_"
    legend = figure.legend(handles, [" "] * len(entries), loc="outside lower left", ncols=len(rows[0]), frameon=False)
    for text, (_, words) in zip(legend.get_texts(), entries, strict=True):
        text.set(text=words, parse_math=False)


def _colours(count: int) -> Sequence[str]:
    """Return a colour for each run; more than ten are steps of one colour map."""
    if count <= len(picture_style.DISTINCT):
        return picture_style.DISTINCT[:count]
    from matplotlib.colors import to_hex

    return [to_hex(mpl.colormaps["turbo"](place / (count - 1))) for place in range(count)]
