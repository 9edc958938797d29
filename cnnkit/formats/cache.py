"""The user's cache: exported bases and the weights they were made from, by content. Deleting it costs time, never results."""

import hashlib
import os
from pathlib import Path


def folder(kind: str) -> Path:
    """Give a folder of the cache, made if need be: below CNNKIT_CACHE, else XDG_CACHE_HOME/cnnkit, else ~/.cache/cnnkit."""
    if named := os.environ.get("CNNKIT_CACHE"):
        root = Path(named)
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cnnkit"
    path = root / kind
    path.mkdir(parents=True, exist_ok=True)
    return path


def sha256(path: Path) -> str:
    """Hash a file's bytes, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
