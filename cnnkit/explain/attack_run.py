"""Adversarial images of many images, as files: PNGs in class folders, a manifest of them, and a record for each.

photos/cat/1.jpg    ->  OUT/cat/1.jpg.png       the adversarial image, of the size to which the network resizes images
photos/cat/2.png        OUT/cat/2.png
                        OUT/attack.tsv          path label split group source; written last: if it exists, the run is complete
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit import class_names, messages
from cnnkit.callbacks import Callbacks
from cnnkit.data import augment_plan, box_targets, containment, in_memory, preprocessing, reader, tree
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError, CnnkitError, UsageError
from cnnkit.explain import load_network
from cnnkit.explain.attack import Attacker
from cnnkit.explain.config import AttackOptions, NetworkOptions
from cnnkit.formats import atomic, image_files, labels, manifest, tsv
from cnnkit.formats.box import file_name
from cnnkit.formats.decimals import shortest
from cnnkit.formats.header import Preprocess

log = logging.getLogger("cnnkit")

#: The name of the manifest of adversarial images.
MANIFEST = "attack.tsv"

_COLUMNS = ("path", "label", "split", "group", "source")


@dataclass(frozen=True, slots=True)
class AttackRecord:
    """An attack on an image: the predicted class and its probability before and after, and the largest change of a value, of 255.

    `label` is the class of the image, None if it is unknown or not a class of the model: then the predicted class is attacked.
    """

    path: str
    label: str | None
    class_before: str
    probability_before: float
    class_after: str
    probability_after: float
    change: int
    adversarial: str


@dataclass(frozen=True, slots=True)
class AttackModel:
    """A network to attack, the names of its classes, how images are prepared for it, and the number of the target class, if any."""

    attacker: Attacker
    classes: tuple[str, ...]
    preprocess: Preprocess
    target: int | None
    predicts_box: bool = False  # it was trained on whole images, and gets them in place of crops


@dataclass(slots=True)
class _Counts:
    """What the notices at the end report."""

    total: int = 0
    labelled: int = 0
    right: list[int] = field(default_factory=lambda: [0, 0])  # before and after
    changed: int = 0
    reached: int = 0
    others: int = 0  # images that are not of the target class already
    without_gradient: list[str] = field(default_factory=list)


def open_model(model: str, options: AttackOptions, network: NetworkOptions, *, device: str = "auto") -> AttackModel:
    """Load a network.

    Args:
        model: A trained `.pt`, or the name of a network.
        options: The attack.
        network: How the network is loaded.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        UsageError: An exported network, or the target is not a class of the model.
        CnnkitError: The model cannot be loaded.
    """
    graph, classes = load_network.differentiable(model, network, device=device)
    labels.note_assumed(graph.name, network.weights, classes)
    if graph.multi_label:
        raise UsageError(
            f"{model} predicts several labels per image, and an attack needs the one class of each; give another model"
        )
    if len(classes) < 2:
        raise UsageError(
            f"{model}: the classes of the network are unknown, or only one; nothing can be mistaken for another"
        )
    target = None
    if options.target is not None:
        numbers = _numbers(classes)
        target = numbers.get(class_names.normal(options.target))
        if target is None:
            proposal = messages.nearest(options.target, classes) or f"it has {messages.shortened(classes, 8)}"
            raise UsageError(f'--target "{options.target}": not a class of the model; {proposal}')
    return AttackModel(Attacker(graph, options), classes, graph.preprocess, target, graph.predicts_box)


def write(
    images: Iterable[ImageFile],
    model: AttackModel,
    folder: Path,
    *,
    batch: int = 32,
    jobs: int | None = None,
    callbacks: Callbacks | None = None,
) -> Iterator[AttackRecord]:
    """Make an adversarial image of each image, and write it; at the end, the manifest. Memory holds a few batches.

    Args:
        images: The images; of an iterator, the first is awaited before this returns.
        model: From `open_model`.
        folder: The caller holds its lock (`tree.writing_into`).
        batch: Images per batch.
        jobs: Threads that decode.
        callbacks: Progress and skipped images.

    Raises:
        CnnkitError: Adversarial images would be written among the images, two would have one name, or no image could be used.
    """
    images = box_targets.whole_images(images) if model.predicts_box else images
    place = augment_plan.placing(images)
    if isinstance(images, Sequence):
        tree.check_apart(folder, (image.path for image in images), to_be="attacked")
        taken: dict[str, str] = {}
        for image in images:
            below = _joined(place(image), file_name(image.path))
            if taken.setdefault(below, image.path) != image.path:
                raise _claimed_twice(taken[below], image.path, below)
    else:  # no output before there is an image
        coming = iter(images)
        images = chain(list(islice(coming, 1)), coming)
    return _Writer(model, folder, place, callbacks or Callbacks()).records(images, batch=batch, jobs=jobs)


def _numbers(classes: Sequence[str]) -> dict[str, int]:
    return {class_names.normal(name): number for number, name in enumerate(classes)}


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _claimed_twice(one: str, other: str, below: str) -> CnnkitError:
    return CnnkitError(f"{one} and {other} would both be written to {below}; rename one of them, or leave it out")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An image as it is written, and the top and left of what the network sees of it."""

    pixels: NDArray[np.uint8]
    top: int
    left: int


class _Writer:
    """Attacks images in batches, and writes the results."""

    def __init__(
        self, model: AttackModel, folder: Path, place: Callable[[ImageFile], str], callbacks: Callbacks
    ) -> None:
        self._model, self._folder, self._place, self._callbacks = model, folder, place, callbacks
        self._numbers = _numbers(model.classes)
        self._counts = _Counts()
        self._rows: list[list[str | None]] = []
        self._taken: dict[str, str] = {}

    def records(self, images: Iterable[ImageFile], *, batch: int, jobs: int | None) -> Iterator[AttackRecord]:
        expected = len(images) if isinstance(images, Sized) else None
        done = 0
        self._callbacks.progress(0, expected)
        some: list[tuple[ImageFile, _Prepared]] = []
        loaded = reader.each(images, self._load, jobs=jobs, ahead=2 * batch)
        for image, prepared in loaded:
            if isinstance(prepared, BadImageError):
                done += 1
                self._callbacks.progress(done, expected)
                self._callbacks.skip(image.path, str(prepared))
                continue
            some.append((image, prepared))
            if len(some) == batch:
                yield from self._attacked(some)
                done += len(some)
                self._callbacks.progress(done, expected)
                some = []
        if some:
            yield from self._attacked(some)
            self._callbacks.progress(done + len(some), expected)
        if not self._rows:
            raise CnnkitError("no image could be used; nothing written")
        containment.check_place(self._folder, MANIFEST)
        tsv.save(self._folder / MANIFEST, _COLUMNS, self._rows)
        self._report()

    def _load(self, image: ImageFile) -> _Prepared:
        (decoded,) = in_memory.load(image, [preprocessing.enough(self._model.preprocess)])
        return _Prepared(*preprocessing.prepare_with_margin(decoded, self._model.preprocess))

    def _attacked(self, some: Sequence[tuple[ImageFile, _Prepared]]) -> Iterator[AttackRecord]:
        """Attack a batch of images, and write the results."""
        seen = np.stack([self._visible(prepared) for _, prepared in some])
        before = self._model.attacker.probabilities(seen)
        labels = [self._label(image) for image, _ in some]
        usable = []
        for index, (image, _) in enumerate(some):
            if np.isfinite(before[index]).all():
                usable.append(index)
            else:
                self._callbacks.skip(image.path, "the network's output is not finite")
        if not usable:
            return
        tops = before.argmax(1)
        attacked = [tops[index] if labels[index] is None else labels[index] for index in usable]
        if self._model.target is not None:
            attacked = [self._model.target] * len(usable)
        changed = self._model.attacker.attack(seen[usable], np.array(attacked, dtype=np.int64))
        after = self._model.attacker.probabilities(changed)
        for row, index in enumerate(usable):
            image, prepared = some[index]
            pixels = prepared.pixels.copy()
            height, width = changed[row].shape[:2]
            pixels[prepared.top : prepared.top + height, prepared.left : prepared.left + width] = changed[row]
            try:
                below = self._write(image, pixels)
            except BadImageError as error:
                self._callbacks.skip(image.path, str(error))
                continue
            source = manifest.seen_from(self._folder, image.path)
            self._rows.append([below, image.label, image.split, image.group, source])
            change = int(np.abs(changed[row].astype(np.int16) - seen[index]).max())
            self._count(image, labels[index], int(tops[index]), int(after[row].argmax()), change)
            yield self._record(image, labels[index], before[index], after[row], change, below)

    def _visible(self, prepared: _Prepared) -> NDArray[np.uint8]:
        height, width = self._model.preprocess.height, self._model.preprocess.width
        return prepared.pixels[prepared.top : prepared.top + height, prepared.left : prepared.left + width]

    def _label(self, image: ImageFile) -> int | None:
        """Return the number of an image's label or, without one, of the nearest folder that is a class of the model."""
        name = class_names.class_folder(image.path, self._numbers) if image.label is None else image.label
        return None if name is None else self._numbers.get(class_names.normal(name))

    def _write(self, image: ImageFile, pixels: NDArray[np.uint8]) -> str:
        """Write a PNG, and return its path relative to the folder.

        Raises:
            BadImageError: It has the name of another one.
        """
        tree.check_apart(self._folder, [image.path], to_be="attacked")
        stem, extension = augment_plan.stem_and_extension(file_name(image.path), "PNG")
        try:
            below = _joined(self._place(image), atomic.fitting_name(stem, extension))
        except CnnkitError as error:
            raise BadImageError(str(error)) from error
        if self._taken.setdefault(below, image.path) != image.path:
            raise BadImageError(str(_claimed_twice(self._taken[below], image.path, below)))
        containment.check_place(self._folder, below)
        (self._folder / below).parent.mkdir(parents=True, exist_ok=True)
        image_files.save(self._folder / below, Image.fromarray(pixels))
        return below

    def _record(
        self,
        image: ImageFile,
        label: int | None,
        before: NDArray[np.float32],
        after: NDArray[np.float32],
        change: int,
        below: str,
    ) -> AttackRecord:
        classes = self._model.classes
        return AttackRecord(
            path=image.path,
            label=None if label is None else classes[label],
            class_before=classes[int(before.argmax())],
            probability_before=shortest(before.max()),
            class_after=classes[int(after.argmax())],
            probability_after=shortest(after.max()),
            change=change,
            adversarial=str(self._folder / below),
        )

    def _count(self, image: ImageFile, label: int | None, before: int, after: int, change: int) -> None:
        counts = self._counts
        counts.total += 1
        counts.changed += before != after
        if label is not None:
            counts.labelled += 1
            counts.right[0] += before == label
            counts.right[1] += after == label
        if self._model.target is not None and label != self._model.target:
            counts.others += 1
            counts.reached += after == self._model.target
        if not change:
            counts.without_gradient.append(image.path)

    def _report(self) -> None:
        counts, target = self._counts, self._model.target
        log.info("%d of %d predictions changed", counts.changed, counts.total)
        if target is not None:
            log.info(
                "%d of %d images of other classes are now predicted as %s",
                counts.reached,
                counts.others,
                self._model.classes[target],
            )
        if counts.labelled:
            share = [right / counts.labelled for right in counts.right]
            log.info("accuracy %.4g before and %.4g after, of %d labelled images", *share, counts.labelled)
        if counts.labelled < counts.total and target is None:
            log.info(
                "%s without a label that is a class of the model; the attack was on the predicted class",
                messages.count_images(counts.total - counts.labelled),
            )
        if counts.without_gradient:
            log.info(
                "%s unchanged, since the loss has no gradient there; the first is %s",
                messages.count_images(len(counts.without_gradient)),
                counts.without_gradient[0],
            )
