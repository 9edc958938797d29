"""From a pretrained network and pictures to a task: what is frozen answers once, what is trained sees its answers."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from cnnkit.choices import Amp, Loss, Unfreeze
from cnnkit.data.learning import Material
from cnnkit.data.reader import Progress
from cnnkit.engine import device as devices
from cnnkit.errors import UsageError
from cnnkit.formats.header import Header, Kind, made_by
from cnnkit.nets import freezing
from cnnkit.nets.classifier import Classifier
from cnnkit.train import distributed, loading, opening, precision
from cnnkit.train.finetune import Start, Thawing
from cnnkit.train.frozen_part import FrozenPart
from cnnkit.train.opening import Opened
from cnnkit.train.recipe import Recipe
from cnnkit.train.results import Report, Result, Running, Skip
from cnnkit.train.run import run
from cnnkit.train.task import Place, Task

log = logging.getLogger("cnnkit")


class Top(nn.Module):
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


def finetune(
    start: Start,
    material: Material,
    output: Path,
    thawing: Thawing,
    recipe: Recipe,
    running: Running,
    *,
    loss: Loss | None,
    skip: Skip,
    report: Report,
    progress: Progress,
) -> Result:
    """Train; arguments are those of `finetune.finetune`, checked."""
    with distributed.joined(devices.parse(running.device)) as (world, place):
        precision.choose(recipe.amp, place)  # what cannot be had is said before pictures are read
        skip, report, progress = loading.voices(world, skip, report, progress)
        place_of = Place(output, place, world, running.resume, report, progress)
        opened = opening.opened(start, material.classes, seed=recipe.seed)
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
        learnt, checked = loading.load(
            material, whole.preprocess, recipe, running, place=place, skip=skip, progress=progress
        )
        frozen_parts = FrozenPart(opened, split, learnt=learnt, checked=checked, place=place_of, cache=running.cache)
        _tell(opened, trained)
        train, val = frozen_parts.examples(views=thawing.views or 0, mixing=bool(recipe.mixup))
        if trained:
            module: nn.Module = Top(split.upper, whole, from_pictures=split.boundary is None, still=thawing.freeze_bn)
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
            loading.identity(learnt, checked),
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
    start: Start,
    opened: Opened,
    thawing: Thawing,
    recipe: Recipe,
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


def _tell(opened: Opened, trained: Sequence[str]) -> None:
    layers = freezing.layers(opened.whole.base)
    chosen = sum(each.numel() for each in opened.whole.parameters() if each.requires_grad)
    everything = sum(each.numel() for each in opened.whole.parameters())
    log.info(
        "training the head%s: %s of %s parameters",
        f" and {len(trained)} of the base's {len(layers)} layers, from {trained[0]} on" if trained else " alone",
        f"{chosen:,}",
        f"{everything:,}",
    )
