"""Memory budget shared by the threads that decode images, also those of several processes: an image that needs more than is left waits.

Also, Python's garbage collector.
"""

import contextlib
import fcntl
import gc
import os
import struct
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path, PurePosixPath

from cnnkit.data.shared_memory import SharedBytes


class MemoryBudget:
    """A number of bytes that threads take and give back; a single thread may take more than there are."""

    def __init__(self, size: int) -> None:
        self.size, self._taken, self._changed = size, 0, threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int) -> Generator[None]:
        """Take bytes, and give them back at the end."""
        self.take(size)
        try:
            yield
        finally:
            self.give_back(size)

    def take(self, size: int) -> None:
        """Wait until enough bytes are free, or no bytes are taken, and take them."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= self.size)
            self._taken += size

    def give_back(self, size: int) -> None:
        """Give bytes back, and wake the waiting threads."""
        with self._changed:
            self._taken -= size
            self._changed.notify_all()


class SharedBudget(MemoryBudget):
    """A budget for all threads of several processes; one that inherits the descriptor of `shared` unpickles it."""

    _LOOKS = 0.005  # seconds between two looks whether another process has given bytes back
    _COUNT = struct.Struct("q")

    def __init__(self, size: int, shared: SharedBytes | None = None) -> None:
        super().__init__(size)
        self.shared = SharedBytes(self._COUNT.size) if shared is None else shared  # the number of bytes that are taken

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.size, self.shared)

    def take(self, size: int) -> None:
        """Wait until enough bytes are free, or no bytes are taken in any process, and take them."""
        while not self._change(size, limited=True):
            time.sleep(self._LOOKS)

    def give_back(self, size: int) -> None:
        """Give bytes back."""
        self._change(-size, limited=False)

    def _change(self, size: int, *, limited: bool) -> bool:
        with self._changed:  # the lock of the file does not separate threads of one process
            fcntl.lockf(self.shared.descriptor, fcntl.LOCK_EX)
            try:
                (taken,) = self._COUNT.unpack_from(self.shared.bytes)
                if limited and taken and taken + size > self.size:
                    return False
                self._COUNT.pack_into(self.shared.bytes, 0, taken + size)
            finally:
                fcntl.lockf(self.shared.descriptor, fcntl.LOCK_UN)
        return True


def installed(system: Path = Path("/")) -> int | None:
    """Return the memory that this process may use, in bytes: the machine's, or the limit of its control group, as in containers.

    Args:
        system: The root directory.

    Returns:
        None if the system does not report it.
    """
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return None
    return min([machine, *_limits(system)])


def available(system: Path = Path("/")) -> int | None:
    """Return the free memory of the machine with its free swap space, in bytes; None if the system does not report it.

    In a container, it is at most the container's limit.
    """
    try:
        lines = (system / "proc" / "meminfo").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    values = {
        name: 1024 * int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.split()
    }
    if "MemAvailable" not in values:
        return None
    return min([values["MemAvailable"] + values.get("SwapFree", 0), *_limits(system)])


def _limits(system: Path) -> Iterator[int]:
    """Yield the limits of a process's control groups, of version 2 and 1, and of all groups above them."""
    mounted = system / "sys" / "fs" / "cgroup"
    try:
        lines = (system / "proc" / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers not in ("", "memory"):
            continue
        top, name = (mounted / "memory", "memory.limit_in_bytes") if controllers else (mounted, "memory.max")
        inner = PurePosixPath(path.lstrip("/"))
        for group in (inner, *inner.parents):
            with contextlib.suppress(
                OSError, ValueError
            ):  # a container sees its own group as the root; "max" is no limit
                yield int((top / group / name).read_text(encoding="ascii"))


def _for_decoding(memory: int | None) -> int:
    """Return an eighth of the memory, at least 1 GiB (or a quarter of the memory, if that is less), at most 4 GiB."""
    if memory is None:
        return 1 << 30
    return min(max(memory // 8, min(1 << 30, memory // 4)), 4 << 30)


#: Budget for decoding, converting, augmenting and drawing images, for all threads.
DECODING = MemoryBudget(_for_decoding(installed()))


def use(budget: MemoryBudget) -> None:
    """Take memory from another budget from now on."""
    global DECODING
    DECODING = budget


class _Held(threading.local):
    """Bytes that a thread has taken from the budget; None outside of `item`."""

    size: int | None = None


_held = _Held()


@contextlib.contextmanager
def item() -> Generator[None]:
    """Keep the memory that `hold` takes in this thread until the end of the `with`, when the image is no longer needed."""
    before, _held.size = _held.size, 0
    try:
        yield
    finally:
        if _held.size:
            DECODING.give_back(_held.size)
        _held.size = before


def hold(size: int) -> None:
    """Wait for the memory of this thread's next image, or next step, including what is still needed of the step before.

    Memory held before is given back first, so that no two threads wait for each other. Outside of `item` there is only one image,
    and nothing to wait for.
    """
    if _held.size is None:
        return
    if _held.size:
        DECODING.give_back(_held.size)
        _held.size = 0
    DECODING.take(size)
    _held.size = size


@contextlib.contextmanager
def without_collection() -> Generator[None]:
    """Create millions of objects without searches for reference cycles: each search visits all of them, and none is in a cycle."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
