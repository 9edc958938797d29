"""Write beside, fsync, rename: a reader never sees half a file; and one run at a time writes an output."""

import contextlib
import errno
import filecmp
import hashlib
import os
import secrets
import stat
import sys
import time
from collections.abc import Generator
from enum import Enum, auto
from pathlib import Path
from typing import BinaryIO

from cnnkit.errors import CnnkitError

if sys.platform != "win32":
    import fcntl

#: Files up to this size are compared with what stands there already, which is kept where it is the same.
_COMPARED = 1 << 26

#: How a file is opened that somebody else may have put there: links are not followed, and pipes are not waited for.
_CAUTIOUS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

#: A temporary file that nobody can be asked about belongs to nobody when it is this many seconds old.
_LEFT = 24 * 3600

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


class Lock(Enum):
    """Who holds the lock of an open file: this process, another one, or nobody, where the file system has none for it."""

    OURS = auto()
    OTHERS = auto()
    NONE = auto()


#: What file systems answer that have no locks, or none for a folder, as NFS, or for this user, as CIFS and some in user space.
_NO_LOCKS = frozenset(
    (
        *(errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS),
        *(errno.EBADF, errno.EACCES, errno.EPERM),
    )
)


def lock(descriptor: int) -> Lock:
    """Lock an open file or folder for this process, without waiting.

    Whoever holds the lock lets go of it by closing the file, or by ending in whatever way.
    """
    if sys.platform == "win32":
        return Lock.NONE
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Lock.OTHERS
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return Lock.NONE
    return Lock.OURS


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
    with claimed_folder(path, busy(path)) if path.is_dir() else _claimed_beside(path):
        yield


@contextlib.contextmanager
def claimed_folder(folder: Path, refusal: CnnkitError) -> Generator[None]:
    """Keep a folder that is there for this run alone, by a lock on the folder, or on a file beside it where folders have none.

    Raises:
        CnnkitError: `refusal`, where another run has it.
    """
    if sys.platform == "win32":
        yield
        return
    with contextlib.ExitStack() as stack:
        descriptor = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        found = lock(descriptor)
        if found is Lock.OTHERS:
            raise refusal
        if found is Lock.NONE:  # NFS locks files, and no folders
            try:
                stack.enter_context(_claimed_beside(folder))
            except CnnkitError as error:
                raise refusal from error
            except (OSError, ValueError):  # the folder above is somebody else's, or there is none: nothing to lock
                pass
        yield


@contextlib.contextmanager
def _claimed_beside(path: Path) -> Generator[None]:
    """Keep an output for this run alone by a locked file beside it."""
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
        with contextlib.ExitStack() as otherwise:
            otherwise.callback(os.close, descriptor)
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise CnnkitError(f"{file} is in the way, and is not a file; remove it")
            if lock(descriptor) is Lock.OTHERS:
                raise busy(output)
            if is_the_file(descriptor, file):
                if found.st_nlink == 1:
                    otherwise.pop_all()
                    return descriptor
                file.unlink()


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
    opened = False
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else None
        _remove_left(target)
        while descriptor is None:
            beside = target.with_name(hidden_name(target.name, f".{secrets.token_hex(4)}.tmp"))
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
            if lock(descriptor) is Lock.OTHERS or not is_the_file(descriptor, beside):
                os.close(descriptor)  # another run took it for one that was left
                descriptor = None
        assert beside is not None
        with os.fdopen(descriptor, "wb") as file:
            opened = True
            if mode is not None:
                beside.chmod(mode)  # once more, past the umask
            yield file
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":  # where no open file can be renamed
                file.close()
            if _same(beside, target):
                beside.unlink()
            else:
                beside.replace(target)
    except BaseException as error:
        if descriptor is not None and not opened:
            with contextlib.suppress(OSError):
                os.close(descriptor)
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
    """Remove the temporary files of runs that were killed while they wrote this file: whoever is alive holds a lock on its own.

    Where the file system has no locks, those that have not been written to for a day.
    """
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
            _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    """Remove a file, unless another process holds a lock on it, may be at work at it, or it cannot be removed."""
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        writable = os.access(path, os.W_OK)  # NFS locks nothing else
        descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | _CAUTIOUS)
        stack.callback(os.close, descriptor)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return
        held = lock(descriptor)
        left = held is Lock.OURS or (held is Lock.NONE and time.time() - found.st_mtime > _LEFT)
        if left and is_the_file(descriptor, path):
            path.unlink()
