"""Training and validation images, in memory or read ahead, and their batches."""

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnkit.callbacks import Callbacks
from cnnkit.data import augment_notation, box_geometry, decode, preprocessing, reader
from cnnkit.data.source import ImageFile
from cnnkit.data.train_val import TrainValImages
from cnnkit.engine import torch_device
from cnnkit.engine.resample import Augmenter
from cnnkit.errors import BadImageError, CnnkitError
from cnnkit.formats.box import Box
from cnnkit.formats.header import LUMA, Preprocess
from cnnkit.train import val_size
from cnnkit.train.config import ImageTrainConfig, RunConfig, parse_size
from cnnkit.train.distributed import World
from cnnkit.train.whitening_fit import PixelSums

log = logging.getLogger("cnnkit")

_PURPOSES = ("training", "validation")

# Images take at most this share of a GPU's free memory; the network needs the rest.
_SHARE_OF_GPU = 0.25

# Added to the number of an augmented copy when an image is drawn again in the same epoch: more than any number of epochs.
_COPIES_APART = 1_000_000


@dataclass(frozen=True, slots=True)
class MixupPairs:
    """The `partners` that the rows of a batch are blended with, (n,), and the `share` that each row keeps of itself.

    With a `box`, rows and columns of pixels, images are not blended: that rectangle is the partner's, and `share` is that of the rest of
    the area.

    Source: Zhang et al. 2018, mixup; Yun et al. 2019, CutMix.
    """

    partners: Tensor
    share: float
    box: tuple[slice, slice] | None = None


class Examples(Protocol):
    """Rows with targets, whose inputs are read in batches."""

    targets: Tensor  # (N,), or of several labels per image 0 and 1 (N, classes); on the CPU

    def inputs(
        self, batches: Sequence[Tensor], epoch: int | None, pairs: Sequence[MixupPairs] | None = None
    ) -> Iterator[Tensor]:
        """Yield the inputs of batches of rows, on the device.

        Args:
            batches: The row numbers of each batch. Of N rows, row + N is the same one again, with another augmented copy; see
                `numbered_repeats`.
            epoch: Selects the augmented copies of the images; None for the images themselves.
            pairs: What the images of each batch are blended with.
        """
        ...


@runtime_checkable
class Boxed(Protocol):
    """Rows that may have boxes, too."""

    def boxes(self, rows: Tensor, epoch: int | None) -> Tensor | None:
        """Return the boxes of rows, (n, 4) on the CPU, or None if they are no targets; the arguments are those of `Examples.inputs`."""
        ...


@dataclass(frozen=True, slots=True)
class PixelStatistics:
    """Statistics of all pixels, per RGB channel, with values from 0 to 1; for grey images, three times that of the brightness."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    largest: tuple[float, ...]


class ImageSet:
    """Prepared images, uint8 (N, size, size, 3)."""

    def __init__(
        self,
        images: Sequence[ImageFile],
        classes: Sequence[str],
        prepare: Preprocess,
        *,
        device: torch.device,
        budget: int,
        augmenter: Augmenter | None = None,
        measured: bool = True,
        boxes: Mapping[str, Box] | None = None,
        sums: PixelSums | None = None,
        jobs: int | None = None,
        callbacks: Callbacks,
    ) -> None:
        """Read every image once.

        Args:
            images: The images; their labels are in `classes`.
            classes: A class's index is the target.
            prepare: How images are made square.
            device: Where the inputs are needed.
            budget: Bytes of memory for decoded images; if they do not fit, they are read again in every epoch.
            augmenter: Makes the augmented copies.
            measured: Measure the pixel statistics.
            boxes: Boxes by the path of their image, to be predicted; None if there are none to predict.
            sums: Gets every image, too.
            jobs: Threads that decode.
            callbacks: Progress, and skipped images.
        """
        self._prepare, self._device, self._jobs = prepare, device, jobs
        self.augmenter = augmenter
        size = prepare.size
        fits = len(images) * size * size * 3 <= budget
        kept = np.empty((len(images) if fits else 0, size, size, 3), dtype=np.uint8)
        moments = _Moments(grey=prepare.grey)
        self.images: list[ImageFile] = []
        self.fingerprints: list[str] = []
        targets: list[NDArray[np.float32]] = []
        for number, (image, loaded) in enumerate(reader.read(images, self._load, jobs=jobs), start=1):
            callbacks.progress(number, len(images))
            if isinstance(loaded, BadImageError):
                callbacks.skip(image.path, str(loaded))
                continue
            pixels, fingerprint, upright = loaded
            if boxes is not None:
                targets.append(box_geometry.target(boxes.get(image.path), upright, prepare))
            if measured:
                moments.add(pixels)
            if sums is not None:
                sums.add(pixels)
            if fits:
                kept[len(self.images)] = pixels
            self.images.append(image)
            self.fingerprints.append(fingerprint)
        self.targets = _targets(self.images, classes)
        self._boxes = None if boxes is None else np.array(targets, dtype=np.float32).reshape(-1, 4)
        self.statistics = moments.statistics() if measured and self.images else None
        self._pixels = self._placed(torch.from_numpy(kept[: len(self.images)])) if fits else None

    @property
    def nbytes(self) -> int:
        """The size of the decoded images in memory, in bytes."""
        return 0 if self._pixels is None else self._pixels.nbytes

    def _load(self, path: str) -> tuple[NDArray[np.uint8], str, tuple[int, int]]:
        (original,) = decode.read_reduced(path, [preprocessing.enough(self._prepare)])
        return preprocessing.prepare(original, self._prepare), original.fingerprint, original.size

    @property
    def box_targets(self) -> NDArray[np.float32] | None:
        """The boxes of all images, (N, 4), NaN where there is none; None if boxes are not predicted."""
        return self._boxes

    def boxes(self, rows: Tensor, epoch: int | None) -> Tensor | None:
        """Return the boxes of rows, or of their augmented copies, (n, 4); see `Boxed`."""
        if self._boxes is None:
            return None
        count = len(self.images)
        found = self._boxes[(rows % count).cpu().numpy()]
        if self.augmenter is not None and epoch is not None:
            fingerprints, copies = self._copy_numbers(rows, epoch)
            draws = self.augmenter.draws(fingerprints, copies)
            found = box_geometry.augmented(found, draws, side=self._prepare.size)
        return torch.from_numpy(found)

    def _copy_numbers(self, rows: Tensor, epoch: int) -> tuple[list[str], list[int]]:
        """Return the fingerprints of rows, and the numbers of their augmented copies."""
        count = len(self.images)
        fingerprints = [self.fingerprints[row % count] for row in rows.tolist()]
        return fingerprints, [epoch + _COPIES_APART * (row // count) for row in rows.tolist()]

    def _placed(self, pixels: Tensor) -> Tensor:
        if self._device.type == "cuda" and pixels.nbytes < _SHARE_OF_GPU * torch.cuda.mem_get_info(self._device)[0]:
            return pixels.to(self._device)
        return pixels

    def inputs(
        self, batches: Sequence[Tensor], epoch: int | None, pairs: Sequence[MixupPairs] | None = None
    ) -> Iterator[Tensor]:
        """Yield uint8 (n, size, size, 3) for every batch; see `Examples`."""
        if pairs is None:
            yield from self._copies(batches, epoch)
            return
        needed = [
            torch.unique(torch.cat([rows, pair.partners]), return_inverse=True)
            for rows, pair in zip(batches, pairs, strict=True)
        ]
        copies = self._copies([rows for rows, _ in needed], epoch)
        for here, (_, places), pair in zip(copies, needed, pairs, strict=True):
            ours, theirs = torch_device.upload(places, here.device).chunk(2)
            yield _blended(here[ours], here[theirs], pair)

    def _copies(self, batches: Sequence[Tensor], epoch: int | None) -> Iterator[Tensor]:
        """Yield the images of each batch, or their augmented copies of this epoch."""
        count = len(self.images)
        for rows, pixels in zip(batches, self._batches([rows % count for rows in batches]), strict=True):
            here = pixels.to(self._device, non_blocking=True)  # pinned, if there is a GPU: it copies asynchronously
            if self.augmenter is not None and epoch is not None:
                here = self.augmenter(here, *self._copy_numbers(rows, epoch))
            yield here

    def _batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        if self._pixels is not None:
            for rows in on_device(batches, self._pixels.device):
                chosen = self._pixels[rows]
                yield chosen.pin_memory() if self._device.type == "cuda" and not chosen.is_cuda else chosen
            return
        order = [self.images[row] for rows in batches for row in rows.tolist()]
        longest = max((len(rows) for rows in batches), default=1)
        coming = reader.read(
            order, lambda path: preprocessing.load(path, self._prepare), jobs=self._jobs, ahead=2 * longest
        )
        for rows in batches:
            squares = torch.empty((len(rows), self._prepare.size, self._prepare.size, 3), dtype=torch.uint8)
            for place in range(len(rows)):
                image, pixels = next(coming)
                if isinstance(pixels, BadImageError):
                    raise CnnkitError(f"{image.path}: was readable in an earlier epoch, but now: {pixels}")
                squares.numpy()[place] = pixels  # torch would warn of read-only arrays
            yield squares.pin_memory() if self._device.type == "cuda" else squares


def _blended(ours: Tensor, theirs: Tensor, pair: MixupPairs) -> Tensor:
    """Blend images, or replace a rectangle, all uint8 (n, H, W, 3); `ours` may be changed."""
    if pair.box is None:
        return (pair.share * ours.float() + (1 - pair.share) * theirs.float()).round().to(torch.uint8)
    rows, columns = pair.box
    ours[:, rows, columns] = theirs[:, rows, columns]
    return ours


class _Moments:
    """Counts of every pixel value, per channel: exact sums, independent of the order."""

    def __init__(self, *, grey: bool) -> None:
        # Brightness is a sum of thousandths
        self.weights = np.array([round(1000 * share) for share in LUMA], dtype=np.int64) if grey else None
        self.levels = 255 * (1 if self.weights is None else int(self.weights.sum())) + 1
        self.counts = np.zeros((3 if self.weights is None else 1, self.levels), dtype=np.int64)

    def add(self, pixels: NDArray[np.uint8]) -> None:
        values = pixels.reshape(-1, 3)
        channels = values.T if self.weights is None else [values @ self.weights]
        for counts, channel in zip(self.counts, channels, strict=True):
            counts += np.bincount(channel, minlength=self.levels)

    def statistics(self) -> PixelStatistics:
        values = np.arange(self.levels) / (self.levels - 1)
        shares = self.counts / self.counts.sum(1, keepdims=True)  # (channels, levels)
        mean = shares @ values
        deviation = np.sqrt(np.maximum(shares @ values**2 - mean**2, 0))
        largest = np.array([values[counts.nonzero()[0].max()] for counts in self.counts])
        return PixelStatistics(*(tuple(np.broadcast_to(each, 3).tolist()) for each in (mean, deviation, largest)))


def on_device(batches: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Copy the row numbers of all batches to a device at once: copied one by one, each would synchronize the GPU with the host."""
    if device.type == "cpu" or not batches:
        return batches
    return torch.split(torch.cat(list(batches)).to(device), [len(rows) for rows in batches])


def numbered_repeats(batches: Sequence[Tensor], *, count: int) -> list[Tensor]:
    """Add `count` to the number of a row for every time that it occurred before, in the same batch or in another.

    Args:
        batches: Row numbers that are drawn with replacement.
        count: Number of rows.
    """
    seen: dict[int, int] = {}

    def numbered(row: int) -> int:
        seen[row] = seen.get(row, -1) + 1
        return row + count * seen[row]

    return [torch.tensor([numbered(row) for row in rows.tolist()]) for rows in batches]


def sampling_weights(targets: Tensor) -> Tensor:
    """Return the weights of rows, (N,), with which all classes are drawn equally often: the inverse count of each row's class."""
    targets = targets.cpu()
    return 1 / torch.bincount(targets).double()[targets]


def shuffled_batches(
    count: int, *, batch: int, generator: torch.Generator, processes: int = 1, weights: Tensor | None = None
) -> list[Tensor]:
    """Cut rows into batches in a random order.

    A last batch with fewer than two rows per process is merged with the one before it: batch norm cannot train on one row.

    Args:
        count: Number of rows.
        batch: Rows in a batch, over all processes.
        generator: Draws the order.
        processes: Number of processes that share every batch.
        weights: Draw as many rows with replacement, in proportion to these, (N,), as torch's WeightedRandomSampler; by default, each row
            occurs once.
    """
    if weights is None:
        order = torch.randperm(count, generator=generator)
    else:
        order = torch.multinomial(weights, count, replacement=True, generator=generator)
    starts = list(range(0, count, batch))
    if len(starts) > 1 and count - starts[-1] < min(2 * processes, batch):
        starts.pop()
    ends = [*starts[1:], count]
    return [order[start:end] for start, end in zip(starts, ends, strict=True)]


def ordered_batches(count: int, *, batch: int, world: World) -> list[Tensor]:
    """Cut this process's share of rows into batches, in order; return no batch if it has no row."""
    rows = world.share(torch.arange(count))
    return list(torch.split(rows, batch)) if len(rows) else []


def load_train_val(
    data: TrainValImages,
    prepare: Preprocess,
    config: ImageTrainConfig,
    run: RunConfig,
    *,
    device: torch.device,
    measured: bool = False,
    boxes: Mapping[str, Box] | None = None,
    sums: PixelSums | None = None,
    callbacks: Callbacks,
) -> tuple[ImageSet, ImageSet | None]:
    """Read every image, and keep the sets that fit into memory, the training set first.

    With `measured`, the pixel statistics of the training set are measured. `boxes`, by the path of their image, are second targets.
    `sums` gets the images of the training set, before augmentation.

    Raises:
        CnnkitError: No image of a class could be used.
    """
    augmenter = None if config.augment is None else Augmenter(augment_notation.parse(config.augment), seed=config.seed)
    total = len(data.train) + len(data.val)
    budget, sets = parse_size(run.cache), []
    prepares = prepare, val_size.preprocess(prepare, config)
    for number, (images_of_split, prepare_split) in enumerate(zip((data.train, data.val), prepares, strict=True)):
        before = number * len(data.train)
        progress = lambda done, _total, before=before: callbacks.progress(before + done, total)  # noqa: E731 - bound now
        made = ImageSet(
            images_of_split,
            data.classes,
            prepare_split,
            device=device,
            budget=budget,
            augmenter=None if number else augmenter,
            measured=measured and not number,
            boxes=boxes,
            sums=None if number else sums,
            jobs=run.jobs,
            callbacks=dataclasses.replace(callbacks, progress=progress),
        )
        if made.images and not made.nbytes:
            log.info(
                "the %s images do not fit into --cache %s: they are read again in every epoch",
                _PURPOSES[number],
                run.cache,
            )
        budget -= made.nbytes
        _refuse_emptied(images_of_split, made)
        sets.append(made)
    return sets[0], sets[1] if data.val else None


def _refuse_emptied(images: Sequence[ImageFile], loaded: ImageSet) -> None:
    """Check that at least one image of every class could be used."""
    if emptied := sorted(_labels(images) - _labels(loaded.images)):
        raise CnnkitError(f"all images of the class {emptied[0]} were skipped; a class needs at least one usable image")


def _labels(images: Sequence[ImageFile]) -> set[str]:
    return {label for image in images for label in ((image.label or "",) if image.labels is None else image.labels)}


def _targets(images: Sequence[ImageFile], classes: Sequence[str]) -> Tensor:
    """Return the class of each image, (N,), or 1 for each of its labels, float32 (N, classes)."""
    numbers = {label: number for number, label in enumerate(classes)}
    if all(image.labels is None for image in images):
        return torch.tensor([numbers[image.label or ""] for image in images], dtype=torch.long)
    found = torch.zeros(len(images), len(classes))
    for row, image in zip(found, images, strict=True):
        row[[numbers[label] for label in image.labels or ()]] = 1
    return found


def content_hash(train: ImageSet, val: ImageSet | None) -> str:
    """Hash the images of a training run by content, class and box: independent of their paths, dependent on their order."""
    digest = hashlib.sha256()
    for each in (train, val):
        for fingerprint, target in zip(each.fingerprints, each.targets.tolist(), strict=True) if each else ():
            digest.update(f"{fingerprint} {target}\n".encode())
        digest.update(b"\n" if each is None or each.box_targets is None else each.box_targets.tobytes() + b"\n")
    return digest.hexdigest()[:20]
