"""Decoding in several processes, for machines with more cores than the threads of one interpreter can use.

Python's lock lets one thread at a time run between two calls of the decoder. With small images that is most of the work.

The processes are new ones, not forks: they import what their function needs, not the main program. So a script needs no
`if __name__ == "__main__"`, as it does with `multiprocessing`. They end with their connection: at the end of the work, at an error, or
with this process, even if it is killed.
"""

import contextlib
import functools
import logging
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from cnnkit import files
from cnnkit.data import decode, memory
from cnnkit.data.shared_memory import SharedBytes
from cnnkit.data.source import ImageFile
from cnnkit.data.worker import Failure, Result, Setup
from cnnkit.errors import CnnkitError, WorkerError

log = logging.getLogger("cnnkit")

#: Items that a worker has at once, per thread: it gets new ones when half of them are done, so that small images go in groups.
_AT_ONCE = 8

#: The program of a worker; the search path is that of this process.
_PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from cnnkit.data import worker; worker.main(int(sys.argv[1]))"

#: A thread of a worker has one core: libraries that compute in threads of their own would take others'.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(slots=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    threads: int
    items: dict[int, tuple[Any, Future[Result]]] = field(default_factory=dict)  # that it has, by number


class Workers:
    """Processes that apply a function to items, such as images."""

    def __init__(
        self, load: Callable[[Any], Any], *, count: int, threads: int, shared: Sequence[SharedBytes] = ()
    ) -> None:
        """Start processes.

        Args:
            load: Can be pickled. It may raise BadImageError.
            count: Number of processes.
            threads: Number of threads in all of them; each process has one or more.
            shared: Memory that `load` writes to.
        """
        self._lock = threading.RLock()
        self._waiting: deque[tuple[int, Any, Future[Result]]] = deque()
        self._workers: list[_Worker] = []
        self._numbers, self._closing = 0, False
        self._error: Exception | None = None
        self._budget = memory.SharedBudget(memory.DECODING.size)
        self._receiver = threading.Thread(target=self._receive, name="workers", daemon=True)
        setup = functools.partial(
            Setup,
            load=load,
            most_pixels=decode.most_pixels(),
            budget=self._budget,
            level=log.getEffectiveLevel(),
            archives=files.listed_archives(),
        )
        descriptors = [each.descriptor for each in (*shared, self._budget.shared)]
        try:
            for number in range(count):
                mine = max(1, threads // count + (number < threads % count))
                self._workers.append(_started(descriptors, threads=mine))
            for worker in self._workers:
                _send(worker, setup(threads=worker.threads))
            self._receiver.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process_ids(self) -> list[int]:
        """The processes."""
        return [worker.process.pid for worker in self._workers]

    def submit(self, item: Any) -> "Future[Result]":  # noqa: ANN401 - whatever `load` takes
        """Apply the function to an item in one of the processes.

        `result` of its future raises WorkerError if one of the processes ends, and the exception if an item or a result cannot be sent.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self._error is not None:
                raise self._error
            self._waiting.append((self._numbers, item, future))
            self._numbers += 1
            try:
                self._feed()
            except Exception as error:
                self._fail(error)
                raise
        return future

    def close(self) -> None:
        """End the processes at once."""
        with self._lock:
            self._closing = True
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
        if self._receiver.is_alive():
            self._receiver.join()
        for worker in self._workers:
            worker.connection.close()
        self._budget.shared.close()

    def _feed(self) -> None:
        """Send waiting items to the workers that have few."""
        hungry = [worker for worker in self._workers if len(worker.items) <= worker.threads * _AT_ONCE // 2]
        messages: dict[int, list[tuple[int, Any]]] = {}
        while self._waiting and hungry:
            place, worker = min(enumerate(hungry), key=lambda each: len(each[1].items) / each[1].threads)
            if len(worker.items) >= worker.threads * _AT_ONCE:
                break
            number, item, future = self._waiting.popleft()
            worker.items[number] = item, future
            messages.setdefault(place, []).append((number, item))
        for place, message in messages.items():
            _send(hungry[place], message)

    def _receive(self) -> None:
        """Take results from the workers, in a thread of its own, until all have ended."""
        try:
            self._take_results()
        except Exception as error:  # pickle calls the methods of results, and of items
            self._fail(error)

    def _take_results(self) -> None:
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.connection, selectors.EVENT_READ, worker)
            while selector.get_map():
                for key, _ in selector.select():
                    worker = key.data
                    try:
                        content = worker.connection.recv_bytes()
                    except (EOFError, OSError):
                        selector.unregister(worker.connection)
                        self._lost(worker)
                        continue
                    results = _unpickled(content)
                    with self._lock:
                        futures = [worker.items.pop(number)[1] for number, _ in results]
                    try:
                        with self._lock:
                            self._feed()
                    finally:
                        for future, (_, result) in zip(futures, results, strict=True):
                            if not future.done():  # another worker has ended, and everything has failed
                                future.set_result(result)

    def _lost(self, worker: _Worker) -> None:
        """Let all items fail when a process ends by itself."""
        with self._lock:
            if not self._closing and self._error is None:
                worker.process.wait()
                items = [item for item, _ in worker.items.values()]
                self._fail(WorkerError(_reason(worker.process.returncode, items)))

    def _fail(self, error: Exception) -> None:
        """Let all items fail, and those to come."""
        with self._lock:
            if self._closing or self._error is not None:
                return
            self._error = error
            futures = [future for each in self._workers for _, future in each.items.values()]
            futures += [future for _, _, future in self._waiting]
            self._waiting.clear()
        for future in futures:
            if not future.done():
                future.set_exception(error)


def _unpickled(content: bytes) -> list[tuple[int, Result]]:
    try:
        return pickle.loads(content)  # type: ignore[no-any-return] # what the workers send
    except Exception as error:
        error.add_note("while results of the worker processes were received")
        raise


def value_of(result: Result) -> Any:  # noqa: ANN401 - whatever `load` returns
    """Return the result of an item, or its BadImageError, and log the messages that came with it.

    Raises:
        CnnkitError: As in the worker.
        RuntimeError: A bug in the worker, with its traceback as a note.
    """
    for level, message in result.notices:
        _log_once(level, message)
    if isinstance(result.value, Failure):
        if result.value.traceback is None:
            raise CnnkitError(result.value.message)
        error = RuntimeError(result.value.message)
        error.add_note(result.value.traceback)
        raise error
    return result.value


@functools.lru_cache(maxsize=1024)
def _log_once(level: int, message: str) -> None:
    """Log a message once, though several processes may read the same damaged file."""
    log.log(level, "%s", message)


def _started(descriptors: Sequence[int], *, threads: int) -> _Worker:
    """Start a process that inherits descriptors."""
    ours, theirs = socket.socketpair()
    with theirs:
        # Ctrl-C and SIGTERM reach the whole group of processes; this one handles them, and closes the connection
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process = subprocess.Popen(
                [
                    sys.executable,
                    *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined] # as multiprocessing does
                    "-c",
                    _PROGRAM,
                    str(theirs.fileno()),
                    *(entry or os.getcwd() for entry in sys.path),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *descriptors),
                env=os.environ | ONE_THREAD,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return _Worker(process, Connection(ours.detach()), threads)


def _send(worker: _Worker, message: object) -> None:
    """Send a message; a process that has ended is noticed where its results are awaited."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        worker.connection.send(message)


def _reason(status: int, items: Sequence[Any]) -> str:
    """Describe why a process ended."""
    image = getattr(items[0], "image", items[0]) if items else None
    name = image.path if isinstance(image, ImageFile) else None
    more = f" and {len(items) - 1} more" if len(items) > 1 else ""
    where = f" while it decoded {name}{more}" if name is not None else ""
    if status >= 0:
        return f"a worker process ended with status {status}{where}; decode without --workers to see why"
    try:
        killer = signal.Signals(-status).name
    except ValueError:
        killer = f"signal {-status}"
    memory_full = ", as when memory is full" if -status == signal.SIGKILL else ""
    return f"a worker process was killed by {killer}{memory_full}{where}; try fewer --workers, or a smaller --batch"
