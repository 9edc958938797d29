"""Prediction sets: cnn-calibrate --sets, cnn-predict --sets and the measures of cnn-eval, as they are typed."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import beta

from cnnkit.choices import SetMethod
from cnnkit.evaluation import metrics
from cnnkit.formats import onnx_model
from cnnkit.formats.header import ArtefactKind, Header

CLASSES = ("cat", "dog", "fox", "owl")
COUNTS = {"val": 99, "test": 200}
CALIBRATE = ("cnn-calibrate", "val.pred", "--truth", "val.tsv")
EVALUATE = ("cnn-eval", "--truth", "test.tsv")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make a folder with head.onnx, whose logits are the features, and val and test: .npy, .tsv and the probabilities of all classes."""
    folder = tmp_path_factory.mktemp("sets")
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["features", "one"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "graph",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("probabilities", "logits")],
        [numpy_helper.from_array(np.float32(1), "one")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx_model.save(folder / "head.onnx", onnx_model.finished(proto, Header(ArtefactKind.ONNX, CLASSES)))
    generator = np.random.default_rng(0)
    for split, count in COUNTS.items():
        truth = np.arange(count) % 4
        values = generator.normal(size=(count, 4)) + 1.5 * np.eye(4)[truth]
        np.save(folder / f"{split}.npy", values.astype(np.float32))
        lines = [f"{split}/{place}.jpg\t{CLASSES[label]}\n" for place, label in enumerate(truth)]
        (folder / f"{split}.tsv").write_text("path\tlabel\n" + "".join(lines))
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch, run):
    """A working folder with these files, and val.pred and sets.onnx, which has prediction sets of coverage 0.9."""
    monkeypatch.chdir(tmp_path)
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    if not (made / "sets.onnx").exists():
        (made / "val.pred").write_text(run("cnn-predict", "-m", "head.onnx", "val.npy", "--top", "all").out)
        run(
            "cnn-calibrate",
            made / "val.pred",
            *CALIBRATE[2:],
            "--sets",
            0.9,
            "-m",
            "head.onnx",
            "-o",
            made / "sets.onnx",
        )
        for name in ("val.pred", "sets.onnx"):
            (tmp_path / name).symlink_to(made / name)
    return tmp_path


def probabilities(name):
    """Compute the probabilities of features, and the true classes."""
    values = np.exp(np.load(f"{name}.npy").astype(np.float64))
    return values / values.sum(axis=1, keepdims=True), np.arange(COUNTS[name]) % 4


def test_coverage_and_size_are_those_of_the_formula(run, folder):
    """The threshold is in the header, the graph is unchanged; sets have the classes of a probability of at least 1 - quantile."""
    known, truth = probabilities("val")
    outcome = run(*CALIBRATE, "--sets", 0.9)
    quantile = np.sort(1 - known[np.arange(99), truth])[89]  # ceil(100 * 0.9) = 90
    found = {row["measure"]: row["value"] for row in outcome.rows}
    assert float(found["quantile"]) == pytest.approx(quantile, abs=1e-6)
    assert (found["score"], found["promised_coverage"], found["n"]) == ("lac", "0.9", "99")
    assert "have the true class in 90 % of cases or more" in outcome.err
    low, high = 100 * beta(90, 10).ppf([0.025, 0.975])
    assert f"with these, in {low:.3g} % to {high:.3g} % (95 % interval)" in outcome.err
    old, new = (onnx_model.load(name) for name in ("head.onnx", "sets.onnx"))
    assert new.header == old.header.but(sets=new.header.sets)
    assert (new.header.sets.method, new.header.sets.coverage, new.header.sets.n) == (SetMethod.LAC, 0.9, 99)
    assert onnx_model.parse(old.content, name="old").graph == onnx_model.parse(new.content, name="new").graph

    rows = run("cnn-predict", "-m", "sets.onnx", "test.npy", "--sets").rows
    assert list(rows[0]) == ["path", "rank", "label", "probability", "set_size"]
    unseen, truth = probabilities("test")
    inside = unseen >= 1 - quantile - 1e-6
    inside[np.arange(200), unseen.argmax(axis=1)] = True
    assert {(row["path"], row["label"]) for row in rows} == {
        (f"test/{image}.jpg", CLASSES[label]) for image, label in np.argwhere(inside).tolist()
    }
    measured = json.loads(run(*EVALUATE, "--json", stdin=as_table(rows)).out)
    covered = inside[np.arange(200), truth]
    assert measured["coverage"] == covered.mean()
    assert (measured["coverage_low"], measured["coverage_high"]) == metrics.wilson_interval(int(covered.sum()), 200)
    assert measured["set_size"] == inside.sum(axis=1).mean()
    assert measured["single"] == (inside.sum(axis=1) == 1).mean()
    assert measured["per_class"]["fox"]["coverage"] == covered[truth == 2].mean()
    assert measured["accuracy"] == (unseen.argmax(axis=1) == truth).mean()


def as_table(rows, separator="\t"):
    """Write rows as a table."""
    return "".join(separator.join(map(str, row)) + "\n" for row in (rows[0].keys(), *(row.values() for row in rows)))


def test_sets_survive_other_formats(run, folder):
    """CSV, JSON Lines, the rows in another order, and all classes of each image: the same measures, with all classes also the log-loss."""
    predict = ("cnn-predict", "-m", "sets.onnx", "test.npy", "--sets")
    rows = run(*predict).rows
    expected = run(*EVALUATE, stdin=as_table(rows)).out
    assert "\ncoverage\t" in expected
    assert run(*EVALUATE, stdin=as_table(rows, ",")).out == expected
    assert run(*EVALUATE, stdin=as_table(rows[::-1])).out == expected
    assert run(*EVALUATE, stdin=run(*predict, "--json").out).rows[8] == run(*EVALUATE, stdin=as_table(rows)).rows[8]
    every = run(*predict, "--top", "all", "--logits")
    assert len(every.rows) == 4 * 200
    assert list(every.rows[0])[-2:] == ["logit", "set_size"]
    measured = {row["measure"]: row["value"] for row in run(*EVALUATE, stdin=every.out).rows}
    assert measured["log_loss"]
    for row in run(*EVALUATE, stdin=as_table(rows)).rows:
        assert row["value"] in ("", measured[row["measure"]])
    assert len(run(*predict, "--top", 2).rows) == sum(
        max(2, int(row["set_size"])) for row in rows if row["rank"] == "1"
    )


def test_gates(run, folder):
    """--fail-under and --fail-over with measures of sets; without sets, one line says what is missing."""
    text = run("cnn-predict", "-m", "sets.onnx", "test.npy", "--sets").out
    run(
        *EVALUATE,
        "--fail-under",
        "coverage=0.8",
        "--fail-over",
        "set_size=3",
        "--fail-under",
        "coverage:cat=0.5",
        stdin=text,
    )
    outcome = run(*EVALUATE, "--fail-under", "coverage=0.999", "--fail-over", "set_size=1", stdin=text, status=4)
    assert outcome.err.splitlines()[-1].startswith("cnn-eval: coverage 0.9")
    assert "; set_size 1." in outcome.err
    assert "coverage:cat" in outcome.out
    plain = run("cnn-predict", "-m", "sets.onnx", "test.npy").out
    outcome = run(*EVALUATE, "--fail-under", "coverage=0.8", stdin=plain, status=2)
    assert (
        "no coverage without prediction sets; it needs the column set_size, which cnn-predict --sets prints"
        in outcome.err
    )


def test_incomplete_sets_are_rejected(run, folder):
    """A filter has removed rows, or only some images have sets: measures would be wrong."""
    rows = run("cnn-predict", "-m", "sets.onnx", "test.npy", "--sets").rows
    first = as_table([row for row in rows if row["rank"] == "1"])
    assert "of them are listed; give all rows of cnn-predict --sets" in run(*EVALUATE, stdin=first, status=1).err
    for size in ("", "9"):
        mixed = as_table([*rows[:-1], rows[-1] | {"set_size": size}])
        outcome = run(*EVALUATE, stdin=mixed, status=1)
        assert outcome.err.count("\n") == 1
        assert "set_size" in outcome.err or "has a set of 9 labels" in outcome.err
    broken = as_table([rows[0] | {"set_size": "many"}])
    assert 'test/0.jpg: set_size "many" is not a whole number' in run(*EVALUATE, stdin=broken, status=1).err


def test_temperature_removes_sets(run, folder):
    """Their threshold is for other probabilities; a notice says so."""
    outcome = run(*CALIBRATE, "-m", "sets.onnx", "-o", "cooler.onnx")
    assert "cooler.onnx has no prediction sets: those of sets.onnx are for its probabilities before" in outcome.err
    assert onnx_model.load("cooler.onnx").header.sets is None
    outcome = run("cnn-predict", "-m", "cooler.onnx", "test.npy", "--sets", status=2)
    assert "cooler.onnx has no prediction sets; make them with cnn-calibrate --sets 0.95 -m cooler.onnx" in outcome.err
    warm = run("cnn-predict", "-m", "cooler.onnx", "val.npy", "--top", "all").out
    run("cnn-calibrate", "--truth", "val.tsv", "--sets", 0.9, "-m", "cooler.onnx", "-o", "both.onnx", stdin=warm)
    found = onnx_model.load("both.onnx").header
    assert found.sets.coverage == 0.9
    assert found.temperature == onnx_model.load("cooler.onnx").header.temperature != 1


def test_calibration_is_reproducible(run, folder):
    """The same bytes with both scores; a promise replaces the one before."""
    for score in SetMethod:
        for name in ("one.onnx", "two.onnx"):
            run(*CALIBRATE, "--sets", 0.95, "--score", score, "-m", "sets.onnx", "-o", name)
        assert Path("one.onnx").read_bytes() == Path("two.onnx").read_bytes()
        sets = onnx_model.load("one.onnx").header.sets
        assert (sets.method, sets.coverage) == (score, 0.95)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (
            ["--sets", "0.995"],
            1,
            "99 images cannot promise a coverage of 0.995, that needs 199; label more images, or promise at most 0.99",
        ),
        (["--sets", "95"], 2, "--sets 95: give a coverage between 0 and 1, such as 0.95"),
        (["--score", "aps"], 2, "--score aps is for prediction sets; add --sets 0.95"),
        (["--sets", "0.9", "--reliability", "r.png"], 2, "--sets changes no probability"),
    ],
)
def test_rejects_promises_that_cannot_be_kept(run, folder, words, status, message):
    """One line, and no output."""
    outcome = run(*CALIBRATE, *words, status=status)
    assert message in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--min-probability", "0.5"], "--sets prints every class of a set, and --min-probability prints ? for labels"),
        (["--labels-only"], "--labels-only prints one class"),
        (["-m", "head.onnx"], "give --sets only with a single --model"),
        (["--tta", "hflip"], "without --tta and --crops"),
        (["--size", "32"], "takes features"),
    ],
)
def test_rejects_predictions_for_which_the_threshold_is_not(run, folder, words, message):
    """Other probabilities than those of the calibration, or rows that are not all of a set."""
    outcome = run("cnn-predict", "-m", "sets.onnx", "test.npy", "--sets", *words, status=2)
    assert message in outcome.err


def test_promises_that_mislead_are_explained(run, folder):
    """Below the accuracy, sets have one label, and their coverage is the accuracy; with test images, it is not that of new ones."""
    rows = {row["measure"]: row["value"] for row in run(*CALIBRATE, "--sets", 0.3).rows}
    assert rows["accuracy"] == rows["coverage"]
    assert rows["set_size"] == rows["single"] == "1"
    # The same images, of which three are test images
    lines = Path("val.tsv").read_text().splitlines()
    splits = ["split", *["test"] * 3, *["val"] * 96]
    Path("split.tsv").write_text("".join(f"{line}\t{split}\n" for line, split in zip(lines, splits, strict=True)))
    outcome = run(*CALIBRATE[:3], "split.tsv", "--sets", 0.3)
    share = float(rows["accuracy"])
    assert f"the accuracy, {share:.4g}, exceeds the promise" in outcome.err
    assert f"promise more, such as --sets {(1 + share) / 2:.4g}" in outcome.err
    assert "3 images of the test set: after a threshold is chosen with them" in outcome.err
    assert "test set" not in run(*CALIBRATE, "--sets", 0.9).err
