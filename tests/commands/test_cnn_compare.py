"""cnn-compare, as it is typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

#: All of twenty images right; eight and two of them withheld, which is wrong.
GOOD = "path\tlabel\n" + "".join(f"cat/{index}.jpg\tcat\n" for index in range(20))
WORSE, LITTLE_WORSE = (GOOD.replace("\tcat\n", "\t?\n", count) for count in (8, 2))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the predictions of models that predict all, most and some of twenty images correctly."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("good.tsv", GOOD), ("little.tsv", LITTLE_WORSE), ("worse.tsv", WORSE)):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_counts_and_p_value_are_those_of_the_predictions(run, folder):
    """Difference and counts by numpy, the p-value by scipy, for any order of rows."""
    generator = np.random.default_rng(0)
    labels = np.array(["daisy", "rose", "tulip"])
    truth, one, other = (generator.integers(0, 3, 90) for _ in range(3))
    paths = [f"{labels[true]}/{index}.jpg" for index, true in enumerate(truth)]
    rows = [
        [f"{path}\t{labels[prediction]}\n" for path, prediction in zip(paths, each, strict=True)]
        for each in (one, other)
    ]
    (folder / "a.tsv").write_text("path\tlabel\n" + "".join(rows[0]))
    (folder / "b.tsv").write_text("path\tlabel\n" + "".join(rows[1][::-1]))
    found = json.loads(run("cnn-compare", "a.tsv", "b.tsv", "--json").out)
    right, theirs = one == truth, other == truth
    assert (found["n"], found["both"], found["neither"]) == (90, (right & theirs).sum(), (~right & ~theirs).sum())
    assert (found["only_a"], found["only_b"]) == ((right & ~theirs).sum(), (~right & theirs).sum())
    assert (found["accuracy_a"], found["accuracy_b"]) == (pytest.approx(right.mean()), pytest.approx(theirs.mean()))
    assert found["difference"] == pytest.approx(theirs.mean() - right.mean())
    discordant = found["only_a"] + found["only_b"]
    assert found["p_value"] == pytest.approx(binomtest(found["only_b"], discordant, 0.5).pvalue)


def test_notice_says_which_model_is_better(run, folder):
    """With the interval, or that there is no significant difference. Withheld predictions are wrong."""
    outcome = run("cnn-compare", "good.tsv", "worse.tsv")
    assert outcome.err.startswith("cnn-compare: good.tsv is better by 40.0 percentage points (95 % interval ")
    assert outcome.rows[0]["difference"] == "-0.4"
    assert run("cnn-compare", "worse.tsv", "good.tsv").err == outcome.err
    words = run("cnn-compare", "good.tsv", "little.tsv").err
    assert words.startswith("cnn-compare: no significant difference: good.tsv is ahead by 10.0 percentage points")
    assert words.endswith("p = 0.5)\n")
    assert "no significant difference: 0.0 percentage points" in run("cnn-compare", "good.tsv", "good.tsv").err


@pytest.mark.parametrize(("wrong", "p_value", "status"), [(4, 0.125, 0), (5, 0.0625, 0), (6, 0.03125, 4)])
def test_interval_notice_and_gate_agree_on_few_images(run, folder, wrong, p_value, status):
    """Of six images: if only one model predicts five correctly, p = .0625 and the interval has 0; for six it does not."""
    six = "".join(GOOD.splitlines(keepends=True)[:7])
    for name, text in (("a.tsv", six), ("b.tsv", six.replace("\tcat\n", "\t?\n", wrong))):
        (folder / name).write_text(text)
    outcome = run("cnn-compare", "a.tsv", "b.tsv", "--fail-if-worse", status=status)
    (row,) = outcome.rows
    assert float(row["p_value"]) == p_value
    assert (float(row["difference_high"]) < 0) == ("a.tsv is better by" in outcome.err) == (status == 4)
    assert ("no significant difference" in outcome.err) == (status == 0)


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        ("good.tsv", "worse.tsv", 4),
        ("good.tsv", "little.tsv", 0),  # worse, but not shown to be
        ("good.tsv", "good.tsv", 0),
        ("worse.tsv", "good.tsv", 0),
    ],
)
def test_gate_fails_if_interval_lies_below_zero(run, folder, first, second, status):
    """Exit 4 and a line that names the bound, after the same output as without the gate."""
    plain = run("cnn-compare", first, second)
    gated = run("cnn-compare", first, second, "--fail-if-worse", status=status)
    assert gated.out == plain.out
    high = float(plain.rows[0]["difference_high"])
    assert (high < 0) == (status == 4)
    points = -100 * float(plain.rows[0]["difference"])
    reason = (
        f"cnn-compare: {second} is worse than {first} by {points:.1f} points: difference_high {high:g} is below 0\n"
    )
    assert gated.err.removeprefix(plain.err) == (reason if status else "")
    assert run("cnn-compare", first, second, "--fail-if-worse", "-q", status=status).err == (reason if status else "")


def test_gate_holds_where_the_reader_has_gone(folder):
    """`| true` does not turn a missed gate into a passed one."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [Path(sys.executable).parent / "cnn-compare", "good.tsv", "worse.tsv", "--fail-if-worse"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 4
    assert "difference_high" in done.stderr


def test_standard_input_is_one_of_the_two(run, folder):
    """`-` names it, once."""
    expected = run("cnn-compare", "good.tsv", "worse.tsv").rows
    assert run("cnn-compare", "good.tsv", "-", stdin=WORSE).rows == expected
    assert run("cnn-compare", "-", "worse.tsv", stdin=GOOD).rows == expected
    outcome = run("cnn-compare", "good.tsv", "-", stdin=GOOD.rpartition("cat/18.jpg")[0], status=1)
    assert outcome.err.startswith("cnn-compare: standard input lacks cat/18.jpg and 1 more")
    message = "standard input (-) can be read once"
    assert message in run("cnn-compare", "-", "-", stdin=GOOD, status=2).err


def test_truth_split_complete_and_labels_are_respected(run, folder):
    """--split limits the truth; --complete needs all of its images, --labels all of its classes."""
    manifest = "path\tlabel\tsplit\n" + "".join(f"cat/{index}.jpg\tdog\ttest\n" for index in range(20))
    (folder / "split.tsv").write_text(manifest + "cat/20.jpg\tcat\ttest\ncat/21.jpg\tcat\tval\n")
    for name, text in (("a.tsv", GOOD), ("b.tsv", GOOD.replace("\tcat\n", "\tdog\n", 5))):
        (folder / name).write_text(text)
    words = ["a.tsv", "b.tsv", "--truth", "split.tsv", "--split", "test"]
    (row,) = run("cnn-compare", *words).rows
    assert (row["n"], row["accuracy_a"], row["accuracy_b"], row["only_b"]) == ("20", "0", "0.25", "5")
    assert "val" in run("cnn-compare", *words[:-1], "val", status=1).err
    assert "cat/20.jpg" in run("cnn-compare", *words, "--complete", status=1).err
    (folder / "classes.txt").write_text("cat\n")
    assert "dog" in run("cnn-compare", *words, "--labels", "classes.txt", status=1).err
    (folder / "classes.txt").write_text("cat\ndog\n")
    assert run("cnn-compare", *words, "--labels", "classes.txt").rows == [row]


def test_rejects_files_of_different_images(run, folder):
    """The message names the image and the file that lacks it."""
    (folder / "short.tsv").write_text(GOOD.rpartition("cat/18.jpg")[0])
    for words in (["good.tsv", "short.tsv"], ["short.tsv", "good.tsv"]):
        outcome = run("cnn-compare", *words, status=1)
        assert outcome.err == (
            "cnn-compare: short.tsv lacks cat/18.jpg and 1 more, which good.tsv has; predict the same images with both models\n"
        )
        assert outcome.out == ""


def test_warns_of_images_of_one_group(run, folder):
    """Images of one group are not independent."""
    (folder / "a.tsv").write_text("path\tlabel\n1.jpg\tcat\n2.jpg\tcat\n3.jpg\tdog\n")
    (folder / "groups.tsv").write_text("path\tlabel\tgroup\n1.jpg\tcat\tx\n2.jpg\tcat\tx\n3.jpg\tdog\ty\n")
    words = ["a.tsv", "a.tsv", "--truth", "groups.tsv"]
    assert "2 of 3 images share a group with others" in run("cnn-compare", *words).err
    (folder / "groups.tsv").write_text("path\tlabel\tgroup\n1.jpg\tcat\tx\n2.jpg\tcat\tz\n3.jpg\tdog\ty\n")
    assert "group" not in run("cnn-compare", *words).err


@pytest.mark.parametrize(
    "words", [[], ["good.tsv"], ["good.tsv", "worse.tsv", "little.tsv"], ["good.tsv", "worse.tsv", "--complete"]]
)
def test_rejects_other_command_lines(run, folder, words):
    """Exit 2 and one line."""
    outcome = run("cnn-compare", *words, status=2)
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("words", [["--split", "val"], ["--folders", "classes"], ["--margin", "0.1"], ["--complete"]])
def test_options_of_the_truth_need_one(run, folder, words):
    """Without a list of images there is nothing to select, to read or to widen."""
    outcome = run("cnn-compare", "good.tsv", "worse.tsv", *words, status=2)
    assert outcome.err == (f"cnn-compare: {words[0]} needs a list of images; pass one with --truth\n")
