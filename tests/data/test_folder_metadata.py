"""Folders of images with metadata.jsonl or metadata.csv, compared with what ImageFolder of datasets 5.2 reads in the same folders."""

import json
import logging

import pytest
from PIL import Image

from cnnkit.data import folder_metadata, source
from cnnkit.data.search_log import SearchLog
from cnnkit.errors import CnnkitError, FormatError

CARD = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: other
    dtype:
      class_label:
        names:
          '0': wrong
  - name: label
    dtype:
      class_label:
        names:
          '0': tabby cat
          "1": "it's"
  - name: text
    dtype: string
---
# Photos
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)


def lines(*rows):
    return "\n".join(map(json.dumps, rows))


def labels(*sources, **options):
    """Return the paths, splits and labels of the images, and the notices."""
    search = SearchLog()
    found = source.find(list(sources), search=search, **options)
    return [(image.path, image.split, image.label or image.labels) for image in found], list(search.lines())


def test_metadata_next_to_the_images(here, caplog):
    """datasets reads labels 0 and 1, omits the image that is not listed, and fails if one is missing."""
    caplog.set_level(logging.INFO)
    made(here / "photos", "1.png", "2.png", "3.png")
    rows = [
        {"file_name": "1.png", "label": 0, "text": "x"},
        {"file_name": "./2.png", "label": 1, "objects": {"bbox": []}},
    ]
    (here / "photos/metadata.jsonl").write_text(lines(*rows, {"file_name": "9.png", "label": 1}))
    found, notices = labels("photos")
    assert found == [("photos/1.png", None, "0"), ("photos/2.png", None, "1"), ("photos/3.png", None, None)]
    assert notices[:3] == [
        "photos/metadata.jsonl: 1 image that it lists is not there, such as 9.png",
        "photos/metadata.jsonl: 1 image is not in it, such as photos/3.png",
        "classes of photos from photos/metadata.jsonl",
    ]
    assert "file_name is read as path" not in caplog.text  # as the format demands


def test_metadata_in_each_split_with_names_of_the_card(here):
    """datasets has the same numbers; -1 is not a class. `--split` reads the same classes."""
    made(here / "photos", "train/images/1.png", "train/images/2.png", "val/1.png")
    rows = [{"file_name": "images/1.png", "label": 1}, {"file_name": "images/2.png", "label": -1}]
    (here / "photos/train/metadata.jsonl").write_text(lines(*rows))
    (here / "photos/val/metadata.csv").write_text("file_name,label\n1.png,0\n")
    (here / "photos/README.md").write_text(CARD)
    train = [("photos/train/images/1.png", "train", "it's"), ("photos/train/images/2.png", "train", None)]
    assert labels("photos")[0] == [*train, ("photos/val/1.png", "val", "tabby cat")]
    assert labels("photos", split="train")[0] == train
    (here / "photos/val/metadata.csv").write_text("file_name,label\n1.png,2\n")
    with pytest.raises(FormatError, match=r"label 2 of 1.png, but README.md names 2 classes"):
        labels("photos")


def test_metadata_above_the_images_and_several_labels(here):
    """The nearest file above an image is its own."""
    made(here / "photos", "part/1.png", "part/deep/2.png")
    first = (
        {"file_name": "part/1.png", "labels": ["cat", "indoor"]},
        {"file_name": "part/deep/2.png", "labels": ["dog"]},
    )
    (here / "photos/metadata.jsonl").write_text(lines(*first))
    (here / "photos/part/deep/metadata.jsonl").write_text(lines({"file_name": "2.png", "labels": []}))
    assert labels("photos")[0] == [("photos/part/1.png", None, ("cat", "indoor")), ("photos/part/deep/2.png", None, ())]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", '{"camera": "x"}'),
        ("metadata.jsonl", '{"file_name": "cat/1.png", "caption": "x"}'),
        ("metadata.csv", "a,b\n1,2\n"),
        ("metadata.jsonl", "[" * 100_000),
        ("metadata.jsonl", "\0"),
    ],
)
def test_other_files_of_this_name_are_not_read(here, name, text):
    """The folder gives the class, as before."""
    made(here / "photos", "cat/1.png")
    (here / "photos" / name).write_text(text)
    assert labels("photos")[0] == [("photos/cat/1.png", None, "cat")]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("metadata.jsonl", '{"image_file_name": "1.png", "label": "a"}', "its first row has no file_name"),
        ("metadata.csv", "file_name,caption\n1.png,x\n", "its first row has no label"),
        ("metadata.jsonl", '{\n"file_name": "1.png", "label": "a"\n}', "its first row has no file_name"),
        ("metadata.parquet", "PAR1", "write it as metadata.jsonl"),
    ],
)
def test_a_notice_names_what_is_not_read_where_images_have_no_class(here, name, text, reason):
    made(here / "photos", "1.png")
    (here / "photos" / name).write_text(text)
    found, notices = labels("photos")
    assert found == [("photos/1.png", None, None)]
    (notice,) = notices
    assert notice.startswith(f"photos/{name} is not read")
    assert reason in notice


def test_forms_of_rows_that_other_programs_write(here):
    """A blank first line, a first row of megabytes, a row twice under two spellings; pandas writes numbers as 1.0 if some are missing."""
    made(here / "photos", "1.png", "2.png")
    rows = [{"text": "x" * 2_000_000, "file_name": "1.png", "label": 1.0}, {"file_name": "2.png", "label": None}]
    (here / "photos/metadata.jsonl").write_text("\n" + lines(*rows, {"file_name": "./1.png", "label": 1.0}))
    (here / "photos/README.md").write_text(CARD)
    assert labels("photos")[0] == [("photos/1.png", None, "it's"), ("photos/2.png", None, None)]


def test_no_notice_of_missing_classes_that_the_metadata_gives(here):
    made(here / "photos", "train/1.png", "test/2.png")
    rows = [{"file_name": "train/1.png", "label": "a"}, {"file_name": "test/2.png", "label": "b"}]
    (here / "photos/metadata.jsonl").write_text(lines(*rows))
    found, notices = labels("photos")
    assert found == [("photos/test/2.png", "test", "b"), ("photos/train/1.png", "train", "a")]
    assert notices == ["classes of photos from photos/metadata.jsonl"]


def test_class_folders_come_first(here, caplog):
    """Then the metadata is named in a notice, and not even opened beyond its first line; so is it where no class is needed."""
    made(here / "photos", "train/cat/1.png", "train/dog/2.png")
    (here / "photos/train/metadata.csv").write_text('file_name,label\n"broken\n')
    found, notices = labels("photos")
    assert [label for *_, label in found] == ["cat", "dog"]
    assert "photos/train/metadata.csv not read, since class folders give the classes" in notices[0]
    (here / "photos/train/dog/2.png").unlink()
    with caplog.at_level(logging.INFO):
        assert len(source.find(["photos"], search=SearchLog(labels=False))) == 1
    with pytest.raises(CnnkitError, match=r"metadata\.csv"):
        labels("photos")


@pytest.mark.parametrize(
    ("card", "names"),
    [
        (CARD, ("tabby cat", "it's")),
        ("no card", ()),
        ("---\n- name: label\nnames:\n'1': b\n---\n", ()),
        ("---\n- name: label\n  names:\n  - a\n  - 'b''c'\n---\n", ("a", "b'c")),
    ],
)
def test_names_of_classes_in_a_card(tmp_path, card, names):
    (tmp_path / "README.md").write_text(card)
    assert folder_metadata.class_names_in(str(tmp_path)) == names
