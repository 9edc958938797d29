"""Logistic regressions on growing subsets of the training images, measured on the same validation images.

Subsets of one order are nested, stratified by class, and keep groups and the augmented views of an image together.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cnnkit.callbacks import Progress, ignore_progress
from cnnkit.choices import Loss
from cnnkit.engine import torch_device
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats.features import Features
from cnnkit.train import head, preparation
from cnnkit.train.feature_sets import FeatureSets
from cnnkit.train.head import Rows
from cnnkit.train.logistic import solve_logistic
from cnnkit.train.optim import Criterion, predicted_classes

#: The inverse strength of the penalty on the weights of standardized features, times their number: that of cnn-check --labels.
STRENGTH = 3.0

# The smallest share of the training images, and the factor from one share to the next
_SMALLEST, _FACTOR = 1 / 16, 2**0.5


@dataclass(frozen=True, slots=True)
class MeasuredSet:
    """The heads of some subsets with (about) the same number of training images; `correct` is (subsets, validation images)."""

    images: int
    correct: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Unit:
    """Rows that are in a subset together: an image with its views, or a group of images."""

    rows: tuple[int, ...]
    images: int
    label: str


def measure(
    data: FeatureSets, *, repeats: int, seed: int = 0, progress: Progress = ignore_progress
) -> list[MeasuredSet]:
    """Train heads on growing shares of the training images, and predict the validation images with each.

    The heads are those of cnn-train-head --solver lbfgs --standardize with a fixed penalty: nothing is selected on the validation set.

    Args:
        data: Features of the training and validation set, vectors.
        repeats: Subsets for each share, of different orders of the images; there is one of all images.
        seed: Of the orders.
        progress: Called after each head.

    Returns:
        In ascending order of the numbers of images; the last is of all images.

    Raises:
        UsageError: The features are maps, or of images with several labels, or there is no validation set.
        CnnkitError: There are too few images for subsets, or a value is not finite.
    """
    if data.val is None:
        raise UsageError("--learning-curve needs a validation set; give --val VAL.npy")
    if data.multi_label:
        raise UsageError(
            f"{data.train_name} has several labels per image, and --learning-curve measures the accuracy of one label; "
            "train heads with cnn-train-head, and compare their mAP by cnn-eval"
        )
    if data.train.values.ndim != 2:
        raise UsageError("--learning-curve needs vectors, and these features are maps; extract with --pool avg or max")
    device = torch.device("cpu")
    train = head.load_rows(data.train, data.classes, device, name=data.train_name)
    val = head.load_rows(data.val, data.classes, device, name=data.val_name or "")
    units = _units(data.train)
    sizes = _sizes(sum(unit.images for unit in units), classes=len(data.classes))
    if len(sizes) < 2:
        raise CnnkitError(
            f"{data.train_name}: {sizes[-1]} images of {len(data.classes)} classes are too few for a learning curve"
        )
    generator = np.random.default_rng(seed)
    orders = [_ordered(units, generator) for _ in range(repeats)]
    total, done = (len(sizes) - 1) * repeats + 1, 0
    found = []
    for size in sizes:
        correct, images = [], []
        for order in orders if size < sizes[-1] else orders[:1]:
            rows, count = _first(order, size)
            correct.append(correct_after(train, val, rows, classes=len(data.classes)))
            images.append(count)
            done += 1
            progress(done, total)
        found.append(MeasuredSet(round(float(np.mean(images))), np.stack(correct)))
    return _distinct(found)


def correct_after(train: Rows, val: Rows, rows: Sequence[int], *, classes: int) -> NDArray[np.bool_]:
    """Train a head on some rows, and return which validation rows it predicts correctly, (V,)."""
    chosen = torch.tensor(sorted(rows))
    values, targets = train.values[chosen], train.targets[chosen]
    prepared = preparation.fit(values, standardize=True)
    values = preparation.applied(prepared, values)
    loss = Loss.BINARY if classes == 2 else Loss.CATEGORICAL
    width = values.shape[1]
    layer = torch.nn.Linear(width, 1 if classes == 2 else classes)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    # In terms of scikit-learn, C = STRENGTH / width
    l2 = width / (2 * STRENGTH * len(values))
    with torch_device.threads(1):  # the order of sums would change the last digits
        solve_logistic(layer, values, targets, l2=l2, criterion=Criterion(loss))
        with torch.inference_mode():
            predicted = predicted_classes(layer(preparation.applied(prepared, val.values)))
    correct: NDArray[np.bool_] = (predicted == val.targets).numpy()
    return correct


def _units(found: Features) -> list[_Unit]:
    """Divide rows into units: those of one group, or of one image."""
    together: defaultdict[tuple[bool, str], list[int]] = defaultdict(list)
    for place, row in enumerate(found.rows):
        together[bool(row.group), row.group or row.path].append(place)
    units = []
    for rows in together.values():
        labels = Counter(found.rows[row].label or "" for row in rows)
        images = len({found.rows[row].path for row in rows})
        units.append(_Unit(tuple(rows), images, max(sorted(labels), key=labels.__getitem__)))
    return units


def _ordered(units: Sequence[_Unit], generator: np.random.Generator) -> list[_Unit]:
    """Order units at random so that every beginning has about the same share of each class, and at least one unit of each."""
    of_class: defaultdict[str, list[int]] = defaultdict(list)
    for place in generator.permutation(len(units)).tolist():
        of_class[units[place].label].append(place)
    keys = {
        place: number / len(places) for places in of_class.values() for number, place in enumerate(places)
    }  # the k-th of n units of a class stands at k / n
    ties = generator.permutation(len(units))
    return [units[place] for place in sorted(keys, key=lambda place: (keys[place], ties[place]))]


def _first(order: Sequence[_Unit], images: int) -> tuple[list[int], int]:
    """Return the rows of the first units that have at least `images` images, and their number of images."""
    rows: list[int] = []
    count = 0
    for unit in order:
        if count >= images:
            break
        rows.extend(unit.rows)
        count += unit.images
    return rows, count


def _sizes(images: int, *, classes: int) -> list[int]:
    """List the numbers of images of the subsets, ascending: at least two for each class on average."""
    sizes, size = [images], float(images)
    while (size := size / _FACTOR) >= max(2 * classes, images * _SMALLEST - 0.5):
        sizes.append(round(size))
    return sizes[::-1]


def _distinct(found: Sequence[MeasuredSet]) -> list[MeasuredSet]:
    """Drop sets that are not larger than the one before, as may be if groups are large; the last one stays."""
    kept = [found[-1]]
    for each in reversed(found[:-1]):
        if each.images < kept[-1].images:
            kept.append(each)
    return kept[::-1]
