"""Logistic regression on all rows at once, for one strength of the penalty or for one after another.

The minimum is that of scikit-learn's `LogisticRegression`. Features of networks are badly conditioned: the variances of their principal
components differ by many orders of magnitude, and L-BFGS on the features themselves takes hundreds of steps. It is run on coordinates along
the principal components, scaled so that the Hessian is near the identity; a decomposition serves all strengths.
"""

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn

from cnnkit.choices import Loss
from cnnkit.train.config import Epoch
from cnnkit.train.loop import evaluate, in_order
from cnnkit.train.optim import Criterion

#: Penalty strengths to try, from strong to weak, each starting from the previous solution.
STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(2, -13, -1))
#: Stop after this many strengths in a row without a lower validation loss: weaker penalties take the most time.
STRENGTHS_PATIENCE = 3

# The largest matrix whose eigenvectors are computed, a minute on two cores; larger problems are scaled column by column.
_MOST_COMPONENTS = 4096
# Components with less than this share of the largest variance are rounding errors of the matrix of products.
_RESOLUTION = 1e-12
# Rows that are converted to float64 at a time.
_ROWS = 4096
# Of the slopes of the mean loss in the scaled coordinates; it leaves probabilities of photographs wrong by at most 1e-4.
_TOLERANCE = 1e-6


class LogisticRegression:
    """Minimize mean cross-entropy + l2 * sum w**2 over the layers (D,) -> (outputs,), for any number of strengths.

    With l2 = 1 / (2 * C * N) this is scikit-learn's `LogisticRegression(C=C)`. Of several labels per image, the loss is the mean over the
    classes, and with l2 = 1 / (2 * C * N * classes) this is scikit-learn's `OneVsRestClassifier(LogisticRegression(C=C))`.
    """

    def __init__(self, features: Tensor, targets: Tensor, *, criterion: Criterion) -> None:
        """Decompose the features.

        Args:
            features: (N, D).
            targets: (N,); of several labels per image, (N, classes), for one logistic regression per class.
            criterion: For class weights and smoothing; its penalties are ignored.
        """
        self._targets = targets
        #: The number of problems that the loss is the mean of.
        self._parts = targets.shape[1] if targets.ndim == 2 else 1
        weights = None if criterion.class_weights is None else criterion.class_weights.double()
        self._criterion = Criterion(criterion.loss, criterion.smoothing, weights)
        self._total = criterion.weight(targets).double()
        self._mean = features.mean(0, dtype=torch.float64)  # (D,)
        self._basis, self._variances = _principal(features, self._mean)
        if self._basis is None:
            self._rows = features.double() - self._mean
        else:
            parts = [(part.double() - self._mean) @ self._basis for part in torch.split(features, _ROWS)]
            self._rows = torch.cat(parts)  # (N, D) @ (D, R) -> (N, R)

    def solve(self, layer: nn.Linear, *, l2: float) -> None:
        """Fit a layer in place, starting from its weights.

        Args:
            layer: (D,) -> (outputs,).
            l2: Strength of the penalty on weights, without biases.
        """
        # In float64: the last steps change the loss by less than float32 resolves, and probabilities by more than 1e-3
        weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
        bias = bias + weight @ self._mean  # of centred rows
        start = weight if self._basis is None else weight @ self._basis  # (outputs, R)
        curvature = self._curvature((start @ self._rows.T).T + bias)
        curvatures = self._variances * curvature + 2 * l2
        # Without a penalty, that of a constant column is zero; no slope moves it from its start
        least = _RESOLUTION * max(curvatures.tolist(), default=0.0)
        scales = curvatures.clamp(min=least or 1.0).rsqrt()  # (R,)
        bias_scale = 1 / math.sqrt(curvature)

        def unscaled(point: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
            values = torch.from_numpy(point).to(self._rows.device)
            return scales * values[: start.numel()].view_as(start), bias_scale * values[start.numel() :]

        def loss_and_gradient(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            inner, shift = unscaled(point)
            # Products with few rows are several times as fast as those with few columns
            logits = ((inner @ self._rows.T).T + shift).requires_grad_()  # (outputs, R) @ (R, N) -> (N, outputs)
            loss = self._criterion.total(logits, self._targets) / self._total
            (slopes,) = torch.autograd.grad(loss, logits)
            of_inner = slopes.T.contiguous() @ self._rows + 2 * l2 * inner  # (outputs, N) @ (N, R)
            gradient = torch.cat([(scales * of_inner).flatten(), bias_scale * slopes.sum(0)])
            return float(loss.detach() + l2 * inner.square().sum()), gradient.cpu().numpy()

        found = minimize(
            loss_and_gradient,
            torch.cat([(start / scales).flatten(), bias / bias_scale]).cpu().numpy(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 500, "maxfun": 1000, "maxcor": 20, "gtol": _TOLERANCE / self._parts, "ftol": 1e-15},
        )
        inner, shift = unscaled(found.x)
        whole = inner if self._basis is None else inner @ self._basis.T  # (outputs, R) @ (R, D) -> (outputs, D)
        with torch.no_grad():
            layer.weight.copy_(whole)  # rounds
            layer.bias.copy_(shift - whole @ self._mean)

    def _curvature(self, logits: Tensor) -> float:
        """Return the mean second derivative of the loss by a logit, p * (1 - p): small if the classes are separated."""
        shares = logits.sigmoid() if self._criterion.loss is Loss.BINARY else logits.softmax(1)
        return max(float((shares * (1 - shares)).mean()) / self._parts, 1e-6 / self._parts)


def _principal(features: Tensor, mean: Tensor) -> tuple[Tensor | None, Tensor]:
    """Find the principal components of features.

    Returns:
        Orthonormal columns that span the rows of the features, (D, R), and the variance along each of them, (R,). If both N and D
        are large: None for the columns of the identity, and the variance of each column of the features.
    """
    count, width = features.shape
    if min(count, width) > _MOST_COMPONENTS:
        parts = [(part.double() - mean).square().sum(0) for part in torch.split(features, _ROWS)]
        return None, torch.stack(parts).sum(0) / count
    if count >= width:
        products = torch.zeros(width, width, dtype=torch.float64, device=features.device)
        for part in torch.split(features, _ROWS):
            centred = part.double() - mean
            products.addmm_(centred.T, centred)
        values, vectors = torch.linalg.eigh(products)
        return vectors, values.clamp(min=0) / count
    centred = features.double() - mean
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    kept = values > _RESOLUTION * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    return centred.T @ (vectors / values.sqrt()), values / count


def solve_logistic(layer: nn.Linear, features: Tensor, targets: Tensor, *, l2: float, criterion: Criterion) -> None:
    """Fit a layer in place for one strength; arguments as `LogisticRegression`."""
    LogisticRegression(features, targets, criterion=criterion).solve(layer, l2=l2)


def regularization_path(
    layer: nn.Linear,
    train: tuple[Tensor, Tensor],
    validate: tuple[Tensor, Tensor] | None,
    *,
    strengths: tuple[float, ...],
    criterion: Criterion,
) -> Iterator[tuple[float, Epoch]]:
    """Solve for one strength after another, and report each as an epoch.

    Yields:
        The strength, and its measures; `lr` is 0.
    """
    plain = Criterion(criterion.loss)
    losses: list[float] = []
    started = time.perf_counter()
    problem = LogisticRegression(*train, criterion=criterion)
    for number, strength in enumerate(strengths, start=1):
        problem.solve(layer, l2=strength)
        train_loss, train_accuracy = evaluate(layer, in_order(*train), plain)
        val_loss, val_accuracy = evaluate(layer, in_order(*validate), plain) if validate else (None, None)
        seconds = round(time.perf_counter() - started, 3)
        yield strength, Epoch(number, train_loss, train_accuracy, val_loss, val_accuracy, 0.0, seconds)
        losses.append(math.inf if val_loss is None else val_loss)
        if len(losses) > STRENGTHS_PATIENCE and min(losses[-STRENGTHS_PATIENCE:]) > min(losses[:-STRENGTHS_PATIENCE]):
            return
        started = time.perf_counter()
