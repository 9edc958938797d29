"""Torch's device and cores: work is counted as cnn-dims counts it, and what is borrowed is given back."""

import pytest
import torch
from torch import nn

from cnnkit.engine import torch_device
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
