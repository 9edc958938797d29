"""Images of a SOURCE."""

import io
import os
import random
import tarfile
from pathlib import Path

import pytest

from cnnkit.data import decode, source
from cnnkit.data.source import ImageFile
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import image_formats


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


def test_first_folder_is_the_label(tmp_path):
    """Deeper folders are ignored, and an image directly in the source has no label."""
    touch(tmp_path, "cat/1.jpg", "cat/kittens/small/2.JPG", "dog/1.jpg", "3.png")
    assert named(find(tmp_path), tmp_path) == [
        ("3.png", None),
        ("cat/1.jpg", "cat"),
        ("cat/kittens/small/2.JPG", "cat"),
        ("dog/1.jpg", "dog"),
    ]


def test_hidden_files_and_other_files_are_ignored(tmp_path):
    """Hidden folders too; extensions are recognized in any case of letters."""
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


def test_every_searched_extension_has_a_decoder():
    """The extensions of the search are those of the allowed decoders."""
    assert frozenset().union(*decode.FORMATS.values()) == image_formats.EXTENSIONS


@pytest.mark.parametrize(
    "name", ["Ünïcödé 🐈", "tab\there", "new\nline", "lead ing", "back\\slash", "quo\"te'", b"latin-\xe9"]
)
def test_any_file_name(tmp_path, name):
    """Labels and files can have any name that the file system accepts, including bytes that are not UTF-8."""
    name = os.fsdecode(name)
    touch(tmp_path, f"{name}/{name}.png")
    (image,) = find(tmp_path)
    assert image.label == name
    assert os.path.exists(image.path)


def test_images_are_ordered_by_name(tmp_path):
    """By the bytes of their names, not in the disk's order; the files of a folder stay together."""
    names = [f"{label}/{number}.png" for label in ("a", "a b", "a-b", "b", "ä", "Z") for number in range(4)]
    orders = []
    for seed in range(3):
        random.Random(seed).shuffle(names)
        touch(tmp_path / str(seed), *names)
        orders.append([name for name, _ in named(find(tmp_path / str(seed)), tmp_path / str(seed))])
    assert orders[0] == orders[1] == orders[2]
    assert [name.split("/")[0] for name in orders[0][::4]] == ["Z", "a", "a b", "a-b", "b", "ä"]


def test_links_are_followed_except_loops(tmp_path):
    """A linked folder is read under the link's label and under its own; a link to a folder above is not followed."""
    touch(tmp_path, "photos/dog/1.jpg")
    (tmp_path / "photos/animals").symlink_to(tmp_path / "photos/dog")
    (tmp_path / "photos/dog/up").symlink_to(tmp_path / "photos")
    assert named(find(tmp_path / "photos"), tmp_path / "photos") == [("animals/1.jpg", "animals"), ("dog/1.jpg", "dog")]


def test_broken_links_and_pipes_are_listed(tmp_path):
    """They are reported when they are read; a pipe called .jpg is not waited for."""
    touch(tmp_path, "cat/1.jpg")
    (tmp_path / "cat/2.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "cat/3.jpg")
    assert named(find(tmp_path), tmp_path) == [("cat/1.jpg", "cat"), ("cat/2.jpg", "cat"), ("cat/3.jpg", "cat")]


def test_unreadable_folder_is_an_error(tmp_path, monkeypatch):
    """A class is not silently dropped because of its permissions."""
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    scandir = os.scandir

    def guarded(path):  # simulated, since root may read everything
        if os.path.basename(path) == "dog":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError):
        find(tmp_path)


def test_split_selects_a_subfolder(tmp_path):
    """The labels are the folders in the split's folder."""
    touch(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg", "val/dog/deep/3.jpg")
    images = find(tmp_path, split="val")
    assert named(images, tmp_path / "val") == [("cat/2.jpg", "cat"), ("dog/deep/3.jpg", "dog")]
    assert {image.split for image in images} == {"val"}


def test_manifest_paths_are_relative_to_its_folder(tmp_path, monkeypatch):
    """Wherever the manifest is; columns may be in any order."""
    touch(tmp_path, "lists/../photos/1.jpg")
    (tmp_path / "lists").mkdir(exist_ok=True)
    manifest = tmp_path / "lists/all.TSV"
    manifest.write_text(
        "label\tweight\tpath\tgroup\tsplit\ncat\t3\t../photos/1.jpg\tg\ttrain\n\t1\t/abs/2.jpg\t\tval\n"
    )
    monkeypatch.chdir(tmp_path)
    assert find("lists/all.TSV") == [
        ImageFile("photos/1.jpg", "cat", "train", "g"),
        ImageFile("/abs/2.jpg", None, "val", None),
    ]
    assert find("lists/all.TSV", split="val") == [ImageFile("/abs/2.jpg", None, "val", None)]
    with pytest.raises(CnnkitError, match=r"no rows with split test; it has train, val"):
        find("lists/all.TSV", split="test")


def test_path_without_extension_is_completed(tmp_path, monkeypatch, caplog):
    """In a table of ids, as for `flow_from_dataframe`, if exactly one image file matches; with one notice."""
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


def test_single_image_is_a_source(tmp_path):
    """With any name; it belongs to no split."""
    touch(tmp_path, ".odd name")
    assert find(tmp_path / ".odd name") == [ImageFile(str(tmp_path / ".odd name"))]
    with pytest.raises(UsageError, match="single image"):
        find(tmp_path / ".odd name", split="val")


def test_sources_keep_their_order(tmp_path):
    """Including standard input."""
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
def test_list_on_standard_input(text, null, paths):
    """One path per line, or separated by NUL; empty lines and Windows line ends are accepted, and names are not interpreted."""
    assert find("-", stdin=text, null=null) == [ImageFile(path) for path in paths]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_manifest_on_standard_input(mark, end):
    """Recognized by its header row, also if written by an editor on Windows."""
    lines = [b"path\tlabel\tsplit", b"a.jpg\tcat\ttrain", b"b\\tc.jpg\tdog\tval"]
    text = mark + end.join(lines) + end
    odd = "b/tc.jpg" if end == b"\r\n" else "b\tc.jpg"  # without other signs, Windows line ends decide
    assert find("-", stdin=text) == [ImageFile("a.jpg", "cat", "train"), ImageFile(odd, "dog", "val")]
    assert find("-", stdin=text, split="val") == [ImageFile(odd, "dog", "val")]


def test_manifest_with_only_paths_on_standard_input():
    """The output of `cut -f 1 split.tsv` is a manifest, and its header row is not an image."""
    assert find("-", stdin=b"path\na.jpg\n") == [ImageFile("a.jpg")]


def test_standard_input_is_read_lazily():
    """The first image is returned before the list has ended."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        os.write(writing, b"a.jpg\n")
        try:
            assert next(iter(source.find(["-"], stdin=pipe))) == ImageFile("a.jpg")
        finally:
            os.close(writing)


def test_error_in_a_manifest_on_standard_input_has_the_line():
    """The number of the broken row."""
    with pytest.raises(FormatError, match=r"standard input:3: 1 fields, but the header row has 2"):
        find("-", stdin=b"path\tlabel\na.jpg\tcat\nb.jpg\n")


def test_rejects_sources_without_images(tmp_path):
    """Each error names the source and the reason."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.tsv").write_text("path\tlabel\n")
    for words, match in [
        (("nowhere",), f"^nowhere: no such image, folder or manifest in {Path.cwd()}$"),
        ((tmp_path / "nowhere",), "nowhere: no such image, folder or manifest$"),
        ((tmp_path / "empty",), "no images found"),
        ((tmp_path / "rows.tsv",), "no rows"),
        (("-",), "standard input is empty"),
        (("s3://bucket/photos-000.tar",), "only local files are read; download it"),
        (("pipe:curl https://host/photos.tar",), "only local files are read; download it"),
    ]:
        with pytest.raises(CnnkitError, match=match):
            find(*words)
    with pytest.raises(CnnkitError, match="no subfolder val; it has none"):
        find(tmp_path / "empty", split="val")
    with pytest.raises(UsageError, match="once"):
        find("-", "-")
    with pytest.raises(UsageError, match="has no splits"):
        find("-", stdin=b"a.jpg\n", split="val")


def test_broken_links_are_reported_when_read(tmp_path):
    """A broken link on the command line does not stop the run: the other images are read."""
    touch(tmp_path, "1.jpg")
    for name, target in (("loop.png", "loop.png"), ("gone.png", "nowhere.png")):
        (tmp_path / name).symlink_to(target)
    names = ["1.jpg", "loop.png", "gone.png"]
    assert [path for path, _ in named(find(*(tmp_path / name for name in names)), tmp_path)] == names


def test_rejects_nul_separated_list_without_the_option():
    """The output of find -print0 is not one long path: the error has the missing option."""
    with pytest.raises(UsageError, match="separated by NUL; add -0"):
        list(source.find(["-"], stdin=io.BytesIO(b"a.jpg\0b.jpg\0")))


@pytest.mark.parametrize("null", [False, True])
def test_rejects_a_tar_archive_on_standard_input(tmp_path, null):
    """It is not a list separated by NUL, although it has many of them."""
    touch(tmp_path, "1.jpg")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "1.jpg", "cat/1.jpg")
    with (
        (tmp_path / "a.tar").open("rb") as file,
        pytest.raises(UsageError, match=r"is a tar archive.*called NAME\.tar"),
    ):
        list(source.find(["-"], stdin=file, null=null))


def test_reads_a_list_of_a_folder_called_like_the_mark_of_tar():
    """`find ./ustar -print0`: the mark of an archive has a byte more, NUL or a space."""
    names = [f"./ustar/{number:04d}.jpg" for number in range(40)]
    shift = next(shift for shift in range(20) if ("x" * shift + "\0".join(names))[257:].startswith("ustar/"))
    names[0] = "x" * shift + names[0]
    listed = io.BytesIO("\0".join(names).encode())
    assert [image.path for image in source.find(["-"], stdin=listed, null=True)] == names


def test_error_for_an_archive_without_usable_members_counts_them(tmp_path):
    """GNU tar -P keeps absolute paths, which are not read."""
    touch(tmp_path, "1.jpg")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("/photos/1.jpg")
        archive.addfile(member)
    with pytest.raises(
        CnnkitError, match=r"no images found \(1 member in tar archives ignored: .*absolute path"
    ) as refusal:
        find(tmp_path / "a.tar")
    assert "no other files" not in str(refusal.value)
