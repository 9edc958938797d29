"""What goes wrong while a training resumes, in one line that blames the right one."""

import pytest
import torch

from cnnkit.errors import FormatError, UsageError
from cnnkit.train import resuming


@pytest.mark.parametrize(
    "error",
    [KeyError("mark"), TypeError("no number"), RuntimeError("line\nsize mismatch"), IndexError(), ValueError("x")],
)
def test_content_that_does_not_fit_names_the_file(tmp_path, error):
    """What goes wrong while a checkpoint is taken up is one line; memory that is full, or what the user can mend, is not that."""
    path = tmp_path / "m.checkpoint.pt"
    expected = pytest.raises(FormatError, match=r"m\.checkpoint\.pt: not what a training leaves \(.*\); remove it")
    with expected as caught, resuming.taking_up(path):
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
def test_a_device_that_fails_is_not_the_checkpoints_fault(tmp_path, error):
    """Memory that is full, a GPU that is lost, and what the user can mend pass as they are: nobody is told to remove good work."""
    with pytest.raises(type(error)) as caught, resuming.taking_up(tmp_path / "m.checkpoint.pt"):
        raise error
    assert caught.value is error
