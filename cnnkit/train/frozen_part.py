"""The frozen part of a fine-tuning and the pictures it answers to: what of its answers is kept, and what a head sees of them first."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from cnnkit.choices import Amp, Pool, Schedule
from cnnkit.nets import freezing
from cnnkit.nets.classifier import Extractor
from cnnkit.train import frozen
from cnnkit.train.epoch import Epoch
from cnnkit.train.examples import Answered, Examples, Later, Pictures, Stored
from cnnkit.train.opening import Opened
from cnnkit.train.recipe import Recipe
from cnnkit.train.results import Report
from cnnkit.train.run import warm_up
from cnnkit.train.task import Place, Task

log = logging.getLogger("cnnkit")


class FrozenPart:
    """The frozen part and the pictures it answers to."""

    def __init__(
        self,
        opened: Opened,
        split: freezing.Split,
        *,
        learnt: Pictures,
        checked: Pictures | None,
        place: Place,
        cache: int,
    ) -> None:
        self.opened, self.split, self.place = opened, split, place
        self.learnt, self.checked = learnt, checked
        self.budget = cache - learnt.nbytes - (checked.nbytes if checked else 0)
        self._steps: list[Callable[[], object]] = []

    @functools.cached_property
    def _lower(self) -> frozen.Frozen:
        """From pictures to the boundary; to what the head sees where nothing of the base is trained."""
        if self.split.trained:
            return self._network(self.split.lower, layer=self.split.boundary or "", pool=Pool.NONE)
        return self._base

    @functools.cached_property
    def _base(self) -> frozen.Frozen:
        """From pictures to what the head sees."""
        whole = self.opened.whole
        return self._network(whole.base, layer=self.opened.backbone.layer, pool=whole.pool.pool)

    def _network(self, part: nn.Module, *, layer: str, pool: Pool) -> frozen.Frozen:
        module = Extractor(part, preprocess=self.opened.whole.preprocess, pool=pool).eval()
        return frozen.network(self.opened.part(layer=layer, pool=pool), module, place=self.place.device)

    def _upper(self, answers: Tensor) -> Tensor:
        """From the boundary to what the head sees, before any of it is trained."""
        with torch.no_grad():
            return self.opened.whole.pool(self.split.upper.eval()(answers))  # type: ignore[no-any-return] # modules return Any

    def examples(self, *, views: int, mixing: bool) -> tuple[Examples, Examples | None]:
        """Give what the trained part sees: pictures where nothing is frozen, else the frozen part's answers, kept if so wished.

        Args:
            views: How many versions of the answers are kept; 0 for none.
            mixing: Pictures are blended before anything answers to them.
        """
        if self.split.boundary is None:
            return self.learnt, self.checked
        changing = self.learnt.augmenter is not None or mixing
        if views:
            copies = [None] if self.learnt.augmenter is None else list(range(1, views + 1))
            self._steps.append(lambda: self._lower)  # which may have to be exported, and says so
            self._steps.append(lambda: self._tell_of_pass(copies))
            train: Examples = self._later(self.learnt, copies)
        else:
            self._steps.append(lambda: self._tell_of_epochs(changing=changing, mixing=mixing))
            train = self._answered(self.learnt)
        if self.checked is None:
            return train, None
        # What validates never changes: one answer is enough
        return train, self._later(self.checked, [None]) if views or changing else self._answered(self.checked)

    def ready(self) -> None:
        """Run what is run once, and say what is not."""
        for step in self._steps:
            step()

    def _later(self, examples: Pictures, copies: Sequence[int | None]) -> Later:
        later = Later(examples.targets, lambda: self._kept(examples, self._lower, copies=copies))
        self._steps.append(lambda: later.made)
        return later

    def _answered(self, examples: Pictures) -> Answered:
        return Answered(examples, lambda images: self._lower(images))  # looked up late: it may have to be exported

    def _tell_of_epochs(self, *, changing: bool, mixing: bool) -> None:
        instead = "--views K runs it on K versions of every picture, once" if changing else "--views 1 runs it once"
        log.info(
            "the frozen part runs in every epoch, which takes %.1f s of it%s",
            frozen.seconds(self.learnt, self._lower),
            "" if mixing else f"; {instead}",
        )

    def _tell_of_pass(self, copies: Sequence[int | None]) -> None:
        log.info(
            "running the frozen part once over %d pictures%s",
            len(self.learnt.targets) + (len(self.checked.targets) if self.checked else 0),
            f", {len(copies)} times over those for training" if len(copies) > 1 else "",
        )

    def _kept(self, examples: Examples, network: frozen.Frozen, *, copies: Sequence[int | None]) -> Stored:
        views = frozen.answers(
            examples,
            network,
            copies,
            budget=self.budget,
            folder=self.place.output.parent,
            progress=self.place.progress,
        )
        taken = sum(view.nbytes for view in views)
        self.budget -= taken if taken <= self.budget else 0  # more than that is on disk
        return Stored(views, examples.targets, place=self.place.device)

    def _seen_by_head(self, task: Task) -> tuple[Examples, Examples | None]:
        """Give what the whole base answers to the plain pictures, from what is kept of them if that is so."""
        train, val = task.train, task.val
        network: frozen.Frozen = self._upper
        if self.learnt.augmenter is not None or not isinstance(train, Later):
            train, val = self.learnt, self.checked
            network = self._base if self.split.boundary is None else lambda images: self._upper(self._lower(images))
            self._tell_of_pass([None])
        learnt = self._kept(train, network, copies=[None])
        return learnt, None if val is None else self._kept(val, network, copies=[None])

    def warm_up(self, task: Task, recipe: Recipe, epochs: int, write: Report) -> Sequence[Epoch]:
        """Train the head alone, on what the whole base answers to the plain pictures, at the optimizer's own learning rate."""
        log.info("training the head alone first: %d of %d epochs", epochs, epochs + recipe.epochs)
        train, val = self._seen_by_head(task)
        head = dataclasses.replace(
            task, module=self.opened.whole.head, train=train, val=val, groups=None, begins_trained=False
        )
        brief = dataclasses.replace(
            recipe,
            lr=None,
            schedule=Schedule.CONSTANT,
            warmup=0.0,
            epochs=epochs,
            augment=None,
            mixup=0.0,
            ema=None,
            patience=None,
            amp=Amp.OFF,
            compile=False,
        )
        return warm_up(head, brief, self.place, write, following=recipe.epochs)
