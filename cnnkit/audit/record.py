"""The records of a check: findings, and pairs of images that belong together."""

from dataclasses import dataclass
from enum import StrEnum

from cnnkit.data.source import ImageFile


class Level(StrEnum):
    """How much a finding matters."""

    ERROR = "error"  # no image, contradictory, or known to both training and test
    WARNING = "warning"  # results will mislead unless somebody looks
    NOTE = "note"  # good to know


class FindingKind(StrEnum):
    """What was found."""

    UNREADABLE = "unreadable"
    EMPTY = "empty"
    BROKEN = "broken"
    PASSED = "passed"  # lies in the folders, but is not read
    EXTENSION = "extension"  # belongs to another format than the content
    SIZE = "size"
    PLAIN = "plain"  # of one colour
    RANGE = "range"  # a small share of what its bit depth holds
    EXIF = "exif"
    MODE = "mode"
    TWICE = "twice"  # one file, listed twice
    IDENTICAL = "identical"  # two files, byte for byte the same
    ALIKE = "alike"  # to the eye
    NEIGHBOUR = "neighbour"  # in feature space
    LABEL = "label"
    GROUP = "group"  # in several splits
    BALANCE = "balance"
    LEAK = "leak"  # what is not content tells the class, or the split


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding, about an image, about two, or about the whole set."""

    level: Level
    finding: FindingKind
    path: str | None
    other: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images that belong together, the earlier one second."""

    kind: FindingKind
    path: ImageFile
    other: ImageFile
    detail: str = ""
