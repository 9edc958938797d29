"""The training history beside a model, `head.csv` beside `head.pt`: one row an epoch, flushed as it happens."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from cnnkit.errors import UsageError

COLUMNS = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds")


class Writer:
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
        self._file: TextIO

    def __enter__(self) -> Self:
        """Begin with the header row."""
        self._file = self.path.open("w", encoding="utf-8", newline="\n")
        self._file.write(",".join(COLUMNS) + "\n")
        self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; what is written stays, after an error too."""
        self._file.close()

    def write(self, record: Any) -> None:  # noqa: ANN401 - any dataclass with these fields
        """Add one epoch; what was not measured is an empty field."""
        row: Mapping[str, Any] = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        self._file.write(",".join(_number(row[column]) for column in COLUMNS) + "\n")
        self._file.flush()


def _is_history(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline().rstrip(b"\r\n") == ",".join(COLUMNS).encode()


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"
