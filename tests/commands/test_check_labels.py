"""cnn-check --labels and --predictions: planted wrong labels are found, shown and corrected."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnnkit.audit import label_errors, label_sheet
from cnnkit.audit.label_errors import DoubtedLabel, LabelCheck
from cnnkit.formats import features, manifest
from cnnkit.formats.features import Features
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.manifest import ManifestRow

HEADER = Header(kind=ArtefactKind.FEATURES)
MODEL = make_pipeline(StandardScaler(), LogisticRegression(C=3 / 8, max_iter=300))
PLANTED = [3, 17, 30, 55]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, values, labels, *, groups=None, splits=None):
    """Write features of images photos/00.png and so on."""
    rows = [
        ManifestRow(f"photos/{number:02d}.png", label, splits and splits[number], groups and groups[number])
        for number, label in enumerate(labels)
    ]
    features.save(name, [Features(values, rows, HEADER)])


def clusters(count=60, *, classes=3, seed=0):
    """Return features of classes in turn, (count, 8), and labels, four of them wrong."""
    generator = np.random.default_rng(seed)
    true = np.arange(count) % classes
    values = 2 * np.eye(8)[true] + 0.5 * generator.normal(size=(count, 8))
    labels = true.copy()
    labels[PLANTED] = (true[PLANTED] + 1) % classes
    return values.astype(np.float32), ["abc"[label] for label in labels], ["abc"[label] for label in true]


@pytest.fixture
def planted(here):
    """Write x.npy with four wrong labels, and return the given and the true labels."""
    values, labels, true = clusters()
    write("x.npy", values, labels)
    return labels, true


def test_planted_labels_come_first_with_the_label_that_fits(run, planted):
    """The probabilities are those of scikit-learn's cross-validation."""
    outcome = run("cnn-check", "--labels", "x.npy")
    labels, true = planted
    suspects = [row for row in outcome.rows if row["suspect"] == "true"]
    assert {row["path"] for row in suspects} == {f"photos/{number:02d}.png" for number in PLANTED}
    values = np.load("x.npy")
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    expected = cross_val_predict(MODEL, values, labels, cv=folds, method="predict_proba")
    for row in outcome.rows:
        number = int(row["path"][-6:-4])
        assert row["label"] == labels[number]
        assert row["suggested"] == "abc"[expected[number].argmax()]
        assert float(row["confidence"]) == pytest.approx(expected[number].max(), abs=1e-4)
        assert float(row["self_confidence"]) == pytest.approx(expected[number]["abc".index(row["label"])], abs=1e-4)
    assert [row["suggested"] for row in suspects] == [true[int(row["path"][-6:-4])] for row in suspects]
    assert len(outcome.rows) == (np.array(list("abc"))[expected.argmax(axis=1)] != labels).sum()
    own = [float(row["self_confidence"]) for row in outcome.rows]
    assert own == sorted(own)
    differ = f"{len(outcome.rows)} of 60 labels differ from the out-of-fold prediction (accuracy {1 - len(outcome.rows) / 60:.3f})"
    assert f"{differ}; 4 of them are suspect" in outcome.err
    assert "suspects, label -> suggested: b -> a 2, " in outcome.err
    assert "more than 30 %" not in outcome.err
    assert "cnn-check x.tsv --corrections suspects.tsv --fix corrected.tsv" in outcome.err


@pytest.mark.parametrize(("suspects", "words"), [(0, "0 of them are"), (1, "1 of them is"), (2, "2 of them are")])
def test_summary_counts_one_suspect(suspects, words):
    doubted = [DoubtedLabel("a.png", "a", "b", 0.9, 0.1, suspect=number < suspects) for number in range(3)]
    first, *_ = label_errors.summary(LabelCheck(doubted, [], [], 0.97, []))
    assert first.endswith(f"; {words} suspect")


def test_output_is_reproducible_and_a_manifest(run, planted, here):
    """The same bytes; other commands read it; another seed gives other folds."""
    outcome = run("cnn-check", "--labels", "x.npy")
    assert run("cnn-check", "--labels", "x.npy").out == outcome.out
    assert run("cnn-check", "--labels", "x.npy", "--seed", "1").out != outcome.out
    (here / "suspects.tsv").write_text(outcome.out)
    assert [row.label for row in manifest.load("suspects.tsv")] == [row["label"] for row in outcome.rows]
    as_json = [json.loads(line) for line in run("cnn-check", "--labels", "x.npy", "--json").out.splitlines()]
    assert [row["path"] for row in as_json] == [row["path"] for row in outcome.rows]
    assert as_json[0]["suspect"] is True


def test_labels_and_groups_are_those_of_the_source(run, planted, here):
    """A corrected manifest has no suspect; images without features are counted."""
    _, true = planted
    rows = [f"photos/{number:02d}.png\t{label}\n" for number, label in enumerate(true)]
    (here / "true.tsv").write_text("path\tlabel\n" + "".join(rows) + "photos/99.png\ta\n")
    outcome = run("cnn-check", "true.tsv", "--labels", "x.npy", "--fail")
    assert [row for row in outcome.rows if row["suspect"] == "true"] == []
    assert "1 image without features, not checked" in outcome.err
    assert "next:" not in outcome.err


def test_copies_are_in_one_fold(run, here):
    """One head predicts all copies of an image, so that none of them confirms the wrong label of the others."""
    values, labels, _ = clusters()
    for place in PLANTED:
        values[[place + 1, place + 2]] = values[place]
        labels[place + 1] = labels[place + 2] = labels[place]
    write("x.npy", values, labels)
    outcome = run("cnn-check", "--labels", "x.npy")
    assert "12 images with features nearly equal to those of others" in outcome.err
    own = {int(row["path"][-6:-4]): row["self_confidence"] for row in outcome.rows if row["suspect"] == "true"}
    for place in PLANTED:
        assert own[place] == own[place + 1] == own[place + 2]


def test_images_of_a_group_are_in_one_fold(run, here):
    """As in scikit-learn's StratifiedGroupKFold; groups are those of the features, or of SOURCE."""
    values, labels, _ = clusters()
    numbers = np.repeat(np.arange(20), 3)
    write("x.npy", values, labels, groups=[f"g{number}" for number in numbers])
    outcome = run("cnn-check", "--labels", "x.npy")
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    expected = cross_val_predict(MODEL, values, labels, cv=folds, groups=numbers, method="predict_proba")
    for row in outcome.rows:
        assert float(row["confidence"]) == pytest.approx(expected[int(row["path"][-6:-4])].max(), abs=1e-4)
    write("y.npy", values, labels)
    assert run("cnn-check", "x.tsv", "--labels", "y.npy").out == outcome.out


def test_maps_are_averaged_and_views_are_left_out(run, planted, here):
    """An image is checked by its first view."""
    plain = run("cnn-check", "--labels", "x.npy")
    labels, _ = planted
    shift = np.random.default_rng(0).normal(size=(60, 8, 2, 2)).astype(np.float32)
    maps = np.load("x.npy")[:, :, None, None] + shift - shift.mean((2, 3), keepdims=True)
    rows = [
        ManifestRow(f"photos/{number:02d}.png", label, view=view)
        for number, label in enumerate(labels)
        for view in (0, 1)
    ]
    header = Header(kind=ArtefactKind.FEATURES, training={"views": 1})
    both = np.stack([maps, np.zeros_like(maps)], axis=1).reshape(120, 8, 2, 2)
    features.save("maps.npy", [Features(both, rows, header)])
    outcome = run("cnn-check", "--labels", "maps.npy")
    names = [[row["path"], row["suggested"], row["suspect"]] for row in outcome.rows]
    assert names == [[row["path"], row["suggested"], row["suspect"]] for row in plain.rows]


def test_predictions_are_checked_without_features(run, planted, here):
    """Out-of-fold predictions with the probabilities of all classes; the same table as from features."""
    labels, _ = planted
    values = np.load("x.npy")
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    given = cross_val_predict(MODEL, values, labels, cv=folds, method="predict_proba")
    lines = [
        f"photos/{number:02d}.png\t{rank}\t{'abc'[place]}\t{row[place]:.8f}\n"
        for number, row in enumerate(given)
        for rank, place in enumerate(np.argsort(-row), start=1)
    ]
    (here / "out-of-fold.tsv").write_text("path\trank\tlabel\tprobability\n" + "".join(lines))
    ours, theirs = (
        run("cnn-check", "x.tsv", *words).rows
        for words in (["--predictions", "out-of-fold.tsv"], ["--labels", "x.npy"])
    )
    for one, other in zip(ours, theirs, strict=True):
        assert [one[name] for name in ("path", "label", "suggested", "suspect")] == [
            other[name] for name in ("path", "label", "suggested", "suspect")
        ]
        assert float(one["confidence"]) == pytest.approx(float(other["confidence"]), abs=1e-4)
    assert run("cnn-check", "x.tsv", "--predictions", "-", stdin=(here / "out-of-fold.tsv").read_text()).rows == ours
    (here / "top.tsv").write_text("".join(["path\trank\tlabel\tprobability\n", *lines[::3]]))
    outcome = run("cnn-check", "x.tsv", "--predictions", "top.tsv", status=1)
    assert "has no probability of every class; predict with cnn-predict --top all" in outcome.err


def test_fix_leaves_out_the_suspects(run, planted, here):
    """Paths are relative to the manifest; --fail fails after it is written."""
    labels, _ = planted
    (here / "out").mkdir()
    outcome = run("cnn-check", "--labels", "x.npy", "--fix", "out/clean.tsv", "--fail", status=4)
    expected = {f"../photos/{number:02d}.png": label for number, label in enumerate(labels) if number not in PLANTED}
    assert {row.path: row.label for row in manifest.load("out/clean.tsv")} == expected
    assert "out/clean.tsv: 56 of 60 images; left out: suspect labels 4" in outcome.err
    assert "4 suspect labels, 0 allowed" in outcome.err


@pytest.fixture
def photographs(here):
    """Write an image for each row of the features."""
    (here / "photos").mkdir()
    for number in range(60):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(here / "photos" / f"{number:02d}.png")


def test_corrections_are_those_that_the_table_calls_suspect(run, planted, photographs, here):
    """A person sets one to false, and gives another one no class."""
    labels, true = planted
    outcome = run("cnn-check", "--labels", "x.npy")
    table = outcome.out.replace("photos/03.png\ta\tc", "photos/03.png\ta\tb").splitlines()
    head, *rows = (line.split("\t") for line in table)
    for row in rows:
        if row[0] == "photos/17.png":
            row[-1] = "false"
        if row[0] == "photos/30.png":
            row[2] = ""
    (here / "suspects.tsv").write_text("".join("\t".join(row) + "\n" for row in [head, *rows]))
    words = ["cnn-check", "x.tsv", "--corrections", "suspects.tsv", "--probes", "none"]
    outcome = run(*words, "--fix", "corrected.tsv")
    expected = {f"photos/{number:02d}.png": label for number, label in enumerate(labels) if number != 30}
    expected["photos/55.png"] = true[55]
    expected["photos/03.png"] = true[3]
    assert {row.path: row.label for row in manifest.load("corrected.tsv")} == expected
    assert "suspects.tsv: 3 images with another label" in outcome.err
    again = run("cnn-check", "x.tsv", "--corrections", "suspects.tsv", "--labels", "x.npy")
    assert again.rows[0]["path"] == "photos/17.png"
    assert not {f"photos/{number}.png" for number in ("03", "30", "55")} & {row["path"] for row in again.rows}
    (here / "suspects.tsv").write_text("path\tsuggested\nother.png\ta\n")
    assert "suspects.tsv corrects other.png, which SOURCE does not have" in run(*words, status=1).err


def test_sheet_shows_the_images_of_the_table(run, planted, photographs, here):
    """One cell for each row, with a frame for suspects; an unreadable image is skipped."""
    rows = run("cnn-check", "--labels", "x.npy", "--sheet", "sheet.png").rows
    with Image.open("sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    framed = (pixels == (0xA0, 0x20, 0x20)).all(axis=2)
    assert framed.any()
    assert pixels.shape[1] >= 160 * min(3, len(rows))
    (here / rows[0]["path"]).write_bytes(b"no image")
    outcome = run("cnn-check", "--labels", "x.npy", "--sheet", "less.png", status=3)
    assert f"{rows[0]['path']}: not an image" in outcome.err
    assert outcome.rows == rows


def test_cells_are_numbered_and_framed_as_the_rows_of_the_table():
    """Only suspects have a frame; a number is that of the row, also where an image before it was skipped."""
    image = Image.new("RGB", (160, 160))
    plain, framed = (DoubtedLabel("a.png", "a", "b", 0.9, 0.1, suspect) for suspect in (False, True))
    sheet = np.asarray(label_sheet.render([(1, plain, image), (2, framed, image)]))
    red = (sheet == (0xA0, 0x20, 0x20)).all(axis=2)
    half = sheet.shape[1] // 2
    assert not red[:, :half].any()
    assert red[:160, half:].sum() > 4 * 160  # the frame
    assert red[170:, half:].any()  # the suggested label
    other = np.asarray(label_sheet.render([(1, plain, image), (7, framed, image)]))
    changed = np.argwhere((other != sheet).any(axis=2))
    assert changed[:, 0].min() > 160  # the number, in the second cell
    assert changed[:, 1].min() > half


def test_classes_of_three_images_have_three_folds(run, here):
    """As many as the images of the largest class, and at most five."""
    values, labels = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32), list("abc" * 3)
    write("x.npy", values, labels)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    expected = cross_val_predict(MODEL, values, labels, cv=folds, method="predict_proba")
    rows = run("cnn-check", "--labels", "x.npy").rows
    assert len(rows) == (np.array(list("abc"))[expected.argmax(axis=1)] != labels).sum() > 0
    for row in rows:
        assert float(row["confidence"]) == pytest.approx(expected[int(row["path"][-6:-4])].max(), abs=1e-4)


def test_split_and_features_of_zeros(run, here):
    """Rows of another split are not read; an image whose features are all zero is a copy of none."""
    values, labels, _ = clusters()
    values[8] = values[9] = 0
    write("some.npy", values[:45], labels[:45])
    write("all.npy", values, labels, splits=["train"] * 45 + ["val"] * 15)
    some, whole = run("cnn-check", "--labels", "some.npy"), run("cnn-check", "--labels", "all.npy", "--split", "train")
    assert whole.out == some.out
    assert "copies" not in some.err


def test_images_with_two_labels_are_refused(run, planted, here):
    """In SOURCE; with one label, a second row of an image does not count."""
    rows = [f"photos/{number:02d}.png\t{label}\n" for number, label in enumerate(planted[0])]
    text = "path\tlabel\n" + "".join(rows)
    (here / "twice.tsv").write_text(text + rows[0])
    assert run("cnn-check", "twice.tsv", "--labels", "x.npy").out == run("cnn-check", "--labels", "x.npy").out
    (here / "twice.tsv").write_text(text + "photos/00.png\tb\n")
    outcome = run("cnn-check", "twice.tsv", "--labels", "x.npy", status=1)
    assert 'photos/00.png is listed with two labels, "a" and "b"' in outcome.err


def test_classes_with_one_image_are_not_checked(run, here):
    """No head that has not seen the image knows its class."""
    values, labels, _ = clusters()
    labels[0] = "single"
    write("x.npy", values, labels)
    outcome = run("cnn-check", "--labels", "x.npy")
    assert "not checked, for lack of images to train on: single" in outcome.err
    assert "photos/00.png" not in outcome.out


def test_features_that_do_not_distinguish_classes_are_reported(run, here):
    """The suspects are then guesses."""
    _, labels, _ = clusters()
    write("noise.npy", np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32), labels)
    assert "more than 30 % of the labels are suspect" in run("cnn-check", "--labels", "noise.npy").err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "x.npy", "--predictions", "y.tsv"], "--labels and --predictions exclude each other"),
        (["--labels", "x.npy", "--probes", "none"], "--labels checks only the labels; drop --probes"),
        (["--labels", "x.npy", "--near-bits", "40"], "--labels checks only the labels; drop --near-bits"),
        (["--labels", "x.npy", "--table", "probes"], "--labels checks only the labels; drop --table"),
        (["--labels", "x.npy", "--jobs", "2"], "--labels checks only the labels; drop --jobs"),
        (["x.tsv", "--predictions", "y.tsv", "--seed", "0"], "--predictions checks only the labels; drop --seed"),
        (
            ["--labels", "x.npy", "--folders", "classes"],
            "without SOURCE, the labels are those of the features; drop --folders",
        ),
        (
            ["--labels", "x.npy", "--corrections", "y.tsv"],
            "without SOURCE, the labels are those of the features; drop --corr",
        ),
        (["--labels", "x.tsv"], "--labels x.tsv: not a features file"),
        (["--labels", "x.npy", "--fix", "x.tsv"], "--fix x.tsv would overwrite the names of the features"),
        (["--labels", "x.npy", "--sheet", "x.jpg"], "--sheet x.jpg: the sheet is a PNG image"),
        (["x.tsv", "--sheet", "x.png"], "--sheet shows suspected wrong labels; add --labels FILE.npy"),
        (["--predictions", "y.tsv"], "--predictions are compared with labels; name a manifest"),
        (["-", "--predictions", "-"], "predictions and labels cannot both come from standard input"),
        (
            ["x.tsv", "--labels", "x.npy", "--corrections", "y.tsv", "--fix", "z.tsv"],
            "drop --labels to write those of --corrections",
        ),
    ],
)
def test_contradicting_options_are_refused(run, here, words, message):
    """In one line, before anything is read."""
    assert message in run("cnn-check", *words, status=2).err


def test_features_that_cannot_be_checked_are_refused(run, here):
    """One class, too few images, and features that are not finite."""
    values, labels, _ = clusters()
    write("one.npy", values, ["a"] * 60)
    assert "only one class, a" in run("cnn-check", "--labels", "one.npy", status=1).err
    write("few.npy", values[:3], ["a", "b", "c"])
    assert "too few images to check labels" in run("cnn-check", "--labels", "few.npy", status=1).err
    values[4, 2] = np.nan
    write("nan.npy", values, labels)
    assert "the features of photos/04.png are not finite" in run("cnn-check", "--labels", "nan.npy", status=1).err
    assert "no rows with split test" in run("cnn-check", "--labels", "nan.npy", "--split", "test", status=1).err
