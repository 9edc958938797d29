"""Turn a typed function into a program, with command line, error handling and exit status."""

import contextlib
import functools
import inspect
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NoReturn

import typer
import typer.main

from cnnkit import files, messages
from cnnkit.cli import completion, values
from cnnkit.cli.activity import Activity, wanted
from cnnkit.cli.help import Command
from cnnkit.cli.invocation import Invocation, complain, rank, running
from cnnkit.cli.options import FAIL_FAST, FILES0_FROM, MARGIN, MAX_PIXELS, QUIET, VERSION, shown, typer_option
from cnnkit.cli.streams import (
    OutputClosedError,
    detecting_closed_stdout,
    interruptible,
    notices,
    sigterm_as_exit,
    standard_streams,
    stdout_for_data_only,
)
from cnnkit.errors import CnnkitError, GateError, UsageError
from cnnkit.formats import cache
from cnnkit.option_fields import OptionSpec, RemembersGiven, has_options, options


def image_command(function: Callable[..., None]) -> Callable[..., NoReturn]:
    """Turn a function that decodes images into a program, as `command` does, with the option `--max-pixels`."""
    return command(function, decodes=True)


def command(function: Callable[..., None], *, decodes: bool = False) -> Callable[..., NoReturn]:
    """Turn a typed function into a program: `main()` parses the command line, runs, and exits.

    The function's docstring is the help; what follows its line `Examples:` is printed last, verbatim.
    `--quiet`, `--version`, `-h` and shell completion are added; and `--margin` after `--folders`, `--files0-from` after `--null`, and
    `--fail-fast` after `--errors`.

    Args:
        function: The body of the command, which is named after the function's file.
        decodes: The command decodes images: add `--max-pixels`.

    Returns:
        The entry point, which takes an optional list of arguments and always exits.
    """
    name = Path(function.__code__.co_filename).stem.replace("_", "-")
    text, _, examples = inspect.cleandoc(function.__doc__ or "").partition("\nExamples:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]

    declared, assemble = _expanded(inspect.signature(function, eval_str=True).parameters.values())
    parsed: list[tuple[_Added, Mapping[str, Any], frozenset[str]]] = []

    @functools.wraps(function)
    def note(
        *,
        context: typer.Context,
        quiet: bool,
        version: bool,
        max_pixels: int | None = None,
        margin: float | None = None,
        files0_from: Path | None = None,
        fail_fast: bool = False,
        **words: Any,  # noqa: ANN401 - whatever the command declares
    ) -> None:
        sources = {name: context.get_parameter_source(name) for name in words}
        given = frozenset(
            name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"
        )
        _demand_finite(context, {name: words[name] for name in given} | {"margin": margin})
        if files0_from is not None:
            words = _listed(words)
        parsed.append((_Added(quiet, max_pixels, margin, files0_from, fail_fast), words, given))

    _insert(declared, "margin", MARGIN, after="folders")
    if any(each.name == "sources" for each in declared):
        _insert(declared, "files0_from", FILES0_FROM, after="null")
    _insert(declared, "fail_fast", FAIL_FAST, after="errors", default=False)
    if decodes:
        declared.append(
            inspect.Parameter("max_pixels", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=MAX_PIXELS)
        )
    declared += [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=QUIET),
        inspect.Parameter("version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=VERSION),
    ]
    note.__signature__ = inspect.Signature(declared)  # type: ignore[attr-defined] # read by inspect
    note.__annotations__ = {parameter.name: parameter.annotation for parameter in declared}
    del note.__wrapped__  # otherwise inspect would ignore the signature above

    flags = {f"--{parameter.name.replace('_', '-')}" for parameter in declared}

    def parser(*, rich: bool = False) -> Any:  # noqa: ANN401 - typer's own click is private
        app = typer.Typer(
            rich_markup_mode="rich" if rich else None,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        )
        app.command(cls=Command, help="\n\n".join(paragraphs), epilog=examples)(note)
        built = typer.main.get_command(app)
        completion.wire(built, name)
        values.wire(built, declared)
        return built

    def run(argv: Sequence[str] | None) -> int:
        parsed.clear()
        with detecting_closed_stdout():
            # rich draws panels on a terminal; in a pipe the help is plain text, and starts twice as fast without rich
            status = parser(rich=sys.stdout.isatty()).main(args=argv, prog_name=name, standalone_mode=False)
        # The command runs after typer's main loop, which handles broken pipes and the end of input in its own way
        for added, words, given in parsed:
            with (
                interruptible(),
                _opened(added.files0_from) as listing,
                run_environment(name, quiet=added.quiet, fail_fast=added.fail_fast, listing=listing),
                _bounded(added.max_pixels),
                _widened(added.margin),
            ):
                function(**assemble(words, given))
        return status or 0

    def program(argv: Sequence[str] | None = None) -> NoReturn:
        words = sys.argv[1:] if argv is None else argv
        with standard_streams():
            cache.keep_inside()
            _let_blas_sleep()
            status = _guarded(name, lambda: run(argv), remedies=flags, words=words)
        sys.exit(status)

    program.parser = parser  # type: ignore[attr-defined] # read by cnnkit.cli.man
    return program


def _let_blas_sleep() -> None:
    """Let the threads of NumPy's and SciPy's OpenBLAS wait for work asleep, unless the user has chosen how long they spin.

    Each library starts a thread per core when it is imported, and these spin for 2^26 cycles: about as much CPU time as the rest of the
    import. With 2^16 cycles, some 30 µs, products of matrices are as fast, and still use all cores. OPENBLAS_NUM_THREADS=1 saves no more,
    and would also slow down PCA, near duplicates and, on ARM, torch. Only commands call this: a program that imports cnnkit has its own
    settings.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")


@dataclass(frozen=True, slots=True)
class _Added:
    """The values of the options that commands do not declare themselves."""

    quiet: bool
    max_pixels: int | None
    margin: float | None
    files0_from: Path | None
    fail_fast: bool


def _insert(
    declared: list[inspect.Parameter],
    name: str,
    annotation: Any,  # noqa: ANN401 - of typer
    *,
    after: str,
    default: object = None,
) -> None:
    """Declare an option after another one, if there is that one."""
    place = next((place for place, each in enumerate(declared, start=1) if each.name == after), None)
    if place is not None:
        own = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        declared.insert(place, own)


def _listed(words: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a command line with --files0-from: the file is read as `-0 -` reads standard input.

    Raises:
        UsageError: There are also sources, or -0.
    """
    if words["sources"]:
        raise UsageError(f"SOURCE {words['sources'][0]} cannot be combined with --files0-from; give one of them")
    if words["null"]:
        raise UsageError("-0 is for a list on standard input; the paths of --files0-from are always separated by NUL")
    return {**words, "sources": ["-"], "null": True}


@contextlib.contextmanager
def _opened(path: Path | None) -> Generator[BinaryIO | None]:
    """Open the file of --files0-from; None for standard input."""
    if path is None or str(path) == "-":
        yield None
        return
    with files.open_text(path) as file:
        yield file


@contextlib.contextmanager
def _bounded(pixels: int | None) -> Generator[None]:
    """Limit the pixels of images; by default to Pillow's limit."""
    if pixels is None:
        yield
        return
    from cnnkit.data import decode

    with decode.at_most(pixels):
        yield


@contextlib.contextmanager
def _widened(margin: float | None) -> Generator[None]:
    """Widen the boxes of manifests."""
    if not margin:
        yield
        return
    from cnnkit.data import source

    with source.widening(margin):
        yield


def _demand_finite(context: typer.Context, given: Mapping[str, Any]) -> None:
    """Raise an error for options that Python reads as NaN or infinite: nan, inf, 1e400."""
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            (flags,) = (parameter.opts for parameter in context.command.params if parameter.name == name)
            raise UsageError(f"{max(flags, key=len)}: {value} is not a finite number")


def _expanded(
    parameters: Iterable[inspect.Parameter],
) -> tuple[list[inspect.Parameter], Callable[[Mapping[str, Any], frozenset[str]], dict[str, Any]]]:
    """Replace each parameter of a configuration dataclass by options for its fields.

    Returns:
        The parameters for typer, and a function that makes the dataclasses from the parsed values and the names of the options on the
        command line.
    """
    declared: list[inspect.Parameter] = []
    configs: dict[str, tuple[type, list[str]]] = {}
    moved: list[OptionSpec] = []
    for parameter in parameters:
        if not has_options(parameter.annotation):
            declared.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        fields = list(options(parameter.annotation))
        configs[parameter.name] = (parameter.annotation, [each.name for each in fields])
        declared += [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=shown(each.default),
                annotation=Annotated[each.type, typer_option(each)],
            )
            for each in fields
        ]
        moved += [each for each in fields if each.after]
    names = [parameter.name for parameter in declared]
    assert len(set(names)) == len(names), f"an option is declared twice: {names}"
    while moved:  # first move the options that others are placed after
        waiting = {each.name for each in moved}
        each = next(each for each in moved if not waiting & set(each.after))
        moved.remove(each)
        _move(declared, each)

    def assemble(words: Mapping[str, Any], given: frozenset[str]) -> dict[str, Any]:
        fields = {name for _, names in configs.values() for name in names}
        built = {}
        for name, (config, names) in configs.items():
            remembered = {"on_command_line": given & set(names)} if issubclass(config, RemembersGiven) else {}
            built[name] = config(**{each: words[each] for each in names}, **remembered)
        return {name: word for name, word in words.items() if name not in fields} | built

    return declared, assemble


def _move(declared: list[inspect.Parameter], option: OptionSpec) -> None:
    """Move an option after the last of those in its `after`, if any of them exists."""
    (own,) = (parameter for parameter in declared if parameter.name == option.name)
    others = [parameter for parameter in declared if parameter is not own]
    places = [place for place, parameter in enumerate(others, start=1) if parameter.name in option.after]
    if places:
        declared[:] = [*others[: places[-1]], own, *others[places[-1] :]]


def _guarded(name: str, call: Callable[[], int], *, remedies: Collection[str] = (), words: Sequence[str] = ()) -> int:
    """Run a command, and turn any error into an exit status and at most one line.

    Args:
        name: The name of the command.
        call: The body of the command.
        remedies: The command's options, for remedies in messages.
        words: The command line, for remedies in messages.
    """
    try:
        status = call()
        sys.stdout.flush()  # write errors must be raised here, not when the interpreter exits
    except UsageError as error:
        if not rank():  # all processes have the same command line
            complain(name, str(error))
        return error.exit_status
    except CnnkitError as error:
        complain(_speaker(name), str(error))
        return error.exit_status
    except KeyboardInterrupt:
        complain(name, "interrupted")
        return 130
    except (BrokenPipeError, OutputClosedError):
        _silence_stdout()
        return 141
    except typer.Exit as stop:
        return stop.exit_code
    except OSError as error:
        complain(_speaker(name), files.message(error))
        return 1
    except Exception as error:
        if _interrupted(error):  # during an import, which may turn it into another error
            complain(name, "interrupted")
            return 130
        # typer's usage errors have this method; their classes are private
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            from cnnkit import packages
            from cnnkit.engine import device_errors  # here, because --help does not need it

            found = packages.explained(error) or device_errors.explained(error, remedies=remedies)
            if found is None:
                raise
            complain(_speaker(name), str(found))
            return found.exit_status
        _drop_unrelated(error)
        if not rank():
            message = _plain(format_message().rstrip("."), error)
            complain(name, f"{message}; {_model_among(words) if _MODEL_MISSING in message else ''}see {name} --help")
        return 2
    return status


def _interrupted(error: BaseException | None) -> bool:
    """Return whether Ctrl-C caused an error."""
    for _ in range(100):  # chains can have cycles
        if error is None:
            return False
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


_MODEL_MISSING = "missing option '--model'"


def _model_among(words: Sequence[str]) -> str:
    """Suggest -m for a model that is on the command line without it."""
    model = next((word for word in words if word.endswith((".onnx", ".pt")) and not word.startswith("-")), None)
    return f"write -m {model} if that is the model, or " if model is not None else ""


def _speaker(name: str) -> str:
    """Return the command's name, with the rank of one of several processes, since an error may occur in only one."""
    return f"{name} (rank {rank()})" if rank() else name


def _plain(message: str, error: BaseException) -> str:
    """Reword a usage error of typer, without the prefixes of pydantic, which checks values."""
    message = re.sub(r": (Value error, |Input (?=should))", ": ", message[:1].lower() + message[1:])
    given: Sequence[Mapping[str, Any]] = getattr(error.__cause__ or error.__context__, "errors", list)()
    if given and message.startswith("invalid value for '--size': should be a valid integer"):
        return f'--size "{given[0]["input"]}": give one number, the side of the square'
    if given:
        parsed = r", unable to parse string as an? \w+$"
        message = re.sub(parsed, lambda _: f', not "{given[0]["input"]}"', message)
    choice = re.search(r": '(.*)' is not one of ('.*')$", message)
    if choice is not None:
        known = re.findall(r"'([^']*)'", choice[2])
        message += messages.proposal(choice[1], known, foreign={})
    return message


def _drop_unrelated(error: Exception) -> None:
    """Remove suggestions of hidden options and of options that are not similar to the given one."""
    possible = getattr(error, "possibilities", None)
    context = getattr(error, "ctx", None)
    if possible and context is not None:
        hidden = {flag for each in context.command.params if getattr(each, "hidden", False) for flag in each.opts}
        written = str(getattr(error, "option_name", "")).lstrip("-")
        shown = [flag.lstrip("-") for flag in possible if flag not in hidden]
        vars(error)["possibilities"] = [f"--{flag}" for flag in messages.similar(written, shown)]


def _silence_stdout() -> None:
    """Prevent a second error about the broken pipe when the interpreter flushes stdout at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def run_environment(
    name: str, *, quiet: bool, fail_fast: bool = False, listing: BinaryIO | None = None
) -> Generator[None]:
    """Set up everything around the body of a command, and restore it afterwards."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_as_exit())
        if not sys.warnoptions:  # warnings are for developers, who can enable them with -W
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        out = stack.enter_context(stdout_for_data_only())
        # Of several processes, only the first prints notices
        level = logging.CRITICAL if rank() else logging.WARNING if quiet else logging.INFO
        notes = stack.enter_context(notices(name, level=level))
        activity = Activity(enabled=wanted(quiet=quiet) and not rank())
        out = stack.enter_context(activity.watching(out))
        run = stack.enter_context(
            running(
                Invocation(
                    name,
                    out,
                    quiet=quiet,
                    fail_fast=fail_fast,
                    listing=listing,
                    activity=activity,
                    works=notes.print_waiting,
                )
            )
        )
        try:
            try:
                yield
            except GateError:  # the output is complete
                with contextlib.nullcontext() if run.diverted else contextlib.suppress(OSError):  # a pipe may be closed
                    run.settle()
                raise
            run.settle()
        except BaseException as error:
            with contextlib.suppress(OSError):  # report the first error
                out.flush()
            run.abandon(error)
            raise
    if run.skipped:
        complain(name, f"{run.skipped} {'image was' if run.skipped == 1 else 'images were'} skipped")
        raise typer.Exit(3)
