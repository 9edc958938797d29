"""One step of a training: from a batch to changed weights."""

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from cnnkit.engine import torch_device
from cnnkit.errors import CnnkitError
from cnnkit.train.averaging import Average
from cnnkit.train.distributed import ALONE, World
from cnnkit.train.epoch import Epoch
from cnnkit.train.optim import Objective, Targets, correct, parts
from cnnkit.train.precision import Precision

log = logging.getLogger("cnnkit")

#: Inputs (N, ...) and what they are.
Batch = tuple[Tensor, Targets]
#: The factor of the learning rate, by the epoch's number, the step in it (from 0) and the epochs before.
Rate = Callable[[int, int, Sequence[Epoch]], float]

# How many cores a step uses, before the first one is looked at.
_UNKNOWN = 0

# A GPU works ahead of us; asking for a loss makes it wait. So many steps are asked about at once.
_LOSSES_AT_ONCE = 20


# How torch's batch norm says that it has no variance to divide by.
_ONE_VALUE = "more than 1 value per channel"


class Diverged(CnnkitError):
    """The loss is no number any more, and would not become one again; `done` are good epochs of a warm-up before."""

    done: Sequence[Epoch] = ()


class Step:
    """Takes the steps of a training, and holds what they need from one to the next."""

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        rate: Rate | None = None,
        precision: Precision | None = None,
        clip: float | None = None,
        average: Average | None = None,
        world: World = ALONE,
        compiled: bool = False,
    ) -> None:
        """Prepare.

        Args:
            module: Inputs -> logits; trained in place.
            objective: Loss and penalties.
            optimizer: Over the module's parameters.
            rate: Changes the learning rates; they stay as they are unless said.
            precision: Of the forward pass; float32 unless said.
            clip: The gradients' largest norm, over all of them together.
            average: Is updated after every step, and answers at validation.
            world: The processes that train together.
            compiled: Run the module through torch.compile.
        """
        self.module = module
        self.objective = objective
        self.optimizer = optimizer
        self.world = world
        self._rate = rate
        self._clip = clip
        self._average = average
        self._device = next(module.parameters()).device
        self._precision = precision or Precision(self._device)
        self.scaler = self._precision.scaler()
        self._compiled = compiled
        self._rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._cores: int | None = _UNKNOWN
        #: Into how many parts a batch is cut to fit into the GPU's memory.
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
        return self._average.in_place() if self._average else contextlib.nullcontext()

    def epoch(self, batches: Iterable[Batch], *, number: int, before: Sequence[Epoch] = ()) -> tuple[float, float]:
        """Go through the batches of one epoch.

        Returns:
            The mean loss and the accuracy of the batches as they were trained, over all processes.

        Raises:
            Diverged: The loss is no number any more, in whichever process.
            CnnkitError: The memory does not hold a single picture, or batch norm gets no more than one.
        """
        self.module.train()
        sums: Tensor | float = 0.0
        losses: list[tuple[Tensor, float]] = []
        for index, (inputs, targets) in enumerate(batches):
            if self._rate is not None:
                factor = self._rate(number, index, before)
                for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                    group["lr"] = rate * factor
            measures = self(inputs, targets)
            sums = sums + measures
            losses.append((measures[0], self.lr))
            if self._device.type == "cpu" or len(losses) == _LOSSES_AT_ONCE:
                self._check(losses, number, index)
                losses = []
        self._check(losses, number, index)
        assert isinstance(sums, Tensor)
        loss, right, count = self.world.sum(sums).tolist()
        return loss / count, right / count

    def _check(self, losses: list[tuple[Tensor, float]], number: int, last: int) -> None:
        values = self.world.sum(torch.stack([loss for loss, _ in losses])).tolist() if losses else []
        for index, (value, (_, rate)) in enumerate(zip(values, losses, strict=True), start=last + 1 - len(values)):
            if not math.isfinite(value):
                raise Diverged(
                    f"the loss is {value} in epoch {number}, step {index + 1}, at a learning rate of {rate:g}; "
                    "give a smaller --lr"
                )

    def __call__(self, inputs: Tensor, targets: Targets) -> Tensor:
        """Change the weights once.

        A batch that does not fit into memory goes in parts, whose gradients add up to its own. Batch norm alone sees the difference:
        its statistics are those of each part.

        Returns:
            The batch's loss times its rows, right answers and rows, (3,), float64; of this process alone.
        """
        if self._cores == _UNKNOWN:
            try:
                self._cores = torch_device.threads_for(self.module, inputs)
            except torch.OutOfMemoryError:  # which the step itself says better
                self._cores = None
        with torch_device.threads(self._cores):
            return self._changed(inputs, targets)

    def _changed(self, inputs: Tensor, targets: Targets) -> Tensor:
        while True:
            try:
                measures = self._gradients(inputs, targets)
                break
            except torch.OutOfMemoryError as error:
                if self.pieces >= len(inputs) or self.world.size > 1:
                    raise CnnkitError(
                        f"the memory of {self._device} does not hold a batch of {len(inputs)}; give a smaller --batch or --size"
                    ) from error
            except (ValueError, RuntimeError) as error:
                if _ONE_VALUE in str(error):
                    raise CnnkitError(
                        "batch norm cannot train on a single picture at a time; give a larger --batch"
                    ) from error
                if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                    raise CnnkitError(f"--compile: {str(error).splitlines()[0]}; train without it") from error
                raise
            # Behind the except clause: the error's traceback would keep the tensors of the attempt
            torch.cuda.empty_cache()
            self.pieces = min(2 * self.pieces, len(inputs))
            log.warning(
                "the GPU's memory does not hold a batch of %d: it goes in %d parts from now on, gradients added up",
                len(inputs),
                self.pieces,
            )
        self._change()
        return measures

    def _gradients(self, inputs: Tensor, targets: Targets) -> Tensor:
        pieces = min(self.pieces, len(inputs))  # the last batch may be a small one
        shares = parts(targets)
        count = torch.tensor(float(len(inputs)), device=inputs.device)
        weights = [self.objective.weight(each) for each, _ in shares]
        *wholes, rows = self.world.sum(torch.stack([*weights, count])).unbind()
        self.optimizer.zero_grad(set_to_none=True)
        measures = torch.zeros(3, dtype=torch.float64, device=inputs.device)
        cuts = [piece.tensor_split(pieces) for piece in (inputs, *(each for each, _ in shares))]
        for number, (piece, *answers) in enumerate(zip(*cuts, strict=True), start=1):
            with self._precision.autocast():
                logits = self._forward(piece)
            logits = logits.float()
            loss = torch.zeros((), device=inputs.device)
            for (_, share), wanted, whole in zip(shares, answers, wholes, strict=True):
                loss = loss + share * self.objective.total(logits, wanted) / whole
                measures[1] += share * correct(logits.detach(), wanted)
            measures[0] += (loss * rows).detach()
            # Between processes gradients are averaged: their sum is wanted
            total = loss * self.world.size + (self.objective.penalty(self.module) if number == pieces else 0.0)
            self.scaler.scale(total).backward()  # type: ignore[no-untyped-call] # torch ships it untyped
        measures[2] = len(inputs)
        return measures

    def _change(self) -> None:
        if self._clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(
                [each for group in self.optimizer.param_groups for each in group["params"]], self._clip
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self._average is not None:
            self._average.update()
