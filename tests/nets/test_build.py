"""Networks by notation, compared with the same networks in torch and with loops over windows."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cnnkit.choices import Initializer
from cnnkit.errors import UsageError
from cnnkit.nets import build, dims
from cnnkit.nets.notation import Activation, parse


def built(text, channels=3, height=9, width=11):
    return build.build(parse(text), channels=channels, height=height, width=width).eval()


def maps(channels=3, height=9, width=11, *, batch=2, seed=0):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def same_weights(network, reference):
    """Copy the weights of the network to the reference, in order."""
    values = [value for key, value in network.state_dict().items() if "num_batches" not in key]
    wanted = [key for key in reference.state_dict() if "num_batches" not in key]
    reference.load_state_dict(dict(zip(wanted, values, strict=True)), strict=False)
    return reference.eval()


# ---------------------------------------------------------------- each layer by hand


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("conv 4 k3", lambda: nn.Conv2d(3, 4, 3)),
        ("conv 4 k3 s2 p1", lambda: nn.Conv2d(3, 4, 3, 2, 1)),
        ("conv 4 k3 same", lambda: nn.Conv2d(3, 4, 3, padding=1)),
        ("conv 4 k3 d2 same", lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2)),
        ("conv 4 k2x5 s1x3", lambda: nn.Conv2d(3, 4, (2, 5), (1, 3))),
        ("conv 6 k3 g3 nobias", lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False)),
        ("conv 4 k3 d2x1", lambda: nn.Conv2d(3, 4, 3, dilation=(2, 1))),
        ("conv 4 k3 relu", lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())),
        ("conv 4 k3 bn relu", lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())),
        ("pool 2", lambda: nn.MaxPool2d(2)),
        ("pool 3 s2 p1", lambda: nn.MaxPool2d(3, 2, 1)),
        ("pool 3 s1 same", lambda: nn.MaxPool2d(3, 1, 1)),
        ("pool 2x3", lambda: nn.MaxPool2d((2, 3))),
        ("avgpool 2", lambda: nn.AvgPool2d(2)),
        ("avgpool 3 s2 p1", lambda: nn.AvgPool2d(3, 2, 1)),
        ("avgpool 3 s1 same", lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        ("gap", lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())),
        ("gmp", lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())),
        ("pad 2", lambda: nn.ZeroPad2d(2)),
        ("flatten", lambda: nn.Flatten()),
        ("flatten, dense 5", lambda: nn.Sequential(nn.Flatten(), nn.Linear(297, 5))),
        ("gap, dense 5 nobias", lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5, False))),
        ("gap, bn", lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3))),
        ("bn", lambda: nn.BatchNorm2d(3)),
        ("dropout 0.5", lambda: nn.Identity()),
        ("softmax", lambda: nn.Softmax(1)),
        ("deconv 4 k3 s2 p1", lambda: nn.ConvTranspose2d(3, 4, 3, 2, 1)),
        ("deconv 4 k4x2 s2 same", lambda: nn.ConvTranspose2d(3, 4, (4, 2), 2, (1, 0))),
        ("deconv 4 k1 s2 same nobias", lambda: nn.ConvTranspose2d(3, 4, 1, 2, output_padding=1, bias=False)),
        ("deconv 6 k3 d2 g3 relu", lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 3, groups=3, dilation=2), nn.ReLU())),
        ("lrn", lambda: nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)),
        ("relu, dropout 0.2, tanh", lambda: nn.Sequential(nn.ReLU(), nn.Tanh())),
    ],
)
def test_every_layer_is_torchs_own(text, reference):
    """A layer of the notation computes the same as torch's layer with the same weights."""
    network = built(text)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):  # at 0 and 1 it would do nothing
            nn.init.uniform_(module.running_var, 0.5, 2, generator=torch.Generator().manual_seed(1))
            nn.init.normal_(module.running_mean, generator=torch.Generator().manual_seed(2))
    expected = same_weights(network, reference())(maps())
    torch.testing.assert_close(network(maps()), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", [each for each in Activation if each is not Activation.softmax])
def test_activations_are_torchs_functions(activation):
    """Every activation equals the function of its name in torch.nn.functional, alone and after a layer."""
    reference = (lambda x: x) if activation == "linear" else getattr(nn.functional, activation)
    assert torch.equal(built(activation)(maps()), reference(maps()))
    network = built(f"conv 4 k3 {activation}")
    assert torch.equal(network(maps()), reference(network[0](maps())))


def test_softmax_runs_over_channels():
    """Probabilities sum to one at every position of a map, and over the units of a vector."""
    assert torch.allclose(built("conv 5 k1 softmax")(maps()).sum(1), torch.ones(2, 9, 11))
    assert torch.allclose(built("gap, dense 5 softmax")(maps()).sum(1), torch.ones(2))


def test_dropout_only_in_training():
    """Dropout sets about its share to zero and scales the rest in training, and does nothing in eval mode."""
    network = build.build(parse("dropout 0.25"), channels=3, height=50, width=50)
    ones = torch.ones(4, 3, 50, 50)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = network.train()(ones)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.allclose(dropped.unique(), torch.tensor([0, 1 / 0.75]))
    assert torch.equal(network.eval()(ones), ones)


# ---------------------------------------------------------------- padding `same`, compared with loops


def windows_of(size, kernel, stride, dilation):
    """Compute the positions that every window of a `same` layer reads, by the formula of TensorFlow's guide; None is padding."""
    out = math.ceil(size / stride)
    pad = max((out - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    before = pad // 2
    for index in range(out):
        places = [index * stride - before + dilation * tap for tap in range(kernel)]
        yield [place if 0 <= place < size else None for place in places]


def looped(image, kernel, stride, dilation, reduce):
    """Slide windows over one channel with plain loops."""
    height, width = image.shape
    rows = windows_of(height, kernel[0], stride[0], dilation[0])
    return np.array(
        [
            [
                reduce([[None if None in (y, x) else image[y, x] for x in columns] for y in row])
                for columns in windows_of(width, kernel[1], stride[1], dilation[1])
            ]
            for row in rows
        ]
    )


sides = st.tuples(st.integers(1, 4), st.integers(1, 4))
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(deadline=None, max_examples=60)
@given(sizes, sides, sides, st.tuples(st.integers(1, 3), st.integers(1, 3)), st.integers(0, 1000))
def test_same_convolution_against_loops(size, kernel, stride, dilation, seed):
    """`same` gives ceil(size / stride) outputs, with the odd pixel of padding below and to the right, for any window."""
    text = "conv 1 k{}x{} s{}x{} d{}x{} same nobias".format(*kernel, *stride, *dilation)
    network = built(text, 1, *size)
    image = maps(1, *size, batch=1, seed=seed)
    taps = next(network.parameters()).detach().double().numpy()[0, 0]

    def weighted(window):
        return sum(
            taps[y, x] * value for y, row in enumerate(window) for x, value in enumerate(row) if value is not None
        )

    expected = looped(image[0, 0].double().numpy(), kernel, stride, dilation, weighted)
    np.testing.assert_allclose(network(image)[0, 0].detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(sizes, sides, sides, st.sampled_from(["pool", "avgpool"]), st.integers(0, 1000))
def test_same_pools_against_loops(size, kernel, stride, word, seed):
    """`same` pools ignore padding: a padded zero never affects a maximum or a mean."""
    network = built("{} {}x{} s{}x{} same".format(word, *kernel, *stride), 1, *size)
    image = maps(1, *size, batch=1, seed=seed) - 10.0  # all negative: a padded zero would win

    def reduce(window):
        seen = [value for row in window for value in row if value is not None]
        return max(seen) if word == "pool" else sum(seen) / len(seen)

    expected = looped(image[0, 0].double().numpy(), kernel, stride, (1, 1), reduce)
    np.testing.assert_allclose(network(image)[0, 0].numpy(), expected, rtol=1e-5)


def test_same_pads_below_and_to_the_right():
    """By hand, as in Keras: an even window on an even image extends one pixel beyond the far border only."""
    network = built("conv 1 k2 same nobias", 1, 2, 2)
    with torch.no_grad():
        network[-1].weight.copy_(torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]]))
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert network(image).tolist() == [[[[4321.0, 402.0], [43.0, 4.0]]]]


def test_same_follows_the_size_of_the_input():
    """A network built for one size pads images of another size as that size requires."""
    network = built("conv 1 k3 s2 same", 1, 8, 8)
    other = built("conv 1 k3 s2 same", 1, 7, 5)
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(maps(1, 7, 5)), other(maps(1, 7, 5)))


# ---------------------------------------------------------------- cnn-dims and the built network

convolutions = st.builds(
    lambda filters, kernel, stride, padding, dilation, grouped, tail: (
        f"conv {2 * filters} k{kernel} s{stride} {padding} d{dilation}{' g2' if grouped else ''} {tail}"
    ),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 2),
    st.sampled_from(["same", "valid", "p0", "p1"]),
    st.integers(1, 2),
    st.booleans(),
    st.sampled_from(["", "nobias", "relu", "bn relu", "bn", "nobias bn silu"]),
)
pools = st.builds(
    lambda word, kernel, stride, padding: f"{word} {kernel} s{stride} {padding}",
    st.sampled_from(["pool", "avgpool"]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["same", "valid", "p0"]),
)
others = st.sampled_from(
    [
        *(
            "pad 1",
            "bn",
            "dropout 0.3",
            "relu",
            "relu6",
            "gelu bn",
            "lrn 3",
            "deconv 2 k3 p1",
            "deconv 4 k2 same bn relu",
        ),
        *(
            "local 3 k2 s2 relu",
            "conv 2 k3 same bias position",
            "residual(conv 4 k3 s2 p1 bn relu, conv 4 k3 p1 bn) relu",
        ),
        *(
            "residual(conv 2 k3 same)",
            "concat(conv 2 k1 | pool 3 s1 same | linear) bn",
            "residual(concat(relu | conv 2 k3 p1) | conv 4 k1)",
        ),
    ]
)
bodies = st.lists(st.one_of(convolutions, pools, others), min_size=1, max_size=6)
heads = st.sampled_from(["", "gap", "gmp", "flatten", "flatten, dense 7 relu, dropout 0.5, dense 3 softmax", "gap, bn"])


@settings(deadline=None, max_examples=60)
@given(bodies, heads, st.integers(5, 20), st.integers(5, 20))
def test_table_agrees_with_the_network(body, head, height, width):
    """For any chain, every row of cnn-dims has the shape, parameters and name of a part of the network."""
    layers = parse(", ".join([*body, *([head] if head else [])]))
    try:
        rows = dims.measure(layers, height=height, width=width, channels=2)
    except UsageError:
        with pytest.raises(UsageError):
            build.build(layers, channels=2, height=height, width=width)
        return
    network = build.build(layers, channels=2, height=height, width=width).eval()
    assert list(network.ends) == [row.layer for row in rows if "." not in row.layer]
    assert sum(row.params for row in rows) == sum(value.numel() for value in network.parameters())
    given = maps(2, height, width)
    for row in rows:
        made = network.upto(row.layer)(given)
        channels, *size = made.shape[1:]
        assert (*size, channels) == row.shape
    modules = dict(network.named_modules())
    for row in rows:
        own = modules[row.layer]
        assert row.params == (0 if isinstance(own, build.Block) else sum(value.numel() for value in own.parameters()))


def test_upto_shares_modules_and_ends_with_the_activation():
    """A part of a chain shares its weights, and a layer's activation belongs to it."""
    network = built("2 * (conv 4 k3 same bn relu), pool 2, gap, dense 3")
    part = network.upto("bn1")
    assert [name for name, _ in part.named_children()] == ["conv1", "bn1", "bn1_relu"]
    assert part.conv1 is network.conv1
    assert list(part.ends) == ["conv1", "bn1"]
    assert bool((part(maps()) >= 0).all())
    assert torch.equal(network.upto("dense1")(maps()), network(maps()))


def test_upto_rejects_unknown_layer():
    """The message lists the known layers."""
    with pytest.raises(UsageError, match=r'no layer "conv9"; this network has conv1, pool1$'):
        built("conv 4 k3, pool 2").upto("conv9")


def test_network_for_vectors():
    """A head for vectors is built without height and width."""
    head = build.build(parse("dense 4 relu, bn, dropout 0.5, dense 2"), channels=6).eval()
    assert head(torch.ones(3, 6)).shape == (3, 2)
    assert isinstance(head.bn1, nn.BatchNorm1d)


@pytest.mark.parametrize("text", ["dense 4", "conv 4 k12", "conv 4 k3 g2", "gap, pool 2"])
def test_rejects_layers_that_do_not_fit(text):
    """cnn-dims refuses the same layers."""
    with pytest.raises(UsageError):
        built(text)


# ---------------------------------------------------------------- initial values


def first_weight(text, initializer, *, seed=0, **size):
    network = built(text, **size)
    build.initialise(network, initializer, generator=torch.Generator().manual_seed(seed))
    return next(network.parameters()).detach()


@pytest.mark.parametrize(
    ("initializer", "deviation", "bound"),
    [
        # conv 64 k5 on 32 channels: 32 * 25 inputs and 64 * 25 outputs to a weight
        (Initializer.GLOROT, math.sqrt(2 / (800 + 1600)), math.sqrt(6 / (800 + 1600))),
        (Initializer.HE, math.sqrt(2 / 800), math.inf),
        (Initializer.NORMAL, 0.05, math.inf),
        (Initializer.UNIFORM, 0.05 / math.sqrt(3), 0.05),
        (Initializer.ZEROS, 0.0, 0.0),
    ],
)
def test_initial_values_have_the_published_spread(initializer, deviation, bound):
    """Weights have mean zero and the standard deviation of the formula, and uniform ones stay inside their bounds."""
    weight = first_weight("conv 64 k5", initializer, channels=32)
    assert weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert abs(weight.mean().item()) <= deviation / 50
    assert weight.abs().max().item() <= bound


def test_orthogonal_weights_keep_lengths():
    """The rows of an orthogonal weight are orthogonal and have length one."""
    rows = first_weight("conv 16 k3", Initializer.ORTHOGONAL).reshape(16, 27)
    assert torch.allclose(rows @ rows.T, torch.eye(16), atol=1e-5)


@pytest.mark.parametrize("initializer", list(Initializer))
def test_initial_values_are_reproducible(initializer):
    """The same seed gives identical weights, another seed others; biases and batch norm have their start values."""
    text = "conv 4 k3 bn relu, gap, dense 5"
    networks = [built(text) for _ in range(3)]
    for network, seed in zip(networks, (7, 7, 8), strict=True):
        build.initialise(network, initializer, generator=torch.Generator().manual_seed(seed))
    first, again, other = (network.state_dict() for network in networks)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert torch.equal(first["dense1.weight"], other["dense1.weight"]) == (initializer is Initializer.ZEROS)
    assert not first["conv1.bias"].any()
    assert not first["dense1.bias"].any()
    assert bool((first["bn1.weight"] == 1).all())


def test_global_rng_is_untouched():
    """Building and initializing do not change torch's global generator."""
    before = torch.get_rng_state()
    network = built("conv 4 k3 relu, pool 2 same, gap, dense 2")
    build.initialise(network, Initializer.HE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pool", ["pool 2", "pool 3 s2", "pool 3 s2 same"])
def test_pooling_before_relu_in_training_changes_nothing(pool, dtype):
    """Outputs and gradients are those of the layers in their order, bit by bit, also where a whole window is negative or not a number."""
    network = (
        built(f"conv 8 k3 relu, {pool}, conv 6 k3 relu, {pool}, gap, dense 3", height=33, width=33).to(dtype).train()
    )
    images = torch.randn(4, 3, 33, 33, dtype=dtype)
    images[3, :, 5, 5] = float("nan")
    results = []
    for layers in (copy.deepcopy(network), nn.Sequential(*copy.deepcopy(network))):
        inputs = images.clone().requires_grad_()
        output = layers(inputs)
        output[:3].sum().backward()
        results.append([output, inputs.grad, *(each.grad for each in layers.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
