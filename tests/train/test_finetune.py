"""Fine-tuning: frozen layers do not change, trained layers are those of a loop written out in torch."""

import dataclasses
import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cnnkit.callbacks import Callbacks
from cnnkit.choices import Amp, Initializer, Loss, Monitor, Optimizer
from cnnkit.data import preprocessing, train_val
from cnnkit.engine.resample import Augmenter
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import torch_model
from cnnkit.nets import classifier
from cnnkit.train import frozen, optim
from cnnkit.train.config import FinetuneConfig, FreezeConfig, ImageTrainConfig, RunConfig
from cnnkit.train.finetune import finetune
from cnnkit.train.loop import DivergedError
from cnnkit.train.network_config import InitFrom, NetworkConfig, refuse_overwriting
from cnnkit.train.scratch import train_from_scratch

# Ends with a map, as a backbone does; nothing in it is random after training.
LAYERS = "conv 6 k3 bn relu, pool 2, conv 6 k3 bn relu, conv 8 k3 bn relu, conv 8 k3 relu, gap"
TINTS = {"blue": (30, 30, 120), "green": (30, 110, 30), "red": (120, 30, 30)}
CPU = RunConfig(device="cpu")


def draw_images(folder, classes):
    generator = np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 5)):
        for label in classes:
            (folder / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = np.array(TINTS[label]) + generator.uniform(0, 130, (18, 18, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / label / f"{index}.png")
    return train_val.find([str(folder)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Make 27 images for training and 15 for validation."""
    return draw_images(tmp_path_factory.mktemp("three"), TINTS)


@pytest.fixture(scope="module")
def start(data, tmp_path_factory):
    """Train a network on them for a few epochs."""
    path = tmp_path_factory.mktemp("start") / "net.pt"
    from_scratch(data, path)
    return path


def from_scratch(data, path, *, grey=False, **settings):
    classes = len(data.classes)
    config = ImageTrainConfig(**{"epochs": 3, "lr": 0.01, "amp": Amp.OFF} | settings)
    config = config.checked(classes=classes, has_val=True)
    network = NetworkConfig(layers=LAYERS, size=16, grey=grey).checked(config.loss, classes=classes)
    train_from_scratch(data, path, network=network, train=config, run=CPU, callbacks=Callbacks())


def tune(start, data, output, unfreeze="conv3", *, run=CPU, report=None, loss=None, config=None, **freezing):
    """Fine-tune as cnn-finetune does; all images are one batch, so that the order does not matter."""
    settings = {"epochs": 4, "batch": 64, "lr": 0.05, "optimizer": Optimizer.SGD, "amp": Amp.OFF} | (config or {})
    classes = len(data.classes)
    init = start if isinstance(start, InitFrom) else InitFrom(model=start)
    freeze = FreezeConfig(unfreeze=unfreeze, **freezing).checked()
    init = init.checked(loss, classes=classes)
    train = FinetuneConfig(**settings, loss=loss).checked_for(freeze, classes=classes, has_val=bool(data.val))
    refuse_overwriting(output, init)
    result = finetune(
        data,
        output,
        init=init,
        freeze=freeze.with_views(train),
        train=train,
        run=run,
        callbacks=Callbacks(**({"report": report} if report else {})),
    )
    return result, torch_model.load(output)


def tensors(images, data, prepare):
    stacked = np.stack([preprocessing.load(image.path, prepare) for image in images])
    return torch.from_numpy(stacked), torch.tensor([data.classes.index(image.label) for image in images])


def network(path):
    model = torch_model.load(path)
    return classifier.from_header(model.header, model.state, name=str(path))


def moved(before, after):
    """Return the names of changed tensors; all others are equal to the bit."""
    before, after = torch_model.load(before).state, torch_model.load(after).state
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def statistics(names):
    return {name for name in names if "running_" in name or "num_batches" in name}


# ---------------------------------------------------------------- what changes


@pytest.mark.parametrize(
    ("unfreeze", "layers"),
    [
        ("none", set()),
        ("0", set()),
        ("1", {"conv4"}),
        ("conv3", {"conv3", "bn3", "conv4"}),
        ("conv2", {"conv2", "bn2", "conv3", "bn3", "conv4"}),
        ("all", {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "conv4"}),
    ],
)
def test_frozen_tensors_are_equal_to_the_bit(data, start, tmp_path, unfreeze, layers):
    """Parameters below, and by default all batch norm statistics of the backbone; every trained parameter changes."""
    tune(start, data, tmp_path / "tuned.pt", unfreeze)
    changed = moved(start, tmp_path / "tuned.pt")
    trained = {name for name in changed if name.startswith("base.")}
    every = {name for name in network(start).state_dict() if name.split(".")[1] in layers and name.startswith("base.")}
    assert trained == every - statistics(every)
    assert any(name.startswith("head.") for name in changed)


def test_train_bn_updates_statistics_of_trained_layers_only(data, start, tmp_path):
    """Batch norm statistics of frozen layers do not change."""
    tune(start, data, tmp_path / "tuned.pt", "conv3", freeze_bn=False)
    names = {f"base.bn3.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert statistics(moved(start, tmp_path / "tuned.pt")) == names


# ---------------------------------------------------------------- against torch


def by_hand(start, data, *, trained, still, epochs=4, lr=0.05):
    """Train in a plain loop: the whole network in every epoch, frozen layers in eval mode."""
    whole = network(start)
    images, targets = tensors(data.train, data, whole.preprocess)
    layers = [whole.base.get_submodule(name) for name in trained]
    whole.requires_grad_(False)
    for module in (*layers, whole.head):
        module.requires_grad_(True)
    optimizer = torch.optim.SGD([each for each in whole.parameters() if each.requires_grad], lr=lr)
    for _ in range(epochs):
        whole.eval()
        whole.head.train()
        for module in layers:
            module.train(not (still and isinstance(module, nn.BatchNorm2d)))
        loss = nn.functional.cross_entropy(whole(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return whole.eval()


@pytest.mark.parametrize("still", [True, False])
def test_weights_are_those_of_a_loop_in_torch(data, start, tmp_path, still):
    """After four epochs, with features of ONNX Runtime cached or computed in every epoch."""
    expected = by_hand(start, data, trained=("conv3", "bn3", "conv4"), still=still)
    for views in (1, 0):
        result, model = tune(
            start,
            data,
            tmp_path / f"{views}.pt",
            views=views,
            freeze_bn=still,
            config={"monitor": Monitor.VAL_LOSS},
        )
        assert result.best_epoch == 4
        for name, tensor in expected.state_dict().items():
            torch.testing.assert_close(model.state[name], tensor, rtol=1e-4, atol=1e-5, msg=f"{name}, {views} views")
        images, targets = tensors(data.val, data, expected.preprocess)
        with torch.no_grad():
            logits = expected(images)
        assert result.val_loss == pytest.approx(float(nn.functional.cross_entropy(logits, targets)), rel=1e-4)
        assert result.val_accuracy == float((logits.argmax(1) == targets).double().mean())
    assert (
        max(float((network(start).state_dict()[name] - value).abs().max()) for name, value in model.state.items())
        > 1e-3
    )


def test_layer_decay_slows_lower_blocks(data, start, tmp_path):
    """Changes of one gradient step are proportional to the rate: the head's in full, each block's half of that above, batch norms
    as their convolutions."""
    for name, decay in (("whole", None), ("slowed", 0.5)):
        tune(start, data, tmp_path / f"{name}.pt", "conv2", layer_decay=decay, config={"epochs": 1, "lr": 0.1})
    states = [torch_model.load(path).state for path in (start, tmp_path / "whole.pt", tmp_path / "slowed.pt")]
    depths = {"conv4": 1, "conv3": 2, "bn3": 2, "conv2": 3, "bn2": 3}
    compared = set()
    for name, before in states[0].items():
        whole, slowed = (state[name] - before for state in states[1:])
        if whole.any():
            depth = depths.get(name.split(".")[1], 0)
            compared.add(depth)
            scale = float(whole.abs().max())
            torch.testing.assert_close(slowed, whole * 0.5**depth, rtol=1e-2, atol=1e-3 * scale, msg=name)
    assert compared == {0, 1, 2, 3}


# ---------------------------------------------------------------- views


def test_views_is_the_number_of_augmented_versions(data, start, tmp_path, monkeypatch):
    """With --views 2, each image is augmented twice for any number of epochs; without, once in every epoch."""
    made = []
    real = Augmenter.__call__

    def watched(self, images, fingerprints, copies):
        made.extend(zip(fingerprints, copies, strict=True))
        return real(self, images, fingerprints, copies)

    monkeypatch.setattr(Augmenter, "__call__", watched)
    config = {"augment": "hflip, brightness 0.3"}
    tune(start, data, tmp_path / "kept.pt", views=2, config=config)
    assert len(made) == len(set(made)) == 2 * 27
    assert {copy for _, copy in made} == {1, 2}
    made.clear()
    tune(start, data, tmp_path / "every.pt", config=config)
    epochs = made[2 * 27 :]  # after the batch that is timed
    assert [copy for _, copy in epochs] == [copy for copy in (1, 2, 3, 4) for _ in range(27)]


@pytest.mark.parametrize(
    ("config", "remedy", "validated"),
    [
        ({"augment": "hflip"}, "; --views K would run it only once, on K versions of each image", 15),
        ({"mixup": 0.3}, "", 15),  # images differ in every epoch
        ({"mixup": 0.3, "augment": "hflip"}, "", 15),
        ({}, "; --views 1 would run it only once", 4 * 15),
    ],
)
def test_time_of_the_frozen_part_per_epoch_is_reported(
    data, start, tmp_path, caplog, monkeypatch, config, remedy, validated
):
    """With a remedy, if there is one; validation images pass only once if training images are augmented."""
    shown = []

    def counting(request, module, *, device, precision, real=frozen.frozen_network):
        network = real(request, module, device=device, precision=precision)
        return lambda images: shown.append(len(images)) or network(images)

    monkeypatch.setattr(frozen, "frozen_network", counting)
    caplog.set_level(logging.INFO, "cnnkit")
    tune(start, data, tmp_path / "tuned.pt", config=config, views=0)
    assert re.search(rf"runs in every epoch and takes \d+\.\d s of each{re.escape(remedy)}\n", caplog.text)
    timed, estimated = 2 * 27, 4  # images in batches that are timed, and for the estimate of the memory
    begun = 15 if validated > 15 else 0  # validation before training, if nothing is cached
    assert sum(shown) == timed + estimated + begun + 4 * 27 + validated


def test_a_complete_training_is_found_before_the_frozen_part_runs(data, start, tmp_path, caplog):
    """Also the complete training with other options, which is refused."""
    options = {"views": 2, "config": {"augment": "hflip", "epochs": 2}}
    first, _ = tune(start, data, tmp_path / "tuned.pt", **options)
    caplog.set_level(logging.INFO, "cnnkit")
    resuming = RunConfig(device="cpu", resume=True)
    again, _ = tune(start, data, tmp_path / "tuned.pt", run=resuming, **options)
    assert "is complete with epoch 2; nothing is left to do" in caplog.text
    assert dataclasses.replace(again, seconds=0) == dataclasses.replace(first, seconds=0)
    with pytest.raises(UsageError, match="another value of --views"):
        tune(start, data, tmp_path / "tuned.pt", run=resuming, **(options | {"views": 3}))
    assert "frozen part" not in caplog.text


def test_outputs_on_disk_give_the_same_bytes(data, start, tmp_path, caplog):
    """Also images that are read again in every epoch: --cache only affects memory."""
    config = {"augment": "hflip", "batch": 8}
    tune(start, data, tmp_path / "memory.pt", views=2, config=config)
    with caplog.at_level(logging.INFO, "cnnkit"):
        tune(start, data, tmp_path / "disk.pt", views=2, config=config, run=RunConfig(cache="0", device="cpu"))
    assert "more than --cache; keeping them on disk" in caplog.text
    assert (tmp_path / "memory.pt").read_bytes() == (tmp_path / "disk.pt").read_bytes()


# ---------------------------------------------------------------- validation at another size


@pytest.mark.parametrize(("unfreeze", "views"), [("none", None), ("conv3", None), ("conv3", 0), ("all", None)])
def test_validation_at_another_size_is_that_of_the_finished_model(data, start, tmp_path, unfreeze, views):
    """Training is the same as without; measures are those of the model that is written, whose Header has the size."""
    config = {"epochs": 2, "val_size": 24}
    result, model = tune(start, data, tmp_path / "larger.pt", unfreeze, config=config, views=views)
    _, other = tune(start, data, tmp_path / "same.pt", unfreeze, config={"epochs": 2}, views=views)
    assert [row["train_loss"] for row in model.history] == [row["train_loss"] for row in other.history]
    prepare = other.header.preprocess
    assert model.header.preprocess == dataclasses.replace(prepare, size=24, resize=24)
    assert (model.header.training["train_size"], model.header.training["val_size"]) == (16, 24)
    assert not {"train_size", "val_size"} & set(other.header.training)
    images, targets = tensors(data.val, data, model.header.preprocess)
    with torch.no_grad():
        logits = network(tmp_path / "larger.pt").eval()(images)
    assert result.val_loss == pytest.approx(float(nn.functional.cross_entropy(logits, targets)), rel=1e-3)
    assert result.val_accuracy == pytest.approx(float((logits.argmax(1) == targets).double().mean()))
    assert result.val_loss != pytest.approx(other.history[result.best_epoch - 1]["val_loss"], rel=1e-4)


def test_validation_at_another_size_with_a_warm_up(data, start, tmp_path):
    """The warm-up of the head validates at that size, too."""
    config = {"epochs": 1, "val_size": 24}
    result, model = tune(start, data, tmp_path / "larger.pt", "conv3", config=config, warmup_head=1)
    assert len(model.history) == 2
    images, targets = tensors(data.val, data, model.header.preprocess)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(network(tmp_path / "larger.pt").eval()(images), targets)
    assert result.val_loss == pytest.approx(float(loss), rel=1e-3)


def test_refuses_a_validation_size_without_effect(data, start, tmp_path):
    """That of the training; nothing is written."""
    with pytest.raises(
        UsageError, match="--val-size 16 is the training size; drop it, or give a larger size, such as 20"
    ):
        tune(start, data, tmp_path / "tuned.pt", config={"val_size": 16})
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- new heads and warm-up


FRESH = InitFrom(backbone="squeezenet1_1", weights="none", size=32)


def test_a_new_head_needs_a_warm_up_before_the_backbone_is_trained(data, tmp_path):
    """Else refused, with the reason and both remedies; the head alone can be trained."""
    with pytest.raises(
        UsageError, match=r"is untrained, .* would spoil .* --warmup-head 5, or only the head with --unfreeze none"
    ):
        tune(FRESH, data, tmp_path / "tuned.pt", "1")
    assert not list(tmp_path.iterdir())
    result, model = tune(FRESH, data, tmp_path / "head.pt", "none", config={"epochs": 1})
    assert (result.epochs, model.header.backbone.name, model.header.head) == (1, "squeezenet1_1", "dense 3 softmax")
    assert model.header.backbone.weights_sha256  # the backbone is unchanged, and found by its hash


def test_warmup_head_trains_the_head_first(data, start, tmp_path):
    """Its epochs are first in the history, at the head's rate; the backbone does not change in them."""
    seen = []
    config = {"epochs": 2, "lr": 1e-3}
    result, model = tune(start, data, tmp_path / "tuned.pt", warmup_head=3, config=config, report=seen.append)
    before, *seen = seen
    assert (before.epoch, before.train_loss) == (0, None)
    assert [epoch.epoch for epoch in seen] == [row["epoch"] for row in model.history] == [1, 2, 3, 4, 5]
    assert [epoch.lr for epoch in seen] == [0.01] * 3 + [1e-3] * 2
    assert result.epochs == 5
    rows = (tmp_path / "tuned.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1", "2", "3", "4", "5"]
    alone, _ = tune(start, data, tmp_path / "alone.pt", "none", config={"epochs": 3, "lr": None})
    assert seen[2].val_loss == pytest.approx(alone.val_loss, rel=1e-4)  # the same head on the same backbone


def test_the_best_epoch_may_be_of_the_warm_up(data, start, tmp_path, caplog):
    """The model has the best epoch of the whole history, also if the loss became NaN afterwards."""
    result, model = tune(
        start, data, tmp_path / "worse.pt", warmup_head=3, config={"lr": 30.0, "epochs": 2, "patience": 1}
    )
    losses = [row["val_loss"] for row in model.history]
    assert len(losses) == 4  # patience counts only epochs after the warm-up
    assert result.best_epoch == 1 + losses.index(min(losses)) == 3
    assert "no epoch after the warm-up was better than epoch 3: the backbone is unchanged" in caplog.messages
    assert {name.split(".")[0] for name in moved(start, tmp_path / "worse.pt")} == {"head"}
    with pytest.raises(CnnkitError, match=r"outputs became NaN or infinite .* has the best epoch before, 3$"):
        tune(start, data, tmp_path / "wrecked.pt", warmup_head=3, config={"lr": 1e30})
    assert torch_model.load(tmp_path / "wrecked.pt").state.keys() == model.state.keys()


def test_a_warm_up_whose_loss_is_not_finite_keeps_its_best_epoch(data, start, tmp_path, monkeypatch):
    """The training ends there, with the head of that epoch."""
    real = optim.lr_factor
    monkeypatch.setattr(
        optim,
        "lr_factor",
        lambda which, *, step, **others: real(which, step=step, **others) * (math.inf if step >= 2 else 1),
    )
    with pytest.raises(CnnkitError, match=r" epoch 3.* has the best epoch before, 2$"):
        tune(start, data, tmp_path / "kept.pt", warmup_head=5)
    kept = torch_model.load(tmp_path / "kept.pt")
    assert [row["epoch"] for row in kept.history] == [1, 2]
    monkeypatch.undo()
    tune(start, data, tmp_path / "alone.pt", "none", config={"epochs": 2, "lr": None})
    for name, tensor in torch_model.load(tmp_path / "alone.pt").state.items():
        torch.testing.assert_close(kept.state[name], tensor, rtol=1e-3, atol=1e-5)


def test_init_sets_the_weights_of_a_new_head(data, tmp_path):
    """At a learning rate of zero, zeros remain."""
    start = dataclasses.replace(FRESH, init=Initializer.ZEROS)
    _, model = tune(start, data, tmp_path / "zeros.pt", "none", config={"epochs": 1, "lr": 0.0})
    assert not model.state["head.dense1.weight"].any()
    assert model.header.training["init"] == "zeros"


def test_a_tuned_network_can_be_tuned_further(data, start, tmp_path):
    """From a lower layer; frozen layers are those of the first tuning."""
    tune(start, data, tmp_path / "once.pt", "conv4")
    tune(tmp_path / "once.pt", data, tmp_path / "twice.pt", "conv3")
    changed = moved(tmp_path / "once.pt", tmp_path / "twice.pt")
    assert {name.split(".")[1] for name in changed if name.startswith("base.")} == {"conv3", "bn3", "conv4"}


def test_grey_networks_stay_grey(data, tmp_path):
    """The frozen part takes colour images and converts them to grey itself."""
    from_scratch(data, tmp_path / "grey.pt", grey=True)
    result, model = tune(tmp_path / "grey.pt", data, tmp_path / "tuned.pt", "conv3")
    assert model.header.preprocess.grey
    assert model.state["base.conv1.weight"].shape[1] == 1
    whole = network(tmp_path / "tuned.pt")
    images, targets = tensors(data.val, data, whole.preprocess)
    with torch.no_grad():
        assert float(nn.functional.cross_entropy(whole(images), targets)) == pytest.approx(result.val_loss, rel=1e-4)


def test_the_loss_follows_from_the_network(tmp_path):
    """One sigmoid remains one; a loss that the network is not made for is refused."""
    two = draw_images(tmp_path / "two", ("blue", "red"))
    from_scratch(two, tmp_path / "net.pt", loss=Loss.BINARY)
    _, model = tune(tmp_path / "net.pt", two, tmp_path / "tuned.pt")
    assert (model.header.training["loss"], model.state["head.dense1.weight"].shape[0]) == ("binary", 1)
    with pytest.raises(
        UsageError, match='ends in "dense 1 sigmoid", which needs --loss binary; drop --loss categorical'
    ):
        tune(tmp_path / "net.pt", two, tmp_path / "tuned.pt", loss=Loss.CATEGORICAL)


# ---------------------------------------------------------------- interruption and resuming


def interrupted(start, data, output, *, after, **options):
    """Stop a training when it reports an epoch, as Ctrl-C does."""

    def report(epoch):
        if epoch.epoch == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(start, data, output, report=report, **options)


@pytest.mark.parametrize("after", [1, 4], ids=["while the head is warmed up", "later"])
def test_resume_is_byte_identical(data, start, tmp_path, after):
    """An interrupted warm-up starts over, later epochs are resumed."""
    options = {
        "warmup_head": 2,
        "layer_decay": 0.7,
        "views": 2,
        "config": {"augment": "hflip", "batch": 8, "optimizer": Optimizer.ADAM, "lr": 1e-3, "ema": 0.9},
    }
    tune(start, data, tmp_path / "whole.pt", **options)
    interrupted(start, data, tmp_path / "parts.pt", after=after, **options)
    assert (tmp_path / "parts.checkpoint.pt").exists() == (after > 2)
    again = []
    tune(
        start,
        data,
        tmp_path / "parts.pt",
        run=RunConfig(device="cpu", resume=True),
        report=again.append,
        **options,
    )
    assert [epoch.epoch for epoch in again] == list(range(0 if after == 1 else 5, 7))
    assert (tmp_path / "whole.pt").read_bytes() == (tmp_path / "parts.pt").read_bytes()
    assert not (tmp_path / "parts.checkpoint.pt").exists()
    histories = [
        [row.rsplit(",", 1)[0] for row in (tmp_path / f"{name}.csv").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("monitor", Monitor)
def test_keeps_the_start_if_no_epoch_is_better(data, start, tmp_path, caplog, monitor):
    """The start has the measures that its training reported; its weights are written, also by a resumed training."""
    caplog.set_level(logging.INFO, "cnnkit")
    made, before = tune(start, data, tmp_path / "made.pt", config={"epochs": 6, "monitor": monitor})
    config = {"epochs": 2, "lr": 30.0, "monitor": monitor}
    caplog.clear()
    result, kept = tune(tmp_path / "made.pt", data, tmp_path / "worse.pt", config=config)
    assert all(torch.equal(tensor, kept.state[name]) for name, tensor in before.state.items())
    assert (result.best_epoch, result.epochs, result.train_accuracy) == (0, 2, None)
    assert (result.val_loss, result.val_accuracy) == pytest.approx((made.val_loss, made.val_accuracy))
    figures = f"val loss {made.val_loss:.4f}, accuracy {made.val_accuracy:.4f}"
    assert f"before training: {figures}" in caplog.messages
    begin = f"no epoch was better than before training ({figures}): "
    warnings = [line for line in caplog.messages if line.startswith(begin)]
    assert len(warnings) == 1
    assert "worse.pt keeps the weights from before; the best epoch, " in warnings[0]
    rows = (tmp_path / "worse.csv").read_text().splitlines()
    assert rows[1] == f"0,,,{result.val_loss:.6g},{result.val_accuracy:.6g},,"
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1", "2"]
    assert [row["epoch"] for row in kept.history] == [0, 1, 2]

    interrupted(tmp_path / "made.pt", data, tmp_path / "again.pt", after=1, config=config)
    caplog.clear()
    resuming = dataclasses.replace(CPU, resume=True)
    for _ in range(2):  # the second time, it is complete
        again, _ = tune(tmp_path / "made.pt", data, tmp_path / "again.pt", config=config, run=resuming)
        assert dataclasses.replace(again, model=result.model, seconds=result.seconds) == result
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "worse.pt").read_bytes()
    assert [row.split(",")[0] for row in (tmp_path / "again.csv").read_text().splitlines()] == ["epoch", "0", "1", "2"]
    assert [line.replace("again", "worse") for line in caplog.messages if "no epoch was better" in line] == warnings
    caplog.clear()
    better, written = tune(start, data, tmp_path / "better.pt", config={"epochs": 2})
    assert not any("no epoch was better" in line for line in caplog.messages)
    assert better.best_epoch > 0
    assert [row["epoch"] for row in written.history] == [1, 2]
    assert [row.split(",")[0] for row in (tmp_path / "better.csv").read_text().splitlines()] == ["epoch", "0", "1", "2"]


def test_a_training_that_diverges_keeps_the_start(data, start, tmp_path):
    """An epoch that was worse is not written; without a finished epoch, nothing is."""
    _, before = tune(start, data, tmp_path / "made.pt", config={"epochs": 6})
    with pytest.raises(DivergedError, match=r"worse\.pt has the weights before training$"):
        tune(tmp_path / "made.pt", data, tmp_path / "worse.pt", config={"epochs": 20, "lr": 1e6, "momentum": 0.99})
    kept = torch_model.load(tmp_path / "worse.pt")
    assert all(torch.equal(tensor, kept.state[name]) for name, tensor in before.state.items())
    assert "ended" in kept.header.training


def test_resume_rejects_another_training(data, start, tmp_path):
    """Other frozen layers, or another model at the start."""
    interrupted(start, data, tmp_path / "tuned.pt", after=2)
    run = RunConfig(device="cpu", resume=True)
    with pytest.raises(UsageError, match="another value of --unfreeze"):
        tune(start, data, tmp_path / "tuned.pt", "conv2", run=run)
    with pytest.raises(UsageError, match="another value of --layer-decay"):
        tune(start, data, tmp_path / "tuned.pt", layer_decay=0.5, run=run)
    from_scratch(data, tmp_path / "another.pt", seed=1)
    with pytest.raises(UsageError, match="another value of the model at the start"):
        tune(tmp_path / "another.pt", data, tmp_path / "tuned.pt", run=run)
    (tmp_path / "tuned.checkpoint.pt").unlink()


def test_adamw_without_weight_decay_is_adam(data, start, tmp_path):
    """With weight decay it is another training; values that differ from the default are recorded."""
    settings = {"epochs": 1, "lr": 0.01, "optimizer": Optimizer.ADAMW}
    _, adam = tune(start, data, tmp_path / "adam.pt", config=settings | {"optimizer": Optimizer.ADAM})
    _, none = tune(start, data, tmp_path / "none.pt", config=settings | {"weight_decay": 0.0})
    _, default = tune(start, data, tmp_path / "default.pt", config=settings)
    _, given = tune(start, data, tmp_path / "given.pt", config=settings | {"weight_decay": 0.004})
    for one, other, same in ((adam, none, True), (default, given, True), (none, default, False)):
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state) is same
    recorded = [model.header.training.get("weight_decay", "absent") for model in (adam, none, default, given)]
    assert recorded == ["absent", 0.0, "absent", "absent"]


# ---------------------------------------------------------------- errors

REFUSED = [
    (
        {"layer_decay": 0.5, "unfreeze": "none"},
        {},
        "--layer-decay needs trained backbone layers, and --unfreeze is none",
    ),
    ({"layer_decay": 0.0}, {}, "--layer-decay 0 would not train the backbone"),
    ({"views": 2}, {}, "--views 2 caches augmented versions; give --augment"),
    ({"views": 2, "unfreeze": "all"}, {"augment": "hflip"}, "--unfreeze all freezes nothing"),
    ({"unfreeze": "conv5"}, {}, 'has no layer "conv5"; did you mean conv'),
    ({"unfreeze": "8"}, {}, "has 7 layers with weights"),
]


@pytest.mark.parametrize(("freezing", "config", "message"), REFUSED)
def test_rejects_ignored_options_and_unknown_layers(data, start, tmp_path, freezing, config, message):
    """Before anything is trained; nothing is written."""
    with pytest.raises(UsageError, match=message):
        tune(start, data, tmp_path / "tuned.pt", config=config, **freezing)
    assert not list(tmp_path.iterdir())


def test_rejects_models_that_do_not_fit(data, start, tmp_path):
    """Other classes, settings that the model has, a missing file, and the model itself as the output."""
    others = dataclasses.replace(data, classes=("blue", "green", "pink"))
    with pytest.raises(
        CnnkitError, match=r"net\.pt has the classes blue, green, red, but the images have blue, green, pink"
    ):
        tune(start, others, tmp_path / "tuned.pt")
    for name, value in (("head", "dense 3"), ("size", 32), ("weights", "none"), ("init", Initializer.HE)):
        own = "weights" if name == "init" else name
        with pytest.raises(UsageError, match=f"its own {own}; --{name} goes with --backbone"):
            tune(InitFrom(model=start, **{name: value}), data, tmp_path / "tuned.pt")
    with pytest.raises(CnnkitError, match=r"gone\.pt: no such file; cnn-train-head and cnn-train write models"):
        tune(Path("gone.pt"), data, tmp_path / "tuned.pt")
    before = start.read_bytes()
    with pytest.raises(UsageError, match="is the model that the training starts from"):
        tune(start, data, start)
    assert start.read_bytes() == before
