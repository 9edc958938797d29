"""The training of heads: every setting reaches it, what does not belong together is refused, and the model stands on its own."""

import logging
import os
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

from cnnkit.callbacks import Callbacks
from cnnkit.choices import ClassWeights, Fit, Initializer, Loss, Monitor, Optimizer, Pool, Schedule, Solver
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
    """Noise with a tint, one after another: uint8 (N, 9, 9, 3) and targets."""
    generator = np.random.default_rng(seed)
    targets = np.repeat(np.arange(classes), counts)
    tints = 130 * np.eye(3)[[2, 1, 0]][targets] * generator.uniform(0.3, 1, (len(targets), 1))
    pixels = tints[:, None, None, :] + generator.uniform(0, 120, (len(targets), 9, 9, 3))
    return pixels.astype(np.uint8), targets


def make_backbone(pool=Pool.AVG, seed=3):
    return backbones.by_notation(TEXT, size=9, pool=pool, seed=seed)


@pytest.fixture
def make(tmp_path):
    """Write features of images as cnn-extract does: `make("train", counts=(10, 10))`; returns the path."""

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
    """What the head of a model gives for features."""
    found = classifiers.from_header(model.header, model.state, name="model")
    with torch.no_grad():
        return found.head(torch.from_numpy(np.array(features.load(path).values)))


def targets_of(path):
    return np.array([CLASSES.index(row.label) for row in features.load(path).rows])


# ---------------------------------------------------------------- the result


def test_the_report_is_what_the_written_model_gives(pair):
    """Accuracy and loss of the best epoch are those of the head in the file, by scikit-learn; the history has the same numbers."""
    result, model = train(pair, head="dense 8 relu, dropout 0.3", epochs=12)
    shares = logits(model, pair[1]).double().softmax(1).numpy()
    wanted = targets_of(pair[1])
    assert result.val_accuracy == pytest.approx(accuracy_score(wanted, shares.argmax(1)))
    assert result.val_loss == pytest.approx(log_loss(wanted, shares), rel=1e-5)
    row = model.history[result.best_epoch - 1]
    assert (row["val_loss"], row["val_accuracy"]) == (result.val_loss, result.val_accuracy)
    assert result.val_loss == min(row["val_loss"] for row in model.history)
    assert (result.classes, result.train_rows, result.val_rows, result.epochs) == (3, 48, 24, 12)
    assert len(model.history) == 12
    assert result.val_accuracy > 0.8


def test_the_model_is_self_contained(own_cache, pair):
    """Backbone and head give for images what the head gives for their features; torch reads the file with weights_only."""
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
    """Nearest centroid as NearestCentroid, majority as counted, both fitted on training rows."""
    pair = make("train", (20, 8, 5)), make("val", (4, 10, 6), seed=1)
    result, _ = train(pair)
    reference = NearestCentroid().fit(features.load(pair[0]).values, targets_of(pair[0]))
    expected = reference.score(features.load(pair[1]).values, targets_of(pair[1]))
    assert result.nearest_centroid == pytest.approx(expected)
    assert 0.5 < expected < 1
    assert result.majority == pytest.approx(4 / 20)


def test_the_header_tells_how_it_was_made(pair):
    """Settings with the rate that was taken, the backbone's record as the features have it, no paths and no times."""
    (pair[0].parent / "wide.txt").write_text("# wide\ndense 5 relu\ndropout 0.25")
    _, model = train(pair, head=f"@{pair[0].parent / 'wide.txt'}", lr=None, optimizer=Optimizer.SGD, l2=0.001)
    known = features.load(pair[0]).header
    assert (model.header.backbone, model.header.preprocess) == (known.backbone, known.preprocess)
    assert model.header.head == "dense 5 relu, dropout 0.25, dense 3 softmax"
    training = model.header.training
    assert (training["optimizer"], training["lr"], training["l2"], training["rows"]) == ("sgd", 0.01, 0.001, 48)
    assert training["head"] == "dense 5 relu, dropout 0.25"
    assert str(pair[0].parent) not in model.header.to_json()
    assert set(model.history[0]) == {"epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"}


def test_the_same_seed_gives_the_same_bytes(pair):
    """The seed gives weights, order and dropout; another one another head. The file names no folder; no global state is left."""
    before = torch.random.get_rng_state()
    contents = []
    for name, seed in (("a.pt", 0), ("b.pt", 0), ("c.pt", 1)):
        train(pair, name=name, head="dense 8 relu, dropout 0.5", seed=seed)
        contents.append(pair[0].with_name(name).read_bytes())
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    assert str(pair[0].parent) not in torch_model.load(pair[0].with_name("a.pt")).header.to_json()
    assert torch.equal(torch.random.get_rng_state(), before)


# ---------------------------------------------------------------- every setting reaches the training


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
):
    """The same training of one hidden layer written out in torch; gives its weights after the last epoch."""
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
        averaged.update_parameters(network)  # the first time it copies
    for _ in range(epochs):
        for inputs, wanted in shuffled(values, targets, batch=batch, generator=generator):
            loss = criterion(network(inputs), wanted)
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
    """Without validation the last epoch is kept: its weights are those expected."""
    _, model = train((pair[0], None), **{"head": "dense 4 relu", "epochs": 3, "batch": 16, **settings})
    found = [model.state[f"head.{name}"] for name in ("dense1.weight", "dense1.bias", "dense2.weight", "dense2.bias")]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_the_optimizer_and_its_rate(pair, optimizer):
    """Every optimizer trains as torch's does."""
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
        # Below 2/11, where the decay does not grow any more
        ({"averaging": partial(AveragedModel, multi_avg_fn=get_ema_multi_avg_fn(0.15))}, {"ema": 0.15}),
    ],
    ids=lambda value: ", ".join(value),
)
def test_momentum_weight_decay_clip_schedule_and_ema_are_torchs(pair, reference, settings):
    """Each trains as torch's own does, and is recorded; without them a Header is as it was before there were any."""
    check(pair, by_hand(pair, lr=0.02, **reference), lr=0.02, **settings)
    recorded = torch_model.load(pair[0].with_name("head.pt")).header.training
    assert {name: recorded.get(name) for name in settings} == settings
    optional = {field.name for field in fields(HeadConfig)} - HeadConfig().described().keys()
    assert recorded.keys() & optional == settings.keys() & optional


@pytest.mark.parametrize("init", list(Initializer))
def test_the_initializer(pair, init):
    """Every name starts as torch's own function does, from the seed."""
    check(pair, by_hand(pair, init=init, seed=4), init=init, seed=4)


@pytest.mark.parametrize(
    "settings",
    [{"l1": 0.01}, {"l2": 0.02}, {"l1": 0.01, "l2": 0.02}, {"batch": 7}, {"epochs": 1}, {"lr": 0.001}],
    ids=str,
)
def test_penalties_batch_epochs_and_rate(pair, settings):
    """Lasso, ridge and both together; batches and epochs as said."""
    check(pair, by_hand(pair, **settings), **settings)


def test_smoothing_and_class_weights(make):
    """torch's cross-entropy with scikit-learn's balanced weights."""
    pair = make("train", (20, 8, 5)), None
    weights = compute_class_weight("balanced", classes=np.arange(3), y=targets_of(pair[0]))
    balanced = nn.CrossEntropyLoss(weight=torch.from_numpy(weights).float())
    check(pair, by_hand(pair, criterion=balanced), class_weights=ClassWeights.BALANCED)
    check(pair, by_hand(pair, criterion=nn.CrossEntropyLoss(label_smoothing=0.2)), smoothing=0.2)


def test_the_binary_loss(make):
    """One sigmoid, for the second class in order; its notation says so."""
    pair = make("train", (12, 15)), None

    def criterion(given, wanted):
        return nn.functional.binary_cross_entropy_with_logits(given[:, 0], wanted.float())

    check(pair, by_hand(pair, criterion=criterion, outputs=1), loss=Loss.BINARY)
    model = torch_model.load(pair[0].with_name("head.pt"))
    assert model.header.head == "dense 4 relu, dense 1 sigmoid"
    assert logits(model, pair[0]).shape == (27, 1)


def test_patience_and_monitor(pair, make):
    """Training ends that many epochs after the best; accuracy and loss may choose different epochs."""
    result, model = train(pair, lr=0.0, epochs=20, patience=3, init=Initializer.ZEROS)
    assert (result.epochs, result.best_epoch, len(model.history)) == (4, 1, 4)
    # Some labels that are wrong: who grows sure of the others pays for these, and is right as often
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
    """The head in the file takes plain features, and gives the measures that training on prepared ones reported."""
    result, model = train(pair, head=head, epochs=8, **settings)
    shares = logits(model, pair[1]).double().softmax(1).numpy()
    wanted = targets_of(pair[1])
    assert result.val_accuracy == pytest.approx(accuracy_score(wanted, shares.argmax(1)))
    assert result.val_loss == pytest.approx(log_loss(wanted, shares), rel=1e-3)


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
    """Features with height and width take convolutions and pooling; `flatten` is added where a dense layer would meet a map."""
    pair = make("train", pool=Pool.NONE), make("val", (8, 8, 8), pool=Pool.NONE, seed=1)
    result, model = train(pair, head=head)
    assert model.header.head.replace(", bn", " bn") == whole.replace(", bn", " bn")
    shares = logits(model, pair[1]).double().softmax(1).numpy()
    assert result.val_loss == pytest.approx(log_loss(targets_of(pair[1]), shares), rel=1e-4, abs=1e-6)


# ---------------------------------------------------------------- logistic regression


def test_lbfgs_takes_the_strength_with_the_lowest_validation_loss(pair):
    """Every strength is a row of the history; the best one is in the Header, and gives the same model when asked for."""
    result, model = lbfgs(pair)
    losses = [row["val_loss"] for row in model.history]
    assert result.best_epoch == 1 + losses.index(min(losses))
    strength = model.header.training["l2"]
    assert 1e-6 < strength < 10
    assert model.header.head == "dense 3 softmax"
    again, other = lbfgs(pair, l2=strength, name="again.pt")
    assert (again.epochs, other.header.training["l2"]) == (1, strength)
    torch.testing.assert_close(logits(other, pair[1]).softmax(1), logits(model, pair[1]).softmax(1), atol=2e-3, rtol=0)


def test_lbfgs_looks_at_validation_rows_to_choose_and_at_nothing_else(pair, make):
    """Other validation rows may choose another strength, but the solutions for each strength stay the same."""
    _, model = lbfgs(pair, monitor=Monitor.VAL_ACCURACY)
    _, other = lbfgs((pair[0], make("other", (9, 9, 9), seed=7)), name="other.pt")
    for one, two in zip(model.history, other.history, strict=False):
        assert one["train_loss"] == two["train_loss"]
    assert [row["val_loss"] for row in model.history] != [row["val_loss"] for row in other.history]


def test_lbfgs_without_validation_is_scikit_learns_default(make):
    """C = 1, one solution."""
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
    """Maps are flattened; one sigmoid serves as well as a softmax."""
    pair = make("train", (12, 12), pool=Pool.NONE), make("val", (6, 6), pool=Pool.NONE, seed=1)
    result, model = lbfgs(pair, loss=loss)
    shares = classifiers.class_logits(logits(model, pair[1]).double()).softmax(1).numpy()
    assert result.val_loss == pytest.approx(log_loss(targets_of(pair[1]), shares), rel=1e-4, abs=1e-6)
    assert result.val_accuracy > 0.8


# ---------------------------------------------------------------- what does not belong together


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
        (lambda header: replace(header, backbone=None), "does not say its backbone", "train.npy does"),
    ],
)
def test_features_whose_headers_disagree_are_refused(make, change, ours, theirs):
    """Another backbone, layer, weights, or preprocessing: both files and both values are named, nothing is written."""
    pair = make("train"), make("val", (8, 8, 8), change=change)
    with pytest.raises(FormatError) as caught:
        train(pair)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ("train.npy", "val.npy", ours, theirs)), message
    assert not list(pair[0].parent.glob("head.*"))


def test_rows_of_other_classes_are_refused(make):
    """A class that validation has and training lacks; whatever the Headers say."""
    silent = lambda header: replace(header, classes=None)  # noqa: E731 - an argument
    for change in (silent, lambda header: header):
        pair = make("train", (16, 16), change=change), make("val", (8, 8, 8), change=change)
        with pytest.raises(
            CnnkitError, match=r"the class red is only in .*val\.npy; .*train\.npy has blue, green: add"
        ):
            train(pair)


def test_validation_may_lack_a_class(make, caplog):
    """As in the trainings on images: it is reported, and no measure becomes NaN."""
    pair = make("train", (16, 16, 16)), make("val", (8, 8))
    train(pair)
    assert any(message.endswith("val.npy; accuracy on this class is not measured") for message in caplog.messages)
    assert not any("no better than luck" in message for message in caplog.messages)


def test_rows_without_labels_are_refused(make):
    """The image is named, in whichever file it is."""
    labels = ["blue"] * 5 + [None] + ["red"] * 6
    blank = make("blank", (12,), labels=labels)
    whole = make("whole", (12,), labels=["blue"] * 6 + ["red"] * 6)
    for pair in ((blank, whole), (whole, blank)):
        with pytest.raises(CnnkitError, match=r"blank\.npy: blank-5\.png has no label; extract from class folders"):
            train(pair)


def test_one_class_is_nothing_to_learn(make):
    """It is named."""
    with pytest.raises(CnnkitError, match=r"train\.npy: only one class, blue"):
        train((make("train", (8,)), None))


def test_no_rows_are_nothing_to_learn_from(make):
    """Rather than a division by zero."""
    empty = make("empty", (0, 0), values=lambda seen: seen[:0])
    with pytest.raises(CnnkitError, match=r"empty\.npy: no rows"):
        train((empty, None))
    with pytest.raises(CnnkitError, match=r"empty\.npy: no rows|empty\.npy has"):
        train((make("train"), make("empty", (0, 0), values=lambda seen: seen[:0])))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(make, value):
    """Row and image are named, before anything is trained."""

    def spoil(seen):
        seen[7, 3] = value
        return seen

    with pytest.raises(CnnkitError, match=r"val\.npy: row 7 \(val-7\.png\) holds values that are no numbers"):
        train((make("train"), make("val", (8, 8, 8), values=spoil)))


def test_features_of_half_precision_train_as_well(make):
    """float16 on disk is float32 in training."""
    pair = make("train", dtype="float16"), make("val", (8, 8, 8), seed=1, dtype="float16")
    result, _ = train(pair, epochs=12)
    assert result.val_accuracy > 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": Loss.BINARY}, "--loss binary decides between two classes, here are 3"),
        ({"solver": Solver.LBFGS, "lr": None, "head": "dense 4 relu"}, "--solver lbfgs trains one dense layer"),
        ({"solver": Solver.LBFGS, "lr": None, "l1": 0.1}, "--solver lbfgs has no --l1"),
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
        ({"weight_decay": 0.1}, "--weight-decay goes with adamw; adam has none"),
        ({"clip": 0.0}, "--clip 0 would leave nothing"),
        ({"batch": 1, "head": "dense 4 bn relu"}, "--batch 1: batch norm cannot train on one row"),
        ({"pca": 11}, "--pca 11: 48 rows of 10 features have 10 components at most"),
        ({"head": "dense 4 relu, dense 3 softmax"}, 'ends in "dense 3 softmax"; leave that layer out'),
        ({"head": "dense 4, softmax"}, 'ends in "softmax"; leave that layer out'),
        ({"head": "conv 3 k3"}, "conv"),
    ],
)
def test_settings_that_contradict_each_other_are_usage_errors(pair, settings, message):
    """One line that says what to change; an earlier history is not touched."""
    kept = pair[0].with_name("head.csv")
    train(pair)
    before = kept.read_bytes()
    with pytest.raises(UsageError) as caught:
        train(pair, **settings)
    assert message in str(caught.value)
    assert kept.read_bytes() == before


def test_a_word_that_is_no_layer_is_pointed_at(pair):
    """And the nearest one is proposed."""
    with pytest.raises(NotationError, match='"dropuot" is no layer; did you mean "dropout"'):
        train(pair, head="dense 4 relu, dropuot 0.5")


def test_a_sigmoid_or_softmax_inside_a_head_stays_there(pair):
    """Only the last layer is ours; what the user put before it is not lost."""
    _, model = train(pair, head="dense 4, sigmoid")
    assert model.header.head == "dense 4, sigmoid, dense 3 softmax"
    network = classifiers.from_header(model.header, model.state, name="model")
    assert [type(part).__name__ for part in network.head] == ["Linear", "Sigmoid", "Linear"]


def test_without_validation_there_is_nothing_to_wait_for(make):
    """--patience would be ignored: it is refused."""
    with pytest.raises(UsageError, match="--patience waits for a better epoch by --val"):
        train((make("train"), None), patience=3)


def test_a_table_of_something_else_is_not_overwritten_by_the_history(pair):
    """`-o split.pt` beside somebody's split.csv."""
    other = pair[0].with_name("head.csv")
    other.write_text("name,price\nrope,3\n")
    with pytest.raises(UsageError, match=r"head\.csv: the history belongs there, but that file is none"):
        train(pair)
    assert other.read_text() == "name,price\nrope,3\n"
    assert not pair[0].with_name("head.pt").exists()


def test_a_loss_that_is_no_number_writes_no_model(pair):
    """The history up to there stays, the model before is untouched."""
    train(pair)
    before = pair[0].with_name("head.pt").read_bytes()
    with pytest.raises(
        CnnkitError,
        match=r"(the loss is (nan|inf) in|answers with no numbers any more after the last step of) epoch \d.* at a learning rate of 1e\+38",
    ):
        train(pair, lr=1e38, optimizer=Optimizer.SGD)
    assert pair[0].with_name("head.pt").read_bytes() == before


# ---------------------------------------------------------------- the backbone's weights


def weights_file(pair):
    """The state_dict of the backbone, where extraction kept it."""
    digest = features.load(pair[0]).header.backbone.weights_sha256
    return digest, cache.folder("weights") / f"{digest}.pth"


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache that can be emptied, and torch's downloads beside it."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path


def test_the_backbones_weights_are_found_where_torch_keeps_its_downloads(own_cache, pair):
    """By the first digits of the hash in the name, and then by the whole hash of the content."""
    digest, kept = weights_file(pair)
    expected = train(pair)[1].state
    downloads = own_cache / "torch" / "hub" / "checkpoints"
    shutil.move(kept, downloads / f"somenet-{digest[:8]}.pth")
    found = train(pair, name="again.pt")[1].state
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    (downloads / f"somenet-{digest[:8]}.pth").write_bytes(b"something else under that name")
    with pytest.raises(CnnkitError, match="are in no cache; give them with --weights FILE"):
        train(pair)


def test_weights_that_are_in_no_cache_are_asked_for(own_cache, pair):
    """One line with the backbone, the file of features and the hash; --weights FILE helps, the wrong file is refused by its hash."""
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


def test_features_without_a_backbone_are_refused(make):
    """There is no network to write."""
    with pytest.raises(FormatError, match=r"train\.npy: its header names no base"):
        train((make("train", change=lambda header: replace(header, backbone=None)), None))


# ---------------------------------------------------------------- what is said


def said(caplog, level=logging.WARNING):
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


@pytest.mark.parametrize("counts", [(24, 24, 24), (50, 10, 12)])
def test_features_without_signal_are_warned_of(make, caplog, counts):
    """Labels that have nothing to do with the images, evenly spread or not: one warning that points at the preprocessing."""
    generator = np.random.default_rng(5)

    def mixed(each):
        return [str(label) for label in generator.permutation(np.repeat(CLASSES, each))]

    half = tuple(count // 2 for count in counts)
    pair = make("train", counts, labels=mixed(counts)), make("val", half, seed=1, labels=mixed(half))
    lbfgs(pair, standardize=True)
    (message,) = said(caplog)
    assert "the features carry no signal" in message
    assert "preprocessing" in message


@pytest.mark.parametrize("counts", [(8, 8, 8), (97, 3)])
def test_features_with_signal_are_not(make, caplog, counts):
    """Not even where one class is so frequent that the majority is nearly always right."""
    pair = make("train", counts), make("val", counts, seed=1)
    result, _ = lbfgs(pair, standardize=True)
    assert result.val_accuracy > 0.9
    assert said(caplog) == []


def test_a_head_that_learned_nothing_from_good_features_is_another_warning(pair, caplog):
    """The nearest centroid shows that the signal is there: it is the training that has to change."""
    result, _ = train(pair, lr=0.0, init=Initializer.ZEROS)
    (message,) = said(caplog)
    assert "the head has learnt nothing" in message
    assert f"{result.nearest_centroid:.3f}" in message
    assert "signal" not in message


def test_missing_validation_is_reported(make, caplog):
    """That nothing says how good the last epoch is."""
    result, model = train((make("train"), None), epochs=3)
    assert said(caplog) == ["no --val: the last epoch is kept, and nothing says how good it is"]
    assert (result.best_epoch, result.val_rows) == (3, 0)
    assert {result.val_accuracy, result.val_loss, result.majority, result.nearest_centroid} == {None}
    assert model.history[-1]["val_loss"] is None


def test_images_that_are_in_both_files_are_counted(pair, caplog, tmp_path):
    """By their place on disk, also where the two files lie in different folders."""
    caplog.set_level(logging.INFO, "cnnkit")
    (tmp_path / "away").mkdir()
    for suffix in (".npy", ".tsv", ".json"):
        shutil.copy(pair[0].with_suffix(suffix), tmp_path / "away" / f"copy{suffix}")
    listed = tmp_path / "away" / "copy.tsv"
    listed.write_text(listed.read_text().replace("train-", f"..{os.sep}train-"))
    train((pair[0], tmp_path / "away" / "copy.npy"))
    assert any(
        message.startswith("48 validation images are also in the training set")
        for message in said(caplog, logging.INFO)
    )
    caplog.clear()
    train(pair)
    assert not any("also in the training set" in message for message in said(caplog, logging.INFO))


# ---------------------------------------------------------------- a split held out


def test_a_held_out_split_is_as_two_files(make, tmp_path):
    """The rows of the split are for validation, the others for training: to the bit what two files of them give; test is in neither."""
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


def test_several_splits_that_validate_are_named(make, tmp_path, caplog):
    """Rows of val and of dev validate together, as folders and manifests of them do."""
    caplog.set_level(logging.INFO, "cnnkit")
    result = trained(make("all", splits=("train", "val", "dev")), tmp_path / "head.pt", epochs=1)
    assert (result.train_rows, result.val_rows) == (16, 32)
    assert any("all.npy: dev and val are both read as validation splits" in line for line in caplog.messages)


def test_views_of_what_is_held_out_are_in_neither(make, tmp_path):
    """They would measure something else, and give the labels away; views of the others are trained on."""
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
def test_a_split_that_cannot_be_held_out_is_one_line(make, splits, split, message, tmp_path):
    """Unknown, unsaid, or without every class."""
    whole = make("all", splits=splits)
    with pytest.raises(CnnkitError, match=message):
        trained(whole, tmp_path / "head.pt", hold_out=split)


@pytest.mark.parametrize("solver", Solver)
def test_progress_begins_before_the_first_epoch(pair, tmp_path, solver):
    """A solver's first fit may take minutes on thousands of features: the bar is there before it is done."""
    calls = []
    config = HeadConfig(solver=solver, l2=0.01).checked(has_val=True)
    data = feature_sets.load(pair[0], val=pair[1], hold_out=None, loss=config.loss)
    noting = Callbacks(progress=lambda done, total: calls.append((done, total)))
    train_head(data, tmp_path / "head.pt", train=config, device="cpu", callbacks=noting)
    assert calls[0] == (0, calls[-1][1])
    assert calls[-1][0] <= calls[-1][1]


def test_a_head_that_is_right_on_few_rows_is_not_called_luck(make, caplog):
    """Of four rows, all may be right by luck: they show nothing, neither a signal nor that there is none."""
    train((make("train", (16, 16)), make("val", (2, 2))))
    assert not [message for message in caplog.messages if "luck" in message or "nothing that helps" in message]
