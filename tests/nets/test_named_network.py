"""Published networks with their classifiers: the same logits as torchvision's and timm's own, and the names of classes."""

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import timm.data
import torch
import torchvision

from cnnkit.choices import Pool
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats.header import ArtefactKind, Preprocess
from cnnkit.nets import catalogue, classifier, named_network

IMAGENET = torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"]


@pytest.mark.parametrize(
    ("name", "layer", "pool", "head"),
    [
        (
            "mobilenet_v3_small",
            "classifier.1",
            Pool.NONE,
            "dense 1000 softmax",
        ),  # a hidden dense layer before the last one
        ("squeezenet1_1", "classifier.2", Pool.AVG, "flatten"),  # a map for each class
        ("timm:test_resnet", None, Pool.AVG, "dense 1000 softmax"),
        ("timm:test_efficientnet", None, Pool.AVG, "dense 1000 softmax"),  # a dense layer of timm's own class
        pytest.param("timm:test_vit", None, Pool.NONE, "dense 1000 softmax", marks=pytest.mark.slow),
        pytest.param(
            "timm:test_convnext", None, Pool.NONE, "dense 1000 softmax", marks=pytest.mark.slow
        ),  # a norm at its end
    ],
)
def test_logits_are_those_of_the_library(name, layer, pool, head):
    """Divided into backbone and head, and again when its file is read."""
    network, header = named_network.load(name, weights="none", seed=3)
    own = catalogue.seeded(3, lambda: catalogue.network(name))[0].eval()
    size = network.preprocess.size
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8))
    with torch.no_grad():
        expected = own(network.normalise(pixels))
        scale = float(expected.abs().max())
        torch.testing.assert_close(network(pixels), expected, rtol=0, atol=1e-4 * scale)
        restored = classifier.from_header(header, network.state_dict(), name="model.pt")
        torch.testing.assert_close(restored(pixels), expected, rtol=0, atol=1e-4 * scale)
    assert header.kind is ArtefactKind.MODEL
    assert (header.backbone.name, header.backbone.pool, header.head) == (name, pool, head)
    assert layer in (None, header.backbone.layer)
    assert len(header.classes) == expected.shape[1] == 1000


def test_rejects_networks_without_a_classifier(monkeypatch):
    features = timm.create_model("test_vit", num_classes=0).eval()
    monkeypatch.setattr(catalogue, "network_for", lambda *_, **__: (features, Preprocess(size=160)))
    with pytest.raises(CnnkitError, match="timm:test_vit is published without a classifier; use it as a --backbone"):
        named_network.load("timm:test_vit", weights="none")


# ---------------------------------------------------------------- weights of other classes


def saved(path, name="squeezenet1_1", **settings):
    module = catalogue.seeded(5, lambda: catalogue.network(name, **settings))[0]
    torch.save(module.state_dict(), path)
    return module.eval()


def test_weights_with_another_number_of_classes(tmp_path):
    """A classifier that was trained for seven classes has numbers as names, or those that are given."""
    own = saved(tmp_path / "seven.pth", classes=7)
    network, header = named_network.load("squeezenet1_1", weights=tmp_path / "seven.pth")
    assert header.classes == ("0", "1", "2", "3", "4", "5", "6")
    pixels = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(pixels), own(network.normalise(pixels)), rtol=1e-4, atol=1e-5)
    named = named_network.load("squeezenet1_1", weights=tmp_path / "seven.pth", classes=tuple("abcdefg"))[1]
    assert named.classes == tuple("abcdefg")
    with pytest.raises(UsageError, match="--labels has 3 classes, and squeezenet1_1 has 7 outputs"):
        named_network.load("squeezenet1_1", weights=tmp_path / "seven.pth", classes=tuple("abc"))


def test_weights_of_another_network_are_refused(tmp_path):
    saved(tmp_path / "other.pth", "squeezenet1_0")
    with pytest.raises(CnnkitError, match=r"other\.pth: .*these look like the weights of squeezenet1_0"):
        named_network.load("squeezenet1_1", weights=tmp_path / "other.pth")


# ---------------------------------------------------------------- class names


def configured(**config):
    """Stand in for a network of timm, of which only the record of its weights counts."""
    return SimpleNamespace(pretrained_cfg={"hf_hub_id": "timm/net", "num_classes": 1000, **config})


def test_names_are_torchvisions_for_imagenet():
    """Also for timm, whose outputs are in the same order."""
    names = catalogue.class_names(1000)
    assert list(names) == IMAGENET
    assert catalogue.class_names(1000, configured()) == names
    synsets = timm.data.ImageNetInfo().label_descriptions()
    assert (names[386], synsets[386]) == ("African elephant", "African elephant, Loxodonta africana")


def test_names_of_larger_subsets_are_timms():
    """The second of two equal names has its number."""
    names = catalogue.class_names(11821, configured(num_classes=11821))
    assert len(set(names)) == 11821
    assert names[0] == timm.data.ImageNetInfo("imagenet-12k").label_descriptions()[0]


@pytest.mark.parametrize(
    ("count", "config"),
    [
        (1001, {}),
        (10, {}),
        (10000, {"num_classes": 10000}),
        (1000, {"hf_hub_id": None}),
        (1000, {"num_classes": 10000}),
    ],
)
def test_unknown_classes_are_numbers(count, config):
    """Of another number than the default weights have, of no subset of ImageNet, and without default weights."""
    assert catalogue.class_names(count, configured(**config))[::9] == tuple(map(str, range(0, count, 9)))


def test_names_in_the_record_of_the_weights_are_used():
    config = {"num_classes": 2, "label_names": ("n1", "n2"), "label_descriptions": {"n1": "cat"}}
    assert catalogue.class_names(2, configured(**config)) == ("cat", "n2")
