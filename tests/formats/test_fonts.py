"""Fonts: letters that DejaVu Sans lacks are those of a font of the system, and other texts do not depend on the fonts installed."""

import logging

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, features

from cnnkit.formats import figures, fonts, picture_style

#: In no font: the letters of the font of these tests, which are full squares above the baseline.
SQUARES = "分類"
KNOWN = "Ёлка étude שלום 😀"


def install(folder):
    """Write a font with two letters under a name that is searched for: squares of 1 em, advance 1 em."""
    pen = TTGlyphPen(None)
    for place in ((0, 0), (0, 1000), (1000, 1000), (1000, 0)):
        (pen.lineTo if place != (0, 0) else pen.moveTo)(place)
    pen.closePath()
    square = pen.glyph()
    made = FontBuilder(1000)
    names = [".notdef", "one", "two"]
    made.setupGlyphOrder(names)
    made.setupCharacterMap(dict(zip(map(ord, SQUARES), names[1:], strict=True)))
    made.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "one": square, "two": square})
    made.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    made.setupHorizontalHeader(ascent=1000, descent=-200)
    made.setupOS2()
    made.setupPost()
    made.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    made.save(folder / "wqy-microhei.ttc")
    fonts.forget()


def written(text, **options):
    """Return the ink of a text, (30, 200), from 0 to 255."""
    drawn = Image.new("RGB", (200, 30), "white")
    picture_style.write(ImageDraw.Draw(drawn), (0, 0), text, fill="black", **options)
    return 255 - np.asarray(drawn.convert("L"))


def figure(text):
    made = Figure(figsize=(2, 1))
    made.text(0.2, 0.2, text, fontsize=20)
    return made


def test_letters_are_those_of_a_font_of_the_system(no_system_fonts):
    """On the baseline of the others, as wide as they are; the whole text is as long as its parts."""
    install(no_system_fonts)
    size, before = 20, "ab"
    start = round(picture_style.length(before, size=size))
    assert picture_style.length(before + SQUARES, size=size) == pytest.approx(
        picture_style.length(before, size=size) + 2 * size
    )
    ink = written(before + SQUARES, size=size)
    baseline = fonts.font(size).getmetrics()[0]
    assert (ink[baseline - size + 1 : baseline - 1, start + 1 : start + 2 * size - 1] == 255).all()
    assert not ink[baseline:, start + 1 :].any()
    assert not ink[:, start + 2 * size + 1 :].any()
    np.testing.assert_array_equal(ink[:, : start - 1], written(before, size=size)[:, : start - 1])
    right = Image.new("RGB", (200, 30), "white")
    picture_style.write(ImageDraw.Draw(right), (200, 0), before + SQUARES, size=size, right=True)
    assert np.asarray(right)[baseline - 3, 200 - 2 * size + 1 : 199].max() < 64


def test_figure_has_letters_of_a_font_of_the_system(no_system_fonts, tmp_path, caplog):
    """In PNG: two squares of 20 points at 150 dpi are 83 x 42 pixels of ink; without the font boxes, and a notice."""
    with caplog.at_level(logging.INFO, logger="cnnkit"):
        figures.save(tmp_path / "boxes.png", lambda: figure(SQUARES))
        (notice,) = caplog.messages
        assert notice.startswith(f"{tmp_path / 'boxes.png'}: no font has 分類: boxes are drawn instead; install")
        caplog.clear()
        install(no_system_fonts)
        figures.save(tmp_path / "found.png", lambda: figure(SQUARES))
        figures.save(tmp_path / "found.pdf", lambda: figure(SQUARES))
        assert not caplog.messages
    with Image.open(tmp_path / "found.png") as image:
        dark = np.asarray(image.convert("L")) < 128
    assert dark.sum() == pytest.approx(83.3 * 41.7, rel=0.03)


def test_other_texts_do_not_depend_on_the_fonts(no_system_fonts, tmp_path):
    before = written(KNOWN)
    for kind in figures.ENDINGS:
        figures.save(tmp_path / f"before{kind}", lambda: figure(KNOWN))
    install(no_system_fonts)
    np.testing.assert_array_equal(written(KNOWN), before)
    for kind in figures.ENDINGS:
        figures.save(tmp_path / f"after{kind}", lambda: figure(KNOWN))
        assert (tmp_path / f"after{kind}").read_bytes() == (tmp_path / f"before{kind}").read_bytes()


def test_marks_stay_with_their_letter(no_system_fonts, caplog):
    """Vowel signs and accents are shaped with the letter before them, thus in one part; a line break needs no glyph."""
    install(no_system_fonts)
    parts = [part for part, _ in fonts.runs("a分\u0301\ufe0f b")]
    assert parts == ["a", "分\u0301\ufe0f", " b"]
    with caplog.at_level(logging.INFO, logger="cnnkit"):
        fonts.report_missing("p.png", ["two\nlines", "a\u093f"])
    assert not caplog.messages


@pytest.mark.skipif(not features.check_feature("raqm"), reason="Pillow without raqm does not order words")
def test_paths_go_from_left_to_right():
    """Also if the folder has a name in Hebrew: it is on the left, and the file on the right."""
    folder = "שלום"
    width = int(picture_style.length(folder)) - 1
    np.testing.assert_array_equal(written(f"{folder}/a.jpg")[:, :width], written(folder)[:, :width])
