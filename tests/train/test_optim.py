"""Losses, penalties, class weights and optimizers, against values computed by hand, Keras' definitions, scikit-learn and torch."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from cnnkit.choices import Loss, Optimizer
from cnnkit.train import optim
from cnnkit.train.config import TrainConfig
from cnnkit.train.optim import Criterion


def some_logits(classes=3, rows=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator)
    return logits, torch.arange(rows) % classes


def test_categorical_loss_is_the_mean_negative_log_softmax():
    """One row by hand, several rows against scikit-learn's log_loss."""
    row = torch.tensor([[1.0, 2.0, 0.0]])
    by_hand = -math.log(math.e**2 / (math.e + math.e**2 + 1))
    assert float(Criterion()(row, torch.tensor([1]))) == pytest.approx(by_hand, rel=1e-6)
    logits, targets = some_logits()
    expected = log_loss(targets.numpy(), logits.double().softmax(1).numpy(), labels=[0, 1, 2])
    assert float(Criterion()(logits, targets)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothing_spreads_over_all_classes(smoothing):
    """The target is 1 - s + s / K for the class and s / K for the others, as in Keras."""
    logits, targets = some_logits()
    smoothed = np.full((7, 3), smoothing / 3)
    smoothed[np.arange(7), targets.numpy()] += 1 - smoothing
    by_hand = -(smoothed * logits.double().log_softmax(1).numpy()).sum(1).mean()
    assert float(Criterion(smoothing=smoothing)(logits, targets)) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("loss", list(Loss))
def test_class_weights_make_a_weighted_mean(loss):
    """Sum of weight * loss divided by the sum of weights, so that equal weights have no effect."""
    logits, targets = some_logits(classes=2)
    weights = torch.tensor([1.0, 5.0])
    given = logits[:, :1] if loss is Loss.BINARY else logits
    apart = torch.stack([Criterion(loss)(given[row : row + 1], targets[row : row + 1]) for row in range(7)])
    by_hand = (apart * weights[targets]).sum() / weights[targets].sum()
    torch.testing.assert_close(Criterion(loss, class_weights=weights)(given, targets), by_hand)
    equal = Criterion(loss, class_weights=torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(equal(given, targets), Criterion(loss)(given, targets))
    assert not torch.isclose(by_hand, Criterion(loss)(given, targets)), "the weights should have changed something"


@pytest.mark.parametrize(
    "options",
    [{}, {"smoothing": 0.2}, {"class_weights": torch.tensor([0.7, 2.0])}],
    ids=["plain", "smooth", "weighted"],
)
def test_one_sigmoid_is_a_softmax_over_zero_and_its_logit(options):
    """The binary loss of z is the categorical loss of (0, z), in value and gradient."""
    _, targets = some_logits(classes=2)
    one = torch.randn(7, 1, generator=torch.Generator().manual_seed(1), requires_grad=True)
    two = torch.cat([torch.zeros(7, 1), one], 1)
    binary, categorical = Criterion(Loss.BINARY, **options)(one, targets), Criterion(**options)(two, targets)
    torch.testing.assert_close(binary, categorical)
    torch.testing.assert_close(torch.autograd.grad(binary, one), torch.autograd.grad(categorical, one))
    assert torch.equal(optim.predicted_classes(one), optim.predicted_classes(two))


def test_a_confident_sigmoid_does_not_overflow():
    """The loss is computed from logits: a wrong logit of 1,000 has a loss of 1,000, not infinity."""
    logits = torch.tensor([[1000.0], [-1000.0]])
    assert float(Criterion(Loss.BINARY)(logits, torch.tensor([0, 1]))) == pytest.approx(1000.0)


def test_balanced_weights_are_scikit_learns():
    """n / (classes * count)."""
    targets = torch.tensor([0] * 7 + [1] * 2 + [2] * 30)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets.numpy())
    np.testing.assert_allclose(optim.balanced_weights(targets, 3).numpy(), expected, rtol=1e-6)


def test_penalties_are_keras_regularisers():
    """l1 * sum |w| + l2 * sum w**2 over dense and convolutional weights, without biases, batch norm and frozen layers."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2), nn.Linear(2, 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(10.0)
        network[0].weight.copy_(torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1))
        network[3].weight.copy_(torch.tensor([[0.5, -0.5], [3.0, 0.0]]))
    network[4].requires_grad_(False)

    def cost(**penalties):
        return float(torch.as_tensor(Criterion(**penalties).penalty(network)).detach())

    assert cost(l1=0.1) == pytest.approx(0.1 * (3 + 4))
    assert cost(l2=0.01) == pytest.approx(0.01 * (5 + 9.5))
    assert cost(l1=0.1, l2=0.01) == pytest.approx(0.7 + 0.145)
    assert cost() == 0


TORCHS = {
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
}


def three_steps(make):
    """Three steps on a parabola, from values whose squares have rounding errors."""
    parameter = nn.Parameter(torch.tensor([1.1, -2.3]))
    stepper = make([parameter])
    for _ in range(3):
        stepper.zero_grad()
        parameter.pow(2).sum().backward()
        stepper.step()
    return parameter.detach()


@pytest.mark.parametrize("lr", [None, 0.05])
@pytest.mark.parametrize("name", list(Optimizer))
def test_every_optimizer_is_torchs_at_keras_rates(name, lr):
    """Three steps on a parabola are those of torch's class, at Keras' default rate or a given one."""
    extra = {"weight_decay": 0.004} if name == "adamw" else {}
    rate = lr or (0.01 if name == "sgd" else 0.001)
    expected = three_steps(lambda parameters: TORCHS[name](parameters, lr=rate, **extra))
    found = three_steps(lambda parameters: optim.optimizer(TrainConfig(optimizer=name, lr=lr), parameters))
    torch.testing.assert_close(found, expected, rtol=3e-7, atol=0)  # torch's fused kernels round in another order
    assert not torch.equal(found, torch.tensor([1.1, -2.3]))


@pytest.mark.parametrize("name", list(Optimizer))
def test_gradients_of_another_memory_format(name):
    """Channels-last weights with gradients in rows: the steps are those of torch's class, which does not use fused kernels."""
    start = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    ends = []
    for make in (lambda each: optim.optimizer(TrainConfig(optimizer=name, lr=0.1), each),
                 lambda each: TORCHS[name](each, lr=0.1, **({"weight_decay": 0.004} if name == "adamw" else {}))):  # fmt: skip
        parameter = nn.Parameter(start.clone(memory_format=torch.channels_last))
        stepper, generator = make([parameter]), torch.Generator().manual_seed(1)
        for _ in range(3):
            parameter.grad = torch.randn(8, 4, 3, 3, generator=generator)
            assert parameter.grad.stride() != parameter.stride()
            stepper.step()
        ends.append(parameter.detach())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_no_two_optimizers_are_the_same():
    """At the same rate they give different steps."""
    ends = {
        tuple(three_steps(lambda each, name=name: optim.optimizer(TrainConfig(optimizer=name, lr=0.1), each)).tolist())
        for name in Optimizer
    }
    assert len(ends) == len(Optimizer)


def test_correct_predictions_are_counted():
    """By the largest logit, or the sign of a single one; zero means the first class, as do equal logits."""
    logits = torch.tensor([[0.1, 0.9], [2.0, 1.0], [0.0, 0.0]])
    assert optim.predicted_classes(logits).tolist() == [1, 0, 0]
    assert optim.correct(logits, torch.tensor([1, 1, 0])) == 2
    assert optim.predicted_classes(torch.tensor([[0.3], [-0.3], [0.0]])).tolist() == [1, 0, 0]
    assert optim.correct(torch.tensor([[0.3], [-0.3], [0.0]]), torch.tensor([1, 0, 1])) == 2


class OnGpu(nn.Parameter):
    """A parameter that claims to be on a GPU."""

    is_cuda = True


@pytest.mark.parametrize("name", list(Optimizer))
def test_optimizers_are_fused_where_that_is_faster(name):
    """On a GPU, on a CPU, with parameters on both, and with groups of parameters."""
    there, here = OnGpu(torch.ones(2)), nn.Parameter(torch.ones(2))
    config = TrainConfig(optimizer=name)
    fused = [
        optim.optimizer(config, each).defaults.get("fused")
        for each in ([there], [here], [there, here], [{"params": [there], "lr": 1.0}])
    ]
    expected = {"sgd": [True, False, False, True], "adagrad": [False, True, False, False]}
    expected |= dict.fromkeys(("adam", "adamw"), [True] * 4)
    assert [bool(each) for each in fused] == expected.get(name, [False] * 4)


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam", "adamw"])
def test_an_optimizer_is_restored_on_another_type_of_device(name):
    """From steps that are not fused to fused ones, and back: `fused` is that of the new device."""

    def steps(parameter, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            parameter.pow(2).sum().backward()
            optimizer.step()

    config = TrainConfig(optimizer=Optimizer(name), lr=0.1)
    for kinds in ((nn.Parameter, OnGpu), (OnGpu, nn.Parameter)):
        first, second = (kind(torch.tensor([1.0, -2.0])) for kind in kinds)
        before, after = (optim.optimizer(config, [each]) for each in (first, second))
        own = after.param_groups[0]["fused"]
        steps(first, before, 3)
        with torch.no_grad():
            second.copy_(first)
        optim.restore(after, copy.deepcopy(before.state_dict()))
        assert after.param_groups[0]["fused"] is own
        steps(first, before, 2)
        steps(second, after, 2)
        torch.testing.assert_close(second.detach(), first.detach())
