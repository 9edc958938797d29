"""The manners of every command, once: words on the command line, output, notices, errors and exit status.

Only `tools/` imports this file, and only this file imports typer or rich. A command is a typed function:

    @cli.command
    def main(sources: cli.Sources = None, device: cli.Device = "auto", as_json: cli.Json = False) -> None:
        \"\"\"Do one thing to pictures.

        Examples:
          cnn-thing photos/
        \"\"\"
        from cnnkit.infer import thing

        cli.emit(thing.run(cli.pictures(sources), device=device), as_json)

Exit status: 0 done; 1 failed, nothing written; 2 wrong usage; 3 done, but some pictures were skipped; 4 a gate was not met;
130 interrupted; 141 the reader of our output went away, as the shell reports it for any other program.
"""

import contextlib
import dataclasses
import functools
import inspect
import json
import logging
import os
import signal
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, BinaryIO, NoReturn, TextIO

import typer
import typer.core
import typer.main

from cnnkit.errors import CnnkitError, GateError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from cnnkit.data.source import Picture

# ---------------------------------------------------------------- the words

# What a command declares its own words with: Annotated[int, cli.Option("--top", min=1, help="...")]
Option = typer.Option
Argument = typer.Argument

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="A picture, a folder (label = the folder directly below it), a manifest.tsv, or - for a list on standard input.",
    ),
]
Null = Annotated[
    bool,
    typer.Option("--null", "-0", help="The list on standard input is separated by NUL, as find -print0 writes it."),
]
Split = Annotated[
    str | None,
    typer.Option("--split", metavar="NAME", help="Only this part: rows of a manifest, or the subfolder NAME/."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="Where the result goes; replaced in one step.")
]
Device = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N. cuda runs on the GPU or fails.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same bytes.")]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", min=1, show_default=False, help="Threads that decode pictures; all cores unless said."),
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Pictures that go through the network at once.")]
Errors = Annotated[
    Path | None,
    typer.Option("--errors", metavar="FILE", help="Also write skipped pictures and their reasons here, as TSV."),
]
_Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No notices and no progress; errors and skipped pictures are still named.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        versions = {
            name: _version_of(name) for name in ("cnnkit", "torch", "torchvision", "onnxruntime-gpu", "onnxruntime")
        }
        print(", ".join(f"{name} {version}" for name, version in versions.items() if version))  # noqa: T201 - the version is data
        raise typer.Exit


def _version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


_Version = Annotated[
    bool,
    typer.Option(
        "--version", is_eager=True, callback=_print_version, help="Print the versions of cnnkit, torch and onnxruntime."
    ),
]


# ---------------------------------------------------------------- one run of one program


class _Run:
    """What a single run has to remember: where data goes, whether to be quiet, and what was skipped."""

    def __init__(self, name: str, out: TextIO, *, quiet: bool) -> None:
        self.name = name
        self.out = out
        self.quiet = quiet
        self.skipped = 0

    @property
    def drawing(self) -> bool:
        return self.out.isatty()


_run: _Run | None = None


def _current() -> _Run:
    assert _run is not None, "called outside of a command"
    return _run


def command(function: Callable[..., None]) -> Callable[..., NoReturn]:
    """Turn a typed function into a program: `main()` parses the command line, runs, and exits.

    The function's docstring is the help; what follows its line `Examples:` is printed last and as it stands.
    `--quiet`, `--version`, `-h` and shell completion are added.

    Args:
        function: The body of the command. Its file's name gives the command's name.

    Returns:
        The entry point. It takes an optional list of arguments, and always exits.
    """
    name = Path(function.__code__.co_filename).stem.replace("_", "-")
    text, _, examples = inspect.cleandoc(function.__doc__ or "").partition("\nExamples:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]

    asked: list[tuple[bool, Mapping[str, Any]]] = []

    @functools.wraps(function)
    def note(*, quiet: bool, version: bool, **words: Any) -> None:  # noqa: ANN401 - whatever the command declares
        asked.append((quiet, words))

    signature = inspect.signature(function, eval_str=True)
    extra = [
        inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Quiet),
        inspect.Parameter("version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Version),
    ]
    note.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *extra])  # type: ignore[attr-defined] # read by inspect
    note.__annotations__ = {
        parameter.name: parameter.annotation for parameter in [*signature.parameters.values(), *extra]
    }
    del note.__wrapped__  # or inspect would look past the signature above

    def run(argv: Sequence[str] | None) -> int:
        # rich draws panels for people; a pipe gets plain text, and the start without rich is twice as fast.
        app = typer.Typer(
            rich_markup_mode="rich" if sys.stdout.isatty() else None,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        )
        app.command(cls=_Command, help="\n\n".join(paragraphs), epilog=examples)(note)
        asked.clear()
        status = typer.main.get_command(app).main(args=argv, prog_name=name, standalone_mode=False)
        # The work comes after typer is done: its loop has ideas of its own about pipes that break and input that ends
        for quiet, words in asked:
            with _manners(name, quiet=quiet):
                function(**words)
        return status or 0

    def program(argv: Sequence[str] | None = None) -> NoReturn:
        sys.exit(_guarded(name, lambda: run(argv)))

    return program


#: typer shows Python's types where an option has no metavar; choices stay, without their brackets.
_METAVARS = {
    "<bool>": "",
    "<int>": "N",
    "<int range>": "N",
    "<float>": "X",
    "<float range>": "X",
    "<str>": "TEXT",
    "<path>": "FILE",
}


class _Command(typer.core.TyperCommand):
    """typer's command, whose help leaves examples as they stand and takes nothing in it for markup."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer's own click is private
        examples, self.epilog = textwrap.indent(inspect.cleandoc(self.epilog or ""), "    "), None
        parameter: Any  # typer asks for more than it declares
        for parameter in self.get_params(ctx):
            if hasattr(parameter, "display_type_rich"):  # typer before 0.29 has other words for types
                shown = parameter.display_type_rich(ctx) or ""
                named = (
                    "" if isinstance(parameter, typer.core.TyperArgument) else _METAVARS.get(shown, shown.strip("<>"))
                )
                parameter.display_type_rich = functools.partial(lambda shown, ctx: shown, named)
        if self.rich_markup_mode is None:
            super().format_help(ctx, formatter)
            formatter.write(f"\n  Examples:\n{examples}\n" if examples else "")
            return

        from rich.console import Console
        from rich.markup import escape

        self.help = escape(self.help or "")
        for parameter in self.get_params(ctx):
            parameter.help = escape(getattr(parameter, "help", None) or "")
        super().format_help(ctx, formatter)
        if examples:
            console = Console(highlight=False, soft_wrap=True)
            console.print("  Examples:", style="bold")
            console.print(examples, markup=False)


def _guarded(name: str, call: Callable[[], int]) -> int:
    """Run, and turn whatever comes out into an exit status and at most one line."""
    try:
        status = call()
        if sys.stdout is not None:
            sys.stdout.flush()  # a help that nobody reads any more must fail here, not when the interpreter exits
    except CnnkitError as error:
        _complain(name, str(error))
        return error.exit_status
    except KeyboardInterrupt:
        _complain(name, "interrupted")
        return 130
    except BrokenPipeError:
        _silence_stdout()
        return 141
    except typer.Exit as stop:
        return stop.exit_code
    except OSError as error:
        reason = error.strerror or str(error)
        _complain(name, f"{error.filename}: {reason}" if error.filename else reason)
        return 1
    except Exception as error:
        # typer's usage errors: its own click is private, what they share is this method
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        _complain(name, f"{_lower_first(format_message().rstrip('.'))}; see {name} --help")
        return 2
    return status


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _complain(name: str, message: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"{name}: {' '.join(message.splitlines())}", file=sys.stderr, flush=True)  # noqa: T201 - stderr is ours


def _silence_stdout() -> None:
    """Keep the interpreter from complaining about the broken pipe a second time, when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _manners(name: str, *, quiet: bool) -> Generator[None]:
    """Everything around the body of a command, put back as it was afterwards."""
    global _run
    with contextlib.ExitStack() as stack:
        stack.enter_context(_terminated_like_interrupted())
        if not sys.warnoptions:  # as for every program: warnings are for its developers, who ask for them with -W
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        out = stack.enter_context(_stdout_for_data_only())
        stack.enter_context(_notices(name, quiet=quiet))
        previous, _run = _run, _Run(name, out, quiet=quiet)
        run = _run
        try:
            function_done = False
            yield
            function_done = True
            out.flush()
        finally:
            _run = previous
            if not function_done:
                with contextlib.suppress(OSError):
                    out.flush()
    if run.skipped:
        _complain(name, f"{run.skipped} {'picture was' if run.skipped == 1 else 'pictures were'} skipped")
        raise typer.Exit(3)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Generator[None]:
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
def _stdout_for_data_only() -> Generator[TextIO]:
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
    try:
        with os.fdopen(
            kept, "w", encoding="utf-8", errors="surrogateescape", newline="\n", buffering=1, closefd=False
        ) as out:
            previous, sys.stdout = sys.stdout, sys.stderr
            try:
                yield out
            finally:
                sys.stdout = previous
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


def _has_descriptor(stream: TextIO) -> bool:
    try:
        stream.fileno()
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _notices(name: str, *, quiet: bool) -> Generator[None]:
    """Print what the library logs, one line a message, on stderr."""
    logger = logging.getLogger("cnnkit")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


# ---------------------------------------------------------------- what comes in


def pictures(sources: list[str] | None, *, split: str | None = None, null: bool = False) -> "Iterable[Picture]":
    """Find the pictures that the words on the command line name.

    Args:
        sources: Pictures, folders, manifests, or `-`; without any, standard input, unless that is a terminal.
        split: Keep this part alone.
        null: The list on standard input is separated by NUL.

    Returns:
        A sequence, or for standard input an iterator that reads as it is asked.

    Raises:
        UsageError: There is no source.
        CnnkitError: A source does not exist or holds no picture.
    """
    from cnnkit.data import source

    if not sources:
        _refuse_terminal("a picture, a folder or a manifest", "a list")
    return source.find(sources or ["-"], split=split, stdin=sys.stdin.buffer if sys.stdin else None, null=null)


@contextlib.contextmanager
def reading(path: Path | None, what: str) -> Generator[tuple[BinaryIO, str]]:
    """Open the file that the command line names, or standard input for `-` and for none.

    Args:
        path: The word on the command line.
        what: What is asked for, for messages: "predictions".

    Yields:
        The bytes, and a name for messages.

    Raises:
        UsageError: There is no path, and standard input is a terminal.
        OSError: The file cannot be opened.
    """
    if path is not None and str(path) != "-":
        with path.open("rb") as file:
            yield file, str(path)
        return
    if path is None:
        _refuse_terminal(f"a file of {what}", "them")
    yield sys.stdin.buffer, "standard input"


def _refuse_terminal(what: str, piped: str) -> None:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(f"no source given and standard input is a terminal; name {what}, or pipe {piped} in")


# ---------------------------------------------------------------- what goes out


def emit(records: Iterable[Any], as_json: bool = False, *, columns: Sequence[str] | None = None) -> None:
    """Write records to stdout: a table on a terminal, else TSV with a header row, or JSON Lines.

    Args:
        records: Dataclasses or mappings, all with the same fields; written as they come.
        as_json: JSON Lines, on a terminal too.
        columns: The fields of the header row, should there be no record; those of the first record unless said.
    """
    run = _current()
    rows = (_as_mapping(record) for record in records)
    if as_json:
        for row in rows:
            run.out.write(_json_line(row))
    elif run.drawing:
        _draw(rows, run.out, columns)
    else:
        _write_tsv(rows, run.out, columns)


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
    run = _current()
    if as_json or not run.drawing:
        emit([record] if as_json else rows, as_json)
        return
    for number, (title, records) in enumerate(tables.items()):
        run.out.write("\n" if number else "")
        _draw((_as_mapping(each) for each in records), run.out, None, title=title)


def emit_lines(lines: Iterable[str]) -> None:
    """Write lines of text to stdout as they come, for output that is no table."""
    out = _current().out
    for line in lines:
        out.write(line + "\n")


def _as_mapping(record: Any) -> Mapping[str, Any]:  # noqa: ANN401 - any dataclass or mapping
    if isinstance(record, Mapping):
        return record
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _cell(value: Any) -> str:  # noqa: ANN401 - any JSON value
    from cnnkit.formats import tsv

    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False)
    return tsv.escape(str(value))


def _write_tsv(rows: Iterator[Mapping[str, Any]], out: IO[str], columns: Sequence[str] | None) -> None:
    if columns is not None:
        out.write("\t".join(columns) + "\n")
    for row in rows:
        if columns is None:
            columns = list(row)
            out.write("\t".join(columns) + "\n")
        out.write("\t".join(_cell(row[column]) for column in columns) + "\n")


#: While records still come, a terminal gets them in pieces this many seconds apart.
_PIECE = 0.5
#: Columns of text up to this width are never folded.
_LONGEST_WHOLE = 24


def _draw(
    rows: Iterator[Mapping[str, Any]], out: TextIO, columns: Sequence[str] | None, *, title: str | None = None
) -> None:
    """Draw a table, its rows in pieces as they come; the first piece decides how wide the columns are at least."""
    widths: dict[str, int] = {}
    piece: list[Mapping[str, Any]] = []
    drawn = time.monotonic()
    for row in rows:
        piece.append(row)
        if time.monotonic() - drawn > _PIECE:
            widths = _draw_piece(piece, out, columns or list(row), widths, title=title)
            piece, drawn = [], time.monotonic()
    if piece or not widths:
        _draw_piece(piece, out, columns or (list(piece[0]) if piece else []), widths, title=title)


def _draw_piece(
    rows: list[Mapping[str, Any]], out: TextIO, columns: Sequence[str], widths: dict[str, int], *, title: str | None
) -> dict[str, int]:
    """Draw some rows of a table; without widths the first ones, which have the header. Gives the widths of its columns."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(file=out, highlight=False)
    for tight in (False, True):
        table, here = _table(rows, columns, widths, title=title, tight=tight)
        least = Measurement.get(console, console.options.update(width=10_000), table).minimum
        if least <= console.width:
            break
    console.width = max(console.width, least)
    console.print(table)
    return here


def _table(
    rows: list[Mapping[str, Any]], columns: Sequence[str], widths: dict[str, int], *, title: str | None, tight: bool
) -> tuple["Table", dict[str, int]]:
    """Lay out rows; `tight` leaves out what can be spared where the terminal is narrow."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    cells = [[_cell(row[column]) if tight else _drawn_cell(row[column]) for column in columns] for row in rows]
    headers = {column: column.replace("_", "\n") for column in columns}
    here = {
        column: max([widths.get(column, 0), *map(len, headers[column].split("\n")), *map(cell_len, texts)])
        for column, *texts in zip(columns, *cells, strict=True)
    }
    table = Table(
        box=box.SIMPLE_HEAD,
        show_header=not widths,
        show_edge=False,
        pad_edge=False,
        padding=(0, 0) if tight else (0, 1),
        collapse_padding=True,
        title=None if widths else title,
        title_justify="left",
        title_style="bold",
    )
    for column in columns:
        numeric = any(isinstance(row[column], int | float) for row in rows)
        # Half a number on the next line is another number, and half a name is none; a long path may be folded
        whole = numeric or here[column] <= _LONGEST_WHOLE
        table.add_column(
            headers[column],
            justify="right" if numeric else "left",
            vertical="bottom",
            overflow="fold",
            no_wrap=whole,
            min_width=here[column] if whole else _LONGEST_WHOLE,
            width=here[column] if widths else None,
        )
    for row, line in zip(rows, cells, strict=True):
        style = "bold" if row.get("kind") == "total" else ""
        table.add_row(*(Text(cell, style=style) for cell in line))
    return table, here


def _drawn_cell(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return _cell(value)


def show(records: Iterable[Any]) -> None:
    """Tell people about records on stderr: aligned columns, no data for the next program."""
    run = _current()
    if run.quiet:
        return
    rows = [{key: _drawn_cell(value) for key, value in _as_mapping(record).items()} for record in records]
    if not rows:
        return
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    for row in [{key: key.replace("_", " ") for key in widths}, *rows]:
        print("  " + "  ".join(row[key].ljust(width) for key, width in widths.items()).rstrip(), file=sys.stderr)  # noqa: T201 - stderr is ours


def notice(message: str) -> None:
    """Say one line on stderr, unless `--quiet`."""
    logging.getLogger("cnnkit").info(message)


@contextlib.contextmanager
def progress(label: str, *, streaming: bool = False) -> Generator[Callable[[int, int | None], None]]:
    """Show a bar with rate and time left on stderr, when that is a terminal.

    Args:
        label: What is going on.
        streaming: Data is written meanwhile; no bar then where it goes to a terminal too, and would run into it.

    Yields:
        A function to call with how many are done, and of how many (None where nobody knows).
    """
    run = _current()
    if run.quiet or not sys.stderr.isatty() or (streaming and run.drawing):
        yield lambda _done, _total: None
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="progress.data.speed")

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        redirect_stdout=False,
    )
    task = bar.add_task(label, total=None)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def skipping(errors: Path | None = None) -> Generator[Callable[[str, str], None]]:
    """Name every picture that is skipped, on stderr and in a file; the command then ends with status 3.

    Args:
        errors: Where to write `path reason` rows as well. The file is written even when nothing was skipped.

    Yields:
        A function to call with the path of the picture and the reason.
    """
    from cnnkit.formats import atomic, tsv

    run = _current()
    rows: list[tuple[str, str]] = []

    def skip(path: str, reason: str) -> None:
        run.skipped += 1
        rows.append((path, reason))
        _complain(run.name, f"{path}: {reason}; skipped")

    try:
        yield skip
    finally:
        if errors is not None:
            with atomic.writing(errors) as file:
                file.write(tsv.render(["path", "reason"], rows))


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
            yield f"{name} is not known, so {_cell(bound)} is not shown to be kept"
        elif not sign * value >= sign * bound:  # written so that NaN misses every bound
            yield f"{name} {_cell(value)} is {relation} {_cell(bound)}"


__all__ = [
    "Argument",
    "Batch",
    "Device",
    "Errors",
    "Jobs",
    "Json",
    "Null",
    "Option",
    "Output",
    "Seed",
    "Sources",
    "Split",
    "command",
    "emit",
    "emit_lines",
    "emit_report",
    "gate",
    "notice",
    "pictures",
    "progress",
    "reading",
    "show",
    "skipping",
]
