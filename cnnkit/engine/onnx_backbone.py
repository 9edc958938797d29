"""Backbones as ONNX networks: exported once, compared with torch, cached. Torch is imported only on a cache miss."""

from dataclasses import asdict
from pathlib import Path

from cnnkit import packages
from cnnkit.engine import export_cache
from cnnkit.engine.config import BackboneSpec, check_backbone_weights
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import cache, onnx_file
from cnnkit.formats.onnx_record import OnnxModel
from cnnkit.nets import notation

# Incremented when a change to preprocessing, normalization, cutting or export changes the graph of a spec.
_REVISION = 3


def cache_name(spec: BackboneSpec) -> str:
    """Return a spec's file name in the cache, which depends on the content of its files and on the versions of the libraries."""
    named = asdict(spec)
    del named["on_command_line"]  # a default value given explicitly makes the same network
    for field in ("backbone", "weights"):
        value = named[field]
        if value is not None and _is_file(value):
            named[field] = cache.sha256(Path(value))
    if spec.layers is not None:
        named["layers"] = [layer.text for layer in notation.parse(spec.layers)]  # independent of spaces and of @FILE
    if spec.weights != "none" and spec.layers is None:
        named["seed"] = None  # nothing is random
    readable = f"{Path(spec.backbone or 'layers').stem}-{spec.pool or 'own'}"
    return export_cache.file_name(readable, named, revision=_REVISION)


def _is_file(value: str) -> bool:
    return value not in ("default", "none") and Path(value).is_file()


def get(spec: BackboneSpec) -> OnnxModel:
    """Return a backbone from the cache, or export it: uint8 (N, size, size, 3) -> `features` (N, D), or (N, C, h, w) without pooling.

    Raises:
        UsageError: The spec contradicts itself, or names a network or layer that does not exist.
        CnnkitError: The weights are not available, or ONNX Runtime computes something else than torch.
    """
    if (spec.backbone is None) == (spec.layers is None):
        raise UsageError("give either --backbone or --layers")
    check_backbone_weights(spec.weights)
    if spec.backbone is not None and spec.backbone.endswith((".pt", ".onnx")) and not Path(spec.backbone).is_file():
        raise CnnkitError(f"{spec.backbone}: no such model")
    if spec.backbone is not None and spec.backbone.endswith(".onnx"):
        return _from_onnx(spec)
    kept = cache.folder("bases") / cache_name(spec)
    if (found := export_cache.find(kept, what="the backbone")) is not None:
        model = onnx_file.load(found)
        # cnn-train-head needs the weights, too: if they are gone from the cache, the backbone is built again, which caches them
        weights = model.header.backbone.weights_sha256 if model.header and model.header.backbone else None
        if not packages.is_installed("torch") or (weights and cache.find_weights(weights)):
            return model
    from cnnkit.engine import backbone_export, torch_backbone  # an extraction with a cached backbone imports no torch

    module, header = torch_backbone.build_extractor(spec)
    export_cache.keep(
        kept,
        module,
        header,
        revision=_REVISION,
        what="the backbone",
        export=lambda: backbone_export.export_backbone(module, header),
    )
    return onnx_file.load(kept)


def _from_onnx(spec: BackboneSpec) -> OnnxModel:
    from onnx import TensorProto

    from cnnkit.formats import onnx_model

    changes = [name for name in ("layer", "size", "resize", "fit", "decoding") if getattr(spec, name) is not None]
    if changes or spec.weights != "default":
        raise UsageError(
            f"{spec.backbone} is exported and fixed; --{(changes or ['weights'])[0]} needs the name of a network or a .pt"
        )
    model = onnx_file.load(str(spec.backbone))
    if model.header is None or model.header.backbone is None:
        raise FormatError(f"{spec.backbone}: no cnnkit header; export the backbone with cnn-export --features")
    if spec.pool not in (None, model.header.backbone.pool):
        raise UsageError(f"{spec.backbone} pools by {model.header.backbone.pool}, not by {spec.pool}")
    graph = onnx_model.parse(model.content, name=str(spec.backbone)).graph
    if "features" not in {value.name for value in graph.output}:
        raise FormatError(f"{spec.backbone}: no output features; export it with cnn-export --features")
    inputs = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    if inputs.get("images") != TensorProto.UINT8:
        raise FormatError(f"{spec.backbone}: it does not take uint8 images; export it without --input float")
    return model
