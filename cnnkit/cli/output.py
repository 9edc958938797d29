"""Output: data on stdout; progress, skipped images and gates on stderr."""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnkit.callbacks import Callbacks, Phase, Progress
from cnnkit.cli.escaping import json_printable
from cnnkit.cli.invocation import TableFormat, complain, current, rank
from cnnkit.cli.table import as_mapping, cell, draw, write_csv, write_tsv
from cnnkit.errors import CnnkitError, GateError
from cnnkit.messages import printable


def emit(records: Iterable[Any], as_json: bool = False, *, columns: Sequence[str] | None = None) -> None:
    """Write records to stdout, or to the file of `to_file`: a table on a terminal, otherwise TSV with a header row, or JSON Lines.

    Args:
        records: Dataclasses or mappings, all with the same fields; written one by one.
        as_json: Write JSON Lines, also on a terminal.
        columns: The fields of the header row, needed if there may be no record; by default those of the first record.
    """
    run = current()
    rows = (as_mapping(record) for record in _as_work(records))
    if as_json:
        for row in rows:
            line = _json_line(row)
            run.out.write(json_printable(line[:-1]) + "\n" if run.drawing else line)
    elif run.drawing:
        draw(rows, run.out, columns)
    elif run.format is TableFormat.CSV:
        write_csv(rows, run.out, columns)
    else:
        write_tsv(rows, run.out, columns)


def _as_work(records: Iterable[Any]) -> Iterator[Any]:
    """Yield records, after the delayed notices are printed: the command makes progress."""
    for record in records:
        current().works()
        yield record


def _json_line(row: Mapping[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False, default=str)
    if line.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in line):
        return line + "\n"
    return (
        json.dumps(row, default=str) + "\n"
    )  # a file name that is not UTF-8 is escaped: the line would not be valid JSON


def emit_report(
    record: Mapping[str, Any],
    as_json: bool = False,
    *,
    rows: Iterable[Any],
    tables: Mapping[str, Iterable[Any]],
) -> None:
    """Write one result that has several parts: as JSON, as TSV, or as tables on a terminal.

    Args:
        record: The whole result, for JSON.
        as_json: Write JSON, also on a terminal.
        rows: The rows of the TSV.
        tables: The tables on a terminal, by title.
    """
    run = current()
    if as_json or not run.drawing:
        emit([record] if as_json else rows, as_json)
        return
    emit_tables(tables)


def emit_tables(tables: Mapping[str, Iterable[Any]]) -> None:
    """Draw tables with their titles on a terminal."""
    current().works()
    out = current().out
    for number, (title, records) in enumerate(tables.items()):
        out.write("\n" if number else "")
        draw((as_mapping(each) for each in records), out, None, title=title)


def emit_lines(lines: Iterable[str], *, to_stdout: bool = False) -> None:
    """Write lines of text, for output that is not a table; `to_stdout` also if the records go to a file."""
    run = current()
    with run.on_stdout() if to_stdout else contextlib.nullcontext():
        for line in lines:
            run.out.write((printable(line) if run.drawing else line) + "\n")


def notice(message: str) -> None:
    """Print one line on stderr, unless `--quiet`."""
    logging.getLogger("cnnkit").info(message)


def finish_files() -> None:
    """Let the command continue if the reader of its rows closes the pipe (`| head`), because it also writes files.

    The exit status is still 141.
    """
    current().finish_files()


@contextlib.contextmanager
def progress(label: str, *, streaming: bool = False) -> Generator[Progress]:
    """Show a progress bar with rate and remaining time on stderr, if that is a terminal.

    Args:
        label: The text in front of the bar.
        streaming: The command writes data meanwhile: show no bar if that also goes to a terminal.

    Yields:
        A function to call with the number done and the total (None if unknown).
    """
    with _bar(label, streaming=streaming) as (shown, _):
        yield shown


@contextlib.contextmanager
def _bar(label: str, *, streaming: bool) -> Generator[tuple[Progress, Phase]]:
    """Show a bar, as `progress` does; also yields a function to call with the label of the next phase."""
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
            return Text(rate(task.speed) if task.speed else "", style="progress.data.speed")

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
        task = bar.add_task(printable(name), total=None)  # a total cannot be unset

    with run.activity.covered(), bar:
        yield show, begin


def rate(speed: float) -> str:
    """Write a rate per second, below 10 with two digits: steps that take seconds each have rates below 1."""
    return f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s"


@contextlib.contextmanager
def skipping(errors: Path | None = None) -> Generator[Callable[[str, str], None]]:
    """Report every skipped image on stderr and in a file; the command then ends with status 3. With --fail-fast, the first one is an error.

    Args:
        errors: A table of paths and reasons to write, which also lists the images that a search of folders did not use (HEIC without the
            extra, camera raw, ...). It is written even if nothing was skipped.

    Yields:
        A function to call with the path of an image and the reason.

    Raises:
        CnnkitError: An image cannot be used, with --fail-fast; or there is no folder for the table.
    """
    from cnnkit.formats import atomic, tsv

    run = current()
    rows: list[tuple[str, str]] = []
    if errors is not None:
        atomic.check_folder(errors)
        finish_files()

    def skip(path: str, reason: str) -> None:
        run.works()
        rows.append((path, reason))
        if run.fail_fast:
            raise CnnkitError(f"{path}: {reason}")
        run.skipped += 1
        complain(run.name, f"{path}: {reason}; skipped")

    try:
        yield skip
    finally:
        if errors is not None:
            tsv.save(errors, ["path", "reason"], [*rows, *run.passed_over])


@contextlib.contextmanager
def callbacks(
    label: str,
    *,
    errors: Path | None = None,
    epochs_as_json: bool = False,
    streaming: bool = False,
    alone: bool = False,
) -> Generator[Callbacks]:
    """Show progress, skipped images and epochs; of several processes, only the first writes files and reports.

    Args:
        label: The text in front of the bar.
        errors: As in `skipping`.
        epochs_as_json: Write every epoch to stdout as it ends; training continues if they are no longer read.
        streaming: As `progress`.
        alone: The processes of torchrun have different images, and each writes its own `errors`.
    """

    if epochs_as_json:
        finish_files()

    def report(epoch: object) -> None:
        if epochs_as_json:
            emit([epoch], as_json=True)

    with skipping(errors if alone or rank() == 0 else None) as skip, _bar(label, streaming=streaming) as (shown, phase):
        yield Callbacks(progress=shown, phase=phase, skip=skip, report=report)


@contextlib.contextmanager
def gated(
    at_least: Mapping[str, tuple[float | None, float]],
    *,
    at_most: Mapping[str, tuple[float | None, float]] | None = None,
    none: Mapping[str, int] | None = None,
) -> Generator[None]:
    """Check measures against their limits after the output is written, also if its reader closed the pipe.

    Args and Raises as `gate`.
    """
    try:
        yield
    except BrokenPipeError:
        gate(at_least, at_most=at_most, none=none)
        raise
    gate(at_least, at_most=at_most, none=none)


def gate(
    at_least: Mapping[str, tuple[float | None, float]],
    *,
    at_most: Mapping[str, tuple[float | None, float]] | None = None,
    none: Mapping[str, int] | None = None,
) -> None:
    """Check measures against their limits.

    Args:
        at_least: For each measure, its value (None if unknown, which fails) and its lower limit.
        at_most: The same with upper limits.
        none: Counts that must be 0, by the plural of their noun.

    Raises:
        GateError: One or more limits are not met; the message lists each with both numbers.
    """
    missed = [*_missed(at_least, 1, "below"), *_missed(at_most or {}, -1, "above")]
    missed += [
        f"{count:,} {noun if count != 1 else noun[:-1]}, 0 allowed" for noun, count in (none or {}).items() if count
    ]
    if missed:
        raise GateError("; ".join(missed))


def _missed(checks: Mapping[str, tuple[float | None, float]], sign: int, relation: str) -> Iterator[str]:
    for name, (value, bound) in checks.items():
        if value is None:
            yield f"{name} is not known, so the limit {cell(bound)} is not met"
        elif not sign * value >= sign * bound:  # NaN meets no limit
            yield f"{name} {cell(value)} is {relation} {cell(bound)}"


def for_people() -> bool:
    """Return whether stdout is a terminal."""
    return current().drawing


def diverted() -> bool:
    """Return whether `to_file` sends the output to a file."""
    return current().diverted


def screen_size() -> tuple[int, int]:
    """Return columns and lines of the terminal; 80 and 25 if unknown."""
    from rich.console import Console

    return Console(file=current().out).size


def emit_drawing(lines: Iterable[Sequence[tuple[str, str]]]) -> None:
    """Write lines of styled text to stdout; styles only on a terminal, and no colours with NO_COLOR."""
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
