"""Dimensions of torch networks, compared with torchvision's published tables and with the same networks by notation."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from cnnkit.errors import UsageError
from cnnkit.nets import build, dims, module_dims
from cnnkit.nets.notation import parse


def measure(module, *shape):
    return module_dims.measure_module(module.to("meta"), torch.empty(1, *shape, device="meta"))


@pytest.mark.parametrize(
    "name",
    [
        *("vgg16", "vgg19", "resnet50", "mobilenet_v2", "densenet121", "squeezenet1_0", "shufflenet_v2_x1_0"),
        *("efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t", "regnet_y_400mf"),
    ],
)
def test_totals_are_torchvisions_published_ones(name):
    """Parameters and multiply-accumulates are those of torchvision's table, attention included."""
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    total = dims.total(module_dims.measure_network(name))
    assert total.params == published["num_params"]
    assert total.macs / 1e9 == pytest.approx(published["_ops"], abs=0.001)
    assert total.channels == 1000


def test_vgg16_has_its_known_receptive_fields():
    """The receptive field of VGG16's last pool is 212 pixels, its stride 32; Keras' names are next to torchvision's."""
    rows = {row.layer: row for row in module_dims.measure_network("vgg16")}
    keras = module_dims.keras_names("vgg16")
    pool = rows["features.30"]
    assert (pool.kind, pool.shape, pool.receptive_field, pool.stride) == ("pool", (7, 7, 512), 212, 32)
    assert keras["features.30"] == "block5_pool"
    assert keras["features.1"] == "block1_conv1"
    assert set(keras) <= set(rows)
    assert sum(row.params for row in rows.values()) == 138_357_544


def test_layers_are_named_as_torch_names_them():
    """Every row except that of a whole network has a module's name, which --layer takes."""
    names = dict(torchvision.models.resnet18(weights=None).named_modules())
    rows = module_dims.measure_network("resnet18")
    assert all(row.layer in names for row in rows)
    assert len({row.layer for row in rows}) == len(rows)


@pytest.mark.parametrize(
    "text",
    [
        "conv 16 k2 same relu, pool 2, conv 32 k2 s2 same bn relu, pad 2, conv 8 k3 d2 p1 g2, avgpool 2, gmp, dense 50 relu, dense 5",
        "local 6 k3x2 s2 relu, lrn, residual(conv 8 k3 s2 p1 bn relu, conv 8 k3 same bn) relu, concat(conv 4 k1 | pool 3 s1 p1),"
        "conv 6 k1 bias position, deconv 4 k3, residual(concat(gelu | conv 2 k5 same), conv 4 k1), flatten, residual(dense 3)",
        "conv 4 k3 s2 p1, deconv 4 k4 s2 p1 g2, deconv 3 k3 s2 same, deconv 2 k2 s3 same, concat(gap | gmp, dense 3), dense 2",
    ],
)
def test_a_network_is_measured_as_its_notation_is(text):
    """A network built from a notation has the sizes, counts and receptive fields of the notation's own table."""
    chain = {row.layer: row for row in dims.measure(parse(text), height=41, width=32, channels=3)}
    rows = {row.layer: row for row in measure(build.build(parse(text), channels=3, height=41, width=32), 3, 41, 32)}
    padded = {f"{name}_pad" for name in chain} & set(rows)  # a module of its own pads them
    same = [name for name in chain if f"{name}_pad" not in padded]
    assert {name: rows[name] for name in same} == {name: chain[name] for name in same}
    for name in chain.keys() - set(same):
        assert replace(rows[name], pad=None) == replace(chain[name], pad=None)
        assert rows[f"{name}_pad"].pad == chain[name].pad
    assert dims.total(list(rows.values())).params == dims.total(list(chain.values())).params


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0", "efficientnet_b0"])
def test_kernel_and_pad_are_those_of_torchs_layers(name, outline):
    """Every convolution and pooling has the kernel_size and padding of its module; other layers have neither."""
    module, preprocess = outline(name)
    rows = {row.layer: row for row in measure(module, 3, preprocess.size, preprocess.size)}
    windows = 0
    for path, part in module.named_modules():
        if path not in rows:
            continue
        if not isinstance(part, nn.Conv2d | nn.MaxPool2d):
            assert (rows[path].kernel, rows[path].pad) == (None, None)
            continue
        sides = [side if isinstance(side, tuple) else (side, side) for side in (part.kernel_size, part.padding)]
        assert (rows[path].kernel, rows[path].pad) == tuple(map(dims.shown, sides)), path
        windows += 1
    assert windows > 15


@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")
def test_padding_inside_a_convolution_is_its_padding():
    """torch pads `same` with an even kernel before the convolution; a transposed convolution pads nothing."""
    module = nn.Sequential(nn.Conv2d(3, 4, (2, 5), padding="same"), nn.ConvTranspose2d(4, 5, 4, 2, padding=(1, 0)))
    first, second = measure(module, 3, 8, 9)
    assert (first.kernel, first.pad) == ("2x5", "0+1x2")
    assert (second.kernel, second.pad) == (4, None)


class Branching(nn.Module):
    """Two branches with different receptive fields, one convolution used twice, one never."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 4, 7, padding=3)
        self.narrow = nn.Conv2d(3, 4, 1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.unused = nn.Conv2d(8, 8, 3)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, images):
        both = torch.cat([self.wide(images), self.narrow(images)], 1)
        return self.shared(self.shared(both)) * self.scale


def test_branches_shared_and_unused_weights():
    """Where branches meet the larger field holds; a weight used twice counts once, its operations twice; an unused one does not count."""
    module = Branching()
    rows = {row.layer: row for row in measure(module, 3, 12, 12)}
    assert (rows["wide"].receptive_field, rows["narrow"].receptive_field) == (7, 1)
    assert rows["shared"].receptive_field == 11
    assert rows["shared"].params == 8 * 8 * 9 + 8
    assert rows["shared"].macs == 2 * 12 * 12 * 8 * 8 * 9
    assert rows["Branching"].params == 8
    assert "unused" not in rows
    used = sum(value.numel() for name, value in module.named_parameters() if not name.startswith("unused"))
    assert dims.total(list(rows.values())).params == used


def test_unused_parameters_are_reported(caplog):
    """A notice has the number of parameters that the pass does not use, and the name of the first tensor."""
    with caplog.at_level("INFO", logger="cnnkit"):
        measure(Branching(), 3, 12, 12)
    assert "584 parameters are not used" in caplog.text
    assert "unused.weight" in caplog.text


class Failing(nn.Module):
    """A network that raises an exception in the middle of a pass."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        return self.drop(self.conv(images)).nonsense


@pytest.mark.parametrize(("module", "fails"), [(Failing(), True), (Branching(), False)])
def test_network_state_is_restored(module, fails):
    """Hooks, modes, gradients and settings are as before, also after an exception."""
    module.train()
    module.eval() if not fails else module.drop.eval()
    modes = [part.training for part in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    if fails:
        with pytest.raises(AttributeError):
            module_dims.measure_module(module, torch.zeros(1, 3, 8, 8))
    else:
        module_dims.measure_module(module, torch.zeros(1, 3, 8, 8))
    assert [part.training for part in module.modules()] == modes
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert all(value.grad is None for value in module.parameters())
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.is_grad_enabled()


def test_ceil_mode_drops_nothing():
    """Rounding up reads the pixels that rounding down would drop."""
    (down,) = measure(nn.MaxPool2d(2), 1, 5, 5)
    (up,) = measure(nn.MaxPool2d(2, ceil_mode=True), 1, 5, 5)
    assert (down.shape, down.dropped) == ((2, 2, 1), 9)
    assert (up.shape, up.dropped) == ((3, 3, 1), 0)


def test_tokens_have_a_length_and_no_receptive_field():
    """A transformer's tokens have length and channels; their receptive field is unknown."""
    rows = {row.layer: row for row in module_dims.measure_network("vit_b_16")}
    assert (rows["conv_proj"].receptive_field, rows["conv_proj"].stride) == (16, 16)
    tokens = rows["encoder.ln"]
    assert (tokens.shape, tokens.width, tokens.receptive_field) == ((197, 768), None, None)


def test_channels_last_are_read_as_channels():
    """A ConvNeXt block uses channels last, and its rows still have the right height and width."""
    rows = {row.layer: row for row in module_dims.measure_network("convnext_tiny")}
    assert rows["features.1.0.block.3"].shape == (56, 56, 384)
    assert rows["features.1.0.block.3"].receptive_field == rows["features.1.0.block.0"].receptive_field == 28


@pytest.mark.parametrize("size", [(8, 8, 3), (224, 224, 1), (1280,)])
def test_rejects_sizes_that_do_not_fit(size):
    """Images too small for a network, or with other channels, are an error that names both."""
    with pytest.raises(UsageError, match="vgg16"):
        module_dims.measure_network("vgg16", size=size)
