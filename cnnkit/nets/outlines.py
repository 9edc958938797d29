"""Names and shapes of a backbone's weights, kept in the cache: a head is joined to the weights without building the network again.

Building a network by name imports torchvision, which takes longer than training a head.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from cnnkit.errors import CnnkitError
from cnnkit.formats import cache
from cnnkit.formats.header import Backbone, Preprocess, made_by

# Incremented when a change to cutting changes the names of a backbone's weights, or when this file's format changes.
_REVISION = 1


@dataclass(frozen=True, slots=True)
class Outline:
    """The weights of a backbone without their values.

    Attributes:
        features: Shape of one image's features.
        tensors: Type and shape of every tensor of its state_dict, in order.
    """

    features: tuple[int, ...]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]

    def select(self, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Select a backbone's weights from those of a file, which may have more; None if one is missing or has another shape."""
        found: dict[str, Tensor] = {}
        for name, (kind, shape) in self.tensors.items():
            dtype: torch.dtype = getattr(torch, kind)
            tensor = state.get(name)
            if tensor is None or tuple(tensor.shape) != shape or tensor.is_floating_point() != dtype.is_floating_point:
                return None
            found[name] = torch.empty(shape, dtype=dtype).copy_(tensor)  # with the strides of a module's own
        return found


def keep(backbone: Backbone, preprocess: Preprocess, state: Mapping[str, Tensor], features: tuple[int, ...]) -> None:
    """Write the outline of a backbone that was built, if it has a name and the cache is writable."""
    if backbone.notation is not None or any(name.startswith("_tensor_constant") for name in state):
        return  # quick to build; or with constants that are computed from the weights
    tensors = [(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in state.items()]
    try:
        path = _path(backbone, preprocess)
        if not cache.is_intact(path):
            cache.keep(path, json.dumps({"features": features, "tensors": tensors}).encode())
    except (CnnkitError, OSError):
        return  # without a cache the network is built again


def find(backbone: Backbone, preprocess: Preprocess) -> Outline | None:
    """Read the outline of a backbone; None if it was never built with these versions of the libraries."""
    try:
        content = cache.find(_path(backbone, preprocess))
    except (CnnkitError, OSError):  # no cache, or not readable
        return None
    if content is None:
        return None
    record = json.loads(content)
    tensors = {name: (kind, tuple(shape)) for name, kind, shape in record["tensors"]}
    return Outline(tuple(record["features"]), tensors)


def _path(backbone: Backbone, preprocess: Preprocess) -> Path:
    named = asdict(backbone) | {"size": preprocess.size, "grey": preprocess.grey, "revision": _REVISION}
    del named["weights_sha256"]
    named["made_by"] = made_by("torch", "torchvision", "timm")
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:20]
    return cache.folder("outlines") / f"{digest}.json"
