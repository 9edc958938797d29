"""Mosaics: every tile is found again at its place."""

import numpy as np
import pytest

from cnnkit.explain import contact_sheets


def tiles(count, height, width):
    """Make tiles of noise that is nowhere white."""
    return list(np.random.default_rng(count).integers(0, 255, (count, height, width, 3), dtype=np.uint8))


def bands(lines):
    """Find where runs of lines that are not white begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], lines, [False]]).astype(int)))
    return list(zip(edges[::2], edges[1::2], strict=True))


def shrunk(block, height, width):
    """Undo an enlargement by whole pixels, which it must be."""
    zoom = block.shape[0] // height
    assert block.shape == (zoom * height, zoom * width, 3)
    small = block[::zoom, ::zoom]
    assert np.array_equal(small.repeat(zoom, axis=0).repeat(zoom, axis=1), block)
    return small


@pytest.mark.parametrize(
    ("count", "height", "width"), [(1, 7, 7), (2, 5, 9), (3, 11, 11), (7, 13, 4), (12, 3, 3), (64, 27, 27), (90, 1, 1), (5, 300, 200)]
)  # fmt: skip
def test_every_tile_at_its_place(count, height, width):
    """Row by row, rows and columns nearly as many, with white between and around, enlarged by whole pixels."""
    given = tiles(count, height, width)
    drawn = np.asarray(contact_sheets.mosaic(given))
    dark = (drawn < 255).any(axis=2)
    down, across = bands(dark.any(axis=1)), bands(dark.any(axis=0))
    assert 0 <= len(across) - len(down) <= 1
    assert (len(down) - 1) * len(across) < count <= len(down) * len(across)
    for index, tile in enumerate(given):
        (top, bottom), (left, right) = down[index // len(across)], across[index % len(across)]
        assert np.array_equal(shrunk(drawn[top:bottom, left:right], height, width), tile)
    spare = [(down[-1], each) for each in across[count - (len(down) - 1) * len(across) :]]
    assert all((drawn[top:bottom, left:right] == 255).all() for (top, bottom), (left, right) in spare)
    assert down[0][0] > 0
    assert across[-1][1] < drawn.shape[1]


@pytest.mark.parametrize("count", [4, 64, 1024])
def test_a_mosaic_fits_a_screen(count):
    """Small tiles are enlarged to about a thousand pixels in all, and never past that."""
    width, _ = contact_sheets.mosaic(tiles(count, 7, 7)).size
    assert 512 < width <= 1026


def test_a_tile_by_itself():
    """A small one is enlarged so that it can be seen, a large one is left."""
    (small,), (large,) = tiles(1, 5, 7), tiles(1, 200, 130)
    drawn = np.asarray(contact_sheets.enlarged(small))
    assert max(drawn.shape) >= 128
    assert np.array_equal(shrunk(drawn, 5, 7), small)
    assert np.array_equal(np.asarray(contact_sheets.enlarged(large)), large)
