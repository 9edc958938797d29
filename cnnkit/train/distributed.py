"""Several processes, one training: started by torchrun, each one takes its share of every batch."""

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

from cnnkit.callbacks import SILENT, Callbacks
from cnnkit.engine import device_errors, torch_device
from cnnkit.engine.device import WAITS_FOR_WORK, Device
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import atomic
from cnnkit.nets import subgraph

log = logging.getLogger("cnnkit")

# A rank may have a large set of images to decode before the others meet it again.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train together, and which one of them this is."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Tell whether this process writes files and reports."""
        return self.rank == 0

    def claimed(self, output: Path) -> AbstractContextManager[None]:
        """Keep the files of a training for it alone, in the process that writes them; as `atomic.claimed`."""
        return atomic.claimed(output) if self.writes else contextlib.nullcontext()

    def callbacks(self, callbacks: Callbacks) -> Callbacks:
        """Give this process's callbacks: the first process reports for all, the others do the same work in silence."""
        return callbacks if self.writes else SILENT

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
        """Give the first process's value for all of them."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def check_batch_norm(self, module: nn.Module, device: torch.device) -> None:
        """Refuse to train batch norm in several processes on CPUs: statistics of the whole batch are shared between GPUs alone.

        Raises:
            UsageError: A batch norm of the module follows the batches in training.
        """
        if self.size == 1 or device.type == "cuda":
            return
        with subgraph.mode(module, training=True):
            follows = any(
                isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training for layer in module.modules()
            )
        if follows:
            raise UsageError(
                f"batch norm does not train in {self.size} processes on CPUs, whose batches it would not share; "
                "start one process, or one for each GPU, or leave bn out"
            )

    def shared(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Let a module's gradients be the mean over all processes, and batch norm's statistics those of the whole batch."""
        if self.size == 1:
            return module
        if device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call] # torch ships it untyped
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
    # Said at once, no process guesses its GPU from its rank, and a broken link fails here
    dist.init_process_group("nccl" if on_gpus else "gloo", timeout=_PATIENCE, device_id=chosen if on_gpus else None)
    log.info("%d processes train together, by %s", size, dist.get_backend())
    try:
        yield World(rank, size), chosen
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


def _choose(device: Device, local: int, processes: int) -> torch.device:
    count = torch_device.gpu_count()
    if device.kind == "cpu" or (device.kind == "auto" and count < processes):
        log.info("running on the CPU", extra=WAITS_FOR_WORK)
        return torch.device("cpu")
    if device.index:
        raise UsageError(f"--device {device}: under torchrun every process takes the GPU of its number; say cuda")
    if count < processes:
        raise UsageError(f"torchrun started {processes} processes here, torch sees {count} GPUs; start one for each")
    return torch.device("cuda", local)
