"""Exported networks in the cache: which file is taken where torch cannot export another."""

import os
import sys

import pytest

from cnnkit.engine import export_cache
from cnnkit.errors import MissingPackageError
from cnnkit.formats import cache


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Return the folder of a cache, and a function that names the file of a network made by versions of libraries."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path))
    folder = cache.folder("bases")

    def name(versions, **asked):
        monkeypatch.setattr(export_cache, "versions", lambda: {"torch": versions})
        return folder / export_cache.file_name("net-avg", {"layer": "1", **asked}, revision=1)

    return name


def test_other_versions_are_taken_only_without_torch(kept, monkeypatch):
    """The newest file, unless it is damaged; never that of another network."""
    old, new, damaged, mine = (kept(version) for version in ("2.1", "2.2", "2.3", "none"))
    other = kept("none", layer="2")
    assert len({old, new, damaged, mine, other}) == 5
    for age, path in enumerate((damaged, new, old)):
        cache.keep(path, path.name.encode())
        os.utime(path, (1e9 - age, 1e9 - age))
    damaged.write_bytes(b"half of it")
    os.utime(damaged, (1e9, 1e9))
    assert export_cache.find(mine, what="net") is None  # it is exported
    assert export_cache.find(old, what="net") == old
    monkeypatch.setitem(sys.modules, "torch", None)
    assert export_cache.find(old, what="net") == old
    assert export_cache.find(mine, what="net") == new
    with pytest.raises(
        MissingPackageError, match=r"^net is not in the cache \(.*\), and its export needs torch"
    ) as said:
        export_cache.find(other, what="net")
    assert str(said.value).endswith("copy the cache, or run pip install torch")
