"""Style transfer: an image with the content of one image and the style of another, by optimization of its pixels.

The content loss compares the activations of a layer with those for the content image; the style loss compares Gram matrices (products of
channels, averaged over places) of several layers with those for the style image. Each is divided by the sum of squares of what it is
compared with, so that weights mean the same for all networks and sizes.

Source: Gatys, Ecker, Bethge, "A Neural Algorithm of Artistic Style", 2015, and "Image Style Transfer Using Convolutional Neural Networks",
2016; total variation: Mahendran, Vedaldi, "Understanding Deep Image Representations by Inverting Them", 2015.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cnnkit.callbacks import Progress, ignore_progress
from cnnkit.choices import StyleOptimizer, StyleStart
from cnnkit.data import decode
from cnnkit.errors import UsageError
from cnnkit.explain import load_network, pixel_gradients
from cnnkit.explain.config import NetworkOptions, StyleOptions, longer_side
from cnnkit.explain.pixel_gradients import PixelGradients
from cnnkit.formats import image_files
from cnnkit.nets.layer_graph import GraphLayer, LayerGraph

#: The default maximum of the longer side of the result, in pixels.
_LONGEST = 512
#: The default learning rate of Adam, in pixel values.
_RATE = 4.0
#: The number of records of a transfer, apart from that of the start.
_RECORDS = 10
#: The layers of Gatys et al., by Keras' names.
_CONTENT, _STYLE = "block4_conv2", tuple(f"block{number}_conv1" for number in range(1, 6))
#: The number of sizes of maps that have a style layer by default, and the place of the one that has the content layer.
_SIZES, _CONTENT_SIZE = 5, 2
#: The least sum of squares that a loss is divided by: a layer may be zero everywhere.
_LEAST = 1e-12


#: The weighted sum of the losses; and content, style and total variation before they are weighted.
StyleLosses = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class StyleRecord:
    """The losses after some steps, as `StyleLosses`."""

    step: int
    loss: float
    content: float
    style: float
    tv: float


class StyleLoss:
    """The loss of a style transfer as a function of an image.

    Attributes:
        content: The layer that keeps the content.
        styles: The layers whose Gram matrices describe the style.
    """

    def __init__(
        self,
        network: LayerGraph,
        content_image: NDArray[np.uint8],
        style_image: NDArray[np.uint8],
        *,
        options: StyleOptions,
    ) -> None:
        """Compute what the image is compared with.

        Args:
            network: On its device; it is not changed.
            content_image: (H, W, 3).
            style_image: (h, w, 3), of any size.
            options: The layers and the weights.

        Raises:
            UsageError: There is no such layer, it outputs no map, or an image is too small for it.
        """
        self.options = options
        self.content, self.styles = chosen_layers(network, options)
        nodes = [self.content.node, *(layer.node for layer in self.styles)]
        self._pixels = PixelGradients(network, nodes)
        wanted = []
        for image in (content_image, style_image):
            self._pixels.demand_room(
                (image.shape[0], image.shape[1]),
                layer=self._deepest().name,
                remedy="give a larger --size, or earlier layers",
            )
            with torch.no_grad(), self._pixels.running():
                wanted.append(self._pixels.outputs(self.tensor(image)))
        self._wanted_content = wanted[0][0]
        self._wanted_grams = [gram(maps) for maps in wanted[1][1:]]

    def _deepest(self) -> GraphLayer:
        return min((self.content, *self.styles), key=lambda layer: layer.shape[1] * layer.shape[2])

    def tensor(self, image: NDArray[np.uint8]) -> Tensor:
        """Return an image as float on the network's device, (H, W, 3) -> (1, H, W, 3)."""
        return torch.tensor(image, dtype=torch.float32, device=self._pixels.device)[None]

    def parts(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the losses of content and style and the total variation of an image, (1, H, W, 3)."""
        content, *styles = self._pixels.outputs(image)
        grams = zip(styles, self._wanted_grams, strict=True)
        style = torch.stack([_relative(gram(maps), wanted) for maps, wanted in grams]).mean()
        return _relative(content, self._wanted_content), style, total_variation(image)

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """Weight and add the parts."""
        content, style, variation = parts
        weighted = self.options.content_weight * content + self.options.style_weight * style
        return weighted + self.options.tv_weight * variation

    def losses(self, image: Tensor) -> StyleLosses:
        """Compute the loss and its parts for an image, (1, H, W, 3)."""
        with torch.no_grad(), self._pixels.running():
            parts = self.parts(image)
            return _numbers(self.total(parts), *parts)

    def gradient(self, image: Tensor) -> tuple[Tensor, StyleLosses]:
        """Compute the gradient of the loss, (1, H, W, 3), and what `losses` returns."""
        found: list[StyleLosses] = []

        def objective(given: Tensor) -> Tensor:
            parts = self.parts(given)
            loss = self.total(parts)
            found.append(_numbers(loss, *parts))
            return loss

        return self._pixels.gradient(image, objective), found[0]


def _numbers(*losses: Tensor) -> StyleLosses:
    loss, content, style, variation = (float(each.detach()) for each in losses)
    return loss, content, style, variation


def gram(maps: Tensor) -> Tensor:
    """Return the mean over places of the products of channels, (1, C, h, w) -> (C, C)."""
    flat = maps[0].flatten(1)  # (C, h*w)
    return flat @ flat.T / flat.shape[1]


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the sum of squared differences as a share of the sum of squares."""
    return (found - wanted).square().sum() / wanted.square().sum().clamp(min=_LEAST)


def total_variation(image: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring values, for values from 0 to 1; (1, H, W, 3) of 0 to 255."""
    shares = image / 255
    across, down = shares.diff(dim=2).square(), shares.diff(dim=1).square()
    return (across.sum() + down.sum()) / max(1, across.numel() + down.numel())


def chosen_layers(network: LayerGraph, options: StyleOptions) -> tuple[GraphLayer, list[GraphLayer]]:
    """Return the layers of the content and of the style, by name or by default.

    Raises:
        UsageError: There is no such layer, or it outputs a vector.
    """
    by_size: dict[tuple[int, ...], GraphLayer] = {}
    for layer in network.layers():
        by_size[layer.shape[1:]] = layer  # the last layer of each size
    sizes = list(by_size.values())[:_SIZES]
    if not sizes:
        raise UsageError(f"{network.name} has no layer that outputs maps")
    is_vgg = _CONTENT in network.aliases
    content = sizes[min(_CONTENT_SIZE, len(sizes) - 1)]
    if options.content_layer is not None or is_vgg:
        content = _map_layer(network, options.content_layer or _CONTENT)
    if options.style_layers or is_vgg:
        return content, [_map_layer(network, name) for name in options.style_layers or _STYLE]
    return content, sizes


def _map_layer(network: LayerGraph, name: str) -> GraphLayer:
    layer = network.find(name)
    if not layer.is_spatial:
        raise UsageError(f"{layer.name} of {network.name} outputs a vector, not maps; choose an earlier layer")
    return layer


def transfer(
    content: Path,
    style: Path,
    output: Path,
    *,
    model: str,
    network: NetworkOptions,
    options: StyleOptions,
    device: str = "auto",
    seed: int = 0,
    progress: Progress = ignore_progress,
) -> list[StyleRecord]:
    """Give an image the style of another one, and write the result.

    Args:
        content: The image whose content is kept.
        style: The image whose style is taken.
        output: The PNG.
        model: A trained `.pt`, or the name of a network.
        network: How the network is loaded.
        options: Layers, weights and optimizer.
        device: auto, cpu, cuda or cuda:N.
        seed: For random weights, and the noise to start from.
        progress: Called after every step.

    Returns:
        The losses at the start, after every tenth part of the steps, and at the end.

    Raises:
        CnnkitError: An image cannot be read.
        UsageError: As `StyleLoss`; the result would replace an image; or the seed has no effect.
    """
    image_files.check_png(output, option="-o")
    if seed and options.start is not StyleStart.NOISE and network.weights != "none":
        raise UsageError("--seed has no effect without random numbers; add --start noise, or drop it")
    for source in (content, style):
        if output.exists() and source.exists() and output.samefile(source):
            raise UsageError(f"-o {output} would overwrite an image; choose another name")
    shown = decode.load_required(content)
    longest = min(max(shown.size), _LONGEST) if options.size is None else longer_side(options.size, of="result")
    images = [np.asarray(pixel_gradients.scaled(image, longest)) for image in (shown, decode.load_required(style))]
    loaded = load_network.differentiable(model, network, device=device, seed=seed)[0]
    loss = StyleLoss(loaded, *images, options=options)
    start = loss.tensor(images[0])
    if options.start is StyleStart.NOISE:
        start = 255 * torch.rand(start.shape, generator=torch.Generator().manual_seed(seed)).to(start.device)
    found, records = optimize(loss, start, progress=progress)
    image_files.save(output, Image.fromarray(found))
    return records


def optimize(
    loss: StyleLoss, start: Tensor, *, progress: Progress = ignore_progress
) -> tuple[NDArray[np.uint8], list[StyleRecord]]:
    """Reduce the loss from an image, (1, H, W, 3), with the optimizer of its options.

    Returns:
        The image, uint8 (H, W, 3), and the losses as `transfer` does; the last are those before it is rounded.
    """
    history = _History(loss.options.steps, progress)
    search = _by_adam if loss.options.optimizer is StyleOptimizer.ADAM else _by_lbfgs
    found = search(loss, start, history.add)
    return found[0].round().to(torch.uint8).cpu().numpy(), history.records()


class _History:
    """Keeps some of the losses of all steps."""

    def __init__(self, steps: int, progress: Progress) -> None:
        self._steps, self._progress = steps, progress
        self._kept: dict[int, StyleRecord] = {}
        self._last: StyleRecord | None = None

    def add(self, step: int, losses: StyleLosses) -> None:
        self._last = StyleRecord(step, *losses)
        if step * _RECORDS // self._steps > (step - 1) * _RECORDS // self._steps:
            self._kept[step] = self._last
        self._progress(step, self._steps)

    def records(self) -> list[StyleRecord]:
        """Return the losses at the start, after every tenth part of the steps, and after the last step."""
        assert self._last is not None
        return list((self._kept | {self._last.step: self._last}).values())


def _by_adam(loss: StyleLoss, start: Tensor, add: Callable[[int, StyleLosses], None]) -> Tensor:
    """Run Adam, and keep values within 0 to 255 after every step."""
    image = start.clone()
    optimizer = torch.optim.Adam([image], lr=_RATE if loss.options.rate is None else loss.options.rate)
    for step in range(loss.options.steps):
        image.grad, losses = loss.gradient(image)
        add(step, losses)
        optimizer.step()
        image.clamp_(0, 255)
    add(loss.options.steps, loss.losses(image))
    return image.detach()


def _by_lbfgs(loss: StyleLoss, start: Tensor, add: Callable[[int, StyleLosses], None]) -> Tensor:
    """Run L-BFGS-B, which keeps values within 0 to 255."""
    from scipy.optimize import Bounds, minimize  # here: Adam does without it

    # The first step is minus the gradient: scaled, it changes pixels by a few values
    first, latest = loss.gradient(start)
    size = float(first.square().mean().sqrt())
    scale = _RATE / size if size > 0 else 1.0
    step = 0
    add(step, latest)

    def evaluate(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal latest
        image = torch.from_numpy(values.astype(np.float32)).reshape(start.shape).to(start.device)
        gradient, latest = loss.gradient(image)
        return scale * latest[0], scale * gradient.flatten().double().cpu().numpy()

    def after_step(_values: NDArray[np.float64]) -> None:
        nonlocal step
        step += 1
        add(step, latest)  # a line search ends with the point that it accepts

    steps = loss.options.steps
    found = minimize(
        evaluate,
        start.flatten().double().cpu().numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(np.zeros(start.numel()), np.full(start.numel(), 255.0)),
        callback=after_step,
        options={"maxiter": steps, "maxfun": 20 * steps, "ftol": 0.0, "gtol": 0.0},
    )
    return torch.from_numpy(found.x.astype(np.float32)).reshape(start.shape)
