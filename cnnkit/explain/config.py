"""Configuration of the commands that explain networks: one dataclass field for each option. No numpy, torch or matplotlib.

Device, batch size, threads and seed are arguments of the functions instead.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnnkit.choices import CamMethod, Fit, MapScale, Monitor, StyleOptimizer, StyleStart
from cnnkit.errors import UsageError
from cnnkit.formats import manifest
from cnnkit.option_fields import RemembersGiven, given, option, options, refuse_unused, seed_option, weights_option

# ---------------------------------------------------------------- networks, layers and filters


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions(RemembersGiven):
    """How a network is loaded; `size` and `fit` are options only of commands that run it on images."""

    weights: str = weights_option()
    size: str | None = None
    fit: Fit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions(NetworkOptions):
    """How a network is loaded, and the size of the images it is run on."""

    size: str | None = option(
        None,
        "Input size: side of the square, or HxW (height x width), in pixels. [default: that of the model]",
        metavar="PIXELS|HxW",
    )
    fit: Fit | None = option(
        None,
        "How images are fitted to the input size: crop the centre, squash (change the aspect ratio), or pad. "
        "[default: as stored in the model]",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOptions(RemembersGiven):
    """A layer of a network."""

    layer: str | None = option(
        None,
        "Layer, by name or number (-1 is the last). [default: the last layer with spatial dimensions]",
        metavar="NAME|INDEX",
        after=("method",),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterOptions(LayerOptions):
    """Some filters of a layer, as `parse_index_ranges` reads them."""

    filters: str | None = option(
        None, "Filters to draw, as in 0-63 or 3,7,12-20. [default: the first 64]", metavar="RANGES"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamFilterOptions(FilterOptions):
    """The filters of a dream; all by default."""

    filters: str | None = option(None, "Filters to amplify, as in 0-63 or 3,7,12-20. [default: all]", metavar="RANGES")


# ---------------------------------------------------------------- class activation maps and feature maps


@dataclass(frozen=True, slots=True, kw_only=True)
class CamOptions(LayerOptions):
    """How class activation maps are made."""

    method: CamMethod | None = option(
        None, "Method; the list below explains them. [default: gradcam; cam for an .onnx]"
    )
    contrast: bool = option(False, "Map the evidence against the class.")
    fine: bool = option(
        False,
        "Double the resolution of the map: remove the last stride before the layer and dilate the convolutions after it.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawOptions(RemembersGiven):
    """Where maps are drawn, and in which colours."""

    output: Path | None = option(
        None,
        "Folder to write images to. [default: draw nothing]",
        "--output",
        "-o",
        metavar="DIR",
        after=("model",),
    )
    colormap: str = option("viridis", "Colour map of matplotlib.", metavar="NAME", after=("alpha", "scale"))
    raw: bool = option(
        False,
        "Also write the activations of each layer as .npy, float32 (C, h, w).",
        after=("colormap", "sheet"),
    )
    force: bool = option(
        False, "Write into a DIR that is not empty; images of the same name are replaced.", after=("fit",)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions(DrawOptions):
    """The classes of the maps, and how maps are drawn."""

    output: Path | None = option(
        None,
        "Folder to write overlays to. [default: draw nothing]",
        "--output",
        "-o",
        metavar="DIR",
        after=("model",),
    )
    classes: list[str] | None = option(
        None,
        "Class to map: a name, the predicted class (top), the label of the image (true), or all; may be repeated. "
        "Write name:top for a class named top. [default: top]",
        "--class",
        metavar="NAME|top|true|all",
        after=("output",),
    )
    box: float | None = option(
        None,
        "Draw a box around the largest connected region above SHARE of the maximum, as in --box 0.5. [default: off]",
        minimum=0.0,
        maximum=1.0,
        metavar="SHARE",
    )
    manifest: Path | None = option(
        None,
        "Manifest to write: each image with the box of --box in its column box, to which other commands then crop it.",
        metavar="FILE",
    )
    faithful: bool = option(
        False,
        "Measure the faithfulness of each map: area under the probability curve as the hottest pixels are hidden first "
        "(deletion, lower is better) or shown first (insertion, higher is better).",
    )
    alpha: float = option(0.5, "Opacity of the colours.", minimum=0.0, maximum=1.0)
    colormap: str = option("inferno", "Colour map of matplotlib.", metavar="NAME", after=("alpha",))
    sheet: Path | None = option(
        None, "Contact sheet to write: all images with their overlays and probabilities.", metavar="FILE.png"
    )
    raw: bool = option(
        False,
        "Also write each map as float32 arrays: OVERLAY.map.npy (size of the layer) and OVERLAY.pixels.npy (size of the image).",
        after=("sheet",),
    )
    force: bool = option(
        False, "Write into a DIR that is not empty; overlays of the same name are replaced.", after=("fit",)
    )

    def checked(self) -> Self:
        """Refuse options of drawing if nothing is drawn, and a manifest without boxes or with several of an image.

        Raises:
            UsageError: An option needs -o or --sheet; --manifest needs --box, and one class.
        """
        if self.manifest is not None:
            manifest.check_name(self.manifest, option="--manifest")
            if self.box is None:
                raise UsageError("--manifest writes the boxes that --box finds; add --box SHARE, such as --box 0.5")
            if len(self.classes or []) > 1 or "all" in (self.classes or []):
                raise UsageError("--manifest has one box for each image; give --class once, and not --class all")
        if self.output is None:
            if self.raw:
                raise UsageError("--raw writes arrays next to the overlays; give their folder with -o DIR")
            if self.force:
                raise UsageError("--force replaces overlays in their folder; give it with -o DIR")
            if self.sheet is None:
                for flag in given(self, names=("alpha", "colormap")):
                    raise UsageError(f"{flag} sets how overlays are drawn; draw them with -o DIR or --sheet FILE.png")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMapOptions(DrawOptions):
    """The layers to describe, and how their feature maps are drawn; channels as `parse_index_ranges` reads them."""

    layers: list[str] | None = option(
        None,
        "Layer, by name or number (-1 is the last), or all; may be repeated. [default: all]",
        "--layer",
        metavar="NAME|INDEX|all",
    )
    channels: str | None = option(None, "Channels to draw, as in 0-63 or 3,7,12-20. [default: all]", metavar="RANGES")
    scale: MapScale = option(
        MapScale.CHANNEL,
        "Scale colours to the range of each channel (shows patterns) or of the whole layer (comparable).",
    )

    def checked(self) -> Self:
        """Refuse options of drawing if nothing is drawn.

        Raises:
            UsageError: An option needs -o.
        """
        if self.output is None:
            if self.raw:
                raise UsageError("--raw writes arrays next to the mosaics; give their folder with -o DIR")
            if self.force:
                raise UsageError("--force replaces images in their folder; give it with -o DIR")
            for flag in given(self, names=("channels", "scale", "colormap")):
                raise UsageError(f"{flag} sets how maps are drawn; draw them with -o DIR")
        return self


# ---------------------------------------------------------------- patterns and dreams


@dataclass(frozen=True, slots=True, kw_only=True)
class AscentOptions(RemembersGiven):
    """Settings of gradient ascent, and the size of the image."""

    steps: int = option(64, "Gradient steps.", minimum=1)
    rate: float = option(12.0, "RMS change of the pixel values per step, on a scale of 0 to 255.", minimum=0.0)
    jitter: int = option(
        4, "Maximum random shift before each step, in pixels.", minimum=0, metavar="PIXELS"
    )  # no pattern may depend on its place
    blur: float = option(
        0.5, "Standard deviation of the Gaussian blur after each step, in pixels.", minimum=0.0, metavar="PIXELS"
    )
    size: str | None = option(
        None,
        "Size of a pattern: side of the square, or HxW (height x width), in pixels. [default: that of the model, at most 128]",
        metavar="PIXELS|HxW",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternOptions(AscentOptions):
    """Settings of the search for patterns."""

    batch: int = option(16, "Filters per batch; with --top-images, images per batch.", minimum=1, after=("device",))

    def checked(self, *, kernels: bool, top_images: bool = False) -> Self:
        """Refuse settings of the search if kernels, or patches of images, are drawn instead.

        Args:
            kernels: Whether kernels are drawn.
            top_images: Whether patches of images are drawn.

        Raises:
            UsageError: A setting of the search was given with one of them.
        """
        if kernels:
            for flag in given(self):
                raise UsageError(f"{flag} has no effect with --kernels; drop it")
        if top_images:
            for flag in given(self, names=[each.name for each in options(AscentOptions)]):
                raise UsageError(f"{flag} has no effect with --top-images; drop it")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class TopImageOptions(RemembersGiven):
    """The images whose patches are drawn instead of patterns."""

    top_images: list[str] | None = option(
        None,
        "Draw the images of SOURCE that excite each filter most instead, cut to the receptive field of the strongest place; "
        "may be repeated.",
        metavar="SOURCE",
    )
    count: int = option(9, "With --top-images: images per filter.", minimum=1, metavar="N")

    def checked(self, *, kernels: bool, others: Mapping[str, object]) -> Self:
        """Refuse options that exclude each other, or have no effect.

        Args:
            kernels: Whether kernels are drawn.
            others: Options of the command that only concern `top_images`, by name.

        Raises:
            UsageError: Two things are to be drawn, or an option needs `top_images`.
        """
        if self.top_images is None:
            refuse_unused({**dict.fromkeys(given(self), True), **others}, "without --top-images, no images are read")
        elif kernels:
            raise UsageError("--kernels draws weights, --top-images patches of images; give one of them")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamOptions(AscentOptions):
    """Settings of a dream: gradient ascent at several sizes, from the smallest to that of the image."""

    steps: int = option(16, "Gradient steps per octave.", minimum=1)
    rate: float = option(2.0, "RMS change of the pixel values per step, on a scale of 0 to 255.", minimum=0.0)
    jitter: int = option(16, "Maximum random shift before each step, in pixels.", minimum=0, metavar="PIXELS")
    blur: float = option(
        0.0, "Standard deviation of the Gaussian blur after each step, in pixels.", minimum=0.0, metavar="PIXELS"
    )
    size: str | None = option(
        None, "Longer side of the dream, in pixels. [default: that of the image, at most 512]", metavar="PIXELS"
    )
    octaves: int = option(4, "Number of octaves (image sizes), from coarse to fine.", minimum=1)
    octave_scale: float = option(1.4, "Ratio between successive octaves.", minimum=1.01)


# ---------------------------------------------------------------- styles


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleOptions(RemembersGiven):
    """Layers and settings of a style transfer."""

    content_layer: str | None = option(
        None,
        "Layer whose activations keep the content, by name or number (-1 is the last). [default: block4_conv2 of a VGG; of other "
        "networks the last layer at the third size of maps]",
        metavar="NAME|INDEX",
    )
    style_layers: list[str] | None = option(
        None,
        "Layer whose Gram matrix describes the style, by name or number; may be repeated. [default: block1_conv1 to block5_conv1 of a "
        "VGG; of other networks the last layer at each of the first five sizes of maps]",
        "--style-layer",
        metavar="NAME|INDEX",
    )
    content_weight: float = option(1.0, "Weight of the content loss.", minimum=0.0)
    style_weight: float = option(10.0, "Weight of the style loss.", minimum=0.0)
    tv_weight: float = option(10.0, "Weight of the total variation, which makes the image smoother.", minimum=0.0)
    start: StyleStart = option(StyleStart.CONTENT, "Start from the content image, or from uniform noise.")
    optimizer: StyleOptimizer = option(StyleOptimizer.LBFGS, "Optimizer of the pixels.")
    steps: int = option(200, "Steps of the optimizer.", minimum=1)
    rate: float | None = option(
        None,
        "Learning rate of adam: change of the pixel values per step, on a scale of 0 to 255. [default: 4]",
        minimum=0.0,
    )
    size: str | None = option(
        None,
        "Longer side of the result, in pixels; the style image is resized to the same. [default: that of CONTENT, at most 512]",
        metavar="PIXELS",
    )

    def checked(self) -> Self:
        """Refuse options that contradict each other or have no effect.

        Raises:
            UsageError: Two options contradict each other.
        """
        if self.rate is not None and self.optimizer is not StyleOptimizer.ADAM:
            raise UsageError("--rate is the learning rate of adam; add --optimizer adam, or drop it")
        if self.rate == 0:
            raise UsageError("--rate 0 changes nothing; give a positive number, such as 4")
        if not self.content_weight and not self.style_weight:
            raise UsageError(
                "--content-weight 0 --style-weight 0 leaves nothing to optimize; give one of them a positive value"
            )
        if not self.style_weight and not self.tv_weight and self.start is StyleStart.CONTENT:
            raise UsageError(
                "--style-weight 0 --tv-weight 0 changes nothing, since the start is the content image; add --start noise, or give "
                "one of them a positive value"
            )
        if self.size is not None:
            longer_side(self.size, of="result")
        return self


# ---------------------------------------------------------------- adversarial images


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackOptions(RemembersGiven):
    """How adversarial images are made."""

    epsilon: int = option(
        2, "Largest change of a channel of a pixel, on a scale of 0 to 255.", minimum=1, maximum=255, metavar="N"
    )
    steps: int = option(
        1,
        "Gradient steps: 1 is the fast gradient sign method (FGSM), more are projected gradient descent (PGD).",
        minimum=1,
    )
    step_size: float | None = option(
        None,
        "Change of a channel of a pixel per step of PGD, on a scale of 0 to 255. [default: 2.5 * EPSILON / STEPS]",
        minimum=0.0,
    )
    random_start: bool = option(
        True,
        "Start PGD at a random image within epsilon; without it, PGD is the basic iterative method (BIM).",
        "--random-start/--no-random-start",
    )
    target: str | None = option(
        None,
        "Class that the network is to predict. [default: any class but that of the image]",
        metavar="CLASS",
    )
    seed: int = seed_option()
    force: bool = option(False, "Write into a DIR that is not empty; images of the same name are replaced.")

    def checked(self) -> Self:
        """Refuse options that have no effect.

        Raises:
            UsageError: An option of PGD without PGD, a step of no size, or a seed without a random start.
        """
        if self.steps == 1:
            for flag in given(self, names=("step_size", "random_start", "seed")):
                raise UsageError(f"{flag} is for PGD, which takes several steps; add --steps 10, or drop it")
        if self.step_size == 0:
            raise UsageError("--step-size 0 changes nothing; give a positive number, such as 0.5")
        if not self.random_start:
            for flag in given(self, names=("seed",)):
                raise UsageError(f"{flag} is for the random start; drop it, or --no-random-start")
        return self


# ---------------------------------------------------------------- training curves


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveOptions:
    """How training histories are shown."""

    smooth: float = option(
        0.0, "Weight of earlier epochs in the exponential moving average, 0 (off) to below 1.", metavar="WEIGHT"
    )
    monitor: Monitor = option(Monitor.VAL_LOSS, "Validation measure that selects the best epoch, which is marked.")


# ---------------------------------------------------------------- shared


def parse_index_ranges(text: str | None, count: int, *, option: str, of: str) -> list[int]:
    """Read numbers and ranges, such as `0-63` or `3,7,12-20`.

    Args:
        text: Numbers and ranges, both ends included; None for all.
        count: The number of things to choose from, numbered from 0.
        option: The option that has the text, for messages.
        of: The layer that has the things, for messages.

    Returns:
        The numbers in the order given, without repetition; a range may reach beyond `count`.

    Raises:
        UsageError: The text has another form, or a number is not below `count`.
    """
    if text is None:
        return list(range(count))
    found: list[int] = []
    for word in text.replace(" ", "").split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", word)
        if match is None:
            raise UsageError(f'{option} "{text}": give numbers and ranges, as in 0-63 or 3,7,12-20')
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise UsageError(f"{option} {word}: the range is reversed; give {last}-{first}")
        if first >= count or (match[2] is None and last >= count):
            raise UsageError(f"{option} {word}: {of} has {count}, numbered 0 to {count - 1}")
        found += range(first, min(last + 1, count))
    return list(dict.fromkeys(found))


def longer_side(text: str, *, of: str) -> int:
    """Read the size of an image that keeps its aspect ratio: its longer side.

    Args:
        text: The value of --size.
        of: The image, for messages.

    Raises:
        UsageError: The text is not a positive integer.
    """
    if not re.fullmatch("[0-9]{1,9}", text) or not int(text):
        raise UsageError(f'--size "{text}": give one number, the longer side of the {of} in pixels')
    return int(text)
