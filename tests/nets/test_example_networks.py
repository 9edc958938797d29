"""The networks in examples/networks, compared with the same networks in torch."""

import functools
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from cnnkit.nets import build, classifier, dims
from cnnkit.nets.notation import LayerKind, parse

NETWORKS = Path(__file__).parents[2] / "examples" / "networks"


class Joined(nn.Module):
    """Branches, joined along the channels."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, maps):
        return torch.cat([branch(maps) for branch in self.branches], 1)


class BiasOfPosition(nn.Module):
    """A bias for every position of a map."""

    def __init__(self, *size):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, maps):
        return maps + self.bias


def lenet5():
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
    )


def alexnet2012(units=4096):
    def normalized():
        return nn.ReLU(), nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0), nn.MaxPool2d(3, 2)

    return nn.Sequential(
        *(nn.Conv2d(3, 96, 11, 4), *normalized(), nn.Conv2d(96, 256, 5, padding=2), *normalized()),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(9216, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, 1000)),
    )


def alphago():
    layers = [nn.Conv2d(48, 192, 5, padding=2), nn.ReLU()]
    for _ in range(11):
        layers += [nn.Conv2d(192, 192, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(192, 1, 1, bias=False), BiasOfPosition(1, 19, 19), nn.Flatten())


def resnet_small():
    def block(before, after, stride):
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        return BasicBlock(before, after, stride, None if before == after else shortcut)

    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(block(16, 16, 1), block(16, 16, 1), block(16, 16, 1)),
        *(block(16, 32, 2), block(32, 32, 1), block(32, 32, 1)),
        *(block(32, 64, 2), block(64, 64, 1), block(64, 64, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


def inception_small():
    def conv(before, after, kernel):
        return nn.Sequential(nn.Conv2d(before, after, kernel, padding=kernel // 2), nn.ReLU())

    def module(before, one, three, five, pool):
        return Joined(
            conv(before, one, 1),
            nn.Sequential(conv(before, three[0], 1), conv(*three, 3)),
            nn.Sequential(conv(before, five[0], 1), conv(*five, 5)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(before, pool, 1)),
        )

    return nn.Sequential(
        *(conv(3, 32, 3), nn.MaxPool2d(2), module(32, 16, (16, 32), (4, 8), 8), nn.MaxPool2d(2)),
        *(module(64, 32, (32, 64), (8, 16), 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)),
    )


CASES = {
    "lenet5": (lenet5, (28, 28, 1), 61_706),
    "alexnet2012": (alexnet2012, (227, 227, 3), 62_378_344),
    "alphago": (alphago, (19, 19, 48), 3_882_793),
    "resnet-small": (resnet_small, (32, 32, 3), 272_474),
    "inception-small": (inception_small, (32, 32, 3), 36_518),
}


def test_every_example_is_compared():
    """There is a case for every file, which names its number of parameters."""
    assert {path.stem for path in NETWORKS.iterdir()} == set(CASES)
    for name, (_, _, params) in CASES.items():
        assert f"{params:,} parameters" in (NETWORKS / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_example_is_the_network_in_torch(name):
    """The same parameters in the same order, and with the same weights the same outputs; AlexNet's with fewer units, which is fast."""
    make, (height, width, channels), params = CASES[name]
    text = (NETWORKS / f"{name}.txt").read_text(encoding="utf-8")
    rows = dims.measure(parse(text), height=height, width=width, channels=channels)
    with torch.device("meta"):
        assert sum(value.numel() for value in make().parameters()) == params == dims.total(rows).params
    reference = (functools.partial(make, units=32) if make is alexnet2012 else make)().eval()
    generator = torch.Generator().manual_seed(0)
    for value in reference.parameters():
        nn.init.normal_(value, std=0.1, generator=generator)
    logits = classifier.head_layers(text.replace("4096", "32"))  # without the softmax at the end
    network = build.build(logits, channels=channels, height=height, width=width).eval()
    network.load_state_dict(dict(zip(network.state_dict(), reference.state_dict().values(), strict=True)))
    images = torch.randn(2, channels, height, width, generator=generator)
    with torch.no_grad():
        expected = reference(images)
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_alexnets_first_layer_without_shared_weights():
    """105,705,600 parameters against 34,944, as in the course; the multiply-accumulates are the same."""
    shared, local = (
        dims.measure(parse(f"{word} 96 k11 s4"), height=227, width=227, channels=3)[0] for word in ("conv", "local")
    )
    assert (shared.params, local.params) == (34_944, 105_705_600)
    assert shared.macs == local.macs == 105_415_200
    assert (shared.shape, shared.receptive_field, shared.stride) == (local.shape, local.receptive_field, local.stride)


def test_two_towers_of_alexnet():
    """With two groups in three convolutions, as the file says, there are the 61 million parameters of the paper."""
    lines = (NETWORKS / "alexnet2012.txt").read_text(encoding="utf-8").splitlines()
    convolutions = [place for place, line in enumerate(lines) if line.startswith("conv")]
    for number in (1, 3, 4):
        lines[convolutions[number]] += " g2"
    rows = dims.measure(parse("\n".join(lines)), height=227, width=227, channels=3)
    assert dims.total(rows).params == 60_965_224


def test_last_layer_of_alphago_has_a_bias_for_every_point():
    """192 weights and 361 biases."""
    rows = dims.measure(parse(f"@{NETWORKS / 'alphago.txt'}"), height=19, width=19, channels=48)
    assert [row.params for row in rows if row.kind == LayerKind.conv][-1] == 192 + 361
