"""The frozen part of a network: its features of an image never change, so they can be computed once and cached."""

import dataclasses
import functools
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnkit.callbacks import Progress, Report
from cnnkit.choices import Amp, Pool, Schedule
from cnnkit.engine import onnx_backbone, torch_device
from cnnkit.engine.config import BackboneSpec
from cnnkit.engine.session import Session
from cnnkit.errors import CnnkitError
from cnnkit.nets import freezing
from cnnkit.nets.classifier import Extractor
from cnnkit.train.config import Epoch, ImageTrainConfig
from cnnkit.train.dataset import Examples, ImageSet, MixupPairs
from cnnkit.train.distributed import ALONE
from cnnkit.train.mixed_precision import Precision
from cnnkit.train.pretrained import PretrainedModel
from cnnkit.train.trainer import RunContext, Task, Trainer

log = logging.getLogger("cnnkit")


class CachedFeatures:
    """Cached features of a frozen part: one or more views of every row, of which an epoch uses one."""

    def __init__(self, views: Sequence[Tensor], targets: Tensor, *, device: torch.device) -> None:
        """Keep features.

        Args:
            views: One tensor (N, ...) per view, in memory or mapped from disk; without an epoch, the first one is used.
            targets: (N,).
            device: Where the inputs are needed.
        """
        self.targets = targets
        self._views, self._device = views, device

    def inputs(
        self, batches: Sequence[Tensor], epoch: int | None, pairs: Sequence[MixupPairs] | None = None
    ) -> Iterator[Tensor]:
        """Yield the features, views in turn; see `Examples`."""
        assert pairs is None, "cached features are of whole images"
        first = self._views[0]
        for numbers in batches:
            # In an epoch, neighbouring rows use different views; every row uses all of them in turn, also if it occurs again
            rows, before = numbers % len(self.targets), numbers // len(self.targets)
            turns = (rows + before + epoch) % len(self._views) if epoch is not None else torch.zeros_like(rows)
            output = torch.empty((len(rows), *first.shape[1:]), dtype=first.dtype)
            for number, view in enumerate(self._views):
                here = turns == number
                output[here] = view[rows[here]]
            yield torch_device.upload(output, self._device)


class LazyExamples:
    """Examples that are made when first used: a training that turns out to be complete needs none."""

    def __init__(self, targets: Tensor, make: Callable[[], Examples]) -> None:
        self.targets = targets
        self._make = make

    @functools.cached_property
    def made(self) -> Examples:
        """The examples, made once."""
        return self._make()

    def inputs(
        self, batches: Sequence[Tensor], epoch: int | None, pairs: Sequence[MixupPairs] | None = None
    ) -> Iterator[Tensor]:
        """Yield their inputs; see `Examples`."""
        return self.made.inputs(batches, epoch, pairs)


class FrozenForward:
    """Images that pass through the frozen part in every epoch."""

    def __init__(self, images: Examples, frozen: Callable[[Tensor], Tensor]) -> None:
        self.targets = images.targets
        self._images, self._frozen = images, frozen

    def inputs(
        self, batches: Sequence[Tensor], epoch: int | None, pairs: Sequence[MixupPairs] | None = None
    ) -> Iterator[Tensor]:
        """Yield the frozen part's outputs; see `Examples`."""
        for images in self._images.inputs(batches, epoch, pairs):
            yield self._frozen(images)


#: uint8 images (n, size, size, 3), on the device, to float outputs (n, ...) there.
FrozenNetwork = Callable[[Tensor], Tensor]

_BATCH = 32


def frozen_network(
    spec: BackboneSpec, module: nn.Module, *, device: torch.device, precision: Precision | None = None
) -> FrozenNetwork:
    """Return the frozen part as a function; on a CPU it runs in ONNX Runtime, several times as fast there as torch.

    Args:
        spec: The same network for ONNX Runtime, exported once and compared with torch.
        module: The frozen part in torch, in eval mode: for GPUs, and for networks that ONNX cannot express.
        device: Where it runs.
        precision: The precision of the training; on a GPU, the frozen part uses it too.
    """
    if device.type == "cpu":
        try:
            model = onnx_backbone.get(spec)
        except CnnkitError as error:
            log.info("running the frozen part in torch, not in ONNX Runtime: %s", error)
        else:
            session = Session(model.content, device="cpu", name="the frozen part", batch=_BATCH)
            return lambda images: torch.from_numpy(session.run({"images": images.numpy()}, ["features"])[0])
    module = module.to(device).to(memory_format=torch.channels_last)

    numbers = precision or Precision(device)

    def forward(images: Tensor) -> Tensor:
        with torch.no_grad(), numbers.untrained():
            return module(images).float()  # type: ignore[no-any-return] # modules return Any

    return torch_device.in_parts(forward)


def compute_features(
    examples: Examples,
    frozen: FrozenNetwork,
    copies: Sequence[int | None],
    *,
    budget: int,
    folder: Path,
    progress: Progress,
) -> list[Tensor]:
    """Run the frozen part over every image, once for each copy.

    Args:
        examples: N images, or their outputs from another part.
        frozen: The frozen part.
        copies: Which augmented copies; None for the images themselves.
        budget: Bytes of memory for the outputs; if they do not fit, they go to an unnamed file in `folder` that vanishes with the
            process.
        folder: A folder on a disk with enough space for them.
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
            output = frozen(images).cpu()
            if room is None:
                room = _allocate((len(copies), count, *output.shape[1:]), budget=budget, folder=folder)
                kept = list(torch.from_numpy(room))
            kept[number][rows] = output
            progress(number * count + int(rows[-1]) + 1, len(copies) * count)
    return kept


def seconds_per_epoch(images: Examples, frozen: FrozenNetwork) -> float:
    """Estimate the time for an epoch's outputs, with augmentation, in seconds: from one batch, after another one as a warm-up."""
    rows = torch.arange(min(len(images.targets), _BATCH))
    for _ in range(2):
        started = time.perf_counter()
        for batch in images.inputs([rows], 1):
            frozen(batch).cpu()
        elapsed = time.perf_counter() - started
    return elapsed * len(images.targets) / len(rows)


def _allocate(shape: tuple[int, ...], *, budget: int, folder: Path) -> NDArray[np.float32]:
    size = 4 * math.prod(shape)
    if size <= budget:
        return np.empty(shape, dtype=np.float32)
    log.info(
        "the frozen part's features take %.1f GiB, more than --cache; keeping them on disk during the training",
        size / 2**30,
    )
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # without it, a full disk would crash the training later
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
    except OSError as error:
        raise CnnkitError(
            f"{folder}: {(error.strerror or str(error)).lower()}; the frozen part's features need {size / 2**30:.1f} GiB there: "
            "free some space, give a larger --cache, or --views 0 to cache none"
        ) from error


class FrozenPart:
    """The frozen part and the images that pass through it."""

    def __init__(
        self,
        pretrained: PretrainedModel,
        divided: freezing.DividedBackbone,
        *,
        train: ImageSet,
        val: ImageSet | None,
        context: RunContext,
        cache: int,
        val_size: int | None = None,
        precision: Precision | None = None,
    ) -> None:
        self.pretrained, self.divided, self.context = pretrained, divided, context
        self.train, self.val, self.precision = train, val, precision
        #: Side of the validation images, if it is not that of the training images.
        self.val_size = None if val is None else val_size
        self.budget = cache - train.nbytes - (val.nbytes if val else 0)
        self._steps: list[Callable[[], object]] = []

    @functools.cached_property
    def _lower(self) -> FrozenNetwork:
        """Compute the boundary's tensor from images; the head's input where no backbone layer is trained."""
        if self.divided.trained:
            return self._network(self.divided.lower, layer=self.divided.boundary or "", pool=Pool.NONE)
        return self._backbone

    @functools.cached_property
    def _backbone(self) -> FrozenNetwork:
        """Compute the head's input from images."""
        whole = self.pretrained.whole
        return self._network(whole.base, layer=self.pretrained.backbone.layer, pool=whole.pool.pool)

    def _network(self, part: nn.Module, *, layer: str, pool: Pool) -> FrozenNetwork:
        """Return a part of the backbone as a function of images, of the training size or of --val-size."""
        module = Extractor(part, preprocess=self.pretrained.whole.preprocess, pool=pool).eval()
        val_size = self.val_size
        at_train, *at_val = (
            frozen_network(
                self.pretrained.part(layer=layer, pool=pool, size=size),
                module,
                device=self.context.device,
                precision=self.precision,
            )
            for size in ([None] if val_size is None else [None, val_size])
        )
        if not at_val:
            return at_train
        return lambda images: (at_val[0] if images.shape[1] == val_size else at_train)(images)

    def _upper(self, outputs: Tensor) -> Tensor:
        """Compute the head's input from the boundary's tensor, before the upper part is trained."""
        with torch.no_grad():
            return self.pretrained.whole.pool(self.divided.upper.eval()(outputs))  # type: ignore[no-any-return] # modules return Any

    def examples(self, *, views: int, mixing: bool) -> tuple[Examples, Examples | None]:
        """Return the trained part's input: images where nothing is frozen, else the frozen part's outputs, cached or not.

        Args:
            views: How many versions of the outputs are cached; 0 for none.
            mixing: Images are blended before they pass through the network.
        """
        if self.divided.boundary is None:
            return self.train, self.val
        changing = self.train.augmenter is not None or mixing
        if views:
            copies = [None] if self.train.augmenter is None else list(range(1, views + 1))
            self._steps.append(lambda: self._lower)  # may be exported now, which is logged
            self._steps.append(lambda: self._log_pass(copies))
            train: Examples = self._lazy(self.train, copies)
        else:
            self._steps.append(lambda: self._log_epochs(changing=changing, mixing=mixing))
            train = self._forward_each_time(self.train)
        if self.val is None:
            return train, None
        # Validation images never change: one pass is enough
        return train, self._lazy(self.val, [None]) if views or changing else self._forward_each_time(self.val)

    def ready(self) -> None:
        """Run what is run once, and log what is run in every epoch."""
        for step in self._steps:
            step()

    def _lazy(self, examples: ImageSet, copies: Sequence[int | None]) -> LazyExamples:
        lazy = LazyExamples(examples.targets, lambda: self._cached(examples, self._lower, copies=copies))
        self._steps.append(lambda: lazy.made)
        return lazy

    def _forward_each_time(self, examples: ImageSet) -> FrozenForward:
        return FrozenForward(examples, lambda images: self._lower(images))  # looked up late: it may need an export

    def _log_epochs(self, *, changing: bool, mixing: bool) -> None:
        instead = (
            "--views K would run it only once, on K versions of each image"
            if changing
            else "--views 1 would run it only once"
        )
        log.info(
            "the frozen part runs in every epoch and takes %.1f s of each%s",
            seconds_per_epoch(self.train, self._lower),
            "" if mixing else f"; {instead}",
        )

    def _log_pass(self, copies: Sequence[int | None]) -> None:
        log.info(
            "running the frozen part once over %d images%s",
            len(self.train.targets) + (len(self.val.targets) if self.val else 0),
            f", training images in {len(copies)} versions" if len(copies) > 1 else "",
        )

    def _cached(self, examples: Examples, network: FrozenNetwork, *, copies: Sequence[int | None]) -> CachedFeatures:
        self.context.callbacks.phase("running the frozen part")
        views = compute_features(
            examples,
            network,
            copies,
            budget=self.budget,
            folder=self.context.output.parent,
            progress=self.context.callbacks.progress,
        )
        taken = sum(view.nbytes for view in views)
        self.budget -= taken if taken <= self.budget else 0  # else they are on disk
        return CachedFeatures(views, examples.targets, device=self.context.device)

    def _head_inputs(self, task: Task) -> tuple[Examples, Examples | None]:
        """Compute the whole backbone's outputs for the images without augmentation, from cached features if there are any."""
        train, val = task.train, task.val
        network: FrozenNetwork = self._upper
        if self.train.augmenter is not None or not isinstance(train, LazyExamples):
            train, val = self.train, self.val
            network = (
                self._backbone if self.divided.boundary is None else lambda images: self._upper(self._lower(images))
            )
            self._log_pass([None])
        features = self._cached(train, network, copies=[None])
        return features, None if val is None else self._cached(val, network, copies=[None])

    def warm_up(self, task: Task, config: ImageTrainConfig, epochs: int, write: Report) -> Sequence[Epoch]:
        """Train only the head, on the backbone's outputs for images without augmentation, at the optimizer's default learning rate."""
        log.info("training only the head first: %d of %d epochs", epochs, epochs + config.epochs)
        train, val = self._head_inputs(task)
        self.context.callbacks.phase("training the head")
        head = dataclasses.replace(
            task, module=self.pretrained.whole.head, train=train, val=val, groups=None, begins_trained=False
        )
        brief = dataclasses.replace(
            config,
            lr=config.optimizer.learning_rate,
            schedule=Schedule.CONSTANT,
            warmup=0.0,
            epochs=epochs,
            augment=None,
            mixup=0.0,
            cutmix=0.0,
            ema=None,
            patience=None,
            amp=Amp.OFF,
            compile=False,
        )
        context = dataclasses.replace(self.context, world=ALONE)
        return Trainer(head, brief, context).warm_up(write, following=config.epochs)
