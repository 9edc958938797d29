"""Baselines and thresholds for images with several labels. The targets are 0 and 1, (N, classes)."""

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cnnkit import messages
from cnnkit.evaluation import label_thresholds

log = logging.getLogger("cnnkit")


def majority(train: Tensor, val: Tensor) -> float:
    """Return the share of validation images with exactly the most frequent set of labels of the training set."""
    sets, counts = torch.unique(train, dim=0, return_counts=True)
    return float((val == sets[counts.argmax()]).all(1).double().mean())


def nearest_centroids(train: Tensor, train_targets: Tensor, val: Tensor) -> tuple[Tensor, Tensor]:
    """Give images every label whose images have a nearer mean than all others.

    Args:
        train: (N, D).
        train_targets: (N, classes).
        val: (M, D).

    Returns:
        The labels, bool (M, classes), and how much nearer each is, (M, classes).
    """
    present = train_targets.T  # (classes, N)
    counts = present.sum(1, keepdim=True)
    mean_with = present @ train / counts.clamp(min=1)
    mean_without = (1 - present) @ train / (len(train) - counts).clamp(min=1)
    nearer = torch.cdist(val, mean_without) - torch.cdist(val, mean_with)
    labels = nearer > 0
    always, never = counts[:, 0] == len(train), counts[:, 0] == 0
    return (labels | always) & ~never, nearer


def shares_right(predicted: Tensor, known: Tensor) -> float:
    """Return the share of images whose labels are all right, both (N, classes)."""
    return float((predicted == (known > 0.5)).all(1).double().mean())


def above_chance(scores: Tensor, known: Tensor) -> bool:
    """Check whether scores depend on the labels: whether the mean area under the ROC curves is above one half.

    The area of a class is the Mann-Whitney statistic U / (n1 n0), with variance (n1 + n0 + 1) / (12 n1 n0) if scores do not depend on
    the label; up to two standard errors of the mean more count as chance.

    Args:
        scores: (N, classes).
        known: (N, classes).
    """
    excess, variance, measured = 0.0, 0.0, 0
    for column, present in zip(scores.double().T, known.T > 0.5, strict=True):
        ones, zeros = int(present.sum()), int((~present).sum())
        if not ones or not zeros:
            continue
        _, places, counts = torch.unique(column, return_inverse=True, return_counts=True)
        ends = counts.cumsum(0)
        ranks = (ends - (counts - 1) / 2)[places]  # from 1; equal scores share their mean rank
        area = (float(ranks[present].sum()) - ones * (ones + 1) / 2) / (ones * zeros)
        excess += area - 0.5
        variance += (len(column) + 1) / (12 * ones * zeros)
        measured += 1
    return not measured or excess / measured > max(2 * math.sqrt(variance) / measured, math.ulp(1.0))


def could_exceed_chance(known: Tensor) -> bool:
    """Check whether there are enough images that perfect scores would be above chance."""
    return above_chance(known, known)


def without_validation(classes: Sequence[str]) -> tuple[float, ...]:
    """Return the thresholds of classes where there is no validation set to choose them on, and log them."""
    log.info("no validation set: the threshold of every class is %g", label_thresholds.DEFAULT)
    return (label_thresholds.DEFAULT,) * len(classes)


def thresholds(probabilities: Tensor, known: Tensor, classes: Sequence[str]) -> tuple[float, ...]:
    """Choose the threshold of each class on validation images, as `label_thresholds.best`; report classes without any.

    Args:
        probabilities: (N, classes).
        known: (N, classes).
        classes: Their names.
    """
    missing = [name for name, count in zip(classes, known.sum(0).tolist(), strict=True) if not count]
    if missing:
        log.info(
            "no validation image has %s: %s 0.5",
            messages.shortened(missing, 12),
            "its threshold is" if len(missing) == 1 else "their thresholds are",
        )
    return label_thresholds.best(probabilities.cpu().numpy(), known.cpu().numpy())
