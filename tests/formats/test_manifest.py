"""The manifest of images."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnkit.errors import FormatError
from cnnkit.formats import manifest
from cnnkit.formats.manifest import ManifestRow

NAMES = st.binary(min_size=1, max_size=12).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"0")))
ROWS = st.builds(ManifestRow, NAMES, *[st.none() | NAMES] * 3)


@given(st.lists(ROWS, max_size=8))
def test_rows_come_back(tmp_path_factory, rows):
    """What is saved is what is loaded, whatever names are made of."""
    path = tmp_path_factory.getbasetemp() / "rows.tsv"
    manifest.save(path, rows)
    assert manifest.load(path) == rows


def test_only_the_path_is_required(tmp_path):
    """Other columns may be missing, empty, in any order, or not ours."""
    path = tmp_path / "rows.tsv"
    path.write_text("weight\tlabel\tpath\n3\tcat\ta.jpg\n1\t\tb.jpg\n")
    assert manifest.load(path) == [ManifestRow("a.jpg", "cat"), ManifestRow("b.jpg")]
    path.write_text("path\nb.jpg\n")
    assert manifest.load(path) == [ManifestRow("b.jpg")]


def test_what_is_written():
    """The text is what the format's description says, with the columns that were asked for."""
    rows = [ManifestRow("cats/1.jpg", "cat", "train", "litter-7"), ManifestRow("x\ty.jpg")]
    assert manifest.render(rows) == b"path\tlabel\tsplit\tgroup\ncats/1.jpg\tcat\ttrain\tlitter-7\nx\\ty.jpg\t\t\t\n"
    assert manifest.render(rows, columns=("path", "label")) == b"path\tlabel\ncats/1.jpg\tcat\nx\\ty.jpg\t\n"


def test_groups_have_a_column_where_there_are_groups():
    """Without groups nobody has to look at an empty column."""
    assert manifest.columns([ManifestRow("a", "cat", "train")]) == ("path", "label", "split")
    assert manifest.columns([ManifestRow("a", "cat", "train"), ManifestRow("b", group="g")]) == (
        "path",
        "label",
        "split",
        "group",
    )


@pytest.mark.parametrize(
    ("text", "match"),
    [("label\tsplit\n", "lacks path"), ("path\tlabel\n\tcat\n", "empty path"), ("", "empty")],
)
def test_what_is_no_manifest(tmp_path, text, match):
    """The error names the file."""
    path = tmp_path / "rows.tsv"
    path.write_text(text)
    with pytest.raises(FormatError, match=f"rows.tsv: .*{match}"):
        manifest.load(path)


@pytest.mark.parametrize(
    ("folder", "path", "seen"),
    [
        (".", "photos/1.jpg", "photos/1.jpg"),
        (".", "./photos//1.jpg", "photos/1.jpg"),
        ("lists", "photos/1.jpg", "../photos/1.jpg"),
        ("lists/deep", "photos/1.jpg", "../../photos/1.jpg"),
        ("photos", "photos/1.jpg", "1.jpg"),
        ("lists", "/abs/1.jpg", "/abs/1.jpg"),
        ("link", "photos/1.jpg", "../../photos/1.jpg"),
        ("lists", "link/../photos.jpg", "photos.jpg"),
        (".", "lists/../link/../photos.jpg", "lists/photos.jpg"),
        (".", "photos/../link/deep.jpg", "link/deep.jpg"),
    ],
)
def test_paths_as_seen_from_a_folder(tmp_path, monkeypatch, folder, path, seen):
    """From the folder, the path opens the same file, through symbolic links, too; absolute paths stay."""
    (tmp_path / "lists/deep").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    for file in ("photos/1.jpg", "lists/photos.jpg", "lists/deep/deep.jpg"):
        (tmp_path / file).touch()
    (tmp_path / "link").symlink_to(tmp_path / "lists/deep")
    monkeypatch.chdir(tmp_path)
    assert manifest.seen_from(folder, path) == seen
    if not os.path.isabs(path):
        assert os.path.samefile(os.path.join(folder, seen), path)
        assert manifest.moved([ManifestRow(path, "cat", "val", "g")], folder) == [ManifestRow(seen, "cat", "val", "g")]


def test_a_linked_image_keeps_its_name(tmp_path, monkeypatch):
    """The manifest names what the user named, not what a symbolic link points to."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store/0f3a.jpg").touch()
    (tmp_path / "cat.jpg").symlink_to("store/0f3a.jpg")
    monkeypatch.chdir(tmp_path)
    assert manifest.seen_from("store", "cat.jpg") == "../cat.jpg"


def test_the_column_truth_is_the_label_where_predictions_stand_beside_it():
    """As cnn-eval --worst lists them; an empty one is no label, whatever was predicted."""
    lines = [b"path\ttruth\tlabel\tprobability\n", b"a.png\tcat\tdog\t0.9\n", b"b.png\t\tdog\t0.8\n"]
    assert [row.label for row in manifest.parse(lines, name="worst.tsv")] == ["cat", None]
