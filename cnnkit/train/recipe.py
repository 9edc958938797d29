"""How a network is trained: everything that cnn-train and cnn-finetune can be told about it. No torch."""

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

from cnnkit.choices import Amp, ClassWeights, Loss, Monitor, Optimizer, Schedule
from cnnkit.data import augment
from cnnkit.errors import UsageError
from cnnkit.train.results import check_momentum

log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Loss, optimizer, learning rate and what goes with them; `epochs` and `warmup` in epochs, the rest as the options say."""

    loss: Loss = Loss.CATEGORICAL
    optimizer: Optimizer = Optimizer.ADAM
    lr: float | None = None
    momentum: float | None = None
    schedule: Schedule = Schedule.CONSTANT
    warmup: float = 0.0
    epochs: int = 30
    batch: int = 32
    l1: float = 0.0
    l2: float = 0.0
    smoothing: float = 0.0
    class_weights: ClassWeights = ClassWeights.NONE
    mixup: float = 0.0
    augment: str | None = None
    ema: float | None = None
    clip: float | None = None
    patience: int | None = None
    monitor: Monitor = Monitor.VAL_LOSS
    amp: Amp = Amp.AUTO
    compile: bool = False
    seed: int = 0

    def checked(self, *, classes: int, validated: bool) -> "Recipe":
        """Refuse what contradicts itself or would be ignored, and spell out the notation and the learning rate.

        Args:
            classes: How many there are.
            validated: There are pictures for validation.

        Raises:
            UsageError: One option does not go with another, or an augmentation changes nothing.
            NotationError: The augmentation is wrong.
        """
        if self.loss is Loss.BINARY and classes != 2:
            raise UsageError(f"--loss binary decides between two classes, here are {classes}; use categorical")
        check_momentum(self.optimizer, self.momentum)
        if self.clip == 0:
            raise UsageError("--clip 0 would leave nothing of any gradient; give the largest norm that they may have")
        if self.warmup > self.epochs:
            raise UsageError(f"--warmup {self.warmup:g} is longer than the whole training, --epochs {self.epochs}")
        if not validated:
            if self.patience is not None:
                raise UsageError("--patience waits for a better epoch by --val; give --val, or fewer --epochs")
            if self.schedule is Schedule.PLATEAU:
                raise UsageError("--schedule plateau watches the loss on --val; give --val, or another schedule")
            if self.monitor is not Recipe().monitor:
                raise UsageError(f"--monitor {self.monitor} chooses an epoch by --val; give --val")
        spelled = dataclasses.replace(
            self,
            lr=self.optimizer.learning_rate if self.lr is None else self.lr,
            augment=None if self.augment is None else str(augment.demanded(self.augment)),
        )
        if not validated:
            log.warning(
                "nothing validates: the last epoch is kept, and nothing says how good it is; name pictures with --val"
            )
        return spelled

    def described(self) -> dict[str, Any]:
        """Give what a Header records."""
        return {key: str(value) if isinstance(value, str) else value for key, value in dataclasses.asdict(self).items()}
