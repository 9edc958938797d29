"""The fingerprint of a training: what makes it a different training, and which difference is reported."""

import dataclasses
from pathlib import Path

import pytest

from cnnkit.choices import Amp, Optimizer, Schedule
from cnnkit.errors import UsageError
from cnnkit.formats.header import ArtefactKind, Backbone, Fit, Header, Pool, Preprocess
from cnnkit.train.config import ImageTrainConfig
from cnnkit.train.resuming import check_same_run, fingerprint

NET = Backbone("layers", "pool2", Pool.NONE, notation="conv 4 k3, pool 2")
SQUARE = Preprocess(fit=Fit.SQUASH, resize=16, size=16)


def header(config=None, *, backbone=NET, preprocess=SQUARE, head="flatten, dense 2 softmax", made_by=None, **training):
    record = (
        {"command": "cnn-train", "rows": 21, "pictures": "1a2b"} | training | (config or ImageTrainConfig()).described()
    )
    return Header(
        ArtefactKind.MODEL,
        classes=("cat", "dog"),
        preprocess=preprocess,
        backbone=backbone,
        head=head,
        training=record,
        made_by=made_by or {"torch": "2.15"},
    )


def refused(one, other, schedule=Schedule.CONSTANT):
    """Return the reported difference, its name and both values; None if there is none."""
    try:
        check_same_run(Path("m.checkpoint.pt"), fingerprint(one, schedule), fingerprint(other, schedule))
    except UsageError as error:
        begins, found, *end = str(error).partition("; give the same value, or start over without --resume")
        assert end == [""]
        return begins.removeprefix("m.checkpoint.pt is of a training with another value of ") if found else None
    return None


def changed(**changes):
    return header(dataclasses.replace(ImageTrainConfig(), **changes))


def test_the_same_options_are_the_same_training():
    """With any library versions and any number of rows; a value of None is the same as no value."""
    assert refused(header(), header(made_by={"torch": "9"}, rows=22, unfreeze=None)) is None
    assert refused(header(), Header.from_json(header().to_json(), name="m.pt")) is None


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (changed(lr=0.02), "--lr: none, now 0.02"),
        (changed(optimizer=Optimizer.SGD), "--optimizer: adam, now sgd"),
        (changed(batch=8), "--batch: 32, now 8"),
        (changed(class_weights="balanced"), "--class-weights: none, now balanced"),
        (changed(compile=True), "--compile: false, now true"),
        (changed(amp=Amp.BF16), "--amp: auto, now bf16"),
        (changed(seed=1), "--seed: 0, now 1"),
        (changed(schedule=Schedule.STEP), "--schedule: constant, now step"),
        (header(layer_decay=0.5), "--layer-decay: none, now 0.5"),
        (header(command="cnn-finetune"), "the command: cnn-train, now cnn-finetune"),
        (header(pictures="3c"), "the images: 1a2b, now 3c"),
        (header(**{"from": "77"}), "the model at the start: none, now 77"),
        (header(head="gap, dense 2 softmax"), "the head: flatten, dense 2 softmax, now gap, dense 2 softmax"),
        (header(preprocess=dataclasses.replace(SQUARE, size=20)), "--size: 16, now 20"),
        (header(preprocess=dataclasses.replace(SQUARE, fit=Fit.PAD)), "--fit: squash, now pad"),
        (header(preprocess=dataclasses.replace(SQUARE, grey=True)), "--grey: none, now true"),
        (
            header(preprocess=dataclasses.replace(SQUARE, std=(1.0, 1.0, 1.0))),
            "the preprocess's std: [0.229, 0.224, 0.225], now [1.0, 1.0, 1.0]",
        ),
        (header(backbone=dataclasses.replace(NET, name="vgg16")), "the network: layers, now vgg16"),
        (
            header(backbone=dataclasses.replace(NET, notation="conv 8 k3, pool 2")),
            "--layers: conv 4 k3, pool 2, now conv 8 k3, pool 2",
        ),
        (header(backbone=dataclasses.replace(NET, layer="pool3")), "the backbone's layer: pool2, now pool3"),
        (header().but(classes=("cat", "cow")), 'the classes: ["cat", "dog"], now ["cat", "cow"]'),
    ],
)
def test_every_other_value_is_another_training(other, difference):
    """Options are named as on the command line, with both values, in either order."""
    assert refused(header(), other) == difference
    name, values = difference.split(": ", 1)
    kept, now = values.split(", now ")
    assert refused(other, header()) == f"{name}: {now}, now {kept}"


def test_options_are_reported_before_values_that_follow_from_them():
    """Another normalization gives another mean, other layers another head; of options the first in the record is reported."""
    other = header(
        ImageTrainConfig(batch=8, seed=3),
        backbone=dataclasses.replace(NET, layer="pool3"),
        preprocess=dataclasses.replace(SQUARE, size=20, mean=(0.0, 0.0, 0.0)),
        pictures="3c",
    )
    assert refused(header(), other) == "--batch: 32, now 8"
    assert refused(changed(batch=8, seed=3), other) == "--size: 16, now 20"
    follows = dataclasses.replace(SQUARE, mean=(0.0, 0.0, 0.0))
    assert refused(header(), header(preprocess=follows, normalize="scale")) == "--normalize: none, now scale"
    assert refused(header(normalize="scale"), header(preprocess=follows)) == "--normalize: scale, now none"


@pytest.mark.parametrize(
    ("schedule", "depends"),
    [(Schedule.CONSTANT, False), (Schedule.PLATEAU, False), (Schedule.COSINE, True), (Schedule.STEP, True)],
)
def test_epochs_matter_only_if_the_schedule_depends_on_them(schedule, depends):
    """A cosine over 40 epochs differs from the first step on; a training with a constant rate can be resumed from 30 to 40."""
    headers = [header(ImageTrainConfig(schedule=schedule, epochs=epochs)) for epochs in (30, 40)]
    assert refused(*headers, schedule) == ("--epochs: 30, now 40" if depends else None)
