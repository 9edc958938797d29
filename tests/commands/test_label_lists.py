"""Images with several labels in the commands that carry the column `labels` or count it."""

import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from cnnkit.formats import features

SETS = ["cat;indoor", "dog", "", "cat;dog;indoor", "dog;indoor", "cat"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Six images with labels, in a folder of their own, listed in all.tsv."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    lines = ["path\tlabels\tsplit"]
    for number, labels in enumerate(SETS):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.png")
        lines.append(f"images/{number}.png\t{labels}\ttrain")
    (tmp_path / "all.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


BACKBONE = ("--layers", "conv 4 k3, gap", "--size", "16", "--quiet")


def test_features_keep_the_labels_of_a_file_a_pipe_and_shards(run, here):
    run("cnn-extract", "all.tsv", "-o", "a.npy", *BACKBONE)
    assert (here / "a.tsv").read_text().startswith("path\tlabels\tsplit\tgroup\nimages/0.png\tcat;indoor\ttrain\t\n")
    found = features.load("a.npy")
    assert found.header.classes == ("cat", "dog", "indoor")
    assert found.label_matrix()[1].tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 1], [1, 0, 0]]
    run("cnn-extract", "-", "-o", "b.npy", *BACKBONE, stdin=(here / "all.tsv").read_text())
    assert (here / "b.tsv").read_bytes() == (here / "a.tsv").read_bytes()
    for part in ("1/2", "2/2"):
        run("cnn-extract", "all.tsv", "-o", f"part-{part[0]}.npy", "--shard", part, *BACKBONE)
    run("cnn-extract", "--join", "part-1.npy", "part-2.npy", "-o", "c.npy", "--quiet")
    assert (here / "c.tsv").read_bytes() == (here / "a.tsv").read_bytes()
    (here / "other.tsv").write_text((here / "all.tsv").read_text().replace("cat;indoor\t", "cat\t"))
    run("cnn-extract", "other.tsv", "-o", "part-2.npy", "--shard", "2/2", *BACKBONE)
    run("cnn-extract", "--join", "part-1.npy", "part-2.npy", "-o", "d.npy", status=1)
    assert "a.npy is complete" in run("cnn-extract", "all.tsv", "-o", "a.npy", "--resume", *BACKBONE[:-1]).err
    points = run("cnn-embed", "a.npy", "--method", "pca", "--quiet").rows
    assert [row["label"] for row in points] == [";".join(sorted(filter(None, each.split(";")))) for each in SETS]


def test_lists_with_and_without_labels_are_not_mixed(run, here):
    (here / "images/cat").mkdir()
    Image.new("RGB", (40, 40)).save(here / "images/cat/1.png")
    done = run("cnn-extract", "all.tsv", "images/cat/1.png", "-o", "a.npy", *BACKBONE, status=1)
    assert "images/cat/1.png has no list of labels, and other images have one" in done.err


def test_copies_keep_labels(run, here):
    listed = run("cnn-augment", "all.tsv", "--augment", "hflip", "--copies", "1", "-o", "-").rows
    assert [row["labels"] for row in listed] == SETS
    run("cnn-augment", "all.tsv", "--augment", "hflip", "--copies", "1", "-o", "copies")
    assert (here / "copies/augment.tsv").read_text().startswith("path\tlabels\tsplit\tgroup\tsource\tcopy")
    table = {row["class"]: row["images"] for row in run("cnn-check", "copies/augment.tsv", "--table", "classes").rows}
    assert table == {"(none)": "1", "cat": "3", "dog": "3", "indoor": "3"}
    run("cnn-augment", "all.tsv", "--augment", "hflip", "--copies", "1", "-o", "tars", "--per-tar", "10")
    with tarfile.open(next(here.glob("tars/*.tar"))) as archive:
        described = [json.load(archive.extractfile(name)) for name in archive.getnames() if name.endswith(".json")]
    assert sorted(";".join(each["labels"]) for each in described) == sorted(SETS)
    assert not any("label" in each for each in described)


def test_check_reports_labels_that_differ_balance_and_splits(run, here):
    (here / "images/6.png").write_bytes((here / "images/0.png").read_bytes())
    (here / "images/7.png").write_bytes((here / "images/3.png").read_bytes())
    with (here / "all.tsv").open("a") as file:
        file.write("images/6.png\tcat\tval\nimages/7.png\tindoor;cat;dog\ttrain\n")
    done = run("cnn-check", "all.tsv", "--probes", "order", "--fix", "fixed.tsv")
    details = [(row["level"], row["finding"], row["detail"]) for row in done.rows]
    assert ("error", "identical", "labels cat;indoor and cat; in train and val") in details
    assert ("note", "identical", "") in details  # the same labels in another order
    assert ("note", "label", "1 image with none of the labels") in details
    assert ("warning", "balance", "no image of class dog in val") in details
    assert not any("has no class" in detail or "only one class" in detail for _, _, detail in details)
    assert "leaks of the class are not looked for" in done.err
    assert "of each of 3 labels: a small dataset" in done.err
    assert "cnn-advise" not in done.err
    assert (here / "fixed.tsv").read_text().splitlines()[0] == "path\tlabels\tsplit"


@pytest.mark.parametrize(
    ("labels", "detail"),
    [("", "no image has a label (column labels); training needs images of two"), ("cat", "only one class, cat")],
)
def test_check_warns_of_labels_that_cannot_be_trained_on(run, here, labels, detail):
    (here / "few.tsv").write_text("path\tlabels\n" + "".join(f"images/{number}.png\t{labels}\n" for number in range(6)))
    done = run("cnn-check", "few.tsv", "--probes", "none")
    assert [row["level"] for row in done.rows if detail in row["detail"]] == ["warning"]
    assert "make a folder for each class" not in done.err


def test_checks_of_wrong_labels_need_one_label_per_image(run, here):
    """Neither are lists of labels taken for missing labels, nor are corrections of them lost."""
    run("cnn-extract", "all.tsv", "-o", "a.npy", *BACKBONE)
    (here / "suspects.tsv").write_text("path\tsuggested\nimages/0.png\tdog\n")
    for words in (
        ("--labels", "a.npy"),
        ("all.tsv", "--labels", "a.npy"),
        ("all.tsv", "--corrections", "suspects.tsv", "--fix", "new.tsv"),
    ):
        refused = run("cnn-check", *words, status=2).err
        assert "these images have several labels (column labels), and " in refused
        assert "without a label" not in refused
    assert not (here / "new.tsv").exists()
