"""The distance of features to those of the training images, compared with scikit-learn and with the closed form."""

import time

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from cnnkit.errors import CnnkitError
from cnnkit.evaluation import novelty


def features(*, rows=90, width=6, classes=3, seed=0):
    """Draw features of classes with different means and one covariance, and their labels."""
    generator = np.random.default_rng(seed)
    labels = [f"class{row % classes}" for row in range(rows)]
    means = generator.uniform(0.5, 1.5, (classes, width))
    noise = generator.normal(size=(rows, width)) @ generator.normal(scale=0.2, size=(width, width))
    return (means[np.arange(rows) % classes] + noise).astype(np.float32), labels


def residuals(values, labels):
    """Return the features of length 1, those minus the mean of their class, and the means."""
    rows = values / np.linalg.norm(values, axis=1, keepdims=True)
    places = np.unique(labels, return_inverse=True)[1]
    means = np.stack([rows[places == place].mean(axis=0) for place in range(places.max() + 1)])
    return rows, rows - means[places], means


@pytest.mark.parametrize("width", [6, 200])
def test_covariance_is_that_of_ledoit_and_wolf(width):
    """With more images than values, and with fewer."""
    _, rows, _ = residuals(*features(width=width))
    variances, axes, rest = novelty._covariance(rows.astype(np.float32), components=width)
    found = (axes * (variances - rest)) @ axes.T + rest * np.eye(width)
    expected = LedoitWolf(assume_centered=True).fit(rows.astype(np.float64)).covariance_
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_other_axes_have_their_mean_variance():
    """As the noise variance of probabilistic principal component analysis."""
    _, rows, _ = residuals(*features(width=8))
    variances, axes, rest = novelty._covariance(rows.astype(np.float32), components=3)
    expected = np.linalg.eigvalsh(LedoitWolf(assume_centered=True).fit(rows).covariance_)[::-1]
    assert axes.shape == (8, 3)
    assert np.allclose(variances, expected[:3], rtol=1e-4)
    assert rest == pytest.approx(expected[3:].mean(), rel=1e-4)


@pytest.mark.parametrize(("width", "classes"), [(6, 3), (200, 1)])
def test_distance_is_the_mahalanobis_distance(width, classes):
    """Of the covariance in the file exactly, and of Ledoit and Wolf's up to the rounding of float16."""
    values, labels = features(width=width, classes=classes)
    training = novelty.fit(values, labels if classes > 1 else [None] * len(labels))
    others = features(width=width, seed=1)[0]
    found = novelty.distances(training, others)

    axes = training.axes.astype(np.float64)
    factors = np.concatenate(
        [(np.eye(width) - axes @ axes.T) * training.across, (axes * training.along).T]
    )  # (D + d, D)
    rows = residuals(others, ["one"] * len(others))[0] - training.mean
    away = (rows @ factors.T)[:, None] - training.classes.astype(np.float64)  # (N, K, D + d)
    assert np.allclose(found, np.linalg.norm(away, axis=2).min(axis=1), rtol=1e-5)

    _, rows, means = residuals(values, labels if classes > 1 else ["one"] * len(labels))
    model = LedoitWolf(assume_centered=True).fit(rows)
    lengths = [model.mahalanobis(residuals(others, ["one"] * len(others))[0] - mean) for mean in means]
    assert np.allclose(found, np.sqrt(np.min(lengths, axis=0) / width), rtol=2e-3)


def test_training_images_are_near_and_others_far():
    """The mean square of the distances of the training images is about 1, or less because of the shrinkage."""
    values, labels = features(rows=600, width=20, classes=1)
    training = novelty.fit(values, labels)
    assert 0.8 < (novelty.distances(training, values) ** 2).mean() <= 1
    assert novelty.distances(training, -values).min() > 2


def test_maps_are_averaged():
    maps = np.random.default_rng(0).normal(size=(3, 5, 2, 4)).astype(np.float32)
    assert np.allclose(novelty.pooled(maps), maps.mean(axis=(2, 3)))
    assert novelty.pooled(maps[:, :, 0, 0]).shape == (3, 5)


def test_covariance_of_wide_features_is_that_of_images_of_all_classes(monkeypatch):
    """Of many images, every third, not the first third, in which all are equal here."""
    values, _ = features(rows=24, width=10)
    values[:8] = values[0]
    labels = ["one"] * 8 + ["two"] * 16
    monkeypatch.setattr(novelty, "_MOST_ROWS", 8)
    training = novelty.fit(values, labels)
    assert np.isfinite(novelty.distances(training, values)).all()
    _, rows, _ = residuals(values, labels)
    variances, _, _ = novelty._covariance(rows[::3].astype(np.float32), components=128)
    assert np.allclose(training.along, 1 / np.sqrt(variances * 10), rtol=1e-3)


def test_features_of_zeros_have_a_distance():
    """A network that outputs zeros for an image gives a number."""
    values, labels = features()
    assert np.isfinite(novelty.distances(novelty.fit(values, labels), np.zeros((1, 6), np.float32))).all()


def test_same_features_give_the_same_bytes():
    values, labels = features()
    one, two = (novelty.fit(values.copy(), labels) for _ in range(2))
    assert one.axes.tobytes() == two.axes.tobytes()
    assert one.classes.tobytes() == two.classes.tobytes()
    longest = np.abs(one.axes).argmax(axis=0)
    assert (one.axes[longest, np.arange(len(longest))] > 0).all()  # of the two directions of an axis


def test_an_unknown_label_makes_all_images_one_class():
    values, labels = features()
    whole, partly = (novelty.fit(values, known) for known in ([None] * 90, [*labels[:-1], None]))
    assert partly.classes.tobytes() == whole.classes.tobytes()
    assert len(novelty.fit(values, labels).classes) == 3


def test_time_grows_with_the_images_and_not_with_their_square():
    """As it would if every label were compared with all others: 10 seconds for 20,000 images."""
    values = np.random.default_rng(0).normal(size=(20_000, 2)).astype(np.float32)
    start = time.process_time()
    novelty.fit(values, ["cat", "dog"] * 10_000)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("keep", [0.01, 0.333, 0.95, 1.0])
def test_threshold_keeps_the_share(keep):
    """It is numpy's quantile, and a margin for rounding errors."""
    values = np.random.default_rng(0).uniform(0.8, 1.5, 200)
    found = novelty.threshold(values, keep=keep)
    expected = np.quantile(values, keep, method="inverted_cdf")
    assert expected * (1 + 1e-4) <= found <= expected * (1 + 1.2e-4)
    assert f"{found:.6g}" == str(found)
    assert (values <= found).mean() >= keep


def test_rejects_features_without_a_distance():
    values, labels = features(rows=3)
    with pytest.raises(CnnkitError, match="3 training images of 3 classes are too few"):
        novelty.fit(values, labels)
    with pytest.raises(CnnkitError, match="all have the same features"):
        novelty.fit(np.ones((9, 6), np.float32), ["one"] * 9)
    values[0, 0] = np.nan
    with pytest.raises(CnnkitError, match="not finite"):
        novelty.fit(values, labels)
