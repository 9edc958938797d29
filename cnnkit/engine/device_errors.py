"""Errors of torch and ONNX Runtime about a device: memory full, GPU or driver too old, or broken. Imports neither of them.

Both raise plain RuntimeErrors for most of these, so only the text tells them apart.
"""

import re
from collections.abc import Collection

from cnnkit.engine import device as devices
from cnnkit.errors import DeviceError, MemoryFullError
from cnnkit.formats import onnx_errors

# Messages of full memory, of all libraries.
_OUT_OF_MEMORY = re.compile(
    "|".join(
        (
            r"out of memory",  # torch.OutOfMemoryError; CUDA failure 2; "CUDA error: out of memory"; NCCL
            r"cudaErrorMemoryAllocation",
            r"CUDA_ERROR_OUT_OF_MEMORY",
            r"CUDNN_STATUS_ALLOC_FAILED",  # cuDNN 8
            r"CUDNN_STATUS_INTERNAL_ERROR_(DEVICE|HOST)_ALLOCATION_FAILED",  # cuDNN 9
            r"CUBLAS_STATUS_ALLOC_FAILED",
            r"CUBLAS_STATUS_NOT_INITIALIZED.*cublasCreate",  # no memory for its handle
            r"CUSOLVER_STATUS_ALLOC_FAILED",
            r"CUFFT_ALLOC_FAILED",
            r"unable to find an engine to execute this computation",  # cuDNN has no memory for any workspace
            r"Failed to allocate memory for requested buffer",  # ONNX Runtime's arena
            r"Available memory of \d+ is smaller than requested bytes",
            r"can't allocate memory: you tried to allocate",  # torch on the CPU
            r"bad_?\s?alloc",  # std::bad_alloc, "bad allocation"
            r"Unable to allocate .* for an array",  # numpy
        )
    ),
    re.IGNORECASE | re.DOTALL,
)

_NO_KERNEL = re.compile(
    r"no kernel image|CUDA failure 209|cudaErrorNoKernelImageForDevice|NO_BINARY_FOR_GPU", re.IGNORECASE
)

_OLD_DRIVER = re.compile(
    r"driver on your system is too old|driver version is insufficient|CUDA failure 35\b|cudaErrorInsufficientDriver",
    re.IGNORECASE,
)

# Failures of a GPU or its libraries, and of nothing else.
_OF_A_GPU = re.compile(
    r"CUDA (error|failure|driver error)|CUDNN[ _](failure|error|status|fe|frontend)|cuDNN error|"
    r"CUBLAS[ _](failure|error|status)|cudaError|CUDA_ERROR|CURAND|CUFFT|CUSOLVER|NCCL error|device-side assert",
    re.IGNORECASE,
)

# cuDNN's errors for a shape that it does not support; the device itself is fine.
_OF_A_SHAPE = re.compile(r"CUDNN_STATUS_(BAD_PARAM|NOT_SUPPORTED)|CUBLAS_STATUS_(INVALID_VALUE|NOT_SUPPORTED)")

# What torch adds to an out-of-memory error: how memory is used, and environment variables to set.
_HINTS = re.compile(r"\.?\s+(?=GPU \d+ has a total capacity|If reserved but unallocated|Of the allocated memory)")

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
# Places in a library's source, of no use to the user.
_SOURCE = re.compile(r"(/\S+|[A-Za-z]:\\\S+)\.(cc|cpp|cu|cuh|h|hpp)(:\d+)?\b:?\s*")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of a device, or of the machine, is full."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, Exception) and not isinstance(error, OSError) and bool(_OUT_OF_MEMORY.search(str(error)))


def is_of_device(error: BaseException) -> bool:
    """Return whether an error is a failure of the GPU, its driver or its libraries, and not of the input."""
    text = str(error)
    if _OF_A_SHAPE.search(text) and not is_out_of_memory(error):
        return False
    return bool(_OF_A_GPU.search(text) or _NO_KERNEL.search(text) or _OLD_DRIVER.search(text))


def reason(error: BaseException) -> str:
    """Return an error's message in one line, without colours and places in a library's source."""
    text = _ANSI.sub("", str(error))
    of_onnx_runtime = text.startswith("[ONNXRuntimeError]")
    text = _HINTS.split(_SOURCE.sub("", text), maxsplit=1)[0]
    first, *others = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if of_onnx_runtime:
        first = onnx_errors.reason(error)
    return " ".join([first, *(line for line in others if line.startswith("index: "))])  # which ONNX Runtime lists


def explained(
    error: BaseException, *, where: str | None = None, remedies: Collection[str] = ("--batch", "--size")
) -> DeviceError | None:
    """Turn an error about a device into one with a clear message and a remedy.

    Args:
        error: From torch, ONNX Runtime or numpy.
        where: The device, for the message; "the GPU" or "the memory" by default.
        remedies: The options that the command has and that the message may suggest.

    Returns:
        None if the error is not about a device.
    """
    gpu = is_of_device(error)
    if is_out_of_memory(error):
        smaller = [each for each in ("--batch", "--size", "--jobs") if each in remedies]
        advice = [f"give a smaller {' or '.join(smaller)}"] if smaller else []
        if "--device" in remedies and (gpu or "CUDA" in str(error)):
            advice.append("--device cpu")
        full = f"the memory of {where} is full" if where else "the memory is full"
        return MemoryFullError(f"{full} ({reason(error)}){'; ' if advice else ''}{', or '.join(advice)}")
    if not gpu:
        return None
    there = where or "cuda:0"
    cpu = "; use --device cpu" if "--device" in remedies or where else ""
    if _NO_KERNEL.search(str(error)):
        index = there.partition(":")[2]
        named = devices.describe(int(index)) if index.isdecimal() else there
        return DeviceError(
            f"{named} is too old, or too new, for the installed libraries: they have no code for it (docs/gpu.md){cpu}"
        )
    if _OLD_DRIVER.search(str(error)):
        version = devices.driver_version()
        found = f" for CUDA {version[0]}.{version[1]}" if version else ""
        return DeviceError(f"the NVIDIA driver{found} is too old for the installed libraries (docs/gpu.md){cpu}")
    return DeviceError(f"{where or 'the GPU'} failed: {reason(error)}{cpu}")
