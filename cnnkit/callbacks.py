"""Callbacks for progress, skipped images and finished epochs, passed to the library as one value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cnnkit.errors import BadImageError

#: How many items are done, and of how many (None where unknown).
Progress = Callable[[int, int | None], None]

#: Called with path and reason for an image that cannot be used.
Skip = Callable[[str, str], None]

#: Called with the name of each new phase, "exporting" say; progress starts again at 0.
Phase = Callable[[str], None]

#: Called with each record when it is ready, such as an epoch of training.
Report = Callable[[Any], None]


def ignore_progress(_done: int, _total: int | None) -> None:
    """Do nothing."""


def ignore_phase(_name: str) -> None:
    """Do nothing."""


def ignore_report(_record: object) -> None:
    """Do nothing."""


def ignore_skip(_path: str, _reason: str) -> None:
    """Do nothing."""


def raise_skip(path: str, reason: str) -> None:
    """Stop at an image that cannot be used.

    Raises:
        BadImageError: Always.
    """
    raise BadImageError(f"{path}: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """The callbacks. By default nothing is reported, and an image that cannot be used is an error."""

    progress: Progress = ignore_progress
    phase: Phase = ignore_phase
    skip: Skip = raise_skip
    report: Report = ignore_report


#: For the other processes of a group, of which only the first one reports.
SILENT = Callbacks(skip=ignore_skip)
