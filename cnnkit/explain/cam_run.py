"""Class activation maps of many images: a record for each, and overlays by `cam_render`. Imports torch only for models that need it."""

import logging
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnkit import class_names, messages
from cnnkit.callbacks import Callbacks, Skip
from cnnkit.choices import CamMethod
from cnnkit.data import augment_plan, box_targets, preprocessing, reader
from cnnkit.data.in_memory import MemoryImage
from cnnkit.data.source import ImageFile
from cnnkit.engine import runner
from cnnkit.errors import BadImageError, CnnkitError, UsageError
from cnnkit.explain import colormaps, contact_sheets, faithfulness
from cnnkit.explain.cam_methods import METHODS
from cnnkit.explain.cam_onnx import OnnxCam
from cnnkit.explain.cam_render import SCORES, CamRenderer, ClassMap, ImageMaps
from cnnkit.explain.config import CamOptions, InputOptions, RenderOptions
from cnnkit.explain.faithfulness import Faithfulness
from cnnkit.explain.found_boxes import FoundBoxes
from cnnkit.formats import labels
from cnnkit.formats.decimals import shortest
from cnnkit.formats.header import Preprocess
from cnnkit.nets.cell_centres import CellCentres
from cnnkit.option_fields import given

log = logging.getLogger("cnnkit")

_NOT_FINITE = "the network's output is not finite"
_OTHER_INPUT = "with --size, --fit or --fine, probabilities differ from those of cnn-predict"


class ForwardPass(Protocol):
    """A forward pass of a batch of images; `probabilities` is (N, classes)."""

    probabilities: NDArray[np.float32]

    def maps(self, classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the map of one class, by number, for each image, (N,) -> (N, h, w), non-negative."""


class CamNetwork(Protocol):
    """A network that has class activation maps."""

    def forward(self, images: NDArray[np.uint8]) -> ForwardPass:
        """Run it on images, (N, H, W, 3)."""

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the probability of every class, (N, H, W, 3) -> (N, classes)."""


@dataclass(frozen=True, slots=True)
class CamModel:
    """A network that has class activation maps, the names of its classes, and how images are prepared for it."""

    network: CamNetwork
    classes: tuple[str, ...]
    preprocess: Preprocess
    is_slow: bool = False  # run one image at a time
    predicts_box: bool = False  # it was trained on whole images, and gets them in place of crops
    centres: CellCentres | None = None  # the centres of the cells of maps; None if unknown: cells then tile the image


# ---------------------------------------------------------------- networks


def _opened(model: CamModel) -> CamModel:
    """Report that the centres of cells are unknown."""
    if model.centres is None:
        log.info("the receptive fields of this network are unknown: the cells of maps are drawn as equal tiles")
    return model


def open_model(
    model: str, options: CamOptions, shown: InputOptions, *, device: str = "auto", batch: int = 32
) -> CamModel:
    """Load a network and find the layer of the maps.

    Args:
        model: A trained `.pt`, an `.onnx` exported with its maps, or the name of a torchvision or timm network.
        options: The method and the layer.
        shown: The weights of the network, and the size of its input.
        device: auto, cpu, cuda or cuda:N.
        batch: The maximum number of images that a method runs at once.

    Raises:
        UsageError: Options exclude each other, or the network does not support them.
        CnnkitError: The model cannot be loaded.
    """
    if shown.size is not None:
        preprocessing.sides(shown.size)
    if model.endswith((".pt", ".onnx")):
        Path(model).stat()  # before anything heavy is loaded
    if model.endswith(".onnx"):
        return _opened(_exported(model, options, shown, device))
    return _opened(_differentiable(model, options, shown, device, batch))


def _exported(model: str, options: CamOptions, shown: InputOptions, device: str) -> CamModel:
    flags = [*given(options, names=("layer", "fine")), *given(shown, names=("weights",))]
    if flags:
        raise UsageError(f"{model}: {flags[0]} does not work for an exported network; give the .pt it was made from")
    network = OnnxCam(model, options, shown, device=device)
    assert network.model.preprocess is not None
    log.info("maps of %s", network.layer)
    if shown.size is not None or shown.fit is not None:
        log.info(_OTHER_INPUT)
    return CamModel(
        network,
        network.classes,
        network.model.preprocess,
        predicts_box=network.model.gives_box,
        centres=network.centres,
    )


def _differentiable(model: str, options: CamOptions, shown: InputOptions, device: str, batch: int) -> CamModel:
    from cnnkit.explain import load_network  # torch, which exported networks do without
    from cnnkit.explain.cam import TorchCam
    from cnnkit.nets import dilation

    network, classes = load_network.load_network(model, shown, device=device)
    labels.note_assumed(network.name, shown.weights, classes)
    place = network.find(options.layer) if options.layer is not None else network.last_spatial()
    if options.fine:
        network, place = dilation.remove_last_stride(network, place)
    method = options.method or CamMethod.GRADCAM
    maps = TorchCam(network, classes, layer=place, method=method, contrast=options.contrast, batch=batch)
    log.info("maps of %s, %s", place.name, "x".join(map(str, place.shape[1:])))
    if METHODS[method].is_class_agnostic:
        log.info("%s ignores the class: every class gets the same map", method)
    if options.fine or shown.size is not None or shown.fit is not None:
        log.info(_OTHER_INPUT)
    return CamModel(
        maps,
        classes,
        network.preprocess,
        is_slow=METHODS[method].is_slow,
        predicts_box=network.predicts_box,
        centres=network.centres.get(place.node),
    )


# ---------------------------------------------------------------- maps


def explain(
    images: Iterable[ImageFile],
    model: CamModel,
    *,
    options: RenderOptions,
    listed_in: Sequence[Path] = (),
    batch: int = 32,
    jobs: int | None = None,
    callbacks: Callbacks | None = None,
) -> Iterator[dict[str, Any]]:
    """Compute and draw the maps of images. Memory holds a few batches, however many images there are, and the thumbnails of a sheet.

    Args:
        images: The images; of an iterator, the first is awaited before this returns.
        model: From `open_model`.
        options: The classes of the maps, and what is drawn. Classes are names, `top` for the predicted class, `true` for the label of the
            image, or `all`. A class with such a name is `name:top`.
        listed_in: Tables that list the images, whose further columns a manifest of boxes keeps.
        batch: Images per batch.
        jobs: Threads that decode, and as many that draw.
        callbacks: Progress and skipped images.

    Returns:
        A record for each map: `path`; `label`, the predicted class; `class`, that of the map, and its `probability`; `overlay`, the file;
        `box` and `peak` in pixels of the image; `maximum`, the largest value of the map.

    Raises:
        UsageError: The network does not have a class.
        CnnkitError: Overlays would be written among the images, two would have one name, or no image could be used.
    """
    palette = colormaps.color_table(options.colormap)
    wanted = options.classes or ["top"]
    choose = _chooser(options, model)
    images = box_targets.whole_images(images) if model.predicts_box else images
    several = len(wanted) > 1 or "all" in wanted
    renderer = CamRenderer(
        options,
        palette,
        model.preprocess,
        augment_plan.placing(images),
        classes=model.classes if several else (),
        centres=model.centres,
    )
    if isinstance(images, Sequence):
        renderer.check(images)
    else:  # no output before there is an image
        coming = iter(images)
        images = chain(list(islice(coming, 1)), coming)
    return _records(
        images,
        model,
        renderer,
        choose,
        listed_in=listed_in,
        batch=1 if model.is_slow else batch,
        jobs=jobs,
        callbacks=callbacks or Callbacks(),
    )


def find_maps(
    images: Iterable[ImageFile],
    model: CamModel,
    *,
    options: RenderOptions,
    batch: int = 32,
    jobs: int | None = None,
    callbacks: Callbacks | None = None,
) -> Iterator[ImageMaps]:
    """Compute the maps of images; nothing is drawn.

    Args, Raises as `explain`.
    """
    return _counted(
        box_targets.whole_images(images) if model.predicts_box else images,
        model,
        options,
        _chooser(options, model),
        batch=1 if model.is_slow else batch,
        jobs=jobs,
        callbacks=callbacks or Callbacks(),
    )


def _chooser(options: RenderOptions, model: CamModel) -> "_ClassChooser":
    """Choose by the classes of the options; report those that are also words."""
    choose = _ClassChooser(options.classes or ["top"], model.classes)
    for remark in choose.ambiguous() if options.classes else ():
        log.info("%s", remark)
    return choose


def columns(options: RenderOptions) -> tuple[str, ...]:
    """Return the fields of a record."""
    plain = ("path", "label", "probability", "class", "overlay", "box", "peak", "maximum")
    return (*plain, *SCORES) if options.faithful else plain


#: Words of --class that are not names, and what they mean.
_WORDS = {"top": "the predicted class", "true": "the label of the image", "all": "every class"}
#: Prefix for a class that has the name of such a word.
_BY_NAME = "name:"


class _ClassChooser:
    """Chooses the classes of the maps of an image.

    Attributes:
        without_truth: The images for which only the map of `true` was left out, with the reason.
    """

    def __init__(self, wanted: Sequence[str], classes: Sequence[str]) -> None:
        """Check the words of `--class`.

        Raises:
            UsageError: A name is not a class of the model.
        """
        self._numbers = {class_names.normal(name): number for number, name in enumerate(classes)}
        for word in wanted:
            if word not in _WORDS and self._number(word) is None:
                some = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
                proposal = messages.nearest(word, classes) or f"it has {some}; or give top, true or all"
                raise UsageError(f'--class "{word}": not a class of the model; {proposal}')
        self._wanted, self._classes = wanted, tuple(classes)
        self.without_truth: list[str] = []

    def ambiguous(self) -> Iterator[str]:
        """Report words of `--class` that are also the name of a class."""
        for word in self._wanted:
            if word in _WORDS and word in self._numbers:
                yield f'--class {word} is {_WORDS[word]}, not the class named "{word}"; for that give --class {_BY_NAME}{word}'

    def _number(self, word: str) -> int | None:
        """Find a class by name, with or without the prefix `name:`."""
        named = self._numbers.get(class_names.normal(word.removeprefix(_BY_NAME)))
        return self._numbers.get(class_names.normal(word)) if named is None else named

    def truth(self, image: ImageFile) -> str | None:
        """Return the true class of an image: its label, or the nearest folder that is a class of the model; None if there is none."""
        if image.label is None and isinstance(image, MemoryImage):
            return None
        name = class_names.class_folder(image.path, self._numbers) if image.label is None else image.label
        number = None if name is None else self._numbers.get(class_names.normal(name))
        return None if number is None else self._classes[number]

    def choose(self, image: ImageFile, top: int) -> list[int]:
        """Choose classes by number; `top` is the predicted class.

        Raises:
            BadImageError: Only `true` was requested, and the true class of the image is unknown or not a class of the model.
        """
        chosen: list[int] = []
        missing = ""
        for word in self._wanted:
            if word == "all":
                chosen += range(len(self._numbers))
            elif word == "top":
                chosen.append(top)
            elif word != "true":
                number = self._number(word)
                assert number is not None
                chosen.append(number)
            elif image.labels is not None:
                there = {name: self._numbers.get(class_names.normal(name)) for name in image.labels}
                chosen += [number for number in there.values() if number is not None]
                others = [name for name, number in there.items() if number is None]
                if others:
                    missing = f"its label {others[0]} is not a class of the model"
                elif not there:
                    missing = "none of the labels"
            elif (truth := self.truth(image)) is not None:
                chosen.append(self._numbers[class_names.normal(truth)])
            else:
                missing = "no label" if image.label is None else f"its label {image.label} is not a class of the model"
        if missing and not chosen:
            raise BadImageError(f"{missing}, which --class true needs; give class folders or a manifest")
        if missing:
            self.without_truth.append(f"{image.path}: {missing}")
        return list(dict.fromkeys(chosen))


def _records(
    images: Iterable[ImageFile],
    model: CamModel,
    renderer: CamRenderer,
    choose: _ClassChooser,
    *,
    listed_in: Sequence[Path],
    batch: int,
    jobs: int | None,
    callbacks: Callbacks,
) -> Iterator[dict[str, Any]]:
    scored: list[Faithfulness] = []
    done, total = 0, 0
    expected = len(images) if isinstance(images, Sized) else None
    cells = contact_sheets.SheetCells()
    boxes = None if renderer.options.manifest is None else FoundBoxes(renderer.options.manifest, listed_in)
    callbacks.progress(0, expected)

    def count(path: str, reason: str) -> None:
        nonlocal done
        done += 1
        callbacks.progress(done, expected)
        callbacks.skip(path, reason)

    found = _found(images, model, renderer.options, choose, batch=batch, jobs=jobs, skip=count)
    for item, drawn in reader.each(found, renderer.draw, jobs=jobs, ahead=2 * (jobs or reader.usable_cores())):
        if isinstance(drawn, BadImageError):
            count(item.image.path, str(drawn))
            continue
        done += 1
        callbacks.progress(done, expected)
        if drawn.cell is not None:
            cells.append(drawn.cell)
        if boxes is not None and drawn.records:
            boxes.add(item.image, drawn.records[0])
        for shown, record in zip(item.maps, drawn.records, strict=True):
            total += 1
            if shown.faithfulness is not None:
                scored.append(shown.faithfulness)
            yield record
    if done and not total:
        raise CnnkitError("no image could be used; nothing written")
    if renderer.options.sheet is not None:
        contact_sheets.save(renderer.options.sheet, cells, palette=colormaps.color_table(renderer.options.colormap))
    if boxes is not None and (remark := boxes.save()):
        log.info("%s", remark)
    if scored:
        deletion, insertion = (float(np.mean([getattr(each, name) for each in scored])) for name in SCORES)
        log.info("mean of %d maps: deletion %.4g, insertion %.4g", len(scored), deletion, insertion)


def _counted(
    images: Iterable[ImageFile],
    model: CamModel,
    options: RenderOptions,
    choose: _ClassChooser,
    *,
    batch: int,
    jobs: int | None,
    callbacks: Callbacks,
) -> Iterator[ImageMaps]:
    """Yield each image with its maps, and report progress, which `_records` does when a map is drawn."""
    expected = len(images) if isinstance(images, Sized) else None
    done = 0

    def count(path: str, reason: str) -> None:
        nonlocal done
        done += 1
        callbacks.progress(done, expected)
        callbacks.skip(path, reason)

    for found in _found(images, model, options, choose, batch=batch, jobs=jobs, skip=count):
        done += 1
        callbacks.progress(done, expected)
        yield found


def _found(
    images: Iterable[ImageFile],
    model: CamModel,
    options: RenderOptions,
    choose: _ClassChooser,
    *,
    batch: int,
    jobs: int | None,
    skip: Skip,
) -> Iterator[ImageMaps]:
    """Run the network on images in batches, and yield each image with its maps; report those that are missing or empty."""
    empty, total, first_empty = 0, 0, ""
    results = runner.run(images, [model.preprocess], lambda batches: batches, batch=batch, jobs=jobs)
    for shown, (pixels,) in runner.in_batches(results, batch, skip=skip):
        seen = model.network.forward(pixels)
        chosen: list[list[int]] = []
        for image, row in zip(shown, seen.probabilities, strict=True):
            try:
                if not np.isfinite(row).all():
                    raise BadImageError(_NOT_FINITE)
                chosen.append(choose.choose(image, int(row.argmax())))
            except BadImageError as error:
                skip(image.path, str(error))
                chosen.append([])
        rounds = max(map(len, chosen), default=0)
        maps = [
            seen.maps(np.array([each[number] if number < len(each) else 0 for each in chosen], dtype=np.int64))
            for number in range(rounds)
        ]
        for index, (image, numbers) in enumerate(zip(shown, chosen, strict=True)):
            row = seen.probabilities[index]
            found = [
                ClassMap(
                    model.classes[number],
                    shortest(row[number]),
                    maps[place][index],
                    _faithfulness(pixels[index], maps[place][index], number, model, batch)
                    if options.faithful and maps[place][index].any()  # a map of zeros has no hottest pixels
                    else None,
                )
                for place, number in enumerate(numbers)
            ]
            for each in found:
                total += 1
                if not each.values.max() > 0:
                    empty, first_empty = empty + 1, first_empty or f"that of {each.name} in {image.path}"
            if found:
                yield ImageMaps(image, model.classes[int(row.argmax())], found, choose.truth(image))
    if choose.without_truth:
        log.info(
            "no map of --class true for %s without a label that is a class of the model; the first is %s",
            messages.count_images(len(choose.without_truth)),
            choose.without_truth[0],
        )
    if empty:
        log.info(
            "%d of %d maps are zero everywhere, so nothing is drawn on the image; the first is %s",
            empty,
            total,
            first_empty,
        )


def _faithfulness(
    image: NDArray[np.uint8], values: NDArray[np.float32], number: int, model: CamModel, batch: int
) -> Faithfulness:
    red, green, blue = (round(255 * value) for value in model.preprocess.mean)
    return faithfulness.measure(
        image,
        values,
        number,
        probabilities=model.network.probabilities,
        hidden=(red, green, blue),
        centres=model.centres,
        batch=batch,
    )
