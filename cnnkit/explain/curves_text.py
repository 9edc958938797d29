"""Training curves as text, for a terminal: loss and accuracy, drawn by plotext."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import plotext

from cnnkit.choices import Monitor
from cnnkit.explain.curves import TrainingRun, curve, finite, panels
from cnnkit.formats.history import HistoryRow
from cnnkit.messages import printable

#: Text and its style for rich: "cyan", "bold", or empty.
Span = tuple[str, str]
#: An epoch, and a value scaled to 0 to 1.
Point = tuple[float, float]

#: The colours of a terminal by number, in the order of the runs.
_COLOURS = {6: "cyan", 5: "magenta", 3: "yellow", 2: "green", 4: "blue", 1: "red"}
_BEST, _START, _EPOCH = "●", "◇", "epoch"
#: Keys of runs at the ends of their curves.
_KEYS = "123456789abcdefghijklmnopqrstuvwxyz"

_SIDE_BY_SIDE_FROM = 72  # columns; on narrower terminals one panel is below the other
_GAP = 3
_LEAST_ROWS, _MOST_ROWS = 4, 16
_MOST_COLUMNS = 140
_LARGE, _DIGITS = 1e5, 5  # numbers beyond are written with exponents
_FURTHEST, _NEAREST = 8e307, 1e-300  # larger values are drawn at the edge, smaller differences as equal
_LEAST_NAME = 8  # minimum letters of a run's name next to its numbers; with less room the numbers are below
_AROUND = 3  # lines of a panel without curves: title, axis, numbers
_DASH = 3  # one of every three dots is drawn


def draw(
    runs: Sequence[TrainingRun], *, columns: int, lines: int, monitor: Monitor = Monitor.VAL_LOSS
) -> list[list[Span]]:
    """Draw runs: training dotted, validation solid, values before smoothing faint, the measured values of the best epoch as a disc.

    Args:
        runs: From `curves.collect`.
        columns: The width available.
        lines: The height available; a long legend may exceed it.
        monitor: The measure that selects the best epochs.

    Returns:
        Lines of text with styles; none is wider than `columns`.
    """
    columns = min(columns, _MOST_COLUMNS)
    legend = _legend(runs, columns, monitor)
    shown = panels(runs)
    side_by_side = columns >= _SIDE_BY_SIDE_FROM * len(shown) // 2
    room = lines - len(legend) - 1
    rows = room - _AROUND if side_by_side else room // len(shown) - _AROUND
    rows = min(max(rows, _LEAST_ROWS), _MOST_ROWS)
    width = (columns - _GAP * (len(shown) - 1)) // len(shown) if side_by_side else columns
    parts = [_panel(runs, title, measures, width, rows) for title, measures in shown.items()]
    if side_by_side:
        drawn = parts[-1]
        for left in reversed(parts[:-1]):
            drawn = [[*_padded(line, width + _GAP), *other] for line, other in zip(left, drawn, strict=True)]
    else:
        drawn = [line for part in parts for line in part]
    return [_clipped(line, columns) for line in [*drawn, [], *legend]]


def _panel(
    runs: Sequence[TrainingRun], title: str, measures: tuple[str, str], columns: int, rows: int
) -> list[list[Span]]:
    """Draw one panel: title, scale, curves, axis and epochs."""
    values = [
        value
        for run in runs
        for measure in measures
        for drawn in (run.rows, run.smoothed)
        for value in curve(drawn, measure)[1]
    ]
    low, high = _span(values)
    first, last = min(run.rows[0].epoch for run in runs), max(run.rows[-1].epoch for run in runs)
    last = max(last, first + 1)
    marks = _marks(low, high, most=max(4, rows // 3))
    margin = max(len(_EPOCH), *map(len, marks.values()))
    wide = max(columns - margin - 1, 4)
    named = len(runs) > 1  # by a letter in one more column
    cell = (last - first) / max(wide - 1 - named, 1)
    figure = plotext.figure
    figure.clear.all()
    plotext.terminal.limit(False, False)  # the size is given by the output stream
    figure.plot_size(columns, rows + 2)
    figure.axes(False, side=1)
    epochs = _marks(first, last, most=max(2, wide // (len(str(last)) + 4)), whole=True)
    figure.ruler(0, 0).lim(first, last + named * cell).ticks(list(epochs), list(epochs.values()))
    scale = [text.rjust(margin) for text in marks.values()]
    figure.ruler(1, 0).lim(0, 1).ticks([(value - low) / (high - low) for value in marks], scale)
    _draw_curves(runs, measures, span=(low, high), cell=cell, size=(wide, rows))
    *body, numbers = _spans(figure.build().string())
    below = "".join(text for text, _ in numbers)
    if not below[:margin].strip():
        below = _EPOCH + below[len(_EPOCH) :]
    return [[(title, "bold")], *body, [(below, "dim")]]


def _draw_curves(
    runs: Sequence[TrainingRun],
    measures: tuple[str, str],
    *,
    span: tuple[float, float],
    cell: float,
    size: tuple[int, int],
) -> None:
    """Draw faint values first, then training, validation, and on top the keys and marks.

    Args:
        runs: One or several.
        measures: Of training and of validation.
        span: The smallest and the largest value.
        cell: The width of a character in epochs.
        size: Width and height in characters.
    """
    low, high = span
    wide, rows = size

    def points(drawn: Iterable[HistoryRow], measure: str) -> list[Point]:
        """Scale values to 0 to 1: plotext cannot handle the smallest and the largest floats itself."""
        known = zip(*curve(drawn, measure), strict=True)
        return [(epoch, (min(max(value, low), high) - low) / (high - low)) for epoch, value in known]

    train, val = measures
    raw = runs[0].rows
    # For several runs, or for more epochs than dots, they would fill the panel
    if raw is not runs[0].smoothed and len(runs) == 1 and len(raw) <= 2 * wide:
        _plot([*points(raw, train), *points(raw, val)], "braille", None, "dim")
    dots = (2 / cell, 4 * (rows - 1))
    for number, run in enumerate(runs):
        _plot(list(_dotted(points(run.smoothed, train), dots)), "braille", number)
        _plot(points(run.smoothed, val), "braille", number, line=True)
    taken: set[tuple[int, int]] = set()
    for number, run in enumerate(runs):
        if len(runs) > 1 and (ends := points(run.smoothed, val) or points(run.smoothed, train)):
            _plot([_free(ends[-1], cell, rows, taken)], _key(number), number, "bold")
        if run.start:
            _plot(points([run.start], val), _START, number, "bold")
        if run.best:
            _plot(points([run.best], val), _BEST, number, "bold")


def _plot(
    where: Sequence[Point], letter: str, number: int | None, style: str = "default", *, line: bool = False
) -> None:
    """Draw a character, dots, or a line of dots in the colour of a run."""
    if where:
        colour = None if number is None else list(_COLOURS)[number % len(_COLOURS)]
        xs, ys = zip(*where, strict=True)
        signal = plotext.figure.signal(list(xs), list(ys), marker=plotext.marker(letter, pixel=(colour, None, style)))
        plotext.figure.draw(signal.lines(line))


def _dotted(points: Sequence[Point], dots: tuple[float, float]) -> Iterator[Point]:
    """Yield every third dot along the line through points; `dots` is the number of dots per unit of x and of y."""
    count = 0
    yield from points[:1]
    for (x, y), (to_x, to_y) in pairwise(points):
        steps = max(round(max(abs(to_x - x) * dots[0], abs(to_y - y) * dots[1])), 1)
        for step in range(1, steps + 1):
            count += 1
            if count % _DASH == 0:
                yield x + (to_x - x) * step / steps, y + (to_y - y) * step / steps


def _free(end: Point, cell: float, rows: int, taken: set[tuple[int, int]]) -> Point:
    """Find a free place for a key right of the end of a curve: next to it, or just above or below."""
    x, row = end[0] + cell, round(end[1] * (rows - 1))
    column = round(x / cell)
    near = [each for each in (row, row + 1, row - 1, row + 2, row - 2) if 0 <= each < rows]
    place = next((each for each in near if (column, each) not in taken), row)
    taken.add((column, place))
    return x, place / (rows - 1)


def _spans(drawn: str) -> list[list[Span]]:
    """Convert the output of plotext to text with styles."""
    lines = []
    for line in drawn.splitlines():
        spans: list[Span] = []
        codes = ""
        for part in re.split(r"(\x1b\[[0-9;]*m)", line):
            if part.startswith("\x1b"):
                codes = "" if part == "\x1b[0m" else codes + part
            elif part:
                spans.append((part, _style(codes)))
        lines.append(spans)
    return lines


def _style(codes: str) -> str:
    words = [word for code, word in (("\x1b[1m", "bold"), ("\x1b[2m", "dim")) if code in codes]
    words += [name for number, name in _COLOURS.items() if f"[38;5;{number}m" in codes]
    return " ".join(words) or "dim"  # the axes


def _legend(runs: Sequence[TrainingRun], columns: int, monitor: Monitor) -> list[list[Span]]:
    """Return the legend: the meaning of the lines, then the runs with their best epochs."""
    validated = any(curve(run.rows, measure)[0] for run in runs for _, measure in panels(runs).values())
    words = ["⠂⠐ ⠂ training"]
    if validated:
        words.append("⠒⠒⠒⠒ validation")
    if any(run.best for run in runs):
        words.append(f"{_BEST} best epoch by {monitor}")
    if any(run.start for run in runs):
        words.append(f"{_START} before training")
    summaries = [_summary(run) for run in runs]
    widths = [max(map(len, column)) for column in zip(*summaries, strict=True)]
    aligned = ["  ".join(map(str.ljust, texts, widths)).rstrip() for texts in summaries]
    names = [printable(run.name) for run in runs]
    room = columns - 4 - max(map(len, aligned))
    longest = min(max(map(len, names)), room if room >= _LEAST_NAME else max(columns - 2, 1))
    lines: list[list[Span]] = [[(line, "dim")] for line in _filled(words, columns)]
    for number, (name, text) in enumerate(zip(names, aligned, strict=True)):
        short = name if len(name) <= longest else f"…{name[len(name) - longest + 1 :]}"
        named = (f"{_key(number) if len(runs) > 1 else '─'} {short:<{longest}}", f"bold {_colour(number)}")
        if room >= _LEAST_NAME:
            lines.append([named, (f"  {text}", "")])
        else:
            lines += [[named], *([(f"  {line}", "")] for line in _filled(summaries[number], columns - 2))]
    return lines


def _filled(words: Iterable[str], columns: int) -> list[str]:
    """Wrap words into lines."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 2 + len(word) <= columns:
            lines[-1] += f"  {word}"
        else:
            lines.append(word)
    return lines


def _summary(run: TrainingRun) -> tuple[str, str, str]:
    """Describe the best epoch of a run and its validation measures; without validation, the last epoch and its training measures."""
    last = run.rows[-1]
    shown, prefix = (run.best, "val") if run.best else (last, "train")
    measures = (f"{prefix}_loss", f"{prefix}_accuracy")
    count = f"{_BEST} {shown.epoch} of {last.epoch}" if run.best else f"{last.epoch} epochs"
    loss, accuracy = (
        f"{name} {value:.4g}" if (value := finite(getattr(shown, name))) is not None else "" for name in measures
    )
    return count, loss, accuracy


def _colour(number: int) -> str:
    return list(_COLOURS.values())[number % len(_COLOURS)]


def _key(number: int) -> str:
    return _KEYS[number % len(_KEYS)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return the smallest and the largest value, with a minimum distance."""
    # With values beyond half of the largest float, their difference would overflow
    low, high = (min(max(each, -_FURTHEST), _FURTHEST) for each in (min(values, default=0.0), max(values, default=1.0)))
    if high - low > max(_NEAREST, 1e-12 * max(abs(low), abs(high))):
        return low, high
    about = max(abs(low) / 10, _NEAREST) if low else 1.0
    return low - about, high + about


def _marks(low: float, high: float, *, most: int, whole: bool = False) -> dict[float, str]:
    """Return round numbers between two values, one, two or five times a power of ten apart, and their labels."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    if whole:
        step = max(step, 1.0)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = (number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1))
    large = max(abs(low), abs(high)) >= _LARGE or digits > _DIGITS
    return {number: f"{number:.3g}" if large else f"{number:.{digits}f}" for number in numbers}


def _padded(line: Sequence[Span], columns: int) -> list[Span]:
    return [*line, (" " * (columns - sum(len(text) for text, _ in line)), "")]


def _clipped(line: Iterable[Span], columns: int) -> list[Span]:
    """Clip a line to the width of the terminal, and strip blanks at its end."""
    left: list[Span] = []
    for text, style in line:
        left.append((text[:columns], style))
        columns -= len(left[-1][0])
    while left and not left[-1][0].rstrip():
        left.pop()
    if left:
        left[-1] = (left[-1][0].rstrip(), left[-1][1])
    return left
