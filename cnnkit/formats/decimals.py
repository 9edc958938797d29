"""Numbers of float32 as decimals. Imports no NumPy."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def shortest(value: "np.float32") -> float:
    """Convert to the shortest decimal number that rounds to this float32: 0.9871, not 0.9871000051498413."""
    return float(str(value))
