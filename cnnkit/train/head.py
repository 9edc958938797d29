"""Train a head on features from disk, and put it on the backbone that made them."""

import copy
import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.choices import ClassWeights, Initializer, Solver
from cnnkit.data.reader import Progress, no_progress
from cnnkit.engine import device as devices
from cnnkit.engine import torch_device
from cnnkit.engine.device import Device
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import bundle, cache, history
from cnnkit.formats.bundle import Bundle
from cnnkit.formats.features import Features
from cnnkit.formats.header import Header, Kind, made_by
from cnnkit.nets import backbones, build, classifier, notation
from cnnkit.nets.notation import Activation, Kind
from cnnkit.nets.output_layer import whole_head
from cnnkit.train import optim, preparation
from cnnkit.train.config import Epoch, HeadConfig, model_path
from cnnkit.train.feature_sets import FeatureSets, load
from cnnkit.train.loop import BestEpoch, Step, evaluate, fit, in_order, shuffled
from cnnkit.train.optim import Criterion, predicted_classes

#: The strengths tried, from strong to weak, each starting from the solution before.
STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(2, -13, -1))
#: After this many strengths in a row without a lower validation loss, weaker ones are not tried: they cost the most.
STRENGTHS_PATIENCE = 3


def solve_logistic(layer: nn.Linear, features: Tensor, targets: Tensor, *, l2: float, objective: Criterion) -> None:
    """Minimise mean cross-entropy + l2 * sum w**2 in place, from where the layer stands.

    With l2 = 1 / (2 * C * N) this is scikit-learn's `LogisticRegression(C=C)`.

    Args:
        layer: (D,) -> (classes,).
        features: (N, D).
        targets: (N,).
        l2: Strength of the penalty on weights, biases left alone.
        objective: For class weights and smoothing; its own penalties do not count.
    """
    # In float64: the last steps change the loss by less than float32 can tell, and probabilities by more than 1e-3
    exact, rows = copy.deepcopy(layer).double(), features.double()
    if objective.class_weights is not None:
        objective = dataclasses.replace(objective, class_weights=objective.class_weights.double())
    optimizer = torch.optim.LBFGS(
        exact.parameters(),
        max_iter=500,
        max_eval=1000,
        history_size=20,
        tolerance_grad=1e-7,  # of the mean loss: scikit-learn's default is 1e-4, which leaves probabilities wrong by 1e-2
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(exact(rows), targets) + l2 * exact.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call] # torch ships it untyped
    layer.load_state_dict(exact.state_dict())  # rounds


def regularization_path(
    layer: nn.Linear,
    train: tuple[Tensor, Tensor],
    validate: tuple[Tensor, Tensor] | None,
    *,
    strengths: tuple[float, ...],
    objective: Criterion,
) -> Iterator[tuple[float, Epoch]]:
    """Solve for one strength after another, and report each as if it were an epoch.

    Yields:
        The strength, and its measures; `lr` is 0, there is none.
    """
    plain = Criterion(objective.loss)
    losses: list[float] = []
    for number, strength in enumerate(strengths, start=1):
        started = time.perf_counter()
        solve_logistic(layer, *train, l2=strength, objective=objective)
        train_loss, train_accuracy = evaluate(layer, in_order(*train), plain)
        val_loss, val_accuracy = evaluate(layer, in_order(*validate), plain) if validate else (None, None)
        seconds = round(time.perf_counter() - started, 3)
        yield strength, Epoch(number, train_loss, train_accuracy, val_loss, val_accuracy, 0.0, seconds)
        losses.append(math.inf if val_loss is None else val_loss)
        if len(losses) > STRENGTHS_PATIENCE and min(losses[-STRENGTHS_PATIENCE:]) > min(losses[:-STRENGTHS_PATIENCE]):
            return


@dataclass(frozen=True, slots=True)
class Rows:
    """Features and targets on the device."""

    values: Tensor  # (N, D) or (N, C, H, W)
    targets: Tensor  # (N,)


def rows(found: Features, classes: tuple[str, ...], place: torch.device, *, name: str) -> Rows:
    """Bring features to the device, with the numbers of their classes.

    Raises:
        CnnkitError: A value is no number.
    """
    numbers = {label: number for number, label in enumerate(classes)}
    values = torch.from_numpy(found.values.astype("float32")).to(place)
    if not bool(values.isfinite().all()):
        row = int((~values.flatten(1).isfinite().all(1)).nonzero()[0, 0])
        raise CnnkitError(
            f"{name}: row {row} ({found.rows[row].path}) holds values that are no numbers; extract it again, in float32"
        )
    return Rows(values, torch.tensor([numbers[row.label or ""] for row in found.rows], device=place))


class HeadFit:
    """One training of one head on rows in memory, by either solver."""

    def __init__(self, settings: HeadConfig, learning: Rows, checking: Rows | None, *, classes: int) -> None:
        self.settings = settings
        self.best = BestEpoch(settings.monitor)
        self.epochs: list[Epoch] = []
        self.strength: float | None = None
        self.prepared = preparation.fit(
            learning.values, standardize=settings.standardize, pca=settings.pca, whiten=settings.whiten
        )
        self.learning = self._prepared(learning)
        self.checking = None if checking is None else self._prepared(checking)
        self.text = whole_head(settings.head, loss=settings.loss, classes=classes, spatial=learning.values.ndim == 4)
        place = self.learning.values.device
        self.head = classifier.build_head(self.text, tuple(self.learning.values.shape[1:]))
        self.generator = torch.Generator().manual_seed(settings.seed)
        # The solution of a convex problem does not depend on the start; zeros are near the strongest penalty's
        start = Initializer.ZEROS if settings.solver is Solver.LBFGS else settings.init
        build.initialise(self.head, start, generator=self.generator)
        self.head.to(place)
        balanced = settings.class_weights is ClassWeights.BALANCED
        self.objective = Criterion(
            settings.loss,
            settings.smoothing,
            optim.balanced_weights(self.learning.targets, classes) if balanced else None,
            settings.l1,
            settings.l2,
        )
        self.expected = settings.epochs if settings.solver is Solver.GRADIENT else len(self._strengths())

    def _prepared(self, rows: Rows) -> Rows:
        return Rows(preparation.applied(self.prepared, rows.values), rows.targets)

    def _strengths(self) -> tuple[float, ...]:
        if self.settings.l2:
            return (self.settings.l2,)
        if self.checking is None:  # scikit-learn's default, C = 1
            return (0.5 / len(self.learning.targets),)
        return STRENGTHS

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
        found = regularization_path(
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
            return torch.cat([predicted_classes(self.head(inputs)) for inputs, _ in batches])

    def finished(self) -> tuple[build.Network, str]:
        """Give the best epoch's head, preparation folded in, with its notation."""
        self.head.load_state_dict(self.best.state)
        self.head.eval().cpu()
        if self.prepared is None:
            return self.head, self.text
        return preparation.fold(self.prepared, self.head, self.text)


log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True)
class HeadResult:
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


def train_head(
    train: str | Path,
    output: str | Path,
    *,
    val: str | Path | None = None,
    hold_out: str | None = None,
    settings: HeadConfig | None = None,
    weights: Path | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
) -> HeadResult:
    """Train a head, keep its best epoch, and write the whole model.

    Args:
        train: Features (`.npy`) to learn from.
        output: The model (`.pt`); its history is written beside it (`.csv`).
        val: Features that choose the best epoch, or the strength of the penalty. Nothing else is ever looked at to choose.
        hold_out: In place of `val` the part of `train` that chooses; it is not learnt from.
        settings: How.
        weights: The base's state_dict; found by its hash where cnn-extract or torch keep it unless said.
        device: For the training.
        progress: Called after every epoch.

    Raises:
        FormatError: The two features come from different bases, or have different classes.
        CnnkitError: The base's weights are not to be found, a row has no label, or training came to no number.
        UsageError: The settings contradict each other.
    """
    settings = checked(settings or HeadConfig(), validated=val is not None or hold_out is not None)
    output = model_path(output)
    place = devices.parse(device)
    if weights is not None and not weights.exists():
        raise CnnkitError(f"{weights}: no such file; --weights takes the state_dict of the base that made {train}")
    material = load(train, val=val, hold_out=hold_out, loss=settings.loss)
    if material.validated is None:
        log.warning("no --val: the last epoch is kept, and nothing says how good it is")

    return _train_head(material, output, settings=settings, weights=weights, device=place, progress=progress)


def checked(settings: HeadConfig, *, validated: bool) -> HeadConfig:
    """Demand settings that fit together, and spell out the head's notation.

    Raises:
        NotationError: The notation is wrong.
        UsageError: One of them would be ignored.
    """
    settings = dataclasses.replace(settings, head=_spelled_out(settings.head))
    _check_settings(settings, validated=validated)
    return settings


def _spelled_out(text: str) -> str:
    """Write a notation without `@file`: the model's Header shall not depend on files that stay behind.

    Raises:
        NotationError: The notation is wrong.
        UsageError: It ends as a whole head does.
    """
    layers = notation.parse(text)
    if layers and layers[-1].activation is Activation.softmax:
        raise UsageError(
            f'--head ends in "{layers[-1].text}"; leave that layer out: the last one, with its softmax, is added'
        )
    return ", ".join(layer.text for layer in layers)


def _check_settings(settings: HeadConfig, *, validated: bool) -> None:
    """Refuse what would be ignored otherwise."""
    if settings.patience is not None and not validated:
        raise UsageError("--patience waits for a better epoch by --val; give --val or --hold-out, or fewer --epochs")
    if settings.monitor is not HeadConfig().monitor and not validated:
        raise UsageError(f"--monitor {settings.monitor} chooses an epoch by --val; give --val or --hold-out")
    if settings.solver is not Solver.LBFGS:
        layers = notation.parse(settings.head)
        if settings.batch == 1 and any(layer.kind is Kind.bn for layer in layers):
            raise UsageError(
                "--batch 1: batch norm cannot train on one row; give a larger --batch, or a --head without bn"
            )
        return
    if settings.head:
        raise UsageError(
            f'--solver lbfgs trains one dense layer; drop --head "{settings.head}", or use --solver gradient'
        )
    if settings.l1:
        raise UsageError("--solver lbfgs has no --l1, whose corners stop it; use --solver gradient")
    for name in ("lr", "patience", "optimizer", "epochs", "batch", "init"):
        if getattr(settings, name) != getattr(HeadConfig(), name):
            raise UsageError(f"--solver lbfgs has no epochs of batches; drop --{name}, or use --solver gradient")


def _train_head(
    material: FeatureSets,
    output: Path,
    *,
    settings: HeadConfig,
    weights: Path | None,
    device: Device,
    progress: Progress,
) -> HeadResult:
    """Train, and write model and history; arguments and errors are those of `head.train_head`."""
    learnt, classes = material.learnt, material.classes
    base = _base(learnt.header, weights, name=material.train)
    place = torch_device.choose(device)
    learning = rows(learnt, classes, place, name=material.train)
    checking = None
    if material.validated is not None:
        checking = rows(material.validated, classes, place, name=material.val or "")
    trained = HeadFit(settings, learning, checking, classes=len(classes))
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
            **({} if material.hold_out is None else {"hold_out": material.hold_out}),
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
    return HeadResult(
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


def _compare(trained: HeadFit, learning: Rows, checking: Rows, classes: int) -> tuple[float, float]:
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


def _described(settings: HeadConfig, strength: float | None) -> dict[str, Any]:
    described = {
        key: str(value) if isinstance(value, str) else value for key, value in dataclasses.asdict(settings).items()
    }
    if settings.solver is Solver.LBFGS:
        keep = ("loss", "solver", "class_weights", "standardize", "pca", "whiten", "monitor", "smoothing", "seed")
        return {key: described[key] for key in keep} | {"l2": strength}
    return described | {"lr": settings.optimizer.learning_rate if settings.lr is None else settings.lr}
