"""The model file `.pt`: {"header": ..., "state": state_dict, "history": [...]}; and plain state_dicts. Read with weights_only, always."""

import errno
import importlib.util
import io
import json
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from cnnkit import files
from cnnkit.errors import FormatError
from cnnkit.formats import atomic, cache
from cnnkit.formats.header import LONGEST, ArtefactKind, Header

State = dict[str, Tensor]

# The bit of a zip archive by which torch takes a record for a folder, and leaves its tensor empty.
_FOLDER = 0x10

# Integers that stand for fractions, by a scale that is elsewhere.
_QUANTISED = (torch.qint8, torch.quint8, torch.qint32)

# A tensor of at most so many bytes may repeat what the file holds once.
_SMALL = 1 << 20
# Layers share weights, so that all tensors together may have so many times what the file holds.
_SHARED = 16

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
    header = Header.from_record(content["header"], name=str(path), kind=ArtefactKind.MODEL)
    state = content.get("state")
    if not _has_names(state):
        raise FormatError(f"{path}: a model without its weights; make it again with cnn-train-head")
    _check_tensors(state, path)
    return TorchModel(header, dict(state), _history(content.get("history"), path))


def _history(raw: object, path: str | Path) -> list[dict[str, float | None]]:
    rows = [] if raw is None else raw
    if not isinstance(rows, list) or not all(
        isinstance(row, Mapping)
        and all(isinstance(name, str) and (value is None or type(value) in (int, float)) for name, value in row.items())
        for row in rows
    ):
        raise FormatError(
            f"{path}: its history is not a number for each name and epoch; make it again with cnn-train-head"
        )
    return [dict(row) for row in rows]


def _has_names(state: object) -> TypeGuard[Mapping[str, Tensor]]:
    return (
        isinstance(state, Mapping)
        and len(state) > 0
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items())
    )


def _check_tensors(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Demand dense, finite numbers, and no more of them than the file holds.

    Raises:
        FormatError: The first tensor that is something else.
    """
    size = max(Path(path).stat().st_size, _SMALL)
    total = 0
    for name, tensor in state.items():
        kind = _unusable(tensor)
        if kind is not None:
            raise FormatError(
                f"{path}: {name} is {kind}; expected dense float32, float16, bfloat16 or float64 (save a float state_dict)"
            )
        total += tensor.nbytes
        if total > _SHARED * size:
            raise FormatError(
                f"{path}: its tensors have more than {_SHARED} times as many values as the file; is it damaged?"
            )
        if tensor.nbytes > size:
            raise FormatError(f"{path}: {name} of shape {tuple(tensor.shape)} is larger than the file; is it damaged?")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise FormatError(f"{path}: {name} has values that are not finite; the training that made it had diverged")


def _unusable(tensor: Tensor) -> str | None:
    if tensor.is_meta:
        return "a meta tensor, without values"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout != torch.strided:
        return f"sparse ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.is_quantized or tensor.dtype in _QUANTISED:
        return f"quantised ({str(tensor.dtype).removeprefix('torch.')})"
    if tensor.is_complex():
        return "complex"
    if tensor.is_floating_point() and tensor.element_size() == 1:
        return f"quantised ({str(tensor.dtype).removeprefix('torch.')})"
    return None


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
    if not _has_names(content):
        raise FormatError(f"{path}: no state_dict in it (expected tensors by parameter name)")
    _check_tensors(content, path)
    return {key.removeprefix("module."): value for key, value in content.items()}


def count_values(state: Mapping[str, Tensor]) -> int:
    """Count the numbers that tensors hold, one that several of them share once for each."""
    return sum(tensor.numel() for tensor in state.values())


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
    if not kept.is_file() or cache.sha256(kept) != digest:
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


def _check_sums(path: str | Path) -> None:
    """Demand that every record of an archive has the checksum that it had when it was written: torch does not look.

    Files from before torch 1.6 are no archives and have no checksums.

    Raises:
        FormatError: A record is damaged, or compressed, so that its size says nothing about the memory that it takes.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            program = _program(records)
            if program is not None:
                raise FormatError(f"{path}: {program}, which is not read; save the network's state_dict()")
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise FormatError(f"{path}: a compressed archive, which torch does not write; is it a file of torch's?")
            if len({record.filename for record in records}) < len(records):
                raise FormatError(f"{path}: damaged: two records have one name; copy or make it again")
            folders = [record.filename for record in records if record.is_dir() or record.external_attr & _FOLDER]
            damaged = folders[0] if folders else archive.testzip()
    except FormatError:
        raise
    except Exception as error:  # bytes that somebody else wrote: zipfile raises whatever it stumbles over
        if (
            isinstance(error, OSError) and error.errno != errno.EINVAL
        ):  # that is a place before the beginning of the file
            raise
        raise FormatError(f"{path}: not a file that torch can read, or cut short") from error
    if damaged is not None:
        raise FormatError(
            f"{path}: damaged: {damaged.partition('/')[2] or damaged} is not what was written; copy or make it again"
        )


def _program(records: Sequence[zipfile.ZipInfo]) -> str | None:
    """Say what else torch keeps in such archives; None for what `torch.save` writes."""
    places = {record.filename.partition("/")[2] for record in records}
    if any(place.startswith("code/") for place in places):
        return "a TorchScript program"
    return "an exported program (torch.export)" if "archive_format" in places else None


def read(path: str | Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read tensors and plain values, onto the CPU.

    Raises:
        FormatError: The file is broken, or holds more than that.
    """
    files.check_regular(path)
    _check_sums(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # bytes that somebody else wrote: torch raises whatever it stumbles over
        if isinstance(error, pickle.UnpicklingError) and _REFUSED.search(str(error)):
            raise FormatError(
                f"{path}: holds more than tensors and plain values, which is not loaded: it could run any code; save a state_dict()"
            ) from error
        raise FormatError(f"{path}: {_unreadable(Path(path))}") from error


def _unreadable(path: Path) -> str:
    """Say why torch did not read a file: it knows safetensors by the name, and needs a package for them."""
    named = path.suffix == ".safetensors"
    with path.open("rb") as file:
        head = file.read(9)
        length, size = int.from_bytes(head[:8], "little"), path.stat().st_size
        is_safetensors = head[8:] == b"{" and 1 < length <= LONGEST and (named or length < size)
        damage = _damage(head[8:] + file.read(length - 1), length, size) if is_safetensors else None
    if named and not is_safetensors:
        return "not a safetensors file, or damaged; copy or make it again"
    if damage is not None:
        return f"a damaged safetensors file ({damage}); copy or make it again"
    if is_safetensors and not named:
        return "safetensors under another name; rename it to end in .safetensors"
    if is_safetensors and importlib.util.find_spec("safetensors") is None:
        return "reading safetensors needs their package: pip install safetensors"
    return "a damaged safetensors file" if named else "not a file that torch can read, or cut short"


def _damage(header: bytes, length: int, size: int) -> str | None:
    """Say what is wrong with a safetensors file: its header, JSON behind a count of 8 bytes, tells where the last tensor ends."""
    if 8 + length > size:
        return f"cut short, at {size:,} bytes"
    try:
        ends = [tensor["data_offsets"][1] for key, tensor in json.loads(header).items() if key != "__metadata__"]
        if not all(type(end) is int and 0 <= end < 2**63 for end in ends):
            return "its header is broken"
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return "its header is broken"
    whole = 8 + length + max(ends, default=0)
    return f"{size:,} bytes, its header names {whole:,}" if size != whole else None
