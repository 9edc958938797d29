"""What libtiff has to say of a damaged file."""

import ctypes
import functools
import time
from concurrent.futures import ThreadPoolExecutor

from cnnkit.data import libtiff


def test_the_handler_is_replaced_once_however_many_threads_start(monkeypatch):
    """The one that libtiff holds is the one that is kept: it would call the others after they were freed."""
    installed = []

    class Library:
        def __init__(self, _):
            time.sleep(0.05)  # as where the library is loaded, which lets the other threads in
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
