"""What a caller hears of work that goes on: progress, skipped images and finished epochs, as one value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cnnkit.errors import BadImageError

#: How many are done, and of how many (None where it is not known).
Progress = Callable[[int, int | None], None]

#: What to do about an image that cannot be used: path and reason.
Skip = Callable[[str, str], None]

#: What is done from now on, in a word or two: "exporting". Progress begins again with it.
Phase = Callable[[str], None]

#: Called with every record as it is made: an epoch of a training.
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
    """Refuse to go on without the image.

    Raises:
        BadImageError: Always.
    """
    raise BadImageError(f"{path}: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """By default nothing is shown or reported, and an image that cannot be used is an error."""

    progress: Progress = ignore_progress
    phase: Phase = ignore_phase
    skip: Skip = raise_skip
    report: Report = ignore_report


#: For processes whose first one speaks for all.
SILENT = Callbacks(skip=ignore_skip)
