"""Tables of other programs as SOURCE, and files that are mistaken for one."""

import io
import shutil
import subprocess

import pytest
from PIL import Image

TABLE = "path\tlabel\tsplit\nphotos/red/00.png\tred\ttrain\nphotos/blue/00.png\tblue\tval\n"


@pytest.fixture
def folder(images, tmp_path, monkeypatch):
    """Be in a folder with photos/red and photos/blue."""
    images(red=1, blue=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jpeg():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", TABLE.replace("\t", ",").encode()),
        ("t.csv", TABLE.replace("\t", ";").encode("utf-16")),
        ("t.tsv", TABLE.replace("\n", "\r").encode()),
        ("t.tsv", TABLE.replace("/", "\\").encode()),
        (
            "t.jsonl",
            b"""{"file_name": "photos/red/00.png", "class": "red", "split": "train"}
{"file_name": "photos/blue/00.png", "class": "blue", "split": "val"}
""",
        ),
    ],
)
def test_a_table_is_a_source_by_name_and_through_a_pipe(run, folder, name, content):
    """Paths, labels and splits are those of our own manifest."""
    (folder / "ours.tsv").write_text(TABLE)
    (folder / name).write_bytes(content)
    expected = run("cnn-check", "ours.tsv", "--table", "classes").out
    assert expected.count("\n") == 3
    assert run("cnn-check", name, "--table", "classes").out == expected
    assert run("cnn-check", "-", "--table", "classes", stdin=content).out == expected


def test_a_list_of_paths_is_a_source(run, folder):
    """One path a line, as seen from the list's folder."""
    (folder / "photos/list.txt").write_text("red/00.png\nblue/00.png\n")
    assert "2" in run("cnn-check", "photos/list.txt", "--table", "classes").rows[0].values()


@pytest.mark.parametrize("separator", [" ", "\t", ","])
def test_a_list_of_paths_and_labels_lacks_its_header_row(run, folder, separator):
    """As Caffe's train.txt has them: no image is called `red/00.png 0`."""
    listed = f"photos/red/00.png{separator}0\nphotos/blue/00.png{separator}1\n"
    (folder / "train.txt").write_text(listed)
    for words, given, name in (("train.txt", None, "train.txt"), ("-", listed, "standard input")):
        error = run("cnn-check", words, stdin=given, status=1).err
        assert f"{name}: " in error
        assert "begins with a header row such as path,label" in error
    if separator != " ":
        (folder / "train.txt").write_text(f"path{separator}label\n{listed}")
        assert len(run("cnn-check", "train.txt", "--table", "classes").rows) == 2


def test_an_image_on_standard_input_is_no_list(run, folder):
    """It is named as what it is, with and without -0."""
    for words in (["-"], ["-", "-0"]):
        outcome = run("cnn-check", *words, stdin=jpeg(), status=2)
        assert outcome.err.startswith(
            "cnn-check: standard input is a JPEG image, not a list of paths; write it to a file"
        )


def test_an_image_that_is_called_a_manifest(run, folder):
    """Its content is named, not its bytes."""
    (folder / "photo.tsv").write_bytes(jpeg())
    assert run("cnn-check", "photo.tsv", status=1).err == "cnn-check: photo.tsv: a JPEG image, not a table\n"


@pytest.mark.parametrize(("kind", "ending"), [("zip", "zip"), ("gztar", "tar.gz"), ("tar", "tar")])
def test_an_archive_is_refused_with_what_unpacks_it(run, folder, kind, ending):
    """The command in the message makes the folder that it names."""
    shutil.make_archive("my photos", kind, "photos")
    shutil.rmtree("photos")
    error = run("cnn-check", f"my photos.{ending}", status=2).err
    assert "an archive; unpack it (" in error
    command = error.split("unpack it (")[1].split(") and name")[0]
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"no {command.split()[0]} on this machine")
    subprocess.run(command, shell=True, check=True)
    assert len(run("cnn-check", error.rstrip().split("the folder ")[1], "--table", "classes").rows) == 2


def test_a_spreadsheet_is_refused(run, folder):
    """By its name, with what to save."""
    (folder / "labels.xlsx").write_bytes(b"PK\3\4")
    assert "labels.xlsx: a table of another kind; save it as CSV" in run("cnn-check", "labels.xlsx", status=2).err
