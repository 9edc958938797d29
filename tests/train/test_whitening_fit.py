"""Whitening of images: sums of pixels and the fitted matrix, compared with scikit-learn, numpy and the formulas."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from cnnkit.choices import Whiten
from cnnkit.errors import CnnkitError
from cnnkit.formats.header import Preprocess
from cnnkit.nets.classifier import InputNormalization
from cnnkit.nets.whitening import Whitening
from cnnkit.train.whitening_fit import PixelSums, fit

SIZE = 5


def prepared(*, grey=False):
    return Preprocess(size=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3, grey=grey)


def images(count, seed=0):
    """Draw images whose neighbouring pixels are alike."""
    noise = np.random.default_rng(seed).integers(0, 86, (count, SIZE + 2, SIZE, 3))
    return (noise[:, :-2] + noise[:, 1:-1] + noise[:, 2:]).astype(np.uint8)


def moments(pixels, prepare):
    sums = PixelSums(prepare)
    for image in pixels:
        sums.add(image)
    return sums.moments()


def rows(pixels, prepare):
    """Return what the network whitens, as rows, float64 (N, D)."""
    return InputNormalization(prepare)(torch.from_numpy(pixels)).flatten(1).double().numpy()


@pytest.mark.parametrize("grey", [False, True])
def test_moments_are_those_of_the_scaled_images(grey):
    """Over several blocks of rows, and equal to the bit in another order."""
    pixels, prepare = images(600), prepared(grey=grey)
    mean, covariance = moments(pixels, prepare)
    values = rows(pixels, prepare)
    np.testing.assert_allclose(mean, values.mean(0), atol=1e-7)
    np.testing.assert_allclose(covariance, np.cov(values.T), atol=1e-8)
    for found, again in zip((mean, covariance), moments(pixels[::-1], prepare), strict=True):
        assert torch.equal(found, again)


@pytest.mark.parametrize("grey", [False, True])
def test_pca_is_that_of_scikit_learn(grey):
    """Order and signs of the components, too."""
    pixels, prepare = images(600), prepared(grey=grey)
    mean, matrix = fit(*moments(pixels, prepare), Whiten.PCA, epsilon=1e-9)
    values = rows(pixels, prepare)
    expected = PCA(whiten=True, svd_solver="full").fit_transform(values)
    np.testing.assert_allclose((values - mean.numpy()) @ matrix.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("epsilon", [1e-6, 0.1])
def test_zca_is_the_inverse_square_root_of_the_covariance(epsilon):
    """Symmetric; without epsilon, whitened images have the identity as their covariance."""
    pixels, prepare = images(600), prepared()
    mean, matrix = fit(*moments(pixels, prepare), Whiten.ZCA, epsilon=epsilon)
    values = rows(pixels, prepare)
    covariance = np.cov(values.T)
    left, variances, _ = np.linalg.svd(covariance)
    expected = left @ np.diag(1 / np.sqrt(variances + epsilon * variances.mean())) @ left.T
    np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-5)
    if epsilon < 1e-3:
        whitened = (values - mean.numpy()) @ matrix.numpy()
        np.testing.assert_allclose(np.cov(whitened.T), np.eye(values.shape[1]), atol=1e-3)


@pytest.mark.parametrize("whiten", Whiten)
def test_fewer_images_than_values(whiten):
    """Directions without variance are scaled by at most 1 / sqrt(epsilon * mean variance): other images stay finite and small."""
    prepare = prepared()
    mean, covariance = moments(images(20), prepare)
    _, matrix = fit(mean, covariance, whiten, epsilon=0.1)
    most = 1 / np.sqrt(0.1 * np.trace(covariance.numpy()) / len(covariance))
    assert np.linalg.norm(matrix.numpy(), 2) <= most * 1.001
    layer = Whitening((3, SIZE, SIZE))
    layer.mean.copy_(mean.view_as(layer.mean))
    layer.matrix.copy_(matrix)
    others = layer(InputNormalization(prepare)(torch.from_numpy(images(100, seed=1))))
    assert 0.1 < float(others.std()) < 10


def test_equal_images_cannot_be_whitened():
    """The message names another normalization."""
    with pytest.raises(CnnkitError, match="--normalize standard"):
        fit(*moments(np.repeat(images(1), 3, axis=0), prepared()), Whiten.ZCA, epsilon=0.1)
