"""Train, from examples and a configuration to a model on disk, with its history, and a checkpoint until it ends."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.callbacks import Callbacks, Report
from cnnkit.choices import ClassWeights
from cnnkit.engine import torch_device
from cnnkit.errors import CnnkitError, MemoryFullError, UsageError
from cnnkit.formats import checkpoint, history, torch_model
from cnnkit.formats.header import Header
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets.classifier import Classifier
from cnnkit.train import loop, memory_estimate, mixed_precision, optim, resuming, several_labels
from cnnkit.train.batches import Batches
from cnnkit.train.config import CHECKPOINT_EVERY, BoxEpoch, Epoch, ImageTrainConfig, epoch_of
from cnnkit.train.dataset import Examples
from cnnkit.train.distributed import ALONE, World
from cnnkit.train.find_lr import LrStep, range_test
from cnnkit.train.loop import BestEpoch, DivergedError, Plain, TrainStep, evaluate, fit
from cnnkit.train.optim import Criterion, ModelEma

log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The result of a training run; the measures are those of its best epoch, whose weights the model has.

    `best_epoch` is 0 if that is the network before the training, whose measures on the training set are not known.
    `majority` is the validation accuracy of always predicting the most frequent class, or set of labels; `seconds` is the total time,
    including reading images and running the frozen part.
    """

    model: str
    classes: int
    train_rows: int
    val_rows: int
    epochs: int
    best_epoch: int
    train_accuracy: float | None
    val_accuracy: float | None
    val_loss: float | None
    majority: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class BoxTrainResult(TrainResult):
    """The same of a network that also predicts a box; `val_iou` is the mean over the images with a box."""

    val_iou: float | None = None


def _ready() -> None:
    """Do nothing: the examples need no preparation."""


def _nothing(_write: Report) -> Sequence[Epoch]:
    """Train nothing before the training itself."""
    return ()


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained, and on which examples.

    `module` is trained; `whole` is written and shares its weights; `groups` are its parameters as torch's optimizers take groups, with
    factors of the learning rate; `begin` changes the weights before the training, and returns its epochs. If `begins_trained`, the
    network is validated before the first epoch, and its weights are kept if no epoch is better. `ready` prepares the examples; it is
    not called if the training is complete. The preprocessing of `whole` is that of the training images, and that of `header` is of the
    finished model.
    """

    module: nn.Module
    whole: Classifier
    train: Examples
    val: Examples | None
    header: Header
    identity: str  # of the images
    groups: Sequence[dict[str, Any]] | None = None
    begin: Callable[[Report], Sequence[Epoch]] = _nothing
    begins_trained: bool = False
    ready: Callable[[], None] = _ready
    #: Factor of the loss of boxes; None for a network that predicts none.
    box_weight: float | None = None


@dataclass(frozen=True, slots=True)
class RunContext:
    """Where a training runs, writes and reports; made before the images are read, so that `started` is the start of everything."""

    output: Path
    device: torch.device
    world: World
    resume: bool
    callbacks: Callbacks
    checkpoint_every: float = CHECKPOINT_EVERY
    started: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRow:
    """The row of a history before the first epoch, with the fields of `Epoch`."""

    epoch: int = 0
    train_loss: None = None
    train_accuracy: None = None
    val_loss: float
    val_accuracy: float
    lr: None = None
    seconds: None = None


@dataclass(frozen=True, slots=True)
class StartMeasures:
    """Validation measures of a pretrained network before the training."""

    val_loss: float
    val_accuracy: float

    def row(self) -> StartRow:
        """Return them as epoch 0 of a history."""
        return StartRow(val_loss=self.val_loss, val_accuracy=self.val_accuracy)


#: A checkpoint's content is copied after each epoch if that takes less than _QUICK seconds, else only after _COPYING_SHARE times the
#: time that the last copy took.
_QUICK, _COPYING_SHARE = 0.1, 20


class Trainer:
    """One training, with its state between epochs."""

    def __init__(self, task: Task, config: ImageTrainConfig, context: RunContext) -> None:
        """Prepare.

        Args:
            task: What is trained.
            config: How it is trained.
            context: Where it is trained.
        """
        self.task, self.config, self.context = task, config, context
        self.header = task.header.but(training={**task.header.training, "pictures": task.identity})
        self.best = BestEpoch(config.monitor)
        self.checkpoint = checkpoint.path_for(context.output)
        #: Epochs that `task.begin` took.
        self.earlier = 0
        #: Epochs of another training after this one, for progress.
        self.following = 0
        self.start: StartMeasures | None = None
        # The weights that `start` was measured with
        self._start_state: dict[str, Tensor] = {}
        #: The checkpoint file is of this training.
        self.resumable = False
        # The content of a checkpoint that is not yet written, and when the last one was written.
        self._pending: dict[str, Any] | None = None
        self._kept_at: float | None = None
        # When content was last copied, and how long that took.
        self._copied_at, self._copying = 0.0, 0.0
        module = task.module.to(context.device).to(memory_format=torch.channels_last)
        if min(config.batch, len(task.train.targets)) < context.world.size:
            raise UsageError(
                f"--batch {config.batch} leaves some of {context.world.size} processes without an image; "
                "give a larger --batch, or start fewer processes"
            )
        classes = len(task.header.classes or ())
        weights = None
        if config.class_weights is ClassWeights.BALANCED:
            weights = optim.balanced_weights(task.train.targets, classes).to(context.device)
        groups = task.groups or [{"params": [each for each in module.parameters() if each.requires_grad], "lr": 1.0}]
        self.ema = ModelEma(module, config.ema) if config.ema is not None else None
        self.batches = Batches(
            task.train,
            task.val,
            config,
            size=task.whole.preprocess.size,
            device=context.device,
            world=context.world,
            progress=context.callbacks.progress,
        )
        assert config.loss is not None
        precision = mixed_precision.choose_precision(config.amp, context.device)
        if precision.dtype is not None:
            log.info("training in mixed precision, %s", str(precision.dtype).removeprefix("torch."))
        self.step = TrainStep(
            module,
            Criterion(config.loss, config.smoothing, weights, config.l1, config.l2, task.box_weight),
            optim.optimizer(config, groups),
            rate=lambda number, index, before: optim.lr_factor(
                config.schedule,
                step=(number - 1 - self.earlier) * self.batches.count + index,
                steps=self.batches.count,
                epochs=config.epochs,
                warmup=config.warmup,
                before=before[self.earlier :],
            ),
            precision=precision,
            clip=config.clip,
            ema=self.ema,
            world=context.world,
            compiled=config.compile,
        )

    def run(self) -> TrainResult:
        """Train to the end, and write the model with the best epoch's weights.

        Returns:
            The same in every process; only the first one writes files.

        Raises:
            DivergedError: The loss is not finite; the best epoch before, or the start, is written anyway.
            CnnkitError: A single image does not fit into memory.
            UsageError: With `resume`, the checkpoint is of another training.
            OSError: The disk is full; the last checkpoint stays.
        """
        context = self.context
        if context.resume and (complete := self.completed()):
            log.info("%s is complete with epoch %d; nothing is left to do", context.output, len(complete))
            return self.result(complete)
        kept = self.resumed() if context.resume else None
        done = kept or []
        with self._keeping_the_checkpoint():
            try:
                with self._history(done) as write, self.prepared():
                    self.task.ready()
                    self._check_memory()
                    context.callbacks.phase("training")
                    if kept is None:
                        done += self.fresh(write)
                    before = len(done)
                    for epoch in self.epochs(done):
                        done.append(epoch)
                        write(epoch)
                        self.keep(done)
                        self._report(epoch, of=self.last, left=self.last - epoch.epoch)
            except DivergedError as error:
                best = self.best.epoch
                if best is None:
                    raise DivergedError(f"{error}; no model was written") from error
                self.finish(done or error.done, ended=str(error))
                has = "the weights before training" if self.keeps_start else f"the best epoch before, {best.epoch}"
                raise DivergedError(f"{error}; {context.output} has {has}") from error
            context.callbacks.phase("writing the model")
            self.finish(done)
        self._log_speed(done[before:])
        self.warn_without_improvement()
        return self.result(done)

    def find_lr(self) -> list[LrStep]:
        """Take the steps of a learning-rate range test instead of training; nothing is written.

        Raises:
            CnnkitError: A batch does not fit into memory.
        """
        with self.prepared():
            self.task.ready()
            self._check_memory()
            self.task.begin(lambda _epoch: None)
            self.context.world.align(self.step.module)
            self.context.callbacks.phase("finding a learning rate")
            return range_test(
                self.step,
                lambda number: self.batches.train(number, last=None),
                rate=self.config.rate,
                progress=self.context.callbacks.progress,
            )

    def warm_up(self, write: Report, *, following: int) -> list[Epoch]:
        """Train a part of a network before the training itself, and leave it with the best epoch's weights.

        `write` writes the history. There is no checkpoint: an interrupted warm-up starts over. Every process does the same work on
        all rows. `following` is the number of epochs after the warm-up.
        """
        self.following = following
        epochs: list[Epoch] = []
        try:
            with self.prepared():
                for epoch in self.epochs([]):
                    epochs.append(epoch)
                    write(epoch)
                    self._report(epoch, of=self.last + following, left=None)
        except DivergedError as error:
            error.done = epochs
            raise
        finally:
            if epochs:
                self.task.module.load_state_dict(self.best.state)
        return epochs

    @contextlib.contextmanager
    def _keeping_the_checkpoint(self) -> Iterator[None]:
        """If anything ends the training early, write a checkpoint of the finished epochs, and log how to resume."""
        try:
            yield
        except BaseException:
            self._keep_pending()
            if self.resumable and self.checkpoint.exists():
                log.warning("%s has the finished epochs; run again with --resume to continue", self.checkpoint)
            raise

    @contextlib.contextmanager
    def _history(self, done: Sequence[Epoch]) -> Iterator[Callable[[Epoch], None]]:
        """Yield a function that adds a row to the history, before the first one that of the start; only the first process writes."""
        if not self.context.world.writes:
            yield lambda _epoch: None
            return
        written = False
        with history.HistoryWriter(self.context.output.with_suffix(".csv")) as rows:

            def write(epoch: Epoch) -> None:
                nonlocal written
                if self.start is not None and not written:
                    rows.write(self.start.row())
                rows.write(epoch)
                written = True

            for epoch in done:
                write(epoch)
            yield write

    def _report(self, epoch: Epoch, *, of: int, left: int | None) -> None:
        """Log and report an epoch; `left` is the number of remaining epochs, for the remaining time; None if that is unknown."""
        _log_epoch(epoch, of=of, left=left, rows=len(self.task.train.targets))
        self.context.callbacks.report(epoch)

    def _check_memory(self) -> None:
        """Log how much memory the training takes, before the first step.

        Raises:
            MemoryFullError: It is more than a CPU has free. On a GPU, the step divides batches that do not fit.
        """
        rows = torch.arange(4)
        if self.context.world.size > 1 or len(self.task.train.targets) < len(
            rows
        ):  # batch norm of several processes cannot run alone
            return
        config, device = self.config, self.context.device
        batch = min(config.batch, len(self.task.train.targets))
        try:
            needed = memory_estimate.estimate(
                self.step.module.train(),
                next(iter(self.task.train.inputs([rows], None))),
                optimizer=config.optimizer,
                momentum=bool(config.momentum),
                ema=config.ema is not None,
                precision=self.step.precision,
            )
        except RuntimeError as error:  # which the first step reports better
            log.debug("no estimate of the memory: %s", error)
            return
        size, free = needed.of_batch(batch), memory_estimate.available(device)
        log.info(
            "training takes about %s of memory for batches of %d%s",
            memory_estimate.shown(size),
            batch,
            "" if free is None else f"; {memory_estimate.shown(free)} are free",
        )
        if free is not None and size > free and device.type == "cpu":
            fitting = needed.largest_batch(free)
            remedy = f"give --batch {fitting}" if fitting else "give a smaller --size or network"
            raise MemoryFullError(
                f"batches of {batch} need about {memory_estimate.shown(size)} of memory, and {memory_estimate.shown(free)} are free; "
                f"{remedy}"
            )

    def _log_speed(self, epochs: Sequence[Epoch]) -> None:
        """Log how fast the epochs of this process were, and what share of their time they waited for images."""
        seconds = sum(epoch.seconds for epoch in epochs)
        if seconds:
            log.info(
                "%s images/s, %.3g s per epoch with validation, of which %.0f %% waiting for training images",
                _rate(len(epochs) * len(self.task.train.targets) / seconds),
                seconds / len(epochs),
                100 * min(self.step.waited / seconds, 1.0),
            )

    @property
    def last(self) -> int:
        """The number of the last epoch, if the training is not stopped early."""
        return self.earlier + self.config.epochs

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Restore torch's global generator, from which dropout draws, afterwards, and set which algorithms torch uses."""
        device = self.context.device
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch_device.algorithms(deterministic=self.config.deterministic),
        ):
            yield

    def epochs(self, done: Sequence[Epoch]) -> Iterator[Epoch]:
        """Train, after the epochs that are done."""
        return fit(
            self.step,
            train=lambda number: self.batches.train(number, last=self.last + self.following),
            validate=None if self.task.val is None else self._validation,
            best=self.best,
            epochs=self.last,
            patience=self.config.patience,
            before=done,
            begun=self.earlier,
        )

    def _validation(self) -> Iterator[Plain]:
        return self.batches.validation(pieces=self.step.pieces)

    def fresh(self, write: Report) -> list[Epoch]:
        """Start over.

        Args:
            write: Called with every finished epoch of `task.begin`.

        Returns:
            The epochs of `task.begin`.
        """
        if self.context.world.writes and self.checkpoint.exists():
            log.warning(
                "%s of an unfinished training will be replaced; to continue that training, use --resume",
                self.checkpoint,
            )
        if self.task.begins_trained and self.task.val is not None:
            module = self.step.module.eval()
            self.context.world.align(module)
            self._start_state = _on_cpu(module)
            self.start = StartMeasures(
                *evaluate(
                    module,
                    self._validation(),
                    self.step.criterion,
                    world=self.context.world,
                    precision=self.step.precision,
                )
            )
            log.info("before training: val loss %.4f, accuracy %.4f", self.start.val_loss, self.start.val_accuracy)
            self.context.callbacks.report(self.start.row())
        try:
            done = list(self.task.begin(write))
        except DivergedError as error:
            self._begin_after(error.done)
            raise
        self._begin_after(done)
        return done

    def _begin_after(self, done: Sequence[Epoch]) -> None:
        """Continue from the result of `task.begin`: the weights of its best epoch."""
        self.earlier = len(done)
        self.context.world.align(self.step.module)
        for epoch in done:
            self.best.offer(epoch, self.step.module)
        if self.ema is not None:
            self.ema.restart()

    def completed(self) -> list[Epoch] | None:
        """Check whether the output file already has the result of this training.

        Returns:
            Its epochs, without their seconds; None if the file is not the model of a finished training.

        Raises:
            UsageError: The file is the finished model of another training.
        """
        output = self.context.output
        if not self.context.world.agree(output.exists() and not self.checkpoint.exists()):
            return None
        model = torch_model.load(output)
        if "pictures" not in model.header.training or "ended" in model.header.training:
            return None
        if replace(model.header, made_by={}, thresholds=None) != replace(
            Header.from_json(self.header.to_json(), name=""), made_by={}
        ):
            resuming.check_same_run(
                output, *(resuming.fingerprint(header, self.config.schedule) for header in (model.header, self.header))
            )
            raise UsageError(
                f"{output} is complete with --epochs {model.header.training.get('epochs')}, and its checkpoint is removed; "
                "start over without --resume, or give another -o"
            )
        rows: list[dict[str, Any]] = model.history
        with resuming.restoring(output):
            if rows and rows[0]["epoch"] == 0:
                self.start = StartMeasures(rows[0]["val_loss"], rows[0]["val_accuracy"])
                rows = rows[1:]
            epochs = [epoch_of({**row, "seconds": 0.0}) for row in rows]
        for epoch in epochs:
            if self.best.better(epoch):
                self.best.epoch = epoch
        return epochs

    def resumed(self) -> list[Epoch] | None:
        """Restore the state after the last finished epoch.

        Returns:
            The finished epochs; None if there is no checkpoint.
        """
        if not self.context.world.agree(self.checkpoint.exists()):
            log.info("no checkpoint %s to resume: starting with epoch 1", self.checkpoint)
            return None
        kept = checkpoint.load(self.checkpoint)
        with resuming.restoring(self.checkpoint):
            resuming.check_same_run(
                self.checkpoint, kept["mark"], resuming.fingerprint(self.header, self.config.schedule)
            )
            if kept["start"]:
                self._start_state = _on_cpu(self.step.module)  # not yet trained
            self.step.module.load_state_dict(kept["best"]["state"])  # reports a misfit now, not when training ends
            self.step.module.load_state_dict(kept["module"])
            optim.restore(self.step.optimizer, kept["optimizer"])
            if kept["scaler"]:  # empty where another device needed none
                self.step.scaler.load_state_dict(kept["scaler"])
            self.step.pieces, self.earlier = int(kept["pieces"]), int(kept["earlier"])
            if self.ema is not None:
                self.ema.restore(**kept["average"])
            self.start = StartMeasures(**kept["start"]) if kept["start"] else None
            self.best.epoch = epoch_of(kept["best"]["epoch"])
            self.best.state = kept["best"]["state"]
            done = [epoch_of(epoch) for epoch in kept["epochs"]]
            last = done[-1].epoch
        self.resumable = True
        log.info("resuming after epoch %d", last)
        return done

    def keep(self, done: Sequence[Epoch]) -> None:
        """Write the checkpoint, or copy its content if the last one is recent.

        A checkpoint is written after the first and the last epoch, at least `checkpoint_every` seconds apart between them, and from the
        copy when something ends the training. A large network is copied less often than after each epoch, if epochs are short.
        """
        if not self.context.world.writes:
            return
        now = time.perf_counter()
        due = self._kept_at is None or now - self._kept_at >= self.context.checkpoint_every
        if due or done[-1].epoch == self.last:
            self._write_checkpoint(self._checkpoint_of(done))
        elif self._copying < _QUICK or now - self._copied_at >= _COPYING_SHARE * self._copying:
            self._pending = resuming.copied(self._checkpoint_of(done))
            self._copied_at = time.perf_counter()
            self._copying = self._copied_at - now

    def _keep_pending(self) -> None:
        """Write the checkpoint from the copy, if there is one; an error here must not hide what ended the training."""
        if self._pending is not None:
            try:
                self._write_checkpoint(self._pending)
            except (OSError, CnnkitError) as error:
                reason = getattr(error, "strerror", None) or error
                log.warning("%s: could not write the checkpoint of the last epochs: %s", self.checkpoint, reason)

    def _write_checkpoint(self, content: dict[str, Any]) -> None:
        checkpoint.save(self.checkpoint, content)
        self._pending, self._kept_at = None, time.perf_counter()
        self.resumable = True

    def _checkpoint_of(self, done: Sequence[Epoch]) -> dict[str, Any]:
        assert self.best.epoch is not None
        return {
            "mark": resuming.fingerprint(self.header, self.config.schedule),
            "epochs": [dataclasses.asdict(epoch) for epoch in done],
            "start": dataclasses.asdict(self.start) if self.start else None,
            "earlier": self.earlier,
            "module": self.step.module.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "pieces": self.step.pieces,
            "average": self.ema.state() if self.ema else None,
            "best": {"epoch": dataclasses.asdict(self.best.epoch), "state": self.best.state},
        }

    def finish(self, done: Sequence[Epoch], *, ended: str | None = None) -> None:
        """Write the model with the best epoch's weights, or those before training if no epoch is better, and remove the checkpoint.

        Args:
            done: All epochs.
            ended: The error that ended the training early, for the Header.
        """
        self.step.module.load_state_dict(self._start_state if self.keeps_start else self.best.state)
        if not self.context.world.writes:
            return
        # Models that have the weights of an epoch have the history of the epochs
        written: list[Any] = [*([self.start.row()] if self.start is not None and self.keeps_start else []), *done]
        rows = [
            {name: value for name, value in dataclasses.asdict(epoch).items() if name != "seconds"} for epoch in written
        ]
        header = self.header.but(training={**self.header.training, "ended": ended}) if ended else self.header
        if header.multi_label:
            header = header.but(thresholds=self._thresholds())
        torch_model.save(self.context.output, TorchModel(header, self.task.whole.state_dict(), rows))
        self._pending = None
        self.checkpoint.unlink(missing_ok=True)

    def _thresholds(self) -> tuple[float, ...]:
        """Choose the thresholds of several labels per image for the weights of the best epoch, on all validation images."""
        classes, val = self.header.classes or (), self.task.val
        if val is None:
            return several_labels.without_validation(classes)
        module = self.step.module.eval()
        with torch.inference_mode():
            batches = self.batches.validation(pieces=self.step.pieces, world=ALONE)
            found = torch.cat([module(inputs).float().sigmoid().cpu() for inputs, _ in batches])
        return several_labels.thresholds(found, val.targets, classes)

    @property
    def keeps_start(self) -> bool:
        """Whether no epoch so far is better than the network before the training."""
        best, start, monitor = self.best.epoch, self.start, self.config.monitor
        return start is not None and best is not None and history.rank(start, monitor) >= history.rank(best, monitor)

    def warn_without_improvement(self) -> None:
        """Warn if no epoch is better than the network before the training, or if the network is certain of all its outputs."""
        best, start = self.best.epoch, self.start
        assert best is not None
        if start is not None and self.keeps_start:
            log.warning(
                "no epoch was better than before training (val loss %.4f, accuracy %.4f): %s keeps the weights from before; the best "
                "epoch, %d, had val loss %.4f, accuracy %.4f; try a smaller --lr or other layers",
                start.val_loss,
                start.val_accuracy,
                self.context.output,
                best.epoch,
                best.val_loss,
                best.val_accuracy,
            )
        elif isinstance(best, BoxEpoch):
            return  # its loss is also that of the boxes
        elif loop.warn_if_saturated(
            best, classes=2 if self.header.multi_label else len(self.header.classes or ()), rate=self.config.rate
        ):
            return
        elif best.epoch <= self.earlier:
            log.warning("no epoch after the warm-up was better than epoch %d: the backbone is unchanged", best.epoch)

    def result(self, done: Sequence[Epoch]) -> TrainResult:
        """Return the result."""
        best, train, val = self.best.epoch, self.task.train, self.task.val
        assert best is not None
        kept = self.start.row() if self.start is not None and self.keeps_start else best
        made = TrainResult(
            model=str(self.context.output),
            classes=len(self.header.classes or ()),
            train_rows=len(train.targets),
            val_rows=0 if val is None else len(val.targets),
            epochs=len(done),
            best_epoch=kept.epoch,
            train_accuracy=kept.train_accuracy,
            val_accuracy=kept.val_accuracy,
            val_loss=kept.val_loss,
            majority=None if val is None else _majority(train.targets, val.targets),
            seconds=round(time.perf_counter() - self.context.started, 1),
        )
        return BoxTrainResult(**dataclasses.asdict(made), val_iou=best.val_iou) if isinstance(best, BoxEpoch) else made


def _majority(train: Tensor, val: Tensor) -> float:
    if train.ndim == 2:
        return several_labels.majority(train, val)
    return float((val == int(torch.bincount(train).argmax())).double().mean())


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    """Copy the weights of a module to the CPU's memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}


def _log_epoch(epoch: Epoch, *, of: int, left: int | None, rows: int) -> None:
    """Log an epoch; `left` is the number of remaining epochs, for the remaining time; None if that is unknown."""
    validation = "" if epoch.val_loss is None else f"; val loss {epoch.val_loss:.4f}, accuracy {epoch.val_accuracy:.4f}"
    if isinstance(epoch, BoxEpoch) and epoch.val_iou is not None:
        validation += f", IoU {epoch.val_iou:.4f}"
    log.info(
        "epoch %d/%d: loss %.4f, accuracy %.4f%s; lr %.3g; %s images/s%s",
        epoch.epoch,
        of,
        epoch.train_loss,
        epoch.train_accuracy,
        validation,
        epoch.lr,
        _rate(rows / max(epoch.seconds, 1e-3)),
        "" if left is None else f", {_duration(epoch.seconds * left)} left",
    )


def _rate(images: float) -> str:
    """Format images per second: 312, 7.4, 0.38."""
    return f"{images:.0f}" if images >= 10 else f"{images:.2g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
