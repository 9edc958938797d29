"""One row of a training history."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Epoch:
    """Accuracies are shares, the training measures are means over the epoch's batches as they were trained.

    `lr` is the learning rate of its last step; where lower layers have lower rates, the head's.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    lr: float
    seconds: float
