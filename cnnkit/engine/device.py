"""The device that networks run on, and which GPUs there are. Imports no torch."""

import ctypes
import sys
from dataclasses import dataclass, field
from typing import Any

from cnnkit.choices import Precision
from cnnkit.errors import DeviceError, UsageError

# The driver's attribute numbers of the two parts of a compute capability.
_CAPABILITY = (75, 76)


@dataclass(frozen=True, slots=True)
class Device:
    """`auto`, `cpu` or a GPU by number."""

    kind: str
    index: int = 0
    typed: str = field(default="", compare=False)  # as given, for messages

    def __str__(self) -> str:
        return f"cuda:{self.index}" if self.kind == "cuda" else self.kind


def parse(text: str) -> Device:
    """Read the value of `--device`.

    Raises:
        UsageError: It is not auto, cpu, cuda or cuda:N.
    """
    kind, colon, index = text.partition(":")
    if kind in ("auto", "cpu") and not colon:
        return Device(kind)
    if kind == "cuda" and (not colon or (index.isascii() and index.isdigit())):
        return Device(kind, int(index or 0), text)
    raise UsageError(f'--device "{text}": give auto, cpu, cuda or cuda:N')


def existing(text: str) -> Device:
    """Read the value of `--device`, and check that the driver has that GPU: to be called before any long work.

    Raises:
        DeviceError: There is no such GPU.
        UsageError: As `parse`.
    """
    device = parse(text)
    if device.kind == "cuda" and device.index >= (count := gpus()):
        raise DeviceError(f"--device {text}: {_counted(count)}; use cpu or auto")
    return device


def check_precision(precision: Precision, device: Device, *, why: str | None = None) -> None:
    """Refuse reduced precision on a CPU, where it is slower than float32 or does not exist.

    Args:
        precision: The value of `--precision`.
        device: The device; `auto` is the CPU if there is no GPU.
        why: Why it is not a GPU, for the message.

    Raises:
        UsageError: The device is a CPU.
    """
    if precision is Precision.FLOAT32 or device.kind == "cuda" or (device.kind == "auto" and gpus()):
        return
    reason = why or ("--device cpu" if device.kind == "cpu" else "no GPU here")
    raise UsageError(f"--precision {precision.value} needs a GPU; a CPU computes in float32 ({reason}); drop it")


def _counted(count: int) -> str:
    if not count:
        return "no GPU here"
    return f"there {'is 1 GPU' if count == 1 else f'are {count} GPUs'}, counted from 0"


def gpus() -> int:
    """Count the GPUs that the driver offers this process; 0 without a driver, which takes a millisecond to find out."""
    driver = _driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _driver() -> Any:  # noqa: ANN401 - ctypes makes its functions at run time
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def driver_version() -> tuple[int, int] | None:
    """Return the CUDA version that the driver supports, as nvidia-smi shows it; None without a driver."""
    driver = _driver()
    number = ctypes.c_int(0)
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(number)) != 0 or not number.value:
        return None
    return number.value // 1000, number.value % 1000 // 10


def describe(index: int) -> str:
    """Return the name and the compute capability of a GPU; libraries are built for compute capabilities."""
    driver = _driver()
    if driver is None or driver.cuInit(0) != 0:
        return f"cuda:{index}"
    handle, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    if driver.cuDeviceGet(ctypes.byref(handle), index) != 0 or driver.cuDeviceGetName(name, len(name), handle) != 0:
        return f"cuda:{index}"
    capability = []
    for attribute in _CAPABILITY:
        value = ctypes.c_int(0)
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle) != 0:
            return name.value.decode(errors="replace")
        capability.append(str(value.value))
    return f"{name.value.decode(errors='replace')} (compute capability {'.'.join(capability)})"


def driver_too_old(library: str, cuda: str | None) -> str | None:
    """Check whether the driver is too old for a library, before the library itself fails with a less clear error.

    A driver supports all CUDA releases of its own major version and of earlier ones.

    Args:
        library: Its name and version.
        cuda: The CUDA version that it was built for; None if it was built without CUDA.

    Returns:
        A message with the remedy; None if the driver is recent enough, or there is none.
    """
    driver = driver_version()
    major = (cuda or "").partition(".")[0]
    if driver is None or not major.isdecimal() or driver[0] >= int(major):
        return None
    found = f"{driver[0]}.{driver[1]}"
    return (
        f"the NVIDIA driver supports CUDA {found}, {library} needs CUDA {major}: "
        f"install a newer driver, or releases for CUDA {driver[0]} (docs/gpu.md)"
    )
