"""Leak probes: how well something that is not an image's content tells the class, or the split, that it is in.

A decision tree is cross-validated on one such thing alone. How often trees do as well on shuffled labels is the p-value. What tells
classes apart without a look at the image may have traces in it that a network learns in place of them, and that it will miss elsewhere.
"""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.class_weight import compute_sample_weight

from cnnkit import messages
from cnnkit.data.reader import usable_cores

log = logging.getLogger("cnnkit")

#: The share of sets without any leak in which a probe of a target is called significant nevertheless, at most: once for the class, and
#: once for the splits.
RATE = 0.05

#: Significant is not yet much: a finding lies this far on the way from chance to certainty.
WELL_ABOVE = 0.1

_FOLDS = 5
#: Images that are looked at: an accuracy's standard error is then about 0.01, and a probe takes seconds.
_AT_MOST = 2000
#: Shufflings, at most and unless so many of them have done as well: then the rest would not make it significant any more. With many
#: probes more, or none of them could be significant. What is not well above chance, and so no finding, gets by with fewer.
_SHUFFLINGS = 299
_FEWER = 99
_ENOUGH = 10
#: The normal quantile of 95 %.
_QUANTILE = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Probe:
    """How well one thing tells a target.

    `accuracy` is balanced, the mean over the classes of how many of each are recognised, with its 95 % interval; `chance` is 1 / classes.
    `leaks`: significant among all probes of this target, and well above chance.
    """

    target: str
    probe: str
    images: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    chance: float
    p_value: float
    leaks: bool


def probe(
    target: str, labels: Sequence[str], columns: Mapping[str, NDArray[np.floating]], *, seed: int = 0
) -> list[Probe]:
    """Probe a target by every thing that is known.

    Args:
        target: What the labels are, for the records: "class" or "split".
        labels: N of them, of images that do not belong together: copies would be recognised.
        columns: For each thing (N, numbers), NaN where it is not known. What is the same for all images is left out.
        seed: Of the folds, the shufflings and the choice of images where there are many.

    Returns:
        The best probe first. None where there are not two classes with an image for each fold.

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
        found = list(executor.map(lambda name: _probe(target, name, known[name], numbers, most=most, seed=seed), known))
    return sorted(judged(found), key=lambda each: (each.p_value, -each.accuracy, each.probe))


def _chosen(target: str, labels: Sequence[str], *, seed: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Choose images of every class that has enough of them: their positions, and their classes as numbers from 0."""
    counts = Counter(labels)
    names = sorted(label for label, count in counts.items() if count >= _FOLDS)
    _say_what_is_left_out(target, sorted(set(counts) - set(names)), probed=len(names))
    generator = np.random.default_rng(seed)
    share = min(1.0, _AT_MOST / max(1, sum(counts[name] for name in names)))
    positions, numbers = [], []
    for number, name in enumerate(names):
        members = np.flatnonzero(np.array([label == name for label in labels]))
        taken = generator.permutation(members)[: max(_FOLDS, round(share * len(members)))]
        positions += sorted(taken.tolist())
        numbers += [number] * len(taken)
    return np.array(positions, dtype=np.intp), np.array(numbers, dtype=np.int64)


def _say_what_is_left_out(target: str, few: Sequence[str], *, probed: int) -> None:
    reason = f"fewer than {_FOLDS} images that do not belong together in {messages.shortened(few, 5)}"
    if few and probed < 2:
        log.info("no leak probes of the %s: %s", target, reason)
    elif few:
        log.info("left out of the leak probes of the %s: %s", target, reason)


def _ranked(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Replace numbers by their ranks, which trees see as well: float32 tells them apart, where seconds since 1970 are the same."""
    ranks = np.full(values.shape, np.nan, dtype=np.float32)
    for column, into in zip(values.T, ranks.T, strict=True):
        there = ~np.isnan(column)
        into[there] = np.unique(column[there], return_inverse=True)[1]
    return ranks


def _varies(values: NDArray[np.float32]) -> bool:
    """Say whether there is anything to tell by; NaN is a value like others."""
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
        # Values against labels is the same as labels against values, and leaves the folds as they are
        reached += bool(trees.recalls(generator.permutation(values)).mean() >= accuracy - 1e-12)
    return replace(found, p_value=reached / tried if reached == _ENOUGH else (reached + 1) / (tried + 1))


def _well_above(found: Probe) -> bool:
    return found.accuracy_low >= found.chance + WELL_ABOVE * (1 - found.chance)


class _Trees:
    """A cross-validation of decision trees, to be repeated on other values for the same classes."""

    def __init__(self, numbers: NDArray[np.int64], *, seed: int) -> None:
        self._numbers, self._counts = numbers, np.bincount(numbers)
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
        self._folds = list(folds.split(numbers, numbers))
        self._weights = [compute_sample_weight("balanced", numbers[known]) for known, _ in self._folds]

    def recalls(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Give the share of each class that is recognised, (classes,), every image by a tree that has not seen it."""
        hits = np.zeros(len(self._counts))
        for (known, asked), weights in zip(self._folds, self._weights, strict=True):
            tree = DecisionTreeClassifier(
                max_leaf_nodes=max(16, 2 * len(self._counts)), min_samples_leaf=5, random_state=0
            ).fit(values[known], self._numbers[known], sample_weight=weights)
            truth = self._numbers[asked]
            hits += np.bincount(truth[tree.predict(values[asked]) == truth], minlength=len(hits))
        return hits / self._counts


def _interval(recalls: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[float, float, float]:
    """Give the mean of recalls with its 95 % interval.

    The variance of each recall is that of Agresti and Coull's estimate, with two successes and two failures more: a class that is always
    recognised is not known to be.
    """
    estimates = (recalls * counts + 2) / (counts + 4)
    variance = (estimates * (1 - estimates) / (counts + 4)).sum() / len(counts) ** 2
    accuracy, spread = float(recalls.mean()), _QUANTILE * float(np.sqrt(variance))
    return accuracy, max(0.0, accuracy - spread), min(1.0, accuracy + spread)


def judged(found: Sequence[Probe]) -> list[Probe]:
    """Say which probes are significant together (Holm) and well above chance."""
    judged, significant = [], True
    for place, each in enumerate(sorted(found, key=lambda one: one.p_value)):
        significant = significant and each.p_value <= RATE / (len(found) - place)
        judged.append(replace(each, leaks=significant and _well_above(each)))
    return judged
