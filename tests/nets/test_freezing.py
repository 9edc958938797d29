"""Layers to train, by name or number, and the split of a backbone into a frozen and a trained part."""

import copy
import functools

import pytest
import torch
from torch import nn

from cnnkit.choices import Pool
from cnnkit.engine import config, onnx_backbone
from cnnkit.engine.session import Session
from cnnkit.errors import UsageError
from cnnkit.formats import torch_model
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import backbones, build, catalogue, freezing, subgraph
from cnnkit.nets.notation import parse

TEXT = "conv 4 k3 same bn relu, pool 2, conv 6 k3 s2 same relu, dropout 0.5, conv 8 k3 bn relu, flatten, dense 5"


@functools.cache
def whole(name):
    module, preprocess = catalogue.seeded(0, functools.partial(catalogue.network, name, size=64))
    module.eval()
    return module, subgraph.find_layer(name, module, None, size=64 if name.startswith("vit") else preprocess.size)


@functools.cache
def backbone_of(name):
    """Cut each network only once: splitting sets again which of its parameters are trained, and its mode."""
    return subgraph.cut(*whole(name))


@pytest.fixture(scope="module", autouse=True)
def _clear_caches():
    """Keep no network for the tests of other modules."""
    yield
    whole.cache_clear()
    backbone_of.cache_clear()


def chain(text=TEXT):
    return build.build(parse(text), channels=3, height=16, width=16).eval()


def inputs(size=64, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def statistics(module):
    return {key: value.clone() for key, value in module.state_dict().items() if "running" in key or "num_b" in key}


# ---------------------------------------------------------------- which layers


def test_layers_are_counted_as_keras_counts_them():
    """Every module with parameters of its own, in the order in which they run, also a batch norm that torchvision's graph runs
    together with its convolution."""
    layers = freezing.layers(backbone_of("mobilenet_v2"))
    assert len(layers) == 104  # 52 convolutions and their batch norms
    assert layers[:2] == ("features.0.0", "features.0.1")
    assert freezing.layers(backbone_of("resnet18"))[-5:] == (
        "layer4.0.downsample.1",  # it is defined after conv2, and runs there
        "layer4.1.conv1",
        "layer4.1.bn1",
        "layer4.1.conv2",
        "layer4.1.bn2",
    )
    assert freezing.layers(chain()) == ("conv1", "bn1", "conv2", "conv3", "bn2", "dense1")
    vit = freezing.layers(backbone_of("vit_b_32"))
    assert {"class_token", "encoder", "encoder.layers.encoder_layer_3.self_attention"} <= set(vit)


@pytest.mark.parametrize(
    ("name", "unfreeze", "first", "count"),
    [
        ("mobilenet_v2", "features.14", "features.14.conv.0.0", 26),
        ("mobilenet_v2", "features.14.conv.1", "features.14.conv.1.0", 24),
        ("mobilenet_v2", "3", "features.17.conv.3", 3),
        ("resnet18", "layer4", "layer4.0.conv1", 10),
        ("vgg11", "block5", "features.16", 2),
        ("vgg11", "block5_conv1", "features.16", 2),  # Keras' layer is the convolution with its ReLU
        ("vgg11", "block5_conv2", "features.18", 1),
        ("vgg11", "block4_pool", "features.16", 2),
        ("vgg11", "block1", "features.0", 8),
    ],
)
def test_training_begins_at_the_given_layer(name, unfreeze, first, count):
    """By a module's name, by Keras' name of a layer or block, or by a number of layers counted from the end."""
    backbone = backbone_of(name)
    found = freezing.find(backbone, unfreeze, network=name)
    assert (found[0], len(found)) == (first, count)
    assert found == freezing.layers(backbone)[-count:]


def test_training_of_a_chain_by_notation_begins_at_the_given_layer():
    """The names are those of cnn-dims; training may begin at a layer without weights."""
    backbone, find = chain(), functools.partial(freezing.find, network="layers")
    assert find(backbone, "conv3") == ("conv3", "bn2", "dense1")
    # A module inside a layer, and a layer
    assert find(backbone, "bn2_relu") == find(backbone, "flatten1") == ("dense1",)
    assert find(backbone, "dropout1") == find(backbone, "conv3") == find(backbone, "3")
    assert find(backbone, "pool1") == ("conv2", "conv3", "bn2", "dense1")
    assert find(backbone, "all") == freezing.layers(backbone)
    assert find(backbone, "none") == find(backbone, "0") == ()


@pytest.mark.parametrize(
    ("name", "unfreeze", "message"),
    [
        (
            "squeezenet1_1",
            "featres.12",
            r'--unfreeze featres\.12: the backbone has no layer "featres\.12"; did you mean features\.12',
        ),
        ("squeezenet1_1", "26", "--unfreeze 26: the backbone of squeezenet1_1 has 25 layers with weights"),
        ("squeezenet1_1", "classifier.1", "the backbone has no layer"),  # the backbone ends before it
        ("squeezenet1_1", "???", r"its layers are features\.0, features\.3\.squeeze, .*, features\.12\.expand3x3"),
        ("vgg11", "block6", "did you mean block5"),
        ("vgg11", "block5_pool", "no weights from there on; --unfreeze none trains the head alone"),
    ],
)
def test_rejects_unknown_layers(name, unfreeze, message):
    """Similar names are proposed for an unknown one; too many layers, or none after a place, are an error."""
    with pytest.raises(UsageError, match=message):
        freezing.find(backbone_of(name), unfreeze, network=name)


def test_a_backbone_without_weights_has_nothing_to_train():
    """The backbone of a dense network is its flatten layer; only the head can be trained."""
    backbone = build.build(parse("flatten"), channels=3, height=8, width=8)
    assert freezing.find(backbone, "none", network="layers") == ()
    for unfreeze in ("all", "1", "dense1"):
        with pytest.raises(UsageError, match=f"--unfreeze {unfreeze}: the backbone has no layers with weights"):
            freezing.find(backbone, unfreeze, network="layers")


# ---------------------------------------------------------------- two parts

BOUNDARIES = [
    ("mobilenet_v2", "features.14", "features.13"),
    ("mobilenet_v2", "features.14.conv.1", "features.14.conv.0"),  # no shortcut in this block: its size changes
    ("mobilenet_v2", "features.15.conv.1", "features.14"),  # inside a residual block: the boundary is before it
    ("mobilenet_v2", "1", "features.17"),
    ("mobilenet_v2", "features.1", "features.0"),
    ("resnet18", "layer4", "layer3.1"),
    ("resnet18", "layer3.1.conv2", "layer3.0"),
    ("vgg11", "block5", "features.15"),
    ("squeezenet1_1", "features.12", "features.11"),
    ("squeezenet1_1", "features.10.expand3x3", "features.10.squeeze_activation"),
    pytest.param("densenet121", "features.denseblock4.denselayer5", "features.transition3", marks=pytest.mark.slow),
    ("efficientnet_b0", "features.7.0.block.2", "features.7.0.block.1"),
    pytest.param("efficientnet_b0", "features.6.1", "features.6.0", marks=pytest.mark.slow),
    pytest.param("swin_t", "features.5.3", "features.5.2", marks=pytest.mark.slow),  # channels last inside
    ("vit_b_32", "encoder.layers.encoder_layer_10", "encoder.layers.encoder_layer_9"),
    pytest.param("inception_v3", "Mixed_7c.branch3x3_1", "Mixed_7b", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "unfreeze", "boundary"), BOUNDARIES)
def test_parts_in_sequence_equal_the_backbone(name, unfreeze, boundary):
    """Identical outputs, with the boundary where a single tensor is passed on; the network cut there equals the lower part."""
    backbone, (module, _) = backbone_of(name), whole(name)
    given = inputs(96 if name == "inception_v3" else 64)
    with torch.no_grad():
        expected = backbone(given)
    parts = freezing.divide(backbone, freezing.find(backbone, unfreeze, network=name))
    assert parts.boundary == boundary
    with torch.no_grad():
        between = parts.lower(given)
        kept = between.clone()
        assert torch.equal(parts.upper(between), expected)
        assert torch.equal(between, kept)  # the cached output is not changed in place
        layer = subgraph.find_layer(name, module, boundary, size=64)
        assert torch.equal(subgraph.cut(module, layer)(given), kept)


@pytest.mark.parametrize(
    ("unfreeze", "boundary"),
    [("all", None), ("conv2", "pool1"), ("bn2", "conv3"), ("dense1", "flatten1"), ("none", "dense1")],
)
def test_parts_of_a_chain_equal_the_chain(unfreeze, boundary):
    """The same by notation, with padding, dropout and batch norm on both sides."""
    backbone = chain()
    parts = freezing.divide(backbone, freezing.find(backbone, unfreeze, network="layers"))
    assert parts.boundary == boundary
    given = inputs(16)
    with torch.no_grad():
        assert torch.equal(parts.upper(parts.lower(given)), backbone(given))
        assert boundary is None or torch.equal(backbone.upto(boundary)(given), parts.lower(given))


@pytest.mark.parametrize("unfreeze", ["all", "none"])
def test_unfreeze_all_and_none(unfreeze):
    """With everything trained the lower part is the identity, with nothing trained the upper one."""
    backbone, given = backbone_of("squeezenet1_1"), inputs()
    parts = freezing.divide(backbone, freezing.find(backbone, unfreeze, network="squeezenet1_1"))
    assert parts.boundary == (None if unfreeze == "all" else "features.12")
    assert torch.equal((parts.lower if unfreeze == "all" else parts.upper)(given), given)
    with torch.no_grad():
        assert torch.equal(parts.upper(parts.lower(given)), backbone(given))
    assert {parameter.requires_grad for parameter in backbone.parameters()} == {unfreeze == "all"}


@pytest.mark.parametrize("name", [pytest.param("squeezenet1_1", marks=pytest.mark.slow), "layers"])
def test_the_boundary_is_a_layer_of_the_exported_backbone(tmp_path, name):
    """The lower part runs on ONNX Runtime: a model file is cut at the boundary by its name."""
    if name == "layers":
        extractor, backbone, preprocess = backbones.by_notation(TEXT, size=16)
        unfreeze, size = "conv3", 16
    else:
        extractor, backbone, preprocess = backbones.pretrained(name, weights="none")
        unfreeze, size = "features.4", 224
    parts = freezing.divide(extractor, freezing.find(extractor, unfreeze, network=name))
    state = {f"base.{key}": value for key, value in extractor.state_dict().items()}
    torch_model.save(
        tmp_path / "model.pt",
        TorchModel(Header(ArtefactKind.MODEL, ("a", "b"), preprocess, backbone, "dense 2"), state),
    )
    found = onnx_backbone.get(
        config.BackboneSpec(backbone=str(tmp_path / "model.pt"), layer=parts.boundary, pool=Pool.NONE)
    )
    images = torch.randint(0, 256, (2, size, size, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    (seen,) = Session(found.content, device="cpu", name="lower").run({"images": images.numpy()})
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
    with torch.no_grad():
        expected = parts.lower(((images / 255 - mean) / std).permute(0, 3, 1, 2))
    torch.testing.assert_close(torch.from_numpy(seen), expected, rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize(
    ("name", "unfreeze"),
    [
        ("mobilenet_v2", "features.15.conv.1"),  # part of its block is frozen
        ("mobilenet_v2", "1"),  # a batch norm that is trained after a frozen convolution, which run as one node
        ("resnet18", "layer4.0.downsample"),
        ("efficientnet_b0", "features.6.1"),
        ("layers", "bn2"),
        ("layers", "conv2"),
    ],
)
def test_only_unfrozen_parameters_are_trained(name, unfreeze):
    """The trained parameters, which are the backbone's own, get gradients; statistics of frozen batch norms do not change."""
    backbone = chain() if name == "layers" else backbone_of(name)
    backbone.zero_grad()  # the tests share their networks
    trained = freezing.find(backbone, unfreeze, network=name)
    parts = freezing.divide(backbone, trained)
    before = statistics(backbone)
    parts.upper.train()
    parts.lower.train()
    given = inputs(16 if name == "layers" else 64, batch=4)
    between = parts.lower(given)
    assert not between.requires_grad
    parts.upper(between).square().sum().backward()
    chosen = {f"{layer}.{kind}" for layer in trained for kind in ("weight", "bias")}
    own = dict(backbone.named_parameters())
    assert {key for key, value in own.items() if value.grad is not None and value.grad.any()} <= chosen
    assert {key for key, value in own.items() if value.requires_grad} == chosen & set(own)
    assert {key for key, value in own.items() if value.grad is not None} == chosen & set(own)
    moved = {
        key.rpartition(".")[0] for key, value in statistics(backbone).items() if not torch.equal(value, before[key])
    }
    modules = dict(backbone.named_modules())
    assert moved == {layer for layer in trained if isinstance(modules[layer], nn.BatchNorm2d)}
    mine = {key.removeprefix("part."): value for key, value in parts.upper.named_parameters()}
    assert all(value is own[key] for key, value in mine.items())
    assert chosen & set(own) <= set(mine)
    parts.upper.eval()
    with torch.no_grad():
        assert torch.equal(parts.upper(parts.lower(given)), backbone(given))


def test_dropout_only_in_the_trained_part():
    """Stochastic depth and dropout are active above the boundary in training mode, and inactive in eval mode and below it."""
    backbone = backbone_of("efficientnet_b0")
    parts = freezing.divide(backbone, freezing.find(backbone, "features.6.1", network="efficientnet_b0"))
    between = parts.lower.train()(inputs())
    assert torch.equal(parts.lower(inputs()), between)
    drops = [module for module in parts.upper.modules() if type(module).__name__ == "StochasticDepth"]
    assert drops
    parts.upper.train()
    assert all(module.training for module in drops)
    parts.upper.eval()
    assert not any(module.training for module in backbone.modules())
    chained = freezing.divide(dropping := chain(), freezing.find(dropping, "conv2", network="layers"))
    maps = chained.lower(inputs(16))
    first, second = (chained.upper.train()(maps) for _ in range(2))
    assert not torch.equal(first, second)


def test_copy_of_the_upper_part_is_independent():
    """A running average is a deep copy: it computes the same, shares nothing, and freezes the same modules."""
    backbone = backbone_of("resnet18")
    parts = freezing.divide(backbone, freezing.find(backbone, "layer4.0.conv2", network="resnet18"))
    twin = copy.deepcopy(parts.upper).eval()
    with torch.no_grad():
        between = parts.lower(inputs())
        assert torch.equal(twin(between), parts.upper(between))
    assert {id(value) for value in twin.parameters()}.isdisjoint(id(value) for value in backbone.parameters())
    twin.train()
    modes = {name.removeprefix("part."): module.training for name, module in twin.named_modules()}
    assert (modes["layer4.0.bn1"], modes["layer4.0.bn2"]) == (False, True)
    assert not any(module.training for module in backbone.modules())


# ---------------------------------------------------------------- depth


def numbers(stem, *counts):
    """Return the names of the blocks of stages, which are counted from 1."""
    return [f"{stem}{stage}.{block}" for stage, count in enumerate(counts, start=1) for block in range(count)]


def stages(stem, stage, count):
    return [f"{stem}.{stage}.{block}" for block in range(count)]


GROUPS = {
    "resnet18": ["conv1+bn1", *numbers("layer", 2, 2, 2, 2)],
    "mobilenet_v2": [f"features.{number}" for number in range(19)],
    "convnext_tiny": [
        *("features.0", *stages("features", 1, 3), "features.2", *stages("features", 3, 3), "features.4"),
        *(*stages("features", 5, 9), "features.6", *stages("features", 7, 3)),
    ],
    "efficientnet_b0": [
        "features.0",
        *(
            block
            for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1), start=1)
            for block in stages("features", stage, count)
        ),
        "features.8",
    ],
    "regnet_y_400mf": [
        "stem",
        *(
            f"trunk_output.block{stage}.block{stage}-{n}"
            for stage, count in enumerate((1, 3, 6, 6), 1)
            for n in range(count)
        ),
    ],
}


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "mobilenet_v2", "efficientnet_b0"),
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("convnext_tiny", "regnet_y_400mf")),
    ],
)
def test_depth_groups_are_blocks(name):
    """Parameters are grouped by block, from the last trained block down; a stem's batch norm belongs to its convolution."""
    backbone = backbone_of(name)
    groups = freezing.depth_groups(backbone, freezing.layers(backbone))
    blocks = []
    for group in groups:
        shared = [
            words[0] for words in zip(*(name.split(".")[:-1] for name in group), strict=False) if len(set(words)) == 1
        ]
        blocks.append(".".join(shared) or "+".join(dict.fromkeys(name.split(".")[0] for name in group)))
    # A block of a single chain inside has more in common than its name
    expected = GROUPS[name][::-1]
    assert [block if block in expected else block.rpartition(".")[0] for block in blocks] == expected
    assert sorted(sum(groups, ())) == sorted(name for name, _ in backbone.named_parameters())


@pytest.mark.parametrize(
    ("name", "unfreeze", "firsts"),
    [
        (
            "mobilenet_v2",
            "features.16.conv.3",
            ["features.18.0.weight", "features.17.conv.0.0.weight", "features.16.conv.3.weight"],
        ),
        ("layers", "conv2", ["dense1.weight", "conv3.weight", "conv2.weight"]),
        pytest.param(
            "inception_v3",
            "Mixed_7b",
            ["Mixed_7c.branch1x1.conv.weight", "Mixed_7b.branch1x1.conv.weight"],
            marks=pytest.mark.slow,
        ),
        ("layers", "none", []),
    ],
)
def test_depth_groups_contain_only_trained_parameters(name, unfreeze, firsts):
    """A block that is partly trained is a group of its trained parameters."""
    backbone = chain() if name == "layers" else backbone_of(name)
    trained = freezing.find(backbone, unfreeze, network=name)
    groups = freezing.depth_groups(backbone, trained)
    assert [group[0] for group in groups] == firsts
    assert {parameter.rpartition(".")[0] for group in groups for parameter in group} == set(trained)


def test_synchronised_batch_norms_stay_frozen():
    """torch replaces batch norms for several GPUs: the new ones of frozen layers are in eval mode as well."""
    backbone, *_ = backbones.pretrained("resnet18", weights="none")
    split = freezing.divide(backbone, freezing.find(backbone, "2", network="resnet18"))
    upper = nn.SyncBatchNorm.convert_sync_batchnorm(split.upper).train()
    modes = {name: layer.training for name, layer in upper.named_modules() if isinstance(layer, nn.SyncBatchNorm)}
    assert modes == {name: name.endswith("layer4.1.bn2") for name in modes}
    assert len(modes) > 1
