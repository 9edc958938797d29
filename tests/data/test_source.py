"""Which images a SOURCE names."""

import io
import os
import random
from pathlib import Path

import pytest

from cnnkit.data import decode, image_formats, source
from cnnkit.data.source import ImageFile
from cnnkit.errors import CnnkitError, FormatError, UsageError


def touch(root, *names):
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass


def find(*sources, stdin=b"", **words):
    return list(source.find([str(word) for word in sources], stdin=io.BytesIO(stdin), **words))


def named(images, root):
    return [(os.path.relpath(image.path, root), image.label) for image in images]


def test_the_first_folder_is_the_label(tmp_path):
    """Deeper folders do not matter, and an image on top has no label."""
    touch(tmp_path, "cat/1.jpg", "cat/kittens/small/2.JPG", "dog/1.jpg", "3.png")
    assert named(find(tmp_path), tmp_path) == [
        ("3.png", None),
        ("cat/1.jpg", "cat"),
        ("cat/kittens/small/2.JPG", "cat"),
        ("dog/1.jpg", "dog"),
    ]


def test_only_images_that_are_not_hidden(tmp_path):
    """Hidden files and folders are passed over, other files too; extensions count in any case of letters."""
    touch(
        tmp_path,
        ".git/a.jpg",
        "cat/.thumb.jpg",
        "cat/.cache/a.jpg",
        "cat/notes.txt",
        "cat/jpg",
        "cat/b.JpEg",
        "cat/c.TIFF",
    )
    assert named(find(tmp_path), tmp_path) == [("cat/b.JpEg", "cat"), ("cat/c.TIFF", "cat")]


def test_every_extension_that_is_searched_for_can_be_read():
    """What a folder search finds is what some decoder is let in for."""
    assert frozenset().union(*decode.FORMATS.values()) == image_formats.EXTENSIONS


@pytest.mark.parametrize(
    "name", ["Ünïcödé 🐈", "tab\there", "new\nline", "lead ing", "back\\slash", "quo\"te'", b"latin-\xe9"]
)
def test_any_name(tmp_path, name):
    """A label and a file may be called whatever the file system takes, bytes that are no UTF-8 included."""
    name = os.fsdecode(name)
    touch(tmp_path, f"{name}/{name}.png")
    (image,) = find(tmp_path)
    assert image.label == name
    assert os.path.exists(image.path)


def test_the_order_is_that_of_names_not_of_the_disk(tmp_path):
    """However files came onto the disk, they are listed by the bytes of their names, a folder's files side by side."""
    names = [f"{label}/{number}.png" for label in ("a", "a b", "a-b", "b", "ä", "Z") for number in range(4)]
    orders = []
    for seed in range(3):
        random.Random(seed).shuffle(names)
        touch(tmp_path / str(seed), *names)
        orders.append([name for name, _ in named(find(tmp_path / str(seed)), tmp_path / str(seed))])
    assert orders[0] == orders[1] == orders[2]
    assert [name.split("/")[0] for name in orders[0][::4]] == ["Z", "a", "a b", "a-b", "b", "ä"]


def test_linked_folders_are_read_and_loops_are_not_followed(tmp_path):
    """A link to a folder is a folder, under the label of the link as well as under its own; a link that leads back up ends."""
    touch(tmp_path, "photos/dog/1.jpg")
    (tmp_path / "photos/animals").symlink_to(tmp_path / "photos/dog")
    (tmp_path / "photos/dog/up").symlink_to(tmp_path / "photos")
    assert named(find(tmp_path / "photos"), tmp_path / "photos") == [("animals/1.jpg", "animals"), ("dog/1.jpg", "dog")]


def test_broken_links_and_pipes_are_listed(tmp_path):
    """What is missing, or no file, is named as bad by whoever reads it; a pipe that is called .jpg is not waited for."""
    touch(tmp_path, "cat/1.jpg")
    (tmp_path / "cat/2.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "cat/3.jpg")
    assert named(find(tmp_path), tmp_path) == [("cat/1.jpg", "cat"), ("cat/2.jpg", "cat"), ("cat/3.jpg", "cat")]


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    """A class is not dropped in silence because of its permissions."""
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    scandir = os.scandir

    def guarded(path):  # root may read everything, so permissions alone do not make this happen
        if os.path.basename(path) == "dog":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError):
        find(tmp_path)


def test_split_picks_a_subfolder(tmp_path):
    """With a split, labels are counted from the split's folder."""
    touch(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg", "val/dog/deep/3.jpg")
    images = find(tmp_path, split="val")
    assert named(images, tmp_path / "val") == [("cat/2.jpg", "cat"), ("dog/deep/3.jpg", "dog")]
    assert {image.split for image in images} == {"val"}


def test_a_manifest_is_seen_from_its_own_folder(tmp_path, monkeypatch):
    """Paths open from the current folder, wherever the manifest lies; columns may be in any order."""
    touch(tmp_path, "lists/../photos/1.jpg")
    (tmp_path / "lists").mkdir(exist_ok=True)
    manifest = tmp_path / "lists/all.TSV"
    manifest.write_text(
        "label\tweight\tpath\tgroup\tsplit\ncat\t3\t../photos/1.jpg\tg\ttrain\n\t1\t/abs/2.jpg\t\tval\n"
    )
    monkeypatch.chdir(tmp_path)
    assert find("lists/all.TSV") == [
        ImageFile("lists/../photos/1.jpg", "cat", "train", "g"),
        ImageFile("/abs/2.jpg", None, "val", None),
    ]
    assert find("lists/all.TSV", split="val") == [ImageFile("/abs/2.jpg", None, "val", None)]
    with pytest.raises(CnnkitError, match=r"no rows with split test; it has train, val"):
        find("lists/all.TSV", split="test")


def test_a_path_without_its_extension_is_completed(tmp_path, monkeypatch, caplog):
    """A table of ids, as `flow_from_dataframe` is given one: where one image file can be meant it is read, and one notice says so."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", logger="cnnkit")
    touch(tmp_path, "p/1.JPG", "p/1.txt", "p/2.0.png", "p/3.jpg", "p/3.png", "p/4", "p/4.jpg", "q/5.jpg")
    rows = ["p/1", "p/2.0", "p/3", "p/4", "p/5", "none/6", "p/7.jpg"]
    (tmp_path / "ids.csv").write_text("\n".join(["path", *rows, ""]))
    (tmp_path / "ids.txt").write_text("\n".join([*rows, ""]))
    expected = ["p/1.JPG", "p/2.0.png", *rows[2:]]
    for listed, stdin in (
        ("ids.csv", ""),
        ("ids.txt", ""),
        ("-", "\n".join(["path", *rows, ""])),
        ("-", "\n".join(rows)),
    ):
        caplog.clear()
        assert [image.path for image in find(listed, stdin=stdin.encode())] == expected
        name = "standard input" if listed == "-" else listed
        assert caplog.messages == [
            f"{name}: 2 paths have no extension; p/1 is read as p/1.JPG",
            f"{name}: p/3 can be 3.jpg or 3.png; write the paths with their extension",
        ]


def test_a_single_image_stands_for_itself(tmp_path):
    """Whatever its name; it belongs to no split."""
    touch(tmp_path, ".odd name")
    assert find(tmp_path / ".odd name") == [ImageFile(str(tmp_path / ".odd name"))]
    with pytest.raises(UsageError, match="single image"):
        find(tmp_path / ".odd name", split="val")


def test_sources_come_in_the_order_given(tmp_path):
    """Several sources follow one another, standard input at its place."""
    touch(tmp_path, "b/1.jpg", "a/1.jpg")
    found = find(tmp_path / "b", "-", tmp_path / "a", stdin=b"x.png\n")
    assert [os.path.relpath(image.path, tmp_path) for image in found if image.path != "x.png"] == [
        "b/1.jpg",
        "a/1.jpg",
    ]
    assert found[1] == ImageFile("x.png")


@pytest.mark.parametrize(
    ("text", "null", "paths"),
    [
        (b"a.jpg\nb c.jpg\n", False, ["a.jpg", "b c.jpg"]),
        (b"a.jpg\r\nb.jpg", False, ["a.jpg", "b.jpg"]),
        (b"\n\na.jpg\n\n", False, ["a.jpg"]),
        (b"back\\tslash.jpg\n", False, ["back\\tslash.jpg"]),
        (b"new\nline.jpg\0path\0tab\t.jpg\0", True, ["new\nline.jpg", "path", "tab\t.jpg"]),
        (b"a.jpg\0b.jpg", True, ["a.jpg", "b.jpg"]),
        (b"caf\xe9.jpg\n", False, [os.fsdecode(b"caf\xe9.jpg")]),
    ],
)
def test_a_list_on_standard_input(text, null, paths):
    """One path a line, or between NULs; empty lines and Windows line ends do no harm, and nothing in a name is interpreted."""
    assert find("-", stdin=text, null=null) == [ImageFile(path) for path in paths]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_manifest_on_standard_input(mark, end):
    """A header row makes a manifest of a list, as an editor on Windows writes it, too."""
    lines = [b"path\tlabel\tsplit", b"a.jpg\tcat\ttrain", b"b\\tc.jpg\tdog\tval"]
    text = mark + end.join(lines) + end
    odd = "b/tc.jpg" if end == b"\r\n" else "b\tc.jpg"  # where neither is there, line ends of Windows decide
    assert find("-", stdin=text) == [ImageFile("a.jpg", "cat", "train"), ImageFile(odd, "dog", "val")]
    assert find("-", stdin=text, split="val") == [ImageFile(odd, "dog", "val")]


def test_a_manifest_of_paths_alone_on_standard_input():
    """`cut -f 1 split.tsv` leaves a manifest, whose header row is no image."""
    assert find("-", stdin=b"path\na.jpg\n") == [ImageFile("a.jpg")]


def test_standard_input_is_read_as_far_as_it_is_asked():
    """The first image is there before the list has come to its end."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        os.write(writing, b"a.jpg\n")
        try:
            assert next(iter(source.find(["-"], stdin=pipe))) == ImageFile("a.jpg")
        finally:
            os.close(writing)


def test_a_broken_manifest_on_standard_input_names_the_line():
    """The error points at the row."""
    with pytest.raises(FormatError, match=r"standard input:3: 1 fields, but the header row has 2"):
        find("-", stdin=b"path\tlabel\na.jpg\tcat\nb.jpg\n")


def test_sources_that_name_nothing(tmp_path):
    """Each is an error that says what was looked for."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.tsv").write_text("path\tlabel\n")
    for words, match in [
        (("nowhere",), rf"^nowhere: no such image, folder or manifest \(the current folder is {Path.cwd().name}/\)$"),
        ((tmp_path / "nowhere",), "nowhere: no such image, folder or manifest$"),
        ((tmp_path / "empty",), "no images found"),
        ((tmp_path / "rows.tsv",), "no rows"),
        (("-",), "standard input is empty"),
    ]:
        with pytest.raises(CnnkitError, match=match):
            find(*words)
    with pytest.raises(CnnkitError, match="no subfolder val; it has none"):
        find(tmp_path / "empty", split="val")
    with pytest.raises(UsageError, match="once"):
        find("-", "-")
    with pytest.raises(UsageError, match="has no splits"):
        find("-", stdin=b"a.jpg\n", split="val")


def test_links_that_lead_nowhere_are_named_by_whoever_reads_them(tmp_path):
    """Named on the command line they end no run: the other images are read."""
    touch(tmp_path, "1.jpg")
    for name, target in (("loop.png", "loop.png"), ("gone.png", "nowhere.png")):
        (tmp_path / name).symlink_to(target)
    names = ["1.jpg", "loop.png", "gone.png"]
    assert [path for path, _ in named(find(*(tmp_path / name for name in names)), tmp_path)] == names


def test_a_list_by_nul_without_saying_so():
    """A list that find -print0 wrote is not one long path: the option that is missing is named."""
    with pytest.raises(UsageError, match="separated by NUL; add -0"):
        list(source.find(["-"], stdin=io.BytesIO(b"a.jpg\0b.jpg\0")))
