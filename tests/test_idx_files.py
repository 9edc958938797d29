"""Images in idx files: their contents, against torchvision's reader; damaged and hostile files."""

import gzip
import os
import random
import threading
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnnkit
from cnnkit import files
from cnnkit.data import decode, source
from cnnkit.data.workers import Workers, value_of
from cnnkit.errors import CnnkitError
from cnnkit.tar_archives import DamagedArchiveError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 5, 4), dtype=np.uint8)


def idx(values, *, kind=8):
    """Return an idx file of an array."""
    lengths = b"".join(length.to_bytes(4, "big") for length in values.shape)
    return bytes([0, 0, kind, values.ndim]) + lengths + values.tobytes()


def head(*lengths, kind=8):
    """Return the beginning of an idx file, without values."""
    return bytes([0, 0, kind, len(lengths)]) + b"".join(length.to_bytes(4, "big") for length in lengths)


@pytest.fixture(params=["x-images-idx3-ubyte", "x-images-idx3-ubyte.gz", "X-IMAGES.IDX3-UBYTE"])
def path(request, tmp_path):
    """A file with seven images, compressed or not."""
    place = tmp_path / request.param
    place.write_bytes(gzip.compress(idx(IMAGES)) if request.param.endswith(".gz") else idx(IMAGES))
    return str(place)


@pytest.mark.photos
def test_images_and_labels_are_torchvisions(photos, tmp_path):
    """Of the test set of MNIST."""
    from torchvision.datasets import mnist

    folder = photos / "mnist"
    found = source.find([str(folder / "t10k-images-idx3-ubyte.gz")])
    assert [(image.path.rpartition("/")[2], image.split) for image in found[::9999]] == [
        ("00000.pgm", "test"),
        ("09999.pgm", "test"),
    ]
    for name in ("t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        (tmp_path / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
    labels = mnist.read_label_file(str(tmp_path / "t10k-labels-idx1-ubyte"))
    assert [image.label for image in found] == [str(label) for label in labels.tolist()]
    pixels = mnist.read_image_file(str(tmp_path / "t10k-images-idx3-ubyte"))
    for number in (0, 17, 9999):
        shown = np.asarray(decode.load(found[number].path))
        np.testing.assert_array_equal(shown, np.repeat(pixels[number].numpy()[..., None], 3, axis=2))


def test_contents_are_pgm_files(path):
    """As Pillow reads them, with a size, a position and a name as files on a disk."""
    index = files.idx_index(path)
    assert (index.count, index.height, index.width) == IMAGES.shape
    assert list(index.names()) == [f"{number:05d}.pgm" for number in range(7)]
    for number, name in enumerate(index.names()):
        with files.open_regular(f"{path}/{name}") as file:
            content = file.read()
            assert content == b"P5\n4 5\n255\n" + IMAGES[number].tobytes()
            assert files.size_of(file) == files.regular_size(f"{path}/{name}") == len(content)
            file.seek(-3, os.SEEK_END)
            assert file.read() == content[-3:]
            assert file.name == f"{path}/{name}"
        with files.open_regular(f"{path}/{name}") as file:
            np.testing.assert_array_equal(np.asarray(Image.open(file)), IMAGES[number])


def test_threads_read_one_file(path):
    """Each image is that of its number."""
    right = []

    def read(number):
        right.append(files.read_regular(f"{path}/{number:05d}.pgm")[-20:] == IMAGES[number].tobytes())

    threads = [threading.Thread(target=read, args=(number % 7,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 40


@pytest.mark.parametrize(
    "name", ["00007.pgm", "0.pgm", "000000.pgm", "00000", "00000.png", "-0001.pgm", "٠٠٠٠٠.pgm", "a/00000.pgm"]
)
def test_other_names_are_no_images(path, name):
    """Each image has one name."""
    with pytest.raises(FileNotFoundError, match="no such file in the archive"):
        files.open_regular(f"{path}/{name}")
    assert not files.exists(f"{path}/{name}")


def test_numbers_of_many_images_have_more_digits(tmp_path):
    """So that names sort as the numbers do."""
    path = tmp_path / "a-idx3-ubyte"
    path.write_bytes(idx(np.zeros((100_001, 1, 1), np.uint8)))
    names = list(files.idx_index(str(path)).names())
    assert names[0] == "000000.pgm"
    assert names == sorted(names)
    assert files.exists(path / names[-1])
    assert not files.exists(path / "00000.pgm")


def test_a_file_that_changes_is_noticed(path):
    """As a tar archive: no image of it is read any more, until they are listed again; also in worker processes."""
    images = source.find([path])
    with Workers(decode.load, count=1, threads=1) as workers:
        content = idx(IMAGES[::-1])
        Path(path).write_bytes(gzip.compress(content) if path.endswith(".gz") else content)
        os.utime(path, (1, 1))
        with pytest.raises(CnnkitError, match="has changed while it was read; run the command again"):
            files.read_regular(images[0].path)
        with pytest.raises(CnnkitError, match="has changed while it was read"):
            value_of(workers.submit(images[0].path).result(timeout=60))
    (found, *_) = cnnkit.find_images(path)
    assert files.read_regular(found.path)[-20:] == IMAGES[-1].tobytes()


ZEROS = zlib.compressobj(9, zlib.DEFLATED, 31)
BOMB = ZEROS.compress(head(16, 1024, 1024) + bytes(17 << 20)) + ZEROS.flush()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file: not an idx file with images"),
        (b"\0\0", "begins with 00 00, not with 00 00 08 03: not an idx file with images"),
        (b"not an idx file", "begins with 6e 6f 74 20, not with 00 00 08 03"),
        (head(7, 5), "an idx file of unsigned bytes in 2 dimensions; images are unsigned bytes in 3"),
        (head(7), "an idx file of unsigned bytes in 1 dimension; images"),
        (head(7, 5, 4, kind=13), "an idx file of floats in 3 dimensions"),
        (head(7, 5, 4, kind=7), "not an idx file"),
        (head(7, 5, 4)[:10], "truncated in its header"),
        (head(7, 5, 4), "16 bytes instead of 156; truncated"),
        (idx(IMAGES)[:-1], "155 bytes instead of 156; truncated"),
        (idx(IMAGES) + b"0", "157 bytes instead of 156"),
        (head((1 << 32) - 1, 28, 28), "4,294,967,295 images, at most 10,000,000"),
        (head(10_000_000, (1 << 32) - 1, (1 << 32) - 1), "16 bytes instead of 184,467,440"),
        (head(0, 1 << 31, 1), "images of 1 x 2,147,483,648 pixels"),
        (head(5, 0, 28), "images of 28 x 0 pixels; at least 1, at most 4,096"),
    ],
)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_rejects_damaged_files(tmp_path, content, message, ending):
    """In one line, without memory for what a header claims; as they are and compressed."""
    path = tmp_path / f"a-idx3-ubyte{ending}"
    path.write_bytes(gzip.compress(content) if ending else content)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedArchiveError) as refusal:
            files.idx_index(str(path))
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()
    if ending:
        message = {"16 bytes instead of 156; truncated": "16 bytes when decompressed, instead of 156"}.get(
            message, message
        )
        message = message.replace("155 bytes instead", "155 bytes when decompressed, instead")
        message = message.replace("157 bytes instead", "more bytes when decompressed, instead")
        message = message.replace("16 bytes instead of 184,467,440", "bytes cannot hold 184,467,440")
    assert message in refusal.value.strerror
    assert "\n" not in refusal.value.strerror


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-9], "damaged or truncated"),
        (lambda content: content[:40], "damaged or truncated"),
        (lambda content: content[:2], "damaged or truncated"),
        (lambda content: content[:-5] + b"\0" + content[-4:], "damaged or truncated"),  # the checksum
        (lambda content: content + gzip.compress(b"more"), "more bytes when decompressed"),
        (lambda content: content + b"more", "damaged or truncated"),
        (lambda content: gzip.compress(content), "begins with 1f 8b"),
        (lambda content: BOMB, "more bytes when decompressed, instead of 16,777,232"),
        (lambda content: gzip.compress(head(10_000_000, 4096, 4096)), "bytes cannot hold 167,772,160,000,016"),
        (lambda content: gzip.compress(head(10_000_000, 28, 28) + os.urandom(8 << 20), 0), "decompress it (gunzip -k)"),
    ],
)
def test_rejects_damaged_compressed_files(tmp_path, change, message):
    """Also a small file that becomes a large one."""
    path = tmp_path / "a-idx3-ubyte.gz"
    path.write_bytes(change(gzip.compress(idx(IMAGES), mtime=0)))
    with pytest.raises(DamagedArchiveError) as refusal:
        files.idx_index(str(path))
    assert message in refusal.value.strerror
    assert "\n" not in refusal.value.strerror


def test_members_of_gzip_are_read_together(tmp_path):
    """`cat a.gz b.gz` is one content, as for gunzip."""
    path = tmp_path / "a-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(IMAGES)[:60]) + gzip.compress(idx(IMAGES)[60:]))
    assert files.read_regular(path / "00006.pgm")[-20:] == IMAGES[6].tobytes()


def test_a_truncated_file_is_no_black_image(tmp_path):
    """An error after it was listed."""
    path = tmp_path / "a-idx3-ubyte"
    path.write_bytes(idx(IMAGES))
    index = files.idx_index(str(path))
    os.truncate(path, 150)
    with pytest.raises(OSError, match="truncated while it was read"), open(path, "rb") as file:
        index.opened(file, "a", index.place("00006.pgm"))


def test_random_damage_is_an_error_or_another_image(tmp_path):
    """Bytes changed, cut off or added: a file is refused in one line, or all its images are read; nothing else is raised."""
    drawn = random.Random(0)
    refusals = []
    for number in range(400):
        compressed = number % 2 == 0
        content = bytearray(gzip.compress(idx(IMAGES), mtime=0) if compressed else idx(IMAGES))
        for _ in range(drawn.randint(1, 3)):
            place = drawn.randrange(len(content))
            match drawn.randrange(3):
                case 0:
                    content[place] = drawn.randrange(256)
                case 1:
                    del content[place:]
                    content += b"\0"
                case _:
                    content[place:place] = drawn.randbytes(3)
        path = tmp_path / f"{number}-idx3-ubyte{'.gz' if compressed else ''}"
        path.write_bytes(content)
        try:
            index = files.idx_index(str(path))
        except DamagedArchiveError as error:
            refusals.append(error.strerror)
        else:
            for name in index.names():
                assert decode.load(f"{path}/{name}").size == (index.width, index.height)
    assert 200 < len(refusals) < 400
    assert not any("\n" in refusal for refusal in refusals)
