"""Cuts of networks: the textbook's networks, names of layers, and outputs compared with hooks on the whole network."""

import copy
import functools

import pytest
import torch
import torchvision
from torch import nn

from cnnkit.choices import Fit
from cnnkit.errors import UsageError
from cnnkit.nets import catalogue, subgraph

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def inputs(size=64, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- the textbook's list


@pytest.mark.parametrize(
    ("name", "resize", "size", "normalisation", "layer", "shape"),
    [
        ("VGG16", 256, 224, IMAGENET, "features.30", (512, 7, 7)),
        ("VGG19", 256, 224, IMAGENET, "features.36", (512, 7, 7)),
        ("ResNet50", 256, 224, IMAGENET, "layer4.2", (2048, 7, 7)),
        ("InceptionV3", 342, 299, IMAGENET, "Mixed_7c", (2048, 8, 8)),
        ("MobileNetV2", 256, 224, IMAGENET, "features.18", (1280, 7, 7)),
        ("Xception", 333, 299, HALVES, "act4", (2048, 10, 10)),
        ("MobileNet", 256, 224, HALVES, "bn2", (1024, 7, 7)),
    ],
)
def test_the_textbooks_networks(outline, name, resize, size, normalisation, layer, shape):
    """Each has its own input size and normalization, and is cut at its last map, as with Keras' include_top=False."""
    module, preprocess = outline(catalogue.canonical(name))
    assert (preprocess.resize, preprocess.size, preprocess.fit) == (resize, size, Fit.CROP)
    assert (preprocess.mean, preprocess.std) == normalisation
    with torch.device("meta"):
        found = subgraph.find_layer(catalogue.canonical(name), module, None, size=size)
        assert found == layer
        assert subgraph.cut(module, found)(torch.zeros(1, 3, size, size)).shape == (1, *shape)


KERAS_VGG16 = {
    "block1_conv1": (64, 64),
    "block1_conv2": (64, 64),
    "block1_pool": (64, 32),
    "block2_conv1": (128, 32),
    "block2_conv2": (128, 32),
    "block2_pool": (128, 16),
    "block3_conv1": (256, 16),
    "block3_conv2": (256, 16),
    "block3_conv3": (256, 16),
    "block3_pool": (256, 8),
    "block4_conv1": (512, 8),
    "block4_conv2": (512, 8),
    "block4_conv3": (512, 8),
    "block4_pool": (512, 4),
    "block5_conv1": (512, 4),
    "block5_conv2": (512, 4),
    "block5_conv3": (512, 4),
    "block5_pool": (512, 2),
}


def test_keras_names_of_vgg16s_layers():
    """Every Keras name stands for Keras' layer: channels, size for images of 64 pixels, and the ReLU included."""
    module, _ = catalogue.for_dims("vgg16")
    module.eval().features.to_empty(device="cpu")  # its dense layers, nine tenths of it, stay without values
    for value in module.features.parameters():
        nn.init.normal_(value, std=0.05, generator=torch.Generator().manual_seed(0))
    assert [name for name in subgraph.keras_names("vgg16") if name.startswith("block")] == list(KERAS_VGG16)
    for name, (channels, size) in KERAS_VGG16.items():
        layer = subgraph.find_layer("vgg16", module, name, size=224)
        if name in ("block1_conv1", "block3_conv3", "block5_pool"):  # the others take long and add nothing
            with torch.no_grad():
                seen = subgraph.cut(module, layer)(inputs(batch=1))
            assert seen.shape == (1, channels, size, size)
            assert seen.min() == 0
        index = int(layer.removeprefix("features."))
        part = module.features[index]
        assert isinstance(part, nn.MaxPool2d if name.endswith("pool") else nn.ReLU)
        convolutions = [each for each in module.features[: index + 1] if isinstance(each, nn.Conv2d)]
        assert convolutions[-1].out_channels == channels


def test_keras_names_of_the_other_vggs():
    """VGG19 has four convolutions in its later blocks; names are the same with batch norm; other networks have no such names."""
    names = subgraph.keras_names("vgg19")
    assert names["block5_conv4"] == "features.35"
    assert names["fc1"] == "classifier.1"
    assert subgraph.keras_names("vgg16_bn")["block1_conv1"] == "features.2"
    assert subgraph.keras_names("resnet50") == {}


# ---------------------------------------------------------------- layers and cuts


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("squeezenet1_1", ["features.0", "features.1", "features.4.squeeze", "features.12", "classifier.1"]),
        ("resnet18", ["bn1", "layer1", "layer2.0", "layer3.1.conv2", "avgpool", "fc"]),
        ("mobilenet_v2", ["features.1.conv.0", "features.14", "features.18"]),
        ("mobilenet_v3_small", ["features.1.block.1", "features.5", "classifier.1"]),
        pytest.param("shufflenet_v2_x0_5", ["stage2.1", "stage4", "conv5"], marks=pytest.mark.slow),
        pytest.param(
            "densenet121",
            ["features.denseblock1.denselayer2", "features.transition2", "features"],
            marks=pytest.mark.slow,
        ),
        pytest.param("googlenet", ["inception3a", "inception5b.branch3", "avgpool"], marks=pytest.mark.slow),
    ],
)
def test_a_cut_equals_a_hook_on_the_whole_network(whole, name, layers, hooked):
    """A backbone returns exactly its layer's output in the whole network, and has only the modules that it needs."""
    module, _ = whole(name)
    given = inputs(96 if name == "googlenet" else 64)
    total = sum(value.numel() for value in module.parameters())
    for layer in layers:
        backbone = subgraph.cut(module, subgraph.find_layer(name, module, layer, size=224))
        with torch.no_grad():
            assert torch.equal(backbone(given), hooked(module, layer, given))
        assert set(backbone.state_dict()) <= set(module.state_dict())
        if layer == layers[0]:
            assert sum(value.numel() for value in backbone.parameters()) < total


def test_maps_have_channels_first(whole, hooked):
    """A Swin transformer keeps channels last inside; its backbone returns maps (C, h, w) wherever it is cut."""
    module, _ = whole("swin_t")
    given = inputs()
    for layer, shape in {"features.0": (96, 16, 16), "features.3.1": (192, 8, 8), "norm": (768, 2, 2)}.items():
        with torch.no_grad():
            seen = subgraph.cut(module, subgraph.find_layer("swin_t", module, layer, size=224))(given)
        assert seen.shape == (2, *shape)
        assert torch.equal(seen, hooked(module, layer, given).permute(0, 3, 1, 2))
    for layer in ("features.0.0", "permute"):  # before and after the maps with channels last
        with torch.no_grad():
            assert subgraph.cut(module, layer)(given).shape[1] in (96, 768)


def test_maps_have_channels_first_for_timm(whole):
    """The same for timm's networks with channels last."""
    module, preprocess = whole("timm:mambaout_femto")
    layer = subgraph.find_layer("timm:mambaout_femto", module, None, size=preprocess.size)
    with torch.no_grad():
        assert subgraph.cut(module, layer)(inputs(224, batch=1)).shape == (1, 288, 7, 7)


def test_functional_nodes_can_be_cut_at(whole, hooked):
    """Sums and functions, which are not modules, have names in the graph, and return the values computed by hand."""
    module, _ = whole("resnet18")
    block, given = module.layer1[1], inputs()
    with torch.no_grad():
        coming = subgraph.cut(module, "layer1.0")(given)
        expected = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(coming))))) + coming
        assert torch.equal(subgraph.cut(module, "layer1.1.add")(given), expected)
    densenet, _ = whole("densenet121")
    with torch.no_grad():
        expected = torch.relu(hooked(densenet, "features", given))
        assert torch.equal(subgraph.cut(densenet, "relu")(given), expected)
        assert torch.equal(subgraph.cut(densenet, "flatten")(given), expected.mean((2, 3)))


@pytest.mark.parametrize("name", [pytest.param("inception_v3", marks=pytest.mark.slow), "googlenet"])
def test_cuts_switch_between_training_and_evaluation(whole, name):
    """A backbone can be trained, and then returns the same as before in eval mode; auxiliary classifiers are not included."""
    module, preprocess = whole(name)
    module = copy.deepcopy(module)
    layer = subgraph.find_layer(name, module, None, size=preprocess.size)
    backbone, given = subgraph.cut(module, layer), inputs(96)
    with torch.no_grad():
        before = backbone.eval()(given)
        assert backbone.train()(given).shape == before.shape
        backbone.load_state_dict(module.state_dict(), strict=False)
    assert not any("aux" in key.lower() for key in backbone.state_dict())


def test_a_number_is_a_module_of_features(outline):
    """As torchvision numbers the layers of its VGGs; a number without a module is an error."""
    module, _ = outline("vgg16")
    found = [subgraph.find_layer("vgg16", module, layer, size=224) for layer in ("30", "features.30", "block5_pool")]
    assert found == ["features.30"] * 3
    with pytest.raises(UsageError, match='vgg16 has no layer "31"'):
        subgraph.find_layer("vgg16", module, "31", size=224)


def test_unknown_layer_proposes_similar_ones(outline):
    """Also by Keras' names."""
    module, _ = outline("squeezenet1_1")
    with pytest.raises(UsageError, match=r'squeezenet1_1 has no layer "feature.7"; did you mean .*features\.7'):
        subgraph.find_layer("squeezenet1_1", module, "feature.7", size=224)
    for layer in ("???", "x"):  # x, the input, has a name in the graph but is not a layer
        with pytest.raises(UsageError, match="cnn-dims squeezenet1_1 lists them"):
            subgraph.find_layer("squeezenet1_1", module, layer, size=224)
    with pytest.raises(UsageError, match="block4_pool"):
        subgraph.find_layer("vgg16", outline("vgg16")[0], "block4_pol", size=224)


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("squeezenet1_1", "features.12", (512, 13, 13)),
        ("resnet18", "layer4.1", (512, 7, 7)),
        ("densenet121", "relu", (1024, 7, 7)),  # the ReLU after the last batch norm is a function
        pytest.param("googlenet", "inception5b", (1024, 7, 7), marks=pytest.mark.slow),
        pytest.param("shufflenet_v2_x0_5", "conv5.2", (1024, 7, 7), marks=pytest.mark.slow),
        ("swin_t", "permute", (768, 7, 7)),  # channels last inside
    ],
)
def test_the_default_layer_is_the_last_map(outline, name, layer, shape):
    """By default a backbone ends with the last map (C, h, w) before pooling and classifier."""
    module, preprocess = outline(name)
    with torch.device("meta"):
        found = subgraph.find_layer(name, module, None, size=preprocess.size)
        assert found == layer
        assert subgraph.cut(module, found)(torch.zeros(1, 3, 224, 224)).shape == (1, *shape)


def test_vit_backbone_ends_with_the_class_token():
    """Tokens have no height and width, so the backbone returns the input of the classifier."""
    module, preprocess = catalogue.seeded(0, functools.partial(catalogue.network, "vit_b_32", size=64))
    assert (module.image_size, preprocess.size) == (64, 224)
    module.eval()
    # torchvision initializes it to 0
    nn.init.normal_(module.heads.head.weight, generator=torch.Generator().manual_seed(0))
    backbone = subgraph.cut(module, subgraph.find_layer("vit_b_32", module, None, size=64))
    with torch.no_grad():
        assert torch.equal(module.heads(backbone(inputs())), module(inputs()))


# ---------------------------------------------------------------- side effects


def test_modes_are_restored_after_an_exception(monkeypatch):
    """A frozen part of a network in training mode stays in eval mode, also if the network cannot be traced."""
    module = torchvision.models.squeezenet1_0(weights=None).train()
    module.features[3].eval()
    modes = {name: each.training for name, each in module.named_modules()}
    with subgraph.mode(module, training=False):
        assert not any(each.training for each in module.modules())
    assert {name: each.training for name, each in module.named_modules()} == modes

    def broken(self, given):
        raise RuntimeError("not to be traced")

    monkeypatch.setattr(type(module), "forward", broken)
    with pytest.raises(RuntimeError, match="not to be traced"), subgraph.mode(module, training=False):
        module(inputs())
    assert {name: each.training for name, each in module.named_modules()} == modes


class Scaled(nn.Module):
    """A network with a tensor that is computed, not stored, as DINOv3's rotary position embeddings are."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, images):
        """Compute."""
        return self.last(self.first(images) * torch.arange(4.0)[:, None, None])


def test_a_second_cut_has_the_same_state():
    """Tracing stores computed tensors; a model file would not fit the network that is built for it if their names differed."""
    network = Scaled().eval()
    first, second = (subgraph.cut(network, "last") for _ in range(2))
    assert list(first.state_dict()) == list(second.state_dict())
    assert any("constant" in name for name in first.state_dict())
    torch.testing.assert_close(first(images := torch.rand(1, 3, 5, 5)), network(images))
