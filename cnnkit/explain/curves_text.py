"""Training curves as text, to look at where the training runs: loss and accuracy in braille dots."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from cnnkit.choices import Monitor
from cnnkit.explain.braille import Canvas, Dot, Span
from cnnkit.explain.curves import PANELS, Run, curve, finite, printable
from cnnkit.formats.history import Row

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_BEST = "●"
#: Letters that name runs at the ends of their curves.
_KEYS = "123456789abcdefghijklmnopqrstuvwxyz"

_BESIDE_FROM = 72  # columns; narrower, and the panels stand below one another
_GAP = 3
_LEAST_ROWS, _MOST_ROWS = 4, 16
_MOST_COLUMNS = 140
_LARGE, _DIGITS = 1e5, 5  # numbers beyond are written with exponents
_FURTHEST, _NEAREST = 8e307, 1e-300  # what lies outside is drawn at the edge, and what lies closer as one
_LEAST_NAME = 8  # letters of a run's name beside its numbers; with less room they stand below it
_AROUND = 3  # lines of a panel that are no curve: title, axis, numbers


def draw(runs: Sequence[Run], *, columns: int, lines: int, monitor: Monitor = Monitor.VAL_LOSS) -> list[list[Span]]:
    """Draw runs: training dotted, validation solid, points before smoothing faint, the best epoch's own values as a disc.

    Args:
        runs: What `curves.collect` gave.
        columns: The width to fit in.
        lines: The height to fit in, if the legend leaves room enough.
        monitor: What the best epochs are the best by.

    Returns:
        Lines of text with styles; none is wider than `columns`.
    """
    columns = min(columns, _MOST_COLUMNS)
    legend = _legend(runs, columns, monitor)
    beside = columns >= _BESIDE_FROM
    room = lines - len(legend) - 1
    rows = room - _AROUND if beside else room // len(PANELS) - _AROUND
    rows = min(max(rows, _LEAST_ROWS), _MOST_ROWS)
    width = (columns - _GAP) // len(PANELS) if beside else columns
    panels = [_panel(runs, title, measures, width, rows) for title, measures in PANELS.items()]
    if beside:
        left, right = panels
        drawn = [[*_padded(line, width + _GAP), *other] for line, other in zip(left, right, strict=True)]
    else:
        drawn = [line for panel in panels for line in panel]
    return [_clipped(line, columns) for line in [*drawn, [], *legend]]


def _panel(runs: Sequence[Run], title: str, measures: tuple[str, str], columns: int, rows: int) -> list[list[Span]]:
    """Draw one panel: title, curves beside their scale, axis, epochs."""
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
    margin = max([len("epoch") - 1, *(len(text) for text in marks.values())])
    named = len(runs) > 1
    wide = max(columns - margin - 2 - named, 4)  # beside the scale, its line, and the names at the ends
    canvas = Canvas(wide + named, rows)

    def place(epoch: float, value: float) -> Dot:
        x = (epoch - first) / (last - first) * (2 * wide - 1)
        y = (high - min(max(value, low), high)) / (high - low) * (canvas.height - 1)
        return round(x), round(y)

    _draw_curves(canvas, runs, measures, place)
    scale = {place(first, value)[1] // 4: text for value, text in marks.items()}
    body = [
        [(f"{scale.get(row, ''):>{margin}} {'┤' if row in scale else '│'}", "dim"), *spans]
        for row, spans in enumerate(canvas.lines())
    ]
    epochs = _marks(first, last, most=max(2, wide // (len(str(last)) + 4)), whole=True)
    axis, numbers = _axis({place(epoch, low)[0] // 2: text for epoch, text in epochs.items()}, wide)
    below = f"{'epoch':<{margin + 2}}{numbers}"
    return [[(title, "bold")], *body, [(f"{'':{margin}} └{axis}", "dim")], [(below, "dim")]]


def _draw_curves(
    canvas: Canvas, runs: Sequence[Run], measures: tuple[str, str], place: Callable[[float, float], Dot]
) -> None:
    """Draw what is faint first, then training, validation, and what marks and names them, so that this is seen best."""

    def dots(rows: Sequence[Row], measure: str) -> list[Dot]:
        return [place(epoch, value) for epoch, value in zip(*curve(rows, measure), strict=True)]

    train, val = measures
    raw = runs[0].rows
    # Of several runs, or of more epochs than there are dots across, they would fill the panel
    if raw is not runs[0].smoothed and len(runs) == 1 and len(raw) <= canvas.width:
        for x, y in [*dots(raw, train), *dots(raw, val)]:
            canvas.faint_dot(x, y)
    for measure in measures:
        for number, run in enumerate(runs):
            canvas.line(dots(run.smoothed, measure), _colour(number), dashed=measure == train)
    if len(runs) > 1:
        for number, run in enumerate(runs):
            if ends := dots(run.smoothed, val) or dots(run.smoothed, train):
                _name(canvas, ends[-1], _key(number), f"bold {_colour(number)}")
    for number, run in enumerate(runs):
        for x, y in dots([run.best], val) if run.best else []:
            canvas.letter(x // 2, y // 4, _BEST, f"bold {_colour(number)}")


def _name(canvas: Canvas, end: Dot, letter: str, style: str) -> None:
    """Name a curve right of its end, where that is free; else just above or below."""
    column, row = end[0] // 2 + 1, end[1] // 4
    near = [row, row - 1, row + 1, row - 2, row + 2]
    inside = [each for each in near if 0 <= each < canvas.rows]
    canvas.letter(column, next((each for each in inside if canvas.is_free(column, each)), row), letter, style)


def _legend(runs: Sequence[Run], columns: int, monitor: Monitor) -> list[list[Span]]:
    """Say what the lines mean, then name the runs with their best epochs."""
    validated = any(curve(run.rows, measure)[0] for run in runs for _, measure in PANELS.values())
    words = [f"{_sample(dashed=True)} training"]
    if validated:
        words.append(f"{_sample(dashed=False)} validation")
    if any(run.best for run in runs):
        words.append(f"{_BEST} best epoch by {monitor}")
    told = [_told(run) for run in runs]
    widths = [max(map(len, column)) for column in zip(*told, strict=True)]
    aligned = ["  ".join(map(str.ljust, texts, widths)).rstrip() for texts in told]
    names = [printable(run.name) for run in runs]
    room = columns - 4 - max(map(len, aligned))
    longest = min(max(map(len, names)), room if room >= _LEAST_NAME else columns - 2)
    lines: list[list[Span]] = [[(line, "dim")] for line in _filled(words, columns)]
    for number, (name, text) in enumerate(zip(names, aligned, strict=True)):
        short = name if len(name) <= longest else f"…{name[len(name) - longest + 1 :]}"
        named = (f"{_key(number) if len(runs) > 1 else '─'} {short:<{longest}}", f"bold {_colour(number)}")
        if room >= _LEAST_NAME:
            lines.append([named, (f"  {text}", "")])
        else:
            lines += [[named], *([(f"  {line}", "")] for line in _filled(told[number], columns - 2))]
    return lines


def _filled(words: Iterable[str], columns: int) -> list[str]:
    """Put words on lines, as many on each as fit."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 2 + len(word) <= columns:
            lines[-1] += f"  {word}"
        else:
            lines.append(word)
    return lines


def _told(run: Run) -> tuple[str, str, str]:
    """Tell of a run its best epoch and the validation then; without validation, the training at its end."""
    last = run.rows[-1]
    shown, prefix = (run.best, "val") if run.best else (last, "train")
    measures = (f"{prefix}_loss", f"{prefix}_accuracy")
    count = f"{_BEST} {shown.epoch} of {last.epoch}" if run.best else f"{last.epoch} epochs"
    loss, accuracy = (
        f"{name} {value:.4g}" if (value := finite(getattr(shown, name))) is not None else "" for name in measures
    )
    return count, loss, accuracy


def _sample(*, dashed: bool) -> str:
    canvas = Canvas(4, 1)
    canvas.line([(0, 1), (canvas.width - 1, 1)], "", dashed=dashed)
    return "".join(text for text, _ in canvas.lines()[0])


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _key(number: int) -> str:
    return _KEYS[number % len(_KEYS)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Give the least and the largest value, as far apart from one another as numbers can tell."""
    # Beyond half of the largest number the span itself has none
    low, high = (min(max(each, -_FURTHEST), _FURTHEST) for each in (min(values, default=0.0), max(values, default=1.0)))
    if high - low > max(_NEAREST, 1e-12 * max(abs(low), abs(high))):
        return low, high
    about = max(abs(low) / 10, _NEAREST) if low else 1.0
    return low - about, high + about


def _marks(low: float, high: float, *, most: int, whole: bool = False) -> dict[float, str]:
    """Give round numbers between two others, one, two or five times a power of ten apart, and how they are written."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    if whole:
        step = max(step, 1.0)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = (number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1))
    large = max(abs(low), abs(high)) >= _LARGE or digits > _DIGITS
    return {number: f"{number:.3g}" if large else f"{number:.{digits}f}" for number in numbers}


def _axis(marks: Mapping[int, str], wide: int) -> tuple[str, str]:
    """Give a horizontal axis, and its numbers under their places."""
    axis, numbers = ["─"] * wide, [" "] * wide
    for column, text in marks.items():
        axis[column] = "┬"
        begin = min(max(column - len(text) // 2, 0), wide - len(text))
        numbers[begin : begin + len(text)] = text
    return "".join(axis), "".join(numbers)


def _padded(line: Sequence[Span], columns: int) -> list[Span]:
    return [*line, (" " * (columns - sum(len(text) for text, _ in line)), "")]


def _clipped(line: Iterable[Span], columns: int) -> list[Span]:
    """Cut a line where the terminal ends, and what is blank at its end."""
    left: list[Span] = []
    for text, style in line:
        left.append((text[:columns], style))
        columns -= len(left[-1][0])
    while left and not left[-1][0].rstrip():
        left.pop()
    if left:
        left[-1] = (left[-1][0].rstrip(), left[-1][1])
    return left
