"""The examples that users copy run as they stand, in their quick form."""

import gzip
import json
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnkit.data import decode
from cnnkit.formats import torch_model

EXAMPLES = Path(__file__).parents[1] / "examples"

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


@pytest.mark.slow
@needs_make
def test_the_four_cases_of_transfer_learning(shell, commands, images):
    """All four are worked on images that the test draws, and come together in one table; a second run makes nothing again."""
    sets = [images(name, red=13, blue=13) for name in ("things", "signs")]
    make = (
        f"make -f {EXAMPLES / 'transfer' / 'Makefile'} QUICK=1 SIMILAR={sets[0].name} DIFFERENT={sets[1].name} "
        f"BACKBONE=squeezenet1_1 WEIGHTS=none SIZE=32 EARLY=features.5 BIN={commands}/"
    )
    outcome = shell(f"{make} -s", cwd=sets[0].parent)
    header, *rows = [line.split("\t") for line in outcome.out.splitlines()]
    assert header == ["model", "classes", "train_rows", "val_rows", "best_epoch", "val_accuracy", "val_loss"]
    assert [row[:4] for row in rows] == [
        ["transfer/similar-small.pt", "2", "12", "6"],
        ["transfer/different-small.pt", "2", "12", "6"],
        ["transfer/similar-large.pt", "2", "18", "6"],
        ["transfer/different-large.pt", "2", "18", "6"],
    ]
    again = shell(f"{make} different-small", cwd=sets[0].parent)
    assert "cnn-" not in again.out + again.err
    assert "transfer/different-small.pt" in again.out


#: A network that is quick to export and to run; its weights are random.
BACKBONE = 'BACKBONE="--backbone squeezenet1_1 --weights none --size 32" TOP=features.10'


@pytest.fixture
def make_line(commands):
    """Write the line that makes an example on the images of a folder."""

    def write(example, *, folder, words):
        return f"make -s -f {EXAMPLES / example} PHOTOS={folder} OUT=out BIN={commands}/ {BACKBONE} {words}"

    return write


RUNGS = ["scratch", "augmented", "head", "endtoend", "tuned"]


@pytest.mark.slow
@needs_make
def test_the_ladder(shell, make_line, images):
    """All rungs are climbed for a seed, past an image that is none; the table has what the histories and cnn-eval's records have."""
    photos = images("photos", red=12, blue=12)
    (photos / "red" / "broken.png").write_bytes(b"not an image")
    line = make_line(
        "dogs-vs-cats/Makefile",
        folder="photos",
        words="SEEDS=3 COUNT=6,3,3 SIZE=32 EPOCHS=1 EPOCHS_AUGMENTED=1 EPOCHS_TUNED=1 table",
    )
    outcome = shell(line, cwd=photos.parent)
    assert "broken.png" in outcome.err
    rows = ladder_rows(outcome.out)
    assert [row["rung"] for row in rows] == RUNGS
    for row in rows:
        record = json.loads((photos.parent / "out" / f"{row['rung']}-3.json").read_text())
        assert (row["seeds"], float(row["test_accuracy"])) == ("1", pytest.approx(record["accuracy"], abs=1e-4))
        kept = torch_model.load(photos.parent / "out" / f"{row['rung']}-3.pt")
        best = min(kept.history, key=lambda epoch: epoch["val_loss"])
        assert float(row["val_accuracy"]) == pytest.approx(best["val_accuracy"], abs=1e-4)


def ladder_rows(out):
    header = "rung\tbook\tseeds\tval_accuracy\ttest_accuracy\tlow\thigh\teach"
    return [
        dict(zip(header.split("\t"), text.split("\t"), strict=True))
        for text in out[out.index(header) :].splitlines()[1:]
    ]


def test_the_table_of_the_ladder(shell, tmp_path):
    """Means over the seeds; the interval of the one in the middle; validation by the epoch with the lowest loss."""
    for seed, accuracy, losses in ((0, 0.9, (0.5, 0.2, 0.4)), (1, 0.6, (0.1, 0.2, 0.3)), (2, 0.7, (0.3, "nan", 0.2))):
        record = {"accuracy": accuracy, "accuracy_low": accuracy - 0.05, "accuracy_high": accuracy + 0.04}
        (tmp_path / f"tuned-{seed}.json").write_text(json.dumps(record))
        rows = [f"{epoch},{loss},0.{epoch}{seed}" for epoch, loss in enumerate(losses, start=1)]
        (tmp_path / f"tuned-{seed}.csv").write_text("\n".join(["epoch,val_loss,val_accuracy", *rows]) + "\n")
    (tmp_path / "tuned-more.json").write_text("{}")  # of somebody else's
    program = EXAMPLES / "dogs-vs-cats" / "ladder.py"
    (row,) = ladder_rows(shell(f"{sys.executable} {program} . tuned", cwd=tmp_path).out)
    assert (row["seeds"], row["each"]) == ("3", "0.600 0.700 0.900")
    assert float(row["test_accuracy"]) == pytest.approx((0.9 + 0.6 + 0.7) / 3, abs=1e-4)
    assert float(row["val_accuracy"]) == pytest.approx((0.20 + 0.11 + 0.32) / 3, abs=1e-4)
    assert (float(row["low"]), float(row["high"])) == pytest.approx((0.65, 0.74), abs=1e-9)
    missing = shell(f"{sys.executable} {program} . head", cwd=tmp_path, status=1)
    assert "no file head-SEED.json; make head first" in missing.err


@pytest.mark.slow
@needs_make
def test_flowers(shell, make_line, images):
    """The second lesson goes from images to curves and a confusion matrix."""
    photos = images("photos", red=10, blue=10, green=10)
    words = "RATIO=0.6,0.2,0.2 EPOCHS=2 EPOCHS_TUNED=1 VIEWS=2 LEAST=0"
    outcome = shell(make_line("flowers/Makefile", folder="photos", words=words), cwd=photos.parent)
    assert "\naccuracy\t" in outcome.out
    for name in ("curves.png", "confusion.png"):
        with Image.open(photos.parent / "out" / name) as image:
            assert min(image.size) > 100


@pytest.mark.slow
@needs_make
def test_a_convnet_is_compared_with_a_dense_network(shell, make_line, tmp_path):
    """Both are trained on moved digits, and the gate falls as soon as the dense network is the better one."""
    words = "SEEDS=0 EPOCHS=3"
    outcome = shell(make_line("digits/dense-or-convnet.mk", folder="unused", words=words), cwd=tmp_path)
    assert "seed 0: dense 0." in outcome.err
    (tmp_path / "out" / "dense-0.json").write_text('{"accuracy": 0.999, "n": 1}\n')
    refused = shell(make_line("digits/dense-or-convnet.mk", folder="unused", words=words), cwd=tmp_path, status=2)
    assert "is below" in refused.err


@pytest.mark.slow
@needs_make
def test_permuted_digits_are_the_same_digits(shell, commands, tmp_path):
    """The test set has the same labels and, in another order, the same pixels; a network is trained on them and measured."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    header = bytes([0, 0, 8, 3]) + b"".join(length.to_bytes(4, "big") for length in pixels.shape)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 40, *range(10), *range(10), *range(10), *range(10)])
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    make = f"make -s -f {EXAMPLES / 'mnist' / 'Makefile'} MNIST=. OUT=out EPOCHS=1 BIN={commands}/"
    shell(f"{make} out/permuted/dense.json", cwd=tmp_path)
    assert json.loads((tmp_path / "out" / "permuted" / "dense.json").read_text())["n"] == 10
    plain, permuted = (
        [line.split("\t") for line in (tmp_path / "out" / name / "split.tsv").read_text().splitlines()[1:]]
        for name in ("plain", "permuted")
    )
    assert [row[1:] for row in plain] == [row[1:] for row in permuted]
    one, other = (
        np.stack(
            [np.asarray(decode.load(tmp_path / "out" / name / row[0]))[..., 0].reshape(-1) for row in rows], axis=1
        )
        for name, rows in (("plain", plain), ("permuted", permuted))
    )
    assert not np.array_equal(one, other)
    assert sorted(map(tuple, one)) == sorted(map(tuple, other))  # each row is a pixel, of all images


@pytest.mark.slow
@needs_make
def test_boxes_of_pasted_digits(shell, commands, tmp_path):
    """The pasted digits are in their boxes, the network's boxes are measured, and a sheet shows both."""
    pixels = np.zeros((40, 28, 28), dtype=np.uint8)
    pixels[:, 6:22, 10:18] = 255
    header = bytes([0, 0, 8, 3]) + b"".join(length.to_bytes(4, "big") for length in pixels.shape)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 40, *(number % 3 for number in range(40))])
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    make = f"make -s -f {EXAMPLES / 'boxes' / 'Makefile'} MNIST=. OUT=out COUNT=100 EPOCHS=1 BIN={commands}/"
    assert "mean IoU" in shell(make, cwd=tmp_path).out
    assert json.loads((tmp_path / "out" / "measures.json").read_text())["boxes"] == 10
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 1000
    _, *rows = [line.split("\t") for line in (tmp_path / "out" / "boxes.tsv").read_text().splitlines()]
    for path, _, _, box in rows[:10]:
        x, y, width, height = map(int, box.split(","))
        assert (np.asarray(Image.open(tmp_path / "out" / path))[y : y + height, x : x + width] > 160).mean() > 0.7


@pytest.mark.slow
@needs_make
def test_small_photographs(shell, commands, images):
    """Training and test set are folders; the network is measured on the test set."""
    for split in ("train", "test"):
        images(f"photos/{split}", red=8, blue=8, size=(32, 32))
    folder = images("photos/train", red=8, blue=8, size=(32, 32)).parents[1]
    make = f"make -s -f {EXAMPLES / 'cifar10' / 'Makefile'} CIFAR=photos OUT=out EPOCHS=1 BIN={commands}/"
    shell(f"{make} out/convnet.json", cwd=folder)
    assert json.loads((folder / "out" / "convnet.json").read_text())["n"] == 16
    gap = shell(f"{make} changes CHANGES=gap", cwd=folder).out.splitlines()[-1].split("\t")
    measured = json.loads((folder / "out" / "changed-gap.json").read_text())
    assert (gap, measured["n"]) == (["changed-gap", str(measured["accuracy"])], 16)


@pytest.mark.slow
@needs_make
def test_how_far_to_trust_the_digits(shell, commands, tmp_path):
    """Every step prints its figures, and they are consistent; each image is predicted once out of fold, and the vote is a mean."""
    words = {"BIN": f"{commands}/", "OUT": "out", "DATA": "none"}
    steps = shell(f"{EXAMPLES / 'trust.sh'} FOLDS=2 -j2", cwd=tmp_path, env=words).out.strip().split("\n\n")
    titles = [step.splitlines()[0] for step in steps]
    tables = [[line.split("\t") for line in step.splitlines()[1:]] for step in steps]
    findings, own, single, soft, hard, views, temperature, calibrated, coverage, beside = tables
    assert titles[0] == "Findings:"
    assert findings[0] == ["level", "finding", "path", "other", "detail"]

    assert [row[0] for row in own[1:]] == ["fold0", "fold1", "mean", "sd", "out_of_fold"]
    assert int(own[1][1]) + int(own[2][1]) == int(own[5][1])
    assert [row[0] for row in single[1:]] == ["test-fold0", "test-fold1", "mean", "sd"]
    singles, voted = dict(zip(single[0], single[3], strict=True)), dict(soft)
    assert voted["n"] == dict(hard)["n"] == views[1][0] == single[1][1]
    assert float(voted["log_loss"]) < float(singles["log_loss"])  # of a mean of probabilities it always is
    folds = tmp_path / "out" / "folds"
    one, other, mean = (probabilities(folds / f"{name}.tsv") for name in ("test-fold0", "test-fold1", "soft-vote"))
    assert mean == pytest.approx({key: (one[key] + other[key]) / 2 for key in mean}, abs=1e-5)

    assert temperature[3][0] == "accuracy"
    assert temperature[3][1] == temperature[3][2]
    log_loss = dict(zip(temperature[0], temperature[4], strict=True))
    assert float(log_loss["after"]) <= float(
        log_loss["before"]
    )  # on the images that it was fitted on; on others it may not
    measured = {(name, measure): float(value) for name, measure, value in calibrated}
    assert measured["folds/test-fold0", "accuracy"] == measured["calibrated", "accuracy"]
    assert float(coverage[1][3]) == pytest.approx(measured["calibrated", "accuracy"])
    assert [row[0] for row in beside[1:]] == ["features", "features, width, height, bytes", "width, height, bytes"]
    assert (tmp_path / "out" / "reliability.png").stat().st_size > 10_000

    line = f"make -n -f {EXAMPLES / 'folds' / 'Makefile'} PHOTOS=out/clean.tsv OUT=out/folds FOLDS=2"
    again = shell(line, cwd=tmp_path).out
    assert again.count("cnn-") == again.count("cnn-eval") == 3  # nothing is made again


def probabilities(path):
    """Read predictions by image and class."""
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    return {(image, label): float(probability) for image, _, label, probability in rows}


def see(shell, commands, folder, **env):
    """Run see.sh, and demand every kind of image, none of one colour."""
    words = {"BIN": f"{commands}/", "OUT": "out", **env}
    outcome = shell(str(EXAMPLES / "see.sh"), cwd=folder, env=words)
    kinds = [
        "cam.png",
        "cam/**/*.*",
        "fine/**/*.*",
        "maps/*.png",
        "maps/*/*.png",
        "filters.png",
        "kernels.png",
        "dream.png",
        "style.png",
    ]
    for kind in kinds:
        found = sorted((folder / "out").glob(kind))
        assert found, kind
        with Image.open(found[0]) as image:
            assert len(image.convert("RGB").getcolors(image.width * image.height)) > 3, found[0]
    return outcome


@pytest.mark.slow
@needs_make
def test_all_images_of_the_digits(shell, commands, quickstart, tmp_path):
    """Where there are no photographs, all images are of the network that reads digits."""
    # Most of what the script would make; not the predictions, in which the folder has its name
    shutil.copytree(quickstart, tmp_path / "out" / "digits", ignore=shutil.ignore_patterns("predictions.tsv"))
    outcome = see(shell, commands, tmp_path, DATA=str(tmp_path / "none"))
    assert "out/digits/digits/8/0008.png\t" in outcome.out
    with Image.open(tmp_path / "out" / "cam.png") as sheet:
        assert min(sheet.size) > 300


@pytest.mark.slow
@needs_make
def test_the_worst_mistakes_of_the_digits_are_explained_in_one_pipe(shell, quickstart):
    """Two maps each, of what the network says and of what it is; the rows go on to a reader that stops after one."""
    worst = "cnn-eval quickstart/predictions.tsv --truth quickstart/split.tsv --worst 3"
    mistakes = shell(worst, cwd=quickstart.parent).rows
    line = (
        f"set -o pipefail; {worst} | "
        "cnn-cam -m quickstart/head.pt - --class top --class true --sheet worst.png --device cpu"
    )
    rows = shell(line, cwd=quickstart.parent).rows
    assert [row["class"] for row in rows] == [row[column] for row in mistakes for column in ("label", "truth")]
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert one["path"] == other["path"]
        assert one["class"] == one["label"] != other["class"] == one["path"].split("/")[-2]
    sheet = quickstart.parent / "worst.png"
    whole = sheet.read_bytes()
    sheet.unlink()
    # cnn-cam ends with SIGPIPE where it writes after head has stopped, and with 0 where it had written all by then.
    stopped = shell(f"{line} | head -1", cwd=quickstart.parent, status=None)
    assert stopped.status in (0, 128 + signal.SIGPIPE), stopped
    assert sheet.read_bytes() == whole


@pytest.mark.slow
@pytest.mark.photos
def test_all_images_of_real_networks(shell, commands, tmp_path, photos):
    """Where there are some, of MobileNetV2 and SqueezeNet; more values are nought in the late layer than in the early one."""
    outcome = see(shell, commands, tmp_path, DATA=str(photos))
    zeros = {
        line.split("\t")[0]: float(line.split("\t")[3]) for line in outcome.out.splitlines() if "out/maps/" in line
    }
    assert zeros["features.12"] > zeros["features.1"] + 0.2
    assert (tmp_path / "out" / "fine" / "coral_hot_dog.jpg").exists()
