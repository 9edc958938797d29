"""Fixtures of the tests of networks."""

import functools

import onnx
import pytest
import torch

from cnnkit.nets import catalogue, dims, graph_dims, layer_graph


@pytest.fixture(scope="session")
def whole():
    """A whole network with seeded random weights, in eval mode, and its preprocessing: `whole("resnet18")`.

    All tests of a process share it: a test that trains, freezes or overwrites takes a copy. Only the last few are kept, since
    the large ones have half a gigabyte.
    """

    @functools.lru_cache(maxsize=6)
    def build(name, seed=0):
        module, preprocess = catalogue.seeded(seed, functools.partial(catalogue.network, name))
        return module.eval(), preprocess

    return build


@pytest.fixture(scope="session")
def published():
    """A whole network as one graph, with seeded random weights: `published("resnet18")`; shared by all tests of a process."""

    @functools.lru_cache(maxsize=6)
    def build(name):
        return layer_graph.of_name(name, weights="none")[0]

    return build


@pytest.fixture(scope="session")
def outline():
    """A whole network on torch's meta device, where shapes and names take no memory or time.

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
    """The output of a module of a whole network, recorded by a hook: `hooked(module, layer, given)`."""

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


@pytest.fixture
def measured(tmp_path):
    """Save a model, and return its rows by layer, its parameters and its multiply-accumulates."""

    def measure(made, *, name="model.onnx", **options):
        path = tmp_path / name
        onnx.save(made, path)
        rows = graph_dims.measure_graph(str(path), **options)
        whole = dims.total(rows)
        return whole.params, whole.macs, rows

    return measure
