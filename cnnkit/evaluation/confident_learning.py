"""Confident learning: which labels are probably wrong, from the probabilities that a model gives to images it was not trained on.

The model disagrees with a wrong label, but also with the correct label of a hard image. The number of wrong labels is therefore estimated
first. An image counts for a class if its probability is at least the mean probability of that class among the images with its label;
images that count for another class than that of their label fill the confident joint outside its diagonal.

Source: Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021. The functions agree with
those of cleanlab.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Rounding error of probabilities: one this far below a threshold reaches it.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class RankedLabels:
    """Labels that the model disagrees with, the most doubtful first.

    Attributes:
        order: Places of the images whose label is not the predicted class, by ascending self-confidence, (M,).
        wrong: The estimated number of wrong labels: the first `wrong` of `order` are suspects.
    """

    order: NDArray[np.int64]
    wrong: int


def self_confidence(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability of each image's label, (N,) and (N, C) -> (N,); cleanlab's `get_label_quality_scores`."""
    scores: NDArray[np.float64] = probabilities[np.arange(len(labels)), labels]
    return scores


def thresholds(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability from which an image counts for each class, (C,); infinite for a class that is no image's label."""
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=self_confidence(labels, probabilities), minlength=classes)
    found = np.full(classes, np.inf)
    found[counts > 0] = np.maximum(sums[counts > 0] / counts[counts > 0], 2 * _ROUNDING)
    return found


def confident_joint(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count images by their label and by the class that they count for, (C, C); at least 1 on the diagonal.

    An image that reaches the thresholds of several classes counts for the most probable class.
    """
    classes = probabilities.shape[1]
    reached = probabilities >= thresholds(labels, probabilities) - _ROUNDING  # (N, C)
    several = reached.sum(axis=1) > 1
    meant = np.where(several, probabilities.argmax(axis=1), reached.argmax(axis=1))
    counted = reached.any(axis=1)
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (labels[counted], meant[counted]), 1)
    np.fill_diagonal(joint, joint.diagonal().clip(min=1))
    return joint


def estimated_joint(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Estimate the number of images by their label and by their true class, (C, C); the sums of the rows are those of the labels."""
    joint = confident_joint(labels, probabilities)
    counts = np.bincount(labels, minlength=len(joint))
    estimate: NDArray[np.float64] = joint / joint.sum(axis=1, keepdims=True) * counts[:, None]
    return estimate


def rank(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> RankedLabels:
    """Rank the labels that the model disagrees with, and estimate how many of them are wrong.

    Args:
        labels: The given labels, (N,), as places of classes.
        probabilities: Of each class, (N, C), from a model that was not trained on the image.
    """
    joint = estimated_joint(labels, probabilities)
    scores = self_confidence(labels, probabilities)
    order = np.argsort(scores, kind="stable")
    order = order[probabilities.argmax(axis=1)[order] != labels[order]]
    wrong = round(float(joint.sum() - np.trace(joint)))
    return RankedLabels(order, min(wrong, len(order)))
