"""Overlays of maps: worked examples of pixels."""

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from cnnkit.errors import UsageError
from cnnkit.explain import cam_render, colormaps

#: Colour number i is (i, 0, 255 - i).
RAMP = np.stack([np.arange(256), np.zeros(256), 255 - np.arange(256)], axis=1).astype(np.uint8)
PART = (2, 1, 6, 4)  # four wide, three high
HEAT = np.array([[0, 1, 2, 4], [4, 2, 1, 0], [0, 0, 0, 3]], dtype=np.float32) / 10


def image(width=9, height=7):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values), values.astype(int)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_alpha_is_the_opacity_of_colours(alpha):
    """The largest value has the last colour, zero the first; pixels outside of the part, and the input image, do not change."""
    plain, before = image()
    drawn = np.asarray(
        cam_render.draw_overlay(plain, HEAT, PART, highest=float(HEAT.max()), palette=RAMP, alpha=alpha)
    ).astype(int)
    numbers = np.array([[0, 64, 128, 255], [255, 128, 64, 0], [0, 0, 0, 191]])  # 255 * heat / 0.4, rounded
    expected = before.astype(float)
    expected[1:4, 2:6] = (1 - alpha) * before[1:4, 2:6] + alpha * RAMP[numbers]
    inside = np.zeros(before.shape[:2], dtype=bool)
    inside[1:4, 2:6] = True
    assert np.array_equal(drawn[~inside], before[~inside])
    assert np.abs(drawn - expected).max() <= (1 if alpha == 0.5 else 0)
    assert np.array_equal(np.asarray(plain), before)


def test_zero_map_leaves_the_image_unchanged():
    """Without NaN."""
    plain, before = image()
    drawn = cam_render.draw_overlay(
        plain, np.zeros((3, 4), dtype=np.float32), PART, highest=0.0, palette=RAMP, alpha=0.9
    )
    assert np.array_equal(np.asarray(drawn), before)


@pytest.mark.parametrize(("side", "width"), [(40, 1), (600, 4)])
def test_frame_is_inside_of_its_box(side, width):
    """Black, white, black from the bounds inward, thicker on larger images; other pixels do not change."""
    plain = Image.new("RGB", (side, side), (10, 200, 30))
    nothing = np.zeros((side, side), dtype=np.float32)
    box = (side // 8, side // 4, side - 3, side // 2 + 5)
    drawn = np.asarray(
        cam_render.draw_overlay(plain, nothing, (0, 0, side, side), highest=0.0, palette=RAMP, alpha=0.5, box=box)
    )
    left, top, right, bottom = box
    expected = np.empty((side, side, 3), dtype=np.uint8)
    expected[:] = (10, 200, 30)
    for ring, colour in enumerate((0, 255, 0)):
        inset = ring * width
        expected[top + inset : bottom - inset, left + inset : right - inset] = colour
    expected[top + 3 * width : bottom - 3 * width, left + 3 * width : right - 3 * width] = (10, 200, 30)
    assert np.array_equal(drawn, expected)


@pytest.mark.parametrize(
    "box",
    [(0, 0, 1, 1), (349, 349, 350, 350), (10, 20, 12, 60), (10, 20, 60, 21), (7, 7, 10, 10), (300, 0, 309, 5), (0, 0, 350, 350)],
)  # fmt: skip
def test_frame_of_a_small_box_stays_inside(box):
    """A box narrower than its frame is visible, and pixels around it do not change."""
    plain = Image.new("RGB", (350, 350), (10, 200, 30))
    nothing = np.zeros((350, 350), dtype=np.float32)
    drawn = np.asarray(
        cam_render.draw_overlay(plain, nothing, (0, 0, 350, 350), highest=0.0, palette=RAMP, alpha=0.5, box=box)
    )
    rows, columns = np.nonzero((drawn != (10, 200, 30)).any(axis=2))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == box


@pytest.mark.parametrize("name", ["viridis", "jet", "magma", "gray_r"])
def test_colours_equal_those_of_matplotlib(name):
    """All 256 colours, up to rounding."""
    table = colormaps.color_table(name)
    assert (table.shape, table.dtype) == ((256, 3), np.uint8)
    theirs = mpl.colormaps[name](np.arange(256), bytes=True)[:, :3].astype(int)
    assert np.abs(table - theirs).max() <= 1


def test_values_are_mapped_to_colours():
    """From 0 to 1; values outside are clipped; channels are a new last axis."""
    values = np.array([[-1, 0, 0.25], [0.5, 1, 7]], dtype=np.float32)
    assert colormaps.colorize(values, RAMP)[:, :, 0].tolist() == [[0, 0, 64], [128, 255, 255]]


def test_unknown_colour_map_proposes_names():
    """Similar names, or some common ones."""
    with pytest.raises(UsageError, match=r'no colour map "virdis"; did you mean viridis'):
        colormaps.color_table("virdis")
    with pytest.raises(UsageError, match=r'^--colormap: no colour map "#"; give one of matplotlib, such as viridis'):
        colormaps.color_table("#")
