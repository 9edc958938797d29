"""Pictures of what a layer looks for, as files, with a record of each filter: patterns, kernels, dreams."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit.data import images, preprocess
from cnnkit.data.reader import Progress, no_progress
from cnnkit.errors import UsageError
from cnnkit.explain import filters, mosaic, numbering, opening
from cnnkit.explain.filters import Ascent, Filters
from cnnkit.formats import pictures as files
from cnnkit.nets.layered import Layered

#: So many filters are drawn unless it is said which.
_MOST = 64
#: How a picture is dreamt on, unless it is said otherwise.
DREAMING = Ascent(steps=16, rate=2.0, jitter=16, blur=0.0)
#: The longer side of a dream, in pixels, unless it is said.
_LONGEST = 512


@dataclass(frozen=True, slots=True)
class FilterRecord:
    """What a filter answers in the mean, to the noise that its pattern began with, and to the pattern."""

    layer: str
    filter: int
    start: float
    activation: float


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """A kernel of the first convolution; `norm` is the root of the sum of squares."""

    layer: str
    filter: int
    shape: str
    mean: float
    norm: float


@dataclass(frozen=True, slots=True)
class DreamRecord:
    """What became of a picture: the mean square of what the layer answers, to the picture and to the dream."""

    layer: str
    picture: str
    size: str
    start: float
    activation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to look, and on what: a model with its weights, and a layer; the last one with spatial extent unless said."""

    model: str
    weights: str = "default"
    layer: str | None = None
    device: str = "auto"
    seed: int = 0

    def network(self) -> Layered:
        """Load the network."""
        if self.model.endswith(".onnx"):
            raise UsageError(
                f"{self.model}: following a gradient needs the .pt it was made from; an exported network has none"
            )
        return opening.network(self.model, weights=self.weights, device=self.device, seed=self.seed)[0]

    def filters(self) -> Filters:
        """Take the filters of the layer."""
        network = self.network()
        return Filters(network, network.find(self.layer) if self.layer is not None else network.last_spatial())


def patterns(
    place: Place,
    output: Path,
    *,
    numbers: str | None = None,
    size: str | None = None,
    ascent: Ascent,
    batch: int = 16,
    progress: Progress = no_progress,
) -> list[FilterRecord]:
    """Find what filters look for, and draw it side by side.

    Args:
        place: Which filters.
        output: The PNG.
        numbers: Of filters, as `numbering.parse` reads them; the first 64 unless said.
        size: Of each pattern; that of the network's pictures unless said, 128 pixels at most.
        ascent: How they are looked for.
        batch: Filters at once.
        progress: As `Filters.search`.

    Raises:
        UsageError: As `opening.network`, or there is no such layer or filter.
    """
    files.check_png(output, option="-o")
    if size is not None:
        preprocess.sides(size)
    asked = place.filters()
    chosen = numbering.parse(numbers, asked.count, option="--filters", of=asked.layer.name)
    chosen = chosen[:_MOST] if numbers is None else chosen
    own = asked.network.preprocess
    sides = preprocess.sides(size) if size is not None else (min(own.height, 128), min(own.width, 128))
    tiles: list[NDArray[np.uint8]] = []
    records = []
    for found in asked.search(chosen, size=sides, ascent=ascent, seed=place.seed, batch=batch, progress=progress):
        tiles.append(found.image)
        records.append(FilterRecord(asked.layer.name, found.number, found.start, found.activation))
    files.save(output, mosaic.mosaic(tiles))
    return records


def kernels(place: Place, output: Path, *, numbers: str | None = None) -> Iterator[KernelRecord]:
    """Draw the weights of the first convolution.

    Args and Raises as `patterns`; all kernels unless said.
    """
    files.check_png(output, option="-o")
    if place.layer is not None:
        raise UsageError("--kernels draws those of the first convolution, which look at the picture; drop --layer")
    name, weights = filters.first_kernels(place.network())
    chosen = numbering.parse(numbers, len(weights), option="--filters", of=name)
    files.save(output, mosaic.mosaic(list(filters.drawn_kernels(weights[chosen]))))
    channels, height, width = weights.shape[1:]
    shape = f"{height}x{width}x{channels}"  # as cnn-dims writes it
    return (
        KernelRecord(name, number, shape, float(weights[number].mean()), float(weights[number].norm()))
        for number in chosen
    )


def dream(
    place: Place,
    picture: Path,
    output: Path,
    *,
    numbers: str | None = None,
    size: str | None = None,
    ascent: Ascent,
    octaves: int = 4,
    octave_scale: float = 1.4,
    progress: Progress = no_progress,
) -> DreamRecord:
    """Strengthen in a picture what a layer sees in it.

    Args:
        place: Which layer.
        picture: Any size.
        output: The PNG.
        numbers: The filters that are strengthened; all unless said.
        size: The longer side of the dream in pixels, as `preprocess.sides` reads it; the picture's own unless said, 512 at most.
        ascent: How.
        octaves: As `Filters.dream`, likewise octave_scale.
        progress: As `Filters.dream`.

    Raises:
        CnnkitError: The picture cannot be used.
        UsageError: As `patterns`, or the dream would take the picture's place.
    """
    files.check_png(output, option="-o")
    if output.exists() and picture.exists() and output.samefile(picture):
        raise UsageError(f"-o {output} is the picture itself, which would be lost; choose another name")
    image = images.demanded(picture)
    longest = max(preprocess.sides(size)) if size is not None else min(max(image.size), _LONGEST)
    scale = longest / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    asked = place.filters()
    chosen = None if numbers is None else numbering.parse(numbers, asked.count, option="--filters", of=asked.layer.name)
    dreamt, start, activation = asked.dream(
        np.asarray(image),
        numbers=chosen,
        ascent=ascent,
        octaves=octaves,
        octave_scale=octave_scale,
        seed=place.seed,
        progress=progress,
    )
    files.save(output, Image.fromarray(dreamt))
    return DreamRecord(asked.layer.name, str(picture), f"{image.height}x{image.width}", start, activation)
