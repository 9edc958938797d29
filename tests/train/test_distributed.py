"""Several processes: which one this is, and what is said where somebody else's variables look like torchrun's."""

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


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.BatchNorm2d(4)], ids=["1d", "2d"])
def test_batch_norm_does_not_train_in_several_processes_on_cpus(layer):
    """One process, a GPU each, and frozen statistics are fine; the module's mode is as it was."""
    module, cpu = nn.Sequential(nn.Conv2d(3, 4, 1), layer).eval(), torch.device("cpu")
    with pytest.raises(UsageError, match=r"^batch norm does not train in 2 processes on CPUs, .* or leave bn out$"):
        World(1, 2).check_batch_norm(module, cpu)
    assert not any(each.training for each in module.modules())
    ALONE.check_batch_norm(module, cpu)
    World(1, 2).check_batch_norm(module, torch.device("cuda", 1))
    World(1, 2).check_batch_norm(module[:1], cpu)


def test_a_look_at_batch_norm_leaves_each_module_in_its_own_mode():
    """A backbone stays in eval mode beside a head that trains, whether the two are refused or not."""
    for layer in (nn.BatchNorm2d(4), nn.ReLU()):
        backbone, head = nn.Sequential(nn.Conv2d(3, 4, 1), layer).eval(), nn.Sequential(nn.Linear(4, 2)).train()
        both = nn.ModuleList([backbone, head])
        with contextlib.suppress(UsageError):
            World(1, 2).check_batch_norm(both, torch.device("cpu"))
        assert both.training
        assert not any(each.training for each in backbone.modules())
        assert all(each.training for each in head.modules())


def test_the_first_process_alone_speaks():
    """The others do the same work, and say nothing of it: neither bad images nor epochs nor progress."""
    said = []
    ours = Callbacks(
        skip=lambda *_: said.append("skip"),
        report=lambda *_: said.append("report"),
        progress=lambda *_: said.append("progress"),
    )
    assert World(0, 2).callbacks(ours) is ours
    assert World().callbacks(ours) is ours
    others = World(1, 2).callbacks(ours)
    others.skip("1.png", "no picture")
    others.report(None)
    others.progress(1, None)
    assert said == []


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_make_up_the_whole(size):
    """Every row belongs to one process."""
    rows = torch.arange(7)
    shares = [World(rank, size).share(rows) for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == rows.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_says_which_gpu_is_its_own(monkeypatch):
    """To NCCL at the start, which would else guess it from the rank at the first exchange; on CPUs there is nothing to say."""
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
    """In whatever part of a training; a bug stays one."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    failed = pytest.raises(DeviceError, match=r"^the GPU failed: CUDA error: an illegal memory access was encountered")
    with failed, distributed.joined(devices.parse("cpu")):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be")
    with pytest.raises(RuntimeError, match="a bug"), distributed.joined(devices.parse("cpu")):
        raise RuntimeError("a bug")
