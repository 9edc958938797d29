"""The user's cache: exported backbones and the weights they were made from, by content. Deleting it costs time, never results."""

import hashlib
import os
from pathlib import Path

from cnnkit.errors import CnnkitError
from cnnkit.formats import atomic


def root() -> Path:
    """Name the cache's folder: CNNKIT_CACHE, else XDG_CACHE_HOME/cnnkit, else ~/.cache/cnnkit."""
    if named := os.environ.get("CNNKIT_CACHE"):
        return Path(named)
    return _home_cache() / "cnnkit"


def _home_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def folder(kind: str) -> Path:
    """Give a folder of the cache, made if need be.

    Raises:
        CnnkitError: It cannot be made or written to.
    """
    path = root() / kind
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(path, error.strerror) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise _not_writable(path, None)
    return path


def _not_writable(path: Path, reason: str | None) -> CnnkitError:
    why = f" ({reason})" if reason else ""
    return CnnkitError(f"{path}: the cache is not writable{why}; name a folder that is in CNNKIT_CACHE")


def keep_inside() -> None:
    """Let libraries that keep things below the home directory keep them in our cache, where the user has not chosen a place.

    For commands: who imports the library has settings for those libraries already.
    """
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    own = [config / "matplotlib", Path.home() / ".matplotlib", _home_cache() / "matplotlib"]
    if not any(path.exists() for path in own):
        os.environ.setdefault("MPLCONFIGDIR", str(root() / "matplotlib"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(root() / "torchinductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(root() / "triton"))
    os.environ.setdefault("CUDA_CACHE_PATH", str(root() / "cuda"))  # the driver's, of code that it compiles for a GPU


def keep(path: Path, content: bytes) -> None:
    """Write an exported network, with its checksum behind it."""
    with atomic.writing(path) as file:
        file.write(content)
        file.write(_trailer(content))


def is_intact(path: Path) -> bool:
    """Say whether an entry is there and is what `keep` wrote: a damaged one, or one of somebody else's, is made again."""
    try:
        kept = path.read_bytes()
    except FileNotFoundError:
        return False
    length = len(_trailer(b""))
    return kept[-length:] == _trailer(kept[:-length])


def _trailer(content: bytes) -> bytes:
    """Give a field of protobuf's that nobody knows, so that every reader of ONNX passes it over: number 1000, of 64 bytes."""
    return b"\xc2\x3e\x40" + hashlib.sha256(content).hexdigest().encode()


def find_weights(digest: str) -> Path | None:
    """Find a state_dict file by the hash of its bytes, in our cache or among torch's downloads; None where it is in neither."""
    kept = folder("weights") / f"{digest}.pth"
    if kept.is_file() and sha256(kept) == digest:  # else damaged, or put there by somebody else
        return kept
    # torch.hub's own rule, without importing torch; it puts the first digits of the hash into names, which alone prove nothing
    home = os.environ.get("TORCH_HOME") or _home_cache() / "torch"
    for candidate in sorted(Path(home, "hub", "checkpoints").glob(f"*-{digest[:8]}.pth")):
        if sha256(candidate) == digest:
            return candidate
    return None


def sha256(path: Path) -> str:
    """Hash a file's bytes, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
