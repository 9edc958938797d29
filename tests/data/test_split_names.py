"""Held-out images, by their split and by their folders."""

import pytest

from cnnkit.data import split_names
from cnnkit.data.source import ImageFile


@pytest.mark.parametrize(
    ("image", "split"),
    [
        # A given split decides, in any case of letters, and is returned as given
        (ImageFile("cv/train/cat/1.jpg", "cat", "val"), "val"),
        (ImageFile("cv/train/cat/1.jpg", "cat", "Test"), "Test"),
        (ImageFile("cv/val/cat/1.jpg", "cat", "train"), None),
        (ImageFile("cv/test/1.jpg", "test", "fold0"), None),
        # The folder above a class folder
        (ImageFile("cv/val/cat/1.jpg", "cat"), "val"),
        (ImageFile("cv/Holdout/cat/kittens/1.jpg", "cat"), "Holdout"),
        (ImageFile("cv/train/cat/1.jpg", "cat"), None),
        (ImageFile("cv/val/train/cat/1.jpg", "cat"), None),
        (ImageFile("cv/cat/val/1.jpg", "cat"), None),
        (ImageFile("cv/cat/dev/cat/1.jpg", "cat"), "dev"),  # any of several folders of that name
        # A class named like a split
        (ImageFile("cv/test/1.jpg", "test"), None),
        (ImageFile("cv/test/young/1.jpg", "test"), None),
        (ImageFile("cv/val/test/1.jpg", "test"), "val"),
        # Without a class folder, the image's own folder
        (ImageFile("cv/val/1.jpg", "cat"), "val"),
        (ImageFile("cv/validation/1.jpg"), "validation"),
        (ImageFile("cv/val/deep/1.jpg"), None),
        (ImageFile("cv/1.jpg"), None),
        (ImageFile("cv/test.jpg"), None),
    ],
)
def test_held_out_split_of_an_image(image, split):
    """Its given split, otherwise by its folders."""
    assert split_names.held_out_split(image) == split


def test_current_folder_is_part_of_the_path(tmp_path, monkeypatch):
    """For a relative path, the name of the current folder counts."""
    for name, split in (("testing", "testing"), ("photos", None)):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert split_names.held_out_split(ImageFile("1.jpg")) == split
        assert split_names.held_out_split(ImageFile("cat/1.jpg", "cat")) == split


def test_only_training_splits_are_not_held_out():
    """All other split names are held out, and no name is both."""
    assert not split_names.TRAIN_NAMES & split_names.HELD_OUT_NAMES
    for names, held in ((split_names.TRAIN_NAMES, False), (split_names.HELD_OUT_NAMES, True)):
        for name in names:
            assert (split_names.held_out_split(ImageFile("1.jpg", split=name)) == name) is held
