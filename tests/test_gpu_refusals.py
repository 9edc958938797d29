"""What commands say on a machine with a GPU where it cannot be had; installed commands, each in a process of its own."""

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
    """Run a command in another environment: status, and what it says on stderr in how many lines."""
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


def test_a_gpu_that_is_not_there(refused):
    """One more than there are, for ONNX Runtime, torch and a training."""
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


def test_gpus_that_are_hidden(refused):
    """`cuda` fails, `auto` takes the CPU with the usual notice."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    for engine in ("onnx", "torch"):
        words = ["-o", f"{engine}.npy", *SMALL, "--engine", engine]
        status, lines = refused("cnn-extract", *words, "--device", "cuda", environment=hidden)
        assert (status, len(lines)) == (1, 1)
        status, lines = refused("cnn-extract", *words, environment=hidden)
        assert status == 0
        assert any(line.endswith("running on the CPU") for line in lines)


def test_a_gpu_that_is_full(refused):
    """Another process has nearly all of its memory: commands end with a sentence, or with smaller batches."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(free - (600 << 20), 0), dtype=torch.uint8, device="cuda")
    try:
        words = ["--backbone", "resnet50", "--weights", "none", "--device", "cuda"]
        for engine in ("onnx", "torch"):
            status, lines = refused("cnn-extract", "-o", f"{engine}.npy", *words, "--engine", engine)
            assert status in (0, 1)
            assert status == 0 or "memory" in lines[-1] or "failed" in lines[-1]
    finally:
        del taken
        torch.cuda.empty_cache()
