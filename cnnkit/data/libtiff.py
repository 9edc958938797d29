"""Error counter for libtiff, which otherwise prints errors of damaged files to stderr, without the file's name."""

import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable, Generator
from typing import Any

from PIL import _imaging


class _Counted(threading.local):
    """Number of libtiff's errors in this thread."""

    errors: int = 0


_counted = _Counted()

#: A cache alone lets two threads in at once, and one of the two handlers would be freed while libtiff still calls it.
_one_thread = threading.Lock()


@contextlib.contextmanager
def complaints() -> Generator[Callable[[], int]]:
    """Silence libtiff, and count the errors it reports while an image is decoded in this thread.

    Yields:
        A function that returns the number of errors.
    """
    with _one_thread:
        _quiet()
    before = _counted.errors
    yield lambda: _counted.errors - before


@functools.cache
def _quiet() -> Any:  # noqa: ANN401 - the cached value keeps the C callback alive
    """Replace libtiff's handlers for errors and warnings, once; has no effect if Pillow hides the symbols of its libtiff."""
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
