"""Losses of a style transfer against the formulas of Gatys et al. by hand; gradients against finite differences; optimizers."""

import numpy as np
import pytest
import torch

from cnnkit.choices import Pool, StyleOptimizer
from cnnkit.errors import UsageError
from cnnkit.explain import style
from cnnkit.explain.config import StyleOptions
from cnnkit.explain.style import StyleLoss
from cnnkit.nets import backbones, layer_graph
from cnnkit.nets.classifier import Classifier, build_head

OPTIONS = StyleOptions(content_layer="conv2", style_layers=["conv1", "conv2"], style_weight=7.0, tv_weight=3.0)


@pytest.fixture
def network():
    """A network with random weights: its graph, and the network itself."""
    backbone, _, preprocess = backbones.by_notation("conv 5 k3 relu, pool 2, conv 4 k3 relu, pool 2", size=24, seed=2)
    whole = Classifier(backbone, build_head("dense 2 softmax", (4,)), preprocess=preprocess, pool=Pool.AVG).eval()
    return layer_graph.of_classifier(whole, name="m.pt"), whole


def random_image(seed, size=(30, 26)):
    generator = np.random.default_rng(seed)
    ramp = np.linspace(0, 120, size[1])[None, :, None] + np.linspace(0, 60, size[0])[:, None, None]
    return (ramp + generator.uniform(0, 70, (*size, 3))).astype(np.uint8)


def activations(whole, image):
    """The outputs of the two convolutions with their ReLU, (C, h, w) each."""
    base = whole.base
    first = base.conv1_relu(base.conv1(whole.normalise(image)))
    return first[0], base.conv2_relu(base.conv2(base.pool1(first)))[0]


def by_hand(whole, image, content, pattern):
    """Content, style and total variation of an image, in loops."""
    wanted, found, of_style = (activations(whole, torch.tensor(each)[None]) for each in (content, image, pattern))
    parts = [float(((found[1] - wanted[1]) ** 2).sum() / (wanted[1] ** 2).sum())]
    shares = []
    for one, other in zip(found, of_style, strict=True):
        grams = []
        for maps in (one, other):
            channels, places = maps.shape[0], maps.shape[1] * maps.shape[2]
            gram = torch.zeros(channels, channels)
            for i in range(channels):
                for j in range(channels):
                    gram[i, j] = (maps[i] * maps[j]).sum() / places
            grams.append(gram)
        shares.append(float(((grams[0] - grams[1]) ** 2).sum() / (grams[1] ** 2).sum()))
    parts.append(sum(shares) / len(shares))
    values = image.astype(float) / 255
    squares = [*((values[1:] - values[:-1]) ** 2).flatten(), *((values[:, 1:] - values[:, :-1]) ** 2).flatten()]
    return [*parts, float(np.mean(squares))]


def test_losses_are_those_of_gatys(network):
    """Relative to what they are compared with. The style image may have another size."""
    found, whole = network
    content, pattern, image = random_image(1), random_image(2, (25, 41)), random_image(3)
    loss = StyleLoss(found, content, pattern, options=OPTIONS)
    with torch.no_grad():
        wanted = by_hand(whole, image, content, pattern)
    total, *parts = loss.losses(loss.tensor(image))
    assert parts == pytest.approx(wanted, rel=1e-4)
    assert total == pytest.approx(wanted[0] + 7 * wanted[1] + 3 * wanted[2], rel=1e-4)
    assert loss.losses(loss.tensor(content))[1] == 0
    same = StyleLoss(found, content, content, options=OPTIONS)
    with torch.no_grad():
        variation = by_hand(whole, content, content, content)[2]
    assert same.losses(same.tensor(content))[:3] == pytest.approx([3 * variation, 0, 0], abs=1e-6)


def test_gradient_is_that_of_finite_differences(network):
    found, whole = network
    whole.double()
    found.normalise.double()
    loss = StyleLoss(found, random_image(1), random_image(2), options=OPTIONS)
    loss._wanted_grams = [each.double() for each in loss._wanted_grams]
    image = loss.tensor(random_image(3)).double()
    gradient, losses = loss.gradient(image)
    assert losses == loss.losses(image)
    generator = np.random.default_rng(0)
    for _ in range(20):
        place = (0, *(int(generator.integers(side)) for side in (30, 26, 3)))
        moved = [image.clone(), image.clone()]
        moved[0][place] -= 1e-3
        moved[1][place] += 1e-3
        low, high = (float(loss.total(loss.parts(each)).detach()) for each in moved)
        assert (high - low) / 2e-3 == pytest.approx(float(gradient[place]), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("optimizer", StyleOptimizer)
def test_optimizers_reduce_the_loss(network, optimizer):
    """The records are those of the start, of some steps, and of the image returned; progress counts all steps."""
    found, _ = network
    options = StyleOptions(style_layers=["conv1"], style_weight=1.0, tv_weight=0.0, steps=25, optimizer=optimizer)
    loss = StyleLoss(found, random_image(1), 255 - random_image(2), options=options)
    counted = []
    made, records = style.optimize(
        loss, loss.tensor(random_image(1)), progress=lambda done, total: counted.append((done, total))
    )
    assert counted == [(step, 25) for step in range(26)]
    assert [record.step for record in records] == [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25]
    assert records[-1].style < 0.5 * records[0].style
    assert records[-1].loss < records[0].loss
    assert (records[0].content, made.shape, made.dtype) == (0, (30, 26, 3), np.uint8)
    # Rounding to whole values changes the loss
    assert loss.losses(loss.tensor(made))[0] == pytest.approx(records[-1].loss, rel=0.05, abs=1e-3 * records[0].loss)


def test_adam_is_torchs(network):
    """With values kept within 0 to 255 after every step."""
    found, _ = network
    options = StyleOptions(steps=4, rate=30.0, optimizer=StyleOptimizer.ADAM)
    loss = StyleLoss(found, random_image(1), random_image(2), options=options)
    made, _ = style.optimize(loss, loss.tensor(random_image(1)))
    image = loss.tensor(random_image(1)).requires_grad_(True)
    optimizer = torch.optim.Adam([image], lr=30.0)
    for _ in range(4):
        optimizer.zero_grad()
        loss.total(loss.parts(image)).backward()
        optimizer.step()
        with torch.no_grad():
            image.clamp_(0, 255)
    np.testing.assert_array_equal(made, image.detach()[0].round().to(torch.uint8).numpy())


@pytest.mark.slow
def test_default_layers_of_a_vgg():
    """Those of Gatys et al."""
    vgg, _ = layer_graph.of_name("vgg11", weights="none")
    content, styles = style.chosen_layers(vgg, StyleOptions())
    assert content.name == "block4_conv2"
    assert [layer.name for layer in styles] == [f"block{number}_conv1" for number in range(1, 6)]


def test_default_layers():
    """The last layers at each size of maps."""
    fire, _ = layer_graph.of_name("squeezenet1_1", weights="none")
    content, styles = style.chosen_layers(fire, StyleOptions())
    sizes = [layer.shape[1] for layer in styles]
    assert sizes == sorted(set(sizes), reverse=True)
    assert content.name == styles[2].name
    content, styles = style.chosen_layers(
        fire, StyleOptions(content_layer="features.4", style_layers=["0", "features.7"])
    )
    assert (content.name, [layer.name for layer in styles][1:]) == ("features.4", ["features.7"])


def test_rejects_layers_without_maps_and_small_images(network):
    found, _ = network
    with pytest.raises(UsageError, match=r"dense1 of m\.pt outputs a vector"):
        StyleLoss(found, random_image(1), random_image(2), options=StyleOptions(content_layer="head.dense1"))
    with pytest.raises(UsageError, match=r"images of 3x3 are too small for conv2; give a larger --size"):
        StyleLoss(found, random_image(1, (3, 3)), random_image(2), options=OPTIONS)


def test_network_is_left_unchanged(network):
    found, whole = network
    whole.train()
    state = torch.get_rng_state()
    loss = StyleLoss(found, random_image(1), random_image(2), options=StyleOptions(steps=2))
    style.optimize(loss, loss.tensor(random_image(1)))
    assert all(module.training for module in whole.modules())
    assert all(parameter.grad is None for parameter in whole.parameters())
    assert torch.equal(torch.get_rng_state(), state)
