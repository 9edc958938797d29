"""Fast readers for shell completion, without torch, onnx or numpy. A file that cannot be read gives an empty result.

model.onnx      the Header, from the metadata after the graph; the graph is skipped
model.pt        the Header, from the pickle; tensors are not loaded
split.tsv       the values of one column
the cache       names of layers and networks, completion/KEY.json
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from cnnkit import files
from cnnkit.errors import CnnkitError
from cnnkit.formats import atomic, cache, tables

if sys.platform != "win32":
    import fcntl

#: Lines of a table that are read.
_MOST_LINES = 200_000

# Tags (number << 3 | 2) of length-delimited fields in ModelProto and StringStringEntryProto.
_METADATA, _KEY, _VALUE = 14 << 3 | 2, 1 << 3 | 2, 2 << 3 | 2

#: Bytes of a pickle, which is not read if it is longer, or of a line, which is then divided.
_LONGEST = 1 << 24

_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, IndexError, pickle.UnpicklingError)


def header(path: str) -> dict[str, Any]:
    """Read the Header of a model as a dictionary; empty if there is none."""
    try:
        _demand_regular(path)
        if path.endswith(".onnx"):
            with open(path, "rb") as file:
                found = json.loads(next((value for key, value in _metadata(file) if key == b"cnnkit"), b"{}"))
        else:
            with zipfile.ZipFile(path) as archive:
                entry = next(each for each in archive.infolist() if each.filename.endswith("/data.pkl"))
                if entry.file_size > _LONGEST:
                    return {}
                found = _WithoutTensors(io.BytesIO(archive.read(entry))).load()["header"]
    except (*_BROKEN, zipfile.BadZipFile, StopIteration, NotImplementedError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def column(path: str, names: Sequence[str]) -> list[str]:
    """List the distinct values of a column of a table, by its name or other names, in order of appearance."""
    try:
        with files.open_regular(path) as file:
            lines = islice(iter(partial(file.readline, _LONGEST), b""), _MOST_LINES)
            rows = tables.parse(lines, name=path, required=names[:1], aliases={names[0]: names[1:]})
            return list(dict.fromkeys(value for row in rows if (value := row[names[0]])))
    except (OSError, CnnkitError):
        return []


def _demand_regular(path: str) -> None:
    """Refuse pipes and devices, from which reading could block."""
    if not os.path.isfile(path):
        raise ValueError("not a regular file")


def _metadata(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield the metadata entries of an ONNX file; other fields are skipped by their length."""
    size = os.fstat(file.fileno()).st_size
    while file.tell() < size:
        tag = _varint(file)
        if tag & 7 == 0:
            _varint(file)
        elif tag & 7 == 2:
            length = _varint(file)
            if tag == _METADATA:
                yield _entry(file.read(length))
            else:
                file.seek(length, os.SEEK_CUR)
        else:
            raise ValueError("not an ONNX file")


def _entry(content: bytes) -> tuple[bytes, bytes]:
    entry, found = io.BytesIO(content), {_KEY: b"", _VALUE: b""}
    while entry.tell() < len(content):
        tag = _varint(entry)
        found[tag] = entry.read(_varint(entry))
    return found[_KEY], found[_VALUE]


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 64, 7):
        (byte,) = file.read(1)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise ValueError("not a varint")


class _WithoutTensors(pickle.Unpickler):
    """Reads the pickle inside a .pt without importing or calling anything that it names."""

    def find_class(self, _module: str, _name: str) -> Any:  # noqa: ANN401 - whatever stands in a class's place
        return _Nothing

    def persistent_load(self, _key: object) -> None:
        return None


class _Nothing(dict[Any, Any]):
    """Placeholder for a tensor."""

    def __init__(self, *_given: object) -> None:
        super().__init__()

    def __setstate__(self, _state: object) -> None:
        pass


def recall(key: Sequence[object]) -> list[str] | None:
    """Return the names that `remember` stored under a key, or None."""
    try:
        kept = json.loads(_place(key).read_bytes())
        return [str(name) for name in kept["names"]] if kept["key"] == list(map(str, key)) else None
    except (*_BROKEN, CnnkitError):
        return None


def remember(key: Sequence[object], names: Sequence[str]) -> None:
    """Store names in the cache, if it is writable."""
    try:
        cache.folder("completion")
        with atomic.writing(_place(key)) as file:
            file.write(json.dumps({"key": list(map(str, key)), "names": list(names)}).encode())
    except (OSError, CnnkitError):
        pass


@contextlib.contextmanager
def claimed(key: Sequence[object]) -> Generator[bool]:
    """Lock a key; yields whether the lock was free."""
    cache.folder("completion")
    with open(_place(key).with_suffix(".lock"), "wb") as file:
        try:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _place(key: Sequence[object]) -> Path:
    return cache.root() / "completion" / f"{hashlib.sha256(repr(list(map(str, key))).encode()).hexdigest()[:32]}.json"
