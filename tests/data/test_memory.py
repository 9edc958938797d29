"""Available memory: the machine's, or the limit of a container."""

import os

import pytest

from cnnkit.data import memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def system(folder, groups, limits):
    """Make Linux's files of control groups: those of the process, and the limits by path."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(groups)
    for path, limit in limits.items():
        (folder / "sys/fs/cgroup" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "sys/fs/cgroup" / path).write_text(f"{limit}\n")
    return folder


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": 2 << 20}, 2 << 20),
        ("0::/\n", {"memory.max": "max"}, MACHINE),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": 3 << 20, "memory.max": 4 << 20}, 3 << 20),
        ("9:memory:/docker/x\n1:cpu:/\n", {"memory/memory.limit_in_bytes": 5 << 20}, 5 << 20),
        ("9:memory:/x\n", {"memory/x/memory.limit_in_bytes": 9223372036854771712}, MACHINE),
        ("0::/gone\nodd\n", {}, MACHINE),
    ],
)
def test_limits_of_control_groups(tmp_path, groups, limits, expected):
    """Versions 2 and 1; the smallest limit of nested groups counts, and an invisible group has the root's limit."""
    assert memory.installed(system(tmp_path, groups, limits)) == expected


def test_memory_without_control_groups(tmp_path):
    """As on macOS."""
    assert memory.installed(tmp_path) == MACHINE


@pytest.mark.parametrize(("gib", "expected"), [(2, 0.5), (4, 1), (8, 1), (16, 2), (64, 4), (None, 1)])
def test_memory_for_decoding(gib, expected):
    """An eighth of the memory, or a quarter of a small one."""
    assert memory._for_decoding(gib and gib << 30) == expected * 2**30
