"""Loading the images of a training: memory of the two sets, classes without usable images, and the hash of their content."""

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
    """Make five training and four validation images."""
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
    ("images_of_memory", "kept", "not_kept"),
    [
        (9, (5, 4), []),
        (8, (5, 0), ["validation"]),
        (5, (5, 0), ["validation"]),
        (4, (0, 4), ["training"]),  # memory that is too small for the larger set may be enough for the smaller one
        (3, (0, 0), ["training", "validation"]),
        (0, (0, 0), ["training", "validation"]),
    ],
)
def test_the_training_set_is_kept_first(photos, caplog, images_of_memory, kept, not_kept):
    """A set is kept as a whole or not at all, validation in the memory that is left; a notice names sets that are not kept."""
    with caplog.at_level(logging.INFO):
        train, val = load(photos, cache=images_of_memory * BYTES)
    assert (train.nbytes, val.nbytes) == tuple(count * BYTES for count in kept)
    assert caplog.messages == [
        f"the {name} images do not fit into --cache {images_of_memory * BYTES}: they are read again in every epoch"
        for name in not_kept
    ]


def test_the_budget_is_exact_to_the_byte(photos):
    """With one byte less, a set does not fit."""
    assert load(photos, cache=9 * BYTES - 1)[1].nbytes == 0


def test_progress_counts_both_sets_together(photos):
    """From the first training image to the last validation image."""
    seen = []
    load(photos, progress=lambda *counted: seen.append(counted))
    assert seen == [(done, 9) for done in range(1, 10)]


def test_the_validation_set_is_optional(photos, caplog):
    """It is None, and no notice names it."""
    with caplog.at_level(logging.INFO):
        train, val = load(photos / "train", cache=0)
    assert val is None
    assert len(train.targets) == 5
    assert caplog.messages == ["the training images do not fit into --cache 0: they are read again in every epoch"]


def test_only_training_images_are_augmented_and_measured(photos):
    """Validation images are those of prediction, in every epoch; statistics are measured only with `measured`."""
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
def test_rejects_a_class_without_usable_images(photos, split):
    """In either split; one usable image is enough."""
    bad = [photos / split / "red" / "00.png", *(photos / split / "blue").iterdir()]
    for path in bad[:-1]:
        path.write_bytes(b"not an image")
    skipped = []
    train, val = load(photos, skip=lambda path, reason: skipped.append(path))
    assert skipped == sorted(map(str, bad[:-1]), key=lambda path: "red" in path)
    assert (len(train.targets), len(val.targets)) == ((3, 4) if split == "train" else (5, 2))
    bad[-1].write_bytes(b"not an image")
    with pytest.raises(CnnkitError, match=r"^all images of the class blue were skipped; "):
        load(photos, skip=lambda path, reason: None)


# ---------------------------------------------------------------- content hash


def image_set(*rows):
    """Make a stand-in for a set, with fingerprints and targets."""
    targets = torch.tensor([row for _, row in rows])
    return SimpleNamespace(fingerprints=[name for name, _ in rows], targets=targets, box_targets=None)


def test_accepts_a_class_without_validation_images(photos):
    """Other than a class whose validation images were all skipped."""
    for path in (photos / "val" / "blue").iterdir():
        path.unlink()
    (photos / "val" / "blue").rmdir()
    train, val = load(photos)
    assert sorted(set(train.targets.tolist())) == [0, 1]
    assert set(val.targets.tolist()) == {1}


def test_a_set_without_usable_images_is_not_blamed_on_the_cache(photos, caplog):
    """The notice about --cache is only for images that do not fit."""
    for path in photos.rglob("*.png"):
        path.write_bytes(b"not an image")
    with caplog.at_level(logging.INFO), pytest.raises(CnnkitError, match="were skipped"):
        load(photos, skip=lambda *_: None)
    assert "--cache" not in caplog.text


def test_the_hash_does_not_depend_on_paths(photos, tmp_path):
    """Nor on file names; it depends on the bytes of the files, even if the pixels are equal."""
    first = dataset.content_hash(*load(photos))
    assert first == dataset.content_hash(*load(photos, cache=0, augment="hflip"))
    photos.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    (moved / "train" / "red" / "02.png").rename(moved / "train" / "red" / "zebra.png")
    assert dataset.content_hash(*load(moved)) == first
    with (moved / "val" / "red" / "00.png").open("ab") as file:
        file.write(b"\0")
    assert dataset.content_hash(*load(moved)) != first


def test_the_hash_depends_on_order_class_and_split():
    """All of these differ from each other."""
    a, b, c = ("aa", 0), ("bb", 0), ("cc", 1)
    different = [
        (image_set(a, b, c), image_set(a)),
        (image_set(b, a, c), image_set(a)),
        (image_set(("aa", 1), b, c), image_set(a)),
        (image_set(a, b), image_set(c, a)),
        (image_set(a, b, c, a), None),
        (image_set(a, b, c), None),
        (image_set(a, b, c), image_set(a, a)),
        (image_set(a, b, c), image_set(("aa", 1))),
    ]
    assert len({dataset.content_hash(*parts) for parts in different}) == len(different)
    assert dataset.content_hash(image_set(a, b), image_set(c)) == dataset.content_hash(image_set(a, b), image_set(c))
