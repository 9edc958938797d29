"""The sizes of images that networks take, compared with running them."""

import pytest
import torch
import torchvision

from cnnkit.errors import UsageError
from cnnkit.nets import build, input_sizes, network_dims
from cnnkit.nets.notation import parse


def ranges(found):
    return {each.side: (each.smallest, each.largest, each.step) for each in found}


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("conv 4 k3, pool 2, conv 4 k3, gap, dense 2", (20, 30), {"height": (8, None, 1), "width": (8, None, 1)}),
        ("conv 4 k3 same, pool 2, pool 2, flatten, dense 2", (32, 20), {"height": (32, 35, 1), "width": (20, 23, 1)}),
        ("conv 4 k3, flatten, dense 2", (9, 9), dict.fromkeys(("height", "width", "both"), (9, 9, None))),
        ("conv 4 k3 same, conv 1 k1 bias position", (9, 9), dict.fromkeys(("height", "width", "both"), (9, 9, None))),
        ("pool 2, conv 1 k1 bias position", (9, 6), {"height": (8, 9, 1), "width": (6, 7, 1)}),
        ("conv 4 k3, local 2 k2 same, gap", (9, 7), {"height": (9, 9, None), "width": (7, 7, None)}),
        ("residual(conv 3 k3 same, local 3 k3 same)", (9, 7), {"height": (9, 9, None), "width": (7, 7, None)}),
        ("pool 3, flatten, residual(dense 8 relu, dense 5)", (9, 7), {"height": (9, 11, 1), "width": (6, 8, 1)}),
        ("concat(gap, dense 3 | pool 2, flatten, dense 5)", (8, 7), {"height": (8, 9, 1), "width": (6, 7, 1)}),
        ("residual(conv 8 k3 s2 same), gap, dense 2", (9, 8), {"height": (1, None, 1), "width": (1, None, 1)}),
        ("conv 4 k3 s2", (9, 9), dict.fromkeys(("height", "width", "both"), (3, None, 1))),
    ],
)
def test_layers_take_the_sizes_that_torch_takes(text, size, expected):
    """The smallest and the largest size run through the network that was built for another one; those beyond raise."""
    found = input_sizes.of_layers(parse(text), (*size, 3))
    assert ranges(found) == expected
    network = build.build(parse(text), channels=3, height=size[0], width=size[1]).to("meta")
    for along, other in zip(found[:2], (size[1], size[0]), strict=True):
        images = [(side, other) if along.side == "height" else (other, side) for side in range(along.smallest + 500)]
        for image in {images[along.smallest], images[along.largest or -1]}:
            network(torch.empty(1, 3, *image, device="meta"))
        for image in {images[along.smallest - 1], images[along.largest + 1 if along.largest else 0]}:
            with pytest.raises(RuntimeError):
                network(torch.empty(1, 3, *image, device="meta"))


def test_the_reason_names_the_layer():
    """Why the next size is refused: the layer, and what it needs."""
    height, _, _ = input_sizes.of_layers(parse("conv 4 k3 same, pool 2, flatten, dense 2"), (8, 8, 3))
    assert (height.too_small, height.too_large) == ("dense1 has 64 inputs, not 48", "dense1 has 64 inputs, not 80")
    height, _, _ = input_sizes.of_layers(parse("conv 4 k5, gap"), (8, 8, 3))
    assert height.too_small == 'conv1 ("conv 4 k5"): kernel 5 is larger than its input\'s height 4'
    assert height.too_large == ""
    height, _, _ = input_sizes.of_layers(parse("residual(conv 3 k1 bias position)"), (8, 8, 3))
    assert height.too_small == "residual1.conv1 has biases for 8x8 positions, not 7x8"
    height, _, _ = input_sizes.of_layers(parse("local 3 k3"), (8, 8, 3))
    assert height.too_large == "local1 has weights for 8x8 pixels, not 9x8"


def test_a_projection_is_that_of_the_size_that_the_network_is_made_for():
    """An image of one pixel needs no projection: a network made for it has none, and refuses larger images."""
    layers = parse("residual(conv 3 k3 s2 same)")
    assert [each.largest for each in input_sizes.of_layers(layers, (1, 1, 3))] == [1, 1, 1]
    assert [each.largest for each in input_sizes.of_layers(layers, (8, 8, 3))] == [None, None, None]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alexnet", (63, None, 1)),
        ("squeezenet1_1", (17, None, 1)),
        ("vit_b_16", (224, 224, None)),
    ],
)
def test_networks_of_torchvision(name, expected):
    """The sizes of square images; the smallest one runs, the next smaller one does not."""
    found = ranges(network_dims.find_input_sizes(name))
    assert found["both"] == expected
    with torch.device("meta"):
        module = torchvision.models.get_model(name, weights=None).eval()
    module(torch.empty(1, 3, expected[0], expected[0], device="meta"))
    with pytest.raises((RuntimeError, AssertionError)):
        module(torch.empty(1, 3, expected[0] - 1, expected[0] - 1, device="meta"))


def test_steps_are_found():
    """Patches of 14 pixels: every 14th size."""
    patches = torch.nn.Conv2d(3, 8, 14, 14).to("meta")

    def refusal(height, width):
        patches(torch.empty(1, 3, height, width, device="meta"))
        return None if height % 14 == width % 14 == 0 else "not whole patches"

    found = input_sizes.find(refusal, (224, 224), name="patches")
    assert ranges(found) == dict.fromkeys(("height", "width", "both"), (14, None, 14))
    assert (found[0].too_small, found[0].too_large) == ("", "")


def test_a_size_that_does_not_fit_is_an_error():
    with pytest.raises(UsageError, match=r"the network does not take 2x9 pixels|kernel 3 is larger"):
        input_sizes.of_layers(parse("conv 4 k3"), (2, 9, 3))
    with pytest.raises(UsageError, match="about images"):
        input_sizes.of_layers(parse("dense 4"), (9,))
