"""Names of tar archives: patterns, and the splits that names give. Their images: tests/commands/test_tar.py."""

import random
import subprocess

import pytest

from cnnkit.data import split_names, tar_source
from cnnkit.errors import UsageError


@pytest.mark.parametrize(
    "pattern",
    [
        "photos-{000..012}.tar",
        "{train,val}-{8..11}.tar",
        "a-{03..1}.tar",
        "a{,b}.tar",
        "no.tar",
        "a-{x}.tar",
        "{1..2}{3..4}.TAR",
    ],
)
def test_patterns_are_those_of_bash(pattern):
    """Ranges with leading zeros, downwards, and lists; the last name varies fastest."""
    shown = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    assert tar_source.expanded(pattern) == shown.stdout.splitlines()


def test_only_patterns_of_archives_are_expanded(tmp_path, monkeypatch):
    """And no name of a file that exists."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "{1..2}.tar").touch()
    assert tar_source.expanded("{1..2}.tar") == ["{1..2}.tar"]
    assert tar_source.expanded("{1..2}.jpg") == ["{1..2}.jpg"]


@pytest.mark.parametrize("pattern", ["{0..100001}.tar", "{0..999}{0..999}.tar", f"{{0..{'9' * 5000}}}.tar"])
def test_rejects_patterns_of_too_many(pattern):
    """At once."""
    with pytest.raises(UsageError, match="stands for more than 100,000 archives"):
        tar_source.expanded(pattern)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-000.tar", "train"),
        ("data/photos-val-000012.tar", "val"),
        ("test.tar", "test"),
        ("fold3.tar", "fold3"),
        ("fold0-000000.TAR", "fold0"),
        ("photos-000.tar", None),
        ("contest-000.tar", None),
        ("train-cats.tar", None),
        ("000.tar", None),
    ],
)
def test_splits_in_names(name, split):
    """The last word before the number."""
    assert tar_source.split_in_name(name) == split


def test_common_root_is_found_folder_by_folder():
    """Against a search through all names for each folder."""

    def expected(names):
        root = ""
        while True:
            firsts = {name[len(root) :].partition("/")[0] for name in names}
            deeper = sum(name.count("/", len(root)) > 1 for name in names)
            if len(firsts) != 1 or split_names.is_split(*firsts) or 2 * deeper < len(names) or not deeper:
                return root
            root += f"{next(iter(firsts))}/"

    drawn = random.Random(0)
    roots = set()
    for _ in range(2000):
        folders = [drawn.choices(("a", "ab", "train"), (9, 2, 1))[0] for _ in range(4)]
        names = [
            "/".join([*folders[: drawn.randint(0, 4)], *drawn.choices("ab", k=drawn.randint(0, 2)), f"{number}.jpg"])
            for number in range(drawn.randint(0, 4))
        ]
        root = expected(names)
        assert tar_source._common_root(names) == root, names
        roots.add(root)
    assert len(roots) > 5


def test_common_root_of_deep_folders():
    """The names are gone through as often as those that are less deep."""

    class Names(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    passes = set()
    for depth in (2, 1000):
        names = Names(f"{'a/' * depth}{name}/1.jpg" for name in "bc")
        assert tar_source._common_root(names) == "a/" * depth
        passes.add(names.passes)
    assert len(passes) == 1
