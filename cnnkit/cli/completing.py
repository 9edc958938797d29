"""A shell asks what may come next: the protocol of `cnnkit.cli.completion`, on typer's own machinery. Imported for that alone."""

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
    """Let our classes answer shells, and let each parameter be completed by its kind."""
    for shell in shells:
        add_completion_class(type(f"{shell.title()}Complete", (_Complete,), {"name": shell}), shell)
    for parameter in command.params:
        complete = candidates.of_parameter(parameter)
        if complete is not None:
            parameter._custom_shell_complete = _called(complete)


def _called(complete: Any) -> Any:  # noqa: ANN401 - as click calls it
    return lambda context, _parameter, incomplete: complete(context, incomplete)


class _Complete(ShellComplete):
    """Answers the function of one of our scripts."""

    source_template = ""

    def source_vars(self) -> dict[str, Any]:
        return {}

    def get_completion_args(self) -> tuple[list[str], str]:
        words, incomplete, _ = split(os.environ.get("COMP_WORDS", ""))
        return words[1:], incomplete

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """As click does, but an option that waits for its value does not keep the words before it from being parsed."""
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
        except Exception:  # whatever is wrong with the line, its reader is in the middle of writing it
            lines = []
        return "\n".join([_line("word", incomplete, quote), *lines])


def _line(kind: str, value: str, more: str) -> str:
    return "\x1f".join([kind, value.replace("\x1f", ""), more])


def split(line: str) -> tuple[list[str], str, str]:
    """Take a command line apart, up to the cursor.

    Returns:
        The words before the last one, the last one without its quotes, and the quote that is still open, or nothing.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    quote = ""
    try:
        words += lexer
    except ValueError:  # in quotes, or behind a backslash
        words.append(lexer.token or "")
        state = getattr(lexer, "state", "")  # which quote is open; typeshed does not know it
        quote = state if state in ("'", '"') else ""
    if not quote and re.search(r"(?<!\\)\s$", line):
        words.append("")
    return words[:-1], words[-1] if words else "", quote
