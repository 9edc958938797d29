"""Numbers of channels and filters as users write them: 0-63, or 3,7,12-20."""

import re
from dataclasses import dataclass
from pathlib import Path

from cnnkit.choices import MapScale
from cnnkit.data import tree
from cnnkit.errors import UsageError
from cnnkit.explain import colormaps
from cnnkit.formats import pictures as files


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """What is made of the maps.

    `box` is the share of the largest value from which a place counts as hot.
    """

    output: Path | None = None
    sheet: Path | None = None
    alpha: float = 0.5
    colormap: str = "inferno"
    raw: bool = False
    box: float | None = None
    faithful: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked before a network is loaded.

        Raises:
            UsageError: No such colour map, a sheet that is no PNG, or arrays without a place.
            CnnkitError: The folder is not empty.
        """
        colormaps.color_table(self.colormap)
        if self.sheet is not None:
            files.check_png(self.sheet, option="--sheet")
        if self.output is not None:
            tree.check_free(self.output, force=self.force)
        elif self.raw:
            raise UsageError("--raw writes arrays beside the overlays; say where with -o DIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMapOptions:
    """How maps are drawn, and where to; `channels` as `parse_index_ranges` reads them."""

    output: Path | None = None
    scale: MapScale = MapScale.CHANNEL
    channels: str | None = None
    colormap: str = "viridis"
    raw: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked before a network is loaded.

        Raises:
            UsageError: No such colour map, or arrays without a place.
            CnnkitError: The folder is not empty.
        """
        colormaps.color_table(self.colormap)
        if self.output is not None:
            tree.check_free(self.output, force=self.force)
        elif self.raw:
            raise UsageError("--raw writes arrays beside the mosaics; say where with -o DIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class AscentOptions:
    """How the gradient is followed.

    Attributes:
        steps: How often.
        rate: By how much a pixel changes in a step in the quadratic mean, of 255.
        jitter: By how many pixels the picture is shifted at most before each step, at random: no pattern may depend on its place.
        blur: The deviation in pixels of the Gaussian that the picture goes through after each step; 0 for none.
    """

    steps: int = 64
    rate: float = 12.0
    jitter: int = 4
    blur: float = 0.5


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
