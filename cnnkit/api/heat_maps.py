"""Class activation maps, as cnn-cam makes them. An .onnx from `cnn-export --cam` needs no torch."""

from __future__ import annotations  # help() shows ImageLike, and not all that it stands for

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit.api import images as inputs
from cnnkit.api.calls import choice, public
from cnnkit.api.images import Errors, ImageLike
from cnnkit.choices import CamMethod, Fit
from cnnkit.data import in_memory, preprocessing
from cnnkit.data.source import ImageFile
from cnnkit.errors import CnnkitError
from cnnkit.explain import cam_render, cam_run, colormaps, upsampling
from cnnkit.explain.cam_run import CamModel
from cnnkit.explain.config import CamOptions, InputOptions, RenderOptions
from cnnkit.explain.upsampling import Box
from cnnkit.option_fields import DEFAULT_BATCH, check_range, check_ranges


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """The class activation map of one class for one image.

    Attributes:
        path: The file, or `image N` for the N-th of images in memory.
        label: The class that the network predicts.
        target: The class of the map.
        probability: That of `target`, 0 to 1.
        values: The map at the size of the layer, float32 (h, w); nowhere negative, not scaled.
    """

    path: str
    label: str
    target: str
    probability: float
    values: NDArray[np.float32] = field(repr=False)
    _image: ImageFile = field(repr=False)
    _model: CamModel = field(repr=False)

    @public
    def pixels(self) -> NDArray[np.float32]:
        """Return the map in pixels of the image, (H, W); zero where the network did not look.

        Raises:
            BadImageError: The image cannot be read any more.
        """
        size = in_memory.upright_size(self._image)
        heat, part, _ = self._spread(size)
        return cam_render.in_image(heat, part, size)

    @public
    def overlay(self, *, alpha: float = 0.5, colormap: str = "inferno", box: float | None = None) -> Image.Image:
        """Draw the map over the image.

        Args:
            alpha: How much the colours cover, 0 to 1.
            colormap: A colour map of matplotlib, by name.
            box: Also draw a box around the largest connected region above this share of the maximum.

        Raises:
            UsageError: There is no such colour map, or a number is not from 0 to 1.
            BadImageError: The image cannot be read any more.
        """
        check_ranges(RenderOptions(alpha=alpha, box=box))
        palette = colormaps.color_table(colormap)
        image = in_memory.load_whole(self._image)
        heat, part, _ = self._spread(image.size)
        return cam_render.draw_overlay(
            image,
            heat,
            part,
            highest=float(self.values.max()),
            palette=palette,
            alpha=alpha,
            box=None if box is None else upsampling.hot_box(heat, box, part),
        )

    @public
    def box(self, share: float = 0.5) -> Box | None:
        """Return (left, top, right, bottom) of the largest connected region above a share of the maximum, in pixels of the image.

        None for a map that is zero everywhere.
        """
        heat, part, _ = self._spread(in_memory.upright_size(self._image))
        return upsampling.hot_box(heat, share, part)

    @public
    def peak(self) -> tuple[int, int] | None:
        """Return (x, y) of the largest value, in pixels of the image; None for a map that is zero everywhere."""
        _, part, window = self._spread(in_memory.upright_size(self._image))
        return upsampling.argmax_pixel(self.values, window, part, self._model.centres)

    def _spread(self, size: tuple[int, int]) -> tuple[NDArray[np.float32], Box, tuple[float, float, float, float]]:
        window = preprocessing.window(size, self._model.preprocess)
        part = upsampling.visible_box(window, size)
        return upsampling.upsample(self.values, window, part, self._model.centres), part, window


@public
def heat_maps(
    model: str | os.PathLike[str],
    images: ImageLike | Iterable[ImageLike],
    *,
    target: str | Sequence[str] = "top",
    method: str | None = None,
    layer: str | None = None,
    contrast: bool = False,
    fine: bool = False,
    weights: str | os.PathLike[str] = "default",
    size: int | str | None = None,
    fit: str | None = None,
    split: str | None = None,
    device: str = "auto",
    batch: int = DEFAULT_BATCH,
    jobs: int | None = None,
    errors: Errors = "raise",
    progress: Callable[[int, int | None], None] | None = None,
) -> Iterator[HeatMap]:
    """Compute class activation maps; the network is loaded once, before this returns.

    Args:
        model: A .pt; a .onnx from cnn-export --cam; or the name of a network of torchvision or timm.
        images: One or several: paths, folders, manifests, Pillow images, or arrays of uint8 (H, W, 3).
        target: Whose map: a class by name, top for the predicted class, true for the label of the image, all; or several of these.
        method: gradcam, gradcam++, hirescam, layercam, eigencam, scorecam or cam; by default gradcam, and cam for a .onnx.
        layer: By name, or by number; by default the last one with spatial dimensions.
        contrast: Map the evidence against the class.
        fine: Maps of twice the rows and columns.
        weights: For a network by name: a state_dict file, default or none.
        size: Side of the input in pixels, or HxW; by default that of the model.
        fit: How an image becomes that: crop, squash or pad; by default that of the model.
        split: Use only this split of folders and manifests.
        device: auto, cpu, cuda or cuda:N.
        batch: Images that go through the network at once, 32 by default.
        jobs: Threads that decode images; by default all cores.
        errors: raise for an image that cannot be used; skip logs it and leaves it out, a function is called with path and reason.
        progress: Called after every image with the images done and their number, None if that is unknown.

    Yields:
        One map for each image and target, in order.

    Raises:
        UsageError: There is no such class, layer or method, the network has no maps by it, or a number is out of range.
        BadImageError: An image cannot be used.
        CnnkitError: The model or an image does not exist, or cannot be read.
    """
    for name, number in (("batch", batch), ("jobs", jobs)):
        check_range(name, number, minimum=1)
    network = cam_run.open_model(
        os.fspath(model),
        CamOptions(
            method=None if method is None else choice(CamMethod, method, "method"),
            layer=layer,
            contrast=contrast,
            fine=fine,
        ),
        InputOptions(
            weights=os.fspath(weights),
            size=None if size is None else str(size),
            fit=None if fit is None else choice(Fit, fit, "fit"),
        ),
        device=device,
        batch=batch,
    )
    found = cam_run.find_maps(
        inputs.image_files(images, split=split),
        network,
        options=RenderOptions(classes=[target] if isinstance(target, str) else list(target)),
        batch=batch,
        jobs=jobs,
        callbacks=inputs.callbacks(errors, progress=progress),
    )
    return (
        HeatMap(each.image.path, each.label, shown.name, shown.probability, shown.values, each.image, network)
        for each in found
        for shown in each.maps
    )


@public
def heat_map(
    model: str | os.PathLike[str],
    image: ImageLike,
    *,
    target: str = "top",
    method: str | None = None,
    layer: str | None = None,
    device: str = "auto",
) -> HeatMap:
    """Compute the class activation map of one image; for several images `heat_maps` loads the network once. Args, Raises as there."""
    maps = [*heat_maps(model, image, target=target, method=method, layer=layer, device=device)]
    if len(maps) != 1:
        raise CnnkitError(f"{len(maps)} maps; heat_map takes one image and one class, heat_maps takes several")
    return maps[0]
