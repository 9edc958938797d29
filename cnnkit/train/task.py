"""What one training is about: the network and its examples, and where it runs. Filled in by the commands, carried out by `run`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnnkit.data.reader import Progress
from cnnkit.formats.header import Header
from cnnkit.nets.classifier import Classifier
from cnnkit.train.distributed import World
from cnnkit.train.epoch import Epoch
from cnnkit.train.examples import Examples
from cnnkit.train.results import Report


def _ready() -> None:
    """The way of examples that need no preparation."""


def _nothing(_write: Report) -> Sequence[Epoch]:
    """The way of a training that nothing goes before."""
    return ()


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained on what.

    `module` is trained; `whole` is written and shares its weights; `groups` are its parameters as torch's optimizers take groups, with
    factors of the learning rate; `begin` changes the weights before they are trained, and gives the epochs that it took. What
    `begins_trained` is measured before the first epoch, so that no worse one passes for progress. `ready` prepares the examples, and is
    not called where nothing is left to do.
    """

    module: nn.Module
    whole: Classifier
    train: Examples
    val: Examples | None
    header: Header
    identity: str  # of the pictures
    groups: Sequence[dict[str, Any]] | None = None
    begin: Callable[[Report], Sequence[Epoch]] = _nothing
    begins_trained: bool = False
    ready: Callable[[], None] = _ready


@dataclass(frozen=True, slots=True)
class Place:
    """Where a training runs, where it writes, and whom it tells; made before the pictures are read, it knows how long all takes."""

    output: Path
    device: torch.device
    world: World
    resume: bool
    report: Report
    progress: Progress
    started: float = field(default_factory=time.perf_counter)
