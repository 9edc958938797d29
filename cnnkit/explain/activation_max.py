"""Activation maximization: patterns and dreams by gradient ascent on the activations of filters; and kernels of the first convolution.

Source: Erhan, Bengio, Courville, Vincent, "Visualizing Higher-Layer Features of a Deep Network", 2009; jitter and octaves: Mordvintsev,
Olah, Tyka, "Inceptionism", 2015; blur: Yosinski et al., "Understanding Neural Networks Through Deep Visualization", 2015.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from cnnkit.callbacks import Progress, ignore_progress
from cnnkit.data import decode, preprocessing
from cnnkit.errors import UsageError
from cnnkit.explain import load_network, mosaics, pixel_gradients
from cnnkit.explain.config import (
    AscentOptions,
    DreamOptions,
    FilterOptions,
    NetworkOptions,
    PatternOptions,
    longer_side,
    parse_index_ranges,
)
from cnnkit.explain.pixel_gradients import PixelGradients
from cnnkit.formats import image_files
from cnnkit.nets.layer_graph import GraphLayer, LayerGraph

#: The amplitudes of the grey noise that patterns start from. A filter that is zero on it has no gradient; then the next one is tried.
_NOISES = (10.0, 20.0, 40.0, 80.0, 127.0)

#: The default number of filters.
_MOST = 64
#: The default maximum side of a pattern, and of a dream, in pixels.
_LONGEST_PATTERN, _LONGEST_DREAM = 128, 512


@dataclass(frozen=True, slots=True)
class Pattern:
    """The pattern of a filter.

    Attributes:
        number: The number of the filter.
        image: uint8 (H, W, 3).
        start: The mean activation of the filter for the noise that the search started from.
        activation: The mean activation of the filter for the image.
    """

    number: int
    image: NDArray[np.uint8]
    start: float
    activation: float


class ActivationMaximizer:
    """Gradient ascent on the activations of a layer.

    Attributes:
        count: The number of filters of the layer.
    """

    def __init__(self, network: LayerGraph, layer: GraphLayer) -> None:
        """Take the part of a network up to a layer.

        The objective is the input of the activation function of the layer: its output has no gradient where a filter is zero.
        """
        self.network, self.layer, self.count = network, layer, layer.shape[0]
        self._pixels = PixelGradients(network, [*network.before_activation(layer), layer.node])

    def search(
        self,
        numbers: Sequence[int],
        *,
        size: tuple[int, int],
        ascent: AscentOptions,
        seed: int = 0,
        batch: int = 16,
        progress: Progress = ignore_progress,
    ) -> Iterator[Pattern]:
        """Find a pattern for each filter.

        Args:
            numbers: The filters.
            size: The size of the images, (height, width).
            ascent: Settings of gradient ascent.
            seed: For noise and jitter; the noise of a filter depends only on it and on the number of the filter.
            batch: Filters per batch.
            progress: Called after every step, with the steps of all batches.

        Raises:
            UsageError: The images are too small for the network, or for the blur.
        """
        self._demand_room(size, ascent)
        total = -(-len(numbers) // batch) * ascent.steps
        progress(0, total)
        for first in range(0, len(numbers), batch):
            some = numbers[first : first + batch]
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.tensor(some, device=self._pixels.device)

            def objective(batch: Tensor, chosen: Tensor = chosen) -> Tensor:
                return self._means(batch)[0].gather(1, chosen[:, None]).sum()

            images = self._started(some, objective, size=size, seed=seed)
            start = self._activations(images, chosen)
            before = first // batch * ascent.steps

            def tick(step: int, before: int = before) -> None:
                progress(before + step, total)

            images = self._pixels.climb(images, objective, ascent, generator, tick)
            found = images.round().to(torch.uint8)
            reached = self._activations(found, chosen)
            for index, number in enumerate(some):
                yield Pattern(number, found[index].cpu().numpy(), float(start[index]), float(reached[index]))

    def dream(
        self,
        image: NDArray[np.uint8],
        *,
        numbers: Sequence[int] | None = None,
        options: DreamOptions,
        seed: int = 0,
        progress: Progress = ignore_progress,
    ) -> tuple[NDArray[np.uint8], float, float]:
        """Amplify in an image the patterns that a layer detects, from coarse to fine.

        Args:
            image: uint8 (H, W, 3).
            numbers: The filters to amplify; by default all of the layer.
            options: The octaves, and the settings of gradient ascent; the size is ignored.
            seed: For the jitter.
            progress: Called after every step, with the steps of all octaves.

        Returns:
            The dream; and the mean square of the activations before and after.

        Raises:
            UsageError: The smallest octave is too small for the network.
        """
        generator = torch.Generator().manual_seed(seed)
        whole = torch.tensor(image, device=self._pixels.device, dtype=torch.float32)[None]
        chosen = torch.tensor(list(range(self.count)) if numbers is None else list(numbers), device=self._pixels.device)

        def objective(images: Tensor) -> Tensor:
            return self._run(images)[1][:, chosen].square().mean()

        sizes = [
            (
                max(1, round(image.shape[0] / options.octave_scale**back)),
                max(1, round(image.shape[1] / options.octave_scale**back)),
            )
            for back in reversed(range(options.octaves))
        ]
        self._demand_room(sizes[0], options)
        dreamt, shrunk = pixel_gradients.resized(whole, sizes[0]), pixel_gradients.resized(whole, sizes[0])
        for number, size in enumerate(sizes, start=1):
            real = pixel_gradients.resized(whole, size)
            # Add the details of the image that were lost at the smaller size
            dreamt = pixel_gradients.resized(dreamt, size) + real - pixel_gradients.resized(shrunk, size)
            before = (number - 1) * options.steps

            def tick(step: int, before: int = before) -> None:
                progress(before + step, options.octaves * options.steps)

            dreamt = self._pixels.climb(dreamt, objective, options, generator, tick)
            shrunk = real
        with torch.no_grad(), self._pixels.running():
            start, reached = float(objective(whole)), float(objective(dreamt))
        return dreamt[0].round().to(torch.uint8).cpu().numpy(), start, reached

    def _started(
        self, numbers: Sequence[int], objective: Callable[[Tensor], Tensor], *, size: tuple[int, int], seed: int
    ) -> Tensor:
        """Draw noise for each filter on which it has a gradient, if possible, (N, H, W, 3)."""
        draws = [_noise(size, seed, number).to(self._pixels.device) for number in numbers]  # -1 to 1
        images = torch.stack([pixel_gradients.MIDDLE + _NOISES[0] * draw for draw in draws])
        for loudness in _NOISES[1:]:
            silent = (self._pixels.gradient(images, objective) == 0).flatten(1).all(1).tolist()
            if not any(silent):
                break
            for index in (index for index, dead in enumerate(silent) if dead):
                images[index] = pixel_gradients.MIDDLE + loudness * draws[index]
        return images

    def _demand_room(self, size: tuple[int, int], ascent: AscentOptions) -> None:
        remedy = "give a larger --size, or for a dream fewer --octaves"
        self._pixels.demand_room(size, layer=self.layer.name, remedy=remedy, blur=ascent.blur)

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of the activation function and the output of the layer, for float images (N, H, W, 3) of 0 to 255."""
        *before, after = self._pixels.outputs(images)
        return torch.cat(before, 1), after

    def _means(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Average both over places, (N, K) each."""
        before, after = (output.flatten(2).mean(2) if output.ndim == 4 else output for output in self._run(images))
        return before, after

    def _activations(self, images: Tensor, chosen: Tensor) -> Tensor:
        with torch.no_grad(), self._pixels.running():
            return self._means(images.float())[1].gather(1, chosen[:, None])[:, 0]


def _noise(size: tuple[int, int], seed: int, number: int) -> Tensor:
    """Draw uniform noise from -1 to 1, (H, W, 3)."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)  # the same whichever other filters are drawn
    return 2 * torch.rand(*size, 3, generator=generator) - 1


# ---------------------------------------------------------------- files and records


@dataclass(frozen=True, slots=True)
class FilterRecord:
    """The mean activation of a filter for the noise that its pattern started from, and for the pattern."""

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
    """The mean square of the activations of a layer for an image, and for its dream."""

    layer: str
    image: str
    size: str
    start: float
    activation: float


def _maximizer(network: LayerGraph, name: str | None) -> ActivationMaximizer:
    return ActivationMaximizer(network, network.find(name) if name is not None else network.last_spatial())


def draw_patterns(
    model: str,
    output: Path,
    *,
    network: NetworkOptions,
    filters: FilterOptions,
    options: PatternOptions,
    device: str = "auto",
    seed: int = 0,
    progress: Progress = ignore_progress,
) -> list[FilterRecord]:
    """Find the patterns that filters respond to, and draw them as one mosaic.

    Args:
        model: A trained `.pt`, or the name of a network.
        output: The PNG.
        network: How the network is loaded.
        filters: The filters and their layer; by default the first 64.
        options: Settings of the search.
        device: auto, cpu, cuda or cuda:N.
        seed: For random weights, noise and jitter.
        progress: As `ActivationMaximizer.search`.

    Raises:
        UsageError: As `load_network`, or there is no such layer or filter.
    """
    image_files.check_png(output, option="-o")
    if options.size is not None:
        preprocessing.sides(options.size)
    maximizer = _maximizer(load_network.differentiable(model, network, device=device, seed=seed)[0], filters.layer)
    name = maximizer.layer.name
    chosen = parse_index_ranges(filters.filters, maximizer.count, option="--filters", of=name)
    chosen = chosen[:_MOST] if filters.filters is None else chosen
    own = maximizer.network.preprocess
    size = (min(own.height, _LONGEST_PATTERN), min(own.width, _LONGEST_PATTERN))
    if options.size is not None:
        size = preprocessing.sides(options.size)
    tiles: list[NDArray[np.uint8]] = []
    records = []
    for found in maximizer.search(chosen, size=size, ascent=options, seed=seed, batch=options.batch, progress=progress):
        tiles.append(found.image)
        records.append(FilterRecord(name, found.number, found.start, found.activation))
    title = f"{name}: patterns of {len(chosen)} of {maximizer.count} filters"
    image_files.save(output, mosaics.mosaic(tiles, numbers=chosen, title=title))
    return records


def dream(
    model: str,
    source: Path,
    output: Path,
    *,
    network: NetworkOptions,
    filters: FilterOptions,
    options: DreamOptions,
    device: str = "auto",
    seed: int = 0,
    progress: Progress = ignore_progress,
) -> DreamRecord:
    """Amplify in an image the patterns that a layer detects, and write the dream.

    Args:
        model: A trained `.pt`, or the name of a network.
        source: The image, of any size.
        output: The PNG.
        network: How the network is loaded.
        filters: The filters to amplify and their layer; by default all.
        options: Settings of the dream.
        device: auto, cpu, cuda or cuda:N.
        seed: For random weights and jitter.
        progress: As `ActivationMaximizer.dream`.

    Raises:
        CnnkitError: The image cannot be read.
        UsageError: As `draw_patterns`, or the dream would replace the image.
    """
    image_files.check_png(output, option="-o")
    if output.exists() and source.exists() and output.samefile(source):
        raise UsageError(f"-o {output} would overwrite the image; choose another name")
    image = decode.load_required(source)
    longest = min(max(image.size), _LONGEST_DREAM)
    if options.size is not None:
        longest = longer_side(options.size, of="dream")
    image = pixel_gradients.scaled(image, longest)
    maximizer = _maximizer(load_network.differentiable(model, network, device=device, seed=seed)[0], filters.layer)
    name = maximizer.layer.name
    chosen = parse_index_ranges(filters.filters, maximizer.count, option="--filters", of=name)
    dreamt, start, activation = maximizer.dream(
        np.asarray(image), numbers=chosen, options=options, seed=seed, progress=progress
    )
    image_files.save(output, Image.fromarray(dreamt))
    return DreamRecord(name, str(source), f"{image.height}x{image.width}", start, activation)


# ---------------------------------------------------------------- kernels


def first_kernels(network: LayerGraph) -> tuple[str, Tensor]:
    """Find the weights of the first convolution.

    Returns:
        The name of the convolution, and its weights (F, C, h, w), where C is 1 or 3.

    Raises:
        UsageError: The network does not begin with a convolution over 1 or 3 channels.
    """
    for node in network.module.graph.nodes:
        if node.op == "call_module" and isinstance(module := network.module.get_submodule(str(node.target)), nn.Conv2d):
            if module.weight.shape[1] in (1, 3):
                return network.layer(node).name, module.weight.detach().cpu()
            break
    raise UsageError(
        f"{network.name} does not begin with a convolution over 1 or 3 channels, so there are no kernels to draw"
    )


def kernel_images(kernels: Tensor) -> NDArray[np.uint8]:
    """Turn weights into colours: zero is grey, the largest absolute value of each kernel is at the end of the range.

    (F, C, h, w) -> (F, h, w, 3).
    """
    largest = kernels.abs().amax((1, 2, 3), keepdim=True)
    shares = kernels / torch.where(largest == 0, 1.0, largest)  # -1 to 1
    colours = ((shares + 1) / 2 * 255).round().to(torch.uint8)
    return colours.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def draw_kernels(
    model: str,
    output: Path,
    *,
    network: NetworkOptions,
    filters: FilterOptions,
    device: str = "auto",
    seed: int = 0,
) -> Iterator[KernelRecord]:
    """Draw the weights of the first convolution.

    Args and Raises as `draw_patterns`; by default all kernels, and the seed is only for random weights.
    """
    image_files.check_png(output, option="-o")
    if filters.layer is not None:
        raise UsageError("--kernels draws the kernels of the first convolution; drop --layer")
    if seed and network.weights != "none":
        raise UsageError("--seed has no effect on the weights that --kernels draws; drop it, or give --weights none")
    name, weights = first_kernels(load_network.differentiable(model, network, device=device, seed=seed)[0])
    chosen = parse_index_ranges(filters.filters, len(weights), option="--filters", of=name)
    channels, height, width = weights.shape[1:]
    shape = f"{height}x{width}x{channels}"  # as cnn-dims writes it
    title = f"{name}: {len(chosen)} of {len(weights)} kernels, {shape}; grey is 0"
    image_files.save(output, mosaics.mosaic(list(kernel_images(weights[chosen])), numbers=chosen, title=title))
    return (
        KernelRecord(name, number, shape, float(weights[number].mean()), float(weights[number].norm()))
        for number in chosen
    )
