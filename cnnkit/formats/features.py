"""Features on disk: `train.npy`, plain numpy rows; `train.tsv`, row i names image i; `train.json`, the Header, written last.

    train.npy        float32 or float16, (N, D) or (N, C, H, W)
    train.tsv        path label split group (view), paths as seen from this folder
    train.json       its presence means complete

While they are being written the first two are called `train.npy.part` and `train.tsv.part`, so that work can be resumed.
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from cnnkit import files
from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import atomic, manifest
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.manifest import ManifestRow

#: Of the `.tsv` that names the rows. Where images have several views, `view` comes after them.
COLUMNS = ("path", "label", "split", "group")

# The header of the .npy leaves room for this many rows, so that the real number fits when it is known.
_MOST_ROWS = 10**15


@dataclass(frozen=True, slots=True)
class Features:
    """The features of images; row i of `rows` belongs to row i of `values`, (N, D) or (N, C, H, W)."""

    values: NDArray[Any]
    rows: list[ManifestRow]
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
    header = load_header(path)
    values = load_values(path)
    rows = manifest.load(listed, views=header.has_views)
    if len(rows) != len(values):
        raise FormatError(f"{path} has {len(values)} rows, {listed.name} has {len(rows)}; run cnn-extract again")
    return Features(values, rows, header)


#: Bytes of a `.json`; the names of 20,000 classes take less than one of these 16.
_LARGEST_HEADER = 16 << 20


def load_header(path: str | Path) -> Header:
    """Read the Header that describes a `.npy`.

    Raises:
        FormatError: It is broken, or not one of features.
        OSError: It cannot be read.
    """
    described = beside(Path(path), ".json")
    text = files.read_regular(described, most=_LARGEST_HEADER).decode("utf-8", "surrogateescape")
    return Header.from_json(text, name=str(described), kind=ArtefactKind.FEATURES)


def load_values(path: str | Path) -> NDArray[Any]:
    """Map a plain `.npy` of numbers, with or without neighbours.

    Raises:
        FormatError: It is no array of float16, float32 or float64 with two or four axes, or it holds pickled objects.
    """
    files.check_regular(path)
    try:
        values: NDArray[Any] = np.lib.format.open_memmap(
            path, mode="r"
        )  # np.load would look for archives and pickles too
    except OSError:
        raise
    except Exception as error:  # numpy parses the header as Python and raises whatever it stumbles over
        raise FormatError(f"{path}: no plain array of numbers, or cut short; features come from cnn-extract") from error
    if values.ndim not in (2, 4) or values.dtype.kind != "f":
        raise FormatError(
            f"{path}: found {values.dtype} of shape {values.shape}, expected float (N, D) or (N, C, H, W)"
        )
    return values


def check_neighbours(path: str | Path) -> None:
    """Refuse to write `split.tsv` over the manifest next to which somebody wants `split.npy`.

    Raises:
        UsageError: The path does not end in .npy, or a neighbour's name belongs to a file that is no part of features.
    """
    path = Path(path)
    listed, described = beside(path, ".tsv"), beside(path, ".json")
    taken = [file for file in (listed, described) if file.exists()]
    if not taken or described.with_name(f"{described.name}.part").exists():
        return
    try:
        Header.from_json(described.read_text(encoding="utf-8"), name=str(described), kind=ArtefactKind.FEATURES)
    except (FormatError, OSError, ValueError) as error:
        raise UsageError(
            f"{path}: {taken[0].name} belongs beside it, but the one there is not from cnn-extract; choose another name"
        ) from error


class FeatureWriter:
    """Write features row by row; an interrupted run can be resumed."""

    def __init__(
        self,
        path: str | Path,
        *,
        shape: Sequence[int],
        dtype: str,
        header: Header,
        settings: Mapping[str, int | str] | None = None,
        columns: tuple[str, ...] = COLUMNS,
    ) -> None:
        """Prepare for rows of one shape.

        Args:
            path: The `.npy`; its neighbours' names follow.
            shape: Of one row.
            dtype: float32 or float16.
            header: Written when all is done, with the labels of the rows as its classes.
            settings: What else the values depend on, down to their last bits: `resume` demands that it is as it was.
            columns: Of the `.tsv`.

        Raises:
            UsageError: The path does not end in .npy, or a neighbour's name belongs to a file that is no part of features.
        """
        self.path, self.shape, self.dtype, self.header = Path(path), tuple(shape), np.dtype(dtype), header
        self.settings, self.columns = dict(settings or {}), columns
        self._final = [beside(self.path, suffix) for suffix in (".npy", ".tsv", ".json")]
        self._parts = [file.with_name(f"{file.name}.part") for file in self._final]
        check_neighbours(self.path)
        self.count = 0
        self._labels: set[str] = set()
        self._values: BinaryIO
        self._listed: BinaryIO

    def __enter__(self) -> Self:
        """Start over, unless `resume` has taken up an earlier run."""
        if not hasattr(self, "_values"):
            values, listed, described = self._parts
            described.unlink(missing_ok=True)  # what it describes is about to go
            self._values, self._listed = values.open("wb"), listed.open("wb")
            with atomic.naming(self.path):
                self._values.write(self._npy_header(_MOST_ROWS))
                self._listed.write(manifest.render([], columns=self.columns))
                self._values.flush()
                self._listed.flush()
            with atomic.writing(described) as file:
                file.write(self._fingerprint())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the files their names; after an error leave the parts for `resume`, if there are rows in them."""
        with atomic.naming(self.path), self._values, self._listed:
            if kind is None:
                self._values.seek(0)
                self._values.write(self._npy_header(self.count))
                for file in (self._values, self._listed):
                    file.flush()
                    os.fsync(file.fileno())
        if kind is not None:
            if not self.count:
                for part in reversed(self._parts):
                    part.unlink(missing_ok=True)
            return
        values, listed, described = self._final
        described.unlink(missing_ok=True)  # nothing is complete until it is back
        self._parts[0].replace(values)
        self._parts[1].replace(listed)
        with atomic.writing(described) as file:
            file.write(_encoded(self.header.but(classes=tuple(sorted(self._labels)) or None)))
        self._parts[2].unlink()

    def finished(self) -> list[ManifestRow] | None:
        """Read the rows of an earlier run that came to its end with the same header, shape and dtype; None where there is none."""
        _, listed, described = self._final
        if not described.exists():
            return None
        earlier = Header.from_json(described.read_text(encoding="utf-8", errors="surrogateescape"), name=str(described))
        if earlier.but(classes=None) != self.header.but(classes=None):
            return None
        values = load_values(self.path)
        rows = manifest.load(listed, views=self.header.has_views)
        if values.dtype != self.dtype or values.shape != (len(rows), *self.shape):
            return None
        return rows

    def resume(self, *, multiple_of: int) -> list[ManifestRow]:
        """Go on from what an interrupted run left, cut back to whole batches.

        Args:
            multiple_of: The batch: rows of a batch that was not finished are computed again, so that every batch holds the same rows.

        Returns:
            The rows that stand; empty where there is nothing to go on from.

        Raises:
            FormatError: What is there was begun with other settings.
        """
        values, listed, described = self._parts
        if not described.exists():
            return []
        self._check_settings(json.loads(described.read_text(encoding="utf-8", errors="surrogateescape")))
        if not self._final[2].exists():  # stopped while the files were given their names
            for part, final in zip(self._parts[:2], self._final[:2], strict=True):
                if not part.exists() and final.exists():
                    final.replace(part)
        if not (values.exists() and listed.exists()):
            return []
        whole = listed.read_bytes().rpartition(b"\n")[0]  # a row without its newline was cut short
        rows = list(manifest.parse(whole.split(b"\n"), name=str(listed), views=self.header.has_views)) if whole else []
        start = len(self._npy_header(_MOST_ROWS))
        row_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        count = min(len(rows), max(values.stat().st_size - start, 0) // row_bytes) // multiple_of * multiple_of
        if not count:
            return []
        kept = manifest.render(rows[:count], columns=self.columns)
        self._values, self._listed = values.open("r+b"), listed.open("r+b")
        self._values.truncate(start + count * row_bytes)
        self._listed.truncate(len(kept))
        for file in (self._values, self._listed):
            file.seek(0, io.SEEK_END)
        self.count = count
        self._labels = _labels(rows[:count])
        return rows[:count]

    def write(self, values: NDArray[Any], rows: Sequence[ManifestRow]) -> None:
        """Add rows: the values first, so that a listed image always has its values."""
        assert values.shape == (len(rows), *self.shape)
        with atomic.naming(self.path):
            self._values.write(np.ascontiguousarray(values, dtype=self.dtype).data)
            self._values.flush()
            self._listed.write(manifest.render(rows, columns=self.columns).partition(b"\n")[2])
            self._listed.flush()
        self.count += len(rows)
        self._labels |= _labels(rows)

    def _npy_header(self, count: int) -> bytes:
        """Give the .npy header for this many rows; its length does not depend on them."""
        buffer = io.BytesIO()
        # numpy pads the header so that the first axis may grow to any number
        np.lib.format.write_array_header_1_0(
            buffer, {"descr": self.dtype.str, "fortran_order": False, "shape": (count, *self.shape)}
        )
        return buffer.getvalue()

    def _described(self) -> dict[str, Any]:
        """Say what the values depend on, by names that a message can use."""
        header = json.loads(self.header.to_json())
        parts = {
            f"{part} {key}": value
            for part in ("backbone", "preprocess", "training")
            for key, value in (header.pop(part) or {}).items()
        }
        return {**self.settings, **parts, "dtype": self.dtype.name, "shape": list(self.shape), **header}

    def _fingerprint(self) -> bytes:
        return json.dumps(self._described()).encode()

    def _check_settings(self, begun: Mapping[str, Any]) -> None:
        now = json.loads(self._fingerprint())
        for name in {**now, **begun}:
            if begun.get(name) != now.get(name):
                raise FormatError(
                    f"{self._parts[0]}: begun with {name} {begun.get(name)}, now {now.get(name)}; begin anew without --resume"
                )


def _labels(rows: Sequence[ManifestRow]) -> set[str]:
    return {row.label for row in rows if row.label is not None}


def _encoded(header: Header) -> bytes:
    return f"{header.to_json()}\n".encode("utf-8", "surrogateescape")
