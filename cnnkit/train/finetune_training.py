"""From a pretrained network and pictures to a task: what is frozen answers once, what is trained sees its answers."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from cnnkit.choices import Amp, Initializer, Loss, Pool
from cnnkit.data.learning import Material
from cnnkit.data.preprocess import with_size
from cnnkit.data.reader import Progress
from cnnkit.engine import device as devices
from cnnkit.engine.bases import Request
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import bundle, cache
from cnnkit.formats.header import Backbone, Header, Kind, made_by
from cnnkit.nets import backbones, build, classifier, freezing, notation
from cnnkit.nets.classifier import Classifier, Extractor
from cnnkit.train import distributed, frozen, loading
from cnnkit.train.epoch import Epoch
from cnnkit.train.examples import Answered, Examples, Pictures, Stored
from cnnkit.train.finetune import Start, Thawing
from cnnkit.train.recipe import Recipe
from cnnkit.train.results import Report, Result, Running, Skip
from cnnkit.train.run import Place, Task, run, warm_up

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


@dataclass(frozen=True, slots=True)
class _Opened:
    """A network to start from: where it comes from, and how its base is asked for to be run by ONNX Runtime."""

    whole: Classifier
    backbone: Backbone
    head: str
    source: str
    digest: str | None
    fresh: bool
    request: Request

    def part(self, *, layer: str, pool: Pool) -> Request:
        """Ask for the base, cut at a layer."""
        return dataclasses.replace(self.request, layer=layer, pool=pool)


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
        opened = _from_model(start.model, material.classes) if start.model else _from_backbone(start, seed=recipe.seed)
        recipe = dataclasses.replace(recipe, loss=_loss(opened, asked=loss))
        if opened.fresh and thawing.unfreeze != freezing.NONE and not thawing.warmup_head:
            raise UsageError(
                f"{opened.source} has no trained head yet: the gradients of a random one would wreck what the base knows. "
                "Train the head first with --warmup-head 5, or alone with --unfreeze none"
            )
        whole, base = opened.whole, opened.whole.base
        trained = freezing.find(base, thawing.unfreeze, network=opened.backbone.name)
        whole.to(place)
        split = freezing.split(base, trained)
        learnt, checked = loading.load(
            material, whole.preprocess, recipe, running, place=place, skip=skip, progress=progress
        )
        place_of = Place(output, place, world, running.resume, report, progress)
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
        train, val = frozen_parts.examples(views=thawing.views or 0, trained=bool(trained))
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
        )
        if thawing.warmup_head:
            task = dataclasses.replace(task, begin=partial(frozen_parts.warm_up, task, recipe, thawing.warmup_head))
        return run(task, recipe, place_of)


class _Frozen:
    """The frozen part and the pictures it answers to."""

    def __init__(
        self,
        opened: _Opened,
        split: freezing.Split,
        learnt: Pictures,
        checked: Pictures | None,
        place: Place,
        running: Running,
    ) -> None:
        self.opened, self.split, self.place = opened, split, place
        self.learnt, self.checked = learnt, checked
        self.budget = running.cache - learnt.nbytes - (checked.nbytes if checked else 0)

    def _network(self, *, whole_base: bool) -> frozen.Frozen:
        whole = self.opened.whole
        layer = self.opened.backbone.layer if whole_base else self.split.boundary
        pool = whole.pool.pool if whole_base else Pool.NONE
        part = whole.base if whole_base else self.split.lower
        module = Extractor(part, preprocess=whole.preprocess, pool=pool).eval()
        return frozen.network(self.opened.part(layer=layer or "", pool=pool), module, place=self.place.device)

    def examples(self, *, views: int, trained: bool) -> tuple[Examples, Examples | None]:
        """Give what the trained part sees: pictures where nothing is frozen, else the frozen part's answers, kept if so wished."""
        if self.split.boundary is None:
            return self.learnt, self.checked
        network = self._network(whole_base=not trained)
        if not views:
            return Answered(self.learnt, network), Answered(self.checked, network) if self.checked else None
        copies = [None] if self.learnt.augmenter is None else list(range(1, views + 1))
        return self._stored(network, copies=copies)

    def _stored(self, network: frozen.Frozen, *, copies: Sequence[int | None]) -> tuple[Stored, Stored | None]:
        log.info(
            "running the frozen part once over %d pictures%s",
            len(self.learnt.targets) + (len(self.checked.targets) if self.checked else 0),
            f", {len(copies)} times over those for training" if len(copies) > 1 else "",
        )
        kept = partial(frozen.answers, frozen=network, folder=self.place.output.parent, progress=self.place.progress)
        seen = kept(self.learnt, copies=copies, budget=self.budget)
        used = sum(view.nbytes for view in seen)
        device = self.place.device
        train = Stored(seen, self.learnt.targets, place=device)
        if self.checked is None:
            return train, None
        return train, Stored(
            kept(self.checked, copies=[None], budget=self.budget - used), self.checked.targets, place=device
        )

    def warm_up(self, task: Task, recipe: Recipe, epochs: int) -> Sequence[Epoch]:
        """Train the head alone, on what the whole base answers to the plain pictures."""
        log.info("training the head alone for %d epochs first", epochs)
        train, val = self._stored(self._network(whole_base=True), copies=[None])
        head = dataclasses.replace(task, module=self.opened.whole.head, train=train, val=val, groups=None)
        brief = Recipe(
            loss=recipe.loss,
            optimizer=recipe.optimizer,
            epochs=epochs,
            batch=recipe.batch,
            smoothing=recipe.smoothing,
            class_weights=recipe.class_weights,
            monitor=recipe.monitor,
            amp=Amp.OFF,
            seed=recipe.seed,
        )
        return warm_up(head, brief, self.place)


def _from_model(path: Path, classes: Sequence[str]) -> _Opened:
    model = bundle.load(path)
    header = model.header
    if header.classes != tuple(classes):
        raise CnnkitError(
            f"{path} knows {', '.join(header.classes or ())}; the pictures are of {', '.join(classes)}. "
            "Train a head for these with cnn-train-head, or start from --backbone"
        )
    whole = classifier.from_header(header, model.state, name=str(path))
    assert header.backbone is not None
    assert header.head is not None
    return _Opened(
        whole,
        header.backbone,
        header.head,
        str(path),
        digest=cache.sha256(path),
        fresh=not model.history,
        request=Request(backbone=str(path)),
    )


def _from_backbone(start: Start, *, seed: int) -> _Opened:
    name = start.backbone or ""
    base, backbone, preprocess = backbones.pretrained(name, weights=start.weights, seed=seed)
    preprocess = with_size(preprocess, size=start.size, fit=start.fit)
    extractor = Extractor(base, preprocess=preprocess, pool=backbone.pool).eval()
    head = classifier.build_head(start.head, classifier.feature_shape(extractor, preprocess))
    build.initialise(head, Initializer.GLOROT, generator=torch.Generator().manual_seed(seed))
    return _Opened(
        Classifier(base, head, preprocess=preprocess, pool=backbone.pool),
        backbone,
        start.head,
        name,
        digest=backbone.weights_sha256,
        fresh=True,
        request=Request(backbone=name, weights=start.weights, size=start.size, fit=start.fit, seed=seed),
    )


def _loss(opened: _Opened, *, asked: Loss | None) -> Loss:
    """Find the loss that a network's last layer is made for."""
    sigmoid = notation.parse(opened.head)[-1].activation is notation.Activation.sigmoid
    loss = Loss.BINARY if sigmoid else Loss.CATEGORICAL
    if asked not in (None, loss):
        raise UsageError(
            f'{opened.source} ends in "{notation.parse(opened.head)[-1].text}", which is trained with --loss {loss}'
        )
    return loss


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


def _tell(opened: _Opened, trained: Sequence[str]) -> None:
    layers = freezing.layers(opened.whole.base)
    chosen = sum(each.numel() for each in opened.whole.parameters() if each.requires_grad)
    everything = sum(each.numel() for each in opened.whole.parameters())
    log.info(
        "training the head%s: %s of %s parameters",
        f" and {len(trained)} of the base's {len(layers)} layers, from {trained[0]} on" if trained else " alone",
        f"{chosen:,}",
        f"{everything:,}",
    )
