"""Reading and decoding of images in threads, or in other processes, within one memory budget."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from cnnkit.data import memory
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError

S = TypeVar("S")
T = TypeVar("T")


def usable_cores() -> int:
    """Return the number of cores that this process may use: under taskset and in containers, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read(
    images: Iterable[ImageFile], load: Callable[[str], T], *, jobs: int | None = None, ahead: int = 64
) -> Iterator[tuple[ImageFile, T | BadImageError]]:
    """Load images in threads, each by its path, as `each` does.

    Args:
        images: Read at most `ahead` images in advance.
        load: Function of a path; it may raise BadImageError.
        jobs: Number of threads; by default the number of cores.
        ahead: Maximum number of images that are loaded in advance, which limits the memory.

    Returns:
        Every image in the order given, with the result of `load` or its error.
    """
    return each(images, lambda image: load(image.path), jobs=jobs, ahead=ahead)


def each(
    items: Iterable[S],
    load: Callable[[S], T],
    *,
    jobs: int | None = None,
    ahead: int = 64,
    elsewhere: Callable[[S], Future[Any] | None] = lambda _: None,
) -> Iterator[tuple[S, T | BadImageError]]:
    """Load items in threads; Pillow decodes and resizes without holding the interpreter's lock.

    Args:
        items: Arguments of `load`; else as `read`.
        load: As `read`.
        jobs: As `read`.
        ahead: As `read`.
        elsewhere: Begins to load an item in another process; None for one that must be loaded here.

    Yields:
        Every item in the order given, with the result of `load` or its error.
    """

    def attempt(item: S) -> T | BadImageError:
        try:
            with memory.item():
                return load(item)
        except BadImageError as error:
            return error
        except MemoryError:
            return BadImageError("not enough memory to decode it")

    def begin(item: S) -> Future[Any]:
        begun = elsewhere(item)
        return executor.submit(attempt, item) if begun is None else begun

    coming = iter(items)
    executor = ThreadPoolExecutor(jobs or usable_cores(), thread_name_prefix="decode")
    try:
        waiting: deque[tuple[S, Future[Any]]] = deque()
        for item in islice(coming, ahead):
            waiting.append((item, begin(item)))
        while waiting:
            item, future = waiting.popleft()
            loaded = future.result()
            following = next(coming, None)
            if following is not None:
                waiting.append((following, begin(following)))
            yield item, loaded
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
