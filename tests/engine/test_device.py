"""`--device`: parsing, and messages if there is no such device."""

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
def test_parses_device_words(text, parsed, shown):
    """auto, cpu, cuda and cuda:N are devices, and have the same form in messages."""
    assert device.parse(text) == parsed
    assert str(parsed) == shown


@pytest.mark.parametrize(
    "text", ["", "gpu0", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:1:2", "cuda:²", "cpu:0", "auto:1"]
)
def test_rejects_other_device_words(text):
    """Anything else is a usage error that lists the valid words."""
    with pytest.raises(UsageError, match=f'--device "{text}": give auto, cpu, cuda or cuda:N'):
        device.parse(text)


class Driver:
    """A CUDA driver that finds some GPUs, or fails to start; with a CUDA version."""

    def __init__(self, count, status=0, version=13000):
        self.count, self.status, self.version = count, status, version

    def cuDriverGetVersion(self, version):
        version._obj.value = self.version
        return 0

    def cuDeviceGet(self, handle, index):
        handle._obj.value = index
        return 0 if index < self.count else 101

    def cuDeviceGetName(self, name, size, handle):
        name.value = f"NVIDIA GTX {1080 + handle.value}".encode()[: size - 1]
        return 0

    def cuDeviceGetAttribute(self, value, attribute, _handle):
        value._obj.value = {75: 6, 76: 1}[attribute]
        return 0

    def cuInit(self, _flags):
        return self.status

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count
        return 0


def test_gpu_count_is_that_of_the_driver(monkeypatch):
    """Without a driver, or if it fails to start, there are no GPUs."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver(2))
    assert device.gpus() == 2
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver(2, status=100))
    assert device.gpus() == 0

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert device.gpus() == 0


def no_driver(name):
    raise OSError(f"{name}: cannot open shared object file")


def test_driver_version_is_its_cuda_version(monkeypatch):
    """As nvidia-smi shows it; None without a driver."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver(1, version=12080))
    assert device.driver_version() == (12, 8)
    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    assert device.driver_version() is None
    assert device.driver_too_old("torch 2.14", "13.0") is None


@pytest.mark.parametrize(
    ("version", "cuda", "old"),
    [
        (12080, "13.0", True),
        (12090, "12.4", False),
        (13000, "13.2", False),  # minor versions are compatible
        (13010, "12.6", False),
        (11040, "12", True),
        (12000, None, False),
        (12000, "", False),
    ],
)
def test_driver_supports_its_own_and_older_cuda_versions(monkeypatch, version, cuda, old):
    """The message has the driver's CUDA version, the one that the library needs, and the remedy."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver(1, version=version))
    found = device.driver_too_old("torch 2.14", cuda)
    assert (found is not None) is old
    if found:
        major, minor = version // 1000, version % 1000 // 10
        wanted = cuda.partition(".")[0]
        assert found.startswith(f"the NVIDIA driver supports CUDA {major}.{minor}, torch 2.14 needs CUDA {wanted}: ")
        assert f"releases for CUDA {major} " in found


def test_gpu_description_comes_from_the_driver(monkeypatch):
    """Its name and compute capability; its number if the driver cannot give them."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver(2))
    assert device.describe(1) == "NVIDIA GTX 1081 (compute capability 6.1)"
    assert device.describe(2) == "cuda:2"
    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    assert device.describe(0) == "cuda:0"


@pytest.fixture
def torch_gpus(monkeypatch):
    """Let torch see some GPUs of one compute capability; the driver has as many, unless `driver` is given."""

    def see(count, *, driver=None, capability=(8, 6), version=13000):
        there = count if driver is None else driver
        monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver(there, version=version))
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90", "compute_120"])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "GTX 1080")

    return see


def test_torch_device_is_chosen(torch_gpus, caplog):
    """`auto` takes the GPU if torch has one, otherwise the CPU, and logs the choice; a named device is taken without a notice."""
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


def test_missing_gpu_is_an_error(torch_gpus):
    """A GPU that torch does not have is an error with a remedy; there is no silent fallback to the CPU."""
    torch_gpus(0)
    for typed in ("cuda", "cuda:0"):
        with pytest.raises(DeviceError, match=f"--device {typed}: torch sees no GPU; use cpu or auto"):
            torch_device.choose(device.parse(typed))
    torch_gpus(2)
    with pytest.raises(DeviceError, match="--device cuda:2: torch sees 2 GPUs, counted from 0; use cpu or auto"):
        torch_device.choose(Device("cuda", 2))


def test_unusable_gpu_is_explained(torch_gpus, monkeypatch, caplog):
    """Driver or GPU too old, or torch without CUDA: an error for `cuda`, a warning and the CPU for `auto`."""
    for see, reason in (
        (lambda: torch_gpus(0, driver=1, version=12080), "the NVIDIA driver supports CUDA 12.8, torch "),
        (lambda: torch_gpus(1, capability=(6, 1)), "GTX 1080 has compute capability 6.1, and torch "),
        (
            lambda: (torch_gpus(0, driver=1), monkeypatch.setattr(torch.version, "cuda", None)),
            "torch is installed without CUDA",
        ),
    ):
        see()
        with pytest.raises(DeviceError) as caught:
            torch_device.choose(Device("cuda"))
        assert str(caught.value).startswith(f"--device cuda:0: {reason}")
        caplog.clear()
        with caplog.at_level(logging.INFO, "cnnkit"):
            assert torch_device.choose(Device("auto")) == torch.device("cpu")
        warning, info = (record.message for record in caplog.records)
        assert warning.startswith(reason)
        assert warning.endswith("; running on the CPU")
        assert info == "running on the CPU"


def test_oldest_supported_gpu_is_used(torch_gpus):
    """And newer ones, also newer than all that torch is built for."""
    for capability in ((7, 5), (9, 0), (12, 1)):
        torch_gpus(1, capability=capability)
        assert torch_device.choose(Device("cuda")) == torch.device("cuda", 0)
