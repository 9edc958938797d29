"""What is put in place around the body of a command, and put back afterwards: signals, stdout, notices."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Generator
from typing import NoReturn, TextIO


@contextlib.contextmanager
def terminated_like_interrupted() -> Generator[None]:
    """Let SIGTERM unwind the stack, so that half-written files are removed and work to resume is kept."""

    def stop(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)

    try:
        previous = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: whoever called us there minds the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def stdout_for_data_only() -> Generator[TextIO]:
    """Give the command the real stdout, and everybody else stderr in its place.

    ONNX Runtime prints its fallbacks on stdout, and C++ below it writes to descriptor 1: both would end up in the user's data.
    """
    sys.stdout.flush()
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # stdout is no file (a notebook, a test): nothing to protect
        yield sys.stdout
        return
    kept = os.dup(descriptor)
    os.dup2(sys.stderr.fileno() if _has_descriptor(sys.stderr) else 2, descriptor)
    out = os.fdopen(kept, "w", encoding="utf-8", errors="surrogateescape", newline="\n", buffering=1, closefd=False)
    previous, sys.stdout = sys.stdout, sys.stderr
    try:
        yield out
    except BaseException:
        with contextlib.suppress(OSError):  # what was wrong first is what is reported, not that nobody reads the rest
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


class _ToStderr(logging.Handler):
    """Print to whatever stderr is at the moment: while a bar is drawn, rich keeps lines from running into it."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(BrokenPipeError):
            print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201 - stderr is ours


@contextlib.contextmanager
def notices(name: str, *, level: int) -> Generator[None]:
    """Print what the library logs from a level on, one line a message, on stderr."""
    logger = logging.getLogger("cnnkit")
    handler = _ToStderr()
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    before, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagate
