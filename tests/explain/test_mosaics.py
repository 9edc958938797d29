"""Mosaics: positions of tiles, numbers and titles."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cnnkit.explain import mosaics
from cnnkit.formats import fonts, picture_style


def tiles(count, height, width):
    """Make tiles of noise that is nowhere white."""
    return list(np.random.default_rng(count).integers(0, 255, (count, height, width, 3), dtype=np.uint8))


def bands(lines):
    """Find the first and last of each run of lines that are not white."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], lines, [False]]).astype(int)))
    return list(zip(edges[::2], edges[1::2], strict=True))


def shrunk(block, height, width):
    """Undo an enlargement by whole pixels; fail if it is another one."""
    zoom = block.shape[0] // height
    assert block.shape == (zoom * height, zoom * width, 3)
    small = block[::zoom, ::zoom]
    assert np.array_equal(small.repeat(zoom, axis=0).repeat(zoom, axis=1), block)
    return small


@pytest.mark.parametrize(
    ("count", "height", "width"), [(1, 7, 7), (2, 5, 9), (3, 11, 11), (7, 13, 4), (12, 3, 3), (64, 27, 27), (90, 1, 1), (5, 300, 200)]
)  # fmt: skip
def test_tiles_are_on_a_grid(count, height, width):
    """Row by row in a nearly square grid, with white gaps, enlarged by whole pixels."""
    given = tiles(count, height, width)
    drawn = np.asarray(mosaics.mosaic(given))
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
def test_mosaic_fits_on_a_screen(count):
    """Small tiles are enlarged to a mosaic of at most about 1000 pixels."""
    width, _ = mosaics.mosaic(tiles(count, 7, 7)).size
    assert 512 < width <= 1026


def test_small_tile_is_enlarged():
    """A large tile is unchanged."""
    (small,), (large,) = tiles(1, 5, 7), tiles(1, 200, 130)
    drawn = np.asarray(mosaics.enlarged(small))
    assert max(drawn.shape) >= 128
    assert np.array_equal(shrunk(drawn, 5, 7), small)
    assert np.array_equal(np.asarray(mosaics.enlarged(large)), large)


def text_image(text, size):
    """Draw a text as mosaics do."""
    letters = fonts.font(size, latin=True)
    image = Image.new("RGB", (int(letters.getlength(text)) + 1, 13), "white")
    ImageDraw.Draw(image).text((0, 0), text, fill=picture_style.MUTED, font=letters)
    return np.asarray(image)


@pytest.mark.parametrize(("count", "side"), [(1, 7), (6, 20), (100, 3), (1024, 1)])
def test_numbers_are_above_their_tiles(count, side):
    """Whole, also where tiles are narrower than numbers; the tiles are those of a mosaic without numbers."""
    given, numbers = tiles(count, side, side), [1000 + 2 * place for place in range(count)]
    drawn = np.asarray(mosaics.mosaic(given, numbers=numbers))
    plain = np.asarray(mosaics.mosaic(given))
    across = int(np.ceil(np.sqrt(count)))
    zoom = ((plain.shape[1] - mosaics.GAP) // across - mosaics.GAP) // side
    cell = (drawn.shape[1] - mosaics.GAP) // across
    for place in {0, count // 3, count - 1}:
        left = mosaics.GAP + place % across * cell
        top = mosaics.GAP + place // across * (zoom * side + mosaics.NUMBER_HEIGHT + mosaics.GAP)
        written = text_image(str(numbers[place]), 11)
        assert np.array_equal(drawn[top : top + 11, left : left + written.shape[1] - 1], written[:11, :-1])
        top += mosaics.NUMBER_HEIGHT
        tile = drawn[top : top + zoom * side, left : left + zoom * side]
        assert np.array_equal(shrunk(tile, side, side), given[place])


def test_title_is_cut_to_the_mosaic():
    """It is above, and changes nothing else."""
    given = tiles(9, 5, 5)
    plain, titled = mosaics.mosaic(given), mosaics.mosaic(given, title="features.12 " * 40)
    assert titled.size == (plain.width, plain.height + picture_style.TITLE_HEIGHT)
    assert titled.crop((0, picture_style.TITLE_HEIGHT, *titled.size)).tobytes() == plain.tobytes()
    above = np.asarray(titled)[: picture_style.TITLE_HEIGHT]
    assert (above < 255).any()
    assert (above[:, -4:] == 255).all()
