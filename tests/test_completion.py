"""Shell completion: candidates for each kind of option, and completion in bash, zsh and fish."""

import contextlib
import fcntl
import functools
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnkit.cli import candidates, completing, completion
from cnnkit.formats import peek

COMMANDS = sorted(entry.name for entry in distribution("cnnkit").entry_points if entry.group == "console_scripts")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with class folders, splits, a manifest, features and damaged models; the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / ".cache"))
    for name in ("photos/red", "photos/blue", "sets/train/red", "sets/val/red", "sets/.hidden"):
        Path(name).mkdir(parents=True)
    Image.new("RGB", (4, 4)).save("photos/red/1.png")
    Path("split.tsv").write_text("path\tlabel\tsplit\na.png\tred\ttrain\nb.png\tred\tfold0\nc.png\tred\ttrain\n")
    Path("split.csv").write_text('path,subset\n"a,1.png",dev\n')
    Path("split.jsonl").write_text('{"path": "a.png", "split": "held"}\n')
    quoted = 'sep=|\n"path"|"Split"\n"a|1.png"|"the ""new"" one"\n'
    Path("utf16.csv").write_bytes(quoted.encode("utf-16"))
    Path("mac.tab").write_bytes(b'path\tsplit\ra.png\t"the first"\rb.png\tlast\r')
    Path("train.tsv").write_text("path\tlabel\tsplit\na.png\tred\tfold7\n")
    np.save("train.npy", np.zeros((1, 2), np.float32))
    for name in ("broken.pt", "broken.onnx", "broken.npy", "broken.tsv"):
        Path(name).write_bytes(b"\x00\xffPK\x03\x04 broken \n\t\x80")
    return tmp_path


@pytest.fixture
def complete(run, monkeypatch):
    """Complete a line as a shell does, and list what is offered: (kind, value, more)."""

    def offered(line):
        name = line.split()[0]
        variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
        with monkeypatch.context() as patch:
            patch.setenv(variable, "complete_bash")
            patch.setenv("COMP_WORDS", line)
            done = run(name)
        assert done.err == ""
        (kind, *_), *found = (line.split("\x1f") for line in done.out.splitlines())
        assert kind == "word"
        return [tuple(each) for each in found]

    return offered


@pytest.fixture
def values(complete):
    return lambda line: [value for _, value, _ in complete(line)]


@pytest.fixture
def model(folder):
    """A model file and ONNX files with what completion reads, written by torch and onnx."""
    import onnx
    import torch
    from onnx import TensorProto, helper

    header = {"classes": ["golden retriever", "cat"]}
    torch.save({"header": header, "state": {"w": torch.zeros(3)}, "history": []}, "head.pt")
    conv = helper.make_node("Conv", ["image", "w"], ["maps"], name="/conv1/Conv")
    mean = helper.make_node("GlobalAveragePool", ["maps"], ["mean"], name="/gap/GlobalAveragePool")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    out = helper.make_tensor_value_info("mean", TensorProto.FLOAT, [1, 2, 1, 1])
    weights = helper.make_tensor("w", TensorProto.FLOAT, [2, 3, 3, 3], [0.0] * 54)
    proto = helper.make_model(helper.make_graph([conv, mean], "g", [image], [out], [weights]))
    onnx.save(proto, "foreign.onnx")
    proto.metadata_props.add(key="other", value="1")
    proto.metadata_props.add(key="cnnkit", value='{"classes": ["golden retriever", "cat"]}')
    onnx.save(proto, "head.onnx")
    return folder


# ---------------------------------------------------------------- kinds


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_offered(name, values, run):
    """Options that are given already are not offered again."""
    listed = re.findall(r"(?m)^  (?:-\w, )?(--[\w-]+)", run(name, "--help").out)
    assert {"--help", "--version", "--json"} <= set(listed)
    assert set(listed) <= set(values(f"{name} --"))
    assert values(f"{name} --json --js") == []


def test_tables_name_only_what_there_is():
    """Each option and argument in the tables belongs to a command."""
    parsers = [entry.load().parser() for entry in distribution("cnnkit").entry_points]
    parameters = [each for parser in parsers for each in parser.params]
    assert set(candidates._OPTIONS) <= {flag for each in parameters for flag in each.opts}
    assert set(candidates._ARGUMENTS) <= {each.name for each in parameters if each.param_type_name == "argument"}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("cnn-extract photos --backbone resnet1", ["resnet101", "resnet152", "resnet18"]),
        ("cnn-train --arch vgg1", ["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]),
        ("cnn-dims squeezenet1_", ["squeezenet1_0", "squeezenet1_1", "squeezenet1_"]),
        ("cnn-predict -m resnet1", ["resnet101", "resnet152", "resnet18", "resnet1"]),
        ("cnn-export resnet1", ["resnet101", "resnet152", "resnet18", "resnet1"]),
        ("cnn-extract --layers 'conv 4 k3 relu, gap' --layer ", ["conv1", "gap1"]),
        ('cnn-augment --augment "rotate 20, zo', ["rotate 20, zoom"]),
        ('cnn-augment --augment "rotate 20,', None),
        (r"cnn-augment --augment rotate\ 20,hf", ["rotate 20,hflip"]),
        ('cnn-augment --augment "fill re', ["fill reflect"]),
        ('cnn-predict --tta "crop 0.9, hf', ["crop 0.9, hflip"]),
        ("cnn-augment --augment @sp", ["@split.csv", "@split.jsonl", "@split.tsv"]),
        ("cnn-augment --augment @ph", ["@photos/"]),
        ('cnn-train --layers "3 * (co', ["3 * (conv", "3 * (concat("]),
        ('cnn-train-head --head "dense 3 re', ["dense 3 relu", "dense 3 relu6"]),
        ("cnn-train --amp b", ["bf16"]),
        ("cnn-train --amp=b", ["bf16"]),
        ("cnn-train --epochs ", []),
        ("cnn-split --group ", []),
        ("cnn-dims --pad ", ["same", "valid"]),
        ("cnn-predict --top ", ["all"]),
        ("cnn-cam --device c", ["cpu", "cuda"]),
        ("cnn-cam --colormap vi", ["viridis"]),
        ("cnn-cam --class t", ["top", "true"]),
        ("cnn-cam -m resnet18 --class goldf", ["goldfish", "goldfinch"]),
        ("cnn-cam -m resnet18 --class name:goldf", ["name:goldfish", "name:goldfinch"]),
        ("cnn-attack -m resnet18 --target goldf", ["goldfish", "goldfinch"]),
        ("cnn-check --probes width,hei", ["width,height"]),
        ("cnn-eval --fail-over ", ["log_loss=", "ece=", "set_size=", "hamming_loss="]),
        ("cnn-eval --fail-under rec", ["recall_micro=", "recall_macro=", "recall:"]),
        ("cnn-eval --truth split.tsv --fail-under recall:", ["recall:red="]),
        ("cnn-eval --truth photos --fail-under recall:b", ["recall:blue="]),
        ("cnn-eval --truth sets --fail-under f1:", ["f1:red="]),
        ("cnn-eval train.tsv --fail-under recall:", ["recall:red="]),
        ("cnn-eval broken.tsv --fail-under recall:", []),
        ("cnn-report train.tsv -o x.html --fail-under recall:", ["recall:red="]),
        ("cnn-split photos --split ", ["blue", "red"]),
        ("cnn-cam sets --split ", ["train", "val"]),
        ("cnn-cam split.tsv --split ", ["train", "fold0"]),
        ("cnn-cam split.tsv --split=f", ["fold0"]),
        ("cnn-cam split.csv --split ", ["dev"]),
        ("cnn-cam split.jsonl --split ", ["held"]),
        ("cnn-cam utf16.csv --split ", ['the "new" one']),
        ("cnn-cam mac.tab --split ", ["the first", "last"]),
        ("cnn-eval p.tsv --truth split.tsv --split t", ["train"]),
        ("cnn-cam --split ", ["train", "val", "test"]),
        ("cnn-train split.tsv --hold-out ", ["train", "fold0"]),
        ("cnn-train-head train.npy --hold-out ", ["fold7"]),
    ],
)
def test_values_are_completed(line, found, values, folder):
    if found is None:
        assert values(line)[:2] == ["rotate 20, rotate", "rotate 20, shift"]
    else:
        assert [value for value in values(line) if value != "cuda:0"] == found


@pytest.mark.parametrize(
    ("line", "kind", "extensions"),
    [
        ("cnn-cam -o ", "dir", ""),
        ("cnn-split --errors ", "file", "*"),
        ("cnn-check --features ", "file", ".npy"),
        ("cnn-train-head ", "file", ".npy"),
        ("cnn-predict -m ", "file", ".onnx"),
        ("cnn-export ", "file", ".pt"),
        ("cnn-curves ", "file", ".csv"),
        ("cnn-cam -m ", "file", ".pt .onnx"),
        ("cnn-extract --weights ", "file", ".pth .pt .bin .safetensors"),
        ("cnn-eval ", "file", ".tsv .tab .csv .jsonl .ndjson .json"),
        ("cnn-split ", "file", ".tsv .txt .jpg .png .heic"),
        ("cnn-finetune ", "file", ".pt .tsv"),
        ("cnn-cam --truth", None, ""),
        ("cnn-eval p.tsv --truth ", "file", ".tsv .csv .jsonl"),
        ("cnn-train --val ", "file", ".tsv .csv .jsonl"),
        ("cnn-train-head --val ", "file", ".tsv .npy"),
    ],
)
def test_files_are_listed_by_the_shell(line, kind, extensions, complete, folder):
    """With the extensions to list."""
    found = [each for each in complete(line) if each[0] in ("file", "dir")]
    assert [each[0] for each in found] == ([kind] if kind else [])
    listed = {word for each in found for word in each[2].split()}
    assert set(extensions.split()) <= listed
    assert ".png" not in listed or not line.endswith(("--truth ", "--val "))  # a single image has no class


def test_unfinished_words_get_no_space(complete, folder):
    """No space follows a candidate that is not finished."""
    assert ("plain", "resnet18", "") in complete("cnn-train --arch resnet1")
    assert complete('cnn-augment --augment "hf') == [("open", "hflip", "")]
    if find_spec("timm"):
        assert complete("cnn-train --arch tim") == [("open", "timm:", "")]
        assert ("plain", "timm:resnet50", "") in complete("cnn-train --arch timm:resnet5")


@pytest.mark.parametrize("name", ["head.pt", "head.onnx"])
def test_classes_are_those_of_the_model(name, values, model):
    assert values(f"cnn-cam -m {name} --class ") == ["top", "true", "all", "golden retriever", "cat"]
    assert values(f"cnn-cam -m {name} --class name:") == ["name:golden retriever", "name:cat"]
    assert values(f"cnn-cam -m {name} --class name:c") == ["name:cat"]


@pytest.mark.parametrize("name", ["pipe.pt", "pipe.onnx", "pipe.tsv"])
def test_pipes_are_not_waited_for(name, values, folder):
    os.mkfifo(name)
    start = time.monotonic()
    assert values(f"cnn-cam -m {name} --class ")[:3] == ["top", "true", "all"]
    assert values(f"cnn-cam {name} --split ") == ["train", "val", "test"]
    assert time.monotonic() - start < 30


def test_networks_are_those_that_torchvision_lists(folder):
    import torchvision

    assert candidates.network_names("torchvision") == sorted(torchvision.models.list_models(module=torchvision.models))


def test_classes_of_published_networks_are_those_of_the_catalogue(folder):
    from cnnkit.nets import catalogue

    assert tuple(candidates._imagenet()) == catalogue.class_names(1000)


@pytest.mark.slow
def test_networks_are_those_that_timm_lists(folder):
    timm = pytest.importorskip("timm")
    assert set(candidates.network_names("timm")) == set(timm.list_models())


# ---------------------------------------------------------------- layers


def test_layers_come_from_the_cache(values, folder, monkeypatch):
    """No process is started for layers in the cache; a changed model has a new key."""
    monkeypatch.setattr(candidates.subprocess, "Popen", None)
    layers = ["block1_conv1\tmaps\tweights", "conv.1.a\tmaps\tweights", "relu\tmaps", "fc\tweights"]
    peek.remember(candidates._key("resnet18"), layers)
    assert values("cnn-cam -m resnet18 --layer ") == ["block1_conv1", "conv.1.a", "relu"]
    trained = ["all", "none", "block1", "conv.1", "block1_conv1", "conv.1.a"]
    assert values("cnn-finetune --backbone resnet18 --unfreeze ") == trained
    before = candidates._key("broken.pt")
    Path("broken.pt").write_bytes(b"other")
    assert candidates._key("broken.pt") != before


def test_layers_of_an_exported_model(values, model, monkeypatch):
    monkeypatch.setattr(candidates.subprocess, "Popen", None)
    candidates.keep_layers("foreign.onnx")
    assert values("cnn-maps -m foreign.onnx --layer ") == ["/conv1/Conv"]


def test_unknown_networks_start_no_process(values, folder, monkeypatch):
    monkeypatch.setattr(candidates.subprocess, "Popen", None)
    assert values("cnn-cam -m resnet19 --layer ") == []
    assert values("cnn-cam -m missing.pt --layer ") == []
    assert values("cnn-cam --layer ") == []


def test_one_process_lists_layers_at_a_time(folder):
    key = candidates._key("resnet18")
    with peek.claimed(key) as first, peek.claimed(key) as second:
        assert (first, second) == (True, False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_layers_that_are_offered_are_accepted(name, values, folder, monkeypatch):
    """By the code that reads the options; the list of one network comes from the process that completion starts."""
    from cnnkit.choices import Pool
    from cnnkit.nets import backbones, catalogue, freezing, layer_graph

    monkeypatch.setattr(candidates, "PATIENCE", 100)
    if name == "vgg16":
        candidates.keep_layers(name)
        monkeypatch.setattr(candidates.subprocess, "Popen", None)
    monkeypatch.setattr(catalogue, "network_for", functools.cache(catalogue.network_for))  # builds it once
    spatial = values(f"cnn-cam -m {name} --layer ")
    trained = values(f"cnn-finetune --backbone {name} --unfreeze ")
    assert len(spatial) > 10
    assert len(trained) > 10
    graph, _ = layer_graph.of_name(name, weights="none")
    for layer in spatial:
        assert graph.find(layer).is_spatial, layer
    backbone, _, _ = backbones.pretrained(name, weights="none", pool=Pool.AVG)
    for layer in trained:
        freezing.find(backbone, layer, network=name)


# ---------------------------------------------------------------- manners


@pytest.mark.parametrize(
    "line",
    [
        "cnn-cam --no-such-option x --layer ",
        "cnn-cam --version --mo",
        "cnn-cam -m broken.pt --class ca",
        "cnn-cam -m broken.onnx --class ca",
        "cnn-cam broken.tsv --split x",
        "cnn-cam missing.tsv --split x",
        "cnn-train --lr nan --epochs x --hold-out x",
        "cnn-train --layers 'conv' --augment 'x",
        "cnn-extract --layers 'nonsense 3' --layer ",
        "cnn-cam 'it",
        'cnn-cam "a\\',
        "cnn-cam -- --x",
        "cnn-split --ratio '0.5",
    ],
)
def test_bad_lines_print_no_error(line, complete, folder):
    """Whatever is on the line, stderr stays empty and stdout has only candidates."""
    complete(line)


def test_nothing_heavy_is_loaded(folder):
    """No torch, onnx or numpy, except for layers."""
    models = ["cnn-cam -m resnet18 --class a", "cnn-cam -m vg", "cnn-cam -m head.pt --layer "]
    lines = [*models, "cnn-cam --", "cnn-cam split.tsv --split "]
    program = (
        "import os, sys\n"
        "from cnnkit_tools import cnn_cam\n"
        "os.environ['_CNN_CAM_COMPLETE'] = 'complete_zsh'\n"
        "for os.environ['COMP_WORDS'] in sys.argv[1:]:\n"
        "    try: cnn_cam.main([])\n"
        "    except SystemExit: pass\n"
        "print('loaded', *{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *lines], capture_output=True, text=True, check=True)
    assert "vgg16" in done.stdout
    heavy = {"torch", "torchvision", "timm", "onnx", "onnxruntime", "numpy", "PIL", "matplotlib", "rich"}
    assert not set(done.stderr.split()) & heavy


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cnn-cam", ([], "cnn-cam", "")),
        ("cnn-cam ", (["cnn-cam"], "", "")),
        ("cnn-cam a\\ b", (["cnn-cam"], "a b", "")),
        ("cnn-cam 'a b' c", (["cnn-cam", "a b"], "c", "")),
        ('cnn-cam "a b', (["cnn-cam"], "a b", '"')),
        ("cnn-cam --x='a ", (["cnn-cam"], "--x=a ", "'")),
        ("", ([], "", "")),
    ],
)
def test_lines_are_split_as_shells_do(line, words):
    assert completing.split(line) == words


# ---------------------------------------------------------------- installation


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("ZDOTDIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_installation_is_for_all_commands_and_done_once(shell, home):
    """A second installation changes nothing; the start-up file keeps its other lines."""
    (home / f".{shell}rc").write_text("alias x=y")  # without an end of line
    place = completion.install(shell)
    assert place.is_dir() if shell == "fish" else place.is_file()
    written = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    scripts = b"".join(text for path, text in written.items() if path.name != f".{shell}rc").decode()
    for name in COMMANDS:
        assert re.search(rf"\b{name}(?![\w-])", scripts)
    completion.install(shell)
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == written
    if shell == "fish":
        assert {path.stem for path in place.iterdir()} == set(COMMANDS)
    else:
        first, *lines = written[home / f".{shell}rc"].decode().splitlines()
        assert (first, len(lines)) == ("alias x=y", 1)


def test_options_install_and_show_for_the_shell_that_runs(home, run, monkeypatch):
    monkeypatch.setattr("typer._completion_shared._get_shell_name", lambda: "bash")
    done = run("cnn-dims", "--install-completion")
    script = f"{home}/.bash_completions/cnnkit.sh"
    assert done.out == f"bash: completion of all cnnkit commands installed in {script}; open a new shell to use it\n"
    shown = run("cnn-split", "--show-completion").out
    assert shown == (home / ".bash_completions" / "cnnkit.sh").read_text()
    monkeypatch.setattr("typer._completion_shared._get_shell_name", lambda: "tcsh")
    assert run("cnn-split", "--install-completion", status=2).err == (
        "cnn-split: completion is available for bash, zsh, fish, not for tcsh\n"
    )


# ---------------------------------------------------------------- shells


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, program, *, home, folder):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {"CNNKIT_CACHE": str(folder / ".cache"), "PATH": path, "LC_ALL": "C.UTF-8"}
        env = kept | {"HOME": str(home), "TERM": "xterm", "PS1": "> ", "SHELL": program}
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            os.chdir(folder)
            os.execvpe(program, [program, "-i"], env)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.read_until(r"\S", quiet=1.0)

    def read_until(self, pattern, *, timeout=30, quiet=0.0):
        """Read until the output matches a pattern and nothing came for `quiet` seconds."""
        shown, end, last = "", time.monotonic() + timeout, time.monotonic()
        while time.monotonic() < end:
            if select.select([self.terminal], [], [], 0.05)[0]:
                data = os.read(self.terminal, 65536).decode(errors="replace")
                for query, reply in (
                    ("\x1b[6n", b"\x1b[1;1R"),
                    ("\x1b[c", b"\x1b[?62;c"),
                    ("\x1b[0c", b"\x1b[?62;c"),
                ):
                    if query in data:  # fish queries the terminal
                        os.write(self.terminal, reply)
                shown, last = shown + data, time.monotonic()
            plain = re.sub(
                r"\x1b(\[[0-9;?<>=]*[a-zA-Z]|[()][AB0]|[=>]|\][^\x07\x1b]*(\x07|\x1b\\))|[\r\n\x07]", "", shown
            )
            if re.search(pattern, plain) and time.monotonic() - last > quiet:
                return plain
        raise AssertionError(f"no {pattern} in {shown!r}")

    def types(self, keys, pattern):
        os.write(self.terminal, keys.encode())
        try:
            return self.read_until(pattern)
        finally:
            os.write(self.terminal, b"\x15")  # Ctrl-U: an empty line again
            with contextlib.suppress(AssertionError):
                self.read_until("$^", timeout=0.05)

    def close(self):
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["bash", "zsh", "fish"])
def test_completion_in_a_real_shell(program, home, folder):
    """In a real shell, on a terminal: options, words with spaces and colons in them, files by their kind, folders, quotes."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    (folder / "my photos" / ".hidden").mkdir(parents=True)
    (folder / "my photos" / "a b.PNG").write_bytes(b"")
    completion.install(program)
    shell = Shell(program, home=home, folder=folder)
    try:
        shell.types("cnn-cam --qui\t", "--quiet ")
        shell.types("cnn-train --arch squeezenet1_0\t", "squeezenet1_0 ")
        shell.types("cnn-extract --backbone timm:resnetv2_50x1_b\t", "(?<!timm:)timm:resnetv2_50x1_bit ")
        shell.types('cnn-augment --augment "rotate 20, zo\t', '"rotate 20, zoom')
        shell.types("cnn-augment --augment rotate\\ 20,\\ hf\t", r"rotate\\ 20,\\ hflip")
        shell.types("cnn-train --amp=bf\t", "--amp=bf16 ")
        shell.types("cnn-cam split.tsv --split fo\t", "--split fold0 ")
        shell.types("cnn-check --features t\t", "--features train.npy ")
        shell.types("cnn-check --features ph\t", "--features photos/")
        shell.types("cnn-cam -o my\t", r"-o my\\ photos/")
        shell.types("cnn-cam my\\ photos/\t", r"my\\ photos/a\\ b.PNG ")
        shell.types("cnn-split --errors=split.j\t", "--errors=split.jsonl ")
        shell.types("cat x | cnn-eval --trut\t", "--truth ")
    finally:
        shell.close()
