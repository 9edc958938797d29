"""Several processes: which one this is, and what is said where somebody else's variables look like torchrun's."""

import copy

import pytest
import torch

from cnnkit.engine import device as devices
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.train import distributed
from cnnkit.train.distributed import ALONE, World


def test_without_torchrun_there_is_one_process(monkeypatch):
    """A world of one is none, however it is told."""
    for size in (None, "", "1"):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if size is not None:
            monkeypatch.setenv("WORLD_SIZE", size)
        with distributed.joined(devices.parse("cpu")) as (world, place):
            assert (world, place) == (ALONE, torch.device("cpu"))


@pytest.mark.parametrize(
    ("size", "rank", "message"),
    [
        ("4", None, r'^RANK is "" beside WORLD_SIZE 4: start several processes with torchrun, or unset WORLD_SIZE$'),
        ("4", "first", r'^RANK is "first" beside WORLD_SIZE 4: '),
        ("all", "0", r'^WORLD_SIZE is "all" '),
    ],
)
def test_half_a_world_is_a_line(monkeypatch, size, rank, message):
    """Batch systems export variables of these names; to wait for processes that nobody started would take for ever."""
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(UsageError, match=message), distributed.joined(devices.parse("cpu")):
        pytest.fail("nobody else is there")


def test_a_full_memory_is_a_line():
    """Wherever in a training it is found to be full."""
    full = pytest.raises(CnnkitError, match=r"^the memory of cpu is full; give a smaller --batch or --size$")
    with full, distributed.joined(devices.parse("cpu")):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def alone_in_a_group():
    """A group of processes with this one in it."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("mean", [0.0, 10.0, 300.0])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_shared_batch_norm_is_torchs(alone_in_a_group, mean, momentum):
    """Answers, gradients and statistics, also of values far from nought, whose squares drown their variance."""
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.BatchNorm2d(4, momentum=momentum))
    with torch.no_grad():
        plain[0].weight.uniform_(0.5, 2)
        plain[0].bias.uniform_(-1, 1)
    shared = copy.deepcopy(plain)
    distributed._share_batch_norms(shared)
    exact = copy.deepcopy(plain).double()
    weights = torch.randn(6, 4, 5, 5)
    answers = {}
    for name, module, dtype in (("exact", exact, torch.float64), ("shared", shared, torch.float32)):
        for step in range(2):
            torch.manual_seed(step)
            maps = (mean + torch.randn(6, 4, 5, 5)).to(dtype).requires_grad_()
            answer = module(maps)
            (answer * weights).sum().backward()
        answers[name] = [answer, maps.grad, *(each.grad for each in module.parameters()), *module.state_dict().values()]
    for ours, theirs in zip(answers["shared"], answers["exact"], strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_make_up_the_whole(size):
    """Every row belongs to one process."""
    rows = torch.arange(7)
    shares = [World(rank, size).share(rows) for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == rows.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
