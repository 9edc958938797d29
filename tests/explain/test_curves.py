"""Training curves: smoothing against its definition, and drawings read back from image and text."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from cnnkit.choices import Monitor
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.explain import curves, curves_plot, curves_text
from cnnkit.formats.history import COLUMNS, HistoryRow

HEADER = ",".join(COLUMNS)


def lines(rows):
    """Write rows as the lines of a history."""
    fields = [[getattr(row, column) for column in COLUMNS] for row in rows]
    return [
        f"{line}\n".encode() for line in [HEADER, *(",".join("" if f is None else str(f) for f in r) for r in fields)]
    ]


def make(seed, *, epochs=30, validated=True):
    """Make the rows of a run that learns, with noise."""
    generator = np.random.default_rng(seed)
    rows = []
    for epoch in range(1, epochs + 1):
        loss = 0.2 + 1.8 * math.exp(-epoch / (5 + seed))
        noise = generator.uniform(-0.05, 0.05, 4).round(4)
        measures = [loss, 1 - loss / 3, loss + 0.01 * epoch, 1 - loss / 2.5]
        kept = [round(value + float(shift), 4) for value, shift in zip(measures, noise, strict=True)]
        rows.append(HistoryRow(epoch, *(kept if validated else [*kept[:2], None, None]), 0.001, 1.5))
    return rows


def collect(*runs, **options):
    """Collect rows, or pairs of a path and rows."""
    named = [run if isinstance(run, tuple) else (f"run{number}.csv", run) for number, run in enumerate(runs)]
    return curves.collect([(lines(rows), path) for path, rows in named], **options)


# ---------------------------------------------------------------- collecting


def test_smoothing_worked_example():
    """With a weight of a half: 1; (1/2 + 2) / (1/2 + 1); (1/4 + 1 + 4) / (1/4 + 1/2 + 1)."""
    assert curves.smoothed([1, 2, 4], 0.5) == [1, pytest.approx(5 / 3), pytest.approx(3)]
    assert curves.smoothed([3.0, 1.0, 2.0], 0) == [3, 1, 2]


def test_smoothing_is_a_weighted_mean_of_earlier_values():
    """Each value is the weighted mean by numpy of all values so far; gaps stay and are ignored."""
    values = np.random.default_rng(0).normal(size=50)
    found = curves.smoothed(list(values), 0.8)
    expected = [np.average(values[: n + 1], weights=0.8 ** np.arange(n, -1, -1)) for n in range(50)]
    assert found == pytest.approx(expected)
    gaps = curves.smoothed([None, *values[:7], math.nan, *values[7:], math.inf], 0.8)
    assert (gaps[0], gaps[8], gaps[-1]) == (None, None, None)
    assert [value for value in gaps if value is not None] == pytest.approx(expected)


def test_best_epoch_is_the_one_that_training_keeps():
    """The lowest loss, ties by the first epoch; the highest accuracy, ties by the lower loss, then the first epoch."""
    rows = [
        HistoryRow(1, val_loss=0.5, val_accuracy=0.9),
        HistoryRow(2, val_loss=math.nan, val_accuracy=0.95),
        HistoryRow(3, val_loss=0.3, val_accuracy=0.8),
        HistoryRow(4, val_loss=0.6, val_accuracy=0.95),
        HistoryRow(5, val_loss=0.6, val_accuracy=0.95),
        HistoryRow(6, val_loss=0.3, val_accuracy=0.9),
    ]
    assert curves.best(rows, Monitor.VAL_LOSS).epoch == 3
    assert curves.best(rows, Monitor.VAL_ACCURACY).epoch == 4
    assert curves.best([HistoryRow(1, train_loss=0.5)], Monitor.VAL_LOSS) is None
    (run,) = collect(rows, smooth=0.9)
    assert run.best == rows[2]  # measured values decide, not smoothed ones


def test_runs_without_an_epoch_are_left_out(caplog):
    """A notice names a run without a finished epoch; it is an error if all are."""
    with caplog.at_level("WARNING", logger="cnnkit"):
        assert [run.name for run in collect(make(0), [])] == ["run0"]
    assert caplog.messages == ["run1.csv: no epoch is finished yet; left out"]
    with pytest.raises(CnnkitError, match=r"^run0\.csv: no epoch is finished yet$"):
        collect([])


@pytest.mark.parametrize("weight", [1, -0.1, math.nan])
def test_rejects_weights_out_of_range(weight):
    """With a weight of one the first value would never change."""
    with pytest.raises(UsageError, match="give a weight from 0"):
        collect(make(0), smooth=weight)


# ---------------------------------------------------------------- the image


def drawn(axes, colour):
    """Find the lines of a colour in a panel: (style, marker, alpha) -> (epochs, values)."""
    return {
        (line.get_linestyle(), line.get_marker(), line.get_alpha()): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if to_hex(line.get_color()) == colour
    }


def test_lines_have_the_values_of_the_history():
    """One colour per run: training dashed, validation solid, measured values faint, the best epoch as a disc."""
    runs = collect(make(1), make(2, epochs=50), smooth=0.8, monitor=Monitor.VAL_ACCURACY)
    figure = curves_plot.render(runs, monitor=Monitor.VAL_ACCURACY)
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title("left") for axes in panels] == ["loss", "accuracy"]
    colours = list(dict.fromkeys(to_hex(line.get_color()) for line in panels[0].lines))
    assert len(colours) == 2
    for axes, measure in zip(panels, ("loss", "accuracy"), strict=True):
        for run, colour in zip(runs, colours, strict=True):
            found = drawn(axes, colour)
            epochs = list(range(1, len(run.rows) + 1))
            train, val = ([getattr(row, f"{split}_{measure}") for row in run.rows] for split in ("train", "val"))
            assert found["--", "none", None] == (epochs, curves.smoothed(train, 0.8))
            assert found["-", "none", None] == (epochs, curves.smoothed(val, 0.8))
            best = int(np.argmax([row.val_accuracy for row in run.rows]))
            assert found["None", "o", None] == ([best + 1], [val[best]])
            faint = [line for line in axes.lines if line.get_alpha() and to_hex(line.get_color()) == colour]
            assert [list(line.get_ydata()) for line in faint] == [train, val]
    (legend,) = figure.legends
    words = {text.get_text() for text in legend.get_texts()}
    told = {f"run{n}, best epoch {run.best.epoch} of {len(run.rows)}" for n, run in enumerate(runs)}
    assert words == {"training", "validation", "best epoch by val_accuracy", *told}


def test_without_validation_only_training_is_drawn():
    """No solid line, no disc and no legend of them; epochs with NaN are left out."""
    rows = [*make(3, epochs=5, validated=False), HistoryRow(6, math.nan), HistoryRow(7, 0.1, 0.9)]
    figure = curves_plot.render(collect(rows))
    (line,) = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert (line.get_linestyle(), list(line.get_xdata())) == ("--", [1, 2, 3, 4, 5, 7])
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"training", "run0"}


def test_each_of_many_runs_has_its_colour():
    """Also more runs than colours in the palette."""
    runs = collect(*(make(seed, epochs=2) for seed in range(25)))
    axes = curves_plot.render(runs).axes[0]
    assert len({to_hex(line.get_color()) for line in axes.lines}) == 25


def test_names_are_not_typeset_and_all_are_in_the_legend():
    """`_a` and `$x$` are unchanged in the legend, and do not overlap."""
    runs = collect(("_a.csv", make(1)), ("$x$.csv", make(2)), ("x" * 60 + ".csv", make(3)))
    figure = curves_plot.render(runs)
    figure.draw_without_rendering()
    texts = figure.legends[0].get_texts()
    assert [text.get_text().split(",")[0] for text in texts][-3:] == ["_a", "$x$", "x" * 60]
    assert not any(text.get_parse_math() for text in texts)
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_same_histories_give_the_same_bytes(tmp_path, suffix, begins):
    """No date, no version, no random names."""
    for name in ("first", "second"):
        curves_plot.save(tmp_path / f"{name}{suffix}", collect(make(1), make(2), smooth=0.5))
    first = (tmp_path / f"first{suffix}").read_bytes()
    assert first.startswith(begins)
    assert first == (tmp_path / f"second{suffix}").read_bytes()


def test_svg_paths_are_the_values_to_scale(tmp_path):
    """The paths of loss and accuracy are the values up to scale and offset; names are text."""
    rows = make(4)
    curves_plot.save(tmp_path / "c.svg", collect(rows))
    text = (tmp_path / "c.svg").read_text()
    for word in ("loss", "accuracy", "epoch", "training", "validation", "run0, best epoch"):
        assert f">{word}" in text
    paths = [np.array(re.findall(r"[ML] (\S+) (\S+)", path), float) for path in re.findall(r' d="([^"]*)"', text)]
    long = [path for path in paths if len(path) == len(rows)]
    for path, measure in zip(long, ("train_loss", "val_loss", "train_accuracy", "val_accuracy"), strict=True):
        values = np.array([getattr(row, measure) for row in rows])
        slope, offset = np.polyfit(values, path[:, 1], 1)
        assert slope < 0  # SVG counts from the top
        assert path[:, 1] == pytest.approx(slope * values + offset, abs=1e-3)
        assert np.diff(path[:, 0]) == pytest.approx(np.diff(path[:, 0])[0], abs=1e-3)


def test_long_names_of_runs_are_cut():
    """Those with the same beginning stay different."""
    runs = [
        replace(each, name="runs/" + "long/" * 60 + name)
        for each, name in zip(collect(make(0), make(1)), "ab", strict=True)
    ]
    (legend,) = curves_plot.render(runs).legends
    names = [text.get_text().partition(", best")[0] for text in legend.get_texts()[3:]]
    assert max(map(len, names)) <= 90
    assert [name[-1] for name in names] == ["a", "b"]
    assert all(name.startswith("runs/long/") for name in names)


def test_image_has_a_sensible_size(tmp_path):
    """Two panels side by side; thirty runs make the legend longer, but the panels not smaller."""
    heights = []
    for count in (1, 30):
        runs = collect(*(make(seed, epochs=3) for seed in range(count)))
        curves_plot.save(tmp_path / "c.png", runs)
        with Image.open(tmp_path / "c.png") as image:
            assert 1400 < image.size[0] < 1600
            assert 500 < image.size[1] < 700 + 30 * count
        figure = curves_plot.render(runs)
        figure.draw_without_rendering()
        heights.append(figure.axes[0].get_window_extent().height)
    assert heights[1] == pytest.approx(heights[0], rel=0.1)


# ---------------------------------------------------------------- the terminal

GOLDEN = """\
loss
     │⠠⠠ ⠄⢀ ⡀
  1.5┤       ⠈ ⠁⠐ ⠂⠐⠠ ⠄⢀ ⡀
     │⠈⠉⠉⠑⠒⠒⠒⠒⠒⠒⠤⠤⠤⠤⠤⠤⢄⣀⣀⣀⣈⣀⣁⡈ ⠂⠐⠠ ⠄⢀ ⡀
  1.0┤                       ⠈⠉⠉⠉⠉⠉⠉⠒⠒⠒⠚⠒⠓⠚⠤⠦⠴⠤⠤⠤⣀⣀⣀⣀⣀⣀⣀
     │                                                ⠁⠈⠉⠋⠙●
     └─────┬────────┬─────────┬─────────┬────────┬─────────┬
epoch      2        4         6         8        10       12
accuracy
     │                                      ⣀⣀⣀⣀⣀⣀⣀⡠⠤⠤⠤⠤⠤⠤⠤●
  0.6┤      ⢀⣀⣀⣀⣀⣀⣀⣀⠤⠤⠤⠤⠤⠤⠤⠤⠔⠒⠒⠒⠒⠒⠒⠒⠉⠉⠉⠉⠉⠉⠉⠉  ⢀ ⡀⠠ ⠄⠠ ⠂⠐ ⠂⠈
  0.4┤⠈⠉⠉⠉⠉⠉⠁                  ⡀⢀⠠ ⠄⠠ ⠂⠐ ⠂⠈ ⠁⠈
  0.2┤         ⡀⢀ ⡀⠠⠠ ⠂⠐ ⠂⠈ ⠁⠈
     │⠐⠐ ⠂⠈ ⠁⠈
     └─────┬────────┬─────────┬─────────┬────────┬─────────┬
epoch      2        4         6         8        10       12

⠂⠐ ⠂ training  ⠒⠒⠒⠒ validation  ● best epoch by val_loss
─ straight  ● 12 of 12  val_loss 0.9  val_accuracy 0.7
"""


def text(runs, *, columns, rows=24, **options):
    """Draw without styles."""
    return [
        "".join(words for words, _ in line) for line in curves_text.draw(runs, columns=columns, lines=rows, **options)
    ]


def test_drawing_equals_the_expected_one():
    """Linear losses and accuracies are straight lines."""
    rows = [HistoryRow(n, 2 - n / 10, n / 20, 1.5 - n / 20, 0.4 + n / 40, 0.1, 1.0) for n in range(1, 13)]
    found = text(collect(("straight.csv", rows)), columns=60, rows=20)
    assert found == GOLDEN.splitlines()


def dots(drawing):
    """List the dots of the first panel from the left, from the top: (x, y)."""
    found = []
    for row, line in enumerate(drawing):
        _, _, field = line.replace("┤", "│").partition("│")
        for column, letter in enumerate(field):
            bits = ord(letter) - 0x2800
            if 0 < bits < 256:
                places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]
                found += [(2 * column + x, 4 * row + y) for bit, (x, y) in enumerate(places) if bits >> bit & 1]
    return sorted(found)


def test_dots_are_the_values_to_scale():
    """A line through the values passes within a dot of every dot, from the first column to the last."""
    values = [math.sin(n / 8) for n in range(60)]
    rows = [HistoryRow(n, val_loss=value) for n, value in enumerate(values)]
    found = np.array(dots(text(collect(rows, monitor=Monitor.VAL_ACCURACY), columns=70, rows=60)[1:17]))
    (left, top), (right, bottom) = found.min(0), found.max(0)
    # The first and the last value lie in the middle of a letter, which is two dots wide and four high
    assert left <= 1
    assert right >= 2 * (70 - len("epoch") - 1) - 2
    assert top <= 2
    assert bottom >= 61
    epochs = (found[:, 0] - left) * 59 / (right - left)
    expected = top + (1 - np.interp(epochs, range(60), values)) / (1 - min(values)) * (bottom - top)
    assert (
        np.abs(found[:, 1] - expected).max() < 3
    )  # a dot is up to 1.2 epochs wide, and the steepest slope 4 dots an epoch
    assert set(found[:, 0]) == set(range(left, right + 1))


@pytest.mark.parametrize("columns", [1, 2, 3, 10])
def test_draws_on_very_narrow_terminals(columns):
    """One column once gave a negative width and a traceback."""
    assert text(collect(make(1), make(2)), columns=columns)


@pytest.mark.parametrize("columns", [20, 40, 71, 72, 100, 300])
def test_drawing_fits_the_terminal(columns):
    """No line is wider than the terminal, or has trailing blanks; the height is kept if the legend allows it."""
    runs = collect(make(1), ("a/" + "long-name" * 20 + ".csv", make(2)), make(3, validated=False))
    found = text(runs, columns=columns, rows=30)
    assert max(map(len, found)) <= columns
    assert len(found) <= 30 or columns < 40
    assert all(line == line.rstrip() for line in found)


def test_runs_are_distinguishable_without_colour():
    """Each run has the key of the legend at the end of its curves, and a disc at its best epoch."""
    drawing = text(collect(make(1), make(5, epochs=20), make(9, epochs=10)), columns=120)
    panels, legend = drawing[1:17], drawing[-3:]
    fields = [re.split("[│┤]", line, maxsplit=2)[1:] for line in panels]
    for panel in (0, 1):
        letters = "".join(re.sub(r" +[0-9.]+ $", "", field[panel]) for field in fields)
        assert sorted(re.findall("[123]", letters)) == ["1", "2", "3"]
        assert letters.count("●") == 3
    assert [line[:6] for line in legend] == ["1 run0", "2 run1", "3 run2"]


def test_measured_values_are_faint_below_smoothed_lines():
    """Lines cover them; for several runs, or very many epochs, they are left out."""

    def faint(*runs):
        drawing = curves_text.draw(collect(*runs, smooth=0.9), columns=70, lines=24)
        return sum(style == "dim" and "\u2800" < words[0] < "\u2900" for line in drawing[1:8] for words, style in line)

    assert faint(make(1)) > 5
    assert faint(make(1), make(2)) == faint(make(1, epochs=500)) == 0


def test_escape_sequences_in_names_are_not_printed():
    """In the legend."""
    drawing = text(collect(("a\x1b[31m.csv", make(1))), columns=80)
    assert r"a\x1b[31m" in drawing[-1]
    assert "\x1b" not in "".join(drawing)


@pytest.mark.parametrize(
    "rows",
    [
        [HistoryRow(1, 0.5, 0.5)],
        [HistoryRow(5, 0.5, 0.5, 0.5, 0.5), HistoryRow(6, 0.5, 0.5, 0.5, 0.5)],
        [HistoryRow(1), HistoryRow(2)],
        [HistoryRow(1, math.nan, 0.0, math.inf, 0.0)],
        [HistoryRow(1, 1e9, 0.0, 1e-9, 1.0), HistoryRow(100_000, 1e-9, 1.0, 1e9, 0.0)],
    ],
    ids=["one epoch", "constant", "nothing measured", "nan", "extremes"],
)
def test_unusual_histories_are_drawn(rows, tmp_path):
    """In the terminal and in an image, without a warning; ticks are whole epochs."""
    runs = collect(rows, smooth=0.5)
    assert "epoch" in "".join(text(runs, columns=80))
    curves_plot.save(tmp_path / "c.png", runs)
    axes = curves_plot.render(runs).axes[0]
    assert all(tick == round(tick) for tick in axes.get_xticks())


@pytest.mark.parametrize(
    "losses", [(0.0, 5e-324), (-1.7e308, 1.7e308), (1.7e308, 1.7e308), (1e-310, 2e-310), (1.0, 1.0 + 2**-52)]
)
def test_extreme_values_are_drawn(losses):
    """Values near zero, the largest floats, and nearly equal ones: the panel has a scale and its usual size."""
    rows = [HistoryRow(epoch, loss, 0.5) for epoch, loss in enumerate(losses, start=1)]
    drawn = text(collect(rows), columns=80)
    usual = text(collect([HistoryRow(1, 0.5, 0.5), HistoryRow(2, 1.0, 0.5)]), columns=80)
    assert len(drawn) == len(usual)
    assert 2 <= sum("┤" in line.partition("accuracy")[0][:12] for line in drawn) <= 8
