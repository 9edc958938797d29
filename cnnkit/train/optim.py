"""Losses, penalties, class weights, optimizers, learning-rate schedules and the moving average of the weights."""

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn

from cnnkit.choices import Loss, Optimizer, Schedule
from cnnkit.nets.build import WEIGHTED
from cnnkit.train.boxes import BoxTargets
from cnnkit.train.config import WEIGHT_DECAY, Epoch, TrainConfig

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


#: Optimizers with a kernel that updates all values in one pass, by the type of device. On GPUs it also applies a scaler without
#: synchronizing; on CPUs that of SGD is no faster.
_FUSED = {
    "cuda": (Optimizer.SGD, Optimizer.ADAM, Optimizer.ADAMW),
    "cpu": (Optimizer.ADAM, Optimizer.ADAMW, Optimizer.ADAGRAD),
}


def _parameters(groups: Iterable[nn.Parameter | dict[str, Any]]) -> list[nn.Parameter]:
    return [each for group in groups for each in (group["params"] if isinstance(group, dict) else [group])]


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore an optimizer from a checkpoint, which may be from another type of device."""
    groups = [
        {**kept, "fused": own["fused"]} if "fused" in own else kept
        for kept, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


def optimizer(
    config: TrainConfig, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]]
) -> torch.optim.Optimizer:
    """Make an optimizer; defaults are torch's, except for the learning rate and AdamW's weight decay, which are Keras'.

    Args:
        config: Name and settings of the optimizer.
        parameters: The parameters, or groups of them as torch takes them, whose `lr` are factors of the learning rate.
    """
    extra: dict[str, Any] = {}
    if config.momentum is not None:
        extra["momentum"] = config.momentum
    if config.optimizer.takes_weight_decay:
        extra["weight_decay"] = WEIGHT_DECAY if config.weight_decay is None else config.weight_decay
    groups = [{**group, "lr": config.rate * group["lr"]} if isinstance(group, dict) else group for group in parameters]
    if all(
        config.optimizer in _FUSED.get("cuda" if each.is_cuda else each.device.type, ()) for each in _parameters(groups)
    ):
        extra["fused"] = True
    made = _OPTIMIZERS[config.optimizer](groups, lr=config.rate, **extra)
    if extra.get("fused"):
        made.register_step_pre_hook(_align_gradients)
    return made


def _align_gradients(optimizer: torch.optim.Optimizer, _words: object, _options: object) -> None:
    """Give gradients the strides of their parameters: torch's fused kernels read both as flat arrays, and do not check that they fit."""
    for parameter in _parameters(optimizer.param_groups):
        gradient = parameter.grad
        if gradient is not None and gradient.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(gradient)


def balanced_weights(targets: Tensor, classes: int) -> Tensor:
    """Compute class weights as scikit-learn's `balanced`: n / (classes * count); (classes,).

    With several labels per image, targets (N, classes), every class is a problem of two classes: the weights of images without and with
    it, (2, classes).
    """
    if targets.ndim == 2:
        present = targets.sum(0)
        pairs = torch.stack([len(targets) - present, present]).clamp(min=1)
        return len(targets) / (2 * pairs.to(torch.float32))
    counts = torch.bincount(targets, minlength=classes).clamp(min=1)
    return len(targets) / (classes * counts.to(torch.float32))


@dataclass(frozen=True, slots=True)
class Criterion:
    """A loss over logits, and penalties on weights.

    `l1` and `l2` are Keras' regularizers: l1 * sum |w| + l2 * sum w**2 over the weights of dense and convolutional layers,
    without biases; both together are the elastic net. `box` is the factor of the loss of boxes; None if there are no boxes.

    With several labels per image, targets (N, classes) of 0 and 1, the loss of an image is the mean over the classes of the binary
    cross-entropy. It is linear in the targets, so blends of images have blended targets.
    """

    loss: Loss = Loss.CATEGORICAL
    smoothing: float = 0.0
    class_weights: Tensor | None = None
    l1: float = 0.0
    l2: float = 0.0
    box: float | None = None

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean loss of a batch, logits (N, classes) or (N, 1), targets (N,), without penalties.

        The mean is weighted by the class weights, as in torch's cross-entropy.
        """
        return self.total(logits, targets) / self.weight(targets)

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the sum of the losses, each times the weight of its class."""
        if targets.ndim == 2:
            return self._total_of_labels(logits, targets)
        if self.loss is Loss.BINARY:
            smoothed = targets.to(logits.dtype) * (1 - self.smoothing) + self.smoothing / 2
            weight = None if self.class_weights is None else self.class_weights[targets]
            return nn.functional.binary_cross_entropy_with_logits(
                logits[:, 0], smoothed, weight=weight, reduction="sum"
            )
        return nn.functional.cross_entropy(
            logits, targets, weight=self.class_weights, label_smoothing=self.smoothing, reduction="sum"
        )

    def _total_of_labels(self, logits: Tensor, targets: Tensor) -> Tensor:
        smoothed = targets.to(logits.dtype) * (1 - self.smoothing) + self.smoothing / 2
        weight = None if self.class_weights is None else self._of_labels(targets)
        losses = nn.functional.binary_cross_entropy_with_logits(logits, smoothed, weight=weight, reduction="sum")
        return losses / targets.shape[1]

    def _of_labels(self, targets: Tensor) -> Tensor:
        """Return the weights of all labels of images, (N, classes)."""
        assert self.class_weights is not None
        without, present = self.class_weights  # (classes,) both
        return torch.where(targets > 0.5, present, without)

    def weight(self, targets: Tensor) -> Tensor:
        """Compute the sum of the images' class weights, by which `total` is divided for the mean; a scalar."""
        if self.class_weights is None:
            return torch.full((), float(len(targets)), device=targets.device)
        if targets.ndim == 2:
            return self._of_labels(targets).mean(1).sum()
        return self.class_weights[targets].sum()

    def penalty(self, module: nn.Module) -> Tensor | float:
        """Compute the L1 and L2 penalties."""
        total: Tensor | float = 0.0
        if not self.l1 and not self.l2:
            return total
        for layer in module.modules():
            if isinstance(layer, WEIGHTED) and layer.weight.requires_grad:
                total = total + self.l1 * layer.weight.abs().sum() + self.l2 * layer.weight.square().sum()
        return total


def predicted_classes(logits: Tensor) -> Tensor:
    """Return the predicted class of every row, (N,); a single logit above zero means the second class."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Count correct predictions; a scalar. Of several labels per image, all have to be correct, at a probability of 0.5."""
    if targets.ndim == 2:
        return ((logits >= 0) == (targets > 0.5)).all(1).sum()
    return (predicted_classes(logits) == targets).sum()


@dataclass(frozen=True, slots=True)
class MixupTargets:
    """The targets of a batch of blended images: `share` of `targets` and the rest of `partners`; both (N,).

    Source: Zhang et al. 2018, mixup.
    """

    targets: Tensor
    partners: Tensor
    share: float


Targets = Tensor | MixupTargets | BoxTargets


def target_shares(targets: Targets) -> list[tuple[Tensor, float]]:
    """Return the targets of a batch's rows, one tensor per class of a blend, each with its share; those of classes, without boxes."""
    if isinstance(targets, BoxTargets):
        return [(targets.classes, 1.0)]
    if isinstance(targets, MixupTargets):
        return [(targets.targets, targets.share), (targets.partners, 1 - targets.share)]
    return [(targets, 1.0)]


#: Keras' example for ReduceLROnPlateau, and its minimum improvement of the loss.
PLATEAU_FACTOR, PLATEAU_PATIENCE, PLATEAU_DELTA = 0.2, 5, 1e-4


def lr_factor(
    schedule: Schedule, *, step: int, steps: int, epochs: int, warmup: float = 0.0, before: Sequence[Epoch] = ()
) -> float:
    """Compute the factor of the learning rate in one step.

    Args:
        schedule: The schedule.
        step: The step, from 0, over the whole training.
        steps: Steps in an epoch.
        epochs: Epochs in the whole training.
        warmup: Epochs in which the rate grows linearly up to `--lr`; the schedule applies to the rest.
        before: The finished epochs, for the plateau.

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
    """Count how often the validation loss did not improve for PLATEAU_PATIENCE epochs."""
    count, lowest, waited = 0, math.inf, 0
    for epoch in epochs:
        loss = math.inf if epoch.val_loss is None else epoch.val_loss
        lowest, waited = (loss, 0) if loss < lowest - PLATEAU_DELTA else (lowest, waited + 1)
        if waited == PLATEAU_PATIENCE:
            count, waited = count + 1, 0
    return count


class ModelEma:
    """Exponential moving average: average = decay * average + (1 - decay) * weights, after every step; integers are copied.

    In step n the decay is min(decay, (1 + n) / (10 + n)), which starts at about 0.1: else the random initial weights would
    contribute for a thousand steps.

    Source: TensorFlow's ExponentialMovingAverage with `num_updates`.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.restart()

    def restart(self) -> None:
        """Start over with the current weights."""
        self._restart_with(self.module.state_dict(), steps=0)

    def _restart_with(self, values: Mapping[str, Tensor], *, steps: int) -> None:
        self._average = AveragedModel(self.module, multi_avg_fn=self._take_in, use_buffers=True)
        self._average.module.load_state_dict(values)
        # torch would copy the weights at the first update of a new average; this one already has values
        self._average.n_averaged.fill_(steps + 1)
        self.steps = steps

    def _take_in(self, averages: PARAM_LIST, current: PARAM_LIST, count: Tensor | int) -> None:
        """Update tensors of one type."""
        if averages[0].is_floating_point():
            decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
            get_ema_multi_avg_fn(decay)(averages, current, count)  # type: ignore[no-untyped-call] # torch ships it untyped
            return
        for average, value in zip(averages, current, strict=True):
            average.copy_(value)

    @property
    def values(self) -> dict[str, Tensor]:
        """The averages by the names of the module's tensors."""
        return self._average.module.state_dict()

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights."""
        self.steps += 1
        self._average.update_parameters(self.module)

    @contextlib.contextmanager
    def in_place(self) -> Generator[None]:
        """Use the averages in the module within the context, and restore its own weights afterwards."""
        own = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}
        self.module.load_state_dict(self.values)
        try:
            yield
        finally:
            self.module.load_state_dict(own)

    def state(self) -> dict[str, object]:
        """Return the state for a checkpoint."""
        return {"steps": self.steps, "values": self.values}

    def restore(self, steps: int, values: Mapping[str, Tensor]) -> None:
        """Restore the state from a checkpoint."""
        self._restart_with(values, steps=steps)
