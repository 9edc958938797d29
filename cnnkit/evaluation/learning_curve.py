"""Learning curve: accuracy over the number of training images, as records, with what a power law predicts for more images."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnkit.evaluation import power_law
from cnnkit.evaluation.metrics import wilson_interval
from cnnkit.evaluation.power_law import NotDeterminedError, PowerLaw, Prediction

log = logging.getLogger("cnnkit")

#: Multiples of the training images for which accuracy is predicted.
MULTIPLES = (2, 4)
#: The widest interval of a gain that is printed: a wider one does not answer the question.
WIDEST = 0.1


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The accuracy for a number of training images.

    `share` is this number as a share of all training images, above 1 for a prediction. `low` and `high` are the 95 % interval: of a
    measured accuracy Wilson's for the validation images, of a prediction that of the bootstrap, or Wilson's where that is wider.
    `subsets` is the number of subsets of that size, accuracy the mean over them and `sd` their standard deviation. `gain` is the
    predicted accuracy minus that of the law for all images, with its interval.
    """

    images: int
    share: float
    kind: str
    accuracy: float
    low: float
    high: float
    subsets: int | None = None
    sd: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Points in ascending order of the images, and the law; None if it is not determined."""

    points: list[CurvePoint]
    law: PowerLaw | None


def summarize(
    images: Sequence[int], correct: Sequence[NDArray[np.bool_]], *, seed: int = 0, draws: int = power_law.DRAWS
) -> LearningCurve:
    """Measure accuracies, and predict those of more images; why something is not predicted is logged.

    Args:
        images: Numbers of training images, ascending; the last is that of all of them.
        correct: For each number, (R, V): whether the heads of R subsets of that size are right about V validation images.
        seed: Of the bootstrap.
        draws: Its number of draws.
    """
    points = [_measured(count, each, of=images[-1]) for count, each in zip(images, correct, strict=True)]
    try:
        law, predictions = power_law.predict(
            np.asarray(images, dtype=np.float64),
            correct,
            at=[images[-1] * times for times in MULTIPLES],
            generator=np.random.default_rng(seed),
            draws=draws,
        )
    except NotDeterminedError as error:
        log.warning("no extrapolation: %s", error)
        return LearningCurve(points, None)
    predicted = []
    for each in predictions:
        if each.gain_high - each.gain_low <= WIDEST:
            predicted.append(_predicted(each, of=images[-1], val=correct[0].shape[1]))
            log.info("%s", _in_words(predicted[-1]))
        else:
            log.warning(
                "no extrapolation to %s images: the curve does not determine it (95 %% interval of the gain %.1f to %.1f points)",
                f"{round(each.images):,}",
                100 * each.gain_low,
                100 * each.gain_high,
            )
    return LearningCurve(points + predicted, law if predicted else None)


def _measured(images: int, correct: NDArray[np.bool_], *, of: int) -> CurvePoint:
    subsets, count = correct.shape
    accuracies = correct.mean(1)
    low, high = wilson_interval(round(float(accuracies.mean()) * count), count)
    sd = float(accuracies.std(ddof=1)) if subsets > 1 else None
    return CurvePoint(images, images / of, "measured", float(accuracies.mean()), low, high, subsets, sd)


def _predicted(found: Prediction, *, of: int, val: int) -> CurvePoint:
    # A bootstrap of images that are all predicted correctly has no variance
    low, high = wilson_interval(round(found.accuracy * val), val)
    return CurvePoint(
        round(found.images),
        found.images / of,
        "extrapolated",
        found.accuracy,
        min(found.low, low),
        max(found.high, high),
        gain=found.gain,
        gain_low=found.gain_low,
        gain_high=found.gain_high,
    )


def _in_words(found: CurvePoint) -> str:
    assert found.gain is not None
    assert found.gain_low is not None
    assert found.gain_high is not None
    change = f"{100 * found.gain:+.1f} points, {100 * found.gain_low:+.1f} to {100 * found.gain_high:+.1f}"
    sure = "" if round(100 * found.gain_low, 1) > 0 else "; no gain is shown"
    return (
        f"{found.share:g} times the images ({found.images:,}): accuracy {found.accuracy:.3f}, 95 % interval "
        f"{found.low:.3f} to {found.high:.3f} ({change}){sure}"
    )
