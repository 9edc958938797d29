"""What tests share: running a command as its entry point, small images, and the photographs where they stand."""

import contextlib
import fcntl
import functools
import gc
import json
import os
import pty
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch read it: as many processes as cores share them
os.environ.setdefault("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))  # one list of fonts for all tests

import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parent
SHARED = Path(os.environ.get("CNNKIT_TEST_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Outcome:
    """What a command left behind: its exit status and both streams."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, str]]:
        """The TSV on stdout by the names of its header row."""
        header, *lines = self.out.splitlines()
        return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


def _feed(descriptor, data):
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
        pipe.write(data or b"")


@pytest.fixture
def run(capfd, monkeypatch):
    """Run an installed command in this process: `run("cnn-dims", "--input", "28,28,1")`; `stdin=` takes text or bytes.

    With `typing=True` standard input is a terminal at which nobody types anything.
    """

    def run_command(name, *words, stdin=None, typing=False, status=0):
        (entry,) = entry_points(group="console_scripts", name=name)
        monkeypatch.setattr(sys, "warnoptions", ["error"])  # so that the command leaves pytest's filters in force
        capfd.readouterr()
        data = stdin.encode() if isinstance(stdin, str) else stdin
        with contextlib.ExitStack() as stack:
            if typing:
                ours, reading = pty.openpty()
                stack.callback(os.close, ours)
            else:
                reading, writing = os.pipe()
                feeder = threading.Thread(target=_feed, args=(writing, data))
                feeder.start()  # a pipe holds 64 KiB: more needs somebody who writes while the command reads
                stack.callback(feeder.join)
            pipe = stack.enter_context(os.fdopen(reading, encoding="utf-8", errors="surrogateescape"))
            stack.enter_context(monkeypatch.context()).setattr(sys, "stdin", pipe)
            with pytest.raises(SystemExit) as stop:
                entry.load()([str(word) for word in words])
        captured = capfd.readouterr()
        outcome = Outcome(stop.value.code or 0, captured.out, captured.err)
        assert status is None or outcome.status == status, outcome
        return outcome

    return run_command


@pytest.fixture
def hide_heif(monkeypatch):
    """Give a function after which pillow-heif is not installed, for this test."""
    from cnnkit.data import decode, image_formats

    def hide():
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        forget()

    def forget():
        decode._register_heif.cache_clear()
        image_formats.reads_heif.cache_clear()

    yield hide
    forget()


@pytest.fixture(scope="session")
def commands():
    """Give a folder with all installed commands and python; they start as forks of a server that has imported torch already.

    They do what the installed ones do, but for the start itself, and for what Python and torch read from the environment then:
    with PYTHON... in it they are the installed ones.
    """
    installed = Path(sys.executable).parent
    if not hasattr(os, "pidfd_open"):
        yield installed
        return
    with tempfile.TemporaryDirectory(prefix="cnnkit-") as name:  # the name of a socket has to be short
        folder = Path(name)
        for entry in entry_points(group="console_scripts"):
            if entry.module.startswith("cnnkit_tools."):
                client = [
                    sys.executable,
                    "-SE",
                    HERE / "server" / "client.py",
                    folder / "socket",
                    installed / entry.name,
                ]
                write_program(folder / entry.name, *client)
        for python in ("python", "python3"):
            write_program(folder / python, sys.executable)
        server = subprocess.Popen(
            [sys.executable, HERE / "server" / "serve.py", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        with server:
            try:
                assert server.stdout.readline() == b"ready\n"
                yield folder
            finally:
                server.stdin.close()


def write_program(path, *words):
    """Write a program that becomes another one."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
    path.chmod(0o755)


@pytest.fixture(scope="session")
def shell(commands):
    """Run a line of shell with the installed commands on its PATH, as a user would."""

    def run_line(line, *, cwd, status=0, stdin=subprocess.DEVNULL, env=None):
        path = f"{commands}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=cwd,
            stdin=stdin,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path, **(env or {})},
        )
        outcome = Outcome(done.returncode, done.stdout, done.stderr)
        assert status is None or outcome.status == status, outcome
        return outcome

    return run_line


@pytest.fixture(scope="session")
def quickstart(shell, commands, tmp_path_factory):
    """Give the folder that `make quickstart` makes, once for all processes of pytest-xdist; it is read only, by agreement."""
    place = shared_folder(tmp_path_factory) / "digits"
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second finds it made
        shell(f"make -f {ROOT / 'examples' / 'digits' / 'Makefile'} OUT=quickstart BIN={commands}/", cwd=place)
    return place / "quickstart"


@pytest.fixture(scope="session")
def wait_for():
    """Wait until a condition holds and give what it gave: `wait_for(path.exists)`; a test that waits in vain fails."""

    def wait(condition, timeout=60):
        end = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < end, f"still not so after {timeout} s"
            time.sleep(0.002)
        return found

    return wait


@pytest.fixture(scope="session")
def agree():
    """Demand that two trainings came to the same within rounding: what they printed with --json, and the models they wrote."""
    import torch

    from cnnkit.formats import torch_model

    def check(outcomes, models, *, count):
        records = [[json.loads(each) for each in outcome.out.splitlines()] for outcome in outcomes]
        assert [len(each) for each in records] == [count, count], outcomes
        for ours, theirs in zip(*records, strict=True):
            ours, theirs = ({**each, "seconds": 0, "model": 0} for each in (ours, theirs))
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
        one, other = (torch_model.load(path) for path in models)
        for name, tensor in one.state.items():
            torch.testing.assert_close(other.state[name], tensor, rtol=1e-4, atol=1e-5)

    return check


@pytest.fixture(scope="session")
def terminal():
    """Run a program with some of its streams on a terminal of 100 columns; what it prints there is `out`, pipes go to `err`."""

    def run_there(*words, on=("stdin", "stdout", "stderr"), cwd=None, env=None, interrupt_at=None):
        """Run; `interrupt_at` presses Ctrl-C once these bytes were printed."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        streams |= dict.fromkeys(on, theirs)

        # The first to open a terminal in a new session is who Ctrl-C reaches
        opened = ["sh", "-c", ': < "$0"; exec "$@"', os.ttyname(theirs)]
        program = subprocess.Popen(
            [*opened, *map(str, words)],
            cwd=cwd,
            env={**os.environ, "TERM": "xterm-256color", **(env or {})},
            start_new_session=True,
            **streams,
        )
        os.close(theirs)
        drawn = bytearray()
        with contextlib.suppress(OSError):  # reading fails once nobody is left on the other side
            while chunk := os.read(ours, 65536):
                drawn += chunk
                if interrupt_at is not None and interrupt_at in drawn:
                    os.write(ours, b"\x03")
                    interrupt_at = None
        os.close(ours)
        piped = "".join(stream.read().decode() for stream in (program.stdout, program.stderr) if stream)
        for stream in (program.stdout, program.stderr):
            if stream:
                stream.close()
        return Outcome(program.wait(timeout=60), drawn.decode().replace("\r\n", "\n"), piped)

    return run_there


def shared_folder(tmp_path_factory):
    """Give the folder that all processes of pytest-xdist share, each of which has its own in there."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Keep tests out of the user's cache; they share one of their own, since exports take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNKIT_CACHE", str(shared_folder(tmp_path_factory) / "cache"))
        patch.setenv("CNNKIT_OFFLINE", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def _operators_once(request):
    """Let torch's exporter read its table of operators once a process: it takes half of the time of a small export."""
    if not any(item.path.parent.name in ("commands", "engine") for item in request.session.items):
        yield  # nothing is exported; the exporter takes seconds to import
        return
    with pytest.MonkeyPatch.context() as patch:
        with contextlib.suppress(ImportError, AttributeError):  # torch may keep it elsewhere: then it takes longer
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="module", autouse=True)
def _forget(request):
    """Let go of what a module's own functools.cache keeps, once its tests are over: networks of hundreds of megabytes."""
    yield
    kept = [each for each in vars(request.module).values() if hasattr(each, "cache_clear")]
    if kept:
        for each in kept:
            each.cache_clear()
        gc.collect()


@pytest.fixture
def pretended_gpu(monkeypatch, bound_to_cpu):
    """Let the driver show a GPU, and give what ONNX Runtime is asked for there: bytes, provider, options; a CPU computes it.

    What comes of it is a CPU's, but all that is decided on the way is as on a GPU.
    """
    import onnxruntime

    from cnnkit.engine import device, session

    asked = []
    real = onnxruntime.InferenceSession

    def opening(content, options, *, providers, **words):
        name, given = providers[0] if isinstance(providers[0], tuple) else (providers[0], {})
        asked.append((content, name, given))
        return real(content, options, providers=["CPUExecutionProvider"], **words)

    monkeypatch.setattr(device, "gpus", lambda: 1)
    monkeypatch.setattr(device, "driver_version", lambda: (99, 0))
    monkeypatch.setattr(onnxruntime, "InferenceSession", opening)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(session, "check_placement", lambda *_: None)
    return asked


@pytest.fixture
def bound_to_cpu(monkeypatch):
    """Let what ONNX Runtime is to put on a GPU stay on the CPU: values that are made there, and outputs that are bound."""
    import onnxruntime

    making, binding = onnxruntime.OrtValue.ortvalue_from_numpy, onnxruntime.IOBinding.bind_output

    def made(array, kind="cpu", index=0):
        assert kind == "cuda"
        return making(array, "cpu", 0)

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", staticmethod(made))
    monkeypatch.setattr(
        onnxruntime.IOBinding, "bind_output", lambda self, name, kind, index: binding(self, name, "cpu", 0)
    )


@pytest.fixture
def photos():
    """The folder of real photographs and weights, or a skip that says so."""
    if not SHARED.is_dir():
        pytest.skip(f"no photographs at {SHARED}")
    return SHARED


def draw(seed, *, size=(40, 32), colour=None):
    """Make a small image: noise over a gradient, tinted so that classes can be told apart."""
    generator = np.random.default_rng(seed)
    width, height = size
    gradient = np.linspace(0, 90, width, dtype=np.float64)[None, :, None].repeat(height, axis=0)
    tint = np.asarray(colour if colour is not None else (60, 60, 60), dtype=np.float64)
    pixels = gradient + tint + generator.uniform(0, 60, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture
def images(tmp_path):
    """Make a folder of small PNG images: `images(red=6, blue=6)` gives photos/red/00.png and so on."""
    tints = {"red": (150, 0, 0), "blue": (0, 0, 150), "green": (0, 150, 0)}

    def make(name="photos", /, *, size=(40, 32), suffix=".png", **classes):
        root = tmp_path / name
        for number, (label, count) in enumerate(classes.items()):
            folder = root / label
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                draw(1000 * number + index, size=size, colour=tints.get(label, (40 * number,) * 3)).save(
                    folder / f"{index:02d}{suffix}"
                )
        return root

    return make


@pytest.fixture(scope="session")
def contents():
    """Give what is in all files of a folder, by their paths below it: `contents("copies")["red/00.png"]`."""

    def read(folder):
        return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}

    return read


def pytest_configure(config):
    """Hide GPUs from tests that are not about them, and let Ctrl-C be Ctrl-C again where a background job or nohup has it ignored.

    Both hold here and in what tests start. `auto` would take a GPU, and the bits of a CPU are what most tests compare.
    """
    if not asks_for_gpu(config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before anybody starts CUDA
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def asks_for_gpu(expression):
    """Tell whether `-m` wants the tests marked gpu by name: `gpu`, `gpu and not slow`, but not `not gpu`."""
    words = expression.replace("(", " ").replace(")", " ").split()
    return any(word == "gpu" and words[place - 1 : place] != ["not"] for place, word in enumerate(words))


#: The files that take longest come first: each stays in one process, and at the end none should wait for another.
LONGEST = (
    "test_docs.py",
    "test_examples.py",
    "test_manners.py",
    "commands/test_cnn_check.py",
    "commands/test_cnn_extract.py",
    "engine/test_onnx_backbone.py",
    "commands/test_cnn_predict.py",
    "commands/test_cnn_finetune.py",
    "commands/test_cnn_train.py",
    "nets/test_subgraph.py",
)


def pytest_collection_modifyitems(items):
    """Put the longest first, and skip what needs a GPU where there is none."""
    places = {HERE / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    if not any("gpu" in item.keywords for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device, or not asked for with -m gpu"))
