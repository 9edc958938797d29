"""The batches of a training run, from its examples and its seed."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cnnkit.callbacks import Progress
from cnnkit.choices import Sample
from cnnkit.engine import torch_device
from cnnkit.train import dataset
from cnnkit.train.boxes import BoxTargets
from cnnkit.train.config import ImageTrainConfig
from cnnkit.train.dataset import Boxed, Examples, MixupPairs
from cnnkit.train.distributed import World
from cnnkit.train.loop import Plain, TrainBatch
from cnnkit.train.optim import MixupTargets

# Random numbers are seeded by purpose and epoch, so that no generator state needs to be stored.
_ORDER, _DROPOUT, _MIXUP, _CUTMIX, _WHICH = range(5)

#: How many of the batches are for CutMix if there is mixup, too, as in timm.
_CUTMIX_SHARE = 0.5


class Batches:
    """The batches of a training run; every process gets its share of each."""

    def __init__(
        self,
        train: Examples,
        val: Examples | None,
        config: ImageTrainConfig,
        *,
        size: int,
        device: torch.device,
        world: World,
        progress: Progress,
    ) -> None:
        """Prepare.

        Args:
            train: The training set.
            val: The validation set.
            config: Batch size, order, and how images are blended.
            size: Side of the training images in pixels, for CutMix.
            device: Where the inputs are needed.
            world: The processes that share every batch.
            progress: Called after every batch.
        """
        self._train, self._val, self._config = train, val, config
        self._size, self._device, self._world, self._progress = size, device, world, progress
        self._weights = dataset.sampling_weights(train.targets) if config.sample is Sample.BALANCED else None
        #: Number of batches in an epoch.
        self.count = len(self._rows(1))
        self._targets = [
            None if each is None else each.targets.to(device) for each in (train, val)
        ]  # copied once: they are small, and a copy in every step would make a GPU wait

    def _seed(self, epoch: int, purpose: int, rank: int = 0) -> int:
        words = np.random.SeedSequence([self._config.seed, epoch, purpose, rank]).generate_state(2)
        return int(words[0]) | (int(words[1] >> 1) << 32)

    def _rows(self, epoch: int) -> list[Tensor]:
        count = len(self._train.targets)
        batches = dataset.shuffled_batches(
            count,
            batch=self._config.batch,
            generator=torch.Generator().manual_seed(self._seed(epoch, _ORDER)),
            processes=self._world.size,
            weights=self._weights,
        )
        # Drawn again, an image has another augmented copy
        return batches if self._weights is None else dataset.numbered_repeats(batches, count=count)

    def train(self, number: int, *, last: int | None) -> Iterator[TrainBatch]:
        """Yield an epoch's batches, and seed torch's global generator for the epoch's dropout.

        Args:
            number: The epoch, from 1.
            last: The last epoch, for progress; None reports none.
        """
        torch.manual_seed(self._seed(number, _DROPOUT, self._world.rank))
        train = self._train
        batches = self._rows(number)
        own = [self._world.share(rows) for rows in batches]
        pairs = self._pairs(number, batches)
        count = len(train.targets)
        shown = (number - 1) * count
        known = self._targets[0]
        assert known is not None
        places = dataset.on_device(own, self._device)
        partners = dataset.on_device([pair.partners for pair in pairs], self._device) if pairs else []
        for index, inputs in enumerate(train.inputs(own, number, pairs)):
            targets = known[places[index] % count]
            if pairs is None:
                yield inputs, self._with_boxes(train, targets, own[index], number)
            else:
                yield inputs, MixupTargets(targets, known[partners[index] % count], pairs[index].share)
            shown += len(batches[index])
            if last is not None:
                self._progress(shown, last * count)

    def _pairs(self, number: int, batches: Sequence[Tensor]) -> list[MixupPairs] | None:
        """Pair every image with that at the mirrored position of the whole batch, also across processes."""
        if not self._config.mixes:
            return None
        partners = [self._world.share(rows.flip(0)) for rows in batches]
        blended = self._mixup(number, partners) if self._config.mixup else None
        cut = self._cutmix(number, partners) if self._config.cutmix else None
        if blended is None or cut is None:
            return blended or cut
        chosen = np.random.default_rng(self._seed(number, _WHICH)).random(len(batches)) < _CUTMIX_SHARE
        return [of_cut if is_cut else mixed for is_cut, of_cut, mixed in zip(chosen, cut, blended, strict=True)]

    def _mixup(self, number: int, partners: Sequence[Tensor]) -> list[MixupPairs]:
        random = np.random.default_rng(self._seed(number, _MIXUP))
        shares = random.beta(self._config.mixup, self._config.mixup, len(partners)).tolist()
        return [MixupPairs(rows, share) for rows, share in zip(partners, shares, strict=True)]

    def _cutmix(self, number: int, partners: Sequence[Tensor]) -> list[MixupPairs]:
        random = np.random.default_rng(self._seed(number, _CUTMIX))
        count = len(partners)
        shares = random.beta(self._config.cutmix, self._config.cutmix, count).tolist()
        centres = random.random((count, 2)).tolist()
        pairs = []
        for rows, share, centre in zip(partners, shares, centres, strict=True):
            box, kept = cutmix_box(share, centre, size=self._size)
            pairs.append(MixupPairs(rows, kept, box))
        return pairs

    def validation(self, *, pieces: int, world: World | None = None) -> Iterator[Plain]:
        """Yield the validation images, in order.

        Args:
            pieces: How many pieces a training batch had to be divided into, to fit into memory; validation batches are too.
            world: The processes that share the images; by default those of the training.
        """
        val, known = self._val, self._targets[1]
        assert val is not None
        assert known is not None
        rows = dataset.ordered_batches(
            len(val.targets), batch=max(self._config.batch // pieces, 1), world=world or self._world
        )
        places = dataset.on_device(rows, self._device)
        for chosen, inputs in zip(places, val.inputs(rows, None), strict=True):
            yield inputs, self._with_boxes(val, known[chosen], chosen, None)

    def _with_boxes(self, examples: Examples, targets: Tensor, rows: Tensor, epoch: int | None) -> Tensor | BoxTargets:
        """Add the boxes of rows to the targets of their classes, if the examples have boxes."""
        boxes = examples.boxes(rows, epoch) if isinstance(examples, Boxed) else None
        return targets if boxes is None else BoxTargets(targets, torch_device.upload(boxes, self._device))


def cutmix_box(share: float, centre: Sequence[float], *, size: int) -> tuple[tuple[slice, slice], float]:
    """Return the rectangle of CutMix, and the share of the area outside of it.

    The rectangle has the image's aspect ratio and the share 1 - `share` of its area; what is outside of the image is cut off.

    Args:
        share: Of the area outside, before the rectangle is cut off and rounded to pixels.
        centre: Of the rectangle: its row and column, relative to the size, from 0 to 1.
        size: Side of the square in pixels.

    Returns:
        Rows and columns of the rectangle; the share.

    Source: Yun et al. 2019, CutMix, Algorithm A1; torchvision's CutMix.
    """
    half = int(0.5 * math.sqrt(1.0 - share) * size)
    rows, columns = (
        slice(max(middle - half, 0), min(middle + half, size)) for middle in (int(place * size) for place in centre)
    )
    inside = (rows.stop - rows.start) * (columns.stop - columns.start)
    return (rows, columns), 1.0 - inside / size**2
