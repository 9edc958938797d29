"""The cache: damaged or foreign entries are made again, and an unwritable folder is reported."""

import os
import threading
from hashlib import sha256

import onnx
import pytest
from onnx import TensorProto, helper

from cnnkit.errors import CnnkitError
from cnnkit.formats import cache


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def network():
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    return helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:]))


def test_location(monkeypatch, tmp_path):
    """CNNKIT_CACHE, else below XDG_CACHE_HOME, else below ~/.cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CNNKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache.root() == tmp_path / ".cache" / "cnnkit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.root() == tmp_path / "xdg" / "cnnkit"
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "own"))
    assert cache.folder("weights") == tmp_path / "own" / "weights"
    assert (tmp_path / "own" / "weights").is_dir()


def test_unwritable_cache_names_the_variable(root, monkeypatch):
    """Both if it cannot be created and if it cannot be written to."""
    root.write_bytes(b"")
    with pytest.raises(
        CnnkitError, match=r"cache/weights: the cache is not writable \(Not a directory\); .* CNNKIT_CACHE"
    ):
        cache.folder("weights")
    root.unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(
        CnnkitError, match=r"cache/weights: the cache is not writable; set CNNKIT_CACHE to a writable folder"
    ):
        cache.folder("weights")


def test_cached_network_is_verified(root, tmp_path):
    """It stays valid ONNX; a changed byte, a missing end and a file without checksum are detected."""
    kept, content = tmp_path / "kept.onnx", network().SerializeToString()
    assert not cache.is_intact(kept)
    cache.keep(kept, content)
    assert cache.is_intact(kept)
    assert onnx.load(kept).graph == network().graph
    whole = kept.read_bytes()
    for place in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[place] ^= 1
        kept.write_bytes(broken)
        assert not cache.is_intact(kept)
    for other in (whole[:-1], whole + b"\0", content, b""):
        kept.write_bytes(other)
        assert not cache.is_intact(kept)


def test_weights_with_a_wrong_hash_are_not_used(root):
    """A damaged or planted file under the hash of other bytes is ignored."""
    digest = sha256(b"weights").hexdigest()
    kept = cache.folder("weights") / f"{digest}.pth"
    kept.write_bytes(b"weights")
    assert cache.find_weights(digest) == kept
    kept.write_bytes(b"weightz")
    assert cache.find_weights(digest) is None


def test_concurrent_runs_write_one_entry(root, tmp_path):
    """Each of them works, and the entry is complete."""
    kept, content = tmp_path / "kept.onnx", b"content" * 50_000
    threads = [threading.Thread(target=cache.keep, args=(kept, content)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.is_intact(kept)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.onnx"]
