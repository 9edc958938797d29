"""The same reading of folders by all commands: split datasets, unusual names, and ignored files."""

import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, classification_report, log_loss

from cnnkit.formats import torch_model
from cnnkit.messages import count_images

SPLITS = {
    "train": {"red": 6, "blue": 6},
    "valid": {"red": 3, "blue": 3},
    "test": {"red": 2, "blue": 2},
}
NET = ("--layers", "conv 4 k3 relu, pool 4, flatten", "--size", "16", "--epochs", "1", "--device", "cpu")
BACKBONE = ("--layers", "conv 6 k3 s2 relu", "--weights", "none", "--size", "16", "--device", "cpu")
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
BELOW = {
    ("red", "train"): 6,
    ("blue", "train"): 6,
    ("red", "valid"): 3,
    ("blue", "valid"): 3,
    ("red", "test"): 2,
    ("blue", "test"): 2,
}


@pytest.fixture(scope="module")
def trained(made):
    """A split dataset in photos/, features of all of it, and a model."""
    return made(
        ("cnn-extract", "photos", "-o", "all.npy", *BACKBONE),
        ("cnn-train", "photos", "-o", "m.pt", *NET),
        photos=SPLITS,
    )


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def counted(rows):
    """Count rows by label and split."""
    keys = [(row["label"], row["split"]) for row in rows]
    return {key: keys.count(key) for key in keys}


def table(path):
    header, *lines = [line.split("\t") for line in Path(path).read_text().splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_labels_are_the_folders_in_the_splits(run, here):
    """Extraction keeps the splits, the model has the classes in them, and cnn-check counts both."""
    assert counted(table("all.tsv")) == BELOW
    assert torch_model.load("m.pt").header.classes == ("blue", "red")
    rows = run("cnn-check", "photos", "--probes", "none", "--table", "classes").rows
    assert [(row["class"], row["train"], row["valid"], row["test"]) for row in rows] == [
        ("blue", "6", "3", "2"),
        ("red", "6", "3", "2"),
    ]


def test_split_dataset_is_split_again_as_a_whole(run, here):
    """With a notice that counts the old splits; the classes are the folders in them, also with -o."""
    outcome = run("cnn-split", "photos", "--ratio", "1,1")
    assert {row["label"] for row in outcome.rows} == {"blue", "red"}
    told = "already split into test 4, train 12, valid 6: all images are split again; to divide only one split, add --split NAME"
    assert told in outcome.err
    assert "already split" not in run("cnn-split", "photos", "--split", "train", "--ratio", "1,1").err
    run("cnn-split", "photos", "--ratio", "1,1", "-o", "again")
    places = [row["path"].split("/") for row in table("again/split.tsv")]
    assert {(split, label) for split, label, *_ in places} == {
        (s, c) for s in ("train", "val") for c in ("blue", "red")
    }
    assert {len(place) for place in places} == {4}  # train/red/test/00.png: files of the old splits have equal names
    assert all(os.path.isfile(os.path.join("again", *place)) for place in places)


def test_truth_and_predictions_of_a_split_dataset(run, here):
    """The true label is the class, not the split."""
    rows = [
        (f"photos/{s}/{c}/{n:02d}.png", c)
        for s, classes in SPLITS.items()
        for c, count in classes.items()
        for n in range(count)
    ]
    predictions = "path\tlabel\n" + "".join(f"{path}\t{label}\n" for path, label in rows)
    found = json.loads(run("cnn-eval", "--truth", "photos", "--json", stdin=predictions).out)
    assert (found["n"], found["accuracy"], found["classes"]) == (22, 1.0, ["blue", "red"])
    assert "no class" in run("cnn-eval", "--truth", "photos", "--folders", "classes", stdin=predictions, status=1).err


def test_maps_and_copies_of_several_splits_do_not_collide(run, here):
    """train/red/00 and test/red/00 are two images with one name."""
    outcome = run("cnn-cam", "-m", "m.pt", "photos", "-o", "cams", "--class", "true", "--device", "cpu")
    assert {row["class"] for row in outcome.rows} == {"blue", "red"}
    drawn = {str(path.relative_to("cams")) for path in Path("cams").rglob("*.png")}
    assert len(drawn) == 22
    assert any(name.startswith("test/red/00") for name in drawn)
    assert "belongs to test" in run("cnn-augment", "photos", "-o", "aug", "--augment", "hflip", status=2).err
    run("cnn-augment", "photos", "-o", "aug", "--augment", "hflip", "--copies", "1", "--force")
    assert len(list(Path("aug").rglob("*.png"))) == 22


def test_features_of_a_split_dataset_keep_their_splits(run, here):
    """The rows of train are trained on, those of valid validate, those of test are not used; with a notice."""
    outcome = run("cnn-train-head", "all.npy", "-o", "head.pt", "--device", "cpu", "--epochs", "2")
    (row,) = outcome.rows
    assert (row["train_rows"], row["val_rows"]) == ("12", "6")
    assert "all.npy: 4 of test not used" in outcome.err
    for split in ("train", "valid"):
        run("cnn-extract", "photos", "--split", split, "-o", f"{split}.npy", *BACKBONE)
    run("cnn-train-head", "train.npy", "--val", "valid.npy", "-o", "same.pt", "--device", "cpu", "--epochs", "2")
    one, other = torch_model.load("head.pt"), torch_model.load("same.pt")
    assert all(np.array_equal(one.state[name], other.state[name]) for name in one.state)
    run("cnn-train-head", "all.npy", "--val", "all.npy", "-o", "third.pt", "--device", "cpu", "--epochs", "2")
    assert all(np.array_equal(torch_model.load("third.pt").state[name], one.state[name]) for name in one.state)


def test_training_commands_accept_a_validation_set_without_a_class(run, here):
    """With the same notice; they reject a class that the training set lacks."""
    shutil.rmtree("photos/valid/red")
    run("cnn-extract", "photos", "-o", "less.npy", *BACKBONE)
    said = "accuracy on this class is not measured"
    assert said in run("cnn-train", "photos", "-o", "a.pt", *NET).err
    assert said in run("cnn-finetune", "m.pt", "photos", "-o", "b.pt", "--epochs", "1", "--device", "cpu").err
    assert said in run("cnn-train-head", "less.npy", "-o", "c.pt", "--device", "cpu", "--epochs", "1").err
    shutil.copytree("photos/train/red", "photos/valid/green")
    run("cnn-extract", "photos", "-o", "more.npy", *BACKBONE)
    for words in (
        ("cnn-train", "photos", "-o", "a.pt", *NET),
        ("cnn-finetune", "m.pt", "photos", "-o", "b.pt", "--device", "cpu"),
        ("cnn-train-head", "more.npy", "-o", "c.pt", "--device", "cpu"),
    ):
        assert "the class green is only in " in run(*words, status=1).err


def test_class_called_test_is_augmented(run, images, monkeypatch):
    """Next to other classes it is a class in every command, and not held out."""
    monkeypatch.chdir(images(car=2, plane=2, test=2).parent)
    outcome = run("cnn-augment", "photos", "-o", "aug", "--augment", "hflip", "--copies", "1")
    assert "photos: test/ is read as a class, like car/ and plane/; to read splits, add --folders splits" in outcome.err
    assert len(list(Path("aug/test").iterdir())) == 2


# ---------------------------------------------------------------- ignored files


@pytest.fixture
def odd(images, monkeypatch):
    """Return a folder of images with unusual names, and one class with only HEIC files."""
    pillow_heif = pytest.importorskip("pillow_heif")
    root = images(red=3, blue=3)
    monkeypatch.chdir(root.parent)
    for name, kind in (("a.download", "JPEG"), ("b", "PNG"), ("c.png", "JPEG"), ("d.nef", "TIFF")):
        Image.effect_noise((20, 20), 90).convert("RGB").save(root / "red" / name, kind)
    (root / "red/notes.txt").touch()
    (root / "frog").mkdir()
    for number in range(2):
        pillow_heif.from_pillow(Image.effect_noise((20, 20), 90).convert("RGB")).save(root / "frog" / f"{number}.HEIC")
    return root


def test_images_with_unusual_names_are_read_with_a_notice(run, odd):
    """Recognized by content; one notice, and --errors lists the images that are not read."""
    outcome = run("cnn-split", "photos", "--ratio", "1,1", "--errors", "left.tsv")
    assert len(outcome.rows) == 3 + 3 + 3 + 2
    notice = next(line for line in outcome.err.splitlines() if "ignored" in line)
    assert (
        "recognized as images by content: 1 .download, 1 without an extension, such as photos/red/a.download" in notice
    )
    assert "ignored 1 .nef, 1 .txt in photos" in notice
    assert (
        f"{count_images(1)} with the extension of another format, such as photos/red/c.png, a JPEG file with the extension .png"
        in outcome.err
    )
    assert [row["path"] for row in table("left.tsv")] == ["photos/red/d.nef"]


def test_check_reports_ignored_files(run, odd):
    """One finding for each image that is not read or has the wrong extension; one for the rest."""
    rows = run("cnn-check", "photos", "--probes", "none").rows
    found = {(row["level"], row["finding"], row["path"]) for row in rows if row["finding"] in ("ignored", "extension")}
    assert found == {
        ("warning", "ignored", "photos/red/d.nef"),
        ("warning", "extension", "photos/red/a.download"),
        ("warning", "extension", "photos/red/b"),
        ("warning", "extension", "photos/red/c.png"),
        ("note", "ignored", ""),
    }
    (note,) = [row["detail"] for row in rows if row["level"] == "note" and row["finding"] == "ignored"]
    assert note == "ignored 1 .nef, 1 .txt"


def test_heic_without_the_extra_is_counted_with_its_remedy(run, odd, hide_heif):
    """A class with only HEIC files is reported, and refused by training commands."""
    hide_heif()
    outcome = run("cnn-split", "photos", "--ratio", "1,1", "--errors", "left.tsv")
    assert {row["label"] for row in outcome.rows} == {"blue", "red"}
    assert "2 .HEIC" in outcome.err
    assert (
        "no image in photos/frog (2 .HEIC; to read them, pip install pillow-heif): not read as a class" in outcome.err
    )
    assert {row["path"] for row in table("left.tsv")} == {
        "photos/frog/0.HEIC",
        "photos/frog/1.HEIC",
        "photos/red/d.nef",
    }
    rows = run("cnn-check", "photos", "--probes", "none").rows
    assert ("label", "photos/frog") in {(row["finding"], row["path"]) for row in rows}
    err = run("cnn-train", "photos", "-o", "a.pt", *NET, status=1).err
    assert "photos/frog: a class without images (2 .HEIC; to read them, pip install pillow-heif)" in err


def test_reports_class_with_only_broken_images(run, images, monkeypatch):
    """Otherwise it would silently be missing from the split."""
    root = images(red=4, blue=4, green=2)
    monkeypatch.chdir(root.parent)
    for path in (root / "green").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    assert (
        f"class green is lost: none of its {count_images(2)} can be used"
        in run("cnn-split", "photos", "--ratio", "1,1", status=3).err
    )
    details = [
        row["detail"] for row in run("cnn-check", "photos", "--probes", "none").rows if row["finding"] == "label"
    ]
    assert details == ["class green is lost: none of its 2 images can be used"]


# ---------------------------------------------------------------- names of classes


def test_labels_with_blanks_are_one_class_and_a_finding(run, images, monkeypatch):
    """The labels "new" and "new "."""
    root = images(new=4, old=4)
    monkeypatch.chdir(root.parent)
    rows = [(path.relative_to(root.parent), path.parent.name) for path in sorted(root.rglob("*.png"))]
    lines = [f"{path}\t{label}{' ' if number == 1 else ''}" for number, (path, label) in enumerate(rows)]
    Path("l.tsv").write_text("\n".join(["path\tlabel", *lines, ""]))
    told = 'class new has 2 spellings: "new", "new "'
    outcome = run("cnn-split", "l.tsv", "--ratio", "1,1")
    assert told in outcome.err
    assert {row["label"] for row in outcome.rows} == {"new", "old"}
    found = run("cnn-check", "l.tsv", "--probes", "none").rows
    assert ("warning", "label", told) in {(row["level"], row["finding"], row["detail"]) for row in found}


def test_unicode_forms_of_a_name_are_one_class(run, here):
    """Folders of macOS, and a manifest, a model and predictions in the usual form."""
    for split in SPLITS:
        os.rename(f"photos/{split}/red", f"photos/{split}/{NFD}")
    run("cnn-train", "photos", "-o", "n.pt", *NET)
    assert torch_model.load("n.pt").header.classes == ("blue", NFC)
    predictions = "path\tlabel\n" + "".join(
        f"photos/test/{folder}/00.png\t{label}\n" for folder, label in ((NFD, NFC), ("blue", NFD))
    )
    for truth in ((), ("--truth", "photos")):
        found = json.loads(run("cnn-eval", *truth, "--json", "--fail-under", f"recall:{NFD}=1", stdin=predictions).out)
        assert (found["accuracy"], found["classes"]) == (0.5, ["blue", NFC])
    maps = run(
        "cnn-cam", "-m", "n.pt", "photos", "--split", "test", "-o", "cams", "--class", NFD, "--device", "cpu"
    ).rows
    assert {row["class"] for row in maps} == {NFC}
    assert "differ only in case, Unicode form or zeros" not in run("cnn-check", "photos", "--probes", "none").out


# ---------------------------------------------------------------- a test set that lacks a class


def test_measures_of_a_test_set_without_a_class_agree_with_scikit_learn(run, tmp_path, monkeypatch):
    """The model has the class owl, but no images of it exist; without any option, a notice names it."""
    monkeypatch.chdir(tmp_path)
    classes = ["cat", "dog", "owl"]
    truth = ["cat"] * 6 + ["dog"] * 4
    generator = np.random.default_rng(3)
    probabilities = generator.multinomial(10, (0.4, 0.3, 0.3), size=10) / 10  # exact with six digits
    predicted = [classes[place] for place in probabilities.argmax(axis=1)]
    assert "owl" in predicted
    rows = [
        f"{label}/{number}.png\t{rank}\t{classes[place]}\t{row[place]:.6f}"
        for number, (label, row) in enumerate(zip(truth, probabilities, strict=True))
        for rank, place in enumerate(np.argsort(-row), start=1)
    ]
    text = "\n".join(["path\trank\tlabel\tprobability", *rows, ""])
    outcome = run("cnn-eval", "--json", stdin=text)
    found = json.loads(outcome.out)
    assert "have no image of owl, which the predictions list" in outcome.err
    expected = classification_report(truth, predicted, labels=classes, output_dict=True, zero_division=np.nan)
    for label in classes:
        ours = found["per_class"][label]
        assert ours["support"] == expected[label]["support"]
        for measure, name in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            value = expected[label][name]
            assert ours[measure] is None if np.isnan(value) else ours[measure] == pytest.approx(value)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert found["log_loss"] == pytest.approx(log_loss(truth, probabilities, labels=classes), abs=1e-5)


def test_prediction_has_no_notices_about_classes(run, here):
    """Labels are not used, so nested folders are not reported; ignored files are."""
    shutil.move("photos", "deep/photos")
    Path("deep/empty").mkdir()
    Path("deep/photos/train/red/x.bin").touch()
    run("cnn-export", "m.pt", "-o", "m.onnx")
    err = run("cnn-predict", "-m", "m.onnx", "deep").err
    assert "ignored 1 .bin in deep" in err
    assert "class" not in err


def test_error_comes_with_notices_about_folders(run, here):
    """A split dataset in another folder gives a single class; the notice has the remedy."""
    shutil.move("photos", "deep/photos")
    err = run("cnn-train", "deep", "-o", "a.pt", *NET, status=1).err
    assert (
        "deep: the classes are its direct subfolders photos; to use the folders in them (test, train, valid) as classes, "
        "give deep/*/ as sources" in err
    )
    assert "only one class, photos" in err
    run("cnn-train", "deep/photos/", "-o", "a.pt", *NET)


# ---------------------------------------------------------------- names of splits on the command line


@pytest.mark.parametrize(
    ("given", "taken"), [("val", "valid"), ("VALID", "valid"), ("Test", "test"), ("testing", "test")]
)
def test_split_accepts_synonyms(run, here, given, taken):
    """val, valid, validation and dev mean the same, in any case of letters, if only one of them exists; with a notice."""
    outcome = run("cnn-split", "photos", "--split", given, "--ratio", "1")
    assert f"photos: --split {given} selects {taken}/" in outcome.err
    assert outcome.out == run("cnn-split", "photos", "--split", taken, "--ratio", "1").out
    whole = run("cnn-split", "photos", "--split", taken, "--names", taken, "--ratio", "1").out
    Path("m.tsv").write_text(whole)
    outcome = run("cnn-split", "m.tsv", "--split", given, "--ratio", "1")
    assert f"m.tsv: --split {given} selects {taken}" in outcome.err
    assert outcome.out.count("\n") == whole.count("\n")


def test_hold_out_and_features_accept_synonyms(run, here):
    """The same rule for rows of features."""
    run("cnn-extract", "photos", "-o", "f.npy", *BACKBONE)
    head = ("cnn-train-head", "f.npy", "--device", "cpu", "--epochs", "1")
    outcome = run(*head, "-o", "a.pt", "--hold-out", "val")
    assert "f.npy: --hold-out val selects valid" in outcome.err
    run(*head, "-o", "b.pt", "--hold-out", "valid")
    kept, other = (torch_model.load(name).state for name in ("a.pt", "b.pt"))
    assert all(np.array_equal(kept[name], other[name]) for name in kept)
    run("cnn-export", "a.pt", "-o", "a.onnx", "--head-only")
    outcome = run("cnn-predict", "-m", "a.onnx", "f.npy", "--split", "VAL")
    assert "f.tsv: --split VAL takes valid" in outcome.err
    assert outcome.out == run("cnn-predict", "-m", "a.onnx", "f.npy", "--split", "valid").out


def test_rejects_ambiguous_split(run, here):
    """If two splits match, none is guessed."""
    shutil.copytree("photos/valid", "photos/dev")
    assert (
        "no subfolder val; it has dev, test, train, valid"
        in run("cnn-split", "photos", "--split", "val", "--ratio", "1", status=1).err
    )


def test_notice_for_splits_given_as_separate_sources(run, here):
    """photos/*/ expands to test, train and valid: one dataset, and the test set would be trained on."""
    told = "test/ and train/ and valid/ are read as one dataset; to keep them as splits, give photos instead"
    several = [f"photos/{split}/" for split in ("test", "train", "valid")]
    assert told in run("cnn-split", *several, "--ratio", "1").err
    assert told in run("cnn-train", *several, "-o", "a.pt", *NET).err
    assert "as one dataset" not in run("cnn-train", "photos/train", "--val", "photos/valid", "-o", "b.pt", *NET).err


def test_notice_for_splits_that_differ_in_case(run, here):
    """Both are training splits."""
    shutil.copytree("photos/train", "photos/Train")
    assert (
        'splits that differ only in case or Unicode form: "Train", "train"'
        in run("cnn-train", "photos", "-o", "a.pt", *NET).err
    )


@pytest.mark.parametrize("split", ["", " ", "/", ".", "..", "../photos/train", "train/red"])
def test_split_must_be_one_name(run, here, split):
    """With an empty name, as from an unset variable, splits would be read as classes; .. leads out of the folder."""
    assert (
        f'--split "{split}": give the name of one split'
        in run("cnn-split", "photos", "--split", split, "--ratio", "1", status=2).err
    )


def test_split_may_end_with_a_slash(run, here):
    """As completed by a shell: train/ is train, also in the output."""
    run("cnn-extract", "photos", "--split", "train/", "-o", "f.npy", *BACKBONE)
    assert {row["split"] for row in table("f.tsv")} == {"train"}


def test_notice_for_an_image_listed_twice(run, here):
    """With two classes it is refused, as in cnn-split; with one it is counted twice."""
    rows = [f"photos/train/{label}/{n:02d}.png\t{label}" for label in ("red", "blue") for n in range(3)]
    Path("m.tsv").write_text("\n".join(["path\tlabel", *rows, rows[0], ""]))
    told = "1 image is listed more than once, and counted each time; the first is photos/train/red/00.png"
    assert told in run("cnn-train", "m.tsv", "-o", "a.pt", *NET).err
    Path("m.tsv").write_text("\n".join(["path\tlabel", *rows, "photos/train/red/00.png\tblue", ""]))
    error = run("cnn-train", "m.tsv", "-o", "a.pt", *NET, status=1).err
    assert "photos/train/red/00.png is listed twice, with classes red and blue; remove one of them" in error


def test_errors_of_arguments_come_without_notices(run, here):
    """Ignored files, unused splits and the device are reported once the work begins, not before an error of the arguments."""
    (here / "photos/train/red/notes.txt").touch()
    for line in (
        "cnn-cam -m none.pt photos",
        "cnn-predict -m none.onnx photos",
        "cnn-extract photos -o x.npy --backbone none",
        "cnn-finetune none.pt photos -o t.pt",
        "cnn-finetune m.pt photos -o t.pt --unfreeze none.3",
        "cnn-train photos -o t.jpg --layers gap",
    ):
        name, *words = line.split()
        refused = run(name, *words, status=None)
        assert refused.status in (1, 2)
        assert refused.err.count("\n") == 1, refused.err
    for name, words in (("cnn-check", ()), ("cnn-extract", ("-o", "x.npy", *BACKBONE))):
        assert run(name, "photos", *words).err.startswith(f"{name}: ignored 1 .txt in photos\n")
