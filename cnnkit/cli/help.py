"""The format of help, in a pipe and on a terminal."""

import functools
import inspect
import textwrap
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

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer's own click is private
        examples, self.epilog = textwrap.indent(inspect.cleandoc(self.epilog or ""), "    "), None
        self.name_metavars(ctx)
        parameter: Any  # typer asks for more than it declares
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
