"""The user's cache: exported backbones and the weights they were made from, by content. Deleting it costs time, never results."""

import hashlib
import os
from pathlib import Path

from cnnkit.errors import CnnkitError
from cnnkit.formats import atomic

_CACHE = ("XDG_CACHE_HOME", ".cache")


def root() -> Path:
    """Name the cache's folder: CNNKIT_CACHE, else XDG_CACHE_HOME/cnnkit, else ~/.cache/cnnkit.

    Raises:
        CnnkitError: None of these is known.
    """
    if named := os.environ.get("CNNKIT_CACHE"):
        return Path(named)
    below = _below_home(*_CACHE)
    if below is None:
        raise CnnkitError("there is no home directory to keep the cache in; name a folder for it in CNNKIT_CACHE")
    return below / "cnnkit"


def _below_home(variable: str, name: str) -> Path | None:
    """Give what a variable names, else a folder below the home directory, which a user without an account need not have."""
    if named := os.environ.get(variable):
        return Path(named)
    home = os.path.expanduser("~")
    return Path(home, name) if home != "~" else None


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
    try:
        kept = root()
    except CnnkitError:  # said where it is needed
        return
    config, home, own = _below_home("XDG_CONFIG_HOME", ".config"), _below_home("", ""), _below_home(*_CACHE)
    settings = [
        folder / name for folder, name in ((config, "matplotlib"), (home, ".matplotlib"), (own, "matplotlib")) if folder
    ]
    if not any(path.exists() for path in settings):
        os.environ.setdefault("MPLCONFIGDIR", str(kept / "matplotlib"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kept / "torchinductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(kept / "triton"))
    os.environ.setdefault("CUDA_CACHE_PATH", str(kept / "cuda"))  # the driver's, of code that it compiles for a GPU


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
    caches = _below_home(*_CACHE)
    home = os.environ.get("TORCH_HOME") or (caches / "torch" if caches else None)
    for candidate in sorted(Path(home, "hub", "checkpoints").glob(f"*-{digest[:8]}.pth")) if home else ():
        if sha256(candidate) == digest:
            return candidate
    return None


def sha256(path: Path) -> str:
    """Hash a file's bytes, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
