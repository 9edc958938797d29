"""Finer maps: every r-th row and column equals the coarse map, and their size is exactly r times its size."""

import pytest
import torch

from cnnkit.choices import Pool
from cnnkit.errors import UsageError
from cnnkit.nets import backbones, classifier, dilation, layer_graph
from cnnkit.nets.classifier import Classifier


def by_notation(text, *, head="dense 3 softmax", pool=Pool.AVG, size=32):
    backbone, _, preprocess = backbones.by_notation(text, size=size, pool=pool)
    maps = backbone(torch.zeros(1, 3, size, size)).shape[1:]
    shape = {Pool.AVG: maps[:1], Pool.FLATTEN: (maps.numel(),), Pool.NONE: tuple(maps)}[pool]
    network = Classifier(backbone, classifier.build_head(head, tuple(shape)), preprocess=preprocess, pool=pool).eval()
    return layer_graph.of_classifier(network, name="model.pt")


def output(network, layer, images):
    with torch.no_grad():
        return network.upto([layer.node], keep=True)(images)[0]


def check(network, layer, *, sizes, factor=2):
    """Compare at several sizes, and return the finer network."""
    made, fine_layer = dilation.remove_last_stride(network, layer)
    assert fine_layer.name == layer.name
    for size in sizes:
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(sum(size)))
        coarse, fine = output(network, layer, images), output(made, fine_layer, images)
        assert coarse.std() > 0  # there is something to compare
        assert fine.shape[2:] == (factor * coarse.shape[2], factor * coarse.shape[3]), size
        assert torch.isfinite(fine).all(), size
        torch.testing.assert_close(
            fine[:, :, ::factor, ::factor], coarse, rtol=1e-3, atol=1e-5 * float(coarse.abs().max()), msg=f"{size}"
        )
    return made


ODD = [(64, 64), (97, 75), (111, 130)]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("squeezenet1_1", None),
        ("squeezenet1_1", "features.4"),
        ("mobilenet_v2", None),
        ("mobilenet_v2", "features.10"),
        ("resnet18", None),
        ("resnet18", "layer3"),
        ("resnet18", "maxpool"),
        pytest.param("vgg11", "block5_conv2", marks=pytest.mark.slow),
        pytest.param("vgg11", None, marks=pytest.mark.slow),
        pytest.param("densenet121", None, marks=pytest.mark.slow),
        ("googlenet", "inception4e"),
        ("googlenet", None),
    ],
)
def test_published_networks(published, name, layer):
    """Plain, residual, dense and branching ones, with strides of convolutions and of pooling that rounds up or down."""
    network = published(name)
    check(network, network.last_spatial() if layer is None else network.find(layer), sizes=ODD)


NOTATIONS = [
    ("conv 4 k3 s2 same relu, conv 5 k3 same relu", 2),
    ("conv 4 k3 same relu, pool 2, conv 5 k4 same relu, conv 5 k2 same", 2),  # even kernels: one more pixel after
    ("conv 4 k3 s2 same relu, pool 3 s2 same, conv 5 k5 same relu, pool 3 s1 same", 2),
    ("conv 4 k4 s2 p1 bn relu, conv 4 k4 s2 p1 bn relu, conv 4 k3", 2),
    ("conv 4 k5 s3 relu, dropout 0.5, conv 5 k3 d2 same relu, conv 5 k1", 3),
    ("conv 4 k3 relu, avgpool 2, conv 5 k3 relu", 2),
    ("conv 4 k3 relu, avgpool 3 s2 p1, conv 5 k3 same", 2),  # padding counts in the mean
    ("conv 4 k3 relu, pool 3 s2 p1, conv 5 k3 same, conv 10 k2x3 p1", 2),
    ("conv 4 k3 same relu, pool 2 s3, conv 5 k3 same", 3),  # gaps between the old windows
    ("conv 4 k1 s2 relu, conv 6 k3x5 same d2 g2 relu", 2),
    ("conv 4 k7 s4 same relu, pool 2 same s1, conv 5 k3 p2", 4),
]


@pytest.mark.parametrize(("text", "factor"), NOTATIONS)
def test_networks_by_notation(text, factor):
    """With Keras' `same`, even kernels, dilation, groups and all kinds of pooling, for every remainder of the size."""
    network = by_notation(text)
    sizes = [(32, 32), (33, 35), (37, 30), (34, 31), (39, 36)]
    check(network, network.last_spatial(), sizes=sizes, factor=factor)


def test_shares_weights_and_leaves_the_network_unchanged(published):
    """No tensor is copied; the original returns the same values, with the same modules and shapes."""
    network = published("squeezenet1_1")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    modules, shapes = dict(network.module.named_modules()), dict(network.shapes)
    flags = {name: module.training for name, module in modules.items()}
    with torch.no_grad():
        before = network.module(images)
    made, layer = dilation.remove_last_stride(network, network.last_spatial())
    with torch.no_grad():
        made.module(images)
    ours, theirs = ({id(each) for each in part.module.parameters()} for part in (made, network))
    assert ours == theirs
    assert dict(network.module.named_modules()) == modules
    assert {name: module.training for name, module in network.module.named_modules()} == flags
    assert network.shapes == shapes
    with torch.no_grad():
        assert torch.equal(network.module(images), before)
    assert layer.shape == (512, 26, 26)
    assert network.last_spatial().shape == (512, 13, 13)


def test_every_layer_keeps_its_name():
    """Layers before the stride keep their size; layers after it are finer, also those after the given layer."""
    network = by_notation("conv 4 k3 s2 p1 relu, conv 5 k3 s2 p1 relu, conv 6 k3 same relu, conv 7 k3 same relu")
    made, _ = dilation.remove_last_stride(network, network.find("conv3"))
    assert [each.name for each in made.layers()] == [each.name for each in network.layers()]
    assert [each.shape for each in made.layers()] == [(4, 16, 16), (5, 16, 16), (6, 16, 16), (7, 16, 16)]


def test_strides_after_a_layer_are_kept():
    """The stride before the layer is removed; a stride after it is kept, dilated, and the maps after it are finer, too."""
    network = by_notation("conv 4 k3 s2 p1 relu, conv 5 k3 same relu, conv 6 k3 s2 p1 relu")
    made = check(network, network.find("conv2"), sizes=[(32, 32), (37, 34)])
    assert made.find("conv3").shape == (6, 16, 16)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    coarse, fine = (output(each, each.find("conv3"), images) for each in (network, made))
    torch.testing.assert_close(fine[:, :, ::2, ::2], coarse)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("swin_t", "shifted_window_attention at features.1.0.attn.shifted_window_attention"),
        pytest.param("inception_v3", "avg_pool2d at Mixed_7b.avg_pool2d", marks=pytest.mark.slow),
    ],
)
def test_rejects_networks_that_cannot_be_dilated(published, name, part):
    """The message names the module."""
    network = published(name)
    with pytest.raises(UsageError) as error:
        dilation.remove_last_stride(network, network.last_spatial())
    assert str(error.value) == f"{name}: {part} cannot be dilated; drop --fine"


def test_rejects_head_for_maps_of_one_size():
    """A flatten head has weights for every position; the message gives the remedy."""
    network = by_notation("conv 4 k3 s2 same relu", pool=Pool.FLATTEN, head="dense 2 softmax")
    with pytest.raises(
        UsageError,
        match=r"^--fine makes the maps of model.pt larger, but its later layers take a single size .* --pool avg or --pool max",
    ):
        dilation.remove_last_stride(network, network.last_spatial())
    assert network.last_spatial().shape == (4, 16, 16)


def test_rejects_network_without_a_stride():
    """Also for a layer before the first stride."""
    message = r"^model.pt has no stride of a convolution or pooling before conv1 that could be removed$"
    for text in ("conv 4 k3 same relu", "conv 4 k3 same relu, pool 2, conv 5 k3"):
        network = by_notation(text)
        with pytest.raises(UsageError, match=message):
            dilation.remove_last_stride(network, network.find("conv1"))


@pytest.mark.parametrize("name", ["layer4.0.conv1", "layer4.0.bn2"])
def test_a_layer_parallel_to_a_shortcut(published, name):
    """The stride of the shortcut is removed as well, since both outputs are added after the layer."""
    network = published("resnet18")
    layer = network.find(name)
    _, there = dilation.remove_last_stride(network, layer)
    assert there.shape == (layer.shape[0], 2 * layer.shape[1], 2 * layer.shape[2])
    assert there.name == name
