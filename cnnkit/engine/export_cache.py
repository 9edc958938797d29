"""Exported networks in the cache: one file for equal networks, with a name for each way of asking for them. Imports no torch."""

import glob
import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnkit import messages, packages
from cnnkit.errors import MissingPackageError
from cnnkit.formats import cache, onnx_file
from cnnkit.formats.header import Header, made_by

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("cnnkit")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what is exported."""
    return made_by("torch", "torchvision", "timm", "onnx", "onnxscript")


def file_name(readable: str, asked: Mapping[str, Any], *, revision: int) -> str:
    """Return the name of a file in the cache: what is asked for, and then the versions of the libraries.

    Args:
        readable: The beginning of the name, in which a user recognizes the network.
        asked: What is asked for, as JSON can hold it; files by the hashes of their contents.
        revision: Incremented when the same question gets another graph.
    """
    network, made_by = (
        hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
        for named in ({**asked, "revision": revision}, versions())
    )
    return f"{re.sub(r'[^A-Za-z0-9_.]+', '-', readable)}-{network[:20]}-{made_by[:12]}.onnx"


def find(kept: Path, *, what: str) -> Path | None:
    """Find a network in the cache; None if it is to be exported.

    Without torch, which would export it, other versions of the libraries may have exported it: the newest file is taken.

    Args:
        kept: Its file, named by `file_name`.
        what: The network, for the error.

    Raises:
        MissingPackageError: It is to be exported, and torch is not installed.
    """
    if cache.is_intact(kept):
        return kept
    if packages.is_installed("torch"):
        return None
    others = kept.parent.glob(f"{glob.escape(kept.stem.rpartition('-')[0])}-*.onnx")
    for path in sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if cache.is_intact(path):
            return path
    raise MissingPackageError(
        f"{what} is not in the cache ({cache.root()}), and its export needs torch, which is not installed; "
        f"run this command once where it is and copy the cache, or {packages.remedy('torch')}"
    )


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
