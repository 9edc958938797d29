"""What --device means, and what is said where there is no such device."""

import ctypes
import logging

import pytest
import torch

from cnnkit.engine import device, torch_device
from cnnkit.engine.device import Device
from cnnkit.errors import DeviceError, UsageError


@pytest.mark.parametrize(
    ("text", "parsed", "shown"),
    [
        ("auto", Device("auto"), "auto"),
        ("cpu", Device("cpu"), "cpu"),
        ("cuda", Device("cuda", 0), "cuda:0"),
        ("cuda:0", Device("cuda", 0), "cuda:0"),
        ("cuda:12", Device("cuda", 12), "cuda:12"),
    ],
)
def test_the_words_there_are(text, parsed, shown):
    """auto, cpu, cuda and cuda:N are devices, and say so in messages."""
    assert device.parse(text) == parsed
    assert str(parsed) == shown


@pytest.mark.parametrize(
    "text", ["", "gpu0", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:1:2", "cuda:²", "cpu:0", "auto:1"]
)
def test_other_words_are_refused(text):
    """Anything else is a usage error that gives the words there are."""
    with pytest.raises(UsageError, match=f'--device "{text}": give auto, cpu, cuda or cuda:N'):
        device.parse(text)


class Driver:
    """A CUDA driver that finds some GPUs, or does not start."""

    def __init__(self, count, status=0):
        self.count, self.status = count, status

    def cuInit(self, _flags):
        return self.status

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count
        return 0


def test_gpus_are_those_of_the_driver(monkeypatch):
    """The driver's count is taken; without a driver, or with one that does not start, there are none."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver(2))
    assert device.gpus() == 2
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver(2, status=100))
    assert device.gpus() == 0

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert device.gpus() == 0


@pytest.fixture
def torch_gpus(monkeypatch):
    """Let torch see some number of GPUs."""

    def see(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return see


def test_torch_takes_what_there_is(torch_gpus, caplog):
    """`auto` takes the GPU where torch has one, else the CPU, and says which; a named device is taken without a word."""
    with caplog.at_level(logging.INFO, "cnnkit"):
        torch_gpus(0)
        assert torch_device.choose(Device("auto")) == torch.device("cpu")
        torch_gpus(2)
        assert torch_device.choose(Device("auto")) == torch.device("cuda", 0)
    assert [record.message for record in caplog.records] == ["running on the CPU", "running on the GPU, cuda:0"]
    caplog.clear()
    assert torch_device.choose(Device("cpu")) == torch.device("cpu")
    assert torch_device.choose(Device("cuda", 1)) == torch.device("cuda", 1)
    assert not caplog.records


def test_torch_fails_where_there_is_none(torch_gpus):
    """A GPU that torch does not have is an error with the remedy, never a silent fall to the CPU."""
    torch_gpus(0)
    with pytest.raises(DeviceError, match="--device cuda:0: torch sees no GPU; use cpu or auto"):
        torch_device.choose(Device("cuda"))
    torch_gpus(2)
    with pytest.raises(DeviceError, match="--device cuda:2: torch sees 2 GPUs, counted from 0; use cpu or auto"):
        torch_device.choose(Device("cuda", 2))
