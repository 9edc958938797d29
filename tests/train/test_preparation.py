"""Standardising, PCA and whitening against scikit-learn's, and their folding into every kind of head."""

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
    """Columns of unlike scales that depend on each other, as pooled features do."""
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(count, columns)) @ generator.normal(size=(columns, columns))
    return torch.from_numpy((mixed * np.geomspace(0.1, 10, columns) + np.arange(columns)).astype(np.float32))


def mapped(prepared, features):
    return prepared(features.double()).numpy()


def test_nothing_asked_for_is_nothing():
    """No map at all, rather than an identity."""
    assert preparation.fit(rows()) is None


def test_standardising_is_scikit_learns_scaler():
    """On rows it was not fitted on too."""
    train, other = rows(), rows(seed=1)
    expected = StandardScaler().fit(train.double().numpy()).transform(other.double().numpy())
    np.testing.assert_allclose(mapped(preparation.fit(train, standardize=True), other), expected, atol=1e-9)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("pca", [1, 4, 9])
def test_components_are_scikit_learns(standardize, whiten, pca):
    """PCA, with whitening and without, after standardising where that is asked for."""
    train, other = rows(), rows(seed=1)
    known, asked = train.double().numpy(), other.double().numpy()
    if standardize:
        scaler = StandardScaler().fit(known)
        known, asked = scaler.transform(known), scaler.transform(asked)
    expected = PCA(pca, whiten=whiten, svd_solver="full").fit(known).transform(asked)
    found = preparation.fit(train, standardize=standardize, pca=pca, whiten=whiten)
    np.testing.assert_allclose(mapped(found, other), expected, atol=1e-6)


def test_whitening_alone_keeps_every_component():
    """Columns become uncorrelated with deviation 1."""
    train = rows()
    white = mapped(preparation.fit(train, whiten=True), train)
    assert white.shape == (60, 9)
    np.testing.assert_allclose(np.cov(white.T), np.eye(9), atol=1e-6)


def test_whitening_fewer_rows_than_columns_keeps_what_has_variance():
    """Ten rows span nine directions; the others are not blown up from rounding."""
    train = rows(count=10, columns=30)
    white = preparation.fit(train, whiten=True)
    assert len(white.matrix) == 9
    assert float(white.matrix.abs().max()) < 1e3


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_a_column_that_does_not_change_becomes_zero(value):
    """Neither divided by nothing, nor blown up where float32's last digit flickers."""
    train = rows()
    train[:, 3] = value
    train[::2, 3] = float(np.nextafter(np.float32(value), np.float32(1e9)))
    prepared = preparation.fit(train, standardize=True)
    found = mapped(prepared, train)
    np.testing.assert_allclose(found[:, 3], 0, atol=1e-6)
    assert float(prepared.matrix.abs().max()) < 1e3
    white = preparation.fit(train, standardize=True, whiten=True)
    assert len(white.matrix) == 8


def test_components_that_cannot_be_are_a_usage_error():
    """The message has all three numbers."""
    with pytest.raises(UsageError, match=r"--pca 10: 60 rows of 9 features have 9 components at most"):
        preparation.fit(rows(), pca=10)
    with pytest.raises(UsageError, match=r"--pca 9: 9 rows of 9 features have 8 components at most"):
        preparation.fit(rows(count=9), pca=9)


@pytest.mark.parametrize("asked", [{"standardize": True}, {"pca": 2}, {"whiten": True}])
def test_maps_with_height_and_width_are_a_usage_error(asked):
    """The message names the options that would give vectors."""
    with pytest.raises(UsageError, match="need vectors; extract with --pool avg, max or flatten"):
        preparation.fit(torch.zeros(5, 3, 2, 2), **asked)


HEADS = {
    "dense": ("dense 3 softmax", "dense 3 softmax"),
    "hidden": ("dense 8 relu, dropout 0.5, dense 3 softmax", "dense 8 relu, dropout 0.5, dense 3 softmax"),
    "nobias": ("dense 8 nobias relu, dense 3 softmax", "dense {}, dense 8 nobias relu, dense 3 softmax"),
    "bn": ("bn, dense 8 relu, dense 3 softmax", "dense {}, bn, dense 8 relu, dense 3 softmax"),
    "inner bn": ("dense 8 bn relu, dense 3 softmax", "dense 8, bn relu, dense 3 softmax"),
    "dropout": ("dropout 0.5, dense 3 softmax", "dense {}, dropout 0.5, dense 3 softmax"),
    "relu": ("relu, dense 1 sigmoid", "dense {}, relu, dense 1 sigmoid"),
}

ASKED = {
    "standardize": {"standardize": True},
    "pca": {"pca": 4},
    "whiten": {"whiten": True},
    "all": {"standardize": True, "pca": 5, "whiten": True},
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize(("text", "whole_text"), HEADS.values(), ids=HEADS)
def test_the_folded_head_does_to_features_what_the_head_does_to_prepared_ones(text, whole_text, asked):
    """Logits to 1e-4, in float32 as they will be computed, and the notation builds the very network."""
    train, other = rows(), rows(seed=1)
    prepared = preparation.fit(train, **asked)
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


def test_folding_leaves_the_trained_head_alone():
    """The weights that were trained are copied, not changed."""
    prepared = preparation.fit(rows(), standardize=True)
    head = classifier.build_head("dense 3 softmax", (9,))
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    preparation.fold(prepared, head, "dense 3 softmax")
    assert all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())
