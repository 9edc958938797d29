"""Apply augmentations to pixels: one interpolation for all geometry, then blur, colours, noise, policies and erasing; on any device.

A copy depends only on the image and its parameters: on the CPU its bits do not depend on the rest of the batch or on the number of threads.
Therefore every sum is either of integers or taken in a fixed order.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cnnkit.data.augment import AugmentParams, affine_matrix, draw_params, erased_box, noise
from cnnkit.data.augment_notation import Augmentation, Fill
from cnnkit.engine import policy_operations
from cnnkit.engine.torch_device import upload

#: Pixels processed at once on the CPU, as whole images or rows of one: their floats fit into its caches.
PIXELS_AT_ONCE = 1 << 17
#: Larger images are processed channel by channel on the CPU, which takes half the memory.
_LARGE = 1 << 24
#: Gaussians are cut off after this many standard deviations, about as in Pillow and scipy.
_BLUR_REACH = 3
#: Weights of red, green and blue in the grey of contrast and saturation. 0.2989 is torchvision's value, since these transforms are those of
#: its ColorJitter; `formats.header.LUMA` has 0.299, as ITU-R 601 and Pillow.
_GREY = (0.2989, 0.587, 0.114)


class Augmenter:
    """Makes augmented copies of images in memory; in training, another copy in each epoch."""

    def __init__(self, augmentation: Augmentation, *, seed: int) -> None:
        self.augmentation, self.seed = augmentation, seed

    def __call__(self, images: Tensor, fingerprints: Sequence[str], copies: Sequence[int]) -> Tensor:
        """Make one copy of each image.

        Args:
            images: uint8, (N, H, W, 3), on any device.
            fingerprints: Fingerprints of the images.
            copies: The number of the copy of each image.

        Returns:
            uint8, (N, H, W, 3), on the same device.
        """
        return augment(images, self.draws(fingerprints, copies), fill=self.augmentation.fill)

    def draws(self, fingerprints: Sequence[str], copies: Sequence[int]) -> list[AugmentParams]:
        """Draw the parameters of copies of images with these fingerprints."""
        return [
            draw_params(self.augmentation, seed=self.seed, image=image, copy=copy)
            for image, copy in zip(fingerprints, copies, strict=True)
        ]


def augment(images: Tensor, draws: Sequence[AugmentParams], *, fill: Fill = Fill.NEAREST) -> Tensor:
    """Make one copy of each image from its drawn parameters.

    A copy that is only flipped, or not changed at all, is exact.

    Args:
        images: uint8, (N, H, W, 3), on any device.
        draws: N of them.
        fill: How to fill pixels outside of an image.

    Returns:
        uint8, (N, H, W, 3), on the same device; rounded once.
    """
    count, height, width, _ = images.shape
    assert count == len(draws)
    step = max(1, PIXELS_AT_ONCE // (height * width)) if images.device.type == "cpu" else max(count, 1)
    copies = torch.empty_like(images)  # in the same order in memory
    for start in range(0, count, step):
        part = slice(start, start + step)
        copies[part] = _augmented(images[part], draws[part], fill)
    _apply_policies(copies, draws)
    for copy, draw in zip(copies, draws, strict=True):
        if (box := erased_box(draw, height=height, width=width)) is not None:
            copy[box] = 0
    return copies


def _apply_policies(copies: Tensor, draws: Sequence[AugmentParams]) -> None:
    """Apply the operations of RandAugment and TrivialAugment to copies, uint8 (N, H, W, 3), in place.

    Each copy has other operations, so they are changed one by one, also on a GPU.
    """
    for copy, draw in zip(copies, draws, strict=True):
        if draw.randaugment or draw.trivialaugment:
            changed = policy_operations.applied(copy.permute(2, 0, 1).contiguous(), draw)  # (H, W, 3) -> (3, H, W)
            copy.copy_(changed.permute(1, 2, 0))


def _augmented(images: Tensor, draws: Sequence[AugmentParams], fill: Fill) -> Tensor:
    count, height, width, _ = images.shape
    # A contiguous copy: with strides of channels-last, torch would choose another kernel
    pixels = torch.empty((count, 3, height, width), device=images.device)  # 0 to 255
    pixels.copy_(images.permute(0, 3, 1, 2))
    tiles = _tiles(pixels)
    for rows, chosen in _where(draws, [draw.resamples for draw in draws], pixels.device):
        _change(pixels, rows, partial(_resampled, draws=chosen, fill=fill, tiles=tiles))
    for axis, word in ((3, "hflip"), (2, "vflip")):
        mirrored = [getattr(draw, word) and not draw.resamples for draw in draws]
        for rows, _ in _where(draws, mirrored, pixels.device):
            _change(pixels, rows, partial(torch.flip, dims=[axis]))
    for rows, chosen in _where(draws, [draw.blur > 0 for draw in draws], pixels.device):
        _change(pixels, rows, partial(blurred, deviations=[draw.blur for draw in chosen], tiles=tiles))
    for word, change in (("brightness", _brightened), ("contrast", _contrasted), ("saturation", _saturated)):
        for rows, chosen in _where(draws, [getattr(draw, word) != 1 for draw in draws], pixels.device):
            _recolour(pixels, rows, tiles, change, [getattr(draw, word) for draw in chosen])
    for rows, chosen in _where(draws, [draw.hue != 0 for draw in draws], pixels.device):
        _recolour(pixels, rows, tiles, _hue_turned, [draw.hue for draw in chosen])
    for rows, chosen in _where(draws, [draw.noise > 0 for draw in draws], pixels.device):
        _add_noise(pixels, rows, tiles, chosen, colours=_have_colours(images[rows]))
    return pixels.clamp_(0, 255).round_().permute(0, 2, 3, 1)  # (N, 3, H, W) -> (N, H, W, 3)


def _change(pixels: Tensor, rows: Tensor | slice, change: Callable[[Tensor], Tensor]) -> None:
    """Change images in place; `change` treats all channels alike."""
    count, channels, height, width = pixels.shape
    if pixels.device.type == "cpu" and count == 1 and height * width > _LARGE:
        for channel in range(channels):
            pixels[:, channel : channel + 1] = change(pixels[:, channel : channel + 1])
    else:
        pixels[rows] = change(pixels[rows])


def _tiles(pixels: Tensor) -> list[slice]:
    """Split the rows of large images into tiles, to limit temporary memory; on a GPU there is one tile."""
    count, _, height, width = pixels.shape
    rows = max(1, PIXELS_AT_ONCE // max(count * width, 1)) if pixels.device.type == "cpu" else height
    return [slice(start, min(start + rows, height)) for start in range(0, height, rows)]


def _where(
    draws: Sequence[AugmentParams], chosen: Sequence[bool], device: torch.device
) -> Iterator[tuple[Tensor | slice, list[AugmentParams]]]:
    """Yield the rows of the chosen images with their draws, once; nothing if none is chosen."""
    rows = [row for row, wanted in enumerate(chosen) if wanted]
    if len(rows) == len(draws):
        yield slice(None), list(draws)
    elif rows:
        yield upload(rows, device), [draws[row] for row in rows]


# ---------------------------------------------------------------- geometry


def _resampled(pixels: Tensor, draws: Sequence[AugmentParams], fill: Fill, tiles: Sequence[slice]) -> Tensor:
    """Resample each image, (N, C, H, W), by bilinear interpolation."""
    height, width = pixels.shape[2:]
    matrices = np.stack([affine_matrix(draw, height=height, width=width) for draw in draws])  # (N, 3, 3)
    across, down = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    # Coordinates are a sum of a column term (N, 2, W) and a row term (N, 2, H), so only these are in double precision
    by_column = matrices[:, :2, 0, None] * across + matrices[:, :2, 2, None]
    by_row = matrices[:, :2, 1, None] * down
    sides = np.array([width, height], dtype=np.float64)[:, None]
    if fill is not Fill.WRAP:  # to the units of grid_sample: -1 and 1 are the outer edges of the image
        by_column, by_row = (2 * by_column + 1) / sides - 1, 2 * by_row / sides
    columns = upload(torch.from_numpy(by_column.astype(np.float32)), pixels.device).permute(0, 2, 1)[
        :, None
    ]  # (N, 1, W, 2)
    rows = upload(torch.from_numpy(by_row.astype(np.float32)), pixels.device).permute(0, 2, 1)[
        :, :, None
    ]  # (N, H, 1, 2)
    if fill is Fill.WRAP:
        # Repeat the first row and column after the last, so that interpolation wraps around
        pixels = functional.pad(pixels, (0, 1, 0, 1), mode="circular")
    mode = {Fill.CONSTANT: "zeros", Fill.REFLECT: "reflection"}.get(fill, "border")
    copies = pixels.new_empty((len(draws), pixels.shape[1], height, width))
    for tile in tiles:
        places = rows[:, tile] + columns  # (N, rows, W, 2)
        if fill is Fill.WRAP:
            for axis, side in ((0, width), (1, height)):
                inside = places[..., axis].remainder_(side)
                inside.mul_(2).add_(1).div_(side + 1).sub_(1)
        copies[:, :, tile] = functional.grid_sample(
            pixels, places, mode="bilinear", padding_mode=mode, align_corners=False
        )
    return copies


# ---------------------------------------------------------------- blur and noise


def blurred(pixels: Tensor, deviations: Sequence[float], tiles: Sequence[slice]) -> Tensor:
    """Blur images, (N, C, H, W), each by its own Gaussian; their edges are repeated outside."""
    if pixels.device.type != "cpu" or len(deviations) == 1:
        return blurred_together(pixels, deviations, tiles)
    # On the CPU one by one, each with as few taps as it needs; on a GPU one call with the most taps is faster
    parts = zip(torch.split(pixels, 1), deviations, strict=True)
    return torch.cat([blurred_together(part, [deviation], tiles) for part, deviation in parts])


def blurred_together(pixels: Tensor, deviations: Sequence[float], tiles: Sequence[slice]) -> Tensor:
    reaches = [max(1, round(_BLUR_REACH * deviation)) for deviation in deviations]
    reach = max(reaches)
    weights = np.zeros((len(deviations), 2 * reach + 1))
    for row, deviation, own in zip(weights, deviations, reaches, strict=True):
        row[reach - own : reach + own + 1] = np.exp(-0.5 * (np.arange(-own, own + 1) / deviation) ** 2)
    taps = upload(torch.from_numpy((weights / weights.sum(1, keepdims=True)).astype(np.float32)), pixels.device)
    height, width = pixels.shape[2:]
    copies = torch.empty_like(pixels)
    for tile in tiles:
        around = pixels.index_select(2, _clamped(tile.start - reach, tile.stop + reach, height, pixels.device))
        across = _tapped(around, taps, 2, tile.stop - tile.start)
        across = across.index_select(3, _clamped(-reach, width + reach, width, pixels.device))
        copies[:, :, tile] = _tapped(across, taps, 3, width)
    return copies


def _clamped(start: int, stop: int, side: int, device: torch.device) -> Tensor:
    return torch.arange(start, stop, device=device).clamp(0, side - 1)


def _tapped(padded: Tensor, taps: Tensor, axis: int, side: int) -> Tensor:
    """Sum up shifted images one after the other, since the order of sums in a convolution depends on the number of threads."""
    first = padded.narrow(axis, 0, side)
    total = torch.zeros_like(first, memory_format=torch.contiguous_format)
    for step in range(taps.shape[1]):
        total += padded.narrow(axis, step, side) * taps[:, step, None, None, None]
    return total


def _have_colours(images: Tensor) -> Tensor:
    """Return which images, (N, H, W, 3), are not entirely grey, (N,)."""
    return (images != images[..., :1]).flatten(1).any(1)


def _add_noise(
    pixels: Tensor, rows: Tensor | slice, tiles: Sequence[slice], draws: Sequence[AugmentParams], *, colours: Tensor
) -> None:
    """Add noise to each image; grey images stay grey.

    It is drawn with numpy on one core, also for a GPU, so that a copy is the same on every machine. That takes about 2 ms for 224 x 224
    pixels, during which a GPU waits: for the fastest training on a GPU, leave `noise` out.
    """
    height, width = pixels.shape[2:]
    drawn = [noise(draw, height=height, width=width, rows=[tile.stop - tile.start for tile in tiles]) for draw in draws]
    for tile in tiles:
        fields = [255 * draw.noise * next(field) for draw, field in zip(draws, drawn, strict=True)]
        field = upload(torch.from_numpy(np.stack(fields)), pixels.device).permute(0, 3, 1, 2)  # (N, 3, rows, W)
        pixels[rows, :, tile] += torch.where(colours[:, None, None, None], field, field[:, :1])


# ---------------------------------------------------------------- colours, as torchvision's functions of the same names


def _recolour(
    pixels: Tensor,
    rows: Tensor | slice,
    tiles: Sequence[slice],
    change: Callable[..., Tensor],
    amounts: Sequence[float],
) -> None:
    """Change the colours of images in place, and clip them."""
    amount = upload(amounts, pixels.device)[:, None, None, None]
    more = [_mean_grey(pixels, rows, tiles)] if change is _contrasted else []
    for tile in tiles:
        pixels[rows, :, tile] = change(pixels[rows, :, tile], amount, *more).clamp_(0, 255)


def _brightened(pixels: Tensor, factors: Tensor) -> Tensor:
    return pixels * factors


def _contrasted(pixels: Tensor, factors: Tensor, mean: Tensor) -> Tensor:
    """Move every value towards or away from the image's mean grey."""
    return pixels * factors + mean * (1 - factors)


def _mean_grey(pixels: Tensor, rows: Tensor | slice, tiles: Sequence[slice]) -> Tensor:
    # Integers in double precision: their sum is exact in any order
    sums = [_grey(pixels[rows, :, tile]).floor().double().sum(dim=(1, 2, 3), keepdim=True) for tile in tiles]
    return (torch.stack(sums).sum(0) / (pixels.shape[2] * pixels.shape[3])).float()


def _saturated(pixels: Tensor, factors: Tensor) -> Tensor:
    """Move every pixel towards or away from its grey."""
    return pixels * factors + _grey(pixels) * (1 - factors)


def _hue_turned(pixels: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue; value and chroma are kept.

    Source: the HSV alternative without cases, f(n) = V - C max(0, min(k, 4 - k, 1)) with k = (n + H/60°) mod 6 for n = 5, 3, 1.
    """
    red, green, blue = pixels.unbind(1)
    value = pixels.amax(1)
    chroma = value - pixels.amin(1)
    safe = chroma.clamp(min=1e-6)  # grey has no hue
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
