"""What things beside the picture are worth to a head: the same training with them, without them, and on them alone.

The experiment that exposed the fisheries competition: there the size of a picture told the boat, and the boat the fish.
"""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cnnkit.audit.side_information import Columns, Encoding
from cnnkit.data.reader import Progress, no_progress
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
    """How a head did on some inputs; `gain` is its accuracy less that on the features alone, on the same pictures.

    The intervals are of 95 %; `p_value` is that of McNemar's exact test.
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
    train: str | Path,
    *,
    val: str | Path | None = None,
    hold_out: str | None = None,
    columns: Columns,
    settings: HeadConfig,
    device: str = "auto",
    progress: Progress = no_progress,
) -> list[Ablation]:
    """Train the same head on features, on features with columns beside them, and on the columns alone; no model is written.

    Args:
        train: Features (`.npy`) to learn from.
        val: Features of the pictures that are compared on; they choose the best epoch, too, of each of the three alike.
        hold_out: In place of `val` a part of `train`.
        columns: What stands beside the pictures. Standardised by themselves: the settings prepare the features alone.
        settings: Of all three trainings.
        device: For the training.
        progress: Called after every epoch.

    Raises:
        UsageError: Nothing validates, the features are maps, or the settings contradict each other.
        CnnkitError: As `head.load`, and as `Columns.of`.
    """
    if val is None and hold_out is None:
        raise UsageError("--with compares on pictures that were not learnt from; give --val or --hold-out")
    settings = head.checked(settings, validated=True)
    asked_for = devices.parse(device)
    material = feature_sets.load(train, val=val, hold_out=hold_out, loss=settings.loss)
    assert material.validated is not None
    if material.learnt.values.ndim != 2:
        raise UsageError("--with needs vectors; extract with --pool avg, max or flatten")
    encoded = _encoded(material, columns, train=train, val=val or train)
    place = torch_device.choose(asked_for)
    learning = head.rows(material.learnt, material.classes, place, name=material.train)
    checking = head.rows(material.validated, material.classes, place, name=material.val or "")
    luck = _luck(learning, checking, material.classes)
    prepared = preparation.fit(
        learning.values, standardize=settings.standardize, pca=settings.pca, whiten=settings.whiten
    )
    seen = [preparation.applied(prepared, rows.values) for rows in (learning, checking)]
    beside = [torch.from_numpy(each).to(place) for each in encoded]  # (N, K)
    called = ", ".join(columns.names)
    inputs = {
        "features": seen,
        f"features, {called}": [torch.cat(pair, 1) for pair in zip(seen, beside, strict=True)],
        called: beside,
    }
    plain = dataclasses.replace(settings, standardize=False, pca=None, whiten=False)
    found: list[Ablation] = []
    without: NDArray[np.bool_] | None = None
    for number, (name, values) in enumerate(inputs.items()):
        learnt, asked = (Rows(each, rows.targets) for each, rows in zip(values, (learning, checking), strict=True))
        trained = HeadFit(plain, learnt, asked, classes=len(material.classes))
        for epoch in trained.run():
            progress(number * trained.expected + epoch.epoch, len(inputs) * trained.expected)
        correct = (trained.answered() == checking.targets).cpu().numpy()
        assert trained.best.epoch is not None
        assert trained.best.epoch.val_loss is not None
        found.append(_ablation(name, correct, trained.best.epoch.val_loss, than=without))
        without = correct if without is None else without
    alone = found[-1]
    if alone.val_accuracy_low > luck:
        log.warning(
            "%s alone: right for %.1f %% of these pictures, luck for %.1f %%; that is a leak, also where the features need no help",
            alone.inputs,
            100 * alone.val_accuracy,
            100 * luck,
        )
    return found


def _luck(learning: Rows, checking: Rows, classes: tuple[str, ...]) -> float:
    """Give the share of pictures for which the most frequent class is right, and say so."""
    most = int(torch.bincount(learning.targets).argmax())
    share = float((checking.targets == most).double().mean())
    log.info("always answering %s, the most frequent class, is right for %.3f of these pictures", classes[most], share)
    return share


def _encoded(
    material: FeatureSets, columns: Columns, *, train: str | Path, val: str | Path
) -> list[NDArray[np.float32]]:
    """Give the columns of both parts as numbers, (N, K) each."""
    assert material.validated is not None
    learnt = columns.of(feature_sets.paths(material.learnt, train))
    asked = columns.of(feature_sets.paths(material.validated, val))
    fitted = [Encoding.fit(name, *pair) for name, *pair in zip(columns.names, learnt, asked, strict=True)]
    return [
        np.hstack([encoding(values) for encoding, values in zip(fitted, part, strict=True)]) for part in (learnt, asked)
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
