"""The training loop: epochs of batches, validation after each, the best one kept."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnkit.choices import Monitor
from cnnkit.errors import CnnkitError
from cnnkit.train.optim import Objective, correct

log = logging.getLogger("cnnkit")

#: Inputs and targets, (N, ...) and (N,).
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One row of a history; accuracies are shares, the training measures are means over the epoch's batches as they were trained."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    lr: float
    seconds: float


class Best:
    """The best epoch by a validation measure, with a copy of its weights; without validation, the last one."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.epoch: Epoch | None = None
        self.state: dict[str, Tensor] = {}

    def offer(self, epoch: Epoch, module: nn.Module) -> None:
        """Keep an epoch if it is the best so far; of equal accuracies the one with the lower loss, of equal ones the first."""
        if self.epoch is None or self._rank(epoch) > self._rank(self.epoch) or epoch.val_loss is None:
            self.epoch = epoch
            self.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    def _rank(self, epoch: Epoch) -> tuple[float, float]:
        loss = -math.inf if epoch.val_loss is None or math.isnan(epoch.val_loss) else -epoch.val_loss
        return (loss, 0.0) if self.monitor is Monitor.VAL_LOSS else (epoch.val_accuracy or 0.0, loss)


def fit(
    module: nn.Module,
    *,
    train: Callable[[], Iterable[Batch]],
    validate: Callable[[], Iterable[Batch]] | None,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    best: Best,
    epochs: int,
    patience: int | None = None,
) -> Iterator[Epoch]:
    """Train, and report after every epoch.

    Args:
        module: Inputs -> logits; trained in place, and left in eval mode after every epoch.
        train: Gives the batches of one epoch, in a new order every time it is called.
        validate: Gives the validation batches; nothing else chooses the best epoch.
        objective: Loss and penalties.
        optimizer: Over the module's parameters.
        best: Is offered every epoch.
        epochs: The most.
        patience: Stop after this many epochs without a better one.

    Yields:
        One record an epoch.

    Raises:
        CnnkitError: The loss is no number any more; `best` still holds the best epoch before.
    """
    for number in range(1, epochs + 1):
        started = time.perf_counter()
        train_loss, train_accuracy = _train(module, train(), objective, optimizer, number)
        module.eval()
        val_loss, val_accuracy = evaluate(module, validate(), objective) if validate else (None, None)
        lr = float(optimizer.param_groups[0]["lr"])
        epoch = Epoch(
            number, train_loss, train_accuracy, val_loss, val_accuracy, lr, round(time.perf_counter() - started, 3)
        )
        best.offer(epoch, module)
        yield epoch
        assert best.epoch is not None
        if patience is not None and number - best.epoch.epoch >= patience:
            log.info("no better epoch since %d; stopped", best.epoch.epoch)
            return


def _train(
    module: nn.Module, batches: Iterable[Batch], objective: Objective, optimizer: torch.optim.Optimizer, number: int
) -> tuple[float, float]:
    module.train()
    loss_sum, right, count = 0.0, 0, 0
    for step, (inputs, targets) in enumerate(batches, start=1):
        optimizer.zero_grad(set_to_none=True)
        logits = module(inputs)
        loss = objective(logits, targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            rate = optimizer.param_groups[0]["lr"]
            raise CnnkitError(
                f"the loss is {value} in epoch {number}, step {step}, at a learning rate of {rate:g}; give a smaller --lr"
            )
        (loss + objective.penalty(module)).backward()  # type: ignore[no-untyped-call] # torch ships it untyped
        optimizer.step()
        loss_sum += value * len(targets)
        right += correct(logits.detach(), targets)
        count += len(targets)
    return loss_sum / count, right / count


def evaluate(module: nn.Module, batches: Iterable[Batch], objective: Objective) -> tuple[float, float]:
    """Give mean loss and accuracy of a module in eval mode; penalties, smoothing and class weights do not count."""
    plain = Objective(objective.loss)
    loss_sum, right, count = 0.0, 0, 0
    with torch.inference_mode():
        for inputs, targets in batches:
            logits = module(inputs)
            loss_sum += float(plain(logits, targets)) * len(targets)
            right += correct(logits, targets)
            count += len(targets)
    return loss_sum / count, right / count


def shuffled(inputs: Tensor, targets: Tensor, *, batch: int, generator: torch.Generator) -> Iterator[Batch]:
    """Go over rows once, in a new order.

    A last batch of a single row joins the one before it: batch norm cannot train on one row.
    """
    order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
    starts = list(range(0, len(inputs), batch))
    if len(inputs) % batch == 1 and len(starts) > 1:
        starts.pop()
    for start, end in zip(starts, [*starts[1:], len(inputs)], strict=True):
        yield inputs[order[start:end]], targets[order[start:end]]


def in_order(inputs: Tensor, targets: Tensor, *, batch: int = 4096) -> Iterator[Batch]:
    """Go over rows as they stand."""
    for start in range(0, len(inputs), batch):
        yield inputs[start : start + batch], targets[start : start + batch]
