"""Prediction sets by split conformal prediction: scores of classes, the quantile that is the threshold, and the sizes of sets.

A class of an image gets a score, lower for a better one, that depends on the probabilities of the image alone. The set of an image has
the classes whose scores are at most a quantile of the scores of the true classes of n other images. If those and the new image are
exchangeable, the true class is in the set with at least the probability that was asked for, whatever the network is.

Throughout, N images, C classes; `ranked` (N, C) are the probabilities of each image from the most to the least probable class. Scores rise
along it, so a set is the first classes of the ranking, and its size describes it.

Source:
    Vovk, Gammerman, Shafer, Algorithmic learning in a random world, 2005; Angelopoulos, Bates, A gentle introduction to conformal
    prediction and distribution-free uncertainty quantification, 2021, section 1.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray

from cnnkit.choices import SetMethod
from cnnkit.errors import CnnkitError
from cnnkit.evaluation import beta
from cnnkit.formats.header import PredictionSets

Floats = NDArray[np.float64]

#: A score this much above the quantile is still in the set: predictions are printed with six digits.
TOLERANCE = 1e-6

#: Of (n + 1) times a coverage: 20 * 0.95 is 19, whatever its last bit.
_ROUNDING = 1e-9


def scores(ranked: Floats, method: SetMethod) -> Floats:
    """Compute the score by which each class is in a set, (N, C) in the order of the ranking.

    lac: 1 minus the probability. aps: the sum of the probabilities of the classes before it, so the class that reaches the quantile is in
    the set: without a random share of it, an image always has the same set.

    Source:
        lac: Sadinle, Lei, Wasserman, Least ambiguous set-valued classifiers with bounded error levels, JASA 114 (2019).
        aps: Romano, Sesia, Candès, Classification with valid and adaptive coverage, NeurIPS 2020.
    """
    found: Floats = 1 - ranked if method is SetMethod.LAC else ranked.cumsum(axis=1) - ranked
    return found


def true_scores(ranked: Floats, places: NDArray[np.int64], method: SetMethod, generator: np.random.Generator) -> Floats:
    """Compute the scores of the true classes, (N,), whose quantile is the threshold.

    With aps each has a random share of the probability of its class, as in the paper. Sets with this share have the promised coverage, and
    those of `scores` contain them, so they have at least that; without the share, the threshold would be higher and sets larger.

    Args:
        ranked: (N, C).
        places: (N,), those of the true classes in the ranking, from 0.
        method: lac or aps.
        generator: Of the shares.
    """
    rows = np.arange(len(places))
    found: Floats = scores(ranked, method)[rows, places]
    return found if method is SetMethod.LAC else found + generator.random(len(places)) * ranked[rows, places]


def quantile(true: Floats, coverage: float) -> float:
    """Return the k-th lowest of n scores, k = ceil((n + 1) * coverage).

    A new score is equally likely to take any place among them, so it is at most the k-th with the probability k / (n + 1) or more.

    Args:
        true: (n,), the scores of the true classes.
        coverage: The probability with which a set has the true class.

    Raises:
        CnnkitError: There are too few images: k exceeds n.
    """
    place = rank(len(true), coverage)
    if place > len(true):
        raise CnnkitError(
            f"{len(true)} images cannot promise a coverage of {coverage:g}, that needs {needed(coverage)}; "
            f"label more images, or promise at most {len(true) / (len(true) + 1):.4g}"
        )
    return float(np.partition(true, place - 1)[place - 1])


def rank(n: int, coverage: float) -> int:
    """Return the place of the quantile among n scores, from 1; above n if there are too few."""
    return max(1, ceil((n + 1) * coverage - _ROUNDING))


def needed(coverage: float) -> int:
    """Return the smallest number of images that can promise a coverage."""
    return ceil(coverage / (1 - coverage) - _ROUNDING)


def expected(n: int, coverage: float) -> tuple[float, float]:
    """Compute the central 95 % of the coverage of many new images, over draws of the n images; distinct scores have a beta distribution.

    Source:
        Vovk, Conditional validity of inductive conformal predictors, 2012; Angelopoulos, Bates 2021, section 3.2.
    """
    place = rank(n, coverage)
    return beta.quantile(place, n + 1 - place, 0.025), beta.quantile(place, n + 1 - place, 0.975)


def sizes(ranked: Floats, sets: PredictionSets) -> NDArray[np.int64]:
    """Return the number of labels in the set of each image, (N,); at least 1.

    With lac, an image may have no label of low enough score, and gets the most probable one: the set becomes larger, so the promise holds.
    """
    inside = scores(ranked, sets.method) <= sets.quantile + TOLERANCE
    found: NDArray[np.int64] = np.maximum(inside.sum(axis=1), 1)
    return found
