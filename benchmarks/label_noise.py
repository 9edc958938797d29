"""Measure what wrong labels cost, and what cnn-check --labels wins back.

    label_noise.py FEATURES.npy [--train 700] [--wrong 0.1] [--seeds 8]

Features are those of cnn-extract. For each seed, draws --train images, gives a share of --wrong another label, and tests logistic
regressions on all other images: trained with the true labels, with the wrong ones, without the suspects of cnn-check, and with the
suggested labels of the suspects. Prints the mean accuracy of each.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnnkit.audit import label_errors
from cnnkit.data.source import ImageFile
from cnnkit.formats import features, manifest


def accuracies(
    path: Path, values: NDArray[np.float32], images: Sequence[ImageFile], *, train: int, wrong: float, seed: int
) -> list[float]:
    """Return the accuracies for one draw."""
    generator = np.random.default_rng(seed)
    classes = sorted({image.label or "" for image in images})
    true = np.array([classes.index(image.label or "") for image in images])
    order = generator.permutation(len(images))
    own, others = order[:train], order[train:]
    noisy = true[own].copy()
    for place in generator.choice(train, round(wrong * train), replace=False):
        noisy[place] = generator.choice([number for number in range(len(classes)) if number != noisy[place]])
    listed = [ImageFile(images[row].path, classes[label]) for row, label in zip(own, noisy, strict=True)]
    suspects = {
        each.path: each.suggested
        for each in label_errors.check(label_errors.cross_validated(path, images=listed)).suspects
    }
    kept = np.array([image.path not in suspects for image in listed])
    corrected = np.array([classes.index(suspects.get(image.path, image.label or "")) for image in listed])
    found = []
    for rows, labels in ((own, true[own]), (own, noisy), (own[kept], noisy[kept]), (own, corrected)):
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300)).fit(values[rows], labels)
        found.append(float((head.predict(values[others]) == true[others]).mean()))
    return found


def main() -> None:
    """Measure, and print the means."""
    parser = argparse.ArgumentParser()
    parser.add_argument("features", type=Path)
    parser.add_argument("--train", type=int, default=700)
    parser.add_argument("--wrong", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=8)
    given = parser.parse_args()
    read = features.load(given.features)
    values = np.asarray(read.values, dtype=np.float32)
    folder = str(given.features.parent)
    images = [ImageFile(manifest.seen_here(folder, row.path), row.label) for row in read.rows]
    every = [
        accuracies(given.features, values, images, train=given.train, wrong=given.wrong, seed=seed)
        for seed in range(given.seeds)
    ]
    print("wrong", "true_labels", "wrong_labels", "without_suspects", "suggested_labels", sep="\t")
    print(given.wrong, *(f"{each:.3f}" for each in np.mean(every, axis=0)), sep="\t")


if __name__ == "__main__":
    main()
