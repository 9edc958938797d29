"""What libtiff has to say of a damaged file, which it would print on stderr line by line, below Python and without the file's name."""

import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable, Generator
from typing import Any

from PIL import _imaging


class _Counted(threading.local):
    """How often libtiff complained in this thread."""

    errors: int = 0


_counted = _Counted()

#: A cache lets two threads in at once; the handler of the one that came too late would be freed, and called.
_one_thread = threading.Lock()


@contextlib.contextmanager
def complaints() -> Generator[Callable[[], int]]:
    """Keep libtiff quiet, and count the errors it reports while an image is decoded in this thread.

    Yields:
        A function that gives how many there were.
    """
    with _one_thread:
        _quiet()
    before = _counted.errors
    yield lambda: _counted.errors - before


@functools.cache
def _quiet() -> Any:  # noqa: ANN401 - what keeps the function that C calls alive
    """Replace libtiff's handlers for errors and warnings, once; where Pillow hides its libtiff, it goes on printing."""
    kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)

    def count(_module: bytes | None, _text: bytes | None, _values: int | None) -> None:
        _counted.errors += 1

    handler = kind(count)
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(_imaging.__file__)
        library.TIFFSetErrorHandler.restype = library.TIFFSetWarningHandler.restype = ctypes.c_void_p
        library.TIFFSetErrorHandler(handler)
        library.TIFFSetWarningHandler(None)
    return handler
