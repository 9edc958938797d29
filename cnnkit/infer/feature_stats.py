"""Statistics of the columns of features, including dead (constant) and duplicate columns.

The rows are read once, in blocks: memory depends only on the number of columns.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import CnnkitError
from cnnkit.formats import features

log = logging.getLogger("cnnkit")

#: Values in a block of rows: 8 MB in float64.
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class ColumnStats:
    """One column of (N, D), or one channel of (N, C, H, W) over all images and positions.

    `variance` divides by the number of values; `zeros` is the share of exact zeros; a column is `dead` if all its values are equal.
    `duplicate_of` is the first column with exactly the same values, None for dead columns. If a value is not finite, the other
    statistics except `zeros` are None.
    """

    column: int
    mean: float | None
    variance: float | None
    minimum: float | None
    maximum: float | None
    zeros: float
    dead: bool
    duplicate_of: int | None


def column_stats(path: str | Path, *, block: int = BLOCK) -> list[ColumnStats]:
    """Compute the statistics of features, or of any `.npy` of such a shape.

    Args:
        path: The `.npy`.
        block: Number of values to read at once.

    Returns:
        One record per column, in their order.

    Raises:
        FormatError: It is not an array of features.
        CnnkitError: It has no rows.
    """
    values = features.load_values(path)
    if not values.size:
        raise CnnkitError(f"{path}: empty, its shape is {values.shape}; run cnn-extract again")
    sums = _Sums(values.shape[1])
    for part in _blocks(values, block):
        sums.add(part)
    found = sums.columns()
    _log_summary(found, rows=len(values))
    return found


def _blocks(values: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    """Yield blocks (D, n), or (C, n * H * W), with the values of a column in one row."""
    rows = max(1, size // int(np.prod(values.shape[1:])))
    for start in range(0, len(values), rows):
        block = np.moveaxis(np.asarray(values[start : start + rows]), 1, 0)
        yield block.reshape(len(block), -1)


class _Sums:
    """Running statistics of all columns."""

    def __init__(self, columns: int) -> None:
        self.count = 0
        self.mean = np.zeros(columns)
        self.squares = np.zeros(columns)  # of the differences from the mean
        self.minimum, self.maximum = np.full(columns, np.inf), np.full(columns, -np.inf)
        self.zeros = np.zeros(columns, dtype=np.int64)
        self.digests = [hashlib.sha256() for _ in range(columns)]

    def add(self, block: NDArray[Any]) -> None:
        """Add a block, (columns, n).

        Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
        """
        exact = np.ascontiguousarray(block, dtype=np.float64) + 0.0  # + 0.0 turns -0 into 0, for the digests
        for digest, column in zip(self.digests, exact, strict=True):
            digest.update(column)
        added = exact.shape[1]
        with np.errstate(invalid="ignore"):  # `columns` drops values that are not finite
            mean = exact.mean(1)
            apart = mean - self.mean
            self.squares += np.square(exact - mean[:, None]).sum(1)
            self.squares += apart**2 * (self.count * added / (self.count + added))
            self.mean += apart * (added / (self.count + added))
            self.minimum = np.minimum(self.minimum, exact.min(1))
            self.maximum = np.maximum(self.maximum, exact.max(1))
        self.count += added
        self.zeros += (exact == 0).sum(1)

    def columns(self) -> list[ColumnStats]:
        """Return the statistics of all columns."""
        known = np.isfinite(self.minimum) & np.isfinite(self.maximum)  # NaN propagates through both
        dead = known & (self.minimum == self.maximum)
        mean = np.where(dead, self.minimum, self.mean)  # exact, unlike the rounded sums
        variance = np.where(dead, 0.0, self.squares / self.count)
        first: dict[bytes, int] = {}
        found = []
        for index, digest in enumerate(self.digests):
            twin = first.setdefault(digest.digest(), index) if known[index] and not dead[index] else index
            found.append(
                ColumnStats(
                    column=index,
                    mean=float(mean[index]) if known[index] else None,
                    variance=float(variance[index]) if known[index] else None,
                    minimum=float(self.minimum[index]) if known[index] else None,
                    maximum=float(self.maximum[index]) if known[index] else None,
                    zeros=float(self.zeros[index] / self.count),
                    dead=bool(dead[index]),
                    duplicate_of=None if twin == index else twin,
                )
            )
        return found


def _log_summary(found: list[ColumnStats], *, rows: int) -> None:
    """Log a summary in one line, and a warning of values that are not finite."""
    unknown = [column.column for column in found if column.mean is None]
    if unknown:
        log.warning(
            "%s values that are not finite, the first is column %d; extract again, in float32",
            "1 column has" if len(unknown) == 1 else f"{len(unknown):,} columns have",
            unknown[0],
        )
    means = np.array([column.mean for column in found if column.mean is not None])
    variances = np.array([column.variance for column in found if column.variance is not None])
    overall = f", mean {means.mean():.4g}, variance {variances.mean() + means.var():.4g}" if len(means) else ""
    dead, doubled = sum(column.dead for column in found), sum(column.duplicate_of is not None for column in found)
    log.info("%s columns of %s rows: %d dead, %d duplicates%s", f"{len(found):,}", f"{rows:,}", dead, doubled, overall)
