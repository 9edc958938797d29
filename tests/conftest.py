"""Fixtures of all tests: running commands, small images, and real photographs if there are any."""

import contextlib
import fcntl
import functools
import gc
import json
import os
import pty
import shlex
import shutil
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

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch read it: pytest-xdist runs one process per core
os.environ.setdefault("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))  # one font list for all tests

import hypothesis
import numpy as np
import pytest
from PIL import Image

# Generated inputs are tested however busy the machine is: slow generation and slow calls are no errors.
hypothesis.settings.register_profile("cnnkit", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("cnnkit")

HERE = Path(__file__).parent
ROOT = HERE.parent
SHARED = Path(os.environ.get("CNNKIT_TEST_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Outcome:
    """The exit status and both streams of a command."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows of the TSV on stdout, by column name."""
        header, *lines = self.out.splitlines()
        return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


def _feed(descriptor, data):
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
        pipe.write(data or b"")


@functools.cache
def entry_point(name):
    """Return the entry point of an installed command; looking for it reads a file of every installed package."""
    (entry,) = entry_points(group="console_scripts", name=name)
    return entry


@pytest.fixture
def run(capfd, monkeypatch):
    """Run an installed command in this process: `run("cnn-dims", "--input", "28,28,1")`; `stdin=` takes text or bytes.

    With `typing=True` standard input is a terminal without input.
    """

    def run_command(name, *words, stdin=None, typing=False, status=0):
        monkeypatch.setattr(sys, "warnoptions", ["error"])  # keeps pytest's warning filters during the command
        capfd.readouterr()
        data = stdin.encode() if isinstance(stdin, str) else stdin
        with contextlib.ExitStack() as stack:
            if typing:
                ours, reading = pty.openpty()
                stack.callback(os.close, ours)
            else:
                reading, writing = os.pipe()
                feeder = threading.Thread(target=_feed, args=(writing, data))
                feeder.start()  # a pipe holds 64 KiB: more must be written while the command reads
                stack.callback(feeder.join)
            pipe = stack.enter_context(os.fdopen(reading, encoding="utf-8", errors="surrogateescape"))
            stack.enter_context(monkeypatch.context()).setattr(sys, "stdin", pipe)
            with pytest.raises(SystemExit) as stop:
                entry_point(name).load()([str(word) for word in words])
        captured = capfd.readouterr()
        outcome = Outcome(stop.value.code or 0, captured.out, captured.err)
        assert status is None or outcome.status == status, outcome
        return outcome

    return run_command


@pytest.fixture
def hide_heif(monkeypatch):
    """Return a function that makes pillow-heif appear not installed during the test."""
    from cnnkit.data import decode
    from cnnkit.formats import image_formats

    def hide():
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        forget()

    def forget():
        decode._register_heif.cache_clear()
        image_formats.reads_heif.cache_clear()

    yield hide
    forget()


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """Yield a folder with all installed commands and python; the commands are forks of a server that has already imported torch and cnnkit.

    They behave as the installed ones, except for their start and for variables that Python and torch read then: with PYTHON... in the
    environment, the installed commands are run. The processes of pytest-xdist share one server, which ends after the last of them.
    """
    if not hasattr(os, "pidfd_open"):
        yield Path(sys.executable).parent
        return
    place = shared_folder(tmp_path_factory) / "server"
    place.mkdir(exist_ok=True)
    found, alive = place / "folder", place / "alive"
    with contextlib.ExitStack() as stack:
        with locked(place):
            if starts := not found.exists():
                os.mkfifo(alive)
            ours = os.open(alive, os.O_RDWR)  # the server ends when no process has it open
            if starts:
                found.write_text(str(stack.enter_context(command_server(alive))))
            stack.callback(os.close, ours)
            folder = Path(found.read_text())
        yield folder
        if starts:
            with locked(place):  # a process that has not asked for the commands yet starts another server
                found.unlink()
                alive.unlink()


@contextlib.contextmanager
def command_server(alive):
    """Start a server of commands, and yield the folder of its commands; wait at the end until nothing has the FIFO `alive` open."""
    installed = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="cnnkit-") as name, alive.open("rb") as waiting:
        folder = Path(name)  # the path of a socket must be short
        for entry in entry_points(group="console_scripts"):
            if entry.module.startswith("cnnkit_tools."):
                client = HERE / "server" / "client.py"
                words = (sys.executable, "-SE", client, folder / "socket", installed / entry.name)
                write_program(folder / entry.name, *words)
        for python in ("python", "python3"):
            write_program(folder / python, sys.executable)
        with subprocess.Popen(
            [sys.executable, HERE / "server" / "serve.py", folder],
            stdin=waiting,
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as server:
            assert server.stdout.readline() == b"ready\n"
            yield folder


@contextlib.contextmanager
def locked(folder):
    """Hold a lock on a folder: other processes of the tests wait for it."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_program(path, *words):
    """Write a shell script that executes another program."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
    path.chmod(0o755)


@pytest.fixture(scope="session")
def shell(commands):
    """Return a function that runs a shell command line with the installed commands on PATH."""

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
    """Return the folder of `make quickstart`, made once for all processes of pytest-xdist; tests must not change it.

    CNNKIT_QUICKSTART names a folder that `make quickstart` has just made, which is copied.
    """
    place = shared_folder(tmp_path_factory) / "digits"
    place.mkdir(exist_ok=True)
    with locked(place):  # other processes wait, and find the folder complete
        if (ready := os.environ.get("CNNKIT_QUICKSTART")) and not (place / "quickstart").exists():
            shutil.copytree(ready, place / "quickstart")  # with the times of its files, which make compares
        shell(f"make -f {ROOT / 'examples' / 'digits' / 'Makefile'} OUT=quickstart BIN={commands}/", cwd=place)
    return place / "quickstart"


@pytest.fixture(scope="session")
def wait_for():
    """Return a function that waits until a condition is true and returns its value: `wait_for(path.exists)`; fails after a timeout."""

    def wait(condition, timeout=60):
        end = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < end, f"still not true after {timeout} s"
            time.sleep(0.002)
        return found

    return wait


@pytest.fixture(scope="session")
def agree():
    """Return a function that checks that two trainings gave the same --json output and the same models, up to rounding."""
    import torch

    from cnnkit.formats import torch_model

    def check(outcomes, models, *, count):
        records = [[json.loads(each) for each in outcome.out.splitlines()] for outcome in outcomes]
        assert [len(each) for each in records] == [count, count], outcomes
        for ours, theirs in zip(*records, strict=True):
            assert {key for key in ours if ours[key] is None} == {key for key in theirs if theirs[key] is None}
            known = [{key: value for key, value in each.items() if value is not None} for each in (ours, theirs)]
            ours, theirs = ({**each, "seconds": 0, "model": 0} for each in known)
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
        one, other = (torch_model.load(path) for path in models)
        for name, tensor in one.state.items():
            torch.testing.assert_close(other.state[name], tensor, rtol=1e-4, atol=1e-5)

    return check


@pytest.fixture(scope="session")
def terminal():
    """Return a function that runs a program with some streams on a terminal of 100 columns, whose output is `out`; pipes go to `err`."""

    def run_there(*words, on=("stdin", "stdout", "stderr"), cwd=None, env=None, interrupt_at=None):
        """Run a program; `interrupt_at` presses Ctrl-C after these bytes are printed."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        streams |= dict.fromkeys(on, theirs)

        # Ctrl-C reaches the first process of a new session to open the terminal
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
        with contextlib.suppress(OSError):  # reading fails when the other side is closed
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
    """Return the folder that all processes of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Use a separate cache for tests, shared by all of them, because exports take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNKIT_CACHE", str(shared_folder(tmp_path_factory) / "cache"))
        patch.setenv("CNNKIT_OFFLINE", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def _operators_once(request):
    """Make torch's exporter load its table of operators once per process: it takes half of the time of a small export."""
    if not any(item.path.parent.name in ("commands", "engine") for item in request.session.items):
        yield  # nothing is exported; the exporter takes seconds to import
        return
    with pytest.MonkeyPatch.context() as patch:
        # In other versions of torch it is elsewhere: tests are slower then
        with contextlib.suppress(ImportError, AttributeError):
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="module", autouse=True)
def _forget(request):
    """Clear the functools.cache of a module after its tests: they keep networks of hundreds of megabytes."""
    yield
    kept = [each for each in vars(request.module).values() if hasattr(each, "cache_clear")]
    if kept:
        for each in kept:
            each.cache_clear()
        gc.collect()


@pytest.fixture
def pretended_gpu(monkeypatch, bound_to_cpu):
    """Simulate a GPU, and return the arguments of ONNX Runtime's sessions: bytes, provider, options.

    Results are computed on the CPU, but all decisions are those for a GPU.
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
    """Keep values and bound outputs that ONNX Runtime would put on a GPU on the CPU."""
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
    """Return the folder of real photographs and weights, or skip the test."""
    if not SHARED.is_dir():
        pytest.skip(f"no photographs at {SHARED}")
    return SHARED


def draw(seed, *, size=(40, 32), colour=None):
    """Return a small image: noise over a gradient, tinted by class."""
    generator = np.random.default_rng(seed)
    width, height = size
    gradient = np.linspace(0, 90, width, dtype=np.float64)[None, :, None].repeat(height, axis=0)
    tint = np.asarray(colour if colour is not None else (60, 60, 60), dtype=np.float64)
    pixels = gradient + tint + generator.uniform(0, 60, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture
def no_system_fonts(tmp_path, monkeypatch):
    """Hide the fonts of the system from Pillow, and return a folder in whose stead it looks for them."""
    from cnnkit.formats import fonts

    folder = tmp_path / "share" / "fonts"
    folder.mkdir(parents=True)
    for name in ("XDG_DATA_HOME", "XDG_DATA_DIRS"):
        monkeypatch.setenv(name, str(folder.parent))
    fonts.forget()
    yield folder
    fonts.forget()


@pytest.fixture
def images(tmp_path):
    """Return a function that makes a folder of small PNG images: `images(red=6, blue=6)` makes photos/red/00.png and so on."""
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
    """Return a function that reads all files of a folder, by relative path: `contents("copies")["red/00.png"]`."""

    def read(folder):
        return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}

    return read


def pytest_configure(config):
    """Hide GPUs from tests that are not about them, and enable Ctrl-C where a background job or nohup ignores it.

    Both also apply to processes that tests start. With a GPU, `auto` would use it, but most tests compare results of a CPU.
    """
    if not asks_for_gpu(config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before CUDA is initialized
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()  # until everything is imported


def pytest_collection_finish():
    """Exclude modules and tests, which stay until the end, from garbage collections, and make those rarer: they took half of an export."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


def asks_for_gpu(expression):
    """Return whether `-m` selects the marker gpu: `gpu`, `gpu and not slow`, but not `not gpu`."""
    words = expression.replace("(", " ").replace(")", " ").split()
    return any(word == "gpu" and words[place - 1 : place] != ["not"] for place, word in enumerate(words))


#: The slowest files run first: each runs in one process, and no process should be idle at the end.
LONGEST = (
    "test_docs.py",
    "test_examples.py",
    "test_manners.py",
    "test_python_interface.py",
    "test_photos_mk.py",
    "test_completion.py",
    "test_cluster_ray.py",
    "test_cluster_examples.py",
    "fuzz/test_fuzz.py",
    "commands/test_cnn_cam.py",
    "commands/test_vision_transformers.py",
    "commands/test_cnn_check.py",
    "commands/test_cnn_extract.py",
    "engine/test_onnx_backbone.py",
    "commands/test_cnn_predict.py",
    "commands/test_cnn_finetune.py",
    "commands/test_cnn_train.py",
    "nets/test_subgraph.py",
    "train/test_head.py",
    "train/test_finetune.py",
    "train/test_step.py",
)


def pytest_collection_modifyitems(items):
    """Run the slowest files first, and skip tests that need a GPU if there is none."""
    places = {HERE / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    if not any("gpu" in item.keywords for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device, or not selected with -m gpu"))
