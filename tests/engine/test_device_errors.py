"""Errors of torch, ONNX Runtime and numpy about devices."""

import numpy as np
import pytest
import torch

from cnnkit.engine import device, device_errors
from cnnkit.errors import DeviceError, MemoryFullError

#: As the libraries print them.
FULL = [
    torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1.20 GiB is"
    ),
    RuntimeError(
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"
    ),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    RuntimeError(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 51380224"
    ),
    RuntimeError("BFCArena::AllocateRawInternal Available memory of 0 is smaller than requested bytes of 154140672"),
    RuntimeError(
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=box ; file=/onnxruntime_src/cuda_allocator.cc ; line=67"
    ),
    RuntimeError("CUDNN failure 4003: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0"),
    RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
    RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:268, unhandled cuda error: Cuda failure 2 'out of memory'"),
    MemoryError(),
]

NOT_FULL = [
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x3 and 4x5)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    ValueError("out of range"),
    OSError(28, "No space left on device"),
    OSError(12, "Cannot allocate memory: out of memory"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:40])
def test_recognises_full_memory(error):
    """All of them become one error, with the reason in one line and the options to make smaller."""
    assert device_errors.is_out_of_memory(error)
    found = device_errors.explained(error, where="cuda:0")
    assert isinstance(found, MemoryFullError)
    assert str(found).startswith("the memory of cuda:0 is full (")
    assert "give a smaller --batch or --size" in str(found)
    assert "\n" not in str(found)
    assert "total capacity" not in str(found)


@pytest.mark.parametrize("error", NOT_FULL, ids=lambda error: str(error)[:40])
def test_other_errors_are_not_full_memory(error):
    """A full disk, a shape that does not fit, a failing GPU."""
    assert not device_errors.is_out_of_memory(error)
    assert not isinstance(device_errors.explained(error), MemoryFullError)


def test_recognises_numpys_memory_error():
    """As numpy itself raises it."""
    with pytest.raises(MemoryError) as caught:
        np.empty((1 << 46,), dtype=np.float64)
    assert device_errors.is_out_of_memory(caught.value)
    assert str(device_errors.explained(caught.value, remedies=["--jobs"])) == (
        f"the memory is full ({caught.value}); give a smaller --jobs"
    )


def test_advice_only_names_options_of_the_command():
    """A command without --batch does not suggest a smaller one."""
    full = FULL[0]
    for remedies, advice in (
        ([], ""),
        (["--size"], "; give a smaller --size"),
        (["--batch", "--device", "--top"], "; give a smaller --batch, or --device cpu"),
        (["--device"], "; --device cpu"),
    ):
        assert str(device_errors.explained(full, remedies=remedies)) == (
            f"the memory is full (CUDA out of memory. Tried to allocate 2.00 GiB){advice}"
        )


def test_gpu_without_code_is_described(monkeypatch):
    """With its compute capability, from the driver."""
    monkeypatch.setattr(device, "describe", lambda index: f"GTX {index} (compute capability 6.1)")
    for text in (
        "CUDA error: no kernel image is available for execution on the device",
        "CUDA failure 209: no kernel image ; GPU=0",
    ):
        found = device_errors.explained(RuntimeError(text), where="cuda:1")
        assert type(found) is DeviceError
        assert str(found).startswith(
            "GTX 1 (compute capability 6.1) is too old, or too new, for the installed libraries"
        )
        assert str(found).endswith("use --device cpu")


def test_old_driver_is_reported_with_its_cuda_version(monkeypatch):
    """As nvidia-smi shows it."""
    monkeypatch.setattr(device, "driver_version", lambda: (12, 8))
    error = RuntimeError("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1")
    assert str(device_errors.explained(error)).startswith(
        "the NVIDIA driver for CUDA 12.8 is too old for the installed libraries"
    )


def test_other_errors_are_left_alone():
    """A bug keeps its traceback, and a wrong shape is an error of the input."""
    for error in (
        ValueError("x"),
        KeyError("cuda"),
        RuntimeError("CUDNN failure 3: CUDNN_STATUS_BAD_PARAM"),
        NOT_FULL[3],
    ):
        assert device_errors.explained(error) is None


def test_reasons_are_one_clean_line():
    """Without colours, and without places in a library's source."""
    error = RuntimeError(
        "\x1b[1;31mfail\x1b[m: /onnxruntime_src/core/session/bridge.cc:2458 Failed to load library\nmore\n"
    )
    assert device_errors.reason(error) == "fail: Failed to load library"
    assert device_errors.reason(RuntimeError()) == "RuntimeError"
