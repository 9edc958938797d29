"""Networks in `.onnx` files that have been checked; the check of a file is remembered in the cache, by the file's content.

The check parses the graph and imports onnx, which takes longer than to predict one image. Only files that passed are remembered. Another
content, another version of onnx or another version of the checks is checked again.
"""

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

from cnnkit import files
from cnnkit.errors import CnnkitError
from cnnkit.formats import cache
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.onnx_record import Needs, OnnxModel

_FOLDER = "checks"
#: The files that hold the checks: a change of one of them makes the cached results invalid.
_CHECKS = ("onnx_model.py", "onnx_check.py", "onnx_file.py")


def load(path: str | Path) -> OnnxModel:
    """Read a network as `onnx_model.load` does; a content that passed the checks before is not parsed again.

    Raises:
        FormatError: As `onnx_model.load`.
        OSError: It cannot be read.
    """
    content = files.read_regular(path)
    key = _key(content)
    found = _remembered(content, key, name=str(path))
    if found is not None:
        return found
    from cnnkit.formats import onnx_model  # imports onnx

    model = onnx_model.checked(content, name=str(path))
    if key is not None:
        _remember(model, key)
    return model


def _key(content: bytes) -> str | None:
    """Return the name of the entry; None if the version of onnx or the source of the checks is not known."""
    here, spec = Path(__file__).parent, find_spec("onnx")
    if spec is None or spec.origin is None:
        return None
    # The version, without a search of all installed packages and without their descriptions
    installed = sorted(path.name for path in Path(spec.origin).parents[1].glob("onnx-*.dist-info"))
    if not installed:
        return None
    try:
        sources = [(here / name).read_bytes() for name in _CHECKS]
    except OSError:
        return None
    digest = hashlib.sha256(" ".join(installed).encode())
    for part in (*sources, content):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _remembered(content: bytes, key: str | None, *, name: str) -> OnnxModel | None:
    if key is None:
        return None
    try:
        kept = cache.find(cache.root() / _FOLDER / key)
    except (CnnkitError, OSError):  # no home directory, or not readable
        return None
    if kept is None:
        return None
    record = json.loads(kept)
    text = record["header"]
    header = None if text is None else Header.from_json(text, name=name, kind=ArtefactKind.ONNX)
    return OnnxModel(content, header, Needs(memory=record["memory"], time=record["time"]))


def _remember(model: OnnxModel, key: str) -> None:
    record = {
        "header": None if model.header is None else model.header.to_json(),
        "memory": model.needs.memory,
        "time": model.needs.time,
    }
    try:
        cache.keep(cache.folder(_FOLDER) / key, json.dumps(record).encode())
    except (CnnkitError, OSError):  # not writable, or full: the next call checks again
        return
