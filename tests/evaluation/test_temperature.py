"""Temperatures against known ones, scipy and the optimizer of the reference implementation."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import chi2

from cnnkit.errors import CnnkitError
from cnnkit.evaluation import temperature


def draw(n, classes, *, true=2.5, seed=0):
    """Draw logits, and labels from their softmax at the true temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=4, size=(n, classes))
    odds = softmax(logits / true, axis=1).cumsum(axis=1)
    truth = (generator.uniform(size=(n, 1)) > odds).sum(axis=1)
    return np.minimum(truth, classes - 1), logits


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("true", [2.5, 0.6])
def test_finds_a_known_temperature(classes, true):
    """Within 3 % from 20,000 images, for overconfident and underconfident networks."""
    truth, logits = draw(20_000, classes, true=true)
    assert temperature.fit(truth, softmax(logits, axis=1)) == pytest.approx(true, rel=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_temperature_is_the_minimum_of_log_loss(seed):
    """Scalar minimization by scipy finds the same temperature."""
    truth, logits = draw(200, 5, seed=seed)
    rows = np.arange(len(truth))
    found = minimize_scalar(
        lambda value: -log_softmax(logits / value, axis=1)[rows, truth].mean(),
        bounds=(0.05, 50),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert temperature.fit(truth, softmax(logits, axis=1)) == pytest.approx(found.x, rel=1e-5)


@pytest.mark.parametrize("n", [20, 500])
def test_interval_has_the_likelihoods_that_a_test_does_not_reject(n):
    """At both ends, twice the log-likelihood is lower by the 95 % quantile of chi-squared."""
    truth, logits = draw(n, 4)
    found = temperature.fit(truth, softmax(logits, axis=1))
    rows = np.arange(n)
    likelihood = lambda value: log_softmax(logits / value, axis=1)[rows, truth].sum()  # noqa: E731 - a formula
    ends = temperature.interval(truth, softmax(logits, axis=1), found)
    assert ends[0] < found < ends[1]
    for end in ends:
        assert 2 * (likelihood(found) - likelihood(end)) == pytest.approx(chi2.ppf(0.95, 1), rel=1e-6)


def test_interval_contains_the_true_temperature_95_times_in_100():
    """In 120 draws of 20 images; within three standard errors."""
    hits = 0
    for seed in range(120):
        truth, logits = draw(20, 3, seed=seed)
        shares = softmax(logits, axis=1)
        low, high = temperature.interval(truth, shares, temperature.fit(truth, shares))
        hits += low <= 2.5 <= high
    assert hits / 120 == pytest.approx(0.95, abs=3 * (0.95 * 0.05 / 120) ** 0.5)


def test_interval_may_have_no_upper_end():
    """If equal probabilities are as likely."""
    shares = softmax(np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0]]), axis=1)
    truth = np.array([0, 0, 0])
    assert temperature.interval(truth, shares, temperature.fit(truth, shares))[1] == np.inf


def test_temperature_equals_the_reference_implementation():
    """L-BFGS on the cross-entropy of logits / T, starting from T = 1.5, as published by Guo et al."""
    truth, logits = draw(1000, 4)
    value = torch.nn.Parameter(torch.full((1,), 1.5, dtype=torch.float64))
    optimizer = torch.optim.LBFGS([value], lr=0.1, max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14)

    def loss():
        optimizer.zero_grad()
        entropy = torch.nn.functional.cross_entropy(torch.from_numpy(logits) / value, torch.from_numpy(truth))
        entropy.backward()
        return entropy

    optimizer.step(loss)
    assert temperature.fit(truth, softmax(logits, axis=1)) == pytest.approx(value.item(), rel=1e-6)


def test_scaling_divides_the_logits():
    """Probabilities determine those of logits / T; 0 counts as the float64 epsilon, and stays the smallest."""
    _, logits = draw(100, 5)
    assert np.allclose(temperature.scaled(softmax(logits, axis=1), 2.5), softmax(logits / 2.5, axis=1))
    assert np.allclose(temperature.scaled(np.array([[1.0, 0.0]]), 1.0), [[1, 2.2e-16]])


def test_rejects_predictions_that_are_all_correct():
    """The log-loss has no minimum: an error, not a temperature near zero."""
    with pytest.raises(CnnkitError, match="all 2 predictions are correct, so no temperature is optimal"):
        temperature.fit(np.array([0, 1]), np.array([[0.6, 0.4], [0.5, 0.5]]))


def test_rejects_predictions_of_another_truth():
    """The true classes are the least probable."""
    with pytest.raises(CnnkitError, match="do the truth and the predictions belong together"):
        temperature.fit(np.array([0, 1]), np.array([[0.2, 0.8], [0.9, 0.1]]))
