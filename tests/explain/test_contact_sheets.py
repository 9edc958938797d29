"""Contact sheets: positions of thumbnails, widths of captions, lengths of bars, marks and the scale of colours."""

import logging

import numpy as np
import pytest
from PIL import Image

from cnnkit.explain import colormaps, contact_sheets
from cnnkit.formats import fonts, picture_style

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
    digits = right - int(fonts.font().getlength("0.750"))
    assert (short[:, digits:right] != PAPER).any()
    assert np.array_equal(short[:, digits:right], long[:, digits:right])


@pytest.mark.parametrize("keep_end", [False, True])
def test_shortened_text_has_an_ellipsis(keep_end):
    """As long as fits, from the start or the end; a text that fits is unchanged."""
    text = "flowers/sunflower/in_a_field_behind_the_house_0123.jpg"
    width = 160
    found = picture_style.shorten(text, width, keep_end=keep_end)
    letters = fonts.font()
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


def test_caption_of_a_crop_has_the_end_of_the_file_name():
    """Crops of two files with the same box have different captions."""
    image = contact_sheets.thumbnail(plain((0, 0, 0), (8, 8)))
    one, other = (
        contact_sheets.render([contact_sheets.SheetCell(f"photos/{name}.jpg#xywh=125,83,250,166", image, [])])
        for name in ("12094442595_297494dba4_a", "12094442595_297494dba4_m")
    )
    assert one.tobytes() != other.tobytes()


# ---------------------------------------------------------------- truth, prediction, and the scale of colours

WRONG = (160, 32, 32)


def sheet_of(predicted, truth, path="photos/cat/1.jpg"):
    cell = contact_sheets.SheetCell(
        path,
        contact_sheets.thumbnail(plain(colour_of(0, 0))),
        [("cat", 0.75, contact_sheets.thumbnail(plain(colour_of(0, 1))))],
        predicted,
        truth,
    )
    return cell.notes, np.asarray(contact_sheets.render([cell]))


def test_mistake_is_marked_by_shape():
    """A frame around the image and a cross in a disc, besides the colour of the prediction; nothing else changes."""
    (notes, right), (other, wrong) = sheet_of("cat", "cat"), sheet_of("dog", "cat")
    assert notes == ["true cat", "predicted cat"]
    assert other == ["true cat", "predicted dog"]
    assert not (right == WRONG).all(axis=2).any()
    left, side, frame = contact_sheets.SPACE, contact_sheets.SIDE, picture_style.FRAME
    square = wrong[left - frame : left + side + frame, left - frame : left + side + frame]
    red = (square == WRONG).all(axis=2)
    for edge in (red[:frame], red[-frame:], red[:, :frame], red[:, -frame:]):
        assert edge.all()
    corner = square[frame : frame + 22, frame : frame + 22]
    assert (corner == PAPER).all(axis=2)[8:14, 8:14].trace() >= 4  # the cross
    assert (square[60:120, 60:120] == colour_of(0, 0)).all()
    beside = slice(left + side + frame, None)
    assert np.array_equal(right[:, beside], wrong[:, beside])


def test_image_of_unknown_truth_has_its_prediction_only():
    """And no mark; without a prediction, neither."""
    notes, drawn = sheet_of("dog", None)
    assert notes == ["predicted dog"]
    assert not (drawn == WRONG).all(axis=2).any()
    assert sheet_of("", None)[0] == []


@pytest.mark.parametrize(
    ("path", "caption"),
    [
        ("1.jpg", "1.jpg"),
        ("photos/cat/1.jpg", "cat/1.jpg"),
        ("cat/two\nlines\t.jpg", "cat/two\\nlines\\t.jpg"),
        ("photos/cat/12094442595_297494dba4_a_large_photograph.jpg", "cat/…_large_photograph.jpg"),
    ],
)
def test_caption_has_the_class_folder(path, caption):
    """Before the end of the file's name; of a long name, the folder stays."""
    found = contact_sheets.file_caption(path, 160)
    assert found.split("/")[0] == caption.split("/")[0]
    assert found.endswith(caption[-8:])
    if len(caption) < 25:
        assert found == caption
    assert fonts.font().getlength(found) <= 161


@pytest.mark.parametrize("folder", ["long " * 60, "分類" * 90])
def test_long_folder_leaves_room_for_the_file(folder):
    """It has at most half of the width."""
    found = contact_sheets.file_caption(f"photos/{folder}/1234.jpg", 160)
    assert found.endswith("…/1234.jpg")
    assert fonts.font().getlength(found) <= 161


def test_sheet_has_the_scale_of_its_colours(tmp_path):
    """All colours of the map in their order, below the sheet."""
    kept = contact_sheets.SheetCells()
    for each in cells(2):
        kept.append(each)
    palette = colormaps.color_table("inferno")
    contact_sheets.save(tmp_path / "s.png", kept, palette=palette)
    with Image.open(tmp_path / "s.png") as image:
        drawn = np.asarray(image)
    without = np.asarray(contact_sheets.render(list(kept)))
    assert np.array_equal(drawn[: len(without), : without.shape[1]], without)
    row = drawn[len(without) + 4 + picture_style.LINE_HEIGHT // 2].tolist()
    places = [palette.tolist().index(colour) for colour in row if colour in palette.tolist()]
    assert places == sorted(places)
    assert len(places) >= 150
    assert (places[0] <= 2, places[-1] >= 253) == (True, True)
