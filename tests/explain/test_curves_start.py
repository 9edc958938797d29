"""The row of a history before training: read, marked in both drawings, not counted as an epoch, and not smoothed."""

import pytest

from cnnkit.choices import Monitor
from cnnkit.explain import curves, curves_plot, curves_text

HEADER = b"epoch,train_loss,train_accuracy,val_loss,val_accuracy,lr,seconds\n"
EPOCHS = [
    b"1,0.5,0.7,0.9,0.7,0.01,1\n",
    b"2,0.4,0.8,0.8,0.75,0.01,1\n",
    b"3,0.3,0.9,1.0,0.6,0.01,1\n",
]
START = b"0,,,0.6,0.8,,\n"


def collect(*rows, **options):
    return curves.collect([([HEADER, *rows], "tuned.csv")], **options)


def test_the_start_can_be_the_best():
    (run,) = collect(START, *EPOCHS)
    assert run.start == run.rows[0] == run.best
    assert run.summary() == {
        "run": "tuned",
        "epochs": 3,
        "best_epoch": 0,
        "train_loss": None,
        "train_accuracy": None,
        "val_loss": 0.6,
        "val_accuracy": 0.8,
    }
    rows = list(curves.points([run]))
    assert [(row["epoch"], row["best"]) for row in rows] == [(0, True), (1, False), (2, False), (3, False)]


def test_an_equal_epoch_is_not_better_than_the_start():
    """As in training."""
    for monitor in Monitor:
        (run,) = collect(START, b"1,0.5,0.7,0.6,0.8,0.01,1\n", monitor=monitor)
        assert run.best.epoch == 0
        (run,) = collect(START, b"1,0.5,0.7,0.59,0.81,0.01,1\n", monitor=monitor)
        assert run.best.epoch == 1


def test_smoothing_of_the_epochs_does_not_depend_on_the_start():
    (with_start,), (without,) = (collect(*rows, smooth=0.6) for rows in ([START, *EPOCHS], EPOCHS))
    assert with_start.smoothed[1:] == without.smoothed
    assert with_start.smoothed[0] == with_start.rows[0]
    assert len(collect(START, smooth=0.6)[0].smoothed) == 1


def test_epoch_0_of_other_programs_is_an_epoch():
    """Keras counts from 0."""
    (run,) = curves.collect([([b"epoch,loss,val_loss\n", b"0,1.0,0.9\n", b"1,0.9,0.8\n"], "keras.csv")])
    assert run.start is None
    assert run.summary()["epochs"] == 2


def test_both_drawings_mark_the_start():
    runs = collect(START, *EPOCHS, b"4,0.2,1,0.5,0.9,0.01,1\n")
    figure = curves_plot.render(runs)
    for axes, value in zip(figure.axes, (0.6, 0.8), strict=True):
        (diamond,) = (line for line in axes.lines if line.get_marker() == "D")
        assert (list(diamond.get_xdata()), list(diamond.get_ydata())) == ([0], [value])
        training = axes.lines[0]
        assert list(training.get_xdata()) == [1, 2, 3, 4]
    assert "before training" in [text.get_text() for text in figure.legends[0].get_texts()]
    text = "\n".join("".join(part for part, _ in line) for line in curves_text.draw(runs, columns=90, lines=24))
    assert text.count("◇") == 3
    assert "◇ before training" in text
    assert "● 4 of 4" in text


@pytest.mark.parametrize("draw", [curves_plot.render, lambda runs: curves_text.draw(runs, columns=90, lines=24)])
def test_without_a_start_nothing_is_marked(draw):
    found = draw(collect(*EPOCHS))
    shown = [each.get_text() for each in found.legends[0].get_texts()] if hasattr(found, "legends") else str(found)
    assert "before training" not in shown
    assert "◇" not in shown
