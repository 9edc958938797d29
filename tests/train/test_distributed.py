"""Several processes: which one this is, and what is said where somebody else's variables look like torchrun's."""

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


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_make_up_the_whole(size):
    """Every row belongs to one process."""
    rows = torch.arange(7)
    shares = [World(rank, size).share(rows) for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == rows.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
