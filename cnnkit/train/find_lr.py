"""Learning-rate range test: the loss of a training whose learning rate grows exponentially, and rates that it suggests.

Source: Smith 2015, Cyclical Learning Rates for Training Neural Networks; steps, smoothing, end and suggestions are those of fastai's
`lr_find`.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

from cnnkit.callbacks import Progress
from cnnkit.errors import CnnkitError
from cnnkit.train.loop import TrainBatch, TrainStep

log = logging.getLogger("cnnkit")

#: The first learning rate, the last one (excluded), and the number of steps between them.
LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100
#: Weight of the earlier losses in the smoothed one.
_SMOOTHING = 0.98
#: The test ends when the smoothed loss is above this multiple of the smallest one.
_DIVERGED = 4
#: Steps that suggestions do not use: at the beginning the mean is of few losses, and at the end the training diverges.
SKIPPED_FIRST, SKIPPED_LAST = STEPS // 10, 5
#: The fewest steps with a suggestion.
_FEWEST = 4
#: A smoothed loss that falls by less than this share has found no learning rate: batches differ by about as much.
_LEAST_FALL = 0.05


@dataclass(frozen=True, slots=True)
class LrStep:
    """One step: its learning rate, the loss of its batch before the step, the mean loss so far, and the names of suggestions."""

    lr: float
    loss: float
    smoothed: float
    suggested: str = ""


COLUMNS = ("lr", "loss", "smoothed", "suggested")


def range_test(
    step: TrainStep, epochs: Callable[[int], Iterator[TrainBatch]], *, rate: float, progress: Progress
) -> list[LrStep]:
    """Train with a growing learning rate until the loss diverges or the highest rate is reached.

    Args:
        step: Takes the steps; its module is changed and of no further use.
        epochs: Returns the batches of an epoch by its number, from 1.
        rate: The learning rate that the optimizer of `step` was made with; the rates of its groups keep their ratios to it.
        progress: Called after every step.
    """
    step.module.train()
    batches = (batch for number in count(1) for batch in epochs(number))
    found: list[LrStep] = []
    total, best = 0.0, math.inf
    for index, (inputs, targets) in enumerate(islice(batches, STEPS)):
        lr = LOWEST * (HIGHEST / LOWEST) ** (index / STEPS)
        step.scale_rates(lr / rate)
        loss_sum, _, rows = step.world.sum(step(inputs, targets)).tolist()
        loss = loss_sum / rows
        if not math.isfinite(loss):
            break
        total = _SMOOTHING * total + (1 - _SMOOTHING) * loss
        smoothed = total / (1 - _SMOOTHING ** (index + 1))
        found.append(LrStep(lr, loss, smoothed))
        progress(index + 1, STEPS)
        best = min(best, smoothed)
        if smoothed > _DIVERGED * best:
            break
    return found


def with_suggestions(steps: Sequence[LrStep]) -> list[LrStep]:
    """Mark the steps that the valley and the steepest descent suggest.

    Raises:
        CnnkitError: The loss diverged at once.
    """
    used = steps[SKIPPED_FIRST : len(steps) - SKIPPED_LAST]
    if len(used) < _FEWEST:
        raise CnnkitError(
            f"the loss diverged after {len(steps)} steps, at a learning rate of {steps[-1].lr if steps else LOWEST:.3g}, so no rate can be "
            "suggested; check the training data, or give --clip 1"
        )
    losses = [each.smoothed for each in used]
    fall = 1 - min(losses) / losses[0] if losses[0] else 0.0
    if fall < _LEAST_FALL:
        log.warning("the loss fell by only %.1f %%: the suggestions may be noise", 100 * fall)
    logs = [math.log(each.lr) for each in used]
    names = {SKIPPED_FIRST + valley(losses): ["valley"]}
    names.setdefault(SKIPPED_FIRST + steepest(logs, losses), []).append("steepest")
    return [
        LrStep(each.lr, each.loss, each.smoothed, ",".join(names.get(place, []))) for place, each in enumerate(steps)
    ]


def valley(losses: Sequence[float]) -> int:
    """Return the place of the learning rate in the middle of the longest decline: fastai's default suggestion."""
    lengths = [1] * len(losses)
    start = end = 0
    for place, loss in enumerate(losses):
        for before in range(place):
            if loss < losses[before]:
                lengths[place] = max(lengths[place], lengths[before] + 1)
            if lengths[end] < lengths[place]:
                end = place
                start = end - lengths[end]
    third = (end - start) / 3
    return max(start + int(third) + int(third / 2), 0)


def steepest(logs: Sequence[float], losses: Sequence[float]) -> int:
    """Return the place where the loss falls fastest over the logarithm of the learning rate."""
    slopes = [(losses[i + 1] - losses[i]) / (logs[i + 1] - logs[i]) for i in range(len(losses) - 1)]
    return slopes.index(min(slopes))
