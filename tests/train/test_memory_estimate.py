"""The estimate of a training's memory: against sizes by hand, and its notice and error."""

import pytest
import torch
from torch import nn

from cnnkit.choices import Optimizer
from cnnkit.data import memory
from cnnkit.train import memory_estimate
from cnnkit.train.memory_estimate import MemoryEstimate, estimate

WORDS = ["cnn-train", "photos", "--layers", "conv 2 k3 relu, flatten", "--size", 8, "--epochs", 1, "--device", "cpu"]


def test_a_dense_network_by_hand():
    """The graph keeps the input of each dense layer and the output of relu, which is the second input: 5 + 7 numbers."""
    module = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    parameters = 4 * (5 * 7 + 7 + 7 * 3 + 3)
    per_image = 4 * (5 + 7) + 2 * 4 * 7  # kept, and gradients of the largest output
    for optimizer, tensors in ((Optimizer.SGD, 1), (Optimizer.RMSPROP, 2), (Optimizer.ADAM, 3), (Optimizer.NADAM, 3)):
        assert estimate(module, torch.ones(4, 5), optimizer=optimizer) == MemoryEstimate(
            tensors * parameters, per_image
        )
    more = estimate(module, torch.ones(4, 5), optimizer=Optimizer.SGD, momentum=True, ema=True)
    assert more.fixed == 3 * parameters
    module[0].requires_grad_(False)
    assert estimate(module, torch.ones(4, 5), optimizer=Optimizer.SGD).fixed == 4 * (7 * 3 + 3)


@pytest.mark.parametrize("optimizer", Optimizer)
def test_states_are_those_of_torch(optimizer):
    """Without counters of steps."""
    made = {"sgd": "SGD", "rmsprop": "RMSprop", "adamw": "AdamW", "nadam": "NAdam"}
    module = nn.Linear(6, 2)
    torchs = getattr(torch.optim, made.get(optimizer.value, optimizer.value.capitalize()))(module.parameters(), lr=0.1)
    module(torch.ones(4, 6)).sum().backward()
    torchs.step()
    kept = sum(
        each.nbytes for state in torchs.state.values() for each in state.values() if each is not None and each.ndim
    )
    parameters = sum(each.nbytes for each in module.parameters())
    assert estimate(module, torch.ones(4, 6), optimizer=optimizer).fixed == parameters + kept


def test_module_and_generator_are_as_before():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    drawn = torch.get_rng_state()
    estimate(module, torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), optimizer=Optimizer.ADAM)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(each.grad is None for each in module.parameters())
    assert not any(each._forward_hooks for each in module.modules())


def test_the_batch_that_fits():
    needed = MemoryEstimate(100, 10)
    assert (needed.of_batch(3), needed.largest_batch(155), needed.largest_batch(90)) == (130, 5, 0)
    assert [memory_estimate.shown(size) for size in (1, 310 << 20, 9 << 28)] == ["1 MiB", "310 MiB", "2.2 GiB"]


def test_free_memory_of_the_system(tmp_path):
    assert memory.available(tmp_path) is None
    (tmp_path / "proc").mkdir()
    text = "MemTotal: 100 kB\nMemAvailable:   70 kB\nSwapFree:  5 kB\nHugePages_Total: 0\n"
    (tmp_path / "proc" / "meminfo").write_text(text)
    assert memory.available(tmp_path) == 75 * 1024
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("70000\n")
    assert memory.available(tmp_path) == 70000  # the limit of a container


def test_notice_before_training_and_error_with_the_batch_that_fits(run, images, tmp_path, monkeypatch):
    images("photos/train", red=6, blue=6)
    monkeypatch.chdir(tmp_path)
    said = run(*WORDS, "-o", "net.pt").err
    assert "cnn-train: training takes about 1 MiB of memory for batches of 12; " in said
    assert said.index("training takes about") < said.index("epoch 1/1")
    monkeypatch.setattr(memory_estimate, "available", lambda _device: 20_000)
    outcome = run(*WORDS, "-o", "small.pt", status=1)
    assert "batches of 12 need about 1 MiB of memory, and 1 MiB are free; give --batch " in outcome.err
    assert not (tmp_path / "small.pt").exists()
    monkeypatch.setattr(memory_estimate, "available", lambda _device: 10)
    assert "are free; give a smaller --size or network" in run(*WORDS, "-o", "small.pt", status=1).err
