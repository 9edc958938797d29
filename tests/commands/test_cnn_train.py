"""cnn-train on the command line: from images to a network and its history, interruptions and errors."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnkit.choices import Normalize
from cnnkit.data import preprocessing
from cnnkit.formats import atomic, checkpoint, torch_model
from cnnkit.nets import classifier

NET = "conv 4 k3 relu, pool 2, conv 6 k3 bn relu, dropout 0.2"
FAST = ("--layers", NET, "--size", "16", "--device", "cpu", "--lr", "0.01", "--batch", "8", "--epochs", "4")
#: Options with state that lasts from step to step or from epoch to epoch.
MOVING = (
    *("--optimizer", "sgd", "--momentum", "0.9", "--ema", "0.9", "--mixup", "0.2", "--cutmix", "1", "--clip", "5"),
    *("--augment", "rotate 20, hflip, noise 0.05", "--sample", "balanced"),
    *("--schedule", "cosine", "--warmup", "0.5", "--amp", "bf16"),
)


@pytest.fixture
def here(tmp_path, monkeypatch, images):
    """Work in a folder with photos/train and photos/val."""
    images("photos/train", red=11, blue=10)
    images("photos/val", red=5, blue=4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def history(path="m.csv", *, seconds=False):
    with Path(path).open() as file:
        rows = list(csv.DictReader(file))
    return rows if seconds else [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def train(run, *words, out="m.pt", source="photos", **others):
    return run("cnn-train", source, "-o", out, *FAST, *words, **others)


@pytest.mark.parametrize("way", ["manifest", "folder", "stdin"])
def test_hold_out_validates_on_the_fold(run, here, way):
    """The fold is not trained on: the result is the same, to the bit, as with its rows under --val."""
    run("cnn-split", "photos/train", "--folds", "3", "--manifest", "folds.tsv")
    run("cnn-split", "photos/train", "--folds", "3", "-o", "folds")
    text = Path("folds.tsv").read_text()
    header, *rows = text.splitlines()
    for name, held in (("own", True), ("others", False)):
        kept = [row.rpartition("\t")[0] for row in rows if row.endswith("\tfold1") is held]
        Path(f"{name}.tsv").write_text("\n".join([header.rpartition("\t")[0], *kept]) + "\n")
    source = {"manifest": "folds.tsv", "folder": "folds", "stdin": "-"}[way]
    stdin = text if way == "stdin" else None
    (result,) = train(run, "--hold-out", "fold1", out="fold1.pt", source=source, stdin=stdin).rows
    (expected,) = train(run, "--val", "own.tsv", out="m.pt", source="others.tsv").rows
    assert int(result["train_rows"]) + int(result["val_rows"]) == 21
    if way != "folder":  # there the images come in another order
        ignored = {"model": "", "seconds": ""}
        assert result | ignored == expected | ignored


# ---------------------------------------------------------------- results


def test_writes_model_history_and_one_record(run, here):
    """One record on stdout, the model with its header, one row of history per epoch, and no checkpoint."""
    outcome = train(run)
    (result,) = outcome.rows
    assert list(result) == [
        "model", "classes", "train_rows", "val_rows", "epochs", "best_epoch",
        "train_accuracy", "val_accuracy", "val_loss", "majority", "seconds",
    ]  # fmt: skip
    counts = [result[name] for name in ("model", "classes", "train_rows", "val_rows", "epochs")]
    assert counts == ["m.pt", "2", "21", "9", "4"]
    assert float(result["majority"]) == pytest.approx(5 / 9, abs=1e-5)
    rows = history(seconds=True)
    assert list(rows[0]) == ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    losses = [float(row["val_loss"]) for row in rows]
    best = rows[losses.index(min(losses))]
    assert result["best_epoch"] == best["epoch"]
    assert all(result[name] == best[name] for name in ("train_accuracy", "val_loss", "val_accuracy"))
    model = torch_model.load("m.pt")
    assert model.header.classes == ("blue", "red")
    assert model.header.backbone.notation == "conv 4 k3 relu, pool 2, conv 6 k3, bn relu, dropout 0.2"
    assert model.header.head == "flatten, dense 2 softmax"
    assert [f"{row['val_loss']:.6g}" for row in model.history] == [row["val_loss"] for row in rows]
    assert sorted(os.listdir()) == ["m.csv", "m.pt", "photos"]
    assert str(here) not in str(torch.load("m.pt", weights_only=True)["header"])
    lines = [line for line in outcome.err.splitlines() if line.startswith("cnn-train: epoch ")]
    assert len(lines) == 4
    loss, accuracy = float(rows[0]["val_loss"]), float(rows[0]["val_accuracy"])
    assert f"val loss {loss:.4f}, accuracy {accuracy:.4f}; lr 0.01; " in lines[0]
    assert lines[3].endswith(" 0:00 left")


def test_json_prints_epochs_and_result(run, here):
    """Numbers are numbers; without a validation set its measures are null, and the last epoch is kept."""
    *epochs, result = [json.loads(line) for line in train(run, "--json", "--quiet").out.splitlines()]
    assert [f"{epoch['val_loss']:.6g}" for epoch in epochs] == [row["val_loss"] for row in history()]
    assert result["val_loss"] == min(epoch["val_loss"] for epoch in epochs)
    outcome = train(run, "--json", "--quiet", source="photos/train")
    assert outcome.err.startswith("cnn-train: no validation set: keeping the last epoch")
    assert len(outcome.err.splitlines()) == 1
    result = json.loads(outcome.out.splitlines()[-1])
    assert (result["val_accuracy"], result["majority"], result["val_rows"], result["best_epoch"]) == (None, None, 0, 4)


CASES = {
    "standard": ("--fit", "squash"),
    "center": ("--grey", "--amp", "bf16"),
    "maxabs": ("--fit", "pad", "--loss", "binary", "--ema", "0.5"),
    "scale": ("--fit", "crop", "--grey"),
    "imagenet": ("--fit", "pad", "--monitor", "val_accuracy", "--amp", "off"),
}


@pytest.mark.parametrize(
    "normalize",
    ["standard", "maxabs", *(pytest.param(each, marks=pytest.mark.slow) for each in ("center", "scale", "imagenet"))],
)
def test_reported_accuracy_is_that_of_prediction(run, here, images, normalize):
    """The history's best accuracy is that of cnn-export, cnn-predict and cnn-eval; probabilities are torch's to 1e-4."""
    for label in ("red", "blue"):  # some images look like the other class, so that not all predictions are correct
        for index in range(2):
            other = here / "photos" / "val" / {"red": "blue", "blue": "red"}[label] / f"{index:02d}.png"
            shutil.copy(other, here / "photos" / "val" / label / f"odd{index}.png")
    words = ("--normalize", normalize, "--epochs", "3", *CASES[normalize])
    (result,) = train(run, *words).rows
    run("cnn-export", "m.pt", "-o", "m.onnx", "--device", "cpu")
    predicted = run("cnn-predict", "-m", "m.onnx", "photos", "--split", "val", "--top", "2", "--device", "cpu").out
    Path("predictions.tsv").write_text(predicted)
    (measured,) = run("cnn-eval", "predictions.tsv", "--truth", "photos/val", "--json").out.splitlines()
    assert f"{json.loads(measured)['accuracy']:.6g}" == result["val_accuracy"]
    assert 0 < float(result["val_accuracy"]) < 1

    model = torch_model.load("m.pt")
    network = classifier.from_header(model.header, model.state, name="m.pt")
    rows = [line.split("\t") for line in predicted.splitlines()[1:]]
    paths = sorted({row[0] for row in rows})
    batch = torch.from_numpy(np.stack([preprocessing.load(path, model.header.preprocess) for path in paths]))
    with torch.no_grad():
        expected = classifier.class_logits(network(batch)).softmax(1).numpy()
    printed = {(path, label): float(probability) for path, _, label, probability in rows}
    for path, shares in zip(paths, expected, strict=True):
        for label, share in zip(model.header.classes, shares, strict=True):
            assert printed[path, label] == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize("grey", [False, True])
def test_measured_normalization_of_training_images(run, here, grey):
    """The first layer's input has mean 0, mean 0 and deviation 1, or a maximum of 1, per channel."""
    seen = {}
    for normalize in (each for each in Normalize if each.whiten is None):
        train(run, "--epochs", "1", "--normalize", normalize, *(["--grey"] if grey else []))
        prepare = torch_model.load("m.pt").header.preprocess
        paths = sorted(Path("photos/train").rglob("*.png"))
        images = torch.from_numpy(np.stack([preprocessing.load(path, prepare) for path in paths]))
        seen[normalize] = (
            classifier.InputNormalization(prepare)(images).double().transpose(0, 1).flatten(1)
        )  # (C, pixels)
    assert len(seen[Normalize.SCALE]) == (1 if grey else 3)
    plain = seen[Normalize.SCALE]
    mean, deviation = plain.mean(1, keepdim=True), plain.std(1, keepdim=True, correction=0)
    expected = {
        Normalize.CENTER: plain - mean,
        Normalize.STANDARD: (plain - mean) / deviation,
        Normalize.MAXABS: plain / plain.abs().amax(1, keepdim=True),
    }
    for normalize, values in expected.items():
        torch.testing.assert_close(seen[normalize], values, rtol=0, atol=1e-5)


def test_the_same_seed_gives_the_same_bytes(run, here):
    """With any number of decoding threads, from memory or read ahead, in another folder; another seed gives another model."""
    for name, words in (
        ("a", ("--jobs", "1")),
        ("b", ("--jobs", "3", "--cache", "0")),
        ("c", ("--seed", "1")),
    ):
        train(run, *MOVING, *words, out=f"{name}.pt")
    shutil.copytree("photos", "else/where")
    train(run, *MOVING, out="d.pt", source="else/where")
    first = Path("a.pt").read_bytes()
    assert first == Path("b.pt").read_bytes() == Path("d.pt").read_bytes()
    assert first != Path("c.pt").read_bytes()
    assert history("a.csv") == history("b.csv")


def test_patience_stops_and_keeps_the_first_of_equal_epochs(run, here):
    """At a learning rate of zero nothing improves: the first epoch is kept, and the training ends after N more."""
    for words in (("--patience", "2"), ("--patience", "2", "--monitor", "val_accuracy")):
        outcome = train(run, "--epochs", "9", "--lr", "0", "--layers", "conv 2 k3, gap", *words)
        assert [outcome.rows[0][name] for name in ("epochs", "best_epoch")] == ["3", "1"]
        assert "no improvement since epoch 1: stopping (--patience 2)" in outcome.err


@pytest.mark.parametrize("arch", [pytest.param("resnet18", marks=pytest.mark.slow), "timm:resnet10t"])
def test_arch_trains_all_blocks_and_a_new_head(run, here, arch):
    """Also at 32 pixels; predictions have the reported accuracy."""
    if arch.startswith("timm:"):
        pytest.importorskip("timm")
    words = ("--arch", arch, "--size", "32", "--epochs", "2", "--device", "cpu", "--lr", "0.001", "--batch", "8")
    (result,) = run("cnn-train", "photos", "-o", "m.pt", *words, "--head", "dense 8 relu").rows
    header = torch_model.load("m.pt").header
    assert header.backbone.layer == ("layer4.1" if arch == "resnet18" else "layer4.0")
    assert header.head == "dense 8 relu, dense 2 softmax"
    run("cnn-export", "m.pt", "-o", "m.onnx", "--device", "cpu")
    predicted = run("cnn-predict", "-m", "m.onnx", "photos", "--split", "val", "--device", "cpu")
    right = sum(Path(row["path"]).parent.name == row["label"] for row in predicted.rows)
    assert right / 9 == pytest.approx(float(result["val_accuracy"]), abs=1e-5)


# ---------------------------------------------------------------- interruption and resuming


def has_rows(count, process):
    """Check whether the history has more than `count` rows, while the training is running."""
    assert process.poll() is None, process.stderr.read().decode()
    return Path("m.csv").exists() and len(Path("m.csv").read_text().splitlines()) > count


@pytest.mark.parametrize(
    ("number", "words", "layers"),
    [
        (signal.SIGKILL, MOVING, NET),
        pytest.param(
            *(signal.SIGTERM, ("--schedule", "plateau", "--optimizer", "adam", "--l2", "0.01"), NET),
            marks=pytest.mark.slow,
        ),
        (signal.SIGINT, ("--schedule", "step", "--optimizer", "rmsprop", "--class-weights", "balanced"), NET),
    ],
    ids=["kill", "term", "interrupt"],
)
def test_resume_is_byte_identical(run, here, commands, wait_for, number, words, layers):
    """Same bytes and history; before, a whole checkpoint, no partial file, no model, and the exit status of the signal."""
    words = (*words, "--epochs", "40", "--layers", layers)
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(run, *words, out="whole.pt")
        process = subprocess.Popen(
            [commands / "cnn-train", "photos", "-o", "m.pt", *FAST, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        wait_for(lambda: has_rows(2, process), timeout=120)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode in {signal.SIGKILL: (-9,), signal.SIGTERM: (143,), signal.SIGINT: (130,)}[number], err
        assert out == b""
        assert b"Traceback" not in err
        left = sorted(os.listdir())
        if number is not signal.SIGKILL:  # which may come while the next checkpoint is written
            assert left == ["m.checkpoint.pt", "m.csv", "photos", "whole.csv", "whole.pt"]
            assert b"m.checkpoint.pt has the finished epochs; run again with --resume to continue" in err
        assert "m.checkpoint.pt" in left
        assert "m.pt" not in left
        done = len(history())
        assert 2 <= done < 40
        outcome = train(run, *words, "--resume")
    finally:
        torch.set_num_threads(torch_threads)
    assert "resuming after epoch " in outcome.err
    assert Path("m.pt").read_bytes() == Path("whole.pt").read_bytes()
    assert history() == history("whole.csv")
    assert sorted(os.listdir()) == ["m.csv", "m.pt", "photos", "whole.csv", "whole.pt"]


class Stop(Exception):
    pass


@pytest.fixture
def stopped(run, here, monkeypatch):
    """Train, and stop after the third epoch as a power cut would."""
    from cnnkit.train.trainer import Trainer

    def stop(*words):
        with monkeypatch.context() as patch:
            real = Trainer.keep

            def keep(self, done):
                real(self, done)
                if len(done) == 3:
                    raise Stop

            patch.setattr(Trainer, "keep", keep)
            with pytest.raises(Stop):
                train_directly(run, *words)

    return stop


def train_directly(run, *words):
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="console_scripts", name="cnn-train")
    entry.load()(["photos", "-o", "m.pt", *FAST, *words])


def test_resume_rejects_another_training(run, here, stopped):
    """Another option, network or image is refused, with the name and both values; the checkpoint is kept."""
    stopped()
    cases = {
        ("--lr", "0.02"): "--lr: 0.01, now 0.02",
        ("--augment", "hflip"): "--augment: none, now hflip, fill nearest",
        ("--momentum", "0.9", "--optimizer", "sgd"): "--optimizer: adam, now sgd",
        ("--clip", "3"): "--clip: none, now 3.0",
        ("--size", "20"): "--size: 16, now 20",
        ("--layers", "conv 4 k3, gap"): "--layers: conv 4 k3 relu, pool 2, conv 6 k3, bn relu, dropout 0.2, now conv 4 k3",
        ("--fit", "pad", "--normalize", "scale"): "--normalize: standard, now scale",
        ("--schedule", "cosine"): "--schedule: constant, now cosine",
    }  # fmt: skip
    for words, message in cases.items():
        err = train(run, *words, "--resume", status=2).err
        assert f"cnn-train: m.checkpoint.pt is of a training with another value of {message}; give the same" in err
    shutil.copy("photos/train/red/00.png", "photos/train/blue/copy.png")
    assert "with another value of the images: " in train(run, "--resume", status=2).err
    Path("photos/train/blue/copy.png").unlink()
    # With a constant rate, another number of epochs is the same training
    outcome = train(run, "--epochs", "5", "--resume")
    assert "cnn-train: resuming after epoch 3" in outcome.err
    assert len(history()) == 5


@pytest.mark.parametrize(
    ("before", "after"), [((), ("--weight-decay", "0.004")), (("--weight-decay", "0.004"), ())], ids=["now", "before"]
)
def test_resume_accepts_the_default_weight_decay_written_out(run, here, stopped, before, after):
    stopped("--optimizer", "adamw", *before)
    outcome = train(run, "--optimizer", "adamw", *after, "--resume")
    assert "cnn-train: resuming after epoch 3" in outcome.err


def test_starts_over_without_resume(run, here, stopped):
    """The unfinished training is named before it is replaced; --resume without a checkpoint starts over, too."""
    stopped()
    assert (
        "m.checkpoint.pt of an unfinished training will be replaced; to continue that training, use --resume"
        in train(run).err
    )
    assert not Path("m.checkpoint.pt").exists()
    Path("m.pt").unlink()
    assert "no checkpoint m.checkpoint.pt to resume: starting with epoch 1" in train(run, "--resume").err


def test_another_trainings_checkpoint_is_not_offered(run, here, stopped):
    """A training that fails in its first epoch has no checkpoint; that of an earlier training is kept, but not offered."""
    stopped()
    err = train(run, "--lr", "1e30", status=1).err
    assert "m.checkpoint.pt of an unfinished training will be replaced" in err
    assert "has the finished epochs" not in err
    assert "resuming after epoch 3" in train(run, "--resume").err


def test_resume_of_a_complete_training_changes_nothing(run, here):
    """--resume prints the result again; it refuses the complete model of another training."""
    first = train(run).rows[0]
    before = {name: Path(name).read_bytes() for name in ("m.pt", "m.csv")}
    outcome = train(run, "--resume")
    assert "cnn-train: m.pt is complete with epoch 4; nothing is left to do" in outcome.err
    assert {**outcome.rows[0], "seconds": ""} == {**first, "seconds": ""}
    assert {name: Path(name).read_bytes() for name in before} == before
    more = train(run, "--resume", "--epochs", "5", status=2)
    assert "m.pt is complete with --epochs 4, and its checkpoint is removed; start over" in more.err
    other = train(run, "--resume", "--lr", "0.5", status=2)
    assert "m.pt is of a training with another value of --lr: 0.01, now 0.5; " in other.err
    assert {name: Path(name).read_bytes() for name in before} == before
    assert train(run, "--epochs", "5").rows[0]["epochs"] == "5"


@pytest.mark.parametrize(("which", "file", "done"), [(3, "m.checkpoint.pt", 2), (5, "m.pt", 4)])
def test_a_full_disk_keeps_the_last_checkpoint(run, here, monkeypatch, which, file, done):
    """At a checkpoint or at the model: reported, without a partial file, and --resume ends as an undisturbed training does."""
    from cnnkit.formats import atomic

    train(run, *MOVING, out="whole.pt")
    calls = []
    real = os.fsync

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == which:
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", fsync)
        outcome = train(run, *MOVING, "--checkpoint-every", "0", status=1)
    assert outcome.out == ""
    assert outcome.err.splitlines()[-2:] == [
        "cnn-train: m.checkpoint.pt has the finished epochs; run again with --resume to continue",
        f"cnn-train: {file}: No space left on device",
    ]
    assert sorted(os.listdir()) == ["m.checkpoint.pt", "m.csv", "photos", "whole.csv", "whole.pt"]
    assert f"resuming after epoch {done}" in train(run, *MOVING, "--resume").err
    assert Path("m.pt").read_bytes() == Path("whole.pt").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_history_on_a_full_disk_is_named(run, here):
    """The history is the first file that is written."""
    Path("m.csv").symlink_to("/dev/full")
    err = train(run, status=1).err
    assert err.splitlines()[-1] == "cnn-train: m.csv: No space left on device"


def test_warns_of_saturated_outputs(run, here):
    """The loss is finite, but outputs are certain: one line with a remedy."""
    outcome = train(run, "--epochs", "1", "--lr", "1e9", "--amp", "off")
    (line,) = [line for line in outcome.err.splitlines() if "saturated" in line]
    assert line.startswith("cnn-train: the outputs are saturated: ")
    assert line.endswith("; give a smaller --lr than 1e+09")


def test_infinite_loss_stops_and_keeps_the_best_epoch(run, here, monkeypatch):
    """Step and rate are named; the model is that of a training that ended before."""
    from cnnkit.train import optim

    train(run, "--epochs", "2", out="two.pt")
    real = optim.lr_factor
    monkeypatch.setattr(
        optim,
        "lr_factor",
        lambda which, *, step, **others: real(which, step=step, **others) * (1e30 if step > 5 else 1),
    )
    outcome = train(run, status=1)
    best = torch_model.load("two.pt").history
    number = 1 + min(range(2), key=lambda index: best[index]["val_loss"])
    line = outcome.err.splitlines()[-1]
    assert line.startswith("cnn-train: the loss became ")
    assert " in epoch 3, step 2, at a learning rate of 1e+28; give a smaller --lr; " in line
    assert line.endswith(f"; m.pt has the best epoch before, {number}")
    assert outcome.out == ""
    kept, two = torch_model.load("m.pt"), torch_model.load("two.pt")
    assert kept.history == two.history
    assert all(torch.equal(kept.state[name], tensor) for name, tensor in two.state.items())
    assert len(history()) == 2
    assert not Path("m.checkpoint.pt").exists()
    # It did not finish: --resume does not treat it as complete
    assert "complete" not in train(run, "--resume", status=1).err


def test_without_a_finished_epoch_nothing_is_written(run, here):
    """There is no best epoch to keep."""
    outcome = train(run, "--lr", "1e30", status=1)
    assert " in epoch 1, step " in outcome.err.splitlines()[-1]
    assert sorted(os.listdir()) == ["photos"]


# ---------------------------------------------------------------- errors


def test_a_broken_image_is_skipped_and_named(run, here):
    """Exit status 3; the model is that of a training without the image."""
    train(run, out="whole.pt")
    (here / "photos/train/red/00a.png").write_bytes(b"not an image")
    outcome = train(run, "--errors", "bad.tsv", status=3)
    assert "cnn-train: photos/train/red/00a.png: not an image in a supported format" in outcome.err
    assert outcome.err.splitlines()[-1] == "cnn-train: 1 image was skipped"
    assert Path("bad.tsv").read_text().splitlines()[1].startswith("photos/train/red/00a.png\tnot an image")
    assert Path("m.pt").read_bytes() == Path("whole.pt").read_bytes()


def test_rejects_a_class_without_usable_images(run, here):
    """The images are named, nothing is written."""
    for path in (here / "photos/val/blue").iterdir():
        path.write_bytes(b"not an image")
    outcome = train(run, status=1)
    assert outcome.err.count("; skipped\n") == 4
    assert "all images of the class blue were skipped" in outcome.err.splitlines()[-1]
    assert os.listdir() == ["photos"]


MISTAKES = {
    ("--layers", "conv 8 k3, poll 2"): 'layer 2: "poll" is not a layer; did you mean "pool"?',
    ("--layers", "conv 8 k3, gap, dense 3 softmax"): 'the last layer is "dense 3 softmax"; 2 classes',
    ("--augment", "rotat 40"): 'did you mean "rotate"?',
    ("--augment", ""): '--augment "" changes nothing; give at least one augmentation',
    ("--augment", "fill wrap"): '--augment "fill wrap" changes nothing',
    ("--momentum", "0.9"): "--momentum goes with sgd and rmsprop; adam has its own",
    ("--clip", "0"): "--clip 0 would set all gradients to zero",
    ("--warmup", "5"): "--warmup 5 is longer than the training, --epochs 4",
    ("--fit", "pad"): "--fit pad fills with the mean colour, which is not yet known with --normalize standard",
    ("--head", "dense 4"): "--head goes with --arch; with --layers, append the head's layers there",
    ("--arch", "resnet18"): "give either --layers NOTATION or --arch NAME",
    ("--amp", "fp16"): "--amp fp16 needs a GPU",
    ("--device", "gpu"): '--device "gpu": give auto, cpu, cuda or cuda:N',
    ("--cache", "much"): '--cache "much": give a size in bytes, such as 500M or 4G',
    ("--val", "photos/train"): "is both a training and a validation image",
    ("--val", "photos/val", "--hold-out", "val"): "--val and --hold-out both name a validation set; give one of them",
}


def test_mistakes_are_one_line_before_images_are_read(run, here, monkeypatch):
    """Contradictions are reported in one line, before any image is read."""
    from cnnkit.data import decode

    monkeypatch.setattr(decode, "load_pixels", lambda *_args, **_more: pytest.fail("an image was read"))
    Path("table.csv").write_text("a,b\n1,2\n")
    for words, message in MISTAKES.items():
        outcome = train(run, *words, status=2)
        assert message in outcome.err, words
        assert outcome.err.count("\n") == 1, outcome.err
    for words, message in (
        (("--patience", "2"), "--patience needs a validation set; give --val"),
        (("--schedule", "plateau"), "--schedule plateau needs a validation set; give --val"),
        (("--monitor", "val_accuracy"), "--monitor val_accuracy needs a validation set; give --val"),
    ):
        assert message in train(run, *words, source="photos/train", status=2).err
    by_name = ("cnn-train", "photos", "-o", "m.pt", "--device", "cpu")
    assert "--grey goes with --layers" in run(*by_name, "--arch", "resnet18", "--grey", status=2).err
    softmax = run(*by_name, "--arch", "resnet18", "--head", "dense 2 softmax", status=2)
    assert '--head ends in "dense 2 softmax"; leave that layer out' in softmax.err
    assert 'no network is called "resnet19"' in run(*by_name, "--arch", "resnet19", status=2).err
    small = run(*by_name, "--arch", "alexnet", "--size", "16", status=2)
    assert small.err.startswith("cnn-train: alexnet does not take images of 16 pixels (")
    assert small.err.count("\n") == 1
    for out, message in (
        ("model.onnx", "model.onnx: the model's name must end in .pt"),
        ("table.pt", "table.csv: would be overwritten by the history, but is not one; choose another name"),
    ):
        assert message in train(run, out=out, status=2).err
    assert "no output file; give the model's name with -o FILE.pt" in run("cnn-train", "photos", *FAST, status=2).err
    assert sorted(os.listdir()) == ["photos", "table.csv"]
    (here / "photos/train/green").mkdir()
    assert "photos/train/green: a class without images" in train(run, status=1).err
    shutil.copytree("photos/val/red", "photos/val/green")
    (here / "photos/train/green").rmdir()
    assert "the class green is only in val; train has blue, red" in train(run, status=1).err
    Image.new("RGB", (8, 8)).save("photos/train/loose.png")
    assert "photos/train/loose.png: no label, but training images need one" in train(run, status=1).err
    three = ("--loss", "binary")
    Path("photos/train/loose.png").unlink()
    shutil.copytree("photos/train/red", "photos/train/green")
    assert "--loss binary is for two classes, there are 3" in train(run, *three, status=2).err


# ---------------------------------------------------------------- several processes


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(run, here, shell, agree):
    """Within rounding: the same batches, also odd ones, from the same images; only the first process writes and reports."""
    words = (
        *("--layers", "conv 4 k3 relu, pool 2, flatten, dense 6 relu", "--size", "16", "--device", "cpu"),
        *("--epochs", "3", "--batch", "8", "--optimizer", "sgd", "--lr", "0.05", "--momentum", "0.9", "--amp", "off"),
        *("--normalize", "scale", "--l2", "0.01", "--class-weights", "balanced", "--smoothing", "0.1", "--clip", "1"),
        *("--ema", "0.9", "--mixup", "0.4", "--augment", "hflip", "--json"),
    )
    (here / "photos/train/red/broken.png").write_bytes(b"not an image")
    one = run("cnn-train", "photos", *words, "-o", "one.pt", status=3)
    together = shlex.join(("cnn-train", "photos", *words, "-o", "two.pt", "--errors", "bad.tsv"))
    two = shell(
        f"torchrun --standalone --nproc-per-node 2 --no-python {together}",
        cwd=here,
        status=None,
        env={"OMP_NUM_THREADS": "1"},
    )
    agree((one, two), ("one.pt", "two.pt"), count=4)
    assert two.err.count("training in 2 processes, communicating by gloo") == 1
    assert two.err.count("broken.png: not an image") == 1
    assert Path("bad.tsv").read_text().count("broken.png") == 1
    assert two.err.count("cnn-train: epoch 3/3") == 1


def test_refuses_batch_norm_in_two_processes_on_cpus(here, shell):
    """One line before images are read; nothing is written."""
    line = "torchrun --standalone --nproc-per-node 2 --no-python cnn-train photos -o m.pt --device cpu --layers"
    outcome = shell(f"{line} 'conv 4 k3 bn relu, gap' --size 16", cwd=here, status=None, env={"OMP_NUM_THREADS": "1"})
    assert outcome.status != 0
    message = "cnn-train: batch norm cannot share its statistics between 2 processes on CPUs; "
    assert outcome.err.count(message + "start one process, or one for each GPU, or leave bn out\n") == 1
    assert not list(here.glob("m.*"))


def test_weight_decay_of_adamw(run, here):
    """With 0 it is Adam, as in torch; the Header records values that differ from the default."""
    for name, words in {
        "adam": ("--optimizer", "adam"),
        "none": ("--optimizer", "adamw", "--weight-decay", "0"),
        "default": ("--optimizer", "adamw"),
        "given": ("--optimizer", "adamw", "--weight-decay", "0.004"),
        "much": ("--optimizer", "adamw", "--weight-decay", "0.5"),
    }.items():
        train(run, *words, out=f"{name}.pt")
    models = {name: torch_model.load(f"{name}.pt") for name in ("adam", "none", "default", "given", "much")}

    def equal(one, other):
        ours, theirs = models[one].state, models[other].state
        return all(torch.equal(ours[name], theirs[name]) for name in ours)

    assert equal("adam", "none")
    assert equal("default", "given")
    assert not equal("none", "default")
    assert not equal("default", "much")
    recorded = {name: model.header.training.get("weight_decay") for name, model in models.items()}
    assert recorded == {"adam": None, "none": 0.0, "default": None, "given": None, "much": 0.5}
    assert "weight_decay" not in models["default"].header.training
    refused = train(run, "--optimizer", "sgd", "--weight-decay", "0.1", status=2)
    assert "cnn-train: --weight-decay goes with adamw; with sgd, use the penalty --l2" in refused.err


def test_misplaced_options_name_their_commands(run, here):
    """--advise, --backbone and --weights belong to other commands."""
    assert run("cnn-train", "photos", "--advise", "--backbone", "resnet18", status=2).err == (
        "cnn-train: --advise is now a separate command: cnn-advise\n"
    )
    for word in ("--backbone", "--weights"):
        outcome = train(run, word, "resnet18", status=2)
        assert "starts from random weights: use cnn-finetune for --backbone and --weights, or cnn-advise" in outcome.err


def test_nan_outputs_do_not_replace_the_model(run, here):
    """One step per epoch, with a finite loss but weights that are not finite afterwards: the existing model is kept."""
    train(run)
    before = Path("m.pt").read_bytes()
    outcome = train(run, "--epochs", "1", "--batch", "100", "--optimizer", "sgd", "--lr", "1e38", status=1)
    assert (
        "the network's outputs became NaN or infinite in the last step of epoch 1, at a learning rate of 1e+38"
        in outcome.err
    )
    assert Path("m.pt").read_bytes() == before


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("cache", ["0", "4G"])
def test_gpu_training_agrees_with_cpu_prediction(run, here, amp, cache):
    """In every precision, with images in memory or read ahead: training reports the measures of the exported model.

    In mixed precision a GPU validates in it, too, so that the last digits differ.
    """
    outcome = train(
        run, "--device", "cuda", "--amp", amp, "--cache", cache, "--augment", "rotate 10, hflip", "--ema", "0.9"
    )
    run("cnn-export", "m.pt", "-o", "m.onnx", "--device", "cpu")
    predicted = run("cnn-predict", "-m", "m.onnx", "photos/val", "--top", "2", "--device", "cpu")
    Path("p.tsv").write_text(predicted.out)
    measures = json.loads(run("cnn-eval", "p.tsv", "--truth", "photos/val", "--json").out)
    right, loss = (1e-6, 1e-4) if amp == "off" else (0.1, 2e-2)
    assert measures["accuracy"] == pytest.approx(float(outcome.rows[0]["val_accuracy"]), abs=right)
    assert measures["log_loss"] == pytest.approx(float(outcome.rows[0]["val_loss"]), abs=loss)


@pytest.mark.gpu
def test_deterministic_gpu_runs_are_byte_identical(run, here):
    """With everything that has state between steps."""
    for name in ("one.pt", "other.pt"):
        train(run, *MOVING, "--device", "cuda", "--deterministic", out=name)
    assert Path("one.pt").read_bytes() == Path("other.pt").read_bytes()


@pytest.mark.gpu
@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_resume_on_another_device(run, here, stopped, first, then):
    """Weights, the optimizer's state and the moving average are restored."""
    words = ("--optimizer", "sgd", "--momentum", "0.9", "--ema", "0.9")
    stopped(*words, "--device", first)
    outcome = train(run, *words, "--device", then, "--resume")
    assert "cnn-train: resuming after epoch 3" in outcome.err
    assert len(history()) == 4


def test_rejects_an_output_that_another_run_is_writing(run, here):
    """The second run writes nothing."""
    before = sorted(os.listdir())
    with atomic.claimed("m.pt"):
        outcome = train(run, status=1)
    assert outcome.err.endswith("cnn-train: m.pt: another run is writing it; wait for that run, or give another -o\n")
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("damage", ["epochs", "mark", "module", "best", "earlier", "all"])
def test_unusable_checkpoint_is_one_line(run, here, stopped, damage):
    """If anything is missing or of another type, the message names the file and the remedy."""
    stopped()
    content = checkpoint.load(Path("m.checkpoint.pt"))
    for name in content if damage == "all" else [damage]:
        content[name] = [] if name != "mark" else 5
    checkpoint.save(Path("m.checkpoint.pt"), content | {"checkpoint": checkpoint.VERSION})
    outcome = train(run, "--resume", status=1)
    assert "m.checkpoint.pt: not a usable checkpoint (" in outcome.err
    assert "start over without --resume" in outcome.err


# ---------------------------------------------------------------- validation at another size, CutMix, balanced sampling


def test_val_size_is_the_size_of_the_model(run, here):
    """A network with global pooling is validated at the size, and the model's Header has it; another network is refused."""
    refused = train(run, "--val-size", "24", status=2)
    assert refused.err == (
        "cnn-train: --val-size 24: this network does not take images of 24 pixels, only of 16; "
        'give it global pooling ("gap" before its first dense layer), or drop --val-size\n'
    )
    assert "--val-size 16 is the training size" in train(run, "--val-size", "16", status=2).err
    assert not list(here.glob("m.*"))
    pooled = ("--layers", "conv 4 k3 relu, conv 6 k3 bn relu, gap, dense 5 relu")
    (result,) = train(run, "--val-size", "24", *pooled).rows
    model = torch_model.load("m.pt")
    prepare = model.header.preprocess
    assert (prepare.size, prepare.resize, model.header.training["train_size"]) == (24, 24, 16)
    network = classifier.from_header(model.header, model.state, name="m.pt").eval()
    paths = sorted(Path("photos/val").rglob("*.png"))
    images = torch.from_numpy(np.stack([preprocessing.load(path, prepare) for path in paths]))
    targets = torch.tensor([("blue", "red").index(path.parent.name) for path in paths])
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(network(images), targets)
    assert float(result["val_loss"]) == pytest.approx(float(loss), rel=1e-3)


def test_cutmix_balanced_sampling_and_policies_are_recorded_and_reproducible(run, here):
    """Random numbers follow from seed and epoch, also of rectangles, draws with replacement and operations."""
    words = (
        *("--mixup", "0.2", "--cutmix", "1", "--sample", "balanced"),
        *("--augment", "crop 0.8, randaugment 2 9, erase 0.5", "--epochs", "3"),
    )
    shutil.rmtree("photos/train/red/")
    shutil.copytree("photos/val/red", "photos/train/red")
    train(run, *words, out="whole.pt")
    train(run, *words, out="again.pt")
    assert Path("whole.pt").read_bytes() == Path("again.pt").read_bytes()
    training = torch_model.load("whole.pt").header.training
    assert (training["cutmix"], training["sample"]) == (1.0, "balanced")
    assert training["augment"] == "crop 0.8, randaugment 2 9, erase 0.5, fill nearest"
    train(run, *words[2:], out="other.pt")
    assert "mixup" in torch_model.load("other.pt").header.training
    assert Path("other.pt").read_bytes() != Path("whole.pt").read_bytes()
