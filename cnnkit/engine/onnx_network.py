"""Networks by name as exported classifiers: exported once, compared with torch, cached. Torch is imported only on a cache miss."""

from dataclasses import asdict
from pathlib import Path

from cnnkit.engine import export_cache
from cnnkit.engine.config import ExportConfig, NetworkSpec, check_backbone_weights
from cnnkit.formats import cache, labels, onnx_file
from cnnkit.formats.onnx_record import OnnxModel

# Incremented when a change to preprocessing, normalization, division or export changes the graph of a spec.
_REVISION = 1


def cache_name(spec: NetworkSpec) -> str:
    """Return a spec's file name in the cache, which depends on the content of its files and on the versions of the libraries."""
    named = asdict(spec)
    named["labels"] = None if spec.labels is None else cache.sha256(spec.labels)
    if spec.weights not in ("default", "none"):
        weights = Path(spec.weights)
        named["weights"] = [cache.sha256(weights), weights.name]  # a published name sets the preprocessing
    return export_cache.file_name(spec.name, named, revision=_REVISION)


def get(spec: NetworkSpec) -> OnnxModel:
    """Return a network from the cache, or export it: uint8 (N, size, size, 3) -> `probabilities` and `logits`, (N, classes).

    Raises:
        UsageError: There is no such network, or it has another number of classes than the labels.
        CnnkitError: The weights are not available, or ONNX Runtime computes something else than torch.
    """
    check_backbone_weights(spec.weights)
    kept = cache.folder("networks") / cache_name(spec)
    found = export_cache.find(kept, what=spec.name)
    if found is None:
        from cnnkit.engine import export  # a prediction with a cached network imports no torch
        from cnnkit.nets import named_network

        classes = None if spec.labels is None else labels.load(spec.labels)
        network, header = named_network.load(spec.name, weights=spec.weights, classes=classes)
        # A network of one size is exported for that size: only another one is an error, of the prediction
        dynamic_size = spec.dynamic_size and export.takes_any_size(network, header)
        config = ExportConfig(device="cpu", batch=2, dynamic_size=dynamic_size)
        export_cache.keep(
            kept,
            network,
            header.but(training={"dynamic_size": dynamic_size}),  # another graph of the same weights
            revision=_REVISION,
            what=spec.name,
            export=lambda: export.compared(network, header, config, name=spec.name).content,
        )
    model = onnx_file.load(found or kept)
    if spec.labels is None and model.header is not None:
        labels.note_assumed(spec.name, spec.weights, model.header.classes or ())
    return model
