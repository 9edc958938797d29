"""Torch's device and cores: work is counted as cnn-dims counts it, and what is borrowed is given back."""

import contextlib
import os

import pytest
import torch
from torch import nn

from cnnkit.choices import Precision
from cnnkit.engine import torch_device
from cnnkit.errors import CnnkitError
from cnnkit.nets import build, dims, notation

LAYERS = "conv 8 k3 bn relu, pool 2, conv 16 k3 s2 same, flatten, dense 10 relu, dropout 0.5, dense 2"


def test_multiplications_are_those_of_cnn_dims():
    """The same number, and neither mode, hooks nor statistics are other than before."""
    layers = notation.parse(LAYERS)
    network = build.build(layers, channels=3, height=20, width=20).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    rows = dims.measure(layers, height=20, width=20, channels=3)
    expected = sum(row.macs for row in rows if row.kind in ("conv", "dense"))
    assert torch_device.multiplications(network, torch.rand(1, 3, 20, 20)) == expected
    assert all(module.training and not module._forward_hooks for module in network.modules())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_hooks_and_mode_are_given_back_after_an_error():
    """An image of a size that does not fit is the caller's error, and leaves nothing behind."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)).train()
    with pytest.raises(RuntimeError):
        torch_device.multiplications(network, torch.rand(1, 3, 9, 9))
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


def test_small_steps_use_one_core():
    """A step is small by its rows times a row's multiplications; a large one uses what torch uses."""
    dense = nn.Linear(1000, 100)
    assert torch_device.threads_for(dense, torch.rand(32, 1000)) == 1
    assert torch_device.threads_for(dense, torch.rand(600, 1000)) is None
    convolution = nn.Conv2d(3, 32, 3)
    assert torch_device.threads_for(convolution, torch.rand(32, 3, 8, 8)) == 1
    assert torch_device.threads_for(convolution, torch.rand(32, 3, 100, 100)) is None


def test_the_number_of_cores_is_put_back():
    """Whatever it was before."""
    before = torch.get_num_threads()
    with torch_device.threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_what_memory_does_not_hold_is_computed_in_halves():
    """Whichever way a full memory is reported; another error passes through, and so does that of a single row."""
    seen = []

    def network(images):
        seen.append(len(images))
        if len(images) > 2:
            raise RuntimeError("FIND was unable to find an engine to execute this computation")
        return 2 * images

    rows = torch.arange(7.0)[:, None]
    torch.testing.assert_close(torch_device.in_parts(network)(rows), 2 * rows)
    assert seen == [7, 4, 2, 2, 3, 2, 1]
    for error, count in (
        (RuntimeError("CUDA error: device-side assert"), 8),
        (torch.OutOfMemoryError("CUDA out of memory"), 1),
    ):

        def failing(_images, error=error):
            raise error

        with pytest.raises(RuntimeError) as caught:
            torch_device.in_parts(failing)(torch.zeros(count, 1))
        assert caught.value is error


def test_algorithms_are_borrowed(monkeypatch):
    """Fast ones by default, the same bits every time on demand; torch and the environment are as before, after an error as well."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def state():
        cudnn = torch.backends.cudnn
        return (
            torch.are_deterministic_algorithms_enabled(),
            cudnn.deterministic,
            cudnn.benchmark,
            os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        )

    before = state()
    with torch_device.algorithms(deterministic=False):
        assert state() == (False, False, True, None)
    with contextlib.suppress(ZeroDivisionError), torch_device.algorithms(deterministic=True):
        assert state() == (True, True, False, ":4096:8")
        with torch_device.algorithms(deterministic=True):
            pass
        assert state() == (True, True, False, ":4096:8")
        raise ZeroDivisionError
    assert state() == before
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with torch_device.algorithms(deterministic=True):
        assert state()[-1] == ":16:8"
    assert state()[-1] == ":16:8"


def test_an_operation_without_the_same_bits_every_time_is_one_line():
    """Some have no such algorithm on a GPU, wherever in a training they are; which one it is comes from torch, the remedy from us."""
    said = (
        "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set 'torch.use_...'."
    )
    with (
        pytest.raises(
            CnnkitError,
            match=r"^--deterministic: torch has no such algorithm for adaptive_avg_pool2d_backward_cuda; train",
        ),
        torch_device.algorithms(deterministic=True),
    ):
        raise RuntimeError(said)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("precision", "tf32", "half"), [("float32", False, False), ("tf32", True, False), ("float16", True, True)]
)
def test_what_a_gpu_multiplies_in_is_borrowed(monkeypatch, precision, tf32, half):
    """TF32 in convolutions and matrix products alike, float16 by autocast; all as before afterwards, and nothing on a CPU."""
    autocasts = []
    monkeypatch.setattr(
        torch, "autocast", lambda *words, enabled: autocasts.append((*words, enabled)) or contextlib.nullcontext()
    )

    def state():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = state()
    with torch_device.multiplying_in(Precision(precision), torch.device("cuda")):
        assert state() == (tf32, tf32)
    assert autocasts == [("cuda", torch.float16, half)]
    with torch_device.multiplying_in(Precision(precision), torch.device("cpu")):
        assert state() == before
    assert state() == before


def test_numbers_go_to_the_cpu_as_they_are():
    """Lists and tensors, with a type where one is given."""
    cpu = torch.device("cpu")
    rows = torch.arange(3)
    assert torch_device.upload(rows, cpu) is rows
    assert torch_device.upload([1, 2], cpu).tolist() == [1, 2]
    assert torch_device.upload([1, 2], cpu, torch.float32).dtype is torch.float32
