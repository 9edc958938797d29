"""Rows of the commands that train."""

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from inputs import Inputs
from row import Metric, Program, Role, Row

# The textbook's network, chapter 5.2
CONVNET = (
    "conv 32 k3 relu, pool 2, conv 64 k3 relu, pool 2, conv 128 k3 relu, pool 2, conv 128 k3 relu, pool 2, "
    "flatten, dense 512 relu, dense 2"
)
AUGMENT = "hflip, rotate 36, zoom 0.2"


def _last_epoch(inputs: Inputs, command: str, folder: Path, *words: object) -> Mapping[str, float]:
    """Train, and return images per second of the last epoch, from the history."""
    output = inputs.new(".pt")
    done = inputs.ours(command, folder, "-o", output, "--augment", AUGMENT, "--device", "cpu", "-q", *words)
    with output.with_suffix(".csv").open(encoding="utf-8") as file:
        seconds = float(list(csv.DictReader(file))[-1]["seconds"])
    return done.sample(rate=_files(folder) / seconds)


def _peer(inputs: Inputs, kind: str, folder: Path, precision: str) -> Mapping[str, float]:
    done = inputs.peer("torch_train.py", kind, folder, inputs.weights, precision, 2)
    return done.sample(rate=_files(folder) / float(done.stdout.split()[-1]))


def _files(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*/*"))


def _train(inputs: Inputs) -> Sequence[Program]:
    folder = inputs.images(500)
    words = ("--layers", CONVNET, "--size", 96, "--epochs", 2)
    return [
        Program("cnn-train", partial(_last_epoch, inputs, "cnn-train", folder, *words)),
        Program("torch, bf16", partial(_peer, inputs, "convnet", folder, "bf16"), Role.PEER),
        Program("torch, float32", partial(_peer, inputs, "convnet", folder, "float32"), Role.PEER),
    ]


def _finetune(inputs: Inputs) -> Sequence[Program]:
    folder, few = inputs.images(200), inputs.images(100)
    words = (*inputs.backbone, "--unfreeze", "features.14", "--warmup-head", 1, "--epochs", 1)
    _last_epoch(inputs, "cnn-finetune", few, *words)  # exports the frozen part, once
    return [
        Program("cnn-finetune", partial(_last_epoch, inputs, "cnn-finetune", folder, *words)),
        Program("torch, bf16", partial(_peer, inputs, "finetune", folder, "bf16"), Role.PEER),
        Program("torch, float32", partial(_peer, inputs, "finetune", few, "float32"), Role.PEER),
    ]


def _head(inputs: Inputs) -> Sequence[Program]:
    features = inputs.features

    def ours() -> Mapping[str, float]:
        words = ("--solver", "lbfgs", "-q")
        return inputs.ours("cnn-train-head", features, "-o", inputs.new(".pt"), *words).sample()

    def peer(tolerance: str, suffix: str) -> Mapping[str, float]:
        return inputs.peer("sklearn_head.py", features, tolerance, inputs.new(suffix)).sample()

    return [
        Program("cnn-train-head", ours),
        Program("scikit-learn, torch file", partial(peer, "1e-4", ".pt"), Role.PEER),
        Program("scikit-learn, joblib file", partial(peer, "1e-4", ".joblib"), Role.PEER),
    ]


ROWS = (
    Row(
        "train",
        f"cnn-train, the textbook's convnet, 96 pixels, 500 images, {AUGMENT!r}; the second epoch",
        {"rate": Metric("images/s", higher=True, times=2)},
        _train,
    ),
    Row(
        "finetune",
        "cnn-finetune, MobileNetV2 from features.14 on, 224 pixels, 200 images, augmented as above; "
        "an epoch after the first (float32: 100 images)",
        {"rate": Metric("images/s", higher=True, times=2.5)},
        _finetune,
    ),
    Row(
        "head",
        "cnn-train-head --solver lbfgs on features of 1,000 images, 500 for validation, 1,280 values each; the whole process",
        {"wall": Metric("s", times=1), "CPU": Metric("s CPU", times=1), "memory": Metric("MB")},
        _head,
    ),
)
