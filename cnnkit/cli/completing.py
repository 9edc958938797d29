"""The command's side of the protocol of `cnnkit.cli.completion`, on typer's machinery. Imported only during a completion."""

import os
import re
import shlex
from collections.abc import Iterable
from typing import Any

from typer._click.shell_completion import (
    CompletionItem,
    ShellComplete,
    _resolve_context,
    _resolve_incomplete,
    add_completion_class,
)

from cnnkit.cli import candidates


def wire(command: Any, shells: Iterable[str]) -> None:  # noqa: ANN401 - typer's own click is private
    """Register the protocol for these shells, and set what completes each parameter."""
    for shell in shells:
        add_completion_class(type(f"{shell.title()}Complete", (_Complete,), {"name": shell}), shell)
    for parameter in command.params:
        complete = candidates.of_parameter(parameter)
        if complete is not None:
            parameter._custom_shell_complete = _called(complete)


def _called(complete: Any) -> Any:  # noqa: ANN401 - as click calls it
    return lambda context, _parameter, incomplete: complete(context, incomplete)


class _Complete(ShellComplete):
    """Prints candidates for one of the shell scripts."""

    source_template = ""

    def source_vars(self) -> dict[str, Any]:
        return {}

    def get_completion_args(self) -> tuple[list[str], str]:
        words, incomplete, _ = split(os.environ.get("COMP_WORDS", ""))
        return words[1:], incomplete

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """List candidates as click does, but parse the line without the option whose value is missing, which would be an error."""
        waiting = bool(args) and any(
            args[-1] in parameter.opts and not getattr(parameter, "is_flag", False) for parameter in self.cli.params
        )
        context = _resolve_context(self.cli, self.ctx_args, self.prog_name, args[:-1] if waiting else args)
        item, incomplete = _resolve_incomplete(context, args, incomplete)
        return item.shell_complete(context, incomplete)

    def format_completion(self, item: CompletionItem) -> str:
        more = item.extensions if item.type in ("file", "dir") else item.help
        return _line(item.type, str(item.value), " ".join((more or "").split()))

    def complete(self) -> str:
        _, incomplete, quote = split(os.environ.get("COMP_WORDS", ""))
        try:
            items = self.get_completions(*self.get_completion_args())
            lines = [self.format_completion(item) for item in items if "\n" not in str(item.value)]
        except Exception:  # the line is incomplete, so any error is possible, and none is worth a message
            lines = []
        return "\n".join([_line("word", incomplete, quote), *lines])


def _line(kind: str, value: str, more: str) -> str:
    return "\x1f".join([kind, value.replace("\x1f", ""), more])


def split(line: str) -> tuple[list[str], str, str]:
    """Split a command line that ends at the cursor.

    Returns:
        The words before the last one, the last one without quotes, and the quote that is still open, or an empty string.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    quote = ""
    try:
        words += lexer
    except ValueError:  # an open quote, or a backslash at the end
        words.append(lexer.token or "")
        state = getattr(lexer, "state", "")  # the open quote; missing in typeshed
        quote = state if state in ("'", '"') else ""
    if not quote and re.search(r"(?<!\\)\s$", line):
        words.append("")
    return words[:-1], words[-1] if words else "", quote
