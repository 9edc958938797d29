"""Configuration of extraction and prediction: dataclasses whose fields are the options, with checks. Imports no torch or numpy."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnnkit.choices import ChannelOrder, Crops, Decoding, Engine, FeatureDtype, Fit, Interpolation, PixelRange, Vote
from cnnkit.data import augment_notation, shards
from cnnkit.engine import device as devices
from cnnkit.engine.config import BY_NAME, BulkConfig
from cnnkit.errors import UsageError
from cnnkit.option_fields import (
    MOST_SEED,
    RemembersGiven,
    check_ranges,
    decoding_option,
    fit_option,
    given,
    option,
    refuse_unused,
    resize_option,
    seed_option,
    shard_option,
    weights_option,
)

# Groups of options in the help; options without a group come first.
AVERAGING, EXTERNAL, NOVELTY = "Test-time augmentation", "Networks without a cnnkit header", "Novelty"

Channels = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractConfig(BulkConfig):
    """How features are computed and stored.

    With `views`, each training image has additional rows for K copies, augmented by `augment`; `seed` is the seed of these copies, that of
    random weights is in BackboneSpec. `resume` continues an interrupted run and produces the same bytes.
    `shard` is one share of the images.
    """

    dtype: FeatureDtype = option(FeatureDtype.FLOAT32, "Type of the stored features.")
    engine: Engine = option(Engine.ONNX, "Inference engine.")
    views: int | None = option(
        None,
        "Also extract K augmented copies of each training image (column view).",
        minimum=1,
        metavar="K",
    )
    augment: str | None = option(
        None, "Augmentation of these copies, in the notation of cnn-augment; or @FILE.", metavar="NOTATION"
    )
    resume: bool = option(
        False,
        "Resume an interrupted run. Rows that are already written are kept, without a check of their values.",
    )
    update: bool = option(
        False,
        "Keep the rows that an earlier run with --update wrote for images of the same content, and extract only the others. "
        "FILE.sha256 has the digests of the images.",
    )
    skip_unchanged: bool = option(
        False, "Leave files whose bytes would be the same alone, with their modification times, for make."
    )
    shard: str | None = shard_option(after=("split",), result="Shards are joined with --join.")
    seed: int = seed_option(after=("jobs",))

    def checked(self) -> Self:
        """Refuse options that contradict each other.

        Raises:
            UsageError: Views without augmentation, augmentation without views, an unknown device, no such shard, or a number out of range.
        """
        check_ranges(self)
        if shards.of(self.shard) is not None and self.update:
            raise UsageError("--update needs all images, and --shard reads a share of them; drop one of the two")
        if self.update and self.resume:
            raise UsageError(
                "--update keeps rows of a complete run, --resume those of an interrupted one; drop one of the two"
            )
        if (self.views is None) != (self.augment is None):
            raise UsageError("--views K is the number of copies, --augment their augmentation; give both or neither")
        devices.check_precision(self.precision, devices.parse(self.device))
        self.check_workers()
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig(BulkConfig):
    """How the predictions of several models, or of several views of an image, are combined and printed.

    `views` includes the unchanged image; `seed` is the seed of drawn views.
    """

    top: str = option(
        "1",
        "Print the K most probable classes of each image, or all. [default: 1; with several labels per image: its labels]",
        metavar="K|all",
    )
    vote: Vote = option(
        Vote.SOFT,
        "How to combine several models or views. soft: mean of the probabilities. hard: majority of the predicted classes; "
        "the probability is the share of votes, and the mean breaks ties. With several labels per image, a label is voted for from its "
        "threshold on, and printed from half of the votes on.",
    )
    min_probability: float = option(
        0.0,
        "Print ? instead of a label below this probability. With several labels per image: print those from it on, not from the model's "
        "thresholds on.",
        minimum=0.0,
        maximum=1.0,
        metavar="P",
    )
    reject: bool = option(
        False,
        "Print ? instead of a label if the novelty of the image is above the threshold that cnn-calibrate --novelty found.",
    )
    sets: bool = option(
        False,
        "Print the classes in the prediction set of each image, of a model of cnn-calibrate --sets, and their number in a column set_size; "
        "with --top K or all, at least as many.",
    )
    by_margin: bool = option(
        False,
        "Print the images in ascending order of the difference between their two highest probabilities: those to label next come first. "
        "With several labels per image: of the smallest difference between a probability and its threshold. Nothing is printed before the "
        "last image is predicted.",
    )
    logits: bool = option(False, "Add a column logit, the value before the softmax or sigmoid.")
    labels_only: bool = option(
        False,
        "Print only the label, one line per image; the line of a skipped image is empty. Several labels are separated by semicolons.",
    )
    columns: Path | None = option(
        None,
        "For a model of cnn-train-head --use: manifest with its columns, one row per image. [default: the manifest that is the SOURCE]",
        metavar="FILE.tsv",
        after=("split", "folders"),
    )
    shard: str | None = shard_option(after=("split",))
    tta: str | None = option(
        None,
        'Predict augmented views of each image, in the notation of cnn-augment: "hflip", "crop 0.9, hflip" or @FILE. '
        "Words other than hflip, vflip and crop load torch.",
        metavar="NOTATION",
        group=AVERAGING,
    )
    views: int | None = option(
        None,
        "Number of views that --tta draws, including the unchanged image; with flips only, all combinations are used. [default: 8]",
        minimum=2,
        metavar="K",
        group=AVERAGING,
    )
    crops: Crops | None = option(
        None,
        "Predict crops of each image: the centre and the corners of the resized image; 10 adds their mirror images.",
        group=AVERAGING,
    )
    seed: int = option(0, "Seed of the views that --tta draws.", minimum=0, maximum=MOST_SEED, group=AVERAGING)

    def checked(self, *, models: int, as_json: bool = False) -> Self:
        """Refuse options that contradict each other.

        Args:
            models: The number of models.
            as_json: Whether records are printed as JSON.

        Raises:
            UsageError: Options contradict each other, or a number is out of range.
        """
        check_ranges(self)
        devices.check_precision(self.precision, devices.parse(self.device))
        self.check_workers()
        shards.of(self.shard)
        most = self.most
        if self.sets and (self.labels_only or self.min_probability or self.reject):
            word = "--labels-only" if self.labels_only else "--reject" if self.reject else "--min-probability"
            other = "prints one class" if self.labels_only else "prints ? for labels"
            raise UsageError(f"--sets prints every class of a set, and {word} {other}; drop one of the two")
        if self.labels_only and (most != 1 or self.logits or as_json):
            raise UsageError("--labels-only prints only labels; drop --top, --logits and --json")
        if self.by_margin and (self.labels_only or self.shard is not None):
            reason = "--labels-only prints line n for image n" if self.labels_only else "--shard has a share of them"
            word = "--labels-only" if self.labels_only else "--shard"
            raise UsageError(f"--by-margin sorts all images, and {reason}; drop --by-margin, or drop {word}")
        one_view = self.tta is None and self.crops is None
        if self.logits and (models > 1 or not one_view):
            raise UsageError(
                "a vote has probabilities and no logits; give --logits only with a single --model, without --tta and --crops"
            )
        if self.sets and (models > 1 or not one_view):
            raise UsageError(
                "the threshold of prediction sets is for the probabilities of one model and view; "
                "give --sets only with a single --model, without --tta and --crops"
            )
        if self.vote is Vote.HARD and models == 1 and one_view:
            raise UsageError("--vote hard needs several models or views; give a second --model, or --tta")
        return self

    @property
    def most(self) -> int | None:
        """The number of classes to print for each image; None for all.

        Raises:
            UsageError: It is not a number of 1 or more.
        """
        if self.top == "all":
            return None
        if not re.fullmatch("[0-9]{1,9}", self.top) or not int(self.top):
            raise UsageError(f'--top "{self.top}": give a number of 1 or more, or all')
        return int(self.top)

    def most_labels(self, classes: int) -> int | None:
        """Return the number of classes to print of a network with several labels per image, if `top` is given; else None."""
        return (self.most or classes) if given(self, names=("top",)) else None

    @property
    def needs_torch_views(self) -> bool:
        """Whether `tta` has transforms that need torch.

        Raises:
            UsageError: The augmentation changes nothing.
            NotationError: It has an unknown word.
        """
        return (
            self.tta is not None and not augment_notation.parse_required(self.tta, option="--tta").needs_no_resampling
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoveltyConfig(RemembersGiven):
    """The features from which a network gets the novelty of images, and the share of validation images that are not novel."""

    novelty: Path | None = option(
        None,
        "Instead of a temperature, add an output novelty to the network, the distance of an image to these features of the training "
        "images, for cnn-predict --reject.",
        metavar="FILE.npy",
        group=NOVELTY,
    )
    val: Path | None = option(
        None,
        "Features of the validation set, which give the threshold. [default: the rows of split val in the features of --novelty]",
        metavar="FILE.npy",
        group=NOVELTY,
    )
    keep: float = option(
        0.95,
        "Share of the validation images up to the threshold.",
        minimum=0.01,
        maximum=1.0,
        metavar="SHARE",
        group=NOVELTY,
    )

    def checked(self) -> Self:
        """Check that the options have an effect.

        Raises:
            UsageError: `val` or `keep` without `novelty`, or a share out of range.
        """
        check_ranges(self)
        if self.novelty is None:
            refuse_unused(dict.fromkeys(given(self), True), "without --novelty FILE.npy, no features are read")
        elif self.val is not None and self.val.resolve() == self.novelty.resolve():
            raise UsageError(
                f"{self.val} has the training images, which are nearer than new ones; give the features of the validation set"
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Weights of networks given by name, input and output of networks without a Header; None if not given.

    `size` is a number of pixels, as text. `mean` and `std` are per channel in the network's order, for values from 0 to
    `range`; `labels` is a file of classes in the order of the network's outputs.

    For networks with a Header, only `size` is used: `448`, `320x480` or `native`; for networks by name also `weights` and `labels`.
    """

    weights: str = weights_option(of=BY_NAME)
    size: str | None = option(
        None,
        "Input size of a network by name, or from cnn-export --dynamic-size: side of the square, or HxW (height x width), in pixels; or "
        "native (the size of each image). Without a cnnkit header: side of the square.",
        metavar="PIXELS|HxW|native",
    )
    mean: str | None = option(
        None,
        "Mean of each channel, in the units of --range and the order of --channels; or one number.",
        metavar="R,G,B",
        group=EXTERNAL,
    )
    std: str | None = option(
        None,
        "Standard deviation of each channel, in the same units; or one number.",
        metavar="R,G,B",
        group=EXTERNAL,
    )
    range: PixelRange | None = option(
        None,
        "Value of white pixels for --mean and --std. [default: 1]",
        group=EXTERNAL,
    )
    channels: ChannelOrder | None = option(
        None,
        "Order of the channels; bgr for networks from Caffe, OpenCV or Keras' mode caffe. "
        "[default: rgb; grey for one channel]",
        group=EXTERNAL,
    )
    output: str | None = option(
        None,
        "Output with one number per class. [default: chosen by name and width]",
        metavar="NAME",
        group=EXTERNAL,
    )
    labels: Path | None = option(
        None,
        "File with the class names, one per line, in the order of the outputs; also for a network given by name with --weights FILE.",
        metavar="FILE",
        group=EXTERNAL,
    )
    resize: int | None = resize_option("8/7 of --size, such as 256 for 224", group=EXTERNAL)
    fit: Fit | None = fit_option("crop", group=EXTERNAL)
    decoding: Decoding | None = decoding_option(group=EXTERNAL)
    interpolation: Interpolation | None = option(
        None, "Interpolation when resizing. [default: bilinear]", group=EXTERNAL
    )

    def checked(self) -> Self:
        """Check `mean` and `std`.

        Raises:
            UsageError: As `parse_channels`; or the mean is outside of the range of the pixels.
        """
        mean = parse_channels(self.mean, option="--mean")
        parse_channels(self.std, option="--std")
        if mean is not None and max(mean) > self.white:
            remedy = "add --range 255" if self.white == 1 and max(mean) <= 255 else "give a mean in that range"
            raise UsageError(f'--mean "{self.mean}": pixel values are 0 to {self.white}; {remedy}')
        return self

    @property
    def white(self) -> int:
        """The value of white pixels before the mean is subtracted."""
        return int(self.range or PixelRange.ONE)


def parse_channels(text: str | None, *, option: str) -> Channels | None:
    """Parse three numbers separated by commas, or one number for all three channels.

    Args:
        text: The value of the option; None stays None.
        option: Its name, for messages.

    Raises:
        UsageError: It is something else, or a standard deviation that is not above zero.
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
