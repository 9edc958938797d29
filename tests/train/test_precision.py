"""The precision of a training on each device."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cnnkit.choices import Amp
from cnnkit.errors import UsageError
from cnnkit.train import mixed_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_bf16_if_the_hardware_computes_in_it(monkeypatch, has):
    """Else float32 on a CPU, and float16 on a GPU."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    queried = []
    capability = {True: (8, 0), False: (7, 5)}[has]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: queried.append(device) or capability)
    assert mixed_precision.choose_precision(Amp.AUTO, CPU).dtype is (torch.bfloat16 if has else None)
    second = torch.device("cuda", 1)
    assert mixed_precision.choose_precision(Amp.AUTO, second).dtype is (torch.bfloat16 if has else torch.float16)
    assert queried == [second]  # the chosen device, not the first one


def test_given_precision_is_used():
    """Only float16 is scaled; it is rejected on a CPU."""
    assert mixed_precision.choose_precision(Amp.OFF, GPU).dtype is None
    for device in (CPU, GPU):
        assert mixed_precision.choose_precision(Amp.BF16, device).dtype is torch.bfloat16
    assert mixed_precision.choose_precision(Amp.FP16, GPU).dtype is torch.float16
    with pytest.raises(UsageError, match=r"^--amp fp16 needs a GPU; "):
        mixed_precision.choose_precision(Amp.FP16, CPU)
    assert not mixed_precision.choose_precision(Amp.BF16, CPU).scaler().is_enabled()


def test_layers_compute_in_the_precision_and_weights_stay_float32():
    """Under autocast a dense layer outputs bf16, or float32 with off."""
    layer = torch.nn.Linear(4, 4)
    for amp, dtype in ((Amp.BF16, torch.bfloat16), (Amp.OFF, torch.float32)):
        with mixed_precision.choose_precision(amp, CPU).autocast():
            assert layer(torch.ones(1, 4)).dtype is dtype
    assert layer.weight.dtype is torch.float32


@pytest.mark.parametrize(("kernel", "stride", "channels"), [(3, 2, 8), (5, (2, 2), 8), (3, (1, 2), 16)])
def test_strided_depthwise_layers_compute_in_float32(kernel, stride, channels):
    """Their output is float32's, rounded to bf16, and so are their gradients; other layers compute in bf16."""
    layer = torch.nn.Conv2d(8, channels, kernel, stride, kernel // 2, groups=8)
    images = torch.randn(2, 8, 9, 9, requires_grad=True)
    with mixed_precision.choose_precision(Amp.BF16, CPU).autocast():
        output = layer(images)
        assert torch.nn.Conv2d(8, 8, 3)(images).dtype is torch.bfloat16
    assert torch.equal(output, layer(images).bfloat16())
    weights = torch.randn_like(output)
    found = torch.autograd.grad(output, [images, *layer.parameters()], weights)
    expected = torch.autograd.grad(layer(images), [images, *layer.parameters()], weights.float())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("words", [(2, 1, 1, 4), (1, 1, 1, 4), ((2, 1), 1, 1, 4)])
def test_strides_may_be_one_number(words):
    """A network's own code may call conv2d with the numbers that nn.Conv2d writes twice."""
    images, weight = torch.randn(2, 4, 9, 9, requires_grad=True), torch.randn(4, 1, 3, 3)
    with mixed_precision.choose_precision(Amp.BF16, CPU).autocast():
        output = torch.conv2d(images, weight, None, *words)
        assert torch.nn.functional.conv2d(images, weight, None, *words).equal(output)
    assert output.dtype is torch.bfloat16
    expected = torch.conv2d(images, weight, None, *words)
    torch.testing.assert_close(output.float(), expected, atol=0.05, rtol=0.02)


class StridesOfGradients(TorchDispatchMode):
    """Record the strides of the convolutions whose gradients are computed."""

    def __init__(self):
        super().__init__()
        self.strides = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.strides.append(tuple(args[4]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("layer", "stride"),
    [
        (torch.nn.Conv2d(6, 8, 1, 2), (1, 1)),
        (torch.nn.Conv2d(3, 4, 1, (1, 3), bias=False), (1, 1)),
        (torch.nn.Conv2d(15, 8, 1, 2, padding="valid"), (1, 1)),
        (torch.nn.Conv2d(16, 8, 1, 2), (2, 2)),
        (torch.nn.Conv2d(6, 8, 3, 2), (2, 2)),
        (torch.nn.Conv2d(6, 8, 1, 2, padding=1), (2, 2)),
        (torch.nn.Conv2d(6, 6, 1, 2, groups=6), (2, 2)),
    ],
)
def test_strided_pointwise_layers_of_few_channels_have_no_stride(layer, stride):
    """Outputs and gradients are those in float64, which oneDNN does not compute; its kernel writes past its workspace on such layers."""
    images = torch.randn(8, layer.in_channels, 9, 10).to(memory_format=torch.channels_last).requires_grad_()
    with StridesOfGradients() as seen, mixed_precision.choose_precision(Amp.OFF, CPU).autocast():
        output = layer(images)
        weights = torch.randn_like(output)
        found = torch.autograd.grad(output, [images, *layer.parameters()], weights)
    assert seen.strides == [stride]
    exact, pixels = copy.deepcopy(layer).double(), images.detach().double().requires_grad_()
    expected = exact(pixels)
    gradients = torch.autograd.grad(expected, [pixels, *exact.parameters()], weights.double())
    for one, other in zip([output, *found], [expected, *gradients], strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-4, atol=1e-4)
