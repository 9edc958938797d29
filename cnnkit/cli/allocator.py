"""The C library's memory allocator in commands that train."""

import os
import sys

# From malloc.h of glibc
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 1 << 30
_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Let glibc keep large blocks that were freed for the next ones, unless the user has set its limits in the environment.

    By default it returns blocks of 32 MB and more to the system at once, and the end of its heap as soon as that is free. Each step of a
    training allocates the same tensors again, whose pages the system then has to clear again: on a CPU, a tenth of the time of a
    training. Other C libraries have no such setting.

    Source: mallopt(3).
    """
    if sys.platform != "linux" or any(name in os.environ for name in _VARIABLES):
        return
    import ctypes  # here: all other commands do without

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _LARGEST)
