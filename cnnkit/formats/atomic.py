"""Write beside, fsync, rename: a reader never sees half a file; and one run at a time writes an output."""

import contextlib
import errno
import filecmp
import hashlib
import os
import secrets
import stat
import sys
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from cnnkit.errors import CnnkitError

if sys.platform != "win32":
    import fcntl

#: Files up to this size are compared with what stands there already, which is kept where it is the same.
_COMPARED = 1 << 26

#: How a file is opened that somebody else may have put there: links are not followed, and pipes are not waited for.
_CAUTIOUS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

#: The longest name that file systems take, in bytes.
_LONGEST = 255


def check_folder(path: str | Path) -> None:
    """Demand that the folder of a file exists and can be written to, before there is anything to write.

    Raises:
        CnnkitError: There is no such folder, or it is not writable.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise CnnkitError(f"{path.parent}: no such folder to write {path.name} into")
    if path.exists() and not path.is_file():  # /dev/stdout is written to, not replaced
        return
    parent = Path(os.path.realpath(path)).parent
    if parent.is_dir() and not os.access(parent, os.W_OK | os.X_OK):
        raise CnnkitError(f"{path.parent}: this folder is not writable; write {path.name} into another one")


def fitting_name(stem: str, ending: str, *, room: int = 0) -> str:
    """Name a file by a stem and an ending; a name that file systems would not take is cut before the ending, and told apart by its hash.

    Args:
        stem: Of any length.
        ending: Kept whole.
        room: How many bytes must be left for what else is put behind the name.
    """
    longest = _LONGEST - room - len(os.fsencode(ending))
    if len(os.fsencode(stem)) <= longest:
        return stem + ending
    mark = f"~{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}"
    kept = stem[: longest - len(mark)]
    while len(os.fsencode(kept)) > longest - len(mark):
        kept = kept[:-1]
    return kept + mark + ending


def hidden_name(name: str, ending: str) -> str:
    """Name a hidden file that belongs to another one."""
    return fitting_name(f".{name}", ending)


def lock(descriptor: int) -> bool:
    """Lock an open file or folder for this process, without waiting.

    Whoever holds the lock lets go of it by closing the file, or by ending in whatever way. Where the file system has no locks, every
    process gets it.

    Returns:
        False where another process holds the lock.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            raise
    return True


def is_the_file(descriptor: int, path: Path) -> bool:
    """Say whether an open file still has this name: another process may have removed or replaced it."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def busy(path: str | Path) -> CnnkitError:
    """Give the error of the second of two runs that write one output."""
    return CnnkitError(f"{path}: another run is writing it; wait for that run, or give another -o")


@contextlib.contextmanager
def claimed(path: str | Path) -> Generator[None]:
    """Keep an output for this run alone; nothing is left of that afterwards.

    Args:
        path: A file that the run writes, with all that belongs to it, or a folder that is there already.

    Raises:
        CnnkitError: Another run writes there.
        OSError: The folder is missing or not writable.
    """
    path = Path(path)
    if sys.platform == "win32" or (path.exists() and not path.is_file() and not path.is_dir()):
        yield
        return
    if path.is_dir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if not lock(descriptor):
                raise busy(path)
            yield
        finally:
            os.close(descriptor)
        return
    target = Path(os.path.realpath(path))
    mark = target.with_name(hidden_name(target.name, ".lock"))
    descriptor = open_locked(mark, output=path)
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)  # before the lock goes: the next run makes a file of its own
        os.close(descriptor)


def open_locked(file: Path, *, output: Path) -> int:
    """Open a file to read and write, made where it is missing, that no other run has open.

    Args:
        file: Not a link, and under no second name: what is written would end up elsewhere.
        output: What is being written, for messages.

    Raises:
        CnnkitError: Another run has it open, or something that is not a file has its name.
        OSError: The folder is missing or not writable.
    """
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | _CAUTIOUS, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise CnnkitError(f"{file} is in the way, and is not a file; remove it") from error
            error.filename = str(output)
            raise
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise CnnkitError(f"{file} is in the way, and is not a file; remove it")
        if not lock(descriptor):
            os.close(descriptor)
            raise busy(output)
        if is_the_file(descriptor, file):
            if found.st_nlink == 1:
                return descriptor
            file.unlink()
        os.close(descriptor)


@contextlib.contextmanager
def naming(path: str | Path) -> Generator[None]:
    """Let an error that writing raises tell where: a full disk is reported without a name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def writing(path: str | Path) -> Generator[BinaryIO]:
    """Open a file that takes its name only when it is whole.

    The mode of a file that is replaced is kept; a new one gets what the umask leaves. A file that holds the same bytes already stays as
    it is, with its time. What an earlier run left that was killed here is removed. Something that is no regular file (a pipe,
    /dev/stdout) cannot be renamed over and is written directly.

    Args:
        path: The name it will have. Its folder must exist.

    Yields:
        A binary file to write to.

    Raises:
        OSError: The folder is missing or not writable, or the disk is full; what stood there before is untouched.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))  # a symbolic link keeps pointing; what it points to is replaced
    descriptor: int | None = None
    beside: Path | None = None
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else None
        _remove_left(target)
        while descriptor is None:
            beside = target.with_name(hidden_name(target.name, f".{secrets.token_hex(4)}.tmp"))
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
            if not (lock(descriptor) and is_the_file(descriptor, beside)):  # another run took it for one that was left
                os.close(descriptor)
                descriptor = None
        assert beside is not None
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                beside.chmod(mode)  # once more, past the umask
            yield file
            file.flush()
            os.fsync(file.fileno())
            if _same(beside, target):
                beside.unlink()
            else:
                beside.replace(target)
    except BaseException as error:
        # It may be there without a descriptor: a signal can arrive while it is opened
        if beside is not None:
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and (descriptor is None or error.filename is None):
            error.filename = str(path)  # the user knows this name, not the temporary one
        raise


def _same(one: Path, other: Path) -> bool:
    size = one.stat().st_size
    if size > _COMPARED or not other.is_file() or other.stat().st_size != size:
        return False
    return filecmp.cmp(one, other, shallow=False)


def _remove_left(target: Path) -> None:
    """Remove the temporary files of runs that were killed while they wrote this file: whoever is alive holds a lock on its own."""
    if sys.platform == "win32":
        return
    ending = f".{'0' * 8}.tmp"
    before = hidden_name(target.name, ending).removesuffix(ending)
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        left = [
            Path(entry.path)
            for entry in entries
            if len(entry.name) == len(before) + len(ending)
            and entry.name.startswith(f"{before}.")
            and entry.name.endswith(".tmp")
            and entry.is_file(follow_symlinks=False)
        ]
        for path in left:
            remove_unlocked(path)


def remove_unlocked(path: Path) -> bool:
    """Remove a file or say False: another process holds a lock on it, or it cannot be removed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _CAUTIOUS)
    except OSError:
        return False
    try:
        if not (stat.S_ISREG(os.fstat(descriptor).st_mode) and lock(descriptor) and is_the_file(descriptor, path)):
            return False
        path.unlink()
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
