"""Which pictures go through the network together, and in which order: a function of the seed and the epoch, whatever went before."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cnnkit.train import examples
from cnnkit.train.examples import Blend
from cnnkit.train.loop import Plain
from cnnkit.train.optim import Mixed
from cnnkit.train.recipe import Recipe
from cnnkit.train.step import Batch
from cnnkit.train.task import Place, Task

# What random numbers are for: each purpose has its own, and so has each epoch, so that nothing needs to be carried on.
_ORDER, _DROPOUT, _MIXUP = range(3)


class Batches:
    """The batches of a training, of which every process gets its share."""

    def __init__(self, task: Task, recipe: Recipe, place: Place) -> None:
        self._task, self._recipe, self._place = task, recipe, place
        #: In an epoch.
        self.count = len(self._rows(1))

    def _seed(self, epoch: int, purpose: int, rank: int = 0) -> int:
        words = np.random.SeedSequence([self._recipe.seed, epoch, purpose, rank]).generate_state(2)
        return int(words[0]) | (int(words[1] >> 1) << 32)

    def _rows(self, epoch: int) -> list[Tensor]:
        return examples.shuffled(
            len(self._task.train.targets),
            batch=self._recipe.batch,
            generator=torch.Generator().manual_seed(self._seed(epoch, _ORDER)),
            processes=self._place.world.size,
        )

    def train(self, number: int, *, last: int) -> Iterator[Batch]:
        """Give an epoch's batches, and torch's global generator the epoch's own seed, for dropout.

        Args:
            number: Of the epoch, from 1.
            last: The number of the last one, for progress.
        """
        torch.manual_seed(self._seed(number, _DROPOUT, self._place.world.rank))
        train, place = self._task.train, self._place
        batches = self._rows(number)
        own = [place.world.share(rows) for rows in batches]
        blends = self._blends(number, batches)
        shown = (number - 1) * len(train.targets)
        for index, inputs in enumerate(train.inputs(own, number, blends)):
            targets = train.targets[own[index]].to(place.device)
            if blends is None:
                yield inputs, targets
            else:
                partners = train.targets[blends[index].partners].to(place.device)
                yield inputs, Mixed(targets, partners, blends[index].share)
            shown += len(batches[index])
            place.progress(shown, last * len(train.targets))

    def _blends(self, number: int, batches: Sequence[Tensor]) -> list[Blend] | None:
        """Pair every picture with its counterpart from the other end of the whole batch, whichever process has that."""
        if not self._recipe.mixup:
            return None
        random = np.random.default_rng(self._seed(number, _MIXUP))
        shares = random.beta(self._recipe.mixup, self._recipe.mixup, len(batches)).tolist()
        share = self._place.world.share
        return [Blend(share(rows.flip(0)), kept) for rows, kept in zip(batches, shares, strict=True)]

    def validation(self, *, pieces: int) -> Iterator[Plain]:
        """Give the pictures that validate, as they stand.

        Args:
            pieces: Into how many parts a batch had to be cut: what did not fit into memory at once does not now.
        """
        val = self._task.val
        assert val is not None
        rows = examples.in_order(len(val.targets), batch=max(self._recipe.batch // pieces, 1), world=self._place.world)
        for chosen, inputs in zip(rows, val.inputs(rows, None), strict=True):
            yield inputs, val.targets[chosen].to(self._place.device)
