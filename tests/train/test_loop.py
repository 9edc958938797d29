"""The training loop, against a loop written out in torch: the best epoch, early stopping, and the final state."""

import copy
import math

import pytest
import torch
from sklearn.metrics import log_loss
from torch import nn

from cnnkit.choices import Monitor
from cnnkit.errors import CnnkitError
from cnnkit.train.config import Epoch
from cnnkit.train.distributed import World
from cnnkit.train.loop import BestEpoch, TrainStep, evaluate, fit, in_order, shuffled, warn_if_saturated
from cnnkit.train.mixed_precision import Precision
from cnnkit.train.optim import Criterion, MixupTargets, ModelEma


def rows(count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 3
    return torch.randn(count, 5, generator=generator) + targets[:, None], targets


def head(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def fitted(module, train, validate=None, *, lr=0.1, epochs=4, criterion=None, monitor=Monitor.VAL_LOSS, patience=None):
    best = BestEpoch(monitor)
    step = TrainStep(module, criterion or Criterion(), torch.optim.SGD(module.parameters(), lr=lr))
    records = fit(
        step,
        train=lambda _number: train(),
        validate=validate,
        best=best,
        epochs=epochs,
        patience=patience,
    )
    return list(records), best


def test_weights_are_those_of_a_loop_in_torch():
    """After three epochs with the same batches, with smoothing, class weights and both penalties."""
    inputs, targets = rows()
    module, other = head(), head()
    objective = Criterion(smoothing=0.1, class_weights=torch.tensor([1.0, 2.0, 0.5]), l1=1e-3, l2=1e-2)
    records, _ = fitted(module, lambda: in_order(inputs, targets, batch=16), epochs=3, criterion=objective)

    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1)
    steps = torch.optim.SGD(other.parameters(), lr=0.1)
    for _ in range(3):
        losses, right = [], 0
        for start in range(0, 40, 16):
            logits = other(inputs[start : start + 16])
            loss = criterion(logits, targets[start : start + 16])
            weights = [other[0].weight, other[2].weight]
            total = loss + sum(1e-3 * weight.abs().sum() + 1e-2 * weight.pow(2).sum() for weight in weights)
            steps.zero_grad()
            total.backward()
            steps.step()
            losses += [float(loss.detach())] * len(logits)
            right += int((logits.argmax(1) == targets[start : start + 16]).sum())
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], tensor)
    assert records[-1].train_loss == pytest.approx(sum(losses) / 40, rel=1e-5)
    assert records[-1].train_accuracy == right / 40
    assert [record.epoch for record in records] == [1, 2, 3]
    assert {record.lr for record in records} == {0.1}


def test_validation_ignores_penalties_smoothing_and_class_weights():
    """The validation loss is scikit-learn's log_loss, for any training loss and batch size."""
    inputs, targets = rows()
    module = head().eval()
    objective = Criterion(smoothing=0.3, class_weights=torch.tensor([9.0, 1.0, 1.0]), l1=1.0, l2=1.0)
    with torch.no_grad():
        shares = module(inputs).double().softmax(1).numpy()
    expected = log_loss(targets.numpy(), shares)
    for batch in (1, 7, 4096):
        loss, accuracy = evaluate(module, in_order(inputs, targets, batch=batch), objective)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert accuracy == pytest.approx(float((shares.argmax(1) == targets.numpy()).mean()))


def offered(monitor, *measures):
    best = BestEpoch(monitor)
    for number, (loss, accuracy) in enumerate(measures, start=1):
        best.offer(Epoch(number, 1.0, 0.5, loss, accuracy, 0.1, 0.0), nn.Linear(1, 1))
    return best.epoch.epoch


NAN = math.nan


@pytest.mark.parametrize(
    ("monitor", "measures", "kept"),
    [
        (Monitor.VAL_LOSS, [(0.5, 0.9), (0.3, 0.7), (0.4, 0.99)], 2),
        (Monitor.VAL_LOSS, [(0.3, 0.7), (0.3, 0.9)], 1),
        (Monitor.VAL_LOSS, [(NAN, 0.7), (0.9, 0.1), (NAN, 0.9)], 2),
        (Monitor.VAL_ACCURACY, [(0.5, 0.9), (0.3, 0.7), (0.4, 0.99)], 3),
        (Monitor.VAL_ACCURACY, [(0.5, 0.9), (0.3, 0.9), (0.4, 0.9)], 2),
        (Monitor.VAL_ACCURACY, [(0.5, 0.9), (0.5, 0.9)], 1),
        (Monitor.VAL_ACCURACY, [(NAN, 0.9), (0.5, 0.9), (0.1, 0.0)], 2),
        (Monitor.VAL_LOSS, [(None, None), (None, None), (None, None)], 3),
        (Monitor.VAL_ACCURACY, [(None, None), (None, None)], 2),
    ],
)
def test_the_best_epoch_by_either_measure(monitor, measures, kept):
    """Lowest loss, or highest accuracy and then lowest loss; the first of equal epochs; the last one without validation."""
    assert offered(monitor, *measures) == kept


def test_the_best_state_is_a_copy_of_that_epochs_weights():
    """It has the best epoch's measures, although training continued."""
    inputs, targets = rows()
    checks, outputs = rows(seed=1)
    module = head()
    records, best = fitted(
        module,
        lambda: in_order(inputs, targets, batch=8),
        lambda: in_order(checks, outputs),
        lr=2.0,  # too large, so that epochs are better and worse
        epochs=8,
    )
    losses = [record.val_loss for record in records]
    assert best.epoch.epoch == 1 + losses.index(min(losses))
    assert best.epoch.epoch < 8, "training should have gone on past the best epoch"
    again = head(seed=5).eval()
    again.load_state_dict(best.state)
    assert evaluate(again, in_order(checks, outputs), Criterion()) == (best.epoch.val_loss, best.epoch.val_accuracy)
    assert not torch.equal(best.state["0.weight"], module.state_dict()["0.weight"])


def test_without_validation_the_last_epoch_is_kept():
    """Measures are None, and the state is the module's."""
    inputs, targets = rows()
    module = head()
    records, best = fitted(module, lambda: in_order(inputs, targets), epochs=3)
    assert [(record.val_loss, record.val_accuracy) for record in records] == [(None, None)] * 3
    assert best.epoch is records[-1]
    assert all(torch.equal(best.state[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(("patience", "epochs", "done"), [(3, 20, 4), (1, 20, 2), (None, 6, 6), (9, 6, 6)])
def test_patience_counts_epochs_without_a_better_one(patience, epochs, done):
    """At a learning rate of zero the first epoch is the best: training ends `patience` epochs after it."""
    inputs, targets = rows()
    records, best = fitted(
        head(),
        lambda: in_order(inputs, targets),
        lambda: in_order(inputs, targets),
        lr=0.0,
        epochs=epochs,
        patience=patience,
    )
    assert (len(records), best.epoch.epoch) == (done, 1)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize(
    ("accuracy", "wrong", "right", "expected"),
    [
        (0.5, 40.0, 0.0, True),  # wrong with certainty
        (0.99, 60.0, 0.0, False),  # the mean loss is still below that of equal probabilities
        (0.5, 8.0, 0.01, False),  # wrong, but not with certainty
        (0.5, 1e9, 0.0, True),
        (1.0, 0.0, 0.0, True),
        (1.0, 0.0, 1e-6, False),
    ],
)
def test_outputs_are_saturated_if_errors_are_certain(caplog, classes, accuracy, wrong, right, expected):
    """The loss of images that are classified wrongly, and that of the others."""
    loss = (1 - accuracy) * wrong + accuracy * right
    epochs = (Epoch(1, 0.1, 0.9, loss, accuracy, 0.1, 0.0), Epoch(1, loss, accuracy, None, None, 0.1, 0.0))
    assert [warn_if_saturated(epoch, classes=classes, rate=0.1) for epoch in epochs] == [expected] * 2
    assert len(caplog.messages) == 2 * expected


def test_nan_loss_stops_and_keeps_the_best_epoch():
    """The message has the step and the rate; `best` has the epoch before."""
    inputs, targets = rows()
    broken = inputs.clone()
    broken[20] = math.inf
    module, calls = head(), []

    def train():
        calls.append(copy.deepcopy(module.state_dict()))
        return in_order(inputs if len(calls) == 1 else broken, targets, batch=16)

    seen = []
    best = BestEpoch(Monitor.VAL_LOSS)
    stepper = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.raises(
        CnnkitError, match=r"^the loss became nan in epoch 2, step 2, at a learning rate of 0\.1; give a smaller --lr$"
    ):
        seen.extend(
            fit(
                TrainStep(module, Criterion(), stepper),
                train=lambda _number: train(),
                validate=lambda: in_order(inputs, targets),
                best=best,
                epochs=5,
            )
        )
    assert best.epoch.epoch == 1
    assert all(torch.equal(best.state[name], tensor) for name, tensor in calls[1].items())


def test_train_mode_while_training_and_eval_mode_afterwards():
    """Dropout is active only for training batches; during validation and after every epoch, the module is in eval mode."""
    inputs, targets = rows()
    module = nn.Sequential(nn.Dropout(0.5), head()).eval()
    flags = []

    def batches(expected):
        for batch in in_order(inputs, targets, batch=16):
            flags.append(module.training is expected)
            yield batch

    after = []
    for _ in fit(
        TrainStep(module, Criterion(), torch.optim.SGD(module.parameters(), lr=0.1)),
        train=lambda _number: batches(True),
        validate=lambda: batches(False),
        best=BestEpoch(Monitor.VAL_LOSS),
        epochs=2,
    ):
        after.append(module.training)
    # The generator of training batches starts after the switch to training mode
    assert (all(flags), len(flags), after) == (True, 12, [False, False])


@pytest.mark.parametrize(
    ("count", "batch", "sizes"),
    [
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (5, 4, [5]),
        (3, 2, [3]),
        (1, 4, [1]),
        (4, 4, [4]),
        (3, 100, [3]),
        (3, 1, [1, 1, 1]),
        (1, 1, [1]),
    ],
)
def test_shuffled_batches_have_every_row_once_and_no_single_last_row(count, batch, sizes):
    """A last batch of one row is merged with the one before, for batch norm; inputs keep their targets."""
    inputs = torch.arange(count, dtype=torch.float32)[:, None]
    got = list(shuffled(inputs, torch.arange(count) * 10, batch=batch, generator=torch.Generator().manual_seed(0)))
    assert [len(targets) for _, targets in got] == sizes
    values = torch.cat([values for values, _ in got])[:, 0]
    assert sorted(values.tolist()) == list(range(count))
    assert torch.equal(torch.cat([targets for _, targets in got]), values.long() * 10)


def test_the_order_depends_only_on_the_generator():
    """The same seed gives the same order in each epoch; torch's global generator is not used."""
    inputs, targets = rows()

    def orders(seed):
        generator = torch.Generator().manual_seed(seed)
        return [
            torch.cat([each for each, _ in shuffled(inputs, targets, batch=16, generator=generator)]) for _ in range(2)
        ]

    before = torch.random.get_rng_state()
    first, second = orders(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, orders(1)[0])
    assert torch.equal(second, orders(1)[1])
    assert not torch.equal(first, second)
    assert not torch.equal(first, orders(2)[0])


def test_in_order_keeps_the_order_of_rows():
    """Every row once, for any batch size."""
    inputs, targets = rows()
    for batch in (1, 16, 40, 100):
        got = list(in_order(inputs, targets, batch=batch))
        assert torch.equal(torch.cat([each for each, _ in got]), inputs)
        assert torch.equal(torch.cat([each for _, each in got]), targets)
        assert max(len(each) for each, _ in got) <= batch


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 3.0])])
def test_a_step_does_not_wait_for_the_device(mixed, weights):
    """No loss, target or count is read: a device without values, which has only shapes, would raise an error."""
    module = head().to("meta")
    step = TrainStep(
        module,
        Criterion(class_weights=None if weights is None else weights.to("meta"), smoothing=0.1, l2=0.1),
        torch.optim.SGD(module.parameters(), lr=0.1),
    )
    inputs, targets = torch.empty(8, 5, device="meta"), torch.empty(8, dtype=torch.long, device="meta")
    measures = step(inputs, MixupTargets(targets, targets.flip(0), 0.3) if mixed else targets)
    assert (measures.shape, measures.device.type) == ((3,), "meta")


@pytest.mark.parametrize(
    "read", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x.tolist(), lambda x: x.to("cpu"), torch.nonzero]
)
def test_a_device_without_values_detects_reads(read):
    """The tests around this one rely on it: an error is raised if a value is read, or determines a shape."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        read(torch.empty(3, device="meta"))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_whole_step_reads_no_value(optimizer):
    """Gradients, their norm, the optimizer and the moving average, on a device without values."""
    module = head().to("meta")
    step = TrainStep(
        module, Criterion(l1=0.1), optimizer(module.parameters(), lr=0.1), clip=1.0, ema=ModelEma(module, 0.9)
    )
    for _ in range(2):
        measures = step(torch.empty(8, 5, device="meta"), torch.empty(8, dtype=torch.long, device="meta"))
    assert (measures.shape, measures.device.type) == ((3,), "meta")


def test_validation_reads_only_its_sums_and_accepts_an_empty_share():
    """A process whose share has no row adds nothing, but takes part in the sum."""
    inputs, targets = rows()
    module = head().eval()
    batches = list(in_order(inputs, targets, batch=7))
    whole = evaluate(module, batches, Criterion())

    class Two(World):
        def sum(self, values):
            return values + sums

    sums = torch.tensor([whole[0] * 40, whole[1] * 40, 40.0], dtype=torch.float64)
    assert evaluate(module, [], Criterion(), world=Two(1, 2)) == pytest.approx(whole)

    class Reached(World):
        def sum(self, values):
            raise KeyError(values.device.type)

    there = [(inputs.to("meta"), targets.to("meta")) for inputs, targets in batches]
    with pytest.raises(KeyError, match="meta"):  # any value that is read before raises another error
        evaluate(module.to("meta"), there, Criterion(), world=Reached())


def test_untrained_parts_use_mixed_precision_on_a_gpu_only(monkeypatch):
    """On a CPU they use float32, for any precision of the training."""
    casts = []
    monkeypatch.setattr(torch, "autocast", lambda *words: casts.append(words) or torch.inference_mode())
    for device, dtype, expected in (
        ("cuda", torch.bfloat16, [("cuda", torch.bfloat16)]),
        ("cuda", None, []),
        ("cpu", torch.bfloat16, []),
    ):
        casts.clear()
        with Precision(torch.device(device), dtype).untrained():
            assert torch.backends.cudnn.allow_tf32 is bool(expected)
        assert casts == expected
