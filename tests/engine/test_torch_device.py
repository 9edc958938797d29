"""torch's device and cores: multiplications are counted as in cnn-dims, and all settings are restored."""

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


def test_multiplications_match_cnn_dims():
    """The same number; mode, hooks and statistics are unchanged."""
    layers = notation.parse(LAYERS)
    network = build.build(layers, channels=3, height=20, width=20).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    rows = dims.measure(layers, height=20, width=20, channels=3)
    expected = sum(row.macs for row in rows if row.kind in ("conv", "dense"))
    assert torch_device.multiplications(network, torch.rand(1, 3, 20, 20)) == expected
    assert all(module.training and not module._forward_hooks for module in network.modules())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_hooks_and_mode_are_restored_after_an_error():
    """An image of a wrong size is the caller's error; no hooks are left."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)).train()
    with pytest.raises(RuntimeError):
        torch_device.multiplications(network, torch.rand(1, 3, 9, 9))
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


def test_small_steps_use_one_core():
    """The size of a step is its rows times the multiplications per row; large steps use torch's default."""
    dense = nn.Linear(1000, 100)
    assert torch_device.threads_for(dense, torch.rand(32, 1000)) == 1
    assert torch_device.threads_for(dense, torch.rand(600, 1000)) is None
    convolution = nn.Conv2d(3, 32, 3)
    assert torch_device.threads_for(convolution, torch.rand(32, 3, 8, 8)) == 1
    assert torch_device.threads_for(convolution, torch.rand(32, 3, 100, 100)) is None


def test_number_of_cores_is_restored():
    """For any previous number."""
    before = torch.get_num_threads()
    with torch_device.threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_parts_of_a_batch_run_on_all_cores():
    """Every output matches the whole batch, for any number of rows; an error is raised; the number of cores is restored."""
    convolution = nn.Conv2d(3, 5, 3).eval()

    def network(images):
        maps = convolution(images)
        assert torch.get_num_threads() == 1
        return maps.mean((2, 3)), maps

    before = torch.get_num_threads()
    with torch_device.on_all_cores(network) as parallel:
        for rows in (1, 4, 11):
            images = torch.rand(rows, 3, 9, 9)
            pooled, maps = parallel(images)
            torch.testing.assert_close(maps, convolution(images).detach(), rtol=0, atol=1e-6)
            torch.testing.assert_close(pooled, maps.mean((2, 3)), rtol=0, atol=1e-6)
        with pytest.raises(RuntimeError, match="channels"):
            parallel(torch.rand(2, 4, 9, 9))
    assert torch.get_num_threads() == before


def test_batch_that_does_not_fit_is_split():
    """For all kinds of out-of-memory errors; other errors are raised, and so is that of a single row."""
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


def test_algorithm_settings_are_restored(monkeypatch):
    """Fast algorithms by default, deterministic ones on request; torch and the environment are restored, also after an error."""
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


def test_operation_without_deterministic_algorithm_is_one_line():
    """Some operations have none on a GPU; the message has torch's name of the operation, and our remedy."""
    failure = (
        "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set 'torch.use_...'."
    )
    with (
        pytest.raises(
            CnnkitError,
            match=r"^--deterministic: torch has no deterministic algorithm for adaptive_avg_pool2d_backward_cuda; drop",
        ),
        torch_device.algorithms(deterministic=True),
    ):
        raise RuntimeError(failure)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("precision", "tf32", "half"), [("float32", False, False), ("tf32", True, False), ("float16", True, True)]
)
def test_gpu_precision_is_restored(monkeypatch, precision, tf32, half):
    """TF32 in convolutions and matrix products, float16 by autocast; restored afterwards, and unchanged on a CPU."""
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


def test_upload_to_the_cpu():
    """Lists and tensors, with a type if one is given."""
    cpu = torch.device("cpu")
    rows = torch.arange(3)
    assert torch_device.upload(rows, cpu) is rows
    assert torch_device.upload([1, 2], cpu).tolist() == [1, 2]
    assert torch_device.upload([1, 2], cpu, torch.float32).dtype is torch.float32
