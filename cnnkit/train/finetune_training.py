"""From a pretrained network and pictures to a task: what is frozen answers once, what is trained sees its answers."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from cnnkit.choices import Amp, Loss, Pool, Schedule
from cnnkit.data.learning import Material
from cnnkit.data.reader import Progress
from cnnkit.engine import device as devices
from cnnkit.errors import UsageError
from cnnkit.formats.header import Header, Kind, made_by
from cnnkit.nets import freezing
from cnnkit.nets.classifier import Classifier, Extractor
from cnnkit.train import distributed, frozen, loading, opening
from cnnkit.train.epoch import Epoch
from cnnkit.train.examples import Answered, Examples, Pictures, Stored
from cnnkit.train.finetune import Start, Thawing
from cnnkit.train.opening import Opened
from cnnkit.train.recipe import Recipe
from cnnkit.train.results import Report, Result, Running, Skip
from cnnkit.train.run import run, warm_up
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
        skip, report, progress = loading.voices(world, skip, report, progress)
        place_of = Place(output, place, world, running.resume, report, progress)
        opened = opening.opened(start, material.classes, seed=recipe.seed)
        recipe = dataclasses.replace(recipe, loss=opened.loss(asked=loss))
        if opened.fresh and thawing.unfreeze != freezing.NONE and not thawing.warmup_head:
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
        frozen_parts = _Frozen(opened, split, learnt, checked, place_of, running)
        _tell(opened, trained)
        header = Header(
            kind=Kind.MODEL,
            classes=material.classes,
            preprocess=whole.preprocess,
            backbone=dataclasses.replace(opened.backbone, weights_sha256=None) if trained else opened.backbone,
            head=opened.head,
            training={
                "command": "cnn-finetune",
                "from": opened.digest,
                "rows": len(learnt.targets),
                "unfreeze": thawing.unfreeze,
                "layer_decay": thawing.layer_decay,
                "warmup_head": thawing.warmup_head,
                "views": thawing.views,
                "freeze_bn": thawing.freeze_bn,
                **recipe.described(),
            },
            made_by=made_by("torch", "torchvision"),
        )
        train, val = frozen_parts.examples(views=thawing.views or 0)
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
            header,
            loading.identity(learnt, checked),
            groups=_groups(whole, trained, thawing.layer_decay),
            begins_trained=not opened.fresh,
        )
        if thawing.warmup_head:
            task = dataclasses.replace(
                task, begin=functools.partial(frozen_parts.warm_up, task, recipe, thawing.warmup_head)
            )
        return run(task, recipe, place_of)


class _Frozen:
    """The frozen part and the pictures it answers to."""

    def __init__(
        self,
        opened: Opened,
        split: freezing.Split,
        learnt: Pictures,
        checked: Pictures | None,
        place: Place,
        running: Running,
    ) -> None:
        self.opened, self.split, self.place = opened, split, place
        self.learnt, self.checked = learnt, checked
        self.budget = running.cache - learnt.nbytes - (checked.nbytes if checked else 0)

    @functools.cached_property
    def _lower(self) -> frozen.Frozen:
        """From pictures to the boundary; to what the head sees where nothing of the base is trained."""
        if self.split.trained:
            return self._network(self.split.lower, layer=self.split.boundary or "", pool=Pool.NONE)
        return self._base

    @functools.cached_property
    def _base(self) -> frozen.Frozen:
        """From pictures to what the head sees."""
        whole = self.opened.whole
        return self._network(whole.base, layer=self.opened.backbone.layer, pool=whole.pool.pool)

    def _network(self, part: nn.Module, *, layer: str, pool: Pool) -> frozen.Frozen:
        module = Extractor(part, preprocess=self.opened.whole.preprocess, pool=pool).eval()
        return frozen.network(self.opened.part(layer=layer, pool=pool), module, place=self.place.device)

    def _upper(self, answers: Tensor) -> Tensor:
        """From the boundary to what the head sees, before any of it is trained."""
        with torch.no_grad():
            return self.opened.whole.pool(self.split.upper.eval()(answers))  # type: ignore[no-any-return] # modules return Any

    def examples(self, *, views: int) -> tuple[Examples, Examples | None]:
        """Give what the trained part sees: pictures where nothing is frozen, else the frozen part's answers, kept if so wished."""
        if self.split.boundary is None:
            return self.learnt, self.checked
        if views:
            copies = [None] if self.learnt.augmenter is None else list(range(1, views + 1))
            self._tell_of_pass(copies)
            return self._kept(self.learnt, self._lower, copies=copies), self._validating(self.checked, self._lower)
        augmented = self.learnt.augmenter is not None
        log.info(
            "the frozen part runs in every epoch, which takes %.1f s of it; %s",
            frozen.seconds(self.learnt, self._lower),
            "--views K runs it on K versions of every picture, once" if augmented else "--views 1 runs it once",
        )
        train = Answered(self.learnt, self._lower)
        if self.checked is None or not augmented:
            return train, Answered(self.checked, self._lower) if self.checked else None
        return train, self._validating(self.checked, self._lower)  # never augmented: one answer is enough

    def _tell_of_pass(self, copies: Sequence[int | None]) -> None:
        log.info(
            "running the frozen part once over %d pictures%s",
            len(self.learnt.targets) + (len(self.checked.targets) if self.checked else 0),
            f", {len(copies)} times over those for training" if len(copies) > 1 else "",
        )

    def _validating(self, examples: Examples | None, network: frozen.Frozen) -> Stored | None:
        return None if examples is None else self._kept(examples, network, copies=[None])

    def _kept(self, examples: Examples, network: frozen.Frozen, *, copies: Sequence[int | None]) -> Stored:
        views = frozen.answers(
            examples,
            network,
            copies,
            budget=self.budget,
            folder=self.place.output.parent,
            progress=self.place.progress,
        )
        taken = sum(view.nbytes for view in views)
        self.budget -= taken if taken <= self.budget else 0  # more than that is on disk
        return Stored(views, examples.targets, place=self.place.device)

    def _seen_by_head(self, task: Task) -> tuple[Examples, Examples | None]:
        """Give what the whole base answers to the plain pictures, from what is kept of them if that is so."""
        train, val = task.train, task.val
        network: frozen.Frozen = self._upper
        if self.learnt.augmenter is not None or not isinstance(train, Stored):
            train, val = self.learnt, self.checked
            network = self._base if self.split.boundary is None else lambda images: self._upper(self._lower(images))
            self._tell_of_pass([None])
        return self._kept(train, network, copies=[None]), self._validating(val, network)

    def warm_up(self, task: Task, recipe: Recipe, epochs: int, write: Report) -> Sequence[Epoch]:
        """Train the head alone, on what the whole base answers to the plain pictures, at the optimizer's own learning rate."""
        log.info("training the head alone for %d epochs first", epochs)
        train, val = self._seen_by_head(task)
        head = dataclasses.replace(
            task, module=self.opened.whole.head, train=train, val=val, groups=None, begins_trained=False
        )
        brief = dataclasses.replace(
            recipe,
            lr=None,
            schedule=Schedule.CONSTANT,
            warmup=0.0,
            epochs=epochs,
            augment=None,
            mixup=0.0,
            ema=None,
            patience=None,
            amp=Amp.OFF,
            compile=False,
        )
        return warm_up(head, brief, self.place, write, following=recipe.epochs)


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
