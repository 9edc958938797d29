"""Growing subsets of the training images, and the heads that are trained on them."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import learning_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats.features import Features
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.manifest import ManifestRow
from cnnkit.train import growing_sets
from cnnkit.train.feature_sets import FeatureSets
from cnnkit.train.head import Rows

HEADER = Header(kind=ArtefactKind.FEATURES)
WIDTH = 6


def clusters(count, *, classes, seed):
    """Return overlapping clusters, (count, 6) and (count,)."""
    generator = np.random.default_rng(seed)
    targets = np.arange(count) % classes
    return (1.2 * np.eye(WIDTH)[targets] + generator.normal(size=(count, WIDTH))).astype(np.float32), targets


def featured(values, targets, *, groups=None, views=None):
    rows = [
        ManifestRow(
            f"{number if views is None else number // views}.png",
            "abc"[target],
            None,
            groups and groups[number],
            view=0 if views is None else number % views,
        )
        for number, target in enumerate(targets)
    ]
    return Features(values, rows, HEADER)


def sets(train, val, *, classes):
    return FeatureSets(train, "train.npy", "train.npy", val, "val.npy", "val.npy", tuple("abc"[:classes]))


@pytest.mark.parametrize("classes", [2, 3])
def test_accuracies_are_those_of_scikit_learns_learning_curve(classes):
    """On the same nested subsets, with the same penalty."""
    train, val = clusters(160, classes=classes, seed=0), clusters(90, classes=classes, seed=1)
    found = growing_sets.measure(sets(featured(*train), featured(*val), classes=classes), repeats=1, seed=5)
    order = growing_sets._ordered(growing_sets._units(featured(*train)), np.random.default_rng(5))
    nested = [row for unit in order for row in unit.rows]
    values, targets = (np.concatenate(pair) for pair in zip(train, val, strict=True))
    _, _, scores = learning_curve(
        make_pipeline(StandardScaler(), LogisticRegression(C=growing_sets.STRENGTH / WIDTH, max_iter=1000, tol=1e-8)),
        values,
        targets,
        cv=[(nested, np.arange(160, 250))],
        train_sizes=[each.images for each in found],
    )
    assert [each.images for each in found] == [10, 14, 20, 28, 40, 57, 80, 113, 160]
    assert [each.correct.mean() for each in found] == pytest.approx(scores[:, 0].tolist())


def test_subsets_are_nested_and_stratified_and_have_all_classes():
    """Of a class with n of N images, a subset of k has n * k / N, up to one, and at least one."""
    targets = np.repeat([0, 1, 2], [60, 35, 5])
    units = growing_sets._units(featured(np.zeros((100, WIDTH), np.float32), targets))
    order = growing_sets._ordered(units, np.random.default_rng(0))
    before = set()
    for size in (6, 20, 50, 100):
        rows, images = growing_sets._first(order, size)
        assert images == len(rows) == size
        assert before < set(rows)
        before = set(rows)
        counts = np.bincount(targets[rows], minlength=3)
        assert counts.min() >= 1
        assert np.abs(counts - np.array([60, 35, 5]) * size / 100).max() <= 2
    other = growing_sets._ordered(units, np.random.default_rng(1))
    assert other != order


def test_groups_and_views_stay_together_and_views_are_not_counted():
    """A subset has all images of a group or none, and an image with its augmented views counts once."""
    targets = np.repeat(np.arange(30) % 3, 2)
    groups = [f"g{number // 4}" if number < 24 else None for number in range(60)]
    order = growing_sets._ordered(
        growing_sets._units(featured(np.zeros((60, WIDTH), np.float32), targets, groups=groups, views=2)),
        np.random.default_rng(0),
    )
    rows, images = growing_sets._first(order, 11)
    assert 11 <= images <= 12
    assert len(rows) == 2 * images
    chosen = {groups[row] for row in rows if groups[row]}
    assert all(row in rows for row in range(24) if groups[row] in chosen)


def test_the_penalty_is_on_standardized_features_of_the_subset_alone():
    """Columns of other sizes change nothing."""
    values, targets = clusters(40, classes=3, seed=2)
    scales = np.array([1, 10, 100, 0.1, 5, 3], np.float32)
    rows = [
        growing_sets.correct_after(
            Rows(torch.from_numpy(each), torch.from_numpy(targets)),
            Rows(torch.from_numpy(each), torch.from_numpy(targets)),
            range(25),
            classes=3,
        )
        for each in (values, values * scales + 7)
    ]
    assert (rows[0] == rows[1]).all()


def test_refuses_maps_and_too_few_images():
    """Maps cannot be standardized; with six images of three classes there is no smaller share."""
    values, targets = clusters(6, classes=3, seed=0)
    with pytest.raises(CnnkitError, match=r"train\.npy: 6 images of 3 classes are too few for a learning curve"):
        growing_sets.measure(sets(featured(values, targets), featured(values, targets), classes=3), repeats=2)
    maps = featured(values[:, :, None, None], targets)
    with pytest.raises(UsageError, match="needs vectors"):
        growing_sets.measure(sets(maps, maps, classes=3), repeats=2)
