"""Crops of files: their pixels are those of the cropped image, whatever the format, the orientation and the reduction."""

import hashlib
import io
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageOps

from cnnkit.choices import Decoding, Fit
from cnnkit.data import decode, duplicates, preprocessing
from cnnkit.errors import BadImageError
from cnnkit.formats.header import Preprocess

BOX = "30,11,77,53"


@pytest.fixture(scope="module")
def photograph():
    """A smooth image, wider than high."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8))
    return small.resize((1003, 601), Image.Resampling.BICUBIC)


def saved(image, path, orientation=None, **words):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(path, exif=exif, **words)
    return path


@pytest.mark.parametrize("orientation", [None, 3, 6, 7])
@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_crop_is_that_of_the_upright_image(tmp_path, photograph, extension, orientation):
    path = saved(photograph, tmp_path / f"photo{extension}", orientation)
    crop = f"{path}#xywh={BOX}"
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    expected = np.asarray(upright.crop((30, 11, 107, 64)))
    assert np.array_equal(np.asarray(decode.load(crop)), expected)
    assert np.array_equal(np.asarray(decode.read(crop).image), expected)
    assert decode.upright_size(crop) == (77, 53)


@pytest.mark.parametrize("orientation", [None, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("fit", list(Fit))
def test_reduction_is_chosen_by_the_crop(tmp_path, photograph, fit, orientation):
    """The reduced crop is near the full one, though it starts within a pixel of the reduction; a small crop is not reduced."""
    path = saved(photograph, tmp_path / "photo.jpg", orientation, quality=95)
    way = Preprocess(fit=fit, resize=40, size=32 if fit is Fit.CROP else 40)
    sides = (601, 1003) if orientation and orientation > 4 else (1003, 601)
    crop = f"{path}#xywh=101,53,{sides[0] - 203},{sides[1] - 101}"
    (reduced,) = decode.load_reduced(crop, [preprocessing.enough(way)])
    assert reduced.factor > 1
    assert reduced.size == (sides[0] - 203, sides[1] - 101)
    full = preprocessing.prepare(decode.load(crop), way).astype(int)
    near = np.abs(preprocessing.prepare(reduced, way).astype(int) - full)
    assert near.mean() < 1, near.mean()
    assert near.max() < 24  # at the edges, where a pixel of the reduction is partly outside
    (small,) = decode.load_reduced(f"{path}#xywh=101,53,60,60", [preprocessing.enough(way)])
    assert small.factor == 1
    whole = Preprocess(fit=fit, resize=40, size=way.size, decoding=Decoding.FULL)
    assert np.array_equal(preprocessing.load(crop, whole), full)


@pytest.mark.parametrize("orientation", [None, 2, 3, 4, 5, 6, 7, 8])
def test_reduction_of_a_turned_image_is_not_shifted(tmp_path, photograph, orientation):
    """1003 x 601 pixels are not a multiple of 8, so the last column and row as stored have pixels outside of the image."""
    path = saved(photograph, tmp_path / "photo.jpg", orientation, quality=95)
    way = Preprocess(fit=Fit.SQUASH, resize=40, size=40)
    (reduced,) = decode.load_reduced(path, [preprocessing.enough(way)])
    assert reduced.factor > 1
    near = np.abs(preprocessing.prepare(reduced, way).astype(int) - preprocessing.prepare(decode.load(path), way))
    assert near.mean() < 1, near.mean()


@pytest.mark.parametrize(
    ("box", "why"),
    [
        ("2000,0,10,10", "is outside of the image of 1,003 x 601 pixels; correct it"),
        ("10,10,0,5", "has no area"),
        ("10,10,5,-5", "has no area"),
    ],
)
def test_box_outside_of_the_image_or_without_area_is_a_broken_image(tmp_path, photograph, box, why):
    path = saved(photograph, tmp_path / "photo.jpg")
    crop = f"{path}#xywh={box}"
    way = preprocessing.enough(Preprocess(resize=32, size=32))
    for read in (decode.load, decode.read, decode.upright_size, duplicates.examine):
        with pytest.raises(BadImageError, match=why):
            read(crop)
    with pytest.raises(BadImageError, match=why):
        decode.load_reduced(crop, [way])


def test_box_is_clipped_to_the_image(tmp_path, photograph):
    path = saved(photograph, tmp_path / "photo.png")
    crop = decode.load(f"{path}#xywh=-10,590,50,50")
    assert np.array_equal(np.asarray(crop), np.asarray(photograph)[590:, :40])


def test_fingerprint_names_the_file_and_the_box(tmp_path, photograph):
    path = saved(photograph, tmp_path / "photo.png")
    content = hashlib.sha256(path.read_bytes()).digest()
    expected = hashlib.sha256(content + BOX.encode()).hexdigest()
    crop = f"{path}#xywh={BOX}"
    examined = duplicates.examine(crop, look=True)
    assert decode.read(crop).fingerprint == examined.digest.hex() == expected
    assert examined.whole == content
    assert examined.look == duplicates.perceptual_hash(photograph.crop((30, 11, 107, 64)))
    assert decode.read(path).fingerprint == content.hex()


def test_crop_of_a_file_in_an_archive(tmp_path, photograph):
    content = io.BytesIO()
    photograph.save(content, "PNG")
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        member = tarfile.TarInfo("cat/1.png")
        member.size = len(content.getvalue())
        archive.addfile(member, io.BytesIO(content.getvalue()))
    crop = decode.load(f"{tmp_path}/photos.tar/cat/1.png#xywh={BOX}")
    assert np.array_equal(np.asarray(crop), np.asarray(photograph)[11:64, 30:107])


def test_file_with_the_name_of_a_crop_is_read_whole(tmp_path, photograph):
    photograph.save(tmp_path / "1.png")
    odd = tmp_path / f"1.png#xywh={BOX}"
    photograph.save(odd, "PNG")
    assert decode.load(odd).size == photograph.size
