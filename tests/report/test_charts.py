"""Charts: what is drawn stands where its value belongs."""

import re

import pytest

from cnnkit.evaluation.coverage import CoveragePoint
from cnnkit.explain import curves
from cnnkit.report import charts
from cnnkit.report.content import Bin


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.75, 1, [0.75, 0.8, 0.85, 0.9, 0.95, 1]),
        (1, 30, [10, 20, 30]),
        (0, 1.37, [0, 0.5, 1]),
        (0, 12_345, [0, 5000, 10_000]),
        (5, 5, [5]),
        (0, float("inf"), [0]),
    ],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


def numbers(drawn, kind, *names):
    """Return attributes of the elements of a class, as numbers."""
    return [
        [float(each.get(name)) for name in names] for each in drawn.iter() if kind in (each.get("class") or "").split()
    ]


def axis_labels(drawn, anchor):
    """Return places and values of the numbers along an axis: (place, value)."""
    along = "y" if anchor == "end" else "x"
    texts = [each for each in drawn.iter("text") if each.get("text-anchor") == anchor and not each.get("class")]
    return [(float(each.get(along)), float(each.text)) for each in texts if re.fullmatch(r"[\d.]+", each.text or "")]


def test_reliability_diagram():
    """A dot at mean confidence and accuracy, its interval, a bar up to it, and the count below."""
    bins = [
        Bin(0.2, 0.4, 10, 0.3, 0.5, 0.25, 0.75),
        *(Bin(0.4, 0.6, count, 0.5, 0.5, 0.4, 0.6) for count in (9_999, 10_000, 10_000_000)),
        Bin(0.8, 1.0, 12_345, 0.9, 0.8, 0.78, 0.82),
    ]
    drawn = charts.reliability(bins)
    (zero, _), *_, (one, _) = axis_labels(drawn, "middle")
    for (x, y), each in zip(numbers(drawn, "dot", "cx", "cy"), bins, strict=True):
        assert (x - zero) / (one - zero) == pytest.approx(each.confidence, abs=1e-3)
        assert (320 - y) / (320 - 12) == pytest.approx(each.accuracy, abs=1e-3)
    ends = numbers(drawn, "whisker", "y1", "y2")[0]
    assert [(320 - y) / 308 for y in ends] == pytest.approx([0.25, 0.75], abs=1e-3)
    heights = [height for (height,) in numbers(drawn, "bar", "height")]
    assert heights == pytest.approx([*[0.5 * 308] * 4, 0.8 * 308], abs=0.01)
    for anchor in ("middle", "end"):
        assert [value for _, value in axis_labels(drawn, anchor)] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert [each.text for each in drawn.iter("text") if each.get("class") == "tiny"] == [
        *("10", "9999", "10k", "10M", "12k")
    ]
    assert "12,345 predictions, mean confidence 0.900, accuracy 0.800 (0.780 to 0.820)" in [
        each.text.partition(": ")[2] for each in drawn.iter("title")
    ]


def test_coverage_curve():
    """From the smallest coverage to all images; the axis begins below the lowest interval."""
    points = [CoveragePoint(0.3, 1.0, 100, 0.9, 0.85, 0.94), CoveragePoint(0.8, 0.5, 50, 0.98, 0.9, 0.99)]
    drawn = charts.coverage(points)
    labels = axis_labels(drawn, "end")
    assert [value for _, value in labels] == pytest.approx([0.8, 0.85, 0.9, 0.95, 1])
    (low, _), *_, (high, _) = labels
    dots = numbers(drawn, "dot", "cx", "cy")
    assert [0.8 + 0.2 * (low - (y + 4.5)) / (low - high) for _, y in dots] == pytest.approx([0.98, 0.9], abs=1e-3)
    assert dots[0][0] < dots[1][0]


def test_history():
    """Both curves, without values that are not finite, and the best epoch; nothing for a measure without values."""
    lines = ["epoch,train_loss,train_accuracy,val_loss,val_accuracy,lr,seconds"]
    lines += [
        f"{epoch},{loss},,{loss + 0.1},,0.1,1" for epoch, loss in enumerate((1.0, 0.5, float("nan"), 0.7), start=1)
    ]
    (run,) = curves.collect([([f"{line}\n".encode() for line in lines], "model.csv")])
    drawn = charts.history(run, "loss", ("train_loss", "val_loss"))
    places = [each.get("points").split() for each in drawn.iter("polyline")]
    assert [len(each) for each in places] == [3, 3]
    assert "best epoch 2" in [each.text for each in drawn.iter("text")]
    assert charts.history(run, "accuracy", ("train_accuracy", "val_accuracy")) is None


def test_the_start_of_a_history_is_no_epoch():
    """The page names it where no epoch was better."""
    lines = [
        "epoch,train_loss,train_accuracy,val_loss,val_accuracy,lr,seconds",
        "0,,,0.2,0.9,,",
        "1,0.5,0.8,0.4,0.8,0.1,1",
    ]
    (run,) = curves.collect([([f"{line}\n".encode() for line in lines], "tuned.csv")])
    drawn = charts.history(run, "loss", ("train_loss", "val_loss"))
    assert "best before training" in [each.text for each in drawn.iter("text")]
    assert [len(each.get("points").split()) for each in drawn.iter("polyline")] == [1, 2]
    assert run.epochs == 1
    assert drawn.get("aria-label") == "Training history: loss. 1 epoch"
