"""Errors of installed commands on a machine with a GPU that cannot be used; each runs in its own process."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnkit.engine import device

pytestmark = pytest.mark.gpu

SMALL = ["--layers", "conv 4 k3 relu", "--weights", "none", "--size", "32"]


@pytest.fixture
def refused(images, tmp_path):
    """Return a function that runs a command in another environment, and returns its exit status and the lines on stderr."""
    folder = images(red=3, blue=3)

    def run(name, *words, environment=None):
        done = subprocess.run(
            [Path(sys.executable).with_name(name), folder, *words],
            cwd=tmp_path,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stderr
        assert "onnxruntime_src" not in done.stderr
        return done.returncode, done.stderr.splitlines()

    return run


def test_missing_gpu(refused):
    """A number above the last, with ONNX Runtime, torch and in training."""
    beyond = f"cuda:{device.gpus()}"
    for name, *words in (
        ("cnn-extract", "-o", "x.npy", *SMALL, "--device", beyond),
        ("cnn-extract", "-o", "x.npy", *SMALL, "--device", beyond, "--engine", "torch"),
        (
            "cnn-train",
            "-o",
            "m.pt",
            "--layers",
            "conv 4 k3 relu, gap",
            "--size",
            "32",
            "--epochs",
            "1",
            "--device",
            beyond,
        ),
    ):
        status, lines = refused(name, *words)
        assert status == 1
        assert f"--device {beyond}" in lines[-1]


def test_hidden_gpus(refused):
    """`cuda` fails, `auto` uses the CPU with the usual notice."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    for engine in ("onnx", "torch"):
        words = ["-o", f"{engine}.npy", *SMALL, "--engine", engine]
        status, lines = refused("cnn-extract", *words, "--device", "cuda", environment=hidden)
        assert (status, len(lines)) == (1, 1)
        status, lines = refused("cnn-extract", *words, environment=hidden)
        assert status == 0
        assert any(line.endswith("running on the CPU") for line in lines)


@contextlib.contextmanager
def occupied(*, except_bytes):
    """Occupy the GPU's memory except for some bytes."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(max(free - except_bytes, 0), dtype=torch.uint8, device="cuda")
    try:
        yield
    finally:
        del held
        torch.cuda.empty_cache()


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_full_gpu(refused, engine):
    """Another process has nearly all of its memory, and even the libraries do not fit: the last line says so."""
    with occupied(except_bytes=50 << 20):
        words = ["--backbone", "resnet50", "--weights", "none", "--device", "cuda", "--engine", engine]
        status, lines = refused("cnn-extract", "-o", "x.npy", *words)
    assert status == 1
    assert "memory" in lines[-1]


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_gpu_with_memory_for_a_smaller_batch(refused, engine):
    """Six images of 2048 pixels make feature maps of 1.6 GB, a single one 0.3 GB: the batch is split, and all images are done."""
    with occupied(except_bytes=2500 << 20):
        words = [
            "--backbone",
            "resnet50",
            "--weights",
            "none",
            "--size",
            "2048",
            "--device",
            "cuda",
            "--engine",
            engine,
        ]
        status, lines = refused("cnn-extract", "-o", "x.npy", *words)
    assert status == 0, lines
    assert engine == "torch" or any("splitting it into parts of" in line for line in lines)
