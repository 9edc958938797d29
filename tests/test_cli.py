"""What `@cli.command` gives to every program, on throw-away commands."""

import contextlib
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import pytest
from rich.cells import cell_len

from cnnkit.cli import activity, output, table

HEAD = """
import os, signal, sys, time, warnings
from pathlib import Path
from typing import Annotated
from cnnkit import choices, cli, errors
from cnnkit.formats import atomic
"""

DOCSTRING = '''
    """Do one thing to images.

    A second paragraph, of [bold]brackets[/bold] that
    are no markup.

    Examples:
      cnn-throwaway photos/ | awk '$1 == "a[1]"'
      cnn-throwaway one.jpg
    """
'''


class Program:
    """A command made for one test."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "cnn_throwaway.py"

    def write(self, body, *, words="as_json: cli.options.Json = False"):
        self.path.write_text(
            f"{HEAD}\n@cli.command\ndef main({words}) -> None:{DOCSTRING}"
            f"{textwrap.indent(textwrap.dedent(body), '    ')}\n\nif __name__ == '__main__':\n    main()\n"
        )
        return self

    def start(self, *words, python=(), **streams):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
        return subprocess.Popen([sys.executable, *python, self.path, *words], cwd=self.folder, text=True, **pipes)

    def run(self, *words, status=0, **options):
        process = self.start(*words, **options)
        out, err = process.communicate(timeout=60)
        assert process.returncode == status, err
        return out, err


@pytest.fixture
def program(tmp_path):
    return Program(tmp_path)


# ---------------------------------------------------------------- stdout


def test_stdout_has_only_data(program):
    """Whatever a library prints, from Python, from C or from a child process, goes to stderr."""
    program.write(
        """
        print("printed")
        sys.stdout.write("written\\n")
        os.write(1, b"from below\\n")
        import subprocess; subprocess.run(["echo", "from a child"])
        cli.emit([{"a": 1}], as_json)
        print("printed after")
        """
    )
    out, err = program.run()
    assert out == "a\n1\n"
    assert sorted(err.splitlines()) == sorted(["printed", "written", "from below", "from a child", "printed after"])


def test_records_become_tsv_with_a_header_row(program):
    """None is empty, floats have six digits, tabs are escaped, lists are JSON."""
    program.write('cli.emit([{"path": "a\\tb", "p": 1 / 3, "n": None, "ok": True, "shape": [1, 2], "i": 7}], as_json)')
    assert program.run()[0] == "path\tp\tn\tok\tshape\ti\na\\tb\t0.333333\t\ttrue\t[1, 2]\t7\n"


def test_records_become_json_lines(program):
    """With `--json` every line parses, and numbers keep all their digits."""
    program.write('cli.emit([{"path": "ü", "p": 1 / 3, "n": None}, {"path": "b", "p": 0.5, "n": 1}], as_json)')
    lines = program.run("--json")[0].splitlines()
    assert [json.loads(line) for line in lines] == [
        {"path": "ü", "p": 1 / 3, "n": None},
        {"path": "b", "p": 0.5, "n": 1},
    ]


def test_header_row_without_records(program):
    """Known columns are printed even if there are no records."""
    program.write('cli.emit([], as_json, columns=["path", "label"])')
    assert program.run()[0] == "path\tlabel\n"
    assert program.run("--json")[0] == ""


def test_file_names_that_are_not_utf8(program):
    """Are written unchanged."""
    program.write('cli.emit([{"path": os.fsdecode(b"\\xff.jpg")}], as_json)')
    process = subprocess.run([sys.executable, program.path], capture_output=True, check=True)
    assert process.stdout == b"path\n\xff.jpg\n"


def test_records_are_written_one_by_one(program):
    """The first record can be read while the command is working on the second."""
    program.write(
        """
        def records():
            yield {"a": 1}
            sys.stdin.readline()
            yield {"a": 2}
        cli.emit(records(), as_json)
        """
    )
    process = program.start(stdin=subprocess.PIPE)
    assert [process.stdout.readline(), process.stdout.readline()] == ["a\n", "1\n"]
    out, err = process.communicate("go on\n", timeout=60)
    assert (out, err, process.returncode) == ("2\n", "", 0)


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_closed_pipe_ends_the_command(program, words):
    """`| head -n 1` ends an endless command, without a message, like any other program."""
    program.write('from itertools import count; cli.emit(({"a": i} for i in count()), as_json)')
    line = f"{sys.executable} {program.path} {' '.join(words)} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize(("words", "status"), [([], 128 + signal.SIGPIPE), (["--help"], 141), (["--version"], 141)])
def test_pipe_closed_before_the_start(program, words, status):
    """Ends the command in the same way, for records and for help."""
    program.write('cli.emit([{"a": 1}], as_json)')
    reading, writing = os.pipe()
    os.close(reading)
    _, err = program.run(*words, stdout=writing, status=status)
    os.close(writing)
    assert err == ""


@pytest.mark.parametrize("device", ["pipe", "/dev/full"])
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_files_are_finished_without_a_reader(program, words, device):
    """A closed pipe or a full disk is reported at the end, after files are complete."""
    program.write(
        """
        cli.finish_files()
        def rows():
            with open("done", "w") as file:
                for number in range(5):
                    file.write(str(number))
                    yield {"a": number}
        cli.emit(rows(), as_json)
        with open("after", "w") as file:
            file.write("yes")
        """
    )
    reading, writing = os.pipe()
    os.close(reading)
    with open(device, "w") if device != "pipe" else os.fdopen(writing, "w") as out:
        _, err = program.run(*words, stdout=out, status=1 if device != "pipe" else 128 + signal.SIGPIPE)
    assert err == "" if device == "pipe" else err.endswith("No space left on device\n")
    assert (program.folder / "done").read_text() == "01234"
    assert (program.folder / "after").read_text() == "yes"


@pytest.mark.parametrize("words", ["--help", "--version", ""])
def test_full_disk_is_one_line(program, words):
    """With exit status 1."""
    program.write('cli.emit([{"a": 1}], as_json)')
    line = f"{sys.executable} {program.path} {words} > /dev/full"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "cnn-throwaway: standard output: No space left on device\n"


STREAMS = {0: "<&-", 1: ">&-", 2: "2>&-"}


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]])
def test_closed_streams_are_like_dev_null(program, closed):
    """The command works, open streams get their output, and no opened file gets the number of a standard stream."""
    program.write(
        """
        read = sys.stdin.read()
        with open("result", "w") as file:
            print(file.fileno() > 2, [os.fstat(n).st_mode > 0 for n in range(3)], repr(read), file=file)
        os.write(2, b"from below\\n")
        cli.notice("a notice")
        cli.emit([{"a": 1}], as_json)
        """
    )
    line = f"echo in | {sys.executable} {program.path} {' '.join(STREAMS[number] for number in closed)}"
    done = subprocess.run(["bash", "-c", line], cwd=program.folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if 1 in closed else "a\n1\n")
    assert done.stderr == ("" if 2 in closed else "from below\ncnn-throwaway: a notice\n")
    read = "" if 0 in closed else "in\n"
    assert (program.folder / "result").read_text() == f"True [True, True, True] {read!r}\n"


@pytest.mark.parametrize("unwritable", ["2>/dev/full", "2>&1 >&3 3>&- | true", "2>&-"])
def test_unwritable_stderr_does_not_end_the_run(program, unwritable):
    """Exit status and data are the same; notices, skipped images, warnings and prints are lost."""
    program.write(
        """
        time.sleep(0.2)  # the reader of stderr has ended by now
        cli.notice("a notice")
        print("printed")
        sys.stderr.write("x" * 100_000)
        with cli.skipping() as skip:
            skip("a.jpg", "empty file")
        with cli.progress("working") as progress:
            progress(1, 2)
        warnings.warn("a warning")
        cli.emit([{"a": 1}], as_json)
        raise errors.GateError("below")
        """
    )
    line = f"exec 3>&1; {sys.executable} -W default {program.path} {unwritable}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (4, "a\n1\n")


def test_non_blocking_pipe(program):
    """If another program made the pipe non-blocking, as node does, all data is still written."""
    program.write('cli.emit([{"a": "b" * 100} for _ in range(5000)])')
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = program.start(stdout=writing)
    os.close(writing)
    with open(reading) as pipe:
        assert len(pipe.read()) == 2 + 5000 * 101
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\r\x08\x9b5m\u202etxt\x7f[red]x[/red]"


SHOWN = """
cli.notice(NAME)
cli.emit([{'path': NAME, 'n': 1}] * 2)
cli.emit([{NAME: NAME}] * 2)
cli.emit([{'path': NAME * 9}])
cli.emit([{'path': NAME, 'all': [NAME, {NAME: 1}]}], as_json=True)
cli.emit_tables({NAME: [{'path': NAME}]})
cli.emit_lines([NAME])
cli.emit_drawing([[(NAME, 'bold')]])
with cli.progress(NAME) as progress:
    progress(1, 2)
    time.sleep(0.2)
with cli.skipping() as skip:
    skip(NAME, NAME)
"""


@pytest.mark.parametrize(
    "body", [SHOWN, "raise errors.CnnkitError(NAME)", "raise FileNotFoundError(2, 'No such file', NAME)"]
)
def test_control_characters_are_escaped_on_a_terminal(program, terminal, body):
    """In file names and labels: titles, colours, bells, carriage returns, reordered text, markup."""
    program.write(f"NAME = {HOSTILE!r}\n{body}")
    drawn = terminal(sys.executable, program.path, env={"NO_COLOR": "1"}).out
    assert "Traceback" not in drawn
    assert drawn.count("owned") >= (20 if body is SHOWN else 1)
    for sequence in ("\x1b]", "\x1b[2J", "\x1b[31mred", "red\r", "\x08", "\x07", "\x9b", "\u202e", "\x7f"):
        assert sequence not in drawn, (sequence, drawn)
    assert drawn.count("[/red]") >= (10 if body is SHOWN else 1)


def test_control_characters_of_options_are_escaped(program, terminal):
    """An unknown option is repeated in the message, without the characters that would clear the screen."""
    drawn = terminal(sys.executable, program.write("pass").path, f"--{HOSTILE}").out
    assert "]0;owned" in drawn
    assert "\x1b" not in drawn


def test_names_are_unchanged_in_a_pipe(program):
    """Except for the characters that separate fields and lines."""
    program.write(f"cli.emit([{{'path': {HOSTILE!r}}}], as_json)")
    process = subprocess.run([sys.executable, program.path], capture_output=True, check=True)
    assert process.stdout.decode() == f"path\n{HOSTILE.replace(chr(13), chr(92) + 'r')}\n"
    process = subprocess.run([sys.executable, program.path, "--json"], capture_output=True, check=True)
    assert json.loads(process.stdout) == {"path": HOSTILE}


def test_table_on_a_terminal(program, terminal):
    """Columns are aligned under their names, numbers have thousands separators, and brackets are not markup."""
    program.write('cli.emit([{"path": "[red]a.jpg", "macs": 1234567}, {"path": "b.jpg", "macs": 5}], as_json)')
    lines = strip(terminal(sys.executable, program.path).out).splitlines()
    (header,) = [line for line in lines if "macs" in line]
    (row,) = [line for line in lines if "[red]a.jpg" in line]
    assert row.index("1,234,567") + len("1,234,567") == header.index("macs") + len("macs")


def test_record_wider_than_the_terminal_is_a_list(program, terminal):
    """One line per field, so that a command in it can be copied; several records stay a table."""
    command = "cnn-finetune " + "a/long/path/ " * 12 + "-o model.pt"
    program.write(f'cli.emit([{{"images": 4000, "case": "small", "command": "{command}"}}], as_json)')
    lines = strip(terminal(sys.executable, program.path).out).splitlines()
    assert lines == ["images   4,000", "case     small", f"command  {command}"]
    program.write('cli.emit([{"a": "b" * 300}] * 2, as_json)')
    assert strip(terminal(sys.executable, program.path).out).splitlines()[0].strip() == "a"
    # When the first of several slow records is drawn, the others are not known yet
    program.write('cli.emit((time.sleep(0.6) or {"a": "b" * 300} for _ in range(2)), as_json)')
    assert [line.strip() for line in strip(terminal(sys.executable, program.path).out).splitlines()].count("a") == 1


@pytest.mark.parametrize("columns", [60, 80])
def test_table_on_a_narrow_terminal(columns, monkeypatch):
    """No line is too long, paths lose their beginning, words are not broken, and later rows have the same columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(table, "_PIECE", -1)
    detail = "8 of 256 bits differ, in test and train"
    rows = [
        {
            "level": "warning",
            "path": f"/a/long/way/to/photos/dogs-vs-cats/cat/cat.{n}.jpg",
            "other": "日本語の長い名前/写真一.jpg",
            "detail": detail,
        }
        for n in range(3)
    ]
    out = io.StringIO()
    table.draw(iter(rows), out, None)
    lines = out.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= columns
    shown = out.getvalue()
    assert all(re.search(rf"…\S*/cat\.{n}\.jpg", shown) for n in range(3))
    assert set(shown.split()) >= set(detail.split())
    assert len({line.index("warning") for line in lines if "warning" in line}) == 1
    assert len({line.index("…") for line in lines if ".jpg" in line}) == 1


def test_long_headers_are_broken_on_a_narrow_terminal(monkeypatch):
    """The table of cnn-dims fits 80 columns; wider terminals show whole words."""
    row = {
        "layer": "total",
        "kind": "total",
        "output": "32x32x16",
        "params": 123456,
        "macs": 442528,
        "receptive_field": 32,
        "stride": 2,
        "activation_bytes": 147560,
        "dropped": 0,
        "image": 32,
        "kernel": "3",
        "pad": "0+1",
    }
    shown = {}
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        out = io.StringIO()
        table.draw(iter([row, row]), out, None)
        assert max(map(cell_len, out.getvalue().splitlines())) <= columns
        shown[columns] = out.getvalue().split()
    assert {"recep-", "tive", "activ-", "ation", "dropped"} <= set(shown[80])
    assert {"receptive", "activation"} <= set(shown[120])


def test_report_formats(program, terminal):
    """Titled tables on a terminal, flat rows in a pipe, one object with `--json`."""
    program.write(
        'cli.emit_report({"all": 1}, as_json, rows=[{"flat": 2}], tables={"First": [{"drawn": 3}], "Second": [{"drawn": 4}]})'
    )
    assert program.run()[0] == "flat\n2\n"
    assert program.run("--json")[0] == '{"all": 1}\n'
    drawn = terminal(sys.executable, program.path).out
    assert drawn.index("First") < drawn.index("3") < drawn.index("Second") < drawn.index("4")


# ---------------------------------------------------------------- stderr and exit status


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        ('errors.CnnkitError("a.jpg is broken;\\nremove it")', 1, "a.jpg is broken; remove it"),
        ('errors.UsageError("--a and --b exclude each other")', 2, "--a and --b exclude each other"),
        ('errors.GateError("accuracy 0.5 is below 0.9")', 4, "accuracy 0.5 is below 0.9"),
        ('FileNotFoundError(2, "No such file or directory", "a.jpg")', 1, "a.jpg: No such file or directory"),
        ('OSError(28, "No space left on device")', 1, "No space left on device"),
        ("OSError(None, None)", 1, "input or output failed"),
        ('OSError(9, "Bad file descriptor", 7)', 1, "Bad file descriptor"),
        ("KeyboardInterrupt", 130, "interrupted"),
    ],
)
def test_expected_errors_are_one_line(program, raised, status, line):
    """The name of the command, what, where, remedy; no traceback, nothing on stdout."""
    assert program.write(f"raise {raised}").run(status=status) == ("", f"cnn-throwaway: {line}\n")


@pytest.mark.parametrize(
    ("rank", "error", "status", "message"),
    [
        ("0", "errors.UsageError('no')", 2, "cnn-throwaway: no\n"),
        ("1", "errors.UsageError('no')", 2, ""),
        ("0", "errors.CnnkitError('no')", 1, "cnn-throwaway: no\n"),
        ("1", "errors.CnnkitError('no')", 1, "cnn-throwaway (rank 1): no\n"),
        ("1", "FileNotFoundError(2, 'No such file', 'a.jpg')", 1, "cnn-throwaway (rank 1): a.jpg: No such file\n"),
    ],
)
def test_errors_of_several_processes(program, rank, error, status, message):
    """A usage error, which all have, is printed once; an error of one process names its rank."""
    program.write(f"raise {error}")
    env = {**os.environ, "RANK": rank, "WORLD_SIZE": "2"}
    assert program.run(status=status, env=env) == ("", message)


@pytest.mark.parametrize("env", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": ""}, {"RANK": "x", "WORLD_SIZE": "4"}])
def test_incomplete_torchrun_env(program, env):
    """Batch systems also set such variables; an error is still one line."""
    program.write("raise errors.UsageError('no')")
    assert program.run(status=2, env={**os.environ, **env}) == ("", "cnn-throwaway: no\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--fit", "corp"],
            "invalid value for '--fit': 'corp' is not one of 'crop', 'squash', 'pad'; did you mean \"crop\"?",
        ),
        (["--fit", "?"], "invalid value for '--fit': '?' is not one of 'crop', 'squash', 'pad'"),
        (["--count", "0"], "invalid value for '--count': should be greater than or equal to 1"),
        (
            ["--count", "x"],
            "invalid value for '--count': should be a valid integer, not \"x\"",
        ),
    ],
)
def test_wrong_values(program, words, message):
    """The message has no prefix of the validation library, and suggests a similar choice."""
    declared = [
        "fit: Annotated[choices.Fit, cli.Option('--fit')] = choices.Fit.CROP",
        "count: Annotated[int, cli.Option('--count', min=1)] = 1",
    ]
    program.write("pass", words=", ".join(declared))
    assert program.run(*words, status=2) == ("", f"cnn-throwaway: {message}; see cnn-throwaway --help\n")


@pytest.mark.parametrize("bug", ['ValueError("a bug")', "EOFError", "AssertionError"])
def test_bug_keeps_its_traceback(program, bug):
    """With exit status 1."""
    out, err = program.write(f"raise {bug}").run(status=1)
    assert out == ""
    assert err.startswith("Traceback (most recent call last):")
    assert f"raise {bug}" in err
    assert err.count("Traceback") == 1


def test_skipped_images(program):
    """Exit status 3; each is reported on stderr with its reason, also with `--quiet`, and in the file as TSV."""
    program.write(
        """
        with cli.skipping(errors_file) as skip:
            skip("a\\tb.jpg", "empty file")
            skip("c.jpg", "not an image")
        cli.emit([{"a": 1}])
        """,
        words="errors_file: cli.options.Errors = None",
    )
    out, err = program.run("--errors", "errors.tsv", "--quiet", status=3)
    assert out == "a\n1\n"
    assert err.splitlines() == [
        "cnn-throwaway: a\\tb.jpg: empty file; skipped",
        "cnn-throwaway: c.jpg: not an image; skipped",
        "cnn-throwaway: 2 images were skipped",
    ]
    assert (program.folder / "errors.tsv").read_text() == "path\treason\na\\tb.jpg\tempty file\nc.jpg\tnot an image\n"


def test_errors_file_without_skipped_images(program):
    """It has only the header row."""
    program.write("with cli.skipping(errors_file):\n    pass", words="errors_file: cli.options.Errors = None")
    assert program.run("--errors", "errors.tsv") == ("", "")
    assert (program.folder / "errors.tsv").read_text() == "path\treason\n"


def test_gates_list_every_missed_limit(program):
    """With both numbers; an unknown value and NaN fail; a value equal to its limit passes."""
    program.write(
        """
        nan = float("nan")
        at_least = {"a": (0.5, 0.9), "b": (0.9, 0.9), "c": (None, 0.9), "d": (nan, 0.9)}
        cli.gate(at_least, at_most={"e": (7, 5), "f": (5, 5), "g": (nan, 5)})
        """
    )
    _, err = program.run(status=4)
    assert err == (
        "cnn-throwaway: a 0.5 is below 0.9; c is not known, so the limit 0.9 is not met; d nan is below 0.9; "
        "e 7 is above 5; g nan is above 5\n"
    )


def test_quiet_prints_errors(program):
    """But no notices."""
    program.write('cli.notice("a notice"); raise errors.CnnkitError("wrong")')
    loud = program.run(status=1)[1].splitlines()
    assert [line.split() for line in loud] == [
        ["cnn-throwaway:", "a", "notice"],
        ["cnn-throwaway:", "wrong"],
    ]
    for word in ("--quiet", "-q"):
        assert program.run(word, status=1)[1] == "cnn-throwaway: wrong\n"


def test_warnings_are_hidden(program):
    """Unless they are enabled with -W."""
    program.write('warnings.warn("of a library")')
    assert program.run() == ("", "")
    assert "of a library" in program.run(python=["-W", "default"])[1]


def test_progress_only_on_terminals(program, terminal):
    """A bar on a terminal, nothing in a log, nothing with `--quiet`."""
    program.write(
        """
        with cli.progress("reading images") as progress:
            for done in range(3):
                progress(done, 3)
                time.sleep(0.15)
        """
    )
    assert program.run() == ("", "")
    assert "reading images" in terminal(sys.executable, program.path, on=["stderr"]).out
    assert terminal(sys.executable, program.path, "--quiet", on=["stderr"]).out == ""


def test_spinner_and_bars_on_a_terminal(program, terminal):
    """A spinner before the first bar and after the last, a bar for each phase; nothing in a log or with `--quiet`."""
    program.write(
        """
        from cnnkit.cli import activity
        activity.DELAY = 0.05
        cli.emit_lines(["row one"])
        time.sleep(0.3)
        with cli.callbacks("reading") as callbacks:
            callbacks.progress(3, 3)
            time.sleep(0.15)
            callbacks.phase("comparing")
            time.sleep(0.15)
        time.sleep(0.3)
        with cli.callbacks("explaining", streaming=True):
            time.sleep(0.3)
        cli.emit_lines(["row two"])
        """
    )
    assert program.run() == ("row one\nrow two\n", "")
    drawn = terminal(sys.executable, program.path).out
    plain = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", drawn)
    lines = [line.strip() for line in plain.replace("\r", "\n").splitlines()]
    places = [
        next(place for place, line in enumerate(lines) if word in line)
        for word in ("row one", "starting", "reading", "comparing", "working", "explaining", "row two")
    ]
    assert places == sorted(places)
    assert "3/3" in next(line for line in lines if "reading" in line and "3/3" in line)
    assert [line for line in lines if line][-1] == "row two"
    assert "\x1b[?25l" not in drawn.rpartition("\x1b[?25h")[2]  # the cursor is back
    assert strip(terminal(sys.executable, program.path, "--quiet").out).split() == ["row", "one", "row", "two"]


def test_spinner_with_redirected_streams(monkeypatch, wait_for):
    """If another thread redirects the streams, its output stays there, and the streams are restored."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(activity, "DELAY", 0.01)
    screen, out, printed = Terminal(), io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(screen), contextlib.redirect_stdout(out):
        with activity.Activity(enabled=True).watching(out):
            with contextlib.redirect_stdout(printed):
                wait_for(lambda: "starting" in screen.getvalue())
                print("of a library")  # noqa: T201
            assert sys.stdout is out
            assert printed.getvalue() == "of a library\n"
        assert sys.stdout is out
        with activity.Activity(enabled=True).watching(out), contextlib.redirect_stderr(Terminal()) as other:
            time.sleep(0.1)
        assert sys.stderr is screen
        assert other.getvalue() == ""


def test_too_wide_words_keep_their_end():
    """As many characters as fit after the ellipsis, also wide and combining ones; long words take no time."""
    assert table._shortened("abcdef", 6) == "abcdef"
    assert table._shortened("abcdefg", 6) == "…cdefg"
    assert table._shortened("ab/cdefg", 7) == "…/cdefg"
    assert table._shortened("犬" * 9, 6) == "…犬犬"
    assert table._shortened("e\u0301" * 9, 6) == "…" + "\u0301" + "e\u0301" * 5
    assert table._shortened("犬" * 100_000, 9) == "…犬犬犬犬"
    crop = "photos/rose/10503217.jpg#xywh=60,60,120,120"
    assert table._shortened(crop, len(crop)) == crop
    assert table._shortened(crop, 32) == "…/10503217.jpg#60,60,120,120"
    assert table._shortened(crop, 23) == "…3217.jpg#60,60,120,120"
    assert table._shortened(crop, 14) == "…217.jpg#60,6…"
    assert table._shortened(crop, 9) == "…,120,120"


def test_rows_on_a_terminal_start_no_threads(program, terminal):
    """One thread waits for a pause, however many rows postpone the spinner."""
    program.write(
        """
        import threading
        begun = []
        threading.Thread.start = lambda self, start=threading.Thread.start: begun.append(self) or start(self)
        cli.emit_lines(f"row {number}" for number in range(500))
        print(f"{len(begun)} threads")
        """
    )
    assert int(re.search(r"(\d+) threads", terminal(sys.executable, program.path).out)[1]) < 3


# ---------------------------------------------------------------- interruptions


HALF = """
with atomic.writing("result.bin") as file:
    file.write(b"half")
    file.flush()
    cli.emit_lines(["ready"])
    signal.pause()
"""


@pytest.mark.parametrize(
    ("number", "status", "line"), [(signal.SIGINT, 130, "cnn-throwaway: interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_interrupted_write_keeps_the_old_file(program, number, status, line):
    """Ctrl-C and SIGTERM leave no temporary file."""
    result = program.folder / "result.bin"
    result.write_bytes(b"before")
    process = program.write(HALF).start()
    assert process.stdout.readline() == "ready\n"
    assert len(list(program.folder.iterdir())) == 3
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (status, line)
    assert sorted(program.folder.iterdir()) == [program.path, result]
    assert result.read_bytes() == b"before"


def test_ctrl_c_on_a_terminal(program, terminal):
    """The key ends the command with 130 and one line."""
    outcome = terminal(sys.executable, program.write(HALF).path, cwd=program.folder, interrupt_at=b"ready")
    assert outcome.status == 130
    assert outcome.out.splitlines()[-1].endswith("cnn-throwaway: interrupted")
    assert list(program.folder.iterdir()) == [program.path]


def test_command_restores_the_state_of_its_process(run):
    """Streams, signals, logging and warnings of a program that called it."""

    def state():
        logger = logging.getLogger("cnnkit")
        handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        return (
            sys.stdout,
            sys.stderr,
            *handlers,
            [*logger.handlers],
            logger.level,
            logger.propagate,
            [*warnings.filters],
            sys.excepthook,
        )

    before = state()
    run("cnn-eval", stdin="path\tlabel\ncat/1.jpg\tcat\n")
    run("cnn-eval", stdin="", status=1)
    run("cnn-eval", "--no-such-option", status=2)
    assert state() == before
    os.write(1, b"")  # descriptor 1 is open


# ---------------------------------------------------------------- help


def test_help_in_a_pipe_is_plain(program):
    """Paragraphs are filled, brackets are kept, examples are verbatim."""
    out, err = program.write("pass").run("--help")
    assert err == ""
    assert out.startswith("Usage: cnn-throwaway [OPTIONS]\n")
    assert "of [bold]brackets[/bold] that are no markup." in " ".join(out.split())
    assert out.endswith("  Examples:\n    cnn-throwaway photos/ | awk '$1 == \"a[1]\"'\n    cnn-throwaway one.jpg\n")
    assert "\x1b" not in out


@pytest.mark.parametrize("colour", [True, False])
def test_help_on_a_terminal(program, terminal, colour):
    """rich draws the same text, keeps brackets, and uses no colours with NO_COLOR."""
    env = {} if colour else {"NO_COLOR": "1"}
    drawn = terminal(sys.executable, program.write("pass").path, "--help", env=env).out
    plain = strip(drawn)
    assert "of [bold]brackets[/bold] that are no markup." in " ".join(plain.split())
    assert "    cnn-throwaway photos/ | awk '$1 == \"a[1]\"'\n    cnn-throwaway one.jpg\n" in plain
    assert "<bool>" not in plain
    assert any(code[:1] in "349" for code in codes(drawn)) == colour


def test_completion_of_options(program):
    """The shell calls the command for completion."""
    program.write("pass")
    asking = {"_CNN_THROWAWAY_COMPLETE": "complete_bash", "COMP_WORDS": "cnn-throwaway --j", "COMP_CWORD": "1"}
    out, err = program.run(env={**os.environ, **asking})
    assert ([line.split("\x1f")[1] for line in out.splitlines()], err) == (["--j", "--json"], "")


def codes(drawn):
    """Return the parameters of all SGR escape sequences: 1 is bold, 31 a colour."""
    return [
        code for part in drawn.split("\x1b[")[1:] for code in part.partition("m")[0].split(";") if part[:1].isdigit()
    ]


def strip(drawn):
    """Remove the SGR escape sequences."""
    first, *parts = drawn.split("\x1b[")
    return first + "".join(part.partition("m")[2] for part in parts)


def test_gate_without_a_reader(program):
    """A missed limit gives exit status 4 even if the pipe is closed."""
    program.write('with cli.gated({"accuracy": (0.5, 0.9)}):\n        cli.emit([{"a": 1}])')
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, program.path], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (4, "cnn-throwaway: accuracy 0.5 is below 0.9\n")


@pytest.mark.parametrize("name", ["cnn-predict", "cnn-cam", "cnn-maps"])
@pytest.mark.parametrize("model", ["head.onnx", "runs/head.pt"])
def test_model_without_its_option(run, name, model):
    """The message suggests -m; without a model on the command line it does not."""
    outcome = run(name, model, "photo.jpg", status=2)
    assert (
        f"missing option '--model' / '-m'; write -m {model} if that is the model, or see {name} --help" in outcome.err
    )
    assert "write -m" not in run(name, "photo.jpg", status=2).err


#: Threads of OpenBLAS, of which NumPy's packages allow 64.
_CORES = min(64, len(os.sched_getaffinity(0))) if sys.platform == "linux" else 1

_BLAS = """
import numpy, scipy.linalg
from threadpoolctl import ThreadpoolController
found = ThreadpoolController().select(internal_api="openblas").lib_controllers
exponents, threads = [each.dynlib.openblas_thread_timeout() for each in found], [each.num_threads for each in found]
print(os.environ.get("OPENBLAS_THREAD_TIMEOUT"), *exponents, *threads)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="NumPy's packages for Linux have OpenBLAS")
@pytest.mark.parametrize(
    ("chosen", "exponent", "threads"),
    [
        ({}, 16, _CORES),
        ({"OPENBLAS_THREAD_TIMEOUT": "20"}, 20, _CORES),
        ({"OPENBLAS_NUM_THREADS": "1"}, 16, 1),
    ],
    ids=["default", "user's timeout", "user's threads"],
)
def test_idle_blas_threads_sleep(program, monkeypatch, chosen, exponent, threads):
    """OpenBLAS, asked through threadpoolctl, has read how long its threads spin; commands keep all cores and the user's choice."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_THREAD_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    written = program.write(_BLAS).run()[1].split()  # what a command prints goes to stderr
    libraries = len(written) // 2
    assert written == [str(exponent)] * (1 + libraries) + [str(threads)] * libraries
    assert libraries


def test_blas_settings_of_a_python_program_are_kept():
    """A program that imports cnnkit, and with it NumPy, keeps the environment that OpenBLAS reads."""
    code = (
        "import os, sys\n"
        "def settings(): return {name: value for name, value in os.environ.items() if 'THREAD' in name}\n"
        "before = settings()\n"
        "from cnnkit import Features\n"
        "print('numpy' in sys.modules, settings() == before)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True True\n"


@pytest.mark.parametrize(
    ("speed", "words"), [(0.62, "0.62/s"), (1.84, "1.8/s"), (12.3, "12/s"), (12_345.6, "12,346/s")]
)
def test_rates_of_progress_bars(speed, words):
    """Trainings take seconds each: their rate is not 0."""
    assert output.rate(speed) == words
