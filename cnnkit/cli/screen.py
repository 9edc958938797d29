"""Drawings of letters on stdout, and how much of them fits."""

from collections.abc import Iterable, Sequence

from cnnkit.cli.run import current


def for_people() -> bool:
    """Say whether stdout is looked at: a terminal."""
    return current().drawing


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
