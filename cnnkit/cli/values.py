"""Values of options without pydantic, with which typer checks them: importing it takes as long as all the rest of parsing.

Values of the usual forms are converted here. All others, and with them everything that is an error, are left to typer, whose results are
the same.

Options that take several values in one command and one in another are refused there if they have two: see `ONCE_OR_MORE`.
"""

import functools
import os
import re
import types
import typing
from collections.abc import Callable, Iterable
from enum import Enum
from inspect import Parameter
from pathlib import Path
from typing import Any

from cnnkit.errors import UsageError

_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})", re.ASCII)
_FLOAT = re.compile(r"-?\d{1,30}(\.\d{1,30})?([eE][+-]?\d{1,2})?", re.ASCII)

#: Settings of typer's options that change values; with any of them, the value is left to typer.
_CHANGING = ("parser", "click_type", "clamp", "formats", "exists", "writable", "resolve_path", "path_type")


_SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))

#: Flags of options that can be repeated in some commands, and not in others. There, the first value would be ignored silently.
ONCE_OR_MORE = frozenset({"--model", "-m", "--val", "--layer", "--output", "-o"})


class NotConvertedError(Exception):
    """The value is left to typer."""


def wire(command: Any, declared: Iterable[Parameter]) -> None:  # noqa: ANN401 - typer's own click is private
    """Let a command convert the values of its options here first.

    Args:
        command: Made by typer.
        declared: The parameters that it was made from, with annotations `Annotated[type, typer.Option(...)]`.
    """
    annotations = {parameter.name: parameter.annotation for parameter in declared}
    for each in command.params:
        _wire(each, annotations.get(each.name))
        if not (each.multiple or each.nargs == -1 or ONCE_OR_MORE.isdisjoint(each.opts)):
            _refuse_several(each)
    own = command.get_help_option

    @functools.wraps(own)
    def get_help_option(context: Any) -> Any:  # noqa: ANN401 - typer's own click is private
        found = own(context)  # the same at each call
        if found is not None and not isinstance(found.process_value, functools.partial):
            _wire(found, None)
        return found

    command.get_help_option = get_help_option


def _wire(parameter: Any, annotation: Any) -> None:  # noqa: ANN401 - typer's own click is private
    parameter.process_value = functools.partial(_processed, parameter, parameter.process_value, annotation)


def _refuse_several(parameter: Any) -> None:  # noqa: ANN401 - typer's own click is private
    """Let an option of one value be an error if it is given twice, with two values."""
    add_to_parser, process_value = parameter.add_to_parser, parameter.process_value

    def add_collecting(*arguments: Any) -> None:  # noqa: ANN401 - typer's own click is private
        parameter.multiple = True  # the parser then makes a list, in which the first value is not lost
        try:
            add_to_parser(*arguments)
        finally:
            parameter.multiple = False

    def process_last(context: Any, value: Any) -> Any:  # noqa: ANN401 - typer's own click is private
        given = value if isinstance(value, list) else [value]
        words = [*dict.fromkeys(given)]
        if len(words) > 1 and not context.resilient_parsing:
            flag = max(parameter.opts, key=len)
            raise UsageError(f"{flag} is given as {words[0]} and as {words[1]}; {context.info_name} takes one")
        return process_value(context, given[-1])

    parameter.add_to_parser, parameter.process_value = add_collecting, process_last


def _processed(
    parameter: Any,  # noqa: ANN401 - typer's own click is private
    process_value: Callable[[Any, Any], Any],
    annotation: Any,  # noqa: ANN401 - any annotation
    context: Any,  # noqa: ANN401 - typer's own click is private
    value: Any,  # noqa: ANN401 - any value
) -> Any:  # noqa: ANN401 - any value
    """Do what typer's `process_value` does."""
    several = parameter.multiple or parameter.nargs == -1
    if not context.resilient_parsing:  # else a line is being completed
        _refuse_folder(parameter, value)
    try:
        found = (() if several else None) if value is None else converted(value, annotation)
    except NotConvertedError:
        return process_value(context, value)
    if parameter.required and (found is None or (several and not found)):
        return process_value(context, value)  # raises an error
    return found if parameter.callback is None else parameter.callback(context, parameter, found)


def _refuse_folder(parameter: Any, value: Any) -> None:  # noqa: ANN401 - typer's own click is private, any value
    """Refuse the name of a folder that does not exist, `new/`, for a file: a Path has no separator at its end."""
    for each in value if isinstance(value, list | tuple) else [value]:
        if (
            isinstance(each, str)
            and each.endswith(_SEPARATORS)
            and (parameter.metavar or "").startswith("FILE")
            and not os.path.isdir(each)
        ):
            raise UsageError(f"{max(parameter.opts, key=len)} {each}: the name of a folder; give that of a file")


def converted(value: Any, annotation: Any) -> Any:  # noqa: ANN401 - any value and annotation
    """Convert a word of the command line, or a default.

    Raises:
        NotConvertedError: The value may be wrong, or has an unusual form or type.
    """
    if not hasattr(annotation, "__metadata__"):  # one of typer's own options
        if isinstance(value, bool):
            return value
        raise NotConvertedError
    kind, settings = annotation.__origin__, annotation.__metadata__[0]
    if any(getattr(settings, name, None) for name in _CHANGING) or not (settings.file_okay and settings.dir_okay):
        raise NotConvertedError
    if isinstance(kind, types.UnionType):
        kinds = [each for each in typing.get_args(kind) if each is not type(None)]
        if len(kinds) != 1:
            raise NotConvertedError
        (kind,) = kinds
    if typing.get_origin(kind) is not list:
        return _item(value, kind, settings)
    if not isinstance(value, list | tuple):
        raise NotConvertedError
    (inner,) = typing.get_args(kind)
    return [_item(each, inner, settings) for each in value]


def _item(value: Any, kind: Any, settings: Any) -> Any:  # noqa: ANN401 - any value and type
    if not isinstance(kind, type):
        raise NotConvertedError
    if kind in (bool, str) or issubclass(kind, Enum | Path):
        if isinstance(value, kind):
            return value
        if isinstance(value, str) and issubclass(kind, Enum) and value in (by_value := _members(kind)):
            return by_value[value]
        if isinstance(value, str) and kind is Path and _is_usable(value, settings):
            return Path(value)
    elif kind in (int, float):
        return _number(value, kind, settings)
    raise NotConvertedError


def _members(kind: Any) -> dict[Any, Any]:  # noqa: ANN401 - an Enum
    return {member.value: member for member in kind}


def _is_usable(path: str, settings: Any) -> bool:  # noqa: ANN401 - typer's option
    """Check that typer would not refuse a path: it refuses one that exists and cannot be read."""
    try:
        os.stat(path)
    except OSError:
        return True
    except ValueError:
        return False
    return not settings.readable or os.access(path, os.R_OK)


def _number(value: Any, kind: type[int] | type[float], settings: Any) -> int | float:  # noqa: ANN401 - any value
    if isinstance(value, str):
        if not (_INTEGER if kind is int else _FLOAT).fullmatch(value):
            raise NotConvertedError
    elif isinstance(value, bool) or not isinstance(value, int | kind):
        raise NotConvertedError
    number = kind(value)
    if settings.min is not None and not number >= settings.min:
        raise NotConvertedError
    if settings.max is not None and not number <= settings.max:
        raise NotConvertedError
    return number
