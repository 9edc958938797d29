"""Standardization, PCA and whitening: fitted on the training set, then folded into the head as a linear layer."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnkit.errors import UsageError
from cnnkit.nets import build, classifier

#: Standard deviations below this share of the values count as zero. The head that the map is folded into computes in float32, and
#: scaling would amplify its rounding errors: at this share to about 1e-3 of a standard deviation.
RESOLUTION = 1e-4


@dataclass(frozen=True, slots=True)
class Preparation:
    """An affine map of feature vectors, x -> matrix @ x + shift; (M, D) and (M,)."""

    matrix: Tensor
    shift: Tensor

    def to(self, device: torch.device) -> "Preparation":
        """Copy to a device."""
        return Preparation(self.matrix.to(device), self.shift.to(device))

    def __call__(self, features: Tensor) -> Tensor:
        """Map rows, (N, D) -> (N, M)."""
        return features @ self.matrix.T + self.shift


def fit(
    features: Tensor, *, standardize: bool = False, pca: int | None = None, whiten: bool = False
) -> Preparation | None:
    """Fit on training rows, as scikit-learn's StandardScaler and PCA.

    Args:
        features: (N, D).
        standardize: Scale every column to mean 0 and standard deviation 1; a column that is constant, up to rounding, becomes 0.
        pca: Keep this many principal components, after standardization.
        whiten: Scale every component to standard deviation 1; without `pca` all components are kept, except those without
            variance, up to rounding.

    Returns:
        The map, or None if nothing is to be done.

    Raises:
        UsageError: The features have spatial dimensions, or fewer components than `pca`.
    """
    if not standardize and pca is None and not whiten:
        return None
    if features.ndim != 2:
        raise UsageError("--standardize, --pca and --whiten need vectors; extract with --pool avg, max or flatten")
    rows = features.double().cpu().numpy()
    matrix, shift = torch.eye(rows.shape[1], dtype=torch.float64), torch.zeros(rows.shape[1], dtype=torch.float64)
    if standardize:
        means, deviations = _moments(rows)
        # A channel that is nearly dead compared with the others counts as constant too
        least = np.maximum(RESOLUTION * np.abs(means), RESOLUTION**2 * deviations.max())
        scales = np.where(deviations > least, 1.0 / deviations, 0.0)
        matrix, shift = torch.diag(torch.from_numpy(scales)), torch.from_numpy(-means * scales)
        rows = (rows - means) * scales
    if pca is not None or whiten:
        most = min(len(rows) - 1, rows.shape[1])
        if pca is not None and pca > most:
            raise UsageError(
                f"--pca {pca}: {len(rows)} rows of {rows.shape[1]} features have at most {most} components"
            )
        from sklearn.decomposition import PCA  # here: a second to import

        fitted = PCA(pca or most, svd_solver="full").fit(rows)
        components = torch.from_numpy(fitted.components_)  # (M, D)
        if whiten:
            deviation = torch.from_numpy(fitted.explained_variance_).sqrt()
            size = float(np.sqrt((rows**2).sum(1).mean()))  # norm of a row, which limits the resolution of deviations
            real = deviation > RESOLUTION * size
            components = components[real] / deviation[real][:, None]
        matrix, shift = components @ matrix, components @ (shift - torch.from_numpy(fitted.mean_))
    return Preparation(matrix, shift)


def _moments(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute mean and standard deviation of every column with the operations of scikit-learn's StandardScaler, which takes long to import.

    Returns:
        (D,) and (D,); the deviation of a column that is constant up to rounding is 1.
    """
    count, eps = len(rows), np.finfo(np.float64).eps
    means = rows.sum(0) / count
    differences = rows - means
    variances = ((differences**2).sum(0) - differences.sum(0) ** 2 / count) / count
    constant = variances <= count * eps * variances + (count * means * eps) ** 2
    return means, np.sqrt(np.where(constant, 1.0, variances))


def applied(preparation: Preparation | None, features: Tensor) -> Tensor:
    """Map float32 rows, computing in float64, (N, D) -> (N, M); without a map they are returned unchanged."""
    if preparation is None:
        return features
    return preparation.to(features.device)(features.double()).float()


def extended(preparation: Preparation | None, *, others: int) -> Preparation | None:
    """Extend a map of features to rows with other values after them, which stay unchanged."""
    if preparation is None or not others:
        return preparation
    identity = torch.eye(others, dtype=torch.float64)
    return Preparation(
        torch.block_diag(preparation.matrix.double(), identity),  # type: ignore[no-untyped-call] # torch has no types here
        torch.cat([preparation.shift.double(), torch.zeros(others, dtype=torch.float64)]),
    )


def fold(preparation: Preparation, head: build.Network, text: str) -> tuple[build.Network, str]:
    """Fold the preparation into a head that was trained on prepared features.

    Args:
        preparation: The map that the head's training rows went through.
        head: Trained on prepared rows; (M,) -> logits.
        text: Its whole notation.

    Returns:
        A head for (D,), with its notation: the map becomes part of the first dense layer, or, if the first layer is of another
        kind, a dense layer before it.
    """
    width = preparation.matrix.shape[1]
    matrix, shift = preparation.matrix.double(), preparation.shift.double()
    first = next(iter(head), None)
    if isinstance(first, nn.Linear) and first.bias is not None:
        whole, whole_text = classifier.build_head(text, (width,)), text
        state = {name: tensor.cpu() for name, tensor in head.state_dict().items()}
        name = next(iter(dict(head.named_children())))
        weight, bias = state[f"{name}.weight"].double(), state[f"{name}.bias"].double()
        state[f"{name}.weight"], state[f"{name}.bias"] = (weight @ matrix).float(), (weight @ shift + bias).float()
        whole.load_state_dict(state)
        return whole, whole_text
    whole_text = f"dense {len(matrix)}, {text}"
    whole = classifier.build_head(whole_text, (width,))
    # Names are numbered again after the added layer: the tensors' order stays
    values = [matrix.float(), shift.float(), *(tensor.cpu() for tensor in head.state_dict().values())]
    whole.load_state_dict(dict(zip(whole.state_dict(), values, strict=True)))
    return whole, whole_text
