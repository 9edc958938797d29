"""Whether a set of pictures is small or large, as the textbook's four cases of transfer learning have it."""

from enum import StrEnum

#: So many pictures for training are a large set: as far from the textbook's 2,000 cats and dogs, which are small, as from CIFAR-10's
#: 50,000, on which networks are trained from scratch (their geometric mean).
LARGE = 10_000


class Size(StrEnum):
    """How many pictures there are for training."""

    SMALL = "small"
    LARGE = "large"


def size_of(pictures: int) -> Size:
    """Name the size of a set for training."""
    return Size.LARGE if pictures >= LARGE else Size.SMALL
