"""Names of images in archives that are written. Archives of whole data sets: tests/commands/test_tar.py."""

import io

import pytest
from PIL import Image

from cnnkit.formats import image_formats, tar_shards


@pytest.mark.parametrize(
    ("kind", "mode", "extension"),
    [
        ("JPEG", "RGB", ".jpg"),
        ("PNG", "RGB", ".png"),
        ("PPM", "RGB", ".ppm"),
        ("PPM", "L", ".ppm"),
        ("GIF", "RGB", ".gif"),
        ("BMP", "RGB", ".bmp"),
        ("TIFF", "RGB", ".tif"),
        ("WEBP", "RGB", ".webp"),
    ],
)
def test_images_without_an_extension_get_the_usual_one(kind, mode, extension):
    """WebDataset decodes images by their extension, and knows only jpg, jpeg, png, ppm, pgm, pbm and pnm."""
    file = io.BytesIO()
    Image.new(mode, (8, 8)).save(file, kind)
    head = file.getvalue()[: image_formats.HEAD]
    assert tar_shards.member_name("a/0001", head) == f"a/0001{extension}"
    assert tar_shards.member_name("a/0001.txt", head) == f"a/0001_txt{extension}"


def test_every_format_has_a_usual_extension():
    """One of its extensions."""
    assert image_formats.USUAL.keys() == image_formats.FORMATS.keys()
    assert all(image_formats.USUAL[name] in extensions for name, extensions in image_formats.FORMATS.items())
