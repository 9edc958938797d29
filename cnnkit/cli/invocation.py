"""The state of one run of a command: its output, --quiet, what it skipped; and messages on stderr."""

import contextlib
import os
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack
from enum import Enum, auto
from typing import Any, BinaryIO, TextIO, cast

from cnnkit.cli.activity import Activity
from cnnkit.messages import printable


class Unfailing:
    """A stream that keeps its first error and discards further output, so that the command continues."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write, unless there was an error."""
        if self.error is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Flush, unless there was an error."""
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self.error = error

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a stream has
        return getattr(self._stream, name)


class _Delayed:
    """A stream that is opened by its first output, so that there is no temporary file while a command checks its options and imports."""

    def __init__(self, open: Callable[[], TextIO]) -> None:
        self._open = open
        self._stream: TextIO | None = None

    def write(self, text: str) -> int:
        """Open the stream, if this is the first output, and write."""
        if self._stream is None:
            self._stream = self._open()
        return self._stream.write(text)

    def flush(self) -> None:
        """Flush, if anything was written."""
        if self._stream is not None:
            self._stream.flush()

    def isatty(self) -> bool:
        """Return False: it is a file."""
        return False


class TableFormat(Enum):
    """How records are written where no table is drawn."""

    TSV = auto()
    CSV = auto()
    JSON = auto()


class Invocation:
    """The state of a single run: its output, the options that all commands have, and what was skipped."""

    def __init__(
        self,
        name: str,
        out: TextIO,
        *,
        quiet: bool,
        fail_fast: bool = False,
        listing: BinaryIO | None = None,
        activity: Activity | None = None,
        works: Callable[[], None] = lambda: None,
    ) -> None:
        """Start a run.

        Args:
            name: The name of the command.
            out: The stream for data.
            quiet: Print no notices and no progress.
            fail_fast: An image that cannot be used is an error.
            listing: The file of --files0-from, which is read where a source is `-`.
            activity: The spinner.
            works: Called when the command makes progress: its options are valid, so that delayed notices can be printed.
        """
        self.name, self.works = name, works
        self.activity = activity or Activity(enabled=False)
        self.out = out
        #: The format of `out`, unless a command asks for JSON.
        self.format = TableFormat.TSV
        self._stdout, self._files = out, ExitStack()
        self.diverted = False  # to a file
        self.quiet, self.fail_fast, self.listing = quiet, fail_fast, listing
        self.skipped = 0
        self.passed_over: list[tuple[str, str]] = []  # images that a search of folders did not use, and the remedy

    def finish_files(self) -> None:
        """From now on, continue to the end even if the output is no longer read, because files are written too."""
        if not isinstance(self.out, Unfailing):
            self.out = cast(TextIO, Unfailing(self.out))

    def divert(self, file: AbstractContextManager[TextIO], format: TableFormat) -> None:
        """Write the output to a file, which is closed by `settle`, or by `abandon` after an error."""
        self.out, self.format = cast(TextIO, _Delayed(lambda: self._files.enter_context(file))), format
        self.diverted = True

    @contextlib.contextmanager
    def on_stdout(self) -> Generator[None]:
        """Write to standard output within the context, also if the rest goes to a file."""
        diverted, self.out = self.out, self._stdout
        try:
            yield
        finally:
            self.out = diverted

    def settle(self) -> None:
        """Raise the error of the output, after the files are written.

        Raises:
            OSError: The first error, BrokenPipeError if the reader closed the pipe.
        """
        if self.diverted:
            self.out.write("")  # opens a file that stays empty
        self.out.flush()
        if isinstance(self.out, Unfailing) and self.out.error is not None:
            raise self.out.error
        self._files.close()
        if self.diverted:
            self._stdout.flush()

    def abandon(self, error: BaseException) -> None:
        """Leave the files as they were, after an error."""
        self._files.__exit__(type(error), error, error.__traceback__)

    @property
    def drawing(self) -> bool:
        """Whether the output is a terminal, on which tables are drawn."""
        return self.out.isatty()


_running: list[Invocation] = []


@contextlib.contextmanager
def running(run: Invocation) -> Generator[Invocation]:
    """Make a run the current one."""
    _running.append(run)
    try:
        yield run
    finally:
        _running.pop()


def current() -> Invocation:
    """Return the current run."""
    assert _running, "called outside of a command"
    return _running[-1]


def rank() -> int:
    """Return this process's rank under torchrun, otherwise 0; only the process of rank 0 writes and reports."""
    number, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return int(number) if number.isdecimal() and size.isdecimal() and int(size) > 1 else 0


def complain(name: str, message: str) -> None:
    """Print one line on stderr, also with --quiet: an error or a skipped image. Control characters are escaped."""
    line = printable(" ".join(message.split("\n")))
    with contextlib.suppress(OSError):
        print(f"{name}: {line}", file=sys.stderr, flush=True)  # noqa: T201 - stderr is ours
