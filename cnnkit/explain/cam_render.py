"""What is drawn of the class activation maps of an image: overlays, arrays, and its cell of a sheet.

photos/cat/1.jpg    ->  OUT/cat/1.jpg               the overlay, of the image's size and format
                        OUT/cat/1~dog.jpg           the same, where maps of several classes are asked for
photos/cat/2.gif        OUT/cat/2.gif.png           what is not written in its own format becomes PNG
                        OUT/cat/1.jpg.map.npy       with `raw`: the map as the layer has it, float32 (h, w)
                        OUT/cat/1.jpg.pixels.npy    and in pixels of the image, (H, W); zero where the network did not look
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit.data import augment_plan, containment, decode, memory, preprocessing, tree
from cnnkit.data.decode import Original
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError, CnnkitError
from cnnkit.explain import colormaps, contact_sheets, upsampling
from cnnkit.explain.config import RenderOptions
from cnnkit.explain.contact_sheets import SheetCell
from cnnkit.explain.faithfulness import Faithfulness
from cnnkit.explain.upsampling import Box
from cnnkit.formats import atomic, image_files
from cnnkit.formats.header import Preprocess
from cnnkit.nets.cell_centres import CellCentres

#: That a pixel takes on the way: the map in float32 and what it is spread by, and colours a few times over, the image's among them.
_BYTES_A_PIXEL = 32
#: The fields of a record that say how far a map can be believed.
SCORES = ("deletion", "insertion")


@dataclass(frozen=True, slots=True)
class ClassMap:
    """A map, with the class it is of."""

    name: str
    probability: float
    values: NDArray[np.float32]
    faithfulness: Faithfulness | None


@dataclass(frozen=True, slots=True)
class ImageMaps:
    """The maps of an image, what the network takes it for, and which of the network's classes it is, where that is known."""

    image: ImageFile
    label: str
    maps: list[ClassMap]
    truth: str | None = None


#: How many bytes the longest name of a map's array has more than that of its overlay.
_LONGEST_SUFFIX = len(".pixels.npy")


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """What became of an image: a record of each map, and its cell of the sheet, if there is to be one."""

    records: list[dict[str, Any]]
    cell: SheetCell | None


def check(options: RenderOptions) -> None:
    """Check what can be checked before a network is loaded.

    Raises:
        UsageError: No such colour map, or a sheet that is no PNG.
        CnnkitError: The folder is not empty.
    """
    colormaps.color_table(options.colormap)
    if options.sheet is not None:
        image_files.check_png(options.sheet, option="--sheet")
    if options.output is not None:
        tree.check_free(options.output, force=options.force)


class CamRenderer:
    """Draws what was found in images, of several at once in several threads."""

    def __init__(
        self,
        options: RenderOptions,
        palette: NDArray[np.uint8],
        prepared: Preprocess,
        place: Callable[[ImageFile], str],
        *,
        classes: Sequence[str] = (),
        centres: CellCentres | None = None,
    ) -> None:
        """Get ready.

        Args:
            options: What is made.
            palette: The colours of maps, (256, 3).
            prepared: How images came to the network.
            place: As `augment_plan.placing` gives it.
            classes: All that the network knows, where an image may have maps of several, which their names then tell.
            centres: Where the cells of maps stand in what the network takes; by default they tile it.
        """
        self.options = options
        self._palette, self._prepared, self._place, self._centres = palette, prepared, place, centres
        self._endings = _endings(classes)
        self._taken: dict[str, str] = {}

    def check(self, images: Sequence[ImageFile]) -> None:
        """Demand of images that are known already that each has a place of its own, before the first is drawn.

        Raises:
            CnnkitError: Two share one, a class cannot be a folder, or the images lie where the overlays would.
        """
        if self.options.output is None:
            return
        tree.check_apart(self.options.output, (image.path for image in images), to_be="looked into")
        taken: dict[str, str] = {}
        for image in images:
            below = _joined(self._place(image), os.path.basename(image.path))
            if taken.setdefault(below, image.path) != image.path:
                raise CnnkitError(_claimed_twice(taken[below], image.path, below))

    def draw(self, found: ImageMaps) -> RenderedImage:
        """Draw all maps of an image, and describe them.

        Raises:
            BadImageError: The image is not there any more, or has no place of its own.
        """
        if self.options.output is None and self.options.sheet is None:
            width, height = decode.upright_size(found.image.path)
            memory.hold(_BYTES_A_PIXEL * width * height if self.options.box is not None else 0)
            return self._described(found, (width, height))
        original = decode.read(found.image.path)
        memory.hold(_BYTES_A_PIXEL * original.image.width * original.image.height)
        return self._drawn(found, original)

    def _described(self, found: ImageMaps, size: tuple[int, int]) -> RenderedImage:
        window = preprocessing.window(size, self._prepared)
        part = upsampling.visible_box(window, size)
        records = []
        for each in found.maps:
            box = None
            if self.options.box is not None:
                heat = upsampling.upsample(each.values, window, part, self._centres)
                box = upsampling.hot_box(heat, self.options.box, part)
            peak = upsampling.argmax_pixel(each.values, window, part, self._centres)
            records.append(self._record(found, each, None, box, peak))
        return RenderedImage(records, None)

    def _drawn(self, found: ImageMaps, original: Original) -> RenderedImage:
        window = preprocessing.window(original.image.size, self._prepared)
        part = upsampling.visible_box(window, original.image.size)
        records, shown = [], []
        for each in found.maps:
            heat = upsampling.upsample(each.values, window, part, self._centres)
            box = None if self.options.box is None else upsampling.hot_box(heat, self.options.box, part)
            drawn = draw_overlay(
                original.image,
                heat,
                part,
                highest=float(each.values.max()),
                palette=self._palette,
                alpha=self.options.alpha,
                box=box,
            )
            file = None
            if self.options.output is not None:
                file = self._write(self.options.output, found.image, each, original, drawn, heat, part)
            if self.options.sheet is not None:
                shown.append((each.name, each.probability, contact_sheets.thumbnail(drawn)))
            peak = upsampling.argmax_pixel(each.values, window, part, self._centres)
            records.append(self._record(found, each, file, box, peak))
        if self.options.sheet is None:
            return RenderedImage(records, None)
        small = contact_sheets.thumbnail(original.image)
        return RenderedImage(
            records, SheetCell(found.image.path, small, shown, predicted=found.label, truth=found.truth)
        )

    def _record(
        self, found: ImageMaps, shown: ClassMap, file: str | None, box: Box | None, peak: tuple[int, int] | None
    ) -> dict[str, Any]:
        scored = shown.faithfulness
        scores = {name: None if scored is None else float(f"{getattr(scored, name):.6g}") for name in SCORES}
        return {
            "path": found.image.path,
            "label": found.label,
            "probability": shown.probability,
            "class": shown.name,
            "overlay": file,
            "box": box,
            "peak": peak,
            "maximum": float(str(shown.values.max())),
            **(scores if self.options.faithful else {}),
        }

    def _write(
        self,
        folder: Path,
        image: ImageFile,
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
        tree.check_apart(folder, [image.path], to_be="looked into")
        name = os.path.basename(image.path)
        stem, extension = augment_plan.stem_and_extension(name, original.format)
        try:
            ending = self._endings.get(shown.name, "")
            file_name = atomic.fitting_name(f"{stem}{ending}", extension, room=_LONGEST_SUFFIX)
            below = _joined(self._place(image), file_name)
        except CnnkitError as error:
            raise BadImageError(str(error)) from error
        if self._taken.setdefault(below, image.path) != image.path:
            raise BadImageError(_claimed_twice(self._taken[below], image.path, below))
        target = folder / below
        containment.check_place(folder, below)
        target.parent.mkdir(parents=True, exist_ok=True)
        profile = None if original.grey else original.profile  # what is drawn has colours
        image_files.save(target, drawn, **augment_plan.saving(name, original.format, profile=profile))
        if self.options.raw:
            whole = in_image(heat, part, original.image.size)
            for suffix, values in ((".map.npy", shown.values), (".pixels.npy", whole)):
                containment.check_place(folder, f"{below}{suffix}")
                image_files.save_array(target.with_name(f"{target.name}{suffix}"), values)
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


def in_image(heat: NDArray[np.float32], part: Box, size: tuple[int, int]) -> NDArray[np.float32]:
    """Put the map of a part of an image, of (width, height), into a map of all of it, (H, W); zero outside the part."""
    whole = np.zeros((size[1], size[0]), dtype=np.float32)
    whole[part[1] : part[3], part[0] : part[2]] = heat
    return whole


#: An image whose shorter side has fewer pixels would vanish behind its frame.
_LEAST_FRAMED = 32


def draw_overlay(
    image: Image.Image,
    heat: NDArray[np.float32],
    part: Box,
    *,
    highest: float,
    palette: NDArray[np.uint8],
    alpha: float,
    box: Box | None = None,
) -> Image.Image:
    """Lay a map over the part of an image that it belongs to; the rest stays as it is.

    Args:
        image: RGB.
        heat: The map in pixels of that part, (H, W), nowhere negative.
        part: Where it lies.
        highest: The value that gets the last colour; zero gets the first.
        palette: (256, 3).
        alpha: How much the colours cover, 0 to 1.
        box: A frame to be drawn around something.

    Returns:
        A new image of the same size. Where the map is zero everywhere it is the old one.
    """
    drawn = image.copy()
    if highest > 0:
        warm = Image.fromarray(colormaps.colorize(heat / highest, palette))
        drawn.paste(Image.blend(image.crop(part), warm, alpha), part)
    if box is not None:
        _draw_frame(drawn, box)
    return drawn


def _draw_frame(image: Image.Image, box: Box) -> None:
    """Draw a white frame with black edges, visible on any colour, inside the box's bounds; none on a very small image."""
    if min(image.size) < _LEAST_FRAMED:
        return
    width = max(1, round(min(image.size) / 150))
    lines = ("black", "white", "black")
    left, top, right, bottom = box
    for inset, colour in enumerate(colour for colour in lines for _ in range(width)):
        x0, y0, x1, y1 = left + inset, top + inset, right - inset, bottom - inset
        if x0 < x1 and y0 < y1:  # Pillow's own rectangles run over where they are as thin as their line
            for edge in ((x0, y0, x1, y0 + 1), (x0, y1 - 1, x1, y1), (x0, y0, x0 + 1, y1), (x1 - 1, y0, x1, y1)):
                image.paste(colour, edge)
