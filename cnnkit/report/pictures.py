"""Images of mistakes for a report: small copies, and heat maps of classes."""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image

from cnnkit import class_names
from cnnkit.callbacks import Callbacks
from cnnkit.data import decode, preprocessing, reader
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError, FormatError, UsageError
from cnnkit.explain import cam_render, cam_run, colormaps, upsampling
from cnnkit.explain.cam_render import ImageMaps
from cnnkit.explain.cam_run import CamModel
from cnnkit.explain.config import CamOptions, InputOptions, RenderOptions
from cnnkit.formats.header import Preprocess
from cnnkit.report.content import Picture

log = logging.getLogger("cnnkit")

#: The longer side of a picture, in pixels; twice what the page shows, for sharp screens and print.
SIDE = 320
#: An image of at most this side is shown with its pixels enlarged.
_SMALL = 64
_QUALITY = 78
#: The opacity and the colour map of heat maps, those of cnn-cam.
_ALPHA, COLORMAP = 0.5, "inferno"


@dataclass(frozen=True, slots=True)
class _Reduced:
    """A small copy of an image, and the size of the image, both (width, height)."""

    image: Image.Image
    size: tuple[int, int]


def reduced_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the small copy of an image; images are not enlarged."""
    scale = min(1.0, SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _reduced(path: str) -> _Reduced:
    (decoded,) = decode.load_reduced(path, [lambda size: (2 * reduced_size(size)[0], 2 * reduced_size(size)[1])])
    wanted = preprocessing.untouched(Preprocess(), reduced_size(decoded.size))
    return _Reduced(Image.fromarray(preprocessing.prepare(decoded, wanted)), decoded.size)


def _encoded(image: Image.Image, caption: str) -> Picture:
    small = max(image.size) <= _SMALL
    content = io.BytesIO()
    if small:
        image.save(content, "PNG")
    else:
        image.save(content, "JPEG", quality=_QUALITY, optimize=True)
    return Picture(caption, "png" if small else "jpeg", content.getvalue(), image.size, small)


def open_model(path: str, *, device: str) -> CamModel | None:
    """Load a network for heat maps; a notice says why it has none."""
    try:
        return cam_run.open_model(path, CamOptions(), InputOptions(), device=device)
    except (UsageError, FormatError) as error:
        log.info("no heat maps: %s", error)
        return None


@dataclass(frozen=True, slots=True)
class Illustrated:
    """The small copy of an image in `images`, and its heat maps by class; or `missing`, why there is none.

    `label` is the class with the largest probability, None without heat maps.
    """

    images: Sequence[Picture] = ()
    maps: Mapping[str, Picture] = field(default_factory=dict)
    missing: str | None = None
    label: str | None = None


def illustrated(
    images: Sequence[ImageFile],
    model: CamModel | None,
    *,
    classes: list[str],
    jobs: int | None,
    callbacks: Callbacks,
) -> list[Illustrated]:
    """Make a small copy of each image, and heat maps if there is a model for them; report images that cannot be read.

    Args:
        images: With what `classes` needs: their labels for `true`.
        model: From `open_model`.
        classes: The classes of the heat maps, as in `cam_run.explain`.
        jobs: Threads that decode.
        callbacks: Progress and skipped images.
    """
    copies: list[_Reduced | str] = []
    for image, loaded in reader.read(images, _reduced, jobs=jobs):
        if isinstance(loaded, BadImageError):
            callbacks.skip(image.path, str(loaded))
            copies.append(str(loaded))
        else:
            copies.append(loaded)
        callbacks.progress(len(copies), len(images))
    sound = [image for image, copy in zip(images, copies, strict=True) if isinstance(copy, _Reduced) and _mapped(image)]
    maps = {} if model is None else _maps(sound, model, classes=classes, jobs=jobs, callbacks=callbacks)
    made = []
    for image, copy in zip(images, copies, strict=True):
        if isinstance(copy, str):
            made.append(Illustrated(missing=copy))
            continue
        found, plain = maps.get(image.path), [_encoded(copy.image, "image")]
        if found is None or model is None:
            made.append(Illustrated(plain))
        else:
            made.append(Illustrated(plain, dict(_overlays(copy, found, model)), label=found.label))
    return made


def _mapped(image: ImageFile) -> bool:
    """Return whether there is a class to map: not if a model has none of the labels."""
    return image.labels is None or len(image.labels) > 0


def _maps(
    images: Sequence[ImageFile], model: CamModel, *, classes: list[str], jobs: int | None, callbacks: Callbacks
) -> dict[str, ImageMaps]:
    options = RenderOptions(classes=classes)
    found = cam_run.find_maps(images, model, options=options, jobs=jobs, callbacks=callbacks)
    return {each.image.path: each for each in found}


def _overlays(copy: _Reduced, found: ImageMaps, model: CamModel) -> Iterator[tuple[str, Picture]]:
    """Draw the maps on the small copy of the image, and yield each with its class in normal form."""
    left, top, right, bottom = preprocessing.window(copy.size, model.preprocess)
    across, down = copy.image.width / copy.size[0], copy.image.height / copy.size[1]
    window = left * across, top * down, right * across, bottom * down
    part = upsampling.visible_box(window, copy.image.size)
    draw = partial(cam_render.draw_overlay, palette=colormaps.color_table(COLORMAP), alpha=_ALPHA)
    for each in found.maps:
        heat = upsampling.upsample(each.values, window, part, model.centres)
        highest = float(np.max(each.values))
        caption = each.name if highest > 0 else f"{each.name} (no evidence)"
        yield class_names.normal(each.name), _encoded(draw(copy.image, heat, part, highest=highest), caption)
