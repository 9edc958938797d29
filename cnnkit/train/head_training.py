"""The training of a head on rows in memory, by either solver, and the model that comes of it."""

import dataclasses
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.choices import ClassWeights, Initializer, Solver
from cnnkit.data.reader import Progress
from cnnkit.engine import torch_device
from cnnkit.engine.device import Device
from cnnkit.errors import CnnkitError, FormatError
from cnnkit.formats import bundle, cache, history
from cnnkit.formats.bundle import Bundle
from cnnkit.formats.features import Features
from cnnkit.formats.header import Header, Kind, made_by
from cnnkit.nets import backbones, build, classifier
from cnnkit.train import logistic, optim, preparation
from cnnkit.train.ending import whole_head
from cnnkit.train.epoch import Epoch
from cnnkit.train.head import Result, Settings
from cnnkit.train.loop import Best, fit, in_order, shuffled
from cnnkit.train.optim import Objective, answers
from cnnkit.train.step import Step

log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True)
class Material:
    """Features that belong together, with the names of their files."""

    train: str
    learnt: Features
    val: str
    validated: Features | None
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Features and targets on the device."""

    values: Tensor  # (N, D) or (N, C, H, W)
    targets: Tensor  # (N,)


def run(
    material: Material,
    output: Path,
    *,
    settings: Settings,
    weights: Path | None,
    device: Device,
    progress: Progress,
) -> Result:
    """Train, and write model and history; arguments and errors are those of `head.train_head`."""
    learnt, classes = material.learnt, material.classes
    base = _base(learnt.header, weights, name=material.train)
    place = torch_device.choose(device)
    learning = _rows(learnt, classes, place, name=material.train)
    checking = None
    if material.validated is not None:
        checking = _rows(material.validated, classes, place, name=material.val)
    trained = _Training(settings, learning, checking, classes=len(classes))
    with history.Writer(output.with_suffix(".csv")) as rows:
        for epoch in trained.run():
            rows.write(epoch)
            progress(epoch.epoch, trained.expected)
    majority, nearest = _compare(trained, learning, checking, len(classes)) if checking is not None else (None, None)
    head, text = trained.finished()
    header = Header(
        kind=Kind.MODEL,
        classes=classes,
        preprocess=learnt.header.preprocess,
        backbone=learnt.header.backbone,
        head=text,
        training={
            "command": "cnn-train-head",
            "rows": len(learnt.rows),
            **learnt.header.training,
            **_described(settings, trained.strength),
        },
        made_by=made_by("torch", "torchvision"),
    )
    state = {f"base.{name}": tensor for name, tensor in base.state_dict().items()}
    state |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    bundle.save(output, Bundle(header, state, [_timeless(epoch) for epoch in trained.epochs]))
    best = trained.best.epoch
    assert best is not None
    return Result(
        model=str(output),
        classes=len(classes),
        train_rows=len(learning.targets),
        val_rows=0 if checking is None else len(checking.targets),
        epochs=len(trained.epochs),
        best_epoch=best.epoch,
        train_accuracy=best.train_accuracy,
        val_accuracy=best.val_accuracy,
        val_loss=best.val_loss,
        majority=majority,
        nearest_centroid=nearest,
    )


class _Training:
    """One training of one head on rows in memory, by either solver."""

    def __init__(self, settings: Settings, learning: _Rows, checking: _Rows | None, *, classes: int) -> None:
        self.settings = settings
        self.best = Best(settings.monitor)
        self.epochs: list[Epoch] = []
        self.strength: float | None = None
        self.prepared = preparation.fit(
            learning.values, standardize=settings.standardize, pca=settings.pca, whiten=settings.whiten
        )
        self.learning, self.checking = self._prepared(learning), self._prepared(checking) if checking else None
        self.text = whole_head(settings.head, loss=settings.loss, classes=classes, spatial=learning.values.ndim == 4)
        place = self.learning.values.device
        self.head = classifier.build_head(self.text, tuple(self.learning.values.shape[1:]))
        self.generator = torch.Generator().manual_seed(settings.seed)
        # The solution of a convex problem does not depend on the start; zeros are near the strongest penalty's
        start = Initializer.ZEROS if settings.solver is Solver.LBFGS else settings.init
        build.initialise(self.head, start, generator=self.generator)
        self.head.to(place)
        balanced = settings.class_weights is ClassWeights.BALANCED
        self.objective = Objective(
            settings.loss,
            settings.smoothing,
            optim.balanced_weights(self.learning.targets, classes) if balanced else None,
            settings.l1,
            settings.l2,
        )
        self.expected = settings.epochs if settings.solver is Solver.GRADIENT else len(self._strengths())

    def _prepared(self, rows: _Rows) -> _Rows:
        if self.prepared is None:
            return rows
        return _Rows(self.prepared.to(rows.values.device)(rows.values.double()).float(), rows.targets)

    def _strengths(self) -> tuple[float, ...]:
        if self.settings.l2:
            return (self.settings.l2,)
        if self.checking is None:  # scikit-learn's default, C = 1
            return (0.5 / len(self.learning.targets),)
        return logistic.STRENGTHS

    def run(self) -> Iterator[Epoch]:
        """Train, yielding every epoch as it is done."""
        rows = self.settings.batch if self.settings.solver is Solver.GRADIENT else len(self.learning.targets)
        # Dropout draws from torch's global generator, which is lent to us and given back.
        generators = torch.random.fork_rng(
            devices=[self.learning.values.device] if self.learning.values.is_cuda else []
        )
        with torch_device.threads(torch_device.threads_for(self.head, self.learning.values[:rows])), generators:
            torch.manual_seed(self.settings.seed)
            for epoch in self._lbfgs() if self.settings.solver is Solver.LBFGS else self._gradient():
                self.epochs.append(epoch)
                yield epoch

    def _gradient(self) -> Iterator[Epoch]:
        settings, learning, checking = self.settings, self.learning, self.checking
        optimizer = optim.optimizer(settings.optimizer, self.head.parameters(), lr=settings.lr)
        return fit(
            Step(self.head, self.objective, optimizer),
            train=lambda _number: shuffled(
                learning.values, learning.targets, batch=settings.batch, generator=self.generator
            ),
            validate=partial(in_order, checking.values, checking.targets) if checking else None,
            best=self.best,
            epochs=settings.epochs,
            patience=settings.patience,
        )

    def _lbfgs(self) -> Iterator[Epoch]:
        layer = self.head[-1]
        assert isinstance(layer, nn.Linear)
        found = logistic.path(
            layer,
            (self.learning.values.flatten(1), self.learning.targets),
            (self.checking.values.flatten(1), self.checking.targets) if self.checking else None,
            strengths=self._strengths(),
            objective=self.objective,
        )
        for strength, epoch in found:
            self.best.offer(epoch, self.head)
            if self.best.epoch is epoch:
                self.strength = strength
            yield epoch

    def answered(self) -> Tensor:
        """Give the best epoch's answers to the validation rows, (N,)."""
        assert self.checking is not None
        self.head.load_state_dict(self.best.state)
        self.head.eval()
        with torch.inference_mode():
            batches = in_order(self.checking.values, self.checking.targets)
            return torch.cat([answers(self.head(inputs)) for inputs, _ in batches])

    def finished(self) -> tuple[build.Network, str]:
        """Give the best epoch's head, preparation folded in, with its notation."""
        self.head.load_state_dict(self.best.state)
        self.head.eval().cpu()
        if self.prepared is None:
            return self.head, self.text
        return preparation.fold(self.prepared, self.head, self.text)


def _rows(found: Features, classes: tuple[str, ...], place: torch.device, *, name: str) -> _Rows:
    numbers = {label: number for number, label in enumerate(classes)}
    values = torch.from_numpy(found.values.astype("float32")).to(place)
    if not bool(values.isfinite().all()):
        row = int((~values.flatten(1).isfinite().all(1)).nonzero()[0, 0])
        raise CnnkitError(
            f"{name}: row {row} ({found.rows[row].path}) holds values that are no numbers; extract it again, in float32"
        )
    return _Rows(values, torch.tensor([numbers[row.label or ""] for row in found.rows], device=place))


def _base(header: Header, weights: Path | None, *, name: str) -> nn.Module:
    """Build the base that made the features, with the very weights it had."""
    backbone, preprocess = header.backbone, header.preprocess
    if backbone is None or preprocess is None or backbone.weights_sha256 is None:
        raise FormatError(f"{name}: its header names no base, or no weights; run cnn-extract again")
    if weights is not None and weights.suffix == ".pt":
        model = bundle.load(weights)
        found_base, found_backbone, _ = backbones.from_model(model, name=str(weights), layer=backbone.layer)
        if backbone.weights_sha256 not in (found_backbone.weights_sha256, bundle.keep_state(found_base.state_dict())):
            raise CnnkitError(f"{weights} holds another base than the one that made {name}; give that one")
        return found_base
    if weights is not None:
        found = cache.sha256(weights)
        if found != backbone.weights_sha256:
            raise CnnkitError(
                f"{weights} has sha256 {found[:12]}..., {name} was made with {backbone.weights_sha256[:12]}...; give that file"
            )
        return backbones.restore(backbone, weights, size=preprocess.size, grey=preprocess.grey)
    kept = cache.find_weights(backbone.weights_sha256)
    if kept is None:
        raise CnnkitError(
            f"the weights of {backbone.name} that made {name} (sha256 {backbone.weights_sha256[:12]}...) are in no cache; "
            "give them with --weights FILE"
        )
    return backbones.restore(backbone, kept, size=preprocess.size, grey=preprocess.grey)


def _compare(trained: _Training, learning: _Rows, checking: _Rows, classes: int) -> tuple[float, float]:
    """Set the head beside what can be had without one, and warn where it has learnt nothing.

    Returns:
        The validation accuracy of the majority class, and of the nearest centroid.
    """
    targets = learning.targets
    most = int(torch.bincount(targets, minlength=classes).argmax())
    seen, asked = learning.values.flatten(1), checking.values.flatten(1)
    centroids = torch.stack([seen[targets == number].mean(0) for number in range(classes)])  # (classes, D)
    nearest = torch.cdist(asked, centroids).argmin(1)
    share = float((nearest == checking.targets).double().mean())
    if not _beyond_luck(trained.answered(), checking.targets, classes):
        if _beyond_luck(nearest, checking.targets, classes):
            log.warning(
                "the head has learnt nothing that helps on the validation rows, where the nearest centroid is right for %.3f "
                "of them: give more --epochs, another --lr, or --standardize",
                share,
            )
        else:
            log.warning(
                "on the validation rows the head is no better than luck: the features carry no signal. "
                "Is the preprocessing the one that the base was trained with, and are these its weights?"
            )
    return float((checking.targets == most).double().mean()), share


def _beyond_luck(answered: Tensor, targets: Tensor, classes: int) -> bool:
    """Tell whether answers depend on the classes.

    Who answers without looking, however often each class, has a mean recall of 1 / classes. Two standard errors more are
    within luck.
    """
    counts = torch.bincount(targets, minlength=classes).double()
    recalls = torch.bincount(targets[answered == targets], minlength=classes) / counts
    shares = torch.bincount(answered, minlength=classes).double() / len(answered)
    error = float((shares * (1 - shares) / counts).sum().sqrt()) / classes
    return float(recalls.mean()) > 1 / classes + max(2 * error, math.ulp(1.0))


def _timeless(epoch: Epoch) -> dict[str, float | None]:
    """An epoch without its duration: the same training gives the same bytes."""
    return {name: value for name, value in dataclasses.asdict(epoch).items() if name != "seconds"}


def _described(settings: Settings, strength: float | None) -> dict[str, Any]:
    described = {
        key: str(value) if isinstance(value, str) else value for key, value in dataclasses.asdict(settings).items()
    }
    if settings.solver is Solver.LBFGS:
        keep = ("loss", "solver", "class_weights", "standardize", "pca", "whiten", "monitor", "smoothing", "seed")
        return {key: described[key] for key in keep} | {"l2": strength}
    return described | {"lr": settings.optimizer.learning_rate if settings.lr is None else settings.lr}
