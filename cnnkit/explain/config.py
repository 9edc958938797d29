"""Settings of the commands that look into networks; what they are called here, they are called on the command line. Nothing heavy."""

import re
from dataclasses import dataclass
from pathlib import Path

from cnnkit.choices import CamMethod, Fit, MapScale
from cnnkit.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class CamOptions:
    """Which network has its class activation maps made, and how.

    Attributes:
        weights: For a network by name: default, none, or a state_dict file.
        method: How maps are made; Grad-CAM by default, CAM for an exported network.
        layer: Whose maps; the last layer with spatial extent by default.
        contrast: What speaks against a class.
        fine: Take the last stride before the layer out.
        size: Of what the network sees, `448` or `320x480`.
        fit: How an image becomes that.
        device: auto, cpu, cuda or cuda:N.
        batch: The largest number of images to run at once.
    """

    weights: str = "default"
    method: CamMethod | None = None
    layer: str | None = None
    contrast: bool = False
    fine: bool = False
    size: str | None = None
    fit: Fit | None = None
    device: str = "auto"
    batch: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """What is made of class activation maps.

    Attributes:
        output: The folder of overlays.
        sheet: A PNG with all images and overlays.
        alpha: How much of the image the colours cover, 0 to 1.
        colormap: A name of matplotlib's.
        raw: Write the maps as arrays, too.
        box: Frame the largest region that has this share of the map's maximum.
        faithful: Measure how far the maps can be believed.
        force: The folder may hold something.
    """

    output: Path | None = None
    sheet: Path | None = None
    alpha: float = 0.5
    colormap: str = "inferno"
    raw: bool = False
    box: float | None = None
    faithful: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMapOptions:
    """How feature maps are drawn.

    Attributes:
        output: The folder of the images.
        channels: Those that are drawn, as `parse_index_ranges` reads them.
        scale: By which range values become colours.
        colormap: A name of matplotlib's.
        raw: Write the maps as arrays, too.
        force: The folder may hold something.
    """

    output: Path | None = None
    channels: str | None = None
    scale: MapScale = MapScale.CHANNEL
    colormap: str = "viridis"
    raw: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOptions:
    """A layer of a network.

    Attributes:
        model: A trained `.pt`, or a network's name.
        weights: For a network by name: default, none, or a state_dict file.
        layer: By name or number; the last layer with spatial extent by default.
        device: auto, cpu, cuda or cuda:N.
        seed: For random weights, and for all that is random in what is made of the layer.
    """

    model: str
    weights: str = "default"
    layer: str | None = None
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AscentOptions:
    """How the gradient is followed.

    Attributes:
        steps: How often.
        rate: The root mean square of what a step changes, in grey levels of 255.
        jitter: The largest random shift before each step, in pixels: no pattern may depend on its place.
        blur: The deviation of the Gaussian blur after each step, in pixels; 0 for none.
    """

    steps: int = 64
    rate: float = 12.0
    jitter: int = 4
    blur: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternOptions(AscentOptions):
    """Which patterns are searched.

    Attributes:
        filters: As `parse_index_ranges` reads them; the first 64 by default.
        size: Of each pattern, `64` or `48x64`; that of the network's images by default, 128 pixels at most.
        batch: How many are searched at once.
    """

    filters: str | None = None
    size: str | None = None
    batch: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamOptions(AscentOptions):
    """How an image is dreamt on: an ascent at each of several sizes, from the smallest to the image's own.

    Attributes:
        filters: Those that are strengthened, as `parse_index_ranges` reads them; all by default.
        size: The longer side of the dream in pixels; the image's own by default, 512 at most.
        octaves: How many sizes.
        octave_scale: How much larger each is than the one before.
    """

    steps: int = 16
    rate: float = 2.0
    jitter: int = 16
    blur: float = 0.0
    filters: str | None = None
    size: str | None = None
    octaves: int = 4
    octave_scale: float = 1.4


def parse_index_ranges(text: str | None, count: int, *, option: str, of: str) -> list[int]:
    """Read which of some numbered things are meant.

    Args:
        text: Numbers and ranges, both ends included; None for all.
        count: How many there are, numbered from 0.
        option: Where the text stood, for messages.
        of: What has them, likewise.

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
