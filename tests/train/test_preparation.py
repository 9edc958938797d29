"""Standardization, PCA and whitening, against scikit-learn, and folding them into every kind of head."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import nn

from cnnkit.choices import Initializer
from cnnkit.errors import UsageError
from cnnkit.nets import build, classifier
from cnnkit.train import preparation


def rows(count=60, columns=9, seed=0):
    """Draw correlated columns of different scales, like pooled features."""
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(count, columns)) @ generator.normal(size=(columns, columns))
    return torch.from_numpy((mixed * np.geomspace(0.1, 10, columns) + np.arange(columns)).astype(np.float32))


def mapped(prepared, features):
    return prepared(features.double()).numpy()


def test_without_options_there_is_no_map():
    """None, not an identity."""
    assert preparation.fit(rows()) is None


def test_standardization_is_scikit_learns_scaler():
    """On other rows than those it was fitted on."""
    train, other = rows(), rows(seed=1)
    expected = StandardScaler().fit(train.double().numpy()).transform(other.double().numpy())
    np.testing.assert_allclose(mapped(preparation.fit(train, standardize=True), other), expected, atol=1e-9)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("pca", [1, 4, 9])
def test_components_are_scikit_learns(standardize, whiten, pca):
    """PCA, with and without whitening and standardization."""
    train, other = rows(), rows(seed=1)
    fitted, mapped_rows = train.double().numpy(), other.double().numpy()
    if standardize:
        scaler = StandardScaler().fit(fitted)
        fitted, mapped_rows = scaler.transform(fitted), scaler.transform(mapped_rows)
    expected = PCA(pca, whiten=whiten, svd_solver="full").fit(fitted).transform(mapped_rows)
    found = preparation.fit(train, standardize=standardize, pca=pca, whiten=whiten)
    np.testing.assert_allclose(mapped(found, other), expected, atol=1e-6)


def test_whitening_alone_keeps_every_component():
    """Columns become uncorrelated, with standard deviation 1."""
    train = rows()
    white = mapped(preparation.fit(train, whiten=True), train)
    assert white.shape == (60, 9)
    np.testing.assert_allclose(np.cov(white.T), np.eye(9), atol=1e-6)


def test_whitening_fewer_rows_than_columns_keeps_components_with_variance():
    """Ten rows span nine directions; rounding errors in the others are not amplified."""
    train = rows(count=10, columns=30)
    white = preparation.fit(train, whiten=True)
    assert len(white.matrix) == 9
    assert float(white.matrix.abs().max()) < 1e3


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_a_constant_column_becomes_zero(value):
    """Without division by zero, also if float32's last digit varies."""
    train = rows()
    train[:, 3] = value
    train[::2, 3] = float(np.nextafter(np.float32(value), np.float32(1e9)))
    prepared = preparation.fit(train, standardize=True)
    found = mapped(prepared, train)
    np.testing.assert_allclose(found[:, 3], 0, atol=1e-6)
    assert float(prepared.matrix.abs().max()) < 1e3
    white = preparation.fit(train, standardize=True, whiten=True)
    assert len(white.matrix) == 8


def test_rejects_too_many_components():
    """The message has all three numbers."""
    with pytest.raises(UsageError, match=r"--pca 10: 60 rows of 9 features have at most 9 components"):
        preparation.fit(rows(), pca=10)
    with pytest.raises(UsageError, match=r"--pca 9: 9 rows of 9 features have at most 8 components"):
        preparation.fit(rows(count=9), pca=9)


@pytest.mark.parametrize("options", [{"standardize": True}, {"pca": 2}, {"whiten": True}])
def test_rejects_spatial_features(options):
    """The message names options that give vectors."""
    with pytest.raises(UsageError, match="need vectors; extract with --pool avg, max or flatten"):
        preparation.fit(torch.zeros(5, 3, 2, 2), **options)


HEADS = {
    "dense": ("dense 3 softmax", "dense 3 softmax"),
    "hidden": ("dense 8 relu, dropout 0.5, dense 3 softmax", "dense 8 relu, dropout 0.5, dense 3 softmax"),
    "nobias": ("dense 8 nobias relu, dense 3 softmax", "dense {}, dense 8 nobias relu, dense 3 softmax"),
    "bn": ("bn, dense 8 relu, dense 3 softmax", "dense {}, bn, dense 8 relu, dense 3 softmax"),
    "inner bn": ("dense 8 bn relu, dense 3 softmax", "dense 8, bn relu, dense 3 softmax"),
    "dropout": ("dropout 0.5, dense 3 softmax", "dense {}, dropout 0.5, dense 3 softmax"),
    "relu": ("relu, dense 1 sigmoid", "dense {}, relu, dense 1 sigmoid"),
}

OPTIONS = {
    "standardize": {"standardize": True},
    "pca": {"pca": 4},
    "whiten": {"whiten": True},
    "all": {"standardize": True, "pca": 5, "whiten": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("text", "whole_text"), HEADS.values(), ids=HEADS)
def test_the_folded_head_gives_the_logits_of_prepared_features(text, whole_text, options):
    """To 1e-4 in float32, and the notation builds the same network."""
    train, other = rows(), rows(seed=1)
    prepared = preparation.fit(train, **options)
    width = len(prepared.matrix)
    generator = torch.Generator().manual_seed(0)
    head = classifier.build_head(text, (width,))
    build.initialise(head, Initializer.HE, generator=generator)
    for part in head:
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.normal_(part.bias, generator=generator)
        elif isinstance(part, nn.BatchNorm1d):
            nn.init.normal_(part.running_mean, generator=generator)
            nn.init.uniform_(part.running_var, 0.5, 2.0, generator=generator)
            nn.init.normal_(part.weight, generator=generator)
    head.eval()
    folded, folded_text = preparation.fold(prepared, head, text)
    assert folded_text.replace(", bn", " bn") == whole_text.format(width).replace(", bn", " bn")
    again = classifier.build_head(folded_text, (9,))
    again.load_state_dict(folded.state_dict())
    with torch.no_grad():
        expected = head(prepared(other.double()).float())
        found = again.eval()(other)
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-4, rtol=0)


def test_folding_does_not_change_the_trained_head():
    """Its weights are copied."""
    prepared = preparation.fit(rows(), standardize=True)
    head = classifier.build_head("dense 3 softmax", (9,))
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    preparation.fold(prepared, head, "dense 3 softmax")
    assert all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())
