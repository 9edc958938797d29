"""The features of images, as cnn-extract computes them. Torch is loaded once for a backbone that is not in the cache yet."""

from __future__ import annotations  # help() shows ImageLike, and not all that it stands for

import os
from collections.abc import Callable, Iterable

from cnnkit.api import images as inputs
from cnnkit.api.calls import choice, public
from cnnkit.api.images import Errors, ImageLike
from cnnkit.choices import Decoding, Engine, FeatureDtype, Fit, Pool, Precision
from cnnkit.data import shards
from cnnkit.engine.config import BackboneSpec
from cnnkit.formats.features import Features
from cnnkit.formats.header import Header
from cnnkit.infer import extract
from cnnkit.infer.config import ExtractConfig
from cnnkit.option_fields import DEFAULT_BATCH, MOST_SEED, check_range, check_ranges


class FeatureExtractor:
    """A convolutional backbone, loaded once.

    Attributes:
        header: Backbone, layer and preprocessing, as the `.json` next to features has them.
    """

    @public
    def __init__(
        self,
        backbone: str | os.PathLike[str] | None = None,
        *,
        layers: str | None = None,
        layer: str | None = None,
        pool: str | None = None,
        weights: str | os.PathLike[str] = "default",
        size: int | None = None,
        resize: int | None = None,
        fit: str | None = None,
        decoding: str | None = None,
        dtype: str = "float32",
        engine: str = "onnx",
        device: str = "auto",
        precision: str = "float32",
        batch: int | None = None,
        jobs: int | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        """Load a backbone.

        Args:
            backbone: A network of torchvision, timm:NAME, or a .pt or .onnx made by cnnkit; by default mobilenet_v2.
            layers: A backbone in the notation instead.
            layer: Cut after this layer; by default the last one with spatial dimensions.
            pool: avg, max, flatten, or none for maps (C, H, W); cls or cls+avg for the class token of a vision transformer; by default avg,
                and for a vision transformer what its classifier takes.
            weights: A state_dict file, default for those of the library, or none for random values.
            size: Side of the input of the network, in pixels; by default its own.
            resize: Shorter side before the centre crop, in pixels; by default in proportion to `size`.
            fit: How an image becomes a square: crop, squash or pad; by default crop.
            decoding: scaled, for large JPEG files at a reduced size, or full; by default scaled, or as stored in the .pt or .onnx.
            dtype: Of the features: float32 or float16.
            engine: onnx or torch.
            device: auto, cpu, cuda or cuda:N. cuda runs on the GPU or fails.
            precision: float32, tf32 or float16, on a GPU.
            batch: Images that go through the network at once; by default 32, on a GPU 128.
            jobs: Threads that decode images; by default all cores.
            workers: Processes that have these threads; 0 for this process. Images in memory are prepared in this process.
            seed: Of random weights.

        Raises:
            UsageError: There is no such network or layer, or a number is out of range.
            CnnkitError: Its file or its weights cannot be read or downloaded.
            DeviceError: The device does not exist.
        """
        config = ExtractConfig(
            dtype=choice(FeatureDtype, dtype, "dtype"),
            engine=choice(Engine, engine, "engine"),
            device=device,
            precision=choice(Precision, precision, "precision"),
            batch=DEFAULT_BATCH if batch is None else batch,
            on_command_line=frozenset() if batch is None else frozenset({"batch"}),
            jobs=jobs,
            workers=workers,
        )
        spec = BackboneSpec(
            backbone=None if backbone is None else os.fspath(backbone),
            layers=layers,
            layer=layer,
            pool=None if pool is None else choice(Pool, pool, "pool"),
            weights=os.fspath(weights),
            size=size,
            resize=resize,
            fit=None if fit is None else choice(Fit, fit, "fit"),
            decoding=None if decoding is None else choice(Decoding, decoding, "decoding"),
        )
        check_ranges(spec)
        check_range("seed", seed, minimum=0, maximum=MOST_SEED)
        self._extractor = extract.Extractor(config, spec=spec.named(seed=seed))
        self.header: Header = self._extractor.header

    @public
    def extract(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        split: str | None = None,
        shard: str | None = None,
        errors: Errors = "raise",
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Features:
        """Compute the features of images.

        Args:
            images: One or several: paths, folders, manifests, Pillow images, or arrays of uint8 (H, W, 3).
            split: Use only this split of folders and manifests.
            shard: Compute only a share, such as 2/8 for the second of eight, with the same bits as in a call for all images.
            errors: raise for an image that cannot be used; skip logs it and leaves it out, a function is called with path and reason.
            progress: Called after every batch with the images done and their number, None if that is unknown.

        Returns:
            `values` (images, D), or maps (images, C, H, W) with pool="none"; `rows` with path, label and split of each.

        Raises:
            BadImageError: An image cannot be used.
            CnnkitError: A path does not exist, or no image can be used, except of a shard.
        """
        found = inputs.image_files(images, split=split)
        callbacks = inputs.callbacks(errors, progress=progress)
        return self._extractor.extract(found, shard=shards.of(shard), callbacks=callbacks)


@public
def extract_features(
    images: ImageLike | Iterable[ImageLike],
    backbone: str | os.PathLike[str] | None = None,
    *,
    layers: str | None = None,
    layer: str | None = None,
    pool: str | None = None,
    weights: str | os.PathLike[str] = "default",
    size: int | None = None,
    fit: str | None = None,
    split: str | None = None,
    errors: Errors = "raise",
    device: str = "auto",
) -> Features:
    """Compute the features of images with a backbone that is loaded for this call; Args as `FeatureExtractor` and its `extract`."""
    extractor = FeatureExtractor(
        backbone, layers=layers, layer=layer, pool=pool, weights=weights, size=size, fit=fit, device=device
    )
    return extractor.extract(images, split=split, errors=errors)
