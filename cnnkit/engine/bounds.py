"""Limits of memory and time for networks whose graph does not show how much they need."""

import contextlib
import functools
import threading
from collections.abc import Generator
from typing import Any

import onnxruntime

from cnnkit.data import memory
from cnnkit.errors import FormatError

#: The memory that all such networks may use together: a share of the machine's, and a maximum in bytes. A batch that needs more is split.
_SHARE, _MOST = 0.5, 2**33

#: Seconds that one batch may take in a network with loops.
LONGEST = 20.0

#: `functools.cache` may call the function in two threads at once, and ONNX Runtime refuses a second registration.
_one_thread = threading.Lock()


def cap_memory(options: onnxruntime.SessionOptions) -> None:
    """Make a session use the limited memory that all such sessions share."""
    with _one_thread:
        _register()
    options.add_session_config_entry("session.use_env_allocators", "1")


@functools.cache
def _register() -> None:
    """Register the limited memory, once per process."""
    here = memory.installed()
    most = _MOST if here is None else min(_MOST, int(here * _SHARE))
    arena = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    usual = dict.fromkeys(("arena_extend_strategy", "initial_chunk_size_bytes", "max_dead_bytes_per_chunk"), -1)
    onnxruntime.create_and_register_allocator(arena, onnxruntime.OrtArenaCfg({"max_mem": most, **usual}))


@contextlib.contextmanager
def clock(name: str) -> Generator[Any]:
    """Yield the options of a run that is stopped after `LONGEST` seconds.

    Raises:
        FormatError: The run was stopped.
    """
    options, over = onnxruntime.RunOptions(), threading.Event()

    def stop() -> None:
        over.set()
        options.terminate = True  # ONNX Runtime reads it before each node and each iteration of a loop

    timer = threading.Timer(LONGEST, stop)
    timer.daemon = True
    timer.start()
    try:
        yield options
    except Exception as error:  # onnxruntime's exceptions share no base class
        if over.is_set():
            raise FormatError(
                f"{name}: stopped after {LONGEST:g} seconds in one batch: it has a loop that may never end; "
                "if it does end, give a smaller --batch"
            ) from error
        raise
    finally:
        timer.cancel()
