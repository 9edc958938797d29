"""Which device torch works on."""

import contextlib
import logging
from collections.abc import Generator

import torch
from torch import Tensor, nn

from cnnkit.engine.device import Device
from cnnkit.errors import DeviceError

log = logging.getLogger("cnnkit")


def choose(device: Device) -> torch.device:
    """Turn the wish of `--device` into a device of torch; what `auto` took is logged.

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


def threads_for(module: nn.Module, inputs: Tensor) -> int | None:
    """Say how many cores a step should use: one where it is too small to share.

    Args:
        module: What is trained; it runs once, on one row.
        inputs: A batch, (N, ...).

    Returns:
        What `threads` takes.
    """
    if inputs.device.type != "cpu":
        return None
    return 1 if len(inputs) * multiplications(module, inputs[:1]) < _WORTH_SHARING else None


def multiplications(module: nn.Module, inputs: Tensor) -> int:
    """Count the multiplications of convolutions and dense layers in a forward pass, as cnn-dims counts them."""
    counted = 0

    def count(layer: nn.Module, _given: object, made: Tensor) -> None:
        nonlocal counted
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        counted += made.numel() * layer.weight[0].numel()

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    training = module.training
    try:
        with torch.no_grad():
            module.eval()(inputs)
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return counted


@contextlib.contextmanager
def threads(count: int | None) -> Generator[None]:
    """Let torch use so many cores, None for as many as it does already, and put the number back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
