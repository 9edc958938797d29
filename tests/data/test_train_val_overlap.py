"""Images that validate and that training knows: the same file, copies by cnn-augment, and members of one group."""

import shutil

import pytest

from cnnkit.data import train_val
from cnnkit.data.source import ImageFile
from cnnkit.formats import manifest


@pytest.fixture
def here(run, images, tmp_path, monkeypatch):
    """Two copies of each of eight images in copies/, made by cnn-augment out of photos/."""
    images(red=4, blue=4)
    monkeypatch.chdir(tmp_path)
    run("cnn-augment", "photos", "-o", "copies", "--copies", "2", "--augment", "rotate 20")
    return tmp_path


def named(*paths, group=None):
    return [ImageFile(path, "red", None, group) for path in paths]


def test_a_copy_is_known_by_its_original_and_by_other_copies(here):
    """Whichever of the two validates, and by whatever way the folder is reached; another image of the same name is none."""
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


def test_an_image_stands_in_the_first_list_that_it_belongs_to(here):
    """The very file before a copy of it, a copy before the group; no group is no common one."""
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


def test_a_list_of_somebody_elses_is_no_list_of_copies(here):
    """A file of that name without our columns is passed over."""
    (here / "copies" / "augment.tsv").write_text("path\tprice\nred/00~01.png\t3\n")
    assert train_val.find_overlap(named("copies/red/00~01.png"), named("photos/red/00.png")).copied == []


BACKBONE = ("--layers", "conv 4 k3 relu", "--weights", "none", "--size", "16", "--device", "cpu")


def test_the_commands_that_train_warn_of_them(run, here):
    """cnn-train of a folder of copies, and cnn-train-head of features: how many, with an example; the training goes on."""
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
