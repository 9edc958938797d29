"""Train a head on features from disk, and put it on the base that made them."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.choices import ClassWeights, Initializer, Loss, Monitor, Optimizer, Solver
from cnnkit.engine import torch_device
from cnnkit.engine.device import parse as parse_device
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import bundle, cache, features, history
from cnnkit.formats.bundle import Bundle
from cnnkit.formats.features import Features
from cnnkit.formats.header import Header, Kind, made_by
from cnnkit.nets import backbones, build, classifier
from cnnkit.train import logistic, optim, preparation
from cnnkit.train.loop import Best, Epoch, fit, in_order, shuffled
from cnnkit.train.optim import Objective

log = logging.getLogger("cnnkit")

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a head is trained. `head` lacks its last dense layer; that one follows from the classes and the loss."""

    head: str = ""
    loss: Loss = Loss.CATEGORICAL
    solver: Solver = Solver.GRADIENT
    optimizer: Optimizer = Optimizer.ADAM
    lr: float | None = None
    epochs: int = 50
    batch: int = 32
    l1: float = 0.0
    l2: float = 0.0
    init: Initializer = Initializer.GLOROT
    class_weights: ClassWeights = ClassWeights.NONE
    standardize: bool = False
    pca: int | None = None
    whiten: bool = False
    patience: int | None = None
    monitor: Monitor = Monitor.VAL_LOSS
    smoothing: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What a training came to, beside what can be had without one.

    `majority` is the validation accuracy of always giving the training rows' most frequent class, `nearest_centroid` that of
    giving the class whose mean training row is nearest.
    """

    model: str
    classes: int
    train_rows: int
    val_rows: int
    epochs: int
    best_epoch: int
    train_accuracy: float
    val_accuracy: float | None
    val_loss: float | None
    majority: float | None
    nearest_centroid: float | None


@dataclass(frozen=True, slots=True)
class _Rows:
    """Features and targets on the device."""

    values: Tensor  # (N, D) or (N, C, H, W)
    targets: Tensor  # (N,)


def train_head(
    train: str | Path,
    output: str | Path,
    *,
    val: str | Path | None = None,
    settings: Settings | None = None,
    weights: Path | None = None,
    device: str = "auto",
    progress: Progress = lambda _done, _total: None,
) -> Result:
    """Train a head, keep its best epoch, and write the whole model.

    Args:
        train: Features (`.npy`) to learn from.
        output: The model (`.pt`); its history is written beside it (`.csv`).
        val: Features that choose the best epoch, or the strength of the penalty. Nothing else is ever looked at to choose.
        settings: How.
        weights: The base's state_dict; found by its hash where cnn-extract or torch keep it unless said.
        device: For the training.
        progress: Called after every epoch.

    Raises:
        FormatError: The two features come from different bases, or have different classes.
        CnnkitError: The base's weights are not to be found, or a row has no label.
        UsageError: The settings contradict each other.
    """
    settings = settings or Settings()
    output = Path(output)
    if output.suffix != ".pt":
        raise UsageError(f"{output}: a model is written to a .pt file")
    learnt, validated = features.load(train), features.load(val) if val is not None else None
    if validated is not None:
        _check_same_base(learnt, str(train), validated, str(val))
    classes = _classes(learnt, str(train))
    _check_settings(settings, classes)
    base = _base(learnt.header, weights, name=str(train))
    place = torch_device.choose(parse_device(device))
    learning = _rows(learnt, classes, place, name=str(train))
    checking = _rows(validated, classes, place, name=str(val)) if validated is not None else None
    if checking is None:
        log.warning("no --val: the last epoch is kept, and nothing says how good it is")
    baselines = _baselines(learning, checking, len(classes)) if checking is not None else (None, None)
    with history.Writer(output.with_suffix(".csv")) as rows:
        trained = _Training(settings, learning, checking, classes=len(classes))
        for epoch in trained.run():
            rows.write(epoch)
            progress(epoch.epoch, trained.expected)
    head, text = trained.finished()
    header = Header(
        kind=Kind.MODEL,
        classes=classes,
        preprocess=learnt.header.preprocess,
        backbone=learnt.header.backbone,
        head=text,
        training={"command": "cnn-train-head", "rows": len(learnt.rows), **_described(settings, trained.strength)},
        made_by=made_by("torch", "torchvision"),
    )
    state = {f"base.{name}": tensor for name, tensor in base.state_dict().items()}
    state |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    bundle.save(output, Bundle(header, state, [_timeless(epoch) for epoch in trained.epochs]))
    best = trained.best.epoch
    assert best is not None
    if checking is not None and baselines[0] is not None:
        _warn_without_signal(best.val_accuracy or 0.0, baselines[0], len(checking.targets))
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
        majority=baselines[0],
        nearest_centroid=baselines[1],
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
        self.text = _whole_head(settings, classes, spatial=learning.values.ndim == 4)
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
        moved = dataclasses.replace(
            self.prepared,
            matrix=self.prepared.matrix.to(rows.values.device),
            shift=self.prepared.shift.to(rows.values.device),
        )
        return _Rows(moved(rows.values.double()).float(), rows.targets)

    def _strengths(self) -> tuple[float, ...]:
        if self.settings.l2:
            return (self.settings.l2,)
        if self.checking is None:  # scikit-learn's default, C = 1
            return (0.5 / len(self.learning.targets),)
        return logistic.STRENGTHS

    def run(self) -> Iterator[Epoch]:
        """Train, yielding every epoch as it is done."""
        # Dropout draws from torch's global generator, which is lent to us and given back.
        with torch.random.fork_rng(devices=[self.learning.values.device] if self.learning.values.is_cuda else []):
            torch.manual_seed(self.settings.seed)
            for epoch in self._lbfgs() if self.settings.solver is Solver.LBFGS else self._gradient():
                self.epochs.append(epoch)
                yield epoch

    def _gradient(self) -> Iterator[Epoch]:
        settings, learning, checking = self.settings, self.learning, self.checking
        return fit(
            self.head,
            train=partial(shuffled, learning.values, learning.targets, batch=settings.batch, generator=self.generator),
            validate=partial(in_order, checking.values, checking.targets) if checking else None,
            objective=self.objective,
            optimizer=optim.optimizer(settings.optimizer, self.head.parameters(), lr=settings.lr),
            best=self.best,
            epochs=settings.epochs,
            patience=settings.patience if checking else None,
        )

    def _lbfgs(self) -> Iterator[Epoch]:
        layer = self.head[-1]
        assert isinstance(layer, nn.Linear)
        found = logistic.path(
            layer,
            (self.learning.values, self.learning.targets),
            (self.checking.values, self.checking.targets) if self.checking else None,
            strengths=self._strengths(),
            objective=self.objective,
        )
        for strength, epoch in found:
            self.best.offer(epoch, self.head)
            if self.best.epoch is epoch:
                self.strength = strength
            yield epoch

    def finished(self) -> tuple[build.Network, str]:
        """Give the best epoch's head, preparation folded in, with its notation."""
        self.head.load_state_dict(self.best.state)
        self.head.eval().cpu()
        if self.prepared is None:
            return self.head, self.text
        return preparation.fold(self.prepared, self.head, self.text)


def _whole_head(settings: Settings, classes: int, *, spatial: bool) -> str:
    """Add the last dense layer to the head's notation, and `flatten` where a map reaches it."""
    last = "dense 1 sigmoid" if settings.loss is Loss.BINARY else f"dense {classes} softmax"
    given = ", ".join(layer.text for layer in classifier.head_layers(settings.head)) if settings.head.strip() else ""
    parts = [part for part in (given, last) if part]
    if spatial and not any(word in f" {given} ".replace(",", " ").split() for word in ("flatten", "gap", "gmp")):
        parts.insert(len(parts) - 1, "flatten")
    return ", ".join(parts)


def _check_settings(settings: Settings, classes: tuple[str, ...]) -> None:
    if settings.loss is Loss.BINARY and len(classes) != 2:
        raise UsageError(f"--loss binary decides between two classes, here are {len(classes)}; use categorical")
    if settings.solver is Solver.LBFGS and settings.head.strip():
        raise UsageError(
            f'--solver lbfgs trains one dense layer; drop --head "{settings.head}", or use --solver gradient'
        )
    if settings.solver is Solver.LBFGS and settings.l1:
        raise UsageError("--solver lbfgs has no --l1, whose corners stop it; use --solver gradient")


def _check_same_base(learnt: Features, train: str, validated: Features, val: str) -> None:
    """Refuse features that do not belong together, naming both sides."""
    one, other = learnt.header, validated.header
    if one.backbone is not None and other.backbone is not None:
        for field in dataclasses.fields(one.backbone):
            ours, theirs = getattr(one.backbone, field.name), getattr(other.backbone, field.name)
            if ours != theirs:
                what = {"name": "backbone", "weights_sha256": "weights"}.get(field.name, field.name)
                raise FormatError(f"{train} has {what} {ours}, {val} has {theirs}; extract both with the same options")
    if one.backbone != other.backbone or one.preprocess != other.preprocess:
        raise FormatError(
            f"{train} was made with {one.preprocess}, {val} with {other.preprocess}; extract both with the same options"
        )
    ours, theirs = sorted({row.label or "" for row in learnt.rows}), sorted({row.label or "" for row in validated.rows})
    if ours != theirs:
        raise FormatError(
            f"{train} has classes {', '.join(ours[:12])}; {val} has {', '.join(theirs[:12])}; split so that every part has every class"
        )
    if learnt.values.shape[1:] != validated.values.shape[1:]:
        raise FormatError(
            f"{train} has rows of shape {learnt.values.shape[1:]}, {val} of {validated.values.shape[1:]}; extract both again"
        )


def _classes(learnt: Features, name: str) -> tuple[str, ...]:
    missing = next((row.path for row in learnt.rows if row.label is None), None)
    if missing is not None:
        raise CnnkitError(f"{name}: {missing} has no label; extract from class folders or a manifest with labels")
    classes = tuple(sorted({row.label for row in learnt.rows if row.label is not None}))
    if len(classes) < 2:
        raise CnnkitError(f"{name}: only one class, {classes[0]}; there is nothing to learn")
    return classes


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
    if weights is not None:
        found = cache.sha256(weights)
        if found != backbone.weights_sha256:
            raise CnnkitError(
                f"{weights} has sha256 {found[:12]}..., {name} was made with {backbone.weights_sha256[:12]}...; give that file"
            )
        return backbones.restore(backbone, weights, size=preprocess.size)
    kept = bundle.find_state(backbone.weights_sha256)
    if kept is None:
        raise CnnkitError(
            f"the weights of {backbone.name} that made {name} (sha256 {backbone.weights_sha256[:12]}...) are in no cache; "
            "give them with --weights FILE"
        )
    return backbones.restore(backbone, kept, size=preprocess.size)


def _baselines(learning: _Rows, checking: _Rows, classes: int) -> tuple[float, float]:
    """Give the validation accuracy of the majority class and of the nearest centroid."""
    targets = learning.targets
    most = int(torch.bincount(targets, minlength=classes).argmax())
    majority = float((checking.targets == most).double().mean())
    seen, asked = learning.values.flatten(1), checking.values.flatten(1)
    centroids = torch.stack([seen[targets == number].mean(0) for number in range(classes)])  # (classes, D)
    nearest = torch.cdist(asked, centroids).argmin(1)
    return majority, float((nearest == checking.targets).double().mean())


def _warn_without_signal(accuracy: float, majority: float, rows: int) -> None:
    """Say so when the head does no better than always giving the same answer: two standard errors are within luck."""
    luck = 2 * math.sqrt(max(majority * (1 - majority), 1e-9) / rows)
    if accuracy <= majority + luck:
        log.warning(
            "validation accuracy %.3f is within luck of the majority class (%.3f): the features carry no signal. "
            "Is the preprocessing the one that the base was trained with, and are these its weights?",
            accuracy,
            majority,
        )


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
    return described | {"lr": optim.LEARNING_RATES[settings.optimizer] if settings.lr is None else settings.lr}
