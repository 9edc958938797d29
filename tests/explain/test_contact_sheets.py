"""Contact sheets and mosaics: positions of thumbnails and tiles, widths of captions, lengths of bars."""

import logging

import numpy as np
import pytest
from PIL import Image

from cnnkit.explain import contact_sheets
from cnnkit.formats import picture_style

PAPER, BAR, EMPTY = (255, 255, 255), (59, 110, 165), (228, 228, 228)
STEP = contact_sheets.SIDE + contact_sheets.GAP


def plain(colour, size=(200, 200)):
    return Image.new("RGB", size, colour)


def colour_of(cell, column):
    """Return a colour that no other thumbnail and no letter has."""
    return (200, 40 + 10 * column, 3 * cell)


def cells(count, shares=(0.75, 0.2), *, names=("cat", "dog"), size=(200, 200), path="a.jpg"):
    return [
        contact_sheets.SheetCell(
            path,
            contact_sheets.thumbnail(plain(colour_of(index, 0), size)),
            [
                (name, share, contact_sheets.thumbnail(plain(colour_of(index, column), size)))
                for column, (name, share) in enumerate(zip(names, shares, strict=True), start=1)
            ],
        )
        for index in range(count)
    ]


def bounds(pixels, colour):
    """Find where a colour is; it must fill its rectangle."""
    rows, columns = np.nonzero((pixels == colour).all(axis=2))
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert len(rows) == (box[2] - box[0]) * (box[3] - box[1])
    return box


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_thumbnails_are_on_a_grid(count):
    """An image and its overlays are side by side; cells are in rows with equal gaps."""
    pixels = np.asarray(contact_sheets.render(cells(count)))
    height, width = pixels.shape[:2]
    corners = []
    for index in range(count):
        places = [bounds(pixels, colour_of(index, column)) for column in range(3)]
        left, top = places[0][:2]
        expected = [
            (left + n * STEP, top, left + n * STEP + contact_sheets.SIDE, top + contact_sheets.SIDE) for n in range(3)
        ]
        assert places == expected
        corners.append((top, left))
    assert corners == sorted(corners)
    lefts, tops = sorted({left for _, left in corners}), sorted({top for top, _ in corners})
    assert corners == [(top, left) for top in tops for left in lefts][:count]
    assert {*np.diff(lefts)} <= {3 * STEP - contact_sheets.GAP + contact_sheets.SPACE}
    assert min(lefts) == min(tops) == contact_sheets.SPACE
    assert width - max(lefts) == 3 * STEP - contact_sheets.GAP + contact_sheets.SPACE
    assert len({*np.diff(tops)}) <= 1
    assert len(lefts) == 1 or 0.6 < width / height < 2.5


@pytest.mark.parametrize(
    ("size", "side"), [((300, 100), (160, 53)), ((80, 320), (40, 160)), ((16, 8), (160, 80)), ((1, 900), (1, 160))]
)
def test_thumbnail_keeps_the_aspect_ratio(size, side):
    """Centred in its square; small images are enlarged, however narrow."""
    pixels = np.asarray(contact_sheets.render(cells(1, size=size)))
    for column in range(3):
        left, top, right, bottom = bounds(pixels, colour_of(0, column))
        assert (right - left, bottom - top) == side
        assert left == contact_sheets.SPACE + column * STEP + (160 - side[0]) // 2
        assert top == contact_sheets.SPACE + (160 - side[1]) // 2


def test_small_images_are_enlarged_by_whole_pixels():
    """The pixels of a digit stay visible."""
    values = np.random.default_rng(0).integers(0, 250, (8, 8, 3), dtype=np.uint8)
    made = contact_sheets.thumbnail(Image.fromarray(values))
    assert np.array_equal(np.asarray(made), values.repeat(20, axis=0).repeat(20, axis=1))


@pytest.mark.parametrize("share", [0.0, 0.002, 0.25, 0.8, 1.0])
def test_bar_length_is_the_probability(share):
    """As a share of the width of the thumbnail, below its overlay; the rest is grey."""
    pixels = np.asarray(contact_sheets.render(cells(1, (share, 1 - share))))
    for column, expected in ((1, share), (2, 1 - share)):
        part = pixels[:, contact_sheets.SPACE + column * STEP :][:, : contact_sheets.SIDE]
        lengths = (part == BAR).all(axis=2).sum(axis=1)
        rests = (part == EMPTY).all(axis=2).sum(axis=1)
        (rows,) = np.nonzero(lengths + rests == contact_sheets.SIDE)  # some pixels of letters are as grey
        assert len(rows) == rows[-1] - rows[0] + 1 > 2
        assert {*lengths[rows]} == {round(expected * contact_sheets.SIDE)}
        for row in rows:  # from the left
            assert (part[row, : lengths[row]] == BAR).all()
    assert (
        not (pixels[:, : contact_sheets.SPACE + contact_sheets.SIDE] == BAR).all(axis=2).any()
    )  # none below the image itself


@pytest.mark.parametrize("letter", ["W", "i", "м", "語"])
def test_long_names_stay_within_columns(letter):
    """Between and around columns there is only background."""
    long = letter * 150
    pixels = np.asarray(contact_sheets.render(cells(2, names=(long, long), path=long)))
    inked = (pixels != PAPER).any(axis=2)
    corners = [bounds(pixels, colour_of(index, column))[:2] for index in range(2) for column in range(3)]
    below = {top + contact_sheets.SIDE for _, top in corners}
    for line in below:
        captions = inked[line : line + 2 * picture_style.LINE_HEIGHT + 4]
        allowed = np.zeros(pixels.shape[1], dtype=bool)
        for left, top in corners:
            if top + contact_sheets.SIDE == line:
                allowed[left : left + contact_sheets.SIDE] = True
                assert captions[:, left : left + contact_sheets.SIDE].any()  # and something is written in each
        assert not captions[:, ~allowed].any()


def test_numbers_are_not_overwritten_by_long_names():
    """The right part of a caption is the same for a long name and a short one."""
    short, long = (np.asarray(contact_sheets.render(cells(1, names=(name, "b")))) for name in ("a", "W" * 90))
    right = contact_sheets.SPACE + 2 * STEP - contact_sheets.GAP
    digits = right - int(picture_style.font().getlength("0.750"))
    assert (short[:, digits:right] != PAPER).any()
    assert np.array_equal(short[:, digits:right], long[:, digits:right])


@pytest.mark.parametrize("keep_end", [False, True])
def test_shortened_text_has_an_ellipsis(keep_end):
    """As long as fits, from the start or the end; a text that fits is unchanged."""
    text = "flowers/sunflower/in_a_field_behind_the_house_0123.jpg"
    width = 160
    found = picture_style.shorten(text, width, keep_end=keep_end)
    letters = picture_style.font()
    assert letters.getlength(found) <= width
    kept = found.replace("…", "")
    assert found == (f"…{kept}" if keep_end else f"{kept}…")
    longer = f"…{text[-len(kept) - 1 :]}" if keep_end else f"{text[: len(kept) + 1]}…"
    assert text.endswith(kept) if keep_end else text.startswith(kept)
    assert letters.getlength(longer) > width
    assert picture_style.shorten("cat", width, keep_end=keep_end) == "cat"
    assert picture_style.shorten("cat", 1, keep_end=keep_end) == ""


def test_sheet_has_a_maximum_of_thumbnails(tmp_path, caplog, monkeypatch):
    """A notice counts the images that are left out; one cell is always drawn."""
    monkeypatch.setattr(contact_sheets, "MOST", 7)
    kept = contact_sheets.SheetCells()
    made = cells(5)
    for each in made:
        kept.append(each)
    assert list(kept) == made[:2]
    assert (len(kept), kept.left_out) == (2, 3)
    with caplog.at_level(logging.INFO, logger="cnnkit"):
        contact_sheets.save(tmp_path / "sheet.png", kept)
    assert caplog.messages == [f"{tmp_path / 'sheet.png'} shows only the first 2 of 5 images"]
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert np.array_equal(np.asarray(drawn), np.asarray(contact_sheets.render(made[:2])))
    monkeypatch.setattr(contact_sheets, "MOST", 1)
    wide = contact_sheets.SheetCells()
    wide.append(made[0])
    assert (len(wide), wide.left_out) == (1, 0)


def test_full_sheet_takes_no_later_image(monkeypatch):
    """After the first image that is left out, later ones with fewer overlays are left out too."""
    monkeypatch.setattr(contact_sheets, "MOST", 4)
    kept = contact_sheets.SheetCells()
    made = [*cells(2), *cells(1, (0.5,), names=("cat",))]
    made.append(contact_sheets.SheetCell("b.jpg", contact_sheets.thumbnail(plain((1, 2, 3))), []))
    for each in made:
        kept.append(each)
    assert list(kept) == made[:1]
    assert kept.left_out == 3


def test_empty_sheet_writes_nothing(tmp_path):
    """If no image could be read."""
    contact_sheets.save(tmp_path / "sheet.png", contact_sheets.SheetCells())
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- mosaics


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
def test_mosaic_fits_on_a_screen(count):
    """Small tiles are enlarged to a mosaic of at most about 1000 pixels."""
    width, _ = contact_sheets.mosaic(tiles(count, 7, 7)).size
    assert 512 < width <= 1026


def test_small_tile_is_enlarged():
    """A large tile is unchanged."""
    (small,), (large,) = tiles(1, 5, 7), tiles(1, 200, 130)
    drawn = np.asarray(contact_sheets.enlarged(small))
    assert max(drawn.shape) >= 128
    assert np.array_equal(shrunk(drawn, 5, 7), small)
    assert np.array_equal(np.asarray(contact_sheets.enlarged(large)), large)


def test_caption_of_a_crop_has_the_end_of_the_file_name():
    """Crops of two files with the same box have different captions."""
    image = contact_sheets.thumbnail(plain((0, 0, 0), (8, 8)))
    one, other = (
        contact_sheets.render([contact_sheets.SheetCell(f"photos/{name}.jpg#xywh=125,83,250,166", image, [])])
        for name in ("12094442595_297494dba4_a", "12094442595_297494dba4_m")
    )
    assert one.tobytes() != other.tobytes()
