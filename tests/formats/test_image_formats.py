"""Image formats: extensions and first bytes."""

import io
import os

import pytest
from PIL import Image

from cnnkit.data import decode
from cnnkit.formats import image_formats


def encoded(kind, mode="RGB"):
    content = io.BytesIO()
    Image.new(mode, (20, 10), 100).save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "AVIF", "PPM"])
def test_format_is_recognized_by_first_bytes(kind):
    """As written by Pillow, in agreement with its openers."""
    content = encoded(kind)
    assert image_formats.of_content(content[: image_formats.HEAD]) == kind
    with decode.opened("x", io.BytesIO(content)) as image:
        assert image.format == kind


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"not an image, but a text that is long enough",
        b"BM and a text that begins like a bitmap",
        b"P3 is a word here",
        b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(8),
        b"RIFF\x24\0\0\0WAVEfmt " + bytes(16),
        b"%PDF-1.7",
        b"\0" * 32,
    ],
)
def test_other_files_have_no_format(head):
    """Texts, films, sounds, documents."""
    assert image_formats.of_content(head) is None


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.jpg", True),
        ("a.JPE", True),
        ("a.mpo", True),
        ("a.apng", True),
        ("a.dib", True),
        ("a.pnm", True),
        ("a.jfif", True),
        (".a.jpg", False),
        ("jpg", False),
        ("a.jpg.download", False),
        ("a.nef", False),
    ],
)
def test_image_extensions(name, read):
    """All extensions of the decoders, in any case of letters."""
    assert image_formats.has_image_extension(name) is read


def test_heic_is_an_image_extension_if_it_can_be_read(hide_heif):
    """With pillow-heif; without it, there is a remedy."""
    pytest.importorskip("pillow_heif")
    assert image_formats.has_image_extension("a.HEIC")
    assert image_formats.why_not_read("a.HEIC") is None
    hide_heif()
    assert not image_formats.has_image_extension("a.HEIC")
    assert image_formats.why_not_read("a.HEIC") == "to read them, pip install pillow-heif"


def test_raw_files_are_never_read_by_content(tmp_path):
    """A camera raw file is a TIFF with a small preview, which would be read as the photograph."""
    content = encoded("TIFF")
    assert image_formats.of_content(content[: image_formats.HEAD]) == "TIFF"
    assert not image_formats.may_be_read_by_content("a.NEF")
    assert image_formats.may_be_read_by_content("a")
    assert os.path.splitext("a.NEF")[1].lower() in image_formats._RAW
