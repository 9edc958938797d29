"""From the numbers of an augmentation to pixels: one interpolation for all geometry, then blur, colours and noise; on any device.

What becomes of a picture depends on its own numbers alone: on the CPU it is the same to the bit whatever else is in the batch and however
many threads compute. Every sum is therefore one of whole numbers or is taken in a fixed order.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cnnkit.data import augment as drawing
from cnnkit.data.augment import Augmentation, Draw, Fill

#: Pixels that are worked on at once on the CPU: their floats stay in its caches.
_AT_ONCE = 1 << 17
#: A Gaussian ends after this many deviations, as Pillow's and scipy's of the same strength nearly do.
_BLUR_REACH = 3
#: What red, green and blue add to the grey that contrast and saturation refer to (ITU-R 601-2), as in torchvision and Pillow.
_GREY = (0.2989, 0.587, 0.114)


class Augmenter:
    """Augmented copies of pictures that are in memory: in training, another one each epoch."""

    def __init__(self, augmentation: Augmentation, *, seed: int) -> None:
        self.augmentation, self.seed = augmentation, seed

    def __call__(self, images: Tensor, pictures: Sequence[str], copies: Sequence[int]) -> Tensor:
        """Make one copy of each picture.

        Args:
            images: uint8, (N, H, W, 3), on any device.
            pictures: Their fingerprints.
            copies: Which copy of each.

        Returns:
            uint8, (N, H, W, 3), on the same device.
        """
        draws = [
            drawing.draw(self.augmentation, seed=self.seed, picture=picture, copy=copy)
            for picture, copy in zip(pictures, copies, strict=True)
        ]
        return augment(images, draws, fill=self.augmentation.fill)


def augment(images: Tensor, draws: Sequence[Draw], *, fill: Fill = Fill.NEAREST) -> Tensor:
    """Make of each picture the copy that its numbers describe.

    Where they leave it alone, or mirror it, the copy is exact.

    Args:
        images: uint8, (N, H, W, 3), on any device.
        draws: N of them.
        fill: What lies outside of a picture.

    Returns:
        uint8, (N, H, W, 3), on the same device; rounded once.
    """
    count, height, width, _ = images.shape
    assert count == len(draws)
    step = max(1, _AT_ONCE // (height * width)) if images.device.type == "cpu" else max(count, 1)
    copies = torch.empty_like(images, memory_format=torch.contiguous_format)
    for start in range(0, count, step):
        part = slice(start, start + step)
        copies[part] = _augmented(images[part], draws[part], fill)
    return copies


def _augmented(images: Tensor, draws: Sequence[Draw], fill: Fill) -> Tensor:
    # Never channels-last in disguise: the order of the axes in memory would choose another kernel
    pixels = images.permute(0, 3, 1, 2).float().contiguous()  # (N, H, W, 3) -> (N, 3, H, W), 0 to 255
    for rows, chosen in _where(draws, [draw.resamples for draw in draws], pixels.device):
        pixels[rows] = _resampled(pixels[rows], chosen, fill)
    for axis, word in ((3, "hflip"), (2, "vflip")):
        mirrored = [getattr(draw, word) and not draw.resamples for draw in draws]
        for rows, _ in _where(draws, mirrored, pixels.device):
            pixels[rows] = pixels[rows].flip(axis)
    for rows, chosen in _where(draws, [draw.blur > 0 for draw in draws], pixels.device):
        pixels[rows] = torch.stack(
            [_blurred(picture, draw.blur) for picture, draw in zip(pixels[rows], chosen, strict=True)]
        )
    for word, change, neutral in (
        ("brightness", _brightened, 1.0),
        ("contrast", _contrasted, 1.0),
        ("saturation", _saturated, 1.0),
        ("hue", _hue_turned, 0.0),
        ("noise", None, 0.0),
    ):
        for rows, chosen in _where(draws, [getattr(draw, word) != neutral for draw in draws], pixels.device):
            if change is None:
                pixels[rows] = _noisy(pixels[rows], chosen)
            else:
                amounts = torch.tensor([getattr(draw, word) for draw in chosen], device=pixels.device)
                pixels[rows] = change(pixels[rows], amounts[:, None, None, None]).clamp(0, 255)
    return pixels.clamp(0, 255).round().byte().permute(0, 2, 3, 1)  # (N, 3, H, W) -> (N, H, W, 3)


def _where(
    draws: Sequence[Draw], chosen: Sequence[bool], device: torch.device
) -> Iterator[tuple[Tensor | slice, list[Draw]]]:
    """Give the rows of the pictures that something is done to, with their draws; nothing if there are none."""
    rows = [row for row, wanted in enumerate(chosen) if wanted]
    if len(rows) == len(draws):
        yield slice(None), list(draws)
    elif rows:
        yield torch.tensor(rows, device=device), [draws[row] for row in rows]


# ---------------------------------------------------------------- geometry


def _resampled(pixels: Tensor, draws: Sequence[Draw], fill: Fill) -> Tensor:
    """Interpolate each copy from its picture, (N, 3, H, W); twice linearly, between the four nearest pixels."""
    height, width = pixels.shape[2:]
    matrices = np.stack([drawing.matrix(draw, height=height, width=width) for draw in draws])  # (N, 3, 3)
    across, down = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    # A sum of what the column gives and what the row gives: (N, 2, W) and (N, 2, H) are all that double precision costs
    by_column = matrices[:, :2, 0, None] * across + matrices[:, :2, 2, None]
    by_row = matrices[:, :2, 1, None] * down
    sides = np.array([width, height], dtype=np.float64)[:, None]
    if fill is not Fill.WRAP:  # to the units of grid_sample: -1 and 1 are the outer edges of the picture
        by_column, by_row = (2 * by_column + 1) / sides - 1, 2 * by_row / sides
    columns = torch.from_numpy(by_column.astype(np.float32)).to(pixels.device)
    rows = torch.from_numpy(by_row.astype(np.float32)).to(pixels.device)
    places = rows.permute(0, 2, 1)[:, :, None] + columns.permute(0, 2, 1)[:, None]  # (N, H, 1, 2) + (N, 1, W, 2)
    if fill is Fill.WRAP:
        # One more row and column, the first ones again: between the last pixel and the first there is no edge
        pixels = functional.pad(pixels, (0, 1, 0, 1), mode="circular")
        for axis, side in ((0, width), (1, height)):
            inside = places[..., axis].remainder_(side)
            inside.mul_(2).add_(1).div_(side + 1).sub_(1)
    modes = {Fill.CONSTANT: "zeros", Fill.REFLECT: "reflection"}
    return functional.grid_sample(
        pixels, places, mode="bilinear", padding_mode=modes.get(fill, "border"), align_corners=False
    )


# ---------------------------------------------------------------- blur and noise


def _blurred(pixels: Tensor, deviation: float) -> Tensor:
    """Blur a picture, (3, H, W), by a Gaussian; outside of it its edges go on."""
    reach = max(1, round(_BLUR_REACH * deviation))
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / deviation) ** 2)
    weights /= weights.sum()
    for axis in (1, 2):
        side = pixels.shape[axis]
        # One shifted picture after the other: a convolution would choose its order by the number of threads
        padded = pixels.index_select(axis, torch.arange(-reach, side + reach, device=pixels.device).clamp(0, side - 1))
        blurred = torch.zeros_like(pixels)
        for step, weight in enumerate(weights.tolist()):
            blurred += padded.narrow(axis, step, side) * weight
        pixels = blurred
    return pixels


def _noisy(pixels: Tensor, draws: Sequence[Draw]) -> Tensor:
    height, width = pixels.shape[2:]
    fields = [255 * draw.noise * drawing.noise(draw, height=height, width=width) for draw in draws]
    return pixels + torch.from_numpy(np.stack(fields)).to(pixels.device).permute(0, 3, 1, 2)


# ---------------------------------------------------------------- colours, each as torchvision's function of that name


def _brightened(pixels: Tensor, factors: Tensor) -> Tensor:
    return pixels * factors


def _contrasted(pixels: Tensor, factors: Tensor) -> Tensor:
    """Move every value from or towards the picture's mean grey."""
    # Whole numbers in double precision: their sum is exact, in whatever order it is taken
    mean = _grey(pixels).floor().double().mean(dim=(1, 2, 3), keepdim=True).float()
    return pixels * factors + mean * (1 - factors)


def _saturated(pixels: Tensor, factors: Tensor) -> Tensor:
    """Move every pixel from or towards its grey."""
    return pixels * factors + _grey(pixels) * (1 - factors)


def _hue_turned(pixels: Tensor, turns: Tensor) -> Tensor:
    """Turn the colour circle, value and chroma kept.

    Source: the HSV alternative without cases, f(n) = V - C max(0, min(k, 4 - k, 1)) with k = (n + H/60°) mod 6 for n = 5, 3, 1.
    """
    red, green, blue = pixels.unbind(1)
    value = pixels.amax(1)
    chroma = value - pixels.amin(1)
    safe = chroma.clamp(min=1e-6)  # a grey has no hue, and keeps none
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * turns[:, 0]
    channels = []
    for start in (5, 3, 1):
        k = (hue + start).remainder(6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def _grey(pixels: Tensor) -> Tensor:
    return pixels[:, 0:1] * _GREY[0] + pixels[:, 1:2] * _GREY[1] + pixels[:, 2:3] * _GREY[2]
