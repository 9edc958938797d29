"""What is drawn of the class activation maps of a picture: overlays, arrays, and its cell of a sheet.

photos/cat/1.jpg    ->  OUT/cat/1.jpg               the overlay, of the picture's size and format
                        OUT/cat/1~dog.jpg           likewise, where maps of several classes are asked for
photos/cat/2.gif        OUT/cat/2.gif.png           what is not written in its own format becomes PNG
                        OUT/cat/1.jpg.map.npy       with `raw`: the map as the layer has it, float32 (h, w)
                        OUT/cat/1.jpg.pixels.npy    and in pixels of the picture, (H, W); nought where the network did not look
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit.data import copies, images, preprocess, tree
from cnnkit.data.images import Original
from cnnkit.data.room import Room
from cnnkit.data.source import Picture
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.explain import colours, overlay, sheet, spreading
from cnnkit.explain.faithful import Faithfulness
from cnnkit.explain.sheet import Cell
from cnnkit.explain.spreading import Box
from cnnkit.formats import pictures as files
from cnnkit.formats.header import Preprocess

#: For pictures that are being drawn: those of a telephone one or two at a time, small ones as many as there are threads.
_ROOM = Room(700 << 20)
#: That a pixel takes on the way: the map in float32 and what it is spread by, and colours a few times over.
_BYTES_A_PIXEL = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
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
        """
        colours.table(self.colormap)
        if self.sheet is not None:
            files.check_png(self.sheet, option="--sheet")
        if self.raw and self.output is None:
            raise UsageError("--raw writes arrays beside the overlays; say where with -o DIR")


@dataclass(frozen=True, slots=True)
class ClassMap:
    """A map, with the class it is of."""

    name: str
    probability: float
    values: NDArray[np.float32]
    faithfulness: Faithfulness | None


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a picture."""

    picture: Picture
    label: str
    maps: list[ClassMap]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What became of a picture: a record of each map, and its cell of the sheet, if there is to be one."""

    records: list[dict[str, Any]]
    cell: Cell | None


class Draughtsman:
    """Draws what was found in pictures, of several at once in several threads."""

    def __init__(
        self,
        drawing: Drawing,
        palette: NDArray[np.uint8],
        prepared: Preprocess,
        place: Callable[[Picture], str],
        *,
        several: bool,
    ) -> None:
        """Get ready.

        Args:
            drawing: What is made.
            palette: The colours of maps, (256, 3).
            prepared: How pictures came to the network.
            place: As `copies.placing` gives it.
            several: A picture may have maps of several classes, which their names tell.
        """
        self.drawing = drawing
        self._palette, self._prepared, self._place, self._several = palette, prepared, place, several
        self._taken: dict[str, str] = {}

    def draw(self, found: Found) -> Drawn:
        """Draw all maps of a picture, and describe them.

        Raises:
            BadPicture: The picture is not there any more.
            CnnkitError: Another picture has the same place.
        """
        original = images.read(found.picture.path)
        with _ROOM.taken(_BYTES_A_PIXEL * original.image.width * original.image.height):
            return self._draw(found, original)

    def _draw(self, found: Found, original: Original) -> Drawn:
        window = preprocess.window(original.image.size, self._prepared)
        part = spreading.seen(window, original.image.size)
        records, shown = [], []
        for each in found.maps:
            heat = spreading.spread(each.values, window, part)
            box = None if self.drawing.box is None else spreading.hot_box(heat, self.drawing.box, part)
            file = None
            if self.drawing.output is not None or self.drawing.sheet is not None:
                drawn = overlay.draw(
                    original.image, heat, part, palette=self._palette, alpha=self.drawing.alpha, box=box
                )
                file = self._write(found.picture, each, original, drawn, heat, part)
                if self.drawing.sheet is not None:
                    shown.append((each.name, each.probability, sheet.thumbnail(drawn)))
            records.append(
                {
                    "path": found.picture.path,
                    "label": found.label,
                    "probability": each.probability,
                    "class": each.name,
                    "overlay": file,
                    "box": box,
                    "peak": spreading.peak(each.values, window, part),
                    "maximum": float(str(each.values.max())),
                    **_fields(each.faithfulness),
                }
            )
        if self.drawing.sheet is None:
            return Drawn(records, None)
        return Drawn(records, Cell(found.picture.path, sheet.thumbnail(original.image), shown))

    def _write(
        self,
        picture: Picture,
        shown: ClassMap,
        original: Original,
        drawn: Image.Image,
        heat: NDArray[np.float32],
        part: Box,
    ) -> str | None:
        """Write the files of a map.

        Returns:
            The overlay's path; None where only a sheet is drawn.
        """
        folder = self.drawing.output
        if folder is None:
            return None
        tree.check_apart(folder, [picture.path], to_be="looked into")
        name = os.path.basename(picture.path)
        stem, extension = copies.stem_and_extension(name, original.format)
        which = f"~{_in_a_name(shown.name)}" if self._several else ""
        below = "/".join(filter(None, (self._place(picture), f"{stem}{which}{extension}")))
        if self._taken.setdefault(below, picture.path) != picture.path:
            raise CnnkitError(
                f"{self._taken[below]} and {picture.path} would both become {below}; name one of them otherwise, or leave it out"
            )
        target = folder / below
        target.parent.mkdir(parents=True, exist_ok=True)
        profile = None if original.grey else original.profile  # what is drawn has colours
        files.save(target, drawn, **copies.saving(name, original.format, profile=profile))
        if self.drawing.raw:
            whole = np.zeros((original.image.height, original.image.width), dtype=np.float32)
            whole[part[1] : part[3], part[0] : part[2]] = heat
            files.save_array(target.with_name(f"{target.name}.map.npy"), shown.values)
            files.save_array(target.with_name(f"{target.name}.pixels.npy"), whole)
        return str(target)


def _in_a_name(text: str) -> str:
    """Make a class's name fit for that of a file."""
    return "_".join(text.replace("/", "_").replace(os.sep, "_").split())


def _fields(faithfulness: Faithfulness | None) -> dict[str, float]:
    if faithfulness is None:
        return {}
    return {name: float(f"{getattr(faithfulness, name):.6g}") for name in ("deletion", "insertion")}
