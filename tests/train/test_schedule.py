"""Learning-rate schedules, against torch's schedulers."""

import pytest
import torch
from torch.optim import lr_scheduler

from cnnkit.choices import Schedule
from cnnkit.train.config import Epoch
from cnnkit.train.optim import lr_factor

STEPS, EPOCHS = 5, 8


def factors(schedule, **others):
    return [lr_factor(schedule, step=step, steps=STEPS, epochs=EPOCHS, **others) for step in range(STEPS * EPOCHS)]


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def stepped(make, *, count=STEPS * EPOCHS):
    """Return the rates of a torch scheduler for every step."""
    over = optimizer()
    scheduler = make(over)
    rates = []
    for _ in range(count):
        rates.append(over.param_groups[0]["lr"])
        over.step()
        scheduler.step()
    return rates


def test_constant():
    """The factor is always 1."""
    assert factors(Schedule.CONSTANT) == [1.0] * 40


def test_cosine_per_step():
    """CosineAnnealingLR over all steps."""
    expected = stepped(lambda over: lr_scheduler.CosineAnnealingLR(over, STEPS * EPOCHS))
    assert factors(Schedule.COSINE) == pytest.approx(expected, abs=1e-9)


def test_steps_at_half_and_three_quarters():
    """MultiStepLR with its two milestones."""
    expected = stepped(lambda over: lr_scheduler.MultiStepLR(over, [20, 30], gamma=0.1))
    assert factors(Schedule.STEP) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (Schedule.CONSTANT, lambda over: lr_scheduler.ConstantLR(over, factor=1.0)),
        (Schedule.COSINE, lambda over: lr_scheduler.CosineAnnealingLR(over, STEPS * (EPOCHS - 2))),
    ],
)
def test_warm_up_is_linear_and_the_schedule_has_the_rest(schedule, make):
    """LinearLR from 1/11 to 1 over two epochs of five steps, then the schedule over the other six."""
    rising = stepped(lambda over: lr_scheduler.LinearLR(over, start_factor=1 / 11, total_iters=10), count=10)
    assert factors(schedule, warmup=2.0) == pytest.approx(rising + stepped(make, count=30), abs=1e-9)


@pytest.mark.parametrize(("warmup", "expected"), [(0.5, [1 / 3, 2 / 3, 1.0, 1.0]), (0.2, [0.5, 1.0, 1.0, 1.0])])
def test_warm_up_of_less_than_an_epoch(warmup, expected):
    """A warm-up of 2.5 steps reaches 1 in the third step, of 1 step in the second."""
    assert factors(Schedule.CONSTANT, warmup=warmup)[:4] == pytest.approx(expected)


@pytest.mark.parametrize(
    "losses",
    [
        [1.0] * 20,
        [1.0, 0.9, 0.95, 0.9, 0.91, 0.92, 0.93, 0.89, *[0.9] * 12],
        [1.0, float("nan"), *[2.0] * 4, 0.5, *[0.5] * 5, 0.4],
        [1.0 - 0.00001 * epoch for epoch in range(20)],
    ],
)
def test_plateau_follows_the_validation_loss(losses):
    """ReduceLROnPlateau to a fifth after five epochs without a lower loss (torch counts those beyond its patience)."""
    over = optimizer()
    scheduler = lr_scheduler.ReduceLROnPlateau(over, factor=0.2, patience=4, threshold=1e-4, threshold_mode="abs")
    before = []
    for number, loss in enumerate(losses, start=1):
        rate = lr_factor(Schedule.PLATEAU, step=0, steps=1, epochs=99, before=before)
        assert rate == pytest.approx(over.param_groups[0]["lr"]), number
        before.append(Epoch(number, 1.0, 0.5, loss, 0.5, 1.0, 0.0))
        scheduler.step(loss)
    assert over.param_groups[0]["lr"] < 1.0
