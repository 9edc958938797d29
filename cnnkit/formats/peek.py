"""What shell completion has to know of files, fast: no torch, onnx or numpy. Whatever cannot be read has nothing to offer.

model.onnx      the Header, behind the graph, which is passed over
model.pt        the Header out of the pickle, whose tensors are not loaded
split.tsv       the values of one column
the cache       names that took long to find, completion/KEY.json
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from cnnkit.errors import CnnkitError
from cnnkit.formats import atomic, cache

if sys.platform != "win32":
    import fcntl

#: What a long table says in its first rows is offered.
_MOST_ROWS = 200_000

# Fields of protobuf's ModelProto and StringStringEntryProto, as (number << 3 | 2): they have a length.
_METADATA, _KEY, _VALUE = 14 << 3 | 2, 1 << 3 | 2, 2 << 3 | 2

#: A pickle without tensors that is longer describes no model of ours; nor is a line of a table so long.
_LONGEST = 1 << 24

_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, IndexError, pickle.UnpicklingError)


def header(path: str) -> dict[str, Any]:
    """Read the Header of a model; empty where there is none."""
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
    """List the values of the first of these columns that a table has, in the order in which they appear."""
    try:
        _demand_regular(path)
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            values = _json_column(file, names) if Path(path).suffix.lower().startswith(".j") else _column(file, names)
            return list(dict.fromkeys(value for value in islice(values, _MOST_ROWS) if value))
    except (*_BROKEN, csv.Error):
        return []


def _demand_regular(path: str) -> None:
    """Refuse pipes and devices, which would be waited for."""
    if not os.path.isfile(path):
        raise ValueError("no file")


def _column(file: io.TextIOWrapper, names: Sequence[str]) -> Iterator[str]:
    first = file.readline(_LONGEST)
    delimiter = max("\t,;", key=first.count)
    columns = [each.strip().strip('"').lower() for each in first.rstrip("\r\n").split(delimiter)]
    place = next((columns.index(name) for name in names if name in columns), None)
    if place is None:
        return
    rows = (
        (line.rstrip("\r\n").split("\t") for line in file)
        if delimiter == "\t"
        else csv.reader(file, delimiter=delimiter)
    )
    for row in rows:
        if len(row) > place:
            yield row[place]


def _json_column(file: io.TextIOWrapper, names: Sequence[str]) -> Iterator[str]:
    for line in file:
        record = json.loads(line)
        yield next((str(record[name]) for name in names if record.get(name)), "")


def _metadata(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of an ONNX file's metadata; what has a length is passed over unread."""
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
            raise ValueError("no ONNX file")


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
    raise ValueError("no number of protobuf's")


class _WithoutTensors(pickle.Unpickler):
    """Reads torch's pickle of a model; nothing in it is imported or called."""

    def find_class(self, _module: str, _name: str) -> Any:  # noqa: ANN401 - whatever stands in a class's place
        return _Nothing

    def persistent_load(self, _key: object) -> None:
        return None


class _Nothing(dict[Any, Any]):
    """What stands in a tensor's place."""

    def __init__(self, *_given: object) -> None:
        super().__init__()

    def __setstate__(self, _state: object) -> None:
        pass


def recall(key: Sequence[object]) -> list[str] | None:
    """Find the names that `remember` kept under a key."""
    try:
        kept = json.loads(_place(key).read_bytes())
        return [str(name) for name in kept["names"]] if kept["key"] == list(map(str, key)) else None
    except (*_BROKEN, CnnkitError):
        return None


def remember(key: Sequence[object], names: Sequence[str]) -> None:
    """Keep names in the cache; where it cannot be written they are found again."""
    try:
        cache.folder("completion")
        with atomic.writing(_place(key)) as file:
            file.write(json.dumps({"key": list(map(str, key)), "names": list(names)}).encode())
    except (OSError, CnnkitError):
        pass


@contextlib.contextmanager
def claimed(key: Sequence[object]) -> Generator[bool]:
    """Hold a lock on the names of a key, and say whether it could be had."""
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
