"""The training loop: epochs of batches, validation after each, the best one kept."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from cnnkit.choices import Monitor
from cnnkit.formats import history
from cnnkit.train import examples
from cnnkit.train.distributed import ALONE, World
from cnnkit.train.epoch import Epoch
from cnnkit.train.optim import Objective, correct
from cnnkit.train.step import Batch, Diverged, Step

log = logging.getLogger("cnnkit")

#: Inputs (N, ...) and targets (N,).
Plain = tuple[Tensor, Tensor]


class Best:
    """The best epoch by a validation measure, with a copy of its weights; without validation, the last one."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.epoch: Epoch | None = None
        self.state: dict[str, Tensor] = {}

    def offer(self, epoch: Epoch, module: nn.Module) -> None:
        """Keep an epoch if it is the best so far; of equal accuracies the one with the lower loss, of equal ones the first."""
        if self.better(epoch):
            self.epoch = epoch
            self.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    def better(self, epoch: Epoch) -> bool:
        """Tell whether an epoch is the best so far."""
        if self.epoch is None or epoch.val_loss is None:
            return True
        return history.rank(epoch, self.monitor) > history.rank(self.epoch, self.monitor)


def fit(
    step: Step,
    *,
    train: Callable[[int], Iterable[Batch]],
    validate: Callable[[], Iterable[Plain]] | None,
    best: Best,
    epochs: int,
    patience: int | None = None,
    before: Sequence[Epoch] = (),
    begun: int = 0,
) -> Iterator[Epoch]:
    """Train, and report after every epoch.

    Args:
        step: Takes the steps; its module is trained in place, and left in eval mode after every epoch.
        train: Gives the batches of an epoch by its number, in a new order every time.
        validate: Gives the validation batches; nothing else chooses the best epoch.
        best: Is offered every epoch.
        epochs: The most.
        patience: Stop after this many epochs without a better one.
        before: Epochs that an interrupted run has done; `step` and `best` are where it left them.
        begun: The last epoch of those that something else took before, and that patience does not count.

    Yields:
        One record an epoch.

    Raises:
        Diverged: The loss is no number any more; `best` still holds the best epoch before.
    """
    done = list(before)
    while len(done) < epochs:
        if (
            patience is not None
            and best.epoch is not None
            and done[-1].epoch - max(best.epoch.epoch, begun) >= patience
        ):
            log.info("no better epoch since %d; stopped", best.epoch.epoch)
            return
        started = time.perf_counter()
        number = len(done) + 1
        train_loss, train_accuracy = step.epoch(train(number), number=number, before=done)
        with step.averaged():
            module = step.module.eval()
            step.world.align(module)
            val_loss, val_accuracy = (
                evaluate(module, validate(), step.objective, world=step.world) if validate else (None, None)
            )
            if not (_is_finite(module) if val_loss is None else math.isfinite(val_loss)):
                raise Diverged(
                    f"the network answers with no numbers any more after the last step of epoch {number}, "
                    f"at a learning rate of {step.lr:g}; give a smaller --lr"
                )
            seconds = round(time.perf_counter() - started, 3)
            epoch = Epoch(number, train_loss, train_accuracy, val_loss, val_accuracy, step.lr, seconds)
            best.offer(epoch, module)
        done.append(epoch)
        yield epoch


def _is_finite(module: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in module.state_dict().values())


def evaluate(
    module: nn.Module, batches: Iterable[Plain], objective: Objective, *, world: World = ALONE
) -> tuple[float, float]:
    """Give mean loss and accuracy of a module in eval mode; penalties, smoothing and class weights do not count.

    In float32, as the exported network computes.
    """
    plain = Objective(objective.loss)
    sums: Tensor | float = 0.0
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for inputs, targets in batches:
            logits = module(inputs)
            loss = plain.total(logits, targets).double()
            sums = sums + torch.stack([loss, correct(logits, targets).double(), loss.new_tensor(len(targets))])
    assert isinstance(sums, Tensor)
    loss_sum, right, count = world.sum(sums).tolist()
    return loss_sum / count, right / count


def shuffled(inputs: Tensor, targets: Tensor, *, batch: int, generator: torch.Generator) -> Iterator[Plain]:
    """Go over rows once, in a new order; see `examples.shuffled`."""
    for rows in examples.shuffled(len(inputs), batch=batch, generator=generator):
        here = rows.to(inputs.device)
        yield inputs[here], targets[here]


def in_order(inputs: Tensor, targets: Tensor, *, batch: int = 4096) -> Iterator[Plain]:
    """Go over rows as they stand."""
    for start in range(0, len(inputs), batch):
        yield inputs[start : start + batch], targets[start : start + batch]
