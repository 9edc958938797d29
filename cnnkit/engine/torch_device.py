"""Which device torch works on."""

import contextlib
import logging
from collections.abc import Generator

import torch
from torch import nn

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


# Multiplications in a step from which several cores are faster than one: below, they wait for one another, and on a busy
# machine ten times as long as they work.
_WORTH_SHARING = 50_000_000


def threads_for(module: nn.Module, rows: int) -> int | None:
    """Say how many cores a step of dense layers should use: one where it is too small to share.

    Args:
        module: What is trained; convolutions, whose weights act many times on a picture, are always worth sharing.
        rows: In a batch.

    Returns:
        What `threads` takes.
    """
    if any(isinstance(layer, nn.Conv2d) for layer in module.modules()):
        return None
    return 1 if rows * sum(parameter.numel() for parameter in module.parameters()) < _WORTH_SHARING else None


@contextlib.contextmanager
def threads(count: int | None) -> Generator[None]:
    """Let torch use so many cores, None for as many as it does already, and put the number back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
