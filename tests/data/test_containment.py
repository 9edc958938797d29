"""Planted files in an output folder: nothing outside of the folder is moved, removed or written."""

import os
import threading
import time

import pytest
from PIL import Image

from cnnkit.data import tree
from cnnkit.data.containment import inside
from cnnkit.errors import CnnkitError

COLUMNS = "from\tpath\tlabel\tsplit\tgroup\n"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.jpg", True),
        ("train/cat/a.jpg", True),
        ("new/./a.jpg", True),
        ("here/a.jpg", True),
        ("..jpg", True),
        ("", False),
        (".", False),
        ("..", False),
        ("train/..", False),
        ("../victim/v.jpg", False),
        ("train/../../victim/v.jpg", False),
        ("train/../a.jpg", False),
        ("out/a.jpg", False),
        ("out/../a.jpg", False),
        ("out/deeper/a.jpg", False),
        ("/etc/passwd", False),
        ("a\0.jpg", False),
        ("split.tsv", False),
        ("Split.TSV", False),
        ("./split.tsv", False),
        ("train/split.tsv", True),
        ("train/", False),
    ],
)
def test_inside_rejects_paths_that_lead_out(tmp_path, path, expected):
    """Through .., absolute paths and links; a link that stays inside is accepted."""
    folder = tmp_path / "sets"
    (folder / "train").mkdir(parents=True)
    (tmp_path / "victim").mkdir()
    (folder / "out").symlink_to("../victim")
    (folder / "here").symlink_to("train")
    (tmp_path / "alias").symlink_to("sets")
    for named in (folder, tmp_path / "alias"):
        assert inside(named, reserved=["split.tsv"])(path) is expected


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Twelve images of two classes in photos/, another folder with a copy of one of them, and an empty folder sets/."""
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        file = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(file)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/v.png").write_bytes((tmp_path / "photos/cat/0.png").read_bytes())
    (tmp_path / "sets").mkdir()
    return tmp_path


def everything(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


SPLIT = ("cnn-split", "photos", "--ratio", "1,1", "-o", "sets")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("../victim/v.png\t../elsewhere.png\tcat\ttrain\t", "lists '../elsewhere.png', which is not a valid path"),
        ("../victim/v.png\ttrain/../../elsewhere.png\tcat\ttrain\t", "which is not a valid path of an image in sets"),
        ("../victim/v.png\t{here}/elsewhere.png\tcat\ttrain\t", "which is not a valid path of an image in sets"),
        ("../victim/v.png\tsplit.tsv\tcat\ttrain\t", "which is not a valid path of an image in sets"),
        ("../victim/v.png\tout/elsewhere.png\tcat\ttrain\t", "sets/out is a link that leads out of sets"),
        ("../victim/v.png\tlink.png\tcat\ttrain\t", "sets/link.png is a link that leads out of sets"),
        ("../victim/v.png\ttrain/cat/v.png\tcat\ttrain\t", "victim/v.png, which is not among the images given"),
        ("{here}/victim/v.png\ttrain/cat/v.png\tcat\ttrain\t", "victim/v.png, which is not among the images given"),
        ("../photos/cat/0.png\t../0.png\tcat\ttrain\t", "lists '../0.png', which is not a valid path"),
    ],
)
def test_planted_moves_are_refused(place, run, row, message):
    """Recorded moves to places outside of the folder, and of images that were not given."""
    (place / "other").mkdir()
    (place / "sets/out").symlink_to("../other")
    (place / "sets/link.png").symlink_to("../other/new.png")
    (place / "sets/.moves.tsv").write_text(COLUMNS + row.format(here=place) + "\n")
    before = everything(place)
    outcome = run(*SPLIT, "--link", "move", status=1)
    assert message in outcome.err
    assert outcome.err.count("\n") <= 3
    assert everything(place) == before


def test_moves_of_the_given_images_are_completed(place, run, monkeypatch):
    """By the same command, from a folder, a manifest and single files; images that are moved already need not be given again."""
    (place / "list.tsv").write_text("path\n" + "".join(f"photos/dog/{number}.png\n" for number in (1, 3, 5)))
    moves = ["cat/0.png", "cat/2.png", "dog/1.png", "dog/3.png", "dog/11.png"]
    lines = [f"../photos/{name}\ttrain/{name}\t{name[:3]}\ttrain\t" for name in moves]
    (place / "sets/.moves.tsv").write_text(COLUMNS + "\n".join(lines) + "\n")
    (place / "sets/train/cat").mkdir(parents=True)
    (place / "photos/cat/0.png").rename(place / "sets/train/cat/0.png")
    sources = ("list.tsv", "photos/cat/0.png", "photos/cat", "photos/dog/11.png")
    run("cnn-split", *sources, "--ratio", "1,1", "-o", "sets", "--link", "move")
    assert sorted(os.listdir(place / "photos/dog")) == ["5.png", "7.png", "9.png"]
    assert sorted(os.listdir(place / "sets/train/cat")) == ["0.png", "2.png"]
    assert not (place / "sets/.moves.tsv").exists()
    (place / "sets/split.tsv").unlink()
    (place / "sets/.moves.tsv").write_text(COLUMNS + lines[0] + "\n")
    run("cnn-split", "gone", "--ratio", "1,1", "-o", "sets", "--link", "move")
    assert (place / "sets/split.tsv").read_text() == "path\tlabel\tsplit\ntrain/cat/0.png\tcat\ttrain\n"


@pytest.mark.parametrize("name", ["split.tsv", ".moves.tsv"])
def test_list_is_not_written_through_a_link(place, run, name):
    """The link's target does not change, whether it exists or not."""
    for target in ("../victim/v.png", "../victim/new"):
        (place / "sets" / name).symlink_to(target)
        before = everything(place / "victim")
        outcome = run(*SPLIT, "--link", "move", "--force", status=None)
        assert everything(place / "victim") == before
        assert "Traceback" not in outcome.err
        for path in (place / "sets").rglob("*.png"):
            (place / "photos" / path.parent.name / path.name).write_bytes(path.read_bytes())
            path.unlink()
        (place / "sets" / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    "listed",
    ["../victim/v.png", "{here}/victim/v.png", "train/../../victim/v.png", "out/v.png", "deep/../v.png", "a\\0b.png"],
)
def test_force_removes_nothing_outside(place, run, listed):
    """--force does not remove a copy of an image in another folder, even if the list names it."""
    (place / "sets/out").symlink_to("../victim")
    (place / "victim/below").mkdir()
    (place / "sets/deep").symlink_to("../victim/below")
    (place / "sets/split.tsv").write_text(f"path\tlabel\tsplit\n{listed.format(here=place)}\tcat\ttrain\n")
    before = everything(place / "victim")
    run(*SPLIT, "--force")
    assert everything(place / "victim") == before
    assert len(list((place / "sets/train").rglob("*.png"))) == 6


@pytest.mark.parametrize("link", ["copy", "symlink", "hardlink", "move"])
@pytest.mark.parametrize("linked", ["train", "train/cat"])
def test_force_writes_nothing_outside(place, run, link, linked):
    """A folder of the split that is a link out of the output folder is refused before anything is written or removed."""
    (place / "sets" / linked).parent.mkdir(exist_ok=True)
    (place / "sets" / linked).symlink_to(place / "victim")
    before = everything(place)
    outcome = run(*SPLIT, "--force", "--link", link, status=1)
    assert f"sets/{linked}" in outcome.err
    assert "is a link that leads out of sets; remove it or choose another folder" in outcome.err
    assert everything(place) == before


def test_links_inside_the_folder_are_followed(place, run):
    """An output folder that is itself a link, and links within it, work like folders."""
    (place / "alias").symlink_to("sets")
    (place / "sets/below").mkdir()
    (place / "sets/train").symlink_to("below")
    run("cnn-split", "photos", "--ratio", "1,1", "-o", "alias", "--force")
    assert len(list((place / "sets/below").rglob("*.png"))) == 6


def test_rejects_a_pipe_in_place_of_an_image(place, run):
    """Without opening it, which would wait for a writer."""
    (place / "sets/train").mkdir()
    os.mkfifo(place / "sets/train/x.png")
    assert "sets/train/x.png already exists, and is not a file" in run(*SPLIT, "--force", status=1).err


def test_rejects_a_second_split_into_the_same_folder(place, run, monkeypatch):
    """The message says that another run is writing; the first run's result is complete."""
    begun, go_on = threading.Event(), threading.Event()
    copy_file = tree.copy_file

    def slow(path, target, **words):
        begun.set()
        assert go_on.wait(20)
        copy_file(path, target, **words)

    def first():
        rows = [tree.ManifestRow(f"photos/cat/{number}.png", "cat", "train") for number in (0, 2, 4)]
        tree.write("sets", rows, digests={})

    monkeypatch.setattr(tree, "copy_file", slow)
    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(20)
    time.sleep(0.05)
    for words in ((), ("--force",)):
        assert "sets: another run is writing it; wait" in run(*SPLIT, *words, status=1).err
    go_on.set()
    thread.join(20)
    assert sorted(os.listdir("sets/train/cat")) == ["0.png", "2.png", "4.png"]
    assert len(everything(place / "sets")) == 4


@pytest.mark.parametrize("name", [".augmented", ".augmenting"])
def test_augment_rejects_a_link_in_place_of_its_folder(place, run, name):
    """Instead of the folder of an interrupted run: nothing is moved through the link."""
    (place / "victim/augment.tsv").write_text("path\tsource\tcopy\nv.png\tx\t0\n")
    (place / "sets" / name).symlink_to("../victim")
    before = everything(place)
    outcome = run("cnn-augment", "photos", "--augment", "hflip", "-o", "sets", status=1)
    assert f"sets/{name} is a link, not a folder made by cnnkit; remove it" in outcome.err
    assert everything(place) == before


def test_augment_moves_only_files_of_its_own_folder(place, run):
    """A file elsewhere stays there, although a planted list in the folder of an interrupted run names it."""
    (place / "sets/.augmented").mkdir()
    (place / "sets/.augmented/out").symlink_to("../../victim")
    (place / "sets/.augmented/augment.tsv").write_text("path\tsource\tcopy\nout/v.png\tx\t1\n")
    before = everything(place)
    outcome = run("cnn-augment", "photos", "--augment", "hflip", "-o", "sets", status=1)
    assert "lists out/v.png, which is outside of" in outcome.err
    assert everything(place) == before


def test_writing_into_locks_the_folder(place):
    """A second run is refused; a new folder is removed again if nothing was written."""
    with tree.writing_into(place / "new/maps", force=False):
        for force in (False, True):
            with (
                pytest.raises(CnnkitError, match="another run is writing it"),
                tree.writing_into(place / "new/maps", force=force),
            ):
                pytest.fail("two runs at once")
    assert not (place / "new").exists()
    with tree.writing_into(place / "new/maps", force=False):
        (place / "new/maps/x").write_bytes(b"")
    with pytest.raises(CnnkitError, match="is not empty"), tree.writing_into(place / "new/maps", force=False):
        pytest.fail("not empty")


def test_force_removes_incomplete_copies_of_a_killed_run(place, run):
    """With the complete copies of that run; other hidden files stay."""
    run(*SPLIT)
    (place / "sets/train/cat/.0123456789abcdef.tmp").write_bytes(b"half")
    (place / "sets/train/cat/.mine.tmp").write_bytes(b"mine")
    run(*SPLIT, "--force")
    hidden = [path.name for path in (place / "sets").rglob(".*")]
    assert hidden == [".mine.tmp"]
