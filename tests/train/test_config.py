"""Configuration of trainings: contradictions are rejected, notations and defaults written out and recorded."""

import dataclasses
import json
import logging

import pytest

from cnnkit.choices import Amp, ClassWeights, Loss, Monitor, Optimizer, Sample, Schedule
from cnnkit.errors import NotationError, UsageError
from cnnkit.train.config import FreezeConfig, HeadConfig, ImageTrainConfig, warn_without_val


def with_rate(config):
    """Write out the learning rate: by default it is the optimizer's."""
    rate = {"sgd": 0.01}.get(config.optimizer, 0.001)
    return config if config.lr is not None else dataclasses.replace(config, lr=rate)


@pytest.mark.parametrize(
    ("config", "classes", "message"),
    [
        (
            ImageTrainConfig(loss=Loss.BINARY),
            3,
            "--loss binary is for two classes, there are 3; use --loss categorical",
        ),
        (
            ImageTrainConfig(ema=1.0),
            2,
            "--ema 1 would keep the weights from before the training; give a value below 1, such as 0.999",
        ),
        (
            ImageTrainConfig(momentum=1.0, optimizer=Optimizer.SGD),
            2,
            "--momentum 1 never forgets a gradient; give a value below 1, such as 0.9",
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
            "--weight-decay goes with adamw; with adam, use the penalty --l2",
        ),
        (
            ImageTrainConfig(weight_decay=0.0, optimizer=Optimizer.SGD),
            2,
            "--weight-decay goes with adamw; with sgd, use the penalty --l2",
        ),
        (ImageTrainConfig(clip=0.0), 2, "--clip 0 would set all gradients to zero; "),
        (ImageTrainConfig(warmup=30.5), 2, "--warmup 30.5 is longer than the training, --epochs 30"),
        (ImageTrainConfig(epochs=1, warmup=2), 2, "--warmup 2 is longer than the training, --epochs 1"),
        (
            ImageTrainConfig(sample=Sample.BALANCED, class_weights=ClassWeights.BALANCED),
            2,
            "--sample balanced and --class-weights balanced both correct for the class frequencies, together twice; give one",
        ),
        (ImageTrainConfig(augment=""), 2, '--augment "" changes nothing; '),
        (ImageTrainConfig(augment="rotate 0, fill wrap"), 2, '--augment "rotate 0, fill wrap" changes nothing; '),
        (
            ImageTrainConfig(augment="hflip, rotat 40"),
            2,
            'augmentation word 2: "rotat" is not an augmentation; did you mean "rotate"?',
        ),
    ],
)
def test_rejects_contradictions(config, classes, message, caplog):
    """With and without a validation set, in one line, and without other messages."""
    for validated in (True, False):
        with pytest.raises(UsageError) as refused:
            config.checked(classes=classes, has_val=validated)
        assert str(refused.value).startswith(message)
        assert "\n" not in str(refused.value)
        assert isinstance(refused.value, NotationError) is message.startswith("augmentation word")
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ImageTrainConfig(patience=3), "--patience needs a validation set; give --val, or fewer --epochs"),
        (
            ImageTrainConfig(schedule=Schedule.PLATEAU),
            "--schedule plateau needs a validation set; give --val, or another schedule",
        ),
        (
            ImageTrainConfig(monitor=Monitor.VAL_ACCURACY),
            "--monitor val_accuracy needs a validation set; give --val",
        ),
    ],
)
def test_rejects_options_that_need_a_validation_set(config, message, caplog):
    """With a validation set they are valid."""
    with pytest.raises(UsageError) as refused:
        config.checked(classes=2, has_val=False)
    assert str(refused.value) == message
    assert caplog.messages == []
    assert config.checked(classes=2, has_val=True) == with_rate(config)


@pytest.mark.parametrize(
    "config",
    [
        ImageTrainConfig(),
        ImageTrainConfig(loss=Loss.BINARY),
        ImageTrainConfig(optimizer=Optimizer.SGD, momentum=0.9, clip=0.001),
        ImageTrainConfig(optimizer=Optimizer.RMSPROP, momentum=0.0),
        ImageTrainConfig(epochs=3, warmup=3.0, schedule=Schedule.COSINE),
        ImageTrainConfig(lr=0.0, ema=0.999, mixup=0.2, smoothing=0.1, class_weights=ClassWeights.BALANCED),
        ImageTrainConfig(mixup=0.2, cutmix=1.0, sample=Sample.BALANCED, val_size=200),
    ],
)
def test_valid_settings_are_unchanged(config, caplog):
    """Also at the limits, with and without a validation set; nothing is logged, and checking twice gives the same."""
    with caplog.at_level(logging.INFO):
        for has_val in (True, False):
            found = config.checked(classes=2, has_val=has_val)
            assert found == with_rate(config)
            assert found.checked(classes=2, has_val=has_val) == found
    assert caplog.messages == []


def test_heads_reject_two_corrections_of_class_frequencies():
    """The same message as for images."""
    with pytest.raises(UsageError, match="both correct for the class frequencies"):
        HeadConfig(sample=Sample.BALANCED, class_weights=ClassWeights.BALANCED).checked(has_val=True)


def test_blended_images_are_not_cached():
    """Mixup and CutMix change images in each epoch, so the frozen part runs in each; --views is refused with the option's name."""
    for config, name in ((ImageTrainConfig(mixup=0.2), "--mixup"), (ImageTrainConfig(cutmix=1.0), "--cutmix")):
        assert FreezeConfig().with_views(config).views == 0
        with pytest.raises(UsageError, match=f"^{name} blends other images in each epoch, .*; give --views 0$"):
            FreezeConfig(views=1).with_views(config)
    assert FreezeConfig().with_views(ImageTrainConfig(sample=Sample.BALANCED)).views == 1


def test_warns_once_without_a_validation_set(caplog):
    """The last epoch is kept."""
    warn_without_val(has_val=True)
    assert caplog.messages == []
    warn_without_val(has_val=False)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "no validation set: keeping the last epoch; use --val to keep the best one"


def test_augmentation_is_written_out(tmp_path):
    """From a file or a line, in any order: the same text, with the fill mode, and without words that have no effect."""
    (tmp_path / "light.txt").write_text("hflip  # or not\nrotate 20.0\nzoom 0\n")
    written = "rotate 20, hflip, fill nearest"
    for text in (f"@{tmp_path / 'light.txt'}", "hflip, rotate 20", "fill nearest, rotate 2e1,hflip", written):
        config = ImageTrainConfig(augment=text, epochs=7)
        made = config.checked(classes=2, has_val=True)
        assert made == dataclasses.replace(config, augment=written, lr=0.001)
        assert config.augment == text
    assert ImageTrainConfig().checked(classes=2, has_val=True).augment is None


def test_record_has_plain_values_and_gives_the_configuration_again():
    """Values are as on the command line; only defaults of newer options are left out."""
    config = ImageTrainConfig(
        loss=Loss.BINARY, schedule=Schedule.STEP, amp=Amp.FP16, patience=3, augment="hflip, fill nearest"
    )
    record = config.described()
    left_out = [field for field in dataclasses.fields(config) if field.name not in record]
    assert "weight_decay" in {field.name for field in left_out}
    assert all(getattr(config, field.name) == field.default for field in left_out)
    assert {type(value) for value in record.values()} <= {str, int, float, bool, type(None)}
    names = ("loss", "schedule", "amp", "monitor", "patience", "lr", "compile")
    assert tuple(record[name] for name in names) == ("binary", "step", "fp16", "val_loss", 3, None, False)
    assert ImageTrainConfig(**json.loads(json.dumps(record))) == config
