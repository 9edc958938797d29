"""Values of options, converted without pydantic: the same as typer's, which gets everything else."""

import os
import subprocess
import sys
from enum import StrEnum
from importlib.metadata import distribution
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


def test_options_that_only_some_commands_repeat_are_known():
    """By all flags of all commands."""
    once, more = set(), set()
    for entry in distribution("cnnkit").entry_points:
        if entry.group == "console_scripts":
            options = [
                each for each in entry.load().parser().params if each.param_type_name == "option" and not each.is_flag
            ]
            more |= {flag for each in options if each.multiple for flag in each.opts}
            once |= {flag for each in options if not each.multiple for flag in each.opts}
    assert once & more == values.ONCE_OR_MORE


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["cnn-report", "p.tsv", "-m", "a.onnx", "--model", "b.onnx", "-o", "r.html"],
            "--model is given as a.onnx and as b.onnx",
        ),
        (
            ["cnn-train-head", "x.npy", "--val=a.npy", "--val", "b.npy", "-o", "h.pt"],
            "--val is given as a.npy and as b.npy",
        ),
        (["cnn-split", "photos", "-oa", "-o", "b", "-o", "b"], "--output is given as a and as b"),
    ],
)
def test_two_values_where_another_command_takes_several_are_refused(run, words, message):
    """The first one is not ignored silently."""
    assert run(*words, status=2).err == f"{words[0]}: {message}; {words[0]} takes one\n"


@pytest.mark.parametrize(
    "words",
    [
        ["cnn-dims", "--input", "9,9,1", "--filters", "2", "--k", "3", "-o"],
        ["cnn-predict", "-m", "none.onnx", "photos", "--errors"],
        ["cnn-train-head", "x.npy", "-o"],
    ],
)
def test_a_new_folder_is_no_name_of_a_file(run, tmp_path, monkeypatch, words):
    """As in other programs, out/ is not the file out."""
    monkeypatch.chdir(tmp_path)
    option = {"cnn-dims": "--output-file", "cnn-train-head": "--output"}.get(words[0], words[-1])
    assert (
        run(*words, "out/", status=2).err == f"{words[0]}: {option} out/: the name of a folder; give that of a file\n"
    )
    assert not (tmp_path / "out").exists()


def test_options_of_one_value_may_be_overridden_as_in_other_programs(run):
    """The last one counts, as an alias with defaults needs it; so does the same value twice."""
    words = ["cnn-dims", "--input", "9,9,1", "--filters", "2", "--k", "5", "--k", "3"]
    assert run(*words).out == run("cnn-dims", "--input", "9,9,1", "--filters", "2", "--k", "3").out
    assert "p.tsv: No such file" in run("cnn-report", "p.tsv", "-o", "r.html", "-o", "r.html", status=1).err
