"""Features on disk: `train.npy`, plain numpy rows; `train.tsv`, row i names picture i; `train.json`, the Header, written last.

    train.npy        float32 or float16, (N, D) or (N, C, H, W)
    train.tsv        path label split group, paths as seen from this folder
    train.json       its presence means complete

While they are being written the first two are called `train.npy.part` and `train.tsv.part`, so that work can be resumed.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import atomic, manifest
from cnnkit.formats.header import Header, Kind
from cnnkit.formats.manifest import Row

# The header of the .npy leaves room for this many rows, so that the real number fits when it is known.
_MOST_ROWS = 10**15


@dataclass(frozen=True, slots=True)
class Features:
    """What a network answers to pictures; row i of `rows` belongs to row i of `values`, (N, D) or (N, C, H, W)."""

    values: NDArray[Any]
    rows: list[Row]
    header: Header


def beside(path: Path, suffix: str) -> Path:
    """Name the file that belongs to a `.npy`.

    Raises:
        UsageError: The path does not end in .npy.
    """
    if path.suffix != ".npy":
        raise UsageError(f"{path}: features are written to a .npy file, with .tsv and .json beside it")
    return path.with_suffix(suffix)


def load(path: str | Path) -> Features:
    """Read features; the values are mapped, not read.

    Raises:
        FormatError: A neighbour is missing, broken or of another length; the remedy is to extract again.
        OSError: It cannot be read.
    """
    path = Path(path)
    described, listed = beside(path, ".json"), beside(path, ".tsv")
    if not path.exists():
        raise FormatError(f"{path}: no such file; features come from cnn-extract")
    for neighbour in (described, listed):
        if not neighbour.exists():
            raise FormatError(f"{path} has no {neighbour.name} beside it; run cnn-extract again")
    header = Header.from_json(described.read_text(encoding="utf-8"), name=str(described), kind=Kind.FEATURES)
    values = load_values(path)
    rows = manifest.load(listed)
    if len(rows) != len(values):
        raise FormatError(f"{path} has {len(values)} rows, {listed.name} has {len(rows)}; run cnn-extract again")
    return Features(values, rows, header)


def load_values(path: str | Path) -> NDArray[Any]:
    """Map a plain `.npy` of numbers, with or without neighbours.

    Raises:
        FormatError: It is no array of float16, float32 or float64 with two or four axes, or it holds pickled objects.
    """
    try:
        values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise FormatError(f"{path}: no array that can be read ({error})") from error
    if not isinstance(values, np.ndarray) or values.ndim not in (2, 4) or values.dtype.kind != "f":
        shape = getattr(values, "shape", None)
        raise FormatError(
            f"{path}: found {getattr(values, 'dtype', 'an archive')} of shape {shape}, expected float (N, D) or (N, C, H, W)"
        )
    return values


class Writer:
    """Write features row by row; what is there after an interruption can be gone on with."""

    def __init__(self, path: str | Path, *, shape: Sequence[int], dtype: str, header: Header) -> None:
        """Prepare for rows of one shape.

        Args:
            path: The `.npy`; its neighbours' names follow.
            shape: Of one row.
            dtype: float32 or float16.
            header: Written when all is done.
        """
        self.path, self.shape, self.dtype, self.header = Path(path), tuple(shape), np.dtype(dtype), header
        self._final = [beside(self.path, suffix) for suffix in (".npy", ".tsv", ".json")]
        self._parts = [file.with_name(f"{file.name}.part") for file in self._final]
        self.count = 0
        self._values: BinaryIO
        self._listed: BinaryIO

    def __enter__(self) -> Self:
        """Begin anew, unless `resume` has gone on from an earlier run."""
        if not hasattr(self, "_values"):
            values, listed, described = self._parts
            described.write_text(self._fingerprint(), encoding="utf-8")
            self._values, self._listed = values.open("wb"), listed.open("wb")
            self._values.write(self._npy_header(_MOST_ROWS))
            self._listed.write(manifest.render([]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the files their names; after an error leave the parts for `resume`."""
        self._values.flush()
        self._listed.flush()
        if kind is None:
            self._values.seek(0)
            self._values.write(self._npy_header(self.count))
        self._values.close()
        self._listed.close()
        if kind is not None:
            return
        values, listed, described = self._final
        described.unlink(missing_ok=True)  # nothing is complete until it is back
        self._parts[0].replace(values)
        self._parts[1].replace(listed)
        with atomic.writing(described) as file:
            file.write(f"{self.header.to_json()}\n".encode())
        self._parts[2].unlink()

    def resume(self, *, multiple_of: int) -> list[Row]:
        """Go on from what an interrupted run left, cut back to whole batches.

        Args:
            multiple_of: The batch: rows of a batch that was not finished are computed again, so that every batch holds the same rows.

        Returns:
            The rows that stand; empty where there is nothing to go on from.

        Raises:
            FormatError: What is there was begun with other settings.
        """
        values, listed, described = self._parts
        if not all(part.exists() for part in self._parts):
            return []
        if described.read_text(encoding="utf-8") != self._fingerprint():
            raise FormatError(
                f"{values}: was begun with other settings or another base; run without --resume to begin anew"
            )
        whole = listed.read_bytes().rpartition(b"\n")[0]  # a row without its newline was cut short
        rows = list(manifest.parse(whole.split(b"\n"), name=str(listed)))
        start = len(self._npy_header(_MOST_ROWS))
        row_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        count = min(len(rows), max(values.stat().st_size - start, 0) // row_bytes) // multiple_of * multiple_of
        kept = manifest.render(rows[:count])
        self._values, self._listed = values.open("r+b"), listed.open("r+b")
        self._values.truncate(start + count * row_bytes)
        self._listed.truncate(len(kept))
        for file in (self._values, self._listed):
            file.seek(0, io.SEEK_END)
        self.count = count
        return rows[:count]

    def write(self, values: NDArray[Any], rows: Sequence[Row]) -> None:
        """Add rows: the values first, so that a listed picture always has its values."""
        assert values.shape == (len(rows), *self.shape)
        self._values.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self._values.flush()
        self._listed.write(manifest.render(rows).partition(b"\n")[2])
        self._listed.flush()
        self.count += len(rows)

    def _npy_header(self, count: int) -> bytes:
        """Give the .npy header for this many rows; its length does not depend on them."""
        buffer = io.BytesIO()
        # numpy pads the header so that the first axis may grow to any number
        np.lib.format.write_array_header_1_0(
            buffer, {"descr": self.dtype.str, "fortran_order": False, "shape": (count, *self.shape)}
        )
        return buffer.getvalue()

    def _fingerprint(self) -> str:
        return json.dumps([self.header.to_json(), self.shape, self.dtype.str])
