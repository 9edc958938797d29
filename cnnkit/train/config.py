"""Configuration of a training run: dataclasses whose fields are the options. They validate themselves, without torch or numpy.

The functions of this package take what `checked()` returns: contradictions rejected, defaults and notations written out.
"""

import dataclasses
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from cnnkit import messages
from cnnkit.choices import (
    Amp,
    ClassWeights,
    ColumnKind,
    Initializer,
    Loss,
    Monitor,
    Optimizer,
    Sample,
    Schedule,
    Solver,
    Unfreeze,
)
from cnnkit.data import augment_notation, column_names
from cnnkit.engine import device as devices
from cnnkit.engine.config import DeviceConfig
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import atomic, history
from cnnkit.nets import notation, output_layer
from cnnkit.nets.notation import LayerKind
from cnnkit.option_fields import (
    RemembersGiven,
    batch_option,
    given,
    option,
    options,
    seed_option,
)

log = logging.getLogger("cnnkit")

# Titles of the option groups in the help; ungrouped options are listed above them.
FREEZING, LEARNING = "Layers to train", "Training"

#: The textbook's learning rate for a pretrained backbone: larger steps would destroy its features.
FINETUNE_LR = 1e-5

#: Keras' default for AdamW; with 0, AdamW would be Adam.
WEIGHT_DECAY = 4e-3

#: Settings that every Header records; others are recorded only where they are not the default, so that existing files stay valid.
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
    """The measures of one epoch. Accuracies are shares; training measures are means over the epoch's batches at the time of their steps.

    `lr` is the learning rate of the last step: the head's, where lower layers have lower rates.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    lr: float
    seconds: float


@dataclass(frozen=True, slots=True)
class BoxEpoch(Epoch):
    """The measures of one epoch of a network that also learns a box; `val_iou` is the mean over the images with a box."""

    val_iou: float | None = None


def epoch_of(record: Mapping[str, Any]) -> Epoch:
    """Return an epoch from its fields."""
    return BoxEpoch(**record) if "val_iou" in record else Epoch(**record)


_SMOOTHING = "Label smoothing: share of the target that is spread over all classes."

#: Seconds between two checkpoints of a training run.
CHECKPOINT_EVERY = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(RemembersGiven):
    """Settings of every training: loss, optimizer, learning rate and so on."""

    loss: Loss | None = option(
        Loss.CATEGORICAL,
        "Loss: softmax over the classes, or one sigmoid for two classes. Of images with several labels: a sigmoid for each class.",
        after=("head", "mixup"),
        group=LEARNING,
    )
    optimizer: Optimizer = option(Optimizer.ADAM, "Optimizer.", group=LEARNING)
    lr: float | None = option(None, "Learning rate. [default: 0.001; 0.01 for sgd]", minimum=0.0, group=LEARNING)
    momentum: float | None = option(
        None, "Momentum, for sgd and rmsprop. [default: 0]", minimum=0.0, maximum=1.0, group=LEARNING
    )
    weight_decay: float | None = option(
        None, "Decoupled weight decay, for adamw. [default: 0.004]", minimum=0.0, group=LEARNING
    )
    schedule: Schedule = option(Schedule.CONSTANT, "Learning-rate schedule.", group=LEARNING)
    epochs: int = option(30, "Maximum number of epochs.", minimum=1, group=LEARNING)
    batch: int = batch_option()
    l1: float = option(
        0.0, "Factor of the L1 penalty, sum of |w|; with --l2: elastic net.", minimum=0.0, group=LEARNING
    )
    l2: float = option(0.0, "Factor of the L2 penalty, sum of w squared.", minimum=0.0, group=LEARNING)
    smoothing: float = option(0.0, _SMOOTHING, minimum=0.0, maximum=0.99, group=LEARNING)
    class_weights: ClassWeights = option(
        ClassWeights.NONE,
        "Class weights in the loss; balanced: inverse to the class frequencies. Of images with several labels: for each class, inverse to "
        "the frequencies of images with and without it.",
        group=LEARNING,
    )
    sample: Sample = option(
        Sample.ONCE,
        "Images of an epoch: each once, or as many that are drawn with replacement, all classes equally often (balanced).",
        after=("class_weights",),
        group=LEARNING,
    )
    ema: float | None = option(
        None,
        "Validate and keep an exponential moving average of the weights, with this decay, such as 0.999. [default: off]",
        minimum=0.0,
        maximum=1.0,
        metavar="DECAY",
        group=LEARNING,
    )
    clip: float | None = option(
        None, "Clip the norm of the gradients to this value. [default: off]", minimum=0.0, group=LEARNING
    )
    patience: int | None = option(
        None, "Stop after this many epochs without an improvement. [default: off]", minimum=1, group=LEARNING
    )
    monitor: Monitor = option(Monitor.VAL_LOSS, "Validation measure that selects the best epoch.", group=LEARNING)
    deterministic: bool = option(
        False,
        "On a GPU, use slower algorithms that give the same bytes for the same seed. On a CPU results are always reproducible.",
        after=("monitor", "amp", "compile"),
    )
    seed: int = seed_option(after=("device", "jobs"))

    #: The options that name validation images, for messages.
    _val_options: ClassVar[str] = "--val"
    _recorded: ClassVar[tuple[str, ...]] = _RECORDED["image"]

    def _check_optimizer(self) -> None:
        """Reject options that the optimizer does not take, and values that would stop it.

        Raises:
            UsageError: Two options contradict each other.
        """
        if self.momentum is not None and not self.optimizer.takes_momentum:
            raise UsageError(f"--momentum goes with sgd and rmsprop; {self.optimizer} has its own")
        if self.weight_decay is not None and not self.optimizer.takes_weight_decay:
            raise UsageError(f"--weight-decay goes with adamw; with {self.optimizer}, use the penalty --l2")
        if self.momentum == 1:
            raise UsageError("--momentum 1 never forgets a gradient; give a value below 1, such as 0.9")
        if self.ema == 1:
            raise UsageError(
                "--ema 1 would keep the weights from before the training; give a value below 1, such as 0.999"
            )
        if self.clip == 0:
            raise UsageError("--clip 0 would set all gradients to zero; give their maximum norm, such as 1")

    def _check_sample(self) -> None:
        """Reject two corrections for the same class frequencies.

        Raises:
            UsageError: Both are given.
        """
        if self.sample is Sample.BALANCED and self.class_weights is ClassWeights.BALANCED:
            raise UsageError(
                "--sample balanced and --class-weights balanced both correct for the class frequencies, together twice; "
                "give one of the two"
            )

    def _check_without_val(self) -> None:
        """Reject options that need a validation set.

        Raises:
            UsageError: One of them is given.
        """
        if self.patience is not None:
            raise UsageError(f"--patience needs a validation set; give {self._val_options}, or fewer --epochs")
        if self.schedule is Schedule.PLATEAU:
            raise UsageError(
                f"--schedule plateau needs a validation set; give {self._val_options}, or another schedule"
            )
        if self.monitor is not TrainConfig().monitor:
            raise UsageError(f"--monitor {self.monitor} needs a validation set; give {self._val_options}")

    def for_several_labels(self) -> Self:
        """Return the settings for images with several labels: the loss is the binary cross-entropy of every class.

        Raises:
            UsageError: An option is for one label per image.
        """
        if self.loss is Loss.CATEGORICAL and "loss" in self.on_command_line:
            raise UsageError(
                "--loss categorical is for one label per image, and these have several; drop it, the loss is binary"
            )
        if self.sample is Sample.BALANCED:
            raise UsageError(
                "--sample balanced draws images by their class, and these have several labels; use --class-weights balanced"
            )
        return dataclasses.replace(self, loss=Loss.BINARY)

    @property
    def rate(self) -> float:
        """The learning rate; by default the optimizer's."""
        return self.optimizer.learning_rate if self.lr is None else self.lr

    def described(self) -> dict[str, Any]:
        """Return what a Header records."""
        record = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del record["on_command_line"]
        if record["weight_decay"] == WEIGHT_DECAY:
            record["weight_decay"] = None  # the same training as without the option
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        names = [*self._recorded, *(name for name in record if name not in self._recorded)]
        return {
            name: str(record[name]) if isinstance(record[name], str) else record[name]
            for name in names
            if name in self._recorded or record[name] != defaults[name]
        }


def check_loss(loss: Loss | None, *, classes: int) -> None:
    """Reject the binary loss unless there are two classes.

    Raises:
        UsageError: There are not two classes.
    """
    if loss is Loss.BINARY and classes != 2:
        raise UsageError(f"--loss binary is for two classes, there are {classes}; use --loss categorical")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTrainConfig(TrainConfig):
    """Additional settings of training on images; `epochs` and `warmup` are in epochs, units of the others are in the option help."""

    augment: str | None = option(
        None,
        'Augment the training images, differently in each epoch: "rotate 20, zoom 0.2, hflip"; or @FILE.',
        metavar="NOTATION",
        after=("init", "freeze_bn"),
        group=LEARNING,
    )
    val_size: int | None = option(
        None,
        "Input size of validation and of the finished model, in pixels; for networks with global pooling. [default: the training size]",
        minimum=1,
        metavar="PIXELS",
        after=("augment",),
        group=LEARNING,
    )
    warmup: float = option(
        0.0,
        "Linear warm-up of the learning rate, in epochs.",
        minimum=0.0,
        metavar="EPOCHS",
        after=("schedule",),
        group=LEARNING,
    )
    mixup: float = option(
        0.0,
        "Blend pairs of images (mixup), with shares from Beta(ALPHA, ALPHA).",
        minimum=0.0,
        metavar="ALPHA",
        after=("class_weights", "sample"),
        group=LEARNING,
    )
    cutmix: float = option(
        0.0,
        "Replace a rectangle of each image by that of another image (CutMix), with shares from Beta(ALPHA, ALPHA). With --mixup, each "
        "batch uses one of the two.",
        minimum=0.0,
        metavar="ALPHA",
        after=("mixup",),
        group=LEARNING,
    )
    amp: Amp = option(
        Amp.AUTO,
        "Mixed precision; auto: bf16 where the hardware supports it. Validation uses it on a GPU, and float32 on a CPU.",
        after=("monitor",),
    )
    compile: bool = option(False, "Compile the network with torch.compile.", after=("amp",))

    @property
    def mixes(self) -> bool:
        """Whether pairs of images are blended, differently in each epoch."""
        return bool(self.mixup or self.cutmix)

    def checked(self, *, classes: int, has_val: bool, multi_label: bool = False) -> Self:
        """Reject options that contradict each other or would be ignored, and write out the notation and the learning rate.

        Args:
            classes: Number of classes.
            has_val: There are validation images.
            multi_label: Images have several labels.

        Raises:
            UsageError: Two options contradict each other, or an augmentation changes nothing.
            NotationError: The augmentation is wrong.
        """
        if multi_label:
            return self.for_several_labels()._checked(has_val=has_val)
        check_loss(self.loss, classes=classes)
        return self._checked(has_val=has_val)

    def _checked(self, *, has_val: bool) -> Self:
        self._check_optimizer()
        self._check_sample()
        if self.warmup > self.epochs:
            raise UsageError(f"--warmup {self.warmup:g} is longer than the training, --epochs {self.epochs}")
        if not has_val:
            self._check_without_val()
        notated = None if self.augment is None else str(augment_notation.parse_required(self.augment))
        return dataclasses.replace(self, lr=self.rate, augment=notated)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig(ImageTrainConfig):
    """The same for a pretrained network: smaller steps, and the loss that its last layer is made for."""

    lr: float | None = option(
        None, "Learning rate. [default: 0.00001; head only: 0.001, 0.01 for sgd]", minimum=0.0, group=LEARNING
    )
    loss: Loss | None = option(
        None,
        "Loss: softmax over the classes, or one sigmoid for two classes. Of images with several labels: a sigmoid for each class. "
        "[default: categorical; with a model: the model's]",
        after=("mixup",),
        group=LEARNING,
    )

    def checked_for(self, freeze: "FreezeConfig", *, classes: int, has_val: bool, multi_label: bool = False) -> Self:
        """Return what `checked` does, with the usual learning rate for the layers that are trained."""
        lr = FINETUNE_LR if self.lr is None and freeze.unfreeze != Unfreeze.NONE else self.lr
        config = dataclasses.replace(self, lr=lr)
        return config.checked(classes=classes, has_val=has_val, multi_label=multi_label)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig(TrainConfig):
    """Additional settings for training a head. `head` lacks the final dense layer, which follows from the classes and the loss."""

    head: str = option(
        "",
        "Layers before the final dense layer, which is added; or @FILE. [default: none]",
        metavar="NOTATION",
        after=("hold_out",),
    )
    solver: Solver = option(
        Solver.GRADIENT,
        "Solver: gradient (epochs of mini-batches, with --optimizer), or lbfgs (logistic regression, without a learning rate).",
        after=("loss",),
        group=LEARNING,
    )
    epochs: int = option(50, "Maximum number of epochs.", minimum=1, group=LEARNING)
    l2: float = option(
        0.0,
        "Factor of the L2 penalty, sum of w squared. [default: 0; lbfgs: selected on the validation set]",
        minimum=0.0,
        group=LEARNING,
    )
    smoothing: float = option(0.0, _SMOOTHING, minimum=0.0, maximum=0.99, after=("monitor",), group=LEARNING)
    init: Initializer = option(Initializer.GLOROT, "Weight initialization.", after=("l2",), group=LEARNING)
    standardize: bool = option(
        False,
        "Scale each feature to mean 0 and standard deviation 1.",
        after=("class_weights",),
        group=LEARNING,
    )
    pca: int | None = option(
        None,
        "Keep N principal components of the features. [default: off]",
        minimum=1,
        metavar="N",
        after=("standardize",),
        group=LEARNING,
    )
    whiten: bool = option(
        False, "Scale each principal component to standard deviation 1.", after=("pca",), group=LEARNING
    )

    use: str | None = option(
        None,
        "Metadata as a second input of the model, next to the features: width, height, aspect or bytes of the image file, or columns of "
        "--columns. More often a leak than a gain: measure it with --with first.",
        metavar="NAME[:number|category],...",
        after=("weights",),
    )

    _val_options: ClassVar[str] = "--val or --hold-out"
    _recorded: ClassVar[tuple[str, ...]] = _RECORDED["head"]

    def checked(self, *, has_val: bool) -> Self:
        """Reject settings that contradict each other, and write out the head's notation.

        Args:
            has_val: There is a validation set.

        Raises:
            NotationError: The notation is wrong.
            UsageError: A setting would be ignored.
        """
        config = dataclasses.replace(self, head=output_layer.checked_head(self.head))
        if self.use is not None:
            column_names.parse_kinds(self.use)
        if self.solver is Solver.LBFGS:
            config._check_lbfgs()
        config._check_optimizer()
        config._check_sample()
        if not has_val:
            config._check_without_val()
        if self.solver is Solver.LBFGS:
            return config
        layers = notation.parse(config.head)
        if self.batch == 1 and any(layer.kind is LayerKind.bn for layer in notation.every(layers)):
            raise UsageError(
                "--batch 1: batch norm cannot train on one row; give a larger --batch, or a --head without bn"
            )
        return config

    @property
    def kinds(self) -> dict[str, ColumnKind | None]:
        """The columns to use, with their kinds if these are given."""
        return {} if self.use is None else column_names.parse_kinds(self.use)

    def _check_lbfgs(self) -> None:
        """Reject settings that a solver without epochs and batches would ignore."""
        if self.head:
            raise UsageError(
                f'--solver lbfgs trains a single dense layer; drop --head "{self.head}", or use --solver gradient'
            )
        if self.l1:
            raise UsageError("--solver lbfgs cannot minimize an --l1 penalty; use --l2, or --solver gradient")
        ignored = {each.name for each in options(type(self))} - {*LBFGS_SETTINGS, "l2"}
        for word in given(self, names=ignored):
            raise UsageError(f"--solver lbfgs has no epochs or batches; drop {word}, or use --solver gradient")


#: The settings that apply without epochs and batches, apart from l2, which may be selected.
LBFGS_SETTINGS = (
    "loss",
    "solver",
    "class_weights",
    "standardize",
    "pca",
    "whiten",
    "monitor",
    "smoothing",
    "use",
    "deterministic",
    "seed",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeConfig:
    """Which layers are trained, at which rates, and what happens to the frozen part.

    `unfreeze` is a layer's name, a number of layers, all or none. `layer_decay` is the factor of the learning rate from a block to the
    one below it. `warmup_head` is the number of epochs that train only the head, before the others. `views` is the number of augmented
    versions of the frozen part's features that are cached; with 0 the frozen part runs in every epoch. `freeze_bn` freezes the
    statistics of all batch norms of the backbone, in trained layers too; their weights and biases are trained.
    """

    unfreeze: str = option(
        Unfreeze.NONE.value,
        "Layers to train: from NAME on (features.14, block5; cnn-dims lists them), the last N, all, or none (the head only).",
        metavar="NAME|N|all|none",
        after=("hold_out",),
        group=FREEZING,
    )
    warmup_head: int = option(
        0,
        "First train only the head, for this many additional epochs. Required with a new head and --unfreeze.",
        minimum=0,
        metavar="EPOCHS",
        group=FREEZING,
    )
    layer_decay: float | None = option(
        None,
        "Learning rate of each block, as a share of the rate of the next block towards the head. [default: off]",
        minimum=0.0,
        maximum=1.0,
        group=FREEZING,
    )
    views: int | None = option(
        None,
        "Run the frozen layers once on K augmented copies of each image, and cache their outputs; 0: run them in each epoch. "
        "[default: 0 with --augment, --mixup or --cutmix; else 1, the image itself]",
        minimum=0,
        metavar="K",
        group=FREEZING,
    )
    freeze_bn: bool = option(
        True,
        "Batch norm statistics of the trained layers: frozen, or updated from the batches.",
        "--freeze-bn/--train-bn",
        group=FREEZING,
    )

    def checked(self) -> Self:
        """Write 0 layers as none, and reject options that need trained backbone layers where there are none.

        Raises:
            UsageError: Two options contradict each other.
        """
        if re.fullmatch(r"[-+]?\d*\.?\d+", self.unfreeze) and not self.unfreeze.isdecimal():
            raise UsageError(
                f"--unfreeze {self.unfreeze}: give a layer's name, the number of last layers to train (0 or more), all or none"
            )
        unfreeze = Unfreeze.NONE.value if self.unfreeze.isdecimal() and not int(self.unfreeze) else self.unfreeze
        if self.layer_decay is not None and unfreeze == Unfreeze.NONE:
            raise UsageError(
                "--layer-decay needs trained backbone layers, and --unfreeze is none; give --unfreeze NAME"
            )
        if not self.freeze_bn and unfreeze == Unfreeze.NONE:
            raise UsageError("--train-bn needs trained backbone layers, and --unfreeze is none; give --unfreeze NAME")
        if self.layer_decay == 0:
            raise UsageError("--layer-decay 0 would not train the backbone; use --unfreeze none, which is faster")
        return dataclasses.replace(self, unfreeze=unfreeze)

    def with_views(self, train: ImageTrainConfig) -> Self:
        """Resolve the default of `views`: 1 without augmentation, 0 (a new version in each epoch) with it.

        Raises:
            UsageError: There are no such versions to cache.
        """
        if self.views is None:
            return dataclasses.replace(self, views=0 if train.augment or train.mixes else 1)
        if self.views and train.mixes:
            given_option = "--mixup" if train.mixup else "--cutmix"
            raise UsageError(
                f"{given_option} blends other images in each epoch, so features cannot be cached by --views; give --views 0"
            )
        if self.views > 1 and not train.augment:
            raise UsageError(f"--views {self.views} caches augmented versions; give --augment, or --views 1")
        if self.views > train.epochs:
            log.info(
                "--views %d: %d epochs use at most %d versions of each image",
                self.views,
                train.epochs,
                train.epochs,
            )
        return self

    def described(self) -> dict[str, Any]:
        """Return what a Header records."""
        names = ("unfreeze", "layer_decay", "warmup_head", "views", "freeze_bn")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig(DeviceConfig):
    """Where and how a training runs; no field changes its result."""

    cache: str = option(
        "4G",
        "Memory for decoded images, such as 500M or 4G; sets that do not fit are read again in each epoch.",
        metavar="SIZE",
    )
    resume: bool = option(False, "Resume an interrupted run from its last checkpoint.")
    checkpoint_every: float = option(
        CHECKPOINT_EVERY,
        "Minimum time between checkpoints, in seconds. One is also written on interruption; for a large network it may be a few "
        "seconds old.",
        minimum=0.0,
        metavar="SECONDS",
        after=("resume",),
    )

    def checked(self) -> Self:
        """Reject an invalid size or device.

        Raises:
            UsageError: One is invalid.
        """
        parse_size(self.cache)
        devices.parse(self.device)
        return self


_MOST_DIGITS = 18
# A letter alone or with iB is a power of 1024, with B of 1000
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(?:([KMGT])(iB|B)?)?", re.IGNORECASE | re.ASCII)


def parse_size(size: str) -> int:
    """Parse a size in bytes as coreutils do: 500M and 500MiB by 1024, 500MB by 1000, 0.

    Raises:
        UsageError: It is not a size.
    """
    found = _SIZE.fullmatch(size.strip())
    if found is None or len(found[1]) > _MOST_DIGITS:
        raise UsageError(f'--cache "{size}": give a size in bytes, such as 500M or 4G')
    power = " KMGT".index((found[2] or " ").upper())
    return int(float(found[1]) * (1000 if (found[3] or "").upper() == "B" else 1024) ** power)


def model_path(output: str | Path | None) -> Path:
    """Check the name of the model to be written, before anything is computed.

    Raises:
        UsageError: None is given, it does not end in `.pt`, or its history would replace a table of something else.
        CnnkitError: The folder does not exist.
    """
    if output is None:
        raise UsageError("no output file; give the model's name with -o FILE.pt")
    output = Path(output)
    if output.suffix != ".pt":
        remedy = f"give -o {messages.output_name(output, '.pt')}"
        raise UsageError(f"{output}: the model's name must end in .pt; {remedy}")
    atomic.check_folder(output)
    history.HistoryWriter(output.with_suffix(".csv"))  # refuses to replace a table of something else
    return output


def check_weights(weights: Path | None, *, features: str | Path) -> None:
    """Check that the file with the weights exists.

    Raises:
        CnnkitError: It does not.
    """
    if weights is not None and not weights.exists():
        raise CnnkitError(
            f"{weights}: no such file; --weights takes the state_dict of the backbone that made {features}"
        )


def warn_without_val(*, has_val: bool) -> None:
    """Warn if there is no validation set."""
    if not has_val:
        log.warning("no validation set: keeping the last epoch; use --val to keep the best one")
