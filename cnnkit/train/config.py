"""What a training is told: configuration dataclasses whose fields are the options. They validate themselves, without torch or numpy.

What a function of this package takes is what `checked()` gives: contradictions refused, defaults and notations spelled out.
"""

import dataclasses
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from cnnkit.choices import (
    Amp,
    ClassWeights,
    Initializer,
    Loss,
    Monitor,
    Optimizer,
    Schedule,
    Solver,
    Unfreeze,
)
from cnnkit.data import augment_notation
from cnnkit.engine import device as devices
from cnnkit.engine.config import DeviceConfig
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import atomic, history
from cnnkit.nets import notation
from cnnkit.nets.notation import Activation, LayerKind
from cnnkit.option_fields import (
    RemembersGiven,
    batch_option,
    given,
    option,
    options,
    seed_option,
)

log = logging.getLogger("cnnkit")

# How a terminal's help groups the options; the others stand above.
FREEZING, LEARNING = "What is trained", "Learning"

#: The textbook's learning rate for a backbone that is trained already: larger steps would forget what it knows.
FINETUNE_LR = 1e-5

#: Keras' default for AdamW: without it AdamW would be Adam.
WEIGHT_DECAY = 4e-3

#: What every Header has recorded from the start; other settings are recorded where they are given, so that files stay as they were.
_RECORDED = {
    "image": (
        "loss", "optimizer", "lr", "momentum", "schedule", "warmup", "epochs", "batch", "l1", "l2", "smoothing", "class_weights",
        "mixup", "augment", "ema", "clip", "patience", "monitor", "amp", "compile", "seed",
    ),
    "head": (
        "head", "loss", "solver", "optimizer", "lr", "epochs", "batch", "l1", "l2", "init", "class_weights", "standardize", "pca",
        "whiten", "patience", "monitor", "smoothing", "seed",
    ),
}  # fmt: skip


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


#: Seconds between two checkpoints of a training.
CHECKPOINT_EVERY = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(RemembersGiven):
    """What all trainings have: loss, optimizer, learning rate and what goes with them."""

    loss: Loss | None = option(
        Loss.CATEGORICAL, "Softmax over classes, or one sigmoid for two.", after=("head", "mixup"), group=LEARNING
    )
    optimizer: Optimizer = option(Optimizer.ADAM, "How weights follow gradients.", group=LEARNING)
    lr: float | None = option(None, "Learning rate. [default: 0.001; 0.01 for sgd]", minimum=0.0, group=LEARNING)
    momentum: float | None = option(None, "For sgd and rmsprop. [default: 0]", minimum=0.0, maximum=1.0, group=LEARNING)
    weight_decay: float | None = option(
        None, "Decoupled weight decay, for adamw. [default: 0.004]", minimum=0.0, group=LEARNING
    )
    schedule: Schedule = option(Schedule.CONSTANT, "How the learning rate goes on.", group=LEARNING)
    epochs: int = option(30, "The most epochs.", minimum=1, group=LEARNING)
    batch: int = batch_option()
    l1: float = option(0.0, "Penalty on the sum of |w|; with --l2 the elastic net.", minimum=0.0, group=LEARNING)
    l2: float = option(0.0, "Penalty on the sum of w squared.", minimum=0.0, group=LEARNING)
    smoothing: float = option(0.0, "Label smoothing.", minimum=0.0, maximum=0.99, group=LEARNING)
    class_weights: ClassWeights = option(ClassWeights.NONE, "What a picture of each class counts for.", group=LEARNING)
    ema: float | None = option(
        None,
        "Validate and keep the weights' moving average: 0.999.",
        minimum=0.0,
        maximum=1.0,
        metavar="DECAY",
        group=LEARNING,
    )
    clip: float | None = option(None, "The gradients' largest norm.", minimum=0.0, group=LEARNING)
    patience: int | None = option(None, "Stop after this many epochs without a better one.", minimum=1, group=LEARNING)
    monitor: Monitor = option(Monitor.VAL_LOSS, "The validation measure that chooses the best epoch.", group=LEARNING)
    deterministic: bool = option(
        False,
        "On a GPU, take algorithms that give the same bytes for the same seed, which are slower; others do not. A CPU gives them anyway.",
        after=("monitor", "amp", "compile"),
    )
    seed: int = seed_option(after=("device", "jobs"))

    #: The options that name validation images, for messages.
    _val_options: ClassVar[str] = "--val"
    _recorded: ClassVar[tuple[str, ...]] = _RECORDED["image"]

    def _check_optimizer(self) -> None:
        """Refuse what the optimizer does not take, and what would stop it.

        Raises:
            UsageError: One option does not go with another.
        """
        if self.momentum is not None and not self.optimizer.takes_momentum:
            raise UsageError(f"--momentum goes with sgd and rmsprop; {self.optimizer} has its own")
        if self.weight_decay is not None and not self.optimizer.takes_weight_decay:
            raise UsageError(
                f"--weight-decay goes with adamw; {self.optimizer} has none, --l2 is a penalty for every optimizer"
            )
        if self.momentum == 1:
            raise UsageError("--momentum 1 adds up every gradient for ever; give a share below 1, such as 0.9")
        if self.ema == 1:
            raise UsageError(
                "--ema 1 would keep the weights from before the training; give a share below 1, such as 0.999"
            )
        if self.clip == 0:
            raise UsageError("--clip 0 would leave nothing of any gradient; give the largest norm that they may have")

    def _check_without_val(self) -> None:
        """Refuse what only a validation set gives a meaning to.

        Raises:
            UsageError: One option does not go with another.
        """
        if self.patience is not None:
            raise UsageError(
                f"--patience waits for a better epoch by --val; give {self._val_options}, or fewer --epochs"
            )
        if self.schedule is Schedule.PLATEAU:
            raise UsageError(
                f"--schedule plateau watches the loss on --val; give {self._val_options}, or another schedule"
            )
        if self.monitor is not TrainConfig().monitor:
            raise UsageError(f"--monitor {self.monitor} chooses an epoch by --val; give {self._val_options}")

    @property
    def rate(self) -> float:
        """The learning rate; the optimizer's own by default."""
        return self.optimizer.learning_rate if self.lr is None else self.lr

    def described(self) -> dict[str, Any]:
        """Give what a Header records."""
        record = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del record["on_command_line"]
        if record["weight_decay"] == WEIGHT_DECAY:
            record["weight_decay"] = None  # the same training as where none is given
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        names = [*self._recorded, *(name for name in record if name not in self._recorded)]
        return {
            name: str(record[name]) if isinstance(record[name], str) else record[name]
            for name in names
            if name in self._recorded or record[name] != defaults[name]
        }


def check_loss(loss: Loss | None, *, classes: int) -> None:
    """Refuse a loss that is made for another number of classes.

    Raises:
        UsageError: There are more than two.
    """
    if loss is Loss.BINARY and classes != 2:
        raise UsageError(f"--loss binary decides between two classes, here are {classes}; use categorical")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTrainConfig(TrainConfig):
    """What trainings on images have besides; `epochs` and `warmup` in epochs, the rest as the options say."""

    augment: str | None = option(
        None,
        'Change every picture anew in every epoch: "rotate 20, zoom 0.2, hflip"; or @FILE.',
        metavar="NOTATION",
        after=("init", "freeze_bn"),
        group=LEARNING,
    )
    warmup: float = option(
        0.0,
        "Let the learning rate rise from nothing first.",
        minimum=0.0,
        metavar="EPOCHS",
        after=("schedule",),
        group=LEARNING,
    )
    mixup: float = option(
        0.0,
        "Blend pairs of pictures, by shares from Beta(ALPHA, ALPHA).",
        minimum=0.0,
        metavar="ALPHA",
        after=("class_weights",),
        group=LEARNING,
    )
    amp: Amp = option(
        Amp.AUTO,
        "Numbers to compute in; auto: bf16 where the hardware has it. A GPU validates in them as well, a CPU in float32.",
        after=("monitor",),
    )
    compile: bool = option(False, "Run the network through torch.compile.", after=("amp",))

    def checked(self, *, classes: int, has_val: bool) -> Self:
        """Refuse what contradicts itself or would be ignored, and spell out the notation and the learning rate.

        Args:
            classes: How many there are.
            has_val: There are images for validation.

        Raises:
            UsageError: One option does not go with another, or an augmentation changes nothing.
            NotationError: The augmentation is wrong.
        """
        check_loss(self.loss, classes=classes)
        self._check_optimizer()
        if self.warmup > self.epochs:
            raise UsageError(f"--warmup {self.warmup:g} is longer than the whole training, --epochs {self.epochs}")
        if not has_val:
            self._check_without_val()
        notated = None if self.augment is None else str(augment_notation.parse_required(self.augment))
        return dataclasses.replace(self, lr=self.rate, augment=notated)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig(ImageTrainConfig):
    """The same for a network that is trained already: smaller steps, and the loss that its last layer is made for."""

    lr: float | None = option(
        None, "Learning rate. [default: 0.00001; head alone: 0.001, 0.01 for sgd]", minimum=0.0, group=LEARNING
    )
    loss: Loss | None = option(
        None,
        "For a fresh head. [default: categorical, or what the model is made for]",
        after=("mixup",),
        group=LEARNING,
    )

    def checked_for(self, freeze: "FreezeConfig", *, classes: int, has_val: bool) -> Self:
        """As `checked`, with the learning rate that is usual for the layers that are trained."""
        lr = FINETUNE_LR if self.lr is None and freeze.unfreeze != Unfreeze.NONE else self.lr
        return dataclasses.replace(self, lr=lr).checked(classes=classes, has_val=has_val)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig(TrainConfig):
    """What the training of a head has besides. `head` lacks its last dense layer; that one follows from the classes and the loss."""

    head: str = option(
        "",
        "Layers before the last dense one, which is added; or @FILE. [default: none]",
        metavar="NOTATION",
        after=("hold_out",),
    )
    solver: Solver = option(
        Solver.GRADIENT, "lbfgs: logistic regression, no learning rate to tune.", after=("loss",), group=LEARNING
    )
    epochs: int = option(50, "The most epochs.", minimum=1, group=LEARNING)
    l2: float = option(
        0.0,
        "Penalty on the sum of w squared. lbfgs chooses it on the validation rows unless said.",
        minimum=0.0,
        group=LEARNING,
    )
    smoothing: float = option(0.0, "Label smoothing.", minimum=0.0, maximum=0.99, after=("monitor",), group=LEARNING)
    init: Initializer = option(Initializer.GLOROT, "How weights start.", after=("l2",), group=LEARNING)
    standardize: bool = option(
        False, "Mean 0 and deviation 1 for every feature.", after=("class_weights",), group=LEARNING
    )
    pca: int | None = option(
        None, "Keep N principal components.", minimum=1, metavar="N", after=("standardize",), group=LEARNING
    )
    whiten: bool = option(False, "Deviation 1 for every principal component.", after=("pca",), group=LEARNING)

    _val_options: ClassVar[str] = "--val or --hold-out"
    _recorded: ClassVar[tuple[str, ...]] = _RECORDED["head"]

    def checked(self, *, has_val: bool) -> Self:
        """Demand settings that fit together, and spell out the head's notation.

        Args:
            has_val: There is a validation set.

        Raises:
            NotationError: The notation is wrong.
            UsageError: One of them would be ignored.
        """
        config = dataclasses.replace(self, head=_spelled_out(self.head))
        if self.solver is Solver.LBFGS:
            config._check_lbfgs()
        config._check_optimizer()
        if not has_val:
            config._check_without_val()
        if self.solver is Solver.LBFGS:
            return config
        layers = notation.parse(config.head)
        if self.batch == 1 and any(layer.kind is LayerKind.bn for layer in layers):
            raise UsageError(
                "--batch 1: batch norm cannot train on one row; give a larger --batch, or a --head without bn"
            )
        return config

    def _check_lbfgs(self) -> None:
        """Refuse what a solver without epochs of batches would ignore."""
        if self.head:
            raise UsageError(
                f'--solver lbfgs trains one dense layer; drop --head "{self.head}", or use --solver gradient'
            )
        if self.l1:
            raise UsageError("--solver lbfgs has no --l1, whose corners stop it; use --solver gradient")
        ignored = {each.name for each in options(type(self))} - {*LBFGS_SETTINGS, "l2"}
        for word in given(self, names=ignored):
            raise UsageError(f"--solver lbfgs has no epochs of batches; drop {word}, or use --solver gradient")


#: The settings of a head's training that mean something without epochs of batches; l2 besides, which may be chosen.
LBFGS_SETTINGS = (
    "loss",
    "solver",
    "class_weights",
    "standardize",
    "pca",
    "whiten",
    "monitor",
    "smoothing",
    "deterministic",
    "seed",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeConfig:
    """Which layers are trained, how fast, and what is done about the frozen ones.

    `unfreeze` is a layer's name, a number of layers, all or none; `layer_decay` the factor of the learning rate from one block to the
    next below; `warmup_head` epochs of the head alone before; `views` how many augmented versions of the frozen part's features are kept,
    0 for none: then it runs in every epoch. `freeze_bn` keeps the statistics of all the backbone's batch norms as they are, those of the
    trained layers too; their factors and offsets are trained.
    """

    unfreeze: str = option(
        Unfreeze.NONE.value,
        "Train from this layer on (features.14, block5; cnn-dims lists them), the last N layers, all, or the head alone.",
        metavar="NAME|N|all|none",
        after=("hold_out",),
        group=FREEZING,
    )
    warmup_head: int = option(
        0,
        "Train the head alone first, so many epochs more, at its usual rate. A fresh head needs it before a base.",
        minimum=0,
        metavar="EPOCHS",
        group=FREEZING,
    )
    layer_decay: float | None = option(
        None,
        "Each block learns at this share of the rate of the one above it.",
        minimum=0.0,
        maximum=1.0,
        group=FREEZING,
    )
    views: int | None = option(
        None,
        "Augmented versions of the frozen part's answers to keep; 0 runs it anew in every epoch. "
        "[default: 0 with --augment, else 1, the plain one]",
        minimum=0,
        metavar="K",
        group=FREEZING,
    )
    freeze_bn: bool = option(
        True,
        "What the trained layers' batch norm statistics do: stay as they are, or follow the batches.",
        "--freeze-bn/--train-bn",
        group=FREEZING,
    )

    def checked(self) -> Self:
        """Call no layer at all by its name, and refuse a share of the learning rate where it means nothing.

        Raises:
            UsageError: One option does not go with another.
        """
        if re.fullmatch(r"[-+]?\d*\.?\d+", self.unfreeze) and not self.unfreeze.isdecimal():
            raise UsageError(
                f"--unfreeze {self.unfreeze}: give how many of the last layers are trained, 0 or more, a layer's name, all or none"
            )
        unfreeze = Unfreeze.NONE.value if self.unfreeze.isdecimal() and not int(self.unfreeze) else self.unfreeze
        if self.layer_decay is not None and unfreeze == Unfreeze.NONE:
            raise UsageError("--layer-decay slows the base's layers down, of which --unfreeze none trains none")
        if not self.freeze_bn and unfreeze == Unfreeze.NONE:
            raise UsageError("--train-bn is about the base's layers, of which --unfreeze none trains none")
        if self.layer_decay == 0:
            raise UsageError("--layer-decay 0 would leave the base as it is; --unfreeze none does so faster")
        return dataclasses.replace(self, unfreeze=unfreeze)

    def with_views(self, train: ImageTrainConfig) -> Self:
        """Settle how many versions are kept: without augmentation there is one, with it the default is a new one in every epoch.

        Raises:
            UsageError: There is nothing of which so many versions could be kept.
        """
        if self.views is None:
            return dataclasses.replace(self, views=0 if train.augment or train.mixup else 1)
        if self.views and train.mixup:
            raise UsageError(
                "--mixup blends pictures anew in every epoch, and --views keeps answers to them; give --views 0"
            )
        if self.views > 1 and not train.augment:
            raise UsageError(f"--views {self.views} keeps augmented versions; give --augment, or --views 1")
        if self.views > train.epochs:
            log.info(
                "--views %d: in %d epochs a picture is seen in no more than %d of them",
                self.views,
                train.epochs,
                train.epochs,
            )
        return self

    def described(self) -> dict[str, Any]:
        """Give what a Header records."""
        names = ("unfreeze", "layer_decay", "warmup_head", "views", "freeze_bn")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig(DeviceConfig):
    """Where and how a training runs, none of which changes what comes of it."""

    cache: str = option(
        "4G",
        "Memory for decoded pictures, 500M or 4G; more than that are read in every epoch.",
        metavar="SIZE",
    )
    resume: bool = option(False, "Go on from the last finished epoch of an interrupted training.")
    checkpoint_every: float = option(
        CHECKPOINT_EVERY,
        "Write what --resume needs after an epoch if so long ago it was written last; an interruption writes it, too, for a large network "
        "as it was a few seconds before.",
        minimum=0.0,
        metavar="SECONDS",
        after=("resume",),
    )

    def checked(self) -> Self:
        """Refuse a size or a device that is none.

        Raises:
            UsageError: It is none.
        """
        parse_size(self.cache)
        devices.parse(self.device)
        return self


_MOST_DIGITS = 18
# A suffix alone and one with iB count by 1024, one with B by 1000
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(?:([KMGT])(iB|B)?)?", re.IGNORECASE | re.ASCII)


def parse_size(size: str) -> int:
    """Read a size in bytes as coreutils do: 500M and 500MiB by 1024, 500MB by 1000, 0.

    Raises:
        UsageError: It is none.
    """
    found = _SIZE.fullmatch(size.strip())
    if found is None or len(found[1]) > _MOST_DIGITS:
        raise UsageError(f'--cache "{size}": give a size in bytes, such as 500M or 4G')
    power = " KMGT".index((found[2] or " ").upper())
    return int(float(found[1]) * (1000 if (found[3] or "").upper() == "B" else 1024) ** power)


def model_path(output: str | Path | None) -> Path:
    """Refuse a name that no model can have, before anything is computed.

    Raises:
        UsageError: None is given, it does not end in `.pt`, or its history would replace a table of something else.
        CnnkitError: There is no such folder.
    """
    if output is None:
        raise UsageError("say where the model goes with -o FILE.pt")
    output = Path(output)
    if output.suffix != ".pt":
        raise UsageError(f"{output}: a model is written to a .pt file")
    atomic.check_folder(output)
    history.HistoryWriter(output.with_suffix(".csv"))  # refuses to replace a table of something else
    return output


def check_weights(weights: Path | None, *, features: str | Path) -> None:
    """Refuse a file of weights that is not there.

    Raises:
        CnnkitError: It does not exist.
    """
    if weights is not None and not weights.exists():
        raise CnnkitError(f"{weights}: no such file; --weights takes the state_dict of the base that made {features}")


def warn_without_val(*, has_val: bool) -> None:
    """Say it where no images validate."""
    if not has_val:
        log.warning(
            "nothing validates: the last epoch is kept, and nothing says how good it is; name pictures with --val"
        )
