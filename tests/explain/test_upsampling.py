"""Upsampling against bilinear resizing of torch and its crops; worked examples of boxes and peaks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cnnkit.explain import upsampling
from cnnkit.nets.cell_centres import Along, CellCentres


def cells(height, width, seed=0):
    return np.random.default_rng((seed, height, width)).random((height, width), dtype=np.float32)


def by_torch(found, height, width):
    return torch.nn.functional.interpolate(
        torch.from_numpy(found)[None, None], (height, width), mode="bilinear", align_corners=False
    )[0, 0].numpy()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 15), st.integers(1, 15), st.integers(1, 70), st.integers(1, 70))
def test_whole_window_equals_bilinear_resizing_of_torch(rows, columns, height, width):
    """Centres of cells stay in place, and outer values are constant, for larger and smaller windows."""
    found = cells(rows, columns)
    spread = upsampling.upsample(found, (0.0, 0.0, float(width), float(height)), (0, 0, width, height))
    assert (spread.shape, spread.dtype) == ((height, width), np.float32)
    np.testing.assert_allclose(spread, by_torch(found, height, width), atol=1e-5)
    np.testing.assert_array_equal(upsampling.resize(found, (width, height)), spread)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_part_is_a_crop_of_the_whole(data):
    """Also for a window that begins outside of the image, as for a padded one."""
    height, width = data.draw(st.integers(2, 50)), data.draw(st.integers(2, 50))
    left, top = data.draw(st.integers(-30, 30)), data.draw(st.integers(-30, 30))
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(x + 1, width)), data.draw(st.integers(y + 1, height))
    found = cells(data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)))
    part = upsampling.upsample(
        found, (left, top, left + width, top + height), (left + x, top + y, left + right, top + bottom)
    )
    np.testing.assert_allclose(part, by_torch(found, height, width)[y:bottom, x:right], atol=1e-5)


def test_window_with_fractions_of_pixels():
    """One cell per pixel, shifted by a quarter: each pixel is 1/4 of one cell and 3/4 of the other."""
    found = np.array([[0.0, 4.0, 8.0]], dtype=np.float32)
    assert upsampling.upsample(found, (0.25, 0.0, 3.25, 1.0), (0, 0, 3, 1)).tolist() == [[0.0, 3.0, 7.0]]


def test_cells_are_at_their_centres():
    """At 2 and 6 of 12 pixels: linear between them, constant outside; at twice the distance in an image of twice the size."""
    centres = CellCentres(Along(2, 4), Along(0, 1), (12, 1))
    found = np.array([[0.0], [4.0], [8.0]], dtype=np.float32)  # at 2, 6 and 10
    frame = (0.0, 0.0, 1.0, 12.0)
    spread = upsampling.upsample(found, frame, (0, 0, 1, 12), centres)
    assert spread[:, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert upsampling.resize(found, (1, 12), centres).tolist() == spread.tolist()
    large = upsampling.upsample(found, (0.0, -24.0, 1.0, 0.0), (0, -24, 1, 0), centres)
    assert large[:, 0].tolist() == np.clip((np.arange(24) + 0.5) / 2 - 2.5, 0, 8).tolist()
    # A cell that stands at 2 covers from 2 to 3, whose middle is 5 of 24 pixels
    for hottest, y in ((0, 5), (1, 13), (2, 21)):
        hot = np.eye(3, dtype=np.float32)[:, [hottest]]
        assert upsampling.argmax_pixel(hot, (0.0, 0.0, 1.0, 24.0), (0, 0, 1, 24), centres) == (0, y)


def test_cell_centred_in_padding_is_at_the_border():
    """Its peak is a pixel of the image."""
    centres = CellCentres(Along(-3, 5), Along(-3, 5), (8, 8))
    found = np.zeros((3, 3), dtype=np.float32)
    found[0, 2] = 1  # at -3 and 7
    assert upsampling.argmax_pixel(found, (0.0, 0.0, 16.0, 16.0), (0, 0, 16, 16), centres) == (15, 1)


@pytest.mark.parametrize(
    ("window", "size", "box"),
    [
        ((0.0, 0.0, 40.0, 30.0), (40, 30), (0, 0, 40, 30)),
        ((12.4, 3.6, 90.6, 81.8), (103, 85), (12, 4, 91, 82)),
        ((-20.0, 0.0, 60.0, 80.0), (40, 80), (0, 0, 40, 80)),  # padded at both sides
        ((2.1, 0.0, 2.3, 500.0), (5, 500), (2, 0, 3, 500)),  # less than a pixel wide
        ((4.9, 0.0, 5.0, 1.0), (5, 1), (4, 0, 5, 1)),  # rounded away at the edge
    ],
)
def test_visible_box_is_the_window_in_whole_pixels(window, size, box):
    """At least one pixel."""
    assert upsampling.visible_box(window, size) == box


def test_peak_is_the_centre_of_the_hottest_cell():
    """In pixels of the image, of the cells in the part."""
    found = np.zeros((2, 4), dtype=np.float32)
    found[1, 2] = 3
    assert upsampling.argmax_pixel(found, (0.0, 0.0, 80.0, 40.0), (0, 0, 80, 40)) == (50, 30)
    assert upsampling.argmax_pixel(found, (100.0, 10.0, 140.0, 50.0), (100, 10, 140, 50)) == (125, 40)
    assert upsampling.argmax_pixel(found, (0.0, -40.0, 80.0, 20.0), (0, 0, 80, 20)) == (50, 5)
    found[0, 0] = 5  # in the padding above the image
    assert upsampling.argmax_pixel(found, (0.0, -40.0, 80.0, 20.0), (0, 0, 80, 20)) == (50, 5)
    found[1, 2] = 0
    assert upsampling.argmax_pixel(found, (0.0, -40.0, 80.0, 20.0), (0, 0, 80, 20)) is None


def test_first_of_equal_cells_is_the_peak():
    """Row by row: the output does not depend on the machine."""
    found = np.array([[0, 1, 0], [1, 0, 1]], dtype=np.float32)
    assert upsampling.argmax_pixel(found, (0.0, 0.0, 30.0, 20.0), (0, 0, 30, 20)) == (15, 5)


def test_box_bounds_the_largest_hot_region():
    """Of two regions the one with more pixels, even if the other is hotter; the box is half-open, in pixels of the image."""
    heat = np.zeros((12, 20), dtype=np.float32)
    heat[1:3, 1:3] = 10  # four pixels
    heat[5:8, 10:17] = 6  # twenty-one
    assert upsampling.hot_box(heat, 0.5, (0, 0, 20, 12)) == (10, 5, 17, 8)
    assert upsampling.hot_box(heat, 0.5, (100, 50, 120, 62)) == (110, 55, 117, 58)
    assert upsampling.hot_box(heat, 0.6, (0, 0, 20, 12)) == (10, 5, 17, 8)  # that much exactly is enough
    assert upsampling.hot_box(heat, 0.7, (0, 0, 20, 12)) == (1, 1, 3, 3)
    assert upsampling.hot_box(heat, 0.0, (0, 0, 20, 12)) == (0, 0, 20, 12)


def test_box_bounds_the_first_of_equal_regions():
    """The output does not depend on the machine; a region of one pixel has a box of one pixel."""
    heat = np.zeros((9, 9), dtype=np.float32)
    heat[7, 1] = heat[2, 6] = 1
    assert upsampling.hot_box(heat, 1.0, (0, 0, 9, 9)) == (6, 2, 7, 3)


def test_box_bounds_a_bent_region():
    """Regions are connected around corners."""
    heat = np.zeros((10, 10), dtype=np.float32)
    heat[2:9, 3] = heat[8, 3:8] = 1
    assert upsampling.hot_box(heat, 0.5, (0, 0, 10, 10)) == (3, 2, 8, 9)


def test_zero_map_has_no_box_and_no_peak():
    """All values are zero."""
    nothing = np.zeros((3, 4), dtype=np.float32)
    assert upsampling.argmax_pixel(nothing, (0.0, 0.0, 4.0, 3.0), (0, 0, 4, 3)) is None
    assert upsampling.hot_box(nothing, 0.5, (0, 0, 4, 3)) is None


def by_scipy(hot):
    """Return the box of the first of the largest regions that scipy finds."""
    labels, count = ndimage.label(hot)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    rows, columns = ndimage.find_objects(labels)[int(sizes.argmax())]
    return columns.start, rows.start, columns.stop, rows.stop


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.95]), st.integers(0, 2**32 - 1))
def test_largest_region_is_that_of_scipy(height, width, share, seed):
    """Of any shape, also the first one of equally large ones."""
    hot = np.random.default_rng(seed).random((height, width)) < share
    hot[seed % height, seed % width] = True
    assert upsampling.largest_region(hot) == by_scipy(hot)


def test_largest_region_of_smooth_maps_and_spirals_is_that_of_scipy():
    """As large as images; and a spiral, whose runs are united late."""
    noise = np.random.default_rng(0).random((300, 400))
    for width in (1, 5, 20):
        smooth = ndimage.gaussian_filter(noise, width)
        assert upsampling.largest_region(smooth > np.quantile(smooth, 0.6)) == by_scipy(
            smooth > np.quantile(smooth, 0.6)
        )
    side = 41
    spiral = np.zeros((side, side), dtype=bool)
    for edge in range(0, side // 2, 2):
        spiral[edge, edge : side - edge] = spiral[edge : side - edge, side - 1 - edge] = True
        spiral[side - 1 - edge, edge : side - edge] = spiral[edge + 2 : side - edge, edge] = True
        spiral[edge + 2, edge : edge + 2] = True
    assert upsampling.largest_region(spiral) == by_scipy(spiral)
