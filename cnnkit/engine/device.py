"""Which device does the work, and whether there is one. No torch."""

import ctypes
import sys
from dataclasses import dataclass

from cnnkit.errors import DeviceError, UsageError


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
        there = f"there are {count} GPUs, counted from 0" if count else "no GPU here"
        raise DeviceError(f"--device {device}: {there}; use cpu or auto")
    return device


def gpus() -> int:
    """Count the GPUs that the driver offers this process; 0 without a driver. Costs a millisecond where there is none."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
