"""`-o FILE` of commands that print a table: the file gets its name only when it is complete, in the format of its extension."""

import contextlib
import io
import os
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import TextIO

from cnnkit import files, messages
from cnnkit.cli.invocation import TableFormat, current
from cnnkit.errors import UsageError

_JSON, _CSV, _TSV = (".jsonl", ".ndjson", ".json"), (".csv",), (".tsv", ".tab")
#: What such a name means in this project; a table under it would be taken for that.
_OTHERS = {
    **dict.fromkeys((".onnx", ".pt", ".pth"), "a model"),
    **dict.fromkeys((".npy", ".npz"), "features"),
    **dict.fromkeys((".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp"), "an image"),
    **dict.fromkeys((".htm", ".html", ".md"), "a document"),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".tar"), "an archive"),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), "a spreadsheet"),
    **dict.fromkeys((".parquet", ".feather", ".arrow"), "a binary table"),
}


def to_file(
    output: Path | None,
    as_json: bool = False,
    *,
    inputs: Iterable[str | Path | None] = (),
    outputs: Mapping[str, Path | None] | None = None,
    lines: str | None = None,
) -> bool:
    """Send everything that the command emits to a file instead of standard output.

    The file is written under a temporary name. It gets its own at the end, also if images were skipped or a gate was not met. After an
    error or an interruption, an existing file is unchanged. A file that already has the same bytes keeps its time of modification.

    Args:
        output: The file; None, - and /dev/stdout for standard output.
        as_json: Whether --json is given.
        inputs: What the command reads, none of which may be the file; that of --files0-from is known.
        outputs: What else it writes, by option.
        lines: The option with which lines of text are emitted instead of records.

    Returns:
        Whether to emit JSON: --json is given, or the extension is one of JSON.

    Raises:
        UsageError: The name is that of something other than a table, contradicts --json, or is that of an input or another output.
        CnnkitError: The folder of the file does not exist or is not writable, or another run is writing the file.
    """
    if output is None or str(output) == "-" or files.is_standard_output(output):
        return as_json
    format = _format(output, as_json=as_json, lines=lines)
    if output.is_dir():
        raise UsageError(f"-o {output}: a folder; give the name of a file, such as -o {output / 'table.tsv'}")
    listing = current().listing
    for each in (*inputs, None if listing is None else listing.name):
        if each is not None and _same(output, each):
            raise UsageError(f"-o {output}: also an input, which would be replaced; give another name")
    for option, other in (outputs or {}).items():
        if other is not None and os.path.realpath(output) == os.path.realpath(other):
            raise UsageError(f"-o {output}: also the file of {option}; give another name")
    from cnnkit.formats import atomic

    atomic.check_folder(output)
    current().divert(_complete(output), format)
    return format is TableFormat.JSON


def _format(output: Path, *, as_json: bool, lines: str | None) -> TableFormat:
    """Return the format of a file's extension."""
    ending = output.suffix.lower()
    if ending in _OTHERS:
        raise UsageError(
            f"-o {output}: a name for {_OTHERS[ending]}; a table is written to .tsv, .csv, .jsonl or .json"
        )
    if lines is not None and ending in (*_JSON, *_CSV):
        raise UsageError(
            f"{lines} writes lines of text, not {ending}; give -o {messages.output_name(output, '.txt')}, or drop {lines}"
        )
    if as_json and ending in (*_CSV, *_TSV):
        raise UsageError(
            f"--json contradicts -o {output}; give -o {messages.output_name(output, '.jsonl')}, or drop --json"
        )
    if as_json or ending in _JSON:
        return TableFormat.JSON
    return TableFormat.CSV if ending in _CSV else TableFormat.TSV


def _same(output: Path, other: str | Path) -> bool:
    try:
        return output.is_file() and os.path.samefile(output, other)
    except OSError:
        return False


@contextlib.contextmanager
def _complete(output: Path) -> Generator[TextIO]:
    """Open a file that gets its name when the context ends without an error."""
    from cnnkit.formats import atomic

    with atomic.claimed(output), atomic.writing(output) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="\n")
        try:
            yield text
            text.flush()
        finally:
            with contextlib.suppress(OSError):  # the first error is reported
                text.detach()
