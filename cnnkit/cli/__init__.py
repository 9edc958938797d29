"""The manners of every command, once: words on the command line, output, notices, errors and exit status.

Only `tools/` imports this package, and only this package imports typer or rich. A command is a typed function:

    @cli.command
    def main(sources: cli.options.Sources = None, device: cli.options.Device = "auto", as_json: cli.options.Json = False) -> None:
        \"\"\"Do one thing to images.

        Examples:
          cnn-thing photos/
        \"\"\"
        from cnnkit.infer import thing

        cli.emit(thing.run(cli.pictures(sources), device=device), as_json)

Exit status: 0 done; 1 failed, nothing written unless named; 2 wrong usage; 3 done, but some images were skipped; 4 a gate was not met;
130 interrupted; 141 the reader of our output went away, as the shell reports it for any other program.
"""

from cnnkit.cli import options
from cnnkit.cli.command import command
from cnnkit.cli.input import images, reading, reading_each, truth
from cnnkit.cli.options import (
    Argument,
    Batch,
    Device,
    Errors,
    Jobs,
    Json,
    Null,
    Option,
    Output,
    Seed,
    Sources,
    Split,
    TruthSource,
)
from cnnkit.cli.output import (
    callbacks,
    emit,
    emit_drawing,
    emit_lines,
    emit_report,
    emit_tables,
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
    "Batch",
    "Device",
    "Errors",
    "Jobs",
    "Json",
    "Null",
    "Option",
    "Output",
    "Seed",
    "Sources",
    "Split",
    "TruthSource",
    "callbacks",
    "command",
    "conclude",
    "emit",
    "emit_drawing",
    "emit_lines",
    "emit_report",
    "emit_tables",
    "for_people",
    "gate",
    "gated",
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
    "truth",
]
