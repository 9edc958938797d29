"""Novelty of images: the distance of their features to those of the training images, as a Mahalanobis distance. NumPy only.

Features are divided by their length. Those of each class are taken to be normally distributed around the class's mean, with a covariance
that all classes share. It is estimated with the shrinkage of Ledoit and Wolf, and stored as its longest axes and one variance for all
others, so that a network with it is little larger, however many images it was trained on.

Sources:
    Lee, Lee, Lee, Shin, A simple unified framework for detecting out-of-distribution samples and adversarial attacks, NeurIPS 2018,
    equations 1 and 2 (class means, shared covariance).
    Sehwag, Chiang, Mittal, SSD: A unified framework for self-supervised outlier detection, ICLR 2021 (features of length 1).
    Ledoit, Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004 (shrinkage).
    Tipping, Bishop, Probabilistic principal component analysis, 1999, equation 8 (one variance for the other axes).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import CnnkitError

#: The most axes that are stored. With 16 to 512 of them, the area under the ROC curve of MobileNetV2 and SqueezeNet differs by .003.
COMPONENTS = 128

#: The shortest length that features are divided by: features of zeros stay zeros.
SHORTEST = 1e-12

# The most training images whose features give the covariance, if there are more values per image than that: its eigenvectors take minutes.
_MOST_ROWS = 2048

# The share of the largest variance that counts as zero.
_NOTHING = 1e-9

# How much higher a threshold is than the novelty of an image that is not above it: the rounding error of a network in float32.
_MARGIN = 1e-4

# Rows converted at once.
_BLOCK = 4096


@dataclass(frozen=True, slots=True, eq=False)
class TrainingFeatures:
    """The distribution of the features of training images: D values each, d axes, K classes.

    A vector minus the mean has D + d coordinates with variance 1 / D: its part across all axes, and its components along them.

    Attributes:
        mean: (D,) float32, that of all images.
        axes: (D, d) float16, of length 1 and at right angles.
        across: The factor of the part across the axes.
        along: (d,) float32, the factors of the components along the axes.
        classes: (K, D + d) float16, the coordinates of the means of the classes.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float16]
    across: np.float32
    along: NDArray[np.float32]
    classes: NDArray[np.float16]

    def coordinates(self, away: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the coordinates of vectors minus the mean, (N, D) -> (N, D + d)."""
        axes = self.axes.astype(np.float64)
        components = away @ axes  # (N, d)
        return np.concatenate([(away - components @ axes.T) * self.across, components * self.along], axis=1)


def pooled(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return one vector per image: the mean over the places of maps (N, C, h, w); vectors as they are."""
    values = np.asarray(features, dtype=np.float32)
    return values.mean(axis=(2, 3)) if values.ndim == 4 else values


def normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide vectors (N, D) by their lengths."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    divided: NDArray[np.float32] = (vectors / np.maximum(lengths, SHORTEST)).astype(np.float32)
    return divided


def fit(
    vectors: NDArray[np.float32], labels: Sequence[str | None], *, components: int = COMPONENTS
) -> TrainingFeatures:
    """Estimate the distribution of the features of training images.

    Args:
        vectors: (N, D), from `pooled`.
        labels: Their classes. If one is unknown, all images count as one class.
        components: The most axes.

    Raises:
        CnnkitError: A value is not finite, there are too few images, or their features do not differ.
    """
    rows = normalized(vectors)
    if not np.isfinite(rows).all():
        raise CnnkitError("features that are not finite; extract them again")
    count, width = rows.shape
    names = [""] * count if None in labels else [label or "" for label in labels]
    classes = sorted(set(names))
    if count <= len(classes):
        raise CnnkitError(
            f"{count} training images of {len(classes)} classes are too few for a distance; at least one class needs two images"
        )
    numbers = {label: number for number, label in enumerate(classes)}
    member = np.array([numbers[name] for name in names])
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    means = np.stack([rows[member == number].mean(axis=0, dtype=np.float64) for number in range(len(classes))])
    if width > _MOST_ROWS and count > _MOST_ROWS:
        chosen = np.arange(_MOST_ROWS) * count // _MOST_ROWS
        rows, member = rows[chosen], member[chosen]
    variances, directions, rest = _covariance(rows - means[member].astype(np.float32), components=components)
    if not rest > np.finfo(np.float64).tiny or not math.isfinite(rest):
        raise CnnkitError("the training images all have the same features; nothing can be measured with them")
    training = TrainingFeatures(
        mean,
        directions.astype(np.float16),
        np.float32(1 / math.sqrt(rest * width)),
        (1 / np.sqrt(variances * width)).astype(np.float32),
        np.empty((0, width + len(variances)), dtype=np.float16),
    )
    return replace(training, classes=training.coordinates(means - mean).astype(np.float16))


def _covariance(
    rows: NDArray[np.float32], *, components: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Estimate the covariance of rows (N, D) around zero, with shrinkage.

    Returns:
        The variances along the longest axes (d,), the longest first; these axes (D, d); and the mean variance along the others.
    """
    count, width = rows.shape
    if count < width:  # the same eigenvalues, of a smaller matrix
        exact = rows.astype(np.float64)
        matrix = exact @ exact.T / count  # (N, N)
    else:
        matrix = np.zeros((width, width))
        for start in range(0, count, _BLOCK):
            block = rows[start : start + _BLOCK].astype(np.float64)
            matrix += block.T @ block / count  # (D, D)
    squares = float((matrix**2).sum())
    total = float(np.trace(matrix))
    blocks = (rows[start : start + _BLOCK].astype(np.float64) for start in range(0, count, _BLOCK))
    lengths = np.concatenate([(block**2).sum(axis=1) for block in blocks])  # (N,), squared
    fourth = float((lengths**2).sum()) / count
    mean = total / width
    distance = squares / width - mean**2
    error = (fourth - squares) / (width * count)
    shrinkage = min(1.0, error / distance) if distance > 0 else 1.0
    values, vectors = (each[..., ::-1] for each in np.linalg.eigh(matrix))
    kept = min(components, width - 1, int((values > _NOTHING * values[0]).sum()))
    values, vectors = values[:kept], vectors[:, :kept]
    if count < width:
        vectors = exact.T @ vectors / np.sqrt(values * count)
    # An axis has two directions: the one whose longest component is positive
    vectors = vectors * np.where(vectors[np.abs(vectors).argmax(axis=0), np.arange(kept)] < 0, -1.0, 1.0)
    variances = (1 - shrinkage) * values + shrinkage * mean
    return variances, vectors, (total - float(variances.sum())) / (width - kept)


def distances(training: TrainingFeatures, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the novelty of images (N,): the Mahalanobis distance to the nearest class, divided by the square root of D.

    The mean square of the training images is about 1, or less because of the shrinkage.

    Args:
        training: From `fit`.
        vectors: (N, D), from `pooled`.
    """
    classes = training.classes.astype(np.float64)  # (K, D + d)
    found = np.empty(len(vectors))
    for start in range(0, len(vectors), _BLOCK):
        rows = normalized(vectors[start : start + _BLOCK].astype(np.float32)).astype(np.float64)
        places = training.coordinates(rows - training.mean)  # (n, D + d)
        nearest = ((classes**2).sum(axis=1) - 2 * places @ classes.T).min(axis=1)  # (n,)
        found[start : start + _BLOCK] = (places**2).sum(axis=1) + nearest
    result: NDArray[np.float64] = np.sqrt(np.maximum(found, 0))
    return result


def threshold(novelty: NDArray[np.floating], *, keep: float) -> float:
    """Return the smallest novelty such that at least the share `keep` of images are not above it, with a margin for rounding errors."""
    needed = max(1, math.ceil(round(keep * len(novelty), 9)))
    value = float(np.sort(novelty)[needed - 1]) * (1 + _MARGIN)
    if value <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - 5)
    return float(f"{(math.floor(value / step) + 1) * step:.6g}")
