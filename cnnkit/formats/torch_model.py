"""The model file `.pt`: {"header": ..., "state": state_dict, "history": [...]}; and plain state_dicts. Always read with weights_only."""

import errno
import io
import json
import logging
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

log = logging.getLogger("cnnkit")

State = dict[str, Tensor]

# The bit in a zip archive that makes torch treat a record as a folder, and leave its tensor empty.
_FOLDER = 0x10

# Integers that represent fractions, with a scale stored elsewhere.
_QUANTISED = (torch.qint8, torch.quint8, torch.qint32)

# A tensor of up to this many bytes may repeat values that the file contains once.
_SMALL = 1 << 20
# Layers share weights, so that all tensors together may be this many times larger than the file.
_SHARED = 16

# torch's error for a pickle that it could read, but that would call something not allowed.
_REFUSED = re.compile(r"\bGLOBAL\b|Unsupported class|Trying to (call|instantiate)")


@dataclass(frozen=True, slots=True)
class TorchModel:
    """A self-contained model: the weights of backbone and head, and the training history, one mapping per epoch."""

    header: Header
    state: State
    history: list[dict[str, float | None]] = field(default_factory=list)


def save(path: str | Path, model: TorchModel) -> None:
    """Write a model in one step; the same model gives the same bytes."""
    content = {"header": json.loads(model.header.to_json()), "state": _plain(model.state), "history": model.history}
    with atomic.writing(path) as file:
        file.write(serialised(content))


def load(path: str | Path) -> TorchModel:
    """Read a model onto the CPU.

    Raises:
        FormatError: It was not made by cnnkit, or is broken.
        OSError: It cannot be read.
    """
    content = read(path)
    if not isinstance(content, Mapping) or "header" not in content:
        raise FormatError(
            f"{path}: no cnnkit header in it; pass a bare state_dict with --weights, or make a model with cnn-train-head"
        )
    header = Header.from_record(content["header"], name=str(path), kind=ArtefactKind.MODEL)
    state = content.get("state")
    if not _has_names(state):
        raise FormatError(f"{path}: a model without weights; make it again with cnn-train-head")
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
            f"{path}: its history is not a list of numbers by name for each epoch; make it again with cnn-train-head"
        )
    return [dict(row) for row in rows]


def _has_names(state: object) -> TypeGuard[Mapping[str, Tensor]]:
    return (
        isinstance(state, Mapping)
        and len(state) > 0
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items())
    )


def _check_tensors(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Check that tensors are dense and finite, and not larger than the file.

    Raises:
        FormatError: A tensor is not; the message names the first.
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
        return f"quantized ({str(tensor.dtype).removeprefix('torch.')})"
    if tensor.is_complex():
        return "complex"
    if tensor.is_floating_point() and tensor.element_size() == 1:
        return f"quantized ({str(tensor.dtype).removeprefix('torch.')})"
    return None


def load_state(path: str | Path) -> State:
    """Read a plain state_dict: bare, under `state_dict` or `model` as training scripts save it, or with DataParallel's `module.`.

    Raises:
        FormatError: It has no tensors by name.
    """
    content = read(path)
    for key in ("state_dict", "model", "state"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not _has_names(content):
        raise FormatError(f"{path}: no state_dict in it (expected tensors by parameter name)")
    _check_tensors(content, path)
    if any(key.startswith("module.") for key in content):
        log.info("%s: removed the prefix module. from the names of its weights", path)
    return {key.removeprefix("module."): value for key, value in content.items()}


def count_values(state: Mapping[str, Tensor]) -> int:
    """Count the numbers in all tensors; shared numbers count for each tensor."""
    return sum(tensor.numel() for tensor in state.values())


def keep_state(state: Mapping[str, Tensor]) -> str:
    """Store a state_dict in the cache under its hash.

    Returns:
        The hash of the file's bytes, for `cache.find_weights`.
    """
    content = serialised(_plain(state))
    digest = sha256(content).hexdigest()
    _keep(digest, content)
    return digest


def keep_state_file(path: Path) -> str:
    """Copy a state_dict file into the cache under the hash of its bytes, and return the hash."""
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
    """Return contiguous copies on the CPU, so that neither views nor devices affect the bytes."""
    return {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in state.items()}


def serialised(content: Any) -> bytes:  # noqa: ANN401 - whatever torch saves
    """Return what torch.save writes; the same content gives the same bytes."""
    buffer = io.BytesIO()  # torch.save would write a file's name into the archive
    torch.save(content, buffer)
    return buffer.getvalue()


def _check_sums(path: str | Path) -> None:
    """Verify the checksum of every record in an archive, which torch does not do.

    Files of torch before 1.6 are not archives and have no checksums.

    Raises:
        FormatError: A record is damaged, or compressed: then the file's size does not limit its memory.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            program = _program(records)
            if program is not None:
                raise FormatError(f"{path}: {program}, which is not supported; save the network's state_dict()")
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise FormatError(
                    f"{path}: a compressed archive, which torch does not write; was it saved with torch.save?"
                )
            if len({record.filename for record in records}) < len(records):
                raise FormatError(f"{path}: damaged: two records have the same name; copy the file or make it again")
            folders = [record.filename for record in records if record.is_dir() or record.external_attr & _FOLDER]
            damaged = folders[0] if folders else archive.testzip()
    except FormatError:
        raise
    except Exception as error:  # untrusted bytes: zipfile raises errors of any type
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: an offset before the start of the file
            raise
        raise FormatError(f"{path}: not a file that torch can read, or truncated") from error
    if damaged is not None:
        raise FormatError(
            f"{path}: damaged: {damaged.partition('/')[2] or damaged} has a wrong checksum; copy the file or make it again"
        )


def _program(records: Sequence[zipfile.ZipInfo]) -> str | None:
    """Return the kind of an archive that `torch.save` did not write, otherwise None."""
    places = {record.filename.partition("/")[2] for record in records}
    if any(place.startswith("code/") for place in places):
        return "a TorchScript program"
    return "an exported program (torch.export)" if "archive_format" in places else None


def read(path: str | Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read tensors and plain values onto the CPU.

    Raises:
        FormatError: The file is broken, or contains other objects.
    """
    files.check_regular(path)
    if Path(path).suffix == ".safetensors" or _begins_as_safetensors(Path(path)):
        return _read_safetensors(Path(path))
    _check_sums(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # untrusted bytes: torch raises errors of any type
        if isinstance(error, pickle.UnpicklingError) and _REFUSED.search(str(error)):
            raise FormatError(
                f"{path}: not loaded: it has more than tensors and plain values, which could run any code; save a state_dict()"
            ) from error
        raise FormatError(f"{path}: {_unreadable(Path(path))}") from error


def _read_safetensors(path: Path) -> State:
    """Read the tensors of a safetensors file, which contains nothing else that could be run.

    Raises:
        FormatError: The file is broken.
    """
    try:
        import safetensors.torch  # only a few weights are in this format

        found: State = safetensors.torch.load_file(path, device="cpu")
        return found
    except (OSError, MemoryError):
        raise
    except Exception as error:  # untrusted bytes
        raise FormatError(f"{path}: {_unreadable(path)}") from error


def _begins_as_safetensors(path: Path) -> bool:
    """Recognize a safetensors file under another name, such as that of a copy in the cache."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and 1 < int.from_bytes(head[:8], "little") <= min(LONGEST, path.stat().st_size)


def _unreadable(path: Path) -> str:
    """Explain why a file could not be read."""
    named = path.suffix == ".safetensors"
    with path.open("rb") as file:
        head = file.read(9)
        length, size = int.from_bytes(head[:8], "little"), path.stat().st_size
        is_safetensors = head[8:] == b"{" and 1 < length <= LONGEST and (named or length < size)
        damage = _damage(head[8:] + file.read(length - 1), length, size) if is_safetensors else None
    if named and not is_safetensors:
        return "not a safetensors file, or damaged; copy the file or make it again"
    if damage is not None:
        return f"a damaged safetensors file ({damage}); copy the file or make it again"
    return "a damaged safetensors file" if is_safetensors else "not a file that torch can read, or truncated"


def _damage(header: bytes, length: int, size: int) -> str | None:
    """Return what is wrong with a safetensors file, or None: its header, JSON after a length of 8 bytes, has the offsets of tensors."""
    if 8 + length > size:
        return f"truncated at {size:,} bytes"
    try:
        ends = [tensor["data_offsets"][1] for key, tensor in json.loads(header).items() if key != "__metadata__"]
        if not all(type(end) is int and 0 <= end < 2**63 for end in ends):
            return "its header is broken"
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return "its header is broken"
    whole = 8 + length + max(ends, default=0)
    return f"{size:,} bytes, its header names {whole:,}" if size != whole else None
