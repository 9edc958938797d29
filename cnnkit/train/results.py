"""What trainings share around their recipe: where they run and write, what they tell as they go, and what they come to. No torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cnnkit.choices import Optimizer
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import history
from cnnkit.train.epoch import Epoch

#: Called with every epoch as it is done.
Report = Callable[[Epoch], None]

#: What to do about a picture that cannot be used: path and reason.
Skip = Callable[[str, str], None]


def no_report(_epoch: Epoch) -> None:
    """The way of a caller who does not want to hear of epochs."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a training came to; the measures are those of its best epoch, which the model holds.

    `majority` is the validation accuracy of always answering with the most frequent class; `seconds` are those of everything, the
    reading of pictures and the frozen part included.
    """

    model: str
    classes: int
    train_rows: int
    val_rows: int
    epochs: int
    best_epoch: int
    train_accuracy: float
    val_accuracy: float | None
    val_loss: float | None
    majority: float | None
    seconds: float


def check_momentum(optimizer: Optimizer, momentum: float | None) -> None:
    """Refuse a momentum for optimizers that have their own.

    Raises:
        UsageError: This one has.
    """
    if momentum is not None and not optimizer.takes_momentum:
        raise UsageError(f"--momentum goes with sgd and rmsprop; {optimizer} has its own")


#: How much memory decoded pictures may take unless said, in bytes.
CACHE = 4 << 30


@dataclass(frozen=True, slots=True)
class Running:
    """Where and how a training runs, none of which changes what comes of it."""

    cache: int = CACHE
    jobs: int | None = None
    device: str = "auto"
    resume: bool = False


def writable(output: str | Path) -> Path:
    """Refuse a name that no model can have, before anything is computed.

    Raises:
        UsageError: It does not end in `.pt`, or its history would replace a table of something else.
        CnnkitError: There is no such folder.
    """
    output = Path(output)
    if output.suffix != ".pt":
        raise UsageError(f"{output}: a model is written to a .pt file")
    if not output.parent.is_dir():
        raise CnnkitError(f"{output.parent}: no such folder to write {output.name} into")
    history.Writer(output.with_suffix(".csv"))  # refuses to replace a table of something else
    return output
