"""Bases by name: the textbook's networks, their weights, their layers, and cuts that equal what a hook on the whole network sees."""

import functools
import random
import shutil
from hashlib import sha256

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from cnnkit.choices import Fit, Pool
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import bundle
from cnnkit.formats.bundle import Bundle
from cnnkit.formats.header import Backbone, Header, Kind, Preprocess
from cnnkit.nets import backbones
from cnnkit.nets.notation import parse

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@functools.cache
def whole(name, seed=0):
    module, preprocess = backbones.seeded(seed, functools.partial(backbones.network, name))
    return module.eval(), preprocess


def inputs(size=64, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """A folder of torch's downloads of one's own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("keras", "ours"),
    [
        ("VGG16", "vgg16"),
        ("VGG19", "vgg19"),
        ("ResNet50", "resnet50"),
        ("InceptionV3", "inception_v3"),
        ("MobileNetV2", "mobilenet_v2"),
        ("MobileNetV3Small", "mobilenet_v3_small"),
        ("DenseNet121", "densenet121"),
        ("EfficientNetB0", "efficientnet_b0"),
        ("EfficientNetV2S", "efficientnet_v2_s"),
        ("ConvNeXtTiny", "convnext_tiny"),
        ("Xception", "timm:legacy_xception"),
        ("MobileNet", "timm:mobilenetv1_100"),
        ("timm:resnet10t", "timm:resnet10t"),
    ],
)
def test_keras_spelling_is_understood(keras, ours):
    """The textbook's spelling of a network finds the one that torchvision or timm has."""
    assert backbones.canonical(keras) == ours


def test_every_classification_network_of_torchvision_is_known():
    """All networks that torchvision has for classification are taken by their names."""
    known = torchvision.models.list_models(module=torchvision.models)
    assert len(known) >= 80
    assert [backbones.canonical(name) for name in known] == known


@pytest.mark.parametrize(
    ("name", "proposal"),
    [
        ("vgg61", "did you mean .*vgg16"),
        ("regnetx16gf", "did you mean regnet_x_16gf or regnet_x_1_6gf"),  # could be either
        ("fcn_resnet50", "did you mean"),  # a segmentation network
        ("zzz", "torchvision's classification networks, or timm:NAME"),
    ],
)
def test_unknown_networks_are_answered_with_near_ones(name, proposal):
    """A wrong name gets the nearest right ones."""
    with pytest.raises(UsageError, match=f'no network is called "{name}"; .*{proposal}'):
        backbones.canonical(name)


def test_unknown_timm_networks_are_answered_with_near_ones():
    """So does a wrong name for timm."""
    with pytest.raises(UsageError, match=r'timm has no network "resnet10x"; did you mean .*resnet10t'):
        backbones.pretrained("timm:resnet10x", weights="none")


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
def test_the_textbooks_networks(name, resize, size, normalisation, layer, shape):
    """Each is built, has its own input size and normalisation, and is cut where its last map is, as Keras' include_top=False does."""
    module, preprocess = whole(backbones.canonical(name))
    assert (preprocess.resize, preprocess.size, preprocess.fit) == (resize, size, Fit.CROP)
    assert (preprocess.mean, preprocess.std) == normalisation
    found = backbones.find_layer(backbones.canonical(name), module, None, size=size)
    assert found == layer
    with torch.no_grad():
        assert backbones.cut(module, found)(inputs(size, batch=1)).shape == (1, *shape)


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
    """All of Keras' layer names mean the layer that Keras has there: channels, size for 64 pixels, and the ReLU inside."""
    module, _ = whole("vgg16")
    assert [name for name in backbones.keras_names("vgg16") if name.startswith("block")] == list(KERAS_VGG16)
    for name, (channels, size) in KERAS_VGG16.items():
        layer = backbones.find_layer("vgg16", module, name, size=224)
        if name in ("block1_conv1", "block3_conv3", "block5_pool"):  # the others would take long and show no more
            with torch.no_grad():
                seen = backbones.cut(module, layer)(inputs(batch=1))
            assert seen.shape == (1, channels, size, size)
            assert seen.min() == 0
        index = int(layer.removeprefix("features."))
        part = module.features[index]
        assert isinstance(part, nn.MaxPool2d if name.endswith("pool") else nn.ReLU)
        convolutions = [each for each in module.features[: index + 1] if isinstance(each, nn.Conv2d)]
        assert convolutions[-1].out_channels == channels


def test_keras_names_of_the_other_vggs():
    """VGG19 has four convolutions in its later blocks; batch norm does not change what a name means; others have no such names."""
    names = backbones.keras_names("vgg19")
    assert names["block5_conv4"] == "features.35"
    assert names["fc1"] == "classifier.1"
    assert backbones.keras_names("vgg16_bn")["block1_conv1"] == "features.2"
    assert backbones.keras_names("resnet50") == {}


# ---------------------------------------------------------------- layers and cuts


def hooked(module, layer, given):
    """What a module of the whole network answers, seen by a hook."""
    seen = []
    handle = module.get_submodule(layer).register_forward_hook(lambda _module, _given, made: seen.append(made.clone()))
    with torch.no_grad():
        module(given)
    handle.remove()
    return seen[-1]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("squeezenet1_1", ["features.0", "features.1", "features.4.squeeze", "features.12", "classifier.1"]),
        ("resnet18", ["bn1", "layer1", "layer2.0", "layer3.1.conv2", "avgpool", "fc"]),
        ("mobilenet_v2", ["features.1.conv.0", "features.14", "features.18"]),
        ("mobilenet_v3_small", ["features.1.block.1", "features.5", "classifier.1"]),
        ("shufflenet_v2_x0_5", ["stage2.1", "stage4", "conv5"]),
        ("densenet121", ["features.denseblock1.denselayer2", "features.transition2", "features"]),
        ("googlenet", ["inception3a", "inception5b.branch3", "avgpool"]),
    ],
)
def test_a_cut_equals_a_hook_on_the_whole_network(name, layers):
    """A base gives bit for bit what its layer answers inside the whole network, and has no module that it does not need."""
    module, _ = whole(name)
    given = inputs(96 if name == "googlenet" else 64)
    for layer in layers:
        base = backbones.cut(module, backbones.find_layer(name, module, layer, size=224))
        with torch.no_grad():
            assert torch.equal(base(given), hooked(module, layer, given))
        assert set(base.state_dict()) <= set(module.state_dict())
    shallow = backbones.cut(module, layers[0])
    assert sum(value.numel() for value in shallow.parameters()) < sum(value.numel() for value in module.parameters())


def test_channels_come_first():
    """A Swin transformer keeps channels last inside; its base gives maps (C, h, w) wherever it is cut."""
    module, _ = whole("swin_t")
    given = inputs()
    for layer, shape in {"features.0": (96, 16, 16), "features.3.1": (192, 8, 8), "norm": (768, 2, 2)}.items():
        with torch.no_grad():
            seen = backbones.cut(module, backbones.find_layer("swin_t", module, layer, size=224))(given)
        assert seen.shape == (2, *shape)
        assert torch.equal(seen, hooked(module, layer, given).permute(0, 3, 1, 2))
    for layer in ("features.0.0", "permute"):  # before and behind
        with torch.no_grad():
            assert backbones.cut(module, layer)(given).shape[1] in (96, 768)


def test_channels_come_first_for_timm():
    """The same for the networks of timm that say so."""
    module, preprocess = whole("timm:mambaout_femto")
    layer = backbones.find_layer("timm:mambaout_femto", module, None, size=preprocess.size)
    with torch.no_grad():
        assert backbones.cut(module, layer)(inputs(224, batch=1)).shape == (1, 288, 7, 7)


def test_functional_nodes_can_be_cut_at():
    """Sums and functions that are no modules have names in the graph, and give what one computes by hand at that place."""
    module, _ = whole("resnet18")
    block, given = module.layer1[1], inputs()
    with torch.no_grad():
        coming = backbones.cut(module, "layer1.0")(given)
        expected = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(coming))))) + coming
        assert torch.equal(backbones.cut(module, "layer1.1.add")(given), expected)
    densenet, _ = whole("densenet121")
    with torch.no_grad():
        expected = torch.relu(hooked(densenet, "features", given))
        assert torch.equal(backbones.cut(densenet, "relu")(given), expected)
        assert torch.equal(backbones.cut(densenet, "flatten")(given), expected.mean((2, 3)))


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_cuts_switch_between_training_and_evaluation(name):
    """A base may be trained, and in evaluation afterwards gives what it gave before: auxiliary classifiers do not come along."""
    module, preprocess = whole(name)
    layer = backbones.find_layer(name, module, None, size=preprocess.size)
    base, given = backbones.cut(module, layer), inputs(96)
    with torch.no_grad():
        before = base.eval()(given)
        assert base.train()(given).shape == before.shape
        base.load_state_dict(module.state_dict(), strict=False)
    assert not any("aux" in key.lower() for key in base.state_dict())
    module.eval()


def test_an_unknown_layer_is_answered_with_near_ones():
    """A wrong layer is a usage error that proposes layers there are, by Keras' names too."""
    module, _ = whole("squeezenet1_1")
    with pytest.raises(UsageError, match=r'squeezenet1_1 has no layer "feature.7"; did you mean .*features\.7'):
        backbones.find_layer("squeezenet1_1", module, "feature.7", size=224)
    for layer in ("???", "x"):  # the input has a name in the graph, and is no layer
        with pytest.raises(UsageError, match="cnn-dims squeezenet1_1 lists them"):
            backbones.find_layer("squeezenet1_1", module, layer, size=224)
    with pytest.raises(UsageError, match="block4_pool"):
        backbones.find_layer("vgg16", whole("vgg16")[0], "block4_pol", size=224)


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("squeezenet1_1", "features.12", (512, 13, 13)),
        ("resnet18", "layer4.1", (512, 7, 7)),
        ("densenet121", "relu", (1024, 7, 7)),  # the ReLU behind the last batch norm is a function
        ("googlenet", "inception5b", (1024, 7, 7)),
        ("shufflenet_v2_x0_5", "conv5.2", (1024, 7, 7)),
        ("swin_t", "permute", (768, 7, 7)),  # channels come last inside of it
    ],
)
def test_the_default_layer_is_the_last_map(name, layer, shape):
    """Without a word about the layer, a base ends with the last map (C, h, w) before pooling and classifier."""
    module, preprocess = whole(name)
    found = backbones.find_layer(name, module, None, size=preprocess.size)
    assert found == layer
    with torch.no_grad():
        assert backbones.cut(module, found)(inputs(224, batch=1)).shape == (1, *shape)


def test_a_transformer_gives_what_its_classifier_reads():
    """Tokens have no height and width: the base of a ViT ends with the vector of its class token."""
    module, preprocess = backbones.seeded(0, functools.partial(backbones.network, "vit_b_32", size=64))
    assert (module.image_size, preprocess.size) == (64, 224)
    module.eval()
    nn.init.normal_(module.heads.head.weight, generator=torch.Generator().manual_seed(0))  # torchvision starts it at 0
    base = backbones.cut(module, backbones.find_layer("vit_b_32", module, None, size=64))
    with torch.no_grad():
        assert torch.equal(module.heads(base(inputs())), module(inputs()))


# ---------------------------------------------------------------- weights


def saved(path, name="squeezenet1_1", seed=5):
    torch.save(whole(name, seed)[0].state_dict(), path)
    return path


def test_weights_of_a_file_are_in_the_base(tmp_path):
    """The cut base has the file's values and answers with them; they are kept under the hash of the file."""
    file = saved(tmp_path / "mine.pth")
    base, backbone, _ = backbones.pretrained("squeezenet1_1", weights=file, layer="features.7")
    state = whole("squeezenet1_1", 5)[0].state_dict()
    assert all(torch.equal(value, state[key]) for key, value in base.state_dict().items())
    with torch.no_grad():
        assert torch.equal(base(inputs()), hooked(whole("squeezenet1_1", 5)[0], "features.7", inputs()))
    digest = sha256(file.read_bytes()).hexdigest()
    assert backbone == Backbone("squeezenet1_1", "features.7", Pool.AVG, digest)
    file.unlink()
    assert bundle.find_state(digest).read_bytes()
    assert not base.training


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module."])
def test_weights_as_training_scripts_save_them(tmp_path, wrapper):
    """A state_dict below a key, or with DataParallel's prefix, is found."""
    state = whole("squeezenet1_1", 5)[0].state_dict()
    content = {f"module.{key}": value for key, value in state.items()} if wrapper == "module." else {wrapper: state}
    torch.save({**content, "epoch": 3} if wrapper != "module." else content, tmp_path / "mine.pth")
    base, _, _ = backbones.pretrained("squeezenet1_1", weights=tmp_path / "mine.pth")
    assert all(torch.equal(value, state[key]) for key, value in base.state_dict().items())


def test_computed_tensors_follow_the_weights(tmp_path):
    """What a network computes from its weights when its graph is made (maxvit's position biases) comes from the loaded ones."""
    file = saved(tmp_path / "maxvit.pth", "maxvit_t")
    base, _, preprocess = backbones.pretrained("maxvit_t", weights=file, layer="blocks.1")
    module, _ = whole("maxvit_t", 5)
    given = inputs(preprocess.size, batch=1)
    with torch.no_grad():
        assert torch.equal(base(given), hooked(module, "blocks.1", given))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", r"mine\.pth: no conv1\.weight in it \(it has features\.0\.weight, .*another network's weights"),
        (
            "squeezenet1_0",
            r"mine\.pth: features\.0\.weight has shape \(64, 3, 3, 3\), the network wants \(96, 3, 7, 7\)",
        ),
    ],
)
def test_a_wrong_file_is_named_with_the_key(tmp_path, name, message):
    """Weights of another network are refused; the message names the file and the first tensor that does not fit."""
    with pytest.raises(FormatError, match=message):
        backbones.pretrained(name, weights=saved(tmp_path / "mine.pth"))


def test_batch_counters_may_be_missing(tmp_path):
    """Files from before torch counted batches load."""
    state = {key: value for key, value in whole("resnet18")[0].state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pth")
    base, _, _ = backbones.pretrained("resnet18", weights=tmp_path / "old.pth")
    assert torch.equal(base.state_dict()["bn1.weight"], state["bn1.weight"])


def test_random_weights_depend_on_the_seed_alone():
    """Without weights, the same seed gives the same base, another seed another; the digest says which."""
    torch.manual_seed(123)
    first, one, _ = backbones.pretrained("squeezenet1_1", weights="none", seed=1)
    again, two, _ = backbones.pretrained("squeezenet1_1", weights="none", seed=1)
    _, three, _ = backbones.pretrained("squeezenet1_1", weights="none", seed=2)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in first.state_dict().items())
    assert one == two
    assert one.weights_sha256 != three.weights_sha256


@pytest.mark.parametrize("name", ["mobilenet_v2", "timm:mobilenetv1_100"])
def test_nobody_elses_random_numbers_are_used(name):
    """Building a base leaves the global generators of torch, numpy and Python where they were."""
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    backbones.pretrained(name, weights="none")
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]


def test_default_weights_come_from_torchs_folder(torch_home):
    """A file under its published name in torch's folder is used without the network, and found again by its hash."""
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    file = saved(torch_home / weights.url.rpartition("/")[2])
    base, backbone, _ = backbones.pretrained("squeezenet1_1")
    state = whole("squeezenet1_1", 5)[0].state_dict()
    assert all(torch.equal(value, state[key]) for key, value in base.state_dict().items())
    assert backbone.weights_sha256 == sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["squeezenet1_1", "timm:mobilenetv1_100"])
def test_offline_means_offline(torch_home, name):
    """CNNKIT_OFFLINE forbids the download, and the message says what to do instead."""
    with pytest.raises(
        CnnkitError, match=f"CNNKIT_OFFLINE forbids downloading weights for {name}; give a file with --weights"
    ):
        backbones.pretrained(name)


def test_a_failed_download_is_one_line(torch_home, monkeypatch):
    """Without a way to the network the error names the address and the remedy; so does a download with a wrong hash."""
    monkeypatch.setenv("CNNKIT_OFFLINE", "0")

    def fail(error):
        def get(*_words, **_options):
            raise error

        monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", get)
        with pytest.raises(CnnkitError) as caught:
            backbones.pretrained("squeezenet1_1")
        return str(caught.value)

    assert "name not known); give a file with --weights" in fail(OSError("name not known"))
    assert "squeezenet1_1-b8a52dc0.pth failed (invalid hash value" in fail(RuntimeError("invalid hash value\n..."))


def test_published_files_bring_their_own_preprocessing(tmp_path):
    """Weights under their published name are prepared for as published: the second set of MobileNetV2 wants 232 pixels."""
    second = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V2
    file = saved(tmp_path / second.url.rpartition("/")[2], "mobilenet_v2")
    assert backbones.pretrained("mobilenet_v2", weights=file)[2].resize == 232
    shutil.copy(file, tmp_path / "mine.pth")
    assert backbones.pretrained("mobilenet_v2", weights=tmp_path / "mine.pth")[2].resize == 256


# ---------------------------------------------------------------- by notation, and out of a model

TEXT = "2 * (conv 4 k3 same bn relu), pool 2, conv 8 k3 relu"


def test_a_base_by_notation():
    """A notation gives a base with seeded weights, squashed pictures of the size asked for, and a record that builds it again."""
    base, backbone, preprocess = backbones.by_notation(TEXT, size=16, seed=3)
    again, _, _ = backbones.by_notation(TEXT, size=16, seed=3)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in base.state_dict().items())
    assert preprocess == Preprocess(Fit.SQUASH, 16, 16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert (backbone.name, backbone.layer, backbone.pool) == ("layers", "conv3", Pool.AVG)
    assert [layer.name for layer in parse(backbone.notation)] == [layer.name for layer in parse(TEXT)]
    rebuilt = backbones.restore(backbone, bundle.find_state(backbone.weights_sha256), size=16)
    with torch.no_grad():
        assert torch.equal(rebuilt(inputs(16)), base(inputs(16)))
    assert base(inputs(16)).shape == (2, 8, 6, 6)


def test_a_base_by_notation_is_cut_at_a_layer():
    """A notation is cut at a layer by the name that cnn-dims prints."""
    base, backbone, _ = backbones.by_notation(TEXT, size=16, layer="pool1")
    assert base(inputs(16)).shape == (2, 4, 8, 8)
    assert backbone.layer == "pool1"
    with pytest.raises(UsageError, match=r'no layer "pool2"; this network has conv1, bn1, conv2, bn2, pool1, conv3'):
        backbones.by_notation(TEXT, size=16, layer="pool2")


def test_a_base_by_notation_takes_weights(tmp_path):
    """Weights of a file go into a base by notation, and a file that does not fit is refused."""
    base, _, _ = backbones.by_notation(TEXT, size=16, seed=9)
    torch.save(base.state_dict(), tmp_path / "mine.pth")
    loaded, backbone, _ = backbones.by_notation(TEXT, size=16, weights=tmp_path / "mine.pth")
    assert all(torch.equal(value, base.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert backbone.weights_sha256 == sha256((tmp_path / "mine.pth").read_bytes()).hexdigest()
    with pytest.raises(FormatError, match=r"mine\.pth: conv1\.weight has shape"):
        backbones.by_notation("conv 5 k3", size=16, weights=tmp_path / "mine.pth")


def test_an_empty_notation_is_no_base():
    """A base needs a layer."""
    with pytest.raises(UsageError, match="empty"):
        backbones.by_notation(" ", size=16)


@pytest.mark.parametrize("by", ["name", "notation"])
def test_a_base_out_of_a_model(by):
    """The base of a trained model has the model's own values, layer and pool, and may be cut earlier."""
    if by == "name":
        base, backbone, preprocess = backbones.pretrained("squeezenet1_1", weights="none", seed=4, pool=Pool.MAX)
        earlier = "features.4"
    else:
        base, backbone, preprocess = backbones.by_notation(TEXT, size=64, seed=4, pool=Pool.MAX)
        earlier = "pool1"
    header = Header(Kind.MODEL, preprocess=preprocess, backbone=backbone, head="dense 2")
    state = {**{f"base.{key}": value for key, value in base.state_dict().items()}, "head.dense1.bias": torch.zeros(2)}
    taken, record, prepared = backbones.from_model(Bundle(header, state), name="head.pt")
    assert (record, prepared) == (backbone, preprocess)
    with torch.no_grad():
        assert torch.equal(taken(inputs()), base(inputs()))
    shorter, record, _ = backbones.from_model(Bundle(header, state), name="head.pt", layer=earlier, pool=Pool.AVG)
    assert (record.layer, record.pool) == (earlier, Pool.AVG)
    assert set(shorter.state_dict()) < set(base.state_dict())
    with pytest.raises(FormatError, match=r"head\.pt: its header names no base"):
        backbones.from_model(Bundle(header.but(backbone=None), state), name="head.pt")
