"""Standard streams, signals and notices during a command, restored afterwards."""

import contextlib
import io
import logging
import os
import select
import signal
import sys
from collections.abc import Generator
from types import FrameType
from typing import NoReturn, TextIO

from cnnkit import files
from cnnkit.errors import UsageError
from cnnkit.messages import printable

_STDOUT = "standard output"


class OutputClosedError(Exception):
    """The reader of standard output closed it. Not an OSError, for which typer would exit with status 1."""


class _Output(io.RawIOBase):
    """A stream that writes to a descriptor. Errors name the stream; writing waits even if the descriptor is non-blocking."""

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__()
        self._descriptor, self._name = descriptor, name

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override] # any buffer
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            select.select([], [self._descriptor], [], 1)
            return 0  # the caller tries again
        except OSError as error:
            error.filename = self._name
            return self._failed(error, len(data))

    def _failed(self, error: OSError, _size: int) -> int:
        raise error


class _Stderr(_Output):
    """Standard error that ignores errors, so that a full disk or a closed pipe does not end the run."""

    def _failed(self, error: OSError, size: int) -> int:
        return size


class _Help(_Output):
    """Standard output while typer writes help, versions and completions."""

    def _failed(self, error: OSError, _size: int) -> int:
        if isinstance(error, BrokenPipeError):
            raise OutputClosedError from error
        raise error


def _text(raw: _Output, *, encoding: str = "utf-8", errors: str = "surrogateescape") -> TextIO:
    buffered = io.BufferedWriter(raw)  # type: ignore[type-var] # the stub requires more than is used
    return io.TextIOWrapper(buffered, encoding=encoding, errors=errors, newline="\n", line_buffering=True)


@contextlib.contextmanager
def standard_streams() -> Generator[None]:
    """Provide all three standard streams: a closed one becomes /dev/null, and stderr never fails."""
    with contextlib.ExitStack() as stack:
        for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
            if getattr(sys, name) is None:  # closed when Python started
                _open_null(number)
                stream = os.fdopen(number, mode, encoding="utf-8", errors="surrogateescape", closefd=False)
                stack.callback(setattr, sys, name, None)
                setattr(sys, name, stream)
        if _has_descriptor(sys.stderr):
            stack.callback(setattr, sys, "stderr", sys.stderr)
            encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
            raw = _Stderr(sys.stderr.fileno(), "standard error")
            sys.stderr = _text(raw, encoding=encoding, errors="backslashreplace")
        yield


def _open_null(number: int) -> None:
    """Open /dev/null under a descriptor's number, unless that is open."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened == number:
            os.set_inheritable(number, True)
        else:
            os.dup2(opened, number)
            os.close(opened)


@contextlib.contextmanager
def detecting_closed_stdout() -> Generator[None]:
    """Make writing to standard output raise OutputClosedError instead of BrokenPipeError."""
    if not _has_descriptor(sys.stdout):
        yield
        return
    previous = sys.stdout
    previous.flush()
    errors = "surrogateescape" if previous.errors == "strict" else previous.errors or "surrogateescape"
    sys.stdout = _text(_Help(previous.fileno(), _STDOUT), encoding=previous.encoding, errors=errors)
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout = previous


@contextlib.contextmanager
def interruptible() -> Generator[None]:
    """Make Ctrl-C raise KeyboardInterrupt; before, it ends the process (see `tools/__init__.py`)."""
    previous = signal.getsignal(signal.SIGINT)
    if not callable(previous) or not getattr(previous, "before_work", False):
        yield
        return
    end = previous

    def interrupt(number: int, frame: FrameType | None) -> None:
        importer = None
        inner = frame
        while inner is not None:
            if inner.f_code.co_filename.startswith("<frozen importlib"):
                importer = inner.f_back
            inner = inner.f_back
        # During a command's imports, the exception could be swallowed or become another one
        if importer is not None and importer.f_globals.get("__name__", "").startswith("cnnkit_tools."):
            end(number, frame)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def sigterm_as_exit() -> Generator[None]:
    """Make SIGTERM unwind the stack, so that unfinished files are removed and checkpoints are kept."""

    def stop(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)

    try:
        previous = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def stdout_for_data_only() -> Generator[TextIO]:
    """Yield the real stdout for data, and redirect descriptor 1 and sys.stdout to stderr.

    ONNX Runtime prints its fallbacks on stdout, and its C++ code writes to descriptor 1: both would end up in the user's data.
    """
    sys.stdout.flush()
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # stdout has no descriptor (in a notebook or a test): nothing to protect
        yield sys.stdout
        return
    kept = os.dup(descriptor)
    os.dup2(sys.stderr.fileno() if _has_descriptor(sys.stderr) else 2, descriptor)
    out = _text(_Output(kept, _STDOUT))
    previous, sys.stdout = sys.stdout, sys.stderr
    try:
        with files.standard_output_at(kept):
            yield out
    except BaseException:
        with contextlib.suppress(OSError):  # report the first error, not the closed pipe
            out.close()
        raise
    else:
        out.close()
    finally:
        sys.stdout = previous
        os.dup2(kept, descriptor)
        os.close(kept)


def _has_descriptor(stream: TextIO) -> bool:
    try:
        stream.fileno()
    except (OSError, ValueError):
        return False
    return True


class Notices(logging.Handler):
    """Print to the current sys.stderr, which rich replaces while a progress bar is drawn.

    The notices about ignored files and the device, and those after them, are delayed until the command makes progress. So if a model is
    missing or the options do not fit it, the error is the only line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "begins_work", False):
            self.print_waiting()
        if self._waiting or getattr(record, "waits_for_work", False):
            self._waiting.append(record)
        else:
            self._print(record)

    def print_waiting(self, *, level: int = logging.NOTSET) -> None:
        """Print the delayed notices of at least a level, and delay no more."""
        waiting, self._waiting = self._waiting, []
        for record in waiting:
            if record.levelno >= level:
                self._print(record)

    def _print(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            print(printable(self.format(record)), file=sys.stderr, flush=True)  # noqa: T201 - stderr is ours


@contextlib.contextmanager
def notices(name: str, *, level: int) -> Generator[Notices]:
    """Print the library's log messages of at least a level on stderr, one line each."""
    logger = logging.getLogger("cnnkit")
    handler = Notices()
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    before, propagate, last_resort = logger.level, logger.propagate, logging.lastResort
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    if not sys.warnoptions:  # hide log messages and warnings of other libraries
        logging.lastResort = logging.NullHandler()
    try:
        yield handler
    except (UsageError, OSError):
        handler.print_waiting(level=logging.WARNING)
        raise
    finally:
        handler.print_waiting()
        logging.lastResort = last_resort
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagate
