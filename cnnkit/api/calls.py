"""What all public functions share: how they raise errors, and how they read a word that is one of several choices."""

import functools
import inspect
import logging
import re
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, ParamSpec, TypeVar

from cnnkit import choices, files
from cnnkit.errors import CnnkitError, UsageError

P = ParamSpec("P")
R = TypeVar("R")
Choice = TypeVar("Choice", bound=StrEnum)

#: Parameters that have another name than their option.
_RENAMED = {"class": "target"}

#: Remedies that only a command line has.
_REMEDIES = (
    (re.compile("raise the limit with --max-pixels"), "open it with Pillow and pass that image"),
    (re.compile("add --folders (classes|splits)"), r'pass find_images(..., folders="\1")'),
    (re.compile("give also --size, .*"), "run cnn-predict, which takes both as options"),
)

#: Values that messages have after an option without quotation marks.
_WORDS = {"cpu", "cuda", "true", "top", "all", *choices.Engine, *choices.Fit, *choices.Pool, *choices.Precision}
_WORDS |= {*choices.Vote, *choices.CamMethod, "name"}

# A command with its options, to the end of the phrase; or an option, with its value if that is recognised
_OPTION = re.compile(
    r'(?P<command>\bcnn-[a-z-]+[^;,.()]*)|--(?P<name>[a-z][a-z-]*)(?: (?P<text>"[^"]*")| (?P<word>[\w+]+(?::\w+)?)(?![\w"]))?'
)


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function of the public interface: files that cannot be opened and failures of devices become a CnnkitError.

    Where an error or a notice names an option of a command line, it gets the name of the parameter instead. If the function returns an
    iterator, that holds for its items, too.
    """

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        with _translated(function, args):
            found = function(*args, **kwargs)
        return _each(found, function, args) if isinstance(found, Iterator) else found  # type: ignore[return-value]

    return guarded


def _each(found: Iterator[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> Iterator[Any]:
    done = object()
    while True:
        with _translated(function, args):
            each = next(found, done)
        if each is done:
            return
        yield each


@contextmanager
def _translated(function: Callable[..., Any], args: tuple[Any, ...]) -> Generator[None]:
    names = functools.partial(_parameters, function, args)
    before = _running.set(names)
    try:
        yield
    except CnnkitError as error:
        error.args = (in_python(str(error), names()),)
        raise
    except OSError as error:
        if not files.has_name(error):  # it is not about a file
            raise
        raise CnnkitError(files.message(error)) from error
    except Exception as error:
        from cnnkit.engine import device_errors  # here, because few calls need it

        found = device_errors.explained(error, remedies={f"--{name}" for name in names()})
        if found is None:
            raise
        raise type(found)(in_python(str(found), names())) from error
    finally:
        _running.reset(before)


def _parameters(function: Callable[..., Any], args: tuple[Any, ...]) -> set[str]:
    """Return the names of a function's parameters, of a method with those of its class."""
    names = {*inspect.signature(function).parameters}
    return names | {*inspect.signature(type(args[0])).parameters} if "self" in names else names


#: Lists the parameters of the public function that runs in this thread.
_running: ContextVar[Callable[[], set[str]] | None] = ContextVar("running", default=None)


def _in_python(record: logging.LogRecord) -> bool:
    """Reword a notice of the library, unless a command runs."""
    names = _running.get()
    if names is not None:
        record.msg, record.args = in_python(record.getMessage(), names()), None
    return True


logging.getLogger("cnnkit").addFilter(_in_python)


def in_python(message: str, parameters: Collection[str]) -> str:
    """Replace the options in a message by parameters: `--fit crop` by `fit="crop"`. Options of a command that it proposes stay."""
    for words, instead in _REMEDIES:
        message = words.sub(instead, message)

    def renamed(match: re.Match[str]) -> str:
        option, text, word = match["name"], match["text"], match["word"]
        name = _RENAMED.get(option or "", option or "")
        if name not in parameters:
            return match[0]
        if text is not None:
            return f"{name}={text}"
        if word is None:
            return name
        if word.isdecimal():
            return f"{name}={word}"
        return f'{name}="{word}"' if word.partition(":")[0] in _WORDS else f"{name} {word}"

    return _OPTION.sub(renamed, message)


def choice(of: type[Choice], value: str, name: str) -> Choice:
    """Turn a word into the choice of that value.

    Raises:
        UsageError: There is none.
    """
    if value not in list(of):
        raise UsageError(f'{name}="{value}": give one of {", ".join(of)}')
    return of(value)
