"""Pictures of mistakes: small, upright, and with the heat maps that cnn-cam draws."""

import io

import numpy as np
import pytest
from PIL import Image

from cnnkit.callbacks import Callbacks
from cnnkit.data.source import ImageFile
from cnnkit.report import pictures


def illustrated(*paths, skip=None):
    """Return the images of these files."""
    callbacks = Callbacks() if skip is None else Callbacks(skip=skip)
    images = [ImageFile(str(path)) for path in paths]
    return pictures.illustrated(images, None, classes=["top"], jobs=1, callbacks=callbacks)


def opened(picture):
    return Image.open(io.BytesIO(picture.content))


def test_photographs_become_small_and_upright(tmp_path):
    """The longer side has 320 pixels, and EXIF's orientation is applied."""
    image = Image.new("RGB", (800, 400), (0, 0, 200))
    image.paste((200, 0, 0), (0, 0, 400, 400))  # red on the left; turned clockwise, at the top
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    (found,) = illustrated(tmp_path / "turned.jpg")
    (picture,) = found.images
    assert (picture.kind, picture.size, picture.small) == ("jpeg", (160, 320), False)
    red, _, blue = opened(picture).convert("RGB").getpixel((80, 20))
    assert red > 150
    assert blue < 50


def test_tiny_images_keep_their_pixels(tmp_path):
    """As PNG, to be enlarged by the page."""
    values = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "digit.png")
    (picture,) = illustrated(tmp_path / "digit.png")[0].images
    assert (picture.kind, picture.size, picture.small) == ("png", (9, 8), True)
    assert np.array_equal(np.asarray(opened(picture)), values)


def test_a_missing_image_is_skipped(tmp_path):
    """It is reported, and the reason is in its place."""
    reported = []
    Image.new("RGB", (8, 8)).save(tmp_path / "there.png")
    gone, there = illustrated(tmp_path / "gone.png", tmp_path / "there.png", skip=lambda *words: reported.append(words))
    assert reported == [(str(tmp_path / "gone.png"), "no such file or directory")]
    assert (gone.missing, gone.images) == ("no such file or directory", ())
    assert there.missing is None


@pytest.mark.parametrize(
    ("size", "small"),
    [((640, 320), (320, 160)), ((100, 50), (100, 50)), ((9000, 3), (320, 1)), ((3, 9000), (1, 320))],
)
def test_reduced_size(size, small):
    assert pictures.reduced_size(size) == small
