"""One file, looked at whole."""

import hashlib
import shutil
import tracemalloc

import imagehash
import numpy as np
import pytest
from PIL import Image

from cnnkit.data.duplicates import LOOK_SIDE, ExaminedFile, examine
from cnnkit.errors import BadImageError


@pytest.fixture
def image(images):
    return images(red=1, size=(60, 44)) / "red/00.png"


def test_what_is_found(image):
    """The hash of the file's bytes; what it looks like only when that is asked for."""
    digest = hashlib.sha256(image.read_bytes()).digest()
    assert examine(str(image)) == ExaminedFile(digest)
    look = imagehash.phash(Image.open(image), hash_size=LOOK_SIDE).hash
    assert examine(str(image), look=True) == ExaminedFile(digest, np.packbits(look).tobytes())


def test_it_looks_the_way_it_is_seen(image, tmp_path):
    """An image that lies on its side in the file and says so looks like the one that stands upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(image).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.png", exif=exif)
    assert examine(str(tmp_path / "side.png"), look=True).look == examine(str(image), look=True).look


def test_the_end_of_the_file_is_reached(image):
    """An image that is cut short, if only by its last tenth, is found out."""
    content = image.read_bytes()
    image.write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(BadImageError):
        examine(str(image))


def test_a_name_that_claims_another_format(image):
    """The content decides what it is; that the name does not agree is told."""
    shutil.copy(image, image.with_suffix(".JPG"))
    seen = examine(str(image.with_suffix(".JPG")))
    assert (seen.misnamed, seen.digest) == ("a PNG file with the extension .jpg", examine(str(image)).digest)
    assert examine(str(image)).misnamed is None


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "empty file"), (b"GIF89a, perhaps", "not an image"), (None, "no such file")]
)
def test_what_is_no_image(tmp_path, content, said):
    """Each with its reason."""
    path = tmp_path / "a.gif"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadImageError, match=said):
        examine(str(path))


def test_what_is_no_image_is_not_read_to_its_end(tmp_path):
    """However large: its memory would be that of all threads together."""
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(300 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(BadImageError, match="not an image"):
            examine(str(tmp_path / "a.jpg"))
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
