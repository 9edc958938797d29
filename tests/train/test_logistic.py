"""Logistic regression on all rows at once, against scikit-learn's."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from cnnkit.choices import Loss
from cnnkit.nets.classifier import class_logits
from cnnkit.train import logistic
from cnnkit.train.optim import Criterion, balanced_weights


def rows(classes, count=90, seed=0, overlap=1.5):
    """Draw overlapping clouds; the first class is the most frequent."""
    generator = np.random.default_rng(seed)
    targets = np.minimum(generator.geometric(0.4, count) - 1, classes - 1)
    centres = generator.normal(size=(classes, 6))
    values = (centres[targets] + generator.normal(scale=overlap, size=(count, 6))).astype(np.float32)
    return torch.from_numpy(values), torch.from_numpy(targets)


def zeros(outputs):
    layer = nn.Linear(6, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("classes", "loss"), [(2, Loss.BINARY), (2, Loss.CATEGORICAL), (4, Loss.CATEGORICAL)])
def test_agrees_with_scikit_learns_logistic_regression(classes, loss, balanced, c):
    """Probabilities on other rows to 1e-3, and weights, for one sigmoid and for a softmax, with and without class weights."""
    values, targets = rows(classes)
    others, _ = rows(classes, seed=1)
    weights = balanced_weights(targets, classes) if balanced else None
    counted = float(weights[targets].sum()) if balanced else len(targets)
    layer = zeros(1 if loss is Loss.BINARY else classes)
    logistic.solve_logistic(
        layer, values, targets, l2=0.5 / (c * counted), criterion=Criterion(loss, class_weights=weights)
    )

    # A softmax over two classes has weights w/2 and -w/2, with half the penalty of scikit-learn's single vector w
    halves = loss is Loss.CATEGORICAL and classes == 2
    reference = LogisticRegression(
        C=2 * c if halves else c, class_weight="balanced" if balanced else None, tol=1e-8, max_iter=5000
    ).fit(values.numpy(), targets.numpy())
    with torch.no_grad():
        found = class_logits(layer(others)).softmax(1).numpy()
    np.testing.assert_allclose(found, reference.predict_proba(others.numpy()), atol=1e-3)
    weight = layer.weight.detach().numpy()
    if halves:
        weight = weight[1:] - weight[:1]
    np.testing.assert_allclose(weight, reference.coef_, atol=1e-2 * max(1.0, np.abs(reference.coef_).max()))


def test_the_solution_does_not_depend_on_the_start():
    """The problem is convex: starts at zeros and far away give the same probabilities."""
    values, targets = rows(3)
    far = nn.Linear(6, 3)
    nn.init.normal_(far.weight, std=3.0, generator=torch.Generator().manual_seed(0))
    near = zeros(3)
    for layer in (near, far):
        logistic.solve_logistic(layer, values, targets, l2=0.01, criterion=Criterion())
    with torch.no_grad():
        torch.testing.assert_close(near(values).softmax(1), far(values).softmax(1), atol=3e-4, rtol=0)


def test_a_stronger_penalty_gives_smaller_weights():
    """With a very strong one only the biases are left: the output is the frequency of each class."""
    values, targets = rows(3)
    norms = []
    for l2 in (1e-4, 1e-2, 1.0, 100.0):
        layer = zeros(3)
        logistic.solve_logistic(layer, values, targets, l2=l2, criterion=Criterion())
        norms.append(float(layer.weight.detach().norm()))
    assert norms == sorted(norms, reverse=True)
    with torch.no_grad():
        shares = layer(values[:1]).softmax(1)[0]
    np.testing.assert_allclose(shares.numpy(), np.bincount(targets.numpy()) / len(targets), atol=2e-3)


def solved_path(train, validate, strengths=logistic.STRENGTHS):
    layer = zeros(int(train[1].max()) + 1)
    return list(logistic.regularization_path(layer, train, validate, strengths=strengths, criterion=Criterion())), layer


def test_the_path_reports_every_strength_as_an_epoch():
    """From strong to weak, with falling training loss; the measures are those of a layer solved for that strength only."""
    train, validate = rows(3), rows(3, seed=1)
    found, _ = solved_path(train, validate, strengths=(1.0, 0.1, 0.01))
    assert [strength for strength, _ in found] == [1.0, 0.1, 0.01]
    assert [epoch.epoch for _, epoch in found] == [1, 2, 3]
    losses = [epoch.train_loss for _, epoch in found]
    assert losses == sorted(losses, reverse=True)
    alone = zeros(3)
    logistic.solve_logistic(alone, *train, l2=0.01, criterion=Criterion())
    with torch.no_grad():
        logits = alone(validate[0])
    assert found[-1][1].val_loss == pytest.approx(float(nn.functional.cross_entropy(logits, validate[1])), abs=1e-3)
    assert found[-1][1].val_accuracy == pytest.approx(
        float((logits.argmax(1) == validate[1]).double().mean()), abs=0.02
    )
    assert {epoch.lr for _, epoch in found} == {0.0}


def test_the_path_stops_when_weaker_penalties_do_not_help():
    """After three strengths in a row above the lowest validation loss, although the training loss still falls."""
    train = rows(3, count=24, overlap=4.0)
    found, _ = solved_path(train, rows(3, seed=1, overlap=4.0))
    losses = [epoch.val_loss for _, epoch in found]
    assert len(found) < len(logistic.STRENGTHS)
    assert losses.index(min(losses)) == len(losses) - 1 - logistic.STRENGTHS_PATIENCE
    train_losses = [epoch.train_loss for _, epoch in found]
    assert train_losses.index(min(train_losses)) == len(found) - 1


def test_without_validation_every_strength_is_solved():
    """There is no validation loss to stop at."""
    found, _ = solved_path(rows(3), None, strengths=(1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5))
    assert len(found) == 6
    assert all(epoch.val_loss is None and math.isfinite(epoch.train_loss) for _, epoch in found)


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_constant_and_duplicate_columns_need_no_penalty(constant):
    """Dead channels of a backbone, with --l2 0: the probabilities are those without these columns."""
    values, targets = rows(3)
    more = torch.cat([values, torch.full((len(values), 1), constant), values[:, :1]], 1)
    found = []
    for each in (values, more):
        layer = nn.Linear(each.shape[1], 3)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        logistic.solve_logistic(layer, each, targets, l2=0.0, criterion=Criterion(Loss.CATEGORICAL))
        with torch.no_grad():
            found.append(layer(each).softmax(1).numpy())
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)


@pytest.mark.parametrize("count", [4, 8])
def test_constant_rows_get_the_shares_of_the_classes(count):
    """No column varies; there are fewer or more rows than columns."""
    layer = zeros(3)
    targets = torch.tensor([0, 0, 1, 2]).repeat(count // 4)
    logistic.solve_logistic(layer, torch.ones(count, 6), targets, l2=0.0, criterion=Criterion(Loss.CATEGORICAL))
    with torch.no_grad():
        found = layer(torch.ones(1, 6)).softmax(1)[0].tolist()
    assert found == pytest.approx([0.5, 0.25, 0.25], abs=1e-4)
