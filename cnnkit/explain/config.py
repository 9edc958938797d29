"""Settings of the commands that look into networks: dataclasses whose fields are the options. No numpy, torch or matplotlib.

What only says where the work is done (device, batch, threads) and what is random (seed) are arguments of the functions.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnnkit.choices import CamMethod, Fit, MapScale, Monitor
from cnnkit.errors import UsageError
from cnnkit.option_fields import RemembersGiven, given, option

# ---------------------------------------------------------------- which network, and what of it


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions(RemembersGiven):
    """How a network is loaded; `size` and `fit` are options where the network is shown images."""

    weights: str = option(
        "default",
        "For a network by name: a state_dict, its own weights, or random ones.",
        metavar="FILE|default|none",
    )
    size: str | None = None
    fit: Fit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions(NetworkOptions):
    """The same for a network that is shown images: of which size, and how they come to it."""

    size: str | None = option(
        None,
        "Show the network larger pictures, or a rectangle, height first. [default: the model's]",
        metavar="PIXELS|HxW",
    )
    fit: Fit | None = option(None, "How a picture becomes that. [default: the model's]")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOptions(RemembersGiven):
    """A layer of a network."""

    layer: str | None = option(
        None,
        "A layer by name, or by number from 0, or from the end as -1. [default: the last with spatial extent]",
        metavar="NAME|INDEX",
        after=("method",),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterOptions(LayerOptions):
    """Some of a layer's filters, as `parse_index_ranges` reads them."""

    filters: str | None = option(None, "Which, as in 0-63 or 3,7,12-20. [default: the first 64]", metavar="RANGES")


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamFilterOptions(FilterOptions):
    """The same for a dream, which is of all of them by default."""

    filters: str | None = option(
        None, "Filters to strengthen, as in 0-63 or 3,7,12-20. [default: all]", metavar="RANGES"
    )


# ---------------------------------------------------------------- class activation maps and feature maps


@dataclass(frozen=True, slots=True, kw_only=True)
class CamOptions(LayerOptions):
    """How class activation maps are made."""

    method: CamMethod | None = option(None, "How it is made. [default: gradcam; cam for an .onnx]")
    contrast: bool = option(False, "What speaks against the class.")
    fine: bool = option(
        False,
        "Twice the rows and columns: the last stride before the layer is taken out, what follows dilated.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawOptions(RemembersGiven):
    """Where maps are drawn, and in which colours."""

    output: Path | None = option(
        None, "Where the pictures go; none are drawn unless said.", "--output", "-o", metavar="DIR", after=("model",)
    )
    colormap: str = option("viridis", "Any of matplotlib's.", metavar="NAME", after=("alpha", "scale"))
    raw: bool = option(
        False, "What each layer answers as .npy as well, float32 (C, h, w).", after=("colormap", "sheet")
    )
    force: bool = option(False, "DIR may hold something; pictures of the same names are replaced.", after=("fit",))


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions(DrawOptions):
    """Of which classes maps are made, and what is made of them."""

    output: Path | None = option(
        None, "Where the overlays go; none are drawn unless said.", "--output", "-o", metavar="DIR", after=("model",)
    )
    classes: list[str] | None = option(
        None,
        "Whose map: a class by name, the one that the network names, the picture's label, or each; may repeat. A class that is "
        "called top, true or all is name:top, ... [default: top]",
        "--class",
        metavar="NAME|top|true|all",
        after=("output",),
    )
    box: float | None = option(
        None,
        "Frame the hot region: the largest that hangs together and has SHARE of the map's maximum, as in --box 0.5.",
        minimum=0.0,
        maximum=1.0,
        metavar="SHARE",
    )
    faithful: bool = option(
        False,
        "How far a map can be believed: the area below the class's probability as its hottest pixels are hidden first "
        "(deletion, the lower the better), or shown first (insertion, the higher).",
    )
    alpha: float = option(0.5, "How much of the picture the colours cover.", minimum=0.0, maximum=1.0)
    colormap: str = option("inferno", "Any of matplotlib's.", metavar="NAME", after=("alpha",))
    sheet: Path | None = option(
        None, "All pictures, their overlays and probabilities side by side.", metavar="FILE.png"
    )
    raw: bool = option(
        False,
        "Beside each overlay FILE.map.npy, of the layer's size, and FILE.pixels.npy, of the picture's: float32.",
        after=("sheet",),
    )
    force: bool = option(False, "DIR may hold something; overlays replace files of their names.", after=("fit",))

    def checked(self) -> Self:
        """Refuse what would be ignored, since nothing is drawn that it is about.

        Raises:
            UsageError: There is no folder or sheet for it.
        """
        if self.output is None:
            if self.raw:
                raise UsageError("--raw writes arrays beside the overlays; say where with -o DIR")
            if self.force:
                raise UsageError("--force lets overlays replace files in their folder; say which with -o DIR")
            if self.sheet is None:
                for flag in given(self, names=("alpha", "colormap")):
                    raise UsageError(f"{flag} colours overlays; say where they go with -o DIR or --sheet FILE.png")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMapOptions(DrawOptions):
    """Which layers' feature maps are described, and how they are drawn; channels as `parse_index_ranges` reads them."""

    layers: list[str] | None = option(
        None,
        "A layer by name, or by number from 0, or from the end as -1; may repeat. [default: all]",
        "--layer",
        metavar="NAME|INDEX|all",
    )
    channels: str | None = option(None, "Draw these alone, as in 0-63 or 3,7,12-20.", metavar="RANGES")
    scale: MapScale = option(
        MapScale.CHANNEL,
        "Colours by each channel's own range, which shows patterns, or by the layer's, which compares.",
    )

    def checked(self) -> Self:
        """Refuse what would be ignored, since nothing is drawn.

        Raises:
            UsageError: There is no folder for it.
        """
        if self.output is None:
            if self.raw:
                raise UsageError("--raw writes arrays beside the mosaics; say where with -o DIR")
            if self.force:
                raise UsageError("--force lets pictures replace others in their folder; say which with -o DIR")
            for flag in given(self, names=("channels", "scale", "colormap")):
                raise UsageError(f"{flag} says how maps are drawn; say where they go with -o DIR")
        return self


# ---------------------------------------------------------------- patterns and dreams


@dataclass(frozen=True, slots=True, kw_only=True)
class AscentOptions(RemembersGiven):
    """How the gradient of an activation is followed, in an image of which size."""

    steps: int = option(64, "How often the gradient is followed.", minimum=1)
    rate: float = option(12.0, "Root mean square of what a step changes, in grey levels of 255.", minimum=0.0)
    jitter: int = option(
        4, "By so much at most the picture is shifted before a step.", minimum=0, metavar="PIXELS"
    )  # no pattern may depend on its place
    blur: float = option(0.5, "Deviation of the blur after a step.", minimum=0.0, metavar="PIXELS")
    size: str | None = option(None, "Of a pattern. [default: as the model has it, 128 at most]", metavar="PIXELS|HxW")


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternOptions(AscentOptions):
    """How patterns are searched, several at once."""

    batch: int = option(16, "Filters that are looked for at once.", minimum=1, after=("device",))

    def checked(self, *, kernels: bool) -> Self:
        """Refuse what only a search has, where the kernels of a network are drawn.

        Args:
            kernels: They are drawn, and nothing is searched.

        Raises:
            UsageError: Something of it was given.
        """
        if kernels:
            for flag in given(self):
                raise UsageError(f"{flag} means nothing to --kernels; drop it")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamOptions(AscentOptions):
    """How an image is dreamt on: an ascent at each of several sizes, from the smallest to the image's own."""

    steps: int = option(16, "Gradient steps per octave.", minimum=1)
    rate: float = option(2.0, "Root mean square of the change in each step, in grey levels of 255.", minimum=0.0)
    jitter: int = option(16, "Maximum random shift before each step, in pixels.", minimum=0, metavar="PIXELS")
    blur: float = option(
        0.0, "Standard deviation of the Gaussian blur after each step, in pixels.", minimum=0.0, metavar="PIXELS"
    )
    size: str | None = option(
        None, "Longer side of the dream. [default: that of the image, at most 512]", metavar="PIXELS"
    )
    octaves: int = option(4, "Number of sizes, from coarse to fine.", minimum=1)
    octave_scale: float = option(1.4, "Ratio of each size to the one before.", minimum=1.01)

    @staticmethod
    def longer_side(text: str) -> int:
        """Read the size of a dream: one number, as the shorter side follows from the image.

        Raises:
            UsageError: It is not one.
        """
        if not re.fullmatch("[0-9]{1,9}", text) or not int(text):
            raise UsageError(f'--size "{text}": give the longer side of the dream, in pixels; the image has the ratio')
        return int(text)


# ---------------------------------------------------------------- training curves


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveOptions:
    """How training histories are shown."""

    smooth: float = option(
        0.0, "Exponential moving average: what was before counts WEIGHT, from 0 (off) to below 1.", metavar="WEIGHT"
    )
    monitor: Monitor = option(Monitor.VAL_LOSS, "The best epoch, which is marked, is the best by this.")


# ---------------------------------------------------------------- what the options have in common


def parse_index_ranges(text: str | None, count: int, *, option: str, of: str) -> list[int]:
    """Read which of some numbered things are meant.

    Args:
        text: Numbers and ranges, both ends included; None for all.
        count: How many there are, numbered from 0.
        option: Where the text stood, for messages.
        of: What has them, for messages.

    Returns:
        In the order given, each once; a range may go further than there are.

    Raises:
        UsageError: It is something else, or there is no such number.
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
            raise UsageError(f"{option} {word}: a range goes upwards; give {last}-{first}")
        if first >= count or (match[2] is None and last >= count):
            raise UsageError(f"{option} {word}: {of} has {count}, numbered 0 to {count - 1}")
        found += range(first, min(last + 1, count))
    return list(dict.fromkeys(found))
