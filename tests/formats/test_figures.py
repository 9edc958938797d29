"""Figures as files: errors before drawing, complete or absent, and the same bytes for the same figure."""

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import atomic, figures

BEGINS = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF-"}
#: The metadata of each format that depends on time or version.
CHANGING = {"png": b"Software", "svg": b"dc:date", "pdf": b"CreationDate"}


def drawn():
    """Return a figure with a clipped line, for which SVG makes random names, and wide margins."""
    figure = Figure(figsize=(4, 3))
    axes = figure.add_axes((0.4, 0.4, 0.2, 0.2))
    axes.set_axis_off()
    axes.plot([0, 1], [0, 1], clip_on=True)
    return figure


@pytest.mark.parametrize("name", ["figure", "figure.jpg", "figure.png.txt", ".png", "figure.svgz"])
def test_rejects_other_endings_before_drawing(tmp_path, name):
    """In one line that names the file and the three endings; an existing file stays."""
    path = tmp_path / name
    path.write_text("mine")
    for refused in (lambda: figures.check(path), lambda: figures.save(path, lambda: pytest.fail("it was drawn"))):
        with pytest.raises(UsageError, match=r"unknown format; give it a name that ends in .png, .svg or .pdf$"):
            refused()
    assert path.read_text() == "mine"


@pytest.mark.parametrize("kind", BEGINS)
def test_same_figure_gives_same_bytes(tmp_path, kind):
    """In the format of its ending, regardless of case, without metadata that changes."""
    names = (f"one.{kind}", f"two.{kind.upper()}")
    for name in names:
        assert figures.check(name) == kind
        figures.save(tmp_path / name, drawn)
    one, two = ((tmp_path / name).read_bytes() for name in names)
    assert one == two
    assert one.startswith(BEGINS[kind])
    assert CHANGING[kind] not in one


def test_figure_is_cropped(tmp_path):
    """To a fifth of 4 x 3 inches plus matplotlib's margin of 0.1 inch on each side, at 150 dpi: 150 x 120, up to rounding."""
    figures.save(tmp_path / "cut.png", drawn)
    with Image.open(tmp_path / "cut.png") as image:
        assert image.size == pytest.approx((150, 120), abs=2)
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)


def test_failure_keeps_the_old_figure_and_matplotlibs_settings(tmp_path, monkeypatch):
    """If drawing fails, the folder is missing, or the disk is full."""
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
    with pytest.raises(CnnkitError, match=r"none: no such folder to write figure\.svg into"):
        figures.save(tmp_path / "none" / "figure.svg", drawn)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        figures.save(path, drawn)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["figure.svg"]
