"""Files opened for reading: a named pipe would be waited for, and /dev/zero has no end, so both are refused at once."""

import errno
import os
import re
import stat
from io import BufferedReader
from pathlib import Path

#: Bytes that a file may have which is read to its end.
MOST = 1 << 31

#: What a file can be that is not a regular one.
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

#: Pipes that a shell hands over, as `<(...)` does, and what every program may be given in place of a file.
_HANDED_OVER = re.compile(r"/dev/(fd/\d+|stdin|null)|/proc/(self|\d+)/fd/\d+")


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file.

    Raises:
        OSError: It is another thing, cannot be opened, or its name is none that a file can have.
    """
    return _opened(path, os.stat(_usable(path)).st_mode)


def open_text(path: str | Path) -> BufferedReader:
    """Open a file that is read from its beginning to its end: also a pipe that the shell hands over, as `<(...)` does.

    Raises:
        OSError: As `open_regular`.
    """
    if _HANDED_OVER.fullmatch(os.fspath(path)):
        return open(path, "rb")
    return open_regular(path)


def read_regular(path: str | Path, *, most: int = MOST) -> bytes:
    """Read a regular file whole.

    Args:
        path: The file.
        most: Bytes that it may have. A file of holes can be larger than any memory, and take nothing on the disk.

    Raises:
        OSError: As `open_regular`, or it is larger.
    """
    with open_regular(path) as file:
        check_size(file, most=most)
        content = file.read()
        check_size(file, most=most)  # it may have grown
    return content


def check_size(file: BufferedReader, *, most: int = MOST) -> None:
    """Check that an open file has an end that can be read to.

    Raises:
        OSError: It has more bytes.
    """
    if os.fstat(file.fileno()).st_size > most:
        raise OSError(errno.EFBIG, f"file too large, at most {most:,} bytes", file.name)


def check_regular(path: str | Path) -> None:
    """Check a regular file, for a library that opens it by its name.

    Raises:
        OSError: As `open_regular`.
    """
    open_regular(path).close()


def _usable(path: str | Path) -> str:
    """Return a path that the operating system can be asked about.

    Raises:
        OSError: It holds a NUL, or letters that no bytes stand for.
    """
    name = os.fspath(path)
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError as error:
        raise OSError(errno.EINVAL, "not a name that a file can have: half of a surrogate pair", name) from error
    if b"\0" in encoded:
        raise OSError(errno.EINVAL, "not a name that a file can have: it holds a null byte", name)
    return name


def _opened(path: str | Path, mode: int) -> BufferedReader:
    _demand_regular(path, mode)
    # It may have become another thing meanwhile
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
    try:
        _demand_regular(path, os.fstat(file.fileno()).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def _demand_regular(path: str | Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
        raise OSError(errno.EINVAL, f"not a regular file but {kind}", os.fspath(path))


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
