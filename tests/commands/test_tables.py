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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,target\nphotos/red/00.png,red\n", "no column label, so no image has a class; not read: target; if one"),
        ("path,red,blue\nphotos/red/00.png,1,0\n", "no image has a class; not read: red, blue; if one of them"),
        ("path , label \nphotos/red/00.png , red \n", 'blanks around paths are left out, as in "photos/red/00.png "'),
        ("path,label\nphotos/red/00.png,nan\n", '"nan" is taken for the name of a class; where the label is missing'),
        ("path,label\nphotos/red/00.png,01\nphotos/blue/00.png,1\n", 'differ in case or form alone: "01", "1"'),
        (
            "path,split\nphotos/red/00.png,Train\nphotos/blue/00.png,train \n",
            'splits and groups removed: "train "',
        ),
        (
            "path,split\nphotos/red/00.png,Train\nphotos/blue/00.png,train \n",
            'splits that differ only in case or Unicode form: "Train", "train"',
        ),
    ],
)
def test_what_is_odd_in_a_table_is_told(run, folder, content, said):
    """Labels in a column of another name, blanks, labels that may be none, numbers that are written in two ways."""
    (folder / "t.csv").write_text(content)
    outcome = run("cnn-check", "t.csv", "--table", "classes")
    assert said in outcome.err
    assert len(run("cnn-split", "t.csv", "--ratio", "1").rows) == content.count("png")


def test_blanks_around_groups_part_no_images(run, folder, images):
    """A group that is written in two ways would lie on both sides of a split."""
    images(red=8, blue=8)
    rows = [
        f"photos/{label}/{n:02d}.png,{label},g{n}{' ' * (label == 'red')}"
        for label in ("red", "blue")
        for n in range(8)
    ]
    (folder / "t.csv").write_text("\n".join(["path,label,group", *rows, ""]))
    splits = {}
    for row in run("cnn-split", "t.csv", "--ratio", "1,1").rows:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert len(splits) == 8
    assert all(len(each) == 1 for each in splits.values())


def test_a_split_with_blanks_is_found(run, folder):
    """As pandas and spreadsheets leave them."""
    (folder / "t.csv").write_text("path,label,split\nphotos/red/00.png,red,a \nphotos/blue/00.png,blue,a\n")
    assert len(run("cnn-split", "t.csv", "--ratio", "1", "--split", "a").rows) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "id,label\n1,red\n", "found id, label; if one of them names the image files, call it path"),
        ("t.tsv", '"path" "label"\n"1" "a.png" "red"\n', "separated by blanks: save it with tabs or commas"),
        ("t.tsv", '"path"\t"label"\n"1"\t"a.png"\t"red"\n', "if R wrote it, leave the names of rows out"),
        ("t.tsv", 'path\tlabel\na.png\t"a\nred"\n', "line 2 has a quote that it does not close"),
        ("t.csv", "TRAIN,photos/red/00.png,red\n", "sed -i '1i split,path,label' t.csv"),
        ("t.csv", "0,photos/red/00.png,red\n", "sed -i '1i column1,path,label' t.csv"),
        (
            "t.json",
            '{\n "path": "photos/red/00.png"\n}\n',
            "an object of several lines; expected one a line (JSON Lines), as jq -c . t.json",
        ),
        ("t.json", '{"path": "photos/red/00.png"},\n', 't.json:1: "," behind the object; expected one a line'),
        (
            "t.csv",
            "version https://git-lfs.github.com/spec/v1\n",
            "a pointer of Git LFS (git lfs pull fetches the file)",
        ),
    ],
)
def test_a_table_that_cannot_be_read_names_the_cause(run, folder, name, content, said):
    """And what to do, as other programs write tables."""
    (folder / name).write_text(content)
    assert said in run("cnn-check", name, status=1).err


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


def test_a_folder_may_be_called_none(run, folder, images):
    """A class of its own, with nothing to tell; in a table the same word may stand for a missing label."""
    images("other", **{"None": 1, "red": 1})
    assert "is taken for the name of a class" not in run("cnn-split", "other", "--ratio", "1").err
