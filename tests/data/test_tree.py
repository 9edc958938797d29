"""Folders of a split."""

import errno
import hashlib
import os
import shutil
import stat
from pathlib import Path

import pytest

from cnnkit.choices import Link
from cnnkit.data import tree
from cnnkit.errors import CnnkitError
from cnnkit.formats import manifest
from cnnkit.formats.manifest import ManifestRow


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Files of known content, which need not be images; the current folder contains them."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat/1.jpg", "cat/in/1.jpg", "cat/out/1.jpg", "dog/1.jpg", "dog/2.JPG", "dog/3.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(f"content of {name}".encode())
    return tmp_path / "photos"


def rows_of(root="photos", splits=("train", "val")):
    """Assign the images to the splits in turn."""
    found = sorted(os.path.join(below, name) for below, _, names in os.walk(root) for name in names)
    return [
        ManifestRow(path, os.path.relpath(path, root).split("/")[0], splits[number % len(splits)])
        for number, path in enumerate(found)
    ]


def digests_of(rows):
    return {row.path: hashlib.sha256(Path(row.path).read_bytes()).digest() for row in rows}


def write(folder, rows, link=Link.COPY, **words):
    return tree.write(folder, rows, digests=digests_of(rows), link=link, **words)


def contents(root):
    """Map the path of every file, except manifests and hidden files, to its content."""
    return {
        os.path.relpath(os.path.join(below, name), root): Path(below, name).read_bytes()
        for below, _, names in os.walk(root)
        for name in names
        if name != "split.tsv" and not name.startswith(".")
    }


EXPECTED = {
    "train/cat/1.jpg": b"content of cat/1.jpg",
    "val/cat/in/1.jpg": b"content of cat/in/1.jpg",
    "train/cat/out/1.jpg": b"content of cat/out/1.jpg",
    "val/dog/1.jpg": b"content of dog/1.jpg",
    "train/dog/2.JPG": b"content of dog/2.JPG",
    "val/dog/3.jpg": b"content of dog/3.jpg",
}


@pytest.mark.parametrize("link", Link)
def test_images_are_in_folders_by_split_and_class(photos, link):
    """Subfolders are kept; the paths in `split.tsv` are relative to the folder; the sources are unchanged, or moved."""
    before = contents(photos)
    listed = write("new/sets", rows_of(), link)
    assert contents("new/sets") == EXPECTED
    assert manifest.load("new/sets/split.tsv") == listed
    assert {(row.path, row.label, row.split) for row in listed} == {
        (p, p.split("/")[1], p.split("/")[0]) for p in EXPECTED
    }
    assert contents(photos) == ({} if link is Link.MOVE else before)
    assert sorted(os.listdir("new/sets")) == ["split.tsv", "train", "val"]


@pytest.mark.parametrize("link", Link)
def test_progress_counts_images(photos, link):
    """One call per image."""
    steps = []
    write("sets", rows_of(), link, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, 6) for done in range(1, 7)]


def test_copies_keep_times_and_permissions(photos):
    """As with `cp -p`."""
    (photos / "cat/1.jpg").chmod(0o640)
    os.utime(photos / "cat/1.jpg", (1_000_000, 1_000_000))
    write("sets", rows_of())
    found = os.stat("sets/train/cat/1.jpg")
    assert (stat.S_IMODE(found.st_mode), int(found.st_mtime)) == (0o640, 1_000_000)


def test_links_are_relative_or_absolute_as_given(photos, tmp_path):
    """Relative links, so that images and folders can be moved together; absolute ones for absolute paths."""
    write("deep/sets", rows_of(), Link.SYMLINK)
    shutil.move(tmp_path / "photos", tmp_path / "away/photos")
    shutil.move(tmp_path / "deep", tmp_path / "away/deep")
    assert contents("away/deep/sets") == EXPECTED
    write("sets", rows_of(str(tmp_path / "away/photos")), Link.SYMLINK)
    assert os.readlink("sets/train/cat/1.jpg") == str(tmp_path / "away/photos/cat/1.jpg")


def test_hard_links_are_the_same_file(photos):
    """For a symbolic link, the same file as its target."""
    (photos / "cat/4.jpg").symlink_to("1.jpg")
    write("sets", rows_of(splits=("all",)), Link.HARDLINK)
    assert os.path.samefile("sets/all/cat/1.jpg", photos / "cat/1.jpg")
    assert not os.path.islink("sets/all/cat/4.jpg")
    assert os.path.samefile("sets/all/cat/4.jpg", photos / "cat/1.jpg")


def test_files_of_one_name_from_several_folders(photos, tmp_path):
    """From two folders whose only common folder is the root: both are kept, with the folders that distinguish them."""
    (tmp_path / "more/kitten").mkdir(parents=True)
    (tmp_path / "more/kitten/1.jpg").write_bytes(b"another")
    rows = [ManifestRow("photos/cat/1.jpg", "cat", "train"), ManifestRow("more/kitten/1.jpg", "cat", "train")]
    write("sets", rows)
    assert contents("sets") == {
        "train/cat/photos/cat/1.jpg": b"content of cat/1.jpg",
        "train/cat/more/kitten/1.jpg": b"another",
    }


@pytest.mark.parametrize("name", ["tab\there.jpg", "new\nline.jpg", "Ünïcödé 🐈.jpg", os.fsdecode(b"caf\xe9.jpg")])
@pytest.mark.parametrize("link", Link)
def test_any_file_name(tmp_path, monkeypatch, name, link):
    """Names with special characters are kept, and `split.tsv` finds the files; so are labels."""
    monkeypatch.chdir(tmp_path)
    os.makedirs(f"photos/{name}")
    with open(f"photos/{name}/{name}", "wb") as file:
        file.write(b"content")
    write("sets", rows_of(splits=("train",)), link)
    (row,) = manifest.load("sets/split.tsv")
    assert (row.path, row.label) == (f"train/{name}/{name}", name)
    assert os.path.isfile(os.path.join("sets", row.path))


def test_images_without_a_class(photos):
    """They are directly in the split's folder; groups are listed."""
    write("sets", [ManifestRow("photos/dog/1.jpg", None, "train", "g")])
    assert manifest.load("sets/split.tsv") == [ManifestRow("train/1.jpg", None, "train", "g")]


@pytest.mark.parametrize("label", ["a/b", "..", ".hidden", "."])
def test_rejects_labels_that_cannot_be_folders(photos, label):
    """Before anything is written."""
    with pytest.raises(CnnkitError, match="cannot be the name of a folder"):
        write("sets", [ManifestRow("photos/dog/1.jpg", label, "train")])
    assert not os.path.exists("sets")


@pytest.mark.parametrize("link", [Link.COPY, Link.SYMLINK, Link.HARDLINK])
def test_failure_leaves_nothing(photos, tmp_path, link, monkeypatch):
    """A full disk at the fourth image: new folders and files are removed, existing ones stay."""
    owner, name = {Link.COPY: (shutil, "copy2"), Link.SYMLINK: (os, "symlink"), Link.HARDLINK: (os, "link")}[link]
    place, calls = getattr(owner, name), []

    def failing(*words, **named):
        calls.append(words)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device", words[1])
        return place(*words, **named)

    monkeypatch.setattr(owner, name, failing)
    (tmp_path / "new").mkdir()
    with pytest.raises(OSError, match="No space"):
        write("new/deep/sets", rows_of(), link)
    assert list((tmp_path / "new").iterdir()) == []
    assert len(contents(photos)) == 6


def test_incomplete_copies_have_a_temporary_name(photos, monkeypatch):
    """A file gets its name when it is complete."""
    seen = []

    def slow_copy(source, target):
        shutil.copyfile(source, target)
        seen.append(len([name for name in contents("sets") if name in EXPECTED]))

    monkeypatch.setattr(shutil, "copy2", slow_copy)
    write("sets", rows_of())
    assert seen == list(range(6))


class TestForce:
    """Effects and limits of --force."""

    def test_folder_that_is_not_empty_needs_force(self, photos):
        """Whatever it contains; an empty folder does not."""
        os.mkdir("sets")
        write("sets", rows_of())
        with pytest.raises(CnnkitError, match="sets is not empty; choose another folder, or add --force"):
            write("sets", rows_of())

    @pytest.mark.parametrize("before", [Link.COPY, Link.SYMLINK, Link.HARDLINK])
    @pytest.mark.parametrize("after", Link)
    def test_earlier_split_is_replaced(self, photos, before, after):
        """No files of other splits, places or kinds of links remain; unrelated files do."""
        write("sets", rows_of(splits=("val", "train", "extra")), before)
        with open("sets/train/notes.txt", "w") as notes:
            notes.write("keep")
        write("sets", rows_of(), after, force=True)
        assert contents("sets") == EXPECTED | {"train/notes.txt": b"keep"}
        assert {os.path.islink(f"sets/{name}") for name in EXPECTED} == {after is Link.SYMLINK}
        assert sorted(os.listdir("sets")) == ["split.tsv", "train", "val"]

    def test_only_copy_of_an_image_is_not_removed(self, photos):
        """After a move the folder has the only copies: the next split of another folder does not overwrite them."""
        write("sets", rows_of(), Link.MOVE)
        os.makedirs("other/cat")
        with open("other/cat/1.jpg", "wb") as file:
            file.write(b"other")
        with pytest.raises(CnnkitError, match=r"sets/train/cat/1.jpg is the only copy and would be deleted"):
            write("sets", rows_of("other"), force=True)
        assert contents("sets") == EXPECTED
        assert len(manifest.load("sets/split.tsv")) == 6

    def test_only_copy_is_found_without_digests(self, photos):
        """Files that were not read before are read now: copies are replaced, the only copy is not."""
        write("sets", rows_of())
        tree.write("sets", rows_of(), digests=None, force=True)
        assert contents("sets") == EXPECTED
        os.unlink(rows_of()[0].path)
        with pytest.raises(CnnkitError, match="is the only copy and would be deleted"):
            tree.write("sets", rows_of()[1:], digests=None, force=True)

    def test_link_to_a_file_is_not_a_copy(self, photos, tmp_path):
        """An image that is only in the folder is not removed because of a link to it from elsewhere."""
        write("sets", rows_of(), Link.MOVE)
        os.makedirs("links/cat")
        os.symlink(tmp_path / "sets/train/cat/1.jpg", "links/cat/1.jpg")
        with pytest.raises(CnnkitError, match="is the only copy"):
            write("sets", rows_of("links"), force=True)
        assert contents("sets") == EXPECTED

    def test_unrelated_file_is_not_overwritten(self, photos):
        """A file at the place of an image; the earlier split is unchanged."""
        write("sets", rows_of(splits=("val", "train")))
        before = contents("sets")
        os.makedirs("sets/train/cat/1.jpg")
        with pytest.raises(CnnkitError, match=r"sets/train/cat/1.jpg already exists"):
            write("sets", rows_of(), force=True)
        assert contents("sets") == before
        assert len(manifest.load("sets/split.tsv")) == 6

    def test_rejects_output_folder_with_the_images(self, photos):
        """The folder itself, or one above it."""
        for folder in ("photos", "."):
            with pytest.raises(CnnkitError, match="contains the images that are to be split"):
                write(folder, rows_of(), Link.MOVE, force=True)


def fail_at(monkeypatch, function, number, error):
    """Make the n-th call of a function of os fail."""
    real, calls = getattr(os, function), []

    def failing(*words, **more):
        calls.append(words)
        if len(calls) == number:
            raise error
        return real(*words, **more)

    monkeypatch.setattr(os, function, failing)
    return lambda: monkeypatch.setattr(os, function, real)


def everywhere(photos):
    """Return the contents of all images, at their old and new places."""
    return sorted([*contents(photos).values(), *contents("sets").values()])


class TestMove:
    """An interruption loses no image, and the next run completes the move."""

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
    @pytest.mark.parametrize("number", [1, 3, 6])
    def test_interrupted_move_is_resumed(self, photos, monkeypatch, caplog, number, error):
        """After any image: each is in exactly one place, `split.tsv` does not exist, and `finish_moves` completes the move."""
        restore = fail_at(monkeypatch, "rename", number, error)
        with pytest.raises(type(error)):
            write("sets", rows_of(), Link.MOVE)
        restore()
        assert everywhere(photos) == sorted(EXPECTED.values())
        assert not os.path.exists("sets/split.tsv")
        assert "not all images are moved; run the command again to resume" in caplog.text
        assert tree.has_unfinished_moves("sets")
        with pytest.raises(CnnkitError, match="complete it with --link move"):
            tree.check_free("sets", force=True)
        assert tree.finish_moves("sets", "split.tsv") == manifest.load("sets/split.tsv")
        assert contents("sets") == EXPECTED
        assert contents(photos) == {}
        assert not tree.has_unfinished_moves("sets")

    @pytest.fixture
    def other_disk(self, monkeypatch):
        """Make every rename between folders fail, as between disks."""
        rename = os.rename

        def across(source, target):
            if os.path.dirname(source) != os.path.dirname(target):
                raise OSError(errno.EXDEV, "Invalid cross-device link", source)
            rename(source, target)

        monkeypatch.setattr(os, "rename", across)

    def test_move_to_another_disk(self, photos, other_disk):
        """Images are copied, and then removed."""
        write("sets", rows_of(), Link.MOVE)
        assert contents("sets") == EXPECTED
        assert contents(photos) == {}

    @pytest.mark.parametrize("number", [1, 4])
    def test_interrupted_between_copy_and_removal(self, photos, other_disk, monkeypatch, number):
        """An image at both places is removed from the old one."""
        restore = fail_at(monkeypatch, "unlink", number, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write("sets", rows_of(), Link.MOVE)
        restore()
        assert set(everywhere(photos)) == set(EXPECTED.values())
        tree.finish_moves("sets", "split.tsv")
        assert contents("sets") == EXPECTED
        assert contents(photos) == {}

    def test_interrupted_while_copying(self, photos, other_disk, monkeypatch):
        """An incomplete copy is removed."""

        def half(source, target):
            with open(target, "wb") as file:
                file.write(b"half")
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copy2", half)
            with pytest.raises(KeyboardInterrupt):
                write("sets", rows_of(), Link.MOVE)
        assert contents("sets") == {}
        assert [name for _, _, names in os.walk("sets") for name in names] == [".moves.tsv"]
        tree.finish_moves("sets", "split.tsv")
        assert contents("sets") == EXPECTED

    def test_links_are_moved_as_images(self, photos):
        """A relative link would be broken at its new place: its target is copied, and the link removed."""
        (photos / "cat/0.jpg").symlink_to("../dog/1.jpg")
        (photos / "dog/9.jpg").symlink_to("1.jpg")
        write("sets", rows_of(splits=("all",)), Link.MOVE)
        assert contents(photos) == {}
        moved = contents("sets")
        assert moved["all/cat/0.jpg"] == moved["all/dog/9.jpg"] == moved["all/dog/1.jpg"] == b"content of dog/1.jpg"
        assert not any(os.path.islink(f"sets/{name}") for name in moved)

    def test_rejects_image_that_is_missing_at_both_places(self, photos, monkeypatch):
        """If an image was removed in the meantime, the message has both places."""
        restore = fail_at(monkeypatch, "rename", 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write("sets", rows_of(), Link.MOVE)
        restore()
        (photos / "dog/1.jpg").unlink()
        with pytest.raises(CnnkitError, match=r"photos/dog/1.jpg is missing, and is not at sets/val/dog/1.jpg"):
            tree.finish_moves("sets", "split.tsv")
        assert len(everywhere(photos)) == 5

    def test_rejects_another_file_at_the_new_place(self, photos, monkeypatch):
        """It is not overwritten."""
        restore = fail_at(monkeypatch, "rename", 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write("sets", rows_of(), Link.MOVE)
        restore()
        os.makedirs("sets/val/dog", exist_ok=True)
        with open("sets/val/dog/1.jpg", "wb") as file:
            file.write(b"else")
        with pytest.raises(CnnkitError, match=r"sets/val/dog/1.jpg already exists, and is not .*photos/dog/1.jpg"):
            tree.finish_moves("sets", "split.tsv")
        assert contents(photos)["dog/1.jpg"] == b"content of dog/1.jpg"


@pytest.mark.parametrize("link", [Link.SYMLINK, Link.MOVE])
def test_hashes_of_the_content_are_kept_in_the_manifest(tmp_path, link):
    """Also through the record of moves."""
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for path in paths:
        path.write_text(path.name)
    digests = [tree.digest_of(path) for path in paths]
    rows = [ManifestRow(str(path), "x", "train", digest=digest) for path, digest in zip(paths, digests, strict=True)]
    tree.write(tmp_path / "sets", rows, digests=None, link=link)
    listed = manifest.load(tmp_path / "sets" / "split.tsv")
    assert [tree.digest_of(tmp_path / "sets" / row.path) for row in listed] == [row.digest for row in listed] == digests
