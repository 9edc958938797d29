"""Class activation maps of many pictures: a record of each, and what `draughtsman` draws. No torch but for models that need it."""

import difflib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnkit.choices import CamMethod, Fit
from cnnkit.data import copies, preprocess, reader
from cnnkit.data.reader import Progress, no_progress
from cnnkit.data.source import Picture
from cnnkit.engine import runner
from cnnkit.engine.runner import Skip, raise_bad
from cnnkit.errors import BadPicture, UsageError
from cnnkit.explain import colormaps, contact_sheets, faithfulness
from cnnkit.explain.cam_render import SCORES, CamRenderer, ClassMap, ImageMaps
from cnnkit.explain.config import RenderOptions
from cnnkit.explain.faithfulness import Faithfulness
from cnnkit.formats.header import Preprocess

log = logging.getLogger("cnnkit")

_NO_NUMBER = "the network's answer is not a number"
_OTHERWISE = "shown otherwise than it was trained on, the network has other probabilities than in cnn-predict"


class ForwardPass(Protocol):
    """What a network saw in a batch of pictures; `probabilities` is (N, classes)."""

    probabilities: NDArray[np.float32]

    def maps(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give the map of a class for each picture, (N,) -> (N, h, w), nowhere negative."""


class CamNetwork(Protocol):
    """A network whose maps can be had."""

    def look(self, images: NDArray[np.uint8]) -> ForwardPass:
        """Run it on pictures, (N, H, W, 3)."""

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give the probability of every class, (N, H, W, 3) -> (N, classes)."""


@dataclass(frozen=True, slots=True)
class CamModel:
    """A network ready to be asked: its maps, the names of its classes, and how pictures are prepared."""

    maps: CamNetwork
    classes: tuple[str, ...]
    preprocess: Preprocess
    slow: bool = False  # one picture at a time is enough


# ---------------------------------------------------------------- which network


def open_model(
    model: str,
    *,
    weights: str = "default",
    method: CamMethod | None = None,
    layer: str | None = None,
    contrast: bool = False,
    fine: bool = False,
    size: str | None = None,
    fit: Fit | None = None,
    device: str = "auto",
    batch: int = 32,
) -> CamModel:
    """Load a network and find the layer whose maps are made.

    Args:
        model: A trained `.pt`, an `.onnx` exported with its maps, or the name of a network of torchvision's or timm's.
        weights: For a name: default, none, or a state_dict file.
        method: How maps are made; Grad-CAM unless said, CAM of an exported network.
        layer: Where; the last one with spatial extent unless said.
        contrast: What speaks against a class.
        fine: Take the last stride before the layer out.
        size: Of what the network sees, `448` or `320x480`.
        fit: How a picture becomes that.
        device: Where it runs.
        batch: Of pictures, for Score-CAM.

    Raises:
        UsageError: Options that do not go together, or with the network.
        CnnkitError: The model cannot be had.
    """
    if size is not None:
        preprocess.sides(size)
    if model.endswith((".pt", ".onnx")):
        Path(model).stat()  # before anything heavy is loaded
    if model.endswith(".onnx"):
        fixed = {"--layer": layer, "--fine": fine or None}
        asked = [option for option, value in fixed.items() if value is not None]
        if asked or weights != "default":
            raise UsageError(f"{model} is exported and fixed; {(asked or ['--weights'])[0]} goes with a .pt")
        from cnnkit.explain.cam_onnx import OnnxCam

        exported = OnnxCam(model, method=method or CamMethod.CAM, contrast=contrast, size=size, fit=fit, device=device)
        assert exported.model.preprocess is not None
        log.info("maps of %s", exported.layer)
        if size is not None or fit is not None:
            log.info(_OTHERWISE)
        return CamModel(exported, exported.classes, exported.model.preprocess)

    from cnnkit.explain import load_network
    from cnnkit.explain.cam import TorchCam

    network, classes = load_network.load_network(model, weights=weights, size=size, fit=fit, device=device)
    place = network.find(layer) if layer is not None else network.last_spatial()
    if fine:
        from cnnkit.nets import finer

        network, place = finer.finer(network, place)
    chosen = method or CamMethod.GRADCAM
    maps = TorchCam(network, classes, layer=place, method=chosen, contrast=contrast, batch=batch)
    log.info("maps of %s, %s", place.name, "x".join(map(str, place.shape[1:])))
    if chosen is CamMethod.EIGENCAM:
        log.info("eigencam's maps are of what there is to see, whatever the class")
    if fine or size is not None or fit is not None:
        log.info(_OTHERWISE)
    return CamModel(maps, classes, network.preprocess, slow=chosen is CamMethod.SCORECAM)


# ---------------------------------------------------------------- which maps


def explain(
    pictures: Iterable[Picture],
    source: CamModel,
    *,
    wanted: Sequence[str] = ("top",),
    drawing: RenderOptions,
    batch: int = 32,
    jobs: int | None = None,
    skip: Skip = raise_bad,
    progress: Progress = no_progress,
) -> Iterator[dict[str, Any]]:
    """Make the maps of pictures. Memory holds a few batches, whatever the number of pictures, and the thumbnails of a sheet.

    Args:
        pictures: What to look at; of a list, one is waited for before this returns.
        source: The network.
        wanted: Names of classes; or `top` for the one that the network names, `true` for the picture's label, `all`.
        drawing: What is made of them.
        batch: Pictures at once.
        jobs: Threads that decode, and as many that draw.
        skip: Called for every picture that cannot be used.
        progress: Called after every picture.

    Returns:
        A record for each map: `path`; `label`, what the network names; `class`, whose map it is; `probability`, of that class;
        `overlay`, the file; `box` and `peak` in pixels of the picture; `maximum`, the map's largest value.

    Raises:
        UsageError: A class that the network does not know.
        CnnkitError: The folder holds the pictures themselves, or two of them would become one overlay.
    """
    palette = colormaps.color_table(drawing.colormap)
    choose = _chooser(wanted, source.classes)
    several = len(wanted) > 1 or "all" in wanted
    draughtsman = CamRenderer(
        drawing,
        palette,
        source.preprocess,
        copies.placing(pictures),
        classes=source.classes if several else (),
    )
    if isinstance(pictures, Sequence):
        draughtsman.check(pictures)
    else:  # nothing is said before there is anything to say
        coming = iter(pictures)
        pictures = chain(list(islice(coming, 1)), coming)
    return _records(
        pictures,
        source,
        draughtsman,
        choose,
        batch=1 if source.slow else batch,
        jobs=jobs,
        skip=skip,
        progress=progress,
    )


def columns(drawing: RenderOptions) -> tuple[str, ...]:
    """Name the fields of a record."""
    plain = ("path", "label", "probability", "class", "overlay", "box", "peak", "maximum")
    return (*plain, *SCORES) if drawing.faithful else plain


_Chooser = Callable[[Picture, int], list[int]]


def _chooser(wanted: Sequence[str], classes: Sequence[str]) -> _Chooser:
    """Give the function from a picture, and the number of the class that the network names, to the classes that are asked for."""
    for word in wanted:
        if word not in ("top", "true", "all") and word not in classes:
            near = difflib.get_close_matches(word, classes, n=3)
            some = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
            proposal = f"did you mean {' or '.join(near)}?" if near else f"it has {some}; or say top, true or all"
            raise UsageError(f'--class "{word}": the model knows no such class; {proposal}')
    numbers = {name: number for number, name in enumerate(classes)}

    def choose(picture: Picture, top: int) -> list[int]:
        chosen: list[int] = []
        for word in wanted:
            if word == "all":
                chosen += range(len(classes))
            elif word == "top":
                chosen.append(top)
            elif word == "true":
                if picture.label not in numbers:
                    known = (
                        "it has no label"
                        if picture.label is None
                        else f"its label {picture.label} is no class of the model"
                    )
                    raise BadPicture(
                        f"{known}, and --class true asks for that one's map; give class folders or a manifest"
                    )
                chosen.append(numbers[picture.label])
            else:
                chosen.append(numbers[word])
        return list(dict.fromkeys(chosen))

    return choose


def _records(
    pictures: Iterable[Picture],
    source: CamModel,
    draughtsman: CamRenderer,
    choose: _Chooser,
    *,
    batch: int,
    jobs: int | None,
    skip: Skip,
    progress: Progress,
) -> Iterator[dict[str, Any]]:
    scored: list[Faithfulness] = []
    done, empty, total, first_empty = 0, 0, 0, ""
    expected = len(pictures) if isinstance(pictures, Sized) else None
    cells = contact_sheets.SheetCells()
    progress(0, expected)

    def count(path: str, reason: str) -> None:
        nonlocal done
        done += 1
        progress(done, expected)
        skip(path, reason)

    found = _found(pictures, source, draughtsman.drawing, choose, batch=batch, jobs=jobs, skip=count)
    for item, drawn in reader.each(found, draughtsman.draw, jobs=jobs, ahead=2 * (jobs or reader.usable_cores())):
        if isinstance(drawn, BadPicture):
            count(item.picture.path, str(drawn))
            continue
        done += 1
        progress(done, expected)
        if drawn.cell is not None:
            cells.append(drawn.cell)
        for shown, record in zip(item.maps, drawn.records, strict=True):
            total += 1
            if not record["maximum"] > 0:
                empty, first_empty = empty + 1, first_empty or f"that of {shown.name} in {item.picture.path}"
            if shown.faithfulness is not None:
                scored.append(shown.faithfulness)
            yield record
    if draughtsman.drawing.sheet is not None:
        contact_sheets.save(draughtsman.drawing.sheet, cells)
    if empty:
        log.info(
            "%d of %d maps are zero everywhere, and drawn as the plain picture; the first: %s",
            empty,
            total,
            first_empty,
        )
    if scored:
        deletion, insertion = (float(np.mean([getattr(each, name) for each in scored])) for name in SCORES)
        log.info("mean of %d maps: deletion %.4g, insertion %.4g", len(scored), deletion, insertion)


def _found(
    pictures: Iterable[Picture],
    source: CamModel,
    drawing: RenderOptions,
    choose: _Chooser,
    *,
    batch: int,
    jobs: int | None,
    skip: Skip,
) -> Iterator[ImageMaps]:
    """Run the network over pictures in batches, and give each picture with its maps."""

    def pass_on(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        return [pixels]

    for shown, (pixels,) in runner.run(pictures, source.preprocess, pass_on, batch=batch, jobs=jobs, skip=skip):
        look = source.maps.look(pixels)
        chosen: list[list[int]] = []
        for picture, row in zip(shown, look.probabilities, strict=True):
            try:
                if not np.isfinite(row).all():
                    raise BadPicture(_NO_NUMBER)
                chosen.append(choose(picture, int(row.argmax())))
            except BadPicture as error:
                skip(picture.path, str(error))
                chosen.append([])
        rounds = max(map(len, chosen), default=0)
        maps = [
            look.maps(np.array([each[number] if number < len(each) else 0 for each in chosen], dtype=np.int64))
            for number in range(rounds)
        ]
        for index, (picture, numbers) in enumerate(zip(shown, chosen, strict=True)):
            row = look.probabilities[index]
            found = [
                ClassMap(
                    source.classes[number],
                    float(str(row[number])),
                    maps[place][index],
                    _faithfulness(pixels[index], maps[place][index], number, source, batch)
                    if drawing.faithful and maps[place][index].any()  # a map of zeros has no hottest pixels
                    else None,
                )
                for place, number in enumerate(numbers)
            ]
            if found:
                yield ImageMaps(picture, source.classes[int(row.argmax())], found)


def _faithfulness(
    image: NDArray[np.uint8], values: NDArray[np.float32], number: int, source: CamModel, batch: int
) -> Faithfulness:
    red, green, blue = (round(255 * value) for value in source.preprocess.mean)
    return faithfulness.measure(
        image, values, number, probabilities=source.maps.probabilities, hidden=(red, green, blue), batch=batch
    )
