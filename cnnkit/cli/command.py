"""A typed function becomes a program: its command line, its manners, its exit status."""

import contextlib
import functools
import inspect
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.main

from cnnkit import messages
from cnnkit.cli.activity import Activity, wanted
from cnnkit.cli.help import Command
from cnnkit.cli.invocation import Invocation, complain, rank, running
from cnnkit.cli.options import QUIET, VERSION, typer_option
from cnnkit.cli.streams import notices, stdout_for_data_only, terminated_like_interrupted
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.option_fields import OptionSpec, RemembersGiven, has_options, options


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

    declared, assemble = _expanded(inspect.signature(function, eval_str=True).parameters.values())
    asked: list[tuple[bool, Mapping[str, Any], frozenset[str]]] = []

    @functools.wraps(function)
    def note(*, context: typer.Context, quiet: bool, version: bool, **words: Any) -> None:  # noqa: ANN401 - whatever the command declares
        sources = {name: context.get_parameter_source(name) for name in words}
        given = frozenset(
            name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"
        )
        asked.append((quiet, words, given))

    declared += [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=QUIET),
        inspect.Parameter("version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=VERSION),
    ]
    note.__signature__ = inspect.Signature(declared)  # type: ignore[attr-defined] # read by inspect
    note.__annotations__ = {parameter.name: parameter.annotation for parameter in declared}
    del note.__wrapped__  # or inspect would look past the signature above

    def run(argv: Sequence[str] | None) -> int:
        # rich draws panels for people; a pipe gets plain text, and the start without rich is twice as fast.
        app = typer.Typer(
            rich_markup_mode="rich" if sys.stdout.isatty() else None,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        )
        app.command(cls=Command, help="\n\n".join(paragraphs), epilog=examples)(note)
        asked.clear()
        status = typer.main.get_command(app).main(args=argv, prog_name=name, standalone_mode=False)
        # The work comes after typer is done: its loop has ideas of its own about pipes that break and input that ends
        for quiet, words, given in asked:
            with manners(name, quiet=quiet):
                function(**assemble(words, given))
        return status or 0

    def program(argv: Sequence[str] | None = None) -> NoReturn:
        sys.exit(_guarded(name, lambda: run(argv)))

    return program


def _expanded(
    parameters: Iterable[inspect.Parameter],
) -> tuple[list[inspect.Parameter], Callable[[Mapping[str, Any], frozenset[str]], dict[str, Any]]]:
    """Replace each parameter whose type is a configuration dataclass by the options that are its fields.

    Returns:
        The parameters for typer, and a function that puts the parsed values back into the dataclasses. It also takes the names of the
        options that stood on the command line.
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
                default=each.default,
                annotation=Annotated[each.type, typer_option(each)],
            )
            for each in fields
        ]
        moved += [each for each in fields if each.after]
    names = [parameter.name for parameter in declared]
    assert len(set(names)) == len(names), f"an option is declared twice: {names}"
    while moved:  # what another one stands after is put into its place first
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
    """Put an option after the last of those that it names, where there is one."""
    (own,) = (parameter for parameter in declared if parameter.name == option.name)
    others = [parameter for parameter in declared if parameter is not own]
    places = [place for place, parameter in enumerate(others, start=1) if parameter.name in option.after]
    if places:
        declared[:] = [*others[: places[-1]], own, *others[places[-1] :]]


def _guarded(name: str, call: Callable[[], int]) -> int:
    """Run, and turn whatever comes out into an exit status and at most one line."""
    try:
        status = call()
        if sys.stdout is not None:
            sys.stdout.flush()  # a help that nobody reads any more must fail here, not when the interpreter exits
    except UsageError as error:
        if not rank():  # all read the same command line
            complain(name, str(error))
        return error.exit_status
    except CnnkitError as error:
        complain(_speaker(name), str(error))
        return error.exit_status
    except KeyboardInterrupt:
        complain(name, "interrupted")
        return 130
    except BrokenPipeError:
        _silence_stdout()
        return 141
    except typer.Exit as stop:
        return stop.exit_code
    except OSError as error:
        reason = error.strerror or str(error)
        complain(_speaker(name), f"{error.filename}: {reason}" if error.filename else reason)
        return 1
    except Exception as error:
        # typer's usage errors: its own click is private, what they share is this method
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        if not rank():
            complain(name, f"{_plain(format_message().rstrip('.'))}; see {name} --help")
        return 2
    return status


def _speaker(name: str) -> str:
    """Name a process of several, too: an image that only one machine lacks, a GPU's memory that only one has filled."""
    return f"{name} (rank {rank()})" if rank() else name


def _plain(message: str) -> str:
    """Give a usage error of typer's in our words: its values are checked by pydantic, which has a way of its own to begin."""
    message = re.sub(r": (Value error, |Input (?=should))", ": ", message[:1].lower() + message[1:])
    choice = re.search(r": '(.*)' is not one of ('.*')$", message)
    if choice is not None:
        known = re.findall(r"'([^']*)'", choice[2])
        message += messages.proposal(choice[1], known, foreign={})
    return message


def _silence_stdout() -> None:
    """Keep the interpreter from complaining about the broken pipe a second time, when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def manners(name: str, *, quiet: bool) -> Generator[None]:
    """Everything around the body of a command, put back as it was afterwards."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(terminated_like_interrupted())
        if not sys.warnoptions:  # as for every program: warnings are for its developers, who ask for them with -W
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        out = stack.enter_context(stdout_for_data_only())
        # Of several processes the first one speaks
        level = logging.CRITICAL if rank() else logging.WARNING if quiet else logging.INFO
        stack.enter_context(notices(name, level=level))
        activity = Activity(enabled=wanted(quiet=quiet) and not rank())
        out = stack.enter_context(activity.watching(out))
        run = stack.enter_context(running(Invocation(name, out, quiet=quiet, activity=activity)))
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # what was wrong first is what is reported
                out.flush()
            raise
        run.settle()
    if run.skipped:
        complain(name, f"{run.skipped} {'picture was' if run.skipped == 1 else 'pictures were'} skipped")
        raise typer.Exit(3)
