"""Memory that threads share: one budget for everything that is decoded; an image that needs more than is left waits."""

import contextlib
import os
import threading
from collections.abc import Generator, Iterator
from pathlib import Path, PurePosixPath


class MemoryBudget:
    """So many bytes, of which threads take some for a while; one of them may need more than there are."""

    def __init__(self, size: int) -> None:
        self._size, self._taken, self._changed = size, 0, threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int) -> Generator[None]:
        """Take some bytes for a while."""
        self.take(size)
        try:
            yield
        finally:
            self.give_back(size)

    def take(self, size: int) -> None:
        """Take some bytes, once they are free or nobody else has taken any."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._size)
            self._taken += size

    def give_back(self, size: int) -> None:
        """Let others have them."""
        with self._changed:
            self._taken -= size
            self._changed.notify_all()


def installed(system: Path = Path("/")) -> int | None:
    """Give the bytes of memory that this process may take: the machine's, or less where its control group has a limit, as in containers.

    Args:
        system: Where the root directory is.

    Returns:
        None where the system does not say.
    """
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return None
    return min([machine, *_limits(system)])


def _limits(system: Path) -> Iterator[int]:
    """Give the limits of a process's control groups, of version 2 and 1, and of all those that these are in."""
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
            with contextlib.suppress(OSError, ValueError):  # a container sees its own group as the root; "max" is none
                yield int((top / group / name).read_text(encoding="ascii"))


def _for_decoding(memory: int | None) -> int:
    """Give an eighth of the memory, but not less than 1 GiB or, where that is less, a quarter, nor more than 4 GiB."""
    if memory is None:
        return 1 << 30
    return min(max(memory // 8, min(1 << 30, memory // 4)), 4 << 30)


#: For images that are being decoded, converted, changed and drawn, over all threads.
DECODING = MemoryBudget(_for_decoding(installed()))


class _Held(threading.local):
    """What a thread has taken of the budget; None outside of `item`."""

    size: int | None = None


_held = _Held()


@contextlib.contextmanager
def item() -> Generator[None]:
    """Keep what `hold` takes in this thread until the end: an image needs its memory until it has become something small."""
    before, _held.size = _held.size, 0
    try:
        yield
    finally:
        if _held.size:
            DECODING.give_back(_held.size)
        _held.size = before


def hold(size: int) -> None:
    """Wait for memory for the next image of this thread, or the next step of one, with all that stays of the step before.

    What was held before is free again, so that no two wait for each other.

    Outside of `item` an image is the only one, and waits for nobody.
    """
    if _held.size is None:
        return
    if _held.size:
        DECODING.give_back(_held.size)
        _held.size = 0
    DECODING.take(size)
    _held.size = size
