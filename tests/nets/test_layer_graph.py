"""Whole networks as graphs: names of layers, parts, and values compared with hooks on the network."""

import copy

import pytest
import torch
from torch import nn

from cnnkit.choices import Pool
from cnnkit.data import preprocessing
from cnnkit.errors import UsageError
from cnnkit.explain import cam
from cnnkit.formats import torch_model
from cnnkit.formats.header import ArtefactKind, Header, Preprocess
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import backbones, classifier, layer_graph, subgraph, token_grid

TEXT = "conv 4 k3 relu, pool 2, dropout 0.3, conv 6 k3 s2 p1 bn relu"
HEAD = "dense 5 relu, dropout 0.5, dense 2 softmax"


def write(path, text=TEXT, head=HEAD, *, pool=Pool.AVG, size=20):
    module, backbone, preprocess = backbones.by_notation(text, size=size, pool=pool)
    extractor = classifier.Extractor(module, preprocess=preprocess, pool=pool).eval()
    made = classifier.build_head(head, classifier.feature_shape(extractor, preprocess))
    header = Header(ArtefactKind.MODEL, ("blue", "red"), preprocess, backbone, head)
    state = {f"base.{key}": value for key, value in module.state_dict().items()}
    torch_model.save(
        path, TorchModel(header, state | {f"head.{key}": value for key, value in made.state_dict().items()})
    )
    return path


@pytest.fixture
def model(tmp_path):
    """A small trained network with batch norm, dropout and two dense layers."""
    return read(write(tmp_path / "model.pt"))


def read(path):
    return layer_graph.of_model(torch_model.load(path), name=path.name)[0]


def images(size=64, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def outputs(network, nodes, given, *, keep=True):
    with torch.no_grad():
        return network.upto(nodes, keep=keep)(given)


def hooked(module, names, given):
    """Record the outputs of modules in a copy of the network without in-place operations."""
    module = copy.deepcopy(module)
    seen = {}
    for part in module.modules():
        if hasattr(part, "inplace"):
            part.inplace = False
    for name in names:
        module.get_submodule(name).register_forward_hook(
            lambda _module, _given, made, name=name: seen.__setitem__(name, made.clone())
        )
    with torch.no_grad():
        module(given)
    return seen


# ---------------------------------------------------------------- layers


def test_the_layers_of_squeezenet(published):
    """The ends of its largest modules with their activations, without parts of fire modules, dropout or the pooled vector."""
    assert [(each.name, each.shape) for each in published("squeezenet1_1").layers()] == [
        ("features.1", (64, 111, 111)),
        ("features.2", (64, 55, 55)),
        ("features.3", (128, 55, 55)),
        ("features.4", (128, 55, 55)),
        ("features.5", (128, 27, 27)),
        ("features.6", (256, 27, 27)),
        ("features.7", (256, 27, 27)),
        ("features.8", (256, 13, 13)),
        ("features.9", (384, 13, 13)),
        ("features.10", (384, 13, 13)),
        ("features.11", (512, 13, 13)),
        ("features.12", (512, 13, 13)),
        ("classifier.2", (1000, 13, 13)),
    ]


def test_a_number_beyond_the_last_layer_is_that_of_a_module_in_features(outline):
    """The numbers of torchvision; smaller numbers count layers with maps, of which AlexNet has 8."""
    module, preprocess = outline("alexnet")
    part = subgraph.cut(module, "features.12").to_empty(device="cpu")
    network = layer_graph.LayerGraph(part, preprocess=preprocess, name="alexnet", aliases={})
    assert [network.find(number).name for number in ("12", "8", "7", "-1")] == [
        "features.12",
        "features.8",
        "features.12",
        "features.12",
    ]
    with pytest.raises(UsageError, match="has 8 layers with maps, numbered from 0; there is no 13"):
        network.find("13")


def test_the_layers_of_resnet(published):
    """Each residual block is one layer; batch norm and its activation belong to the layer before them."""
    names = ["relu", "maxpool", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1))]
    assert [each.name for each in published("resnet18").layers()] == names


def test_the_layers_of_a_network_by_notation(model):
    """Each layer has the name that cnn-dims prints; batch norm, activation and dropout are not layers of their own."""
    assert [(each.name, each.shape) for each in model.layers()] == [
        ("conv1", (4, 18, 18)), ("pool1", (4, 9, 9)), ("bn1", (6, 5, 5)),
    ]  # fmt: skip


def test_a_block_is_one_layer_with_layers_inside(tmp_path):
    """Blocks are layers, as torchvision's; those in their branches are found by name, with the values of their modules."""
    text = "conv 4 k3 p1 relu, residual(conv 6 k3 s2 p1 bn relu, conv 6 k3 p1 bn) relu, concat(conv 2 k1 relu | linear)"
    network = read(write(tmp_path / "blocks.pt", text))
    assert [(each.name, each.shape) for each in network.layers()] == [
        ("conv1", (4, 20, 20)), ("residual1", (6, 10, 10)), ("concat1", (8, 10, 10)),
    ]  # fmt: skip
    assert network.last_spatial().name == "concat1"
    whole = classifier.from_header(*_opened(tmp_path / "blocks.pt"), name="blocks.pt")
    given = network.normalise(torch.zeros(1, 20, 20, 3, dtype=torch.uint8))
    names = ("residual1.bn1", "residual1.projection", "residual1", "concat1.conv1", "concat1")
    found = outputs(network, [network.find(name).node for name in names], given)
    for name, values in zip(names, found, strict=True):
        assert network.find(name).name == name
        with torch.no_grad():
            assert torch.equal(values, whole.base.upto(name)(given)), name
    before = network.before_activation(network.find("concat1"))
    assert [node.meta["path"] for node in before] == ["concat1.conv1", "concat1.linear1"]
    with pytest.raises(UsageError, match=r'no layer "residual1\.conv9"; did you mean residual1\.conv'):
        network.find("residual1.conv9")


def test_a_network_that_ends_in_a_branch(tmp_path):
    """A model whose backbone was cut inside a block keeps the names of the whole network."""
    module, backbone, preprocess = backbones.by_notation(
        "conv 4 k3 relu, residual(conv 4 k3 p1 relu, conv 4 k3 p1)", layer="residual1.conv1", size=20
    )
    model = TorchModel(
        Header(ArtefactKind.MODEL, ("blue", "red"), preprocess, backbone, HEAD),
        {
            **{f"base.{key}": value for key, value in module.state_dict().items()},
            **{f"head.{key}": value for key, value in classifier.build_head(HEAD, (4,)).state_dict().items()},
        },
    )
    network, _ = layer_graph.of_model(model, name="m.pt")
    assert [each.name for each in network.layers()] == ["conv1", "residual1.conv1"]
    assert network.last_map().name == "residual1.conv1"


def _opened(path):
    model = torch_model.load(path)
    return model.header, model.state


def test_padding_is_not_a_layer(tmp_path):
    """The padding of Keras' `same` is part of the layer that needs it."""
    network = read(write(tmp_path / "same.pt", "conv 4 k3 s2 same relu, pool 3 s2 same, conv 6 k2 same"))
    assert [each.name for each in network.layers()] == ["conv1", "pool1", "conv2"]


def test_names_of_a_model_by_notation(tmp_path, model):
    """A layer's name stands for its activation, as in cnn-dims; modules have their own names; those of the head are called head.NAME."""
    given = images(20)
    stored = torch_model.load(tmp_path / "model.pt")
    whole = classifier.from_header(stored.header, stored.state, name="model.pt")
    names = {"conv1": "conv1_relu", "bn1": "bn1_relu", "head.dense1": "head.dense1_relu", "head.dense2": "head.dense2"}
    for name, path in names.items():
        assert model.find(name).node.meta["path"] == path
        assert model.find(path).name == name
    assert model.find("conv2").node.meta["path"] == "conv2"
    assert [model.find(name).shape for name in ("conv1", "head.dense1", "head.dense2")] == [(4, 18, 18), (5,), (2,)]
    with torch.no_grad():
        conv = whole.base.conv1(given)
        dense = whole.head.dense1(whole.pool(whole.base(given)))
    wanted = [model.find(name).node for name in ("conv1", "head.dense1")]
    for found, expected in zip(outputs(model, wanted, given), (conv, dense), strict=True):
        assert expected.min() < 0
        torch.testing.assert_close(found, expected.relu())


def test_keras_names_of_a_vgg(published):
    """Keras' convolutions include their activation; dense layers have Keras' names, too; torchvision's names work as well."""
    network = published("vgg11")
    names = [each.name for each in network.layers()]
    assert names[:3] == ["block1_conv1", "block1_pool", "block2_conv1"]
    assert names[-2:] == ["block5_conv2", "block5_pool"]
    for name, path in (("block1_conv1", "features.1"), ("block3_conv2", "features.9"), ("fc1", "classifier.1")):
        assert network.find(name).node.meta["path"] == path
        assert network.find(path).name == name
    assert (network.find("fc1").shape, network.find("predictions").shape) == ((4096,), (1000,))
    assert network.find("features.0").name == "features.0"


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("features.12", "features.12"),
        ("0", "features.1"),
        ("11", "features.12"),
        ("-1", "classifier.2"),
        ("-13", "features.1"),
        ("features.4.squeeze", "features.4.squeeze"),
        ("features.4.expand1x1_activation", "features.4.expand1x1_activation"),
        ("features.0", "features.0"),
        ("features", "features.12"),  # the name of a container stands for its last layer
    ],
)
def test_finds_layers(published, wanted, name):
    """By name, path, number among the layers with maps, or number from the end."""
    assert published("squeezenet1_1").find(wanted).name == name


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("features.4.squeze", r'^squeezenet1_1 has no layer "features.4.squeze"; did you mean features.4.squeeze or '),
        ("13", r"^squeezenet1_1 has 13 layers with maps, numbered from 0; there is no 13$"),
        ("-14", r"^squeezenet1_1 has 13 layers with maps, numbered from 0; there is no -14$"),
        ("@", r'^squeezenet1_1 has no layer "@"; it has features.1, features.2, features.3,'),
        ("--1", r'^squeezenet1_1 has no layer "--1"'),
        ("", r'^squeezenet1_1 has no layer ""'),
    ],
)
def test_rejects_unknown_layer(published, wanted, message):
    """The message has similar names, the number of layers, or all names."""
    with pytest.raises(UsageError, match=message):
        published("squeezenet1_1").find(wanted)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("squeezenet1_1", "features.12"), ("resnet18", "layer4.1"), ("googlenet", "inception5b"), ("mobilenet_v2", "features.18")],
)  # fmt: skip
def test_the_last_layer_with_a_map(published, name, layer):
    """Before the classifier, even if the classifier has a convolution, as in SqueezeNet."""
    assert published(name).last_spatial().name == layer


def test_the_last_map_of_a_head_with_convolutions(tmp_path):
    """Maps of a trained head count, since the head belongs to this network."""
    path = write(
        tmp_path / "m.pt", "conv 4 k3 relu, pool 2", "conv 6 k3 relu, dropout 0.5, gap, dense 2", pool=Pool.NONE
    )
    found = read(path).last_spatial()
    assert (found.name, found.shape) == ("head.conv1", (6, 7, 7))


def test_tokens_without_positions(published, monkeypatch):
    """Tokens in no known order: the message explains it, and its remedy works."""
    monkeypatch.setattr(token_grid, "of_network", lambda module: None)
    network = layer_graph.of_name("timm:test_vit", weights="none")[0]
    message = r"^timm:test_vit turns its map into tokens after (\S+), and tokens have no position in the image; give --layer \1 for"
    with pytest.raises(UsageError, match=message):
        network.last_spatial()
    with pytest.raises(
        UsageError,
        match=r"norm of timm:test_vit has output 101x64, without height and width; the last layer with both is",
    ):
        cam.TorchCam(network, (), layer=network.find("norm"))


def test_tokens_are_maps(published, whole):
    """Those of the patches, in rows from the top left, with the centres of the patches; the default is before the last attention."""
    network, module = published("vit_b_32"), whole("vit_b_32")[0]
    last = network.last_spatial()
    assert (last.name, last.shape) == ("encoder.layers.encoder_layer_11.ln", (768, 7, 7))  # as torchvision names it
    assert [each.name for each in network.layers()] == ["conv_proj", "encoder"]
    centres = network.centres[last.node]
    assert (centres.rows.first, centres.rows.step, centres.columns.step) == (15.5, 32, 32)
    given, seen = images(224, batch=1), []
    handle = module.encoder.layers[11].ln_1.register_forward_hook(lambda _module, _given, made: seen.append(made))
    with torch.no_grad():
        module(given)
    handle.remove()
    (found,) = outputs(network, [last.node], given)
    maps = layer_graph.as_maps(last.node, found)
    torch.testing.assert_close(maps[0, :, 2, 5], seen[0][0, 1 + 2 * 7 + 5])


def test_networks_without_maps(tmp_path):
    """A flattened image has none."""
    path = write(tmp_path / "flat.pt", "flatten, dense 8 relu", "dense 2")
    with pytest.raises(UsageError, match=r"^flat.pt has no layer whose output has height and width"):
        read(path).last_spatial()


# ---------------------------------------------------------------- parts of the network


@pytest.mark.parametrize("name", ["squeezenet1_1", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_divided_at_any_node(published, whole, name):
    """At every node, also inside a branch or a residual block, both parts together equal torchvision's network."""
    network, given = published(name), images(64, batch=1)
    with torch.no_grad():
        expected = whole(name)[0](given)
        for node in network.shapes:
            front, after = network.divide(node)
            assert torch.equal(after(*front(given)), expected), node.meta["path"]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("googlenet", "inception4b.branch2.0"),
        ("mobilenet_v2", "features.4.conv.0"),
        pytest.param("densenet121", "features.denseblock2.denselayer3.conv1", marks=pytest.mark.slow),
    ],
)
def test_divided_inside_a_branch(published, name, layer):
    """Other tensors that are needed later are passed on."""
    network, given = published(name), images(64, batch=1)
    front, after = network.divide(network.find(layer).node)
    with torch.no_grad():
        parts = front(given)
        assert len(parts) > 1 or name == "mobilenet_v2"
        assert torch.equal(after(*parts), network.module(given))


def test_a_trained_model_divided(tmp_path, model):
    """Both parts give the same logits as the classifier."""
    stored = torch_model.load(tmp_path / "model.pt")
    whole = classifier.from_header(stored.header, stored.state, name="model.pt")
    images = torch.randint(0, 256, (3, 20, 20, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for node in model.shapes:
            front, after = model.divide(node)
            torch.testing.assert_close(after(*front(model.normalise(images))), whole(images))


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("squeezenet1_1", (nn.Conv2d, nn.ReLU)), ("resnet18", (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d))],
)
def test_values_before_an_inplace_activation(published, whole, name, kinds):
    """Every convolution and norm returns what a hook records in a network without in-place operations."""
    network, module = published(name), whole(name)[0]
    names = [path for path, part in module.named_modules() if isinstance(part, kinds)]
    expected = hooked(module, names, images())
    nodes = [next(each for each in network.shapes if each.meta["path"] == path) for path in names]
    for path, found in zip(names, outputs(network, nodes, images()), strict=True):
        torch.testing.assert_close(found, expected[path], msg=path)
    assert all(expected[path].min() < 0 for path in names if path.endswith(("features.0", "conv1", "bn1")))


def test_before_the_activation(published):
    """The convolution before a ReLU; for a fire module both convolutions, whose outputs are concatenated."""
    network, given = published("squeezenet1_1"), images()
    for name, paths in (
        ("features.1", ["features.0"]),
        ("features.4", ["features.4.expand1x1", "features.4.expand3x3"]),
        ("features.0", ["features.0"]),
        ("features.2", ["features.2"]),  # pooling has no activation
    ):
        layer = network.find(name)
        before = network.before_activation(layer)
        assert [node.meta["path"] for node in before] == paths
        *parts, after = outputs(network, [*before, layer.node], given)
        if paths != [name]:
            assert torch.cat(parts, 1).min() < 0
            assert torch.equal(torch.cat(parts, 1).relu(), after)


@pytest.mark.parametrize(
    ("name", "layer", "path"),
    [
        ("mobilenet_v2", "features.18", "features.18.1"),
        ("mobilenet_v2", "features.17", "features.17.conv.3"),
        ("resnet18", "relu", "bn1"),
        ("resnet18", "layer2.1", "layer2.1.add"),
    ],
)
def test_batch_norm_is_not_an_activation(published, name, layer, path):
    """Although it is elementwise."""
    network = published(name)
    (node,) = network.before_activation(network.find(layer))
    assert node.meta["path"] == path


def test_batch_norm_of_a_notation_is_not_an_activation(model):
    """The same in a network by notation."""
    assert [node.meta["path"] for node in model.before_activation(model.find("bn1"))] == ["bn1"]
    assert [node.meta["path"] for node in model.before_activation(model.find("conv1"))] == ["conv1"]


# ---------------------------------------------------------------- side effects


def state_of(module):
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return (
        {name: part.training for name, part in module.named_modules()},
        {name: [len(getattr(part, hook)) for hook in hooks] for name, part in module.named_modules()},
        {name: (each.grad, each.requires_grad, each.clone().tolist()) for name, each in module.state_dict(keep_vars=True).items()},
    )  # fmt: skip


def test_modes_hooks_and_gradients_are_restored(tmp_path):
    """A network partly in training mode, partly frozen, stays so, also after an exception; statistics of batch norm do not change."""
    path = write(tmp_path / "flat.pt", head="dense 2", pool=Pool.FLATTEN)
    stored = torch_model.load(path)
    whole = classifier.from_header(stored.header, stored.state, name="flat.pt").train()
    whole.base.conv1.requires_grad_(False).eval()
    before = state_of(whole)
    network = layer_graph.of_classifier(whole, name="flat.pt")
    front, after = network.divide(network.last_spatial().node)
    network.upto([network.find("conv1").node])
    assert state_of(whole) == before
    with pytest.raises(UsageError, match="does not take images of 40x40"):
        network.resize(Preprocess(resize=40, size=40))
    assert state_of(whole) == before
    assert torch.is_grad_enabled()
    ours = {id(each) for part in (front, after) for each in part.parameters()}
    assert ours == {id(each) for each in whole.parameters()}


# ---------------------------------------------------------------- channels last, and other sizes


@pytest.mark.slow
def test_a_network_that_keeps_channels_last(published, whole):
    """Maps of Swin's layers are (C, h, w) as in other networks, with the values of its own modules."""
    network, module = published("swin_t"), whole("swin_t")[0]
    names = ["features.0", "features.1.0", "features.2", "features.7.1", "norm"]
    layers = [network.find(name) for name in names]
    assert [each.shape for each in layers] == [(96, 56, 56), (96, 56, 56), (192, 28, 28), (768, 7, 7), (768, 7, 7)]
    assert network.last_spatial().shape == (768, 7, 7)
    expected = hooked(module, names, images(224, batch=1))
    found = outputs(network, [each.node for each in layers], images(224, batch=1))
    for name, layer, output in zip(names, layers, found, strict=True):
        torch.testing.assert_close(layer_graph.as_maps(layer.node, output), expected[name].permute(0, 3, 1, 2))


def test_other_sizes(tmp_path):
    """A network with global pooling takes any size, rectangles too, and the shapes follow; one with a flatten head takes only its own."""
    network, _ = layer_graph.of_name("squeezenet1_1", weights="none")
    network.resize(Preprocess(resize=96, size=96, across=160))
    assert network.last_spatial().shape == (512, 5, 9)
    assert (network.preprocess.height, network.preprocess.width) == (96, 160)
    network.resize(Preprocess(resize=65, size=65))
    assert network.last_spatial().shape == (512, 4, 4)
    for pool, fits in ((Pool.AVG, True), (Pool.MAX, True), (Pool.FLATTEN, False)):
        model = read(write(tmp_path / "model.pt", head="dense 2", pool=pool))
        wanted = preprocessing.with_size(model.preprocess, size=36)
        if fits:
            model.resize(wanted)
            assert model.last_spatial().shape == (6, 9, 9)
            continue
        with pytest.raises(
            UsageError, match=r"model.pt does not take images of 36x36 pixels \(.*\); a network needs global pooling"
        ):
            model.resize(wanted)
        assert model.preprocess.size == 20  # an error changes nothing
        assert model.last_spatial().shape == (6, 5, 5)


def test_a_vit_takes_the_size_it_was_built_for(published):
    """Its position embedding has a row for each patch of the image; of another size, it has to be built again."""
    assert layer_graph.of_name("timm:test_vit", weights="none", size=96)[0].last_spatial().shape == (64, 6, 6)
    with pytest.raises(UsageError, match=r"^vit_b_32 does not take images of 256x256 pixels \("):
        published("vit_b_32").resize(Preprocess(resize=256, size=256))
