"""Limits of memory and time for networks whose graph does not show how much they need."""

import functools
import time
from concurrent.futures import ThreadPoolExecutor

import onnxruntime

from cnnkit.engine import bounds


def test_limited_memory_is_registered_once_from_many_threads(monkeypatch):
    """ONNX Runtime refuses a second registration."""
    registered = []

    def register(_memory, _config):
        time.sleep(0.05)
        registered.append(1)

    monkeypatch.setattr(onnxruntime, "create_and_register_allocator", register)
    monkeypatch.setattr(bounds, "_register", functools.cache(bounds._register.__wrapped__))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: bounds.cap_memory(onnxruntime.SessionOptions()), range(8)))
    assert registered == [1]
