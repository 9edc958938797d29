"""What every installed command has in common: help, versions, errors, streams, signals and exit statuses.

test_cli.py tests the implementation on throw-away commands; here each real command shows that it uses it. All of them run a workflow
once as processes, and then again in this process; terminals, broken pipes and signals are tested on four of them. A new command needs a
line in each of the tables below.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

COMMANDS = sorted(entry.name for entry in distribution("cnnkit").entry_points if entry.group == "console_scripts")

NET = ["--layers", "conv 4 k3 relu, gap", "--size", "16", "--epochs", "1", "--device", "cpu"]
BACKBONE = ["--layers", "conv 4 k3 relu, gap", "--weights", "none", "--size", "16", "--device", "cpu"]
ADVISER = ["--backbone", "squeezenet1_1", "--weights", "adviser.pth", "--device", "cpu"]

#: A workflow on small images, in this order; the output of each command is tested below.
ROAD = {
    "cnn-dims": ["--input", "32,32,3", "--layers", "conv 8 k3 relu, pool 2, flatten, dense 2 softmax"],
    "cnn-split": ["photos", "--ratio", "0.5,0.25,0.25"],
    "cnn-check": ["split.tsv", "--probes", "mean-colour"],
    "cnn-augment": ["split.tsv", "--split", "train", "-o", "-", "--copies", "2", "--augment", "rotate 40, hflip"],
    "cnn-extract": ["split.tsv", "--split", "train", "-o", "train.npy", *BACKBONE],
    "cnn-train-head": ["train.npy", "--val", "test.npy", "-o", "head.pt", "--solver", "lbfgs", "--device", "cpu"],
    "cnn-advise": ["split.tsv", *ADVISER],
    "cnn-train": ["split.tsv", "-o", "net.pt", *NET],
    "cnn-finetune": ["head.pt", "split.tsv", "-o", "tuned.pt", "--epochs", "2", "--device", "cpu"],
    "cnn-export": ["head.pt", "-o", "head.onnx", "--device", "cpu"],
    "cnn-predict": ["-m", "head.onnx", "split.tsv", "--split", "test", "--device", "cpu"],
    "cnn-eval": ["predictions.tsv", "--truth", "split.tsv"],
    "cnn-compare": ["predictions.tsv", "predictions.tsv", "--truth", "split.tsv"],
    "cnn-report": [
        "predictions.tsv",
        "--truth",
        "mistaken.tsv",
        "-m",
        "head.onnx",
        "-o",
        "report.html",
        "--device",
        "cpu",
    ],
    "cnn-calibrate": ["predictions.tsv", "--truth", "mistaken.tsv"],
    "cnn-curves": ["kept.csv"],
    "cnn-embed": ["train.npy", "--method", "pca"],
    "cnn-cam": ["-m", "head.pt", "split.tsv", "--split", "test", "--device", "cpu"],
    "cnn-maps": ["-m", "head.pt", "photos/red/00.png", "--device", "cpu"],
    "cnn-filters": ["head.pt", "-o", "filters.png", "--steps", "2", "--device", "cpu"],
    "cnn-dream": [
        "head.pt",
        "photos/red/00.png",
        "-o",
        "dream.png",
        "--steps",
        "2",
        "--octaves",
        "1",
        "--device",
        "cpu",
    ],
    "cnn-style": [
        "photos/red/00.png",
        "--style",
        "photos/blue/00.png",
        "-m",
        "head.pt",
        "-o",
        "styled.png",
        "--steps",
        "2",
        "--device",
        "cpu",
    ],
    "cnn-attack": ["-m", "head.pt", "split.tsv", "--split", "test", "-o", "adversarial", "--force", "--device", "cpu"],
}

#: Files made from the stdout of a command, for later commands.
KEPT = {"cnn-split": "split.tsv", "cnn-predict": "predictions.tsv"}

#: Fast commands, which can be run several times.
QUICK = ["cnn-dims", "cnn-split", "cnn-augment", "cnn-predict", "cnn-eval", "cnn-calibrate", "cnn-curves", "cnn-cam"]

#: One that imports little, one that trains with torch, one that runs ONNX, one that reads standard input.
FOUR = ["cnn-dims", "cnn-train", "cnn-predict", "cnn-eval"]

#: Commands whose table on a terminal is tested.
DRAWN = ["cnn-dims", "cnn-predict", "cnn-eval", "cnn-cam"]

#: Commands that other tests, or `make quickstart`, start as a new process.
STARTED = {
    *FOUR,
    *DRAWN,
    *re.findall(
        r"\$\(BIN\)(cnn-[a-z-]+)", (Path(__file__).parents[1] / "examples" / "digits" / "Makefile").read_text("utf-8")
    ),
}

#: Valid options, but the file does not exist.
MISSING = {
    "cnn-dims": ["no-such.onnx"],
    "cnn-split": ["no-such", "--ratio", "0.5,0.5"],
    "cnn-check": ["no-such"],
    "cnn-augment": ["no-such", "-o", "x", "--augment", "rotate 40, hflip"],
    "cnn-extract": ["no-such", "-o", "x.npy", *BACKBONE],
    "cnn-train-head": ["no-such.npy", "-o", "x.pt"],
    "cnn-advise": ["no-such"],
    "cnn-train": ["no-such", "-o", "x.pt", *NET],
    "cnn-finetune": ["no-such.pt", "photos", "-o", "x.pt"],
    "cnn-export": ["no-such.pt", "-o", "x.onnx"],
    "cnn-predict": ["-m", "no-such.onnx", "photos"],
    "cnn-eval": ["no-such.tsv"],
    "cnn-compare": ["no-such.tsv", "predictions.tsv"],
    "cnn-report": ["no-such.tsv", "-o", "x.html"],
    "cnn-calibrate": ["no-such.tsv"],
    "cnn-curves": ["no-such.csv"],
    "cnn-embed": ["no-such.npy"],
    "cnn-cam": ["-m", "no-such.pt", "photos"],
    "cnn-maps": ["-m", "no-such.pt", "photos/red/00.png"],
    "cnn-filters": ["no-such.pt", "-o", "x.png"],
    "cnn-dream": ["no-such.pt", "photos/red/00.png", "-o", "x.png"],
    "cnn-style": ["no-such.png", "--style", "photos/red/00.png", "-o", "x.png"],
    "cnn-attack": ["-m", "no-such.pt", "photos", "-o", "x"],
}

#: Valid options, but no source.
SOURCELESS = {
    "cnn-dims": ["--pool", "2"],
    "cnn-split": ["--ratio", "0.5,0.5"],
    "cnn-check": [],
    "cnn-augment": ["-o", "x", "--augment", "rotate 40, hflip"],
    "cnn-extract": ["-o", "x.npy", *BACKBONE],
    "cnn-train-head": ["-o", "x.pt"],
    "cnn-advise": [],
    "cnn-train": ["-o", "x.pt", *NET],
    "cnn-finetune": ["head.pt", "-o", "x.pt"],
    "cnn-export": ["-o", "x.onnx"],
    "cnn-predict": ["-m", "head.onnx"],
    "cnn-eval": [],
    "cnn-compare": [],
    "cnn-report": ["-o", "x.html"],
    "cnn-calibrate": [],
    "cnn-curves": [],
    "cnn-embed": [],
    "cnn-cam": ["-m", "head.pt"],
    "cnn-maps": ["-m", "head.pt"],
    "cnn-filters": ["-o", "x.png"],
    "cnn-dream": ["head.pt", "-o", "x.png"],
    "cnn-style": ["--style", "photos/red/00.png", "-o", "x.png"],
    "cnn-attack": ["-m", "head.pt", "-o", "x"],
}

#: Work that does not end by itself: commands that read standard input wait for it, others have much to do. None for a command without
#: such work.
ENDLESS = {
    "cnn-dims": ["--pool", "2"],
    "cnn-split": ["-", "--ratio", "0.5,0.5"],
    "cnn-check": ["-"],
    "cnn-augment": ["-", "-o", "x", "--augment", "rotate 40, hflip"],
    "cnn-extract": ["-", "-o", "x.npy", *BACKBONE],
    "cnn-train-head": ["train.npy", "-o", "x.pt", "--epochs", "1000000"],
    "cnn-advise": ["-"],
    "cnn-train": ["split.tsv", "-o", "x.pt", *NET, "--epochs", "1000000"],
    "cnn-finetune": ["head.pt", "split.tsv", "-o", "x.pt", "--epochs", "1000000", "--device", "cpu"],
    "cnn-export": ["head.pt", "-o", "x.onnx"],
    "cnn-predict": ["-m", "head.onnx", "-", "--device", "cpu"],
    "cnn-eval": [],
    "cnn-compare": ["-", "predictions.tsv"],
    "cnn-report": ["-o", "x.html"],
    "cnn-calibrate": [],
    "cnn-curves": [],
    "cnn-embed": None,  # t-SNE of a thousand iterations on a dozen images
    "cnn-cam": ["-m", "head.pt", "-", "--device", "cpu"],
    "cnn-maps": ["-m", "vgg16", "--weights", "none", "photos/red/00.png"],
    "cnn-filters": ["head.pt", "-o", "x.png", "--steps", "1000000"],
    "cnn-dream": ["head.pt", "photos/red/00.png", "-o", "x.png", "--steps", "1000000", "--octaves", "1"],
    "cnn-style": [
        "photos/red/00.png",
        "--style",
        "photos/blue/00.png",
        "-m",
        "head.pt",
        "-o",
        "x.png",
        "--steps",
        "1000000",
        "--optimizer",
        "adam",
    ],
    "cnn-attack": ["-m", "head.pt", "-", "-o", "x", "--device", "cpu"],
}

#: Commands that skip broken images and continue; photos-and-one/ contains one.
SKIPPING = {
    "cnn-split": ["photos-and-one", "--ratio", "0.5,0.5"],
    "cnn-augment": ["photos-and-one", "-o", "-", "--augment", "rotate 40, hflip"],
    "cnn-extract": ["photos-and-one", "-o", "skipping/x.npy", *BACKBONE],
    "cnn-finetune": ["head.pt", "photos-and-one", "-o", "skipping/x.pt", "--epochs", "1", "--device", "cpu"],
    "cnn-predict": ["-m", "head.onnx", "photos-and-one", "--device", "cpu"],
    "cnn-report": ["wrong.tsv", "-o", "skipping/report.html"],
    "cnn-train": ["photos-and-one", "-o", "skipping/x.pt", *NET],
    "cnn-cam": ["-m", "head.pt", "photos-and-one", "--device", "cpu"],
    "cnn-filters": ["head.pt", "--top-images", "photos-and-one", "-o", "skipping/x.png", "--device", "cpu"],
    "cnn-attack": ["-m", "head.pt", "photos-and-one", "-o", "skipping/adversarial", "--device", "cpu"],
}

#: Commands that write files while they print rows; DIR is a new name.
WRITING = {
    "cnn-cam": ["-m", "head.pt", "photos", "-o", "DIR", "--sheet", "DIR.png", "--errors", "DIR.tsv", "--device", "cpu"],
    "cnn-attack": ["-m", "head.pt", "photos", "-o", "DIR", "--errors", "DIR.tsv", "--device", "cpu"],
    "cnn-maps": ["-m", "head.pt", "photos/red/00.png", "-o", "DIR", "--device", "cpu"],
    "cnn-predict": ["-m", "head.onnx", "photos", "--errors", "DIR.tsv", "--device", "cpu"],
    "cnn-report": ["predictions.tsv", "--truth", "mistaken.tsv", "-o", "DIR.html", "--errors", "DIR.tsv"],
    "cnn-train": ["split.tsv", "-o", "DIR.pt", *NET, "--json"],
}
#: Commands in ENDLESS that do not read standard input.
SILENT = [
    "cnn-train-head",
    "cnn-train",
    "cnn-finetune",
    "cnn-export",
    "cnn-maps",
    "cnn-filters",
    "cnn-dream",
    "cnn-style",
]

every_command = pytest.mark.parametrize("name", COMMANDS)
four_commands = pytest.mark.parametrize("name", FOUR)


def script(name):
    return Path(sys.executable).parent / name


@dataclass
class Done:
    status: int
    out: str
    err: str


def start(path, *words, cwd, **streams):
    """Run a command as a separate process."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | streams
    done = subprocess.run([path, *words], cwd=cwd, stderr=subprocess.PIPE, text=True, timeout=300, **streams)
    return Done(done.returncode, done.stdout or "", done.stderr)


@pytest.fixture
def run_in(run, monkeypatch):
    """Return a function that runs a command in this process, in a folder."""

    def call(folder, name, *words, **others):
        monkeypatch.chdir(folder)
        return run(name, *words, **others)

    return call


@pytest.fixture(scope="module")
def road(tmp_path_factory, commands):
    """Run the workflow once. Returns the folder, and the outcome of each command."""
    folder = tmp_path_factory.mktemp("road")
    make_images(folder / "photos")
    make_weights(folder / "adviser.pth")
    done = {}
    for name, words in ROAD.items():
        done[name] = start(commands / name, *words, cwd=folder)
        if name in KEPT:
            (folder / KEPT[name]).write_text(done[name].out)
        if name == "cnn-split":  # a validation set with one mistake: without mistakes there is no temperature
            _, *rows = (line.split("\t") for line in done[name].out.splitlines())
            wrong = next(path for path, label, split in rows if (label, split) == ("red", "test"))
            mistaken = done[name].out.replace(f"{wrong}\tred", f"{wrong}\tblue").replace("\ttest\n", "\tval\n")
            (folder / "mistaken.tsv").write_text(mistaken)
            rows = [("red", "00", "blue"), ("red", "broken", "blue"), ("blue", "00", "blue")]
            wrong = "".join(f"photos-and-one/{truth}/{name}.png\t{label}\n" for truth, name, label in rows)
            (folder / "wrong.tsv").write_text(f"path\tlabel\n{wrong}")
        if name == "cnn-train-head":  # the tests run it again, with other durations
            shutil.copy(folder / "head.csv", folder / "kept.csv")
        if name == "cnn-extract":
            start(commands / name, "split.tsv", "--split", "test", "-o", "test.npy", *BACKBONE, cwd=folder)
    return folder, done


def make_weights(path):
    """Write random weights for the network of cnn-advise."""
    import torch

    from cnnkit.nets import catalogue

    module, _ = catalogue.seeded(0, lambda: catalogue.network("squeezenet1_1"))
    torch.save(module.state_dict(), path)


def make_images(folder):
    """Write a dozen images of each of two classes, in two colours."""
    from PIL import Image

    for label, colour in (("red", (150, 30, 30)), ("blue", (30, 30, 150))):
        (folder / label).mkdir(parents=True)
        for index in range(12):
            shade = tuple(channel + 5 * index for channel in colour)
            Image.new("RGB", (24, 20), shade).save(folder / label / f"{index:02d}.png")


@every_command
def test_every_table_has_the_command(name):
    """So that a new command is tested like the others."""
    assert all(name in table for table in (ROAD, MISSING, SOURCELESS, ENDLESS))


# ---------------------------------------------------------------- help and versions


@every_command
@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_has_usage_and_examples(name, word, run):
    """Exit status 0, nothing on stderr, no escape sequences in a pipe, examples of this command."""
    done = run(name, word)
    assert done.err == ""
    assert done.out.startswith(f"Usage: {name} ")
    assert "\x1b" not in done.out
    text, _, examples = done.out.partition("\n  Examples:\n")
    assert any(line.strip().startswith(f"{name} ") or f"| {name}" in line for line in examples.splitlines())
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"\w-\n", text)  # commands, options and words are whole, so that grep finds them
    assert "{" not in text.partition("\n\n")[0]
    assert not re.search(r"\]\s+\[|[0-9]\.0[];<]", text.partition("\nOptions:\n")[2])  # one bracket, and 1, not 1.0
    for option in ("--help", "--version", "--quiet"):
        assert option in text


@every_command
def test_every_option_has_help(name):
    """And every argument."""
    import typer.core

    (entry,) = [entry for entry in distribution("cnnkit").entry_points if entry.name == name]
    seen = []

    class Stop(Exception):
        pass

    def look(command, **_):
        seen.extend(command.params)
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.core.TyperCommand, "main", look)
        with pytest.raises(Stop):
            entry.load()([])
    assert seen
    assert [parameter.name for parameter in seen if not parameter.help and not parameter.hidden] == []


@four_commands
def test_help_on_a_terminal_respects_no_color(name, terminal, tmp_path):
    """Bold and dim are not colours."""
    colours = re.compile(r"\x1b\[([0-9]+;)*(3[0-8]|4[0-8]|9[0-7])(;[0-9]+)*m")
    assert colours.search(terminal(script(name), "--help", cwd=tmp_path).out)
    assert not colours.search(terminal(script(name), "--help", cwd=tmp_path, env={"NO_COLOR": "1"}).out)


@every_command
def test_version(name, run):
    """One line, with the versions of cnnkit, torch and onnxruntime."""
    done = run(name, "--version")
    assert done.err == ""
    (line,) = done.out.splitlines()
    assert line.startswith(f"cnnkit {version('cnnkit')}, torch {version('torch')}, ")
    assert re.search(r"onnxruntime(-gpu)? \d", line)


@every_command
def test_completion_of_options(name, run, monkeypatch):
    """The shell calls the command for completion."""
    monkeypatch.setenv(f"_{name.replace('-', '_').upper()}_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"{name} --qui")
    monkeypatch.setenv("COMP_CWORD", "1")
    done = run(name)
    assert ([line.split("\x1f")[1] for line in done.out.splitlines()], done.err) == (["--qui", "--quiet"], "")


# ---------------------------------------------------------------- errors


@every_command
def test_unknown_option_is_a_usage_error(name, run):
    """Exit status 2, one line that names it, nothing on stdout."""
    done = run(name, "--no-such-option", status=2)
    assert done.out == ""
    assert re.fullmatch(rf"{name}: .*--no-such-option.*; see {name} --help\n", done.err)


@every_command
def test_missing_file_is_one_line(name, run_in, tmp_path):
    """Exit status 1, one line that names it, nothing on stdout, nothing written."""
    make_images(tmp_path / "photos")
    done = run_in(tmp_path, name, *MISSING[name], status=1)
    assert done.out == ""
    assert re.fullmatch(rf"{name}: .*no-such.*\n", done.err)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


#: Words that have no file name to which an extension could be added; the shell makes "" of an unset variable.
NAMELESS = [".", "..", "/", ""]


def nameless(name):
    """List a command's lines of `MISSING` with one of its files replaced by a word without a file name."""
    for place, word in enumerate(MISSING[name]):
        output = place > 0 and MISSING[name][place - 1] == "-o"
        if output or word.startswith("no-such"):
            for other in NAMELESS:
                if not other or output or "." in word:  # a folder is a source of images
                    yield [*MISSING[name][:place], other, *MISSING[name][place + 1 :]]


@every_command
def test_words_without_a_file_name_are_one_line(name, run_in, tmp_path):
    """Neither the check of an option nor its remedy needs a file name."""
    make_images(tmp_path / "in" / "photos")
    for words in nameless(name):
        done = run_in(tmp_path / "in", name, *words, status=None)
        assert done.status in (1, 2), words
        assert re.fullmatch(rf"{name}: .+\n", done.err), words
        assert not re.search(r"empty name|give -o \.", done.err), words


@pytest.mark.parametrize("name", ["cnn-train", "cnn-extract"])
def test_size_of_two_numbers(name, run):
    words = [word for word in MISSING[name] if word not in ("--size", "16")]
    done = run(name, *words, "--size", "224x224", status=2)
    assert done.err == f'{name}: --size "224x224": give one number, the side of the square; see {name} --help\n'


@pytest.mark.parametrize(
    ("name", "words", "remedy"),
    [
        ("cnn-train", ["photos", "-o", "..", *NET], "give -o FILE.pt"),
        ("cnn-train", ["photos", "-o", "my nets/one", *NET], "give -o 'my nets/one.pt'"),
        ("cnn-export", ["head.pt", "-o", "/"], "give -o FILE.onnx"),
        ("cnn-extract", ["photos", "-o", "photos/x.txt", *BACKBONE], "give -o photos/x.npy"),
        ("cnn-extract", ["photos", "-o", ".", *BACKBONE], "give -o FILE.npy"),
    ],
)
def test_proposed_output_has_folder_and_name(name, words, remedy, run_in, tmp_path):
    make_images(tmp_path / "photos")
    assert run_in(tmp_path, name, *words, status=2).err.endswith(f"; {remedy}\n")


@pytest.fixture
def time_limit():
    """Fail a test that does not end within 30 seconds."""

    def stop(*_):
        raise TimeoutError("still waiting")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.usefixtures("time_limit")
@pytest.mark.parametrize("kind", ["pipe", "device"])
@every_command
def test_rejects_special_files_at_once(name, kind, run_in, tmp_path):
    """An unconnected pipe and /dev/zero in place of a model, features, a manifest or an image: no waiting, no traceback."""
    make_images(tmp_path / "photos")
    missing = next(word for word in MISSING[name] if word.startswith("no-such"))
    if kind == "pipe":
        os.mkfifo(tmp_path / missing)
    else:
        (tmp_path / missing).symlink_to("/dev/zero")
    done = run_in(tmp_path, name, *MISSING[name], status=None)
    assert done.status in (1, 3)
    assert done.out == ""
    wanted = {"pipe": "ot a regular file but a named pipe", "device": "ot a regular file but a device"}[kind]
    if name in (
        "cnn-advise",
        "cnn-train",
        "cnn-train-head",
    ):  # it has no label, or no .tsv and .json, and is not opened
        wanted = ""
    assert any(missing in line and wanted in line for line in done.err.splitlines()), done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"photos", missing})


@pytest.mark.usefixtures("time_limit")
@pytest.mark.parametrize("name", ["cnn-split", "cnn-check", "cnn-augment", "cnn-extract", "cnn-predict", "cnn-cam"])
def test_special_files_in_a_folder_are_skipped(name, run_in, road):
    """Pipes, devices and recursive links with names of images are reported; other names are ignored."""
    folder, _ = road
    place = folder / "photos-and-one" / "red"
    make_images(folder / "photos-and-one")
    os.mkfifo(place / "pipe.png")
    os.mkfifo(place / "pipe")
    (place / "loop.png").symlink_to("loop.png")
    (place / "zero.png").symlink_to("/dev/zero")
    (place / "up").symlink_to("..")
    (folder / "skipping").mkdir()
    words = SKIPPING.get(name, ["photos-and-one", "--probes", "mean-colour"])
    try:
        done = run_in(folder, name, *words, status=None)
    finally:
        shutil.rmtree(folder / "photos-and-one")
        shutil.rmtree(folder / "skipping")
    reasons = {
        "pipe.png": "not a regular file but a named pipe",
        "zero.png": "not a regular file but a device",
        "loop.png": "too many levels of symbolic links",
    }
    output = done.err if name in SKIPPING else done.out
    assert done.status == (3 if name in SKIPPING else 0)
    for path, reason in reasons.items():
        assert [path in line for line in output.splitlines() if reason in line] == [True], (path, done)
    assert done.out.count("\n") > 1


@pytest.mark.parametrize("name", ["cnn-check", "cnn-train", "cnn-eval"])
@pytest.mark.parametrize("row", [b"photos/red/a\0.png\tred", b"photos/red/00.png\tr\0ed"])
def test_rejects_null_bytes_in_tables(name, row, run_in, road):
    """In a path or a label, in manifests and predictions, in one line."""
    folder, _ = road
    (folder / "null.tsv").write_bytes(b"path\tlabel\nphotos/blue/00.png\tblue\n" + row + b"\n")
    words = {
        "cnn-split": ["null.tsv", "--ratio", "0.5,0.5"],
        "cnn-check": ["null.tsv"],
        "cnn-predict": ["-m", "head.onnx", "null.tsv"],
        "cnn-cam": ["-m", "head.pt", "null.tsv"],
        "cnn-train": ["null.tsv", "-o", "null.pt", *NET],
        "cnn-eval": ["null.tsv"],
    }[name]
    done = run_in(folder, name, *words, status=1)
    assert re.fullmatch(rf"{name}: null.tsv: not text: it contains a NUL byte.*\n", done.err), done.err
    (folder / "null.jsonl").write_text('{"path": "a\\ud800.png", "label": "b"}\n')
    done = run_in(folder, name, *["null.jsonl" if word == "null.tsv" else word for word in words], status=1)
    assert re.fullmatch(rf'{name}: null.jsonl:1: path "a\\ud800.png" contains .*\n', done.err), done.err


@pytest.mark.usefixtures("time_limit")
@pytest.mark.parametrize(
    "name",
    ["cnn-dims", "cnn-split", "cnn-predict", "cnn-eval", "cnn-calibrate", "cnn-train", "cnn-finetune", "cnn-advise"],
)
def test_rejects_a_device_as_standard_input(name, road, shell):
    """/dev/zero has no end; /dev/null is an empty list."""
    folder, _ = road
    words = {
        "cnn-dims": ["--pool", "2"],
        "cnn-split": ["-", "--ratio", "0.5,0.5"],
        "cnn-predict": ["-m", "head.onnx", "-"],
        "cnn-train": ["-", "-o", "x.pt", *NET],
        "cnn-finetune": ["head.pt", "-o", "x.pt"],
        "cnn-advise": ["split.tsv", "--val", "-"],
    }.get(name, [])
    command = shlex.join([name, *words])
    done = shell(f"{command} < /dev/zero", cwd=folder, status=2)
    assert (done.out, done.err) == (
        "",
        f"{name}: standard input is a device without an end; pipe a list or a table in\n",
    )
    assert "standard input" in shell(f"{command} < /dev/null", cwd=folder, status=None).err


@every_command
def test_no_source_on_a_terminal_is_a_usage_error(name, run_in, road):
    """Exit status 2 and one line, without waiting for input."""
    folder, _ = road
    done = run_in(folder, name, *SOURCELESS[name], typing=True, status=2)
    assert re.fullmatch(rf"{name}: .+\n", done.err)


# ---------------------------------------------------------------- output


@every_command
def test_tsv_in_a_pipe(name, road):
    """A header row of plain names, then rows with as many fields; no escape sequences."""
    _, done = road
    assert done[name].status == 0, done[name].err
    header, *rows = [line.split("\t") for line in done[name].out.splitlines()]
    assert rows
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", field) for field in header)
    assert {len(row) for row in rows} == {len(header)}
    assert "\x1b" not in done[name].out + done[name].err


@every_command
def test_json_lines_and_quiet(name, run_in, road):
    """With `--json` every line is an object in strict JSON; with `--quiet` stderr is empty."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    folder, _ = road
    done = run_in(folder, name, *ROAD[name], "--json", "--quiet")
    lines = done.out.splitlines()
    assert lines
    assert all(isinstance(json.loads(line, parse_constant=refuse), dict) for line in lines)
    assert done.err == ""


@pytest.mark.parametrize("name", DRAWN)
def test_table_on_a_terminal(name, road, terminal):
    """Without tabs, and without messages on stdout."""
    folder, _ = road
    done = terminal(script(name), *ROAD[name], on=["stdout"], cwd=folder)
    assert done.status == 0, done.err
    assert "\t" not in done.out
    assert "─────" in done.out
    assert "cnn-" not in done.out


@pytest.mark.parametrize("name", QUICK)
def test_second_run_prints_the_same_bytes(name, run_in, road):
    """The processes have different hash seeds."""
    folder, done = road
    assert run_in(folder, name, *ROAD[name]).out == done[name].out


#: Runs the scripts of commands, lists of words in JSON on standard input, each in a fork of a process that has imported torch only.
NEW_PROCESSES = """
import json, os, runpy, sys, torch
for number, words in enumerate(json.load(sys.stdin)):
    if not (child := os.fork()):
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"alone/{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv, status = words, 1
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as stop:
            status = stop.code or 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_works_in_a_new_process(road):
    """The processes of the workflow are forks of one that has imported cnnkit and what it needs; these are not."""
    folder, done = road
    names = [name for name in COMMANDS if name not in STARTED]
    (folder / "alone").mkdir()
    given = json.dumps([[str(script(name)), *map(str, ROAD[name])] for name in names])
    statuses = subprocess.run(
        [sys.executable, "-c", NEW_PROCESSES], input=given, cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split()
    for number, (name, status) in enumerate(zip(names, statuses, strict=True)):
        out, err = ((folder / "alone" / f"{number}.{kind}").read_text("utf-8") for kind in ("out", "err"))
        assert status == "0", (name, err)
        assert [len(line.split("\t")) for line in out.splitlines()] == [
            len(line.split("\t")) for line in done[name].out.splitlines()
        ], name


@four_commands
def test_closed_pipe_gives_no_message(name, road):
    """After `| head`, the command ends without a traceback or an error about the pipe."""
    folder, _ = road
    reading, writing = os.pipe()
    os.close(reading)
    done = start(script(name), *ROAD[name], cwd=folder, stdout=writing)
    os.close(writing)
    assert done.status in (1, 128 + signal.SIGPIPE)
    assert "Traceback" not in done.err
    assert "roken pipe" not in done.err


#: Every combination of closed standard streams.
CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"]


@every_command
def test_usage_error_with_closed_streams(name, shell, tmp_path):
    """With all three closed, the exit status is the same."""
    shell(f"{name} --no-such-option <&- >&- 2>&-", cwd=tmp_path, status=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUR)
def test_errors_with_closed_streams(name, road, shell):
    """The exit status is the same, and so is the message if stderr is open."""
    folder, _ = road
    command = shlex.join([name, *MISSING[name]])
    alone = shell(command, cwd=folder, status=None)
    lines = [f"{command} {closed}; echo status $? >&9; echo next >&8" for closed in CLOSED]
    done = shell("exec 9>&1 8>&2; " + "; ".join(lines), cwd=folder)
    assert done.out == f"status {alone.status}\n" * len(CLOSED)
    assert done.err.split("next\n") == [*("" if "2>" in closed else alone.err for closed in CLOSED), ""]


@pytest.mark.parametrize(
    "name",
    [
        "cnn-dims",
        "cnn-split",
        "cnn-extract",
        "cnn-eval",
        "cnn-predict",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in COMMANDS
            if name not in ("cnn-dims", "cnn-split", "cnn-extract", "cnn-eval", "cnn-predict")
        ),
    ],
)
def test_works_with_closed_streams(name, road, shell):
    """With all three closed, the exit status is 0; with only stderr closed, the data is complete."""
    folder, done = road
    command = shlex.join([name, *ROAD[name]])
    shell(f"{command} <&- >&- 2>&-", cwd=folder)
    if name in QUICK:
        assert shell(f"{command} 2>&-", cwd=folder).out == done[name].out


@pytest.mark.parametrize("module", ["typer", "numpy"])
def test_ctrl_c_during_imports(module, tmp_path):
    """Before the command line is parsed, and after: 130 and one line, even if the import swallows every exception."""
    (tmp_path / f"{module}.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\nraise SystemError\n"
    )
    done = start(script("cnn-check"), "-", cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (done.status, done.out, done.err) == (130, "", "cnn-check: interrupted\n")


@pytest.mark.parametrize("name", WRITING)
def test_files_are_written_without_a_reader(name, commands, road, contents):
    """With a closed pipe, the files have the same bytes; the exit status reports the pipe."""
    folder, _ = road
    (folder / "found").mkdir()
    found = []
    try:
        for read in (True, False):
            reading, writing = os.pipe()
            if not read:
                os.close(reading)
            words = [word.replace("DIR", "found/x") for word in WRITING[name]]
            done = start(commands / name, *words, cwd=folder, stdout=writing)
            os.close(writing)
            if read:
                os.close(reading)
            assert done.status == (0 if read else 128 + signal.SIGPIPE), done
            files = contents(folder / "found")
            found.append({path: "seconds" if path.endswith((".csv", ".pt")) else data for path, data in files.items()})
            shutil.rmtree(folder / "found")
            (folder / "found").mkdir()
    finally:
        shutil.rmtree(folder / "found")
    assert found[0]
    assert found[0] == found[1]


@pytest.mark.parametrize("name", SKIPPING)
def test_broken_image_is_skipped(name, run_in, road):
    """Exit status 3; the image is reported on stderr and in the --errors file, and the others are processed."""
    folder, _ = road
    make_images(folder / "photos-and-one")
    broken = folder / "photos-and-one" / "red" / "broken.png"
    broken.write_bytes(b"not an image")
    (folder / "skipping").mkdir()
    try:
        done = run_in(folder, name, *SKIPPING[name], "--errors", "skipping/errors.tsv", status=3)
        header, row = (folder / "skipping" / "errors.tsv").read_text().splitlines()
    finally:
        shutil.rmtree(folder / "photos-and-one")
        shutil.rmtree(folder / "skipping")
    assert header == "path\treason"
    path, reason = row.split("\t")
    assert path == "photos-and-one/red/broken.png"
    assert f"{name}: {path}: {reason}; skipped" in done.err.splitlines()
    assert done.out.count("\n") > 1
    assert "broken.png" not in done.out


@pytest.mark.parametrize("name", SKIPPING)
def test_fail_fast_ends_at_the_first_broken_image(name, run_in, road):
    """In the order of the input, whichever of several threads finds one first; nothing but rows and `--errors` is written."""
    folder, _ = road
    make_images(folder / "photos-and-one")
    for broken in ("blue/06.png", "blue/07.png", "red/00.png"):
        (folder / "photos-and-one" / broken).write_bytes(b"not an image" * (1 + 100_000 * (broken == "blue/06.png")))
    (folder / "skipping").mkdir()
    try:
        done = run_in(folder, name, *SKIPPING[name], "--fail-fast", "--errors", "skipping/errors.tsv", status=1)
        rows = (folder / "skipping" / "errors.tsv").read_text().splitlines()
        left = {path.name for path in (folder / "skipping").iterdir()} - {"errors.tsv"}
    finally:
        shutil.rmtree(folder / "photos-and-one")
        shutil.rmtree(folder / "skipping")
    path, reason = rows[1].split("\t")
    first = "red/00.png" if name == "cnn-report" else "blue/06.png"  # a report begins with the most confident mistake
    assert (path, len(rows)) == (f"photos-and-one/{first}", 2)
    assert done.err.splitlines()[-1] == f"{name}: {path}: {reason}"
    assert "skipped" not in done.err
    assert left <= {"x.npy.part", "x.json.part", "x.tsv.part", "adversarial"}, left


#: Every command that reads images, on a folder without any: unusable/ contains five other files of each class.
UNUSABLE = {
    "cnn-split": ["unusable", "--ratio", "0.5,0.5"],
    "cnn-check": ["unusable"],
    "cnn-augment": ["unusable", "-o", "-", "--augment", "rotate 40"],
    "cnn-augment, a sheet": ["unusable", "--sheet", "made.png", "--augment", "rotate 40"],
    "cnn-augment, a folder": ["unusable", "-o", "made", "--augment", "rotate 40"],
    "cnn-extract": ["unusable", "-o", "made.npy", *BACKBONE],
    "cnn-advise": ["unusable", *ADVISER],
    "cnn-train": ["unusable", "-o", "made.pt", *NET],
    "cnn-train, to validate": ["photos", "--val", "unusable", "-o", "made.pt", *NET],
    "cnn-finetune": ["head.pt", "unusable", "-o", "made.pt", "--epochs", "1", "--device", "cpu"],
    "cnn-export": ["head.pt", "-o", "made.onnx", "--verify", "unusable", "--device", "cpu"],
    "cnn-predict": ["-m", "head.onnx", "unusable"],
    "cnn-predict, labels": ["-m", "head.onnx", "unusable", "--labels-only"],
    "cnn-cam": ["-m", "head.pt", "unusable", "-o", "made", "--sheet", "made.png"],
    "cnn-maps": ["-m", "head.pt", "unusable/red/0.png", "-o", "made"],
    "cnn-filters": ["head.pt", "--top-images", "unusable", "-o", "made.png"],
    "cnn-dream": ["head.pt", "unusable/red/0.png", "-o", "made.png", "--steps", "1"],
    "cnn-style": ["unusable/red/0.png", "--style", "photos/red/00.png", "-m", "head.pt", "-o", "made.png"],
    "cnn-style, the style": ["photos/red/00.png", "--style", "unusable/red/0.png", "-m", "head.pt", "-o", "made.png"],
    "cnn-attack": ["-m", "head.pt", "unusable", "-o", "made"],
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_no_usable_image_is_an_error(name, run_in, road):
    """Exit status 1 (not 3, for some skipped images) with one sentence, nothing on stdout, no file."""
    folder, _ = road
    for place in ("red", "blue"):
        (folder / "unusable" / place).mkdir(parents=True)
        for index in range(5):
            (folder / "unusable" / place / f"{index}.png").write_bytes(b"not an image")
    command = name.partition(",")[0]
    try:
        done = run_in(folder, command, *UNUSABLE[name], status=1)
    finally:
        shutil.rmtree(folder / "unusable")
    last = done.err.splitlines()[-1]
    said = (
        "no image (of the class blue )?could be used|none of (the|10|the 10|the sampled) images can be used|"
        "all images of the class blue were skipped|"
        "unusable/red/0.png: not an image"
    )
    assert re.match(rf"{command}: .*({said})", last), last
    assert done.out == ("\n" * 10 if "labels" in name else "")
    assert not list(folder.glob("made*"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cnn-predict", ["-m", "head.onnx", "photos", "--size", "32"]),
        ("cnn-predict", ["-m", "head.onnx", "train.npy"]),
        ("cnn-predict", ["-m", "head.onnx", "-m", "head.onnx", "photos", "--logits"]),
        ("cnn-predict", ["-m", "head.onnx", "photos", "--output", "x"]),
        ("cnn-cam", ["-m", "head.pt", "photos", "--class", "orange"]),
        ("cnn-cam", ["-m", "head.pt", "photos", "--layer", "nowhere"]),
        ("cnn-maps", ["-m", "head.pt", "photos/red/00.png", "--layer", "nowhere"]),
        ("cnn-filters", ["head.pt", "--layer", "nowhere", "-o", "made.png"]),
        ("cnn-dream", ["head.pt", "photos/red/00.png", "--layer", "nowhere", "-o", "made.png"]),
        (
            "cnn-style",
            [
                "photos/red/00.png",
                "--style",
                "photos/red/01.png",
                "-m",
                "head.pt",
                "--style-layer",
                "nowhere",
                "-o",
                "made.png",
            ],
        ),
        ("cnn-attack", ["-m", "head.pt", "photos", "--target", "orange", "-o", "made"]),
    ],
)
def test_usage_error_is_the_only_line(name, words, run_in, road):
    """Also if the network had to be loaded first: the notice about the device is not printed."""
    folder, _ = road
    done = run_in(folder, name, *words, status=2)
    assert done.err.count("\n") == 1, done.err


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", ["cnn-split", "cnn-predict", "cnn-cam"])
def test_max_pixels(name, run_in, road):
    """Larger images are skipped with their size, exit status 3; the others are processed."""
    from PIL import Image

    folder, _ = road
    make_images(folder / "photos-and-one")
    Image.new("RGB", (50, 40)).save(folder / "photos-and-one" / "red" / "large.png")
    try:
        done = run_in(folder, name, *SKIPPING[name], "--max-pixels", "1999", status=3)
    finally:
        shutil.rmtree(folder / "photos-and-one")
    reason = "too large: 50 x 40 pixels, at most 1,999; raise the limit with --max-pixels"
    assert f"{name}: photos-and-one/red/large.png: {reason}; skipped" in done.err.splitlines()
    assert done.out.count("\n") > 1


def test_commands_with_max_pixels(run):
    """All that decode images, and no others."""
    bounded = {name for name in COMMANDS if "--max-pixels" in run(name, "--help").out}
    without = {
        *("cnn-calibrate", "cnn-compare", "cnn-curves", "cnn-dims", "cnn-eval", "cnn-train-head"),
    }
    assert bounded == set(COMMANDS) - without


@pytest.mark.parametrize("name", ["cnn-train", "cnn-train-head", "cnn-finetune"])
def test_training_rejects_class_names_that_are_not_utf8(name, road, run_in):
    """Before the training starts, rather than in cnn-export."""
    folder, _ = road
    odd = os.fsdecode(b"b\xff")
    make_images(folder / "odd")
    (folder / "odd" / "blue").rename(folder / "odd" / odd)
    words = {"cnn-train": ["odd", *NET], "cnn-finetune": ["head.pt", "odd"], "cnn-train-head": ["odd.npy"]}[name]
    try:
        if name == "cnn-train-head":
            run_in(folder, "cnn-extract", "odd", "-o", "odd.npy", *BACKBONE)
        done = run_in(folder, name, *words, "-o", "odd.pt", status=1)
        assert not (folder / "odd.pt").exists()
    finally:
        shutil.rmtree(folder / "odd")
    assert done.err.splitlines()[-1] == (
        f'{name}: class "b\\xff": the name is not UTF-8; rename its folder, or name the class in a manifest'
    )


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@four_commands
def test_signals_end_commands(name, number, status, road):
    """Exit status 130 for Ctrl-C and 143 for SIGTERM; no traceback, nothing on stdout, no incomplete file."""
    stop(script(name), number, status, road)


@pytest.mark.slow
@every_command
def test_ctrl_c_ends_every_command(name, commands, road):
    """As above, for Ctrl-C."""
    if ENDLESS[name] is None:
        pytest.skip(f"{name} always ends at once")
    stop(commands / name, signal.SIGINT, 130, road)


def stop(path, number, status, road):
    """Start work that does not end by itself, send a signal, and check what is left."""
    name = path.name
    folder, _ = road
    before = set(folder.iterdir())
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([path, *ENDLESS[name]], cwd=folder, bufsize=0, **pipes) as process:
        try:
            wait_until_at_work(process, reads=name not in SILENT)
            process.send_signal(number)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, out) == (status, b""), err
    assert b"Traceback" not in err
    if number == signal.SIGINT:
        assert err.decode().splitlines()[-1] == f"{name}: interrupted"
    left = sorted(set(folder.iterdir()) - before)
    # A training keeps its history and its checkpoint
    kept = [folder / "x.csv", folder / "x.checkpoint.pt"]
    assert [path for path in left if path not in kept] == []
    for path in kept:
        path.unlink(missing_ok=True)


def wait_until_at_work(process, *, reads):
    """Return when the command has started its work, as seen from its input or its first notice."""
    if reads:
        # Empty lines are ignored; once more of them are gone than fit into a pipe, the command is reading
        feeder = threading.Thread(target=process.stdin.write, args=(b"\n" * 300_000,), daemon=True)
        feeder.start()
        feeder.join(timeout=120)
        assert not feeder.is_alive()
    else:
        assert process.stderr.readline().startswith(b"cnn-")  # the notice about the device
