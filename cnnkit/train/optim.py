"""What training makes small, and how: losses, penalties, class weights and optimizers, by the names of `cnnkit.choices`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.choices import Loss, Optimizer
from cnnkit.train.results import check_momentum

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


def optimizer(
    name: Optimizer,
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    *,
    lr: float | None = None,
    momentum: float | None = None,
) -> torch.optim.Optimizer:
    """Make an optimizer; what is not said is torch's default, but for AdamW's decay, which is Keras'.

    Args:
        name: Which.
        parameters: To be trained; or groups of them, as torch takes them, whose `lr` are factors of the learning rate.
        lr: Learning rate; Keras' default for that optimizer unless said.
        momentum: For those that have one.

    Raises:
        UsageError: It has no momentum.
    """
    rate = name.learning_rate if lr is None else lr
    extra: dict[str, Any] = {"weight_decay": DECAY} if name is Optimizer.ADAMW else {}
    check_momentum(name, momentum)
    if momentum is not None:
        extra["momentum"] = momentum
    groups = [{**group, "lr": rate * group["lr"]} if isinstance(group, dict) else group for group in parameters]
    return _OPTIMIZERS[name](groups, lr=rate, **extra)


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
        return self.total(logits, targets) / self.weight(targets)

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Give the sum of the losses, each times its class' weight."""
        if self.loss is Loss.BINARY:
            wanted = targets.to(logits.dtype) * (1 - self.smoothing) + self.smoothing / 2
            weight = None if self.class_weights is None else self.class_weights[targets]
            return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], wanted, weight=weight, reduction="sum")
        return nn.functional.cross_entropy(
            logits, targets, weight=self.class_weights, label_smoothing=self.smoothing, reduction="sum"
        )

    def weight(self, targets: Tensor) -> Tensor:
        """Give what the sum is divided by to become the mean: the sum of the pictures' weights, a scalar."""
        if self.class_weights is None:
            return torch.tensor(float(len(targets)), device=targets.device)
        return self.class_weights[targets].sum()

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


def correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Count right answers; a scalar."""
    return (answers(logits) == targets).sum()


@dataclass(frozen=True, slots=True)
class Mixed:
    """The targets of a batch whose pictures are each `share` of one class and the rest of another; (N,) both.

    Source: Zhang et al. 2018, mixup.
    """

    targets: Tensor
    partners: Tensor
    share: float


Targets = Tensor | Mixed


def parts(targets: Targets) -> list[tuple[Tensor, float]]:
    """Give the classes that a batch's rows belong to, each with its share."""
    if isinstance(targets, Mixed):
        return [(targets.targets, targets.share), (targets.partners, 1 - targets.share)]
    return [(targets, 1.0)]
