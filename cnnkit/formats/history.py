"""The training history next to a model, `head.csv` next to `head.pt`: one row per epoch, flushed after each.

That of cnn-finetune has a row 0 with the validation measures before training, if the network was already trained.
"""

import codecs
import csv
import dataclasses
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from cnnkit import files
from cnnkit.choices import Monitor
from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import atomic, delimited

log = logging.getLogger("cnnkit")

#: Names of the columns in other programs, in lower case: Keras' CSVLogger, ultralytics' results.csv, Lightning's CSVLogger, timm's
#: summary.csv. The first one that a file has is used.
_OTHER_NAMES = {
    "train_loss": ("loss", "train/loss", "train_loss_epoch", "training_loss"),
    "train_accuracy": (
        *("accuracy", "acc", "categorical_accuracy", "sparse_categorical_accuracy", "binary_accuracy"),
        *("train_acc", "train/acc", "train/accuracy", "train_acc_epoch", "train_accuracy_epoch"),
    ),
    "val_loss": ("val/loss", "val_loss_epoch", "valid_loss", "validation_loss", "eval_loss"),
    "val_accuracy": (
        *("val_acc", "val_categorical_accuracy", "val_sparse_categorical_accuracy", "val_binary_accuracy"),
        *("metrics/accuracy_top1", "val/acc", "val/accuracy", "val_acc_epoch", "val_accuracy_epoch"),
        *("valid_acc", "valid_accuracy", "validation_accuracy", "eval_accuracy", "eval_top1"),
    ),
    "lr": ("learning_rate", "lr/pg0"),
}
#: Columns that are always in percent; others are, if a value is above 1.
_PERCENT = frozenset({"eval_top1"})
_ACCURACIES = ("train_accuracy", "val_accuracy")
#: Rounding error of a mean in float32, allowed above its bound.
_ROUNDING = 1e-5

COLUMNS = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds")
#: Columns of networks that also predict a box.
_OF_BOXES = ("val_iou",)


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One epoch of a history; a value that was not measured is None."""

    epoch: int
    train_loss: float | None = None
    train_accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    lr: float | None = None
    seconds: float | None = None
    val_iou: float | None = None

    @property
    def is_start(self) -> bool:
        """Whether it is the network before training, as cnn-finetune measures it; other programs count epochs from 0."""
        return self.epoch == 0 and self.train_loss is None and self.train_accuracy is None


class Validated(Protocol):
    """The validation results of an epoch."""

    @property
    def val_loss(self) -> float | None:
        """Mean loss on the validation set."""

    @property
    def val_accuracy(self) -> float | None:
        """Share of correct predictions on the validation set."""


def rank(epoch: Validated, monitor: Monitor) -> tuple[float, float]:
    """Return a sort key, higher for a better epoch; of equal accuracies the lower loss is better."""
    lost = epoch.val_loss
    loss = -math.inf if lost is None or not math.isfinite(lost) else -lost
    return (loss, 0.0) if monitor is Monitor.VAL_LOSS else (epoch.val_accuracy or 0.0, loss)


class HistoryWriter:
    """Write a history during training; `tail -f` shows every epoch as it ends."""

    def __init__(self, path: Path) -> None:
        """Prepare to replace a history.

        Raises:
            UsageError: The existing file is not a history.
        """
        self.path = path
        if path.is_file() and path.stat().st_size and not _is_history(path):
            raise UsageError(
                f"{path}: would be overwritten by the history, but is not one; choose another name for the model"
            )
        self._file: FileIO | None = None
        self._columns: tuple[str, ...] = COLUMNS

    def __enter__(self) -> Self:
        """Return the writer; an existing history stays until the first epoch ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; it is kept after an error too."""
        if self._file is not None:
            self._file.close()

    def write(self, record: Any) -> None:  # noqa: ANN401 - any dataclass with these fields
        """Append one epoch; a value that was not measured is an empty field."""
        row: Mapping[str, Any] = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        with atomic.naming(self.path):
            if self._file is None:
                self._file = self.path.open("wb", buffering=0)
                self._columns = (*COLUMNS, *(column for column in _OF_BOXES if column in row))
                self._file.write((",".join(self._columns) + "\n").encode())
            self._file.write((",".join(_number(row[column]) for column in self._columns) + "\n").encode())


def _is_history(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.readline().rstrip(b"\r\n")
        return head in (",".join(COLUMNS).encode(), ",".join((*COLUMNS, *_OF_BOXES)).encode())


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def read(path: str | Path) -> list[HistoryRow]:
    """Read a history, also during training.

    Args:
        path: A `.csv` written by `HistoryWriter` or by another program. Further columns are ignored.

    Returns:
        The epochs, in order; empty before the first one ends.

    Raises:
        FormatError: It is not a history, or a row is broken.
        OSError: It cannot be read.
    """
    with files.open_text(path) as file:
        return parse(file, name=str(path))


def parse(lines: Iterable[bytes], *, name: str) -> list[HistoryRow]:
    """Read a history from its lines; an incomplete last line, which is still being written, is ignored.

    Args:
        lines: The lines of the file, with their ends.
        name: The file, for messages.

    Raises:
        FormatError: It is not a history, a row is broken, epochs do not increase, or an accuracy is out of range.
    """
    table: _Table | None = None
    rows: list[HistoryRow] = []
    ended = (each for line in lines for each in line.splitlines(keepends=True))  # CR alone also ends a line
    for number, line in enumerate(ended, start=1):
        if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise FormatError(f"{name}: UTF-16; save it as UTF-8")
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", "replace").strip()
        if not text:
            continue
        if table is None:
            table = _Table.of(text, name=name)
            continue
        try:
            row = table.row(text, where=f"{name}:{number}")
        except FormatError:
            if line.endswith((b"\n", b"\r")):
                raise
            break
        if (
            rows and row.epoch == rows[-1].epoch and not table.is_own
        ):  # Lightning writes separate rows for training and validation
            rows[-1] = _together(rows[-1], row)
            continue
        if rows and row.epoch <= rows[-1].epoch:
            raise FormatError(
                f"{name}:{number}: epoch {row.epoch} after epoch {rows[-1].epoch}; does the file contain several histories?"
            )
        rows.append(row)
    if table is None:
        raise FormatError(f"{name}: empty; a history begins with the header row {','.join(COLUMNS)}")
    return _with_shares(rows, table, name=name)


def _with_shares(rows: list[HistoryRow], table: "_Table", *, name: str) -> list[HistoryRow]:
    """Return the rows with accuracies as shares: a column with a value above 1 is in percent.

    Raises:
        FormatError: An accuracy is below 0, or above 100.
    """
    percent: dict[str, str] = {}  # our column -> the file's column and its largest value
    for column in _ACCURACIES:
        values = [value for row in rows if (value := getattr(row, column)) is not None and math.isfinite(value)]
        if not values:
            continue
        called = table.columns[table.places[column]]
        known = called.lower() in _PERCENT  # already divided
        for value in (min(values), max(values)):
            if not 0 <= value <= (1 if known else 100) + _ROUNDING:
                raise FormatError(
                    f"{name}: {called} {100 * value if known else value:g} is not an accuracy; expected a share from 0 to 1, or 0 to "
                    "100 percent"
                )
        if max(values) > 1 + _ROUNDING:
            percent[column] = f"{called} (up to {max(values):g})"
    if not percent:
        return rows
    log.info("%s: read as percent, divided by 100: %s", name, ", ".join(percent.values()))
    return [
        dataclasses.replace(
            row, **{column: value / 100 for column in percent if (value := getattr(row, column)) is not None}
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class _Table:
    """A header row: the position of each measure."""

    columns: list[str]
    places: Mapping[str, int]
    delimiter: str
    is_own: bool

    @classmethod
    def of(cls, text: str, *, name: str) -> Self:
        """Read a header row.

        Raises:
            FormatError: It has no column for the epoch, or none for a loss or accuracy.
        """
        delimiter = next((each for each in ",;\t" if each in text), ",")
        columns = _fields(text, delimiter, where=name)
        if set(COLUMNS) <= set(columns):
            own = [*COLUMNS, *(column for column in _OF_BOXES if column in columns)]
            return cls(columns, {column: columns.index(column) for column in own}, delimiter, is_own=True)
        lower = [column.lower() for column in columns]
        places = {}
        for column in COLUMNS:
            found = [each for each in (column, *_OTHER_NAMES.get(column, ())) if each in lower]
            if found:
                places[column] = lower.index(found[0])
        if "epoch" not in places or not places.keys() & {"train_loss", "train_accuracy", "val_loss", "val_accuracy"}:
            raise FormatError(_no_history(name, columns))
        return cls(columns, places, delimiter, is_own=False)

    def row(self, text: str, *, where: str) -> HistoryRow:
        """Read one epoch.

        Raises:
            FormatError: A field is missing, or not a number.
        """
        fields = _fields(text, self.delimiter, where=where)
        if len(fields) != len(self.columns):
            raise FormatError(f"{where}: {len(fields)} fields, but the header row has {len(self.columns)}")
        found = {column: fields[place] for column, place in self.places.items()}
        epoch = found.pop("epoch")
        if not self.is_own and epoch.endswith(".0"):
            epoch = epoch[:-2]
        if not (epoch.isascii() and epoch.isdecimal() and len(epoch) < 10):
            raise FormatError(f'{where}: epoch "{epoch}" is not a whole number')
        measures: dict[str, float | None] = {}
        for column, value in found.items():
            called = self.columns[self.places[column]]
            try:
                number = (
                    float(value) if value not in ("", "NA") else None
                )  # Keras writes NA for a value that it did not measure
            except ValueError as error:
                delimited.check_decimal_point(value, called, where=where, name=where.rpartition(":")[0])
                raise FormatError(f'{where}: {called} "{value}" is not a number') from error
            measures[column] = number / 100 if number is not None and called.lower() in _PERCENT else number
        return HistoryRow(int(epoch), **measures)


def _fields(text: str, delimiter: str, *, where: str) -> list[str]:
    try:
        (fields,) = csv.reader([text], delimiter=delimiter, skipinitialspace=True)
    except csv.Error as error:  # a field of more than 131,072 characters
        raise FormatError(f"{where}: not a table row ({error})") from error
    return [field.strip() for field in fields]


def _together(one: HistoryRow, other: HistoryRow) -> HistoryRow:
    """Merge two rows of one epoch; values of the later row take precedence."""
    return dataclasses.replace(
        one, **{name: value for name, value in dataclasses.asdict(other).items() if value is not None}
    )


def _no_history(name: str, columns: Sequence[str]) -> str:
    path = Path(name)
    if path.suffix == ".pt":
        history = path.with_suffix(".csv")
        where = f"its history is {history}" if history.is_file() else f"its history {history} does not exist"
        return f"{name}: a model; {where}"
    if path.suffix in (".png", ".svg", ".pdf"):
        return f"{name}: a figure, not a training history; to write one, give -o {name}"
    has = ", ".join(column[:40] for column in columns[:8]) + (", ..." if len(columns) > 8 else "")
    return (
        f"{name}: not a training history; it needs the column epoch and one of train_loss, train_accuracy, val_loss or "
        f"val_accuracy (or their names in Keras, ultralytics, Lightning or timm); found {has}"
    )
