"""What all public functions share: how they raise errors, and how they read a word that is one of several choices."""

import functools
import inspect
import logging
import os
import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from pathlib import PurePath
from typing import Any, ParamSpec, TypeVar

from cnnkit import choices, files, packages
from cnnkit.errors import CnnkitError, UsageError

P = ParamSpec("P")
R = TypeVar("R")
Choice = TypeVar("Choice", bound=StrEnum)

#: Parameters that have another name than their option.
_RENAMED = {"class": "target"}

#: Remedies that only a command line has; those of Python, and the parameter that they need.
_REMEDIES = (
    (re.compile("raise the limit with --max-pixels"), "open it with Pillow and pass that image", None),
    (re.compile("add --folders (classes|splits)"), r'pass find_images(..., folders="\1")', None),
    (re.compile("run the command again when no other"), "find its images again when no other", None),
    (re.compile("give also --size, .*"), "run cnn-predict, which takes both as options", None),
    (re.compile(r"give -o '?(.+\.npy)'?$"), r'give path="\1"', None),
    (re.compile("; to write one, give -o .*"), "", None),
    (
        re.compile("pass a bare state_dict with --weights"),
        "give a bare state_dict as weights, and its network by name",
        "weights",
    ),
    (re.compile("pass a bare state_dict with --weights, or "), "", None),
    (re.compile(", or pipe in the output of cnn-dims"), "", None),
)

#: Values that messages have after an option without quotation marks.
_WORDS = {"cpu", "cuda", "true", "top", "all", *choices.Engine, *choices.Fit, *choices.Pool, *choices.Precision}
_WORDS |= {*choices.Vote, *choices.CamMethod, "name"}

# A command with its options, to the end of the phrase; or an option, with its value if that is recognized
_OPTION = re.compile(
    r"(?P<command>\bcnn-[a-z-]+[^;,.()]*)|(?<![\w-])--(?P<name>[a-z][a-z-]*)"
    r'(?: (?P<text>"[^"]*")| (?P<numbers>(?:\d+|[A-Z])(?:,(?:\d+|[A-Z]))+)\b| (?P<word>[\w+]+(?::\w+)?)(?![\w"]))?'
)

#: Stand for texts of the caller while a message is reworded: characters for private use, which no pattern matches.
_PLACES = range(0xF0000, 0xFFFFE)


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function of the public interface: files that cannot be opened, failures of devices and packages that are
    not installed become a CnnkitError.

    Where an error or a notice names an option of a command line, it gets the name of the parameter instead. If the function returns an
    iterator, that holds for its items, too.
    """

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        call = _Call(function, args, kwargs)
        with _translated(call):
            found = function(*map(call.noting, args), **{name: call.noting(each) for name, each in kwargs.items()})
        return _each(found, call) if isinstance(found, Iterator) else found  # type: ignore[return-value]

    return guarded


class _Call:
    """One call of a public function: its parameters, and the texts that the caller gave."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._function, self._args, self._kwargs = function, args, kwargs
        self._raised: list[Exception] = []

    def parameters(self) -> set[str]:
        """Return the names of the function's parameters, of a method with those of its class."""
        names = {*inspect.signature(self._function).parameters}
        return names | {*inspect.signature(type(self._args[0])).parameters} if "self" in names else names

    def reworded(self, message: str) -> str:
        """Put a message of a command in terms of Python."""
        return in_python(message, self.parameters(), given=_texts([*self._args, *self._kwargs.values()]))

    def noting(self, given: Any) -> Any:  # noqa: ANN401 - any argument
        """Wrap a function or an iterator of the caller, so that what it raises passes unchanged."""
        if isinstance(given, Iterable) and not isinstance(given, Collection | os.PathLike):
            return self.items(given)
        if not callable(given) or isinstance(given, type):
            return given

        def noting(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any function
            with self._noted():
                return given(*args, **kwargs)

        return noting

    def items(self, given: Iterable[Any]) -> Iterator[Any]:
        """Yield the items of the caller's iterable, as `noting`."""
        with self._noted():
            found = iter(given)
        done = object()
        while True:
            with self._noted():
                each = next(found, done)
            if each is done:
                return
            yield each

    @contextmanager
    def _noted(self) -> Generator[None]:
        try:
            yield
        except Exception as error:
            self._raised.append(error)
            raise

    def own(self, error: Exception) -> Exception | None:
        """Return the exception of the caller's function or iterator that an error is, or that it was made from."""
        chain: list[BaseException] = []
        found: BaseException | None = error
        while found is not None and not any(found is each for each in chain):
            chain.append(found)
            found = found.__cause__ or found.__context__
        return next((each for each in self._raised if any(each is link for link in chain)), None)


def _texts(given: object) -> Iterator[str]:
    """Yield the texts in arguments: paths, labels, notations."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, os.PathLike):
        yield os.fsdecode(given)
    elif type(given) in (list, tuple, set, frozenset):  # others may be lazy
        for each in given:  # type: ignore[attr-defined]
            yield from _texts(each)
    elif type(rows := getattr(given, "rows", None)) in (list, tuple):  # features
        yield from _texts(rows)
    else:  # an image, or a row of a table
        yield from (
            text for name in ("path", "label", "filename") if isinstance(text := getattr(given, name, None), str)
        )


def _each(found: Iterator[Any], call: _Call) -> Iterator[Any]:
    done = object()
    while True:
        with _translated(call):
            each = next(found, done)
        if each is done:
            return
        yield each


@contextmanager
def _translated(call: _Call) -> Generator[None]:
    before = _running.set(call)
    try:
        yield
    except Exception as error:
        own = call.own(error)
        if own is error:
            raise
        if own is not None:
            raise own from own.__cause__
        if isinstance(error, CnnkitError):
            error.args = (call.reworded(str(error)),)
            raise
        if isinstance(error, OSError):
            if not files.has_name(error):  # it is not about a file
                raise
            raise CnnkitError(files.message(error)) from error
        from cnnkit.engine import device_errors  # here, because few calls need it

        remedies = {f"--{name}" for name in call.parameters()}
        found = packages.explained(error) or device_errors.explained(error, remedies=remedies)
        if found is None:
            raise
        raise type(found)(call.reworded(str(found))) from error
    finally:
        _running.reset(before)


#: The call of a public function that runs in this thread.
_running: ContextVar[_Call | None] = ContextVar("running", default=None)


def of_caller(items: Iterable[Any]) -> Iterable[Any]:
    """Return an iterable of the caller so that what it raises passes the public function that runs unchanged."""
    call = _running.get()
    return items if call is None or type(items) in (list, tuple) else call.items(items)


def _in_python(record: logging.LogRecord) -> bool:
    """Reword a notice of the library, unless a command runs."""
    call = _running.get()
    if call is not None:
        record.msg, record.args = call.reworded(record.getMessage()), None
    return True


logging.getLogger("cnnkit").addFilter(_in_python)


def in_python(message: str, parameters: Collection[str], *, given: Iterable[str] = ()) -> str:
    """Replace the options in a message by parameters: `--fit crop` by `fit="crop"`.

    Options of a command that it proposes stay, and so do texts that the caller gave, and the path with which a message begins.
    """
    kept = _kept(message, given)
    for place, text in zip(_PLACES, kept, strict=False):
        message = message.replace(text, chr(place))
    for words, instead, needed in _REMEDIES:
        if needed is None or needed in parameters:
            message = words.sub(instead, message)

    def renamed(match: re.Match[str]) -> str:
        option, text, word = match["name"], match["text"], match["word"]
        name = _RENAMED.get(option or "", option or "")
        if name not in parameters:
            return match[0]
        if text is not None:
            return f"{name}={text}"
        if match["numbers"] is not None:
            return f"{name}=({match['numbers'].replace(',', ', ')})"
        if word is None:
            return name
        if word.isdecimal():
            return f"{name}={word}"
        return f'{name}="{word}"' if word.partition(":")[0] in _WORDS else f"{name} {word}"

    message = _OPTION.sub(renamed, message)
    for place, text in zip(_PLACES, kept, strict=False):
        message = message.replace(chr(place), text)
    return message


def _kept(message: str, given: Iterable[str]) -> list[str]:
    """Return what is not reworded in a message, the longest first: texts with a dash that look like options, and file names in them."""
    found = {part for text in given if "-" in text for part in (text, PurePath(text).name, PurePath(text).stem)}
    ends = (place.start() for place in re.finditer(": ", message))
    found |= {message[:end] for end in ends if os.path.lexists(message[:end].replace("\0", ""))}
    dashed = (text for text in found if re.search(r"(^|\s)-|--|cnn-", text) and text in message)
    return sorted(dashed, key=len, reverse=True)


def choice(of: type[Choice], value: str, name: str) -> Choice:
    """Turn a word into the choice of that value.

    Raises:
        UsageError: There is none.
    """
    if value not in list(of):
        raise UsageError(f'{name}="{value}": give one of {", ".join(of)}')
    return of(value)
