"""Training of heads: every setting has its effect, features that do not match are rejected, and the model is self-contained."""

import logging
import os
import re
import shutil
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from sklearn.neighbors import NearestCentroid
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import WeightedRandomSampler

from cnnkit.callbacks import Callbacks
from cnnkit.choices import ClassWeights, Fit, Initializer, Loss, Monitor, Optimizer, Pool, Sample, Schedule, Solver
from cnnkit.errors import CnnkitError, FormatError, NotationError, UsageError
from cnnkit.formats import cache, features, torch_model
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.manifest import ManifestRow
from cnnkit.nets import backbones
from cnnkit.nets import classifier as classifiers
from cnnkit.train import feature_sets, optim
from cnnkit.train.config import HeadConfig, check_weights, model_path
from cnnkit.train.head import train_head
from cnnkit.train.loop import shuffled

TEXT = "conv 6 k3 s2 relu, conv 10 k2 relu"
CLASSES = ("blue", "green", "red")


def images(classes, counts, seed):
    """Draw tinted noise, class after class: uint8 (N, 9, 9, 3) and targets."""
    generator = np.random.default_rng(seed)
    targets = np.repeat(np.arange(classes), counts)
    tints = 130 * np.eye(3)[[2, 1, 0]][targets] * generator.uniform(0.3, 1, (len(targets), 1))
    pixels = tints[:, None, None, :] + generator.uniform(0, 120, (len(targets), 9, 9, 3))
    return pixels.astype(np.uint8), targets


def make_backbone(pool=Pool.AVG, seed=3):
    return backbones.by_notation(TEXT, size=9, pool=pool, seed=seed)


@pytest.fixture
def make(tmp_path):
    """Write features of images as cnn-extract does: `make("train", counts=(10, 10))` returns the path."""

    def write(
        name,
        counts=(16, 16, 16),
        *,
        pool=Pool.AVG,
        seed=0,
        labels=None,
        change=lambda header: header,
        values=None,
        dtype="float32",
        splits=None,
    ):
        network, backbone, preprocess = make_backbone(pool)
        pixels, targets = images(len(counts), counts, seed)
        extractor = classifiers.Extractor(network, preprocess=preprocess, pool=pool).eval()
        with torch.no_grad():
            seen = extractor(torch.from_numpy(pixels)).numpy()
        if values is not None:
            seen = values(seen)
        labels = labels or [CLASSES[target] for target in targets]
        rows = [
            ManifestRow(f"{name}-{index}.png", label, None if splits is None else splits[index % len(splits)])
            for index, label in enumerate(labels)
        ]
        header = Header(ArtefactKind.FEATURES, None, preprocess, backbone)
        with features.FeatureWriter(
            tmp_path / f"{name}.npy", shape=seen.shape[1:], dtype=dtype, header=header
        ) as writer:
            writer.write(seen, rows)
        described = tmp_path / f"{name}.json"
        described.write_text(change(Header.from_json(described.read_text(), name=name)).to_json())
        return tmp_path / f"{name}.npy"

    return write


@pytest.fixture
def pair(make):
    return make("train"), make("val", (8, 8, 8), seed=1)


def train(pair, *, name="head.pt", weights=None, **settings):
    features_file, val = pair
    output = model_path(Path(features_file).with_name(name))
    result = trained(features_file, output, val=val, weights=weights, **{"epochs": 4, "lr": 0.05, **settings})
    return result, torch_model.load(output)


def trained(features_file, output, *, val=None, hold_out=None, weights=None, **settings):
    """Train as cnn-train-head does."""
    config = HeadConfig(**settings).checked(has_val=val is not None or hold_out is not None)
    check_weights(weights, features=features_file)
    data = feature_sets.load(features_file, val=val, hold_out=hold_out, loss=config.loss)
    return train_head(data, output, train=config, weights=weights, device="cpu")


def lbfgs(pair, **settings):
    return train(pair, solver=Solver.LBFGS, **{"lr": None, "epochs": HeadConfig().epochs, **settings})


def logits(model, path):
    """Compute the logits of a model's head for features."""
    found = classifiers.from_header(model.header, model.state, name="model")
    with torch.no_grad():
        return found.head(torch.from_numpy(np.array(features.load(path).values)))


def targets_of(path):
    return np.array([CLASSES.index(row.label) for row in features.load(path).rows])


# ---------------------------------------------------------------- the result


def test_reported_measures_are_those_of_the_written_model(pair):
    """Accuracy and loss of the best epoch are those of the head in the file, by scikit-learn; the history has the same numbers."""
    result, model = train(pair, head="dense 8 relu, dropout 0.3", epochs=12)
    shares = logits(model, pair[1]).double().softmax(1).numpy()
    targets = targets_of(pair[1])
    assert result.val_accuracy == pytest.approx(accuracy_score(targets, shares.argmax(1)))
    assert result.val_loss == pytest.approx(log_loss(targets, shares), rel=1e-5)
    row = model.history[result.best_epoch - 1]
    assert (row["val_loss"], row["val_accuracy"]) == (result.val_loss, result.val_accuracy)
    assert result.val_loss == min(row["val_loss"] for row in model.history)
    assert (result.classes, result.train_rows, result.val_rows, result.epochs) == (3, 48, 24, 12)
    assert len(model.history) == 12
    assert result.val_accuracy > 0.8


def test_the_model_is_self_contained(own_cache, pair):
    """The model's outputs for images are the head's outputs for their features; torch reads the file with weights_only."""
    _, model = train(pair)
    content = torch.load(pair[0].with_name("head.pt"), weights_only=True)
    assert set(content) == {"header", "state", "history"}
    assert content["header"]["classes"] == list(CLASSES)
    shutil.rmtree(cache.folder("weights"))  # nothing but the file is needed
    network = classifiers.from_header(model.header, model.state, name="model")
    with torch.no_grad():
        found = network(torch.from_numpy(images(3, (8, 8, 8), 1)[0]))
    torch.testing.assert_close(found, logits(model, pair[1]), atol=1e-5, rtol=0)


def test_baselines_are_scikit_learns(make):
    """Nearest centroid as NearestCentroid, majority as counted, both fitted on the training set."""
    pair = make("train", (20, 8, 5)), make("val", (4, 10, 6), seed=1)
    result, _ = train(pair)
    reference = NearestCentroid().fit(features.load(pair[0]).values, targets_of(pair[0]))
    expected = reference.score(features.load(pair[1]).values, targets_of(pair[1]))
    assert result.nearest_centroid == pytest.approx(expected)
    assert 0.5 < expected < 1
    assert result.majority == pytest.approx(4 / 20)


def test_the_header_records_the_training(pair):
    """Settings with the learning rate used, the backbone's record from the features, no paths and no times."""
    (pair[0].parent / "wide.txt").write_text("# wide\ndense 5 relu\ndropout 0.25")
    _, model = train(pair, head=f"@{pair[0].parent / 'wide.txt'}", lr=None, optimizer=Optimizer.SGD, l2=0.001)
    extracted = features.load(pair[0]).header
    assert (model.header.backbone, model.header.preprocess) == (extracted.backbone, extracted.preprocess)
    assert model.header.head == "dense 5 relu, dropout 0.25, dense 3 softmax"
    training = model.header.training
    assert (training["optimizer"], training["lr"], training["l2"], training["rows"]) == ("sgd", 0.01, 0.001, 48)
    assert training["head"] == "dense 5 relu, dropout 0.25"
    assert str(pair[0].parent) not in model.header.to_json()
    assert set(model.history[0]) == {"epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"}


def test_the_same_seed_gives_the_same_bytes(pair):
    """The seed determines weights, order and dropout. The file has no paths; torch's global state is unchanged."""
    before = torch.random.get_rng_state()
    contents = []
    for name, seed in (("a.pt", 0), ("b.pt", 0), ("c.pt", 1)):
        train(pair, name=name, head="dense 8 relu, dropout 0.5", seed=seed)
        contents.append(pair[0].with_name(name).read_bytes())
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    assert str(pair[0].parent) not in torch_model.load(pair[0].with_name("a.pt")).header.to_json()
    assert torch.equal(torch.random.get_rng_state(), before)


# ---------------------------------------------------------------- every setting has its effect


def by_hand(
    pair,
    *,
    optimizer=Optimizer.ADAM,
    lr=0.05,
    init="glorot",
    epochs=3,
    batch=16,
    criterion=None,
    l1=0.0,
    l2=0.0,
    outputs=3,
    seed=0,
    clip=None,
    scheduler=None,
    averaging=None,
    sampler=None,
):
    """Train one hidden layer in plain torch; returns the weights after the last epoch."""
    found = features.load(pair[0])
    values, targets = torch.from_numpy(np.array(found.values)), torch.from_numpy(targets_of(pair[0]))
    first, second = nn.Linear(10, 4), nn.Linear(4, outputs)
    network = nn.Sequential(first, nn.ReLU(), second)
    generator = torch.Generator().manual_seed(seed)
    initial = {
        "glorot": nn.init.xavier_uniform_,
        "he": lambda weight, generator: nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator),
        "normal": lambda weight, generator: nn.init.normal_(weight, std=0.05, generator=generator),
        "uniform": lambda weight, generator: nn.init.uniform_(weight, -0.05, 0.05, generator=generator),
        "orthogonal": nn.init.orthogonal_,
        "zeros": lambda weight, generator: nn.init.zeros_(weight),
    }[init]
    for layer in (first, second):
        initial(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    if callable(optimizer):
        stepper = optimizer(network.parameters(), lr=lr)
    else:  # test_optim.py compares these with torch's
        stepper = optim.optimizer(HeadConfig(optimizer=optimizer, lr=lr), network.parameters())
    criterion = criterion or nn.CrossEntropyLoss()
    scheduler = scheduler and scheduler(stepper)
    averaged = averaging and averaging(network)
    if averaged:
        averaged.update_parameters(network)  # the first call copies
    for _ in range(epochs):
        batches = shuffled(values, targets, batch=batch, generator=generator)
        if sampler:
            order = torch.tensor(list(sampler(targets, generator)))
            batches = [(values[rows], targets[rows]) for rows in order.split(batch)]
        for inputs, expected in batches:
            loss = criterion(network(inputs), expected)
            for layer in (first, second):
                loss = loss + l1 * layer.weight.abs().sum() + l2 * layer.weight.pow(2).sum()
            stepper.zero_grad()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(network.parameters(), clip)
            stepper.step()
            if scheduler:
                scheduler.step()
            if averaged:
                averaged.update_parameters(network)
    if averaged:
        network.load_state_dict(averaged.module.state_dict())
    return [tensor.detach() for tensor in (first.weight, first.bias, second.weight, second.bias)]


def check(pair, expected, **settings):
    """Check the weights of the last epoch, which is kept without a validation set."""
    _, model = train((pair[0], None), **{"head": "dense 4 relu", "epochs": 3, "batch": 16, **settings})
    found = [model.state[f"head.{name}"] for name in ("dense1.weight", "dense1.bias", "dense2.weight", "dense2.bias")]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_the_optimizer_and_its_rate(pair, optimizer):
    """Every optimizer gives the weights of torch's."""
    check(pair, by_hand(pair, optimizer=optimizer, lr=0.02), optimizer=optimizer, lr=0.02)


@pytest.mark.parametrize(
    ("reference", "settings"),
    [
        ({"optimizer": partial(torch.optim.SGD, momentum=0.9)}, {"optimizer": Optimizer.SGD, "momentum": 0.9}),
        ({"optimizer": partial(torch.optim.RMSprop, momentum=0.5)}, {"optimizer": Optimizer.RMSPROP, "momentum": 0.5}),
        (
            {"optimizer": partial(torch.optim.AdamW, weight_decay=0.3)},
            {"optimizer": Optimizer.ADAMW, "weight_decay": 0.3},
        ),
        (
            {"optimizer": partial(torch.optim.AdamW, weight_decay=0.0)},
            {"optimizer": Optimizer.ADAMW, "weight_decay": 0.0},
        ),
        ({"clip": 0.05}, {"clip": 0.05}),
        (
            # 48 rows in batches of 16, three epochs
            {"scheduler": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=9)},
            {"schedule": Schedule.COSINE},
        ),
        # Below 2/11, where the decay is constant
        ({"averaging": partial(AveragedModel, multi_avg_fn=get_ema_multi_avg_fn(0.15))}, {"ema": 0.15}),
    ],
    ids=lambda value: ", ".join(value),
)
def test_momentum_weight_decay_clip_schedule_and_ema_are_torchs(pair, reference, settings):
    """Each gives torch's weights, and is recorded; settings that are not given are not in the Header."""
    check(pair, by_hand(pair, lr=0.02, **reference), lr=0.02, **settings)
    recorded = torch_model.load(pair[0].with_name("head.pt")).header.training
    assert {name: recorded.get(name) for name in settings} == settings
    optional = {field.name for field in fields(HeadConfig)} - HeadConfig().described().keys()
    assert recorded.keys() & optional == settings.keys() & optional


@pytest.mark.parametrize("init", list(Initializer))
def test_the_initializer(pair, init):
    """Every initializer gives the weights of torch's function, from the seed."""
    check(pair, by_hand(pair, init=init, seed=4), init=init, seed=4)


@pytest.mark.parametrize(
    "settings",
    [{"l1": 0.01}, {"l2": 0.02}, {"l1": 0.01, "l2": 0.02}, {"batch": 7}, {"epochs": 1}, {"lr": 0.001}],
    ids=str,
)
def test_penalties_batch_epochs_and_rate(pair, settings):
    """Lasso, ridge, both together, and other settings."""
    check(pair, by_hand(pair, **settings), **settings)


def test_smoothing_and_class_weights(make):
    """torch's cross-entropy with scikit-learn's balanced weights."""
    pair = make("train", (20, 8, 5)), None
    weights = compute_class_weight("balanced", classes=np.arange(3), y=targets_of(pair[0]))
    balanced = nn.CrossEntropyLoss(weight=torch.from_numpy(weights).float())
    check(pair, by_hand(pair, criterion=balanced), class_weights=ClassWeights.BALANCED)
    check(pair, by_hand(pair, criterion=nn.CrossEntropyLoss(label_smoothing=0.2)), smoothing=0.2)


def test_balanced_sampling(make):
    """torch's WeightedRandomSampler with the inverse class frequencies, in epochs of the same length."""
    pair = make("train", (20, 9, 5)), None

    def sampler(targets, generator):
        weights = 1 / targets.bincount().double()[targets]
        return WeightedRandomSampler(weights.tolist(), len(targets), generator=generator)

    check(pair, by_hand(pair, sampler=sampler), sample=Sample.BALANCED)


def test_the_binary_loss(make):
    """One sigmoid, for the second class in order; the notation has it."""
    pair = make("train", (12, 15)), None

    def criterion(outputs, targets):
        return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.float())

    check(pair, by_hand(pair, criterion=criterion, outputs=1), loss=Loss.BINARY)
    model = torch_model.load(pair[0].with_name("head.pt"))
    assert model.header.head == "dense 4 relu, dense 1 sigmoid"
    assert logits(model, pair[0]).shape == (27, 1)


def test_patience_and_monitor(pair, make):
    """Training ends `patience` epochs after the best; accuracy and loss may select different epochs."""
    result, model = train(pair, lr=0.0, epochs=20, patience=3, init=Initializer.ZEROS)
    assert (result.epochs, result.best_epoch, len(model.history)) == (4, 1, 4)
    # With some wrong labels, growing confidence increases the loss at the same accuracy
    labels = [CLASSES[(number // 8 + (number % 8 == 0)) % 3] for number in range(24)]
    pair = pair[0], make("odd", (8, 8, 8), seed=1, labels=labels)
    result, model = train(pair, monitor=Monitor.VAL_ACCURACY, epochs=20, lr=0.2)
    ranks = [(row["val_accuracy"], -row["val_loss"]) for row in model.history]
    assert result.best_epoch == 1 + ranks.index(max(ranks))
    again, _ = train(pair, monitor=Monitor.VAL_LOSS, epochs=20, lr=0.2)
    assert again.best_epoch != result.best_epoch, "the two measures should disagree here"


@pytest.mark.parametrize(
    "settings",
    [{"standardize": True}, {"pca": 4}, {"whiten": True}, {"standardize": True, "pca": 5, "whiten": True}],
    ids=str,
)
@pytest.mark.parametrize("head", ["", "dense 6 relu", "bn, dense 6 relu"])
def test_preparation_becomes_part_of_the_head(pair, settings, head):
    """The head in the file takes unprepared features, and gives the measures reported by the training on prepared ones."""
    result, model = train(pair, head=head, epochs=8, **settings)
    shares = logits(model, pair[1]).double().softmax(1).numpy()
    targets = targets_of(pair[1])
    assert result.val_accuracy == pytest.approx(accuracy_score(targets, shares.argmax(1)))
    assert result.val_loss == pytest.approx(log_loss(targets, shares), rel=1e-3)


@pytest.mark.parametrize(
    ("head", "whole"),
    [
        ("", "flatten, dense 3 softmax"),
        ("dense 4 relu", "flatten, dense 4 relu, dense 3 softmax"),
        ("gap", "gap, dense 3 softmax"),
        ("gmp, dense 4", "gmp, dense 4, dense 3 softmax"),
        ("conv 4 k2 relu", "conv 4 k2 relu, flatten, dense 3 softmax"),
        ("conv 4 k2 bn relu, gap", "conv 4 k2, bn relu, gap, dense 3 softmax"),
        ("flatten, dropout 0.5", "flatten, dropout 0.5, dense 3 softmax"),
    ],
)
def test_heads_on_maps(make, head, whole):
    """Features with height and width take convolutions and pooling; `flatten` is added before the first dense layer."""
    pair = make("train", pool=Pool.NONE), make("val", (8, 8, 8), pool=Pool.NONE, seed=1)
    result, model = train(pair, head=head)
    assert model.header.head.replace(", bn", " bn") == whole.replace(", bn", " bn")
    shares = logits(model, pair[1]).double().softmax(1).numpy()
    assert result.val_loss == pytest.approx(log_loss(targets_of(pair[1]), shares), rel=1e-4, abs=1e-6)


# ---------------------------------------------------------------- logistic regression


def test_lbfgs_selects_the_strength_with_the_lowest_validation_loss(pair):
    """Every strength is a row of the history; the best one is in the Header, and gives the same model when given."""
    result, model = lbfgs(pair)
    losses = [row["val_loss"] for row in model.history]
    assert result.best_epoch == 1 + losses.index(min(losses))
    strength = model.header.training["l2"]
    assert 1e-6 < strength < 10
    assert model.header.head == "dense 3 softmax"
    again, other = lbfgs(pair, l2=strength, name="again.pt")
    assert (again.epochs, other.header.training["l2"]) == (1, strength)
    torch.testing.assert_close(logits(other, pair[1]).softmax(1), logits(model, pair[1]).softmax(1), atol=2e-3, rtol=0)


def test_lbfgs_uses_validation_rows_for_selection_only(pair, make):
    """Other validation rows may select another strength, but the solutions for each strength are the same."""
    _, model = lbfgs(pair, monitor=Monitor.VAL_ACCURACY)
    _, other = lbfgs((pair[0], make("other", (9, 9, 9), seed=7)), name="other.pt")
    for one, two in zip(model.history, other.history, strict=False):
        assert one["train_loss"] == two["train_loss"]
    assert [row["val_loss"] for row in model.history] != [row["val_loss"] for row in other.history]


def test_lbfgs_without_validation_is_scikit_learns_default(make):
    """C = 1 and a single solution."""
    from sklearn.linear_model import LogisticRegression

    path = make("train")
    result, model = lbfgs((path, None), standardize=True)
    assert result.epochs == 1
    assert model.header.training["l2"] == pytest.approx(0.5 / 48)
    values = features.load(path).values
    scaled = (values - values.mean(0)) / values.std(0)
    expected = LogisticRegression(max_iter=5000, tol=1e-8).fit(scaled, targets_of(path)).predict_proba(scaled)
    np.testing.assert_allclose(logits(model, path).softmax(1).numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("loss", list(Loss))
def test_lbfgs_on_maps_and_for_two_classes(make, loss):
    """Maps are flattened; one sigmoid works as well as a softmax."""
    pair = make("train", (12, 12), pool=Pool.NONE), make("val", (6, 6), pool=Pool.NONE, seed=1)
    result, model = lbfgs(pair, loss=loss)
    shares = classifiers.class_logits(logits(model, pair[1]).double()).softmax(1).numpy()
    assert result.val_loss == pytest.approx(log_loss(targets_of(pair[1]), shares), rel=1e-4, abs=1e-6)
    assert result.val_accuracy > 0.8


# ---------------------------------------------------------------- features that do not match


def other_backbone(**changes):
    return lambda header: replace(header, backbone=replace(header.backbone, **changes))


def other_preprocess(**changes):
    return lambda header: replace(header, preprocess=replace(header.preprocess, **changes))


@pytest.mark.parametrize(
    ("change", "ours", "theirs"),
    [
        (other_backbone(name="vgg16"), "backbone layers", "vgg16"),
        (other_backbone(layer="conv1"), "layer conv2", "conv1"),
        (other_backbone(weights_sha256="f" * 64), "weights ", "ffffffffffff..."),
        (other_backbone(pool=Pool.MAX), "pool avg", "max"),
        (other_backbone(notation="conv 1 k1"), "notation conv 6 k3 s2", "conv 1 k1"),
        (other_preprocess(size=224), "--size 9", "224"),
        (other_preprocess(fit=Fit.CROP), "--fit squash", "crop"),
        (other_preprocess(mean=(0.1, 0.2, 0.3)), "mean 0.5, 0.5, 0.5", "0.1, 0.2, 0.3"),
        (lambda header: replace(header, backbone=None), "does not record its backbone", "train.npy does"),
    ],
)
def test_rejects_features_with_different_headers(make, change, ours, theirs):
    """Another backbone, layer, weights, or preprocessing: both files and both values are named, nothing is written."""
    pair = make("train"), make("val", (8, 8, 8), change=change)
    with pytest.raises(FormatError) as caught:
        train(pair)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ("train.npy", "val.npy", ours, theirs)), message
    assert not list(pair[0].parent.glob("head.*"))


def test_rejects_a_class_in_validation_only(make):
    """Whether the Headers have classes or not."""
    without = lambda header: replace(header, classes=None)  # noqa: E731 - an argument
    for change in (without, lambda header: header):
        pair = make("train", (16, 16), change=change), make("val", (8, 8, 8), change=change)
        with pytest.raises(
            CnnkitError, match=r"the class red is only in .*val\.npy; .*train\.npy has blue, green: add"
        ):
            train(pair)


def test_validation_may_lack_a_class(make, caplog):
    """As in trainings on images: it is reported, and no measure becomes NaN."""
    pair = make("train", (16, 16, 16)), make("val", (8, 8))
    train(pair)
    assert any(message.endswith("val.npy; accuracy on this class is not measured") for message in caplog.messages)
    assert not any("no better than chance" in message for message in caplog.messages)


def test_rejects_rows_without_labels(make):
    """The image is named, in either file."""
    labels = ["blue"] * 5 + [None] + ["red"] * 6
    blank = make("blank", (12,), labels=labels)
    whole = make("whole", (12,), labels=["blue"] * 6 + ["red"] * 6)
    for pair in ((blank, whole), (whole, blank)):
        with pytest.raises(CnnkitError, match=r"blank\.npy: blank-5\.png has no label; extract from class folders"):
            train(pair)


def test_rejects_a_single_class(make):
    """The class is named."""
    with pytest.raises(CnnkitError, match=r"train\.npy: only one class, blue"):
        train((make("train", (8,)), None))


def test_rejects_features_without_rows(make):
    """With an error that names the file."""
    empty = make("empty", (0, 0), values=lambda seen: seen[:0])
    with pytest.raises(CnnkitError, match=r"empty\.npy: has no rows"):
        train((empty, None))
    with pytest.raises(CnnkitError, match=r"empty\.npy: has no rows|empty\.npy has"):
        train((make("train"), make("empty", (0, 0), values=lambda seen: seen[:0])))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rejects_features_that_are_not_finite(make, value):
    """Row and image are named, before anything is trained."""

    def spoil(seen):
        seen[7, 3] = value
        return seen

    with pytest.raises(CnnkitError, match=r"val\.npy: row 7 \(val-7\.png\) has values that are not finite"):
        train((make("train"), make("val", (8, 8, 8), values=spoil)))


def test_trains_on_half_precision_features(make):
    """float16 on disk is float32 in training."""
    pair = make("train", dtype="float16"), make("val", (8, 8, 8), seed=1, dtype="float16")
    result, _ = train(pair, epochs=12)
    assert result.val_accuracy > 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": Loss.BINARY}, "--loss binary is for two classes, there are 3"),
        ({"solver": Solver.LBFGS, "lr": None, "head": "dense 4 relu"}, "--solver lbfgs trains a single dense layer"),
        ({"solver": Solver.LBFGS, "lr": None, "l1": 0.1}, "--solver lbfgs cannot minimize an --l1 penalty"),
        ({"solver": Solver.LBFGS, "lr": 0.1}, "drop --lr"),
        ({"solver": Solver.LBFGS, "lr": None, "epochs": 50, "patience": 2}, "drop --patience"),
        *(
            (
                {"solver": Solver.LBFGS, "lr": None, "epochs": 50, name: value},
                f"drop --{name.replace('_', '-')}, or use",
            )
            for name, value in (
                ("momentum", 0.9),
                ("weight_decay", 0.1),
                ("schedule", Schedule.COSINE),
                ("clip", 1.0),
                ("ema", 0.9),
            )
        ),
        ({"momentum": 0.9}, "--momentum goes with sgd and rmsprop; adam has its own"),
        ({"weight_decay": 0.1}, "--weight-decay goes with adamw; with adam, use the penalty --l2"),
        ({"clip": 0.0}, "--clip 0 would set all gradients to zero"),
        ({"batch": 1, "head": "dense 4 bn relu"}, "--batch 1: batch norm cannot train on one row"),
        ({"pca": 11}, "--pca 11: 48 rows of 10 features have at most 10 components"),
        ({"head": "dense 4 relu, dense 3 softmax"}, 'ends in "dense 3 softmax"; leave that layer out'),
        ({"head": "dense 4, softmax"}, 'ends in "softmax"; leave that layer out'),
        ({"head": "conv 3 k3"}, "conv"),
    ],
)
def test_rejects_contradicting_settings(pair, settings, message):
    """One line with the remedy; an existing history is unchanged."""
    kept = pair[0].with_name("head.csv")
    train(pair)
    before = kept.read_bytes()
    with pytest.raises(UsageError) as caught:
        train(pair, **settings)
    assert message in str(caught.value)
    assert kept.read_bytes() == before


def test_rejects_unknown_layer(pair):
    """A similar name is suggested."""
    with pytest.raises(NotationError, match='"dropuot" is not a layer; did you mean "dropout"'):
        train(pair, head="dense 4 relu, dropuot 0.5")


def test_a_sigmoid_inside_a_head_is_kept(pair):
    """Only the final layer is added; the layers before it are those given."""
    _, model = train(pair, head="dense 4, sigmoid")
    assert model.header.head == "dense 4, sigmoid, dense 3 softmax"
    network = classifiers.from_header(model.header, model.state, name="model")
    assert [type(part).__name__ for part in network.head] == ["Linear", "Sigmoid", "Linear"]


def test_rejects_patience_without_a_validation_set(make):
    """--patience would be ignored."""
    with pytest.raises(UsageError, match="--patience needs a validation set; give --val or --hold-out"):
        train((make("train"), None), patience=3)


def test_the_history_does_not_overwrite_another_table(pair):
    """For example `-o split.pt` next to split.csv."""
    other = pair[0].with_name("head.csv")
    other.write_text("name,price\nrope,3\n")
    with pytest.raises(UsageError, match=r"head\.csv: would be overwritten by the history"):
        train(pair)
    assert other.read_text() == "name,price\nrope,3\n"
    assert not pair[0].with_name("head.pt").exists()


def test_a_loss_that_is_not_finite_writes_no_model(pair):
    """The existing model is unchanged."""
    train(pair)
    before = pair[0].with_name("head.pt").read_bytes()
    with pytest.raises(
        CnnkitError,
        match=r"(the loss became (nan|inf) in|became NaN or infinite in the last step of) epoch \d.* at a learning rate of 1e\+38",
    ):
        train(pair, lr=1e38, optimizer=Optimizer.SGD)
    assert pair[0].with_name("head.pt").read_bytes() == before


# ---------------------------------------------------------------- the backbone's weights


def weights_file(pair):
    """Return the hash of the backbone's state_dict, and its file in the cache."""
    digest = features.load(pair[0]).header.backbone.weights_sha256
    return digest, cache.folder("weights") / f"{digest}.pth"


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Use a new cache that can be emptied, and a new folder of torch's downloads."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path


def test_finds_the_backbones_weights_in_torchs_downloads(own_cache, pair):
    """By the first digits of the hash in the name, then by the whole hash of the content."""
    digest, kept = weights_file(pair)
    expected = train(pair)[1].state
    downloads = own_cache / "torch" / "hub" / "checkpoints"
    shutil.move(kept, downloads / f"somenet-{digest[:8]}.pth")
    found = train(pair, name="again.pt")[1].state
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    (downloads / f"somenet-{digest[:8]}.pth").write_bytes(b"something else under that name")
    with pytest.raises(CnnkitError, match="are not in the cache; give them with --weights FILE"):
        train(pair)


def test_weights_that_are_not_in_the_cache_are_one_line(own_cache, pair):
    """The message has the backbone, the features' file and the hash; a wrong --weights FILE is rejected by its hash."""
    digest, kept = weights_file(pair)
    mine = own_cache / "mine.pth"
    shutil.move(kept, mine)
    with pytest.raises(CnnkitError) as caught:
        train(pair)
    assert all(part in str(caught.value) for part in ("layers", "train.npy", digest[:12], "--weights FILE"))
    result, _ = train(pair, weights=mine, epochs=12)
    assert result.val_accuracy > 0.8
    other = own_cache / "other.pth"
    network = make_backbone(seed=9)[0]
    torch.save(network.state_dict(), other)
    with pytest.raises(
        CnnkitError, match=rf"other\.pth has sha256 {cache.sha256(other)[:12]}\.\.\., .*made with {digest[:12]}"
    ):
        train(pair, weights=other)
    with pytest.raises(CnnkitError, match=r"gone\.pth: no such file; --weights takes the state_dict"):
        train(pair, weights=own_cache / "gone.pth")


def test_rejects_features_without_a_backbone(make):
    """The whole network could not be written."""
    with pytest.raises(FormatError, match=r"train\.npy: its header lacks the backbone"):
        train((make("train", change=lambda header: replace(header, backbone=None)), None))


# ---------------------------------------------------------------- warnings


def logged(caplog, level=logging.WARNING):
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


@pytest.mark.parametrize("counts", [(24, 24, 24), (50, 10, 12)])
def test_warns_of_features_without_signal(make, caplog, counts):
    """Random labels, balanced or not: one warning that names the preprocessing."""
    generator = np.random.default_rng(5)

    def mixed(each):
        return [str(label) for label in generator.permutation(np.repeat(CLASSES, each))]

    half = tuple(count // 2 for count in counts)
    pair = make("train", counts, labels=mixed(counts)), make("val", half, seed=1, labels=mixed(half))
    lbfgs(pair, standardize=True)
    (message,) = logged(caplog)
    assert "the features carry no signal" in message
    assert "preprocessing" in message


@pytest.mark.parametrize("counts", [(8, 8, 8), (97, 3)])
def test_does_not_warn_of_features_with_signal(make, caplog, counts):
    """Not even if one class is so frequent that the majority baseline is nearly perfect."""
    pair = make("train", counts), make("val", counts, seed=1)
    result, _ = lbfgs(pair, standardize=True)
    assert result.val_accuracy > 0.9
    assert logged(caplog) == []


def test_warns_of_an_untrained_head_on_features_with_signal(pair, caplog):
    """The nearest centroid shows that there is a signal: the warning suggests other training options."""
    result, _ = train(pair, lr=0.0, init=Initializer.ZEROS)
    (message,) = logged(caplog)
    assert "the head is no better than chance, but the nearest centroid" in message
    assert f"{result.nearest_centroid:.3f}" in message
    assert "signal" not in message


@pytest.mark.parametrize("rate", [1e9, 50.0])
def test_warns_of_saturated_outputs(make, caplog, rate):
    """Also at an accuracy above chance; the loss named is scikit-learn's, and there is no second warning of chance."""
    labels = list(np.random.default_rng(2).permutation(np.repeat(CLASSES, 30)))
    for names in (None, labels):
        pair = make("train", (30, 30, 30), labels=names), make("val", (30, 30, 30), seed=1, labels=names)
        caplog.clear()
        result, model = train(pair, lr=rate)
        (message,) = logged(caplog)
        shown = re.fullmatch(
            r"the outputs are saturated: validation loss (\S+), against 1\.1 for equal probabilities of all classes; "
            rf"give a smaller --lr than {re.escape(f'{rate:g}')}",
            message,
        )
        logs = logits(model, pair[1]).double().log_softmax(1).numpy()
        loss = -logs[np.arange(90), targets_of(pair[1])].mean()
        assert float(shown[1]) == pytest.approx(loss, rel=0.01) == pytest.approx(result.val_loss, rel=0.01)


def test_warns_of_saturated_outputs_without_errors(make, caplog):
    """A loss of exactly 0 in the validation set, and the training loss without one."""
    labels = list(np.repeat(CLASSES[:2], 12))
    both = [make(name, (12, 12), values=lambda _: np.repeat(np.eye(10)[:2], 12, 0), labels=labels) for name in "ab"]
    result, _ = train(both, lr=1e9)
    assert result.val_loss == 0
    assert logged(caplog) == [
        "the outputs are saturated: every probability in the validation set is exactly 0 or 1; give a smaller --lr than 1e+09"
    ]
    caplog.clear()
    train((make("c", (30, 30, 30)), None), lr=1e9, epochs=1)
    assert next(line.split(",")[0] for line in logged(caplog) if "saturated" in line).startswith(
        "the outputs are saturated: training loss "
    )


def test_warns_without_a_validation_set(make, caplog):
    """Its measures are None."""
    result, model = train((make("train"), None), epochs=3)
    assert logged(caplog) == ["no validation set: keeping the last epoch; use --val or --hold-out to keep the best one"]
    assert (result.best_epoch, result.val_rows) == (3, 0)
    assert {result.val_accuracy, result.val_loss, result.majority, result.nearest_centroid} == {None}
    assert model.history[-1]["val_loss"] is None


def test_images_that_are_in_both_files_are_counted(pair, caplog, tmp_path):
    """By their paths on disk, also if the two files are in different folders."""
    caplog.set_level(logging.INFO, "cnnkit")
    (tmp_path / "away").mkdir()
    for suffix in (".npy", ".tsv", ".json"):
        shutil.copy(pair[0].with_suffix(suffix), tmp_path / "away" / f"copy{suffix}")
    listed = tmp_path / "away" / "copy.tsv"
    listed.write_text(listed.read_text().replace("train-", f"..{os.sep}train-"))
    train((pair[0], tmp_path / "away" / "copy.npy"))
    assert any(
        message.startswith("48 validation images are also in the training set")
        for message in logged(caplog, logging.INFO)
    )
    caplog.clear()
    train(pair)
    assert not any("also in the training set" in message for message in logged(caplog, logging.INFO))


# ---------------------------------------------------------------- --hold-out


def test_hold_out_is_the_same_as_two_files(make, tmp_path):
    """Rows of the split validate, the others train, test is in neither: to the bit the result of two files."""
    whole = make("all", splits=("fold0", "fold1", "fold2", "test"))
    found = features.load(whole)
    for name, splits in (("others", ("fold0", "fold2")), ("own", ("fold1",))):
        kept = [index for index, row in enumerate(found.rows) if row.split in splits]
        with features.FeatureWriter(
            tmp_path / f"{name}.npy", shape=found.values.shape[1:], dtype="float32", header=found.header
        ) as writer:
            writer.write(found.values[kept], [replace(found.rows[index], split=None) for index in kept])
    result, expected = train((tmp_path / "others.npy", tmp_path / "own.npy"))
    held = trained(whole, tmp_path / "held.pt", hold_out="fold1", epochs=4, lr=0.05)
    model = torch_model.load(tmp_path / "held.pt")
    assert all(torch.equal(model.state[name], tensor) for name, tensor in expected.state.items())
    assert replace(held, model=result.model) == result
    assert (held.train_rows, held.val_rows) == (24, 12)
    assert model.header.training == {**expected.header.training, "hold_out": "fold1"}


def test_val_and_dev_are_one_validation_set(make, tmp_path, caplog):
    """As in folders and manifests; a notice names both."""
    caplog.set_level(logging.INFO, "cnnkit")
    result = trained(make("all", splits=("train", "val", "dev")), tmp_path / "head.pt", epochs=1)
    assert (result.train_rows, result.val_rows) == (16, 32)
    assert any("all.npy: dev and val are both read as validation splits" in line for line in caplog.messages)


def test_views_of_held_out_images_are_not_used(make, tmp_path):
    """They would distort the validation, or leak the labels; views of other images are trained on."""
    found = features.load(make("plain", splits=("fold0", "fold1", "fold2", "fold3")))
    viewed = [replace(row, view=view) for row in found.rows for view in (0, 1, 2)]
    header = replace(found.header, training={"views": 2})
    assert header.has_views
    columns = (*features.COLUMNS, "view")
    with features.FeatureWriter(
        tmp_path / "all.npy", shape=found.values.shape[1:], dtype="float32", header=header, columns=columns
    ) as writer:
        writer.write(np.repeat(found.values, 3, axis=0), viewed)
    result = trained(tmp_path / "all.npy", tmp_path / "head.pt", hold_out="fold3", epochs=1)
    assert (result.train_rows, result.val_rows) == (3 * 36, 12)


@pytest.mark.parametrize(
    ("splits", "split", "message"),
    [
        (("fold0", "fold1"), "fold2", r"all\.npy: no split fold2 to hold out; it has fold0, fold1$"),
        (None, "fold0", r"all\.npy: no split fold0 to hold out; it has none; make some with cnn-split --folds$"),
        (("fold0", "fold1", None), "fold0", r"all\.npy: all-2\.png is in no split; --hold-out needs every image"),
        (("fold0",) * 16 + ("fold1",) * 32, "fold1", r"all\.npy without fold1: only one class, blue"),
        (("fold0",) * 16 + ("fold1",) * 32, "fold0", r"blue is only in .*all\.npy, fold0; .*all\.npy without fold0 has green, red"),
    ],
)  # fmt: skip
def test_rejects_a_split_that_cannot_be_held_out(make, splits, split, message, tmp_path):
    """Unknown, missing in some rows, or leaving too few classes."""
    whole = make("all", splits=splits)
    with pytest.raises(CnnkitError, match=message):
        trained(whole, tmp_path / "head.pt", hold_out=split)


@pytest.mark.parametrize("solver", Solver)
def test_progress_begins_before_the_first_epoch(pair, tmp_path, solver):
    """A solver's first fit may take minutes on thousands of features."""
    calls = []
    config = HeadConfig(solver=solver, l2=0.01).checked(has_val=True)
    data = feature_sets.load(pair[0], val=pair[1], hold_out=None, loss=config.loss)
    noting = Callbacks(progress=lambda done, total: calls.append((done, total)))
    train_head(data, tmp_path / "head.pt", train=config, device="cpu", callbacks=noting)
    assert calls[0] == (0, calls[-1][1])
    assert calls[-1][0] <= calls[-1][1]


def test_does_not_warn_on_few_validation_rows(make, caplog):
    """On four rows, even perfect predictions may be chance: there is no evidence for or against a signal."""
    train((make("train", (16, 16)), make("val", (2, 2))))
    assert not [message for message in caplog.messages if "chance" in message]


# ---------------------------------------------------------------- weights without building the network


def named_backbone(tmp_path, monkeypatch, *, layer="features.3"):
    """Write features as by a network by name, and return them with the network's weights."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "cache"))
    network, backbone, preprocess = backbones.pretrained("squeezenet1_1", weights="none", layer=layer, pool=Pool.AVG)
    generator = np.random.default_rng(0)
    values = generator.normal(size=(12, 128)).astype(np.float32)
    rows = [ManifestRow(f"{index}.png", CLASSES[index % 3]) for index in range(12)]
    header = Header(ArtefactKind.FEATURES, None, preprocess, backbone)
    path = tmp_path / "named.npy"
    with features.FeatureWriter(path, shape=values.shape[1:], dtype="float32", header=header) as writer:
        writer.write(values, rows)
    return path, network.state_dict()


def test_a_network_by_name_is_built_once(tmp_path, monkeypatch):
    """Later models take its weights by the names that the cache has, and have the same bytes; a damaged entry is made again."""
    path, state = named_backbone(tmp_path, monkeypatch)
    built = []
    restore = backbones.restore
    monkeypatch.setattr(backbones, "restore", lambda *words, **named: built.append(1) or restore(*words, **named))
    contents = []
    for number in range(3):
        lbfgs((path, None), name=f"{number}.pt")
        contents.append((tmp_path / f"{number}.pt").read_bytes())
        if number == 1:
            (entry,) = (tmp_path / "cache" / "outlines").iterdir()
            entry.write_bytes(entry.read_bytes()[:-9])
    assert contents[0] == contents[1] == contents[2]
    assert len(built) == 2
    found = torch_model.load(tmp_path / "1.pt").state
    assert [name for name in found if name.startswith("base.")] == [f"base.{name}" for name in state]
    for name, tensor in state.items():
        torch.testing.assert_close(found[f"base.{name}"], tensor, atol=0, rtol=0)


def test_features_of_another_shape_are_rejected_without_building_the_network(tmp_path, monkeypatch):
    """The cache has the shape of the features as well."""
    path, _ = named_backbone(tmp_path, monkeypatch)
    lbfgs((path, None))
    wide = named_backbone(tmp_path, monkeypatch, layer="features.3")[0]
    monkeypatch.setattr(backbones, "restore", None)
    found = features.load(wide)
    with features.FeatureWriter(wide, shape=(64,), dtype="float32", header=found.header) as writer:
        writer.write(np.zeros((12, 64), np.float32), found.rows)
    with pytest.raises(
        FormatError, match=r"rows of 64 values, but the backbone in its header, squeezenet1_1, outputs 128"
    ):
        lbfgs((wide, None))
