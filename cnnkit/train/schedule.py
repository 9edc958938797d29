"""The learning rate over the course of a training, as a factor of --lr: a function of the step and of the epochs before it, so that an
interrupted training finds its place again."""

import math
from collections.abc import Sequence

from cnnkit.choices import Schedule
from cnnkit.train.epoch import Epoch

#: Keras' example for ReduceLROnPlateau, and by how much a loss has to be lower there.
PLATEAU_FACTOR, PLATEAU_PATIENCE, PLATEAU_DELTA = 0.2, 5, 1e-4


def factor(
    schedule: Schedule, *, step: int, steps: int, epochs: int, warmup: float = 0.0, before: Sequence[Epoch] = ()
) -> float:
    """Give what the learning rate is multiplied by in one step.

    Args:
        schedule: Which.
        step: Counted from 0 over the whole training.
        steps: In an epoch.
        epochs: In the whole training.
        warmup: Epochs in which the rate grows linearly up to `--lr`; the schedule has the rest.
        before: The epochs that are done, for the plateau.

    Source: Goyal et al. 2017 (warm-up); Loshchilov and Hutter 2017, SGDR, eq. 5 (cosine); He et al. 2016 (steps).
    """
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (math.floor(rising) + 1)
    share = (step - rising) / max(epochs * steps - rising, 1)
    match schedule:
        case Schedule.COSINE:
            return 0.5 * (1 + math.cos(math.pi * share))
        case Schedule.STEP:
            return 1.0 if share < 0.5 else 0.1 if share < 0.75 else 0.01
        case Schedule.PLATEAU:
            return PLATEAU_FACTOR ** _plateaus(before)
        case Schedule.CONSTANT:
            return 1.0


def _plateaus(epochs: Sequence[Epoch]) -> int:
    """Count how often the validation loss had not been lower for some epochs."""
    count, lowest, waited = 0, math.inf, 0
    for epoch in epochs:
        loss = math.inf if epoch.val_loss is None else epoch.val_loss
        lowest, waited = (loss, 0) if loss < lowest - PLATEAU_DELTA else (lowest, waited + 1)
        if waited == PLATEAU_PATIENCE:
            count, waited = count + 1, 0
    return count
