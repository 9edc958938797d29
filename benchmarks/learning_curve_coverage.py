"""Check the intervals of cnn-compare --learning-curve: are they right about accuracies that can be measured?

Half of the images are training images. The law is fitted to heads on a half and on a quarter of these, and what it predicts for all of them
is compared with what a head on all of them has. Usage: learning_curve_coverage.py FEATURES.npy [DIVISIONS]
"""

import dataclasses
import sys

import numpy as np
import torch

from cnnkit.evaluation import power_law
from cnnkit.formats import features
from cnnkit.formats.features import Features
from cnnkit.train import feature_sets, growing_sets, head
from cnnkit.train.feature_sets import FeatureSets


def chosen(found: Features, rows: list[int]) -> Features:
    """Return some rows of features."""
    return Features(found.values[rows], [found.rows[row] for row in rows], found.header)


def main(path: str, divisions: int) -> None:
    """Print a row for each division and share."""
    found = features.load(path)
    classes = feature_sets.classes_of(found, name=path)
    print("division", "fitted", "low", "predicted", "high", "measured", "inside", sep="\t")
    for seed in range(divisions):
        order = np.random.default_rng(seed).permutation(len(found.rows)).tolist()
        half = len(order) // 2
        whole = FeatureSets(chosen(found, order[:half]), path, path, chosen(found, order[half:]), path, path, classes)
        device = torch.device("cpu")
        train, val = (
            head.load_rows(each, classes, device, name=path)
            for each in (chosen(found, order[:half]), chosen(found, order[half:]))
        )
        measured = growing_sets.correct_after(train, val, range(half), classes=len(classes)).mean()
        for images in (half // 2, half // 4):
            part = dataclasses.replace(whole, train=chosen(found, order[:images]))
            sets = growing_sets.measure(part, repeats=5, seed=seed)
            _, (predicted,) = power_law.predict(
                np.array([each.images for each in sets], dtype=np.float64),
                [each.correct for each in sets],
                at=[half],
                generator=np.random.default_rng(0),
                draws=200,
            )
            numbers = (predicted.low, predicted.accuracy, predicted.high, measured)
            inside = predicted.low <= measured <= predicted.high
            print(seed, images, *(f"{each:.4f}" for each in numbers), inside, sep="\t", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10)
