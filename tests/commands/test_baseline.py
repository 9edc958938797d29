"""cnn-eval --baseline, as it is typed."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from cnnkit.evaluation import baseline, comparison, report
from cnnkit.evaluation.config import EvalConfig
from cnnkit.evaluation.matching import FolderTruth

HEADER = "path\tlabel\tprobability\n"


def predictions(wrong, *, n=100, other="dog"):
    """Write predictions of n images of cats and dogs, the first `wrong` of them wrong."""
    rows = [
        (f"{('cat', 'dog')[place % 2]}/{place}.jpg", ("cat", "dog")[(place + (place < wrong)) % 2])
        for place in range(n)
    ]
    return HEADER + "".join(f"{path}\t{label}\t0.9\n" for path, label in rows)


@pytest.fixture
def folder(tmp_path, monkeypatch, run):
    """A working folder with predictions of 4, 10 and 30 errors in 100 images, and the measures of the second."""
    monkeypatch.chdir(tmp_path)
    for name, wrong in (("best", 4), ("main", 10), ("bad", 30)):
        (tmp_path / f"{name}.tsv").write_text(predictions(wrong))
    (tmp_path / "main.json").write_text(run("cnn-eval", "main.tsv", "--json").out)
    return tmp_path


def test_pairs_predictions_of_the_same_images(run, folder):
    """Difference, interval and p-value are those of cnn-compare; the values of measures do not change."""
    plain = run("cnn-eval", "best.tsv").rows
    outcome = run("cnn-eval", "best.tsv", "--baseline", "main.tsv")
    assert [{"measure": row["measure"], "value": row["value"]} for row in outcome.rows] == plain
    (expected,) = run("cnn-compare", "main.tsv", "best.tsv").rows
    rows = {row["measure"]: row for row in outcome.rows}
    names = ("difference", "difference_low", "difference_high")
    assert [rows["accuracy"][name] for name in names] == [expected[name] for name in names]
    assert rows["accuracy"]["baseline"] == "0.9"
    main = {row["measure"]: row["value"] for row in run("cnn-eval", "main.tsv").rows}
    assert {name: row["baseline"] for name, row in rows.items()} == main
    assert float(rows["recall:cat"]["difference"]) == pytest.approx(0.06)
    assert rows["recall:cat"]["difference_low"] == ""
    assert "best.tsv is better than main.tsv: accuracy 0.96, 0.9 there, difference +6.0 points" in outcome.err
    record = json.loads(run("cnn-eval", "best.tsv", "--baseline", "main.tsv", "--json").out)
    found = record.pop("comparison")
    assert record == json.loads(run("cnn-eval", "best.tsv", "--json").out)
    assert found["paired"] is True
    assert found["p_value"] == pytest.approx(float(expected["p_value"]))


def test_saved_measures_are_of_independent_images(run, folder):
    """Newcombe's interval, wider than the paired one; also from a file that jq has formatted."""
    found = json.loads(run("cnn-eval", "best.tsv", "--baseline", "main.json", "--json").out)["comparison"]
    assert (found["paired"], found["p_value"], found["n_baseline"]) == (False, None, 100)
    low, high = comparison.independent_interval(96, 100, 90, 100)
    assert (found["difference_low"], found["difference_high"]) == pytest.approx((low, high))
    (folder / "pretty.json").write_text(json.dumps(json.loads((folder / "main.json").read_text()), indent=2))
    assert (
        run("cnn-eval", "best.tsv", "--baseline", "pretty.json").out
        == run("cnn-eval", "best.tsv", "--baseline", "main.json").out
    )
    rows = {row["measure"]: row for row in run("cnn-eval", "best.tsv", "--baseline", "main.json").rows}
    main = {row["measure"]: row["value"] for row in run("cnn-eval", "main.tsv").rows}
    assert {name: row["baseline"] for name, row in rows.items()} == main


@pytest.mark.parametrize("baseline", ["main.tsv", "main.json"])
@pytest.mark.parametrize(("now", "status"), [("best.tsv", 0), ("main.tsv", 0), ("bad.tsv", 4)])
def test_gate(run, folder, baseline, now, status):
    """Only a significantly worse accuracy fails; the measures are still printed."""
    outcome = run("cnn-eval", now, "--baseline", baseline, "--fail-if-worse", status=status)
    assert outcome.rows[1]["measure"] == "accuracy"
    assert (f"bad.tsv is worse than {baseline} by 20.0 points: difference_high -0." in outcome.err) is (status == 4)
    assert run("cnn-eval", now, "--baseline", baseline).out == outcome.out
    words = {"best.tsv": "better than", "main.tsv": "not significantly different from", "bad.tsv": "worse than"}
    same = "not significantly different from" if baseline == "main.json" and now == "best.tsv" else words[now]
    assert f"{now} is {same} {baseline}: accuracy" in outcome.err


def test_table_for_a_terminal(run, folder):
    """The measures of all images, those of classes and ends of intervals left out; counts are whole numbers, unknown values a dash."""
    record = json.loads((folder / "main.json").read_text())
    saved = json.dumps(record | {"n": 1200, "accuracy": 0.8, "ece": float("nan"), "wrong": True}).encode()
    lines, truth, config = (folder / "best.tsv").read_bytes().splitlines(keepends=True), FolderTruth(), EvalConfig()
    now = report.evaluate([(lines, "best.tsv")], truth, config)
    found = baseline.compare(now, [saved], truth, config, name="main.json", called="best.tsv")
    table = {row["measure"]: list(row.values())[1:] for row in found.table(now.rows())}
    low, high = comparison.independent_interval(96, 100, 960, 1200)
    assert table["images"] == ["1,200", "100", "-1,100", ""]
    assert table["accuracy"] == ["0.8000", "0.9600", "+0.1600", f"{low:+.4f} to {high:+.4f}"]
    assert table["expected calibration error"] == ["–", f"{now.ece:.4f}", "–", ""]
    assert not [name for name in table if ":" in name or name.endswith(("low", "high"))]


def test_gate_goes_together_with_bounds(run, folder):
    """Both are named."""
    outcome = run(
        "cnn-eval", "bad.tsv", "--baseline", "main.tsv", "--fail-if-worse", "--fail-under", "accuracy=0.8", status=4
    )
    assert "accuracy 0.7 is below 0.8; bad.tsv is worse than main.tsv by 20.0 points" in outcome.err


def test_markdown_is_a_table_of_one_row(run, folder):
    """On standard output in place of the measures, or in a file, also if the gate fails."""
    (interval,) = run("cnn-compare", "main.tsv", "bad.tsv").rows
    low, high = (float(interval[f"difference_{end}"]) for end in ("low", "high"))
    expected = [
        "| measure | baseline | now | difference (95 % interval) |",
        "|---|---:|---:|---:|",
        f"| accuracy (100 images, paired) | 0.9000 | 0.7000 | -0.2000 ({low:+.4f} to {high:+.4f}) |",
    ]
    words = ("cnn-eval", "bad.tsv", "--baseline", "main.tsv", "--fail-if-worse", "--markdown")
    assert run(*words, "-", status=4).out.splitlines() == expected
    assert run(*words, "table.md", status=4).rows[0]["measure"] == "n"
    assert (folder / "table.md").read_text().splitlines() == expected
    shown = run("cnn-eval", "best.tsv", "--baseline", "main.json", "--markdown", "-").out
    assert "| accuracy (100 images, 100 of the baseline) | 0.9000 | 0.9600 | +0.0600 (" in shown


def test_reads_predictions_from_standard_input(run, folder):
    """One of the two may be."""
    expected = run("cnn-eval", "best.tsv", "--baseline", "main.tsv").out
    assert run("cnn-eval", "--baseline", "main.tsv", stdin=(folder / "best.tsv").read_text()).out == expected
    assert run("cnn-eval", "best.tsv", "--baseline", "-", stdin=(folder / "main.tsv").read_text()).out == expected
    outcome = run("cnn-eval", "--baseline", "-", stdin=predictions(4), status=2)
    assert "standard input (-) can be read once" in outcome.err


def test_rejects_other_images(run, folder):
    """A baseline of other images cannot be paired; the remedy is its measures."""
    (folder / "more.tsv").write_text(predictions(4, n=102))
    outcome = run("cnn-eval", "best.tsv", "--baseline", "more.tsv", status=1)
    assert "best.tsv lacks cat/100.jpg and 1 more, which more.tsv has" in outcome.err
    assert "or compare with the measures that cnn-eval --json printed for more.tsv" in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize(
    "text", ['{"n": 3}', '{"n": 0, "accuracy": 0.5}', '{"n": 9, "accuracy": 1.5}', '{"n": 9, "accuracy": NaN}']
)
def test_rejects_a_file_without_measures(run, folder, text):
    (folder / "odd.json").write_text(text)
    outcome = run("cnn-eval", "best.tsv", "--baseline", "odd.json", status=1)
    assert (
        "odd.json: no accuracy and n in it; a baseline is predictions, or the output of cnn-eval --json" in outcome.err
    )


def test_a_table_of_measures_is_no_baseline(run, folder):
    """The error names the two files that are."""
    (folder / "measures.tsv").write_text(run("cnn-eval", "main.tsv").out)
    outcome = run("cnn-eval", "best.tsv", "--baseline", "measures.tsv", status=1)
    assert "measures.tsv: measures as a table; a baseline is predictions for the same images" in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fail-if-worse"], "--fail-if-worse compares with a baseline; add --baseline main.tsv"),
        (["--markdown", "-"], "--markdown compares with a baseline"),
        (
            ["--baseline", "main.tsv", "--worst", "3"],
            "--baseline adds columns to the measures, and --worst prints others",
        ),
        (
            ["--baseline", "main.tsv", "--markdown", "-", "--json"],
            "--json and --markdown - both write to standard output",
        ),
        (["--baseline", "main.tsv", "--markdown", "none/a.md"], "none"),
        (["--baseline", "main.tsv", "--folds"], "and --folds prints others"),
        (["--baseline", "main.tsv", "--coverage"], "and --coverage prints others"),
    ],
)
def test_rejects_contradictory_options(run, folder, words, message):
    outcome = run("cnn-eval", "best.tsv", *words, status=None)
    assert outcome.status == (1 if message == "none" else 2)
    assert message in outcome.err
    assert outcome.out == ""


def test_warns_of_images_of_one_group(run, folder):
    """As cnn-compare: they are not independent."""
    rows = [
        f"{('cat', 'dog')[place % 2]}/{place}.jpg\t{('cat', 'dog')[place % 2]}\t{place // 2}" for place in range(100)
    ]
    (folder / "groups.tsv").write_text("\n".join(["path\tlabel\tgroup", *rows]) + "\n")
    words = ("best.tsv", "--truth", "groups.tsv", "--baseline")
    for other in ("main.tsv", "main.json"):
        assert "100 of 100 images share a group with others" in run("cnn-eval", *words, other).err
    assert "share a group" not in run("cnn-eval", "best.tsv", "--baseline", "main.tsv").err


# ---------------------------------------------------------------- several labels

LABELS = ("cat", "dog", "indoor")
CUT = 0.5


def label_scores(noise, *, n=60, seed=0):
    """Truth and probabilities of n images with three labels, the worse the larger the noise; (n, 3) both."""
    truth = np.random.default_rng(0).random((n, 3)) < 0.4
    scores = np.clip(0.35 + 0.3 * truth + noise * np.random.default_rng(seed).normal(size=(n, 3)), 0, 1)
    return truth, np.round(scores, 6)


@pytest.fixture
def labels(tmp_path, monkeypatch, run):
    """A working folder with a truth, and predictions of a good, a fair and a bad model; those of the fair one in reverse order."""
    monkeypatch.chdir(tmp_path)
    for name, noise, seed in (("good", 0.1, 1), ("fair", 0.2, 2), ("bad", 0.9, 3)):
        truth, scores = label_scores(noise, seed=seed)
        rows = [
            f"{image}.jpg\t{rank}\t{LABELS[place]}\t{scores[image, place]}\t{CUT}"
            for image in (range(59, -1, -1) if name == "fair" else range(60))
            for rank, place in enumerate(np.argsort(-scores[image]), start=1)
        ]
        (tmp_path / f"{name}.tsv").write_text("path\trank\tlabel\tprobability\tthreshold\n" + "\n".join(rows) + "\n")
    lines = [f"{image}.jpg\t{';'.join(np.array(LABELS)[own])}" for image, own in enumerate(truth)]
    (tmp_path / "truth.tsv").write_text("path\tlabels\n" + "\n".join(lines) + "\n")
    for name in ("fair", "bad"):
        saved = run("cnn-eval", f"{name}.tsv", "--truth", "truth.tsv", "--json").out
        (tmp_path / f"{name}.json").write_text(saved)
    return tmp_path


def test_labels_are_resampled_in_pairs(run, labels):
    """The difference of scikit-learn's mAP on each resample of the images, whose order in the files is different."""
    truth, good = label_scores(0.1, seed=1)
    fair = label_scores(0.2, seed=2)[1]
    rows = np.random.default_rng(0).integers(60, size=(1000, 60))
    means = [np.mean([areas(truth[rows, k], scores[rows, k]) for k in range(3)], axis=0) for scores in (good, fair)]
    assert means[1][7] == pytest.approx(average_precision_score(truth[rows[7]], fair[rows[7]]))
    low, high = np.percentile(np.subtract(*means), (2.5, 97.5))
    outcome = run("cnn-eval", "good.tsv", "--truth", "truth.tsv", "--baseline", "fair.tsv", "--json")
    found = json.loads(outcome.out)["comparison"]
    assert (found["difference_low"], found["difference_high"]) == pytest.approx((low, high), abs=1e-12)
    exact = [((scores >= CUT) == truth).all(axis=1) for scores in (fair, good)]
    expected = comparison.paired(*exact)
    subset = found["differences"]["subset_accuracy"]
    assert (subset["difference_low"], subset["difference_high"]) == (expected.difference_low, expected.difference_high)
    assert "good.tsv is better than fair.tsv: mAP" in outcome.err
    assert "bootstrap of the same images" in outcome.err


def areas(truth, scores):
    """The average precision of a label in each of R resamples, (R, N) both: the mean precision at the scores of the images that have it."""
    above = scores[:, None, :] >= scores[:, :, None]  # (R, N, N)
    precision = (above & truth[:, None, :]).sum(axis=2) / above.sum(axis=2)
    return (precision * truth).sum(axis=1) / truth.sum(axis=1)


@pytest.mark.parametrize("baseline", ["fair.tsv", "fair.json"])
@pytest.mark.parametrize(("now", "status"), [("good.tsv", 0), ("fair.tsv", 0), ("bad.tsv", 4)])
def test_gate_of_labels(run, labels, baseline, now, status):
    """Only a significantly worse mAP fails; the measures are still printed, those of the baseline next to them."""
    words = (now, "--truth", "truth.tsv", "--baseline", baseline, "--fail-if-worse")
    outcome = run("cnn-eval", *words, status=status)
    rows = {row["measure"]: row for row in outcome.rows}
    fair = json.loads((labels / "fair.json").read_text())
    assert float(rows["mAP"]["baseline"]) == pytest.approx(fair["mAP"], rel=1e-5)
    assert float(rows["f1:cat"]["baseline"]) == pytest.approx(fair["per_class"]["cat"]["f1"], rel=1e-5)
    assert (f"bad.tsv is worse than {baseline} by" in outcome.err) is (status == 4)
    table = run("cnn-eval", *words, "--markdown", "-", status=status).out.splitlines()
    assert [line.split(" | ")[0] for line in table[2:5]] == [
        f"| mAP ({'60 images, paired' if baseline == 'fair.tsv' else '60 images, 60 of the baseline'})",
        "| micro F1",
        "| macro F1",
    ]


def test_interval_of_independent_labels(run, labels):
    """The limits of the difference come from the limits of both, by hand."""
    fair, bad = (json.loads((labels / f"{name}.json").read_text()) for name in ("fair", "bad"))
    words = ("fair.tsv", "--truth", "truth.tsv", "--baseline", "bad.json", "--json")
    found = json.loads(run("cnn-eval", *words).out)["comparison"]
    down = ((fair["mAP"] - fair["mAP_low"]) ** 2 + (bad["mAP_high"] - bad["mAP"]) ** 2) ** 0.5
    assert (found["paired"], found["mAP_baseline"], found["difference"]) == (
        False,
        bad["mAP"],
        fair["mAP"] - bad["mAP"],
    )
    assert found["difference_low"] == pytest.approx(found["difference"] - down)


def test_saved_map_without_probabilities_now(run, labels):
    """Neither measure is known of both, or no interval is: that is reported, and the gate fails."""
    (labels / "short.json").write_text('{"n": 60, "mAP": 0.5}')
    lines = (labels / "good.tsv").read_text().splitlines()
    kept = [line for line in lines if line.split("\t")[1] in ("rank", "1")]
    (labels / "some.tsv").write_text("\n".join(kept) + "\n")
    words = ("some.tsv", "--truth", "truth.tsv", "--baseline", "short.json", "--fail-if-worse")
    failed = run("cnn-eval", *words, "--json", status=4)
    assert "some.tsv cannot be compared with short.json: micro F1 is unknown" in failed.err
    assert json.loads(failed.out)["comparison"]["difference"] is None
    known = run("cnn-eval", "good.tsv", *words[1:], status=4)
    assert "good.tsv cannot be compared with short.json: the interval of mAP is unknown" in known.err


@pytest.mark.parametrize(
    ("baseline", "text", "message"),
    [
        ("single.tsv", "path\tlabel\tprobability\n0.jpg\tcat\t0.9\n", "single.tsv has one label per image, and good.tsv has several"),
        ("single.json", '{"n": 3, "accuracy": 0.5}', "no mAP and n in it"),
        ("few.tsv", "path\trank\tlabel\tprobability\tthreshold\n0.jpg\t1\tcat\t0.9\t0.5\n", "few.tsv lacks 1.jpg and 58 more"),
    ],
)  # fmt: skip
def test_other_baselines_of_labels_are_refused(run, labels, baseline, text, message):
    (labels / baseline).write_text(text)
    failed = run("cnn-eval", "good.tsv", "--truth", "truth.tsv", "--baseline", baseline, status=1)
    assert message in failed.err
    assert failed.out == ""
