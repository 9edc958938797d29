"""Memory that threads share: who needs more than is left waits."""

import contextlib
import threading
from collections.abc import Generator


class Room:
    """So many bytes, of which threads take some for a while; one of them may need more than there are."""

    def __init__(self, size: int) -> None:
        self._size, self._taken, self._changed = size, 0, threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int) -> Generator[None]:
        """Take some bytes for a while."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._size)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()
