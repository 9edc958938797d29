"""Gradient ascent leaves the network unchanged, and follows the gradient."""

import numpy as np
import pytest
import torch
from torch import nn

from cnnkit.choices import Pool
from cnnkit.errors import UsageError
from cnnkit.explain import activation_max
from cnnkit.explain.activation_max import ActivationMaximizer
from cnnkit.explain.config import AscentOptions, DreamOptions
from cnnkit.nets import backbones, layer_graph
from cnnkit.nets.classifier import Classifier, build_head

SMALL = AscentOptions(steps=3)


@pytest.fixture
def network():
    """A network partly in training mode, with frozen weights, a gradient and a hook."""
    backbone, _, preprocess = backbones.by_notation(
        "conv 5 k3 bn relu, dropout 0.5, conv 4 k3 relu, pool 2", size=20, seed=2
    )
    whole = Classifier(backbone, build_head("dense 2 softmax", (4,)), preprocess=preprocess, pool=Pool.AVG)
    found = layer_graph.of_classifier(whole, name="m.pt")
    whole.eval()
    backbone.bn1.train()
    for module in (backbone.conv1, whole.head[0]):
        module.requires_grad_(False)
    backbone.conv2.weight.grad = torch.full_like(backbone.conv2.weight, 7)
    backbone.conv1.register_forward_hook(lambda *_: None)
    return found, whole


def condition(whole):
    """Everything that a search may touch: modes, hooks, gradients, and values, running statistics included."""
    modules = dict(whole.named_modules())
    parameters = dict(whole.named_parameters())
    return (
        {name: each.training for name, each in modules.items()},
        {name: (len(each._forward_hooks), len(each._backward_hooks)) for name, each in modules.items()},
        {
            name: (each.requires_grad, None if each.grad is None else each.grad.tolist())
            for name, each in parameters.items()
        },
        {name: value.tolist() for name, value in whole.state_dict().items()},
        (torch.is_grad_enabled(), torch.backends.cudnn.allow_tf32, torch.get_rng_state().tolist()),
    )


def search(maximizer, **others):
    return list(maximizer.search(range(maximizer.count), size=(20, 20), ascent=SMALL, **others))


def dream(maximizer, **others):
    return maximizer.dream(np.full((24, 20, 3), 90, np.uint8), options=DreamOptions(steps=3, octaves=2), **others)


@pytest.mark.parametrize("layer", ["conv2", "pool1", "head.dense1"])
@pytest.mark.parametrize("grad", [True, False])
def test_network_is_left_unchanged(network, layer, grad):
    """Modes, hooks, gradients, statistics and the global RNG do not change, with gradients enabled or not."""
    found, whole = network
    with torch.set_grad_enabled(grad):
        before = condition(whole)
        maximizer = ActivationMaximizer(found, found.find(layer))
        assert len(search(maximizer)) == maximizer.count
        if layer != "head.dense1":
            dream(maximizer)
        assert condition(whole) == before


@pytest.mark.parametrize("work", [search, dream])
@pytest.mark.parametrize("where", ["inside", "outside"])
def test_network_is_left_unchanged_after_an_exception(network, work, where):
    """After an error inside of the network, or in the progress callback."""
    found, whole = network
    maximizer = ActivationMaximizer(found, found.find("conv2"))

    def fail(*_):
        raise KeyboardInterrupt

    handle = whole.base.conv2.register_forward_hook(fail) if where == "inside" else None
    before = condition(whole)
    with pytest.raises(KeyboardInterrupt):
        work(maximizer, **({} if where == "inside" else {"progress": fail}))
    assert condition(whole) == before
    if handle is not None:
        handle.remove()


def test_network_is_unchanged_between_patterns_and_after_a_stopped_search(network):
    """The generator may be paused or closed."""
    found, whole = network
    before = condition(whole)
    patterns = ActivationMaximizer(found, found.find("conv2")).search(range(4), size=(20, 20), ascent=SMALL, batch=2)
    next(patterns)
    assert condition(whole) == before
    patterns.close()
    assert condition(whole) == before


def test_a_step_is_the_normalised_gradient(network):
    """Without jitter and blur, a step adds the gradient of the filter's mean input of the activation, divided by its root mean square."""
    found, whole = network
    maximizer = ActivationMaximizer(found, found.find("conv2"))
    still, moved = (
        next(maximizer.search([3], size=(20, 20), ascent=AscentOptions(steps=1, rate=rate, jitter=0, blur=0.0)))
        for rate in (0.0, 8.0)
    )
    # The search starts from this noise before it is rounded, so the gradient is nearly the same
    given = torch.tensor(still.image[None], dtype=torch.float32, requires_grad=True)
    whole.eval()
    before = nn.Sequential(*(whole.base.get_submodule(name) for name in ("conv1", "bn1", "bn1_relu", "conv2")))
    output = before(whole.normalise(given))
    (gradient,) = torch.autograd.grad(output[:, 3].mean(), given)
    wanted = 8 * gradient[0] / gradient.square().mean().sqrt()
    change = torch.tensor(moved.image.astype(float) - still.image)
    assert np.corrcoef(change.flatten(), wanted.flatten())[0, 1] > 0.98


def test_progress_counts_the_steps_of_all_batches_and_octaves(network):
    """Progress is reported after every step."""
    found, _ = network
    maximizer, reported = ActivationMaximizer(found, found.find("conv2")), []
    search(maximizer, batch=3, progress=lambda done, total: reported.append((done, total)))
    steps = len(reported) - 1
    assert steps % 2 == 0  # four filters, two batches
    assert reported == [(done, steps) for done in range(steps + 1)]
    reported.clear()
    dream(maximizer, progress=lambda done, total: reported.append((done, total)))
    assert reported == [(done, len(reported)) for done in range(1, len(reported) + 1)]
    assert len(reported) % 2 == 0  # two octaves


def test_objective_is_the_input_of_the_activation(network):
    """Also for a layer whose output concatenates several convolutions."""
    found, _ = network
    conv = found.find("conv2")
    assert [node.meta["path"] for node in found.before_activation(conv)] == ["conv2"]
    assert [node.meta["path"] for node in found.before_activation(found.find("bn1"))] == ["bn1"]
    fire, _ = layer_graph.of_name("squeezenet1_1", weights="none")
    before = fire.before_activation(fire.find("features.3"))
    assert [node.meta["path"] for node in before] == ["features.3.expand1x1", "features.3.expand3x3"]
    maximizer = ActivationMaximizer(fire, fire.find("features.3"))
    left, right = maximizer.search([3, 100], size=(32, 32), ascent=AscentOptions(steps=6))  # one of each half
    assert left.activation > left.start
    assert right.activation > right.start


def test_rejects_networks_without_a_first_convolution():
    """Only kernels over 1 or 3 channels can be drawn."""
    backbone, _, preprocess = backbones.by_notation("pool 2, conv 4 k3 relu, conv 5 k3", size=20)
    whole = Classifier(backbone, build_head("dense 2 softmax", (5,)), preprocess=preprocess, pool=Pool.AVG)
    found = layer_graph.of_classifier(whole, name="m.pt")
    name, weights = activation_max.first_kernels(found)
    assert (name, tuple(weights.shape)) == ("conv1", (4, 3, 3, 3))
    backbone, _, preprocess = backbones.by_notation("pool 2", size=20)
    whole = Classifier(backbone, build_head("dense 2 softmax", (3,)), preprocess=preprocess, pool=Pool.AVG)
    with pytest.raises(UsageError, match=r"m\.pt does not begin with a convolution"):
        activation_max.first_kernels(layer_graph.of_classifier(whole, name="m.pt"))


def test_a_vision_transformer_takes_its_own_size():
    """Its tokens have positions in the image; the message has the size."""
    pytest.importorskip("timm")
    network, _ = layer_graph.of_name("timm:test_vit", weights="none")
    maximizer = ActivationMaximizer(network, network.last_spatial())
    with pytest.raises(UsageError, match=r"timm:test_vit takes images of 160x160 pixels only, .*; give --size 160"):
        next(maximizer.search([3], size=(96, 96), ascent=SMALL))
