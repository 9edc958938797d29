"""What a training is told: configuration dataclasses whose fields are the options, and what contradicts itself is refused here. No torch."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnkit.choices import (
    Amp,
    ClassWeights,
    Fit,
    Initializer,
    Loss,
    Monitor,
    Normalize,
    Optimizer,
    Schedule,
    Solver,
    Unfreeze,
)
from cnnkit.data import augment
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import history


@dataclass(frozen=True, slots=True)
class Epoch:
    """Accuracies are shares, the training measures are means over the epoch's batches as they were trained.

    `lr` is the learning rate of its last step; where lower layers have lower rates, the head's.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    lr: float
    seconds: float


#: Called with every epoch as it is done.
Report = Callable[[Epoch], None]

#: What to do about a picture that cannot be used: path and reason.
Skip = Callable[[str, str], None]


def no_report(_epoch: Epoch) -> None:
    """The way of a caller who does not want to hear of epochs."""


def check_momentum(optimizer: Optimizer, momentum: float | None) -> None:
    """Refuse a momentum for optimizers that have their own.

    Raises:
        UsageError: This one has.
    """
    if momentum is not None and not optimizer.takes_momentum:
        raise UsageError(f"--momentum goes with sgd and rmsprop; {optimizer} has its own")


#: How much memory decoded pictures may take unless said, in bytes.
CACHE = 4 << 30


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Where and how a training runs, none of which changes what comes of it."""

    cache: int = CACHE
    jobs: int | None = None
    device: str = "auto"
    resume: bool = False


def model_path(output: str | Path) -> Path:
    """Refuse a name that no model can have, before anything is computed.

    Raises:
        UsageError: It does not end in `.pt`, or its history would replace a table of something else.
        CnnkitError: There is no such folder.
    """
    output = Path(output)
    if output.suffix != ".pt":
        raise UsageError(f"{output}: a model is written to a .pt file")
    if not output.parent.is_dir():
        raise CnnkitError(f"{output.parent}: no such folder to write {output.name} into")
    history.Writer(output.with_suffix(".csv"))  # refuses to replace a table of something else
    return output


log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True)
class ImageTrainConfig:
    """Loss, optimizer, learning rate and what goes with them; `epochs` and `warmup` in epochs, the rest as the options say."""

    loss: Loss = Loss.CATEGORICAL
    optimizer: Optimizer = Optimizer.ADAM
    lr: float | None = None
    momentum: float | None = None
    schedule: Schedule = Schedule.CONSTANT
    warmup: float = 0.0
    epochs: int = 30
    batch: int = 32
    l1: float = 0.0
    l2: float = 0.0
    smoothing: float = 0.0
    class_weights: ClassWeights = ClassWeights.NONE
    mixup: float = 0.0
    augment: str | None = None
    ema: float | None = None
    clip: float | None = None
    patience: int | None = None
    monitor: Monitor = Monitor.VAL_LOSS
    amp: Amp = Amp.AUTO
    compile: bool = False
    seed: int = 0

    def checked(self, *, classes: int, validated: bool) -> "Recipe":
        """Refuse what contradicts itself or would be ignored, and spell out the notation and the learning rate.

        Args:
            classes: How many there are.
            validated: There are pictures for validation.

        Raises:
            UsageError: One option does not go with another, or an augmentation changes nothing.
            NotationError: The augmentation is wrong.
        """
        if self.loss is Loss.BINARY and classes != 2:
            raise UsageError(f"--loss binary decides between two classes, here are {classes}; use categorical")
        check_momentum(self.optimizer, self.momentum)
        if self.clip == 0:
            raise UsageError("--clip 0 would leave nothing of any gradient; give the largest norm that they may have")
        if self.warmup > self.epochs:
            raise UsageError(f"--warmup {self.warmup:g} is longer than the whole training, --epochs {self.epochs}")
        if not validated:
            if self.patience is not None:
                raise UsageError("--patience waits for a better epoch by --val; give --val, or fewer --epochs")
            if self.schedule is Schedule.PLATEAU:
                raise UsageError("--schedule plateau watches the loss on --val; give --val, or another schedule")
            if self.monitor is not ImageTrainConfig().monitor:
                raise UsageError(f"--monitor {self.monitor} chooses an epoch by --val; give --val")
        spelled = dataclasses.replace(
            self,
            lr=self.optimizer.learning_rate if self.lr is None else self.lr,
            augment=None if self.augment is None else str(augment.demanded(self.augment)),
        )
        if not validated:
            log.warning(
                "nothing validates: the last epoch is kept, and nothing says how good it is; name pictures with --val"
            )
        return spelled

    def described(self) -> dict[str, Any]:
        """Give what a Header records."""
        return {key: str(value) if isinstance(value, str) else value for key, value in dataclasses.asdict(self).items()}


#: The textbook's learning rate for a base that is trained already: larger steps would forget what it knows.
FINETUNE_LR = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class InitFrom:
    """Where a fine-tuning starts: a `model` file, or a `backbone` by name with its `weights` and a fresh `head`."""

    model: Path | None = None
    backbone: str | None = None
    weights: str = "default"
    head: str = ""
    size: int | None = None
    fit: Fit | None = None
    init: Initializer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeConfig:
    """Which layers are trained, how fast, and what is done about the frozen ones.

    `unfreeze` is a layer's name, a number of layers, all or none; `layer_decay` the factor of the learning rate from one block to the
    next below; `warmup_head` epochs of the head alone before; `views` how many augmented versions of the frozen part's answers are kept,
    0 for none: then it runs in every epoch. `freeze_bn` keeps the statistics of all the base's batch norms as they are, those of the
    trained layers too; their factors and offsets are trained.
    """

    unfreeze: str = Unfreeze.NONE
    layer_decay: float | None = None
    warmup_head: int = 0
    views: int | None = None
    freeze_bn: bool = True


#: Keras' side in the textbook's chapter, in pixels.
SIZE = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """The network to be trained: `layers`, the whole of it by notation, or `arch`, a network's name, with a `head` of its own."""

    layers: str | None = None
    arch: str | None = None
    head: str = ""
    size: int | None = None
    fit: Fit | None = None
    grey: bool = False
    normalize: Normalize = Normalize.STANDARD
    init: Initializer | None = None


@dataclass(frozen=True, slots=True)
class HeadConfig:
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
