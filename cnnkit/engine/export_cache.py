"""Exported networks in the cache: one file for equal networks, with a name for each way of asking for them. Imports no torch."""

import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnkit import messages
from cnnkit.formats import cache, onnx_file
from cnnkit.formats.header import Header, made_by

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("cnnkit")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what is exported."""
    return made_by("torch", "torchvision", "timm", "onnx", "onnxscript")


def file_name(readable: str, asked: Mapping[str, Any], *, revision: int) -> str:
    """Return the name of a file in the cache, which depends on what is asked for and on the versions of the libraries.

    Args:
        readable: The beginning of the name, in which a user recognizes the network.
        asked: What is asked for, as JSON can hold it; files by the hashes of their contents.
        revision: Incremented when the same question gets another graph.
    """
    named = {**asked, "revision": revision, "made_by": versions()}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:20]
    return f"{re.sub(r'[^A-Za-z0-9_.]+', '-', readable)}-{digest}.onnx"


def keep(
    kept: Path, module: "nn.Module", header: Header, *, revision: int, what: str, export: Callable[[], bytes]
) -> None:
    """Export a network into the cache, unless an equal one was exported under another name.

    Args:
        kept: Its file.
        module: The network, whose weights are compared.
        header: Its cut, pooling and preprocessing.
        revision: As `file_name`.
        what: The network, for the notice.
        export: Makes the bytes.
    """
    same = cache.folder("exports") / f"{_digest(module, header, revision)}.onnx"
    if not cache.is_intact(same):
        log.info("exporting %s to ONNX, once; cached in %s", what, kept.parent.parent, extra=messages.BEGINS_WORK)
        cache.keep(same, export())
    _link(same, kept)


def _digest(module: "nn.Module", header: Header, revision: int) -> str:
    """Return a digest of weights, cut, pooling, preprocessing and versions: equal for equal networks under different names."""
    digest = hashlib.sha256(json.dumps([revision, versions(), json.loads(header.to_json())], sort_keys=True).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:20]


def _link(same: Path, kept: Path) -> None:
    """Hard-link a file, or copy it if the file system has no hard links; the new name appears in one step."""
    temporary = kept.with_name(f".{kept.name}.{secrets.token_hex(4)}.tmp")
    try:
        os.link(same, temporary)
    except OSError:
        from cnnkit.formats import onnx_model  # imports onnx

        onnx_model.save(kept, onnx_file.load(same).content)
        return
    try:
        temporary.replace(kept)
    finally:
        temporary.unlink(missing_ok=True)  # still there if `kept` was already a link to the same file
