"""Training in several processes, started by torchrun: each one takes its share of every batch."""

import contextlib
import gc
import logging
import os
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist

from cnnkit import messages
from cnnkit.callbacks import SILENT, Callbacks
from cnnkit.engine import device_errors, torch_device
from cnnkit.engine.device import Device
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import atomic
from cnnkit.nets import subgraph

log = logging.getLogger("cnnkit")

# How long processes wait for each other: one of them may have a large set of images to decode.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train together, and the rank of this one."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    def claimed(self, output: Path) -> AbstractContextManager[None]:
        """Lock the output files of a training, in the process that writes them; see `atomic.claimed`."""
        return atomic.claimed(output) if self.writes else contextlib.nullcontext()

    def callbacks(self, callbacks: Callbacks) -> Callbacks:
        """Return the callbacks of this process: the first process reports, the others are silent."""
        return callbacks if self.writes else SILENT

    def share(self, rows: Tensor) -> Tensor:
        """Return this process's share of the rows: every size-th one."""
        return rows[self.rank :: self.size]

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def align(self, module: nn.Module) -> None:
        """Copy weights and batch norm statistics from the first process to all, so that what is validated is what is written."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def agree(self, value: bool) -> bool:
        """Return the first process's value, in all processes."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def check_batch_norm(self, module: nn.Module, device: torch.device) -> None:
        """Refuse to train batch norm in several processes on CPUs: only GPUs can share the statistics of the whole batch.

        Raises:
            UsageError: A batch norm of the module uses batch statistics in training.
        """
        if self.size == 1 or device.type == "cuda":
            return
        with subgraph.mode(module, training=True):
            follows = any(
                isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training for layer in module.modules()
            )
        if follows:
            raise UsageError(
                f"batch norm cannot share its statistics between {self.size} processes on CPUs; "
                "start one process, or one for each GPU, or leave bn out"
            )

    def shared(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Wrap a module so that gradients are averaged over all processes, and batch norm uses the whole batch's statistics."""
        if self.size == 1:
            return module
        if device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call] # torch ships it untyped
        # Buffers are equal in all processes, as batch norm's statistics are of the whole batch; a whitening matrix can take 64 MB
        return nn.parallel.DistributedDataParallel(
            module, device_ids=[device.index] if device.type == "cuda" else None, broadcast_buffers=False
        )


ALONE = World()


@contextlib.contextmanager
def joined(device: Device) -> Generator[tuple[World, torch.device]]:
    """Join the processes that torchrun started, and choose a device for this one; without torchrun it is the only one.

    Args:
        device: The device given; on GPUs, each process of a machine takes the GPU with its local rank.

    Yields:
        The world, and the device.

    Raises:
        UsageError: A single GPU is given for several processes.
        DeviceError: The device's memory is full, or the device fails.
    """
    with _world(device) as (world, chosen):
        try:
            yield world, chosen
        except CnnkitError:
            raise
        except Exception as error:
            found = device_errors.explained(error, where=str(chosen) if chosen.type == "cuda" else None)
            if found is None:
                raise
            raise found from error


@contextlib.contextmanager
def _world(device: Device) -> Generator[tuple[World, torch.device]]:
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield ALONE, torch_device.choose(device)
        return
    rank, local = _number("RANK", None), _number("LOCAL_RANK", 0)
    chosen = _choose(device, local, _number("LOCAL_WORLD_SIZE", size))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    on_gpus = chosen.type == "cuda"
    # With device_id, no process guesses its GPU from its rank, and a broken connection fails here
    dist.init_process_group("nccl" if on_gpus else "gloo", timeout=_PATIENCE, device_id=chosen if on_gpus else None)
    log.info("training in %d processes, communicating by %s", size, dist.get_backend())
    try:
        yield World(rank, size), chosen
    finally:
        gc.collect()  # DDP modules hold references to the group, whose threads must end before the interpreter does
        dist.destroy_process_group()


def _number(variable: str, default: int | None) -> int:
    """Read a variable that torchrun sets; batch systems set some, but not all, variables of the same names."""
    text = os.environ.get(variable) or default
    if text is None or not str(text).isdecimal():
        raise UsageError(
            f'{variable} is "{os.environ.get(variable, "")}" with WORLD_SIZE {os.environ["WORLD_SIZE"]}; '
            "start several processes with torchrun, or unset WORLD_SIZE"
        )
    return int(text)


def _choose(device: Device, local: int, processes: int) -> torch.device:
    count = torch_device.gpu_count()
    if device.kind == "cpu" or (device.kind == "auto" and count < processes):
        log.info("running on the CPU", extra=messages.WAITS_FOR_WORK)
        return torch.device("cpu")
    if device.index:
        raise UsageError(
            f"--device {device}: under torchrun each process takes the GPU of its rank; give --device cuda"
        )
    if count < processes:
        raise UsageError(
            f"torchrun started {processes} processes here, but torch sees {count} GPUs; start one process per GPU"
        )
    return torch.device("cuda", local)
