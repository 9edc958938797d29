"""Error handler of libtiff."""

import ctypes
import functools
import time
from concurrent.futures import ThreadPoolExecutor

from cnnkit.data import libtiff


def test_handler_is_replaced_once_by_several_threads(monkeypatch):
    """The handler that libtiff calls is the one that is kept; others would be called after they were freed."""
    installed = []

    class Library:
        def __init__(self, _):
            time.sleep(0.05)  # as while the library is loaded, when other threads run
            self.TIFFSetErrorHandler = SetHandler(installed)
            self.TIFFSetWarningHandler = SetHandler([])

    class SetHandler:
        def __init__(self, seen):
            self.seen = seen

        def __call__(self, handler):
            self.seen.append(handler)

    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(libtiff, "_quiet", functools.cache(libtiff._quiet.__wrapped__))

    def look(_):
        with libtiff.complaints() as complained:
            return complained()

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(look, range(8))) == [0] * 8
    assert len(installed) == 1
    assert installed[0] is libtiff._quiet()
