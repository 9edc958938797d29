"""Open files for reading; named pipes, which would block, and devices, which may be endless, are refused at once.

A file in a tar archive is opened by its path, `photos.tar/cat/1.jpg`: see `tar_archives`. So is an image in an idx file, see `idx_files`.
Both files are archives in what follows.
"""

import contextlib
import errno
import os
import re
import stat
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextvars import ContextVar
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from cnnkit import idx_files, tar_archives
from cnnkit.errors import CnnkitError
from cnnkit.idx_files import IdxIndex
from cnnkit.tar_archives import TarIndex

#: The most bytes of a file that is read as a whole.
MOST = 1 << 31

#: Kinds of files that are not regular.
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

#: Pipes made by a shell for `<(...)`, and standard input and /dev/null in place of a file.
_HANDED_OVER = re.compile(r"/dev/(fd/\d+|stdin|null)|/proc/(self|\d+)/fd/\d+")

#: Paths of the descriptors of this process, which are written to: their files are of the shell that opened them.
_DESCRIPTOR = re.compile(r"/dev/(?:fd/(\d+)|(stdout)|(stderr))|/proc/self/fd/(\d+)")
_MOST_LINKS = 40

#: The descriptor of standard output. A command moves it, and sends what libraries print to standard error.
_standard_output = 1


#: What separates the path of a file from a box in it, in the path of a crop: photos/1.jpg#xywh=160,120,320,240. See `formats.box`.
CROP = "#xywh="
_EDGE = r"[-+]?(?:[0-9]{1,15}(?:\.[0-9]*)?|\.[0-9]+)"
_CROP = re.compile(f"{CROP}{_EDGE}(?:,{_EDGE}){{3}}")

#: Errors for paths that lead into a file as if it were a folder.
_IN_A_FILE = (errno.ENOTDIR, errno.ENAMETOOLONG)

#: The current folder, if the path of an archive is relative to it, and this path.
_Key = tuple[str, str]

#: Archives that have been read; a command keeps all of them, since it reads all their images.
_indexes: dict[_Key, TarIndex | IdxIndex] = {}
_indexing = threading.Lock()

#: The states of archives whose images have been listed, here or in the process that has started this one: what is known of the images is
#: true of this state alone.
_listed: dict[_Key, tuple[int, ...]] = {}

#: The listed archives that had changed when a new search began which finds images by their paths, too: see `listing_again`.
_outdated: ContextVar[set[_Key] | None] = ContextVar("outdated", default=None)


def whole_file(path: str | Path) -> str | Path:
    """Return the path of the file that a crop is from; any other path, and that of a file with such a name, is returned as it is."""
    name = os.fspath(path)
    if CROP not in name:
        return path
    place = start_of_box(name)
    return path if place is None or os.path.lexists(name) else name[:place]


def start_of_box(path: str) -> int | None:
    """Return where the box in the path of a crop begins, with its separator; None for any other path. No file is looked at."""
    place = path.rfind(CROP)
    return None if place < 0 or _CROP.fullmatch(path, place) is None else place


@contextlib.contextmanager
def standard_output_at(descriptor: int) -> Generator[None]:
    """Write to another descriptor where /dev/stdout is given as an output, within the context."""
    global _standard_output
    before, _standard_output = _standard_output, descriptor
    try:
        yield
    finally:
        _standard_output = before


def is_standard_output(path: str | Path) -> bool:
    """Return whether an output is standard output: /dev/stdout, /dev/fd/1, /proc/self/fd/1, or a link to one of them."""
    return descriptor_of(path) == _standard_output


def descriptor_of(path: str | Path) -> int | None:
    """Return the descriptor to write to for /dev/stdout, /dev/stderr, /dev/fd/N and links to them; None for other paths.

    Their files are not opened by name: what is there would be cut off, or replaced.
    """
    name = os.fspath(path)
    for _ in range(_MOST_LINKS):
        if found := _DESCRIPTOR.fullmatch(os.path.normpath(name)):
            number = int(found[1] or found[4] or (1 if found[2] else 2))
            return _standard_output if number == 1 else number
        try:
            name = os.path.join(os.path.dirname(name), os.readlink(name))
        except (OSError, ValueError):
            return None
    return None


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file, or one in an archive; of a crop, the whole file.

    Raises:
        OSError: It is not a regular file, cannot be opened, or its name is invalid.
        CnnkitError: It is in an archive that has changed since its images were listed.
    """
    name = _usable(path)
    name = os.fspath(path := whole_file(path)) if CROP in name else name
    try:
        mode = os.stat(name).st_mode
    except OSError as error:
        if error.errno not in _IN_A_FILE or (found := _member(name)) is None:
            raise
        index, place = found
    else:
        return _opened(path, mode)
    return index.opened(_open_archive(index), name, place)


def is_tar(path: str | Path) -> bool:
    """Return whether a path has the name of a tar archive and is not a folder."""
    return os.fspath(path).lower().endswith(tar_archives.EXTENSION) and not os.path.isdir(path)


def tar_index(path: str) -> TarIndex:
    """Return the index of a tar archive whose images are listed; it is read once as long as the archive does not change.

    From now on only files of this state of the archive are opened.

    Raises:
        DamagedArchiveError: It is not a tar archive, or is damaged.
        OSError: As `open_regular`.
    """
    index = _listed_index(path)
    assert isinstance(index, TarIndex)
    return index


def idx_index(path: str) -> IdxIndex:
    """Return the index of an idx file whose images are listed, as `tar_index`.

    Raises:
        DamagedArchiveError: It is not an idx file with images, or is damaged.
        OSError: As `open_regular`.
    """
    index = _listed_index(path)
    assert isinstance(index, IdxIndex)
    return index


def _listed_index(path: str) -> TarIndex | IdxIndex:
    _forget_outdated(_key(path))
    index = _indexed(path)
    _listed[_key(path)] = index.state
    return index


def forget_changed_archives() -> None:
    """Forget archives that have changed and are known by the paths of their images alone, before images are listed.

    Those in a list or manifest are then read from their archives of today. Archives that were themselves listed are not forgotten, since
    their images have labels of the state that was listed: see `listing_again`.
    """
    for key, index in list(_indexes.items()):
        if key not in _listed and not _is_current(key, index.state):
            _indexes.pop(key, None)


@contextlib.contextmanager
def listing_again() -> Generator[Callable[[str], None]]:
    """Search for images in a process that has listed others before, as in a notebook.

    Archives that were listed and have changed since are read as they are now, if the search finds an image by its path in them. The images
    that were found before are then read from the new state, as if the archive had been listed again.

    Yields:
        A function to call with the path of each image that was found.
    """
    before = _outdated.set({key for key, state in _listed.items() if not _is_current(key, state)})
    try:
        yield _renew
    finally:
        _outdated.reset(before)


def _renew(path: str) -> None:
    if _outdated.get():
        for archive, _ in divided(path):
            _forget_outdated(_key(archive))


def _forget_outdated(key: _Key) -> None:
    """Forget the state of an archive if it had changed when the search began; not if it changes again during the search."""
    if (outdated := _outdated.get()) and key in outdated:
        outdated.remove(key)
        _listed.pop(key, None)
        _indexes.pop(key, None)


def _is_current(key: _Key, state: tuple[int, ...]) -> bool:
    return tar_archives.state_of_path(os.path.join(*key)) == state


def listed_archives() -> dict[_Key, tuple[int, ...]]:
    """Return the archives whose images have been listed, with their states, for a process that reads these images."""
    return dict(_listed)


def expect_archives(listed: dict[_Key, tuple[int, ...]]) -> None:
    """Open only files of archives that have not changed since another process listed them."""
    _listed.update(listed)


def read_members(index: TarIndex, names: Iterable[str], *, most: int) -> Iterator[bytes | None]:
    """Read small files of a tar archive, which is opened once; None for those of more than `most` bytes.

    Raises:
        OSError: The archive cannot be read.
        CnnkitError: It has changed.
    """
    with _open_archive(index) as archive:
        for name in names:
            offset, size = index.members[name]
            yield os.pread(archive.fileno(), size, offset) if size <= most else None


def _key(path: str) -> _Key:
    return "" if os.path.isabs(path) else os.getcwd(), path


def divided(path: str) -> Iterator[tuple[str, str]]:
    """Yield the ways to divide a path into that of an archive and the name of a file in it, by the names of archives."""
    yield from tar_archives.divided(path)
    yield from idx_files.divided(path)


def _indexed(path: str) -> TarIndex | IdxIndex:
    key = _key(path)
    with _indexing:
        known = _indexes.get(key)
        with _opened(path, os.stat(_usable(path)).st_mode) as file:
            if known is None or tar_archives.state_of(file) != known.state:
                kind = IdxIndex if idx_files.is_idx(path) else TarIndex
                known = _indexes[key] = kind.read(file, path)
    return known


def _open_archive(index: TarIndex | IdxIndex) -> BufferedReader:
    archive = _opened(index.path, os.stat(index.path).st_mode)
    if tar_archives.state_of(archive) != index.state:
        archive.close()
        raise _changed(index.path)
    return archive


def _changed(archive: str) -> CnnkitError:
    return CnnkitError(
        f"{archive} has changed while it was read; run the command again when no other program writes to it"
    )


def _member(path: str) -> tuple[TarIndex | IdxIndex, tuple[int, int]] | None:
    """Find the index of the archive that a path leads into, and the place there; None if it leads into none.

    Raises:
        FileNotFoundError: The archive has no such file.
        OSError: It is damaged, or cannot be read.
        CnnkitError: It has changed.
    """
    for archive, name in divided(path):
        if os.path.isfile(archive):
            key = _key(archive)
            _forget_outdated(key)
            index = _indexes.get(key) or _indexed(archive)
            if not index.is_of(archive) or _listed.get(key, index.state) != index.state:
                raise _changed(archive)
            if (place := index.place(name)) is None:
                raise FileNotFoundError(errno.ENOENT, f"no such file in the archive {archive}", path)
            return index, place
    return None


def exists(path: str | Path) -> bool:
    """Return whether there is a file, a folder or a link, or a file in an archive.

    Raises:
        ValueError: No file system accepts the name.
        CnnkitError: It would be in an archive that has changed.
    """
    if os.path.lexists(path := whole_file(path)):
        return True
    try:
        return _member(os.fspath(path)) is not None
    except OSError:
        return False


def is_member(path: str | Path) -> bool:
    """Return whether a path is that of a file in an archive, which cannot be moved, linked to or changed."""
    return archive_and_name(os.fspath(path)) is not None


def archive_and_name(path: str) -> tuple[str, str] | None:
    """Divide the path of a file in an archive; None for other paths. The file need not be there."""
    path = os.fspath(whole_file(path))
    return next((found for found in divided(path) if os.path.isfile(found[0])), None)


def open_text(path: str | Path) -> BufferedReader:
    """Open a file that is read sequentially: a regular file, or a pipe made by a shell for `<(...)`.

    Raises:
        OSError: As `open_regular`.
    """
    if is_handed_over(path):
        return open(path, "rb")
    return open_regular(path)


def is_handed_over(path: str | Path) -> bool:
    """Return whether a path is standard input or a pipe made by a shell for `<(...)`: it has no folder, and may be read only once."""
    return _HANDED_OVER.fullmatch(os.fspath(path)) is not None


def folder_of(path: str | Path) -> str:
    """Return the folder that paths in a list or a table are relative to: its own, empty for the current one.

    What a shell hands over, as `/dev/stdin` or for `<(...)`, is relative to the current folder, as standard input is.
    """
    return "" if is_handed_over(path) else os.path.dirname(path)


def read_regular(path: str | Path, *, most: int = MOST) -> bytes:
    """Read a regular file completely.

    Args:
        path: The file.
        most: The most bytes allowed. A sparse file can be larger than the memory and take no space on the disk.

    Raises:
        OSError: As `open_regular`, or the file is larger.
    """
    with open_regular(path) as file:
        check_size(file, most=most)
        content = file.read()
        check_size(file, most=most)  # the file may have grown
    return content


def check_size(file: BufferedReader, *, most: int = MOST) -> None:
    """Check that an open file is not too large to be read completely.

    Raises:
        OSError: It has more bytes.
    """
    if size_of(file) > most:
        raise OSError(errno.EFBIG, f"file too large, at most {most:,} bytes", file.name)


def size_of(file: BinaryIO) -> int:
    """Return the size of an open file in bytes; its position does not change."""
    place = file.tell()
    try:
        return file.seek(0, os.SEEK_END)
    finally:
        file.seek(place)


def regular_size(path: str | Path) -> int:
    """Return the size of a regular file, which is not opened, in bytes.

    Raises:
        OSError: It is not a regular file, cannot be found, or its name is invalid.
    """
    try:
        status = os.stat(path := whole_file(path))
    except OSError as error:
        if error.errno not in _IN_A_FILE or (found := _member(_usable(path))) is None:
            raise
        return found[1][1]
    except ValueError:
        status = os.stat(_usable(path))
    _demand_regular(path, status.st_mode)
    return status.st_size


def check_regular(path: str | Path) -> None:
    """Check that a path is a regular file, for a library that opens it by name.

    Raises:
        OSError: As `open_regular`.
    """
    open_regular(path).close()


def _usable(path: str | Path) -> str:
    """Check that the operating system accepts a path.

    Raises:
        OSError: It contains NUL, or characters that cannot be encoded.
    """
    name = os.fspath(path)
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError as error:
        raise OSError(errno.EINVAL, "invalid file name: half of a surrogate pair", name) from error
    if b"\0" in encoded:
        raise OSError(errno.EINVAL, "invalid file name: contains a null byte", name)
    return name


def _opened(path: str | Path, mode: int) -> BufferedReader:
    _demand_regular(path, mode)
    # The file may have been replaced in the meantime
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
    try:
        _demand_regular(path, os.fstat(file.fileno()).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def _demand_regular(path: str | Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", os.fspath(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
        raise OSError(errno.EINVAL, f"not a regular file but {kind}", os.fspath(path))


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


#: Files of a folder that are examined one by one, before all of them are listed.
_ONE_BY_ONE = 64


class RealPaths:
    """Resolve the links in many paths: each folder is resolved and searched for links once, as `os.path.realpath` would for each path."""

    def __init__(self) -> None:
        self._folders: dict[str, _RealFolder] = {}

    def of(self, path: str) -> str:
        """Return the path without links, of a crop with its box; as `os.path.realpath`, the file need not exist."""
        if CROP in path and (place := start_of_box(path)) is not None:
            return self.of(path[:place]) + path[place:]
        folder, separator, name = path.rpartition(os.sep)
        if name in ("", os.curdir, os.pardir) or os.altsep is not None:
            return os.path.realpath(path)
        known = self._folders.get(folder + separator)
        if known is None:
            known = self._folders[folder + separator] = _RealFolder(folder + separator)
        return os.path.realpath(path) if known.has_link(name) else known.path + name


class _RealFolder:
    """A folder with links resolved, and its files that are links."""

    def __init__(self, written: str) -> None:
        """Resolve a folder, written with a separator at its end; the current one is empty."""
        self.path = os.path.join(os.path.realpath(written or os.curdir), "")
        self._examined = 0
        self._links: set[str] | None = None if os.path.isdir(self.path) else set()

    def has_link(self, name: str) -> bool:
        """Return whether a file of this name is a link."""
        if self._links is None and self._examined == _ONE_BY_ONE:
            with contextlib.suppress(OSError), os.scandir(self.path) as entries:  # it may be unreadable
                self._links = {entry.name for entry in entries if entry.is_symlink()}
        self._examined += 1
        return os.path.islink(self.path + name) if self._links is None else name in self._links


def has_name(error: OSError) -> bool:
    """Return whether an error is about a file's name, not about a descriptor or nothing."""
    return isinstance(error.filename, str | bytes | os.PathLike)


def message(error: OSError) -> str:
    """Return the message of an error in one line, with the name of its file if it has one."""
    reason = error.strerror or next((str(word) for word in error.args if word), "input or output failed")
    return f"{os.fsdecode(error.filename)}: {reason}" if has_name(error) and error.filename else reason
