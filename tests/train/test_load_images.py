"""The images of a training: how training and validation set share memory, what bad ones empty, and what makes them these and no others."""

import logging
from types import SimpleNamespace

import pytest
import torch

from cnnkit.callbacks import Callbacks
from cnnkit.choices import Fit
from cnnkit.data import train_val
from cnnkit.errors import CnnkitError
from cnnkit.formats.header import Preprocess
from cnnkit.train import dataset
from cnnkit.train.config import ImageTrainConfig, RunConfig

SIZE = 8
BYTES = SIZE * SIZE * 3  # of one image
SQUARE = Preprocess(fit=Fit.SQUASH, resize=SIZE, size=SIZE)


@pytest.fixture
def photos(images):
    """Five images to train and four to validate."""
    images("photos/train", red=3, blue=2)
    return images("photos/val", red=2, blue=2).parent


def load(folder, *, cache=1 << 20, augment=None, measured=False, skip=None, progress=lambda done, total: None, val=()):
    return dataset.load_train_val(
        train_val.find([str(folder)], list(val)),
        SQUARE,
        ImageTrainConfig(augment=augment),
        RunConfig(cache=str(cache), jobs=1),
        device=torch.device("cpu"),
        measured=measured,
        callbacks=Callbacks(**({"skip": skip} if skip else {}), progress=progress),
    )


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("images_of_memory", "kept", "said"),
    [
        (9, (5, 4), []),
        (8, (5, 0), ["validation"]),
        (5, (5, 0), ["validation"]),
        (4, (0, 4), ["training"]),  # what the larger set cannot use, the smaller one may
        (3, (0, 0), ["training", "validation"]),
        (0, (0, 0), ["training", "validation"]),
    ],
)
def test_training_has_the_first_claim_on_memory(photos, caplog, images_of_memory, kept, said):
    """A set is kept whole or not at all, validation in what training leaves; what is read in every epoch is named."""
    with caplog.at_level(logging.INFO):
        train, val = load(photos, cache=images_of_memory * BYTES)
    assert (train.nbytes, val.nbytes) == tuple(count * BYTES for count in kept)
    assert caplog.messages == [
        f"--cache does not hold the pictures for {name}: they are read in every epoch" for name in said
    ]


def test_one_byte_less_is_too_little(photos):
    """A budget is the last byte that may be taken."""
    assert load(photos, cache=9 * BYTES - 1)[1].nbytes == 0


def test_progress_counts_both_parts_as_one(photos):
    """One bar from the first image for training to the last one for validation."""
    seen = []
    load(photos, progress=lambda *counted: seen.append(counted))
    assert seen == [(done, 9) for done in range(1, 10)]


def test_without_validation_there_is_no_second_part(photos, caplog):
    """Nothing is said of what is not there."""
    with caplog.at_level(logging.INFO):
        train, val = load(photos / "train", cache=0)
    assert val is None
    assert len(train.targets) == 5
    assert caplog.messages == ["--cache does not hold the pictures for training: they are read in every epoch"]


def test_only_training_images_are_changed_and_measured(photos):
    """Validation sees them as prediction does, in every epoch; nothing is measured unless that is wanted."""
    train, val = load(photos, augment="vflip, rotate 90", measured=True)
    assert train.statistics is not None
    assert val.statistics is None
    for split, changes in ((train, True), (val, False)):
        rows = [torch.arange(len(split.targets))]
        (plain,), (shown,) = split.inputs(rows, None), split.inputs(rows, 1)
        assert torch.equal(plain, shown) is not changes
    assert load(photos)[0].statistics is None


# ---------------------------------------------------------------- bad images


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_that_bad_images_empty_is_refused_by_name(photos, split):
    """In either split; a class that keeps one image is none."""
    bad = [photos / split / "red" / "00.png", *(photos / split / "blue").iterdir()]
    for path in bad[:-1]:
        path.write_bytes(b"no picture")
    skipped = []
    train, val = load(photos, skip=lambda path, reason: skipped.append(path))
    assert skipped == sorted(map(str, bad[:-1]), key=lambda path: "red" in path)
    assert (len(train.targets), len(val.targets)) == ((3, 4) if split == "train" else (5, 2))
    bad[-1].write_bytes(b"no picture")
    with pytest.raises(CnnkitError, match=r"^no picture of the class blue could be used$"):
        load(photos, skip=lambda path, reason: None)


# ---------------------------------------------------------------- identity


def told(*rows):
    """Stand in for a set: its fingerprints and targets."""
    return SimpleNamespace(fingerprints=[name for name, _ in rows], targets=torch.tensor([row for _, row in rows]))


def test_a_class_that_nothing_validates_is_no_emptied_one(photos):
    """It had no images there to begin with."""
    for path in (photos / "val" / "blue").iterdir():
        path.unlink()
    (photos / "val" / "blue").rmdir()
    train, val = load(photos)
    assert sorted(set(train.targets.tolist())) == [0, 1]
    assert set(val.targets.tolist()) == {1}


def test_files_that_are_not_images_are_not_reported_as_too_many(photos, caplog):
    """Nothing is kept of them, for another reason than --cache."""
    for path in photos.rglob("*.png"):
        path.write_bytes(b"no picture")
    with caplog.at_level(logging.INFO), pytest.raises(CnnkitError, match="could be used"):
        load(photos, skip=lambda *_: None)
    assert "--cache" not in caplog.text


def test_the_same_images_elsewhere_are_the_same_training(photos, tmp_path):
    """Under other names, too; another content, even of the same pixels, is another one."""
    first = dataset.content_hash(*load(photos))
    assert first == dataset.content_hash(*load(photos, cache=0, augment="hflip"))
    photos.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    (moved / "train" / "red" / "02.png").rename(moved / "train" / "red" / "zebra.png")
    assert dataset.content_hash(*load(moved)) == first
    with (moved / "val" / "red" / "00.png").open("ab") as file:
        file.write(b"\0")
    assert dataset.content_hash(*load(moved)) != first


def test_another_order_class_or_part_is_another_training():
    """Each of these differs from all others, and none from itself."""
    a, b, c = ("aa", 0), ("bb", 0), ("cc", 1)
    different = [
        (told(a, b, c), told(a)),
        (told(b, a, c), told(a)),
        (told(("aa", 1), b, c), told(a)),
        (told(a, b), told(c, a)),
        (told(a, b, c, a), None),
        (told(a, b, c), None),
        (told(a, b, c), told(a, a)),
        (told(a, b, c), told(("aa", 1))),
    ]
    assert len({dataset.content_hash(*parts) for parts in different}) == len(different)
    assert dataset.content_hash(told(a, b), told(c)) == dataset.content_hash(told(a, b), told(c))
