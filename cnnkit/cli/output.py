"""What goes out: data on stdout; progress, skipped images and gates for people."""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnkit.callbacks import Callbacks, Phase, Progress
from cnnkit.cli.escaping import json_printable
from cnnkit.cli.invocation import complain, current, rank
from cnnkit.cli.table import as_mapping, cell, draw, write_tsv
from cnnkit.errors import GateError
from cnnkit.messages import printable


def emit(records: Iterable[Any], as_json: bool = False, *, columns: Sequence[str] | None = None) -> None:
    """Write records to stdout: a table on a terminal, else TSV with a header row, or JSON Lines.

    Args:
        records: Dataclasses or mappings, all with the same fields; written as they come.
        as_json: JSON Lines, on a terminal too.
        columns: The fields of the header row, should there be no record; by default those of the first record.
    """
    run = current()
    rows = (as_mapping(record) for record in records)
    if as_json:
        for row in rows:
            line = _json_line(row)
            run.out.write(json_printable(line[:-1]) + "\n" if run.drawing else line)
    elif run.drawing:
        draw(rows, run.out, columns)
    else:
        write_tsv(rows, run.out, columns)


def _json_line(row: Mapping[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False, default=str)
    if line.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in line):
        return line + "\n"
    return json.dumps(row, default=str) + "\n"  # a file name that is not UTF-8 would make a line that is not JSON


def emit_report(
    record: Mapping[str, Any],
    as_json: bool = False,
    *,
    rows: Iterable[Any],
    tables: Mapping[str, Iterable[Any]],
) -> None:
    """Write one result that has parts, in the shape that its reader can use.

    Args:
        record: All of it, as one JSON object.
        as_json: That object, on a terminal too.
        rows: What becomes TSV when stdout is no terminal.
        tables: By their titles, what is drawn on a terminal.
    """
    run = current()
    if as_json or not run.drawing:
        emit([record] if as_json else rows, as_json)
        return
    emit_tables(tables)


def emit_tables(tables: Mapping[str, Iterable[Any]]) -> None:
    """Draw tables on stdout, a terminal, one below the other, each under its title."""
    out = current().out
    for number, (title, records) in enumerate(tables.items()):
        out.write("\n" if number else "")
        draw((as_mapping(each) for each in records), out, None, title=title)


def emit_lines(lines: Iterable[str]) -> None:
    """Write lines of text to stdout as they come, for output that is no table."""
    run = current()
    for line in lines:
        run.out.write((printable(line) if run.drawing else line) + "\n")


def notice(message: str) -> None:
    """Say one line on stderr, unless `--quiet`."""
    logging.getLogger("cnnkit").info(message)


def finish_files() -> None:
    """Let the command go on to its end where the reader of its rows goes away (`| head`), since files are made with them.

    The status is 141 all the same, once they are written.
    """
    current().finish_files()


@contextlib.contextmanager
def progress(label: str, *, streaming: bool = False) -> Generator[Progress]:
    """Show a bar with rate and time left on stderr, when that is a terminal.

    Args:
        label: What is going on.
        streaming: Data is written meanwhile; no bar then where it goes to a terminal too, and would run into it.

    Yields:
        A function to call with how many are done, and of how many (None where nobody knows).
    """
    with _bar(label, streaming=streaming) as (shown, _):
        yield shown


@contextlib.contextmanager
def _bar(label: str, *, streaming: bool) -> Generator[tuple[Progress, Phase]]:
    """Show a bar, as `progress` does; gives a function more, to call with what is done from then on."""
    run = current()
    if run.quiet or not sys.stderr.isatty() or (streaming and run.drawing):
        run.activity.name(label)

        def work(_done: int, _total: int | None) -> None:
            run.works()

        def name(label: str) -> None:
            run.works()
            run.activity.name(label)

        yield work, name
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="progress.data.speed")

    class Count(MofNCompleteColumn):
        def render(self, task: Task) -> Text:
            return super().render(task) if task.total is not None or task.completed else Text("")

    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        Count(),
        Rate(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        redirect_stdout=False,
    )
    task = bar.add_task(printable(label), total=None)

    def show(done: int, total: int | None) -> None:
        run.works()
        bar.update(task, completed=done, total=total)

    def begin(name: str) -> None:
        nonlocal task
        run.works()
        bar.remove_task(task)
        task = bar.add_task(printable(name), total=None)  # a total cannot be taken back

    with run.activity.covered(), bar:
        yield show, begin


@contextlib.contextmanager
def skipping(errors: Path | None = None) -> Generator[Callable[[str, str], None]]:
    """Name every image that is skipped, on stderr and in a file; the command then ends with status 3.

    Args:
        errors: Where to write `path reason` rows as well, and after them the images that a search of folders passed over (HEIC without
            the extra, camera raw, ...). The file is written even when nothing was skipped.

    Yields:
        A function to call with the path of the image and the reason.
    """
    from cnnkit.formats import tsv

    run = current()
    rows: list[tuple[str, str]] = []
    if errors is not None:
        finish_files()

    def skip(path: str, reason: str) -> None:
        run.works()
        run.skipped += 1
        rows.append((path, reason))
        complain(run.name, f"{path}: {reason}; skipped")

    try:
        yield skip
    finally:
        if errors is not None:
            tsv.save(errors, ["path", "reason"], [*rows, *run.passed_over])


@contextlib.contextmanager
def callbacks(
    label: str, *, errors: Path | None = None, epochs_as_json: bool = False, streaming: bool = False
) -> Generator[Callbacks]:
    """Show progress, name skipped images, and report epochs; of several processes the first one writes files and reports.

    Args:
        label: What is going on, for the bar.
        errors: Where to write skipped images and their reasons as well.
        epochs_as_json: Write every epoch to stdout at once, as a record; the training goes on where nobody reads them.
        streaming: As `progress`.
    """

    if epochs_as_json:
        finish_files()

    def report(epoch: object) -> None:
        if epochs_as_json:
            emit([epoch], as_json=True)

    with skipping(errors if rank() == 0 else None) as skip, _bar(label, streaming=streaming) as (shown, phase):
        yield Callbacks(progress=shown, phase=phase, skip=skip, report=report)


@contextlib.contextmanager
def gated(
    at_least: Mapping[str, tuple[float | None, float]],
    *,
    at_most: Mapping[str, tuple[float | None, float]] | None = None,
) -> Generator[None]:
    """Demand that measures keep their bounds once the output is written, also where its reader went away before the end.

    Args and Raises as `gate`.
    """
    try:
        yield
    except BrokenPipeError:
        gate(at_least, at_most=at_most)
        raise
    gate(at_least, at_most=at_most)


def gate(
    at_least: Mapping[str, tuple[float | None, float]],
    *,
    at_most: Mapping[str, tuple[float | None, float]] | None = None,
) -> None:
    """Demand that measures keep their bounds.

    Args:
        at_least: For each measure its value (None where nobody knows it: that keeps no bound) and the lowest that will do.
        at_most: The same with the highest that will do.

    Raises:
        GateError: One or more do not; every one is named with both numbers.
    """
    missed = [*_missed(at_least, 1, "below"), *_missed(at_most or {}, -1, "above")]
    if missed:
        raise GateError("; ".join(missed))


def _missed(checks: Mapping[str, tuple[float | None, float]], sign: int, relation: str) -> Iterator[str]:
    for name, (value, bound) in checks.items():
        if value is None:
            yield f"{name} is not known, so {cell(bound)} is not shown to be kept"
        elif not sign * value >= sign * bound:  # written so that NaN misses every bound
            yield f"{name} {cell(value)} is {relation} {cell(bound)}"


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
        console.print(
            Text.assemble(*((printable(text), style) for text, style in line)),
            no_wrap=True,
            overflow="ignore",
            crop=False,
        )
