"""Contact sheet: choice and position of its images."""

import numpy as np
import pytest
from PIL import Image

from cnnkit.data import image_grid
from cnnkit.data.image_grid import GAP, MOST_ROWS, SIDE
from cnnkit.data.source import ImageFile


def shown(**classes):
    listed = [ImageFile(f"{label}{n}", label) for label, count in classes.items() for n in range(count)]
    return [image.path for image in image_grid.choose(listed)]


def test_few_images_are_all_shown_by_class():
    """In the order given; images without a label are a class of their own."""
    mixed = [ImageFile("b1", "b"), ImageFile("x1"), ImageFile("a1", "a"), ImageFile("b2", "b"), ImageFile("x2")]
    assert [image.path for image in image_grid.choose(mixed)] == ["b1", "b2", "x1", "x2", "a1"]
    assert image_grid.choose([]) == []


def test_rows_are_shared_evenly_among_classes():
    """12 rows for two classes of 11 are 6 each, at 0, 2, 4, ...; if a third class has 2, the others have 5."""
    assert shown(a=11, b=11) == [*(f"a{n}" for n in range(0, 11, 2)), *(f"b{n}" for n in range(0, 11, 2))]
    assert shown(a=2, b=9, c=9) == ["a0", "a1", *(f"b{n}" for n in range(0, 9, 2)), *(f"c{n}" for n in range(0, 9, 2))]


def test_many_classes_are_shown_at_even_distances():
    """34 classes in 12 rows: every third class, with its first image."""
    chosen = shown(**{f"c{n}_": 2 for n in range(34)})
    assert chosen == [f"c{n}_0" for n in range(0, 34, 3)]
    assert len(chosen) == MOST_ROWS


@pytest.mark.parametrize(
    ("size", "small"),
    [((512, 256), (128, 64)), ((100, 300), (43, 128)), ((40, 32), (40, 32)), ((128, 128), (128, 128))],
)
def test_thumbnails_keep_the_aspect_ratio_and_are_never_enlarged(size, small):
    """The longer side is at most a thumbnail's; the image itself does not change."""
    image = Image.new("RGB", size, "red")
    assert image_grid.thumbnail(image).size == small
    assert image.size == size


def test_thumbnails_are_centred_on_white(tmp_path):
    """Rows may differ in length; two extra gaps separate the originals from their copies."""
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
