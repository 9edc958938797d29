"""Commands write nothing below an empty home directory except cnnkit's cache."""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cnnkit.errors import CnnkitError
from cnnkit.formats import cache

CHOSEN = (
    "CNNKIT_CACHE",
    "CUDA_CACHE_PATH",
    "HF_HUB_DISABLE_TELEMETRY",
    "MPLCONFIGDIR",
    "ORT_DISABLE_TELEMETRY",
    "TORCHINDUCTOR_CACHE_DIR",
    "TORCH_HOME",
    "TRITON_CACHE_DIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
)


@pytest.fixture
def home(tmp_path):
    """Return an environment with an empty home directory and TMPDIR, and without the user's settings."""
    env = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    for name in ("home", "tmp", "work"):
        (tmp_path / name).mkdir()
    return env | {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}


def started(env, *words):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env=env,
        cwd=Path(env["HOME"]).parent / "work",
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def left(env):
    """List every file below the home directory and TMPDIR."""
    folders = [Path(env["HOME"]), Path(env["TMPDIR"])]
    return sorted(str(path.relative_to(folder)) for folder in folders for path in folder.rglob("*") if path.is_file())


def test_library_writes_nothing(home):
    """onnxruntime writes no device id and sends nothing, also in a child process."""
    program = (
        "import cnnkit, os, subprocess, sys\n"
        "from cnnkit.engine import session\n"
        "subprocess.run([sys.executable, '-c', 'import onnxruntime'], check=True)\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    assert started(home, "-c", program) == "1\n"
    assert left(home) == []


@pytest.mark.parametrize("chosen", ["0", "1"])
def test_telemetry_setting_of_the_user_is_kept(home, chosen):
    """ORT_DISABLE_TELEMETRY=0 enables onnxruntime's default."""
    program = "import cnnkit, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert started(home | {"ORT_DISABLE_TELEMETRY": chosen}, "-c", program) == f"{chosen}\n"


def test_matplotlib_settings_of_the_user_are_kept(tmp_path, monkeypatch):
    """Its cache is put into cnnkit's only if the user has neither chosen a place nor a settings folder."""
    for name in CHOSEN:
        monkeypatch.setenv(name, "")  # so that all are restored
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    cache.keep_inside()
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / ".cache/cnnkit/matplotlib")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / ".cache/cnnkit/torchinductor")
    assert os.environ["CUDA_CACHE_PATH"] == str(tmp_path / ".cache/cnnkit/cuda")
    monkeypatch.setenv("MPLCONFIGDIR", "/mine")
    cache.keep_inside()
    assert os.environ["MPLCONFIGDIR"] == "/mine"
    monkeypatch.delenv("MPLCONFIGDIR")
    (tmp_path / ".config/matplotlib").mkdir(parents=True)
    cache.keep_inside()
    assert "MPLCONFIGDIR" not in os.environ


def test_user_without_a_home_directory(monkeypatch, run, tmp_path):
    """As in a container with an arbitrary user id: commands work, and an error about the cache has a remedy."""
    for name in (*CHOSEN, "HOME"):
        monkeypatch.setenv(name, "")  # so that all are restored
        monkeypatch.delenv(name)

    def unknown(_):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert run("cnn-dims", "--input", "8,8,3", "--pool", "2").err == ""
    assert "MPLCONFIGDIR" not in os.environ
    with pytest.raises(CnnkitError, match=r"no home directory .* CNNKIT_CACHE"):
        cache.folder("weights")
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path))
    assert cache.find_weights("0" * 64) is None
    cache.keep_inside()
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / "matplotlib")


@pytest.mark.slow
def test_commands_write_only_to_the_cache(home):
    """Features, training, export, prediction, plots and heat maps write only below ~/.cache/cnnkit."""
    work = Path(home["HOME"]).parent / "work"
    for number in range(8):
        file = work / "photos" / ("train", "val")[number // 4] / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number * 30, 200 * (number % 2), 9)).save(file)
    program = (
        "import contextlib, json, sys\n"
        "from importlib.metadata import entry_points\n"
        "for name, *words in json.loads(sys.argv[1]):\n"
        "    (entry,) = entry_points(group='console_scripts', name=name)\n"
        "    try:\n"
        "        with open('pred.tsv' if name == 'cnn-predict' else 'out', 'w') as out, contextlib.redirect_stdout(out):\n"
        "            entry.load()(words)\n"
        "    except SystemExit as stop:\n"
        "        assert not stop.code, (name, stop.code)\n"
    )
    lines = [
        ["cnn-extract", "photos/train", "--layers", "conv 4 k3 relu, pool 2", "--size", "16", "-o", "x.npy"],
        ["cnn-train-head", "x.npy", "-o", "head.pt", "--epochs", "2"],
        ["cnn-train", "photos", "--layers", "conv 4 k3 relu", "--size", "16", "--epochs", "1", "-o", "new.pt"],
        ["cnn-export", "head.pt", "-o", "head.onnx"],
        ["cnn-predict", "-m", "head.onnx", "photos/val"],
        ["cnn-cam", "-m", "head.pt", "photos/val", "-o", "maps"],
        ["cnn-curves", "head.csv", "-o", "curves.png"],
        ["cnn-eval", "pred.tsv", "--confusion", "confusion.png"],
    ]
    started(home, "-c", program, json.dumps(lines))
    assert [path for path in left(home) if not path.startswith(".cache/cnnkit/")] == []
    assert (work / "confusion.png").exists()
