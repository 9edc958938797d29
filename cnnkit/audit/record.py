"""Records of a check: findings, and pairs of images that belong together."""

from dataclasses import dataclass
from enum import StrEnum

from cnnkit.data.source import ImageFile


class Level(StrEnum):
    """How much a finding matters."""

    ERROR = "error"  # not an image, contradictory labels, or in both training and test set
    WARNING = "warning"  # results may mislead
    NOTE = "note"  # good to know


class FindingKind(StrEnum):
    """What was found."""

    UNREADABLE = "unreadable"
    EMPTY = "empty"
    BROKEN = "broken"
    IGNORED = "ignored"  # in a folder, but not read
    EXTENSION = "extension"  # contradicts the content
    SIZE = "size"
    PLAIN = "plain"  # one colour
    RANGE = "range"  # a small share of the bit depth is used
    EXIF = "exif"
    MODE = "mode"
    TWICE = "twice"  # one file, listed twice
    IDENTICAL = "identical"  # exact duplicates: two files with the same bytes
    ALIKE = "alike"  # near duplicates, by perceptual hash
    NEIGHBOUR = "neighbour"  # in feature space
    LABEL = "label"
    GROUP = "group"  # in several splits
    BALANCE = "balance"
    LEAK = "leak"  # a property other than the content predicts the class, or the split


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


@dataclass(frozen=True, slots=True)
class Probe:
    """How well one property predicts a target.

    `accuracy` is balanced (the mean of the recalls of the classes), with its 95 % interval; `chance` is 1 / classes. `leaks` means
    significant among all probes of this target, and well above chance.
    """

    target: str
    probe: str
    images: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    chance: float
    p_value: float
    leaks: bool
