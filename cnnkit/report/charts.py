"""Charts as SVG elements, whose text can be selected and whose colours are those of the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from cnnkit import messages
from cnnkit.evaluation.coverage import CoveragePoint
from cnnkit.explain import curves
from cnnkit.explain.curves import TrainingRun
from cnnkit.report.content import Bin
from cnnkit.report.markup import Content, element

#: Width of a chart in its own units, in which letters are 13 high; pages scale it to the width of a column.
_WIDTH = 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 44


@dataclass(frozen=True, slots=True)
class _Axes:
    """The area of a chart between `low` and `high` values on both axes; `top` and `bottom` are its edges."""

    x: tuple[float, float]
    y: tuple[float, float]
    top: float
    bottom: float

    def across(self, value: float) -> float:
        """Return the place of a value on the horizontal axis."""
        low, high = self.x
        return _LEFT + (value - low) / (high - low or 1) * (_WIDTH - _LEFT - _RIGHT)

    def down(self, value: float) -> float:
        """Return the place of a value on the vertical axis."""
        low, high = self.y
        return self.bottom - (value - low) / (high - low or 1) * (self.bottom - self.top)


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Choose up to `most` round numbers between two values: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if span / (factor * power) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    found: list[float] = []
    while (first + len(found)) * step <= high + step * 1e-9:
        found.append(round((first + len(found)) * step, 12))
    return found


def _figure(height: float, title: str, description: str, *content: Content) -> Element:
    return element(
        "svg",
        {
            "class": "chart",
            "viewBox": f"0 0 {_WIDTH} {height:g}",
            "role": "img",
            "aria-label": f"{title}. {description}",
        },
        *content,
    )


def _text(
    x: float, y: float, words: str, *, anchor: str = "middle", kind: str | None = None, turn: bool = False
) -> Element:
    turned = f"rotate(-90 {x:g} {y:g})" if turn else None
    return element("text", {"x": x, "y": y, "text-anchor": anchor, "class": kind, "transform": turned}, words)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Element:
    return element("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": kind})


def _grid(
    axes: _Axes, *, x_name: str, y_name: str, x_ticks: Sequence[float], y_ticks: Sequence[float]
) -> list[Element]:
    """Draw lines at the numbers of the axes, the numbers, and the names of the axes."""
    right = _WIDTH - _RIGHT
    drawn = []
    for value in y_ticks:
        drawn += [
            _line(_LEFT, axes.down(value), right, axes.down(value), "grid"),
            _text(_LEFT - 7, axes.down(value) + 4.5, f"{value:g}", anchor="end"),
        ]
    for value in x_ticks:
        drawn.append(_text(axes.across(value), axes.bottom + 17, f"{value:g}"))
    drawn += [
        _line(_LEFT, axes.bottom, right, axes.bottom, "axis"),
        *([_text((_LEFT + right) / 2, axes.bottom + 36, x_name, kind="label")] if x_name else []),
        _text(14, (axes.top + axes.bottom) / 2, y_name, kind="label", turn=True),
    ]
    return drawn


# ---------------------------------------------------------------- reliability


def _short(count: int) -> str:
    """Write a count in at most four characters."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= 10 * size:
            return f"{count // size}{unit}"
    return str(count)


def reliability(bins: Sequence[Bin]) -> Element:
    """Draw the accuracy of each bin at its mean confidence, with its interval, and the number of its predictions below."""
    axes = _Axes((0.0, 1.0), (0.0, 1.0), _TOP, 320)
    counts = _Axes((0.0, 1.0), (0.0, max(each.count for each in bins)), 372, 442)
    shares = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    drawn: list[Content] = [
        *_grid(axes, x_name="", y_name="accuracy", x_ticks=shares, y_ticks=shares),
        _line(axes.across(0), axes.down(0), axes.across(1), axes.down(1), "ideal"),
    ]
    for each in bins:
        left, right = axes.across(each.low) + 1, axes.across(each.high) - 1
        x, low, high = axes.across(each.confidence), axes.down(each.accuracy_low), axes.down(each.accuracy_high)
        note = (
            f"{each.low:.3f} to {each.high:.3f}: {each.count:,} predictions, mean confidence {each.confidence:.3f}, "
            f"accuracy {each.accuracy:.3f} ({each.accuracy_low:.3f} to {each.accuracy_high:.3f})"
        )
        top = axes.down(each.accuracy)
        bar = {"x": left, "y": top, "width": right - left, "height": axes.bottom - top, "class": "bar"}
        drawn.append(
            element(
                "g",
                {},
                element("title", {}, note),
                element("rect", bar),
                _line(x, low, x, high, "whisker"),
                _line(x - 4, low, x + 4, low, "whisker"),
                _line(x - 4, high, x + 4, high, "whisker"),
                element("circle", {"cx": x, "cy": top, "r": 4.5, "class": "dot"}),
            )
        )
        height = counts.down(each.count)
        drawn += [
            element(
                "rect",
                {"x": left, "y": height, "width": right - left, "height": counts.bottom - height, "class": "count"},
            ),
            _text((left + right) / 2, height - 4, _short(each.count), kind="tiny"),
        ]
    drawn += [
        _line(_LEFT, counts.bottom, _WIDTH - _RIGHT, counts.bottom, "axis"),
        _text(14, (counts.top + counts.bottom) / 2, "images", kind="label", turn=True),
        _text(
            (_LEFT + _WIDTH - _RIGHT) / 2, counts.bottom + 20, "confidence: probability of the prediction", kind="label"
        ),
    ]
    total = sum(each.count for each in bins)
    return _figure(470, "Reliability diagram", f"Accuracy against confidence of {total} predictions", drawn)


# ---------------------------------------------------------------- coverage


def coverage(points: Sequence[CoveragePoint]) -> Element:
    """Draw the accuracy of the most confident predictions, with its interval, against their share of the images."""
    low = min(point.accuracy_low for point in points)
    axes = _Axes((0.0, 1.0), (max(0.0, math.floor(low * 20 - 0.2) / 20), 1.0), _TOP, 320)
    ordered = sorted(points, key=lambda point: point.coverage)
    upper = [(axes.across(each.coverage), axes.down(each.accuracy_high)) for each in ordered]
    lower = [(axes.across(each.coverage), axes.down(each.accuracy_low)) for each in reversed(ordered)]
    drawn: list[Content] = [
        *_grid(
            axes,
            x_name="coverage: share of the images that are kept",
            y_name="accuracy",
            x_ticks=[0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            y_ticks=ticks(*axes.y),
        ),
        element("polygon", {"points": _points([*upper, *lower]), "class": "band"}),
        _curve([(axes.across(each.coverage), axes.down(each.accuracy)) for each in ordered], "first"),
    ]
    for each in ordered:
        note = (
            f"probability of at least {each.min_probability:.3f}: {each.coverage:.1%} of the images, accuracy {each.accuracy:.4f} "
            f"({each.accuracy_low:.4f} to {each.accuracy_high:.4f})"
        )
        x, y = axes.across(each.coverage), axes.down(each.accuracy)
        drawn.append(element("circle", {"cx": x, "cy": y, "r": 3.5, "class": "dot"}, element("title", {}, note)))
    return _figure(366, "Accuracy against coverage", f"{len(points)} thresholds", drawn)


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _curve(places: Sequence[tuple[float, float]], kind: str) -> Element:
    return element("polyline", {"points": _points(places), "class": f"curve {kind}"})


# ---------------------------------------------------------------- history


def history(run: TrainingRun, panel: str, measures: tuple[str, str]) -> Element | None:
    """Draw a measure in training (dashed) and validation by epoch, and mark the best epoch; None if it has no values."""
    drawn_curves = {name: curves.curve(run.rows, name) for name in measures}
    known = [value for _, values in drawn_curves.values() for value in values]
    if not known:
        return None
    epochs = [row.epoch for row in run.rows]
    low, high = min(known), max(known)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 0.05
    limits = (max(0.0, low - room), high + room if panel == "loss" else min(1.0, high + room))
    first, last = min(epochs), max(epochs)
    axes = _Axes((first, last) if last > first else (first - 1.0, last + 1.0), limits, 34, 264)
    whole = [value for value in ticks(*axes.x, most=8) if value % 1 == 0 and first <= value <= last]
    drawn: list[Content] = [*_grid(axes, x_name="epoch", y_name=panel, x_ticks=whole, y_ticks=ticks(*limits))]
    if run.best is not None:
        x = axes.across(run.best.epoch)
        drawn.append(_line(x, axes.top, x, axes.bottom, "ideal"))
    for kind, label, name, start in (
        ("second", "training", measures[0], _LEFT),
        ("first", "validation", measures[1], _LEFT + 110),
    ):
        places, values = drawn_curves[name]
        if not values:
            continue
        drawn += [
            _curve([(axes.across(x), axes.down(y)) for x, y in zip(places, values, strict=True)], kind),
            _line(start, 14, start + 26, 14, f"curve {kind}"),
            _text(start + 32, 18.5, label, anchor="start"),
        ]
        if len(values) == 1:
            drawn.append(
                element(
                    "circle", {"cx": axes.across(places[0]), "cy": axes.down(values[0]), "r": 4, "class": f"dot {kind}"}
                )
            )
        best = run.best
        if best is not None and best.epoch in places:
            value = values[places.index(best.epoch)]
            drawn.append(
                element(
                    "circle",
                    {"cx": axes.across(best.epoch), "cy": axes.down(value), "r": 4.5, "class": f"dot {kind}"},
                    element("title", {}, f"epoch {best.epoch}: {label} {panel} {value:.4g}"),
                )
            )
    if run.best is not None:
        name = "best before training" if run.best is run.start else f"best epoch {run.best.epoch}"
        drawn.append(_text(_WIDTH - _RIGHT, 18.5, name, anchor="end"))
    return _figure(308, f"Training history: {panel}", messages.count_epochs(run.epochs), drawn)


# ---------------------------------------------------------------- intervals


def interval(value: float, low: float, high: float) -> Element:
    """Draw a share and its interval on a line from 0 to 1."""
    width, left = 200, 4
    scale = width - 2 * left
    x, start, end = (left + scale * each for each in (value, low, high))
    return element(
        "svg",
        {"class": "interval", "viewBox": f"0 0 {width} 12", "aria-hidden": "true"},
        _line(left, 6, width - left, 6, "track"),
        element("rect", {"x": start, "y": 3, "width": max(end - start, 1.5), "height": 6, "rx": 3, "class": "range"}),
        element("circle", {"cx": x, "cy": 6, "r": 4, "class": "dot"}),
    )
