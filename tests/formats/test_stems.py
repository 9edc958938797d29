"""What files are called among others."""

from pathlib import Path

from cnnkit.formats import stems


def test_names_are_as_short_as_tells_files_apart():
    """Stems; folders before them where stems are equal; the whole where only the endings differ."""
    assert stems.names(["a/model.csv", "other.csv"]) == ["model", "other"]
    assert stems.names(["a/model.csv", "b/model.csv", "b/x.csv"]) == ["a/model", "b/model", "x"]
    assert stems.names(["1/runs/model.csv", "2/runs/model.csv"]) == ["1/runs/model", "2/runs/model"]
    here = Path.cwd().name
    assert stems.names(["model.csv", "sub/model.csv"]) == [f"{here}/model", "sub/model"]
    assert stems.names(["a/m.csv", "a/m.txt"]) == ["a/m.csv", "a/m.txt"]
