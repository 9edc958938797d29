"""Errors while a training resumes: one line that names the checkpoint, or the device."""

import pytest
import torch

from cnnkit.errors import FormatError, UsageError
from cnnkit.train import resuming


@pytest.mark.parametrize(
    "error",
    [KeyError("mark"), TypeError("not a mapping"), RuntimeError("line\nsize mismatch"), IndexError(), ValueError("x")],
)
def test_unusable_content_names_the_file(tmp_path, error):
    """Any error while a checkpoint is restored becomes one line with its name."""
    path = tmp_path / "m.checkpoint.pt"
    expected = pytest.raises(FormatError, match=r"m\.checkpoint\.pt: not a usable checkpoint \(.*\); remove it")
    with expected as caught, resuming.restoring(path):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("full"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
        ),
        UsageError("another --lr"),
    ],
)
def test_device_errors_do_not_blame_the_checkpoint(tmp_path, error):
    """Full memory, a lost GPU and usage errors are raised unchanged, so that no intact checkpoint is removed."""
    with pytest.raises(type(error)) as caught, resuming.restoring(tmp_path / "m.checkpoint.pt"):
        raise error
    assert caught.value is error
