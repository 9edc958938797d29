"""Which device torch works on."""

import contextlib
import logging
from collections.abc import Generator

import torch

from cnnkit.engine.device import Device
from cnnkit.errors import DeviceError

log = logging.getLogger("cnnkit")


def choose(device: Device) -> torch.device:
    """Turn the wish of `--device` into a device of torch; what `auto` took is said.

    Raises:
        DeviceError: A GPU was asked for that torch does not have.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.kind == "auto":
        log.info("running on %s", "the GPU, cuda:0" if count else "the CPU")
        return torch.device("cuda", 0) if count else torch.device("cpu")
    if device.kind == "cuda" and device.index >= count:
        raise DeviceError(
            f"--device {device}: {f'torch sees {count} GPUs, counted from 0' if count else 'torch sees no GPU'}; use cpu or auto"
        )
    return torch.device("cuda", device.index) if device.kind == "cuda" else torch.device("cpu")


@contextlib.contextmanager
def threads(count: int | None) -> Generator[None]:
    """Let torch use so many cores, None for as many as it does already, and put the number back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
