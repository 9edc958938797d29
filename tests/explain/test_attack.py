"""Adversarial images against steps by hand in torch; the network is left unchanged."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from cnnkit.choices import Pool
from cnnkit.explain.attack import Attacker
from cnnkit.explain.config import AttackOptions
from cnnkit.nets import backbones, layer_graph
from cnnkit.nets.classifier import Classifier, build_head


def make(head="dense 3 softmax", *, grey=False):
    """A network by notation with random weights: its graph, and the network itself."""
    backbone, _, preprocess = backbones.by_notation(
        "conv 5 k3 bn relu, dropout 0.5, conv 4 k3 relu, pool 2", size=20, seed=2, grey=grey
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        whole = Classifier(backbone, build_head(head, (4,)), preprocess=preprocess, pool=Pool.AVG)
    return layer_graph.of_classifier(whole, name="m.pt"), whole.eval()


def pixels(count=4):
    generator = np.random.default_rng(3)
    return generator.integers(0, 256, (count, 20, 20, 3), dtype=np.uint8)


def step(whole, images, classes, *, sign=1):
    """The sign of the gradient of the loss, with respect to pixels from 0 to 255, by hand."""
    given = images.clone().requires_grad_(True)
    logits = whole(given)
    if logits.shape[1] == 1:  # a single sigmoid
        loss = functional.binary_cross_entropy_with_logits(logits[:, 0], classes.float(), reduction="sum")
    else:
        loss = functional.cross_entropy(logits, classes, reduction="sum")
    (gradient,) = torch.autograd.grad(sign * loss, given)
    return gradient.sign()


@pytest.mark.parametrize(("head", "grey"), [("dense 3 softmax", False), ("dense 1 sigmoid", False), ("dense 3", True)])
@pytest.mark.parametrize("target", [None, "a"])
def test_fgsm_is_the_sign_of_the_gradient(head, grey, target):
    """Times epsilon, within 0 to 255; a target has the negative gradient. Normalization is part of the network."""
    found, whole = make(head, grey=grey)
    images, classes = pixels(), np.array([0, 1, 1, 0])
    made = Attacker(found, AttackOptions(epsilon=3, target=target)).attack(images, classes)
    given = torch.tensor(images, dtype=torch.float32)
    direction = step(whole, given, torch.tensor(classes), sign=1 if target is None else -1)
    np.testing.assert_array_equal(made, (given + 3 * direction).clamp(0, 255).numpy())
    assert (made != images).mean() > 0.5


@pytest.mark.parametrize(("size", "epsilon"), [(None, 4), (1.5, 4), (9.0, 2)])
def test_steps_are_projected(size, epsilon):
    """After every step, each value is within epsilon of the image and within 0 to 255."""
    found, whole = make()
    images, classes = pixels(), np.array([2, 1, 1, 0])
    options = AttackOptions(epsilon=epsilon, steps=5, step_size=size, random_start=False)
    made = Attacker(found, options).attack(images, classes)
    given = torch.tensor(images, dtype=torch.float32)
    moved = given.clone()
    for _ in range(5):
        moved = moved + (size or 2.5 * epsilon / 5) * step(whole, moved, torch.tensor(classes))
        moved = (given + (moved - given).clamp(-epsilon, epsilon)).clamp(0, 255)
    assert (made == moved.round().numpy()).mean() > 0.999
    assert np.abs(made.astype(int) - images).max() == epsilon


def test_random_start_depends_on_the_seed_and_the_image_only():
    """Not on other images, nor on the global generator."""
    found, _ = make()
    images, classes = pixels(), np.array([2, 1, 1, 0])

    def attacked(some, seed):
        torch.manual_seed(len(some))
        options = AttackOptions(epsilon=8, steps=2, step_size=0.5, seed=seed)
        return Attacker(found, options).attack(images[some], classes[some])

    with torch.random.fork_rng():
        whole = attacked([0, 1, 2, 3], 0)
        np.testing.assert_array_equal(attacked([3, 1], 0), whole[[3, 1]])
        assert (attacked([0, 1, 2, 3], 1) != whole).mean() > 0.5
    change = np.abs(whole.astype(int) - images)
    assert change.max() == 8
    assert 2 < change.mean() < 6  # the start is uniform, and two steps move it by 1 at most


def test_more_steps_raise_the_loss():
    """PGD is stronger than FGSM, which is stronger than no attack."""
    found, whole = make()
    images = pixels(16)
    classes = Attacker(found, AttackOptions()).probabilities(images).argmax(1)
    made = [images]
    made += [Attacker(found, AttackOptions(epsilon=8, steps=steps)).attack(images, classes) for steps in (1, 30)]
    with torch.no_grad():
        losses = [float(functional.cross_entropy(whole(torch.tensor(each)), torch.tensor(classes))) for each in made]
    assert losses[0] < losses[1] <= losses[2]


def test_network_is_left_unchanged():
    """Modes, gradients and the global generator."""
    found, whole = make()
    whole.base.bn1.train()
    whole.base.conv1.requires_grad_(False)
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    state = torch.get_rng_state()
    Attacker(found, AttackOptions(steps=3)).attack(pixels(), np.array([0, 0, 1, 2]))
    assert whole.base.bn1.training
    assert not whole.base.conv2.training
    assert not whole.base.conv1.weight.requires_grad
    assert all(parameter.grad is None for parameter in whole.parameters())
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_counts_steps():
    found, _ = make()
    counted = []
    Attacker(found, AttackOptions(steps=3)).attack(pixels(), np.array([0, 0, 1, 2]), tick=counted.append)
    assert counted == [1, 2, 3]
