"""Colour maps by name, and values turned into colours."""

import base64

import numpy as np
from numpy.typing import NDArray

from cnnkit import messages, packages
from cnnkit.errors import MissingPackageError, UsageError
from cnnkit.explain.colormap_tables import TABLES


def color_table(name: str) -> NDArray[np.uint8]:
    """Return the 256 colours of a colour map of matplotlib, (256, 3). The usual ones need no matplotlib.

    Raises:
        UsageError: There is no such colour map.
        MissingPackageError: It may be one that needs matplotlib, which is not installed.
    """
    if name in TABLES:
        return np.frombuffer(base64.b64decode(TABLES[name]), dtype=np.uint8).reshape(256, 3)
    if not packages.is_installed("matplotlib"):
        raise MissingPackageError(
            f'--colormap "{name}" needs matplotlib, which is not installed; give one of {", ".join(TABLES)}, or '
            f"{packages.remedy('matplotlib')}"
        )
    import matplotlib as mpl  # here, as most heat maps need none of its other maps

    if name not in mpl.colormaps:
        proposal = messages.nearest(name, mpl.colormaps) or "give one of matplotlib, such as viridis, magma or turbo"
        raise UsageError(f'--colormap: no colour map "{name}"; {proposal}')
    colours: NDArray[np.uint8] = (mpl.colormaps[name](np.arange(256) / 255)[:, :3] * 255).round().astype(np.uint8)
    return colours


def colorize(values: NDArray[np.float32], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn values from 0 to 1 into colours, (...) -> (..., 3)."""
    return colours[(np.clip(values, 0, 1) * 255).round().astype(np.uint8)]
