"""JPEG photographs that are decoded at a reduced size."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from cnnkit.choices import Decoding, Fit, Interpolation
from cnnkit.data import decode, in_memory
from cnnkit.data.preprocessing import crops, enough, load, prepare
from cnnkit.data.source import ImageFile
from cnnkit.formats.header import Preprocess

TURNED = 6  # EXIF: the camera was turned by 90 degrees


@pytest.fixture
def photo(tmp_path):
    """Return a function that writes a smooth image with some grain, as photographs are; 1,003 x 757 pixels by default."""

    def write(name="photo.jpg", *, width=1003, height=757, orientation=1, **options):
        generator = np.random.default_rng(width)
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) + generator.normal(
            0, 3, (height, width, 1)
        )
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(tmp_path / name, exif=exif, **({"quality": 92} if name.endswith("jpg") else {}), **options)
        return tmp_path / name

    return write


def reduced(path, preprocess):
    (found,) = decode.load_reduced(path, [enough(preprocess)])
    return found


@pytest.mark.parametrize(
    ("fit", "size", "resize", "factor"),
    [  # of 1,003 x 757: the reduction is at least twice what is needed in both directions
        (Fit.CROP, 40, 47, 8),  # 757 / 8 = 94.6 >= 2 * 47
        (Fit.CROP, 40, 48, 4),
        (Fit.CROP, 94, 94, 4),  # 189 >= 188
        (Fit.CROP, 95, 95, 2),
        (Fit.CROP, 190, 190, 1),
        (Fit.SQUASH, 47, 47, 8),
        (Fit.SQUASH, 48, 48, 4),
        (Fit.PAD, 62, 62, 8),  # the longer side: 1003 / 8 = 125.4 >= 2 * 62
        (Fit.PAD, 63, 63, 4),
    ],
)
@pytest.mark.parametrize("orientation", [1, TURNED])
def test_reduction_is_twice_the_needed_size(photo, fit, size, resize, factor, orientation):
    """As libjpeg does, which rounds sides up; the size of the image in the file stays known."""
    sides = (1003, 757) if orientation == 1 else (757, 1003)
    found = reduced(photo(orientation=orientation), Preprocess(fit=fit, size=size, resize=resize))
    assert found.factor == factor
    assert found.size == sides
    assert found.image.size == tuple(-(-side // factor) for side in sides)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_pixels_are_those_of_libjpeg(photo, orientation):
    """Turned the way up that the EXIF data says."""
    path = photo(orientation=orientation)
    found = reduced(path, Preprocess(size=40, resize=48))
    with Image.open(path) as image:
        image.draft(None, (image.width // 4, image.height // 4))
        assert np.array_equal(found.image, ImageOps.exif_transpose(image))


def test_reduced_image_is_resized_without_its_margin(photo):
    """Of 251 columns, 1003 pixels fill 250 and three quarters; stretching 251 would shift the image."""
    path, preprocess = photo(), Preprocess(fit=Fit.SQUASH, size=64, resize=64)
    with Image.open(path) as image:
        _, box = image.draft(None, (250, 189))
        assert box == (0, 0, 250.75, 189.25)
        expected = image.resize((64, 64), Image.Resampling.BILINEAR, box=box)
    assert np.array_equal(load(path, preprocess), expected)


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize("interpolation", [each for each in Interpolation if each is not Interpolation.NEAREST])
def test_reduction_hardly_changes_the_result(photo, fit, interpolation):
    """Every value changes by a few of 255, none is shifted."""
    path, preprocess = photo(), Preprocess(fit=fit, size=80, resize=90, interpolation=interpolation)
    assert reduced(path, preprocess).factor > 1
    whole = load(path, replace(preprocess, decoding=Decoding.FULL)).astype(int)
    difference = np.abs(load(path, preprocess) - whole)
    assert 0 < difference.mean() < 0.5
    assert difference.max() <= 4


def test_five_crops_of_a_reduction(photo):
    """They are close to those of the whole image."""
    path, preprocess = photo(), Preprocess(size=80, resize=94)
    found = reduced(path, preprocess)
    assert found.factor == 4
    pairs = zip(crops(found, preprocess), crops(decode.load(path), preprocess), strict=True)
    assert all(np.abs(one.astype(int) - other).max() <= 4 for one, other in pairs)


@pytest.mark.parametrize(
    ("name", "preprocess"),
    [
        ("photo.jpg", Preprocess(size=40, resize=48, decoding=Decoding.FULL)),
        ("photo.jpg", Preprocess(size=40, resize=48, interpolation=Interpolation.NEAREST)),  # picks single pixels
        ("photo.png", Preprocess(size=40, resize=48)),
        ("photo.webp", Preprocess(size=40, resize=48)),
    ],
)
def test_decodes_completely(photo, name, preprocess):
    """With `decoding full`, for nearest neighbours, and in formats that cannot be reduced."""
    path = photo(name)
    assert reduced(path, preprocess).factor == 1
    assert np.array_equal(load(path, preprocess), prepare(decode.load(path), preprocess))


def test_each_preprocessing_gets_its_own_reduction(photo):
    """Networks of different input sizes get of one image what each would get alone."""
    path = photo()
    ways = [Preprocess(size=40, resize=40), Preprocess(size=90, resize=90), Preprocess(size=41, resize=41)]
    found = in_memory.load(ImageFile(str(path)), [enough(way) for way in ways])
    assert [each.factor for each in found] == [8, 4, 8]
    for each, way in zip(found, ways, strict=True):
        assert np.array_equal(prepare(each, way), load(path, way))
    originals = in_memory.read(ImageFile(str(path)), [enough(way) for way in ways])
    assert [each.factor for each in originals] == [8, 4, 8]
    assert {each.fingerprint for each in originals} == {decode.read(path).fingerprint}


def test_truncated_file_is_still_found(photo):
    """Its pixels are read to the end, however small it is decoded."""
    path = photo()
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(decode.BadImageError, match="truncated"):
        load(path, Preprocess(size=40, resize=48))
