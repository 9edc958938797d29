"""Examination of one image file."""

import hashlib
import shutil
import tracemalloc

import imagehash
import numpy as np
import pytest
from PIL import Image

from cnnkit.data import decode, duplicates
from cnnkit.data.duplicates import LOOK_SIDE, ExaminedFile, examine, perceptual_hash
from cnnkit.errors import BadImageError


@pytest.fixture
def image(images):
    return images(red=1, size=(60, 44)) / "red/00.png"


def test_digest_and_perceptual_hash(image):
    """The perceptual hash is computed only on request."""
    digest = hashlib.sha256(image.read_bytes()).digest()
    assert examine(str(image)) == ExaminedFile(digest)
    look = imagehash.phash(Image.open(image), hash_size=LOOK_SIDE).hash
    assert examine(str(image), look=True) == ExaminedFile(digest, np.packbits(look).tobytes())


@pytest.mark.parametrize("kind", ["one colour", "stripes", "checks", "gradient", "noise", "square", "dot"])
def test_perceptual_hash_is_that_of_imagehash(kind):
    """Also where coefficients are equal, or zero, and rounding decides."""
    down, across = np.indices((90, 120))
    grey = {
        "one colour": np.full((90, 120), 93),
        "stripes": across // 10 % 2 * 200,
        "checks": (across // 15 + down // 15) % 2 * 255,
        "gradient": across * 2,
        "noise": np.random.default_rng(0).integers(0, 256, (90, 120)),
        "square": 255 * ((abs(across - 59.5) < 20) & (abs(down - 44.5) < 20)),
        "dot": 255 * ((across == 7) & (down == 50)),
    }[kind]
    image = Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    expected = imagehash.phash(image, hash_size=LOOK_SIDE).hash
    assert perceptual_hash(image) == np.packbits(expected).tobytes()


@pytest.mark.photos
def test_perceptual_hash_of_photos_is_that_of_imagehash(photos):
    """On photographs no bit is so close that imagehash is called."""
    for path in sorted((photos / "flowers").glob("*/*"))[::60]:
        image = Image.open(path).convert("RGB")
        expected = imagehash.phash(image, hash_size=LOOK_SIDE).hash
        assert perceptual_hash(image) == np.packbits(expected).tobytes()


def test_perceptual_hash_respects_exif(image, tmp_path):
    """A rotated image with an EXIF orientation has the hash of the upright image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(image).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.png", exif=exif)
    assert examine(str(tmp_path / "side.png"), look=True).look == examine(str(image), look=True).look


def test_rejects_truncated_images(image):
    """Even if only the last tenth is missing."""
    content = image.read_bytes()
    image.write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(BadImageError):
        examine(str(image))


def test_reports_extension_of_another_format(image):
    """The content decides; the mismatch is reported."""
    shutil.copy(image, image.with_suffix(".JPG"))
    seen = examine(str(image.with_suffix(".JPG")))
    assert (seen.misnamed, seen.digest) == ("a PNG file with the extension .jpg", examine(str(image)).digest)
    assert examine(str(image)).misnamed is None


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "empty file"), (b"GIF89a, perhaps", "not an image"), (None, "no such file")]
)
def test_rejects_other_files(tmp_path, content, said):
    """With the reason."""
    path = tmp_path / "a.gif"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadImageError, match=said):
        examine(str(path))


def test_other_files_are_not_read_to_their_end(tmp_path):
    """Whatever their size: their memory would be outside of the budget."""
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(300 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(BadImageError, match="not an image"):
            examine(str(tmp_path / "a.jpg"))
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("saving", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_is_usable_if_it_can_be_decoded_at_its_full_size(tmp_path, mode, saving):
    """Examination decodes it at an eighth of its size; truncated and damaged files have the same outcome."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a.jpg"
    Image.fromarray(rng.integers(0, 256, (90, 120, 3)).astype(np.uint8)).convert(mode).save(path, quality=90, **saving)
    whole = path.read_bytes()

    def outcome(function):
        try:
            function(str(path))
        except BadImageError as error:
            return str(error)
        return "usable"

    outcomes = set()
    for number in range(30):
        damaged = bytearray(whole[: rng.integers(len(whole))] if number % 3 == 0 else whole)
        for place in rng.integers(len(damaged), size=number % 3 * 5):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        outcomes.add(found := outcome(examine))
        assert found == outcome(decode.load)
    assert "usable" in outcomes
    assert len(outcomes) > 1


@pytest.mark.photos
def test_perceptual_hash_of_a_large_photograph_is_nearly_that_of_all_its_pixels(photos, tmp_path, monkeypatch):
    """It is decoded at a reduced size, also if it is turned; smaller ones are decoded completely, and hashed as ever."""
    small = Image.open(photos / "pictures/coral_parrot.jpg").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    large = small.resize((2600, 2060), Image.Resampling.BICUBIC)
    large.save(tmp_path / "a.jpg", quality=90)
    large.save(tmp_path / "b.jpg", quality=90, exif=exif)
    large.resize((2000, 1600)).save(tmp_path / "c.jpg")
    sizes, apart = [], []

    def seen(image):
        sizes.append(image.size)
        return perceptual_hash(image)

    monkeypatch.setattr(duplicates, "perceptual_hash", seen)
    for name in "abc":
        path = str(tmp_path / f"{name}.jpg")
        apart.append(duplicates.distance(examine(path, look=True).look, perceptual_hash(decode.load(path))))
    assert max(apart[:2]) <= 2  # of 256; near duplicates differ by up to 40
    assert apart[2] == 0
    assert sizes == [(1300, 1030), (1030, 1300), (2000, 1600)]
