"""Configuration of extraction and prediction: dataclasses whose fields are the options. They validate themselves. No torch or numpy."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnnkit.choices import ChannelOrder, Crops, Engine, FeatureDtype, Fit, Interpolation, PixelRange, Vote
from cnnkit.data import augment_notation
from cnnkit.engine import device as devices
from cnnkit.engine.config import BulkConfig
from cnnkit.errors import UsageError
from cnnkit.option_fields import MOST_SEED, option, seed_option

# How a terminal's help groups the options; the others stand above.
AVERAGING, EXTERNAL = "Several views of a picture", "Networks that cnnkit did not make"

Channels = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractConfig(BulkConfig):
    """How features are computed and kept.

    With `views`, each training image has rows for so many copies as well, augmented as `augment` says; `seed` is theirs, and that of
    random weights is BackboneSpec's. A run that was interrupted is resumed with `resume`, and ends with the same bytes.
    """

    dtype: FeatureDtype = option(FeatureDtype.FLOAT32, "How the features are kept.")
    engine: Engine = option(Engine.ONNX, "What computes.")
    views: int | None = option(
        None,
        "Behind each picture's row K rows of augmented copies, numbered in a column view; not of val and test.",
        minimum=1,
        metavar="K",
    )
    augment: str | None = option(
        None, "What may become of those copies, as cnn-augment has it; or @FILE.", metavar="NOTATION"
    )
    resume: bool = option(
        False,
        "Go on from an interrupted run. Complete features are kept as they are; values that were changed since are not noticed.",
    )
    seed: int = seed_option(after=("jobs",))

    def checked(self) -> Self:
        """Refuse options that do not go together.

        Raises:
            UsageError: There are views without augmentation, or the other way round; or the device is none.
        """
        if (self.views is None) != (self.augment is None):
            raise UsageError("--views says how many copies, --augment what may become of them; give both or neither")
        devices.check_precision(self.precision, devices.parse(self.device))
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig(BulkConfig):
    """How several models, or several views of an image, become one prediction, and what is printed of it.

    `views` counts the image itself; `seed` is that of what is drawn.
    """

    top: str = option("1", "Print the K best classes of each picture, or all of them.", metavar="K|all")
    vote: Vote = option(
        Vote.SOFT,
        "How several models or views come to one answer: by the mean of their probabilities, or by the majority of their "
        "answers; the probability is then the share of votes, and the mean decides between equals.",
    )
    min_probability: float = option(
        0.0, "Print ? for a label that is less probable.", minimum=0.0, maximum=1.0, metavar="P"
    )
    logits: bool = option(False, "One more column: what comes before the softmax.")
    labels_only: bool = option(
        False,
        "Nothing but the label, one line for each picture; the line of a picture that was skipped is empty.",
    )
    tta: str | None = option(
        None,
        'Test-time averaging over augmented views: "hflip", "crop 0.9, hflip" or @FILE, as cnn-augment has it. '
        "Words other than hflip, vflip and crop load torch.",
        metavar="NOTATION",
        group=AVERAGING,
    )
    views: int | None = option(
        None,
        "How many views --tta draws, the plain picture among them; flips alone are all taken. [default: 8]",
        minimum=2,
        metavar="N",
        group=AVERAGING,
    )
    crops: Crops | None = option(
        None,
        "The centre, which is the plain picture, and the corners of the resized picture; with 10 all of them mirrored, too.",
        group=AVERAGING,
    )
    seed: int = option(
        0, "Of what --tta draws: the same seed, the same bytes.", minimum=0, maximum=MOST_SEED, group=AVERAGING
    )

    def checked(self, *, models: int, as_json: bool = False) -> Self:
        """Refuse options that do not go together.

        Args:
            models: How many there are.
            as_json: Whether records are printed as JSON.

        Raises:
            UsageError: They do not.
        """
        devices.check_precision(self.precision, devices.parse(self.device))
        most = self.most
        if self.labels_only and (most != 1 or self.logits or as_json):
            raise UsageError("--labels-only prints nothing but the label; drop --top, --logits and --json")
        one_view = self.tta is None and self.crops is None
        if self.logits and (models > 1 or not one_view):
            raise UsageError(
                "a vote has probabilities and no logits; give --logits with a single --model and one view of each picture"
            )
        if self.vote is Vote.HARD and models == 1 and one_view:
            raise UsageError(
                "--vote hard counts answers to each class; give --model several times, or views with --tta"
            )
        return self

    @property
    def most(self) -> int | None:
        """How many classes of each image are printed; None for all.

        Raises:
            UsageError: It is not a number from 1.
        """
        if self.top == "all":
            return None
        if not re.fullmatch("[0-9]{1,9}", self.top) or not int(self.top):
            raise UsageError(f'--top "{self.top}": give a number from 1, or all')
        return int(self.top)

    @property
    def needs_torch_views(self) -> bool:
        """Whether views are drawn that numpy cannot make.

        Raises:
            UsageError: The augmentation changes nothing.
            NotationError: A word of it means nothing.
        """
        return (
            self.tta is not None and not augment_notation.parse_required(self.tta, option="--tta").needs_no_resampling
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What the command line says about networks that carry no Header; None was not given.

    `size` is a number of pixels, as it was written. `mean` and `std` are per channel in the network's order, for values from 0 to
    `range`; `labels` is a file of classes in the order of the network's outputs.

    Of networks with a Header, `size` alone: `448`, `320x480` or `native`.
    """

    size: str | None = option(
        None,
        "Show networks from cnn-export --dynamic-size larger pictures, a rectangle, or every picture as it is. "
        "For a network without cnnkit header: side of its input.",
        metavar="PIXELS|HxW|native",
    )
    mean: str | None = option(
        None,
        "For a network without cnnkit header: mean of its input, for values from 0 to 1; channels in the order of --channels.",
        metavar="R,G,B",
        group=EXTERNAL,
    )
    std: str | None = option(None, "Likewise: standard deviation.", metavar="R,G,B", group=EXTERNAL)
    range: PixelRange | None = option(
        None,
        "Likewise: white before --mean is subtracted, for a mean and a deviation of values from 0 to 255. [default: 1]",
        group=EXTERNAL,
    )
    channels: ChannelOrder | None = option(
        None,
        "Likewise: channels of its input; bgr for networks from Caffe, OpenCV or Keras' mode caffe. [default: rgb; grey for one channel]",
        group=EXTERNAL,
    )
    output: str | None = option(
        None,
        "Likewise: which of its outputs has a number for each class. [default: by its name and width; a notice if there are several]",
        metavar="NAME",
        group=EXTERNAL,
    )
    labels: Path | None = option(
        None, "Likewise: its classes, one a line, in the order of its outputs.", metavar="FILE", group=EXTERNAL
    )
    resize: int | None = option(
        None,
        "Likewise: shorter side before the crop. [default: 256 for 224 and so on]",
        minimum=1,
        metavar="PIXELS",
        group=EXTERNAL,
    )
    fit: Fit | None = option(None, "Likewise: how a picture becomes a square. [default: crop]", group=EXTERNAL)
    interpolation: Interpolation | None = option(
        None, "Likewise: how it is resized. [default: bilinear]", group=EXTERNAL
    )

    def checked(self) -> Self:
        """Refuse channels that are not numbers, or a mean that no pixel reaches.

        Raises:
            UsageError: As `parse_channels`; or the mean lies outside of the range of the pixels.
        """
        mean = parse_channels(self.mean, option="--mean")
        parse_channels(self.std, option="--std")
        if mean is not None and max(mean) > self.white:
            remedy = "add --range 255" if self.white == 1 and max(mean) <= 255 else "give one inside"
            raise UsageError(f'--mean "{self.mean}": pixels go from 0 to {self.white}; {remedy}')
        return self

    @property
    def white(self) -> int:
        """What the pixels of a white image are before the mean is subtracted."""
        return int(self.range or PixelRange.ONE)


def parse_channels(text: str | None, *, option: str) -> Channels | None:
    """Read three numbers with commas between them, or one that stands for all three channels.

    Args:
        text: What stood on the command line; None stays None.
        option: Its name, for messages.

    Raises:
        UsageError: It is something else, or a deviation that is not above zero.
    """
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    bound = " above zero" if option == "--std" else ""
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)) or (bound and min(numbers) <= 0):
        raise UsageError(f'{option} "{text}": give three numbers{bound}, as in 0.5,0.5,0.5, or one for all channels')
    red, green, blue = numbers * 3 if len(numbers) == 1 else numbers
    return red, green, blue
