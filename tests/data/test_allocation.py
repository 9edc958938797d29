"""Allocation of units to splits."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

from cnnkit.data import allocation

UNITS = st.lists(
    st.dictionaries(st.integers(0, 1), st.integers(1, 4), min_size=1).map(lambda counts: tuple(sorted(counts.items()))),
    min_size=3,
    max_size=9,
)


def held(units, split_of, splits):
    """Count the images of each split and class, (splits, classes)."""
    classes = 1 + max(number for counts in units for number, _ in counts)
    table = np.zeros((splits, classes), dtype=int)
    for counts, split in zip(units, split_of, strict=True):
        for number, count in counts:
            table[split, number] += count
    return table


def off(units, split_of, due):
    return int(np.abs(held(units, split_of, len(due)) - due).sum())


def due_of(units, shares):
    """Return the target of each split and class, in whole images."""
    sizes = held(units, [0] * len(units), 1)[0]
    bounds = [sizes * sum(shares[:split]) // sum(shares) for split in range(len(shares) + 1)]
    return np.diff(np.asarray(bounds), axis=0).tolist()


def can_be_exact(units, due):
    """Try every allocation."""
    states = {tuple(map(tuple, due))}
    for counts in units:
        following = set()
        for state in states:
            for split in range(len(due)):
                row = list(state[split])
                for number, count in counts:
                    row[number] -= count
                if min(row) >= 0:
                    following.add((*state[:split], tuple(row), *state[split + 1 :]))
        states = following
    return bool(states)


def groups(seed, *, number, classes, largest):
    """Make groups that are mostly of one class, with the classes and groups of their images."""
    generator = random.Random(seed)
    units, labels, members = [], [], []
    for group in range(number):
        main = generator.randrange(classes)
        counts = Counter(
            main if generator.random() < 0.7 else generator.randrange(classes)
            for _ in range(generator.randint(1, largest))
        )
        units.append(tuple(sorted(counts.items())))
        labels += sorted(counts.elements())
        members += [group] * counts.total()
    return units, np.asarray(labels), np.asarray(members)


@settings(max_examples=150, deadline=None)
@given(UNITS, st.sampled_from([(1, 1), (2, 1, 1), (8, 1, 1), (1, 1, 1)]))
def test_pack_is_exact_if_an_exact_allocation_exists(units, shares):
    """For small numbers of units, pack finds an exact allocation whenever brute force does."""
    due = due_of(units, shares)
    assume(can_be_exact(units, due))
    assert off(units, allocation.pack(units, due), due) == 0


@settings(max_examples=60, deadline=None)
@given(UNITS, st.integers(0, 8), st.integers(0, 8))
def test_spare_split_takes_the_rest(units, one, other):
    """With a spare split, the others get at least their target whenever brute force can do so."""
    sizes = held(units, [0] * len(units), 1)[0]
    due = np.asarray([np.minimum(sizes, one) // 2, np.minimum(sizes, other) // 2])
    due = np.vstack([due, sizes - due.sum(axis=0)])
    possible = any(
        (held(units, [case // 3**unit % 3 for unit in range(len(units))], 3)[:2] >= due[:2]).all()
        for case in random.Random(0).sample(range(3 ** len(units)), min(300, 3 ** len(units)))
    )
    split_of = allocation.pack(units, due.tolist(), spare=True)
    assert not possible or (held(units, split_of, 3)[:2] >= due[:2]).all()


def test_single_images_are_assigned_in_proportion():
    """A thousand single images fill the splits exactly, and every section of the order is spread over all splits."""
    units = [((0, 1),)] * 1000
    split_of = allocation.pack(units, [[500], [300], [200]])
    assert Counter(split_of) == {0: 500, 1: 300, 2: 200}
    assert all(200 < Counter(split_of[start : start + 500])[0] < 300 for start in (0, 250, 500))


def test_pairs_are_spread_over_all_splits():
    """Eight pairs among a thousand do not all go to the largest split."""
    units = [((0, 2),)] * 8 + [((0, 1),)] * 984
    split_of = allocation.pack(units, [[500], [250], [250]])
    assert Counter(split_of[:8]) == {0: 4, 1: 2, 2: 2}


@pytest.mark.parametrize(("number", "classes", "largest", "splits"), [(20, 2, 60, 5), (60, 5, 30, 3), (300, 2, 4, 10)])
def test_equal_splits_are_no_worse_than_scikit_learns(number, classes, largest, splits):
    """At least as near to equal splits as StratifiedGroupKFold; started from its result, never worse."""
    units, labels, members = groups(number, number=number, classes=classes, largest=largest)
    due = due_of(units, [1] * splits)
    theirs = [0] * number
    folds = StratifiedGroupKFold(splits, shuffle=True, random_state=0).split(labels, labels, members)
    for split, (_, rows) in enumerate(folds):
        for row in rows:
            theirs[members[row]] = split
    assert off(units, allocation.pack(units, due), due) <= off(units, theirs, due)
    assert off(units, allocation.pack(units, due, start=theirs), due) <= off(units, theirs, due)


@pytest.mark.parametrize(("number", "classes", "largest"), [(20, 2, 60), (200, 5, 30)])
def test_unequal_splits_are_no_worse_than_scikit_learns(number, classes, largest):
    """At least as near to shares of 70 and 30 % as the best of thirty draws of GroupShuffleSplit."""
    units, labels, members = groups(number, number=number, classes=classes, largest=largest)
    due = due_of(units, [7, 3])
    best = []
    for _, rows in GroupShuffleSplit(30, test_size=0.3, random_state=0).split(labels, labels, members):
        chosen = set(members[rows])
        best.append(off(units, [int(group in chosen) for group in range(number)], due))
    assert off(units, allocation.pack(units, due), due) <= min(best)


def test_pack_is_deterministic():
    """The same units in the same order give the same splits."""
    units, *_ = groups(3, number=30, classes=3, largest=20)
    due = due_of(units, [3, 1, 1])
    assert allocation.pack(units, due) == allocation.pack(units, due)
