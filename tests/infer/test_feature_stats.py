"""Statistics of columns against numpy, on all kinds of arrays of features."""

import logging
import tracemalloc

import numpy as np
import pytest

from cnnkit.errors import CnnkitError, FormatError
from cnnkit.infer import feature_stats


def saved(tmp_path, values):
    np.save(tmp_path / "x.npy", values)
    return tmp_path / "x.npy"


def planted(shape, dtype="float32", seed=0):
    """Noise with zeros; column 2 is dead, 4 is a duplicate of 1."""
    generator = np.random.default_rng(seed)
    values = (generator.normal(3, 20, shape) * (generator.random(shape) > 0.3)).astype(dtype)
    values[:, 2] = 0.1
    values[:, 4] = values[:, 1]
    return values


@pytest.mark.parametrize("block", [1, 100, 1 << 20])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(37, 6), (37, 6, 3, 2), (1, 6)])
def test_statistics_match_numpy(tmp_path, shape, dtype, block):
    """Mean, population variance, range and zeros of columns, or of channels, for any block size."""
    values = planted(shape, dtype)
    found = feature_stats.column_stats(saved(tmp_path, values), block=block)
    axes = tuple(axis for axis in range(values.ndim) if axis != 1)
    exact = values.astype("float64")
    for name, expected in {
        "mean": exact.mean(axes),
        "variance": exact.var(axes),
        "minimum": exact.min(axes),
        "maximum": exact.max(axes),
        "zeros": (exact == 0).mean(axes),
    }.items():
        np.testing.assert_allclose([getattr(each, name) for each in found], expected, rtol=1e-10, atol=1e-12)
    assert [each.column for each in found] == list(range(6))
    if len(values) > 1:
        assert [each.dead for each in found] == [False, False, True, False, False, False]
        assert [each.duplicate_of for each in found] == [None, None, None, None, 1, None]
        assert found[2].variance == 0


def test_duplicate_has_all_values_of_the_first(tmp_path):
    """Three equal columns name the first; one other value in the last block, or another order, is not a duplicate."""
    values = np.repeat(np.random.default_rng(0).normal(size=(50, 1)), 6, axis=1)
    values[49, 1] += 1e-9
    values[:, 2] = values[::-1, 2]
    values[0, 0] = values[0, 4:6] = 0.0
    values[0, 5] = -0.0
    assert [each.duplicate_of for each in feature_stats.column_stats(saved(tmp_path, values), block=60)] == [
        None,
        None,
        None,
        None,
        0,
        0,
    ]


def test_dead_columns_are_not_duplicates(tmp_path):
    """They are only dead, also with large values; a difference in the last digit is not dead."""
    values = planted((20, 6))
    values[:, 3] = 0.1
    values[:, 5] = 1e8
    values[3, 5] = np.nextafter(np.float32(1e8), np.float32(2e8))
    found = feature_stats.column_stats(saved(tmp_path, values))
    assert [each.dead for each in found] == [False, False, True, True, False, False]
    assert [each.duplicate_of for each in found] == [None, None, None, None, 1, None]


def test_values_that_are_not_finite_are_reported(tmp_path, caplog):
    """Their columns have no statistics except zeros, are neither dead nor duplicates; the others are unchanged."""
    values = planted((20, 6), "float16")
    values[5, 1] = values[5, 4] = np.nan
    values[6, 3] = np.inf
    with caplog.at_level(logging.INFO):
        found = feature_stats.column_stats(saved(tmp_path, values))
    for column in (1, 3, 4):
        each = found[column]
        assert (each.mean, each.variance, each.minimum, each.maximum) == (None,) * 4
        assert (each.dead, each.duplicate_of) == (False, None)
        assert each.zeros == np.mean(values[:, column] == 0)
    exact = values[:, [0, 2, 5]].astype("float64")
    assert caplog.messages == [
        "3 columns have values that are not finite, the first is column 1; extract again, in float32",
        f"6 columns of 20 rows: 1 dead, 0 duplicates, mean {exact.mean():.4g}, variance {exact.var():.4g}",
    ]


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """A hundred thousand rows of 320 columns, 128 MB, are read a few blocks at a time."""
    path = tmp_path / "x.npy"
    values = np.lib.format.open_memmap(path, "w+", "float32", (100_000, 320))
    values[::1000, 0] = 1
    del values
    tracemalloc.start()
    found = feature_stats.column_stats(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48e6
    assert (found[0].mean, sum(each.dead for each in found)) == (pytest.approx(0.001), 319)


def test_rejects_arrays_without_columns(tmp_path):
    """No rows, or not an array of features."""
    with pytest.raises(CnnkitError, match=r"x\.npy: empty, its shape is \(0, 5\); run cnn-extract again"):
        feature_stats.column_stats(saved(tmp_path, np.zeros((0, 5), "float32")))
    with pytest.raises(FormatError, match=r"found int64 of shape"):
        feature_stats.column_stats(saved(tmp_path, np.zeros((3, 5), "int64")))
