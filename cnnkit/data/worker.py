"""A process that decodes images for another one: takes items from a connection, and sends back what its function makes of them.

It imports what its function needs, and nothing of the program that started it. It ends with its connection.
"""

import logging
import os
import queue
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from cnnkit import files
from cnnkit.data import decode, memory
from cnnkit.errors import BadImageError, CnnkitError

#: Results of very small images are sent together, at most this many seconds late.
_LATE = 0.002


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker needs to begin."""

    load: Callable[[Any], Any]  # applied to each item; it may raise BadImageError
    threads: int
    most_pixels: int  # of an image
    budget: memory.SharedBudget
    level: int  # of the messages that are reported
    archives: dict[tuple[str, str], tuple[int, ...]]  # of `files.listed_archives`


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception that is not the image's fault."""

    message: str  # in one line
    traceback: str | None  # of a bug, in this process


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one item, and the messages that were logged meanwhile, with their levels."""

    value: Any  # also a BadImageError or a Failure
    notices: list[tuple[int, str]] = field(default_factory=list)


class _Notices(logging.Handler):
    """Collects the messages of each thread."""

    def __init__(self) -> None:
        super().__init__()
        self._mine = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(self._mine, "found"):
            self._mine.found = []
        self._mine.found.append((record.levelno, record.getMessage()))

    def take(self) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = getattr(self._mine, "found", [])
        self._mine.found = []
        return found


def main(descriptor: int) -> None:
    """Decode until the other end of the connection is closed."""
    connection = Connection(descriptor)
    try:
        setup: Setup = connection.recv()
    except EOFError:
        return
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    memory.use(setup.budget)
    files.expect_archives(setup.archives)
    notices = _Notices()
    logger = logging.getLogger("cnnkit")
    logger.setLevel(setup.level)
    logger.propagate = False
    logger.addHandler(notices)
    tasks: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    sending = threading.Lock()
    done: list[tuple[int, Result]] = []
    sent = 0.0

    def work() -> None:
        nonlocal sent
        while True:
            number, item = tasks.get()
            result = Result(attempt(setup.load, item), notices.take())
            with sending:
                done.append((number, result))
                now = time.monotonic()
                if now - sent > _LATE or tasks.empty():
                    content = _packed(done)
                    try:
                        connection.send_bytes(content)
                    except OSError:
                        return  # the process that waits for the results has ended
                    done.clear()
                    sent = now

    def work_or_end() -> None:
        """End the process with the thread: nothing else would tell that its items are never answered."""
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    with decode.at_most(setup.most_pixels):
        for _ in range(setup.threads):
            threading.Thread(target=work_or_end, daemon=True).start()
        while True:
            try:
                received: list[tuple[int, Any]] = connection.recv()
            except (EOFError, OSError):
                return
            for task in received:
                tasks.put(task)


def attempt(load: Callable[[Any], Any], item: Any) -> Any:  # noqa: ANN401 - whatever `load` returns
    """Apply a function to an item; return its result, a BadImageError or a Failure."""
    try:
        with memory.item():
            return load(item)
    except BadImageError as error:
        return BadImageError(str(error))
    except MemoryError:
        return BadImageError("not enough memory to decode it")
    except CnnkitError as error:
        return Failure(str(error), None)
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> Failure:
    """Describe a bug, while it is handled."""
    return Failure(f"{type(error).__name__} in a worker process: {error}", traceback.format_exc())


def _packed(done: list[tuple[int, Result]]) -> memoryview:
    """Return a message; a result that cannot be pickled becomes a Failure."""
    try:
        return ForkingPickler.dumps(done)
    except Exception:  # pickle calls the methods of the results
        return ForkingPickler.dumps([(number, _sendable(result)) for number, result in done])


def _sendable(result: Result) -> Result:
    try:
        ForkingPickler.dumps(result.value)
    except Exception as error:
        return replace(result, value=_failure(error))
    return result
