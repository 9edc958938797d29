"""Train a head on features from disk, and put it on the base that made them. What can be checked without torch is checked first."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from cnnkit.choices import ClassWeights, Initializer, Loss, Monitor, Optimizer, Solver
from cnnkit.data.reader import Progress, no_progress
from cnnkit.engine import device as devices
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import features
from cnnkit.formats.features import Features
from cnnkit.nets import notation
from cnnkit.nets.notation import Activation, Kind
from cnnkit.train import agreement
from cnnkit.train.results import writable

log = logging.getLogger("cnnkit")


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
class Material:
    """Features that belong together, with the names of their files, and the part that was held out of one file."""

    train: str
    learnt: Features
    val: str | None
    validated: Features | None
    classes: tuple[str, ...]
    hold_out: str | None = None


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


def train_head(
    train: str | Path,
    output: str | Path,
    *,
    val: str | Path | None = None,
    hold_out: str | None = None,
    settings: Settings | None = None,
    weights: Path | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
) -> Result:
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
    settings = checked(settings or Settings(), validated=val is not None or hold_out is not None)
    output = writable(output)
    place = devices.parse(device)
    if weights is not None and not weights.exists():
        raise CnnkitError(f"{weights}: no such file; --weights takes the state_dict of the base that made {train}")
    material = load(train, val=val, hold_out=hold_out, loss=settings.loss)
    if material.validated is None:
        log.warning("no --val: the last epoch is kept, and nothing says how good it is")

    from cnnkit.train import head_training

    return head_training.run(material, output, settings=settings, weights=weights, device=place, progress=progress)


def load(train: str | Path, *, val: str | Path | None, hold_out: str | None, loss: Loss) -> Material:
    """Read features to learn from and to choose by, and demand that they belong together.

    Raises:
        FormatError: The two come from different bases, or have different classes.
        CnnkitError: A row has no label, there is a single class, or no such part.
        UsageError: Both ways to choose are given, or the loss is for another number of classes.
    """
    if val is not None and hold_out is not None:
        raise UsageError("--val and --hold-out both say what validates; give one of them")
    learnt, name = features.load(train), str(train)
    validated, val_name = (None, None) if val is None else (features.load(val), str(val))
    if hold_out is not None:
        learnt, validated = agreement.hold_out(learnt, hold_out, name=name)
        name, val_name = f"{train} without {hold_out}", f"{train}, {hold_out}"
    classes = agreement.classes_of(learnt, name=name)
    if len(classes) < 2:
        raise CnnkitError(f"{name}: only one class, {classes[0]}; there is nothing to learn")
    if loss is Loss.BINARY and len(classes) != 2:
        raise UsageError(f"--loss binary decides between two classes, here are {len(classes)}; use categorical")
    if validated is not None:
        agreement.check(learnt, validated, train=name, val=val_name or "")
        agreement.warn_of_relatives(learnt, validated, train=train, val=val or train)
    return Material(name, learnt, val_name, validated, classes, hold_out)


def checked(settings: Settings, *, validated: bool) -> Settings:
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


def _check_settings(settings: Settings, *, validated: bool) -> None:
    """Refuse what would be ignored otherwise."""
    if settings.patience is not None and not validated:
        raise UsageError("--patience waits for a better epoch by --val; give --val or --hold-out, or fewer --epochs")
    if settings.monitor is not Settings().monitor and not validated:
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
        if getattr(settings, name) != getattr(Settings(), name):
            raise UsageError(f"--solver lbfgs has no epochs of batches; drop --{name}, or use --solver gradient")
