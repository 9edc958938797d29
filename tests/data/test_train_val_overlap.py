"""Overlap of training and validation set: the same file, copies by cnn-augment, and images of one group."""

import shutil

import pytest

from cnnkit.data import train_val
from cnnkit.data.source import ImageFile
from cnnkit.formats import manifest


@pytest.fixture
def here(run, images, tmp_path, monkeypatch):
    """Two copies of each of eight images in photos/, made by cnn-augment in copies/."""
    images(red=4, blue=4)
    monkeypatch.chdir(tmp_path)
    run("cnn-augment", "photos", "-o", "copies", "--copies", "2", "--augment", "rotate 20")
    return tmp_path


def named(*paths, group=None):
    return [ImageFile(path, "red", None, group) for path in paths]


def test_copies_overlap_with_their_original_and_each_other(here):
    """Whichever of the two is in the validation set, under any path; another image of the same name is not a copy."""
    (here / "other" / "red").mkdir(parents=True)
    shutil.copy("photos/red/01.png", "other/red/00.png")
    (here / "linked").symlink_to("copies")
    copy, original = named("linked/red/00~01.png"), named("photos/red/00.png")
    others = named("other/red/00.png", "photos/red/01.png", "photos/blue/00.png")
    found = train_val.find_overlap(copy, [*original, *others])
    assert (found.same, found.copied, found.grouped) == ([], original, [])
    assert train_val.find_overlap(original, copy).copied == copy
    assert train_val.find_overlap(named("copies/red/00~02.png"), copy).copied == copy
    assert train_val.find_overlap(copy, named("copies/red/01~02.png")).copied == []


def test_each_image_is_listed_once(here):
    """The same file before a copy, a copy before the group; images without a group have none in common."""
    train = [
        *named("photos/red/00.png", group="a"),
        *named("copies/red/01~01.png", group="a"),
        *named("photos/red/03.png"),
    ]
    val = [
        *named("photos/red/../red/00.png", group="a"),
        *named("photos/red/01.png", group="a"),
        *named("photos/red/02.png", group="a"),
        *named("photos/blue/00.png", group="b"),
        *named("photos/blue/01.png"),
    ]
    found = train_val.find_overlap(train, val)
    assert (found.same, found.copied, found.grouped) == (val[:1], val[1:2], val[2:3])


def test_images_in_memory_of_two_files_are_different(here):
    """Both are called image 0; as a file of that name they would be one."""
    train, val = named("copies/image 0"), named("copies/image 0")
    found = train_val.find_overlap(train, val)
    assert (found.same, found.copied) == ([], [])
    (here / "copies" / "image 0").touch()
    assert train_val.find_overlap(train, val).same == val


def test_crops_overlap_with_their_file_and_its_other_crops(here):
    """Under the name of a link, too; the same box is the same image."""
    (here / "link.png").symlink_to("photos/red/00.png")
    train = named("photos/red/00.png#xywh=1,1,9,9")
    same, other, whole = named("link.png#xywh=1,1,9,9"), named("link.png#xywh=2,1,9,9"), named("link.png")
    found = train_val.find_overlap(train, [*same, *other, *whole, *named("photos/red/01.png#xywh=1,1,9,9")])
    assert (found.same, found.cropped, found.copied) == (same, [*other, *whole], [])


def test_other_files_named_augment_tsv_are_ignored(here):
    """Without the columns of cnn-augment."""
    (here / "copies" / "augment.tsv").write_text("path\tprice\nred/00~01.png\t3\n")
    assert train_val.find_overlap(named("copies/red/00~01.png"), named("photos/red/00.png")).copied == []


BACKBONE = ("--layers", "conv 4 k3 relu", "--weights", "none", "--size", "16", "--device", "cpu")


def test_training_commands_warn_of_the_overlap(run, here):
    """cnn-train with a folder of copies, and cnn-train-head with features: number and example; the training continues."""
    rows = [row for row in manifest.load("copies/augment.tsv") if "0~" in row.path]
    manifest.save(
        "photos/some.tsv", [manifest.ManifestRow("red/00.png", "red"), manifest.ManifestRow("blue/00.png", "blue")]
    )
    net = ("--layers", "conv 4 k3 relu, gap", "--size", "16", "--epochs", "1", "--device", "cpu")
    said = run("cnn-train", "copies", "--val", "photos/some.tsv", "-o", "m.pt", *net).err
    assert "2 validation images have augmented copies in the training set, such as photos/red/00.png: " in said
    (here / "apart").mkdir()
    manifest.save(
        "apart/grouped.tsv", [manifest.ManifestRow(f"../copies/{row.path}", row.label, None, row.group) for row in rows]
    )
    manifest.save(
        "photos/grouped.tsv",
        [manifest.ManifestRow(f"{row.label}/03.png", row.label, None, row.group) for row in rows[::2]],
    )
    for name in ("apart/grouped", "photos/grouped", "photos/some"):
        run("cnn-extract", f"{name}.tsv", "-o", f"{name.replace('/', '-')}.npy", *BACKBONE)
    words = ("cnn-train-head", "apart-grouped.npy", "-o", "m.pt", "--solver", "lbfgs", "--device", "cpu")
    said = run(*words, "--val", "photos-grouped.npy").err
    assert "2 validation images belong to a group of the training set, such as photos/" in said
    assert (
        "2 validation images have augmented copies in the training set" in run(*words, "--val", "photos-some.npy").err
    )
