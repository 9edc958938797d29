"""One file, looked at whole."""

import hashlib
import shutil

import imagehash
import numpy as np
import pytest
from PIL import Image

from cnnkit.data.duplicates import LOOK_SIDE, Examined, examine
from cnnkit.errors import BadImageError


@pytest.fixture
def picture(pictures):
    return pictures(red=1, size=(60, 44)) / "red/00.png"


def test_what_is_found(picture):
    """The hash of the file's bytes; what it looks like only when that is asked for."""
    digest = hashlib.sha256(picture.read_bytes()).digest()
    assert examine(str(picture)) == Examined(digest)
    look = imagehash.phash(Image.open(picture), hash_size=LOOK_SIDE).hash
    assert examine(str(picture), look=True) == Examined(digest, np.packbits(look).tobytes())


def test_it_looks_the_way_it_is_seen(picture, tmp_path):
    """A picture that lies on its side in the file and says so looks like the one that stands upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(picture).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.png", exif=exif)
    assert examine(str(tmp_path / "side.png"), look=True).look == examine(str(picture), look=True).look


def test_the_end_of_the_file_is_reached(picture):
    """A picture that is cut short, if only by its last tenth, is found out."""
    content = picture.read_bytes()
    picture.write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(BadImageError):
        examine(str(picture))


def test_a_name_that_claims_another_format(picture):
    """The content decides what it is, and the name has to agree."""
    shutil.copy(picture, picture.with_suffix(".JPG"))
    with pytest.raises(BadImageError, match=r"a PNG file that is named \.jpg; rename it or convert it"):
        examine(str(picture.with_suffix(".JPG")))


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "empty file"), (b"GIF89a, perhaps", "no picture"), (None, "no such file")]
)
def test_what_is_no_picture(tmp_path, content, said):
    """Each with its reason."""
    path = tmp_path / "a.gif"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadImageError, match=said):
        examine(str(path))
