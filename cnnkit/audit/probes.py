"""Leak probes: how well a property other than the content of an image predicts its class, or its split.

A decision tree is cross-validated on that property alone. The p-value is the share of shuffled labels on which trees do as well. A
property that predicts the class may leave traces in the pixels that a network learns in place of the content, and that other images lack.
"""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.class_weight import compute_sample_weight

from cnnkit import messages
from cnnkit.audit.record import Probe
from cnnkit.callbacks import Progress, ignore_progress
from cnnkit.data.reader import usable_cores

log = logging.getLogger("cnnkit")

#: Maximum rate of false alarms on sets without leaks, for the class and for the split each.
RATE = 0.05

#: A leak must be significant, and at least this share of the way from chance to certainty.
WELL_ABOVE = 0.1

_FOLDS = 5
#: Maximum number of images: the standard error of an accuracy is then about 0.01, and a probe takes seconds.
_AT_MOST = 2000
#: Maximum number of shufflings; with many probes there are more, or none of them could be significant. It ends early once `_ENOUGH` of
#: them did as well, which rules out significance. Probes that are not well above chance get `_FEWER`.
_SHUFFLINGS = 299
_FEWER = 99
_ENOUGH = 10
#: The normal quantile of 95 %.
_QUANTILE = 1.959963984540054


def probe(
    target: str,
    labels: Sequence[str],
    columns: Mapping[str, NDArray[np.floating]],
    *,
    seed: int = 0,
    progress: Progress = ignore_progress,
) -> list[Probe]:
    """Probe a target with every property.

    Args:
        target: The meaning of the labels: "class" or "split".
        labels: (N,), of images that do not belong together: copies would be recognized.
        columns: For each property (N, numbers), NaN where unknown. Properties that are the same for all images are left out.
        seed: For the folds, the shufflings and the sample of images.
        progress: Called after each probe.

    Returns:
        The best probe first. Empty unless two classes have an image for each fold.

    Source:
        p-values: Ojala and Garriga, Permutation tests for studying classifier performance, JMLR 11 (2010), test 1; stopped early as in
        Besag and Clifford, Sequential Monte Carlo p-values, Biometrika 78 (1991). Several probes: Holm, Scandinavian Journal of
        Statistics 6 (1979).
    """
    chosen, numbers = _chosen(target, labels, seed=seed)
    if len(set(numbers.tolist())) < 2:
        return []
    known = {name: _ranked(values[chosen]) for name, values in columns.items()}
    known = {name: values for name, values in known.items() if _varies(values)}
    most = max(_SHUFFLINGS, math.ceil(len(known) / RATE))
    with ThreadPoolExecutor(usable_cores()) as executor:  # trees grow outside of the interpreter's lock
        waiting = [
            executor.submit(_probe, target, name, values, numbers, most=most, seed=seed)
            for name, values in known.items()
        ]
        progress(0, len(known))
        for done, _ in enumerate(as_completed(waiting), start=1):
            progress(done, len(known))
        found = [each.result() for each in waiting]
    return sorted(judged(found), key=lambda each: (each.p_value, -each.accuracy, each.probe))


def _chosen(target: str, labels: Sequence[str], *, seed: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Sample images of every class that has enough of them: their positions, and their classes as numbers from 0."""
    counts = Counter(labels)
    names = sorted(label for label, count in counts.items() if count >= _FOLDS)
    _report_left_out(target, sorted(set(counts) - set(names)), probed=len(names))
    generator = np.random.default_rng(seed)
    share = min(1.0, _AT_MOST / max(1, sum(counts[name] for name in names)))
    positions, numbers = [], []
    for number, name in enumerate(names):
        members = np.flatnonzero(np.array([label == name for label in labels]))
        taken = generator.permutation(members)[: max(_FOLDS, round(share * len(members)))]
        positions += sorted(taken.tolist())
        numbers += [number] * len(taken)
    return np.array(positions, dtype=np.intp), np.array(numbers, dtype=np.int64)


def _report_left_out(target: str, few: Sequence[str], *, probed: int) -> None:
    reason = f"fewer than {_FOLDS} unrelated images in {messages.shortened(few, 5)}"
    if few and probed < 2:
        log.info("no leak probes of the %s: %s", target, reason)
    elif few:
        log.info("left out of the leak probes of the %s: %s", target, reason)


def _ranked(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Replace numbers by their ranks, which are equivalent for trees; float32 would round seconds since 1970."""
    ranks = np.full(values.shape, np.nan, dtype=np.float32)
    for column, into in zip(values.T, ranks.T, strict=True):
        there = ~np.isnan(column)
        into[there] = np.unique(column[there], return_inverse=True)[1]
    return ranks


def _varies(values: NDArray[np.float32]) -> bool:
    """Check whether a property has more than one value; NaN counts as a value."""
    return any(len(np.unique(column)) > 1 for column in values.T)


def _probe(
    target: str, name: str, values: NDArray[np.float32], numbers: NDArray[np.int64], *, most: int, seed: int
) -> Probe:
    trees = _Trees(numbers, seed=seed)
    recalls = trees.recalls(values)
    accuracy, low, high = _interval(recalls, np.bincount(numbers))
    found = Probe(target, name, len(numbers), accuracy, low, high, 1 / len(recalls), p_value=1.0, leaks=False)
    generator = np.random.default_rng([seed, *name.encode()])
    reached = tried = 0
    while tried < (most if _well_above(found) else _FEWER) and reached < _ENOUGH:
        tried += 1
        # Shuffling values is equivalent to shuffling labels, and keeps the folds
        reached += bool(trees.recalls(generator.permutation(values)).mean() >= accuracy - 1e-12)
    return replace(found, p_value=reached / tried if reached == _ENOUGH else (reached + 1) / (tried + 1))


def _well_above(found: Probe) -> bool:
    return found.accuracy_low >= found.chance + WELL_ABOVE * (1 - found.chance)


class _Trees:
    """Cross-validation of decision trees, repeated on other values for the same classes."""

    def __init__(self, numbers: NDArray[np.int64], *, seed: int) -> None:
        self._numbers, self._counts = numbers, np.bincount(numbers)
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
        self._folds = list(folds.split(numbers, numbers))
        self._weights = [compute_sample_weight("balanced", numbers[known]) for known, _ in self._folds]
        self._classes = [numbers[known] for known, _ in self._folds]

    def recalls(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Compute the recall of each class, (classes,), every image predicted by a tree that was not trained on it."""
        hits = np.zeros(len(self._counts))
        # Checking arguments takes as long as a tree of one property, but `fit` learns there that values are missing
        check = bool(np.isnan(values).any())
        with sklearn.config_context(skip_parameter_validation=True):
            for (known, held_out), weights, classes in zip(self._folds, self._weights, self._classes, strict=True):
                tree = DecisionTreeClassifier(
                    max_leaf_nodes=max(16, 2 * len(self._counts)), min_samples_leaf=5, random_state=0
                ).fit(values[known], classes, sample_weight=weights, check_input=check)
                truth = self._numbers[held_out]
                found = tree.predict(values[held_out], check_input=False)
                hits += np.bincount(truth[found == truth], minlength=len(hits))
        return hits / self._counts


def _interval(recalls: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[float, float, float]:
    """Compute the mean of recalls with its 95 % interval.

    The variance of each recall is that of Agresti and Coull's estimate, with two more successes and two more failures: an observed
    recall of 1 is not certain.
    """
    estimates = (recalls * counts + 2) / (counts + 4)
    variance = (estimates * (1 - estimates) / (counts + 4)).sum() / len(counts) ** 2
    accuracy, spread = float(recalls.mean()), _QUANTILE * float(np.sqrt(variance))
    return accuracy, max(0.0, accuracy - spread), min(1.0, accuracy + spread)


def judged(found: Sequence[Probe]) -> list[Probe]:
    """Mark the probes that are significant after Holm's correction and well above chance."""
    judged, significant = [], True
    for place, each in enumerate(sorted(found, key=lambda one: one.p_value)):
        significant = significant and each.p_value <= RATE / (len(found) - place)
        judged.append(replace(each, leaks=significant and _well_above(each)))
    return judged
