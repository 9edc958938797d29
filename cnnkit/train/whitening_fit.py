"""Fit the whitening of images on the training set: covariance of all pixels, its eigenvectors, and the matrix."""

import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnkit.choices import Whiten
from cnnkit.errors import CnnkitError
from cnnkit.formats.header import LUMA, Preprocess

#: Added to the variance of every component, as a share of their mean.
EPSILON = 1.0

_ROWS = 256  # that are multiplied at once


class PixelSums:
    """Sums of the pixels of images, and of the products of all pairs of them: D * D numbers in memory.

    Pixels are integers, and so are their sums, up to 2**53: they are exact, and depend neither on the order of the images nor on the
    number of threads. With more than 138,000 grey images, whose brightness is counted in thousandths, they are rounded.
    """

    def __init__(self, prepare: Preprocess) -> None:
        """`prepare` gives the shape of the images, and whether they are reduced to their brightness."""
        # Brightness is a sum of thousandths
        self._weights = (
            torch.tensor([round(1000 * share) for share in LUMA], dtype=torch.long) if prepare.grey else None
        )
        self._largest = 255 * (1 if self._weights is None else int(self._weights.sum()))
        values = prepare.channels * prepare.height * prepare.width
        self._rows = torch.empty(_ROWS, values, dtype=torch.float64)
        self._waiting = self._count = 0
        self._sums = torch.zeros(values, dtype=torch.float64)
        self._products = torch.zeros(values, values, dtype=torch.float64)

    def add(self, pixels: NDArray) -> None:  # type: ignore[type-arg] # uint8
        """Add one image, uint8 (H, W, 3)."""
        image = torch.from_numpy(pixels.copy())
        channels = image.permute(2, 0, 1) if self._weights is None else (image * self._weights).sum(2)
        self._rows[self._waiting] = channels.reshape(-1)
        self._waiting += 1
        if self._waiting == _ROWS:
            self._multiply()

    def _multiply(self) -> None:
        rows = self._rows[: self._waiting]
        self._sums += rows.sum(0)
        self._products.addmm_(rows.T, rows)
        self._count += self._waiting
        self._waiting = 0

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean image (D,) and the covariance of its pixels (D, D), as float64, of values from 0 to 1 in the order (C, H, W).

        The sums are used up: the covariance takes their place in memory.
        """
        self._multiply()
        mean = self._sums / self._count
        covariance = self._products.addr_(self._sums, mean, alpha=-1)
        covariance /= max(self._count - 1, 1) * self._largest**2
        return mean / self._largest, covariance


def fit(mean: Tensor, covariance: Tensor, whiten: Whiten, *, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the mean and the matrix of `Whitening`.

    With eigenvectors U (columns) and eigenvalues l of the covariance, this is U diag(1 / sqrt(l + e)) for `pca`, as scikit-learn's
    `PCA(whiten=True)` for e = 0, and U diag(1 / sqrt(l + e)) U^T for `zca`.

    Args:
        mean: (D,).
        covariance: (D, D), float64.
        whiten: Which.
        epsilon: e as a share of the mean eigenvalue. It bounds the factor by which directions without variance are scaled, as there are if
            there are fewer images than pixels.

    Raises:
        CnnkitError: All images are equal.
    """
    variances, components = torch.linalg.eigh(covariance)
    variances = variances.clamp(min=0)  # up to rounding
    least = epsilon * float(variances.mean())
    if least < 1e-12:
        raise CnnkitError("all training images are equal, so that there is nothing to whiten; use --normalize standard")
    scales = (variances + least).rsqrt()
    if whiten is Whiten.ZCA:
        return mean, (components * scales) @ components.T
    # By decreasing variance; the largest entry of each component is positive, as in scikit-learn
    scales, components = scales.flip(0), components.flip(1)
    largest = components.gather(0, components.abs().argmax(0, keepdim=True))
    return mean, components * largest.sign() * scales
