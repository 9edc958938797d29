"""Backbones of networks by name, of notations and of trained models, with their weights."""

import re
from hashlib import sha256

import pytest
import torch

from cnnkit.choices import Fit, Pool
from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import cache
from cnnkit.formats.header import ArtefactKind, Backbone, Header, Preprocess
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import backbones
from cnnkit.nets.notation import parse


def inputs(size=64, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- weights


@pytest.fixture
def saved(whole):
    def save(path, name="squeezenet1_1", seed=5):
        torch.save(whole(name, seed)[0].state_dict(), path)
        return path

    return save


def test_weights_of_a_file_are_in_the_backbone(whole, saved, tmp_path, hooked):
    """The backbone has the values of the file and returns them; they are cached under the hash of the file."""
    file = saved(tmp_path / "mine.pth")
    extractor, backbone, _ = backbones.pretrained("squeezenet1_1", weights=file, layer="features.7")
    state = whole("squeezenet1_1", 5)[0].state_dict()
    assert all(torch.equal(value, state[key]) for key, value in extractor.state_dict().items())
    with torch.no_grad():
        assert torch.equal(extractor(inputs()), hooked(whole("squeezenet1_1", 5)[0], "features.7", inputs()))
    digest = sha256(file.read_bytes()).hexdigest()
    assert backbone == Backbone("squeezenet1_1", "features.7", Pool.AVG, digest)
    file.unlink()
    assert cache.find_weights(digest).read_bytes()
    assert not extractor.training


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module."])
def test_weights_as_training_scripts_save_them(whole, tmp_path, wrapper):
    """A state_dict below a key, or with DataParallel's prefix, is found."""
    state = whole("squeezenet1_1", 5)[0].state_dict()
    content = {f"module.{key}": value for key, value in state.items()} if wrapper == "module." else {wrapper: state}
    torch.save({**content, "epoch": 3} if wrapper != "module." else content, tmp_path / "mine.pth")
    backbone, _, _ = backbones.pretrained("squeezenet1_1", weights=tmp_path / "mine.pth")
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


@pytest.mark.slow
def test_computed_tensors_follow_the_weights(whole, saved, tmp_path, hooked):
    """Constants that a network computes from its weights while it is traced (maxvit's position biases) come from the loaded weights."""
    file = saved(tmp_path / "maxvit.pth", "maxvit_t")
    backbone, _, preprocess = backbones.pretrained("maxvit_t", weights=file, layer="blocks.1")
    module, _ = whole("maxvit_t", 5)
    given = inputs(preprocess.size, batch=1)
    with torch.no_grad():
        assert torch.equal(backbone(given), hooked(module, "blocks.1", given))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", r"mine\.pth: has no conv1\.weight \(it has features\.0\.weight, .*weights of squeezenet1_1$"),
        (
            "squeezenet1_0",
            r"mine\.pth: features\.0\.weight has shape \(64, 3, 3, 3\), the network needs \(96, 3, 7, 7\); "
            "these look like the weights of squeezenet1_1$",
        ),
    ],
)
def test_rejects_weights_of_another_network(saved, tmp_path, name, message):
    """The message names the file and the first tensor that does not fit."""
    with pytest.raises(FormatError, match=message):
        backbones.pretrained(name, weights=saved(tmp_path / "mine.pth"))


def prefixed(prefix):
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    "rename",
    [
        *map(
            prefixed,
            ("model.", "net.", "backbone.", "_orig_mod.", "module.model.", "model._orig_mod.", "model.module."),
        ),
        lambda state: prefixed("model.")(state) | {"loss.weight": torch.ones(3), "teacher.other": torch.ones(1)},
        lambda state: {key.replace("features.", "features.module."): value for key, value in state.items()},
        lambda state: {key.replace("features.", "model.features.module."): value for key, value in state.items()},
        lambda state: state | prefixed("ema.")(state),
    ],
)
def test_prefixes_of_wrappers_are_removed(whole, tmp_path, rename, caplog):
    """Lightning's `model.`, torch.compile's `_orig_mod.`, DataParallel's `module.` anywhere, and any other common prefix."""
    state = whole("squeezenet1_1")[0].state_dict()
    renamed = rename(dict(state))
    torch.save({"state_dict": renamed, "epoch": 3}, tmp_path / "w.ckpt")
    caplog.set_level("INFO", logger="cnnkit")
    backbone, record, _ = backbones.pretrained("squeezenet1_1", weights=tmp_path / "w.ckpt")
    if "features.0.weight" not in renamed:
        assert re.search(r"w\.ckpt: removed (the prefix )?[a-z_. ]+ from the names of its weights", caplog.text)
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())
    again = backbones.restore(record, tmp_path / "w.ckpt", size=224)
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


def test_rejects_file_with_the_network_twice(whole, tmp_path):
    """Student and teacher: the choice would be arbitrary."""
    state = whole("squeezenet1_1")[0].state_dict()
    torch.save(prefixed("student.")(state) | prefixed("teacher.")(state), tmp_path / "w.pth")
    with pytest.raises(
        FormatError, match=r"has the network 2 times, below student\. and teacher\.; save the state_dict"
    ):
        backbones.pretrained("squeezenet1_1", weights=tmp_path / "w.pth")


def test_batch_counters_may_be_missing(whole, tmp_path):
    """Files from before torch counted batches load."""
    state = {key: value for key, value in whole("resnet18")[0].state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pth")
    backbone, _, _ = backbones.pretrained("resnet18", weights=tmp_path / "old.pth")
    assert torch.equal(backbone.state_dict()["bn1.weight"], state["bn1.weight"])


def test_random_weights_depend_on_the_seed_alone():
    """The same seed gives the same backbone and digest, another seed others."""
    torch.manual_seed(123)
    first, one, _ = backbones.pretrained("squeezenet1_1", weights="none", seed=1)
    again, two, _ = backbones.pretrained("squeezenet1_1", weights="none", seed=1)
    _, three, _ = backbones.pretrained("squeezenet1_1", weights="none", seed=2)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in first.state_dict().items())
    assert one == two
    assert one.weights_sha256 != three.weights_sha256


# ---------------------------------------------------------------- by notation, and of a model

TEXT = "2 * (conv 4 k3 same bn relu), pool 2, conv 8 k3 relu"


def test_a_backbone_by_notation():
    """Seeded weights, squashed images of the given size, and a record from which it can be built again."""
    extractor, backbone, preprocess = backbones.by_notation(TEXT, size=16, seed=3)
    again, _, _ = backbones.by_notation(TEXT, size=16, seed=3)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in extractor.state_dict().items())
    assert preprocess == Preprocess(Fit.SQUASH, 16, 16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert (backbone.name, backbone.layer, backbone.pool) == ("layers", "conv3", Pool.AVG)
    assert [layer.name for layer in parse(backbone.notation)] == [layer.name for layer in parse(TEXT)]
    rebuilt = backbones.restore(backbone, cache.find_weights(backbone.weights_sha256), size=16)
    with torch.no_grad():
        assert torch.equal(rebuilt(inputs(16)), extractor(inputs(16)))
    assert extractor(inputs(16)).shape == (2, 8, 6, 6)


def test_a_backbone_by_notation_is_cut_at_a_layer():
    """Cut at a layer by the name that cnn-dims prints."""
    extractor, backbone, _ = backbones.by_notation(TEXT, size=16, layer="pool1")
    assert extractor(inputs(16)).shape == (2, 4, 8, 8)
    assert backbone.layer == "pool1"
    with pytest.raises(UsageError, match=r'no layer "pool2"; this network has conv1, bn1, conv2, bn2, pool1, conv3'):
        backbones.by_notation(TEXT, size=16, layer="pool2")


def test_a_backbone_by_notation_takes_weights(tmp_path):
    """Weights of a file are loaded into a backbone by notation; a file that does not fit is an error."""
    extractor, _, _ = backbones.by_notation(TEXT, size=16, seed=9)
    torch.save(extractor.state_dict(), tmp_path / "mine.pth")
    loaded, backbone, _ = backbones.by_notation(TEXT, size=16, weights=tmp_path / "mine.pth")
    assert all(torch.equal(value, extractor.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert backbone.weights_sha256 == sha256((tmp_path / "mine.pth").read_bytes()).hexdigest()
    with pytest.raises(FormatError, match=r"mine\.pth: conv1\.weight has shape"):
        backbones.by_notation("conv 5 k3", size=16, weights=tmp_path / "mine.pth")


def test_a_grey_backbone_by_notation():
    """One channel: new, from weights, and from a model; a network by name does not take grey images."""
    extractor, backbone, preprocess = backbones.by_notation(TEXT, size=16, grey=True, seed=3)
    given = inputs(16)[:, :1]
    assert (preprocess.grey, preprocess.channels) == (True, 1)
    again = backbones.restore(backbone, cache.find_weights(backbone.weights_sha256), size=16, grey=True)
    header = Header(ArtefactKind.MODEL, ("a", "b"), preprocess, backbone, "dense 2")
    model = TorchModel(header, {f"base.{key}": value for key, value in extractor.state_dict().items()})
    third, _, same = backbones.from_model(model, name="model.pt")
    assert same == preprocess
    with torch.no_grad():
        assert extractor(given).shape == (2, 8, 6, 6)
        assert torch.equal(again(given), extractor(given))
        assert torch.equal(third(given), extractor(given))
    with pytest.raises(UsageError, match="resnet18 takes colour images"):
        backbones.skeleton(Backbone("resnet18", "layer4", Pool.AVG), size=64, grey=True)


def test_rejects_empty_notation():
    """A backbone needs a layer."""
    with pytest.raises(UsageError, match="empty"):
        backbones.by_notation(" ", size=16)


@pytest.mark.parametrize("by", ["name", "notation"])
def test_backbone_of_a_model(by):
    """The backbone has the model's own values, layer and pool, and may be cut earlier."""
    if by == "name":
        extractor, backbone, preprocess = backbones.pretrained("squeezenet1_1", weights="none", seed=4, pool=Pool.MAX)
        earlier = "features.4"
    else:
        extractor, backbone, preprocess = backbones.by_notation(TEXT, size=64, seed=4, pool=Pool.MAX)
        earlier = "pool1"
    header = Header(ArtefactKind.MODEL, preprocess=preprocess, backbone=backbone, head="dense 2")
    state = {
        **{f"base.{key}": value for key, value in extractor.state_dict().items()},
        "head.dense1.bias": torch.zeros(2),
    }
    taken, record, prepared = backbones.from_model(TorchModel(header, state), name="head.pt")
    assert (record, prepared) == (backbone, preprocess)
    with torch.no_grad():
        assert torch.equal(taken(inputs()), extractor(inputs()))
    shorter, record, _ = backbones.from_model(TorchModel(header, state), name="head.pt", layer=earlier, pool=Pool.AVG)
    assert (record.layer, record.pool) == (earlier, Pool.AVG)
    assert set(shorter.state_dict()) < set(extractor.state_dict())
    with pytest.raises(FormatError, match=r"head\.pt: its header has no backbone"):
        backbones.from_model(TorchModel(header.but(backbone=None), state), name="head.pt")


@pytest.mark.parametrize(
    ("name", "size", "layer", "shape"),
    [
        ("resnet18", 32, "layer4.1", (1, 512, 1, 1)),
        ("mobilenet_v2", 32, "features.18", (1, 1280, 1, 1)),
        ("swin_t", 32, "permute", (1, 768, 1, 1)),
        ("vit_b_32", 32, None, (1, 768)),
    ],
)
def test_untrained_backbone_is_complete_at_any_size(name, size, layer, shape):
    """Also if small images shrink to one pixel long before the last layer."""
    extractor, backbone = backbones.untrained(name, size=size)
    with torch.no_grad():
        assert extractor(torch.zeros(1, 3, size, size)).shape == shape
    assert layer in (None, backbone.layer)
    assert backbone.weights_sha256 is None
