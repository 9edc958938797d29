"""Training and validation images of folders, manifests and lists, and the errors."""

import io

import pytest

from cnnkit.data import train_val
from cnnkit.errors import CnnkitError, UsageError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(images):
    return [image.path for image in images]


def manifest(*rows, columns="path\tlabel\tsplit"):
    return "\n".join([columns, *("\t".join(row) for row in rows)]) + "\n"


DIVIDED = manifest(
    *[(f"{split}-{label}.png", label, split) for split in ("train", "val", "test") for label in ("cat", "dog")]
)


def test_folder_with_both_splits(here):
    """train/ and val/ as written by cnn-split; test/ is not used, and may be incomplete."""
    touch(here, "p/train/dog/1.png", "p/train/cat/1.png", "p/val/cat/2.png", "p/val/dog/2.png", "p/test/bird/3.png")
    found = train_val.find(["p"])
    assert (names(found.train), names(found.val)) == (
        ["p/train/cat/1.png", "p/train/dog/1.png"],
        ["p/val/cat/2.png", "p/val/dog/2.png"],
    )
    assert found.classes == ("cat", "dog")
    assert [image.label for image in found.val] == ["cat", "dog"]


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_manifest_with_both_splits(here, way):
    """Its rows of train and val, without those of test; the same from a pipe."""
    (here / "split.tsv").write_text(DIVIDED)
    found = (
        train_val.find(["split.tsv"]) if way == "file" else train_val.find(["-"], stdin=io.BytesIO(DIVIDED.encode()))
    )
    assert (names(found.train), names(found.val)) == (
        ["train-cat.png", "train-dog.png"],
        ["val-cat.png", "val-dog.png"],
    )


def test_folder_without_splits_is_for_training(here):
    """Deeper folders belong to the class above; without --val there is no validation set."""
    touch(here, "p/cat/young/1.png", "p/dog/1.png", "p/.cache/1.png")
    found = train_val.find(["p"])
    assert (names(found.train), found.val) == (["p/cat/young/1.png", "p/dog/1.png"], ())


def test_val_overrides_the_split_of_the_sources(here):
    """A folder of classes, or the split val of a split dataset; several are combined."""
    touch(here, "p/train/cat/1.png", "p/train/dog/1.png", "p/val/cat/2.png", "p/val/dog/2.png")
    touch(here, "q/cat/3.png", "q/dog/3.png", "r/train/cat/4.png", "r/val/cat/5.png")
    assert names(train_val.find(["p"], ["q"]).val) == ["q/cat/3.png", "q/dog/3.png"]
    assert names(train_val.find(["p"], ["q", "r"]).val)[2:] == ["r/val/cat/5.png"]
    assert names(train_val.find(["p/train"], ["p"]).val) == names(train_val.find(["p"]).val)


@pytest.mark.parametrize(
    ("sources", "val", "message"),
    [
        (["p"], ["q", "only"], r"^only: no split val in it; give the folder or manifest of the validation images$"),
        (["tested.tsv"], [], r"^tested\.tsv: no split train in it; make one with cnn-split, or"),
        (["one"], [], r"^only one class, cat; training needs at least two$"),
        (["hole"], [], r"^hole/dog: a class without images; add images, or remove the folder$"),
        (["p"], ["hole"], r"^hole/dog: a class without images"),
        (["p"], ["three"], r"^the class bird is only in val; train has cat, dog: add images"),
        (["parts"], [], r"^parts/train/3\.png: no label, but training images need one; "),
        (["loose"], [], r"^loose/3\.png: no label, but training images need one; put them into class folders, or give a manifest"),
        (["p"], ["loose"], r"^loose/3\.png: no label, but validation images need one; "),
        (["plain.tsv"], [], r"no label, but training images need one"),
        (["no-such"], [], "no-such"),
    ],
)  # fmt: skip
def test_rejects_unusable_sources(here, sources, val, message):
    """An empty class, a single class, a class only in val, no labels, no such split: what, where, remedy."""
    touch(here, "p/cat/1.png", "p/dog/1.png", "q/cat/9.png", "q/dog/9.png", "one/cat/1.png")
    touch(here, "hole/cat/6.png", "hole/dog/notes.txt", "loose/3.png", "parts/train/3.png", "parts/test/4.png")
    touch(here, *(f"three/{label}/7.png" for label in ("bird", "cat", "dog")), "plain.png")
    (here / "only").mkdir()
    touch(here, "only/train/cat/1.png", "only/train/dog/1.png")
    (here / "tested.tsv").write_text(manifest(("a.png", "cat", "test"), ("b.png", "dog", "test")))
    (here / "plain.tsv").write_text(manifest(("plain.png",), columns="path"))
    with pytest.raises(CnnkitError, match=message):
        train_val.find(sources, val)


def test_warns_of_class_without_validation_images(here, caplog):
    """Such as a rare class; the others are validated."""
    touch(here, *(f"three/{label}/7.png" for label in ("bird", "cat", "dog")), "p/cat/1.png", "p/dog/1.png")
    assert train_val.find(["three"], ["p"]).classes == ("bird", "cat", "dog")
    assert "no images of bird in val; accuracy on this class is not measured" in caplog.messages


def test_class_can_be_called_train(here, caplog):
    """Its folder contains images, that of a split class folders; folders next to splits are ignored, with a notice."""
    caplog.set_level("INFO", logger="cnnkit")
    touch(here, "p/car/1.png", "p/plane/2.png", "p/train/3.png", "p/train/.cache/4.png")
    found = train_val.find(["p"])
    assert (found.classes, len(found.train), found.val) == (("car", "plane", "train"), 3, ())
    assert caplog.messages == [
        "p: train/ is read as a class, like car/ and plane/; to read splits, add --folders splits"
    ]
    caplog.clear()
    touch(here, "q/train/car/1.png", "q/train/plane/2.png", "q/val/car/3.png", "q/val/plane/4.png", "q/wolf/5.png")
    touch(here, "q/test/car/6.png", "q/.git/7.png")
    found = train_val.find(["q"])
    assert (found.classes, len(found.train), len(found.val)) == (("car", "plane"), 2, 2)
    assert caplog.messages == [
        "q: not used: 1 of test",
        "q: test/, train/ and val/ are read as splits, and wolf/ ignored; to read all as classes, add --folders classes",
    ]


def test_rejects_image_in_both_sets(here):
    """Under any path."""
    touch(here, "p/cat/1.png", "p/dog/1.png", "q/cat/2.png")
    (here / "q" / "dog").symlink_to(here / "p" / "dog")
    with pytest.raises(UsageError, match=r"^q/dog/1\.png is both a training and a validation image; "):
        train_val.find(["p"], ["q"])


@pytest.mark.parametrize(
    ("train", "name"),
    [
        ("train", "val"),
        ("train", "valid"),
        ("train", "validation"),
        ("training", "dev"),
        ("Training", "Validation"),
    ],
)
def test_synonyms_of_splits(images, tmp_path, train, name):
    """The textbook's folders are train and validation; a manifest may have dev; Testing is not a class."""
    images(f"photos/{train}", red=3, blue=3)
    images("photos/Testing", red=1, blue=1)
    images(f"photos/{name}", red=2, blue=2)
    found = train_val.find([str(tmp_path / "photos")])
    assert (len(found.train), len(found.val)) == (6, 4)
    rows = [f"{image.path}\t{image.label}\t{train}" for image in found.train]
    rows += [f"{image.path}\t{image.label}\t{name}" for image in found.val]
    (tmp_path / "split.tsv").write_text("\n".join(["path\tlabel\tsplit", *rows]) + "\n")
    assert len(train_val.find([str(tmp_path / "split.tsv")]).val) == 4


def test_unused_rows_are_counted(images, tmp_path, caplog):
    """Rows of test, and rows without a split among others, are not used, with a notice."""
    root = images(red=3, blue=3)
    named = [(f"photos/{path.parent.name}/{path.name}", path.parent.name) for path in sorted(root.rglob("*.png"))]
    splits = ["train", "test", "", "train", "test", "test"]
    rows = [f"{path}\t{label}\t{split}" for (path, label), split in zip(named, splits, strict=True)]
    (tmp_path / "split.tsv").write_text("\n".join(["path\tlabel\tsplit", *rows]) + "\n")
    with caplog.at_level("INFO", logger="cnnkit"):
        found = train_val.find([str(tmp_path / "split.tsv")])
    assert len(found.train) == 2
    assert "not used: 3 of test, 1 of no split" in caplog.text


# ---------------------------------------------------------------- --hold-out


FOLDS = manifest(
    *[(f"{split}-{label}.png", label, split) for split in ("fold0", "fold1", "fold2") for label in ("cat", "dog")]
)


@pytest.mark.parametrize("way", ["manifest", "stdin", "folder"])
def test_hold_out_trains_on_the_other_folds(here, way):
    """Folds of cnn-split --folds, in a manifest or in folders."""
    (here / "folds.tsv").write_text(FOLDS)
    touch(here, *(f"p/fold{fold}/{label}/{fold}.png" for fold in range(3) for label in ("cat", "dog")))
    source = {"manifest": "folds.tsv", "stdin": "-", "folder": "p"}[way]
    found = train_val.find([source], hold_out="fold1", stdin=io.BytesIO(FOLDS.encode()))
    assert {image.split for image in found.train} == {"fold0", "fold2"}
    assert {image.split for image in found.val} == {"fold1"}
    assert (len(found.train), len(found.val), found.classes) == (4, 2, ("cat", "dog"))


@pytest.mark.parametrize("test", ["test", "Testing", "holdout"])
def test_hold_out_does_not_train_on_the_test_set(here, caplog, test):
    """Under any of its names; val is trained on if another split is held out."""
    caplog.set_level("INFO", logger="cnnkit")
    (here / "split.tsv").write_text(DIVIDED.replace("\ttest\n", f"\t{test}\n").replace("train", "fold0"))
    found = train_val.find(["split.tsv"], hold_out="fold0")
    assert (names(found.train), names(found.val)) == (
        ["val-cat.png", "val-dog.png"],
        ["fold0-cat.png", "fold0-dog.png"],
    )
    assert caplog.messages == [f"split.tsv: not used: 2 of {test}"]


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        (FOLDS, "fold7", r"^l\.tsv: no split fold7 to hold out; it has fold0, fold1, fold2$"),
        (FOLDS.replace("\tfold1\n", "\t\n"), "fold0", r"^l\.tsv: fold1-cat\.png is in no split; --hold-out needs every image to"),
        (manifest(("a.png", "cat"), columns="path\tlabel"), "fold0", r"no split fold0 to hold out; it has none; make some"),
        (FOLDS.replace("fold2", "test").replace("fold1", "test"), "fold0", r"^l\.tsv: no split except fold0 to train on"),
        (FOLDS.replace("dog\tfold1", "cat\tfold1").replace("dog\tfold2", "cat\tfold2"), "fold0", "only one class, cat"),
        (FOLDS.replace("dog\tfold0", "bird\tfold0"), "fold0", "^the class bird is only in fold0; train has cat, dog: add"),
    ],
)  # fmt: skip
def test_rejects_splits_that_cannot_be_held_out(here, text, split, message):
    """Unknown (the error lists the splits), next to images in no split, the only split, or with classes of its own."""
    (here / "l.tsv").write_text(text)
    with pytest.raises(CnnkitError, match=message.replace("fold1-cat", ".*fold1-cat")):
        train_val.find(["l.tsv"], hold_out=split)


def test_rejects_val_together_with_hold_out(here):
    """Both give the validation set."""
    with pytest.raises(UsageError, match=r"^--val and --hold-out both name a validation set; give one of them$"):
        train_val.find(["p"], ["q"], hold_out="fold0")
