"""Layers of the notation that torch lacks, compared with torch's convolutions, with gradients and with loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from cnnkit.choices import Initializer
from cnnkit.nets import build
from cnnkit.nets.notation import parse


def built(text, channels=3, height=9, width=11, *, initializer=Initializer.HE):
    network = build.build(parse(text), channels=channels, height=height, width=width).eval()
    build.initialise(network, initializer, generator=torch.Generator().manual_seed(3))
    return network


def maps(channels=3, height=9, width=11, *, batch=2):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


options = st.tuples(
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from(["same", "valid", "p1"]),
)


@settings(deadline=None, max_examples=40)
@given(options)
def test_local_with_equal_weights_is_a_convolution(drawn):
    """With the same weights at every position, an unshared layer computes what torch's convolution does."""
    kernel, stride, padding = drawn
    words = "{}x{} s{}x{} {}".format(*kernel, *stride, padding)
    local, shared = built(f"local 4 k{words}"), built(f"conv 4 k{words}")
    conv = shared.conv1
    nn.init.normal_(conv.bias, generator=torch.Generator().manual_seed(1))
    for weight in local.local1.positions():
        weight.copy_(conv.weight.detach())
    local.local1.bias.data.copy_(conv.bias.detach()[:, None, None].expand_as(local.local1.bias))
    torch.testing.assert_close(local(maps()), shared(maps()), rtol=1e-5, atol=1e-5)


def test_local_has_other_weights_at_every_position():
    """Every value is the product of its own weights with its own window, by loops."""
    network = built("local 2 k2x3 s2", height=5, width=6)
    layer, image = network.local1, maps(height=5, width=6, batch=1)
    nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(2))
    assert tuple(layer.weight.shape) == (2 * 2, 3 * 2 * 3, 2)
    made, weights = network(image)[0], list(layer.positions())
    for row in range(2):
        for column in range(2):
            window = image[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 3]
            expected = (weights[2 * row + column] * window).sum((1, 2, 3)) + layer.bias[:, row, column]
            torch.testing.assert_close(made[:, row, column], expected)


def test_local_weights_start_as_those_of_a_convolution():
    """Every position has the spread of a convolution's weights, and positions differ; orthogonal ones are so at each position."""
    network = built("local 16 k3", channels=8, height=20, width=20)
    weights = network.local1.weight.detach()
    assert weights.std().item() == pytest.approx((2 / 72) ** 0.5, rel=0.02)
    assert not torch.equal(weights[0], weights[1])
    assert not network.local1.bias.any()
    for weight in list(built("local 4 k3", initializer=Initializer.ORTHOGONAL).local1.positions())[:2]:
        torch.testing.assert_close(weight.flatten(1) @ weight.flatten(1).T, torch.eye(4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", ["local 4 k3 same", "conv 4 k3 same bias position"])
def test_weights_for_positions_fit_one_size(text):
    """Maps of another size are refused, not cropped or repeated."""
    with pytest.raises(RuntimeError, match=r"for 9x11 .* do not fit 12x12"):
        built(text)(maps(height=12, width=12))


def test_position_bias_is_added_to_every_value():
    """The same convolution in torch, plus a bias for each filter and position; it is trained, and starts at zero."""
    network = built("conv 4 k3 s2 p1 g1 bias position")
    conv = network.conv1
    assert tuple(conv.bias.shape) == (4, 5, 6)
    assert not conv.bias.any()
    nn.init.normal_(conv.bias, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(network(maps()), functional.conv2d(maps(), conv.weight, None, 2, 1) + conv.bias)
    network(maps()).sum().backward()
    assert torch.equal(conv.bias.grad, torch.full_like(conv.bias, 2.0))  # once for each of two images


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 2),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_deconv_same_is_the_gradient_of_conv_same(kernel, stride, dilation, size):
    """A transposed convolution is what the convolution with these options does to gradients, from the larger map to the smaller one."""
    words = "k{}x{} s{}x{} d{} same nobias".format(*kernel, *stride, dilation)
    height, width = size
    network = built(f"deconv 3 {words}", channels=4, height=height, width=width)
    large = torch.zeros(1, 3, height * stride[0], width * stride[1], requires_grad=True)
    conv = built(f"conv 4 {words}", height=large.shape[2], width=large.shape[3])
    with torch.no_grad():
        conv.conv1.weight.copy_(
            network.deconv1.weight
        )  # both (channels of the small map, of the large one, height, width)
    given = maps(4, height, width, batch=1)
    (expected,) = torch.autograd.grad(conv(large), large, given)
    torch.testing.assert_close(network(given), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5, 9, 12, 31])
def test_lrn_is_torchs(count):
    """The same values and gradients as torch's module with the constants of the paper."""
    reference = nn.LocalResponseNorm(count, alpha=1e-4, beta=0.75, k=2.0)
    found, expected = (maps(7) * 100, maps(7) * 100)
    for each in (found, expected):
        each.requires_grad_()
    made, wanted = built(f"lrn {count}", channels=7)(found), reference(expected)
    torch.testing.assert_close(made, wanted)
    for output in (made, wanted):
        output.square().sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)


def test_lrn_over_more_channels_than_there_are_takes_no_longer():
    """A number from a file of others: a loop over 999,999,999 channels would not end."""
    given = maps(3)
    expected = given / (2 + 1e-4 / 999_999_999 * given.square().sum(1, keepdim=True)) ** 0.75
    torch.testing.assert_close(built("lrn 999999999", channels=3)(given), expected)
