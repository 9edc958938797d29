"""Configuration of the network that a training starts from: dataclasses whose fields are the options, as in `config`."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnnkit.choices import Decoding, Fit, Initializer, Loss, Normalize, Whiten
from cnnkit.data import augment_notation
from cnnkit.engine.config import check_backbone_weights
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats.header import MOST_WHITENED
from cnnkit.nets import notation, output_layer
from cnnkit.nets.notation import LayerKind
from cnnkit.option_fields import (
    RemembersGiven,
    decoding_option,
    fit_option,
    option,
    size_option,
    weights_option,
)
from cnnkit.train.config import ImageTrainConfig

# Title of the option group in the help.
NETWORK = "Network"
NEW_HEAD = "Pretrained network with a new head"
BOX = "Box"

#: The default factor of the loss of boxes, which is smaller by far than that of classes; docs/commands/cnn-train.md has measurements.
BOX_WEIGHT = 10.0

#: Default input size in pixels, that of the textbook's chapter.
SIZE = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """The network to be trained: `layers`, the notation of all its layers, or `arch`, a network's name, with a new `head`.

    Once checked, `layers` is the backbone and `head` the whole head with its final layer.
    """

    layers: str | None = option(
        None, "All layers of the network, or @FILE; cnn-dims shows their sizes.", metavar="NOTATION", group=NETWORK
    )
    arch: str | None = option(
        None, "Torchvision network, or timm:NAME, with random weights.", metavar="NAME", group=NETWORK
    )
    head: str = option(
        "",
        "With --arch: layers between its average pool and the final dense layer. [default: none]",
        metavar="NOTATION",
        group=NETWORK,
    )
    size: int | None = size_option("150; with --arch: the network's", group=NETWORK)
    fit: Fit | None = fit_option("squash; with --arch: crop", group=NETWORK)
    decoding: Decoding | None = decoding_option(group=NETWORK)
    grey: bool = option(False, "Convert images to grey (one channel), inside the network.", group=NETWORK)
    normalize: Normalize = option(
        Normalize.STANDARD,
        "Normalization of pixel values (0 to 1): imagenet (ImageNet's mean and standard deviation), scale (none), or by the training set: "
        "center (mean 0), standard (mean 0, standard deviation 1), maxabs (divide by the largest absolute value); for small images "
        "zca (whitened images, for convolutions), pca (whitened principal components, for dense layers).",
        group=NETWORK,
    )
    whiten_epsilon: float | None = option(
        None,
        "With --normalize zca or pca: added to the variance of every component, as a share of their mean. [default: 1]",
        metavar="SHARE",
        minimum=1e-6,
        maximum=1e3,
        group=NETWORK,
    )
    init: Initializer | None = option(
        None, "Weight initialization. [default: glorot; with --arch: the network's]", group=NETWORK
    )

    def checked(self, loss: Loss | None, *, classes: int, multi_label: bool = False) -> Self:
        """Reject options that contradict each other, and divide the notation into backbone and head.

        Args:
            loss: Determines the final layer.
            classes: Number of classes.
            multi_label: Images have several labels.

        Raises:
            UsageError: Two options contradict each other, or the layers do not fit.
            NotationError: A notation is wrong.
        """
        loss = loss or Loss.CATEGORICAL
        if (self.layers is None) == (self.arch is None):
            raise UsageError("give either --layers NOTATION or --arch NAME")
        measured = self.normalize in (Normalize.CENTER, Normalize.STANDARD)
        if self.fit is Fit.PAD and measured:
            raise UsageError(
                f"--fit pad fills with the mean colour, which is not yet known with --normalize {self.normalize}; "
                "use --normalize imagenet, scale or maxabs"
            )
        self._check_whitening()
        if self.arch is not None:
            if self.grey:
                raise UsageError(
                    "--grey goes with --layers; drop it: an --arch network takes three channels, also of grey images"
                )
            head = output_layer.checked_head(self.head)
            head = output_layer.whole_head(head, loss=loss, classes=classes, spatial=False, multi_label=multi_label)
            return dataclasses.replace(self, head=head)
        if self.head:
            raise UsageError("--head goes with --arch; with --layers, append the head's layers there")
        layers = ", ".join(layer.text for layer in notation.parse(self.layers or ""))
        backbone, head = output_layer.divide(
            layers,
            loss=loss,
            classes=classes,
            size=self.size or SIZE,
            channels=1 if self.grey else 3,
            multi_label=multi_label,
        )
        return dataclasses.replace(self, layers=backbone, head=head)

    def _check_whitening(self) -> None:
        """Check that images can be whitened, and that the first layer can use the result.

        Raises:
            UsageError: They are too large, or the layers do not fit.
        """
        whiten = self.normalize.whiten
        if whiten is None:
            if self.whiten_epsilon is not None:
                raise UsageError("--whiten-epsilon goes with --normalize zca or pca; drop it")
            return
        if self.arch is not None:
            raise UsageError(
                f"--normalize {whiten} goes with --layers: networks by name take larger images than can be whitened; "
                "use --normalize standard"
            )
        size = self.size or SIZE
        values = size * size * (1 if self.grey else 3)
        if values > MOST_WHITENED:
            colour, grey = math.isqrt(MOST_WHITENED // 3), math.isqrt(MOST_WHITENED)
            raise UsageError(
                f"--normalize {whiten} needs a matrix of all pairs of an image's values, and at {size} pixels there are {values:,} "
                f"values; the limit is {MOST_WHITENED:,}: give --size {colour} or smaller, with --grey {grey} or smaller"
            )
        if whiten is Whiten.PCA:
            layers = notation.parse(self.layers or "")
            first = next((layer for layer in layers if layer.kind is not LayerKind.dropout), None)
            if first is not None and first.kind not in (LayerKind.flatten, LayerKind.dense):
                raise UsageError(
                    f'--normalize pca gives components, which have no neighbours, and "{first.text}" takes pixels; '
                    'use --normalize zca, or write "flatten" as the first layer'
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxConfig(RemembersGiven):
    """The box that a network predicts in addition to the class."""

    predict_box: bool = option(
        False,
        "Also learn the column box of the manifest, with a second dense layer on the last map. Images are not cropped.",
        group=BOX,
    )
    box_weight: float = option(
        BOX_WEIGHT,
        "With --predict-box: factor of the loss of the box (smooth L1) in the sum of both losses.",
        minimum=0.0,
        group=BOX,
    )

    def checked(self, train: ImageTrainConfig) -> Self:
        """Reject options that contradict each other.

        Args:
            train: The other settings of the training.

        Raises:
            UsageError: `box_weight` without `predict_box` or of 0, or a setting whose effect on boxes is not known.
        """
        if not self.predict_box:
            if "box_weight" in self.on_command_line:
                raise UsageError("--box-weight goes with --predict-box; add it, or drop --box-weight")
            return self
        if not self.box_weight:
            raise UsageError("--box-weight 0 would not train the box; give a larger factor, or drop --predict-box")
        if train.mixes:
            given = "--mixup" if train.mixup else "--cutmix"
            raise UsageError(f"{given} blends two images, which have two boxes; drop it, or --predict-box")
        if train.val_size is not None:
            raise UsageError("--val-size needs a network for any size, and a box is computed for one; drop it")
        if train.augment is not None:
            words = augment_notation.parse(train.augment)
            if words.randaugment or words.trivialaugment:
                word = "randaugment" if words.randaugment else "trivialaugment"
                raise UsageError(
                    f"--augment {word} moves objects without their boxes; give words such as rotate, zoom, shift, hflip and "
                    "brightness, or drop --predict-box"
                )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class InitFrom:
    """What fine-tuning starts from: a `model` file, or a `backbone` by name with its `weights` and a new `head`."""

    model: Path | None = None
    backbone: str | None = option(
        None,
        "Torchvision network, or timm:NAME, to start from with a new head, instead of MODEL.pt.",
        metavar="NAME",
        group=NEW_HEAD,
    )
    weights: str = weights_option(of="the --backbone", group=NEW_HEAD)
    head: str = option(
        "",
        "Layers before the final dense layer, which is added; or @FILE. [default: none]",
        metavar="NOTATION",
        group=NEW_HEAD,
    )
    size: int | None = size_option("the network's", group=NEW_HEAD)
    fit: Fit | None = fit_option("crop", group=NEW_HEAD)
    decoding: Decoding | None = decoding_option(group=NEW_HEAD)
    init: Initializer | None = option(None, "Weight initialization of the new head. [default: glorot]", group=NEW_HEAD)

    def check_files(self) -> None:
        """Check that the model or the weights exist, before images are searched.

        Raises:
            CnnkitError: A file does not exist.
        """
        if self.model is None:
            check_backbone_weights(self.weights)
        elif not self.model.exists():
            raise CnnkitError(
                f"{self.model}: no such file; cnn-train-head and cnn-train write models, --backbone NAME starts without one"
            )

    def checked(self, loss: Loss | None, *, classes: int, multi_label: bool = False) -> Self:
        """Reject options that a model file would ignore, and add the final layer to a new head.

        Args:
            loss: Of a new head; None for categorical.
            classes: Number of classes.
            multi_label: Images have several labels.

        Raises:
            UsageError: Two options contradict each other.
            CnnkitError: A file does not exist.
        """
        if (self.model is None) == (self.backbone is None):
            raise UsageError("give either a model, such as head.pt, or --backbone NAME for a new head")
        if self.model is not None:
            for name in ("head", "size", "fit", "decoding", "init", "weights"):
                if getattr(self, name) != getattr(InitFrom(), name):
                    own = "weights" if name == "init" else name
                    raise UsageError(f"{self.model} has its own {own}; --{name} goes with --backbone")
        self.check_files()
        if self.model is not None:
            return self
        head = output_layer.checked_head(self.head)
        head = output_layer.whole_head(
            head, loss=loss or Loss.CATEGORICAL, classes=classes, spatial=False, multi_label=multi_label
        )
        return dataclasses.replace(self, head=head)


def refuse_overwriting(output: Path, init: InitFrom) -> None:
    """Reject an output file that is the model that the training starts from.

    Raises:
        UsageError: They are the same file.
    """
    if init.model is not None and output.exists() and output.samefile(init.model):
        raise UsageError(
            f"{output} is the model that the training starts from, and --resume would need it; give another -o"
        )
