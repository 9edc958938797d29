"""The images that excite each filter of a layer most, cut to the receptive field of the strongest place.

One pass over the images; memory holds a few batches, and a thumbnail of each patch that is kept.

Source: Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, figure 2: the patches, next to which that figure
has their reconstructions.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cnnkit.callbacks import Callbacks
from cnnkit.choices import Precision
from cnnkit.data import box_targets, decode, preprocessing
from cnnkit.data.source import ImageFile
from cnnkit.engine import rows, runner, torch_device
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.explain import contact_sheets, load_network, upsampling
from cnnkit.explain.config import FilterOptions, NetworkOptions, TopImageOptions, parse_index_ranges
from cnnkit.explain.contact_sheets import Block
from cnnkit.explain.upsampling import Box
from cnnkit.formats import image_files, picture_style
from cnnkit.formats.decimals import shortest
from cnnkit.formats.header import Preprocess
from cnnkit.nets import layer_graph, subgraph
from cnnkit.nets.cell_centres import CellCentres
from cnnkit.nets.layer_graph import GraphLayer, LayerGraph

log = logging.getLogger("cnnkit")

#: The default number of filters.
_MOST = 64
#: Sides of thumbnails, in pixels, each with the maximum number of thumbnails of that size.
_SIDES = ((128, 64), (96, 200), (64, math.inf))


@dataclass(frozen=True, slots=True)
class TopImage:
    """An image that excites a filter.

    Attributes:
        layer: The layer.
        filter: The number of the filter.
        rank: 1 for the image with the largest activation.
        path: The image.
        activation: The largest activation of the filter in the image.
        box: The receptive field of that place, without padding: x,y,width,height in pixels of the upright image, or of the crop in `path`.
    """

    layer: str
    filter: int
    rank: int
    path: str
    activation: float
    box: str


#: The fields of a record.
COLUMNS = ("layer", "filter", "rank", "path", "activation", "box")


@dataclass(frozen=True, slots=True)
class Excitation:
    """The strongest place of a filter in an image.

    Attributes:
        image: The image.
        activation: The activation there.
        field: Its receptive field in the prepared image, which may extend beyond it.
        patch: A thumbnail of it.
    """

    image: ImageFile
    activation: float
    field: Box
    patch: Image.Image


class Strongest:
    """The images with the largest activation of each filter, of all images so far; of equal activations, the first.

    Attributes:
        found: For each filter its images, the largest activation first. An image without a positive activation does not excite a filter.
    """

    def __init__(self, filters: int, count: int) -> None:
        self.found: list[list[Excitation]] = [[] for _ in range(filters)]
        self._values = np.zeros((filters, count), dtype=np.float32)

    def update(self, values: NDArray[np.float32], make: Callable[[int, int], Excitation]) -> None:
        """Add images.

        Args:
            values: The largest activation of each filter in each image, (N, filters).
            make: From an image and a filter, by number, to the excitation; called only for those that are kept.
        """
        count = self._values.shape[1]
        joined = np.concatenate([self._values, values.T], axis=1)  # (filters, count + N)
        order = np.argsort(-joined, axis=1, kind="stable")[:, :count]
        self._values = np.take_along_axis(joined, order, axis=1)
        for number in np.flatnonzero((order >= count).any(1)).tolist():
            before = self.found[number]
            places = [place for place in order[number].tolist() if joined[number, place] > 0]
            self.found[number] = [before[place] if place < count else make(place - count, number) for place in places]


def draw(
    model: str,
    images: Iterable[ImageFile],
    output: Path,
    *,
    network: NetworkOptions,
    filters: FilterOptions,
    options: TopImageOptions,
    batch: int = 16,
    jobs: int | None = None,
    device: str = "auto",
    seed: int = 0,
    callbacks: Callbacks | None = None,
) -> list[TopImage]:
    """Find the images that excite filters most, and draw their patches as one sheet.

    Args:
        model: A trained `.pt`, or the name of a network.
        images: The images.
        output: The PNG.
        network: How the network is loaded.
        filters: The filters and their layer; by default the first 64.
        options: The number of images of each filter.
        batch: Images per batch.
        jobs: Threads that decode.
        device: auto, cpu, cuda or cuda:N.
        seed: For random weights.
        callbacks: Progress and skipped images.

    Raises:
        UsageError: As `load_network`, or there is no such layer or filter.
        CnnkitError: No image could be used.
    """
    image_files.check_png(output, option="-o")
    if model.endswith(".onnx"):
        raise UsageError(f"{model}: --top-images needs the layers of a .pt; give the .pt it was made from")
    if seed and network.weights != "none":
        raise UsageError("--seed has no effect on --top-images; drop it, or give --weights none")
    callbacks = callbacks or Callbacks()
    loaded, _ = load_network.load_network(model, network, device=device, seed=seed)
    layer = loaded.find(filters.layer) if filters.layer is not None else loaded.last_spatial()
    chosen = parse_index_ranges(filters.filters, _count(loaded, layer), option="--filters", of=layer.name)
    chosen = chosen[:_MOST] if filters.filters is None else chosen
    fields = ReceptiveFields(loaded, layer)
    fields.report()
    side = fields.whole_pixels(next(side for side, most in _SIDES if len(chosen) * options.count <= most))
    found = search(
        box_targets.whole_images(images) if loaded.predicts_box else images,
        loaded,
        layer,
        chosen,
        fields=fields,
        count=options.count,
        side=side,
        batch=batch,
        jobs=jobs,
        callbacks=callbacks,
    )
    few = sum(len(each) < options.count for each in found)
    if few:
        log.info(
            "%d of %d filters have fewer than %d images with a positive activation",
            few,
            len(found),
            options.count,
        )
    blocks = [
        Block(f"filter {number}", f"{each[0].activation:.3g}" if each else "none", [one.patch for one in each])
        for number, each in zip(chosen, found, strict=True)
    ]
    drawn = contact_sheets.render_blocks(blocks, side=side, count=options.count)
    title = (
        f"{layer.name}: {len(blocks)} of {_count(loaded, layer)} filters, the patches of images that activate each most; "
        "on the right its largest activation"
    )
    image_files.save(output, picture_style.titled(drawn, title, margin=contact_sheets.SPACE))
    return _records(layer.name, chosen, found, loaded.preprocess)


def _count(network: LayerGraph, layer: GraphLayer) -> int:
    """Return the number of filters of a layer that outputs maps, or a vector.

    Raises:
        UsageError: It outputs tokens.
    """
    if len(layer.shape) not in (1, 3):
        raise UsageError(
            f"{layer.name} of {network.name} has output {'x'.join(map(str, layer.shape))}, without height and width; "
            f"the last layer with both is {network.last_map().name}"
        )
    return layer.shape[0]


def search(
    images: Iterable[ImageFile],
    network: LayerGraph,
    layer: GraphLayer,
    chosen: Sequence[int],
    *,
    fields: "ReceptiveFields",
    count: int,
    side: int,
    batch: int,
    jobs: int | None,
    callbacks: Callbacks,
) -> list[list[Excitation]]:
    """Find the images with the largest activation of each filter.

    Args:
        images: The images; read once.
        network: The network.
        layer: The layer.
        chosen: The filters, by number.
        fields: The receptive fields of the layer.
        count: The number of images of each filter.
        side: The longer side of a thumbnail, in pixels.
        batch: Images per batch.
        jobs: Threads that decode.
        callbacks: Progress and skipped images.

    Returns:
        For each filter at most `count` images, the largest activation first.

    Raises:
        CnnkitError: No image could be used.
    """
    strongest, total = Strongest(len(chosen), count), 0
    part = network.upto([layer.node], keep=True)
    with subgraph.mode(part, training=False):
        results = runner.run(
            images,
            [network.preprocess],
            _strongest_places(part, network, layer, chosen),
            batch=batch,
            jobs=jobs,
            progress=callbacks.progress,
        )
        for shown, (pixels, values, places) in runner.in_batches(results, batch, skip=callbacks.skip):
            finite = np.asarray(np.isfinite(values).all(1))
            for image, usable in zip(shown, finite, strict=True):
                if not usable:
                    callbacks.skip(image.path, f"the output of {layer.name} is not finite")

            def make(
                index: int,
                number: int,
                shown: Sequence[ImageFile] = shown,
                pixels: NDArray[np.uint8] = pixels,
                values: NDArray[np.float32] = values,
                places: NDArray[np.int64] = places,
            ) -> Excitation:
                field = fields.of(int(places[index, number]))
                patch = contact_sheets.thumbnail(Image.fromarray(fields.cut(pixels[index], field)), side=side)
                return Excitation(shown[index], shortest(values[index, number]), field, patch)

            strongest.update(np.where(finite[:, None], values, 0), make)
            total += int(finite.sum())
    if not total:
        raise CnnkitError("no image could be used; nothing written")
    return strongest.found


def _strongest_places(
    part: torch.fx.GraphModule, network: LayerGraph, layer: GraphLayer, chosen: Sequence[int]
) -> runner.NetworkFunction:
    """Return a function from a batch of images to the images, the largest activation of each filter, and its cell, (N, filters) each."""
    device = network.normalise.scale.device
    numbers = torch.tensor(list(chosen), device=device)

    def run(batches: Sequence[NDArray[np.uint8]]) -> list[NDArray[Any]]:
        (pixels,) = batches
        with torch.no_grad(), torch_device.multiplying_in(Precision.FLOAT32, device):
            images = network.normalise(torch.tensor(pixels, device=device))
            if device.type == "cpu" and rows.fill_all_cores(len(images)):
                with torch_device.on_all_cores(part) as on_cores:
                    (output,) = on_cores(images)
            else:
                (output,) = part(images)
            maps = layer_graph.as_maps(layer.node, output)[:, numbers]
            values, places = maps.reshape(*maps.shape[:2], -1).max(2)  # (N, filters, h * w) -> (N, filters)
        return [pixels, values.float().cpu().numpy(), places.cpu().numpy()]

    return run


class ReceptiveFields:
    """The receptive fields of the cells of a layer, in the prepared image."""

    def __init__(self, network: LayerGraph, layer: GraphLayer) -> None:
        self._name, self._preprocess = layer.name, network.preprocess
        self._centres: CellCentres | None = network.centres.get(layer.node) if layer.is_spatial else None
        self._across = layer.shape[2] if layer.is_spatial else 1
        self._is_vector = not layer.is_spatial

    @property
    def _input(self) -> tuple[int, int]:
        return self._preprocess.height, self._preprocess.width

    @property
    def size(self) -> tuple[float, float]:
        """Height and width of a receptive field; infinite if they are unknown."""
        if self._centres is None:
            return math.inf, math.inf
        return self._centres.rows.extent, self._centres.columns.extent

    def report(self) -> None:
        """Log the size of the receptive fields."""
        size, whole = self.size, self._input
        if self._is_vector:
            return
        if math.isinf(max(size)):
            log.info("the receptive fields of %s are unknown: patches are whole images", self._name)
        elif size[0] >= whole[0] and size[1] >= whole[1]:
            log.info(
                "receptive fields of %s: %gx%g pixels, larger than the input of %dx%d; an earlier --layer has smaller patches",
                *(self._name, *size, *whole),
            )
        else:
            log.info("receptive fields of %s: %gx%g pixels of %dx%d", self._name, *size, *whole)

    def whole_pixels(self, side: int) -> int:
        """Return about this length of a thumbnail; a smaller patch is enlarged by a whole number."""
        longest = int(max(min(one, other) for one, other in zip(self.size, self._input, strict=True)))
        return side if longest > side else longest * max(1, round(side / longest))

    def of(self, place: int) -> Box:
        """Return the receptive field of a cell, by its number row by row; it may extend beyond the image."""
        height, width = self._input
        if self._centres is None:
            return 0, 0, width, height
        row, column = divmod(place, self._across)
        top, bottom = self._centres.rows.seen(row, height)
        left, right = self._centres.columns.seen(column, width)
        return left, top, right, bottom

    def cut(self, image: NDArray[np.uint8], field: Box) -> NDArray[np.uint8]:
        """Cut a receptive field from a prepared image, (H, W, 3) -> (h, w, 3), no larger than the image; padding has the mean colour."""
        left, top, right, bottom = field
        columns, rows = _at_most(left, right, image.shape[1]), _at_most(top, bottom, image.shape[0])
        patch = np.empty((rows[1] - rows[0], columns[1] - columns[0], 3), dtype=np.uint8)
        patch[:] = [round(255 * value) for value in self._preprocess.mean]
        inside = _inside(rows, image.shape[0]), _inside(columns, image.shape[1])
        target = tuple(
            slice(start - first, stop - first)
            for (start, stop), (first, _) in zip(inside, (rows, columns), strict=True)
        )
        patch[target] = image[tuple(slice(*each) for each in inside)]
        return patch


def _at_most(start: int, stop: int, length: int) -> tuple[int, int]:
    """Shorten a receptive field that is longer than the image: drop padding."""
    if stop - start <= length:
        return start, stop
    if start < 0 and stop > length:
        return 0, length
    return (stop - length, stop) if start < 0 else (start, start + length)


def _inside(side: tuple[int, int], length: int) -> tuple[int, int]:
    """Return the part of a side that is in the image; empty if there is none."""
    start = min(max(side[0], 0), length)
    return start, min(max(side[1], start), length)


def _records(
    layer: str, chosen: Sequence[int], found: Sequence[Sequence[Excitation]], preprocess: Preprocess
) -> list[TopImage]:
    """Describe the images, with the boxes in pixels of the upright files or crops."""
    sizes: dict[str, tuple[int, int]] = {}
    records = []
    for number, each in zip(chosen, found, strict=True):
        for rank, one in enumerate(each, start=1):
            path = one.image.path
            if path not in sizes:
                with decode.required(path):
                    sizes[path] = decode.upright_size(path)
            box = ",".join(map(str, in_file(one.field, sizes[path], preprocess)))
            records.append(TopImage(layer, number, rank, path, one.activation, box))
    return records


def in_file(field: Box, size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int, int, int]:
    """Map a box of the prepared image to the upright image of size (W, H): x, y, width, height in pixels, at least one."""
    left, top, right, bottom = preprocessing.window(size, preprocess)
    across, down = (right - left) / preprocess.width, (bottom - top) / preprocess.height
    columns, rows = _inside((field[0], field[2]), preprocess.width), _inside((field[1], field[3]), preprocess.height)
    x0, y0, x1, y1 = upsampling.visible_box(
        (left + columns[0] * across, top + rows[0] * down, left + columns[1] * across, top + rows[1] * down), size
    )
    return x0, y0, x1 - x0, y1 - y0
