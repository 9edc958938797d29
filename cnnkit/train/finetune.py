"""Train the top of a pretrained backbone further, together with its head."""

import dataclasses
import functools
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from cnnkit.choices import Amp, Loss, Unfreeze
from cnnkit.data.learning import TrainValImages
from cnnkit.data.reader import Progress, no_progress
from cnnkit.engine import device as devices
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats.header import Header, Kind, made_by
from cnnkit.nets import freezing, output_layer
from cnnkit.nets.classifier import Classifier
from cnnkit.train import dataset, distributed, loop, pretrained
from cnnkit.train.config import (
    FINETUNE_LR,
    FreezeConfig,
    ImageTrainConfig,
    InitFrom,
    Report,
    RunConfig,
    Skip,
    model_path,
    no_report,
)
from cnnkit.train.frozen import FrozenPart
from cnnkit.train.pretrained import PretrainedModel
from cnnkit.train.trainer import RunContext, Task, TrainResult, run

log = logging.getLogger("cnnkit")


def finetune(
    start: InitFrom,
    material: TrainValImages,
    output: str | Path,
    *,
    thawing: FreezeConfig,
    recipe: ImageTrainConfig | None = None,
    loss: Loss | None = None,
    running: RunConfig | None = None,
    skip: Skip,
    report: Report = no_report,
    progress: Progress = no_progress,
) -> TrainResult:
    """Train, and write the model to FILE.pt and its history to FILE.csv.

    Args:
        start: From what.
        material: Pictures for training and validation.
        output: The `.pt`.
        thawing: What of it.
        recipe: How; its loss follows from the model's last layer, and for a fresh head from `loss`.
        loss: Refused where the model's last layer is made for another one.
        running: Where.
        skip: Called for every picture that cannot be used.
        report: Called with every epoch as it is done.
        progress: Called as pictures go by.

    Raises:
        UsageError: Options contradict each other, a notation is wrong, or a fresh head would wreck what the base knows.
        CnnkitError: As `run.run`; or the model has other classes.
    """
    output = model_path(output)
    thawing = _named(thawing)
    recipe = dataclasses.replace(recipe or ImageTrainConfig(), loss=loss or Loss.CATEGORICAL)
    if recipe.lr is None and thawing.unfreeze != Unfreeze.NONE:
        recipe = dataclasses.replace(recipe, lr=FINETUNE_LR)
    start = _checked_init(start, recipe, classes=len(material.classes))
    recipe = recipe.checked(classes=len(material.classes), validated=bool(material.val))
    if start.model is not None and output.exists() and output.samefile(start.model):
        raise UsageError(f"{output} is what the training starts from, and --resume would need it; give another -o")
    thawing = dataclasses.replace(thawing, views=_views(thawing.views, recipe))
    devices.parse((running or RunConfig()).device)

    return _finetune(
        start,
        material,
        output,
        thawing,
        recipe,
        running or RunConfig(),
        loss=loss,
        skip=skip,
        report=report,
        progress=progress,
    )


def _named(thawing: FreezeConfig) -> FreezeConfig:
    """Call no layer at all by its name, and refuse a share of the learning rate where it means nothing."""
    if re.fullmatch(r"[-+]?\d*\.?\d+", thawing.unfreeze) and not thawing.unfreeze.isdecimal():
        raise UsageError(
            f"--unfreeze {thawing.unfreeze}: give how many of the last layers are trained, 0 or more, a layer's name, all or none"
        )
    if thawing.unfreeze.isdecimal() and not int(thawing.unfreeze):
        thawing = dataclasses.replace(thawing, unfreeze=Unfreeze.NONE)
    if thawing.layer_decay is not None and thawing.unfreeze == Unfreeze.NONE:
        raise UsageError("--layer-decay slows the base's layers down, of which --unfreeze none trains none")
    if not thawing.freeze_bn and thawing.unfreeze == Unfreeze.NONE:
        raise UsageError("--train-bn is about the base's layers, of which --unfreeze none trains none")
    if thawing.layer_decay == 0:
        raise UsageError("--layer-decay 0 would leave the base as it is; --unfreeze none does so faster")
    return thawing


def _checked_init(start: InitFrom, recipe: ImageTrainConfig, *, classes: int) -> InitFrom:
    if (start.model is None) == (start.backbone is None):
        raise UsageError("give either a model, such as head.pt, or --backbone NAME for a fresh head")
    if start.model is not None:
        for name in ("head", "size", "fit", "init", "weights"):
            if getattr(start, name) != getattr(InitFrom(), name):
                own = "weights" if name == "init" else name
                raise UsageError(f"{start.model} has its own {own}; --{name} goes with --backbone")
        if not start.model.exists():
            raise CnnkitError(
                f"{start.model}: no such model; cnn-train-head and cnn-train make one, and --backbone NAME starts without"
            )
        return start
    if start.weights not in ("default", "none") and not Path(start.weights).is_file():
        raise CnnkitError(f"{start.weights}: no such file; --weights takes a state_dict file, default or none")
    head = output_layer.whole_head(start.head, loss=recipe.loss, classes=classes, spatial=False)
    return dataclasses.replace(start, head=head)


def _views(asked: int | None, recipe: ImageTrainConfig) -> int:
    """Settle how many versions are kept: without augmentation there is one, with it the default is a new one in every epoch."""
    if asked is None:
        return 0 if recipe.augment or recipe.mixup else 1
    if asked and recipe.mixup:
        raise UsageError(
            "--mixup blends pictures anew in every epoch, and --views keeps answers to them; give --views 0"
        )
    if asked > 1 and not recipe.augment:
        raise UsageError(f"--views {asked} keeps augmented versions; give --augment, or --views 1")
    if asked > recipe.epochs:
        log.info(
            "--views %d: in %d epochs a picture is seen in no more than %d of them", asked, recipe.epochs, recipe.epochs
        )
    return asked


class TrainablePart(nn.Module):
    """What is trained: from the boundary, where the frozen part ends, to logits."""

    def __init__(self, upper: nn.Module, whole: Classifier, *, from_pictures: bool, still: bool) -> None:
        """Put it together.

        Args:
            upper: The trained part of the base.
            whole: Whose normalisation, pooling and head it shares.
            from_pictures: Nothing is frozen.
            still: The statistics of the base's batch norms stay as they are.
        """
        super().__init__()
        self.normalise = whole.normalise if from_pictures else nn.Identity()
        self.upper = upper
        self.pool = whole.pool
        self.head = whole.head
        self.still = still

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or back, all but statistics that are to stay still."""
        super().train(mode)
        if self.still:
            for module in self.upper.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, given: Tensor) -> Tensor:
        """From the boundary's tensor, or uint8 pictures (N, H, W, 3), to logits (N, classes) or (N, 1)."""
        return self.head(self.pool(self.upper(self.normalise(given))))  # type: ignore[no-any-return] # modules return Any


def _finetune(
    start: InitFrom,
    material: TrainValImages,
    output: Path,
    thawing: FreezeConfig,
    recipe: ImageTrainConfig,
    running: RunConfig,
    *,
    loss: Loss | None,
    skip: Skip,
    report: Report,
    progress: Progress,
) -> TrainResult:
    """Train; arguments are those of `finetune.finetune`, checked."""
    with distributed.joined(devices.parse(running.device)) as (world, place):
        loop.choose_precision(recipe.amp, place)  # what cannot be had is said before pictures are read
        skip, report, progress = dataset.voices(world, skip, report, progress)
        place_of = RunContext(output, place, world, running.resume, report, progress)
        opened = pretrained.load(start, material.classes, seed=recipe.seed)
        recipe = dataclasses.replace(recipe, loss=opened.loss(asked=loss))
        if opened.fresh and thawing.unfreeze != Unfreeze.NONE and not thawing.warmup_head:
            raise UsageError(
                f"{opened.source} has no trained head yet: the gradients of a random one would wreck what the base knows. "
                "Train the head first with --warmup-head 5, or alone with --unfreeze none"
            )
        whole, base = opened.whole, opened.whole.base
        trained = freezing.find(base, thawing.unfreeze, network=opened.backbone.name)
        whole.to(place)
        split = freezing.split(base, trained)
        if split.boundary is None and thawing.views and recipe.augment:
            raise UsageError(
                f"--views {thawing.views} keeps what the frozen part answers, and --unfreeze {thawing.unfreeze} leaves none frozen"
            )
        learnt, checked = dataset.load_train_val(
            material, whole.preprocess, recipe, running, place=place, skip=skip, progress=progress
        )
        frozen_parts = FrozenPart(opened, split, learnt=learnt, checked=checked, place=place_of, cache=running.cache)
        _tell(opened, trained)
        train, val = frozen_parts.examples(views=thawing.views or 0, mixing=bool(recipe.mixup))
        if trained:
            module: nn.Module = TrainablePart(
                split.upper, whole, from_pictures=split.boundary is None, still=thawing.freeze_bn
            )
        else:
            module = whole.head
            recipe = dataclasses.replace(recipe, amp=Amp.OFF) if recipe.amp is Amp.AUTO else recipe
        task = Task(
            module,
            whole,
            train,
            val,
            _header(
                start,
                opened,
                thawing,
                recipe,
                classes=material.classes,
                rows=len(learnt.targets),
                moved=bool(trained),
            ),
            dataset.content_hash(learnt, checked),
            groups=_groups(whole, trained, thawing.layer_decay),
            begins_trained=not opened.fresh,
            ready=frozen_parts.ready,
        )
        if thawing.warmup_head:
            task = dataclasses.replace(
                task, begin=functools.partial(frozen_parts.warm_up, task, recipe, thawing.warmup_head)
            )
        return run(task, recipe, place_of)


def _header(
    start: InitFrom,
    opened: PretrainedModel,
    thawing: FreezeConfig,
    recipe: ImageTrainConfig,
    *,
    classes: tuple[str, ...],
    rows: int,
    moved: bool,
) -> Header:
    """Record what is trained and how; a base that has `moved` is found by no hash any more."""
    return Header(
        kind=Kind.MODEL,
        classes=classes,
        preprocess=opened.whole.preprocess,
        backbone=dataclasses.replace(opened.backbone, weights_sha256=None) if moved else opened.backbone,
        head=opened.head,
        training={
            "command": "cnn-finetune",
            "from": opened.digest,
            "rows": rows,
            **dataclasses.asdict(thawing),
            "init": start.init.value if start.init else None,
            **recipe.described(),
        },
        made_by=made_by("torch", "torchvision"),
    )


def _groups(whole: Classifier, trained: Sequence[str], decay: float | None) -> list[dict[str, Any]]:
    """Group what is trained by its learning rate: the head first, then the base's blocks downwards, each slower than the one above."""
    parameters = dict(whole.base.named_parameters())
    blocks = freezing.depth_groups(whole.base, trained)
    groups: list[dict[str, Any]] = [{"params": list(whole.head.parameters()), "lr": 1.0}]
    for depth, names in enumerate(blocks, start=1):
        groups.append({"params": [parameters[name] for name in names], "lr": (decay or 1.0) ** depth})
    return (
        groups if decay is not None else [{"params": [each for group in groups for each in group["params"]], "lr": 1.0}]
    )


def _tell(opened: PretrainedModel, trained: Sequence[str]) -> None:
    layers = freezing.layers(opened.whole.base)
    chosen = sum(each.numel() for each in opened.whole.parameters() if each.requires_grad)
    everything = sum(each.numel() for each in opened.whole.parameters())
    log.info(
        "training the head%s: %s of %s parameters",
        f" and {len(trained)} of the base's {len(layers)} layers, from {trained[0]} on" if trained else " alone",
        f"{chosen:,}",
        f"{everything:,}",
    )
