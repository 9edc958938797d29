"""Confusion matrices, read back from the figure."""

import logging
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from cnnkit.errors import UsageError
from cnnkit.evaluation import plots, report
from cnnkit.evaluation.matching import MatchedPredictions
from cnnkit.formats import picture_style


def make(classes, *, n=60, withheld=0):
    """Make a report of random predictions, two thirds of them correct."""
    generator = np.random.default_rng(classes)
    truth = np.arange(n) % classes
    prediction = np.where(generator.uniform(size=n) < 0.67, truth, generator.integers(classes, size=n))
    prediction[:withheld] = -1
    return report.measure(
        MatchedPredictions(
            paths=tuple(map(str, range(n))),
            resolved=tuple(map(str, range(n))),
            classes=tuple(f"class {index}" for index in range(classes)),
            truth=truth,
            prediction=prediction,
            confidence=np.full(n, 0.5),
            probabilities=np.full((n, classes), 1 / classes),
        )
    )


def render(made):
    support = [made.per_class[label].support for label in made.classes]
    return plots.draw_confusion(made.confusion, made.classes, support=support)


@pytest.mark.parametrize("classes", [2, 5, 100])
def test_counts_and_classes_are_written(classes):
    """The cells have the counts except zeros, and every row and column has its class."""
    made = make(classes, n=3 * classes)
    axes = render(made).axes[0]
    written = {text.get_position(): int(text.get_text()) for text in axes.texts}
    expected = {
        (column, row): count
        for row, counts in enumerate(made.confusion)
        for column, count in enumerate(counts)
        if count
    }
    assert written == expected
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert [label.get_text() for label in axes.get_yticklabels()] == list(made.classes)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(made.classes)


@pytest.mark.parametrize("classes", [2, 5, 100])
def test_class_names_do_not_overlap(classes):
    """No label overlaps its neighbour."""
    figure = render(make(classes))
    renderer = figure.canvas.get_renderer()
    axes = figure.axes[0]
    for labels, side in ((axes.get_xticklabels(), "x"), (axes.get_yticklabels(), "y")):
        boxes = [label.get_window_extent(renderer) for label in labels]
        spans = sorted((getattr(box, f"{side}0"), getattr(box, f"{side}1")) for box in boxes)
        assert all(end <= start + 1 for (_, end), (start, _) in pairwise(spans))


@pytest.mark.slow
def test_a_thousand_classes_fit():
    """Without counts, and with only some of the names."""
    axes = render(make(1000, n=2000)).axes[0]
    assert not axes.texts
    assert 50 < len(axes.get_yticklabels()) < 300


def test_withheld_predictions_have_a_column():
    """`?` is a separate column, so that rows add up to the images of a class."""
    made = make(3, n=30, withheld=4)
    axes = render(made).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [*made.classes, "?"]
    assert sum(int(text.get_text()) for text in axes.texts) == 30


@pytest.mark.parametrize(
    ("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")]
)
def test_extension_selects_the_format_and_bytes_repeat(tmp_path, suffix, begins):
    """The same report gives the same bytes, without date, version or random names."""
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    plots.save_confusion(first, make(3))
    plots.save_confusion(second, make(3))
    assert first.read_bytes().startswith(begins)
    assert first.read_bytes() == second.read_bytes()


def test_image_has_a_sensible_size(tmp_path):
    """From two classes to a hundred, it fits on a screen and is not tiny."""
    for classes in (2, 100):
        plots.save_confusion(tmp_path / "c.png", make(classes))
        with Image.open(tmp_path / "c.png") as image:
            assert 400 < min(image.size) <= max(image.size) < 3000


def test_names_are_not_typeset(tmp_path):
    """A class may be named `$x$` or `a$b`."""
    made = make(2)
    odd = report.measure(replace(made.predictions, classes=("$x$", "a$b")))
    plots.save_confusion(tmp_path / "c.svg", odd)
    assert (tmp_path / "c.svg").stat().st_size > 1000
    assert not any(label.get_parse_math() for label in render(odd).axes[0].get_xticklabels())


def test_long_names_are_cut(tmp_path):
    """Names of hundreds of letters in any script leave the matrix on a screen; names with the same beginning stay different."""
    names = ("cat", "long " * 60 + "one", "long " * 60 + "two", "分類" * 100, "tab\there")
    odd = report.measure(replace(make(5).predictions, classes=names))
    plots.save_confusion(tmp_path / "c.png", odd)
    with Image.open(tmp_path / "c.png") as image:
        assert max(image.size) < 1600
    axes = render(odd).axes[0]
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == [label.get_text() for label in axes.get_xticklabels()]
    assert (shown[0], shown[3], shown[4]) == ("cat", "分類" * 9 + "分…", "tab\\there")
    assert all("…" in name and name.startswith("long ") for name in shown[1:3])
    assert [name[-3:] for name in shown[1:3]] == ["one", "two"]
    assert max(map(picture_style.columns, shown)) <= 40


def test_letters_that_no_font_has_are_reported_once(tmp_path, caplog, no_system_fonts):
    """In one line; an SVG has them as text, so there is no line."""
    odd = report.measure(replace(make(2).predictions, classes=("分類", "😀 كلب")))
    with caplog.at_level(logging.INFO, logger="cnnkit"):
        plots.save_confusion(tmp_path / "c.svg", odd)
        assert not caplog.messages
        plots.save_confusion(tmp_path / "c.png", odd)
    (line,) = caplog.messages
    assert line.startswith(
        f"{tmp_path / 'c.png'}: no font has 分類: boxes are drawn instead; install a font with these letters"
    )
    written = (tmp_path / "c.svg").read_text()
    assert "分類" in written
    assert "كلب" in written


def test_rejects_other_extensions(tmp_path):
    """The usage error names the supported formats; no file is written."""
    with pytest.raises(UsageError, match=r"a name that ends in \.png, \.svg or \.pdf"):
        plots.save_confusion(tmp_path / "c.bmp", make(2))
    assert not list(tmp_path.iterdir())
