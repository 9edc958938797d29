"""cnn-compare --learning-curve: measured and extrapolated accuracies as a table and as a figure."""

import io
import json
from importlib.metadata import distribution

import numpy as np
import pytest
from cnnkit_tools import cnn_compare
from PIL import Image

from cnnkit.cli import table
from cnnkit.evaluation import learning_curve
from cnnkit.evaluation.learning_curve import CurvePoint
from cnnkit.evaluation.metrics import wilson_interval
from cnnkit.formats import features
from cnnkit.formats.features import Features
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.manifest import ManifestRow

COLUMNS = ["images", "share", "kind", "accuracy", "low", "high", "subsets", "sd", "gain", "gain_low", "gain_high"]
WIDTH = 30


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, count, *, seed, split=None, noise=1.0, label=None):
    """Write features of images of two classes, whose means are 2 apart in the first of 30 columns."""
    generator = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    values = generator.normal(size=(count, WIDTH)) * noise
    values[:, 0] += 2 * targets
    rows = [
        ManifestRow(f"{name[:-4]}{number}.png", label or "ab"[target], split and split[number], None)
        for number, target in enumerate(targets)
    ]
    features.save(name, [Features(values.astype(np.float32), rows, Header(kind=ArtefactKind.FEATURES))])


@pytest.fixture
def written(here):
    """Write training and validation features."""
    write("train.npy", 320, seed=0)
    write("val.npy", 250, seed=1)
    return here


def test_prints_measured_and_extrapolated_accuracies(run, written):
    """With Wilson's interval and the deviation between subsets, and the interval of the extrapolation; a notice says it in words."""
    arguments = ("cnn-compare", "--learning-curve", "train.npy", "--val", "val.npy", "--repeats", "2", "--plot")
    outcome = run(*arguments, "curve.png")
    rows = outcome.rows
    assert list(rows[0]) == COLUMNS
    assert [int(row["images"]) for row in rows] == [20, 28, 40, 57, 80, 113, 160, 226, 320, 640, 1280]
    assert [row["kind"] for row in rows] == ["measured"] * 9 + ["extrapolated"] * 2
    whole = rows[8]
    accuracy = float(whole["accuracy"])
    assert 0.75 < accuracy < 0.9  # the best possible accuracy is 0.84
    assert [float(whole["low"]), float(whole["high"])] == pytest.approx(
        wilson_interval(round(accuracy * 250), 250), rel=1e-4
    )
    assert (whole["subsets"], whole["sd"], rows[0]["subsets"]) == ("1", "", "2")
    assert float(rows[0]["sd"]) > 0
    for row in rows[9:]:
        assert float(row["low"]) <= float(row["accuracy"]) <= float(row["high"])
        assert float(row["low"]) <= 0.841 + 0.02 <= float(row["high"]) + 0.05
    notice = outcome.err.splitlines()[0]
    assert notice.startswith(
        f"cnn-compare: 2 times the images (640): accuracy {float(rows[9]['accuracy']):.3f}, 95 % interval"
    )
    with Image.open("curve.png") as image:
        assert image.width > 800
    again = run(*arguments, "again.png")
    assert again.out == outcome.out
    assert (written / "again.png").read_bytes() == (written / "curve.png").read_bytes()


def test_an_extrapolated_interval_is_no_narrower_than_that_of_the_validation_images(caplog):
    """If all of 40 images are predicted correctly, a bootstrap of them has no variance; Wilson's interval is from 0.91 on."""
    caplog.set_level("INFO")
    found = learning_curve.summarize([40, 80, 160, 320], [np.ones((2, 40), bool)] * 4, draws=4)
    assert [(each.accuracy, each.high) for each in found.points[4:]] == [(pytest.approx(1), pytest.approx(1))] * 2
    assert [each.low for each in found.points[4:]] == pytest.approx([wilson_interval(40, 40)[0]] * 2)
    assert "2 times the images (640): accuracy 1.000, 95 % interval 0.912 to 1.000" in caplog.text


def test_takes_the_split_val_and_writes_json(run, here):
    """Without --val, the rows of the training features whose split is val; other seeds draw other subsets."""
    write("all.npy", 120, seed=0, split=["train"] * 60 + ["val"] * 60)
    found = [
        json.loads(line)
        for line in run("cnn-compare", "--learning-curve", "all.npy", "--repeats", "2", "--json").out.splitlines()
    ]
    assert [each["images"] for each in found if each["kind"] == "measured"][-1] == 60
    assert found[0]["subsets"] == 2
    other = run("cnn-compare", "--learning-curve", "all.npy", "--repeats", "2", "--seed", "1", "--json").out
    assert json.loads(other.splitlines()[0])["accuracy"] != found[0]["accuracy"]


def test_a_curve_that_determines_nothing_is_not_extrapolated(run, here):
    """One line says so; the measured accuracies are printed all the same."""
    write("train.npy", 12, seed=0)
    write("val.npy", 20, seed=1)
    outcome = run("cnn-compare", "--learning-curve", "train.npy", "--val", "val.npy", "--quiet")
    assert "extrapolated" not in outcome.out
    assert outcome.err.count("no extrapolation") in (1, 2)
    assert len(outcome.rows) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.tsv", "--learning-curve", "train.npy"], "compares no predictions; drop A and B"),
        (["--learning-curve", "train.npy", "--fail-if-worse"], "drop --fail-if-worse"),
        (["--learning-curve", "train.npy", "--truth", "split.tsv"], "drop --truth"),
        (["a.tsv", "b.tsv", "--val", "val.npy"], "--val belongs to --learning-curve TRAIN.npy"),
        (["a.tsv"], "give two files of predictions, A and B, or --learning-curve"),
        (["--learning-curve", "train.npy"], "train.npy has no rows of a validation set; give --val VAL.npy"),
        (["--learning-curve", "train.npy", "--val", "val.npy", "--plot", "x.gif"], "x.gif: unknown format"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(run, here, arguments, message):
    """In one line, before anything is read."""
    outcome = run("cnn-compare", *arguments, status=2)
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


#: Options of a comparison that a learning curve has no use for, with a value if they take one.
UNUSED = {
    "--truth": ["split.tsv"],
    "--split": ["val"],
    "--folders": ["classes"],
    "--margin": ["0.1"],
    "--complete": [],
    "--labels": ["classes.txt"],
    "--fail-if-worse": [],
}


@pytest.mark.parametrize("option", UNUSED)
def test_options_of_a_comparison_are_refused(run, here, option):
    """In one line; none is ignored."""
    outcome = run("cnn-compare", "--learning-curve", "train.npy", "--val", "val.npy", option, *UNUSED[option], status=2)
    assert outcome.err == (
        f"cnn-compare: --learning-curve trains heads on features, and compares no predictions; drop {option}\n"
    )


def test_every_option_is_used_or_refused(run, here):
    """An option that is added to cnn-compare must be listed as one of the two; those of the curve are refused without it."""
    (program,) = distribution("cnnkit").entry_points.select(group="console_scripts", name="cnn-compare")
    names = {max(each.opts, key=len) for each in program.load().parser().params if each.opts[0].startswith("-")}
    curve = {"--val": "val.npy", "--repeats": "5", "--plot": "curve.png", "--seed": "0"}
    common = {"--json", "--output-file", "--quiet", "--version", "--help", "--install-completion", "--show-completion"}
    assert names - common == {"--learning-curve", *curve, *UNUSED}
    for option, value in curve.items():
        outcome = run("cnn-compare", "a.tsv", "b.tsv", option, value, status=2)
        assert outcome.err == f"cnn-compare: {option} belongs to --learning-curve TRAIN.npy; add it, or drop {option}\n"


def test_tables_fit_a_terminal_of_80_columns(monkeypatch):
    """Measured and extrapolated points have a table each, without the columns that only the others have."""
    monkeypatch.setenv("COLUMNS", "80")
    shares = (0.635772, 0.566306, 0.697052)
    points = [
        CurvePoint(38, 0.0619902, "measured", *shares, subsets=3, sd=0.0156807),
        CurvePoint(613, 1.0, "measured", *shares, subsets=1),
        CurvePoint(123_452, 2.0, "extrapolated", *shares, gain=0.0322387, gain_low=0.00813594, gain_high=-0.0557804),
    ]
    made = cnn_compare.tables(points)
    assert {kind: [len(rows), list(rows[0])] for kind, rows in made.items()} == {
        "Measured": [2, ["images", "share", "accuracy", "low", "high", "subsets", "sd"]],
        "Extrapolated": [1, ["images", "share", "accuracy", "low", "high", "gain", "gain_low", "gain_high"]],
    }
    for title, rows in made.items():
        out = io.StringIO()
        table.draw(iter(rows), out, None, title=title)
        assert max(map(len, out.getvalue().splitlines())) <= 80
