"""Parsing of --ratio, --count, --folds and --names, and rounding to whole images."""

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnkit.data import allocation
from cnnkit.data.allocation import SplitShares
from cnnkit.data.config import SplitConfig
from cnnkit.errors import CnnkitError, UsageError


def shares(*values):
    return tuple(Fraction(value) for value in values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5,0.25,0.25", shares("1/2", "1/4", "1/4")),
        ("70,20,10", shares("7/10", "1/5", "1/10")),
        ("2,1", shares("2/3", "1/3")),
        ("1/3, 2/3", shares("1/3", "2/3")),
        (".9,.1", shares("9/10", "1/10")),
        ("0.33,0.33,0.33", shares("1/3", "1/3", "1/3")),
        ("1", shares(1)),
    ],
)
def test_shares_are_exact(text, expected):
    """Decimals, fractions, and whole numbers in proportion, without floating-point rounding; rounded thirds are thirds."""
    assert allocation.by_ratio(text).shares == expected
    assert sum(allocation.by_ratio(text).shares) == 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("0.5,0.25", r"sums up to 0.75; give shares that sum up to 1"),
        ("0.5,0.5,0.1", "sums up to 1.1"),
        ("0.5,half", "'half' is not a number"),
        ("0.5,,0.5", "a number is missing; give numbers separated by commas, such as --ratio 0.5,0.5$"),
        ("80,", "--ratio 80,: a number is missing; give numbers separated by commas$"),
        ("", "a number is missing"),
        ("1,0", "above 0"),
        ("1.5,-0.5", "above 0"),
        ("nan,1", "'nan' is not a number"),
        ("1/0,1", "'1/0' is not a number"),
        ("80/20", "'80/20' is not a number; give numbers separated by commas, such as --ratio 80,20$"),
        ("80:20", "as --ratio 80,20$"),
        ("80 20", "as --ratio 80,20$"),
        ("80%,20%", "'80%' is not a number; give numbers separated by commas, such as --ratio 80,20$"),
        ("70,30/1", "'30/1' is not a number"),
        ("0,8,0,2", "every split needs a number above 0"),
        ("0.8;0.2", "as --ratio 0.8,0.2$"),
        ("80", "--ratio 80 makes one split; give a number for each split, such as 80,20"),
        ("inf,1", "'inf' is not a number"),
        ("1e999999999,1", "'1e999999999' is not a number"),
        ("1_0,1", "'1_0' is not a number"),
        ("٣,1", "is not a number"),
        ("1,1,1,1", "makes 4 splits; name them with --names"),
    ],
)
def test_rejects_invalid_ratios(text, match):
    """The message has the value and the remedy."""
    with pytest.raises(UsageError, match=match):
        allocation.by_ratio(text)


def test_counts_and_folds():
    """Images of every class; equal splits."""
    assert allocation.by_count("1000,500,500") == SplitShares(
        ("train", "val", "test"), shares("1/2", "1/4", "1/4"), (1000, 500, 500)
    )
    assert allocation.by_folds(3) == SplitShares(("fold0", "fold1", "fold2"), shares("1/3", "1/3", "1/3"))
    for bad in ("10,2.5", "10,-1", "ten", "0,1"):
        with pytest.raises(UsageError, match=f"--count {bad}"):
            allocation.by_count(bad)
    with pytest.raises(UsageError, match="at least 2"):
        allocation.by_folds(1)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a,b", "2 names, but --ratio 1,1,1 makes 3 splits"),
        ("a,b,a", "twice"),
        ("a,,c", "cannot be the name of a split"),
        ("a,b/c,d", "'b/c' cannot be the name of a split"),
        ("a,..,c", "cannot be the name of a split"),
        ("a,.b,c", "cannot be the name of a split"),
        ("a,b,total", "cannot be the name of a split"),
    ],
)
def test_rejects_invalid_names(text, match):
    """There must be one for each split, without repetition, and each must be a valid name of a folder."""
    assert allocation.by_ratio("1,1,1", "Übung, Prüfung,test set").names == ("Übung", "Prüfung", "test set")
    with pytest.raises(UsageError, match=match):
        allocation.by_ratio("1,1,1", text)


def test_needs_exactly_one_of_ratio_count_and_folds():
    """None or two are usage errors that list the options."""
    assert SplitConfig(ratio="1,1").shares() == allocation.by_ratio("1,1")
    assert SplitConfig(count="1,1", names="a,b").shares() == allocation.by_count("1,1", "a,b")
    assert SplitConfig(folds=4).shares() == allocation.by_folds(4)
    with pytest.raises(UsageError, match=r"give one of --ratio, --count and --folds, such as --ratio 70,15,15$"):
        SplitConfig().shares()
    with pytest.raises(UsageError, match="not --ratio and --folds"):
        SplitConfig(ratio="1,1", folds=2).shares()
    with pytest.raises(UsageError, match="--names does not go with --folds"):
        SplitConfig(folds=2, names="a,b").shares()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 40))
def test_rounding_is_the_nearest_possible(proportions, size):
    """No other whole numbers are nearer to the exact shares, among those that give every split an image."""
    names = ",".join(f"p{number}" for number in range(len(proportions)))
    demand = allocation.by_ratio(",".join(map(str, proportions)), names)
    if size < len(proportions):
        with pytest.raises(CnnkitError, match="too few for"):
            allocation.due(demand, [("cat", size)])
        return
    column = [row[0] for row in allocation.due(demand, [("cat", size)])]
    assert sum(column) == size
    assert min(column) >= 1

    def off(numbers):
        return sum(abs(number - share * size) for number, share in zip(numbers, demand.shares, strict=True))

    near = [range(max(1, number - 2), number + 3) for number in column]
    assert off(column) == min(off(others) for others in product(*near) if sum(others) == size)


def test_rounding_computed_by_hand():
    """Quotas 3.5, 1.75, 1.75 of seven: the largest remainders get the remaining two."""
    demand = allocation.by_ratio("0.5,0.25,0.25")
    assert allocation.due(demand, [("cat", 7)]) == [[3], [2], [2]]
    assert allocation.due(demand, [("cat", 2000), ("dog", 10)]) == [[1000, 5], [500, 3], [500, 2]]


def test_equal_remainders_take_turns():
    """Eleven images of each of five classes in five folds: each fold gets the extra image once, not the first fold five times."""
    due = allocation.due(allocation.by_folds(5), [(name, 11) for name in "abcde"])
    assert [sum(row) for row in due] == [11] * 5


def test_small_class_is_in_every_split():
    """Three images, shares of 98, 1 and 1 %: one each."""
    assert allocation.due(allocation.by_ratio("98,1,1"), [("cat", 3), ("dog", 100)]) == [[1, 98], [1, 1], [1, 1]]
    with pytest.raises(CnnkitError, match="class cat has 2 images, too few for train, val, test"):
        allocation.due(allocation.by_ratio("98,1,1"), [("cat", 2)])


def test_counts_leave_the_rest_in_a_last_row():
    """Images in no split are the last row."""
    demand = allocation.by_count("10,5")
    assert allocation.due(demand, [("cat", 20), ("dog", 15)]) == [[10, 10], [5, 5], [5, 0]]
    with pytest.raises(CnnkitError, match="class cat has 14 images, but --count 10,5 needs 15; lower it"):
        allocation.due(demand, [("cat", 14)])
