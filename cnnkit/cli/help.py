"""The format of help, in a pipe and on a terminal."""

import copy
import functools
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import typer.core

#: Metavars in place of typer's names for Python's types; choices stay, without their brackets.
_METAVARS = {
    "<bool>": "",
    "<int>": "N",
    "<int range>": "N",
    "<float>": "X",
    "<float range>": "X",
    "<str>": "TEXT",
    "<path>": "FILE",
}

#: In place of hyphens while lines are broken: typer would break the names of commands and options after them.
_HYPHEN = "\N{NON-BREAKING HYPHEN}"


class Command(typer.core.TyperCommand):
    """typer's command, whose help prints examples verbatim and interprets no markup."""

    def name_metavars(self, ctx: Any) -> None:  # noqa: ANN401 - typer's own click is private
        """Show what stands for a value in the help instead of Python's types."""
        parameter: Any
        for parameter in self.get_params(ctx):
            if hasattr(parameter, "display_type_rich"):  # typer before 0.29 has other words for types
                shown = parameter.display_type_rich(ctx) or ""
                named = (
                    "" if isinstance(parameter, typer.core.TyperArgument) else _METAVARS.get(shown, shown.strip("<>"))
                )
                parameter.display_type_rich = functools.partial(lambda shown, ctx: shown, named)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ANN401 - typer's own click is private
        """Return the words of the usage line as GNU programs have them: MODEL [SOURCE]..., where typer has {MODEL}."""
        return [self.options_metavar or "", *map(_in_usage, of_kind("argument", self.get_params(ctx)))]

    def sections(self, ctx: Any) -> Iterator[tuple[str, list[Any]]]:  # noqa: ANN401 - typer's own click is private
        """Yield the headings of the help with their arguments or options, as rich draws panels."""
        parameters = [each for each in self.get_params(ctx) if not getattr(each, "hidden", False)]
        if arguments := of_kind("argument", parameters):
            yield "Arguments", arguments
        options = of_kind("option", parameters)
        for group in dict.fromkeys(["Options", *map(_group, options)]):
            yield group, [each for each in options if _group(each) == group]

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer's own click is private
        """Write arguments and options under their headings; typer shows groups only on a terminal."""
        for heading, parameters in self.sections(ctx):
            with formatter.section(heading):
                rows = (record(each, ctx) for each in parameters)
                formatter.write_dl([(names, text.replace("-", _HYPHEN)) for names, text in rows])

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer's own click is private
        shown = copy.copy(self)  # typer reads the texts from a command and its parameters
        shown.params = [copy.copy(each) for each in self.params]
        shown._format_help(ctx, formatter)

    def _format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer's own click is private
        examples, self.epilog = textwrap.indent(inspect.cleandoc(self.epilog or ""), "    "), None
        self.name_metavars(ctx)
        parameter: Any  # typer asks for more than it declares
        if self.rich_markup_mode is None:
            self.help = (self.help or "").replace("-", _HYPHEN)
            super().format_help(ctx, formatter)
            formatter.buffer[:] = [piece.replace(_HYPHEN, "-") for piece in formatter.buffer]
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


def record(parameter: Any, ctx: Any) -> tuple[str, str]:  # noqa: ANN401 - typer's own click is private
    """Return the columns of the help: names and value, then the text with one bracket for default and limits."""
    names, text = parameter.get_help_record(ctx)
    return names, text.replace("]  [", "; ").replace("  [", " [")


def of_kind(kind: str, parameters: list[Any]) -> list[Any]:
    """Select the arguments or the options of a command."""
    return [each for each in parameters if each.param_type_name == kind]


def _group(option: Any) -> str:  # noqa: ANN401 - typer's own click is private
    return getattr(option, "rich_help_panel", None) or "Options"


def _in_usage(argument: Any) -> str:  # noqa: ANN401 - typer's own click is private
    name = argument.metavar or argument.name.upper()
    if "[" in name:  # several arguments in one, with marks of their own
        return str(name)
    return (name if argument.required else f"[{name}]") + ("..." if argument.nargs != 1 else "")
