"""cnn-check: findings of the command on real files."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def noise(seed, *, size=(40, 32)):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clean(here):
    """Make photos/ with 24 JPEG images of one size without any leak."""
    for number in range(24):
        folder = here / "photos" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise(number).save(folder / f"{number:02d}.jpg", quality=90)
    return here / "photos"


def found(outcome):
    return [(row["level"], row["finding"], row["path"], row["other"]) for row in outcome.rows]


def test_a_clean_set_has_no_findings(run, clean):
    """Only the header row; the next command is on stderr."""
    outcome = run("cnn-check", "photos", "--fail")
    assert outcome.out == "level\tfinding\tpath\tother\tdetail\n"
    assert "0 errors, 0 warnings, 0 notes" in outcome.err
    assert "24 images for training, 12 of each of 2 classes: a small dataset" in outcome.err
    assert "next: cnn-split photos --ratio 70,15,15 > split.tsv" in outcome.err


def make_mess(folder):
    """Add one of each kind of finding to a clean set."""
    (folder / "dog" / "empty.jpg").write_bytes(b"")
    (folder / "dog" / "text.png").write_bytes(b"no image")
    (folder / "dog" / "cut.jpg").write_bytes((folder / "dog" / "01.jpg").read_bytes()[:-200])
    noise(100).save(folder / "cat" / "named.gif", format="PNG")
    shutil.copy(folder / "cat" / "00.jpg", folder / "cat" / "again.jpg")
    shutil.copy(folder / "cat" / "02.jpg", folder / "dog" / "other.jpg")
    with Image.open(folder / "cat" / "04.jpg") as image:
        image.resize((80, 64)).save(folder / "cat" / "larger.jpg")
    with Image.open(folder / "cat" / "06.jpg") as image:
        image.convert("CMYK").save(folder / "dog" / "printed.jpg")
    exif = Image.Exif()
    exif[274] = 3
    noise(101).save(folder / "dog" / "turned.jpg", exif=exif)
    exif[274] = 11
    noise(102).save(folder / "dog" / "nonsense.jpg", exif=exif)
    noise(103, size=(4, 32)).save(folder / "cat" / "tiny.jpg")
    noise(104, size=(400, 300)).save(folder / "cat" / "huge.jpg")
    noise(105).save(folder / "loose.jpg")


MESS = [
    ("error", "empty", "dog/empty.jpg", ""),
    ("error", "broken", "dog/cut.jpg", ""),
    ("error", "broken", "dog/text.png", ""),
    ("error", "identical", "dog/other.jpg", "cat/02.jpg"),
    ("error", "alike", "dog/printed.jpg", "cat/06.jpg"),
    ("error", "label", "loose.jpg", ""),
    ("warning", "extension", "cat/named.gif", ""),
    ("warning", "size", "cat/huge.jpg", ""),
    ("warning", "size", "cat/tiny.jpg", ""),
    ("warning", "exif", "dog/nonsense.jpg", ""),
    ("note", "size", "cat/tiny.jpg", ""),
    ("note", "exif", "dog/turned.jpg", ""),
    ("note", "mode", "dog/printed.jpg", ""),
    ("note", "identical", "cat/again.jpg", "cat/00.jpg"),
    ("note", "alike", "cat/larger.jpg", "cat/04.jpg"),
]


def test_each_kind_of_finding_is_reported_once(run, clean):
    """In the order of severity, with the other image of each pair."""
    make_mess(clean)
    outcome = run("cnn-check", "photos", "--probes", "none")
    seen = [(level, kind, *(path.removeprefix("photos/") for path in paths)) for level, kind, *paths in found(outcome)]
    # Of two files that are the same the one that comes first by its name is the first
    assert seen == [(*row[:2], *row[2:]) for row in MESS[:-2]] + [
        ("note", "identical", "cat/again.jpg", "cat/00.jpg"),
        ("note", "alike", "cat/larger.jpg", "cat/04.jpg"),
    ]
    details = {row["path"].removeprefix("photos/"): row["detail"] for row in outcome.rows if row["level"] != "note"}
    assert details["dog/other.jpg"] == "labels cat and dog"
    assert details["dog/printed.jpg"].endswith("; labels cat and dog")
    assert "with the extension .gif" in details["cat/named.gif"]
    assert "6 errors, 4 warnings, 5 notes; the exit status is 0, with --fail it is 4\n" in outcome.err
    assert "next: look at the errors, then cnn-check photos --fix clean.tsv" in outcome.err


def test_small_images_are_not_compared_as_near_duplicates(run, here):
    """At 8 x 8 pixels only exact duplicates are found; a notice says so."""
    (here / "photos" / "cat").mkdir(parents=True)
    tiny = noise(0, size=(8, 8))
    for name, image in (("0", tiny), ("1", tiny), ("2", tiny.point(lambda value: value + 1))):
        image.save(here / "photos" / "cat" / f"{name}.png")
    outcome = run("cnn-check", "photos", "--probes", "none")
    assert [row[1] for row in found(outcome) if row[0] == "note"] == ["identical"]
    assert "3 images with a side below 32 pixels: too small to be compared as near duplicates" in outcome.err


def test_fail_makes_findings_exit_4_and_notes_do_not(run, clean):
    """After the findings are written."""
    shutil.copy(clean / "cat" / "00.jpg", clean / "cat" / "again.jpg")
    assert found(run("cnn-check", "photos", "--fail"))[0][:2] == ("note", "identical")
    (clean / "dog" / "empty.jpg").write_bytes(b"")
    outcome = run("cnn-check", "photos", "--fail", "--probes", "none", status=4)
    assert [kind for _, kind, _, _ in found(outcome)] == ["empty", "identical"]
    assert "1 error, 0 allowed" in outcome.err
    assert run("cnn-check", "photos", "--probes", "none").status == 0


def named_after(*paths):
    """Return the name of a new group: it depends on the content of its images, and not on other groups."""
    return "alike-" + min(hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths)[:12]


def test_a_test_set_alone_can_be_divided(run, clean):
    """Its images have classes; what is missing is a training set."""
    rows = [
        (f"photos/{path.relative_to(clean)}", path.parent.name, "test", "") for path in sorted(clean.rglob("*.jpg"))
    ]
    manifest(*rows)
    outcome = run("cnn-check", "split.tsv", "--probes", "none")
    (line,) = (line for line in outcome.err.splitlines() if "for training" in line)
    assert line.startswith("cnn-check: no image for training: 24 images of test; next, ")
    command = line.rpartition(": ")[2]
    assert command == "cnn-split split.tsv --ratio 70,15,15 > split.tsv"
    divided = run("cnn-split", "split.tsv", "--ratio", "70,15,15")
    assert {row["split"] for row in divided.rows} == {"train", "val", "test"}


def test_a_fixed_set_is_split_and_found_clean(run, clean):
    """Without broken, duplicate and contradictory images; near duplicates are one group, which cnn-split keeps together."""
    make_mess(clean)
    (clean / "loose.jpg").unlink()
    run("cnn-check", "photos", "--fix", "lists/clean.tsv", "--probes", "none", status=1)  # there is no such folder
    os.mkdir("lists")
    outcome = run("cnn-check", "photos", "--fix", "lists/clean.tsv", "--probes", "none")
    assert "lists/clean.tsv: 28 of 36 images; left out: not an image 3, contradictory labels 4, copies 1" in outcome.err
    assert "28 images for training, 14 of each" in outcome.err
    header, *rows = [line.split("\t") for line in Path("lists/clean.tsv").read_text().splitlines()]
    assert header == ["path", "label", "split", "group"]
    assert all(path.startswith("../photos/") for path, *_ in rows)
    groups = {path.removeprefix("../photos/"): group for path, _, _, group in rows}
    gone = {
        "dog/empty.jpg",
        "dog/text.png",
        "dog/cut.jpg",
        "cat/again.jpg",
        "cat/02.jpg",  # the same as the next one, which is called a dog
        "dog/other.jpg",
        "cat/06.jpg",  # a near duplicate
        "dog/printed.jpg",
    }
    assert not gone & set(groups)
    alike = named_after("photos/cat/04.jpg", "photos/cat/larger.jpg")
    assert {name: group for name, group in groups.items() if group} == {"cat/04.jpg": alike, "cat/larger.jpg": alike}
    left = run("cnn-check", "lists/clean.tsv", "--probes", "none")
    assert [row for row in found(left) if row[0] == "error"] == []
    split = run("cnn-split", "lists/clean.tsv", "--ratio", "0.5,0.5").rows
    splits = {}
    for row in split:
        if row["group"]:
            splits.setdefault(row["group"], set()).add(row["split"])
    assert [len(each) for each in splits.values()] == [1]


def manifest(*rows):
    lines = ["\t".join(row) for row in [("path", "label", "split", "group"), *rows]]
    Path("split.tsv").write_text("".join(f"{line}\n" for line in lines))


def test_duplicates_in_two_splits_are_errors(run, clean):
    """Exact and near duplicates, and groups; a class missing in a split is a warning. The fixed manifest has no errors."""
    shutil.copy("photos/cat/00.jpg", "copy.jpg")
    with Image.open("photos/cat/02.jpg") as image:
        image.resize((80, 64)).save("large.jpg")
    manifest(
        ("photos/cat/00.jpg", "cat", "train", ""),
        ("copy.jpg", "cat", "test", ""),
        ("photos/cat/02.jpg", "cat", "val", ""),
        ("large.jpg", "cat", "train", ""),
        ("photos/dog/01.jpg", "dog", "train", "litter"),
        ("photos/dog/03.jpg", "dog", "val", "litter"),
        ("photos/dog/05.jpg", "dog", "train", "litter"),
    )
    outcome = run("cnn-check", "split.tsv", "--probes", "none", "--fix", "clean.tsv")
    errors = [
        (row["finding"], row["path"], row["other"], row["detail"]) for row in outcome.rows if row["level"] == "error"
    ]
    assert errors[0] == ("identical", "copy.jpg", "photos/cat/00.jpg", "in train and test")
    assert errors[1][:3] == ("alike", "large.jpg", "photos/cat/02.jpg")
    assert errors[1][3].endswith("; in val and train")
    assert errors[2] == ("group", "photos/dog/03.jpg", "photos/dog/01.jpg", "group litter is in train and val")
    warnings = [row["detail"] for row in outcome.rows if row["level"] == "warning"]
    assert "no image of class dog in test" in warnings
    kept = [line.split("\t")[0] for line in Path("clean.tsv").read_text().splitlines()[1:]]
    assert kept == ["copy.jpg", "photos/cat/02.jpg", "photos/dog/01.jpg", "photos/dog/03.jpg", "photos/dog/05.jpg"]
    left = run("cnn-check", "clean.tsv", "--probes", "none").rows
    assert [row["finding"] for row in left if row["level"] == "error"] == ["group"]


def test_folders_of_splits_are_splits(run, clean):
    """The class of train/cat/0.jpg is cat; the table of classes counts by split."""
    for split, first in (("train", 0), ("test", 12)):
        for number in range(first, first + 12):
            label = ("cat", "dog")[number % 2]
            os.makedirs(f"sets/{split}/{label}", exist_ok=True)
            shutil.copy(f"photos/{label}/{number:02d}.jpg", f"sets/{split}/{label}")
    shutil.copy("photos/cat/00.jpg", "sets/test/cat/leak.jpg")
    outcome = run("cnn-check", "sets", "--probes", "none")
    assert found(outcome)[0] == ("error", "identical", "sets/train/cat/00.jpg", "sets/test/cat/leak.jpg")
    rows = run("cnn-check", "sets", "--probes", "none", "--table", "classes").rows
    assert [(row["class"], row["images"], row["test"], row["train"]) for row in rows] == [
        ("cat", "13", "7", "6"),
        ("dog", "12", "6", "6"),
    ]
    assert {row["width"] for row in rows} == {"40"}


@pytest.mark.parametrize(("widths", "leaks"), [((40, 44), ["width", "aspect", "bytes"]), ((40, 40), [])])
def test_size_that_predicts_the_class_is_a_leak(run, here, widths, leaks):
    """One class is 10 % wider; with equal sizes there is no leak. The table of probes has all of them."""
    for number in range(60):
        folder = here / "photos" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise(number, size=(widths[number % 2], 32)).save(folder / f"{number:02d}.jpg")
    outcome = run(
        "cnn-check", "photos", "--fail", "--probes", "width,height,aspect,bytes,quality", status=4 if leaks else 0
    )
    told = [row["detail"].partition(" alone")[0] for row in outcome.rows if row["finding"] == "leak"]
    assert sorted(told) == sorted(leaks)
    if leaks:
        probes = run(
            "cnn-check", "photos", "--table", "probes", "--probes", "width,height,bytes", "--json"
        ).out.splitlines()
        width, *_ = [record for record in map(json.loads, probes) if record["probe"] == "width"]
        assert (width["target"], width["accuracy"], width["chance"], width["leaks"]) == ("class", 1.0, 0.5, True)
        assert {json.loads(line)["probe"] for line in probes} == {"width", "bytes"}  # all are 32 high


def test_properties_may_leak_only_together(run, here):
    """Cats are square, dogs are not: neither width nor height predicts the class alone. A single leak suppresses the joint one."""
    sizes = {"cat": [(40, 40), (60, 60)], "dog": [(40, 60), (60, 40)]}
    for number in range(80):
        label = ("cat", "dog")[number % 2]
        folder = here / "photos" / label
        folder.mkdir(parents=True, exist_ok=True)
        noise(number, size=sizes[label][number // 2 % 2]).save(folder / f"{number:02d}.png")
    outcome = run("cnn-check", "photos", "--probes", "width,height,together")
    (leak,) = [row["detail"] for row in outcome.rows if row["finding"] == "leak"]
    assert leak.startswith("sizes, file and name together predict the class with a balanced accuracy of 100.0%")
    outcome = run("cnn-check", "photos", "--probes", "width,height,aspect,together")
    (leak,) = [row["detail"] for row in outcome.rows if row["finding"] == "leak"]
    assert leak.startswith("aspect alone predicts the class")


def test_time_leaks_but_label_letters_do_not(run, here):
    """Two series taken within a minute are separated by time; a label that is a letter of a file name is not a leak."""
    for number in range(60):
        exif = Image.Exif()
        exif[306] = f"2016:11:22 10:00:{number:02d}"
        folder = here / "photos" / ("i" if number < 30 else "k")
        folder.mkdir(parents=True, exist_ok=True)
        noise(number).save(folder / f"img_{number * 37 % 60:04d}.jpg", exif=exif)
    outcome = run("cnn-check", "photos", "--probes", "time,name")
    (leak,) = [row["detail"] for row in outcome.rows if row["finding"] == "leak"]
    assert leak.startswith("time alone predicts the class")


def test_a_series_of_each_class_is_a_note(run, here):
    """Most sets are taken class by class: --fail passes, and the next command is not about leaks."""
    for number in range(60):
        folder = here / "photos" / ("cat" if number < 30 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        noise(number).save(folder / f"img_{number:04d}.png")
    outcome = run("cnn-check", "photos", "--probes", "order", "--fail")
    (leak,) = [row for row in outcome.rows if row["finding"] == "leak"]
    assert leak["level"] == "note"
    assert leak["detail"].startswith("order alone predicts the class with a balanced accuracy of ")
    assert "may share light, place and camera settings; cnn-split --group keeps a series together" in leak["detail"]
    assert "learn" not in leak["detail"]
    assert "next: cnn-split photos --ratio 70,15,15" in outcome.err


def test_features_of_only_one_split_are_not_probed(run, clean):
    """Missing features would predict the split, so features are not probed; a notice says so."""
    rows = run("cnn-split", "photos", "--ratio", "0.5,0.5").out
    Path("split.tsv").write_text(rows)
    run("cnn-extract", "split.tsv", "--split", "train", "-o", "train.npy", *BACKBONE)
    words = ("split.tsv", "--features", "train.npy", "--similarity", "1", "--table", "probes", "--probes", "bytes")
    outcome = run("cnn-check", *words)
    assert {row["probe"] for row in outcome.rows} == {"bytes"}
    assert "12 of 24 images have no features; no neighbours" in outcome.err


def test_too_few_to_be_probed_is_reported(run, clean):
    """Only one image of a group is probed: three groups per class are too few for cross-validation."""
    manifest(
        *((f"photos/{('cat', 'dog')[n % 2]}/{n:02d}.jpg", ("cat", "dog")[n % 2], "", f"g{n % 6}") for n in range(24))
    )
    outcome = run("cnn-check", "split.tsv", "--table", "probes")
    assert outcome.rows == []
    assert "no leak probes of the class: fewer than 5 unrelated images in cat, dog" in outcome.err


def test_plain_images_are_not_near_duplicates(run, clean):
    """Black and white images are not alike, though both are plain."""
    for name, colour in (("black", 0), ("white", 255), ("nearly", 2)):
        Image.new("RGB", (40, 40), (colour,) * 3).save(clean / "dog" / f"{name}.png")
    outcome = run("cnn-check", "photos", "--probes", "none")
    plain = [f"photos/dog/{name}.png" for name in ("black", "nearly", "white")]
    assert [row[:3] for row in found(outcome) if row[1] != "mode"] == [("warning", "plain", path) for path in plain]


def test_next_command_works(run, clean):
    """For folds, for splits, and for a list."""
    folds = run("cnn-split", "photos", "--folds", "3").out
    Path("folds.tsv").write_text(folds)
    said = run("cnn-check", "folds.tsv", "--probes", "none").err
    assert "next: cnn-extract folds.tsv -o features.npy && cnn-train-head features.npy --hold-out fold0" in said
    Path("split.tsv").write_text(run("cnn-split", "photos", "--ratio", "2,1").out)
    assert "next: cnn-extract split.tsv --split train" in run("cnn-check", "split.tsv", "--probes", "none").err
    assert "next: cnn-extract - < LIST -o" in run("cnn-check", "-", "--probes", "none", stdin=folds).err


def test_property_that_predicts_the_split_is_a_leak(run, here):
    """Training images were taken with one camera, test images with another."""
    rows = []
    (here / "all").mkdir()
    for number in range(60):
        exif = Image.Exif()
        split = "train" if number < 40 else "test"
        exif[272] = {"train": "old", "test": "new"}[split]
        noise(number).save(here / "all" / f"{number:02d}.jpg", exif=exif)
        rows.append((f"all/{number:02d}.jpg", ("cat", "dog")[number % 2], split, ""))
    manifest(*rows)
    outcome = run("cnn-check", "split.tsv", "--probes", "camera,width")
    (leak,) = [row["detail"] for row in outcome.rows if row["finding"] == "leak"]
    assert leak.startswith("camera alone predicts the split with a balanced accuracy of 100.0%")


BACKBONE = ["--layers", "conv 8 k3 s2 relu, conv 8 k3 s2 relu", "--weights", "none", "--size", "32", "--device", "cpu"]


def test_neighbours_in_feature_space(run, clean):
    """Images with different hashes but equal features; features of other images are refused."""
    run("cnn-extract", "photos", "-o", "x.npy", *BACKBONE)
    values = np.load("x.npy")
    values[:] = np.random.default_rng(0).normal(size=values.shape)
    values[5] = 2 * values[0]
    np.save("x.npy", values)
    outcome = run("cnn-check", "photos", "--features", "x.npy", "--similarity", "0.999", "--probes", "none")
    assert found(outcome) == [("note", "neighbour", "photos/cat/10.jpg", "photos/cat/00.jpg")]
    assert outcome.rows[0]["detail"] == "cosine 1.000"
    (clean / "cat" / "00.jpg").rename(clean / "cat" / "new.jpg")
    message = run("cnn-check", "photos", "--features", "x.npy", "--probes", "none").err
    assert "1 of 24 images have no features; no neighbours are looked for" in message
    assert "--similarity compares features" in run("cnn-check", "photos", "--similarity", "0.9", status=2).err
    shutil.move("photos", "elsewhere")
    message = run("cnn-check", "elsewhere", "--features", "x.npy", status=1).err
    assert "x.npy: has features of none of the images; run cnn-extract on them" in message


def test_a_list_may_name_a_file_twice(run, clean):
    """A note if the labels are equal, an error if not; the file is read once."""
    manifest(
        ("photos/cat/00.jpg", "cat", "", ""),
        ("photos/dog/01.jpg", "dog", "", ""),
        ("photos/cat/../cat/00.jpg", "cat", "", ""),
        ("photos/dog/01.jpg", "cat", "", ""),
    )
    outcome = run("cnn-check", "split.tsv", "--probes", "none")
    assert [row[:2] for row in found(outcome) if row[1] == "twice"] == [("error", "twice"), ("note", "twice")]
    assert "2 images for training" in outcome.err
    run("cnn-check", "split.tsv", "--probes", "none", "--fix", "clean.tsv")
    assert Path("clean.tsv").read_text() == "path\tlabel\tsplit\nphotos/cat/00.jpg\tcat\t\n"


def test_fixed_set_keeps_the_held_out_listing(run, clean):
    """With the group of either listing; neighbours in feature space are grouped but not left out."""
    manifest(
        ("photos/cat/00.jpg", "cat", "train", ""),
        ("photos/dog/01.jpg", "dog", "train", ""),
        ("photos/cat/00.jpg", "cat", "test", "litter"),
        ("photos/cat/02.jpg", "cat", "test", ""),
        ("photos/dog/03.jpg", "dog", "test", ""),
    )
    run("cnn-extract", "split.tsv", "-o", "x.npy", *BACKBONE)
    values = np.load("x.npy")
    values[:] = np.eye(*values.shape)
    values[3] = values[1] + 0.01
    np.save("x.npy", values)
    outcome = run("cnn-check", "split.tsv", "--probes", "none", "--fix", "clean.tsv", "--features", "x.npy")
    assert ("warning", "neighbour", "photos/cat/02.jpg", "photos/dog/01.jpg") in found(outcome)
    alike = named_after("photos/dog/01.jpg", "photos/cat/02.jpg")
    assert [line.split("\t") for line in Path("clean.tsv").read_text().splitlines()[1:]] == [
        ["photos/cat/00.jpg", "cat", "test", "litter"],
        ["photos/dog/01.jpg", "dog", "train", alike],
        ["photos/cat/02.jpg", "cat", "test", alike],
        ["photos/dog/03.jpg", "dog", "test", ""],
    ]
    assert (
        "would replace the manifest that is checked"
        in run("cnn-check", "split.tsv", "--fix", "./split.tsv", status=2).err
    )


def test_folder_list_and_manifest_give_the_same_findings(run, clean):
    """For any number of threads."""
    paths = sorted(str(path) for path in clean.rglob("*.jpg"))
    make_mess(clean)
    manifest(*((path, os.path.basename(os.path.dirname(path)), "", "") for path in paths))
    listed = run("cnn-check", "split.tsv", "--table", "probes").out
    assert run("cnn-check", "-", "--table", "probes", "--jobs", "1", stdin=Path("split.tsv").read_text()).out == listed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--probes", "width,taste"], 'no probe "taste"; give all, none, or some of width, height'),
        (["--fix", "clean.txt"], "ends in .tsv"),
    ],
)
def test_rejects_contradictory_options(run, clean, words, message):
    """Before anything is read."""
    assert message in run("cnn-check", "photos", *words, status=2).err


def test_rejects_a_set_without_usable_images(run, here):
    """The message has the first reason."""
    (here / "photos").mkdir()
    (here / "photos" / "x.jpg").write_bytes(b"no image")
    assert "none of the 1 images can be used" in run("cnn-check", "photos", status=1).err
    (here / "photos" / "y.jpg").write_bytes(b"")
    assert (
        "the first is photos/x.jpg: not an image in a supported format (JPEG"
        in run("cnn-check", "photos", status=1).err
    )


def test_tables_on_a_terminal(terminal, clean):
    """Findings, classes and probes; of many findings of a kind the first ten."""
    for number in range(12):
        (clean / "dog" / f"empty{number:02d}.jpg").write_bytes(b"")
    outcome = terminal(
        Path(sys.executable).parent / "cnn-check", "photos", "--probes", "width,bytes,mean-colour", cwd=clean.parent
    )
    for words in ("Errors", "Classes", "Leak probes", "and 2 more", "40 (40–40)"):
        assert words in outcome.out
    assert "empty09.jpg" in outcome.out
    assert "empty10.jpg" not in outcome.out


def test_deep_images_with_a_narrow_range_are_a_finding(run, images, tmp_path):
    """12 bits stored in 16, and unscaled values, but not a 16-bit image that uses its range."""
    folder = images(red=2, blue=2)
    for name, top in (("twelve", 4095), ("dark", 250), ("full", 60000), ("pale", 65535)):
        ramp = np.linspace(64000 if name == "pale" else 0, top, 32).round().astype(np.uint16)
        Image.fromarray(ramp[None, :].repeat(32, axis=0)).save(folder / "red" / f"{name}.png")
    rows = run("cnn-check", folder, "--probes", "none").rows
    found = {Path(row["path"]).stem: row["detail"] for row in rows if row["finding"] == "range"}
    assert found.keys() == {"twelve", "dark", "pale"}
    assert found["twelve"].startswith("16-bit integers from 0 to 4095 of 0 to 65535")
    assert {row["level"] for row in rows if row["finding"] == "range"} == {"warning"}
