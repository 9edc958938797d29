"""Inspection of one file, against numpy and the settings that Pillow wrote it with."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from cnnkit.audit.exif import Exif
from cnnkit.audit.inspection import Unusable, inspect
from cnnkit.audit.record import FindingKind


def draw(seed, *, size=(40, 32)):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.mark.parametrize("quality", [8, 20, 35, 50, 75, 78, 90, 95, 99])
def test_jpeg_quality_is_the_one_it_was_written_with(tmp_path, quality):
    """From 1 to 100, in colour and in grey."""
    for name, image in (("colour", draw(0)), ("grey", draw(0).convert("L"))):
        image.save(tmp_path / f"{name}.jpg", quality=quality)
        assert inspect(str(tmp_path / f"{name}.jpg")).quality == quality


def test_other_formats_have_no_quality(tmp_path):
    """A PNG has no quantization."""
    draw(0).save(tmp_path / "x.png")
    seen = inspect(str(tmp_path / "x.png"))
    assert (seen.quality, seen.format, seen.mode) == (None, "PNG", "RGB")


def test_sizes_and_colours_are_of_the_upright_image(tmp_path):
    """After the EXIF rotation; mean and border colours equal those of numpy."""
    exif = Image.Exif()
    exif[274] = 6  # lies on its left side
    image = draw(1, size=(96, 64))
    image.save(tmp_path / "x.png", exif=exif)
    seen = inspect(str(tmp_path / "x.png"))
    upright = np.asarray(image.rotate(-90, expand=True), dtype=np.float64)
    assert (seen.width, seen.height, seen.exif.orientation) == (64, 96, 6)
    assert seen.size == (tmp_path / "x.png").stat().st_size
    np.testing.assert_allclose(seen.mean, upright.mean((0, 1)))
    edges = (upright[:2], upright[-2:], upright[:, :2], upright[:, -2:])  # a 32nd of the shorter side
    np.testing.assert_allclose(seen.border, np.concatenate([edge.mean((0, 1)) for edge in edges]))


def test_the_camera_and_its_clock(tmp_path):
    """Make and model, and the time without time zone."""
    exif = Image.Exif()
    exif[271], exif[272], exif[306] = "Nikon", "D5 \0", "2016:11:22 10:00:30"
    draw(0).save(tmp_path / "x.jpg", exif=exif)
    seen = inspect(str(tmp_path / "x.jpg"))
    assert seen.exif == Exif(None, None, "Nikon D5", 1479808830.0)
    exif.get_ifd(0x8769)[36867] = "2016:11:22 10:00:00"  # when it was taken comes before when it was changed
    draw(0).save(tmp_path / "y.jpg", exif=exif)
    assert inspect(str(tmp_path / "y.jpg")).exif.taken == 1479808800.0


@pytest.mark.parametrize("text", ["0000:00:00 00:00:00", "yesterday", ""])
def test_unset_clock_is_none(tmp_path, text):
    """Cameras write zeros; the other fields are read."""
    exif = Image.Exif()
    exif[271], exif[306] = "Nikon", text
    draw(0).save(tmp_path / "x.jpg", exif=exif)
    seen = inspect(str(tmp_path / "x.jpg"))
    assert seen.exif == Exif(camera="Nikon")


def directory(*entries, count=None):
    return (
        b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries) if count is None else count) + b"".join(entries) + bytes(4)
    )


MAKE = struct.pack("<HHI4s", 271, 2, 4, b"Abc\0")


@pytest.mark.parametrize(
    ("block", "error"),
    [
        (b"not a TIFF header at all", "no TIFF header"),
        (b"II*\0\xff\xff\0\0", "a directory is beyond the end"),
        (directory(MAKE, count=9), "a directory is cut short"),
        (directory(struct.pack("<HHII", 271, 2, 100, 5000)), "the value of tag 271 is beyond the end"),
        (directory(struct.pack("<HHII", 0x8769, 4, 1, 9999)), "a directory is beyond the end"),
        (directory(struct.pack("<HHII", 0x8769, 4, 1, 8)), "a directory leads back to itself"),
        (directory(MAKE), None),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(EXIF|Tag data)")  # Pillow's own words on such blocks
def test_broken_exif_block_is_reported(tmp_path, block, error):
    """With its error; the image itself is intact. An intact block has no error."""
    plain = io.BytesIO()
    draw(0).save(plain, format="JPEG")
    block = b"Exif\0\0" + block
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    (tmp_path / "x.jpg").write_bytes(plain.getvalue()[:2] + segment + plain.getvalue()[2:])
    seen = inspect(str(tmp_path / "x.jpg"))
    assert seen.exif == Exif(error, camera=None if error else "Abc")
    assert (seen.width, seen.height) == (40, 32)


def test_unusable_files_have_a_kind(tmp_path):
    """Missing, empty, another kind of file, or truncated; an image with the extension of another format is usable."""
    draw(0).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_bytes(b"no image")
    (tmp_path / "cut.png").write_bytes(whole[:-500])
    (tmp_path / "named.gif").write_bytes(whole)
    found = {}
    for name in ("missing.png", "empty.png", "text.png", "cut.png"):
        with pytest.raises(Unusable) as error:
            inspect(str(tmp_path / name))
        found[name] = error.value.kind
    assert found == {
        "missing.png": FindingKind.UNREADABLE,
        "empty.png": FindingKind.EMPTY,
        "text.png": FindingKind.BROKEN,
        "cut.png": FindingKind.BROKEN,
    }
    assert inspect(str(tmp_path / "named.gif")).misnamed == "a PNG file with the extension .gif"
    assert inspect(str(tmp_path / "whole.png")).misnamed is None


def test_other_files_are_not_read_to_their_end(tmp_path):
    """However large they are, to save memory."""
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(300 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(Unusable, match="not an image") as caught:
            inspect(str(tmp_path / "a.jpg"))
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.kind is FindingKind.BROKEN
