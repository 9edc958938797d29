"""Idx files as SOURCE: commands read them as a folder of the same images."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LAYERS = ("--layers", "conv 4 k3 s2 same relu, pool 2", "--weights", "none", "--size", "20", "--device", "cpu")


def idx(values):
    """Return an idx file of an array of bytes."""
    return (
        bytes([0, 0, 8, values.ndim])
        + b"".join(length.to_bytes(4, "big") for length in values.shape)
        + values.tobytes()
    )


@pytest.fixture
def digits(here):
    """Six images of two classes in data/, for training and for testing, and the same images in folder/SPLIT/CLASS/."""
    Path("data").mkdir()
    drawn = np.random.default_rng(0)
    for name, split, count in (("train", "train", 8), ("t10k", "test", 4)):
        pixels = drawn.integers(0, 256, (count, 20, 24), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 2 * 3
        Path(f"data/{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        Path(f"data/{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            place = Path(f"folder/{split}/{label}/{number:05d}.pgm")
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place)
    return "data/train-images-idx3-ubyte.gz"


def test_features_are_those_of_the_folder(run, digits):
    """In the order of the file, also from a manifest."""
    run("cnn-extract", digits, "-o", "idx.npy", *LAYERS)
    names = [line.split("\t") for line in Path("idx.tsv").read_text().splitlines()]
    assert [line[:2] for line in names[:3]] == [
        ["path", "label"],
        [f"{digits}/00000.pgm", "0"],
        [f"{digits}/00001.pgm", "3"],
    ]
    run("cnn-extract", "folder/train", "-o", "folder.npy", *LAYERS)
    order = [line.split("\t")[0].rpartition("/")[2] for line in Path("folder.tsv").read_text().splitlines()[1:]]
    found = dict(zip((name for name, *_ in names[1:]), np.load("idx.npy"), strict=True))
    np.testing.assert_array_equal(np.load("folder.npy"), [found[f"{digits}/{name}"] for name in order])
    Path("list.tsv").write_text(run("cnn-split", digits, "--ratio", "1").out)
    run("cnn-extract", "list.tsv", "-o", "listed.npy", *LAYERS)
    assert Path("listed.npy").read_bytes() == Path("idx.npy").read_bytes()


def test_splits_are_those_of_the_names(run, digits):
    """Of MNIST's: t10k is the test set; a folder with both files is one dataset."""
    assert len(run("cnn-split", "data", "--ratio", "1").rows) == 12
    for split, count in (("train", 8), ("test", 4)):
        rows = run("cnn-split", "data", "--split", split, "--ratio", "1").rows
        assert {(row["path"].split("-")[0], row["label"]) for row in rows} == {
            ("data/t10k" if split == "test" else "data/train", label) for label in "03"
        }
        assert len(rows) == count
    assert "data: no images with split val; it has test, train" in (
        run("cnn-split", "data", "--split", "val", "--ratio", "1", status=1).err
    )
    refusal = run("cnn-split", digits, "--split", "test", "--ratio", "1", status=1).err
    assert "no images with split test; it has train" in refusal


def test_a_decompressed_copy_is_read_once(run, digits):
    """As `gunzip -k` leaves it; labels may be compressed or not."""
    plain = Path(digits.removesuffix(".gz"))
    plain.write_bytes(gzip.decompress(Path(digits).read_bytes()))
    outcome = run("cnn-split", "data", "--ratio", "1")
    assert f"{digits}: not read, since the same file is there decompressed" in outcome.err
    assert [row["path"] for row in outcome.rows if "train" in row["path"]] == [
        f"{plain}/{number:05d}.pgm" for number in range(8)
    ]
    assert [row["label"] for row in outcome.rows] == list("03" * 6)


def test_labels_are_checked(run, digits):
    """A file of another data set is refused; without one, images have no label, with a notice."""
    labels = Path("data/train-labels-idx1-ubyte.gz")
    refusal = run("cnn-split", labels, "--ratio", "1", status=2).err
    assert f"{labels}: labels without images; give the file of the images, {digits}" in refusal
    whole = labels.read_bytes()
    labels.write_bytes(Path("data/t10k-labels-idx1-ubyte.gz").read_bytes())
    assert f"{labels}: 4 labels for the 8 images of {digits}" in run("cnn-split", digits, "--ratio", "1", status=1).err
    labels.write_bytes(Path(digits).read_bytes())
    error = run("cnn-split", digits, "--ratio", "1", status=1).err
    assert f"{labels}: an idx file of unsigned bytes in 3 dimensions; labels are unsigned bytes in 1" in error
    assert error.count("\n") == 1
    labels.write_bytes(whole[:-4])
    assert f"{labels}: damaged or truncated" in run("cnn-split", digits, "--ratio", "1", status=1).err
    labels.unlink()
    outcome = run("cnn-extract", digits, "-o", "f.npy", *LAYERS)
    assert f"{digits}: no labels, since there is no train-labels-idx1-ubyte.gz next to it" in outcome.err


@pytest.mark.parametrize("gz", ["", ".GZ"])
def test_names_in_capitals(run, digits, gz):
    """As some file systems write them: labels are found, and named if they are missing."""
    Path("card").mkdir()
    for kind in ("IMAGES-IDX3", "LABELS-IDX1"):
        content = Path(f"data/train-{kind.lower()}-ubyte.gz").read_bytes()
        Path(f"card/TRAIN-{kind}-UBYTE{gz}").write_bytes(content if gz else gzip.decompress(content))
    rows = run("cnn-split", "card", "--ratio", "1").rows
    assert [(row["path"], row["label"]) for row in rows[:2]] == [
        (f"card/TRAIN-IMAGES-IDX3-UBYTE{gz}/00000.pgm", "0"),
        (f"card/TRAIN-IMAGES-IDX3-UBYTE{gz}/00001.pgm", "3"),
    ]
    labels = Path(f"card/TRAIN-LABELS-IDX1-UBYTE{gz}")
    assert f"give the file of the images, card/TRAIN-IMAGES-IDX3-UBYTE{gz}" in (
        run("cnn-split", labels, "--ratio", "1", status=2).err
    )
    labels.unlink()
    assert f"no labels, since there is no {labels.name} next to it" in run("cnn-split", "card", "--ratio", "1").err


def test_several_data_sets_in_a_folder_are_reported(run, digits):
    """Two files of the same split: classes of one number may be different ones."""
    for kind in ("images-idx3", "labels-idx1"):
        content = Path(f"data/train-{kind}-ubyte.gz").read_bytes()
        Path(f"data/emnist-letters-train-{kind}-ubyte.gz").write_bytes(content)
    outcome = run("cnn-split", "data", "--ratio", "1")
    assert len(outcome.rows) == 20
    assert (
        "data: emnist-letters-train-images-idx3-ubyte.gz, train-images-idx3-ubyte.gz are both train, and read as one dataset; "
        "give one of them as a source if their classes differ"
    ) in outcome.err
    assert "read as one dataset" not in run("cnn-split", digits, "data/t10k-images-idx3-ubyte.gz", "--ratio", "1").err


def test_split_copies_out_of_an_idx_file(run, digits, contents):
    """As PGM files that other programs read; nothing else than a copy is possible."""
    run("cnn-split", "data", "--ratio", "1", "-o", "out")
    copies = sorted(Path("out").rglob("*.pgm"))
    assert len(copies) == 12
    assert {copy.parts[1:3] for copy in copies} == {("train", "0"), ("train", "3")}
    originals = sorted(path.read_bytes() for path in Path("folder").rglob("*.pgm"))
    for one, other in zip(sorted(copy.read_bytes() for copy in copies), originals, strict=True):
        assert one == other
    before = contents("out")
    run("cnn-split", "data", "--ratio", "1", "-o", "out", "--force")
    assert contents("out") == before
    refusal = run("cnn-split", "data", "--ratio", "1", "-o", "c", "--link", "hardlink", status=1).err
    assert refusal.splitlines()[-1].endswith(".pgm is in an idx file and can only be copied; use --link copy")


def test_training_prediction_and_copies(run, digits):
    """The split train trains; predictions are those of the test set; copies are images of their own."""
    words = ("--layers", "flatten, dense 2 softmax", "--size", "20", "--epochs", "1")
    run("cnn-train", "data", *words, "-o", "net.pt")
    run("cnn-export", "net.pt", "-o", "net.onnx")
    outcome = run("cnn-predict", "-m", "net.onnx", "data", "--split", "test")
    assert [row["path"] for row in outcome.rows] == [f"data/t10k-images-idx3-ubyte.gz/{n:05d}.pgm" for n in range(4)]
    run("cnn-augment", digits, "--augment", "hflip", "-o", "copies", "--copies", "1")
    assert len(list(Path("copies").rglob("*.png"))) == 8


def test_other_names_and_empty_files(run, digits, tmp_path):
    """Errors in one line, with a remedy."""
    assert f"{digits}/00008.pgm: the archive {digits} has no such file" in (
        run("cnn-split", f"{digits}/00008.pgm", "--ratio", "1", status=1).err
    )
    (row,) = run("cnn-split", f"{digits}/00007.pgm", "--ratio", "1").rows
    assert row["path"] == f"{digits}/00007.pgm"
    Path("no-images-idx3-ubyte").write_bytes(idx(np.zeros((0, 28, 28), np.uint8)))
    assert "no-images-idx3-ubyte: no images found" in (
        run("cnn-split", "no-images-idx3-ubyte", "--ratio", "1", status=1).err
    )
    Path("folder/train/train-images-idx3-ubyte.gz").write_bytes(b"")
    assert "ignored 1 .gz in folder; idx files next to images are not read: give each as a source" in (
        run("cnn-split", "folder", "--ratio", "1").err
    )
