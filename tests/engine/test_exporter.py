"""The cache of exported structures: the same bytes with and without it, and a changed structure or weights are seen."""

import functools
import importlib
import linecache
import sys

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from cnnkit.engine import exporter


@pytest.fixture
def exports(tmp_path, monkeypatch):
    """Count the runs of torch's exporter, with an empty cache."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "cache"))
    real, seen = torch.onnx.export, []

    def counted(*words, **options):
        seen.append(words[0])
        return real(*words, **options)

    monkeypatch.setattr(torch.onnx, "export", counted)
    return seen


def network(*, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()


def exported(module):
    return onnx_ir.to_proto(
        exporter.graph(module, torch.rand(2, 3, 6, 6), opset=None, free={0: "batch"})
    ).SerializeToString(deterministic=True)


def test_cached_structure_gives_the_same_bytes(exports, tmp_path):
    """The exporter runs once; other weights are filled in; a damaged cache is rebuilt."""
    cold = exported(network())
    assert exported(network()) == cold
    other = exported(network(seed=1))
    assert other != cold
    assert len(exports) == 1
    (kept,) = (tmp_path / "cache" / "graphs").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:50] + b"x" + whole[51:])
    assert exported(network(seed=1)) == other
    assert len(exports) == 2
    assert kept.read_bytes() == whole


def test_works_without_a_writable_cache(exports, tmp_path, monkeypatch):
    """The structure is exported every time, to the same bytes."""
    cold = exported(network())
    (tmp_path / "file").touch()
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "file" / "below"))
    assert exported(network()) == cold
    assert len(exports) == 2


class Scaled(nn.Module):
    """A layer that computes with attributes of several kinds."""

    def __init__(self, *, function=functional.relu, factor=2.0, shift=1.0, power=1):
        super().__init__()
        self.layer, self.function, self.power = nn.Linear(3, 3), function, power
        self.factor, self.shifts = torch.tensor(factor), {"shift": shift}

    def forward(self, rows):
        return self.function(self.layer(rows)) ** self.power * self.factor + self.shifts["shift"]


def test_attributes_are_part_of_the_structure(tmp_path, monkeypatch):
    """Numbers, functions, tensors that are not registered and mappings: none is taken from the cache of a network that differs in it."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "cache"))
    seen = []
    monkeypatch.setattr(exporter, "_exported", lambda module, *_: seen.append(module) or b"a structure")
    rows, networks = (
        torch.rand(2, 3),
        [Scaled(), Scaled(function=functional.gelu), Scaled(factor=3.0), Scaled(shift=4.0)],
    )
    networks += [Scaled(power=2), Scaled(function=functools.partial(functional.gelu, approximate="tanh"))]
    for _ in range(2):
        for each in [*networks, Scaled()]:  # other weights are not another structure
            exporter._structure(each.eval(), rows, exporter._tensors(each), None, {0: "batch"})
    assert seen == networks
    for kept in (tmp_path / "cache" / "graphs").iterdir():  # cannot be read or written
        kept.unlink()
        kept.mkdir()
    for each in networks:
        exporter._structure(each.eval(), rows, exporter._tensors(each), None, {0: "batch"})
    assert seen == networks * 2


def scaled_by(factor):
    return lambda rows: rows * factor


def no_weights(factor):
    return [nn.Hardtanh(0, factor)]  # in a list, torch does not register it


def with_weights(factor):
    return [nn.PReLU(init=factor)]


class Plain:
    """An object that is no module."""

    def __init__(self, factor):
        self.factor = factor

    def scaled(self, rows):
        return rows * self.factor


@pytest.mark.parametrize(
    "made",
    [
        lambda factor: np.full(3, factor),
        lambda factor: {"rows", factor},
        lambda factor: frozenset([factor]),
        scaled_by,
        lambda factor: functools.partial(scaled_by(factor)),
        no_weights,
        with_weights,
        Plain,
        lambda factor: Plain(factor).scaled,
        lambda factor: {"deep": [Plain(np.full(3, factor))]},
    ],
    ids=["array", "set", "frozenset", "closure", "partial", "module", "weights", "object", "method", "deep"],
)
def test_networks_that_differ_in_any_attribute_have_structures_of_their_own(tmp_path, monkeypatch, made):
    """What cannot be compared, such as a function within a function, is exported every time."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "cache"))
    found = []
    for factor in (2.0, 3.0, 2.0):
        module = nn.Sequential(nn.Linear(3, 3))
        module.made = made(factor)
        monkeypatch.setattr(exporter, "_exported", lambda *_, factor=factor: str(factor).encode())
        found.append(exporter._structure(module, torch.rand(2, 3), exporter._tensors(module), None, {}))
    assert found == [b"2.0", b"3.0", b"2.0"]


def test_another_source_of_a_class_is_another_structure(tmp_path, monkeypatch):
    """Of code that no version describes."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for factor in (2, 3, 2):
        (tmp_path / "own_layers.py").write_text(
            f"from torch import nn\n\nclass Own(nn.Module):\n    def forward(self, rows):\n        return rows * {factor}\n"
        )
        linecache.checkcache()
        sys.modules.pop("own_layers", None)
        importlib.invalidate_caches()
        module = importlib.import_module("own_layers").Own()
        monkeypatch.setattr(exporter, "_exported", lambda *_, factor=factor: str(factor).encode())
        found.append(exporter._structure(module, torch.rand(2, 3), {}, None, {}))
    assert found == [b"2", b"3", b"2"]


class Clipped(nn.Module):
    """Maps that are clipped, added to an input that may have been clipped in place."""

    def __init__(self, *, inplace):
        super().__init__()
        self.first, self.last = nn.ReLU6(inplace=inplace), nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU6(inplace=True))
        torch.nn.init.dirac_(self.last[0].weight)
        torch.nn.init.zeros_(self.last[0].bias)

    def forward(self, images):
        whole = images * 1
        return self.last(whole - 1) + self.first(whole) + whole


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("inplace", [True, False])
def test_relu6_is_exported_as_a_clamp(tmp_path, monkeypatch, inplace, traced):
    """Values are torch's, also at the limits, of NaN, and of an input that is read again; layers are restored, after an error too."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path))
    module = Clipped(inplace=inplace).eval()
    layers = [layer for layer in module.modules() if isinstance(layer, nn.ReLU6)]
    given = fx.symbolic_trace(module) if traced else module
    real, clamped = torch.onnx.export, []

    def watched(*words, **options):
        clamped.extend("forward" in vars(layer) for layer in layers)
        return real(*words, **options)

    monkeypatch.setattr(torch.onnx, "export", watched)
    session = onnxruntime.InferenceSession(exported(given), providers=["CPUExecutionProvider"])
    assert clamped == [traced and not inplace, True]
    images = torch.tensor([-1.0, -0.0, 0.5, 6.0, 6.5, 7.5]).repeat(2, 3, 6, 1)
    images[1, :, 0, 0] = float("nan")
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(found, module(images).detach().numpy(), rtol=1e-6)
    monkeypatch.setattr(torch.onnx, "export", lambda *_words, **_options: 1 / 0)
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "other"))
    with pytest.raises(ZeroDivisionError):
        exported(given)
    assert not any("forward" in vars(layer) for layer in layers)
