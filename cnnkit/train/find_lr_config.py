"""The option --find-lr of the trainings. No torch."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnnkit.errors import UsageError
from cnnkit.formats import figures
from cnnkit.option_fields import given, option
from cnnkit.train.config import LEARNING

if TYPE_CHECKING:
    from cnnkit.data.train_val import TrainValImages

#: Settings of a training that a range test does not have: it has its own rates, one phase, and no model.
_UNUSED = ("lr", "schedule", "warmup", "epochs", "patience", "monitor", "ema", "resume", "checkpoint_every", "val_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class FindLrConfig:
    """Whether to look for a learning rate instead of training."""

    find_lr: Path | None = option(
        None,
        "Instead of training, find a learning rate: take 100 steps at rates from 1e-7 to 10, print the loss of each, and draw them to FILE "
        "(.png, .svg or .pdf) with a suggestion.",
        metavar="FILE",
        after=("lr",),
        group=LEARNING,
    )

    def checked(self, *configs: object, output: Path | None) -> Path:
        """Check the name of the figure, and refuse options that the test does not use.

        Args:
            configs: The configurations of the training.
            output: The model that would be written.

        Raises:
            UsageError: An option would be ignored, or the name has another ending.
            CnnkitError: The folder does not exist.
        """
        assert self.find_lr is not None
        unused = [*(["-o"] if output is not None else []), *given(*configs, names=_UNUSED)]
        if unused:
            raise UsageError(
                f"--find-lr has its own learning rates, validates nothing, and writes no model; drop {unused[0]}"
            )
        figures.check(self.find_lr)
        return self.find_lr

    def needed(self, data: "TrainValImages", *, validates: bool) -> "TrainValImages":
        """Return the images that are read: a range test has no use for those of the validation set.

        Args:
            data: Images for training and validation.
            validates: A warm-up before the test selects an epoch.
        """
        return data if self.find_lr is None or validates else dataclasses.replace(data, val=())
