"""Short names for files."""

from pathlib import Path

from cnnkit.formats import short_names


def test_shortest_distinct_names():
    """Stems; with folders if stems are equal; whole paths if only the endings differ."""
    assert short_names.names(["a/model.csv", "other.csv"]) == ["model", "other"]
    assert short_names.names(["a/model.csv", "b/model.csv", "b/x.csv"]) == ["a/model", "b/model", "x"]
    assert short_names.names(["1/runs/model.csv", "2/runs/model.csv"]) == ["1/runs/model", "2/runs/model"]
    here = Path.cwd().name
    assert short_names.names(["model.csv", "sub/model.csv"]) == [f"{here}/model", "sub/model"]
    assert short_names.names(["a/m.csv", "a/m.txt"]) == ["a/m.csv", "a/m.txt"]
