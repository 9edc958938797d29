"""One training and what it holds from epoch to epoch: how it goes on, what is kept of it, and what it comes to."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from cnnkit.choices import ClassWeights
from cnnkit.errors import UsageError
from cnnkit.formats import bundle, checkpoint, history
from cnnkit.formats.bundle import Bundle
from cnnkit.formats.header import Header
from cnnkit.train import optim, precision, schedule
from cnnkit.train.averaging import Average
from cnnkit.train.batches import Batches
from cnnkit.train.epoch import Epoch
from cnnkit.train.loop import Best, Plain, evaluate, fit
from cnnkit.train.mark import mark, refuse_another
from cnnkit.train.optim import Objective
from cnnkit.train.recipe import Recipe
from cnnkit.train.results import Report, Result
from cnnkit.train.step import Diverged, Step
from cnnkit.train.task import Place, Task

log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True)
class Measure:
    """How good a network is that has been trained before, on the validation part."""

    val_loss: float
    val_accuracy: float


class Training:
    """One training and what it holds from epoch to epoch."""

    def __init__(self, task: Task, recipe: Recipe, place: Place, *, following: int = 0) -> None:
        """Prepare.

        Args:
            task: What is trained.
            recipe: How.
            place: Where.
            following: Epochs of another training after this one, which progress counts with.
        """
        self.task, self.recipe, self.place = task, recipe, place
        self.header = task.header.but(training={**task.header.training, "pictures": task.identity})
        self.best = Best(recipe.monitor)
        self.checkpoint = checkpoint.beside(place.output)
        #: Epochs that `task.begin` took.
        self.earlier = 0
        self.following = following
        self.start: Measure | None = None
        #: There is a checkpoint of this training, and of no other.
        self.resumable = False
        module = task.module.to(place.device).to(memory_format=torch.channels_last)
        if min(recipe.batch, len(task.train.targets)) < place.world.size:
            raise UsageError(f"--batch {recipe.batch} leaves some of {place.world.size} processes without a picture")
        classes = len(task.header.classes or ())
        weights = None
        if recipe.class_weights is ClassWeights.BALANCED:
            weights = optim.balanced_weights(task.train.targets, classes).to(place.device)
        groups = task.groups or [{"params": [each for each in module.parameters() if each.requires_grad], "lr": 1.0}]
        self.average = Average(module, recipe.ema) if recipe.ema is not None else None
        self.batches = Batches(task, recipe, place)
        numbers = precision.choose(recipe.amp, place.device)
        if numbers.dtype is not None:
            log.info("computing in %s", str(numbers.dtype).removeprefix("torch."))
        self.step = Step(
            module,
            Objective(recipe.loss, recipe.smoothing, weights, recipe.l1, recipe.l2),
            optim.optimizer(recipe.optimizer, groups, lr=recipe.lr, momentum=recipe.momentum),
            rate=lambda number, index, before: schedule.factor(
                recipe.schedule,
                step=(number - 1 - self.earlier) * self.batches.count + index,
                steps=self.batches.count,
                epochs=recipe.epochs,
                warmup=recipe.warmup,
                before=before[self.earlier :],
            ),
            precision=numbers,
            clip=recipe.clip,
            average=self.average,
            world=place.world,
            compiled=recipe.compile,
        )

    @property
    def last(self) -> int:
        """The number of the last epoch, should nothing stop the training before."""
        return self.earlier + self.recipe.epochs

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Borrow torch's global generator, from which dropout draws, and let cuDNN look for the fastest algorithms."""
        device = self.place.device
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.backends.cudnn.flags(enabled=True, benchmark=True),
        ):
            yield

    def epochs(self, done: Sequence[Epoch]) -> Iterator[Epoch]:
        """Train on after the epochs that are done."""
        return fit(
            self.step,
            train=lambda number: self.batches.train(number, last=self.last + self.following),
            validate=None if self.task.val is None else self._validation,
            best=self.best,
            epochs=self.last,
            patience=self.recipe.patience,
            before=done,
            begun=self.earlier,
        )

    def _validation(self) -> Iterator[Plain]:
        return self.batches.validation(pieces=self.step.pieces)

    def fresh(self, write: Report) -> list[Epoch]:
        """Begin anew.

        Args:
            write: Called with the epochs that `task.begin` takes, as they are done.

        Returns:
            The epochs that `task.begin` took.
        """
        if self.place.world.writes and self.checkpoint.exists():
            log.warning(
                "%s of an unfinished training will be replaced; --resume would have gone on from it", self.checkpoint
            )
        if self.task.begins_trained and self.task.val is not None:
            module = self.step.module.eval()
            self.place.world.align(module)
            self.start = Measure(*evaluate(module, self._validation(), self.step.objective, world=self.place.world))
            log.info("start: val %.4f, %.4f", self.start.val_loss, self.start.val_accuracy)
        try:
            done = list(self.task.begin(write))
        except Diverged as error:
            self._begin_after(error.done)
            raise
        self._begin_after(done)
        return done

    def _begin_after(self, done: Sequence[Epoch]) -> None:
        """Go on from what `task.begin` left: the weights of the best of its epochs."""
        self.earlier = len(done)
        self.place.world.align(self.step.module)
        for epoch in done:
            self.best.offer(epoch, self.step.module)
        if self.average is not None:
            self.average.restart()

    def completed(self) -> list[Epoch] | None:
        """Find out whether the model that this training would come to stands there already.

        Returns:
            Its epochs, of which nobody knows any more how long they took; None where no training of these commands came to its end.

        Raises:
            UsageError: A finished model of another training stands there.
        """
        output = self.place.output
        if not self.place.world.agree(output.exists() and not self.checkpoint.exists()):
            return None
        model = bundle.load(output)
        if "pictures" not in model.header.training or "ended" in model.header.training:
            return None
        if replace(model.header, made_by={}) != replace(Header.from_json(self.header.to_json(), name=""), made_by={}):
            refuse_another(output, *(mark(header, self.recipe.schedule) for header in (model.header, self.header)))
            raise UsageError(
                f"{output} is complete with --epochs {model.header.training.get('epochs')}, and what it would go on from is gone; "
                "begin anew without --resume, or give another -o"
            )
        rows: list[dict[str, Any]] = model.history
        epochs = [Epoch(**row, seconds=0.0) for row in rows]
        for epoch in epochs:
            if self.best.better(epoch):
                self.best.epoch = epoch
        return epochs

    def resumed(self) -> list[Epoch] | None:
        """Put everything where the last finished epoch left it.

        Returns:
            The epochs that are done; None where there is no checkpoint.
        """
        if not self.place.world.agree(self.checkpoint.exists()):
            log.info("nothing to resume yet, no %s: beginning with the first epoch", self.checkpoint)
            return None
        kept = checkpoint.load(self.checkpoint)
        refuse_another(self.checkpoint, kept["mark"], mark(self.header, self.recipe.schedule))
        self.step.module.load_state_dict(kept["module"])
        self.step.optimizer.load_state_dict(kept["optimizer"])
        self.step.scaler.load_state_dict(kept["scaler"])
        self.step.pieces, self.earlier = kept["pieces"], kept["earlier"]
        if self.average is not None:
            self.average.restore(**kept["average"])
        self.start = Measure(**kept["start"]) if kept["start"] else None
        self.best.epoch = Epoch(**kept["best"]["epoch"])
        self.best.state = kept["best"]["state"]
        done = [Epoch(**epoch) for epoch in kept["epochs"]]
        self.resumable = True
        log.info("going on after epoch %d", done[-1].epoch)
        return done

    def keep(self, done: Sequence[Epoch]) -> None:
        """Write the checkpoint."""
        if not self.place.world.writes:
            return
        assert self.best.epoch is not None
        content = {
            "mark": mark(self.header, self.recipe.schedule),
            "epochs": [dataclasses.asdict(epoch) for epoch in done],
            "start": dataclasses.asdict(self.start) if self.start else None,
            "earlier": self.earlier,
            "module": self.step.module.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "pieces": self.step.pieces,
            "average": self.average.state() if self.average else None,
            "best": {"epoch": dataclasses.asdict(self.best.epoch), "state": self.best.state},
        }
        checkpoint.save(self.checkpoint, content)
        self.resumable = True

    def finish(self, done: Sequence[Epoch], *, ended: str | None = None) -> None:
        """Write the model with the best epoch's weights, and remove the checkpoint.

        Args:
            done: All epochs.
            ended: What the training ended with before its time; the Header tells.
        """
        self.step.module.load_state_dict(self.best.state)
        if not self.place.world.writes:
            return
        rows = [
            {name: value for name, value in dataclasses.asdict(epoch).items() if name != "seconds"} for epoch in done
        ]
        header = self.header.but(training={**self.header.training, "ended": ended}) if ended else self.header
        bundle.save(self.place.output, Bundle(header, self.task.whole.state_dict(), rows))
        self.checkpoint.unlink(missing_ok=True)

    def judge(self) -> None:
        """Say it where training has led to nothing better than what was there before."""
        best, start = self.best.epoch, self.start
        assert best is not None
        if start is not None and history.rank(start, self.recipe.monitor) >= history.rank(best, self.recipe.monitor):
            log.warning(
                "no epoch was better than the start (val %.4f, %.4f): %s is no improvement; "
                "a smaller --lr or other layers may make one",
                start.val_loss,
                start.val_accuracy,
                self.place.output,
            )
        elif best.epoch <= self.earlier:
            log.warning("no epoch after the warm-up was better than epoch %d: the base is as it was", best.epoch)

    def result(self, done: Sequence[Epoch]) -> Result:
        """Sum up."""
        best, train, val = self.best.epoch, self.task.train, self.task.val
        assert best is not None
        most = int(torch.bincount(train.targets).argmax())
        return Result(
            model=str(self.place.output),
            classes=len(self.header.classes or ()),
            train_rows=len(train.targets),
            val_rows=0 if val is None else len(val.targets),
            epochs=len(done),
            best_epoch=best.epoch,
            train_accuracy=best.train_accuracy,
            val_accuracy=best.val_accuracy,
            val_loss=best.val_loss,
            majority=None if val is None else float((val.targets == most).double().mean()),
            seconds=round(time.perf_counter() - self.place.started, 1),
        )
