"""A training step, against a loop written out in torch: rates, clipping, mixed targets, averages, and batches that do not fit."""

import math
import re

import pytest
import torch
from torch import nn

from cnnkit.choices import Loss, Monitor
from cnnkit.errors import CnnkitError
from cnnkit.train.config import Epoch
from cnnkit.train.loop import BestEpoch, DivergedError, TrainStep, fit, in_order
from cnnkit.train.optim import Criterion, MixupTargets, ModelEma


def rows(count=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 3
    return torch.randn(count, 5, generator=generator) + targets[:, None], targets


def head(seed=0, outputs=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, outputs))


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


def same(module, other):
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], tensor)


class Small(nn.Module):
    """Simulates a GPU whose memory is full with more than `most` rows."""

    def __init__(self, module, most):
        super().__init__()
        self.module, self.most, self.seen = module, most, []

    def forward(self, inputs):
        if len(inputs) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.seen.append(len(inputs))
        return self.module(inputs)


def test_gradients_are_clipped_by_their_common_norm():
    """As torch's clip_grad_norm_ over all parameters, penalties included."""
    inputs, targets = rows()
    module, other = head(), head()
    step = TrainStep(module, Criterion(l2=0.1), sgd(module), clip=0.05)
    steps = sgd(other)
    for _ in range(3):
        step(inputs, targets)
        steps.zero_grad()
        penalty = 0.1 * (other[0].weight.square().sum() + other[2].weight.square().sum())
        (nn.functional.cross_entropy(other(inputs), targets) + penalty).backward()
        assert nn.utils.clip_grad_norm_(other.parameters(), 0.05) > 0.05
        steps.step()
    same(module, other)


@pytest.mark.parametrize("loss", Loss)
def test_mixed_targets_have_the_loss_of_their_shares(loss):
    """lambda times the loss of one class plus 1 - lambda times that of the other, as in the mixup paper."""
    inputs, targets = rows()
    targets = targets.clamp(max=1)
    outputs = 1 if loss is Loss.BINARY else 2
    module, other = head(outputs=outputs), head(outputs=outputs)
    step = TrainStep(module, Criterion(loss), sgd(module))
    loss_sum, right, count = step(inputs, MixupTargets(targets, targets.flip(0), 0.3)).tolist()

    def loss_of(logits, targets):
        if loss is Loss.BINARY:
            return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], targets.float())
        return nn.functional.cross_entropy(logits, targets)

    logits = other(inputs)
    predicted = (logits[:, 0] > 0).long() if loss is Loss.BINARY else logits.argmax(1)
    mixed = 0.3 * loss_of(logits, targets) + 0.7 * loss_of(logits, targets.flip(0))
    steps = sgd(other)
    mixed.backward()
    steps.step()
    same(module, other)
    assert loss_sum == pytest.approx(20 * mixed.item(), rel=1e-5)
    expected = 0.3 * (predicted == targets).sum() + 0.7 * (predicted == targets.flip(0)).sum()
    assert (right, count) == (pytest.approx(expected.item()), 20)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_batch_in_pieces_gives_the_gradients_of_the_whole(mixed, caplog):
    """With class weights, smoothing, penalty and clip; later batches, also odd ones, are divided without another notice."""
    module, other = head(), head()
    settings = Criterion(smoothing=0.1, class_weights=torch.tensor([1.0, 5.0, 0.2]), l2=0.01)
    small = Small(module, most=6)
    step = TrainStep(small, settings, sgd(small), clip=1.0)
    whole = TrainStep(other, settings, sgd(other), clip=1.0)
    for count in (20, 20, 3, 1, 20):
        inputs, targets = rows(count)
        expected = MixupTargets(targets, targets.flip(0), 0.4) if mixed else targets
        torch.testing.assert_close(step(inputs, expected), whole(inputs, expected))
    same(module, other)
    assert small.seen == [1] + [5] * 8 + [1] * 4 + [5] * 4  # the first call counts operations
    notices = [re.search(r"batch of 20 does not fit .* into (\d) pieces", each)[1] for each in caplog.messages]
    assert notices == ["2", "4"]


def test_an_image_that_does_not_fit_alone_is_one_line():
    """A batch of one image cannot be divided."""
    module = Small(head(), most=0)
    with pytest.raises(
        CnnkitError, match=r"^a batch of 20 does not fit into the memory of cpu; give a smaller --batch or --size$"
    ):
        TrainStep(module, Criterion(), sgd(module))(*rows())


def test_batch_norm_on_one_image_is_one_line():
    """There is no variance to divide by; torch's other errors are not changed."""
    module = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    step = TrainStep(module.train(), Criterion(), sgd(module))
    with pytest.raises(CnnkitError, match=r"^batch norm cannot train on a single image at a time; give a larger "):
        step(*rows(1))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        step(torch.zeros(4, 7), torch.zeros(4, dtype=torch.long))


def test_the_factor_multiplies_the_rate_of_every_group():
    """The reported rate is the first group's."""
    module, other = head(), head()
    groups = [{"params": module[2].parameters(), "lr": 0.1}, {"params": module[0].parameters(), "lr": 0.01}]
    calls = []

    def rate(number, index, before):
        calls.append((number, index, len(before)))
        return 0.5**index

    step = TrainStep(module, Criterion(), torch.optim.SGD(groups, lr=1.0), rate=rate)
    inputs, targets = rows()
    for index, batch in enumerate(in_order(inputs, targets, batch=10)):
        step.set_rate(3, index, ["one", "two"])
        step(*batch)
    for index, part in enumerate((slice(0, 10), slice(10, 20))):
        other.zero_grad()
        nn.functional.cross_entropy(other(inputs[part]), targets[part]).backward()
        for layer, lr in ((other[2], 0.1), (other[0], 0.01)):
            for parameter in layer.parameters():
                parameter.data -= lr * 0.5**index * parameter.grad
    same(module, other)
    assert calls == [(3, 0, 2), (3, 1, 2)]
    assert step.lr == pytest.approx(0.05)


def test_averages_are_validated_and_kept_and_do_not_affect_training():
    """The averages follow the recurrence computed by hand; the weights are those of a training without them."""
    inputs, targets = rows()
    module, other = head(), head()
    averaged = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    best = BestEpoch(Monitor.VAL_LOSS)
    step = TrainStep(module, Criterion(), sgd(module), ema=ModelEma(module, 0.5))
    records = list(
        fit(
            step,
            train=lambda _number: in_order(inputs, targets, batch=4),
            validate=lambda: in_order(inputs, targets),
            best=best,
            epochs=3,
        )
    )
    steps, count, losses = sgd(other), 0, []
    for _ in range(3):
        for start in range(0, 20, 4):
            steps.zero_grad()
            nn.functional.cross_entropy(other(inputs[start : start + 4]), targets[start : start + 4]).backward()
            steps.step()
            count += 1
            decay = min(0.5, (1 + count) / (10 + count))
            for name, tensor in other.state_dict().items():
                averaged[name] = decay * averaged[name] + (1 - decay) * tensor
        validated = head()
        validated.load_state_dict(averaged)
        losses.append(nn.functional.cross_entropy(validated(inputs), targets).item())
    same(module, other)
    assert [record.val_loss for record in records] == pytest.approx(losses, rel=1e-5)
    assert best.epoch.epoch == 3
    for name, tensor in best.state.items():
        torch.testing.assert_close(tensor, averaged[name])


def test_losses_are_checked_in_every_step_on_a_cpu():
    """The message has the step and the rate of that batch."""
    inputs, targets = rows()
    inputs[13] = math.nan
    module = head()
    step = TrainStep(module, Criterion(), sgd(module), rate=lambda _number, index, _before: 1 / (1 + index))
    with pytest.raises(
        DivergedError, match=r"^the loss became nan in epoch 7, step 4, at a learning rate of 0\.025; give a "
    ):
        list(
            fit(
                step,
                train=lambda _number: in_order(inputs, targets, batch=4),
                validate=None,
                best=BestEpoch(Monitor.VAL_LOSS),
                epochs=7,
                before=[Epoch(number, 1.0, 0.5, None, None, 0.1, 0.0) for number in range(1, 7)],
            )
        )


def test_an_error_of_torch_compile_is_one_line(monkeypatch, tmp_path):
    """For example without a C++ compiler: the first line of torch's error, and the remedy."""
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config.cpp, "cxx", (None, str(tmp_path / "no-compiler")))
    module = head()
    with pytest.raises(CnnkitError, match=r"^--compile: .*No working C\+\+ compiler found.*; train without --compile$"):
        TrainStep(module, Criterion(), sgd(module), compiled=True)(*rows())
