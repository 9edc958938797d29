"""Leak probes against scikit-learn, on sets with known leaks, and on many without."""

import numpy as np
import pytest
from scipy.stats import binom, rankdata
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from cnnkit.audit import probes
from cnnkit.audit.record import Probe

SEEDS = 12


def labels_of(*counts):
    return [f"class{number}" for number, count in enumerate(counts) for _ in range(count)]


def test_accuracy_equals_that_of_scikit_learn():
    """A tree in a stratified cross-validation, balanced over the classes."""
    generator = np.random.default_rng(0)
    labels = labels_of(60, 30, 20)
    values = generator.normal(size=(110, 2)) + np.repeat([0.0, 1.0, 2.0], [60, 30, 20])[:, None]
    (found,) = probes.probe("class", labels, {"size": values}, seed=3)
    tree = DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=5, class_weight="balanced", random_state=0)
    folds = StratifiedKFold(5, shuffle=True, random_state=3)
    ranks = np.apply_along_axis(
        rankdata, 0, values
    )  # trees see the order alone, but for where between two values they divide
    predicted = cross_val_predict(tree, ranks.astype(np.float32), labels, cv=folds)
    assert found.accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found.chance == pytest.approx(1 / 3)
    assert (found.target, found.probe, found.images) == ("class", "size", 110)


def test_interval_worked_example():
    """The recall of each class is 1/2: Agresti and Coull's estimates are 1/2, the variance of the mean 1/4 (1/44 + 1/84) / 4."""
    labels = labels_of(40, 80)
    values = np.concatenate([np.tile([0.0, 1.0], 20), np.tile([0.0, 1.0], 40)])[:, None]
    (found,) = probes.probe("class", labels, {"coin": values})
    spread = 1.96 * np.sqrt(0.25 * (1 / 44 + 1 / 84) / 4)
    assert found.accuracy_high - found.accuracy_low == pytest.approx(2 * spread, rel=0.03)
    assert (found.accuracy_low + found.accuracy_high) / 2 == pytest.approx(found.accuracy)


def test_finds_properties_that_predict_the_class():
    """A number, one of several numbers, a value that only some images have, and values that no line separates."""
    generator = np.random.default_rng(1)
    labels = labels_of(50, 50)
    second = np.repeat([0.0, 1.0], 50)
    band = np.where(second == 1, generator.choice([-4, 4], 100), 0) + generator.normal(
        size=100
    )  # on both sides of the other class
    columns = {
        "width": 200 + 30 * second + generator.integers(0, 8, 100),
        "one of three": np.stack([generator.normal(size=100), band, generator.normal(size=100)], 1),
        "known of one class": np.where(second == 1, generator.normal(size=100), np.nan),
        "nothing": generator.normal(size=100),
    }
    found = probes.probe("class", labels, {name: np.reshape(values, (100, -1)) for name, values in columns.items()})
    told = {each.probe: each for each in found}
    assert [each.probe for each in found if each.leaks] == [each.probe for each in found[:3]]
    assert not told["nothing"].leaks
    assert found[-1].probe == "nothing"
    assert told["width"].accuracy == 1
    assert all(each.p_value == pytest.approx(1 / 300) for each in found[:3])  # none of 299 shufflings did as well


class Halves:
    """Replaces the trees in tests of the statistics: predicts by the median. Sixty times as fast."""

    def __init__(self, numbers, *, seed):
        self.numbers = numbers

    def recalls(self, values):
        above = values[:, 0] > np.median(values[:, 0])
        return np.array([(above[self.numbers == number] == number % 2).mean() for number in (0, 1)])


def test_false_alarm_rate_is_at_most_5_percent(monkeypatch):
    """In 700 sets of three probes, for the family and for each p-value at every level; twice the rate would fail."""
    monkeypatch.setattr(probes, "_Trees", Halves)
    monkeypatch.setattr(probes, "WELL_ABOVE", -1.0)  # whatever is significant is a finding then
    sets, values, fired = 700, [], 0
    for seed in range(sets):
        generator = np.random.default_rng(seed)
        columns = {name: generator.normal(size=(40, 1)) for name in ("width", "height", "bytes")}
        found = probes.probe("class", labels_of(20, 20), columns, seed=seed)
        values += [each.p_value for each in found]
        fired += any(each.leaks for each in found)
    assert fired <= binom.ppf(0.999, sets, probes.RATE) < sets * 2 * probes.RATE * 0.8
    assert fired >= binom.ppf(0.001, sets, probes.RATE / 3)  # it does not sleep, either
    for level in (0.02, 0.05, 0.1, 0.3):
        assert sum(value <= level for value in values) <= binom.ppf(0.9999, len(values), level)


@pytest.mark.slow
def test_false_alarm_rate_of_real_trees():
    """On numbers, words and partly unknown values, in classes of different sizes."""
    fired = 0
    for seed in range(SEEDS):
        generator = np.random.default_rng(seed)
        columns = {
            "bytes": generator.normal(size=(50, 1)),
            "camera": np.eye(4)[generator.integers(0, 4, 50)],
            "time": np.where(generator.random((50, 1)) < 0.3, np.nan, generator.normal(size=(50, 1))),
        }
        fired += any(each.leaks for each in probes.probe("class", labels_of(30, 20), columns, seed=seed))
    assert fired <= binom.ppf(0.999, SEEDS, probes.RATE)


def test_many_probes_can_still_be_significant(monkeypatch):
    """With twenty probes Holm's first step is 1/400, which needs more than 299 shufflings."""
    generator = np.random.default_rng(0)
    monkeypatch.setattr(probes, "_Trees", Halves)
    columns = {str(number): generator.normal(size=(40, 1)) for number in range(19)}
    columns["leak"] = np.repeat([0.0, 1.0], 20)[:, None]
    found = probes.probe("class", labels_of(20, 20), columns)
    assert [each.probe for each in found if each.leaks] == ["leak"]
    assert found[0].p_value == pytest.approx(1 / 401)


def test_significant_probes_near_chance_are_not_leaks():
    """With many images 55 % instead of 50 % is significant, but less than a tenth of the way to certainty."""
    generator = np.random.default_rng(0)
    labels = labels_of(1000, 1000)
    values = (generator.random(2000) < np.repeat([0.46, 0.54], 1000)).astype(float)[:, None]
    (found,) = probes.probe("class", labels, {"slight": values})
    assert found.p_value == pytest.approx(1 / 100)
    assert 0.5 < found.accuracy_low < 0.55
    assert not found.leaks


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.01, 0.02, 0.04], [True, True, True]),  # 0.05 / 3, / 2, / 1
        ([0.01, 0.03, 0.04], [True, False, False]),  # Holm stops at the first that is not significant
        ([0.02, 0.02, 0.02], [False, False, False]),
    ],
)
def test_holm_correction_worked_example(values, expected):
    """Holm's steps."""
    made = [Probe("class", str(value), 100, 0.9, 0.8, 0.95, 0.5, value, leaks=False) for value in values]
    assert [each.leaks for each in probes.judged(made)] == expected


def test_small_classes_and_constant_properties_are_left_out():
    """Classes with fewer images than folds, and constant properties; a single remaining class is not probed."""
    labels = labels_of(12, 12, 4)
    columns = {"width": np.arange(28.0)[:, None], "same": np.ones((28, 2)), "unknown": np.full((28, 1), np.nan)}
    (found,) = probes.probe("class", labels, columns)
    assert (found.probe, found.images, found.chance) == ("width", 24, 0.5)
    assert probes.probe("class", labels_of(12, 4), {"width": np.arange(16.0)[:, None]}) == []
    assert probes.probe("class", [], {}) == []


def test_same_seed_gives_same_probes():
    """Of many images, a share of every class is sampled."""
    labels = labels_of(3000, 1000)
    values = np.random.default_rng(0).normal(size=(4000, 1))
    first, again, other = (probes.probe("class", labels, {"width": values}, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first[0].images == 2000


def test_reports_progress_after_each_probe():
    """Beginning with the number of probes, before the first one ends."""
    labels, generator = labels_of(20, 20), np.random.default_rng(0)
    shown = []
    columns = {name: generator.normal(size=(40, 1)) for name in ("width", "height")}
    probes.probe("class", labels, columns, progress=lambda done, total: shown.append((done, total)))
    assert shown == [(0, 2), (1, 2), (2, 2)]
