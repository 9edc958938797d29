"""The model file `.pt`: {"header": ..., "state": state_dict, "history": [...]}; and plain state_dicts. Read with weights_only, always."""

import importlib.util
import io
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnkit.errors import FormatError
from cnnkit.formats import atomic, cache
from cnnkit.formats.header import ArtefactKind, Header

State = dict[str, Tensor]

# How torch says that it could read a pickle, and met what it will not call.
_REFUSED = re.compile(r"\bGLOBAL\b|Unsupported class|Trying to (call|instantiate)")


@dataclass(frozen=True, slots=True)
class TorchModel:
    """A self-contained model: the weights of backbone and head, and how the training went, one mapping an epoch."""

    header: Header
    state: State
    history: list[dict[str, float | None]] = field(default_factory=list)


def save(path: str | Path, model: TorchModel) -> None:
    """Write a model in one step; the same model gives the same bytes."""
    content = {"header": json.loads(model.header.to_json()), "state": _plain(model.state), "history": model.history}
    with atomic.writing(path) as file:
        file.write(serialised(content))


def load(path: str | Path) -> TorchModel:
    """Read a model, onto the CPU.

    Raises:
        FormatError: It is not a model made by cnnkit, or broken.
        OSError: It cannot be read.
    """
    content = read(path)
    if not isinstance(content, Mapping) or "header" not in content:
        raise FormatError(
            f"{path}: no cnnkit header in it; a bare state_dict goes to --weights, a model comes from cnn-train-head"
        )
    header = Header.from_json(json.dumps(content["header"], default=str), name=str(path), kind=ArtefactKind.MODEL)
    if not isinstance(content.get("state"), Mapping):
        raise FormatError(f"{path}: a model without its weights; make it again with cnn-train-head")
    return TorchModel(header, dict(content["state"]), list(content.get("history") or []))


def load_state(path: str | Path) -> State:
    """Read a plain state_dict: bare, below `state_dict` or `model` as training scripts save it, or with DataParallel's `module.`.

    Raises:
        FormatError: It holds no tensors by name.
    """
    content = read(path)
    for key in ("state_dict", "model", "state"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise FormatError(f"{path}: no state_dict in it (expected tensors by parameter name)")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def keep_state(state: Mapping[str, Tensor]) -> str:
    """Put a state_dict into the cache under its hash.

    Returns:
        The hash of the file's bytes, by which `cache.find_weights` finds it.
    """
    content = serialised(_plain(state))
    digest = sha256(content).hexdigest()
    _keep(digest, content)
    return digest


def keep_state_file(path: Path) -> str:
    """Copy a state_dict file into the cache under the hash of its bytes, and return that."""
    content = path.read_bytes()
    digest = sha256(content).hexdigest()
    _keep(digest, content)
    return digest


def _keep(digest: str, content: bytes) -> None:
    kept = cache.folder("weights") / f"{digest}.pth"
    if not kept.exists():
        with atomic.writing(kept) as file:
            file.write(content)


def _plain(state: Mapping[str, Tensor]) -> State:
    """Contiguous copies on the CPU, so that neither views nor devices show in the bytes."""
    return {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in state.items()}


def serialised(content: Any) -> bytes:  # noqa: ANN401 - whatever torch saves
    """Give the bytes that torch saves, the same for the same content."""
    buffer = io.BytesIO()  # a named file would put its name into the archive
    torch.save(content, buffer)
    return buffer.getvalue()


def read(path: str | Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read tensors and plain values, onto the CPU.

    Raises:
        FormatError: The file is broken, or holds more than that.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # bytes that somebody else wrote: torch raises whatever it stumbles over
        if isinstance(error, pickle.UnpicklingError) and _REFUSED.search(str(error)):
            raise FormatError(
                f"{path}: holds more than tensors and plain values, which is not loaded: it could run any code"
            ) from error
        raise FormatError(f"{path}: {_unreadable(Path(path))}") from error


def _unreadable(path: Path) -> str:
    """Say why torch did not read a file: it knows safetensors by the name, and needs a package for them."""
    with path.open("rb") as file:
        head = file.read(9)
    is_safetensors = head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size
    if is_safetensors and path.suffix != ".safetensors":
        return "safetensors under another name; rename it to end in .safetensors"
    if is_safetensors and importlib.util.find_spec("safetensors") is None:
        return "reading safetensors needs their package: pip install safetensors"
    return "not a file that torch can read, or cut short"
