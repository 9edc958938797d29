"""One run of one program: where its data goes, whether it is quiet, what it skipped; and lines for people."""

import contextlib
import os
import sys
from collections.abc import Callable, Generator
from typing import Any, TextIO, cast

from cnnkit.cli.activity import Activity
from cnnkit.messages import printable


class Unfailing:
    """A stream whose first error is kept: what is written from then on is dropped, and whoever writes goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write, as long as that works."""
        if self.error is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Flush, as long as that works."""
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self.error = error

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a stream has
        return getattr(self._stream, name)


class Invocation:
    """What a single run has to remember: where data goes, whether to be quiet, and what was skipped."""

    def __init__(
        self,
        name: str,
        out: TextIO,
        *,
        quiet: bool,
        activity: Activity | None = None,
        works: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin a run.

        Args:
            name: Of the command.
            out: Where its data goes.
            quiet: No notices and no progress.
            activity: The spinner.
            works: Called whenever the command shows that it works: its options fit, and notices need not wait any longer.
        """
        self.name, self.works = name, works
        self.activity = activity or Activity(enabled=False)
        self.out = out
        self.quiet = quiet
        self.skipped = 0
        self.passed_over: list[
            tuple[str, str]
        ] = []  # images that a search of folders did not take, and what can be done

    def finish_files(self) -> None:
        """From now on, go on to the end though nobody reads the output: files were asked for, too."""
        if not isinstance(self.out, Unfailing):
            self.out = cast(TextIO, Unfailing(self.out))

    def settle(self) -> None:
        """Report, once the files are written, that output could not be written.

        Raises:
            OSError: What the first write raised, a BrokenPipeError where its reader went away.
        """
        self.out.flush()
        if isinstance(self.out, Unfailing) and self.out.error is not None:
            raise self.out.error

    @property
    def drawing(self) -> bool:
        """Whether data goes to a terminal, where tables are drawn."""
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
    """Give the run that the command's body is in."""
    assert _running, "called outside of a command"
    return _running[-1]


def rank() -> int:
    """Give this process's number among those that torchrun started, 0 unless it did: the first one alone writes and reports."""
    number, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return int(number) if number.isdecimal() and size.isdecimal() and int(size) > 1 else 0


def complain(name: str, message: str) -> None:
    """Print one line on stderr, whatever happens: errors and skipped images. Control characters are shown as escapes."""
    line = printable(" ".join(message.split("\n")))
    with contextlib.suppress(OSError):
        print(f"{name}: {line}", file=sys.stderr, flush=True)  # noqa: T201 - stderr is ours
