"""Write beside, fsync, rename: a reader never sees half a file."""

import contextlib
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from cnnkit.errors import CnnkitError


@contextlib.contextmanager
def naming(path: str | Path) -> Generator[None]:
    """Let an error that writing raises tell where: a full disk is reported without a name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def check_folder(path: Path) -> None:
    """Demand the folder of a file, before there is anything to write.

    Raises:
        CnnkitError: There is no such folder.
    """
    if not path.parent.is_dir():
        raise CnnkitError(f"{path.parent}: no such folder to write {path.name} into")


@contextlib.contextmanager
def writing(path: str | Path) -> Generator[BinaryIO]:
    """Open a file that takes its name only when it is whole.

    The mode of a file that is replaced is kept; a new one gets what the umask leaves. Something that is no regular file
    (a pipe, /dev/stdout) cannot be renamed over and is written directly.

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
    target = path.resolve()  # a symbolic link keeps pointing; what it points to is replaced
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    descriptor = None
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else None
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                beside.chmod(mode)  # once more, past the umask
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException as error:
        # It may be there without a descriptor: a signal can arrive while it is opened
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and (descriptor is None or error.filename is None):
            error.filename = str(path)  # the user knows this name, not the temporary one
        raise
