"""The network that a training starts from: configuration dataclasses whose fields are the options, as those of `config`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnnkit.choices import Fit, Initializer, Loss, Normalize
from cnnkit.engine.config import check_backbone_weights
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.nets import notation, output_layer
from cnnkit.option_fields import option

# How a terminal's help groups the options.
NETWORK = "Network"

#: Keras' side in the textbook's chapter, in pixels.
SIZE = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """The network to be trained: `layers`, the whole of it by notation, or `arch`, a network's name, with a `head` of its own.

    Once checked, `layers` is the backbone and `head` the whole head with its last layer.
    """

    layers: str | None = option(
        None, "The network, or @FILE; cnn-dims measures what is written here.", metavar="NOTATION", group=NETWORK
    )
    arch: str | None = option(
        None, "A torchvision network, or timm:NAME, with random weights.", metavar="NAME", group=NETWORK
    )
    head: str = option(
        "",
        "With --arch: layers between its average pool and the last dense one.",
        metavar="NOTATION",
        group=NETWORK,
    )
    size: int | None = option(
        None, "Side of the input in pixels. [default: 150; --arch: the network's own]", minimum=1, group=NETWORK
    )
    fit: Fit | None = option(None, "How a picture becomes a square. [default: squash; --arch: crop]", group=NETWORK)
    grey: bool = option(False, "One channel, brightness, computed inside the network.", group=NETWORK)
    normalize: Normalize = option(
        Normalize.STANDARD, "What is done to values from 0 to 1; the last three are measured.", group=NETWORK
    )
    init: Initializer | None = option(
        None, "How weights start. [default: glorot; --arch: the network's own]", group=NETWORK
    )

    def checked(self, loss: Loss | None, *, classes: int) -> Self:
        """Refuse what contradicts itself, and divide the notation into backbone and head.

        Args:
            loss: The last layer is made for it.
            classes: How many there are.

        Raises:
            UsageError: One option does not go with another, or the layers do not fit.
            NotationError: A notation is wrong.
        """
        loss = loss or Loss.CATEGORICAL
        if (self.layers is None) == (self.arch is None):
            raise UsageError("give either --layers NOTATION or --arch NAME")
        measured = self.normalize in (Normalize.CENTER, Normalize.STANDARD)
        if self.fit is Fit.PAD and measured:
            raise UsageError(
                f"--fit pad fills with the mean colour, which --normalize {self.normalize} measures only afterwards; "
                "use --normalize imagenet, scale or maxabs"
            )
        if self.arch is not None:
            if self.grey:
                raise UsageError(
                    "--grey goes with --layers: a network by name takes three channels, and grey pictures as well"
                )
            head = output_layer.whole_head(self.head, loss=loss, classes=classes, spatial=False)
            return dataclasses.replace(self, head=head)
        if self.head:
            raise UsageError("--head goes with --arch; --layers holds the whole network")
        layers = ", ".join(layer.text for layer in notation.parse(self.layers or ""))
        backbone, head = output_layer.divide(
            layers, loss=loss, classes=classes, size=self.size or SIZE, channels=1 if self.grey else 3
        )
        return dataclasses.replace(self, layers=backbone, head=head)


@dataclass(frozen=True, slots=True, kw_only=True)
class InitFrom:
    """Where a fine-tuning starts: a `model` file, or a `backbone` by name with its `weights` and a fresh `head`."""

    model: Path | None = None
    backbone: str | None = option(
        None, "In place of a model: a pretrained network with a fresh head.", metavar="NAME", group=NETWORK
    )
    weights: str = option(
        "default",
        "With --backbone: a state_dict; the library's own; or none.",
        metavar="FILE|default|none",
        group=NETWORK,
    )
    head: str = option(
        "",
        "With --backbone: layers before the last dense one. [default: none]",
        metavar="NOTATION",
        group=NETWORK,
    )
    size: int | None = option(
        None, "With --backbone: side of the input in pixels. [default: its own]", minimum=1, group=NETWORK
    )
    fit: Fit | None = option(None, "With --backbone: how a picture becomes a square. [default: crop]", group=NETWORK)
    init: Initializer | None = option(
        None, "With --backbone: how the head's weights start. [default: glorot]", group=NETWORK
    )

    def checked(self, loss: Loss | None, *, classes: int) -> Self:
        """Refuse options that a model file would ignore, and add the last layer to a fresh head.

        Args:
            loss: Of a fresh head; None for the usual one.
            classes: How many there are.

        Raises:
            UsageError: One option does not go with another.
            CnnkitError: There is no such file.
        """
        if (self.model is None) == (self.backbone is None):
            raise UsageError("give either a model, such as head.pt, or --backbone NAME for a fresh head")
        if self.model is not None:
            for name in ("head", "size", "fit", "init", "weights"):
                if getattr(self, name) != getattr(InitFrom(), name):
                    own = "weights" if name == "init" else name
                    raise UsageError(f"{self.model} has its own {own}; --{name} goes with --backbone")
            if not self.model.exists():
                raise CnnkitError(
                    f"{self.model}: no such model; cnn-train-head and cnn-train make one, and --backbone NAME starts without"
                )
            return self
        check_backbone_weights(self.weights)
        head = output_layer.whole_head(self.head, loss=loss or Loss.CATEGORICAL, classes=classes, spatial=False)
        return dataclasses.replace(self, head=head)


def refuse_overwriting(output: Path, init: InitFrom) -> None:
    """Refuse to write over the model that the training starts from.

    Raises:
        UsageError: They are the same file.
    """
    if init.model is not None and output.exists() and output.samefile(init.model):
        raise UsageError(f"{output} is what the training starts from, and --resume would need it; give another -o")
