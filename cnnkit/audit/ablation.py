"""Ablation of side information: train the same head with it, without it, and on it alone.

This experiment exposed the leak of the Kaggle fisheries competition: the size of an image identified the boat, and the boat the fish.
"""

import dataclasses
import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cnnkit.callbacks import Callbacks
from cnnkit.data import image_columns
from cnnkit.data.image_columns import Columns
from cnnkit.engine import device as devices
from cnnkit.engine import torch_device
from cnnkit.errors import UsageError
from cnnkit.evaluation.comparison import paired
from cnnkit.evaluation.metrics import wilson_interval
from cnnkit.train import feature_sets, head, preparation
from cnnkit.train.config import HeadConfig
from cnnkit.train.feature_sets import FeatureSets
from cnnkit.train.head import HeadFit, Rows

log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True)
class Ablation:
    """Results of a head on some inputs; `gain` is its accuracy minus that on the features alone, on the same images.

    Intervals are 95 % intervals; `p_value` is that of McNemar's exact test.
    """

    inputs: str
    val_rows: int
    val_accuracy: float
    val_accuracy_low: float
    val_accuracy_high: float
    val_loss: float
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    p_value: float | None = None


def measure(
    data: FeatureSets,
    columns: Columns,
    *,
    train: HeadConfig,
    device: str = "auto",
    callbacks: Callbacks | None = None,
) -> list[Ablation]:
    """Train the same head on features, on features with columns, and on the columns alone; no model is written.

    Args:
        data: Features of the training set, and of the validation set, which selects the best epoch of each of the three trainings and on
            which they are compared.
        columns: Side information on the images. It is standardized separately: `train` prepares only the features.
        train: Settings of all three trainings; checked.
        device: For the training.
        callbacks: Progress, by epochs.

    Raises:
        UsageError: There is no validation set, or the features are maps.
        CnnkitError: As `Columns.of`.
    """
    callbacks = callbacks or Callbacks()
    if data.val is None:
        raise UsageError("--with needs a validation set; give --val or --hold-out")
    if data.multi_label:
        raise UsageError(
            "--with compares the accuracy of one label per image, and these have several; drop it, and compare models of --use by cnn-eval"
        )
    if data.train.values.ndim != 2:
        raise UsageError("--with needs vectors, and these features are maps; extract with --pool avg, max or flatten")
    encoded = _encoded(data, columns)
    chosen = torch_device.choose(devices.parse(device))
    train_rows = head.load_rows(data.train, data.classes, chosen, name=data.train_name)
    val_rows = head.load_rows(data.val, data.classes, chosen, name=data.val_name or "")
    both = (train_rows, val_rows)
    chance = _chance(train_rows, val_rows, data.classes)
    prepared = preparation.fit(train_rows.values, standardize=train.standardize, pca=train.pca, whiten=train.whiten)
    features = [preparation.applied(prepared, rows.values) for rows in both]
    side = [torch.from_numpy(each).to(chosen) for each in encoded]  # (N, K)
    called = ", ".join(columns.names)
    inputs = {
        "features": features,
        f"features, {called}": [torch.cat(pair, 1) for pair in zip(features, side, strict=True)],
        called: side,
    }
    plain = dataclasses.replace(train, standardize=False, pca=None, whiten=False)
    found: list[Ablation] = []
    without: NDArray[np.bool_] | None = None
    for number, (name, values) in enumerate(inputs.items()):
        trained_on, compared_on = (Rows(each, rows.targets) for each, rows in zip(values, both, strict=True))
        trained = HeadFit(plain, trained_on, compared_on, classes=len(data.classes))
        for epoch in trained.run():
            callbacks.progress(number * trained.expected + epoch.epoch, len(inputs) * trained.expected)
        correct = (trained.predicted() == val_rows.targets).cpu().numpy()
        assert trained.best.epoch is not None
        assert trained.best.epoch.val_loss is not None
        found.append(_ablation(name, correct, trained.best.epoch.val_loss, than=without))
        without = correct if without is None else without
    alone = found[-1]
    if alone.val_accuracy_low > chance:
        log.warning(
            "%s alone predicts %.1f %% of these images correctly, chance %.1f %%: a leak, even if it adds nothing to the features",
            alone.inputs,
            100 * alone.val_accuracy,
            100 * chance,
        )
    return found


def _chance(train: Rows, val: Rows, classes: tuple[str, ...]) -> float:
    """Return and report the accuracy of always predicting the most frequent class."""
    most = int(torch.bincount(train.targets).argmax())
    share = float((val.targets == most).double().mean())
    log.info("always predicting %s, the most frequent class, has accuracy %.3f on these images", classes[most], share)
    return share


def _encoded(data: FeatureSets, columns: Columns) -> list[NDArray[np.float32]]:
    """Encode the columns of both sets as numbers, (N, K) each."""
    assert data.val is not None
    assert data.val_path is not None
    train = columns.of(feature_sets.paths(data.train, data.train_path))
    val = columns.of(feature_sets.paths(data.val, data.val_path))
    fitted = [
        image_columns.fit(name, fitted_on, others=others)
        for name, fitted_on, others in zip(columns.names, train, val, strict=True)
    ]
    return [
        np.hstack([image_columns.encoded(*pair) for pair in zip(fitted, split, strict=True)]) for split in (train, val)
    ]


def _ablation(name: str, correct: NDArray[np.bool_], loss: float, *, than: NDArray[np.bool_] | None) -> Ablation:
    low, high = wilson_interval(int(correct.sum()), len(correct))
    measured = Ablation(name, len(correct), float(correct.mean()), low, high, loss)
    if than is None:
        return measured
    gained = paired(than, correct)
    return dataclasses.replace(
        measured,
        gain=gained.difference,
        gain_low=gained.difference_low,
        gain_high=gained.difference_high,
        p_value=gained.p_value,
    )
