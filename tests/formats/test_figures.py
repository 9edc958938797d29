"""Figures as files: refused before they are drawn, whole or not there, and the same bytes for the same figure."""

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cnnkit.errors import UsageError
from cnnkit.formats import atomic, figures

BEGINS = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF-"}
#: What tells when and by what a file was made, as each format writes it.
CHANGING = {"png": b"Software", "svg": b"dc:date", "pdf": b"CreationDate"}


def drawn():
    """A line that a frame clips, which is what SVG makes random names for, in the middle of much paper."""
    figure = Figure(figsize=(4, 3))
    axes = figure.add_axes((0.4, 0.4, 0.2, 0.2))
    axes.set_axis_off()
    axes.plot([0, 1], [0, 1], clip_on=True)
    return figure


@pytest.mark.parametrize("name", ["figure", "figure.jpg", "figure.png.txt", ".png", "figure.svgz"])
def test_another_ending_is_refused_before_anything_is_drawn(tmp_path, name):
    """One line that names the file and the three that there are; what stood there stays."""
    path = tmp_path / name
    path.write_text("mine")
    for refused in (lambda: figures.check(path), lambda: figures.save(path, lambda: pytest.fail("it was drawn"))):
        with pytest.raises(
            UsageError, match=r"the ending names the format of the picture; use one of .png, .svg, .pdf$"
        ):
            refused()
    assert path.read_text() == "mine"


@pytest.mark.parametrize("kind", BEGINS)
def test_the_same_figure_gives_the_same_bytes_in_the_format_of_its_ending(tmp_path, kind):
    """In any case of letters, without a word of when and by what it was made."""
    names = (f"one.{kind}", f"two.{kind.upper()}")
    for name in names:
        assert figures.check(name) == kind
        figures.save(tmp_path / name, drawn)
    one, two = ((tmp_path / name).read_bytes() for name in names)
    assert one == two
    assert one.startswith(BEGINS[kind])
    assert CHANGING[kind] not in one


def test_paper_that_nothing_is_drawn_on_is_cut_off(tmp_path):
    """A fifth of 4 x 3 inches is left, and matplotlib's 0.1 inches on each side, at 150 points an inch: 150 x 120, but for rounding."""
    figures.save(tmp_path / "cut.png", drawn)
    with Image.open(tmp_path / "cut.png") as image:
        assert image.size == pytest.approx((150, 120), abs=2)
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)


def test_a_figure_that_fails_leaves_the_old_one_and_matplotlib_as_they_were(tmp_path, monkeypatch):
    """The drawing may fail, the folder be none, or the disk be full; nobody else's SVGs get our names."""
    path = tmp_path / "figure.svg"
    path.write_text("old")
    seen = []

    def fail():
        seen.append(mpl.rcParams["svg.hashsalt"])
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        figures.save(path, fail)
    assert seen == ["cnnkit"]
    assert mpl.rcParams["svg.hashsalt"] is None
    assert path.read_text() == "old"
    with pytest.raises(OSError, match=r"none/figure\.svg"):
        figures.save(tmp_path / "none" / "figure.svg", drawn)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        figures.save(path, drawn)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["figure.svg"]
