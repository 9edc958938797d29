"""A whole training: from examples and a recipe to a model on disk, with its history, and a checkpoint as long as it goes on."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from cnnkit.formats import history
from cnnkit.train.distributed import ALONE
from cnnkit.train.epoch import Epoch
from cnnkit.train.recipe import Recipe
from cnnkit.train.results import Report, Result
from cnnkit.train.step import Diverged
from cnnkit.train.task import Place, Task
from cnnkit.train.training import Training

log = logging.getLogger("cnnkit")


def run(task: Task, recipe: Recipe, place: Place) -> Result:
    """Train to the end, and write the model with the best epoch's weights.

    Returns:
        The same in every process; files come from the first one alone.

    Raises:
        Diverged: The loss came to no number; the best epoch before is written all the same.
        CnnkitError: The memory does not hold a single picture.
        UsageError: `resume`, and the checkpoint is of another training.
        OSError: The disk is full; the last checkpoint stays.
    """
    training = Training(task, recipe, place)
    if place.resume and (complete := training.completed()):
        log.info("%s is complete with epoch %d; nothing is left to do", place.output, len(complete))
        return training.result(complete)
    kept = training.resumed() if place.resume else None
    done = kept or []
    with _pointing_at_the_checkpoint(training):
        try:
            with _history(place, done) as write, training.prepared():
                task.ready()
                if kept is None:
                    done += training.fresh(write)
                for epoch in training.epochs(done):
                    done.append(epoch)
                    write(epoch)
                    training.keep(done)
                    _say(epoch, of=training.last, left=training.last - epoch.epoch, rows=len(task.train.targets))
                    place.report(epoch)
        except Diverged as error:
            best = training.best.epoch
            if best is None:
                raise Diverged(f"{error}. Nothing is written") from error
            training.finish(done or error.done, ended=str(error))
            raise Diverged(f"{error}. {place.output} holds epoch {best.epoch}, the best before") from error
        training.finish(done)
    training.judge()
    return training.result(done)


@contextlib.contextmanager
def _pointing_at_the_checkpoint(training: Training) -> Iterator[None]:
    """Whatever ends a training before its time, say what can be gone on from."""
    try:
        yield
    except BaseException:
        if training.resumable and training.checkpoint.exists():
            log.warning("%s holds what is done; run again with --resume to go on", training.checkpoint)
        raise


def warm_up(task: Task, recipe: Recipe, place: Place, write: Report, *, following: int) -> list[Epoch]:
    """Train a part of a network before the training itself, and leave it with the best epoch's weights.

    The history is written, by `write`, and no checkpoint: an interrupted warm-up begins anew.

    Every process does the same on all rows. As many epochs are `following`.
    """
    training = Training(task, recipe, replace(place, world=ALONE), following=following)
    epochs: list[Epoch] = []
    try:
        with training.prepared():
            for epoch in training.epochs([]):
                epochs.append(epoch)
                write(epoch)
                _say(epoch, of=training.last + following, left=None, rows=len(task.train.targets))
                place.report(epoch)
    except Diverged as error:
        error.done = epochs
        raise
    finally:
        if epochs:
            task.module.load_state_dict(training.best.state)
    return epochs


@contextlib.contextmanager
def _history(place: Place, done: Sequence[Epoch]) -> Iterator[Callable[[Epoch], None]]:
    """Give a function that adds a row to the history; only the first process writes."""
    if not place.world.writes:
        yield lambda _epoch: None
        return
    with history.Writer(place.output.with_suffix(".csv")) as rows:
        for epoch in done:
            rows.write(epoch)
        yield rows.write


def _say(epoch: Epoch, *, of: int, left: int | None, rows: int) -> None:
    """Log an epoch; `left` are those that are yet to come and take as long, where that can be told."""
    validation = "" if epoch.val_loss is None else f"; val {epoch.val_loss:.4f}, {epoch.val_accuracy:.4f}"
    log.info(
        "epoch %d/%d: loss %.4f, accuracy %.4f%s; rate %.3g; %.0f/s%s",
        epoch.epoch,
        of,
        epoch.train_loss,
        epoch.train_accuracy,
        validation,
        epoch.lr,
        rows / max(epoch.seconds, 1e-3),
        "" if left is None else f", {_duration(epoch.seconds * left)} left",
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
