"""The training loop: epochs of steps from batches to changed weights, validation after each, the best epoch kept."""

import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnkit.choices import Amp, Monitor
from cnnkit.engine import device_errors, torch_device
from cnnkit.errors import CnnkitError, MemoryFullError, UsageError
from cnnkit.formats import history
from cnnkit.train import dataset
from cnnkit.train.config import Epoch
from cnnkit.train.distributed import ALONE, World
from cnnkit.train.optim import Criterion, ModelEma, Targets, correct, target_shares

log = logging.getLogger("cnnkit")

#: Inputs (N, ...) and what they are.
TrainBatch = tuple[Tensor, Targets]
#: The factor of the learning rate, by the epoch's number, the step in it (from 0) and the epochs before.
Rate = Callable[[int, int, Sequence[Epoch]], float]

# How many cores a step uses, before the first one is looked at.
_UNKNOWN = 0

# A GPU works ahead of us; asking for a loss makes it wait. So many steps are asked about at once.
_LOSSES_AT_ONCE = 20


# How torch's batch norm says that it has no variance to divide by.
_ONE_VALUE = "more than 1 value per channel"

#: Inputs (N, ...) and targets (N,).
Plain = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Precision:
    """What autocast computes in; float32 where there is nothing to cast.

    On a GPU what is not trained, the frozen part and validation, computes in the same; on a processor in float32, as the exported network.
    """

    device: torch.device
    dtype: torch.dtype | None = None

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Let convolutions and dense layers compute in the shorter numbers."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @contextlib.contextmanager
    def untrained(self) -> Iterator[None]:
        """Let what is not trained compute in the shorter numbers, on a GPU; else strictly in float32, without TF32."""
        if self.dtype is not None and self.device.type == "cuda":
            with self.autocast():
                yield
        else:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                yield

    def scaler(self) -> torch.amp.GradScaler:
        """Make the scaler that keeps float16's gradients from becoming zero; in other numbers it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)


def choose_precision(amp: Amp, device: torch.device) -> Precision:
    """Take what was asked for; `auto` takes bf16 wherever the hardware computes in it, else float16 on a GPU and float32 on a processor.

    Raises:
        UsageError: float16 on a processor, which has no use for it.
    """
    match amp:
        case Amp.OFF:
            return Precision(device)
        case Amp.BF16:
            return Precision(device, torch.bfloat16)
        case Amp.FP16:
            if device.type != "cuda":
                raise UsageError("--amp fp16 is for GPUs; a processor computes in bf16 or not shorter at all")
            return Precision(device, torch.float16)
        case Amp.AUTO if device.type == "cuda":
            return Precision(device, torch.bfloat16 if _gpu_has_bf16(device) else torch.float16)
        case Amp.AUTO:
            return Precision(device, torch.bfloat16 if _processor_has_bf16() else None)


def _gpu_has_bf16(device: torch.device) -> bool:
    """Tell whether a GPU, which need not be the first one, has tensor cores for bf16."""
    if torch.version.hip is not None:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cuda.get_device_capability(device) >= (8, 0))


def _processor_has_bf16() -> bool:
    """Tell whether the processor multiplies in bf16: emulated it would be slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # no public names yet


class DivergedError(CnnkitError):
    """The loss is not finite, and would not become finite again; `done` are good epochs of a warm-up before."""

    done: Sequence[Epoch] = ()


class TrainStep:
    """Takes the steps of a training, and holds what they need from one to the next."""

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
            rate: Changes the learning rates; by default they stay as they are.
            precision: Of the forward pass; by default float32.
            clip: The gradients' largest norm, over all of them together.
            ema: Is updated after every step, and takes the module's place in validation.
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
        #: Into how many pieces a batch is cut to fit into the GPU's memory.
        self.pieces = 1

    @functools.cached_property
    def _forward(self) -> Callable[[Tensor], Tensor]:
        """Made for the first step: what comes before, the warm-up of a head, say, has the module for itself."""
        forward = self.world.shared(self.module, self._device)
        return torch.compile(forward) if self._compiled else forward

    @property
    def lr(self) -> float:
        """The learning rate of the first group of parameters, at the moment."""
        return float(self.optimizer.param_groups[0]["lr"])

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Let the module have the averaged weights for a while, if there are any."""
        return self._ema.in_place() if self._ema else contextlib.nullcontext()

    def set_rate(self, number: int, index: int, before: Sequence[Epoch]) -> None:
        """Give every group of parameters its learning rate in one step of an epoch; see `Rate`."""
        if self._rate is None:
            return
        factor = self._rate(number, index, before)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def __call__(self, inputs: Tensor, targets: Targets) -> Tensor:
        """Change the weights once.

        A batch that does not fit into memory goes in pieces, whose gradients add up to its own. Batch norm alone sees the difference:
        its statistics are those of each piece.

        Returns:
            The batch's loss times its rows, correct predictions and rows, (3,), float64; of this process alone.

        Raises:
            CnnkitError: The memory does not hold a single image, or batch norm gets no more than one.
        """
        with torch_device.threads(self._threads_for(inputs)):
            while True:
                try:
                    measures = self._gradients(inputs, targets)
                    break
                except Exception as error:  # of several kinds, if memory is full
                    if not device_errors.is_out_of_memory(error):
                        if (explained := _explained(error)) is None:
                            raise
                        raise explained from error
                    if self.pieces >= len(inputs) or self.world.size > 1:
                        raise MemoryFullError(
                            f"the memory of {self._device} does not hold a batch of {len(inputs)}; give a smaller --batch or --size"
                        ) from error
                # After the except clause: the error's traceback would keep the tensors of the attempt
                torch_device.release_memory()
                self.pieces = min(2 * self.pieces, len(inputs))
                log.warning(
                    "the memory does not hold a batch of %d: it goes in %d parts from now on, gradients added up",
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
                if not device_errors.is_out_of_memory(error):  # which the step itself says better
                    raise
                self._cores = None
        return self._cores

    def _gradients(self, inputs: Tensor, targets: Targets) -> Tensor:
        pieces = min(self.pieces, len(inputs))  # the last batch may be a small one
        shares = target_shares(targets)
        # Numbers are filled in on the device: a tensor that is made here and copied there would make both wait for each other
        count = torch.full((), float(len(inputs)), device=inputs.device)
        weights = [self.criterion.weight(each) for each, _ in shares]
        *wholes, rows = self.world.sum(torch.stack([*weights, count])).unbind()
        self.optimizer.zero_grad(set_to_none=True)
        measures = torch.zeros(3, dtype=torch.float64, device=inputs.device)
        cuts = [piece.tensor_split(pieces) for piece in (inputs, *(each for each, _ in shares))]
        for number, (piece, *targets_of_piece) in enumerate(zip(*cuts, strict=True), start=1):
            with self.precision.autocast():
                logits = self._forward(piece)
            logits = logits.float()
            loss = torch.zeros((), device=inputs.device)
            for (_, share), wanted, whole in zip(shares, targets_of_piece, wholes, strict=True):
                loss = loss + share * self.criterion.total(logits, wanted) / whole
                measures[1] += share * correct(logits.detach(), wanted)
            measures[0] += (loss * rows).detach()
            # Between processes gradients are averaged: their sum is wanted
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


def _explained(error: Exception) -> CnnkitError | None:
    """Say what the user can do about an error of torch's; None where that is not known."""
    if _ONE_VALUE in str(error):
        return CnnkitError("batch norm cannot train on a single picture at a time; give a larger --batch")
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return CnnkitError(f"--compile: {str(error).splitlines()[0]}; train without it")
    return None


class _TrainMeasures:
    """Loss and accuracy over the batches of one epoch, as they were trained."""

    def __init__(self, step: TrainStep, number: int) -> None:
        self._step, self._number = step, number
        self._sums: Tensor | float = 0.0
        self._waiting: list[tuple[Tensor, float]] = []
        self._steps = 0

    def add(self, measures: Tensor) -> None:
        """Take in what a step gave.

        Raises:
            DivergedError: The loss is not finite any more, in whichever process.
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
                    f"the loss is {value} in epoch {self._number}, step {index + 1}, at a learning rate of {rate:g}; "
                    "give a smaller --lr"
                )

    def means(self) -> tuple[float, float]:
        """Give the mean loss and the accuracy, over all processes.

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
        DivergedError: The loss is not finite; `best` still holds the best epoch before.
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
        step.module.train()
        measured = _TrainMeasures(step, number)
        for index, (inputs, targets) in enumerate(train(number)):
            step.set_rate(number, index, done)
            measured.add(step(inputs, targets))
        train_loss, train_accuracy = measured.means()
        with step.averaged():
            module = step.module.eval()
            step.world.align(module)
            val_loss, val_accuracy = (
                evaluate(module, validate(), step.criterion, world=step.world, precision=step.precision)
                if validate
                else (None, None)
            )
            if not (_is_finite(module) if val_loss is None else math.isfinite(val_loss)):
                raise DivergedError(
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
    module: nn.Module,
    batches: Iterable[Plain],
    criterion: Criterion,
    *,
    world: World = ALONE,
    precision: Precision | None = None,
) -> tuple[float, float]:
    """Give mean loss and accuracy of a module in eval mode; penalties, smoothing and class weights do not count.

    In float32, as the exported network computes; on a GPU in what is trained in. A process may have no batch at all.
    """
    plain = Criterion(criterion.loss)
    device = next(module.parameters()).device
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    with torch.inference_mode(), (precision or Precision(device)).untrained():
        for inputs, targets in batches:
            logits = module(inputs).float()
            loss = plain.total(logits, targets).double()
            sums = sums + torch.stack(
                [loss, correct(logits, targets).double(), torch.full_like(loss, float(len(targets)))]
            )
    loss_sum, right, count = world.sum(sums).tolist()
    return loss_sum / count, right / count


def shuffled(inputs: Tensor, targets: Tensor, *, batch: int, generator: torch.Generator) -> Iterator[Plain]:
    """Go over rows once, in a new order; see `dataset.shuffled_batches`."""
    chosen = dataset.shuffled_batches(len(inputs), batch=batch, generator=generator)
    for here in dataset.on_device(chosen, inputs.device):
        yield inputs[here], targets[here]


def in_order(inputs: Tensor, targets: Tensor, *, batch: int = 4096) -> Iterator[Plain]:
    """Go over rows as they stand."""
    for start in range(0, len(inputs), batch):
        yield inputs[start : start + batch], targets[start : start + batch]
