"""A backbone as an ONNX network: exported once, compared with torch, kept in the cache. Torch is imported on a cache miss only."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from cnnkit.choices import Pool
from cnnkit.data import preprocess as preparing
from cnnkit.engine import device as devices
from cnnkit.engine.config import BackboneSpec
from cnnkit.engine.runner import Network
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import cache, onnx_model
from cnnkit.formats.header import Header, Kind, Preprocess, made_by
from cnnkit.formats.onnx_model import OnnxModel
from cnnkit.nets import notation

if TYPE_CHECKING:
    from torch import nn


log = logging.getLogger("cnnkit")

#: How far ONNX Runtime may be from torch, as a share of the largest feature, before a base is refused.
TOLERANCE = 1e-3

# Counts the changes to normalisation, cutting or export that make other graphs of the same spec.
_REVISION = 1


def cache_name(spec: BackboneSpec) -> str:
    """Name a spec's place in the cache: by the content of the files it names, and the versions that took part."""
    named = asdict(spec)
    for field in ("backbone", "weights"):
        value = named[field]
        if value is not None and _is_file(value):
            named[field] = cache.sha256(Path(value))
    if spec.layers is not None:
        named["layers"] = [layer.text for layer in notation.parse(spec.layers)]  # however it is spaced, or in a file
    if spec.weights != "none" and spec.layers is None:
        named["seed"] = None  # nothing is random
    named["revision"] = _REVISION
    named["made_by"] = _versions()
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:20]
    readable = re.sub(r"[^A-Za-z0-9_.]+", "-", Path(spec.backbone or "layers").stem)
    return f"{readable}-{spec.pool or 'own'}-{digest}.onnx"


def _is_file(value: str) -> bool:
    return value not in ("default", "none") and Path(value).is_file()


def get(spec: BackboneSpec) -> OnnxModel:
    """Get a base: uint8 (N, size, size, 3) -> `features` (N, D), or (N, C, h, w) without pooling.

    Raises:
        UsageError: The spec contradicts itself, or names what does not exist.
        CnnkitError: The weights cannot be had, or ONNX Runtime computes something else than torch.
    """
    if (spec.backbone is None) == (spec.layers is None):
        raise UsageError("give either --backbone or --layers")
    if spec.weights not in ("default", "none") and not Path(spec.weights).is_file():
        raise CnnkitError(f"{spec.weights}: no such file; --weights takes a state_dict file, default or none")
    if spec.backbone is not None and spec.backbone.endswith((".pt", ".onnx")) and not Path(spec.backbone).is_file():
        raise CnnkitError(f"{spec.backbone}: no such model")
    if spec.backbone is not None and spec.backbone.endswith(".onnx"):
        return _from_onnx(spec)
    kept = cache.folder("bases") / cache_name(spec)
    if kept.is_file():
        model = onnx_model.load(kept)
        # Without its weights no head could be trained on its features: then it is made anew, and they are kept again
        if model.header and model.header.backbone and cache.find_weights(model.header.backbone.weights_sha256 or ""):
            return model
    module, header = build_extractor(spec)
    same = cache.folder("exports") / f"{_digest(module, header)}.onnx"
    if not same.is_file():
        log.info("exporting the base to ONNX, once; it is kept in %s", kept.parent.parent)
        onnx_model.save(same, _export(module, header))
    _link(same, kept)
    return onnx_model.load(kept)


def _digest(module: "nn.Module", header: Header) -> str:
    """Name a base by what it is, whichever file or name it was asked for by: weights, cut, pooling, preprocessing, and the versions."""
    digest = hashlib.sha256(json.dumps([_REVISION, _versions(), json.loads(header.to_json())], sort_keys=True).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:20]


def _versions() -> dict[str, str]:
    return made_by("torch", "torchvision", "timm", "onnx", "onnxscript")


def _link(same: Path, kept: Path) -> None:
    """Let a file have a second name, or a copy where the disk knows no second names."""
    kept.unlink(missing_ok=True)
    try:
        os.link(same, kept)
    except FileExistsError:  # another process was as quick
        return
    except OSError:
        onnx_model.save(kept, onnx_model.load(same).content)


def _from_onnx(spec: BackboneSpec) -> OnnxModel:
    asked = [name for name in ("layer", "size", "resize", "fit") if getattr(spec, name) is not None]
    if asked or spec.weights != "default":
        raise UsageError(
            f"{spec.backbone} is exported and fixed; --{(asked or ['weights'])[0]} goes with a name or a .pt"
        )
    model = onnx_model.load(str(spec.backbone))
    if model.header is None or model.header.backbone is None:
        raise FormatError(f"{spec.backbone}: no cnnkit header in it; a base comes from cnn-export --features")
    if spec.pool not in (None, model.header.backbone.pool):
        raise UsageError(f"{spec.backbone} pools by {model.header.backbone.pool}, not by {spec.pool}")
    graph = onnx_model.parse(model.content, name=str(spec.backbone)).graph
    if "features" not in {value.name for value in graph.output}:
        raise FormatError(f"{spec.backbone}: it gives no features; export it with cnn-export --features")
    taken = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    if taken.get("images") != TensorProto.UINT8:
        raise FormatError(f"{spec.backbone}: it takes no pictures as files have them; export it without --input float")
    return model


def build_extractor(spec: BackboneSpec) -> "tuple[nn.Module, Header]":
    """Build a base in torch: the network that is exported, and that `--engine torch` runs.

    Returns:
        uint8 (N, size, size, 3) -> features, in eval mode; and its Header.

    Raises:
        UsageError: The spec names what does not exist, or pictures of a size that the network cannot take.
        CnnkitError: The weights cannot be had, or do not fit.
    """
    from cnnkit.formats import bundle
    from cnnkit.nets import backbones, classifier

    if spec.layers is not None:
        base, backbone, preprocess = backbones.by_notation(
            spec.layers,
            weights=spec.weights,
            layer=spec.layer,
            pool=spec.pool or Pool.AVG,
            size=spec.size or 32,
            seed=spec.seed,
        )
    elif spec.backbone is not None and spec.backbone.endswith(".pt"):
        if spec.weights != "default":
            raise UsageError(f"{spec.backbone} has its own weights; --weights goes with a name or a notation")
        model = bundle.load(spec.backbone)
        base, backbone, preprocess = backbones.from_model(model, name=spec.backbone, layer=spec.layer, pool=spec.pool)
    else:
        base, backbone, preprocess = backbones.pretrained(
            str(spec.backbone),
            weights=spec.weights,
            layer=spec.layer,
            pool=spec.pool or Pool.AVG,
            seed=spec.seed,
        )
    preprocess = preparing.with_size(preprocess, size=spec.size, resize=spec.resize, fit=spec.fit)
    module = classifier.Extractor(base, preprocess=preprocess, pool=backbone.pool).eval()
    _check_shape(spec, module, preprocess)
    header = Header(kind=Kind.ONNX, preprocess=preprocess, backbone=backbone, made_by=made_by("torch", "torchvision"))
    return module, header


def _check_shape(spec: BackboneSpec, module: "nn.Module", preprocess: Preprocess) -> None:
    """Run the base once: its layer may give no tensor, or something that is no map, and its size may be too small."""
    from cnnkit.nets import classifier

    said = [f"--{name} {value}" for name in ("layer", "size") if (value := getattr(spec, name)) is not None]
    try:
        shape = classifier.feature_shape(module, preprocess)
    except (RuntimeError, AssertionError, AttributeError, TypeError) as error:
        if not said:
            raise
        reason = re.sub(r" but got Proxy.*", "", str(error).splitlines()[0])  # the graph has no number there
        raise UsageError(f"{spec.backbone} does not go with {' '.join(said)} ({reason})") from error
    if len(shape) not in (1, 3):
        given = "x".join(map(str, shape))
        raise UsageError(
            f"{spec.backbone} gives {given} at {' '.join(said)}, neither a vector nor a map; cut elsewhere"
        )


def _export(module: "nn.Module", header: Header) -> bytes:
    import torch

    from cnnkit.engine import export
    from cnnkit.engine.session import Session

    assert header.preprocess is not None
    shape = (header.preprocess.size, header.preprocess.size, 3)
    example = torch.from_numpy(export.random_inputs(shape, np.dtype(np.uint8), batch=2))
    try:
        proto = export.to_onnx(module, example, inputs="images", outputs=["features"])
    except RuntimeError as error:
        raise CnnkitError(
            f"torch cannot export this base to ONNX ({str(error).splitlines()[0]}); --engine torch runs it"
        ) from error
    content = export.checked_bytes(proto, header)
    session = Session(content, device="cpu", name="the exported base")
    for batch in (1, 2):
        inputs = export.random_inputs(shape, np.dtype(np.uint8), batch=batch, seed=1)
        parity = export.compare(module, session, iter([inputs]), source="random", classes=False)
        with torch.no_grad():
            scale = max(float(module(torch.from_numpy(inputs)).abs().max()), 1e-6)
        if not parity.max_difference <= TOLERANCE * scale:
            raise CnnkitError(
                f"ONNX Runtime and torch differ by {parity.max_difference:.3g} on features up to {scale:.3g}; --engine torch runs this base"
            )
    return content


def torch_backbone(spec: BackboneSpec, *, device: str) -> tuple[Network, Header, str]:
    """Get a base as a function that runs in torch.

    Returns:
        From a batch of pictures to its features; the Header; and the device it runs on.

    Raises:
        DeviceError: `cuda` was asked for and torch has none.
    """
    import torch

    from cnnkit.engine import torch_device

    place = torch_device.choose(devices.parse(device))
    module, header = build_extractor(spec)
    module = module.to(place).to(memory_format=torch.channels_last)

    def network(batches: Sequence[NDArray[np.uint8]]) -> list[NDArray[Any]]:
        (images,) = batches
        # Without TF32, as in ONNX Runtime: its ten bits of mantissa would make a GPU's features others than a CPU's
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return [module(torch.from_numpy(images).to(place)).cpu().numpy()]

    return network, header, str(place)
