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
        settings: How.
        weights: The base's state_dict; found by its hash where cnn-extract or torch keep it unless said.
        device: For the training.
        progress: Called after every epoch.

    Raises:
        FormatError: The two features come from different bases, or have different classes.
        CnnkitError: The base's weights are not to be found, a row has no label, or training came to no number.
        UsageError: The settings contradict each other.
    """
    settings = settings or Settings()
    output = writable(output)
    settings = dataclasses.replace(settings, head=_spelled_out(settings.head))
    _check_settings(settings, validated=val is not None)
    place = devices.parse(device)
    learnt, validated = features.load(train), features.load(val) if val is not None else None
    if weights is not None and not weights.exists():
        raise CnnkitError(f"{weights}: no such file; --weights takes the state_dict of the base that made {train}")
    classes = agreement.classes_of(learnt, name=str(train))
    if len(classes) < 2:
        raise CnnkitError(f"{train}: only one class, {classes[0]}; there is nothing to learn")
    if settings.loss is Loss.BINARY and len(classes) != 2:
        raise UsageError(f"--loss binary decides between two classes, here are {len(classes)}; use categorical")
    if validated is None:
        log.warning("no --val: the last epoch is kept, and nothing says how good it is")
    else:
        agreement.check(learnt, validated, train=str(train), val=str(val))
        if shared := agreement.shared_pictures(learnt, validated, train=train, val=val or ""):
            log.warning("%d pictures of %s are in %s too: on them the head has seen the answers", shared, val, train)

    from cnnkit.train import head_training

    return head_training.run(
        head_training.Material(str(train), learnt, str(val), validated, classes),
        output,
        settings=settings,
        weights=weights,
        device=place,
        progress=progress,
    )


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
        raise UsageError("--patience waits for a better epoch by --val; give --val, or fewer --epochs")
    if settings.monitor is not Settings().monitor and not validated:
        raise UsageError(f"--monitor {settings.monitor} chooses an epoch by --val; give --val")
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
