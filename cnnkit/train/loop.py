"""The training loop: epochs of steps that update the weights, validation after each epoch, and the best epoch kept."""

import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnkit.choices import Monitor
from cnnkit.engine import device_errors, torch_device
from cnnkit.errors import CnnkitError, MemoryFullError
from cnnkit.formats import history
from cnnkit.train import boxes, dataset
from cnnkit.train.boxes import BoxTargets
from cnnkit.train.config import BoxEpoch, Epoch
from cnnkit.train.distributed import ALONE, World
from cnnkit.train.mixed_precision import Precision
from cnnkit.train.optim import Criterion, ModelEma, Targets, correct, target_shares
from cnnkit.train.row_parallel import RowParallel

log = logging.getLogger("cnnkit")

#: Inputs (N, ...) and their targets.
TrainBatch = tuple[Tensor, Targets]
#: The factor of the learning rate, from the epoch's number, the step in it (from 0) and the epochs before.
Rate = Callable[[int, int, Sequence[Epoch]], float]

# The number of cores for a step, until it is measured.
_UNKNOWN = 0

# A GPU runs asynchronously, and reading a loss waits for it; the losses of this many steps are read at once.
_LOSSES_AT_ONCE = 20


# The loss of an image whose class has the probability 1e-7, float32's rounding of 1: the network is certain of another one.
_SATURATED = -math.log(torch.finfo(torch.float32).eps)

# Part of the error of torch's batch norm when there is no variance to divide by.
_ONE_VALUE = "more than 1 value per channel"

#: Inputs (N, ...) and targets (N,), or these and boxes.
Plain = tuple[Tensor, Tensor | BoxTargets]


@dataclass(frozen=True, slots=True)
class Validation:
    """The measures of a module on some images: mean loss, accuracy, and mean IoU of the boxes if there are any."""

    loss: float
    accuracy: float
    iou: float | None = None


class DivergedError(CnnkitError):
    """The loss or the output is not finite and cannot recover; `done` are the finished epochs of a warm-up before."""

    done: Sequence[Epoch] = ()


class TrainStep:
    """One optimization step, with the state that is kept between steps."""

    def __init__(
        self,
        module: nn.Module,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        *,
        rate: Rate | None = None,
        precision: Precision | None = None,
        clip: float | None = None,
        ema: ModelEma | None = None,
        world: World = ALONE,
        compiled: bool = False,
    ) -> None:
        """Prepare.

        Args:
            module: Inputs -> logits; trained in place.
            criterion: Loss and penalties.
            optimizer: Over the module's parameters.
            rate: Factor of the learning rates; by default they are constant.
            precision: Of the forward pass; by default float32.
            clip: Maximum norm of all gradients together.
            ema: Updated after every step, and used in place of the module for validation.
            world: The processes that train together.
            compiled: Run the module through torch.compile.
        """
        self.module = module
        self.criterion = criterion
        self.optimizer = optimizer
        self.world = world
        self._rate = rate
        self._clip = clip
        self._ema = ema
        self._device = next(module.parameters()).device
        self.precision = precision or Precision(self._device)
        self.scaler = self.precision.scaler()
        self._compiled = compiled
        self._rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._cores: int | None = _UNKNOWN
        #: How many pieces a batch is divided into, to fit into the GPU's memory.
        self.pieces = 1
        #: Seconds that the steps so far waited for their batches: for images to be read, decoded and augmented.
        self.waited = 0.0

    @functools.cached_property
    def _forward(self) -> Callable[[Tensor], Tensor]:
        """The module, shared between processes and compiled at the first step, so that a warm-up before can still use it alone."""
        if self._device.type == "cpu" and self.world.size == 1 and not self._compiled:
            return RowParallel(self.module, self.precision)
        shared = self.world.shared(self.module, self._device)
        forward = torch.compile(shared) if self._compiled else shared

        def mixed(inputs: Tensor) -> Tensor:
            with self.precision.autocast():
                return forward(inputs)  # type: ignore[no-any-return] # modules return Any

        return mixed

    @property
    def lr(self) -> float:
        """The current learning rate of the first group of parameters."""
        return float(self.optimizer.param_groups[0]["lr"])

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Use the averaged weights in the module within the context, if there are any."""
        return self._ema.in_place() if self._ema else contextlib.nullcontext()

    def scale_rates(self, factor: float) -> None:
        """Set the learning rates of all groups of parameters to a multiple of those that the optimizer was made with."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def set_rate(self, number: int, index: int, before: Sequence[Epoch]) -> None:
        """Set the learning rate of every group of parameters for one step of an epoch; see `Rate`."""
        if self._rate is None:
            return
        self.scale_rates(self._rate(number, index, before))

    def __call__(self, inputs: Tensor, targets: Targets) -> Tensor:
        """Update the weights once.

        A batch that does not fit into memory is divided into pieces whose gradients are accumulated. Only batch norm is affected:
        its statistics are those of each piece.

        Returns:
            The batch's loss times its rows, correct predictions and rows, (3,), float64; of this process only.

        Raises:
            CnnkitError: A single image does not fit into memory, or batch norm gets only one.
        """
        with torch_device.threads(self._threads_for(inputs)):
            while True:
                try:
                    measures = self._gradients(inputs, targets)
                    break
                except Exception as error:  # full memory raises several types
                    if not device_errors.is_out_of_memory(error):
                        if (explained := _explain(error)) is None:
                            raise
                        raise explained from error
                    if self.pieces >= len(inputs) or self.world.size > 1:
                        raise MemoryFullError(
                            f"a batch of {len(inputs)} does not fit into the memory of {self._device}; give a smaller --batch or --size"
                        ) from error
                # After the except clause: the error's traceback would keep the tensors of the attempt
                torch_device.release_memory()
                self.pieces = min(2 * self.pieces, len(inputs))
                log.warning(
                    "a batch of %d does not fit into memory: dividing batches into %d pieces, with accumulated gradients",
                    len(inputs),
                    self.pieces,
                )
            self._change()
            return measures

    def _threads_for(self, inputs: Tensor) -> int | None:
        if self._cores == _UNKNOWN:
            try:
                self._cores = torch_device.threads_for(self.module, inputs)
            except Exception as error:
                if not device_errors.is_out_of_memory(error):  # which the step itself reports
                    raise
                self._cores = None
        return self._cores

    def _gradients(self, inputs: Tensor, targets: Targets) -> Tensor:
        pieces = min(self.pieces, len(inputs))  # the last batch may be a small one
        shares = target_shares(targets)
        # Filled in on the device: copying a tensor from the host would synchronize both
        count = torch.full((), float(len(inputs)), device=inputs.device)
        weights = [self.criterion.weight(each) for each, _ in shares]
        known = [targets.boxes] if isinstance(targets, BoxTargets) else []
        counts = [boxes.count(each).to(count.dtype) for each in known]
        *wholes, rows = self.world.sum(torch.stack([*weights, *counts, count])).unbind()
        with_box = [each.clamp(min=1) for each in wholes[len(shares) :]]
        self.optimizer.zero_grad(set_to_none=True)
        measures = torch.zeros(3, dtype=torch.float64, device=inputs.device)
        cuts = [piece.tensor_split(pieces) for piece in (inputs, *(each for each, _ in shares), *known)]
        for number, (piece, *targets_of_piece) in enumerate(zip(*cuts, strict=True), start=1):
            logits = self._forward(piece).float()
            loss = torch.zeros((), device=inputs.device)
            for whole_boxes in with_box:
                logits, found = boxes.divided(logits)
                assert self.criterion.box is not None
                loss = loss + self.criterion.box * boxes.total_loss(found, targets_of_piece[-1]) / whole_boxes
            for (_, share), expected, whole in zip(shares, targets_of_piece, wholes, strict=False):
                loss = loss + share * self.criterion.total(logits, expected) / whole
                measures[1] += share * correct(logits.detach(), expected)
            measures[0] += (loss * rows).detach()
            # DDP averages gradients over processes; their sum is needed
            total = loss * self.world.size + (self.criterion.penalty(self.module) if number == pieces else 0.0)
            self.scaler.scale(total).backward()  # type: ignore[no-untyped-call] # torch ships it untyped
        measures[2].fill_(len(inputs))
        return measures

    def _change(self) -> None:
        if self._clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(
                [each for group in self.optimizer.param_groups for each in group["params"]], self._clip
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self._ema is not None:
            self._ema.update()


def _explain(error: Exception) -> CnnkitError | None:
    """Return an error with a remedy for an error of torch's; None if there is no known remedy."""
    if _ONE_VALUE in str(error):
        return CnnkitError("batch norm cannot train on a single image at a time; give a larger --batch")
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return CnnkitError(f"--compile: {str(error).splitlines()[0]}; train without --compile")
    return None


class _TrainMeasures:
    """Loss and accuracy over the batches of one epoch, at the time of their steps."""

    def __init__(self, step: TrainStep, number: int) -> None:
        self._step, self._number = step, number
        self._sums: Tensor | float = 0.0
        self._waiting: list[tuple[Tensor, float]] = []
        self._steps = 0

    def add(self, measures: Tensor) -> None:
        """Add the measures of a step.

        Raises:
            DivergedError: The loss is not finite, in any process.
        """
        self._steps += 1
        self._sums = self._sums + measures
        self._waiting.append((measures[0], self._step.lr))
        if measures.device.type == "cpu" or len(self._waiting) == _LOSSES_AT_ONCE:
            self._check()

    def _check(self) -> None:
        losses, self._waiting = self._waiting, []
        values = self._step.world.sum(torch.stack([loss for loss, _ in losses])).tolist() if losses else []
        for index, (value, (_, rate)) in enumerate(zip(values, losses, strict=True), start=self._steps - len(losses)):
            if not math.isfinite(value):
                raise DivergedError(
                    f"the loss became {value} in epoch {self._number}, step {index + 1}, at a learning rate of {rate:g}; "
                    "give a smaller --lr"
                )

    def means(self) -> tuple[float, float]:
        """Return the mean loss and the accuracy, over all processes.

        Raises:
            DivergedError: As `add`.
        """
        self._check()
        assert isinstance(self._sums, Tensor)
        loss, right, count = self._step.world.sum(self._sums).tolist()
        return loss / count, right / count


class BestEpoch:
    """The best epoch by a validation measure, with a copy of its weights; without validation, the last one."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.epoch: Epoch | None = None
        self.state: dict[str, Tensor] = {}

    def offer(self, epoch: Epoch, module: nn.Module) -> None:
        """Keep an epoch if it is the best so far; of equal accuracies that with the lower loss, of equal losses the first."""
        if self.better(epoch):
            self.epoch = epoch
            self.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    def better(self, epoch: Epoch) -> bool:
        """Check whether an epoch is the best so far."""
        if self.epoch is None or epoch.val_loss is None:
            return True
        return history.rank(epoch, self.monitor) > history.rank(self.epoch, self.monitor)


def fit(
    step: TrainStep,
    *,
    train: Callable[[int], Iterable[TrainBatch]],
    validate: Callable[[], Iterable[Plain]] | None,
    best: BestEpoch,
    epochs: int,
    patience: int | None = None,
    before: Sequence[Epoch] = (),
    begun: int = 0,
) -> Iterator[Epoch]:
    """Train, and yield every epoch.

    Args:
        step: Takes the steps; its module is trained in place, and left in eval mode after every epoch.
        train: Returns the batches of an epoch by its number, in a new order every time.
        validate: Returns the validation batches; nothing else selects the best epoch.
        best: Gets every epoch.
        epochs: Maximum number of epochs.
        patience: Stop after this many epochs without an improvement.
        before: Finished epochs of an interrupted run; `step` and `best` have its state.
        begun: The last epoch of an earlier phase, such as a warm-up, which patience ignores.

    Yields:
        One record per epoch.

    Raises:
        DivergedError: The loss is not finite; `best` still holds the best epoch before.
    """
    done = list(before)
    while len(done) < epochs:
        if (
            patience is not None
            and best.epoch is not None
            and done[-1].epoch - max(best.epoch.epoch, begun) >= patience
        ):
            log.info("no improvement since epoch %d: stopping (--patience %d)", best.epoch.epoch, patience)
            return
        started = time.perf_counter()
        number = len(done) + 1
        step.module.train()
        measured = _TrainMeasures(step, number)
        for index, (inputs, targets) in enumerate(_waiting(train(number), step)):
            step.set_rate(number, index, done)
            measured.add(step(inputs, targets))
        train_loss, train_accuracy = measured.means()
        with step.averaged():
            module = step.module.eval()
            step.world.align(module)
            found = (
                measured_on(module, validate(), step.criterion, world=step.world, precision=step.precision)
                if validate
                else None
            )
            val_loss, val_accuracy = (found.loss, found.accuracy) if found else (None, None)
            if not (_is_finite(module) if val_loss is None else math.isfinite(val_loss)):
                raise DivergedError(
                    f"the network's outputs became NaN or infinite in the last step of epoch {number}, "
                    f"at a learning rate of {step.lr:g}; give a smaller --lr"
                )
            seconds = round(time.perf_counter() - started, 3)
            measures = number, train_loss, train_accuracy, val_loss, val_accuracy, step.lr, seconds
            iou = found.iou if found else None
            epoch = Epoch(*measures) if step.criterion.box is None else BoxEpoch(*measures, iou)
            best.offer(epoch, module)
        done.append(epoch)
        yield epoch


def _waiting(batches: Iterable[TrainBatch], step: TrainStep) -> Iterator[TrainBatch]:
    """Yield batches, and add the time until each is there to that of the step."""
    coming = iter(batches)
    while True:
        started = time.perf_counter()
        batch = next(coming, None)
        step.waited += time.perf_counter() - started
        if batch is None:
            return
        yield batch


def warn_if_saturated(epoch: Epoch, *, classes: int, rate: float) -> bool:
    """Warn if too large a learning rate made every output certain: images that are classified wrongly have probabilities of 0.

    Args:
        epoch: The epoch that is kept.
        classes: Number of classes.
        rate: The learning rate, for the message.

    Returns:
        Whether there was a warning.
    """
    loss, accuracy, where = epoch.val_loss, epoch.val_accuracy, "validation"
    if loss is None or accuracy is None:
        loss, accuracy, where = epoch.train_loss, epoch.train_accuracy, "training"
    uniform = math.log(max(classes, 2))
    if loss == 0:
        shown = f"every probability in the {where} set is exactly 0 or 1"
    elif loss > max(uniform, _SATURATED * (1 - accuracy)):
        shown = f"{where} loss {loss:.3g}, against {uniform:.3g} for equal probabilities of all classes"
    else:
        return False
    log.warning("the outputs are saturated: %s; give a smaller --lr than %g", shown, rate)
    return True


def _is_finite(module: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in module.state_dict().values())


def evaluate(
    module: nn.Module,
    batches: Iterable[Plain],
    criterion: Criterion,
    *,
    world: World = ALONE,
    precision: Precision | None = None,
) -> tuple[float, float]:
    """Compute mean loss and accuracy, as `measured_on`."""
    found = measured_on(module, batches, criterion, world=world, precision=precision)
    return found.loss, found.accuracy


def measured_on(
    module: nn.Module,
    batches: Iterable[Plain],
    criterion: Criterion,
    *,
    world: World = ALONE,
    precision: Precision | None = None,
) -> Validation:
    """Compute mean loss and accuracy of a module in eval mode, without penalties, smoothing and class weights, and the IoU of its boxes.

    On a CPU in float32, as the exported network; on a GPU in the precision of the training. A process may have no batch. The loss of
    boxes is averaged over the images that have one.
    """
    plain = Criterion(criterion.loss)
    device = next(module.parameters()).device
    sums = torch.zeros(3 if criterion.box is None else 6, dtype=torch.float64, device=device)
    with torch.inference_mode(), (precision or Precision(device)).untrained():
        for inputs, targets in batches:
            logits = module(inputs).float()
            of_boxes: list[Tensor] = []
            if isinstance(targets, BoxTargets):
                (logits, found), known = boxes.divided(logits), targets.boxes
                of_boxes = [boxes.total_loss(found, known), boxes.total_iou(found, known), boxes.count(known)]
                targets = targets.classes
            loss = plain.total(logits, targets).double()
            right = [loss, correct(logits, targets).double(), torch.full_like(loss, float(len(targets)))]
            sums = sums + torch.stack([*right, *(each.double() for each in of_boxes)])
    loss_sum, right_sum, count, *sums_of_boxes = world.sum(sums).tolist()
    of_classes = Validation(loss_sum / count, right_sum / count)
    if criterion.box is None or not sums_of_boxes[2]:
        return of_classes
    box_loss, iou, with_box = sums_of_boxes
    return Validation(of_classes.loss + criterion.box * box_loss / with_box, of_classes.accuracy, iou / with_box)


def shuffled(
    inputs: Tensor, targets: Tensor, *, batch: int, generator: torch.Generator, weights: Tensor | None = None
) -> Iterator[Plain]:
    """Yield all rows once, in batches in a new order, or rows drawn by weights; see `dataset.shuffled_batches`."""
    chosen = dataset.shuffled_batches(len(inputs), batch=batch, generator=generator, weights=weights)
    for here in dataset.on_device(chosen, inputs.device):
        yield inputs[here], targets[here]


def in_order(inputs: Tensor, targets: Tensor, *, batch: int = 4096) -> Iterator[Plain]:
    """Yield all rows once, in batches in the given order."""
    for start in range(0, len(inputs), batch):
        yield inputs[start : start + batch], targets[start : start + batch]
