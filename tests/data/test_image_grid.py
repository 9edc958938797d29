"""The contact sheet: which images are shown, and where on it each of them lies."""

import numpy as np
import pytest
from PIL import Image

from cnnkit.data import image_grid
from cnnkit.data.image_grid import GAP, MOST_ROWS, SIDE
from cnnkit.data.source import ImageFile


def shown(**classes):
    listed = [ImageFile(f"{label}{n}", label) for label, count in classes.items() for n in range(count)]
    return [image.path for image in image_grid.choose(listed)]


def test_few_images_are_all_shown_class_by_class():
    """In the order in which they are named, those without a label as a class of their own."""
    mixed = [ImageFile("b1", "b"), ImageFile("x1"), ImageFile("a1", "a"), ImageFile("b2", "b"), ImageFile("x2")]
    assert [image.path for image in image_grid.choose(mixed)] == ["b1", "b2", "x1", "x2", "a1"]
    assert image_grid.choose([]) == []


def test_rows_are_shared_evenly_and_cover_each_class_from_end_to_end():
    """12 rows of two classes of 11 are 6 each, at 0, 2, 4, ...; of three, where one has 2, the others have 5."""
    assert shown(a=11, b=11) == [*(f"a{n}" for n in range(0, 11, 2)), *(f"b{n}" for n in range(0, 11, 2))]
    assert shown(a=2, b=9, c=9) == ["a0", "a1", *(f"b{n}" for n in range(0, 9, 2)), *(f"c{n}" for n in range(0, 9, 2))]


def test_of_many_classes_the_first_and_the_last_are_shown():
    """34 classes at 12 rows: every third, one image each, its first."""
    chosen = shown(**{f"c{n}_": 2 for n in range(34)})
    assert chosen == [f"c{n}_0" for n in range(0, 34, 3)]
    assert len(chosen) == MOST_ROWS


@pytest.mark.parametrize(
    ("size", "small"),
    [((512, 256), (128, 64)), ((100, 300), (43, 128)), ((40, 32), (40, 32)), ((128, 128), (128, 128))],
)
def test_a_thumbnail_keeps_its_shape_and_is_never_enlarged(size, small):
    """The longer side becomes a thumbnail's, and the image itself is left alone."""
    image = Image.new("RGB", size, "red")
    assert image_grid.thumbnail(image).size == small
    assert image.size == size


def test_every_thumbnail_is_in_the_middle_of_its_place_and_the_rest_is_white(tmp_path):
    """Rows may be of different lengths; originals stand apart from their copies by two more gaps."""
    red, green, blue = (Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue"))
    image_grid.save(tmp_path / "look.png", [[red, green], [blue], [red, green, blue]])
    assert [path.name for path in tmp_path.iterdir()] == ["look.png"]
    with Image.open(tmp_path / "look.png") as image:
        assert image.format == "PNG"
        sheet = np.array(image)
    assert sheet.shape == (GAP + 3 * (SIDE + GAP), 4 * GAP + 3 * (SIDE + GAP) - GAP, 3)
    wanted = np.full_like(sheet, 255)
    lefts = [GAP, 3 * GAP + SIDE + GAP, 3 * GAP + 2 * (SIDE + GAP)]
    places = [(0, 0, (255, 0, 0)), (0, 1, (0, 255, 0)), (1, 0, (0, 0, 255))]
    places += [(2, 0, (255, 0, 0)), (2, 1, (0, 255, 0)), (2, 2, (0, 0, 255))]
    for row, column, colour in places:
        top, left = GAP + row * (SIDE + GAP) + (SIDE - 20) // 2, lefts[column] + (SIDE - 30) // 2
        wanted[top : top + 20, left : left + 30] = colour
    assert np.array_equal(sheet, wanted)
