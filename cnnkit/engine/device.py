"""Which device does the work, and whether there is one. No torch."""

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

from cnnkit.choices import Precision
from cnnkit.errors import DeviceError, UsageError

# The driver's numbers for the two parts of a compute capability.
_CAPABILITY = (75, 76)


@dataclass(frozen=True, slots=True)
class Device:
    """`auto`, `cpu` or a GPU by number."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return f"cuda:{self.index}" if self.kind == "cuda" else self.kind


def parse(text: str) -> Device:
    """Read the value of `--device`.

    Raises:
        UsageError: It is none of auto, cpu, cuda, cuda:N.
    """
    kind, colon, index = text.partition(":")
    if kind in ("auto", "cpu") and not colon:
        return Device(kind)
    if kind == "cuda" and (not colon or (index.isascii() and index.isdigit())):
        return Device(kind, int(index or 0))
    raise UsageError(f'--device "{text}": give auto, cpu, cuda or cuda:N')


def existing(text: str) -> Device:
    """Read the value of `--device`, and find out whether the driver knows it. Ask before work that would be in vain.

    Raises:
        DeviceError: There is no such GPU.
        UsageError: As `parse`.
    """
    device = parse(text)
    if device.kind == "cuda" and device.index >= (count := gpus()):
        raise DeviceError(f"--device {device}: {_counted(count)}; use cpu or auto")
    return device


#: For `extra` of a log record that says where the work is done: of interest once it begins, not before a usage error.
WAITS_FOR_WORK = {"waits_for_work": True}


def check_precision(precision: Precision, device: Device, *, why: str | None = None) -> None:
    """Refuse shorter numbers on a processor, where they are slower than float32 or are not there.

    Args:
        precision: What is asked for.
        device: Where; `auto` is the CPU where there is no GPU.
        why: Why it is not a GPU.

    Raises:
        UsageError: The device is a CPU.
    """
    if precision is Precision.FLOAT32 or device.kind == "cuda" or (device.kind == "auto" and gpus()):
        return
    reason = why or ("--device cpu" if device.kind == "cpu" else "no GPU here")
    raise UsageError(f"--precision {precision.value} is for GPUs, a CPU computes in float32 ({reason}); drop it")


def _counted(count: int) -> str:
    if not count:
        return "no GPU here"
    return f"there {'is 1 GPU' if count == 1 else f'are {count} GPUs'}, counted from 0"


def gpus() -> int:
    """Count the GPUs that the driver offers this process; 0 without a driver. Costs a millisecond where there is none."""
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
    """Give the version of CUDA that the driver is for, as nvidia-smi shows it; None without a driver."""
    driver = _driver()
    number = ctypes.c_int(0)
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(number)) != 0 or not number.value:
        return None
    return number.value // 1000, number.value % 1000 // 10


def describe(index: int) -> str:
    """Name a GPU with its compute capability, by which libraries say which GPUs they were built for."""
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
    """Say it where the driver is too old for a library; ask before the library does, which fails in ways of its own.

    A driver serves every release of its own major version of CUDA, and those before.

    Args:
        library: Its name and version.
        cuda: The version of CUDA that it was built for; None if for none.

    Returns:
        What, where and the remedy; None where the driver serves, or there is none.
    """
    driver = driver_version()
    major = (cuda or "").partition(".")[0]
    if driver is None or not major.isdecimal() or driver[0] >= int(major):
        return None
    found = f"{driver[0]}.{driver[1]}"
    return (
        f"the NVIDIA driver here is for CUDA {found}, {library} needs one for CUDA {major}: "
        f"install a newer driver, or releases for CUDA {driver[0]} (README, GPUs)"
    )
