"""Tables of other programs as SOURCE, and files that are not tables."""

import io
import shutil
import subprocess

import pytest
from PIL import Image

TABLE = "path\tlabel\tsplit\nphotos/red/00.png\tred\ttrain\nphotos/blue/00.png\tblue\tval\n"


@pytest.fixture
def folder(images, tmp_path, monkeypatch):
    """Change to a folder with photos/red and photos/blue."""
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
def test_table_by_name_and_on_standard_input(run, folder, name, content):
    """Paths, labels and splits are those of the equivalent manifest."""
    (folder / "ours.tsv").write_text(TABLE)
    (folder / name).write_bytes(content)
    expected = run("cnn-check", "ours.tsv", "--table", "classes").out
    assert expected.count("\n") == 3
    assert run("cnn-check", name, "--table", "classes").out == expected
    assert run("cnn-check", "-", "--table", "classes", stdin=content).out == expected


def test_list_of_paths(run, folder):
    """One path per line, relative to the list's folder."""
    (folder / "photos/list.txt").write_text("red/00.png\nblue/00.png\n")
    assert "2" in run("cnn-check", "photos/list.txt", "--table", "classes").rows[0].values()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "path,target\nphotos/red/00.png,red\n",
            "no column label, so images have no class; columns not read: target; if one",
        ),
        ("path,red,blue\nphotos/red/00.png,1,0\n", "images have no class; columns not read: red, blue; if one of them"),
        ("path , label \nphotos/red/00.png , red \n", 'spaces around paths are ignored, as in "photos/red/00.png "'),
        ("path,label\nphotos/red/00.png,nan\n", '"nan" is read as a class name; if the label is missing'),
        (
            "path,label\nphotos/red/00.png,01\nphotos/blue/00.png,1\n",
            'differ only in case, Unicode form or zeros: "01", "1"',
        ),
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
def test_notices_about_unusual_tables(run, folder, content, message):
    """Labels in a column of another name, spaces, labels that may mean a missing one, numbers in two notations."""
    (folder / "t.csv").write_text(content)
    outcome = run("cnn-check", "t.csv", "--table", "classes")
    assert message in outcome.err
    assert len(run("cnn-split", "t.csv", "--ratio", "1").rows) == content.count("png")


def test_spaces_around_groups_are_ignored(run, folder, images):
    """Otherwise one group could be in two splits."""
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


def test_spaces_around_splits_are_ignored(run, folder):
    """As left by pandas and spreadsheets."""
    (folder / "t.csv").write_text("path,label,split\nphotos/red/00.png,red,a \nphotos/blue/00.png,blue,a\n")
    assert len(run("cnn-split", "t.csv", "--ratio", "1", "--split", "a").rows) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "id,label\n1,red\n", "found id, label; if one of them has the image files, rename it to path"),
        ("t.tsv", '"path" "label"\n"1" "a.png" "red"\n', "separated by spaces: save it with tabs or commas"),
        ("t.tsv", '"path"\t"label"\n"1"\t"a.png"\t"red"\n', "if R wrote it, omit the row names"),
        ("t.tsv", 'path\tlabel\na.png\t"a\nred"\n', "line 2 has an unclosed quote"),
        ("t.csv", "TRAIN,photos/red/00.png,red\n", "sed -i '1i split,path,label' t.csv"),
        ("t.csv", "0,photos/red/00.png,red\n", "sed -i '1i column1,path,label' t.csv"),
        (
            "t.json",
            '{\n "path": "photos/red/00.png"\n}\n',
            "an object over several lines; convert it to one object per line (JSON Lines): jq -c . t.json",
        ),
        ("t.json", '{"path": "photos/red/00.png"},\n', 't.json:1: "," after the object; expected one per line'),
        (
            "t.csv",
            "version https://git-lfs.github.com/spec/v1\n",
            "a Git LFS pointer (fetch the file with git lfs pull)",
        ),
    ],
)
def test_unreadable_tables(run, folder, name, content, message):
    """The message names the cause and the remedy."""
    (folder / name).write_text(content)
    assert message in run("cnn-check", name, status=1).err


@pytest.mark.parametrize("separator", [" ", "\t", ","])
def test_rejects_a_list_of_paths_and_labels(run, folder, separator):
    """As in Caffe's train.txt: the header row is missing."""
    listed = f"photos/red/00.png{separator}0\nphotos/blue/00.png{separator}1\n"
    (folder / "train.txt").write_text(listed)
    for words, given, name in (("train.txt", None, "train.txt"), ("-", listed, "standard input")):
        error = run("cnn-check", words, stdin=given, status=1).err
        assert f"{name}: " in error
        assert ("1i path" if separator == " " else "starts with a header row such as path,label") in error
    if separator != " ":
        (folder / "train.txt").write_text(f"path{separator}label\n{listed}")
        assert len(run("cnn-check", "train.txt", "--table", "classes").rows) == 2


def test_rejects_an_image_on_standard_input(run, folder):
    """With and without -0."""
    for words in (["-"], ["-", "-0"]):
        outcome = run("cnn-check", *words, stdin=jpeg(), status=2)
        assert outcome.err.startswith(
            "cnn-check: standard input is a JPEG image, not a list of paths; write it to a file"
        )


def test_rejects_an_image_named_as_a_manifest(run, folder):
    """The message names its format."""
    (folder / "photo.tsv").write_bytes(jpeg())
    assert run("cnn-check", "photo.tsv", status=1).err == "cnn-check: photo.tsv: a JPEG image, not a table\n"


@pytest.mark.parametrize(("kind", "ending"), [("zip", "zip"), ("gztar", "tar.gz"), ("xztar", "tar.xz")])
def test_rejects_an_archive(run, folder, kind, ending):
    """The command in the message unpacks or decompresses it, and the message names the result, which can be read."""
    shutil.make_archive("my photos", kind, "photos")
    shutil.rmtree("photos")
    error = run("cnn-check", f"my photos.{ending}", status=2).err
    assert f"my photos.{ending}: a{'n' if kind == 'zip' else ' compressed'} archive" in error
    command = error.split(" it (")[1].split(") and pass ")[0]
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"no {command.split()[0]} on this machine")
    subprocess.run(command, shell=True, check=True)
    read = error.rstrip().split(") and pass ")[1].removeprefix("the folder ")
    assert len(run("cnn-check", read, "--table", "classes").rows) == 2


def test_rejects_a_spreadsheet(run, folder):
    """By its name, with the remedy."""
    (folder / "labels.xlsx").write_bytes(b"PK\3\4")
    assert "labels.xlsx: a spreadsheet; save it as CSV" in run("cnn-check", "labels.xlsx", status=2).err


def test_folder_called_none(run, folder, images):
    """It is a class, without a notice; in a table the same word may mean a missing label."""
    images("other", **{"None": 1, "red": 1})
    assert "is read as a class name" not in run("cnn-split", "other", "--ratio", "1").err


def test_manifest_of_which_no_image_is_found(run, folder, images):
    """It is an error with the remedy, not a message for each image; the images of a --truth need not exist."""
    images(red=2, blue=2)
    (folder / "lists").mkdir()
    listed = run("cnn-split", "photos", "--ratio", "1,1").out
    (folder / "lists/split.tsv").write_text(listed)
    refused = run("cnn-split", "lists/split.tsv", "--ratio", "1,1", status=1)
    assert refused.err == (
        "cnn-split: lists/split.tsv: none of its 4 images exists, for example lists/photos/blue/00.png: its paths are relative "
        "to the current folder, but are read relative to lists/; pipe it in (- < lists/split.tsv), or write lists with cnn-split "
        "--manifest lists/split.tsv\n"
    )
    (folder / "my lists").mkdir()
    (folder / "my lists/split.tsv").write_text(listed)
    refused = run("cnn-check", "my lists/split.tsv", status=1)
    assert "(- < 'my lists/split.tsv'), or write lists with cnn-split --manifest 'my lists/split.tsv'\n" in refused.err
    assert run("cnn-check", "-", "--table", "classes", stdin=listed).rows
    assert run("cnn-split", "photos", "--ratio", "1,1", "--manifest", "lists/split.tsv").out == ""
    assert run("cnn-check", "lists/split.tsv", "--table", "classes").rows
    gone = "path\tlabel\tsplit\n" + "".join(f"gone/{n}.png\tred\ttrain\n" for n in range(3))
    (folder / "gone.tsv").write_text(gone)
    for name, words in (("cnn-predict", ("-m", "net.onnx")), ("cnn-train", ("-o", "net.pt", "--layers", "conv 4 k3"))):
        refused = run(name, "gone.tsv", *words, status=1)
        assert "gone.tsv: none of its 3 images exists, for example gone/0.png; paths are relative to the" in refused.err
    assert run("cnn-eval", "--truth", "gone.tsv", stdin="path\tlabel\ngone/0.png\tred\n").rows
