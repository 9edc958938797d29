"""cnn-finetune on the command line: from a trained network and images to a tuned one and its history, and errors."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cnnkit.formats import torch_model
from cnnkit.nets import backbones

TEXT = "conv 6 k3 bn relu, pool 2, conv 8 k3 bn relu, conv 8 k3 relu, gap"
FAST = ("--device", "cpu", "--epochs", "2")


@pytest.fixture(scope="module")
def trained(made):
    """Make a folder with photos/train, photos/val and net.pt, trained on them by cnn-train."""
    return made(
        ("cnn-train", "photos", "-o", "net.pt", "--layers", TEXT, "--size", "16", *FAST),
        photos={"train": {"red": 10, "blue": 10}, "val": {"red": 5, "blue": 5}},
    )


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """Work in a copy of that folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_writes_model_history_and_one_record(run, here, history):
    """One record on stdout, a row of history for every epoch, and notices of what is trained and what runs once."""
    outcome = run("cnn-finetune", "net.pt", "photos", "-o", "tuned.pt", "--unfreeze", "conv3", *FAST)
    (result,) = outcome.rows
    assert (result["model"], result["train_rows"], result["val_rows"], result["epochs"]) == (
        "tuned.pt",
        "20",
        "10",
        "2",
    )
    start, *rows = history("tuned.csv")
    assert (start["epoch"], start["train_loss"], start["lr"], start["seconds"]) == ("0", "", "", "")
    best = rows[int(result["best_epoch"]) - 1]
    assert (best["val_loss"], best["val_accuracy"]) == (result["val_loss"], result["val_accuracy"])
    assert {row["lr"] for row in rows} == {"1e-05"}
    assert "training the head and 1 of 5 backbone layers, from conv3 on: 602 of 1,238 parameters" in outcome.err
    assert "running the frozen part once over 30 images" in outcome.err
    assert "epoch 2/2: loss" in outcome.err
    training = torch_model.load("tuned.pt").header.training
    assert (training["command"], training["unfreeze"], training["views"]) == ("cnn-finetune", "conv3", 1)
    assert run("cnn-dims", "tuned.pt").rows[-1]["trainable"] == "602"
    assert str(here) not in json.dumps(training)
    lines = run("cnn-finetune", "net.pt", "photos", "-o", "tuned.pt", "--json", "--quiet", *FAST)
    records = [json.loads(line) for line in lines.out.splitlines()]
    assert [record.get("epoch") for record in records] == [0, 1, 2, None]
    assert f"{records[0]['val_loss']:.6g}" == history("tuned.csv")[0]["val_loss"]
    assert records[0].keys() == records[1].keys()
    assert lines.err == ""
    assert {row["lr"] for row in history("tuned.csv")[1:]} == {"0.001"}  # the head only


def test_hold_out_validates_on_the_fold(run, here):
    """The fold is not trained on; test is in neither set; an unknown fold is named with the existing ones."""
    run("cnn-split", "photos/train", "--ratio", "2,1,1", "--names", "fold0,fold1,test", "--manifest", "folds.tsv")
    outcome = run("cnn-finetune", "net.pt", "folds.tsv", "--hold-out", "fold1", "-o", "fold1.pt", *FAST)
    rows = Path("folds.tsv").read_text().splitlines()
    counts = [str(sum(row.endswith(split) for row in rows)) for split in ("fold0", "fold1")]
    assert [outcome.rows[0][name] for name in ("train_rows", "val_rows")] == counts
    assert "folds.tsv: not used: " in outcome.err
    refused = run("cnn-finetune", "net.pt", "folds.tsv", "--hold-out", "fold2", "-o", "fold2.pt", *FAST, status=1)
    assert "folds.tsv: no split fold2 to hold out; it has fold0, fold1, test" in refused.err


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(run, here, shell, agree):
    """Within rounding, also with a warm-up, which every process does alone. Batch norm keeps its statistics."""
    net = "conv 6 k3 bn relu, pool 2, conv 8 k3 bn relu, conv 8 k3 relu, gap, dense 6 relu"
    run("cnn-train", "photos", "-o", "bn.pt", "--layers", net, "--size", "16", *FAST)
    words = (
        *("bn.pt", "photos", "--unfreeze", "conv3", "--warmup-head", "2", "--epochs", "2", "--batch", "8"),
        *("--lr", "0.05"),
        *("--optimizer", "sgd", "--amp", "off", "--device", "cpu", "--json"),
    )
    one = run("cnn-finetune", *words, "-o", "one.pt")
    line = f"torchrun --standalone --nproc-per-node 2 --no-python cnn-finetune {shlex.join(words)} -o two.pt"
    two = shell(line, cwd=here, env={"OMP_NUM_THREADS": "1"})
    agree((one, two), ("one.pt", "two.pt"), count=6)


def test_reported_accuracy_is_that_of_prediction(run, here):
    """cnn-export, then cnn-predict | cnn-eval on the validation images: the same accuracy, the same loss to 1e-4."""
    words = ("--unfreeze", "conv2", "--lr", "0.01", "--augment", "rotate 20, hflip", "--views", "2", *FAST)
    (result,) = run("cnn-finetune", "net.pt", "photos", "-o", "tuned.pt", *words).rows
    run("cnn-export", "tuned.pt", "-o", "tuned.onnx", "--device", "cpu")
    predicted = run("cnn-predict", "-m", "tuned.onnx", "photos", "--split", "val", "--top", "2", "--device", "cpu")
    evaluated = json.loads(run("cnn-eval", "--truth", "photos", "--split", "val", "--json", stdin=predicted.out).out)
    assert evaluated["accuracy"] == pytest.approx(float(result["val_accuracy"]), abs=1e-6)
    assert evaluated["log_loss"] == pytest.approx(float(result["val_loss"]), abs=1e-4)


def test_unfreeze_none_gives_the_head_of_cnn_train_head(run, here):
    """With the same backbone, rows and seed: the same weights within rounding."""
    backbone = ("--backbone", "squeezenet1_1", "--weights", "none", "--size", "32", "--device", "cpu")
    for split in ("train", "val"):
        run("cnn-extract", "photos", "--split", split, "-o", f"{split}.npy", *backbone)
    settings = ("--optimizer", "sgd", "--lr", "0.5", "--batch", "64", "--epochs", "5", "--device", "cpu")
    (apart,) = run("cnn-train-head", "train.npy", "--val", "val.npy", "-o", "apart.pt", *settings).rows
    (joined,) = run("cnn-finetune", "photos", "-o", "joined.pt", *backbone, *settings).rows
    assert joined["val_accuracy"] == apart["val_accuracy"]
    assert float(joined["val_loss"]) == pytest.approx(float(apart["val_loss"]), rel=1e-5)
    one, other = (torch_model.load(path) for path in ("apart.pt", "joined.pt"))
    assert one.header.backbone == other.header.backbone
    for name, tensor in one.state.items():
        torch.testing.assert_close(other.state[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "unfreeze", "first"),
    [
        ("squeezenet1_1", "features.12", 12),
        pytest.param("vgg11_bn", "block5", 22, marks=pytest.mark.slow),  # with batch norms that are frozen
    ],
)
def test_networks_by_name(run, here, name, unfreeze, first, history):
    """With a new head and its warm-up: torchvision's layer names, Keras' blocks of a VGG; layers below do not change."""
    words = ("--backbone", name, "--weights", "none", "--size", "32", "--head", "dense 4 bn relu", "--warmup-head", "1")
    run(
        "cnn-finetune",
        "photos/train",
        "-o",
        "tuned.pt",
        *words,
        "--unfreeze",
        unfreeze,
        "--device",
        "cpu",
        "--epochs",
        "1",
    )
    before, backbone, _ = backbones.pretrained(name, weights="none")
    model = torch_model.load("tuned.pt")
    features = {key: model.state[f"base.{key}"] for key in before.state_dict()}
    moved = {key for key, tensor in before.state_dict().items() if not torch.equal(tensor, features[key])}
    trained = {key for key in features if int(key.split(".")[1]) >= first}
    assert moved == {key for key in trained if "running_" not in key and "num_batches" not in key}
    assert model.state["head.bn1.running_mean"].any()  # the head's batch norm is not part of the backbone
    assert len(history("tuned.csv")) == 2
    assert backbone.weights_sha256
    assert model.header.backbone == replace(backbone, weights_sha256=None)  # no longer those weights


WRONG = [
    (("photos", "-o", "x.pt"), 2, "photos: not a model; give MODEL.pt first, or --backbone NAME"),
    (("-o", "x.pt"), 2, "no model; give MODEL.pt first"),
    (("net.pt", "photos"), 2, "no output file; give the model's name with -o FILE.pt"),
    (("net.pt", "photos", "-o", "x.onnx"), 2, "x.onnx: the model's name must end in .pt"),
    (("net.pt", "photos", "-o", "net.pt"), 2, "net.pt is the model that the training starts from"),
    (("net.pt", "photos", "-o", "x.pt", "--backbone", "vgg11"), 2, "both net.pt and --backbone vgg11 are given"),
    (("net.pt", "photos", "-o", "x.pt", "--size", "32"), 2, "net.pt has its own size; --size goes with --backbone"),
    (("net.pt", "photos", "-o", "x.pt", "--unfreeze", "conv4"), 2, "did you mean conv3"),
    (
        ("net.pt", "photos", "-o", "x.pt", "--unfreeze", "-1"),
        2,
        "give a layer's name, the number of last layers to train (0 or more), all or none",
    ),
    (("net.pt", "photos", "-o", "x.pt", "--augment", "rotate 20, hflp"), 2, '"hflp"'),
    (("net.pt", "photos", "-o", "x.pt", "--amp", "fp16"), 2, "--amp fp16 needs a GPU"),
    (("net.pt", "photos", "-o", "x.pt", "--augment", "", "--views", "3"), 2, '--augment "" changes nothing'),
    (("net.pt", "photos", "-o", "x.pt", "--views", "3"), 2, "--views 3 caches augmented versions"),
    (("net.pt", "photos/train", "-o", "x.pt", "--patience", "3"), 2, "--patience needs a validation set; give --val"),
    (("net.pt", "photos/train", "-o", "x.pt", "--val", "photos/train"), 2, "is both a training and a validation image"),
    (
        ("photos", "-o", "x.pt", "--backbone", "squeezenet1_1", "--unfreeze", "1", "--weights", "none"),
        2,
        "--warmup-head 5, or only the head",
    ),
    (
        ("photos", "-o", "x.pt", "--backbone", "vgg11", "--weights", "none", "--head", "dense 2 softmax"),
        2,
        '--head ends in "dense 2 softmax"; leave that layer out',
    ),
    (("photos", "-o", "x.pt", "--backbone", "vgg11"), 1, "CNNKIT_OFFLINE"),
    (("photos", "-o", "x.pt", "--backbone", "vgg11", "--weights", "gone.pth"), 1, "gone.pth: no such file"),
    (("photos", "-o", "x.pt", "--backbone", "vgg12", "--weights", "none"), 2, "did you mean"),
]


def test_every_mistake_is_one_line(run, here):
    """The error is reported before anything is trained; nothing is written."""
    before = sorted(here.iterdir())
    for words, status, message in WRONG:
        outcome = run("cnn-finetune", *words, "--device", "cpu", status=status)
        (line,) = outcome.err.splitlines()
        assert message in line, words
        assert outcome.out == ""
    assert sorted(here.iterdir()) == before


def test_rejects_other_classes_than_the_models(run, here, images):
    """The message names both lists of classes."""
    images("more", red=3, green=3, blue=3)
    outcome = run("cnn-finetune", "net.pt", "more", "-o", "x.pt", status=1)
    assert (
        "net.pt has the classes blue, red, but the images have blue, green, red; train a head for these" in outcome.err
    )


def test_a_broken_image_is_skipped_and_named(run, here):
    """Exit status 3; the others are trained on."""
    broken = here / "photos" / "train" / "red" / "broken.png"
    broken.write_bytes(b"not an image")
    outcome = run("cnn-finetune", "net.pt", "photos", "-o", "tuned.pt", "--errors", "errors.tsv", *FAST, status=3)
    assert outcome.rows[0]["train_rows"] == "20"
    assert "photos/train/red/broken.png: " in outcome.err
    assert "photos/train/red/broken.png" in Path("errors.tsv").read_text()
