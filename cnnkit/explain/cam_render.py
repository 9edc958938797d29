"""Drawing of the class activation maps of an image: overlays, arrays, and its cell of a contact sheet.

photos/cat/1.jpg    ->  OUT/cat/1.jpg               the overlay, of the image's size and format
                        OUT/cat/1~dog.jpg           the overlay of one class, if maps of several are requested
photos/cat/2.gif        OUT/cat/2.gif.png           formats that are not written become PNG
                        OUT/cat/1.jpg.map.npy       with `raw`: the map at the size of the layer, float32 (h, w)
                        OUT/cat/1.jpg.pixels.npy    and at the size of the image, (H, W); zero outside of the network's input
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
from cnnkit.formats import box as boxes
from cnnkit.formats.box import file_name
from cnnkit.formats.decimals import shortest
from cnnkit.formats.header import Preprocess
from cnnkit.nets.cell_centres import CellCentres

#: Memory per pixel while an image is drawn: the map in float32, its interpolation, and several copies of the colours.
_BYTES_A_PIXEL = 32
#: The fields of a record that measure the faithfulness of a map.
SCORES = ("deletion", "insertion")


@dataclass(frozen=True, slots=True)
class ClassMap:
    """A map and its class."""

    name: str
    probability: float
    values: NDArray[np.float32]
    faithfulness: Faithfulness | None


@dataclass(frozen=True, slots=True)
class ImageMaps:
    """The maps of an image, its predicted class, and its true class if that is known."""

    image: ImageFile
    label: str
    maps: list[ClassMap]
    truth: str | None = None


#: The longest suffix that is added to the name of an overlay.
_LONGEST_SUFFIX = len(".pixels.npy")


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """The results for an image: a record for each map, and its cell of the sheet, if one is drawn."""

    records: list[dict[str, Any]]
    cell: SheetCell | None


def check(options: RenderOptions) -> None:
    """Check options before a network is loaded.

    Raises:
        UsageError: There is no such colour map, or the sheet is not a PNG.
        CnnkitError: The folder is not empty.
    """
    colormaps.color_table(options.colormap)
    if options.sheet is not None:
        image_files.check_png(options.sheet, option="--sheet")
    if options.output is not None:
        tree.check_free(options.output, force=options.force)


class CamRenderer:
    """Draws the maps of images; several threads may draw at once."""

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
        """Prepare.

        Args:
            options: What is drawn.
            palette: The colours of maps, (256, 3).
            prepared: The preprocessing of the network.
            place: From `augment_plan.placing`.
            classes: All classes of the network, if an image may have several maps; file names then have the class.
            centres: The centres of the cells of maps in the input of the network; by default they tile it.
        """
        self.options = options
        self._palette, self._prepared, self._place, self._centres = palette, prepared, place, centres
        self._endings = _endings(classes)
        self._taken: dict[str, str] = {}

    def check(self, images: Sequence[ImageFile]) -> None:
        """Check that each image has a different overlay, before the first is drawn.

        Raises:
            CnnkitError: Two share one, a class cannot be a folder, or overlays would be written among the images.
        """
        if self.options.output is None:
            return
        tree.check_apart(self.options.output, (image.path for image in images), to_be="explained")
        taken: dict[str, str] = {}
        for image in images:
            below = _joined(self._place(image), file_name(image.path))
            if taken.setdefault(below, image.path) != image.path:
                raise CnnkitError(_claimed_twice(taken[below], image.path, below))

    def draw(self, found: ImageMaps) -> RenderedImage:
        """Draw all maps of an image, and describe them.

        Raises:
            BadImageError: The image cannot be read any more, or its overlay has the name of another one.
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
            "box": None if box is None else boxes.Box.of_edges(*box).text(),
            "peak": peak,
            "maximum": shortest(shown.values.max()),
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
        tree.check_apart(folder, [image.path], to_be="explained")
        name = file_name(image.path)
        stem, extension = augment_plan.stem_and_extension(name, original.format)
        try:
            ending = self._endings.get(shown.name, "")
            written = atomic.fitting_name(f"{stem}{ending}", extension, room=_LONGEST_SUFFIX)
            below = _joined(self._place(image), written)
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
    return f"{one} and {other} would both be written to {below}; rename one of them, or leave it out"


def _endings(classes: Sequence[str]) -> dict[str, str]:
    """Return the suffix of file names for each class: spaces and slashes become _, and names that are then equal get a number."""
    plain = ["_".join(name.replace("/", "_").replace(os.sep, "_").split()) for name in classes]
    return {
        name: f"~{short}" if plain.count(short) == 1 else f"~{short}-{number}"
        for number, (name, short) in enumerate(zip(classes, plain, strict=True))
    }


def in_image(heat: NDArray[np.float32], part: Box, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the map of a part of an image as a map of the whole image of size (width, height), (H, W); zero outside of the part."""
    whole = np.zeros((size[1], size[0]), dtype=np.float32)
    whole[part[1] : part[3], part[0] : part[2]] = heat
    return whole


#: The minimum shorter side of an image for a box to be drawn.
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
    """Blend a map with the part of an image that it covers.

    Args:
        image: RGB.
        heat: The map at the size of that part, (H, W), non-negative.
        part: The part of the image.
        highest: The value that gets the last colour; zero gets the first.
        palette: (256, 3).
        alpha: The opacity of the colours, 0 to 1.
        box: A box to draw.

    Returns:
        A new image of the same size; a copy of the old one if the map is zero everywhere.
    """
    drawn = image.copy()
    if highest > 0:
        warm = Image.fromarray(colormaps.colorize(heat / highest, palette))
        drawn.paste(Image.blend(image.crop(part), warm, alpha), part)
    if box is not None:
        _draw_frame(drawn, box)
    return drawn


def _draw_frame(image: Image.Image, box: Box) -> None:
    """Draw a white frame with black edges inside of the box, visible on any colour; none on a very small image."""
    if min(image.size) < _LEAST_FRAMED:
        return
    width = max(1, round(min(image.size) / 150))
    lines = ("black", "white", "black")
    left, top, right, bottom = box
    for inset, colour in enumerate(colour for colour in lines for _ in range(width)):
        x0, y0, x1, y1 = left + inset, top + inset, right - inset, bottom - inset
        if x0 < x1 and y0 < y1:  # Pillow draws rectangles as thin as their line too large
            for edge in ((x0, y0, x1, y0 + 1), (x0, y1 - 1, x1, y1), (x0, y0, x0 + 1, y1), (x1 - 1, y0, x1, y1)):
                image.paste(colour, edge)
