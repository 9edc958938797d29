"""The training history next to a model, `head.csv` next to `head.pt`: one row an epoch, flushed as it happens."""

import dataclasses
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
from cnnkit.formats import atomic

COLUMNS = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds")


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One epoch as a history tells it; what was not measured is None, what is not finite is NaN."""

    epoch: int
    train_loss: float | None = None
    train_accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    lr: float | None = None
    seconds: float | None = None


class Validated(Protocol):
    """What says how good an epoch is."""

    @property
    def val_loss(self) -> float | None:
        """The mean loss on the validation set."""

    @property
    def val_accuracy(self) -> float | None:
        """The share of correct predictions there."""


def rank(epoch: Validated, monitor: Monitor) -> tuple[float, float]:
    """Give what is higher for a better epoch; of equal accuracies the one with the lower loss is better."""
    lost = epoch.val_loss
    loss = -math.inf if lost is None or not math.isfinite(lost) else -lost
    return (loss, 0.0) if monitor is Monitor.VAL_LOSS else (epoch.val_accuracy or 0.0, loss)


class HistoryWriter:
    """Write a history while training goes on; who follows it with `tail -f` sees every epoch."""

    def __init__(self, path: Path) -> None:
        """Prepare to replace a history.

        Raises:
            UsageError: What stands there is a table of something else.
        """
        self.path = path
        if path.is_file() and path.stat().st_size and not _is_history(path):
            raise UsageError(
                f"{path}: the history belongs there, but that file is none; choose another name for the model"
            )
        self._file: FileIO | None = None

    def __enter__(self) -> Self:
        """Begin; what stood there before stays until the first epoch is done."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; what is written stays, after an error too."""
        if self._file is not None:
            self._file.close()

    def write(self, record: Any) -> None:  # noqa: ANN401 - any dataclass with these fields
        """Add one epoch; what was not measured is an empty field."""
        row: Mapping[str, Any] = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        with atomic.naming(self.path):
            if self._file is None:
                self._file = self.path.open("wb", buffering=0)
                self._file.write((",".join(COLUMNS) + "\n").encode())
            self._file.write((",".join(_number(row[column]) for column in COLUMNS) + "\n").encode())


def _is_history(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline().rstrip(b"\r\n") == ",".join(COLUMNS).encode()


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def read(path: str | Path) -> list[HistoryRow]:
    """Read a history, also one whose training still goes on.

    Args:
        path: A `.csv` that a `Writer` wrote. Other columns may stand next to ours.

    Returns:
        The epochs, in order; none where the first is not finished yet.

    Raises:
        FormatError: It is no history, or a row is broken.
        OSError: It cannot be read.
    """
    with files.open_text(path) as file:
        return parse(file, name=str(path))


def parse(lines: Iterable[bytes], *, name: str) -> list[HistoryRow]:
    """Read a history from its lines; a last one without its end is still being written, and left out if it lacks fields.

    Args:
        lines: The lines of the file, with their ends.
        name: The file, for messages.

    Raises:
        FormatError: It is no history, a row is broken, or epochs do not follow one another.
    """
    columns: list[str] | None = None
    rows: list[HistoryRow] = []
    for number, line in enumerate(lines, start=1):
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", "replace").strip()
        if not text:
            continue
        fields = [field.strip() for field in text.split(",")]
        if columns is None:
            columns = fields
            if not set(COLUMNS) <= set(columns):
                raise FormatError(_no_history(name))
            continue
        try:
            row = _row(columns, fields, where=f"{name}:{number}")
        except FormatError:
            if line.endswith(b"\n"):
                raise
            break
        if rows and row.epoch <= rows[-1].epoch:
            raise FormatError(
                f"{name}:{number}: epoch {row.epoch} after epoch {rows[-1].epoch}; is this more than one history?"
            )
        rows.append(row)
    if columns is None:
        raise FormatError(f"{name}: empty; a history begins with the header row {','.join(COLUMNS)}")
    return rows


def _row(columns: Sequence[str], fields: Sequence[str], *, where: str) -> HistoryRow:
    if len(fields) != len(columns):
        raise FormatError(f"{where}: {len(fields)} fields, but the header row has {len(columns)}")
    found = dict(zip(columns, fields, strict=True))
    if not found["epoch"].isdecimal():
        raise FormatError(f'{where}: epoch "{found["epoch"]}" is no whole number')
    measures: dict[str, float | None] = {}
    for column in COLUMNS[1:]:
        try:
            measures[column] = float(found[column]) if found[column] else None
        except ValueError as error:
            raise FormatError(f'{where}: {column} "{found[column]}" is no number') from error
    return HistoryRow(int(found["epoch"]), **measures)


def _no_history(name: str) -> str:
    path = Path(name)
    if path.suffix == ".pt":
        beside = path.with_suffix(".csv")
        where = f"its history is {beside}" if beside.is_file() else f"its history should be {beside}, but is not there"
        return f"{name}: a model; {where}"
    return f"{name}: no history of a training; that begins with the header row {','.join(COLUMNS)}"
