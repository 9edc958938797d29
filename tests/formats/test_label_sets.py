"""The column `labels`: in tables of all kinds, in features, and next to `label`."""

import json
from pathlib import Path

import numpy as np
import pytest

from cnnkit.data import source
from cnnkit.errors import CnnkitError, FormatError
from cnnkit.formats import features, label_sets, manifest
from cnnkit.formats.features import Features
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.manifest import ManifestRow


@pytest.mark.parametrize(
    ("text", "labels"),
    [("cat;indoor", ("cat", "indoor")), ("", ()), (" cat ; ;dog;cat", ("cat", "dog")), ("cafe\u0301", ("caf\xe9",))],
)
def test_labels_are_in_normal_form_and_each_once(text: str, labels: tuple[str, ...]) -> None:
    assert label_sets.parse(text) == labels


def test_a_label_with_the_separator_is_refused() -> None:
    with pytest.raises(FormatError, match='"a;b" is a label with ;'):
        label_sets.joined(["cat", "a;b"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "path\tlabels\tsplit\n1.jpg\tcat;indoor\ttrain\n2.jpg\t\tval\n"),
        ("a.csv", 'file_name,Labels,split\n1.jpg,"cat;indoor",train\n2.jpg,,val\n'),
        (
            "a.jsonl",
            '{"path": "1.jpg", "labels": ["cat", "indoor"], "split": "train"}\n{"path": "2.jpg", "labels": [], "split": "val"}\n',
        ),
        (
            "b.jsonl",
            '{"path": "1.jpg", "labels": "cat;indoor", "split": "train"}\n{"path": "2.jpg", "labels": null, "split": "val"}\n',
        ),
    ],
)
def test_every_kind_of_table_has_labels(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    first, second = source.find([str(tmp_path / name)])
    assert (first.label, first.labels, first.split) == (None, ("cat", "indoor"), "train")
    assert (second.label, second.labels, second.split) == (None, (), "val")


def test_a_table_with_both_columns_keeps_its_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.tsv").write_text("path\tlabel\tlabels\n1.jpg\tdog\tcat;indoor\n")
    (tmp_path / "a.jsonl").write_text('{"path": "1.jpg", "label": "dog", "labels": [{"x": 1}]}\n')
    caplog.set_level("INFO")
    for name in ("a.tsv", "a.jsonl"):
        caplog.clear()
        assert manifest.load(tmp_path / name) == [ManifestRow("1.jpg", "dog")]
        assert caplog.text.count("column labels is not read, since column label has the class") == 1
        assert manifest.further_columns(tmp_path / name) == ("labels",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a;b"], 'labels: "a;b" is a label with ;'),
        ([{"name": "cat"}], "labels: a label is an object"),
        ({}, "labels is an object"),
    ],
)
def test_what_is_not_a_list_of_names_is_refused(tmp_path: Path, value: object, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"path": "1.jpg", "labels": value}) + "\n")
    with pytest.raises(FormatError, match=message):
        manifest.load(tmp_path / "a.jsonl")


def test_an_image_listed_with_other_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("path\tlabels\n1.jpg\tcat;dog\n1.jpg\tdog;cat\n2.jpg\tcat\n2.jpg\t\n")
    images = source.find([str(tmp_path / "a.tsv")])
    assert len(source.listed_again(list(images)[:2])[0]) == 1
    with pytest.raises(CnnkitError, match=r"2\.jpg is listed twice, with labels cat and"):
        source.listed_again(images)


def test_features_keep_labels_and_give_a_matrix(tmp_path: Path) -> None:
    rows = [
        ManifestRow("1.jpg", labels=("indoor", "cat"), split="train"),
        ManifestRow("2.jpg", labels=()),
        ManifestRow("3.jpg", labels=("cat",)),
    ]
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    features.save(tmp_path / "a.npy", [Features(values, rows, Header(kind=ArtefactKind.FEATURES))])
    assert (tmp_path / "a.tsv").read_text() == (
        "path\tlabels\tsplit\tgroup\n1.jpg\tindoor;cat\ttrain\t\n2.jpg\t\t\t\n3.jpg\tcat\t\t\n"
    )
    found = features.load(tmp_path / "a.npy")
    assert found.multi_label
    assert found.rows == rows
    assert found.header.classes == ("cat", "indoor")
    classes, matrix = found.label_matrix()
    assert classes == ("cat", "indoor")
    assert matrix.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert found.label_matrix(["indoor", "dog", "cat"])[1].tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 1]]
    with pytest.raises(CnnkitError, match=r"1\.jpg has the label cat"):
        found.label_matrix(["indoor"])
    with pytest.raises(CnnkitError, match=r"4\.jpg has one label or none, and other images lists of labels"):
        features.save(
            tmp_path / "b.npy",
            [Features(np.zeros((2, 2), np.float32), [rows[0], ManifestRow("4.jpg", "cat")], found.header)],
        )


def test_columns_of_other_programs_are_not_guessed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their separators differ: blanks in Kaggle's planet set, commas in others."""
    (tmp_path / "a.csv").write_text("image,tags\n1.jpg,clear primary\n")
    caplog.set_level("INFO")
    (row,) = manifest.load(tmp_path / "a.csv")
    assert (row.label, row.labels) == (None, None)
    assert "if column tags has several labels of each image, rename it to labels, and separate them by ;" in caplog.text


def test_labels_that_are_alike_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.tsv").write_text("path\tlabels\n1.jpg\tCat;dog\n2.jpg\tcat;nan\n")
    caplog.set_level("INFO")
    source.find([str(tmp_path / "a.tsv")])
    assert 'class names that differ only in case, Unicode form or zeros: "Cat", "cat"' in caplog.text
    assert '"nan" is read as a class name' in caplog.text
