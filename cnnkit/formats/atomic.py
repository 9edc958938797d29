"""Write to a temporary file, fsync, rename: readers never see half a file, and one run at a time writes an output."""

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

from cnnkit import files
from cnnkit.errors import CnnkitError

if sys.platform != "win32":
    import fcntl

#: A new file of up to this many bytes is compared with the existing one, which is kept if the bytes are the same.
_COMPARED = 1 << 26

#: Flags for opening a file that another user may have put there: follow no links, wait for no pipes.
_CAUTIOUS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

#: Without file locks, a temporary file is abandoned when it has not been written to for this many seconds.
_LEFT = 24 * 3600

#: The longest file name that file systems accept, in bytes.
_LONGEST = 255


def check_folder(path: str | Path) -> None:
    """Check that the folder of a file exists and can be written to, before any work is done.

    Raises:
        CnnkitError: There is no such folder, or it is not writable.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise CnnkitError(f"{path.parent}: no such folder to write {path.name} into")
    if _written_directly(path):
        return
    target = Path(os.path.realpath(path))
    parent = target.parent
    if not parent.is_dir():
        raise CnnkitError(f"{path}: a link to {target}, whose folder does not exist")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise CnnkitError(f"{path.parent}: this folder is not writable; write {path.name} into another one")


def _written_directly(path: Path) -> bool:
    """Return whether an output cannot be replaced: a pipe, a device, or a descriptor of this process, such as /dev/stdout."""
    return files.descriptor_of(path) is not None or (path.exists() and not path.is_file())


def fitting_name(stem: str, ending: str, *, room: int = 0) -> str:
    """Join a stem and an ending; if the name is too long for file systems, shorten the stem and add its hash.

    Args:
        stem: Of any length.
        ending: Never shortened.
        room: Bytes to leave for what is appended to the name later.
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
    """Return the name of a hidden file that belongs to the file `name`."""
    return fitting_name(f".{name}", ending)


class Lock(Enum):
    """Who holds the lock of an open file: this process, another one, or NONE if the file system cannot lock it."""

    OURS = auto()
    OTHERS = auto()
    NONE = auto()


#: Errors of file systems without locks, or without locks for a folder (NFS) or for this user (CIFS, some in user space).
_NO_LOCKS = frozenset(
    (
        *(errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS),
        *(errno.EBADF, errno.EACCES, errno.EPERM),
    )
)


def lock(descriptor: int) -> Lock:
    """Lock an open file or folder for this process, without waiting.

    The lock is released when the file is closed or the process ends, however it ends.
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
    """Return whether an open file still has this name: another process may have removed or replaced it."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def busy(path: str | Path) -> CnnkitError:
    """Return the error for a run whose output another run is writing."""
    return CnnkitError(f"{path}: another run is writing it; wait for that run, or give another -o")


@contextlib.contextmanager
def claimed(path: str | Path) -> Generator[None]:
    """Reserve an output for this run; no lock file remains afterwards.

    Args:
        path: A file that the run writes, together with its companion files, or an existing folder.

    Raises:
        CnnkitError: Another run is writing it.
        OSError: The folder is missing or not writable.
    """
    path = Path(path)
    if sys.platform == "win32" or (_written_directly(path) and not path.is_dir()):
        yield
        return
    with claimed_folder(path, busy(path)) if path.is_dir() else _claimed_by_file(path):
        yield


@contextlib.contextmanager
def claimed_folder(folder: Path, refusal: CnnkitError) -> Generator[None]:
    """Reserve an existing folder for this run, by a lock on the folder, or on a file next to it where folders cannot be locked.

    Raises:
        CnnkitError: `refusal`, if another run holds the lock.
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
        if found is Lock.NONE:  # NFS locks files, but not folders
            try:
                stack.enter_context(_claimed_by_file(folder))
            except CnnkitError as error:
                raise refusal from error
            except (OSError, ValueError):  # the parent folder is not ours, or there is none: nothing to lock
                pass
        yield


@contextlib.contextmanager
def _claimed_by_file(path: Path) -> Generator[None]:
    """Reserve an output for this run by a locked file next to it."""
    target = Path(os.path.realpath(path))
    mark = target.with_name(hidden_name(target.name, ".lock"))
    descriptor = open_locked(mark, output=path)
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)  # before the lock is released: the next run creates its own file
        os.close(descriptor)


def open_locked(file: Path, *, output: Path) -> int:
    """Open a file for reading and writing, created if missing, and lock it.

    Args:
        file: A link is refused, and a file with a second hard link is replaced: writing would change another file.
        output: The output being written, for messages.

    Raises:
        CnnkitError: Another run holds the lock, or the name belongs to something that is not a file.
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
    """Add the path to an OSError that has none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def writing(path: str | Path) -> Generator[BinaryIO]:
    """Open a file that gets its name only when it is complete.

    The mode of a replaced file is kept; a new one gets the default of the umask. A file that already has the same bytes is left alone,
    with its modification time. Temporary files of earlier, killed runs are removed. What is not a regular file (a pipe, /dev/stdout)
    cannot be replaced by renaming and is written directly.

    Args:
        path: The final name. Its folder must exist.

    Yields:
        A binary file to write to.

    Raises:
        OSError: The folder is missing or not writable, or the disk is full; an existing file is unchanged.
    """
    path = Path(path)
    if _written_directly(path):
        descriptor = files.descriptor_of(path)
        with naming(path), path.open("wb") if descriptor is None else os.fdopen(os.dup(descriptor), "wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))  # a symbolic link is kept; the file that it points to is replaced
    descriptor = None
    temporary: Path | None = None
    opened = False
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else None
        _remove_left(target)
        while descriptor is None:
            temporary = target.with_name(hidden_name(target.name, f".{secrets.token_hex(4)}.tmp"))
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
            if lock(descriptor) is Lock.OTHERS or not is_the_file(descriptor, temporary):
                os.close(descriptor)  # another run took it for an abandoned one
                descriptor = None
        assert temporary is not None
        with os.fdopen(descriptor, "wb") as file:
            opened = True
            if mode is not None:
                temporary.chmod(mode)  # again, without the umask
            yield file
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":  # an open file cannot be renamed
                file.close()
            if _same(temporary, target):
                temporary.unlink()
            else:
                temporary.replace(target)
    except BaseException as error:
        if descriptor is not None and not opened:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        # The file may exist without a descriptor: a signal can arrive while it is being opened
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and (descriptor is None or error.filename is None):
            error.filename = str(path)  # name the user's file, not the temporary one
        raise


def _same(one: Path, other: Path) -> bool:
    size = one.stat().st_size
    if size > _COMPARED or not other.is_file() or other.stat().st_size != size:
        return False
    return filecmp.cmp(one, other, shallow=False)


def _remove_left(target: Path) -> None:
    """Remove temporary files that killed runs left when they wrote this file; a live run holds a lock on its own.

    Without file locks, remove those that have not been written to for a day.
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
    """Remove a file, unless another process holds its lock or may still be writing it; ignore errors."""
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        writable = os.access(path, os.W_OK)  # NFS locks only files that are open for writing
        descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | _CAUTIOUS)
        stack.callback(os.close, descriptor)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return
        held = lock(descriptor)
        left = held is Lock.OURS or (held is Lock.NONE and time.time() - found.st_mtime > _LEFT)
        if left and is_the_file(descriptor, path):
            path.unlink()
