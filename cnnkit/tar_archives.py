"""Files in tar archives, which are read in place: an archive is never unpacked.

A file in an archive has a path like one in a folder: `photos.tar/cat/1.jpg` is the member `cat/1.jpg` of `photos.tar`. No file system has
such a path, since `photos.tar` is a file and not a folder. `cnnkit.files` opens it.
"""

import errno
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    import tarfile

#: Extension of archives whose members can be read in place.
EXTENSION = ".tar"

#: Maximum number of members of an archive, with those that are not read.
MOST_MEMBERS = 10_000_000

#: Maximum number of bytes of a name, as Linux has it for paths.
_LONGEST_NAME = 1 << 12

#: Maximum number of bytes of the headers of one member: long names, and the extended headers of POSIX.
_LONGEST_HEADERS = 1 << 20

#: Bytes that are read at once from a member.
_AT_ONCE = 1 << 17

_BLOCK = 512

#: Bytes after an archive in which another one is looked for; tar fills the last 10,240 with zeros.
_LONGEST_END = 1 << 16

#: Bytes that are read at once in the search for headers: those of a label next to an image are in one piece.
_WINDOW = 1 << 12

_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")
_INNER = re.compile(re.escape(EXTENSION) + "/", re.IGNORECASE)

#: Beginnings of compressed files: the program that decompresses them.
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ\0": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}


class _HeaderError(Exception):
    """A header that must not be followed."""


class DamagedArchiveError(OSError):
    """A file that cannot be read as a tar archive."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(errno.EINVAL, reason, path)


@dataclass(slots=True)
class TarIndex:
    """Places of the files in an archive, in their order there."""

    path: str  # of the archive
    state: tuple[int, ...]  # of the file when it was read; another one shows that it has changed
    members: dict[str, tuple[int, int]] = field(default_factory=dict)  # by name, the offset and size of the content
    repeated: list[str] = field(
        default_factory=list
    )  # names of several members; the last one is read, as tar unpacks it
    unusable: list[str] = field(
        default_factory=list
    )  # members whose names are too long or lead out of the archive, links, devices, sparse files
    continues: bool = False  # another archive follows its end, as in `cat a.tar b.tar`

    @classmethod
    def read(cls, file: BufferedReader, path: str) -> Self:
        """Read the headers of an archive in sequence; the contents are skipped.

        Hard links have the content of the member that they link to.

        Raises:
            DamagedArchiveError: It is not a tar archive, is compressed, truncated, or has too many members.
            OSError: It cannot be read.
        """
        index = cls(path, state_of(file))
        try:
            for member in _members(file):
                index._add(member)
                if len(index.members) + len(index.repeated) + len(index.unusable) > MOST_MEMBERS:
                    raise DamagedArchiveError(
                        path, f"more than {MOST_MEMBERS:,} files; divide it into several archives"
                    )
            index.continues = _continues(file)
        except DamagedArchiveError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
        except Exception as error:  # tarfile raises TarError, ValueError, OverflowError, ... for what it cannot parse
            raise DamagedArchiveError(path, _reason(file, error)) from error
        return index

    def place(self, name: str) -> tuple[int, int] | None:
        """Return the offset and size of a file in the archive; None if there is none of this name."""
        return self.members.get(name)

    def is_of(self, path: str) -> bool:
        """Return whether a file is the archive of this index, and has not been written to."""
        return self.state == state_of_path(path)

    def opened(self, file: BufferedReader, name: str, place: tuple[int, int]) -> BufferedReader:
        """Open a member.

        Args:
            file: The archive, which is closed with the member.
            name: Path of the member, for messages.
            place: Of `place`.
        """
        return BufferedReader(_Member(file, name, place), min(max(place[1], 1 << 12), _AT_ONCE))

    def _add(self, member: "tarfile.TarInfo | _PlainFile") -> None:
        name = _usable_name(member.name)
        if isinstance(member, _PlainFile):
            place: tuple[int, int] | None = member.place
        elif member.isdir():
            return
        elif member.islnk():
            place = self.members.get(_usable_name(member.linkname) or "")
        else:
            place = (member.offset_data, member.size) if member.isreg() and not member.issparse() else None
        if name is None or place is None:
            self.unusable.append(member.name)
            return
        if name in self.members:
            self.repeated.append(name)
            del self.members[name]  # the order is that of the contents that are read
        self.members[name] = place


class _PlainFile(NamedTuple):
    name: str
    place: tuple[int, int]  # offset and size of the content


def _usable_name(name: str) -> str | None:
    """Return the name of a member without `.` and repeated separators; None if it is too long, or would lead out of the archive."""
    if len(name) > _LONGEST_NAME // 4 and len(name.encode(errors="replace")) > _LONGEST_NAME:
        return None
    parts = [part for part in name.split("/") if part not in ("", os.curdir)]
    if name.startswith("/") or os.pardir in parts or "\0" in name or not parts:
        return None
    return "/".join(parts)


def _members(file: BufferedReader) -> "Iterator[tarfile.TarInfo | _PlainFile]":
    """Yield the members; those that are plain files with short names, which most are, without tarfile."""
    import tarfile  # here, since every command imports this module, and few read an archive

    headers = _Headers(file)
    with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        member = archive.next()
        while member is not None:
            yield member
            archive.members.clear()  # type: ignore[attr-defined]  # not in typeshed; the archive would keep all of them
            headers.begin(archive.offset)
            if not archive.pax_headers:  # of all members that follow
                for plain in _plain_files(file.fileno(), archive.offset):
                    yield plain
                    archive.offset = _end(plain.place)
            headers.begin(archive.offset)
            member = archive.next()
        end = archive.offset
    file.seek(end)
    if file.read(_BLOCK).strip(b"\0"):  # tarfile takes a damaged header for the end
        raise _HeaderError("damaged header")


def _continues(file: BufferedReader) -> bool:
    """Return whether the first bytes after the zeros at the end of an archive are the header of another one."""
    for _ in range(_LONGEST_END // _BLOCK):
        block = file.read(_BLOCK)
        if block.strip(b"\0") or not block:
            return has_mark(block)
    return False


def has_mark(block: bytes) -> bool:
    """Return whether the first bytes of a header have the mark of tar archives, that of POSIX or that of GNU."""
    return block[257:263] in (b"ustar\0", b"ustar ")


def _plain_files(descriptor: int, at: int) -> Iterator[_PlainFile]:
    """Yield the files from a place on, up to the first header that is not that of a plain file; tarfile takes four times as long."""
    window, start = b"", 0
    while True:
        if not start <= at <= start + len(window) - _BLOCK:
            window, start = os.pread(descriptor, _WINDOW, at), at
        block = window[at - start : at - start + _BLOCK]
        name = block[:100].partition(b"\0")[0]
        # A regular file, whose header has no link and no further part of the name
        if len(block) < _BLOCK or block[156] not in b"0\0" or block[157] or block[345] or not name:
            return
        size, checksum = _OCTAL.fullmatch(block[124:136]), _OCTAL.fullmatch(block[148:156])
        if size is None or checksum is None or not has_mark(block) or name.endswith(b"/"):
            return
        if int(checksum[1], 8) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
            return
        place = at + _BLOCK, int(size[1], 8)
        yield _PlainFile(name.decode("utf-8", "surrogateescape"), place)
        at = _end(place)


def _end(place: tuple[int, int]) -> int:
    """Return where the content of a file ends, with the padding of its last block."""
    offset, size = place
    return offset + -(-size // _BLOCK) * _BLOCK


class _Headers(io.RawIOBase):
    """The headers of an archive, for tarfile: one that claims to be huge is refused before memory is allocated, and none is read twice."""

    def __init__(self, file: BufferedReader) -> None:
        super().__init__()
        self._file, self._left, self._past = file, _LONGEST_HEADERS, 0

    def begin(self, place: int) -> None:
        """Begin the headers of the next member."""
        if place < self._past:
            raise _HeaderError("a header that leads back")
        self._left, self._past = _LONGEST_HEADERS, place

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise _HeaderError("headers of more than 1 MB")
        self._left -= size
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset + 1 < self._past:
            raise _HeaderError("a header that leads back")
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _reason(file: BufferedReader, error: Exception) -> str:
    file.seek(0)
    head = file.read(8)
    program = next((program for start, program in _COMPRESSED.items() if head.startswith(start)), None)
    if program is not None:
        return f"compressed, although it is called .tar; rename and decompress it with {program}"
    if not head:
        return "an empty file, not a tar archive"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"not a tar archive, damaged or truncated ({text}); copy it again"


def state_of(file: BufferedReader) -> tuple[int, ...]:
    """Return what changes when a file is replaced or written to."""
    return _state(os.fstat(file.fileno()))


def state_of_path(path: str) -> tuple[int, ...] | None:
    """Return the state of a file; None if there is none."""
    try:
        return _state(os.stat(path))
    except OSError:
        return None


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def divided(path: str, inner: re.Pattern[str] = _INNER) -> Iterator[tuple[str, str]]:
    """Yield the ways to divide a path into that of an archive and the name of a member, by the ending of archives' names."""
    if len(path) > 2 * _LONGEST_NAME + 1:  # of the archive, and of the member
        return
    for found in inner.finditer(path):
        if len(path[: found.end() - 1].encode(errors="replace")) > _LONGEST_NAME:
            return
        if name := _usable_name(path[found.end() :]):
            yield path[: found.end() - 1], name


class _Member(io.RawIOBase):
    """The bytes of one member. It has no descriptor: libraries would read the whole archive through it."""

    def __init__(self, file: BufferedReader, name: str, place: tuple[int, int]) -> None:
        super().__init__()
        self.name = name
        self._file, (self._start, self._size) = file, place
        self._at = 0

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's buffer has no slices
        wanted = min(len(buffer), max(self._size - self._at, 0))
        if not wanted:
            return 0
        with memoryview(buffer) as view:
            count = os.preadv(self._file.fileno(), [view[:wanted]], self._start + self._at)
        if not count:
            raise OSError(errno.EIO, "the archive was truncated while it was read", self.name)
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if place < 0:
            raise OSError(errno.EINVAL, "negative position", self.name)
        self._at = place
        return place

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()
