"""Kernels, strides and paddings found for an output size, compared with torch's layers and with brute force."""

import itertools

import pytest
import torch
from torch import nn

from cnnkit.errors import UsageError
from cnnkit.nets import build, dims
from cnnkit.nets.notation import Layer, LayerKind, Padding, parse
from cnnkit.nets.window_solver import Sought, solve


def sought(kind="conv", **words):
    filters = 4 if kind == "conv" else None
    return Sought(layer=Layer(kind=LayerKind(kind), name="x", text=kind, filters=filters), **words)


def solutions(size, wanted, **words):
    given = dims.start(height=size[0], width=size[1], channels=4)
    return [layer.text for layer, _ in solve(given, wanted, sought(**words))]


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((14, 14), (7, 7)),
        ((14, 14), (14, 14)),
        ((13, 13), (6, 6)),
        ((9, 12), (4, 4)),
        ((5, 5), (1, 1)),
        ((6, 6), (8, 8)),
    ],
)
def test_every_solution_has_the_output_in_torch(size, wanted):
    """The layers as written, built with torch, have the output wanted."""
    found = solutions(size, wanted)
    assert found
    for text in found:
        network = build.build(parse(text), channels=4, height=size[0], width=size[1]).to("meta")
        assert tuple(network(torch.empty(1, 4, *size, device="meta")).shape[2:]) == wanted, text


@pytest.mark.parametrize(("size", "wanted"), [(14, 7), (14, 14), (28, 26), (227, 55), (32, 8), (7, 1), (224, 7)])
def test_no_window_without_gaps_is_missing(size, wanted):
    """Kernels up to 11, strides up to the kernel, paddings up to half of it: all that give the output in torch, and do not drop pixels
    after padding others, are found.
    """
    given = dims.start(height=size, width=size, channels=4)
    found = {(layer.kernel[0], layer.stride[0], row.pad) for layer, row in solve(given, (wanted, wanted), sought())}
    image = torch.empty(1, 1, size, size, device="meta")
    for kernel, stride in itertools.product(range(1, 12), repeat=2):
        for padding in range(kernel // 2 + 1):
            if stride > kernel or kernel > size + 2 * padding:
                continue
            made = nn.MaxPool2d(kernel, stride, padding)(image).shape[2]
            single = wanted == 1 and stride != size + 2 * padding - kernel + 1  # any larger stride gives it, too
            drops = padding and dims.Window(kernel, stride, padding).unread(size)
            if made == wanted and not single and not drops:
                assert (kernel, stride, padding) in found


def test_the_order_of_solutions():
    """Small kernels first; gaps between windows and pixels that are not used come after."""
    found = solutions((14, 14), (7, 7))
    assert found[:4] == ["conv 4 k2 s2", "conv 4 k3 s2 p1", "conv 4 k3 s2 same", "conv 4 k4 s2 same"]
    assert found.index("conv 4 k1 s2") > found.index("conv 4 k7 s2 p3")


@pytest.mark.parametrize(
    ("size", "wanted", "words", "first"),
    [
        ((227, 227), (55, 55), {"kernel": (11, 11)}, "conv 4 k11 s4"),  # AlexNet
        ((224, 224), (112, 112), {"kernel": (7, 7)}, "conv 4 k7 s2 p3"),  # ResNet
        ((28, 28), (28, 28), {"kernel": (5, 5)}, "conv 4 k5 same"),  # LeNet
        ((112, 112), (56, 56), {"kind": "pool", "padding": Padding.valid}, "pool 2"),
        ((13, 13), (6, 6), {"kind": "pool", "kernel": (3, 3)}, "pool 3 s2"),
        ((128, 128), (64, 64), {"kernel": (3, 3), "padding": Padding.same}, "conv 4 k3 s2 same"),
        ((9, 12), (3, 6), {"padding": Padding.valid}, "conv 4 k3x2 s3x2"),
        ((7, 7), (1, 1), {"kind": "avgpool", "padding": Padding.valid}, "avgpool 7"),
    ],
)
def test_published_layers_are_found(size, wanted, words, first):
    """With some options given, the first solution is the published one."""
    assert solutions(size, wanted, **words)[0] == first


@pytest.mark.parametrize(
    ("size", "wanted", "words", "message"),
    [
        ((14, 14), (30, 30), {"kernel": (3, 3)}, "no conv with kernel 3 turns 14x14 into 30x30; give fewer of --k"),
        (
            (14, 14),
            (28, 28),
            {},
            "turns 14x14 into 28x28; maps grow by a transposed convolution, such as deconv [0-9]+ k2 s2",
        ),
        ((14, 14), (7, 7), {"stride": (5, 5)}, "no conv with stride 5 turns 14x14 into 7x7"),
        ((14, 14), (90, 90), {"kind": "pool"}, "no pool turns 14x14 into 90x90; give another --output"),
    ],
)
def test_without_a_solution_the_options_are_named(size, wanted, words, message):
    with pytest.raises(UsageError, match=message):
        solutions(size, wanted, **words)


def test_a_vector_has_no_windows():
    with pytest.raises(UsageError, match="a vector of 10"):
        solve(dims.start(height=None, width=None, channels=10), (7, 7), sought())
