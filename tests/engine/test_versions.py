"""The line for a bug report: versions read from files match those of the libraries, and GPUs are named."""

import sys

import onnxruntime
import pytest
import torch

from cnnkit import engine
from cnnkit.engine import device, session, versions
from cnnkit.errors import DeviceError


def test_versions_are_those_of_the_libraries(monkeypatch):
    """CUDA is that of torch and of ONNX Runtime, although neither is imported for it."""
    monkeypatch.setattr(device, "driver_version", lambda: None)
    line = versions.line()
    assert line.startswith("cnnkit ")
    assert f", torch {torch.__version__.partition('+')[0]}" in line
    assert (f"CUDA {torch.version.cuda} (torch)" in line) == (torch.version.cuda is not None)
    assert (f"CUDA {onnxruntime.cuda_version} (onnxruntime)" in line) == bool(onnxruntime.cuda_version)
    assert "no NVIDIA driver" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "failure", [None, DeviceError("no cuBLAS"), ImportError("no cuBLAS"), RuntimeError("no cuBLAS")]
)
def test_gpus_and_driver_are_named(monkeypatch, failure):
    """And whether ONNX Runtime works there, which is tried, since a provider may be listed and not load."""

    def attempt():
        if failure is not None:
            raise failure

    monkeypatch.setattr(device, "driver_version", lambda: (13, 0))
    monkeypatch.setattr(device, "gpus", lambda: 2)
    monkeypatch.setattr(device, "describe", lambda index: f"H{index}00 (compute capability 9.0)")
    monkeypatch.setattr(session, "try_gpu", attempt)
    provider = "ONNX Runtime's CUDA provider " + ("loads" if failure is None else "does not load (no cuBLAS)")
    assert (
        f"driver for CUDA 13.0, H000 (compute capability 9.0), H100 (compute capability 9.0), {provider}, Python "
        in versions.line()
    )


def test_missing_onnxruntime_is_reported(monkeypatch):
    """Reported in the line instead of a traceback."""
    monkeypatch.setattr(device, "driver_version", lambda: (13, 0))
    monkeypatch.setattr(device, "gpus", lambda: 1)
    monkeypatch.delattr("cnnkit.engine.session")
    monkeypatch.delitem(sys.modules, "cnnkit.engine.session")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "ONNX Runtime's CUDA provider does not load (import of onnxruntime halted" in versions.line()


def test_trial_network_runs(monkeypatch):
    """The network of the trial is valid; here it runs on the CPU."""
    opened = []
    real = session.Session
    monkeypatch.setattr(
        session, "Session", lambda content, **_: opened.append(real(content, device="cpu")) or opened[0]
    )
    session.try_gpu()
    assert opened[0].outputs == ["y"]


def test_session_that_cannot_be_imported_is_reported(monkeypatch):
    """The import itself fails."""
    monkeypatch.setattr(device, "driver_version", lambda: (13, 0))
    monkeypatch.setattr(device, "gpus", lambda: 1)
    monkeypatch.setattr(device, "describe", lambda index: f"H{index}00")
    monkeypatch.delattr(engine, "session")
    monkeypatch.setitem(sys.modules, "cnnkit.engine.session", None)
    assert "H000, ONNX Runtime's CUDA provider does not load (" in versions.line()
