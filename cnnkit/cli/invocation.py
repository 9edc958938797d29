"""One run of one program: where its data goes, whether it is quiet, what it skipped; and lines for people."""

import contextlib
import os
import sys
from collections.abc import Generator
from typing import TextIO


class Invocation:
    """What a single run has to remember: where data goes, whether to be quiet, and what was skipped."""

    def __init__(self, name: str, out: TextIO, *, quiet: bool) -> None:
        self.name = name
        self.out = out
        self.quiet = quiet
        self.skipped = 0
        self.passed_over: list[
            tuple[str, str]
        ] = []  # images that a search of folders did not take, and what can be done

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
    """Say one line on stderr, whatever happens: errors and skipped images."""
    with contextlib.suppress(BrokenPipeError):
        print(f"{name}: {' '.join(message.splitlines())}", file=sys.stderr, flush=True)  # noqa: T201 - stderr is ours
