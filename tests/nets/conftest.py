"""What the tests of networks share."""

import functools

import pytest
import torch

from cnnkit.nets import catalogue, layer_graph


@pytest.fixture(scope="session")
def whole():
    """A whole network with seeded random weights, in eval mode, and how images are prepared for it: `whole("resnet18")`.

    All tests of a process share it: who trains, freezes or overwrites takes a copy. The last few are kept, as the large ones
    weigh half a gigabyte.
    """

    @functools.lru_cache(maxsize=6)
    def build(name, seed=0):
        module, preprocess = catalogue.seeded(seed, functools.partial(catalogue.network, name))
        return module.eval(), preprocess

    return build


@pytest.fixture(scope="session")
def published():
    """A whole network as one graph, with seeded random weights: `published("resnet18")`; shared likewise."""

    @functools.lru_cache(maxsize=6)
    def build(name):
        return layer_graph.of_name(name, weights="none")[0]

    return build


@pytest.fixture(scope="session")
def outline():
    """A whole network without values: shapes and names cost nothing there, however large it is.

    Works under `torch.device("meta")`.
    """

    @functools.cache
    def build(name):
        module, preprocess = catalogue.for_dims(name)
        assert all(value.is_meta for value in module.parameters())
        return module.eval(), preprocess

    return build


@pytest.fixture
def hooked():
    """What a module of a whole network outputs, seen by a hook: `hooked(module, layer, given)`."""

    def output(module, layer, given):
        seen = []
        handle = module.get_submodule(layer).register_forward_hook(
            lambda _module, _given, made: seen.append(made.clone())
        )
        with torch.no_grad():
            module(given)
        handle.remove()
        return seen[-1]

    return output
