"""Features on disk: `train.npy`, a plain NumPy array; `train.tsv`, whose row i describes image i; `train.json`, the Header, written last.

    train.npy        float32 or float16, (N, D) or (N, C, H, W)
    train.tsv        path label split group (view); paths are relative to this folder
    train.json       exists only if the features are complete

While they are being written, the first two are called `train.npy.part` and `train.tsv.part`, so that the run can be resumed;
`train.json.part` has the settings in its first line, then the checksums of each block of rows. The writing process locks it.
"""

import contextlib
import filecmp
import hashlib
import io
import json
import logging
import math
import os
import stat
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from cnnkit import files, messages
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import atomic, label_sets, manifest
from cnnkit.formats.header import LONGEST, ArtefactKind, Header
from cnnkit.formats.manifest import ManifestRow

#: Columns of the `.tsv`, followed by `view` if images have several views. Images with several labels have `labels` in place of `label`.
COLUMNS = ("path", "label", "split", "group")

# The header of the .npy is written for this many rows, so that the actual number fits later.
_MOST_ROWS = 10**15

# Rows of features in memory that are written at once.
_ROWS_AT_ONCE = 1024

# Seconds between two fsyncs.
_SYNC_SECONDS = 10.0

log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The features of images.

    Attributes:
        values: An array of floats, (N, D) or (N, C, H, W).
        rows: Path, label, split and group of the image of each row of `values`.
        header: Their backbone and preprocessing.
    """

    values: NDArray[Any]
    rows: list[ManifestRow]
    header: Header

    @property
    def labels(self) -> list[str | None]:
        """The class of each row, None if unknown."""
        return [row.label for row in self.rows]

    @property
    def multi_label(self) -> bool:
        """Whether images have any number of labels, listed in `ManifestRow.labels`, instead of one."""
        return has_several_labels(self.rows)

    def label_matrix(self, classes: Sequence[str] | None = None) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
        """Return the classes and a matrix (N, C): 1 where the image of the row has the label, else 0.

        Args:
            classes: The columns; by default all labels of the rows, sorted.

        Raises:
            CnnkitError: A row has no list of labels, or a label is not among `classes`.
        """
        lacking = next((row.path for row in self.rows if row.labels is None), None)
        if lacking is not None:
            raise CnnkitError(f"{lacking} has no list of labels; extract from a manifest with a column labels")
        named = label_sets.classes(row.labels for row in self.rows) if classes is None else tuple(classes)
        places = {label: place for place, label in enumerate(named)}
        matrix = np.zeros((len(self.rows), len(named)), np.uint8)
        for number, row in enumerate(self.rows):
            for label in row.labels or ():
                if label not in places:
                    raise CnnkitError(f"{row.path} has the label {label}, which is not among the classes")
                matrix[number, places[label]] = 1
        return named, matrix


def has_several_labels(rows: Iterable[ManifestRow]) -> bool:
    """Return whether the images of rows have lists of labels."""
    return any(row.labels is not None for row in rows)


def columns_of(*, views: bool, several_labels: bool) -> tuple[str, ...]:
    """Return the columns of the `.tsv` of features with augmented views, and of images with several labels."""
    columns = tuple("labels" if several_labels and column == "label" else column for column in COLUMNS)
    return (*columns, "view") if views else columns


def sibling(path: Path, suffix: str) -> Path:
    """Return the file with this suffix that belongs to a `.npy`.

    Raises:
        UsageError: The path does not end in .npy.
    """
    if path.suffix != ".npy":
        remedy = f"give -o {messages.output_name(path, '.npy')}"
        raise UsageError(f"{path}: features are written to a .npy file, with a .tsv and a .json next to it; {remedy}")
    return path.with_suffix(suffix)


def load(path: str | Path) -> Features:
    """Read features; the values are memory-mapped.

    Raises:
        UsageError: The path does not end in .npy.
        FormatError: The `.tsv` or `.json` is missing, broken or of another length.
        OSError: It cannot be read.
    """
    path = Path(path)
    if path.suffix != ".npy":
        whole = path.with_suffix(".npy") if path.name.strip(".") else None
        remedy = f"did you mean {whole}?" if whole and whole.is_file() else "give the .npy written by cnn-extract"
        raise UsageError(f"{path}: not a features file; {remedy}")
    described, listed = sibling(path, ".json"), sibling(path, ".tsv")
    if not path.exists():
        raise FormatError(f"{path}: no such file; make features with cnn-extract")
    for neighbour in (described, listed):
        if not neighbour.exists():
            raise FormatError(f"{path}: {neighbour.name} is missing next to it; run cnn-extract again")
    header = load_header(path)
    values = load_values(path)
    rows = manifest.load(listed, views=header.has_views)
    if len(rows) != len(values):
        raise FormatError(f"{path} has {len(values)} rows, {listed.name} has {len(rows)}; run cnn-extract again")
    return Features(values, rows, header)


def load_header(path: str | Path) -> Header:
    """Read the Header that describes a `.npy`.

    Raises:
        FormatError: It is broken, or not the Header of features.
        OSError: It cannot be read.
    """
    described = sibling(Path(path), ".json")
    if described.stat().st_size > 4 * LONGEST:
        raise FormatError(f"{described}: too large for a header; run cnn-extract again")
    text = files.read_regular(described).decode("utf-8", "surrogateescape")
    return Header.from_json(text, name=str(described), kind=ArtefactKind.FEATURES)


def load_values(path: str | Path) -> NDArray[Any]:
    """Memory-map a plain `.npy` of numbers, with or without a `.tsv` and a `.json`.

    Raises:
        FormatError: It is not an array of float16, float32 or float64 with two or four axes, or it has pickled objects.
    """
    files.check_regular(path)
    try:
        values: NDArray[Any] = np.lib.format.open_memmap(
            path, mode="r"
        )  # np.load would also accept archives and pickles
    except OSError:
        raise
    except Exception as error:  # numpy parses the header as Python and raises errors of any type
        raise FormatError(
            f"{path}: not a plain array of numbers, or truncated; make features with cnn-extract"
        ) from error
    if values.ndim not in (2, 4) or values.dtype.kind != "f" or values.dtype.itemsize not in (2, 4, 8):
        raise FormatError(
            f"{path}: found {values.dtype} of shape {values.shape}, expected float (N, D) or (N, C, H, W)"
        )
    if 0 in values.shape[1:]:
        raise FormatError(f"{path}: rows without values (shape {values.shape}); run cnn-extract again")
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def save(path: str | Path, parts: Iterable[Features]) -> None:
    """Write features from memory, with the labels of their rows as the classes of the Header.

    Args:
        path: The `.npy`.
        parts: The features, part by part, of one shape, type and backbone; with paths relative to the folder of the `.npy`.

    Raises:
        UsageError: As `check_neighbours`; there is no part, or parts do not belong together; the number of rows is not that of the values;
            or `load` would refuse the values.
    """
    coming = iter(parts)
    one = next(coming, None)
    if one is None:
        raise UsageError(f"{path}: no features to write")
    _check(path, one)
    columns = columns_of(views=one.header.has_views, several_labels=one.multi_label)
    with FeatureWriter(
        path,
        shape=one.values.shape[1:],
        dtype=one.values.dtype.name,
        header=one.header,
        columns=columns,
        block=_ROWS_AT_ONCE,
    ) as writer:
        for number, part in enumerate(chain([one], coming)):
            _check(path, part)
            if (part.values.dtype, part.values.shape[1:]) != (one.values.dtype, one.values.shape[1:]):
                raise UsageError(
                    f"{path}: part {number} is {part.values.dtype} of shape {part.values.shape}, and part 0 "
                    f"{one.values.dtype} of shape {one.values.shape}"
                )
            if part.header.but(classes=None) != one.header.but(classes=None):
                raise UsageError(f"{path}: part {number} has another header than part 0")
            writer.write(part.values, part.rows)


def _check(path: str | Path, given: Features) -> None:
    """Refuse features that `load` would refuse."""
    if given.values.dtype.name not in ("float16", "float32", "float64") or given.values.ndim not in (2, 4):
        raise UsageError(
            f"{path}: values of {given.values.dtype} and shape {given.values.shape}; "
            "give float16, float32 or float64, (N, D) or (N, C, H, W)"
        )
    if len(given.rows) != len(given.values):
        raise UsageError(f"{path}: {len(given.values)} rows of values, but {len(given.rows)} images")


def check_neighbours(path: str | Path) -> None:
    """Check that writing a `.npy` overwrites no other file: `split.npy` would replace the manifest `split.tsv`.

    Raises:
        UsageError: The path does not end in .npy, or the `.tsv` or `.json` exists and does not belong to features.
    """
    path = Path(path)
    listed, described = sibling(path, ".tsv"), sibling(path, ".json")
    taken = [file for file in (listed, described) if file.exists()]
    if not taken or described.with_name(f"{described.name}.part").exists():
        return
    try:
        load_header(path)
    except (FormatError, OSError) as error:
        raise UsageError(
            f"{path}: {taken[0].name} would be overwritten, and is not from cnn-extract; choose another name"
        ) from error


class FeatureWriter:
    """Write features row by row; an interrupted run can be resumed, and other runs cannot write the same files meanwhile."""

    def __init__(
        self,
        path: str | Path,
        *,
        shape: Sequence[int],
        dtype: str,
        header: Header,
        settings: Mapping[str, int | str] | None = None,
        columns: tuple[str, ...] = COLUMNS,
        block: int = 1,
        skip_unchanged: bool = False,
    ) -> None:
        """Prepare to write rows of one shape.

        Args:
            path: The `.npy`; the names of the `.tsv` and `.json` follow from it.
            shape: Shape of one row.
            dtype: float32 or float16.
            header: Written last, with the labels of the rows as its classes.
            settings: Whatever else the values depend on, to the last bit; `resume` refuses other settings.
            columns: Columns of the `.tsv`, as from `columns_of`.
            block: Rows per checksum, for `resume`.
            skip_unchanged: Leave earlier files alone, with their modification times, if all three have the same bytes.

        Raises:
            UsageError: As `check_neighbours`.
        """
        self.path, self.shape, self.dtype, self.header = Path(path), tuple(shape), np.dtype(dtype), header
        self.settings, self.columns, self.block = dict(settings or {}), columns, block
        self.skip_unchanged = skip_unchanged
        self._final = [sibling(self.path, suffix) for suffix in (".npy", ".tsv", ".json")]
        self._parts = [file.with_name(f"{file.name}.part") for file in self._final]
        check_neighbours(self.path)
        self.count = 0
        self._labels: set[str] = set()
        self._values: BinaryIO | None = None
        self._listed: BinaryIO | None = None
        self._described: BinaryIO | None = None
        self._sums = _Sums()
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        """Start over, unless `resume` has continued an earlier run.

        Raises:
            CnnkitError: Another run writes these files.
        """
        described = self._claim()
        if self._values is None:
            try:
                with atomic.naming(self.path):
                    self._start_over(described)
            except BaseException:
                self._let_go()
                raise
        return self

    def _start_over(self, described: BinaryIO) -> None:
        described.truncate(0)  # the parts that it describes are removed next
        self._values = _emptied(self._parts[0], output=self.path)
        self._listed = _emptied(self._parts[1], output=self.path)
        self._values.write(self._npy_header(_MOST_ROWS))
        self._listed.write(manifest.render([], columns=self.columns))
        self._values.flush()
        self._listed.flush()
        described.seek(0)
        described.write(self.fingerprint.encode() + b"\n")
        described.flush()

    def _let_go(self) -> None:
        """Remove the parts begun, and release the lock, so that another writer may try."""
        begun = (self._values, self._listed, self._described)
        for part, file in reversed([*zip(self._parts, begun, strict=True)]):
            if file is not None:
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # what could not be written cannot be flushed
                    file.close()
        self._values = self._listed = self._described = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Rename the parts to the final files; after an error keep parts that have rows, for `resume`."""
        assert self._values
        assert self._listed
        assert self._described
        with self._described:  # keep the lock until the end
            with atomic.naming(self.path), self._values, self._listed:
                if kind is None:
                    self._values.seek(0)
                    self._values.write(self._npy_header(self.count))
                self._sync()
            if kind is not None:
                if not self.count:
                    for part in reversed(self._parts):
                        part.unlink(missing_ok=True)
                return
            header = _encoded(self.header.but(classes=tuple(sorted(self._labels)) or None))
            if self.skip_unchanged and self._is_unchanged(header):
                for part in self._parts[:2]:
                    part.unlink()
            else:
                values, listed, described = self._final
                described.unlink(missing_ok=True)  # without it the features count as incomplete
                self._parts[0].replace(values)
                self._parts[1].replace(listed)
                with atomic.writing(described) as file:
                    file.write(header)
            if sys.platform == "win32":  # an open file cannot be removed
                self._described.close()
            self._parts[2].unlink()

    def _is_unchanged(self, header: bytes) -> bool:
        """Return whether the earlier files have the bytes of the parts and of this header."""
        if not all(file.is_file() for file in self._final):
            return False
        same = all(
            part.stat().st_size == final.stat().st_size and filecmp.cmp(part, final, shallow=False)
            for part, final in zip(self._parts[:2], self._final[:2], strict=True)
        )
        same = same and self._final[2].read_bytes() == header
        if same:
            log.info("%s is unchanged", self.path)
        return same

    def _claim(self) -> BinaryIO:
        """Open and lock the `.json.part`, which only one run can do at a time."""
        if self._described is None:
            self._described = os.fdopen(atomic.open_locked(self._parts[2], output=self.path), "r+b")
        return self._described

    def _sync(self) -> None:
        for file in (self._values, self._listed, self._described):
            assert file is not None
            file.flush()
            os.fsync(file.fileno())
        self._synced = time.monotonic()

    def finished(self) -> list[ManifestRow] | None:
        """Return the rows of a finished earlier run with the same header, shape and dtype, or None."""
        _, listed, _ = self._final
        if not all(file.exists() for file in self._final):
            return None
        earlier = load_header(self.path)
        if earlier.but(classes=None) != self.header.but(classes=None):
            return None
        values = load_values(self.path)
        rows = manifest.load(listed, views=self.header.has_views)
        if values.dtype != self.dtype or values.shape != (len(rows), *self.shape):
            return None
        return rows

    def resume(self, *, multiple_of: int) -> list[ManifestRow]:
        """Continue an interrupted run from its last whole batch whose checksums are right.

        Args:
            multiple_of: The batch size: an unfinished batch is computed again, so that every batch has the same rows.

        Returns:
            The rows that are kept; empty if there is nothing to resume.

        Raises:
            FormatError: The interrupted run had other settings.
            CnnkitError: Another run writes these files.
        """
        assert multiple_of % self.block == 0
        if not self._parts[2].exists():
            return []
        try:
            return self._resumed(multiple_of)
        finally:
            if self._values is None and self._described is not None:
                self._described.close()
                self._described = None

    def _resumed(self, multiple_of: int) -> list[ManifestRow]:
        values, listed, _ = self._parts
        begun, *sums = self._claim().read().split(b"\n")
        settings = _settings(begun)
        if settings is None:
            return []
        self._check_settings(settings)
        if not self._final[2].exists():  # stopped while the parts were being renamed
            for part, final in zip(self._parts[:2], self._final[:2], strict=True):
                if not part.exists() and final.exists():
                    final.replace(part)
        if not (_is_own(values) and _is_own(listed)):
            return []
        lines = listed.read_bytes().split(b"\n")[:-1]  # a row without its newline is incomplete
        noted = [line for line in sums if line]
        intact = self._count_intact(values, lines[1:], noted)
        count = intact // multiple_of * multiple_of
        if intact < len(noted) * self.block:
            log.warning("%s: damaged; only the first %d of %d rows are kept", values, count, len(noted) * self.block)
        if not count:
            return []
        rows = list(manifest.parse(lines[: count + 1], name=str(listed), views=self.header.has_views))
        kept = manifest.render(rows, columns=self.columns)
        if len(rows) != count or kept != b"\n".join([*lines[: count + 1], b""]):
            return []
        self._values, self._listed = values.open("r+b"), listed.open("r+b")
        self._values.truncate(self._start + count * self._row_bytes)
        self._listed.truncate(len(kept))
        for file in (self._values, self._listed):
            file.seek(0, io.SEEK_END)
        assert self._described is not None
        self._described.seek(len(begun) + 1 + sum(len(line) + 1 for line in sums[: count // self.block]))
        self._described.truncate()
        self.count = count
        self._labels = _labels(rows)
        return rows

    def _count_intact(self, values: Path, lines: Sequence[bytes], sums: Sequence[bytes]) -> int:
        """Count the leading rows whose blocks have the right checksums."""
        with values.open("rb") as file:
            file.seek(self._start)
            for number, line in enumerate(sums):
                first = number * self.block
                block = _Sums()
                block.add(
                    file.read(self._row_bytes * self.block),
                    b"".join(row + b"\n" for row in lines[first : first + self.block]),
                )
                if block.line() != line:
                    return first
        return len(sums) * self.block

    def write(self, values: NDArray[Any], rows: Sequence[ManifestRow]) -> None:
        """Add rows: values first, so that a listed image always has its values."""
        assert values.shape == (len(rows), *self.shape)
        odd = next((row for row in rows if (row.labels is None) is ("labels" in self.columns)), None)
        if odd is not None:
            raise CnnkitError(
                f"{odd.path} has {'one label or none' if odd.labels is None else 'a list of labels'}, and other images "
                f"{'lists of labels' if odd.labels is None else 'one label or none'}; extract them to files of their own"
            )
        with atomic.naming(self.path):
            start = 0
            while start < len(rows):
                stop = min(len(rows), start + self.block - self.count % self.block)
                self._add(values[start:stop], rows[start:stop])
                start = stop
        self._labels |= _labels(rows)

    def _add(self, values: NDArray[Any], rows: Sequence[ManifestRow]) -> None:
        """Add rows of one block."""
        assert self._values
        assert self._listed
        assert self._described
        numbers = np.ascontiguousarray(values, dtype=self.dtype).data
        lines = manifest.render(rows, columns=self.columns).partition(b"\n")[2]
        self._values.write(numbers)
        self._values.flush()
        self._listed.write(lines)
        self._listed.flush()
        self.count += len(rows)
        self._sums.add(numbers, lines)
        if self.count % self.block == 0:
            self._described.write(self._sums.line() + b"\n")
            self._described.flush()
            self._sums = _Sums()
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                self._sync()

    @property
    def _start(self) -> int:
        """Offset of the values in the `.npy`, in bytes."""
        return len(self._npy_header(_MOST_ROWS))

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def _npy_header(self, count: int) -> bytes:
        """Return the .npy header for this many rows; its length is the same for any number."""
        buffer = io.BytesIO()
        # numpy pads the header so that the first axis may grow
        np.lib.format.write_array_header_1_0(
            buffer, {"descr": self.dtype.str, "fortran_order": False, "shape": (count, *self.shape)}
        )
        return buffer.getvalue()

    def _description(self) -> dict[str, Any]:
        """Return what the values depend on, under names that fit into a message."""
        header = json.loads(self.header.to_json())
        parts = {
            f"{part} {key}": value
            for part in ("backbone", "preprocess", "training")
            for key, value in (header.pop(part) or {}).items()
        }
        return {**self.settings, **parts, "dtype": self.dtype.name, "shape": list(self.shape), **header}

    @property
    def fingerprint(self) -> str:
        """What the values depend on, to the last bit, except for the images."""
        return json.dumps(self._description())

    def _check_settings(self, begun: Mapping[str, Any]) -> None:
        now = json.loads(self.fingerprint)
        for name in {**now, **begun}:
            if begun.get(name) != now.get(name):
                raise FormatError(
                    f"{self._parts[0]}: started with {name} {begun.get(name)}, now {now.get(name)}; start over without --resume"
                )


class _Sums:
    """Checksums of a block of rows: of its values, and of its lines in the `.tsv`."""

    def __init__(self) -> None:
        self._values, self._lines = hashlib.sha256(), hashlib.sha256()

    def add(self, values: bytes | memoryview, lines: bytes) -> None:
        self._values.update(values)
        self._lines.update(lines)

    def line(self) -> bytes:
        """Return their line in the `.json.part`."""
        return f"{self._values.hexdigest()[:16]} {self._lines.hexdigest()[:16]}".encode()


def _settings(line: bytes) -> Mapping[str, Any] | None:
    """Read the settings of an unfinished run; None if it was stopped before they were written, or the line is damaged."""
    try:
        begun = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return begun if isinstance(begun, dict) else None


def _is_own(part: Path) -> bool:
    """Return whether a part is a regular file with one name, as a run leaves it: writing to a link would change another file."""
    try:
        found = part.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def _emptied(part: Path, *, output: Path) -> BinaryIO:
    """Open a part as a new, empty file."""
    if os.path.lexists(part) and not part.is_symlink() and not part.is_file():
        raise CnnkitError(f"{part} is in the way, and is not a file; remove it")
    part.unlink(missing_ok=True)  # do not write through a link or a second hard link
    with atomic.naming(output):
        return part.open("xb")


def _labels(rows: Sequence[ManifestRow]) -> set[str]:
    return {row.label for row in rows if row.label is not None}.union(*(row.labels for row in rows if row.labels))


def _encoded(header: Header) -> bytes:
    return f"{header.to_json()}\n".encode("utf-8", "surrogateescape")
