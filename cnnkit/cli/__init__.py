"""The manners of every command, once: words on the command line, output, notices, errors and exit status.

Only `tools/` imports this package, and only this package imports typer or rich. A command is a typed function:

    @cli.command
    def main(
        sources: cli.options.Sources = None,
        *,
        config: ThingConfig,
        errors: cli.options.Errors = None,
        as_json: cli.options.Json = False,
    ) -> None:
        \"\"\"Do one thing to images.

        Examples:
          cnn-thing photos/
        \"\"\"
        config = config.checked()

        from cnnkit.infer import thing

        with cli.callbacks("doing", errors=errors) as callbacks:
            cli.emit(thing.run(cli.images(sources), config, callbacks=callbacks), as_json)

`config` is a dataclass of the library whose fields are options (`cnnkit.option_fields`); words that commands share stand in `cli.options`.

Exit status: 0 done; 1 failed, nothing written unless named; 2 wrong usage; 3 done, but some images were skipped; 4 a gate was not met;
130 interrupted; 141 the reader of our output went away, as the shell reports it for any other program. A command that writes files while
it emits rows calls `cli.finish_files` first: then it goes on to the end, whoever reads.
"""

from cnnkit.cli import options
from cnnkit.cli.command import command, image_command
from cnnkit.cli.input import images, reading, reading_each, stdin, truth
from cnnkit.cli.options import Argument, Option
from cnnkit.cli.output import (
    callbacks,
    emit,
    emit_drawing,
    emit_lines,
    emit_report,
    emit_tables,
    finish_files,
    for_people,
    gate,
    gated,
    notice,
    progress,
    screen_size,
    skipping,
)
from cnnkit.cli.training import conclude, labelled_images, model_first

__all__ = [
    "Argument",
    "Option",
    "callbacks",
    "command",
    "conclude",
    "emit",
    "emit_drawing",
    "emit_lines",
    "emit_report",
    "emit_tables",
    "finish_files",
    "for_people",
    "gate",
    "gated",
    "image_command",
    "images",
    "labelled_images",
    "model_first",
    "notice",
    "options",
    "progress",
    "reading",
    "reading_each",
    "screen_size",
    "skipping",
    "stdin",
    "truth",
]
