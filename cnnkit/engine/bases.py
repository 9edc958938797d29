"""A base as an ONNX network: exported once, checked against torch, kept in the cache. Torch is imported on a miss alone."""

import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from cnnkit.choices import Fit, Pool
from cnnkit.data import preprocess as preparing
from cnnkit.engine import device as devices
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

# Counts the changes to normalisation, cutting or export that make other graphs of the same request.
_REVISION = 1


@dataclass(frozen=True, slots=True)
class Request:
    """What a base is asked for by; equal requests give the same base. Without `pool`, a model keeps its own and the others take avg."""

    backbone: str | None = None
    layers: str | None = None
    weights: str = "default"
    layer: str | None = None
    pool: Pool | None = None
    size: int | None = None
    resize: int | None = None
    fit: Fit | None = None
    seed: int = 0

    def key(self) -> str:
        """Name the request's place in the cache: by the content of the files it names, and the versions that took part."""
        named = asdict(self)
        for field in ("backbone", "weights"):
            value = named[field]
            if value is not None and _is_file(value):
                named[field] = cache.sha256(Path(value))
        if self.layers is not None:
            named["layers"] = [
                layer.text for layer in notation.parse(self.layers)
            ]  # however it is spaced, or in a file
        if self.weights != "none" and self.layers is None:
            named["seed"] = None  # nothing is random
        named["revision"] = _REVISION
        named["made_by"] = _versions()
        digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:20]
        readable = re.sub(r"[^A-Za-z0-9_.]+", "-", Path(self.backbone or "layers").stem)
        return f"{readable}-{self.pool or 'own'}-{digest}.onnx"


def _is_file(value: str) -> bool:
    return value not in ("default", "none") and Path(value).is_file()


def get(request: Request) -> OnnxModel:
    """Get a base: uint8 (N, size, size, 3) -> `features` (N, D), or (N, C, h, w) without pooling.

    Raises:
        UsageError: The request contradicts itself, or names what does not exist.
        CnnkitError: The weights cannot be had, or ONNX Runtime computes something else than torch.
    """
    if (request.backbone is None) == (request.layers is None):
        raise UsageError("give either --backbone or --layers")
    if request.weights not in ("default", "none") and not Path(request.weights).is_file():
        raise CnnkitError(f"{request.weights}: no such file; --weights takes a state_dict file, default or none")
    if (
        request.backbone is not None
        and request.backbone.endswith((".pt", ".onnx"))
        and not Path(request.backbone).is_file()
    ):
        raise CnnkitError(f"{request.backbone}: no such model")
    if request.backbone is not None and request.backbone.endswith(".onnx"):
        return _from_onnx(request)
    kept = cache.folder("bases") / request.key()
    if kept.is_file():
        model = onnx_model.load(kept)
        # Without its weights no head could be trained on its features: then it is made anew, and they are kept again
        if model.header and model.header.backbone and cache.find_weights(model.header.backbone.weights_sha256 or ""):
            return model
    module, header = extractor(request)
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
    """Let a file have a second name, or a copy where the disk knows no second names; other processes never find neither."""
    beside = kept.with_name(f".{kept.name}.{secrets.token_hex(4)}.tmp")
    try:
        os.link(same, beside)
    except OSError:
        onnx_model.save(kept, same.read_bytes())
        return
    try:
        beside.replace(kept)
    finally:
        beside.unlink(missing_ok=True)  # still there where both names were those of one file already


def _from_onnx(request: Request) -> OnnxModel:
    asked = [name for name in ("layer", "size", "resize", "fit") if getattr(request, name) is not None]
    if asked or request.weights != "default":
        raise UsageError(
            f"{request.backbone} is exported and fixed; --{(asked or ['weights'])[0]} goes with a name or a .pt"
        )
    model = onnx_model.load(str(request.backbone))
    if model.header is None or model.header.backbone is None:
        raise FormatError(f"{request.backbone}: no cnnkit header in it; a base comes from cnn-export --features")
    if request.pool not in (None, model.header.backbone.pool):
        raise UsageError(f"{request.backbone} pools by {model.header.backbone.pool}, not by {request.pool}")
    graph = onnx_model.parse(model.content, name=str(request.backbone)).graph
    if "features" not in {value.name for value in graph.output}:
        raise FormatError(f"{request.backbone}: it gives no features; export it with cnn-export --features")
    taken = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    if taken.get("images") != TensorProto.UINT8:
        raise FormatError(
            f"{request.backbone}: it takes no pictures as files have them; export it without --input float"
        )
    return model


def extractor(request: Request) -> "tuple[nn.Module, Header]":
    """Build a base in torch: the network that is exported, and that `--engine torch` runs.

    Returns:
        uint8 (N, size, size, 3) -> features, in eval mode; and its Header.

    Raises:
        UsageError: The request names what does not exist, or pictures of a size that the network cannot take.
        CnnkitError: The weights cannot be had, or do not fit.
    """
    from cnnkit.formats import bundle
    from cnnkit.nets import backbones, classifier

    if request.layers is not None:
        base, backbone, preprocess = backbones.by_notation(
            request.layers,
            weights=request.weights,
            layer=request.layer,
            pool=request.pool or Pool.AVG,
            size=request.size or 32,
            seed=request.seed,
        )
    elif request.backbone is not None and request.backbone.endswith(".pt"):
        if request.weights != "default":
            raise UsageError(f"{request.backbone} has its own weights; --weights goes with a name or a notation")
        model = bundle.load(request.backbone)
        base, backbone, preprocess = backbones.from_model(
            model, name=request.backbone, layer=request.layer, pool=request.pool
        )
    else:
        base, backbone, preprocess = backbones.pretrained(
            str(request.backbone),
            weights=request.weights,
            layer=request.layer,
            pool=request.pool or Pool.AVG,
            seed=request.seed,
        )
    preprocess = preparing.with_size(preprocess, size=request.size, resize=request.resize, fit=request.fit)
    module = classifier.Extractor(base, preprocess=preprocess, pool=backbone.pool).eval()
    _check_shape(request, module, preprocess)
    header = Header(kind=Kind.ONNX, preprocess=preprocess, backbone=backbone, made_by=made_by("torch", "torchvision"))
    return module, header


def _check_shape(request: Request, module: "nn.Module", preprocess: Preprocess) -> None:
    """Run the base once: its layer may give no tensor, or something that is no map, and its size may be too small."""
    from cnnkit.nets import classifier

    said = [f"--{name} {value}" for name in ("layer", "size") if (value := getattr(request, name)) is not None]
    try:
        shape = classifier.feature_shape(module, preprocess)
    except (RuntimeError, AssertionError, AttributeError, TypeError) as error:
        if not said:
            raise
        reason = re.sub(r" but got Proxy.*", "", str(error).splitlines()[0])  # the graph has no number there
        raise UsageError(f"{request.backbone} does not go with {' '.join(said)} ({reason})") from error
    if len(shape) not in (1, 3):
        given = "x".join(map(str, shape))
        raise UsageError(
            f"{request.backbone} gives {given} at {' '.join(said)}, neither a vector nor a map; cut elsewhere"
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
    content = export.finished(proto, header)
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


def torch_network(
    request: Request, *, device: str
) -> tuple[Callable[[NDArray[np.uint8]], list[NDArray[Any]]], Header, str]:
    """Get a base as a function that runs in torch.

    Returns:
        From a batch of pictures to its features; the Header; and the device it runs on.

    Raises:
        DeviceError: `cuda` was asked for and torch has none.
    """
    import torch

    from cnnkit.engine import torch_device

    place = torch_device.choose(devices.parse(device))
    module, header = extractor(request)
    module = module.to(place).to(memory_format=torch.channels_last)

    def network(images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        # Without TF32, as in ONNX Runtime: its ten bits of mantissa would make a GPU's features others than a CPU's
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return [module(torch.from_numpy(images).to(place)).cpu().numpy()]

    return network, header, str(place)
