"""Manual pages, generated from the parsers that print `--help`. `make man` writes docs/man, which is installed as share/man.

    .venv/bin/python -m cnnkit.cli.man docs/man

A page has no date and no version, so that it changes only when the help of its command changes. Exit statuses and environment variables,
which several commands share, are in tables below.
"""

import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from cnnkit.cli.completion import entries
from cnnkit.cli.help import of_kind, record
from cnnkit.formats import atomic

#: The commands in the order in which a project uses them.
STAGES = {
    "Datasets": ("cnn-check", "cnn-split", "cnn-augment"),
    "Training": ("cnn-dims", "cnn-extract", "cnn-train-head", "cnn-train", "cnn-finetune", "cnn-advise", "cnn-curves"),
    "Prediction": ("cnn-export", "cnn-predict", "cnn-eval", "cnn-report", "cnn-compare", "cnn-calibrate"),
    "Explanation": ("cnn-cam", "cnn-maps", "cnn-filters", "cnn-dream", "cnn-style", "cnn-attack", "cnn-embed"),
}

#: Commands that end with status 4 where a condition on the command line is not met.
GATED = frozenset({"cnn-check", "cnn-compare", "cnn-dims", "cnn-eval", "cnn-report"})

_STATUS = {
    "0": "Success.",
    "1": "Failure; the reason is printed on standard error.",
    "2": "Wrong usage; nothing was written.",
    "3": "Success, but some images could not be read and were skipped. Each is named on standard error, and in the file of --errors.",
    "4": "A condition given on the command line was not met. The output is complete.",
    "130, 143": "Interrupted, or terminated by a signal.",
    "141": "The reader of standard output closed it, as head(1) does. Files given by options are complete.",
}

_VARIABLES = {
    "CNNKIT_CACHE": "Folder for exported backbones and copies of their weights. Default: $XDG_CACHE_HOME/cnnkit, else ~/.cache/cnnkit. "
    "Deleting it costs time, never results.",
    "CNNKIT_OFFLINE": "If set to 1, nothing is downloaded.",
    "TORCH_HOME": "Folder for downloaded weights. Default: ~/.cache/torch.",
    "CUDA_VISIBLE_DEVICES": "The GPUs that may be used, by number.",
    "NO_COLOR": "If set, output on a terminal has no colours.",
    "ORT_DISABLE_TELEMETRY": "If set to 0, ONNX Runtime's telemetry is allowed; it is off by default.",
}
#: Options that make a variable matter.
_MATTERS = {
    "CNNKIT_OFFLINE": {"backbone", "arch", "weights"},
    "TORCH_HOME": {"backbone", "arch", "weights"},
    "CUDA_VISIBLE_DEVICES": {"device"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manual:
    """The parser of one command, and the files that it reads and writes."""

    name: str
    command: Any  # typer's own click is private
    context: Any
    files: str

    @property
    def summary(self) -> str:
        """The first sentence of the help, as `whatis` prints it."""
        first = re.split(r"(?<=\.)\s", self.command.help, maxsplit=1)[0].rstrip(".")
        return first[:1].lower() + first[1:] if first[1:2].islower() else first

    @property
    def text(self) -> str:
        """The text of the help, which is searched for names of other commands."""
        shown = [each for _, parameters in self.command.sections(self.context) for each in parameters]
        return "\n".join(
            [self.command.help, self.command.epilog or "", *(record(each, self.context)[1] for each in shown)]
        )


def pages() -> dict[str, str]:
    """Return the text of every page by its path below share/man, such as man1/cnn-cam.1."""
    manuals = {entry.name: _manual(entry) for entry in entries()}
    mentions = {
        name: {other for other in manuals if other != name and re.search(rf"{other}(?![\w-])", manual.text)}
        for name, manual in manuals.items()
    }
    made = {
        f"man1/{name}.1": _page(
            manual, also=sorted(mentions[name] | {other for other in manuals if name in mentions[other]})
        )
        for name, manual in manuals.items()
    }
    return made | {"man7/cnnkit.7": _overview(manuals)}


def write(folder: Path) -> None:
    """Write all pages into a folder, and remove pages of commands that no longer exist."""
    made = pages()
    for place, text in made.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        with atomic.writing(folder / place) as file:
            file.write(text.encode())
    for path in folder.glob("man?/*"):
        if str(path.relative_to(folder)) not in made:
            path.unlink()


def _manual(entry: EntryPoint) -> _Manual:
    command = entry.load().parser()
    context = command.make_context(entry.name, [], resilient_parsing=True)
    command.name_metavars(context)
    # after its first paragraph, the docstring of a command's module lists the files that the command reads and writes
    files = inspect.cleandoc(sys.modules[entry.module].__doc__ or "").partition("\n\n")[2]
    return _Manual(name=entry.name, command=command, context=context, files=files)


def _page(manual: _Manual, *, also: Iterable[str]) -> str:
    options = of_kind("option", manual.command.get_params(manual.context))
    names = {each.name for each in options}
    examples, notes = _examples(manual.command.epilog or "")
    statuses = [*"012", *("3" * ("errors" in names)), *("4" * (manual.name in GATED)), "130, 143", "141"]
    variables = [
        variable for variable in _VARIABLES if variable not in _MATTERS or not names.isdisjoint(_MATTERS[variable])
    ]
    lines = [
        *_head(manual.name, "1", manual.summary),
        ".SH SYNOPSIS",
        *_synopsis(manual, options),
        ".SH DESCRIPTION",
        *_paragraphs(manual.command.help),
    ]
    for heading, parameters in manual.command.sections(manual.context):
        lines.append(f".SH {heading.upper()}" if heading in ("Arguments", "Options") else f".SS {_prose(heading)}")
        lines += _described(parameters, manual)
    for heading, block in notes:
        lines += [f".SS {_prose(heading)}", *_verbatim(block)]
    lines += [".SH EXAMPLES", *_verbatim(examples)]
    if manual.files:
        lines += [".SH FILES", *_verbatim(manual.files)]
    lines += [".SH ENVIRONMENT", *_table({each: _VARIABLES[each] for each in variables})]
    lines += [".SH EXIT STATUS", *_table({each: _STATUS[each] for each in statuses})]
    lines += [".SH SEE ALSO", *_references([*((each, "1") for each in also), ("cnnkit", "7")])]
    return "\n".join(lines) + "\n"


def _overview(manuals: Mapping[str, _Manual]) -> str:
    lines = [
        *_head("cnnkit", "7", "command-line programs for convolutional networks"),
        ".SH DESCRIPTION",
        *_paragraphs(
            "Programs that take a folder of images to a trained, checked and explained network. Each does one step, reads "
            "files or standard input, and writes files or standard output, so that they work in pipes and Makefiles.\n\n"
            "Standard output is data: tab-separated values with a heading, or with --json one JSON object per line. Errors and "
            "notices are printed on standard error."
        ),
    ]
    for stage, names in STAGES.items():
        lines.append(f".SS {stage}")
        for name in names:
            lines += [".TP", f"\\fB{_literal(name)}\\fR(1)", *_wrapped(_sentence(manuals[name].summary))]
    lines += [".SH FILES"]
    lines += _table(
        {
            "photos/CLASS/image.jpg": "A folder of images: the first folder below photos/ (or below a split) is the class. "
            "Folders called train, val, test or fold0 are splits, with class folders in them.",
            "FILE.tsv, FILE.csv, FILE.jsonl": "A manifest: a table of images with the columns path, label and split.",
            "FILE.npy, FILE.tsv, FILE.json": "Features of images, their manifest, and how they were made.",
            "FILE.pt, FILE.csv": "A trained model, and the history of its training.",
            "FILE.onnx": "An exported model, with its preprocessing and its classes.",
        }
    )
    lines += [".SH ENVIRONMENT", *_table(_VARIABLES)]
    lines += [".SH EXIT STATUS", *_table(_STATUS)]
    lines += [".SH SEE ALSO", *_references([(name, "1") for name in sorted(manuals)])]
    return "\n".join(lines) + "\n"


def _head(name: str, section: str, summary: str) -> list[str]:
    return [
        '.\\" Made from the help of the commands by "make man". Changes here are lost.',
        f'.TH {name.upper()} {section} "" cnnkit cnnkit',
        ".nh",
        ".ad l",
        ".SH NAME",
        f"{_literal(name)} \\- {_prose(summary, bold=False)}",
    ]


def _synopsis(manual: _Manual, options: Iterable[Any]) -> list[str]:
    """Return the usage line, with the required options."""
    required = [manual_flags[-1] for each in options if each.required and (manual_flags := _flags(each, manual))]
    usage = manual.command.collect_usage_pieces(manual.context)
    pieces = ["[\\fIOPTION\\fR]..." if each == "[OPTIONS]" else _value(each) for each in usage]
    return [" ".join([f"\\fB{_literal(manual.name)}\\fR", *required, *pieces])]


def _flags(parameter: Any, manual: _Manual) -> list[str]:  # noqa: ANN401 - typer's own click is private
    """Format each spelling of an option with its value: `-m MODEL`, `--model MODEL`."""
    flags, value = _split(record(parameter, manual.context)[0])
    return [f"\\fB{_literal(flag)}\\fR" + (f" {_value(value)}" if value else "") for flag in flags]


def _split(names: str) -> tuple[list[str], str]:
    """Split the first column of the help into flags and value: `-m, --model MODEL`, `--freeze-bn / --train-bn`."""
    match = re.fullmatch(r"(-[^\s,]+(?:(?:, | / )-[^\s,]+)*)(?: (.*))?", names)
    assert match is not None, names
    return re.split(r", | / ", match[1]), match[2] or ""


def _described(parameters: Iterable[Any], manual: _Manual) -> Iterator[str]:
    for each in parameters:
        names, text = record(each, manual.context)
        yield ".TP"
        if each.param_type_name == "argument":
            yield _guarded(_value(names))
        else:
            flags, value = _split(names)
            shown = (" / " if " / " in names else ", ").join(f"\\fB{_literal(flag)}\\fR" for flag in flags)
            yield f"{shown} {_value(value)}" if value else shown
        yield from _wrapped(text)


def _value(text: str) -> str:
    """Format a metavar: NAME in italics, literal words in bold."""

    def font(match: re.Match[str]) -> str:
        word = match[0]
        return f"\\f{'I' if word.lower() != word else 'B'}{_literal(word)}\\fR"

    return re.sub(r"[^\s|\[\]=,.]+(?:\.\w+)*", font, text)


def _examples(epilog: str) -> tuple[str, list[tuple[str, str]]]:
    """Split the end of the help: the examples, then blocks of a heading and a table."""
    first, *blocks = inspect.cleandoc(epilog).split("\n\n")
    notes = []
    for block in blocks:
        heading, _, table = inspect.cleandoc(block).partition("\n")
        notes.append((heading, textwrap.dedent(table)))
    return first, notes


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        yield from _wrapped(paragraph)


def _table(rows: Mapping[str, str]) -> Iterator[str]:
    for word, text in rows.items():
        yield ".TP"
        yield f"\\fB{_literal(word)}\\fR"
        yield from _wrapped(text)


def _references(names: Iterable[tuple[str, str]]) -> list[str]:
    *others, last = [f".BR {_literal(name)} ({section})" for name, section in names]
    return [*(f"{each} ," for each in others), last]


def _verbatim(text: str) -> list[str]:
    return [".RS 4", ".nf", *(_guarded(_literal(line)) for line in text.splitlines()), ".fi", ".RE"]


def _sentence(summary: str) -> str:
    return f"{summary[:1].upper()}{summary[1:]}."


def _wrapped(text: str) -> Iterator[str]:
    """Break prose into lines; each sentence starts a new line."""
    for sentence in re.split(r"(?<=[.!?:;])\s+(?=[A-Z\"\[(])", " ".join(text.split())):
        for line in textwrap.wrap(_prose(sentence), 78, break_long_words=False, break_on_hyphens=False):
            yield _guarded(line)


def _guarded(line: str) -> str:
    """Escape the first character of a line where roff would read a request."""
    return f"\\&{line}" if line.startswith((".", "'", "\\(aq")) else line


def _prose(text: str, *, bold: bool = True) -> str:
    """Escape prose. Hyphens in compound words may be typeset; options and commands are literal."""
    return " ".join(_word(word, bold=bold) for word in text.split(" "))


def _word(word: str, *, bold: bool) -> str:
    match = re.fullmatch(r"([(\[\"']*)(--?[A-Za-z][\w-]*|cnn-[a-z-]*[a-z])(\W?.*)", word)
    if match is not None:
        before, typed, after = match.groups()
        shown = f"\\fB{_literal(typed)}\\fR" if bold else _literal(typed)
        return f"{_literal(before)}{shown}{_literal(after)}"
    if re.fullmatch(r"[\"(]*[A-Za-z]+(-[A-Za-z]+)+[\").,;:]*", word):  # a compound
        return word.replace('"', "\\(dq")
    return _literal(word, apostrophe="'")


_ESCAPES = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}


def _literal(text: str, *, apostrophe: str = "\\(aq") -> str:
    """Escape literal text, so that it can be copied from the terminal.

    Args:
        text: One line.
        apostrophe: The escape of an apostrophe between letters.
    """
    escaped = []
    for place, character in enumerate(text):
        if character == "'" and text[place - 1 : place].isalpha() and text[place + 1 : place + 2].isalpha():
            escaped.append(apostrophe)
        elif not character.isascii():
            escaped.append(f"\\[u{ord(character):04X}]")
        else:
            escaped.append(_ESCAPES.get(character, character))
    return "".join(escaped)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
