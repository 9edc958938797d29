"""Upsampling of a map of a few cells to the pixels of an image, by the centre of each cell; its peak, and the box of its hot region."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from cnnkit.data.duplicates import DisjointSets
from cnnkit.nets.cell_centres import Along, CellCentres, tiled

#: left, top, right, bottom in pixels.
Box = tuple[int, int, int, int]


def resize(
    found: NDArray[np.float32], size: tuple[int, int], centres: CellCentres | None = None
) -> NDArray[np.float32]:
    """Upsample a map to the input of the network, (h, w) -> (H, W); `size` is (W, H), `centres` as for `upsample`."""
    width, height = size
    return upsample(found, (0.0, 0.0, float(width), float(height)), (0, 0, width, height), centres)


def upsample(
    found: NDArray[np.float32],
    window: tuple[float, float, float, float],
    part: Box,
    centres: CellCentres | None = None,
) -> NDArray[np.float32]:
    """Upsample a map bilinearly to the window of the network's input, and return a part of it.

    Args:
        found: (h, w).
        window: The network's input in pixels of the image, from `preprocessing.window`.
        part: The part to return, in pixels of the image.
        centres: The centres of cells in the network's input; by default they tile it.

    Returns:
        (bottom - top, right - left) of the part. Beyond the centres of the outer cells values are constant.
    """
    placed = centres or tiled((found.shape[0], found.shape[1]))
    left, top, right, bottom = window
    rows, down = _between(found.shape[0], placed.rows, placed.size[0], top, bottom, part[1], part[3])
    columns, across = _between(found.shape[1], placed.columns, placed.size[1], left, right, part[0], part[2])
    lines = found[rows] * (1 - down)[:, None] + found[rows + (down > 0)] * down[:, None]  # (H, w)
    both = lines[:, columns] * (1 - across) + lines[:, columns + (across > 0)] * across
    return both.astype(np.float32, copy=False)


def _between(
    cells: int, along: Along, length: int, start: float, end: float, first: int, last: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find for each pixel the cell before it, and its distance from that one as a share of the step to the next."""
    shares = (np.arange(first, last) + 0.5 - start) / (end - start)
    places = np.clip(shares * (length / along.step) - (0.5 + along.first) / along.step, 0, cells - 1)
    before = places.astype(np.int64)
    return before, (places - before).astype(np.float32)


def visible_box(window: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    """Return the pixels of an image of a size (W, H) that are in the window, at least one."""
    left, top, right, bottom = (round(edge) for edge in window)
    left, top = min(max(left, 0), size[0] - 1), min(max(top, 0), size[1] - 1)
    return left, top, min(max(right, left + 1), size[0]), min(max(bottom, top + 1), size[1])


def argmax_pixel(
    found: NDArray[np.float32],
    window: tuple[float, float, float, float],
    part: Box,
    centres: CellCentres | None = None,
) -> tuple[int, int] | None:
    """Return the pixel (x, y) at the centre of the hottest cell in the part; None if all cells are zero.

    Args as `upsample`. A cell whose centre is in the padding of a convolution counts as at the border.
    """
    placed = centres or tiled((found.shape[0], found.shape[1]))
    left, top, right, bottom = window
    x = left + (right - left) * _shares(found.shape[1], placed.columns, placed.size[1])
    y = top + (bottom - top) * _shares(found.shape[0], placed.rows, placed.size[0])
    inside = ((part[1] <= y) & (y < part[3]))[:, None] & ((part[0] <= x) & (x < part[2]))
    visible = np.where(inside, found, 0)
    if not visible.max() > 0:
        return None
    row, column = np.unravel_index(int(visible.argmax()), found.shape)
    return int(x[column]), int(y[row])


def _shares(cells: int, along: Along, length: int) -> NDArray[np.float64]:
    """Return the centres of cells as shares of the network's input, 0 to 1."""
    middles = along.first + 0.5 + along.step * np.arange(cells)
    shares: NDArray[np.float64] = np.clip(middles, 0.5, length - 0.5) / length
    return shares


def hot_box(heat: NDArray[np.float32], share: float, part: Box) -> Box | None:
    """Return the bounding box of the largest connected region of at least `share` of the largest value.

    Args:
        heat: (H, W), of a part of an image.
        share: 0 to 1.
        part: That part, in pixels of the image.

    Returns:
        In pixels of the image; right and bottom are exclusive. None if the map is zero everywhere.

    Source: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, section 3.2.
    """
    highest = float(heat.max())
    if not highest > 0:
        return None
    x0, y0, x1, y1 = largest_region(heat >= share * highest)
    left, top = part[:2]
    return left + x0, top + y0, left + x1, top + y1


def largest_region(hot: NDArray[np.bool_]) -> Box:
    """Return the bounding box of the largest connected region, of pixels that share a side; of the first one, if several are as large.

    Runs of pixels in a row are united with those of the row above that they touch. A smooth map has few of them.

    Args:
        hot: (H, W); some pixel is true.

    Returns:
        In pixels; right and bottom are exclusive.
    """
    changes = np.nonzero(np.diff(hot, axis=1, prepend=False, append=False))
    # Of each run, from top to bottom and from left to right
    rows, starts, ends = changes[0][::2].tolist(), changes[1][::2].tolist(), changes[1][1::2].tolist()
    regions = DisjointSets(len(rows))
    above = 0
    for run, (row, start, end) in enumerate(zip(rows, starts, ends, strict=True)):
        while rows[above] < row - 1 or (rows[above] == row - 1 and ends[above] <= start):
            above += 1  # it touches no later run
        touching = above
        while rows[touching] == row - 1 and starts[touching] < end:
            regions.unite(touching, run)
            touching += 1
    sizes: Counter[int] = Counter()
    for run, (start, end) in enumerate(zip(starts, ends, strict=True)):
        sizes[regions.root(run)] += end - start
    largest = min(sizes, key=lambda region: (-sizes[region], region))
    inside = [run for run in range(len(rows)) if regions.root(run) == largest]
    return (
        min(starts[run] for run in inside),
        rows[inside[0]],
        max(ends[run] for run in inside),
        rows[inside[-1]] + 1,
    )
