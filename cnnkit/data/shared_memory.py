"""Memory that a process shares with processes that it starts; it has no name, so nothing is left of it when they end, however they end."""

import contextlib
import mmap
import os
import tempfile
from typing import Self


class SharedBytes:
    """Bytes in a file without a name, in memory where the system has such files; a process that inherits `descriptor` unpickles it."""

    def __init__(self, size: int) -> None:
        """Reserve bytes, which are zero."""
        if hasattr(os, "memfd_create"):  # not limited by the size of /dev/shm, which is 64 MB in a container
            self.descriptor = os.memfd_create("cnnkit")
        else:
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())
        os.ftruncate(self.descriptor, max(size, 1))
        self.bytes = mmap.mmap(self.descriptor, max(size, 1))

    @classmethod
    def _inherited(cls, descriptor: int, size: int) -> Self:
        self = cls.__new__(cls)
        self.descriptor, self.bytes = descriptor, mmap.mmap(descriptor, size)
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return self._inherited, (self.descriptor, len(self.bytes))

    def close(self) -> None:
        """Close the descriptor, and free the memory, with the last array in it if there is one."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1
        with contextlib.suppress(BufferError):
            self.bytes.close()
