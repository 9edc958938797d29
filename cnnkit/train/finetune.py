"""Fine-tuning: train a head together with the top layers of its pretrained backbone."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from cnnkit.callbacks import Callbacks
from cnnkit.choices import Amp, Unfreeze
from cnnkit.data.train_val import TrainValImages
from cnnkit.engine import device as devices
from cnnkit.engine import torch_device
from cnnkit.errors import UsageError
from cnnkit.formats.header import ArtefactKind, Header, made_by
from cnnkit.nets import build, freezing
from cnnkit.nets.classifier import Classifier
from cnnkit.train import dataset, distributed, mixed_precision, pretrained, val_size
from cnnkit.train.config import FinetuneConfig, FreezeConfig, RunConfig, parse_size, warn_without_val
from cnnkit.train.frozen import FrozenPart
from cnnkit.train.network_config import InitFrom
from cnnkit.train.pretrained import PretrainedModel
from cnnkit.train.trainer import RunContext, Task, Trainer, TrainResult

log = logging.getLogger("cnnkit")


class TrainablePart(nn.Module):
    """The trained part of a network, from the boundary where the frozen part ends to logits."""

    def __init__(self, upper: nn.Module, whole: Classifier, *, from_images: bool, freeze_bn: bool) -> None:
        """Join the parts.

        Args:
            upper: The trained part of the backbone.
            whole: The network; normalization, pooling and head are shared with it.
            from_images: Nothing is frozen: the input is images.
            freeze_bn: Freeze the statistics of the backbone's batch norms.
        """
        super().__init__()
        self.normalise = whole.normalise if from_images else nn.Identity()
        self.upper = upper
        self.pool = whole.pool
        self.head = whole.head
        self.freeze_bn = freeze_bn

    def train(self, mode: bool = True) -> Self:
        """Switch between training and eval mode, except for batch norms with frozen statistics."""
        super().train(mode)
        if self.freeze_bn:
            for module in self.upper.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def stages(self) -> list[nn.Module]:
        """Return the modules that `forward` calls one after another."""
        return [self.normalise, *build.stages(self.upper), self.pool, *build.stages(self.head)]

    def forward(self, given: Tensor) -> Tensor:
        """Compute logits (N, classes) or (N, 1) from the boundary's tensor, or from uint8 images (N, H, W, 3)."""
        return self.head(self.pool(self.upper(self.normalise(given))))  # type: ignore[no-any-return] # modules return Any


@contextlib.contextmanager
def preparing(
    data: TrainValImages,
    output: Path,
    *,
    init: InitFrom,
    freeze: FreezeConfig,
    train: FinetuneConfig,
    run: RunConfig,
    callbacks: Callbacks,
) -> Generator[Trainer]:
    """Read images and a network, for fine-tuning.

    Args:
        data: Images for training and validation.
        output: The `.pt` file to write; other runs cannot write it meanwhile.
        init: What the training starts from; checked, as all settings.
        freeze: Which layers are trained.
        train: How they are trained; the loss follows from the model's final layer, and only for a new head from this.
        run: Where to train.
        callbacks: Progress, skipped images, and every finished epoch.

    Yields:
        The training, which has not begun.

    Raises:
        UsageError: The model's final layer is made for another loss, or an untrained head would spoil the backbone.
        CnnkitError: The model has other classes.
    """
    with (
        torch_device.algorithms(deterministic=train.deterministic),
        distributed.joined(devices.parse(run.device)) as (world, device),
        world.claimed(output),
    ):
        mixed_precision.choose_precision(train.amp, device)  # reports an unsupported one before images are read
        context = RunContext(output, device, world, run.resume, world.callbacks(callbacks), run.checkpoint_every)
        start = pretrained.load(init, data.classes, seed=train.seed, multi_label=data.multi_label)
        train = dataclasses.replace(train, loss=start.loss(given=train.loss))
        if start.fresh and freeze.unfreeze != Unfreeze.NONE and not freeze.warmup_head:
            raise UsageError(
                f"the head of {start.source} is untrained, and its gradients would spoil the pretrained backbone; "
                "train the head first with --warmup-head 5, or only the head with --unfreeze none"
            )
        whole, backbone = start.whole, start.whole.base
        trained = freezing.find(backbone, freeze.unfreeze, network=start.backbone.name)
        val_size.check(whole, train)
        whole.to(device)
        divided = freezing.divide(backbone, trained)
        if divided.boundary is None and freeze.views and train.augment:
            raise UsageError(
                f"--views {freeze.views} caches features of the frozen part, but --unfreeze {freeze.unfreeze} freezes nothing; "
                "drop --views"
            )
        if trained:
            from_images = divided.boundary is None
            module: nn.Module = TrainablePart(divided.upper, whole, from_images=from_images, freeze_bn=freeze.freeze_bn)
        else:
            module = whole.head
            train = dataclasses.replace(train, amp=Amp.OFF) if train.amp is Amp.AUTO else train
        world.check_batch_norm(module, device)
        context.callbacks.phase("reading images")
        train_set, val_set = dataset.load_train_val(
            data, whole.preprocess, train, run, device=device, callbacks=context.callbacks
        )
        frozen_part = FrozenPart(
            start,
            divided,
            train=train_set,
            val=val_set,
            context=context,
            cache=parse_size(run.cache),
            val_size=train.val_size,
            precision=mixed_precision.choose_precision(train.amp, device),
        )
        _log_trained(start, trained)
        examples = frozen_part.examples(views=freeze.views or 0, mixing=train.mixes)
        header = _header(
            start, init, freeze, train, classes=data.classes, rows=len(train_set.targets), moved=bool(trained)
        ).but(multi_label=data.multi_label)
        task = Task(
            module,
            whole,
            *examples,
            val_size.recorded(header, train),
            dataset.content_hash(train_set, val_set),
            groups=_groups(whole, trained, freeze.layer_decay),
            begins_trained=not start.fresh,
            ready=frozen_part.ready,
        )
        if freeze.warmup_head:
            begin = functools.partial(frozen_part.warm_up, task, train, freeze.warmup_head)
            task = dataclasses.replace(task, begin=begin)
        yield Trainer(task, train, context)


def finetune(
    data: TrainValImages,
    output: Path,
    *,
    init: InitFrom,
    freeze: FreezeConfig,
    train: FinetuneConfig,
    run: RunConfig,
    callbacks: Callbacks,
) -> TrainResult:
    """Train, and write the model to FILE.pt and its history to FILE.csv.

    Args, Raises as `preparing` and `Trainer.run`.
    """
    warn_without_val(has_val=bool(data.val))
    with preparing(data, output, init=init, freeze=freeze, train=train, run=run, callbacks=callbacks) as trainer:
        return trainer.run()


def _header(
    start: PretrainedModel,
    init: InitFrom,
    freeze: FreezeConfig,
    train: FinetuneConfig,
    *,
    classes: tuple[str, ...],
    rows: int,
    moved: bool,
) -> Header:
    """Record what is trained and how; a backbone that has `moved` no longer has the hash of its weights."""
    return Header(
        kind=ArtefactKind.MODEL,
        classes=classes,
        preprocess=start.whole.preprocess,
        backbone=dataclasses.replace(start.backbone, weights_sha256=None) if moved else start.backbone,
        head=start.head,
        training={
            "command": "cnn-finetune",
            "from": start.digest,
            "rows": rows,
            **freeze.described(),
            "init": init.init.value if init.init else None,
            **train.described(),
        },
        made_by=made_by("torch", "torchvision"),
    )


def _groups(whole: Classifier, trained: Sequence[str], decay: float | None) -> list[dict[str, Any]]:
    """Group the trained parameters by learning rate: the head, then the backbone's blocks downwards, each slower than the one above."""
    parameters = dict(whole.base.named_parameters())
    blocks = freezing.depth_groups(whole.base, trained)
    groups: list[dict[str, Any]] = [{"params": list(whole.head.parameters()), "lr": 1.0}]
    for depth, names in enumerate(blocks, start=1):
        groups.append({"params": [parameters[name] for name in names], "lr": (decay or 1.0) ** depth})
    return (
        groups if decay is not None else [{"params": [each for group in groups for each in group["params"]], "lr": 1.0}]
    )


def _log_trained(start: PretrainedModel, trained: Sequence[str]) -> None:
    layers = freezing.layers(start.whole.base)
    chosen = sum(each.numel() for each in start.whole.parameters() if each.requires_grad)
    everything = sum(each.numel() for each in start.whole.parameters())
    log.info(
        "training the head%s: %s of %s parameters",
        f" and {len(trained)} of {len(layers)} backbone layers, from {trained[0]} on" if trained else " only",
        f"{chosen:,}",
        f"{everything:,}",
    )
