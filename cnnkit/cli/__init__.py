"""What all commands share: the command line, output, notices, errors and exit statuses.

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

`config` is a dataclass of the library whose fields are options (`cnnkit.option_fields`); options that commands share are in `cli.options`.

Exit statuses: 0 success; 1 failure, nothing written unless the message says so; 2 usage error; 3 success, but some images were skipped; 4
a gate was not met; 130 interrupted; 141 the reader of standard output closed it, as the shell reports for any other program. A command
that writes files while it emits rows calls `cli.finish_files` first, to write its files even if the rows are no longer read. A command
with `cli.options.TableFile` calls `cli.to_file` first, which sends what it emits to that file.
"""

from cnnkit.cli import options
from cnnkit.cli.allocator import keep_freed_memory
from cnnkit.cli.command import command, image_command
from cnnkit.cli.input import images, model_and_arguments, reading, reading_each, stdin, truth, truth_options
from cnnkit.cli.options import Argument, Option
from cnnkit.cli.output import (
    callbacks,
    diverted,
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
from cnnkit.cli.output_file import to_file
from cnnkit.cli.training import conclude, is_first, labelled_images, model_first

__all__ = [
    "Argument",
    "Option",
    "callbacks",
    "command",
    "conclude",
    "diverted",
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
    "is_first",
    "keep_freed_memory",
    "labelled_images",
    "model_and_arguments",
    "model_first",
    "notice",
    "options",
    "progress",
    "reading",
    "reading_each",
    "screen_size",
    "skipping",
    "stdin",
    "to_file",
    "truth",
    "truth_options",
]
