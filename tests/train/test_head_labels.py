"""Heads for several labels per image, against scikit-learn's one-vs-rest logistic regression and torch's binary cross-entropy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from cnnkit.choices import ClassWeights, Loss, Pool, Sample, Solver
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import features, torch_model
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.manifest import ManifestRow
from cnnkit.nets import backbones, classifier
from cnnkit.train import feature_sets, several_labels
from cnnkit.train.config import HeadConfig
from cnnkit.train.head import train_head
from cnnkit.train.optim import Criterion, balanced_weights

CLASSES = ("dog", "indoor", "night", "snow")


@pytest.fixture
def make(tmp_path):
    """Write features of images with several labels as cnn-extract does: `make("train", 60)` returns the path."""
    network, backbone, preprocess = backbones.by_notation("conv 8 k3 s2 relu", size=9, pool=Pool.AVG, seed=3)
    del network
    directions = np.random.default_rng(7).normal(size=(len(CLASSES), 8))

    def write(name, count, *, seed=0, labels=None):
        generator = np.random.default_rng(seed)
        present = generator.random((count, len(CLASSES))) < [0.5, 0.3, 0.2, 0.4]
        values = (present @ directions + generator.normal(scale=1.0, size=(count, 8))).astype(np.float32)
        rows = [
            ManifestRow(f"{name}{number}.png", labels=tuple(np.array(CLASSES)[row]))
            if labels is None
            else ManifestRow(f"{name}{number}.png", label=labels[number % len(labels)])
            for number, row in enumerate(present)
        ]
        header = Header(ArtefactKind.FEATURES, None, preprocess, backbone)
        columns = features.columns_of(views=False, several_labels=labels is None)
        path = tmp_path / f"{name}.npy"
        with features.FeatureWriter(path, shape=(8,), dtype="float32", header=header, columns=columns) as writer:
            writer.write(values, rows)
        return path

    return write


@pytest.fixture
def pair(make):
    return make("train", 120), make("val", 60, seed=1)


def train(pair, **settings):
    path, val = pair
    config = HeadConfig(**settings).checked(has_val=val is not None)
    data = feature_sets.load(path, val=val, hold_out=None, loss=config.loss)
    output = path.with_name("head.pt")
    return train_head(data, output, train=config, device="cpu"), torch_model.load(output)


def probabilities(model, path):
    network = classifier.from_header(model.header, model.state, name="model")
    with torch.no_grad():
        return network.head(torch.from_numpy(np.array(features.load(path).values))).sigmoid().numpy()


def arrays(path):
    found = features.load(path)
    return np.array(found.values, dtype=np.float64), found.label_matrix(CLASSES)[1]


# ---------------------------------------------------------------- solvers


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
def test_lbfgs_is_scikit_learns_one_vs_rest_logistic_regression(pair, balanced, c):
    """Each class is one logistic regression: l2 = 1 / (2 C N classes), and the same probabilities on other rows."""
    values, targets = arrays(pair[0])
    weights = ClassWeights.BALANCED if balanced else ClassWeights.NONE
    _, model = train(pair, solver=Solver.LBFGS, l2=0.5 / (c * targets.size), class_weights=weights)
    one = LogisticRegression(C=c, class_weight="balanced" if balanced else None, tol=1e-10, max_iter=10_000)
    reference = OneVsRestClassifier(one).fit(values, targets)
    np.testing.assert_allclose(probabilities(model, pair[1]), reference.predict_proba(arrays(pair[1])[0]), atol=1e-4)
    assert model.header.head == "dense 4 sigmoid"
    assert model.header.multi_label


def test_without_a_validation_set_lbfgs_has_scikit_learns_default_strength(make):
    path = make("train", 80)
    values, targets = arrays(path)
    _, model = train((path, None), solver=Solver.LBFGS)
    reference = OneVsRestClassifier(LogisticRegression(tol=1e-10, max_iter=10_000)).fit(values, targets)
    np.testing.assert_allclose(probabilities(model, path), reference.predict_proba(values), atol=1e-4)
    assert model.header.thresholds == (0.5,) * 4


def test_loss_is_torchs_binary_cross_entropy_averaged_over_classes():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    targets = (torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    assert Criterion(Loss.BINARY)(logits, targets) == pytest.approx(float(nn.BCEWithLogitsLoss()(logits, targets)))
    smoothed = nn.BCEWithLogitsLoss()(logits, targets * 0.9 + 0.05)
    assert Criterion(Loss.BINARY, 0.1)(logits, targets) == pytest.approx(float(smoothed))


def test_balanced_weights_are_scikit_learns_of_each_class():
    """With them, the loss is that of torch with pos_weight = negatives / positives, up to the factor of each class."""
    targets = torch.tensor([[1, 0], [0, 0], [0, 1], [0, 1], [0, 1]]).float()
    weights = balanced_weights(targets, 2)
    expected = [
        compute_class_weight("balanced", classes=np.array([0, 1]), y=column) for column in targets.T.int().numpy()
    ]
    np.testing.assert_allclose(weights.T, expected, rtol=1e-6)
    logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    whole = Criterion(Loss.BINARY, class_weights=weights)(logits, targets)
    without, present = weights
    single = nn.BCEWithLogitsLoss(weight=without, pos_weight=present / without)(logits, targets)
    assert float(whole) == pytest.approx(float(single))


def test_measures_are_those_of_the_written_model(pair):
    """Accuracy is the share of images all of whose labels are right at 0.5, as in scikit-learn; loss is the mean over the classes."""
    result, model = train(pair, epochs=5, lr=0.05)
    _, targets = arrays(pair[1])
    found = probabilities(model, pair[1])
    assert result.val_accuracy == pytest.approx(accuracy_score(targets, found >= 0.5))
    losses = [log_loss(targets[:, each], found[:, each].astype(np.float64)) for each in range(4)]
    assert result.val_loss == pytest.approx(np.mean(losses), abs=1e-5)
    assert model.header.training["loss"] == "binary"


def test_standardize_pca_and_whitening_become_part_of_the_head(pair):
    result, model = train(pair, solver=Solver.LBFGS, standardize=True, pca=5, whiten=True)
    assert result.val_accuracy == pytest.approx(
        accuracy_score(arrays(pair[1])[1], probabilities(model, pair[1]) >= 0.5)
    )


# ---------------------------------------------------------------- thresholds and baselines


def test_thresholds_have_the_largest_f1_score_on_the_validation_set(pair):
    """No other cut between the probabilities of the validation set is better, for any class."""
    _, model = train(pair, solver=Solver.LBFGS)
    _, targets = arrays(pair[1])
    for column, present, chosen in zip(
        probabilities(model, pair[1]).T, targets.T, model.header.thresholds, strict=True
    ):
        cuts = np.append(np.unique(column), np.float32(chosen))
        hits = ((column >= cuts[:, None]) & (present == 1)).sum(1)
        scores = 2 * hits / ((column >= cuts[:, None]).sum(1) + present.sum())
        assert scores[-1] == scores.max() == pytest.approx(f1_score(present, column >= np.float32(chosen)))


def test_baselines(make):
    """The most frequent set of labels; and every label whose images have the nearer mean."""
    train_targets = torch.tensor([[1, 0], [1, 0], [0, 1], [1, 1], [0, 0]]).float()
    assert several_labels.majority(train_targets, torch.tensor([[1, 0], [0, 0]]).float()) == 0.5
    values = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 1], [0, 0]])
    labels, _ = several_labels.nearest_centroids(values, train_targets, torch.tensor([[0.9, 0.1], [0.1, 0.8]]))
    assert labels.int().tolist() == [[1, 0], [0, 1]]
    constant = torch.tensor([[1, 0, 1], [1, 0, 0]]).float()  # a label of all images, and one of none
    labels, _ = several_labels.nearest_centroids(values[:2], constant, torch.tensor([[9.0, 9], [-9, 9]]))
    assert labels[:, :2].int().tolist() == [[1, 0], [1, 0]]


def test_chance_is_two_standard_errors_of_the_mean_area():
    """The area is scikit-learn's, also with equal scores; a class of no image, or of all, does not count."""
    generator = np.random.default_rng(0)
    found = []
    for trial in range(16):
        known = generator.integers(0, 2, (30, 4))
        known[:, 2:] = 0, 1
        scores = generator.integers(0, 6, (30, 4)) + trial // 8 * known
        areas = [roc_auc_score(known[:, each], scores[:, each]) for each in range(2)]
        counts = known[:, :2].sum(0)
        limit = np.sqrt((31 / (12 * counts * (30 - counts))).sum()) / 2
        found.append(np.mean(areas) - 0.5 > 2 * limit)
        assert several_labels.above_chance(torch.tensor(scores), torch.tensor(known)) is bool(found[-1])
    assert 0 < sum(found) < 16
    nothing = torch.zeros(30, 2)
    assert several_labels.above_chance(torch.rand(30, 2, generator=torch.Generator().manual_seed(0)), nothing)


def test_classes_without_validation_images_keep_one_half(caplog):
    caplog.set_level("INFO")
    given = torch.tensor([[0.9, 0.2, 0.1], [0.8, 0.3, 0.7]])
    known = torch.tensor([[0, 0, 0], [1, 0, 0]])
    assert several_labels.thresholds(given, known, ["a", "b", "c"])[1:] == (0.5, 0.5)
    assert "no validation image has b, c: their thresholds are 0.5" in caplog.text
    several_labels.thresholds(given[:, :2], known[:, :2], ["a", "b"])
    assert "no validation image has b: its threshold is 0.5" in caplog.text


def test_warns_of_features_without_signal(pair, caplog):
    path, val = pair
    np.save(path, np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32))
    train((path, val), solver=Solver.LBFGS)
    assert "no better than chance: the features carry no signal" in caplog.text
    caplog.clear()
    train((val, None), solver=Solver.LBFGS)
    assert "chance" not in caplog.text


# ---------------------------------------------------------------- refusals


def test_refuses_what_is_for_one_label_per_image(pair):
    with pytest.raises(UsageError, match=r"--sample balanced .* use --class-weights balanced"):
        train(pair, sample=Sample.BALANCED)
    given = frozenset({"loss"})
    with pytest.raises(UsageError, match="--loss categorical is for one label per image"):
        train(pair, loss=Loss.CATEGORICAL, on_command_line=given)
    train(pair, loss=Loss.BINARY, on_command_line=given, epochs=1)


def test_refuses_a_validation_set_with_one_label_per_image(make):
    with pytest.raises(CnnkitError, match=r"train\.npy has several labels per image, .*val\.npy has one"):
        train((make("train", 20), make("val", 8, seed=1, labels=["dog", "snow"])))


def test_refuses_a_header_with_thresholds_of_other_classes(pair):
    _, model = train(pair, epochs=1)
    assert Header.from_json(model.header.to_json(), name="x.pt") == model.header
    broken = replace(model.header, thresholds=(0.5, 0.5)).to_json()
    with pytest.raises(FormatError, match="2 thresholds for 4 classes"):
        Header.from_json(broken, name="x.pt")
    one = model.header.but(multi_label=False, thresholds=None).to_json()
    assert "multi_label" not in one
    assert "thresholds" not in one
