"""Which pictures are held out, by what is said of them and by where they lie."""

import pytest

from cnnkit.data import held_out
from cnnkit.data.source import Picture


@pytest.mark.parametrize(
    ("picture", "part"),
    [
        # What is said counts alone, in any case of letters, and is given as it was said
        (Picture("cv/train/cat/1.jpg", "cat", "val"), "val"),
        (Picture("cv/train/cat/1.jpg", "cat", "Test"), "Test"),
        (Picture("cv/val/cat/1.jpg", "cat", "train"), None),
        (Picture("cv/test/1.jpg", "test", "fold0"), None),
        # The folder that holds a class's folder
        (Picture("cv/val/cat/1.jpg", "cat"), "val"),
        (Picture("cv/Holdout/cat/kittens/1.jpg", "cat"), "Holdout"),
        (Picture("cv/train/cat/1.jpg", "cat"), None),
        (Picture("cv/val/train/cat/1.jpg", "cat"), None),
        (Picture("cv/cat/val/1.jpg", "cat"), None),
        (Picture("cv/cat/dev/cat/1.jpg", "cat"), "dev"),  # of several folders of that name, any
        # A folder of parts that was read as one of classes
        (Picture("cv/test/cat/1.jpg", "test"), "test"),
        (Picture("cv/train/cat/1.jpg", "train"), None),
        # No folder of a class: the one that it lies in
        (Picture("cv/val/1.jpg", "cat"), "val"),
        (Picture("cv/validation/1.jpg"), "validation"),
        (Picture("cv/val/deep/1.jpg"), None),
        (Picture("cv/1.jpg"), None),
        (Picture("cv/test.jpg"), None),
    ],
)
def test_a_part_is_what_is_said_else_what_folders_say(picture, part):
    """By the name as it stands there, or nothing."""
    assert held_out.part_of(picture) == part


def test_the_folder_that_one_stands_in_counts(tmp_path, monkeypatch):
    """A path is seen from the current folder, whose name is part of it."""
    for name, part in (("testing", "testing"), ("photos", None)):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert held_out.part_of(Picture("1.jpg")) == part
        assert held_out.part_of(Picture("cat/1.jpg", "cat")) == part


def test_no_name_of_a_training_part_holds_out():
    """All others do, and nothing is both."""
    assert not held_out.TRAIN_NAMES & held_out.NAMES
    for names, held in ((held_out.TRAIN_NAMES, False), (held_out.NAMES, True)):
        for name in names:
            assert (held_out.part_of(Picture("1.jpg", split=name)) == name) is held
