"""What is drawn of the class activation maps of a picture: overlays, arrays, and its cell of a sheet.

photos/cat/1.jpg    ->  OUT/cat/1.jpg               the overlay, of the picture's size and format
                        OUT/cat/1~dog.jpg           likewise, where maps of several classes are asked for
photos/cat/2.gif        OUT/cat/2.gif.png           what is not written in its own format becomes PNG
                        OUT/cat/1.jpg.map.npy       with `raw`: the map as the layer has it, float32 (h, w)
                        OUT/cat/1.jpg.pixels.npy    and in pixels of the picture, (H, W); zero where the network did not look
"""

import os
from collections.abc import Callable, Sequence
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
from cnnkit.errors import BadPicture, CnnkitError, UsageError
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
#: The fields of a record that say how far a map can be believed.
SCORES = ("deletion", "insertion")


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
            CnnkitError: The folder is not empty.
        """
        colours.table(self.colormap)
        if self.sheet is not None:
            files.check_png(self.sheet, option="--sheet")
        if self.output is not None:
            tree.check_free(self.output, force=self.force)
        elif self.raw:
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
        classes: Sequence[str] = (),
    ) -> None:
        """Get ready.

        Args:
            drawing: What is made.
            palette: The colours of maps, (256, 3).
            prepared: How pictures came to the network.
            place: As `copies.placing` gives it.
            classes: All that the network knows, where a picture may have maps of several, which their names then tell.
        """
        self.drawing = drawing
        self._palette, self._prepared, self._place = palette, prepared, place
        self._endings = _endings(classes)
        self._taken: dict[str, str] = {}

    def check(self, pictures: Sequence[Picture]) -> None:
        """Demand of pictures that are known already that each has a place of its own, before the first is drawn.

        Raises:
            CnnkitError: Two share one, a class cannot be a folder, or the pictures lie where the overlays would.
        """
        if self.drawing.output is None:
            return
        tree.check_apart(self.drawing.output, (picture.path for picture in pictures), to_be="looked into")
        taken: dict[str, str] = {}
        for picture in pictures:
            below = _joined(self._place(picture), os.path.basename(picture.path))
            if taken.setdefault(below, picture.path) != picture.path:
                raise CnnkitError(_claimed_twice(taken[below], picture.path, below))

    def draw(self, found: Found) -> Drawn:
        """Draw all maps of a picture, and describe them.

        Raises:
            BadPicture: The picture is not there any more, or has no place of its own.
        """
        if self.drawing.output is None and self.drawing.sheet is None:
            width, height = images.upright_size(found.picture.path)
            with _ROOM.taken(_BYTES_A_PIXEL * width * height if self.drawing.box is not None else 0):
                return self._described(found, (width, height))
        original = images.read(found.picture.path)
        with _ROOM.taken(_BYTES_A_PIXEL * original.image.width * original.image.height):
            return self._drawn(found, original)

    def _described(self, found: Found, size: tuple[int, int]) -> Drawn:
        window = preprocess.window(size, self._prepared)
        part = spreading.seen(window, size)
        records = []
        for each in found.maps:
            box = None
            if self.drawing.box is not None:
                box = spreading.hot_box(spreading.spread(each.values, window, part), self.drawing.box, part)
            records.append(self._record(found, each, None, box, spreading.peak(each.values, window, part)))
        return Drawn(records, None)

    def _drawn(self, found: Found, original: Original) -> Drawn:
        window = preprocess.window(original.image.size, self._prepared)
        part = spreading.seen(window, original.image.size)
        records, shown = [], []
        for each in found.maps:
            heat = spreading.spread(each.values, window, part)
            box = None if self.drawing.box is None else spreading.hot_box(heat, self.drawing.box, part)
            drawn = overlay.draw(
                original.image,
                heat,
                part,
                highest=float(each.values.max()),
                palette=self._palette,
                alpha=self.drawing.alpha,
                box=box,
            )
            file = None
            if self.drawing.output is not None:
                file = self._write(self.drawing.output, found.picture, each, original, drawn, heat, part)
            if self.drawing.sheet is not None:
                shown.append((each.name, each.probability, sheet.thumbnail(drawn)))
            records.append(self._record(found, each, file, box, spreading.peak(each.values, window, part)))
        if self.drawing.sheet is None:
            return Drawn(records, None)
        return Drawn(records, Cell(found.picture.path, sheet.thumbnail(original.image), shown))

    def _record(
        self, found: Found, shown: ClassMap, file: str | None, box: Box | None, peak: tuple[int, int] | None
    ) -> dict[str, Any]:
        scored = shown.faithfulness
        scores = {name: None if scored is None else float(f"{getattr(scored, name):.6g}") for name in SCORES}
        return {
            "path": found.picture.path,
            "label": found.label,
            "probability": shown.probability,
            "class": shown.name,
            "overlay": file,
            "box": box,
            "peak": peak,
            "maximum": float(str(shown.values.max())),
            **(scores if self.drawing.faithful else {}),
        }

    def _write(
        self,
        folder: Path,
        picture: Picture,
        shown: ClassMap,
        original: Original,
        drawn: Image.Image,
        heat: NDArray[np.float32],
        part: Box,
    ) -> str:
        """Write the files of a map.

        Returns:
            The overlay's path.
        """
        tree.check_apart(folder, [picture.path], to_be="looked into")
        name = os.path.basename(picture.path)
        stem, extension = copies.stem_and_extension(name, original.format)
        try:
            below = _joined(self._place(picture), f"{stem}{self._endings.get(shown.name, '')}{extension}")
        except CnnkitError as error:
            raise BadPicture(str(error)) from error
        if self._taken.setdefault(below, picture.path) != picture.path:
            raise BadPicture(_claimed_twice(self._taken[below], picture.path, below))
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


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _claimed_twice(one: str, other: str, below: str) -> str:
    return f"{one} and {other} would both become {below}; name one of them otherwise, or leave it out"


def _endings(classes: Sequence[str]) -> dict[str, str]:
    """Give what each class adds to the name of a file: spaces and slashes give way, and of two that then are one each gets its number."""
    plain = ["_".join(name.replace("/", "_").replace(os.sep, "_").split()) for name in classes]
    return {
        name: f"~{short}" if plain.count(short) == 1 else f"~{short}-{number}"
        for number, (name, short) in enumerate(zip(classes, plain, strict=True))
    }
