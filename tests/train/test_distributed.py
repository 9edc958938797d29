"""Training in several processes: rank and device of a process, and errors about torchrun's variables."""

import contextlib

import pytest
import torch
from torch import distributed as dist
from torch import nn

from cnnkit.callbacks import Callbacks
from cnnkit.engine import device as devices
from cnnkit.engine import torch_device
from cnnkit.errors import DeviceError, UsageError
from cnnkit.train import distributed
from cnnkit.train.distributed import ALONE, World


def test_without_torchrun_there_is_one_process(monkeypatch):
    """WORLD_SIZE may be unset, empty or 1."""
    for size in (None, "", "1"):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if size is not None:
            monkeypatch.setenv("WORLD_SIZE", size)
        with distributed.joined(devices.parse("cpu")) as (world, place):
            assert (world, place) == (ALONE, torch.device("cpu"))


@pytest.mark.parametrize(
    ("size", "rank", "message"),
    [
        ("4", None, r'^RANK is "" with WORLD_SIZE 4; start several processes with torchrun, or unset WORLD_SIZE$'),
        ("4", "first", r'^RANK is "first" with WORLD_SIZE 4; '),
        ("all", "0", r'^WORLD_SIZE is "all" '),
    ],
)
def test_incomplete_torchrun_variables_are_one_line(monkeypatch, size, rank, message):
    """Batch systems export some of these variables; waiting for processes that do not exist would never end."""
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(UsageError, match=message), distributed.joined(devices.parse("cpu")):
        pytest.fail("there are no other processes")


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.BatchNorm2d(4)], ids=["1d", "2d"])
def test_rejects_batch_norm_in_several_processes_on_cpus(layer):
    """One process, one GPU each, and networks without batch norm are accepted; the module's mode is unchanged."""
    module, cpu = nn.Sequential(nn.Conv2d(3, 4, 1), layer).eval(), torch.device("cpu")
    with pytest.raises(
        UsageError, match=r"^batch norm cannot share its statistics between 2 processes on CPUs; .* or leave bn out$"
    ):
        World(1, 2).check_batch_norm(module, cpu)
    assert not any(each.training for each in module.modules())
    ALONE.check_batch_norm(module, cpu)
    World(1, 2).check_batch_norm(module, torch.device("cuda", 1))
    World(1, 2).check_batch_norm(module[:1], cpu)


def test_checking_batch_norm_does_not_change_modes():
    """A backbone stays in eval mode and a head in training mode, whether they are rejected or not."""
    for layer in (nn.BatchNorm2d(4), nn.ReLU()):
        backbone, head = nn.Sequential(nn.Conv2d(3, 4, 1), layer).eval(), nn.Sequential(nn.Linear(4, 2)).train()
        both = nn.ModuleList([backbone, head])
        with contextlib.suppress(UsageError):
            World(1, 2).check_batch_norm(both, torch.device("cpu"))
        assert both.training
        assert not any(each.training for each in backbone.modules())
        assert all(each.training for each in head.modules())


def test_only_the_first_process_reports():
    """The others report no skipped images, epochs or progress."""
    calls = []
    ours = Callbacks(
        skip=lambda *_: calls.append("skip"),
        report=lambda *_: calls.append("report"),
        progress=lambda *_: calls.append("progress"),
    )
    assert World(0, 2).callbacks(ours) is ours
    assert World().callbacks(ours) is ours
    others = World(1, 2).callbacks(ours)
    others.skip("1.png", "not an image")
    others.report(None)
    others.progress(1, None)
    assert calls == []


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_row_belongs_to_one_process(size):
    """Shares differ by at most one row."""
    rows = torch.arange(7)
    shares = [World(rank, size).share(rows) for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == rows.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_process_group_gets_the_gpu_of_the_process(monkeypatch):
    """Without it NCCL would guess the GPU from the rank; on CPUs there is none."""
    for variable, value in (("WORLD_SIZE", "2"), ("RANK", "3"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(variable, value)
    begun = []
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, **words: begun.append((backend, words["device_id"]))
    )
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(dist, "get_backend", lambda: "none")
    monkeypatch.setattr(torch.cuda, "set_device", lambda _device: None)
    monkeypatch.setattr(torch_device, "gpu_count", lambda: 2)
    for device in ("cuda", "cpu"):
        with distributed.joined(devices.parse(device)) as (world, place):
            assert world == World(3, 2)
    assert begun == [("nccl", torch.device("cuda", 1)), ("gloo", None)]
    assert place == torch.device("cpu")


def test_a_device_that_fails_is_one_line(monkeypatch):
    """In any part of a training; other errors are not changed."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    failed = pytest.raises(DeviceError, match=r"^the GPU failed: CUDA error: an illegal memory access was encountered")
    with failed, distributed.joined(devices.parse("cpu")):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be")
    with pytest.raises(RuntimeError, match="a bug"), distributed.joined(devices.parse("cpu")):
        raise RuntimeError("a bug")
