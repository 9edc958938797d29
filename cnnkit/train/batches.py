"""The batches of a training run, from its examples and its seed."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cnnkit.callbacks import Progress
from cnnkit.train import dataset
from cnnkit.train.config import ImageTrainConfig
from cnnkit.train.dataset import Examples, MixupPairs
from cnnkit.train.distributed import World
from cnnkit.train.loop import Plain, TrainBatch
from cnnkit.train.optim import MixupTargets

# Random numbers are seeded by purpose and epoch, so that no generator state needs to be stored.
_ORDER, _DROPOUT, _MIXUP = range(3)


class Batches:
    """The batches of a training run; every process gets its share of each."""

    def __init__(
        self,
        train: Examples,
        val: Examples | None,
        config: ImageTrainConfig,
        *,
        device: torch.device,
        world: World,
        progress: Progress,
    ) -> None:
        self._train, self._val, self._config = train, val, config
        self._device, self._world, self._progress = device, world, progress
        #: Number of batches in an epoch.
        self.count = len(self._rows(1))
        self._targets = [
            None if each is None else each.targets.to(device) for each in (train, val)
        ]  # copied once: they are small, and a copy in every step would make a GPU wait

    def _seed(self, epoch: int, purpose: int, rank: int = 0) -> int:
        words = np.random.SeedSequence([self._config.seed, epoch, purpose, rank]).generate_state(2)
        return int(words[0]) | (int(words[1] >> 1) << 32)

    def _rows(self, epoch: int) -> list[Tensor]:
        return dataset.shuffled_batches(
            len(self._train.targets),
            batch=self._config.batch,
            generator=torch.Generator().manual_seed(self._seed(epoch, _ORDER)),
            processes=self._world.size,
        )

    def train(self, number: int, *, last: int) -> Iterator[TrainBatch]:
        """Yield an epoch's batches, and seed torch's global generator for the epoch's dropout.

        Args:
            number: The epoch, from 1.
            last: The last epoch, for progress.
        """
        torch.manual_seed(self._seed(number, _DROPOUT, self._world.rank))
        train = self._train
        batches = self._rows(number)
        own = [self._world.share(rows) for rows in batches]
        pairs = self._pairs(number, batches)
        shown = (number - 1) * len(train.targets)
        known = self._targets[0]
        assert known is not None
        places = dataset.on_device(own, self._device)
        partners = dataset.on_device([pair.partners for pair in pairs], self._device) if pairs else []
        for index, inputs in enumerate(train.inputs(own, number, pairs)):
            targets = known[places[index]]
            if pairs is None:
                yield inputs, targets
            else:
                yield inputs, MixupTargets(targets, known[partners[index]], pairs[index].share)
            shown += len(batches[index])
            self._progress(shown, last * len(train.targets))

    def _pairs(self, number: int, batches: Sequence[Tensor]) -> list[MixupPairs] | None:
        """Pair every image with that at the mirrored position of the whole batch, also across processes."""
        if not self._config.mixup:
            return None
        random = np.random.default_rng(self._seed(number, _MIXUP))
        shares = random.beta(self._config.mixup, self._config.mixup, len(batches)).tolist()
        share = self._world.share
        return [MixupPairs(share(rows.flip(0)), kept) for rows, kept in zip(batches, shares, strict=True)]

    def validation(self, *, pieces: int) -> Iterator[Plain]:
        """Yield the validation images, in order.

        Args:
            pieces: How many pieces a training batch had to be divided into, to fit into memory; validation batches are too.
        """
        val, known = self._val, self._targets[1]
        assert val is not None
        assert known is not None
        rows = dataset.ordered_batches(len(val.targets), batch=max(self._config.batch // pieces, 1), world=self._world)
        places = dataset.on_device(rows, self._device)
        for chosen, inputs in zip(places, val.inputs(rows, None), strict=True):
            yield inputs, known[chosen]
