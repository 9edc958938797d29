"""Convolutional networks on small sets of images: the library of the cnn-* commands, and its public Python interface.

    from cnnkit import Classifier

    for each in Classifier("model.onnx").predict("photos/"):
        print(each.path, each.label, each.probability)

The names in `__all__` are the interface (docs/python.md); everything else may change. Each is imported on its first use: `import cnnkit`
loads neither numpy nor torch, and classification, files and layer arithmetic do without torch.
"""

import os

TYPE_CHECKING = False  # as typing's, which takes milliseconds to import

if TYPE_CHECKING:
    from cnnkit.api.classification import Classifier, ImagePrediction
    from cnnkit.api.features import FeatureExtractor, extract_features
    from cnnkit.api.files import (
        find_images,
        read_features,
        read_header,
        read_history,
        read_manifest,
        read_predictions,
        write_features,
        write_manifest,
        write_predictions,
    )
    from cnnkit.api.heat_maps import HeatMap, heat_map, heat_maps
    from cnnkit.api.layers import layer_dims, network_dims, total_dims
    from cnnkit.data.source import ImageFile
    from cnnkit.errors import (
        BadImageError,
        CnnkitError,
        DeviceError,
        FormatError,
        GateError,
        MemoryFullError,
        NotationError,
        RunError,
        UsageError,
    )
    from cnnkit.formats.features import Features
    from cnnkit.formats.header import Header
    from cnnkit.formats.history import HistoryRow
    from cnnkit.formats.manifest import ManifestRow
    from cnnkit.formats.predictions import Prediction
    from cnnkit.nets.dims import DimsRow

__version__ = "0.1.0"

__all__ = [
    "BadImageError",
    "Classifier",
    "CnnkitError",
    "DeviceError",
    "DimsRow",
    "FeatureExtractor",
    "Features",
    "FormatError",
    "GateError",
    "Header",
    "HeatMap",
    "HistoryRow",
    "ImageFile",
    "ImagePrediction",
    "ManifestRow",
    "MemoryFullError",
    "NotationError",
    "Prediction",
    "RunError",
    "UsageError",
    "__version__",
    "extract_features",
    "find_images",
    "heat_map",
    "heat_maps",
    "layer_dims",
    "network_dims",
    "read_features",
    "read_header",
    "read_history",
    "read_manifest",
    "read_predictions",
    "total_dims",
    "write_features",
    "write_manifest",
    "write_predictions",
]

# onnxruntime uploads usage data and writes a device id below the home directory, unless this variable is set before it is imported, here
# or in a child process. ORT_DISABLE_TELEMETRY=0 allows that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # the same for timm's downloads

#: The modules in which the public names stand.
_MODULES = {
    "cnnkit.api.classification": ("Classifier", "ImagePrediction"),
    "cnnkit.api.features": ("FeatureExtractor", "extract_features"),
    "cnnkit.api.files": (
        *("find_images", "read_features", "read_header", "read_history", "read_manifest", "read_predictions"),
        *("write_features", "write_manifest", "write_predictions"),
    ),
    "cnnkit.api.heat_maps": ("HeatMap", "heat_map", "heat_maps"),
    "cnnkit.api.layers": ("layer_dims", "network_dims", "total_dims"),
    "cnnkit.data.source": ("ImageFile",),
    "cnnkit.errors": (
        *("BadImageError", "CnnkitError", "DeviceError", "FormatError", "GateError", "MemoryFullError"),
        *("NotationError", "RunError", "UsageError"),
    ),
    "cnnkit.formats.features": ("Features",),
    "cnnkit.formats.header": ("Header",),
    "cnnkit.formats.history": ("HistoryRow",),
    "cnnkit.formats.manifest": ("ManifestRow",),
    "cnnkit.formats.predictions": ("Prediction",),
    "cnnkit.nets.dims": ("DimsRow",),
}


def __getattr__(name: str) -> object:
    """Import a public name on its first use."""
    for module, names in _MODULES.items():
        if name in names:
            import importlib

            value = globals()[name] = getattr(importlib.import_module(module), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
