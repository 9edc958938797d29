"""The last notice of a training: images per second, and the share of the time that waited for batches."""

import re
import time

import pytest
import torch
from torch import nn

from cnnkit.choices import Loss, Monitor
from cnnkit.train import trainer
from cnnkit.train.loop import BestEpoch, TrainStep, fit
from cnnkit.train.optim import Criterion


def test_waiting_is_the_time_until_batches_are_there():
    """Of 0.2 s for reading, and not that of the steps."""
    module = nn.Linear(2, 2)
    step = TrainStep(module, Criterion(Loss.CATEGORICAL), torch.optim.SGD(module.parameters(), lr=0.1))
    work = step._change
    step._change = lambda: (time.sleep(0.05), work())

    def train(_number):
        for _ in range(2):
            time.sleep(0.1)
            yield torch.ones(3, 2), torch.tensor([0, 1, 0])

    (epoch,) = fit(step, train=train, validate=None, best=BestEpoch(Monitor.VAL_LOSS), epochs=1)
    assert step.waited == pytest.approx(0.2, abs=0.08)
    assert epoch.seconds >= step.waited + 0.1


@pytest.mark.parametrize(("images", "shown"), [(312.4, "312"), (9.96, "10"), (7.44, "7.4"), (0.384, "0.38")])
def test_slow_trainings_have_a_speed_too(images, shown):
    assert trainer._rate(images) == shown


def test_a_training_ends_with_its_speed(run, images, tmp_path, monkeypatch):
    """On standard error, not with --quiet; a resumed training that is complete has none."""
    images("photos/train", red=6, blue=6)
    images("photos/val", red=2, blue=2)
    monkeypatch.chdir(tmp_path)
    words = [
        "cnn-train",
        "photos",
        "--layers",
        "conv 2 k3 relu, flatten",
        "--size",
        8,
        "--epochs",
        2,
        "--device",
        "cpu",
    ]
    said = run(*words, "-o", "net.pt").err
    found = re.search(
        r"cnn-train: (\d+) images/s, ([\d.]+) s per epoch with validation, of which (\d+) % waiting", said
    )
    assert found
    assert float(found[1]) == pytest.approx(12 / float(found[2]), rel=0.05, abs=1)
    assert "images/s" not in run(*words, "-o", "net.pt", "--quiet").err
    assert "waiting" not in run(*words, "-o", "net.pt", "--resume").err
