"""Drawings of letters on stdout, and how much of them fits."""

import os
import stat
import sys
from collections.abc import Iterable, Sequence

from cnnkit.cli.run import current


def for_people() -> bool:
    """Say whether stdout is looked at: a terminal, or watch(1), which reads a pipe and draws what it read.

    watch sends both our streams into that pipe and tells the size of its screen; a pipe to another program has stdout alone.
    """
    run = current()
    if run.drawing:
        return True
    if not {"COLUMNS", "LINES"} <= os.environ.keys():
        return False
    try:
        out, err = os.fstat(run.out.fileno()), os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(out.st_mode) and os.path.samestat(out, err)


def screen_size() -> tuple[int, int]:
    """Give columns and lines of the screen; 80 and 25 where nobody knows."""
    from rich.console import Console

    return Console(file=current().out).size


def emit_drawing(lines: Iterable[Sequence[tuple[str, str]]]) -> None:
    """Write lines of text and styles to stdout; styles only where that is a terminal, colours not with NO_COLOR."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=current().out, highlight=False)
    for line in lines:
        console.print(Text.assemble(*line), no_wrap=True, overflow="ignore", crop=False)
