"""Several processes, one training: started by torchrun, each one takes its share of every batch."""

import contextlib
import gc
import logging
import os
from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch import distributed as dist

from cnnkit.engine import torch_device
from cnnkit.engine.device import Device
from cnnkit.errors import CnnkitError, UsageError

log = logging.getLogger("cnnkit")

# A rank may have a large set of pictures to decode before the others meet it again.
_PATIENCE = timedelta(hours=2)


class _Sum(torch.autograd.Function):
    """The sum of what all processes have, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(_context: object, values: Tensor) -> Tensor:
        """Add up."""
        sums = values.clone()
        dist.all_reduce(sums)
        return sums

    @staticmethod
    def backward(_context: object, *gradients: Tensor) -> Tensor:
        """Add up the gradients."""
        sums = gradients[0].clone()
        dist.all_reduce(sums)
        return sums


class _SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the shares of all processes: torch's SyncBatchNorm, which is for GPUs alone, on processors."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Take whatever the layer in whose place this stands took."""

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise (n, C, ...) by mean and variance over all processes; with its own statistics in eval mode."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(maps)
        values = maps.float().transpose(0, 1).flatten(1)  # (n, C, ...) -> (C, n * ...)
        sums: Tensor = _Sum.apply(torch.stack([values.sum(1), torch.full_like(values[:, 0], values.shape[1])]))
        mean, count = sums[0] / sums[1], sums[1]
        # Of what is left without the mean: the mean's square taken off that of the values would leave little that is right
        variance: Tensor = _Sum.apply((values - mean[:, None]).square().sum(1)) / count
        with torch.no_grad():
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
        wide = (1, -1, *(1 for _ in maps.shape[2:]))
        scale = (variance + self.eps).rsqrt() * (1.0 if self.weight is None else self.weight)
        shift = -mean * scale + (0.0 if self.bias is None else self.bias)
        return (maps.float() * scale.view(wide) + shift.view(wide)).to(maps.dtype)


def _share_batch_norms(module: nn.Module) -> None:
    """Put shared batch norms in the place of a module's own, with the same parameters and statistics."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            shared = _SharedBatchNorm(layer.num_features, layer.eps, layer.momentum, layer.affine)
            shared._parameters, shared._buffers = layer._parameters, layer._buffers
            shared.train(layer.training)
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, shared)


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train together, and which one of them this is."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Tell whether this process writes files and reports."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """Give this process's part of what all of them go through together: every size-th row."""
        return rows[self.rank :: self.size]

    def sum(self, values: Tensor) -> Tensor:
        """Add up what every process has; the same tensor where there is only one."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def align(self, module: nn.Module) -> None:
        """Give every process the first one's weights and statistics of batch norm: what is validated is what is written."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def agree(self, value: bool) -> bool:
        """Give the first process's answer to all."""
        if self.size == 1:
            return value
        answer = [value]
        dist.broadcast_object_list(answer)
        return answer[0]

    def shared(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Let a module's gradients be the mean over all processes, and batch norm's statistics those of the whole batch."""
        if self.size == 1:
            return module
        if device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call] # torch ships it untyped
        else:
            _share_batch_norms(module)
        return nn.parallel.DistributedDataParallel(module, device_ids=[device.index] if device.type == "cuda" else None)


ALONE = World()


@contextlib.contextmanager
def joined(device: Device) -> Generator[tuple[World, torch.device]]:
    """Find the others that torchrun started, and a device for this process; without torchrun there is only this one.

    Args:
        device: What was asked for; on GPUs every process of a machine takes the one of its number.

    Yields:
        The world, and where to work.

    Raises:
        UsageError: A single GPU was asked for by several processes.
        CnnkitError: The device's memory is full.
    """
    with _world(device) as (world, place):
        try:
            yield world, place
        except torch.OutOfMemoryError as error:
            raise CnnkitError(f"the memory of {place} is full; give a smaller --batch or --size") from error


@contextlib.contextmanager
def _world(device: Device) -> Generator[tuple[World, torch.device]]:
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield ALONE, torch_device.choose(device)
        return
    rank, local = _number("RANK", None), _number("LOCAL_RANK", 0)
    place = _place(device, local, _number("LOCAL_WORLD_SIZE", size))
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=_PATIENCE)
    log.info("%d processes train together, by %s", size, dist.get_backend())
    try:
        yield World(rank, size), place
    finally:
        gc.collect()  # what is shared holds on to the group, whose threads must end before the interpreter does
        dist.destroy_process_group()


def _number(variable: str, default: int | None) -> int:
    """Read what torchrun says of a process; batch systems have variables of the same names, and not all of them."""
    text = os.environ.get(variable) or default
    if text is None or not str(text).isdecimal():
        raise UsageError(
            f'{variable} is "{os.environ.get(variable, "")}" beside WORLD_SIZE {os.environ["WORLD_SIZE"]}: '
            "start several processes with torchrun, or unset WORLD_SIZE"
        )
    return int(text)


def _place(device: Device, local: int, processes: int) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.kind == "cpu" or (device.kind == "auto" and count < processes):
        log.info("running on the CPU")
        return torch.device("cpu")
    if device.index:
        raise UsageError(f"--device {device}: under torchrun every process takes the GPU of its number; say cuda")
    if count < processes:
        raise UsageError(f"torchrun started {processes} processes here, torch sees {count} GPUs; start one for each")
    return torch.device("cuda", local)
