"""The cache of exported structures: the same bytes with and without it, and a changed structure or weights are seen."""

import functools
import importlib
import linecache
import sys

import numpy as np
import onnx_ir
import pytest
import torch
from torch import nn
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
