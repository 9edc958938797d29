"""Gradients with respect to the pixels of images, and gradient ascent along them: for patterns, dreams, styles and adversarial images.

Images are float (N, H, W, 3), from 0 to 255; the network normalizes them.
"""

import contextlib
from collections.abc import Callable, Generator, Sequence

import torch
from PIL import Image
from torch import Tensor, fx
from torch.nn import functional

from cnnkit.engine import device_errors
from cnnkit.errors import UsageError
from cnnkit.explain.config import AscentOptions
from cnnkit.nets import layer_graph, subgraph, torchvision_modules
from cnnkit.nets.layer_graph import LayerGraph

#: The value of grey images.
MIDDLE = 128.0

#: The factor by which reduced steps grow again.
_RECOVERY = 1.2


class PixelGradients:
    """Outputs of a network's nodes as functions of pixels, with their gradients. The network itself is not changed.

    Attributes:
        device: Of the network.
    """

    def __init__(self, network: LayerGraph, nodes: Sequence[fx.Node]) -> None:
        """Take the part of a network up to some nodes."""
        self._network, self.device = network, network.normalise.scale.device
        self._normalise, self._nodes = network.normalise, list(nodes)
        self._part = network.upto(self._nodes, keep=True)

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Compute the outputs of the nodes, (N, H, W, 3) -> (N, C, h, w) or (N, D) each; call it within `running`."""
        found = self._part(self._normalise(images))
        return [layer_graph.as_maps(node, output) for node, output in zip(self._nodes, found, strict=True)]

    @contextlib.contextmanager
    def running(self) -> Generator[None]:
        """Put the network into eval mode, and disable TF32 on a GPU."""
        with (
            subgraph.mode(self._part, training=False),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            yield

    def gradient(self, images: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute the gradient of an objective, images -> number, with respect to the images, (N, H, W, 3)."""
        given = images.detach().requires_grad_(True)
        with torch.enable_grad(), self.running():
            (gradient,) = torch.autograd.grad(objective(given), given)
        return gradient

    def climb(
        self,
        images: Tensor,
        objective: Callable[[Tensor], Tensor],
        ascent: AscentOptions,
        generator: torch.Generator,
        tick: Callable[[int], None],
    ) -> Tensor:
        """Run gradient ascent, each gradient divided by its root mean square, (N, H, W, 3) -> the same.

        A step may lead to an image without a gradient, where the filter is zero: it is undone, and smaller steps follow.
        """
        rates = torch.full((len(images), 1, 1, 1), ascent.rate, device=images.device)
        before = images
        for step in range(1, ascent.steps + 1):
            shifts = torch.randint(-ascent.jitter, ascent.jitter + 1, (2,), generator=generator).tolist()
            gradient = self.gradient(images.roll(shifts, (1, 2)), objective).roll([-each for each in shifts], (1, 2))
            size = gradient.square().mean((1, 2, 3), keepdim=True).sqrt()  # (N, 1, 1, 1)
            silent = size == 0
            rates = torch.where(silent, rates / 2, (_RECOVERY * rates).clamp(max=ascent.rate))
            moved = (images + rates * gradient / torch.where(silent, 1.0, size)).clamp(0, 255)
            moved = _blurred(moved, ascent.blur) if ascent.blur > 0 else moved
            images, before = torch.where(silent, before, moved), torch.where(silent, before, images)
            tick(step)
        return images

    def demand_room(self, size: tuple[int, int], *, layer: str, remedy: str, blur: float = 0.0) -> None:
        """Check that images of a size (height, width) are large enough for the network and for a blur.

        Raises:
            UsageError: They are too small for the layer; the message ends with the remedy.
        """
        try:
            with torch.no_grad(), self.running():
                self.outputs(torch.full((1, *size, 3), MIDDLE, device=self.device))
        except (RuntimeError, AssertionError) as error:
            if device_errors.is_out_of_memory(error):  # they are not too small
                raise
            if self._network.grid is not None:
                own = self._network.preprocess.size
                raise UsageError(
                    f"{self._network.name} takes images of {own}x{own} pixels only, "
                    f"since its tokens have positions; give --size {own}, or for a dream a convolutional network"
                ) from error
            raise UsageError(f"images of {size[0]}x{size[1]} are too small for {layer}; {remedy}") from error
        if _reach(blur) >= min(size):
            raise UsageError(f"--blur {blur:g} is too large for images of {size[0]}x{size[1]}; give a smaller one")


def _reach(deviation: float) -> int:
    """Return the radius of a blur in pixels."""
    return max(1, round(3 * deviation)) if deviation > 0 else 0


def _blurred(images: Tensor, deviation: float) -> Tensor:
    side = 2 * _reach(deviation) + 1
    transforms = torchvision_modules.imported("torchvision.transforms.v2.functional")
    blurred: Tensor = transforms.gaussian_blur(images.permute(0, 3, 1, 2), [side, side], [deviation, deviation])
    return blurred.permute(0, 2, 3, 1)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images, (N, H, W, 3), to a (height, width)."""
    small = functional.interpolate(images.permute(0, 3, 1, 2), size, mode="bicubic", antialias=True)
    return small.permute(0, 2, 3, 1).clamp(0, 255)


def scaled(image: Image.Image, longest: int) -> Image.Image:
    """Resize an image so that its longer side has a number of pixels."""
    scale = longest / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)
