"""How much memory there is: the machine's, or what a container may take of it."""

import os

import pytest

from cnnkit.data import memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def system(folder, groups, limits):
    """Make what Linux shows of control groups: the process's, and the limits by path."""
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
def test_a_container_has_less_than_its_machine(tmp_path, groups, limits, expected):
    """Version 2 and 1; of nested groups the tightest counts, and a group that is not to be seen has the root's."""
    assert memory.installed(system(tmp_path, groups, limits)) == expected


def test_without_control_groups_it_is_the_machines(tmp_path):
    """As on macOS."""
    assert memory.installed(tmp_path) == MACHINE


@pytest.mark.parametrize(("gib", "expected"), [(2, 0.5), (4, 1), (8, 1), (16, 2), (64, 4), (None, 1)])
def test_what_decoding_may_take(gib, expected):
    """An eighth; of little memory a quarter."""
    assert memory._for_decoding(gib and gib << 30) == expected * 2**30
