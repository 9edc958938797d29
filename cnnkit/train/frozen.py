"""The frozen part of a network, which answers the same to the same picture: run once, its answers can be kept."""

import functools
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnkit.data.reader import Progress
from cnnkit.engine import onnx_backbone
from cnnkit.engine.config import BackboneSpec
from cnnkit.engine.session import Session
from cnnkit.errors import CnnkitError
from cnnkit.train.examples import Examples

log = logging.getLogger("cnnkit")

#: uint8 pictures (n, size, size, 3), on the device, to float answers (n, ...) there.
Frozen = Callable[[Tensor], Tensor]

_BATCH = 32


def network(request: BackboneSpec, module: nn.Module, *, place: torch.device) -> Frozen:
    """Get the frozen part as a function: on a processor by ONNX Runtime, several times as fast there as torch.

    Args:
        request: The same network for ONNX Runtime, exported once and compared with torch.
        module: The frozen part in torch, in eval mode: for GPUs, and for what ONNX cannot express.
        place: Where it runs.
    """
    if place.type == "cpu":
        try:
            model = onnx_backbone.get(request)
        except CnnkitError as error:
            log.info("the frozen part runs in torch: %s", error)
        else:
            session = Session(model.content, device="cpu", name="the frozen part")
            return lambda images: torch.from_numpy(session.run({"images": images.numpy()}, ["features"])[0])
    module = module.to(place).to(memory_format=torch.channels_last)

    def answer(images: Tensor) -> Tensor:
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return module(images)  # type: ignore[no-any-return] # modules return Any

    return functools.partial(_in_parts, answer)


def _in_parts(answer: Frozen, images: Tensor) -> Tensor:
    """Answer to all pictures at once, or to halves of what the memory does not hold."""
    try:
        return answer(images)
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
    # Behind the except clause: the error's traceback would keep the tensors of the attempt
    torch.cuda.empty_cache()
    return torch.cat([_in_parts(answer, half) for half in images.tensor_split(2)])


def answers(
    examples: Examples,
    frozen: Frozen,
    copies: Sequence[int | None],
    *,
    budget: int,
    folder: Path,
    progress: Progress,
) -> list[Tensor]:
    """Run the frozen part over every picture, once for each copy.

    Args:
        examples: N pictures, or what another part has answered to them.
        frozen: What answers.
        copies: Which augmented copies; None for the plain pictures.
        budget: Bytes of memory that the answers may take; more than that go to a file without a name in `folder`, which is gone
            with the process.
        folder: On the disk that has room for them.
        progress: Called after every batch.

    Returns:
        For each copy (N, ...), float32 on the CPU.
    """
    count = len(examples.targets)
    batches = list(torch.split(torch.arange(count), _BATCH))
    kept: list[Tensor] = []
    room: NDArray[np.float32] | None = None
    for number, copy in enumerate(copies):
        for rows, images in zip(batches, examples.inputs(batches, copy), strict=True):
            answered = frozen(images).cpu()
            if room is None:
                room = _room((len(copies), count, *answered.shape[1:]), budget=budget, folder=folder)
                kept = list(torch.from_numpy(room))
            kept[number][rows] = answered
            progress(number * count + int(rows[-1]) + 1, len(copies) * count)
    return kept


def seconds(pictures: Examples, frozen: Frozen) -> float:
    """Estimate how long an epoch's answers take, augmentation included: from one batch, after another one to warm up with."""
    rows = torch.arange(min(len(pictures.targets), _BATCH))
    for _ in range(2):
        started = time.perf_counter()
        for images in pictures.inputs([rows], 1):
            frozen(images).cpu()
        elapsed = time.perf_counter() - started
    return elapsed * len(pictures.targets) / len(rows)


def _room(shape: tuple[int, ...], *, budget: int, folder: Path) -> NDArray[np.float32]:
    size = 4 * math.prod(shape)
    if size <= budget:
        return np.empty(shape, dtype=np.float32)
    log.info(
        "what the frozen part answers takes %.1f GiB, more than --cache; it is kept on disk meanwhile", size / 2**30
    )
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # or a disk that is full would be noticed in the middle, by a crash
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
    except OSError as error:
        raise CnnkitError(
            f"{folder}: {(error.strerror or str(error)).lower()}; the frozen part's answers take {size / 2**30:.1f} GiB there: "
            "make room, give more --cache, or --views 0 to keep none"
        ) from error
