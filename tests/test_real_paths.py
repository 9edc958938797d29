"""Real paths of many files: those of os.path.realpath."""

import os

import pytest

from cnnkit import files


@pytest.fixture
def linked(tmp_path, monkeypatch):
    """A folder with links to files and folders, dangling ones and a loop."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg", "deep/3.jpg"):
        (tmp_path / "real" / name).touch()
    for link, target in {
        "real/4.jpg": "1.jpg",
        "real/5.jpg": "nowhere",
        "real/6.jpg": "4.jpg",
        "link": "real",
        "loop": "loop",
        "real/up": "..",
        "7.jpg": "link/deep/3.jpg",
    }.items():
        (tmp_path / link).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("one_by_one", [0, 1000])
def test_real_paths_are_those_of_the_operating_system(linked, monkeypatch, one_by_one):
    """Whether files are examined one by one or the whole folder is listed."""
    monkeypatch.setattr(files, "_ONE_BY_ONE", one_by_one)
    folders = [
        "",
        "real/",
        "link/",
        "link/deep/",
        "real/up/link/",
        "loop/",
        "nowhere/",
        "real//",
        "./",
        "../",
        "real/1.jpg/",
    ]
    names = ["1.jpg", "3.jpg", "4.jpg", "5.jpg", "6.jpg", "7.jpg", "nothing", "link", "deep", "..", ".", "", "up"]
    paths = [f"{start}{folder}{name}" for start in ("", f"{linked}/") for folder in folders for name in names]
    paths += ["/", "/tmp", "/nowhere/1.jpg"]
    real = files.RealPaths()
    assert [real.of(path) for path in paths if path] == [os.path.realpath(path) for path in paths if path]
