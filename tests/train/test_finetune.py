"""Fine-tuning: what is frozen does not move, what is trained learns what it would in a loop written out in torch."""

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
from cnnkit.train.network_config import InitFrom, NetworkConfig, refuse_overwriting
from cnnkit.train.scratch import train_from_scratch

# Ends with a map, as a backbone does; nothing in it is random once it is trained.
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
    """Twenty-seven images for training and fifteen for validation."""
    return draw_images(tmp_path_factory.mktemp("three"), TINTS)


@pytest.fixture(scope="module")
def start(data, tmp_path_factory):
    """A network that was trained on them for a while."""
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
    """Fine-tune as cnn-finetune does; everything at once is one batch, so that the order does not matter."""
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
    """The names of what changed; all that did not is the same to the bit."""
    before, after = torch_model.load(before).state, torch_model.load(after).state
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def statistics(names):
    return {name for name in names if "running_" in name or "num_batches" in name}


# ---------------------------------------------------------------- what moves


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
def test_what_is_frozen_is_the_same_to_the_bit(data, start, tmp_path, unfreeze, layers):
    """Parameters below, and by default all statistics of the backbone's batch norms; every parameter of what is trained moves."""
    tune(start, data, tmp_path / "tuned.pt", unfreeze)
    changed = moved(start, tmp_path / "tuned.pt")
    trained = {name for name in changed if name.startswith("base.")}
    every = {name for name in network(start).state_dict() if name.split(".")[1] in layers and name.startswith("base.")}
    assert trained == every - statistics(every)
    assert any(name.startswith("head.") for name in changed)


def test_statistics_of_what_is_trained_move_only_if_asked(data, start, tmp_path):
    """Of the trained layers and no others."""
    tune(start, data, tmp_path / "tuned.pt", "conv3", freeze_bn=False)
    names = {f"base.bn3.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert statistics(moved(start, tmp_path / "tuned.pt")) == names


# ---------------------------------------------------------------- against torch


def by_hand(start, data, *, trained, still, epochs=4, lr=0.05):
    """The loop that one would write: the whole network in every epoch, what is frozen in eval mode."""
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
def test_kept_outputs_and_the_plain_run_and_a_loop_in_torch_agree(data, start, tmp_path, still):
    """The weights after four epochs, with outputs of ONNX Runtime kept or asked for in every epoch, are those of the loop."""
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


def test_lower_blocks_learn_more_slowly(data, start, tmp_path):
    """One step of plain descent goes as far as the rate says: the head's whole, each block below half of the one above, its batch norm
    at its convolution's."""
    for name, decay in (("whole", None), ("slowed", 0.5)):
        tune(start, data, tmp_path / f"{name}.pt", "conv2", layer_decay=decay, config={"epochs": 1, "lr": 1.0})
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


def test_as_many_versions_as_asked_for_and_no_more(data, start, tmp_path, monkeypatch):
    """With --views 2, each image is augmented twice whatever the number of epochs; without, once in every epoch."""
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
    tune(start, data, tmp_path / "anew.pt", config=config)
    epochs = made[2 * 27 :]  # behind the batch that is timed
    assert [copy for _, copy in epochs] == [copy for copy in (1, 2, 3, 4) for _ in range(27)]


@pytest.mark.parametrize(
    ("config", "remedy", "validated"),
    [
        ({"augment": "hflip"}, "; --views K runs it on K versions of every picture, once", 15),
        ({"mixup": 0.3}, "", 15),  # whose images are others in every epoch
        ({"mixup": 0.3, "augment": "hflip"}, "", 15),
        ({}, "; --views 1 runs it once", 4 * 15),
    ],
)
def test_what_the_frozen_part_costs_in_every_epoch_is_reported(
    data, start, tmp_path, caplog, monkeypatch, config, remedy, validated
):
    """With its remedy, where there is one; and validation images pass once all the same, unless that was asked for."""
    shown = []

    def counting(request, module, *, device, precision, real=frozen.frozen_network):
        network = real(request, module, device=device, precision=precision)
        return lambda images: shown.append(len(images)) or network(images)

    monkeypatch.setattr(frozen, "frozen_network", counting)
    caplog.set_level(logging.INFO, "cnnkit")
    tune(start, data, tmp_path / "tuned.pt", config=config, views=0)
    assert re.search(rf"runs in every epoch, which takes \d+\.\d s of it{re.escape(remedy)}\n", caplog.text)
    measured, begun = 2 * 27, 15 if validated > 15 else 0  # batches that are timed; the start where nothing is kept
    assert sum(shown) == measured + begun + 4 * 27 + validated


def test_a_complete_training_is_found_before_the_frozen_part_runs(data, start, tmp_path, caplog):
    """As is one that is not this one."""
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
    """As do images that are read anew every time: --cache is about memory alone."""
    config = {"augment": "hflip", "batch": 8}
    tune(start, data, tmp_path / "memory.pt", views=2, config=config)
    with caplog.at_level(logging.INFO, "cnnkit"):
        tune(start, data, tmp_path / "disk.pt", views=2, config=config, run=RunConfig(cache="0", device="cpu"))
    assert "more than --cache; it is kept on disk" in caplog.text
    assert (tmp_path / "memory.pt").read_bytes() == (tmp_path / "disk.pt").read_bytes()


# ---------------------------------------------------------------- beginnings


FRESH = InitFrom(backbone="squeezenet1_1", weights="none", size=32)


def test_a_fresh_head_must_be_trained_before_the_backbone_is(data, tmp_path):
    """Its random gradients would wreck the backbone: refused with that reason and both remedies; alone it may be trained."""
    with pytest.raises(
        UsageError, match=r"no trained head yet: .* would wreck .* --warmup-head 5, or alone with --unfreeze none"
    ):
        tune(FRESH, data, tmp_path / "tuned.pt", "1")
    assert not list(tmp_path.iterdir())
    result, model = tune(FRESH, data, tmp_path / "head.pt", "none", config={"epochs": 1})
    assert (result.epochs, model.header.backbone.name, model.header.head) == (1, "squeezenet1_1", "dense 3 softmax")
    assert model.header.backbone.weights_sha256  # the backbone is what it was, and found again by it


def test_the_head_is_trained_first_where_that_is_asked_for(data, start, tmp_path):
    """Its epochs stand in the history before the others and have its own rate; the backbone does not move in them."""
    seen = []
    config = {"epochs": 2, "lr": 1e-3}
    result, model = tune(start, data, tmp_path / "tuned.pt", warmup_head=3, config=config, report=seen.append)
    assert [epoch.epoch for epoch in seen] == [row["epoch"] for row in model.history] == [1, 2, 3, 4, 5]
    assert [epoch.lr for epoch in seen] == [0.01] * 3 + [1e-3] * 2
    assert result.epochs == 5
    rows = (tmp_path / "tuned.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2", "3", "4", "5"]
    alone, _ = tune(start, data, tmp_path / "alone.pt", "none", config={"epochs": 3, "lr": None})
    assert seen[2].val_loss == pytest.approx(alone.val_loss, rel=1e-4)  # the same head on the same backbone


def test_what_the_warm_up_came_to_is_kept_where_the_rest_spoils_it(data, start, tmp_path, caplog):
    """The model holds the best epoch of its history, whichever part of the training that is; also where a loss is no number."""
    result, model = tune(
        start, data, tmp_path / "worse.pt", warmup_head=3, config={"lr": 30.0, "epochs": 2, "patience": 1}
    )
    losses = [row["val_loss"] for row in model.history]
    assert len(losses) == 4  # patience waits for what follows the warm-up
    assert result.best_epoch == 1 + losses.index(min(losses)) == 3
    assert "no epoch after the warm-up was better than epoch 3: the base is as it was" in caplog.messages
    assert {name.split(".")[0] for name in moved(start, tmp_path / "worse.pt")} == {"head"}
    with pytest.raises(CnnkitError, match=r"the network answers with no numbers .* holds epoch 3, the best before"):
        tune(start, data, tmp_path / "wrecked.pt", warmup_head=3, config={"lr": 1e30})
    assert torch_model.load(tmp_path / "wrecked.pt").state.keys() == model.state.keys()


def test_a_warm_up_that_comes_to_no_number_keeps_its_best_epoch(data, start, tmp_path, monkeypatch):
    """The training ends there, with the head as it was then."""
    real = optim.lr_factor
    monkeypatch.setattr(
        optim,
        "lr_factor",
        lambda which, *, step, **others: real(which, step=step, **others) * (math.inf if step >= 2 else 1),
    )
    with pytest.raises(CnnkitError, match=r" epoch 3.* holds epoch 2, the best before"):
        tune(start, data, tmp_path / "kept.pt", warmup_head=5)
    kept = torch_model.load(tmp_path / "kept.pt")
    assert [row["epoch"] for row in kept.history] == [1, 2]
    monkeypatch.undo()
    tune(start, data, tmp_path / "alone.pt", "none", config={"epochs": 2, "lr": None})
    for name, tensor in torch_model.load(tmp_path / "alone.pt").state.items():
        torch.testing.assert_close(kept.state[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_fresh_head_starts_as_asked_for(data, tmp_path):
    """Zeros stay in a rate of zero; a model has weights of its own."""
    start = dataclasses.replace(FRESH, init=Initializer.ZEROS)
    _, model = tune(start, data, tmp_path / "zeros.pt", "none", config={"epochs": 1, "lr": 0.0})
    assert not model.state["head.dense1.weight"].any()
    assert model.header.training["init"] == "zeros"


def test_a_tuned_network_can_be_tuned_further(data, start, tmp_path):
    """From deeper down; what the second one freezes is what the first one left."""
    tune(start, data, tmp_path / "once.pt", "conv4")
    tune(tmp_path / "once.pt", data, tmp_path / "twice.pt", "conv3")
    changed = moved(tmp_path / "once.pt", tmp_path / "twice.pt")
    assert {name.split(".")[1] for name in changed if name.startswith("base.")} == {"conv3", "bn3", "conv4"}


def test_grey_networks_stay_grey(data, tmp_path):
    """The frozen part takes the images as files have them and makes them grey itself."""
    from_scratch(data, tmp_path / "grey.pt", grey=True)
    result, model = tune(tmp_path / "grey.pt", data, tmp_path / "tuned.pt", "conv3")
    assert model.header.preprocess.grey
    assert model.state["base.conv1.weight"].shape[1] == 1
    whole = network(tmp_path / "tuned.pt")
    images, targets = tensors(data.val, data, whole.preprocess)
    with torch.no_grad():
        assert float(nn.functional.cross_entropy(whole(images), targets)) == pytest.approx(result.val_loss, rel=1e-4)


def test_the_loss_follows_from_the_network(tmp_path):
    """One sigmoid stays one; another loss than it is made for is refused."""
    two = draw_images(tmp_path / "two", ("blue", "red"))
    from_scratch(two, tmp_path / "net.pt", loss=Loss.BINARY)
    _, model = tune(tmp_path / "net.pt", two, tmp_path / "tuned.pt")
    assert (model.header.training["loss"], model.state["head.dense1.weight"].shape[0]) == ("binary", 1)
    with pytest.raises(UsageError, match='ends in "dense 1 sigmoid", which is trained with --loss binary'):
        tune(tmp_path / "net.pt", two, tmp_path / "tuned.pt", loss=Loss.CATEGORICAL)


# ---------------------------------------------------------------- interrupted


def interrupted(start, data, output, *, after, **options):
    """Stop a training when it reports an epoch, as Ctrl-C does."""

    def report(epoch):
        if epoch.epoch == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(start, data, output, report=report, **options)


@pytest.mark.parametrize("after", [1, 4], ids=["while the head is warmed up", "later"])
def test_resumed_it_ends_with_the_same_bytes(data, start, tmp_path, after):
    """As uninterrupted; what the warm-up had done is done again, what followed it is not."""
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
    assert [epoch.epoch for epoch in again] == list(range(1 if after == 1 else 5, 7))
    assert (tmp_path / "whole.pt").read_bytes() == (tmp_path / "parts.pt").read_bytes()
    assert not (tmp_path / "parts.checkpoint.pt").exists()
    histories = [
        [row.rsplit(",", 1)[0] for row in (tmp_path / f"{name}.csv").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("monitor", Monitor)
def test_the_start_is_measured_and_no_worse_epoch_passes_for_progress(data, start, tmp_path, caplog, monitor):
    """It is what the last epoch of a training that made it reported; also after a stop, when it is long gone."""
    caplog.set_level(logging.INFO, "cnnkit")
    made, _ = tune(start, data, tmp_path / "made.pt", config={"epochs": 6, "monitor": monitor})
    config = {"epochs": 2, "lr": 30.0, "monitor": monitor}
    caplog.clear()
    tune(tmp_path / "made.pt", data, tmp_path / "worse.pt", config=config)
    figures = f"val {made.val_loss:.4f}, {made.val_accuracy:.4f}"
    assert f"start: {figures}" in caplog.messages
    told = [line for line in caplog.messages if line.startswith(f"no epoch was better than the start ({figures}): ")]
    assert len(told) == 1
    assert "worse.pt is no improvement" in told[0]

    interrupted(tmp_path / "made.pt", data, tmp_path / "again.pt", after=1, config=config)
    caplog.clear()
    resuming = dataclasses.replace(CPU, resume=True)
    tune(tmp_path / "made.pt", data, tmp_path / "again.pt", config=config, run=resuming)
    assert [line.replace("again", "worse") for line in caplog.messages if "no epoch was better" in line] == told
    caplog.clear()
    tune(start, data, tmp_path / "better.pt", config={"epochs": 2})
    assert not any("no epoch was better" in line for line in caplog.messages)


def test_it_goes_on_with_the_same_training_only(data, start, tmp_path):
    """What is frozen, and from what it started, is part of it."""
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
    """And with some it is another training; what differs from the default is recorded."""
    settings = {"epochs": 1, "lr": 0.01, "optimizer": Optimizer.ADAMW}
    _, adam = tune(start, data, tmp_path / "adam.pt", config=settings | {"optimizer": Optimizer.ADAM})
    _, none = tune(start, data, tmp_path / "none.pt", config=settings | {"weight_decay": 0.0})
    _, default = tune(start, data, tmp_path / "default.pt", config=settings)
    _, given = tune(start, data, tmp_path / "given.pt", config=settings | {"weight_decay": 0.004})
    for one, other, same in ((adam, none, True), (default, given, True), (none, default, False)):
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state) is same
    recorded = [model.header.training.get("weight_decay", "absent") for model in (adam, none, default, given)]
    assert recorded == ["absent", 0.0, "absent", "absent"]


# ---------------------------------------------------------------- refused

REFUSED = [
    ({"layer_decay": 0.5, "unfreeze": "none"}, {}, "of which --unfreeze none trains none"),
    ({"layer_decay": 0.0}, {}, "--layer-decay 0 would leave the base as it is"),
    ({"views": 2}, {}, "--views 2 keeps augmented versions; give --augment"),
    ({"views": 2, "unfreeze": "all"}, {"augment": "hflip"}, "--unfreeze all leaves none frozen"),
    ({"unfreeze": "conv5"}, {}, "has no layer of this name; did you mean conv"),
    ({"unfreeze": "8"}, {}, "has 7 layers with weights"),
]


@pytest.mark.parametrize(("thawing", "config", "message"), REFUSED)
def test_what_would_be_ignored_or_is_not_there_is_refused(data, start, tmp_path, thawing, config, message):
    """Before anything is trained, and nothing is written."""
    with pytest.raises(UsageError, match=message):
        tune(start, data, tmp_path / "tuned.pt", config=config, **thawing)
    assert not list(tmp_path.iterdir())


def test_models_that_do_not_fit_are_refused(data, start, tmp_path):
    """Another set of classes, settings of which the model has its own, no such file, and the file that it starts from as its output."""
    others = dataclasses.replace(data, classes=("blue", "green", "pink"))
    with pytest.raises(CnnkitError, match=r"net\.pt knows blue, green, red; the pictures are of blue, green, pink"):
        tune(start, others, tmp_path / "tuned.pt")
    for name, value in (("head", "dense 3"), ("size", 32), ("weights", "none"), ("init", Initializer.HE)):
        own = "weights" if name == "init" else name
        with pytest.raises(UsageError, match=f"its own {own}; --{name} goes with --backbone"):
            tune(InitFrom(model=start, **{name: value}), data, tmp_path / "tuned.pt")
    with pytest.raises(CnnkitError, match="no such model; cnn-train-head and cnn-train make one"):
        tune(Path("gone.pt"), data, tmp_path / "tuned.pt")
    before = start.read_bytes()
    with pytest.raises(UsageError, match="is what the training starts from"):
        tune(start, data, start)
    assert start.read_bytes() == before
