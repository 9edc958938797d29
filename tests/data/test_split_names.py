"""Which images are held out, by what is said of them and by where they lie."""

import pytest

from cnnkit.data import split_names
from cnnkit.data.source import ImageFile


@pytest.mark.parametrize(
    ("image", "split"),
    [
        # What is said counts alone, in any case of letters, and is given as it was said
        (ImageFile("cv/train/cat/1.jpg", "cat", "val"), "val"),
        (ImageFile("cv/train/cat/1.jpg", "cat", "Test"), "Test"),
        (ImageFile("cv/val/cat/1.jpg", "cat", "train"), None),
        (ImageFile("cv/test/1.jpg", "test", "fold0"), None),
        # The folder that holds a class's folder
        (ImageFile("cv/val/cat/1.jpg", "cat"), "val"),
        (ImageFile("cv/Holdout/cat/kittens/1.jpg", "cat"), "Holdout"),
        (ImageFile("cv/train/cat/1.jpg", "cat"), None),
        (ImageFile("cv/val/train/cat/1.jpg", "cat"), None),
        (ImageFile("cv/cat/val/1.jpg", "cat"), None),
        (ImageFile("cv/cat/dev/cat/1.jpg", "cat"), "dev"),  # of several folders of that name, any
        # A class that is called like a split
        (ImageFile("cv/test/1.jpg", "test"), None),
        (ImageFile("cv/test/young/1.jpg", "test"), None),
        (ImageFile("cv/val/test/1.jpg", "test"), "val"),
        # No folder of a class: the one that it lies in
        (ImageFile("cv/val/1.jpg", "cat"), "val"),
        (ImageFile("cv/validation/1.jpg"), "validation"),
        (ImageFile("cv/val/deep/1.jpg"), None),
        (ImageFile("cv/1.jpg"), None),
        (ImageFile("cv/test.jpg"), None),
    ],
)
def test_a_split_is_what_is_given_else_what_folders_say(image, split):
    """By the name as it stands there, or nothing."""
    assert split_names.held_out_split(image) == split


def test_the_folder_that_one_stands_in_counts(tmp_path, monkeypatch):
    """A path is seen from the current folder, whose name is part of it."""
    for name, split in (("testing", "testing"), ("photos", None)):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert split_names.held_out_split(ImageFile("1.jpg")) == split
        assert split_names.held_out_split(ImageFile("cat/1.jpg", "cat")) == split


def test_no_name_of_a_training_split_holds_out():
    """All others do, and nothing is both."""
    assert not split_names.TRAIN_NAMES & split_names.HELD_OUT_NAMES
    for names, held in ((split_names.TRAIN_NAMES, False), (split_names.HELD_OUT_NAMES, True)):
        for name in names:
            assert (split_names.held_out_split(ImageFile("1.jpg", split=name)) == name) is held
