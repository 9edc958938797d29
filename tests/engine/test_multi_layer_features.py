"""Features of several layers in one pass: the choice of layers, and agreement with hooks on the backbone."""

import functools

import pytest
import torch
from torch import nn

from cnnkit.choices import Fit, Pool
from cnnkit.engine.multi_layer_features import MultiLayerExtractor, nearest_layer
from cnnkit.errors import UsageError
from cnnkit.formats.header import Preprocess
from cnnkit.nets import catalogue, subgraph
from cnnkit.nets.classifier import Extractor

SIZE = 32
PREPARE = Preprocess(fit=Fit.SQUASH, resize=SIZE, size=SIZE)


class Small(nn.Module):
    """Stages in sequence."""

    def __init__(self, stages):
        super().__init__()
        self.stages = nn.Sequential(*(Stage(3 if number == 0 else 4) for number in range(stages)))

    def forward(self, images):
        return self.stages(images)


class Stage(nn.Module):
    """Two branches that join again; inside, no single tensor carries everything."""

    def __init__(self, channels):
        super().__init__()
        self.enter, self.norm = nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.around = nn.Conv2d(channels, 4, 1)

    def forward(self, maps):
        return torch.relu(self.norm(self.enter(maps)) + self.around(maps))


def extractor(module, layer):
    return Extractor(subgraph.cut(module.eval(), layer), preprocess=PREPARE, pool=Pool.AVG).eval()


def images(count):
    return torch.randint(
        0, 256, (count, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(count)
    )


@functools.cache
def small(stages=20):
    return catalogue.seeded(0, lambda: Small(stages))


def test_last_layer_comes_first_then_85_and_50_percent():
    """Of 20 equal stages of five nodes, between the input and the output node, nodes 85 and 50 of 102 end stages 16 and 9."""
    watched = MultiLayerExtractor(extractor(small(), "stages"), size=SIZE)
    assert watched.names == ["stages.19", "stages.16", "stages.9"]


@pytest.mark.parametrize("module", ["small", "swin_t"])
def test_features_are_means_of_hooked_maps(module):
    """For every batch and batch size; Swin's maps have their channels last and are averaged over positions, too."""
    if module == "small":
        whole, layer = small(), "stages"
    else:
        whole, _ = catalogue.seeded(0, lambda: catalogue.network("swin_t"))
        layer = "norm"
    made = extractor(whole, layer)
    watched = MultiLayerExtractor(made, size=SIZE)
    assert len(watched.names) == 3
    seen = {}
    hooks = [
        whole.get_submodule(name).register_forward_hook(
            lambda _module, _given, output, name=name: seen.__setitem__(name, output)
        )
        for name in watched.names
    ]
    for count in (3, 1):
        with torch.no_grad():
            whole(made.normalise(images(count)))
        outputs = watched(images(count))
        for name, features in zip(watched.names, outputs, strict=True):
            maps = seen[name]  # (N, C, h, w); Swin's (N, h, w, C)
            expected = maps.mean((2, 3) if module == "small" else (1, 2))
            assert features.shape == (count, expected.shape[1])
            torch.testing.assert_close(features, expected)
            assert not features.requires_grad
    for hook in hooks:
        hook.remove()


def test_backbone_is_unchanged():
    """Its outputs, batch norm statistics, modes and gradient flags."""
    made = extractor(small(), "stages")
    state = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    modes = [module.training for module in made.modules()]
    with torch.no_grad():
        before = made(images(2))
    watched = MultiLayerExtractor(made, size=SIZE)
    outputs = watched(images(2))
    with torch.no_grad():
        assert torch.equal(made(images(2)), before)
    torch.testing.assert_close(outputs[0], before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in made.state_dict().items())
    assert [module.training for module in made.modules()] == modes
    assert all(parameter.requires_grad for parameter in made.parameters())


def test_rejects_backbone_without_earlier_layers():
    """One line, before any image is read; if there is a single earlier layer, it is named once."""
    with pytest.raises(UsageError, match="this backbone has no earlier layers to compare"):
        MultiLayerExtractor(extractor(small(1), "stages.0.add"), size=SIZE)  # both ways lead to it
    assert MultiLayerExtractor(extractor(small(1), "stages"), size=SIZE).names == ["stages.0", "stages.0.add"]


@pytest.mark.parametrize(
    ("depth", "nearest"),
    [
        ({"a": 0.40, "b": 0.52, "c": 0.70}, "b"),
        ({"a.0.conv": 0.50, "a": 0.45, "a.1": 0.46}, "a"),  # all within 0.06: the largest module
        ({"a.0": 0.50, "a": 0.43}, "a.0"),  # 0.07 away is another step
        ({"a.0": 0.47, "b.0": 0.51}, "b.0"),  # equally large: the nearest
        ({"a": 0.05}, "a"),
    ],
)
def test_nearest_layer_prefers_the_end_of_a_larger_module(depth, nearest):
    """Around half of the depth; names with fewer dots are those of larger modules."""
    assert nearest_layer(depth, 0.5) == nearest
