"""HEIC, written by phones: read if pillow-heif is installed, otherwise reported with the remedy."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from cnnkit.data import decode
from cnnkit.errors import BadImageError

pillow_heif = pytest.importorskip("pillow_heif")

HALVES = np.zeros((32, 64, 3), np.uint8)
HALVES[:, :32] = (250, 20, 20)


@pytest.fixture
def write(tmp_path):
    """Write a HEIC file as a phone does, with the orientation in the container and in EXIF."""

    def save(name="photo.heic", *, orientation=None, pixels=HALVES):
        made = pillow_heif.from_pillow(Image.fromarray(pixels))
        words = {}
        if orientation is not None:
            exif = Image.Exif()
            exif[0x0112] = orientation
            words["exif"] = exif.tobytes()
        made.save(tmp_path / name, quality=95, **words)
        return tmp_path / name

    return save


@pytest.fixture
def without(hide_heif):
    """Hide pillow-heif."""
    hide_heif()


@pytest.mark.parametrize("name", ["photo.heic", "photo.HEIF", "photo.jpg", "photo"])
def test_pixels_are_nearly_those_written(write, name):
    """Recognized by content, whatever the name."""
    image = decode.load(write(name))
    assert (image.mode, image.size) == ("RGB", (64, 32))
    assert np.abs(np.asarray(image).astype(int) - HALVES).mean() < 3
    assert decode.read(write(name)).format == "HEIF"


@pytest.mark.parametrize(("orientation", "size"), [(None, (64, 32)), (3, (64, 32)), (6, (32, 64)), (8, (32, 64))])
def test_orientation_is_applied_once(write, orientation, size):
    """The container's orientation, and not again that of EXIF; the size is known without decoding."""
    path = write(orientation=orientation)
    image = decode.load(path)
    exif = Image.Exif()
    exif[0x0112] = orientation or 1
    lying = Image.fromarray(HALVES)
    lying.info["exif"] = exif.tobytes()
    assert image.size == size == decode.upright_size(path)
    expected = np.asarray(ImageOps.exif_transpose(lying)).astype(int)
    assert np.abs(np.asarray(image) - expected).mean() < 3


def test_grey_stays_grey(write, tmp_path):
    """The three channels are equal."""
    pillow_heif.from_pillow(Image.fromarray(HALVES[:, :, 0])).save(tmp_path / "grey.heic", quality=95)
    pixels = np.asarray(decode.load(tmp_path / "grey.heic"))
    assert np.ptp(pixels, axis=2).max() == 0


def test_rejects_truncated_files(write):
    """As for every format."""
    path = write()
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadImageError):
        decode.load(path)


@pytest.mark.usefixtures("without")
def test_error_without_pillow_heif_has_the_remedy(write):
    """In one sentence."""
    with pytest.raises(BadImageError, match=r"^a HEIC image; to read it, pip install pillow-heif$"):
        decode.load(write())
