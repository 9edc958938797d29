"""A configuration: every contradiction is refused by name, and what is left is spelled out and recorded."""

import dataclasses
import json
import logging

import pytest

from cnnkit.choices import Amp, ClassWeights, Loss, Monitor, Optimizer, Schedule
from cnnkit.errors import NotationError, UsageError
from cnnkit.train.config import ImageTrainConfig, warn_without_val


def said_aloud(config):
    """A learning rate that is left out is the optimizer's own: whoever says that one means the same training."""
    rate = {"sgd": 0.01}.get(config.optimizer, 0.001)
    return config if config.lr is not None else dataclasses.replace(config, lr=rate)


@pytest.mark.parametrize(
    ("config", "classes", "said"),
    [
        (
            ImageTrainConfig(loss=Loss.BINARY),
            3,
            "--loss binary decides between two classes, here are 3; use categorical",
        ),
        (
            ImageTrainConfig(ema=1.0),
            2,
            "--ema 1 would keep the weights from before the training; give a share below 1, such as 0.999",
        ),
        (
            ImageTrainConfig(momentum=1.0, optimizer=Optimizer.SGD),
            2,
            "--momentum 1 adds up every gradient for ever; give a share below 1, such as 0.9",
        ),
        (ImageTrainConfig(momentum=0.9), 2, "--momentum goes with sgd and rmsprop; adam has its own"),
        (
            ImageTrainConfig(momentum=0.0, optimizer=Optimizer.NADAM),
            2,
            "--momentum goes with sgd and rmsprop; nadam has its own",
        ),
        (
            ImageTrainConfig(weight_decay=0.1),
            2,
            "--weight-decay goes with adamw; adam has none, --l2 is a penalty for every optimizer",
        ),
        (
            ImageTrainConfig(weight_decay=0.0, optimizer=Optimizer.SGD),
            2,
            "--weight-decay goes with adamw; sgd has none",
        ),
        (ImageTrainConfig(clip=0.0), 2, "--clip 0 would leave nothing of any gradient; "),
        (ImageTrainConfig(warmup=30.5), 2, "--warmup 30.5 is longer than the whole training, --epochs 30"),
        (ImageTrainConfig(epochs=1, warmup=2), 2, "--warmup 2 is longer than the whole training, --epochs 1"),
        (ImageTrainConfig(augment=""), 2, '--augment "" changes nothing; '),
        (ImageTrainConfig(augment="rotate 0, fill wrap"), 2, '--augment "rotate 0, fill wrap" changes nothing; '),
        (
            ImageTrainConfig(augment="hflip, rotat 40"),
            2,
            'augmentation word 2: "rotat" is not an augmentation; did you mean "rotate"?',
        ),
    ],
)
def test_what_contradicts_itself_is_refused(config, classes, said, caplog):
    """Whether anything validates or not, in one line, and without a word of anything else before."""
    for validated in (True, False):
        with pytest.raises(UsageError) as refused:
            config.checked(classes=classes, has_val=validated)
        assert str(refused.value).startswith(said)
        assert "\n" not in str(refused.value)
        assert isinstance(refused.value, NotationError) is said.startswith("augmentation word")
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (ImageTrainConfig(patience=3), "--patience waits for a better epoch by --val; give --val, or fewer --epochs"),
        (
            ImageTrainConfig(schedule=Schedule.PLATEAU),
            "--schedule plateau watches the loss on --val; give --val, or another schedule",
        ),
        (
            ImageTrainConfig(monitor=Monitor.VAL_ACCURACY),
            "--monitor val_accuracy chooses an epoch by --val; give --val",
        ),
    ],
)
def test_what_waits_for_validation_is_refused_without_any(config, said, caplog):
    """With images for validation it is a configuration like any other."""
    with pytest.raises(UsageError) as refused:
        config.checked(classes=2, has_val=False)
    assert str(refused.value) == said
    assert caplog.messages == []
    assert config.checked(classes=2, has_val=True) == said_aloud(config)


@pytest.mark.parametrize(
    "config",
    [
        ImageTrainConfig(),
        ImageTrainConfig(loss=Loss.BINARY),
        ImageTrainConfig(optimizer=Optimizer.SGD, momentum=0.9, clip=0.001),
        ImageTrainConfig(optimizer=Optimizer.RMSPROP, momentum=0.0),
        ImageTrainConfig(epochs=3, warmup=3.0, schedule=Schedule.COSINE),
        ImageTrainConfig(lr=0.0, ema=0.999, mixup=0.2, smoothing=0.1, class_weights=ClassWeights.BALANCED),
    ],
)
def test_what_goes_together_comes_back_as_it_is(config, caplog):
    """At the edges, too, with images for validation or without; nothing is logged, and what was checked can be checked again."""
    with caplog.at_level(logging.INFO):
        for has_val in (True, False):
            found = config.checked(classes=2, has_val=has_val)
            assert found == said_aloud(config)
            assert found.checked(classes=2, has_val=has_val) == found
    assert caplog.messages == []


def test_warns_once_that_nothing_validates(caplog):
    """Then the last epoch is kept."""
    warn_without_val(has_val=True)
    assert caplog.messages == []
    warn_without_val(has_val=False)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(
        "nothing validates: the last epoch is kept, and nothing says how good it is; "
    )


def test_an_augmentation_is_spelled_out(tmp_path):
    """From a file or a line, in whatever order: the same text, with the way to fill, and without words that do nothing."""
    (tmp_path / "light.txt").write_text("hflip  # or not\nrotate 20.0\nzoom 0\n")
    spelled = "rotate 20, hflip, fill nearest"
    for text in (f"@{tmp_path / 'light.txt'}", "hflip, rotate 20", "fill nearest, rotate 2e1,hflip", spelled):
        config = ImageTrainConfig(augment=text, epochs=7)
        made = config.checked(classes=2, has_val=True)
        assert made == dataclasses.replace(config, augment=spelled, lr=0.001)
        assert config.augment == text
    assert ImageTrainConfig().checked(classes=2, has_val=True).augment is None


def test_a_configuration_is_recorded_whole_in_plain_values():
    """As options are written, so that a record that was read again is equal to one that was made."""
    config = ImageTrainConfig(
        loss=Loss.BINARY, schedule=Schedule.STEP, amp=Amp.FP16, patience=3, augment="hflip, fill nearest"
    )
    told = config.described()
    untold = [field for field in dataclasses.fields(config) if field.name not in told]
    assert "weight_decay" in {field.name for field in untold}
    assert all(getattr(config, field.name) == field.default for field in untold)
    assert {type(value) for value in told.values()} <= {str, int, float, bool, type(None)}
    assert (told["loss"], told["schedule"], told["amp"], told["monitor"]) == ("binary", "step", "fp16", "val_loss")
    assert (told["patience"], told["lr"], told["compile"]) == (3, None, False)
    assert ImageTrainConfig(**json.loads(json.dumps(told))) == config
