"""What training makes small, and how: losses, penalties, class weights and optimizers, by the names of `cnnkit.choices`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.choices import Loss, Optimizer

#: Keras' learning rates, the ones that the textbook's figures were made with.
LEARNING_RATES = {
    Optimizer.SGD: 1e-2,
    Optimizer.RMSPROP: 1e-3,
    Optimizer.ADAGRAD: 1e-3,
    Optimizer.ADADELTA: 1e-3,
    Optimizer.ADAM: 1e-3,
    Optimizer.ADAMW: 1e-3,
    Optimizer.ADAMAX: 1e-3,
    Optimizer.NADAM: 1e-3,
}

#: Keras' default for AdamW, the share of rate * weight taken away in a step: without it AdamW would be Adam.
DECAY = 4e-3

_OPTIMIZERS: dict[Optimizer, Callable[..., torch.optim.Optimizer]] = {
    Optimizer.SGD: torch.optim.SGD,
    Optimizer.RMSPROP: torch.optim.RMSprop,
    Optimizer.ADAGRAD: torch.optim.Adagrad,
    Optimizer.ADADELTA: torch.optim.Adadelta,
    Optimizer.ADAM: torch.optim.Adam,
    Optimizer.ADAMW: torch.optim.AdamW,
    Optimizer.ADAMAX: torch.optim.Adamax,
    Optimizer.NADAM: torch.optim.NAdam,
}


def optimizer(name: Optimizer, parameters: Iterable[nn.Parameter], *, lr: float | None = None) -> torch.optim.Optimizer:
    """Make an optimizer; everything but the rate is torch's default, and AdamW's decay, which is Keras'.

    Args:
        name: Which.
        parameters: To be trained.
        lr: Learning rate; Keras' default for that optimizer unless said.
    """
    rate = LEARNING_RATES[name] if lr is None else lr
    extra: dict[str, Any] = {"weight_decay": DECAY} if name is Optimizer.ADAMW else {}
    return _OPTIMIZERS[name](parameters, lr=rate, **extra)


def balanced_weights(targets: Tensor, classes: int) -> Tensor:
    """Weigh every class inversely to its number: n / (classes * count), as scikit-learn's `balanced`; (classes,)."""
    counts = torch.bincount(targets, minlength=classes).clamp(min=1)
    return len(targets) / (classes * counts.to(torch.float32))


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss over logits, and penalties on weights.

    `l1` and `l2` are Keras' regularisers: l1 * sum |w| + l2 * sum w**2 over the weights of dense and convolutional layers,
    biases left alone; both together are the elastic net.
    """

    loss: Loss = Loss.CATEGORICAL
    smoothing: float = 0.0
    class_weights: Tensor | None = None
    l1: float = 0.0
    l2: float = 0.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Give the mean loss of a batch, logits (N, classes) or (N, 1), targets (N,), without penalties.

        The mean weighs every picture by its class' weight, as torch's cross-entropy does.
        """
        if self.loss is Loss.BINARY:
            wanted = targets.to(logits.dtype) * (1 - self.smoothing) + self.smoothing / 2
            weight = None if self.class_weights is None else self.class_weights[targets]
            losses = nn.functional.binary_cross_entropy_with_logits(
                logits[:, 0], wanted, weight=weight, reduction="sum"
            )
            return losses / (len(targets) if weight is None else weight.sum())
        return nn.functional.cross_entropy(logits, targets, weight=self.class_weights, label_smoothing=self.smoothing)

    def penalty(self, module: nn.Module) -> Tensor | float:
        """Give what the weights themselves cost."""
        total: Tensor | float = 0.0
        if not self.l1 and not self.l2:
            return total
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.requires_grad:
                total = total + self.l1 * layer.weight.abs().sum() + self.l2 * layer.weight.square().sum()
        return total


def answers(logits: Tensor) -> Tensor:
    """Give the class of every row, (N,); a single logit answers with the second class where it is above zero."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def correct(logits: Tensor, targets: Tensor) -> int:
    """Count right answers."""
    return int((answers(logits) == targets).sum())
