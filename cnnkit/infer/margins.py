"""Order of images by margin: the difference between the two highest probabilities, small where a label would teach the most.

Source:
    Scheffer, Decomain, Wrobel, Active hidden Markov models for information extraction, IDA 2001; Settles, Active learning literature
    survey, 2009, section 3.1.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from cnnkit.infer.predict import ImageOutput


def margin(output: ImageOutput, thresholds: NDArray[np.float32] | None = None) -> float:
    """Return the difference between the two highest probabilities of an image; infinite for an image that was skipped.

    With several labels per image, return the smallest difference between a probability and its threshold in `thresholds`, (classes,).
    """
    if output.probabilities is None:
        return float("inf")
    if thresholds is not None:
        return float(np.abs(output.probabilities - thresholds).min())
    highest: NDArray[np.float32] = np.sort(output.probabilities)[-2:]
    return float(highest[-1]) - float(highest[0]) if len(highest) > 1 else float(highest[0])


def in_order(outputs: Iterable[ImageOutput], thresholds: NDArray[np.float32] | None = None) -> Iterator[ImageOutput]:
    """Yield outputs in ascending order of their margins, after the last one; equal margins keep their order."""
    yield from sorted(outputs, key=lambda output: margin(output, thresholds))
