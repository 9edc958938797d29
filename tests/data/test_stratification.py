"""Splits of images with several labels: iterative stratification, in cnn-split."""

import json
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from cnnkit.data import source, stratification
from cnnkit.data.allocation import SplitShares


def labels_of(images, seed):
    """Draw sets of eight labels, frequent to rare, which occur together."""
    random = np.random.default_rng(seed)
    common = random.random((images, 3)) @ random.random((3, 8))
    have = random.random((images, 8)) < np.geomspace(0.6, 0.03, 8) * common / common.mean()
    return [[f"{label:02d}" for label in np.flatnonzero(row)] for row in have]


def errors(sets, split_of, shares):
    """Return how many images each label, and each split as a whole, is off its share."""
    held = Counter((label, split) for labels, split in zip(sets, split_of, strict=True) for label in [*labels, ""])
    totals = Counter(label for labels in sets for label in [*labels, ""])
    return [abs(held[label, split] - share * totals[label]) for label in totals for split, share in enumerate(shares)]


@pytest.mark.parametrize("shares", [[Fraction(1, 5)] * 5, [Fraction(7, 10), Fraction(3, 20), Fraction(3, 20)]])
def test_every_split_has_its_share_of_every_label(shares):
    """To two images, and at most half of what a random split is off."""
    splits = SplitShares(tuple(map(str, range(len(shares)))), tuple(shares))
    for seed in range(2):
        sets = labels_of(500, seed)
        units = [[image] for image in np.random.default_rng(seed).permutation(500).tolist()]
        off = max(errors(sets, stratification.by_labels(units, sets, splits), shares))
        assert off <= 2
        at_random = np.empty(500, int)
        at_random[[unit[0] for unit in units]] = np.searchsorted(
            np.cumsum([float(s) for s in shares]), np.linspace(0, 0.999, 500)
        )
        assert max(errors(sets, at_random.tolist(), shares)) > 2 * off


def test_rare_labels_are_in_every_split_that_they_can_be_in():
    """Two images of a label in three equal splits are in two of them; images without labels fill up."""
    sets = [["common", *(["rare"] if image < 2 else [])] if image < 50 else [] for image in range(60)]
    splits = SplitShares(("a", "b", "c"), (Fraction(1, 3),) * 3)
    split_of = stratification.by_labels([[image] for image in range(60)], sets, splits)
    assert split_of[0] != split_of[1]
    assert sorted(Counter(split_of).values()) == [20, 20, 20]
    assert max(Counter(split_of[50:]).values()) == 4  # of ten images without labels


def test_images_are_exchanged_where_no_single_move_helps():
    """Halves of all labels exist; dealing and single moves alone leave a label a whole image off."""
    words = ["abcd", "b", "d", "ac", "bd", "abcd", "bcd", "a", "", "b", "abc", "acd", "ab", "b", "", "abcd"]
    sets = [list(word) for word in words]
    halves = (Fraction(1, 2),) * 2
    units = [[image] for image in range(len(sets))]
    split_of = stratification.by_labels(units, sets, SplitShares(("a", "b"), halves))
    assert max(errors(sets, split_of, halves)) < 1


def test_units_stay_together():
    sets = labels_of(300, 1)
    units = [list(range(start, start + 3)) for start in range(0, 300, 3)]
    shares = (Fraction(1, 2), Fraction(1, 2))
    split_of = stratification.by_labels(units, sets, SplitShares(("a", "b"), shares))
    assert all(len({split_of[member] for member in unit}) == 1 for unit in units)
    assert max(errors(sets, split_of, shares)) <= 3


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Forty images with labels, one of them twice, in groups of two."""
    monkeypatch.chdir(tmp_path)
    lines = ["path\tlabels\tgroup"]
    random = np.random.default_rng(0)
    for image in range(40):
        Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / f"{image:02d}.png")
        own = [name for name, every in (("cat", 2), ("dog", 3), ("indoor", 5)) if image % every == 0]
        lines.append(f"{image:02d}.png\t{';'.join(own)}\tg{image // 2}")
    (tmp_path / "39.png").write_bytes((tmp_path / "30.png").read_bytes())
    (tmp_path / "all.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_cnn_split_keeps_labels_groups_and_duplicates(run, folder):
    done = run("cnn-split", "all.tsv", "--ratio", "60,20,20")
    assert list(done.rows[0]) == ["path", "labels", "split", "group"]
    given = dict(line.split("\t")[:2] for line in (folder / "all.tsv").read_text().splitlines()[1:])
    assert {row["path"]: row["labels"] for row in done.rows} == given
    splits = {row["path"]: row["split"] for row in done.rows}
    assert all(len({splits[f"{image:02d}.png"], splits[f"{image + 1:02d}.png"]}) == 1 for image in range(0, 40, 2))
    assert splits["30.png"] == splits["39.png"]
    assert "images with 3 labels, 10 images without any" in done.err
    assert "30.png (cat;dog;indoor) and 39.png (dog) are exact duplicates, but have different labels" in done.err
    assert run("cnn-split", "all.tsv", "--ratio", "60,20,20").out == done.out
    table = {row["class"]: row for row in run("cnn-split", "all.tsv", "--ratio", "60,20,20", "--dry-run").rows}
    assert {label: row["total"] for label, row in table.items()} == {
        "": "10",
        "cat": "20",
        "dog": "14",
        "indoor": "8",
    }


def test_a_split_manifest_is_split_again_by_folds_and_by_content(run, folder):
    (folder / "split.tsv").write_text(run("cnn-split", "all.tsv", "--ratio", "50,50").out)
    folds = run("cnn-split", "split.tsv", "--split", "train", "--folds", "2", "--quiet").rows
    assert {row["split"] for row in folds} == {"fold0", "fold1"}
    assert all(row["labels"] or row["labels"] == "" for row in folds)
    stable = run("cnn-split", "all.tsv", "--ratio", "50,50", "--stable", status=None)
    assert stable.status in (0, 1)


@pytest.mark.parametrize("words", [(), ("--link", "move"), ("--per-tar", "20")])
def test_folders_and_archives_keep_labels(run, folder, words):
    run("cnn-split", "all.tsv", "--ratio", "50,50", "-o", "sets", *words)
    found = {image.path.rpartition("/")[2]: image for image in source.find(["sets/split.tsv"])}
    assert found["30.png"].labels == ("cat", "dog", "indoor")
    assert found["01.png"].labels == ()
    if "--per-tar" not in words:
        return
    archived = {
        image.path.rpartition("/")[2]: image for image in source.find([str(each) for each in folder.glob("sets/*.tar")])
    }
    assert {name: (image.labels, image.split, image.group) for name, image in archived.items()} == {
        name: (image.labels, image.split, image.group) for name, image in found.items()
    }


def test_mixed_and_counted_images_are_refused(run, folder):
    assert (
        "--count 3,3 is a number of images of every class"
        in run("cnn-split", "all.tsv", "--count", "3,3", status=2).err
    )
    (folder / "one.jsonl").write_text(
        "".join(
            json.dumps({"path": f"0{image}.png", key: "cat"}) + "\n" for image, key in enumerate(("labels", "label"))
        )
    )
    assert "01.png has no list of labels" in run("cnn-split", "one.jsonl", "--ratio", "1,1", status=1).err
