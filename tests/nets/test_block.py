"""Layers with branches: residual and concat, compared with torch and torchvision."""

import copy
import re

import pytest
import torch
import torchvision
from torch import nn

from cnnkit.choices import Pool
from cnnkit.data import preprocessing
from cnnkit.errors import UsageError
from cnnkit.formats.header import Backbone, Preprocess
from cnnkit.nets import backbones, build, dims, freezing
from cnnkit.nets.notation import parse

BASIC = "residual(conv {n} k3 {s}p1 nobias bn relu, conv {n} k3 p1 nobias bn) relu"
STAGES = [(n, 1 if n == 64 else 2, block) for n in (64, 128, 256, 512) for block in (0, 1)]
RESNET18 = ", ".join(
    [
        "conv 64 k7 s2 p3 nobias bn relu, pool 3 s2 p1",
        *(BASIC.format(n=n, s="s2 " if stride == 2 and not block else "") for n, stride, block in STAGES),
        "gap, dense 1000",
    ]
)
MIXED = (
    "conv 6 k3 p1 relu, residual(conv 6 k3 p1 bn relu, concat(conv 4 k1 | pool 3 s1 p1, conv 2 k3 p1 relu)) relu,"
    "concat(linear | conv 3 k3 s1 p1, conv 5 k1 | avgpool 3 s1 p1), residual(conv 4 k3 s2 p1 bn | avgpool 2, conv 4 k1), gap, dense 3"
)


def built(text, height=16, width=12, channels=3):
    return build.build(parse(text), channels=channels, height=height, width=width).eval()


def maps(height=16, width=12, *, batch=2, channels=3):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


def with_weights(network, reference):
    """Give a network the weights of another, in order, after batch norms got statistics; return both in eval mode."""
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2, generator=torch.Generator().manual_seed(1))
            nn.init.normal_(module.running_mean, generator=torch.Generator().manual_seed(2))
    values = reference.state_dict().values()
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
    return network.eval(), reference.eval()


def test_resnet18_is_torchvisions():
    """ResNet-18 in ten words a block: torchvision's parameters, multiply-accumulates and outputs, projections included."""
    network, reference = with_weights(
        built(RESNET18, 40, 40), torchvision.models.resnet18(weights=None, num_classes=1000)
    )
    images = maps(40, 40)
    torch.testing.assert_close(network(images), reference(images), rtol=1e-4, atol=1e-5)
    rows = dims.measure(parse(RESNET18), height=224, width=224, channels=3)
    published = torchvision.models.ResNet18_Weights.DEFAULT.meta
    assert dims.total(rows).params == published["num_params"]
    assert dims.total(rows).macs / 1e9 == pytest.approx(published["_ops"], abs=0.001)


def test_names_are_numbered_within_a_block():
    """Names of modules, of the table and of the notation agree, and do not depend on the layers before a block."""
    block = "residual(conv 8 k3 s2 p1 bn relu, conv 8 k3 p1 bn) relu, concat(conv 1 k1 | conv 1 k3 same, conv 2 k1)"
    rows = dims.measure(parse(f"conv 4 k3 p1, {block}"), height=16, width=12, channels=3)
    inner = ("conv1", "bn1", "conv2", "bn2", "projection", "projection_bn")
    assert [row.layer for row in rows] == [
        *("conv1", *(f"residual1.{name}" for name in inner), "residual1"),
        *("concat1.conv1", "concat1.conv2", "concat1.conv3", "concat1"),
    ]
    names = dict(built(f"conv 4 k3 p1, {block}").named_modules())
    assert {row.layer for row in rows} <= set(names)
    assert list(built(block).residual1.state_dict()) == list(built(f"conv 4 k3 p1, {block}").residual1.state_dict())


def test_every_row_has_the_shape_and_parameters_of_its_module():
    """cnn-dims and the network agree on every layer, in nested blocks too, and the part up to any layer ends with it."""
    layers = parse(MIXED)
    rows = dims.measure(layers, height=16, width=12, channels=3)
    network = built(MIXED)
    modules = dict(network.named_modules())
    for row in rows:
        made = network.upto(row.layer)(maps())
        channels, *size = made.shape[1:]
        assert (*size, channels) == row.shape, row.layer
        own = modules[row.layer]
        inside = 0 if isinstance(own, build.Block) else sum(value.numel() for value in own.parameters())
        assert row.params == inside, row.layer
    assert dims.total(rows).params == sum(value.numel() for value in network.parameters())


def test_the_part_up_to_a_layer_in_a_branch_keeps_names_and_weights():
    """The branch up to it, with the names of the whole network, so that its weights fit; other branches are left out."""
    network = built(MIXED)
    part = network.upto("residual1.concat1.conv2")
    state = network.state_dict()
    assert list(part.ends)[-1] == "residual1.concat1.conv2"
    assert {key.rpartition(".")[0] for key in part.state_dict()} == {
        *("conv1", "residual1.conv1", "residual1.bn1", "residual1.concat1.conv2"),
    }
    assert all(torch.equal(value, state[key]) for key, value in part.state_dict().items())
    seen = []
    network.residual1.concat1.conv2_relu.register_forward_hook(lambda _module, _given, made: seen.append(made))
    network(maps())
    assert torch.equal(part(maps()), seen[0])
    again = part.upto("residual1.concat1.conv2")  # as for a model that was cut there
    assert torch.equal(again(maps()), seen[0])
    with pytest.raises(
        UsageError, match=re.escape('no layer "conv9" there; the layers in these branches are conv1, bn1, ')
    ):
        network.upto("residual1.conv9")
    with pytest.raises(UsageError, match=re.escape('no layer "conv1.bn1"; this network has conv1, residual1')):
        network.upto("conv1.bn1")


def test_a_backbone_cut_in_a_block_is_built_without_the_other_branches():
    """The same names, weights and outputs as the part of the whole network, for every layer, projections included."""
    text = MIXED.removesuffix(", gap, dense 3") + ", residual(conv 9 k3 s2 p1 bn)"
    network = built(text, 16, 16)
    rows = dims.measure(parse(text), height=16, width=16, channels=3)
    for row in rows:
        part = network.upto(row.layer)
        made = backbones.skeleton(Backbone(name="layers", layer=row.layer, pool=Pool.NONE, notation=text), size=16)
        made.load_state_dict(part.state_dict())
        assert (list(made.ends), torch.equal(made.eval()(maps(16, 16)), part(maps(16, 16)))) == (list(part.ends), True)
    wide = "residual(conv 4 k3 p1, conv 999999 k9 p4, conv 4 k1)"
    first = Backbone(name="layers", layer="residual1.conv1", pool=Pool.NONE, notation=wide)
    assert sum(value.numel() for value in backbones.skeleton(first, size=16, most=200).parameters()) == 112


@pytest.mark.parametrize("layer", ["pad 40000", "deconv 4 k1 s20000"])
def test_rejects_maps_that_no_memory_holds(layer):
    """A file of others may have any notation: what it needs is checked before memory is allocated, as for parameters."""
    with pytest.raises(UsageError, match=r"returns [0-9,]+ values for one image, more than 2,147,483,648"):
        backbones.skeleton(
            Backbone(name="layers", layer="conv1", pool=Pool.NONE, notation=f"{layer}, conv 1 k1"), size=16
        )


@pytest.mark.parametrize(
    ("text", "shortcut"),
    [
        ("residual(conv 3 k3 p1, bn)", lambda: nn.Identity()),
        ("residual(conv 5 k3 p1 relu, conv 5 k3 p1)", lambda: nn.Conv2d(3, 5, 1)),
        ("residual(conv 5 k3 s2 p1)", lambda: nn.Conv2d(3, 5, 1, 2)),
        (
            "residual(conv 5 k3 s2x1 p1 bn)",
            lambda: nn.Sequential(nn.Conv2d(3, 5, 1, (2, 1), bias=False), nn.BatchNorm2d(5)),
        ),
        ("residual(pool 2, conv 3 k3 same, pool 2)", lambda: nn.Conv2d(3, 3, 1, 4)),
        ("residual(conv 3 k3 p1 | avgpool 3 s1 p1)", lambda: nn.AvgPool2d(3, 1, 1)),
        ("residual(deconv 5 k2 s2, conv 5 k3 s2 same)", lambda: nn.Conv2d(3, 5, 1)),
        ("residual(deconv 3 k2 s2 | deconv 3 k4 s2 p1)", lambda: nn.ConvTranspose2d(3, 3, 4, 2, 1)),
    ],
)
def test_shortcuts_by_hand(text, shortcut):
    """The input itself where shapes agree, a convolution of 1 x 1 with the branch's stride where they differ, or the layers after |."""
    network = built(text)
    branch, *others = network.residual1.chains()
    reference = shortcut().eval()
    if others:
        reference.load_state_dict(dict(zip(reference.state_dict(), others[0].state_dict().values(), strict=True)))
    torch.testing.assert_close(network(maps()), branch(maps()) + reference(maps()))


def test_a_shortcut_after_a_deconv_has_the_stride_of_its_layers():
    """Where the stride to the image is unknown, and the size is odd, the stride is still that of the branch."""
    network = built("deconv 4 k1 s2, residual(conv 4 k3 s2 same, concat(pool 2 same | conv 4 k3 s2 same))", 15, 15)
    assert network.residual1.projection.stride == (4, 4)
    assert network(maps(15, 15)).shape == (2, 8, 8, 8)


def test_dense_blocks_take_vectors():
    """A residual of dense layers adds vectors, through a dense layer where lengths differ; concat joins global pools."""
    network = built("concat(gap | gmp), residual(dense 6 relu, dense 6), residual(dense 4, bn)")
    pools = torch.cat([maps().mean((2, 3)), maps().amax((2, 3))], 1)
    first, second = network.residual1, network.residual2
    middle = first.dense2(first.dense1(pools).relu()) + pools
    torch.testing.assert_close(
        network(maps()), second.bn1(second.dense1(middle)) + second.projection_bn(second.projection(middle))
    )
    rows = dims.measure(parse("concat(gap | gmp), residual(dense 4)"), height=16, width=12, channels=3)
    assert [row.shape for row in rows] == [(3,), (3,), (6,), (4,), (4,), (4,)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("concat(conv 4 k3 | conv 4 k1)", ["concat1: its branches return 14x10x4 and 16x12x4", "padding same"]),
        ("concat(gap | conv 4 k1)", ["a vector of 3 and 16x12x4"]),
        (
            "residual(conv 4 k3)",
            ["turn 16x12x3 into 14x10x4", "conv 4 k1 s1, makes 16x12x4", "padding same", 'shortcut after "|"'],
        ),
        ("residual(conv 4 k3 | conv 5 k3)", ["residual1: its branches return 14x10x4 and 14x10x5", "one shape"]),
        ("residual(conv 4 k3 same, gap)", ["turn 16x12x3 into a vector of 4", 'shortcut after "|"']),
        ("residual(conv 4 k3, flatten, dense 5 | conv 4 k99)", ['residual1.conv2 ("conv 4 k99"): kernel 99 is larger']),
        ("residual(deconv 3 k2 s2)", ["turn 16x12x3 into 32x24x3", "makes 16x12x3"]),
        ("gap, concat(dense 3 | lrn)", ['concat1.lrn1 ("lrn") needs height and width']),
        ("deconv 4 k1 p8", ['deconv1 ("deconv 4 k1 p8"): padding 8 leaves nothing of its input\'s height 16']),
        ("deconv 4 k3 g2", ["3 input channels are not divisible by 2 groups"]),
    ],
)
def test_branches_that_do_not_fit_are_named_with_both_shapes(text, words):
    """One line with the layer, both shapes and a remedy; building the network fails in the same way."""
    with pytest.raises(UsageError) as caught:
        dims.measure(parse(text), height=16, width=12, channels=3)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=re.escape(str(caught.value))):
        built(text)


def test_receptive_field_is_the_largest_of_the_branches():
    """By gradients: the pixels that one output value depends on, and the distance to its neighbour's."""
    text = "concat(conv 2 k3 same | conv 2 k5x7 same, conv 2 k1), residual(conv 4 k3 s2 p1, conv 4 k3 same), conv 2 k1"
    row = dims.measure(parse(text), height=60, width=60, channels=2)[-1]
    network = built(text, 60, 60, channels=2).double()
    for value in network.parameters():
        nn.init.constant_(value, 0.5)
    image = torch.ones(1, 2, 60, 60, dtype=torch.double, requires_grad=True)
    spans = []
    for place in (15, 16):
        image.grad = None
        network(image)[0, :, place, 15].sum().backward()
        seen = (image.grad[0].abs().sum(0) > 0).nonzero()
        spans.append((seen.amin(0), (seen.amax(0) - seen.amin(0) + 1).tolist()))
    assert row.receptive_field == "{}x{}".format(*spans[0][1])
    assert row.stride == int((spans[1][0] - spans[0][0])[0])


def test_training_a_part_of_a_block():
    """Training may begin inside a block: the frozen part ends before it, and frozen layers in the block keep their statistics."""
    text = "conv 4 k3 p1 bn relu, residual(conv 6 k3 s2 p1 bn relu, conv 6 k3 p1 bn) relu, concat(conv 2 k1 | conv 3 k3 same), gap, dense 2"
    network = built(text)
    assert freezing.layers(network) == (
        *(
            "conv1",
            "bn1",
            *(f"residual1.{name}" for name in ("conv1", "bn1", "conv2", "bn2", "projection", "projection_bn")),
        ),
        *("concat1.conv1", "concat1.conv2", "dense1"),
    )
    find = {
        name: freezing.find(network, name, network="layers")[0]
        for name in ("residual1", "residual1.conv2", "concat1", "3")
    }
    assert list(find.values()) == ["residual1.conv1", "residual1.conv2", "concat1.conv1", "concat1.conv1"]
    expected = network(maps())
    parts = freezing.divide(network, freezing.find(network, "residual1.conv2", network="layers"))
    assert parts.boundary == "bn1"
    torch.testing.assert_close(parts.upper(parts.lower(maps())), expected)
    parts.upper.train()
    before = {key: value.clone() for key, value in network.state_dict().items() if "running" in key}
    parts.upper(parts.lower(maps())).sum().backward()
    changed = {
        key.rpartition(".")[0]
        for key, value in network.state_dict().items()
        if "running" in key and not torch.equal(value, before[key])
    }
    assert changed == {"residual1.bn2", "residual1.projection_bn"}
    trained = {name for name, value in network.named_parameters() if value.grad is not None}
    assert not any(name.startswith(("conv1", "bn1", "residual1.conv1", "residual1.bn1")) for name in trained)
    assert "residual1.conv2.weight" in trained
    groups = freezing.depth_groups(network, parts.trained)
    assert [group[0] for group in groups] == ["dense1.weight", "concat1.conv1.weight", "residual1.conv2.weight"]


def test_copies_are_independent():
    """A deep copy, as for averaged weights, runs its own modules, also those that were replaced in it."""
    network = built("residual(conv 3 k3 p1 bn)")
    other = copy.deepcopy(network)
    nn.init.zeros_(other.residual1.conv1.weight)
    nn.init.zeros_(other.residual1.conv1.bias)
    other.residual1.bn1 = nn.Identity()
    assert torch.equal(other(maps()), maps())
    assert not torch.equal(network(maps()), maps())


def test_pooling_before_relu_in_a_branch_changes_nothing():
    """In training, outputs and gradients are those of the layers in their order, bit by bit."""
    network = built("concat(conv 4 k3 relu, pool 2 | conv 2 k3, avgpool 2)").train()
    results = []
    for ordered in (True, False):
        block = copy.deepcopy(network).concat1
        given = maps().requires_grad_()
        if ordered:
            made = block(given)
        else:
            made = torch.cat([block.pool1(block.conv1_relu(block.conv1(given))), block.avgpool1(block.conv2(given))], 1)
        made.square().sum().backward()
        results.append((made, given.grad, block.conv1.weight.grad))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.photos
def test_squeezenet_with_published_weights_sees_the_same(photos):
    """Its fire modules as concats, with torchvision's weights: the same logits for a photograph as torchvision's network."""

    def fire(narrow, wide):
        return f"conv {narrow} k1 relu, concat(conv {wide} k1 relu | conv {wide} k3 p1 relu)"

    text = ", ".join(
        [
            *("conv 64 k3 s2 relu, pool 3 s2", fire(16, 64), fire(16, 64), "pool 3 s2", fire(32, 128), fire(32, 128)),
            *("pool 3 s2", fire(48, 192), fire(48, 192), fire(64, 256), fire(64, 256), "conv 1000 k1 relu, gap"),
        ]
    )
    reference = torchvision.models.squeezenet1_1(weights=None)
    reference.load_state_dict(torch.load(photos / "weights" / "squeezenet1_1.pth", weights_only=True))
    network, reference = with_weights(built(text, 224, 224), reference)
    path = next(iter(sorted((photos / "pictures").glob("*.jpg"))))
    image = torch.tensor(preprocessing.load(path, Preprocess())).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in (Preprocess().mean, Preprocess().std))
    with torch.no_grad():
        expected = reference((image - mean) / std)
        torch.testing.assert_close(network((image - mean) / std), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1
