"""Images in idx files, the format of MNIST and of data sets made like it: `t10k-images-idx3-ubyte.gz`, compressed or not.

An image has a path as one in a tar archive has: `t10k-images-idx3-ubyte.gz/00017.pgm` is the image with number 17, from 0. Its content is a
PGM file, which every image program reads; the idx file has the pixels alone. `cnnkit.files` opens it.

Source: http://yann.lecun.com/exdb/mnist/, "File formats for the MNIST database".
"""

import errno
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import BinaryIO, Self

from cnnkit import tar_archives
from cnnkit.tar_archives import DamagedArchiveError

#: Maximum number of images, as of files in an archive.
MOST_IMAGES = tar_archives.MOST_MEMBERS

#: Maximum height and width of an image in pixels.
_LONGEST_SIDE = 4096

#: Maximum number of bytes of a decompressed file, which is kept in memory; MNIST has 47,040,016.
MOST_DECOMPRESSED = 1 << 28

#: The most that deflate compresses.
_LARGEST_RATIO = 1032

_AT_ONCE = 1 << 20

_INNER = re.compile(r"idx3-ubyte(\.gz)?/", re.IGNORECASE)
_NUMBER = re.compile(r"([0-9]{5,8})\.pgm")

#: Types of values by the third byte of a file.
_BYTES = 8
_TYPES = {9: "signed bytes", 11: "16-bit integers", 12: "32-bit integers", 13: "floats", 14: "doubles"}

_KINDS = {1: "labels", 3: "images"}


def is_idx(path: str | os.PathLike[str]) -> bool:
    """Return whether a path has the name of an idx file with images and is not a folder: `train-images-idx3-ubyte`, also with `.gz`."""
    return has_name(os.fspath(path)) and not os.path.isdir(path)


def has_name(path: str) -> bool:
    """Return whether a path has the name of an idx file with images."""
    return path.lower().endswith(("idx3-ubyte", "idx3-ubyte.gz"))


def divided(path: str) -> Iterator[tuple[str, str]]:
    """Yield the ways to divide a path into that of an idx file and the name of an image in it."""
    yield from tar_archives.divided(path, _INNER)


@dataclass(slots=True)
class IdxIndex:
    """The images of an idx file."""

    path: str  # of the file
    state: tuple[int, ...]  # of the file when it was read; another one shows that it has changed
    count: int
    height: int
    width: int
    _content: bytes | None  # of a compressed file; None if it is read in place

    @classmethod
    def read(cls, file: BufferedReader, path: str) -> Self:
        """Read the header of a file; a compressed one is decompressed into memory, since it has no beginnings of images.

        Raises:
            DamagedArchiveError: It is not an idx file with images, is truncated, or is too large.
            OSError: It cannot be read.
        """
        state = tar_archives.state_of(file)
        (count, height, width), content = _read(file, path, dimensions=3)
        if not 0 < height <= _LONGEST_SIDE or not 0 < width <= _LONGEST_SIDE:
            raise DamagedArchiveError(
                path, f"images of {width:,} x {height:,} pixels; at least 1, at most {_LONGEST_SIDE:,} per side"
            )
        return cls(path, state, count, height, width, content)

    def names(self) -> Iterator[str]:
        """Yield the names of the images, in their order: 00000.pgm, 00001.pgm, ...; with more digits from 100,000 images on."""
        digits = self._digits()
        return (f"{number:0{digits}d}.pgm" for number in range(self.count))

    def place(self, name: str) -> tuple[int, int] | None:
        """Return the place of an image in the file, and its number of bytes as a PGM file; None if there is none of this name."""
        found = _NUMBER.fullmatch(name)
        if found is None or len(found[1]) != self._digits() or (number := int(found[1])) >= self.count:
            return None
        size = self.height * self.width
        return _header_size(3) + number * size, len(self._beginning()) + size

    def is_of(self, path: str) -> bool:
        """Return whether a file is the one of this index, and has not been written to."""
        return self.state == tar_archives.state_of_path(path)

    def opened(self, file: BufferedReader, name: str, place: tuple[int, int]) -> BufferedReader:
        """Open an image as a PGM file.

        Args:
            file: The idx file, which is closed.
            name: Path of the image, for messages.
            place: Of `place`.

        Raises:
            OSError: The file was truncated.
        """
        offset, size = place
        beginning = self._beginning()
        size -= len(beginning)
        with file:
            pixels = (
                os.pread(file.fileno(), size, offset)
                if self._content is None
                else self._content[offset : offset + size]
            )
        if len(pixels) < size:
            raise OSError(errno.EIO, "the file was truncated while it was read", name)
        return BufferedReader(_Image(name, beginning + pixels))

    def _digits(self) -> int:
        return max(5, len(str(self.count - 1)))

    def _beginning(self) -> bytes:
        return f"P5\n{self.width} {self.height}\n255\n".encode()


class _Image(io.BytesIO):
    """The bytes of one image. It has no descriptor, as files in tar archives."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.name = name


def read_labels(file: BufferedReader, path: str) -> bytes:
    """Read a file with labels, one byte for each image.

    Raises:
        DamagedArchiveError: It is not an idx file with labels, is truncated, or is too large.
        OSError: It cannot be read.
    """
    (count,), content = _read(file, path, dimensions=1)
    return os.pread(file.fileno(), count, _header_size(1)) if content is None else content[_header_size(1) :]


def _header_size(dimensions: int) -> int:
    return 4 + 4 * dimensions


def _read(file: BufferedReader, path: str, *, dimensions: int) -> tuple[tuple[int, ...], bytes | None]:
    """Read the header of a file and check its size; return the lengths, and the content if it is compressed."""
    compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stored = os.fstat(file.fileno()).st_size
    if not compressed:
        lengths, size = _lengths(file, path, dimensions)
        if stored != size:
            raise DamagedArchiveError(
                path, f"{stored:,} bytes instead of {size:,}; truncated or damaged, copy it again"
            )
        return lengths, None
    import gzip  # here, since every command imports this module, and few read such a file
    import zlib

    try:
        with gzip.GzipFile(fileobj=file) as inner:
            lengths, size = _lengths(inner, path, dimensions)  # type: ignore[arg-type]  # it has read, as a file has
            if size > _LARGEST_RATIO * stored:
                raise DamagedArchiveError(
                    path, f"{stored:,} bytes cannot hold {size:,}; truncated or damaged, copy it again"
                )
            if size > MOST_DECOMPRESSED:
                raise DamagedArchiveError(
                    path,
                    f"{size:,} bytes when decompressed, at most {MOST_DECOMPRESSED:,}; decompress it (gunzip -k) and pass the file",
                )
            content = bytearray(size)
            at = _header_size(dimensions)
            content[:at] = _header(lengths)
            with memoryview(content) as view:
                while at < size and (count := inner.readinto(view[at : at + _AT_ONCE])):
                    at += count
            if at < size or inner.read(1):  # its end is read too, with the checksum
                there = f"{at:,} bytes" if at < size else "more bytes"
                raise DamagedArchiveError(
                    path, f"{there} when decompressed, instead of {size:,}; truncated or damaged, copy it again"
                )
    except DamagedArchiveError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedArchiveError(path, f"damaged or truncated ({error}); copy it again") from error
    return lengths, bytes(content)


def _lengths(file: BinaryIO, path: str, dimensions: int) -> tuple[tuple[int, ...], int]:
    """Read the lengths of all dimensions, and calculate the size of the whole file in bytes."""
    head = file.read(4)
    kind = _KINDS[dimensions]
    if len(head) < 4 or head[:2] != b"\0\0" or (head[2] != _BYTES and head[2] not in _TYPES):
        what = "an empty file" if not head else f"begins with {head.hex(' ')}, not with 00 00 08 {dimensions:02x}"
        raise DamagedArchiveError(path, f"{what}: not an idx file with {kind}")
    if head[2] != _BYTES or head[3] != dimensions:
        found = f"{_TYPES.get(head[2], 'unsigned bytes')} in {head[3]} dimension{'' if head[3] == 1 else 's'}"
        raise DamagedArchiveError(path, f"an idx file of {found}; {kind} are unsigned bytes in {dimensions}")
    written = file.read(4 * dimensions)
    if len(written) < 4 * dimensions:
        raise DamagedArchiveError(path, "truncated in its header; copy it again")
    lengths = tuple(int.from_bytes(written[at : at + 4], "big") for at in range(0, len(written), 4))
    if lengths[0] > MOST_IMAGES:
        raise DamagedArchiveError(path, f"{lengths[0]:,} {kind}, at most {MOST_IMAGES:,}")
    size = 1
    for length in lengths:
        size *= length
    return lengths, _header_size(dimensions) + size


def _header(lengths: tuple[int, ...]) -> bytes:
    return bytes([0, 0, _BYTES, len(lengths)]) + b"".join(length.to_bytes(4, "big") for length in lengths)
