"""Bounds for networks whose graph does not show how much memory or time it takes: a cap on ONNX Runtime's memory, and a clock."""

import contextlib
import functools
import threading
from collections.abc import Generator
from typing import Any

import onnxruntime

from cnnkit.data import memory
from cnnkit.errors import FormatError

#: The share of the machine's memory that such networks may take together, and the most: a batch that needs more is cut.
_SHARE, _MOST = 0.5, 2**33

#: Seconds that one batch may take in a network whose parts go round as often as a value says.
LONGEST = 20.0

#: A cache lets two threads in at once, and ONNX Runtime refuses the second registration.
_one_thread = threading.Lock()


def cap_memory(options: onnxruntime.SessionOptions) -> None:
    """Let a session share a capped memory with all others that were opened so."""
    with _one_thread:
        _register()
    options.add_session_config_entry("session.use_env_allocators", "1")


@functools.cache
def _register() -> None:
    """Register the capped memory, once a process."""
    here = memory.installed()
    most = _MOST if here is None else min(_MOST, int(here * _SHARE))
    arena = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    usual = dict.fromkeys(("arena_extend_strategy", "initial_chunk_size_bytes", "max_dead_bytes_per_chunk"), -1)
    onnxruntime.create_and_register_allocator(arena, onnxruntime.OrtArenaCfg({"max_mem": most, **usual}))


@contextlib.contextmanager
def clock(name: str) -> Generator[Any]:
    """Give the options of a run that ends after `LONGEST` seconds.

    Raises:
        FormatError: It did not end before.
    """
    options, over = onnxruntime.RunOptions(), threading.Event()

    def stop() -> None:
        over.set()
        options.terminate = True  # asked for before each node, and each time that a loop goes round

    timer = threading.Timer(LONGEST, stop)
    timer.daemon = True
    timer.start()
    try:
        yield options
    except Exception as error:  # onnxruntime's exceptions share no base class
        if over.is_set():
            raise FormatError(
                f"{name}: stopped after {LONGEST:g} seconds in one batch: it has a loop, which may never end; "
                "give a smaller --batch if it does"
            ) from error
        raise
    finally:
        timer.cancel()
