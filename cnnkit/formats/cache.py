"""The user's cache: exported backbones and the weights they were made from, by content. Deleting it costs time, never results."""

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


def find_weights(digest: str) -> Path | None:
    """Find a state_dict file by the hash of its bytes, in our cache or among torch's downloads; None where it is in neither."""
    kept = folder("weights") / f"{digest}.pth"
    if kept.is_file():
        return kept
    # torch.hub's own rule, without importing torch; it puts the first digits of the hash into names, which alone prove nothing
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    for candidate in sorted(Path(home, "hub", "checkpoints").glob(f"*-{digest[:8]}.pth")):
        if sha256(candidate) == digest:
            return candidate
    return None


def sha256(path: Path) -> str:
    """Hash a file's bytes, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
