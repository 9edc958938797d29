"""Tokens of vision transformers: pooled, and at other image sizes, compared with torchvision and timm."""

import functools
from hashlib import sha256

import pytest
import torch
import torchvision
from torch import nn

from cnnkit.choices import Pool
from cnnkit.errors import FormatError, UsageError
from cnnkit.formats.header import Backbone
from cnnkit.nets import backbones, catalogue, classifier, subgraph, token_grid

timm = pytest.importorskip("timm")

#: Small networks of timm: a class token; a register and no class token, pooled by avg; pooled by attention.
TINY = ("timm:test_vit", "timm:test_vit2", pytest.param("timm:test_vit3", marks=pytest.mark.slow))


def inputs(size, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@functools.cache
def made(name, **settings):
    torch.manual_seed(3)
    return timm.create_model(name.removeprefix("timm:"), pretrained=False, **settings).eval()


@pytest.fixture
def saved(tmp_path):
    """A file with the weights of a network of timm, at its own size."""

    def save(name):
        path = tmp_path / f"{name[5:]}.pth"
        torch.save(made(name).state_dict(), path)
        return path

    return save


def pooled(backbone, pool, given):
    with torch.no_grad():
        return classifier.Pooling(pool, token_grid.of_cut(backbone))(backbone(given))


@pytest.mark.parametrize("name", TINY)
def test_tokens_are_pooled_as_timm_defines_them(saved, name):
    """The class token is the first one; registers are in no mean; the tokens are those after the last normalization."""
    module, given = made(name), inputs(160)
    with torch.no_grad():
        tokens = module.forward_features(given)
    first, patches = tokens[:, 0], tokens[:, module.num_prefix_tokens :]
    expected = {Pool.AVG: patches.mean(1), Pool.CLS: first, Pool.CLS_AVG: torch.cat([first, patches.mean(1)], 1)}
    backbone, record, _ = backbones.pretrained(name, weights=saved(name), pool=Pool.CLS_AVG)
    assert (record.layer, record.pool) == ("norm", Pool.CLS_AVG)
    for pool, values in expected.items():
        if pool is not Pool.AVG and module.cls_token is None:
            with pytest.raises(UsageError, match=rf"--pool {pool.replace('+', '.')} needs the class token of a vision"):
                pooled(backbone, pool, given)
        else:
            torch.testing.assert_close(pooled(backbone, pool, given), values)
    flat = pooled(backbone, Pool.FLATTEN, given)
    torch.testing.assert_close(flat, tokens.flatten(1))
    torch.testing.assert_close(pooled(backbone, Pool.MAX, given), patches.amax(1))
    torch.testing.assert_close(pooled(backbone, Pool.NONE, given), tokens)


@pytest.mark.parametrize("name", TINY)
def test_without_pool_the_features_are_those_of_the_classifier(saved, name):
    """As before there was a choice: timm's own pooling, and its normalization if that follows the pooling."""
    backbone, record, _ = backbones.pretrained(name, weights=saved(name))
    assert record.pool is Pool.AVG  # which leaves a vector as it is
    module, given = made(name), inputs(160)
    with torch.no_grad():
        expected = module.forward_head(module.forward_features(given), pre_logits=True)
    torch.testing.assert_close(pooled(backbone, Pool.AVG, given), expected)


@pytest.mark.parametrize(
    ("name", "size"), [(TINY[0], 96), pytest.param(TINY[0], 224, marks=pytest.mark.slow), (TINY[1], 96)]
)
def test_another_size_has_timms_position_embeddings(saved, name, size, caplog):
    """Those of the weights, interpolated as by timm; also when the backbone is built again from its record."""
    caplog.set_level("INFO", logger="cnnkit")
    own, state = made(name, img_size=size), made(name).state_dict()
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(dict(state), own)
    own.load_state_dict(filtered)
    file = saved(name)
    backbone, record, preprocess = backbones.pretrained(name, weights=file, pool=Pool.AVG, size=size)
    assert preprocess.size == 160  # resizing in proportion is done by `with_size`
    assert f"position embeddings of 100 patches interpolated to {(size // 16) ** 2}" in caplog.text
    given = inputs(size)
    with torch.no_grad():
        expected = own.forward_features(given)
        torch.testing.assert_close(backbone(given), expected)
        again = backbones.restore(record, file, size=size)
        assert torch.equal(again(given), backbone(given))
    assert record.weights_sha256 == sha256(file.read_bytes()).hexdigest()


@pytest.mark.slow
def test_another_size_has_torchvisions_position_embeddings(whole, tmp_path):
    """As `interpolate_embeddings`, which torchvision's own training scripts use."""
    module = whole("vit_b_32")[0]
    torch.save(module.state_dict(), tmp_path / "w.pth")
    own = torchvision.models.vit_b_32(weights=None, image_size=96).eval()
    own.load_state_dict(torchvision.models.vision_transformer.interpolate_embeddings(96, 32, module.state_dict()))
    backbone, record, _ = backbones.pretrained("vit_b_32", weights=tmp_path / "w.pth", pool=Pool.CLS_AVG, size=96)
    assert record.layer == "encoder"
    given = inputs(96)
    with torch.no_grad():
        cls_token = own.class_token.expand(2, -1, -1)
        tokens = own.encoder(torch.cat([cls_token, own._process_input(given)], 1))
    expected = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1)
    torch.testing.assert_close(pooled(backbone, Pool.CLS_AVG, given), expected)


def test_rotary_embeddings_are_those_of_the_size(saved):
    """DINOv3 has no other ones; here at a quarter of its depth."""
    settings = {"depth": 3, "dynamic_img_size": False}
    name = "vit_small_patch16_dinov3"
    torch.manual_seed(0)
    own = timm.create_model(name, pretrained=False, img_size=96, **settings).eval()
    grid = token_grid.of_network(own)
    assert (grid.rows, grid.columns, grid.prefix, grid.has_class, grid.positions) == (6, 6, 5, True, None)
    layer = subgraph.find_layer(name, own, None, size=96, tokens=True)
    given = inputs(96)
    with torch.no_grad():
        torch.testing.assert_close(subgraph.cut(own, layer)(given), own.forward_features(given))


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_vit2"])
def test_networks_of_any_size_are_built_for_one(name):
    """Position embeddings that are interpolated in every pass cannot be exported; the random weights are timm's for the seed."""
    torch.manual_seed(3)
    own = timm.create_model(name[5:], pretrained=False).eval()
    assert own.dynamic_img_size
    module, _ = catalogue.seeded(3, functools.partial(catalogue.network, name))
    assert not module.dynamic_img_size
    given = inputs(160)
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(given), own(given))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("timm:test_vit", 100, r"timm:test_vit cuts images into patches of 16x16 pixels, .*tile 100 pixels; give 96 or 112$"),
        ("vit_b_32", 20, r"vit_b_32 cuts images into patches of 32x32 pixels, which do not tile 20 pixels; give 32$"),
    ],
)  # fmt: skip
def test_rejects_sizes_that_patches_do_not_tile(name, size, message):
    """The message has the nearest sizes."""
    with pytest.raises(UsageError, match=message):
        backbones.pretrained(name, weights="none", size=size)


def test_class_token_of_a_convolutional_network():
    """There is none; the message has the output of the layer."""
    maps = torch.zeros(1, 4, 3, 3)
    with pytest.raises(
        UsageError, match=r"--pool cls needs .*, and this layer outputs a map \(4x3x3\); give --pool avg"
    ):
        classifier.Pooling(Pool.CLS)(maps)
    with pytest.raises(UsageError, match=r"outputs a vector \(7\)"):
        classifier.Pooling(Pool.CLS)(torch.zeros(1, 7))


def test_position_embeddings_of_no_square_grid(saved, tmp_path):
    """They are not interpolated, and refused like any other tensor of another shape."""
    state = made("timm:test_vit").state_dict()
    torch.save(state | {"pos_embed": torch.zeros(1, 91, 64)}, tmp_path / "w.pth")
    with pytest.raises(FormatError, match=r"pos_embed has shape \(1, 91, 64\), the network needs \(1, 101, 64\)"):
        backbones.pretrained("timm:test_vit", weights=tmp_path / "w.pth")


def test_a_record_without_size_is_of_the_networks_own(saved):
    """Backbones of earlier files are built as before."""
    file = saved("timm:test_vit")
    backbone, record, preprocess = backbones.pretrained("timm:test_vit", weights=file)
    again = backbones.restore(Backbone(record.name, record.layer, record.pool), file, size=preprocess.size)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in backbone.state_dict().items())


def test_networks_without_tokens():
    """Convolutional networks, and transformers that keep a map."""
    for name in ("timm:test_resnet", "timm:test_convnext", "timm:test_mambaout"):
        assert token_grid.of_network(made(name)) is None
    assert token_grid.of_network(nn.Linear(2, 2)) is None
    assert token_grid.of_cut(nn.Linear(2, 2)) is None
