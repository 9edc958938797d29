"""Values of options, converted without pydantic: the same as typer's, which gets everything else."""

import os
import subprocess
import sys
from enum import StrEnum
from inspect import Parameter
from pathlib import Path
from typing import Annotated

import pytest
import typer
import typer.main

from cnnkit import cli
from cnnkit.cli import values


class Colour(StrEnum):
    RED = "red"
    BLUE_GREEN = "blue-green"


def parsed(annotation, words, *, default=None, wired=True):
    """Parse a command line with one option -x; return its value, or the error's text."""
    seen = []

    def main(x):
        seen.append(x)

    declared = Parameter("x", Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    main.__annotations__ = {"x": annotation}
    main.__defaults__ = (default,)
    app = typer.Typer(add_completion=False)
    app.command()(main)
    command = typer.main.get_command(app)
    if wired:
        values.wire(command, [declared])
    try:
        command.main(args=words, prog_name="x", standalone_mode=False)
    except Exception as error:
        return f"{type(error).__name__}: {error.format_message()}"
    return seen


def option(kind, **settings):
    return Annotated[kind, typer.Option("-x", **settings)]


WORDS = {
    option(int): ["0", "7", "-3", "007", "1_000", " 4 ", "3.0", "x", "", "10" * 12, "٣", "+5"],
    option(int | None, min=1, max=9): ["1", "9", "0", "10", "-1", "5.5"],
    option(float): ["0", "1.5", "-2e3", "1e400", "nan", "inf", ".5", "5.", "1_0", "x", "", "1e-5"],
    option(float | None, min=0, max=1): ["0", "1", "1.0", "1.01", "-0.0", "nan"],
    option(str): ["a", "", "é", "-"],
    option(Path): ["a", "", "-", ".", "/no/such", "~", "a//b/"],
    option(Colour): ["red", "blue-green", "RED", "BLUE_GREEN", "", "green"],
    option(list[str]): ["a", ""],
    option(list[int], min=2): ["2", "1", "x"],
    option(list[Path] | None): ["a", "-"],
    option(Path, exists=True): [".", "/no/such"],
    option(Path, dir_okay=False): [".", "a"],
    option(int, min=2, clamp=True): ["1", "3"],
}


@pytest.mark.parametrize("annotation", WORDS, ids=range(len(WORDS)))
def test_words_have_typers_values(annotation):
    """And typer's errors."""
    for word in WORDS[annotation]:
        found, expected = parsed(annotation, ["-x", word]), parsed(annotation, ["-x", word], wired=False)
        assert repr(found) == repr(expected), word


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (option(int), 3),
        (option(float, min=0), 0),
        (option(float), 0.5),
        (option(str | None), None),
        (option(list[str] | None), None),
        (option(Colour), Colour.RED),
        (option(Colour), "red"),
        (option(Path), Path("a")),
        (Annotated[bool, typer.Option("-x/-y")], True),
        (option(int, min=2), 1),
        (option(int), ...),
        (option(list[str]), ...),
    ],
)
def test_defaults_have_typers_values(annotation, default):
    """Also those that typer converts, and the error of a missing one."""
    assert repr(parsed(annotation, [], default=default)) == repr(parsed(annotation, [], default=default, wired=False))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_cannot_be_read_is_typers_error(tmp_path):
    """typer refuses it before the command starts."""
    path = tmp_path / "a"
    path.touch(mode=0)
    assert "not readable" in parsed(option(Path), ["-x", str(path)])


def test_usual_values_need_no_pydantic():
    """No option is left to typer on an ordinary command line."""
    program = (
        "import sys\n"
        "from cnnkit_tools.cnn_predict import main\n"
        "try: main(['-m', 'missing.onnx', 'photos', '--top', '3', '--min-probability', '0.5'])\n"
        "except SystemExit as stop: print(stop.code, *sys.modules)"
    )
    _, *modules = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "typer.core" in modules
    assert not {"pydantic", "torch", "rich"} & set(modules)


def test_functions_of_programs_see_the_same_values():
    """Options of a configuration and shared options, from the command line and by default."""

    @cli.command
    def main(x: Annotated[int, cli.Option("-x")] = 1, *, device: cli.options.Device = "auto") -> None:
        """Do nothing."""
        seen.append((x, device))

    seen = []
    for words in ([], ["-x", "5", "--device", "cpu"]):
        with pytest.raises(SystemExit):
            main(words)
    assert seen == [(1, "auto"), (5, "cpu")]
