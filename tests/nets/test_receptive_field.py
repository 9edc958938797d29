"""Receptive fields of torch networks and of their ONNX exports, compared with gradients."""

import contextlib
import io
import warnings

import pytest
import torch
from torch import nn

from cnnkit.nets import dims, graph_dims, module_dims
from cnnkit.nets.notation import parse

SIZE = (21, 19)  # chosen so that strides of 2 drop no pixel


class Squeezed(nn.Module):
    """Squeeze and excitation: every channel is scaled by a value that depends on the whole map."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Sigmoid())

    def forward(self, maps):
        return maps * self.scale(maps)


class Rolled(nn.Module):
    """Shifts the map cyclically."""

    def forward(self, maps):
        return torch.roll(maps, 7, 3)


class Mixed(nn.Module):
    """Every row is a sum of all rows."""

    def forward(self, maps):
        return maps.transpose(2, 3) @ maps.new_ones(maps.shape[2], maps.shape[2]) @ maps.new_ones(SIZE[0] - 2, 3)


class Branches(nn.Module):
    """A wide and a narrow branch, and the image itself."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 3, (5, 3), padding=(2, 1))
        self.narrow = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return torch.cat([self.wide(images) + images, self.narrow(images)], 1)


def chain(*layers):
    torch.manual_seed(0)
    network = nn.Sequential(*layers).double().eval()
    for value in network.parameters():
        nn.init.uniform_(value, 0.1, 1)  # no two paths cancel, no activation is 0
    return network


EXACT = {
    "convolutions": chain(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, (3, 2), dilation=(1, 2), padding=1), nn.AvgPool2d(2)
    ),
    "more than the image": chain(
        *(nn.Conv2d(3 if place == 0 else 4, 4, 3, padding=2, dilation=2) for place in range(8))
    ),
    "branches": chain(Branches(), nn.Conv2d(6, 2, 3)),
    "a transposed convolution without strides": chain(nn.ConvTranspose2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 2)),
    "squeeze and excitation": chain(nn.Conv2d(3, 4, 3, stride=2), Squeezed(4), nn.Conv2d(4, 4, 3)),
    "squeezed twice": chain(nn.Conv2d(3, 4, 3), Squeezed(4), nn.Conv2d(4, 4, 3, stride=2), Squeezed(4), nn.ReLU()),
    "global pooling": chain(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    "flattened": chain(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 21 * 19, 3)),
    "group normalisation": chain(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1)),
    "instance normalisation": chain(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.Conv2d(4, 4, 1)),
    "softmax along the rows": chain(nn.Conv2d(3, 4, 3), nn.Softmax(3)),
}
EMPTY = {
    "rolled": chain(nn.Conv2d(3, 4, 3), Rolled(), nn.Conv2d(4, 4, 3)),
    "rows mixed": chain(nn.Conv2d(3, 4, 3), Mixed(), nn.ReLU()),
    "enlarged": chain(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3)),
    "transposed with strides": chain(nn.ConvTranspose2d(3, 4, 2, stride=2), nn.Conv2d(4, 4, 3)),
}


def extent(network):
    """Compute how far apart the pixels are that one output value depends on, (height, width): the maximum over all values."""
    image = torch.rand(1, 3, *SIZE, dtype=torch.float64, requires_grad=True)
    out = network(image)
    spans = [0, 0]
    for place in torch.cartesian_prod(*(torch.arange(side) for side in out.shape[2:])) if out.ndim == 4 else [()]:
        (gradient,) = torch.autograd.grad(out[(0, slice(None), *place)].square().sum(), image, retain_graph=True)
        for side, axes in enumerate(((0, 1, 3), (0, 1, 2))):
            used = gradient.abs().sum(axes).nonzero()
            spans[side] = max(spans[side], int(used.max() - used.min()) + 1)
    return spans


def exported(network, path):
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(network.float(), (torch.zeros(1, 3, *SIZE),), str(path), dynamo=False, opset_version=17)
    network.double()
    return graph_dims.measure_graph(str(path))


def shown(span):
    return span[0] if span[0] == span[1] else f"{span[0]}x{span[1]}"


@pytest.mark.parametrize("name", EXACT)
def test_receptive_fields_agree_with_gradients(name, tmp_path):
    """One value depends on as many pixels as in the table, and never on more than the image has."""
    network = EXACT[name]
    rows = module_dims.measure_module(network, torch.zeros(1, 3, *SIZE, dtype=torch.float64))
    by_onnx = exported(network, tmp_path / "network.onnx")[-1].receptive_field
    wanted = shown(extent(network))
    if name == "softmax along the rows":  # the whole height counts, too: an upper bound
        wanted = shown(SIZE)
    assert rows[-1].receptive_field == wanted
    # A group normalization is exported as reshapes, which lose the map
    assert by_onnx in ([wanted, None] if name == "group normalisation" else [wanted])


@pytest.mark.parametrize("name", EMPTY)
def test_unknown_receptive_fields_are_empty(name, tmp_path):
    """A map that is shifted, mixed or upsampled has no fixed window."""
    network = EMPTY[name]
    (*_, row) = module_dims.measure_module(network, torch.zeros(1, 3, *SIZE, dtype=torch.float64))
    assert row.receptive_field is None
    assert exported(network, tmp_path / "network.onnx")[-1].receptive_field is None


def test_receptive_field_of_a_chain_is_limited_to_the_image():
    """Padding is not part of the image: sliding windows, global pooling and flatten."""
    text = "conv 4 k7 p3 s2, conv 4 k7 p3 s2, conv 4 k7 p3, gap, dense 3"
    fields = [row.receptive_field for row in dims.measure(parse(text), height=24, width=40, channels=3)]
    assert fields == [7, 19, "24x40", "24x40", "24x40"]  # 7, 7 + 6 * 2, 19 + 6 * 4, and all of the map


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v3_small"])
def test_published_networks_with_squeeze_and_excitation(name):
    """From the first such block on every receptive field is the whole image, and strides are those of the convolutions."""
    rows = module_dims.measure_network(name)
    fields = [row.receptive_field for row in rows]
    assert all(isinstance(field, int) and field <= 224 for field in fields)
    assert fields == sorted(fields)
    assert max(row.stride for row in rows if row.height and row.height > 1) == 32
