"""Backbones in torch: built from a spec, or run in torch."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cnnkit.choices import Pool, Precision
from cnnkit.data import preprocessing
from cnnkit.engine import device as devices
from cnnkit.engine import device_errors, torch_device
from cnnkit.engine.config import BackboneSpec
from cnnkit.engine.runner import NetworkFunction
from cnnkit.errors import UsageError
from cnnkit.formats import torch_model
from cnnkit.formats.header import ArtefactKind, Header, Preprocess, made_by
from cnnkit.nets import backbones, classifier, outlines


def build_extractor(spec: BackboneSpec) -> tuple[nn.Module, Header]:
    """Build a backbone in torch, to be exported or to be run by `--engine torch`.

    Returns:
        uint8 (N, size, size, 3) -> features, in eval mode; and its Header.

    Raises:
        UsageError: The spec names a network or layer that does not exist, or a size that the network does not accept.
        CnnkitError: The weights are not available, or do not fit.
    """
    if spec.layers is not None:
        extractor, backbone, preprocess = backbones.by_notation(
            spec.layers,
            weights=spec.weights,
            layer=spec.layer,
            pool=spec.pool or Pool.AVG,
            size=spec.size or 32,
            seed=spec.seed,
        )
    elif spec.backbone is not None and spec.backbone.endswith(".pt"):
        if spec.weights != "default":
            raise UsageError(f"{spec.backbone} has its own weights; --weights needs the name of a network or --layers")
        model = torch_model.load(spec.backbone)
        extractor, backbone, preprocess = backbones.from_model(
            model, name=spec.backbone, layer=spec.layer, pool=spec.pool
        )
    else:
        extractor, backbone, preprocess = backbones.pretrained(
            str(spec.backbone),
            weights=spec.weights,
            layer=spec.layer,
            pool=spec.pool,
            size=spec.size,
            seed=spec.seed,
        )
    preprocess = preprocessing.with_size(
        preprocess, size=spec.size, resize=spec.resize, fit=spec.fit, decoding=spec.decoding
    )
    module = classifier.Extractor(extractor, preprocess=preprocess, pool=backbone.pool).eval()
    outlines.keep(backbone, preprocess, extractor.state_dict(), _check_shape(spec, module, preprocess))
    header = Header(
        kind=ArtefactKind.ONNX, preprocess=preprocess, backbone=backbone, made_by=made_by("torch", "torchvision")
    )
    return module, header


def _check_shape(spec: BackboneSpec, module: nn.Module, preprocess: Preprocess) -> tuple[int, ...]:
    """Run the backbone once, to check that its layer outputs a vector or a map, without pooling also tokens, and that its size is large
    enough.

    Returns:
        The shape of one image's features.
    """
    options = [f"--{name} {value}" for name in ("layer", "size") if (value := getattr(spec, name)) is not None]
    try:
        shape = classifier.feature_shape(module, preprocess)
    except (RuntimeError, AssertionError, AttributeError, TypeError) as error:
        if not options or device_errors.is_out_of_memory(error):
            raise
        reason = re.sub(r" but got Proxy.*", "", str(error).splitlines()[0])  # as traced, without a value
        raise UsageError(f"{spec.backbone} does not work with {' '.join(options)} ({reason})") from error
    if len(shape) not in ((1, 2, 3) if spec.pool is Pool.NONE else (1, 3)):
        given = "x".join(map(str, shape))
        raise UsageError(
            f"{spec.backbone} outputs {given} at {' '.join(options)}, neither a vector nor a map; use another layer"
        )
    return shape


def load(
    spec: BackboneSpec, *, device: str, precision: Precision = Precision.FLOAT32
) -> tuple[NetworkFunction, Header, str]:
    """Build a backbone as a function that runs in torch.

    Args:
        spec: The backbone.
        device: The value of `--device`.
        precision: Precision of multiplications on a GPU.

    Returns:
        The function from a batch of images to features; the Header; and the device it runs on.

    Raises:
        DeviceError: The device is `cuda`, and torch has no such GPU.
    """
    chosen = torch_device.choose(devices.parse(device))
    devices.check_precision(precision, devices.Device(chosen.type))
    module, header = build_extractor(spec)
    module = module.to(chosen).to(memory_format=torch.channels_last)

    forward = torch_device.in_parts(module)

    def network(batches: Sequence[NDArray[np.uint8]]) -> list[NDArray[Any]]:
        (images,) = batches
        with torch.inference_mode(), torch_device.multiplying_in(precision, chosen):
            return [forward(torch.from_numpy(images).to(chosen)).float().cpu().numpy()]

    return network, header, str(chosen)
