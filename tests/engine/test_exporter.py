"""The cache of exported structures: the same bytes with and without it, and a changed structure or weights are seen."""

import onnx_ir
import pytest
import torch
from torch import nn

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


def network(*, seed=0, padding=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=padding), nn.BatchNorm2d(4), nn.ReLU()).eval()


def exported(module):
    return onnx_ir.to_proto(
        exporter.graph(module, torch.rand(2, 3, 6, 6), opset=None, free={0: "batch"})
    ).SerializeToString(deterministic=True)


def test_cached_structure_gives_the_same_bytes(exports, tmp_path):
    """The exporter runs once; other weights are filled in; a damaged cache is rebuilt; other settings are another structure."""
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
    exported(network(padding=1))
    assert len(exports) == 3


def test_works_without_a_writable_cache(exports, tmp_path, monkeypatch):
    """The structure is exported every time, to the same bytes."""
    cold = exported(network())
    (tmp_path / "file").touch()
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "file" / "below"))
    assert exported(network()) == cold
    assert len(exports) == 2
